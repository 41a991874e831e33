"""nnx = linen = functional: stacks against layers composed by hand, and all three as one and the same program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import CELLS, Descriptor
from flax import nnx

import rnnjax as rj
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx

B, T, F, H = 3, 4, 2, 3  # F features of the inputs
CELL = {"LSTM": rj.LSTM, "GRU": rj.GRU, "Elman": rj.Elman}
STACKS: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {}, "none"),
    ("LSTM", {"num_layers": 2, "bidirectional": True}, "lengths"),
    ("LSTM", {"bidirectional": True, "return_sequences": False}, "mask"),
    ("GRU", {"num_layers": 2, "time_major": True}, "mask"),
    ("GRU", {"num_layers": 2, "bidirectional": True, "return_sequences": False, "time_major": True}, "lengths"),
    ("GRU", {"return_sequences": False}, "reset"),
    ("Elman", {"num_layers": 3, "activation": "relu", "recurrent_init": "identity"}, "reset"),
    ("Elman", {"num_layers": 2, "bidirectional": True, "implementation": "scan"}, "none"),
]
FLAGS = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 1]], bool)
COVERS = {
    "none": {},
    "lengths": {"lengths": np.array([4, 0, 2])},
    "mask": {"mask": FLAGS},
    "reset": {"reset": FLAGS},
}


def swap(values: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim > 1 else leaf, values)


def composed(cell: rj.Cell, weights: dict[str, Any], xs: jax.Array, both: bool, cover: dict[str, Any]) -> Any:
    """Every layer by `rj.unroll`, time-major, and what each direction of the top one put out last."""
    empty = jax.eval_shape(lambda: cell.init(jax.random.key(0), 1))
    for i in range(len(weights)):
        own = weights[f"layer_{i}"]
        directions = [(own["forward"], False), (own["backward"], True)] if both else [(own, False)]
        outs = [rj.unroll(cell, empty._replace(**part), xs, reverse=back, **cover)[0] for part, back in directions]
        xs = jnp.concatenate(outs, axis=-1)
    valid = np.arange(T)[:, None] < cover["lengths"] if "lengths" in cover else cover.get("mask", np.ones((T, B), bool))
    rows = []
    for row in range(B):
        steps = np.flatnonzero(valid[:, row])
        ends = zip(outs, (-1, 0), strict=False)
        rows.append(jnp.concatenate([out[steps[end], row] if len(steps) else 0 * out[0, row] for out, end in ends]))
    return xs, jnp.stack(rows)


@pytest.mark.parametrize(("kind", "options", "cover"), STACKS, ids=str)
def test_stack_is_its_layers(kind: str, options: dict[str, Any], cover: str) -> None:
    """Outputs and gradients of parameters and inputs, against single layers run one after another."""
    time_major, both = options.get("time_major", False), options.get("bidirectional", False)
    module = getattr(rnnx, kind)(F, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    cell = CELL[kind](H, **{name: options[name] for name in ("activation", "recurrent_init") if name in options})
    sequences = options.get("return_sequences", True)
    xs = jax.random.normal(jax.random.key(1), (T, B, F), jnp.float64)
    weights = nnx.to_pure_dict(nnx.state(module, nnx.Param))["weights"]

    def by_hand(weights: Any, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        ys = composed(cell, weights, xs, both, COVERS[cover])[0 if sequences else 1]
        return jnp.sum(ys * jnp.cos(jnp.arange(ys.size, dtype=ys.dtype).reshape(ys.shape))), ys

    def by_module(weights: Any, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = nnx.clone(module)
        nnx.update(own, {"weights": weights})
        covers = COVERS[cover] if time_major else swap(COVERS[cover])
        ys = own(xs if time_major else swap(xs), **covers)
        ys = ys if time_major or not sequences else swap(ys)
        return jnp.sum(ys * jnp.cos(jnp.arange(ys.size, dtype=ys.dtype).reshape(ys.shape))), ys

    both_ways = [jax.value_and_grad(way, (0, 1), has_aux=True) for way in (by_hand, by_module)]
    wanted, got = jax.jit(lambda *args: [way(*args) for way in both_ways])(weights, xs)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "options", "cover"), STACKS, ids=str)
def test_stacks(kind: str, options: dict[str, Any], cover: str) -> None:
    mine = getattr(rnnx, kind)(F, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    theirs = getattr(rlinen, kind)(H, param_dtype=jnp.float64, **options)
    assert mine.functional == theirs.functional
    assert (mine.time_major, mine.return_sequences) == (theirs.time_major, theirs.return_sequences)
    xs = jnp.ones((T, B, F), jnp.float64)
    covers = jax.tree.map(jnp.asarray, COVERS[cover])

    def functional(params: Any, x: jax.Array, covers: Any) -> Any:
        if mine.time_major:
            return mine.functional(params, x, **covers)
        ys, state = mine.functional(params, jnp.swapaxes(x, 0, 1), **swap(covers))
        return jnp.swapaxes(ys, 0, 1), state

    args = (xs, covers) if mine.time_major else swap((xs, covers))
    same_program(mine, theirs, functional if mine.return_sequences else None, *args)


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
def test_every_cell(row: Descriptor) -> None:
    shapes = jax.eval_shape(lambda: row.subject.init(jax.random.key(0), row.in_size))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float64), shapes)
    mine = rnnx.RNN(row.subject, row.in_size, params=params)
    x = jnp.ones((B, T, *row.event_shape), jnp.float64)

    def functional(params: Any, x: jax.Array, covers: Any) -> Any:
        ys, state = rj.unroll(row.subject, params, jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(ys, 0, 1), state

    same_program(mine, rlinen.RNN(row.subject), functional, x, {})


def test_both_directions_start_from_a_state() -> None:
    module = rnnx.LSTM(F, H, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(1), (B, T, F), jnp.float64)
    start = jax.tree.map(lambda leaf: leaf + 0.5, module.initial_state((B,), jnp.float64))
    ys, state = module.unroll(x, rj.Start(start), lengths=jnp.array([4, 0, 2]))
    wanted, last = module.functional(module.params, swap(x), rj.Start(start), lengths=jnp.array([4, 0, 2]))
    np.testing.assert_allclose(ys, swap(wanted), atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), state, last)
    assert float(abs(ys[2, 1] - module(x, lengths=jnp.array([4, 0, 2]))[2, 1]).max()) > 1e-3
    with pytest.raises(ValueError, match=r"pass what its cells start from as `rnnjax\.Start\(state\)`"):
        module(x, start)


def test_layer() -> None:
    """With an embedding, dropout and pooling."""
    layer = rj.Stack([rj.Embedding(5, 3), rj.Dropout(0.5), rj.Residual(rj.GRU(3)), rj.Mean(), rj.Dense(2)])
    mine = rnnx.Layer(layer, None, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    ids, covers = jnp.ones((B, T), int), {"lengths": jnp.array([3, 1, 2])}

    def functional(params: Any, ids: jax.Array, covers: Any) -> Any:
        return layer(params, jnp.swapaxes(ids, 0, 1), **covers)

    same_program(mine, rlinen.Layer(layer), functional, ids, covers)


def same_program(
    mine: rnnx.Recurrent, theirs: rlinen.Recurrent, functional: Callable[..., Any] | None, x: jax.Array, covers: Any
) -> None:
    """All forms trace to the same operations, forward and backward, and so agree to the last bit."""
    params = mine.params
    variables = theirs.to_variables(params)
    own = {"params": nnx.to_pure_dict(nnx.state(mine, nnx.Param))}
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, own))
    features = x.shape[-1] if jnp.issubdtype(x.dtype, jnp.floating) else None
    assert jax.tree.structure(theirs.to_params(variables, features)) == jax.tree.structure(params)
    graph, _, rest = nnx.split(mine, nnx.Param, ...)

    def by_nnx(params: Any, x: jax.Array, covers: Any) -> Any:
        state = nnx.state(mine, nnx.Param)
        nnx.replace_by_pure_dict(state, theirs.to_variables(params)["params"])
        return nnx.merge(graph, state, rest).unroll(x, deterministic=True, **covers)

    def by_linen(params: Any, x: jax.Array, covers: Any) -> Any:
        return theirs.apply(theirs.to_variables(params), x, method="unroll", deterministic=True, **covers)

    def gradient(form: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda *args: jnp.sum(jnp.sin(form(*args)[0])))

    forms = [form for form in (functional, by_nnx, by_linen) if form is not None]
    assert len({str(jax.make_jaxpr(form)(params, x, covers)) for form in forms}) == 1
    assert len({str(jax.make_jaxpr(gradient(form))(params, x, covers)) for form in forms}) == 1


@pytest.mark.parametrize(
    "cell", [rj.Zoneout(rj.LSTM(H)), rj.WeightDrop(rj.GRU(H), rate=0.5)], ids=lambda cell: repr(cell)
)
def test_noise_is_that_of_the_key(cell: rj.Cell) -> None:
    mine = rnnx.RNN(cell, F, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    x, key = jnp.ones((B, T, F), jnp.float64), jax.random.key(1)

    def functional(x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.swapaxes(rj.unroll(cell, mine.params, jnp.swapaxes(x, 0, 1), key=key)[0], 0, 1)

    programs = [jax.make_jaxpr(form)(x, key) for form in (functional, lambda x, key: mine(x, rngs=key))]
    assert str(programs[0]) == str(programs[1])
