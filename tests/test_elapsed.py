"""Cells that read (x, dt): how exact dt is, and what is no dt."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import rnnjax as rj
from rnnjax.training import online

CELLS = [rj.S5(4), rj.CfC(4, backbone_size=5), rj.LTC(4, unfolds=2)]


def params_of(cell: rj.Cell, dtype: Any = jnp.float32) -> Any:
    return cell.init(jax.random.key(0), 3, dtype)


def test_elapsed_times_are_not_rounded_to_the_compute_dtype() -> None:
    """Without inputs the state of S5 is exp(λ Δ Σ dt), and 1.003 is 1 in bfloat16."""
    cell, steps = rj.S5(4, compute_dtype="bfloat16"), 500
    params = params_of(cell)
    start = jax.tree.map(jnp.ones_like, cell.initial_state(params, ()))
    xs = jnp.zeros((steps, 3)), jnp.full((steps,), 1.003, jnp.float32)
    decay, phase, log_step = (np.asarray(leaf, np.float64) for leaf in params[:3])
    want = (1 + 1j) * np.exp((-np.exp(decay) + 1j * phase) * np.exp(log_step) * 1.003 * steps)
    for implementation in ("scan", "chunked", "associative"):
        _, state = rj.unroll(cell, params, xs, start, implementation=implementation)
        np.testing.assert_allclose(np.asarray(state.re) + 1j * np.asarray(state.im), want, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_elapsed_times_have_no_say_in_the_compute_dtype(cell: rj.Cell) -> None:
    params = params_of(cell, jnp.bfloat16)
    xs = jnp.ones((5, 2, 3), jnp.bfloat16), jnp.ones((5, 2), jnp.float32)
    ys, state = jax.eval_shape(lambda: rj.unroll(cell, params, xs))
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    seen = []

    def loss(y: Any, target: Any) -> Any:
        seen.append(y.dtype)
        return y.sum()

    jax.eval_shape(lambda: online.online_gradient(online.DenseRTRL(), cell, loss)(params, None, xs, jnp.ones(5)))
    assert set(seen) == {jnp.dtype("bfloat16")}


STEPS, ROWS = 6, 2
MASK = np.array([[1, 1], [0, 1], [1, 0], [1, 1], [0, 1], [1, 0]], bool)
RESET = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [1, 0], [0, 0]], bool)


def by_hand(cell: Any, params: Any, state: Any, x: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Outputs and last state with `MASK` and `RESET`, a step at a time in NumPy; at first a state is zero."""
    reference, names = {
        rj.S5: (references.s5, ("discretization",)),
        rj.CfC: (references.cfc, ()),
        rj.LTC: (references.ltc, ("unfolds",)),
    }[type(cell)]
    options = {name: getattr(cell, name) for name in names}
    ys, state = [], state._asdict()
    for t in range(STEPS):
        state = {name: np.where(RESET[t][:, None], 0, leaf) for name, leaf in state.items()}
        y, new = reference(x[t : t + 1], **params._asdict(), **state, **options, dt=dt[t : t + 1])
        ys.append(np.where(MASK[t][:, None], y[0], 0))
        state = {name: np.where(MASK[t][:, None], new[name], leaf) for name, leaf in state.items()}
    return np.stack(ys), state


@pytest.mark.parametrize(
    ("cell", "implementation"),
    [
        (rj.S5(3), "chunked"),
        (rj.CfC(3, backbone_size=4), "scan"),
        *(
            pytest.param(cell, form, marks=pytest.mark.slow)
            for cell, form in (
                *((rj.S5(3), form) for form in ("scan", "associative")),
                *((rj.S5(3, discretization="bilinear"), form) for form in ("scan", "chunked", "associative")),
                (rj.CfC(3, backbone_size=4), "newton"),
                *((rj.LTC(3, unfolds=2), form) for form in ("scan", "newton")),
            )
        ),
    ],
    ids=str,
)
def test_elapsed_times_have_gradients(cell: Any, implementation: str) -> None:
    """By dt and, with it, by parameters and inputs: those of the equations in NumPy, by finite differences."""
    rng = np.random.default_rng(0)
    draw = lambda tree: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), tree)  # noqa: E731
    shapes = jax.eval_shape(lambda: params_of(cell, jnp.float64))
    params, state = draw(shapes), draw(jax.eval_shape(lambda: cell.initial_state(shapes, (ROWS,), jnp.float64)))
    x, dt = rng.normal(size=(STEPS, ROWS, 3)), rng.uniform(0.2, 2, size=(STEPS, ROWS))
    weights = draw(jax.eval_shape(lambda: rj.unroll(cell, params, (x, dt), state)))

    @jax.jit
    def found(params: Any, x: Any, dt: Any) -> Any:
        def f(params: Any, x: Any, dt: Any) -> Any:
            return rj.unroll(cell, params, (x, dt), state, mask=MASK, reset=RESET, implementation=implementation)

        out, back = jax.vjp(f, params, x, dt)
        return out, back(weights)

    def loss(params: Any, x: Any, dt: Any) -> float:
        ys, last = by_hand(cell, params, state, x, dt)
        return (ys * weights[0]).sum() + sum((leaf * getattr(weights[1], name)).sum() for name, leaf in last.items())

    (ys, _), grads = found(params, x, dt)
    np.testing.assert_allclose(ys, by_hand(cell, params, state, x, dt)[0], atol=1e-10)
    leaves, structure = jax.tree.flatten((params, x, dt))
    for i, gradient in enumerate(jax.tree.leaves(grads)):

        def change(along: Any, i: int = i) -> Any:
            moved = ([*leaves[:i], leaves[i] + h * along, *leaves[i + 1 :]] for h in (1e-6, -1e-6))
            up, down = (loss(*jax.tree.unflatten(structure, one)) for one in moved)
            return (up - down) / 2e-6

        along = rng.normal(size=gradient.shape)
        np.testing.assert_allclose((gradient * along).sum(), change(along), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(grads[2] != 0, MASK)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_what_is_no_elapsed_time_is_refused(cell: rj.Cell) -> None:
    params, x, dt = params_of(cell), jnp.ones((5, 2, 3)), jnp.ones((5, 2))
    for xs in ((x, dt, dt), (x, dt[..., None]), (x, jnp.ones((5, 2, 4)))):
        with pytest.raises(TypeError, match=r"or \(x, dt\) with elapsed times dt \(T, \*B\); got shapes \(5, 2, 3\), "):
            rj.unroll(cell, params, xs)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_both_directions_need_times_of_their_own(cell: rj.Cell) -> None:
    layer = rj.Bidirectional(cell)
    params = layer.init(jax.random.key(0), 3)
    x, dt = jnp.ones((5, 2, 3)), jnp.ones((5, 2))
    with pytest.raises(ValueError, match=r"`xs` with elapsed times \(T, \*B\) cannot be read in both directions"):
        layer(params, (x, dt))
    assert layer(params, x)[0].shape[:2] == (5, 2)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_backwards_with_shifted_times_is_the_series_turned_round(cell: rj.Cell) -> None:
    params = params_of(cell, jnp.float64)
    x, dt = jax.random.normal(jax.random.key(1), (6, 2, 3), jnp.float64), jax.random.uniform(jax.random.key(2), (6, 2))
    dt = dt.astype(jnp.float64)
    # between steps t and t + 1 of the series turned round lies what lay between 4 − t and 5 − t
    turned = jnp.concatenate([dt[:1], dt[:0:-1]])
    want, _ = rj.unroll(cell, params, (x[::-1], turned))
    got, _ = rj.unroll(cell, params, (x, jnp.roll(dt, -1, axis=0)), reverse=True)
    np.testing.assert_allclose(got, want[::-1], rtol=1e-12)


def slowed(params: Any) -> Any:
    """Parameters of S5 in any tree, with steps three times as long: what dt = 3 does."""

    def scale(path: Any, leaf: Any) -> Any:
        return leaf + np.log(3) if jax.tree_util.keystr(path).endswith("log_step") else leaf

    return jax.tree_util.tree_map_with_path(scale, params)


@pytest.mark.parametrize(
    "layer",
    [
        rj.Stack([rj.S5(3), rj.S5(4)]),
        pytest.param(
            rj.Stack([rj.Dense(4), rj.Block(rj.S5(3), conv=2), rj.Block(rj.S5(3)), rj.Mean(), rj.Dense(2)]).reversed(),
            marks=pytest.mark.slow,
        ),
        rj.Residual(rj.Stack([rj.LearnedInitialState(rj.S5(3)), rj.Dense(3)])),
        rj.Gate(rj.S5(2), rj.Stack([rj.Dense(3), rj.S5(2)])),
        rj.Stack([rj.Stack([rj.S5(3), rj.Bidirectional(rj.GRU(2))]), rj.S5(3)]),
    ],
    ids=["stack", "blocks", "residual", "gate", "both_directions_without_times"],
)
def test_layers_hand_elapsed_times_on(layer: rj.Layer) -> None:
    params = layer.init(jax.random.key(0), 3, jnp.float64)
    x = jax.random.normal(jax.random.key(1), (6, 2, 3), jnp.float64)
    lengths = jnp.array([6, 4])
    got, _ = layer(params, (x, jnp.full((6, 2), 3.0)), lengths=lengths)
    wanted, _ = layer(slowed(params), x, lengths=lengths)
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    assert abs(got - layer(params, x, lengths=lengths)[0]).max() > 1e-4


def test_who_reads_no_elapsed_times_says_so() -> None:
    x = jnp.ones((6, 2, 3)), jnp.ones((6, 2))
    with pytest.raises(TypeError, match="It reads no elapsed times"):
        rj.unroll(rj.LRU(3), params_of(rj.LRU(3)), x)
    layer = rj.Stack([rj.Dense(3), rj.Bidirectional(rj.S5(3))])
    with pytest.raises(ValueError, match="cannot be read in both directions"):
        layer(layer.init(jax.random.key(0), 3), x)
    layer = rj.Stack([rj.S5(3), rj.RNN(rj.S5(3), reverse=True)])
    with pytest.raises(ValueError, match=r"elapsed times .* cannot be read in both directions"):
        layer(layer.init(jax.random.key(0), 3), x)


BACKWARDS = rj.RNN(rj.S5(3), reverse=True)


@pytest.mark.parametrize(
    ("layer", "accepted"),
    [
        (rj.Gate(rj.S5(3), BACKWARDS), False),
        (rj.Stack([BACKWARDS, rj.Stack([rj.S5(4), rj.Bidirectional(rj.GRU(2))])]), False),
        (rj.Stack([rj.Dense(3), rj.Residual(rj.Gate(BACKWARDS, rj.Block(BACKWARDS, reverse=True)))]), False),
        (rj.Stack([rj.Gate(BACKWARDS, rj.Block(rj.S5(3)).reversed()), rj.GRU(2)]), True),
        (rj.Gate(rj.S5(3), rj.Block(BACKWARDS).reversed()), True),
    ],
)
def test_layers_read_elapsed_times_in_one_direction(layer: rj.Layer, accepted: bool) -> None:
    params = layer.init(jax.random.key(0), 3)
    x, dt = jnp.ones((5, 2, 3)), jnp.ones((5, 2))
    if accepted:
        jax.eval_shape(layer, params, (x, dt))
        return
    with pytest.raises(ValueError, match=r"elapsed times .* cannot be read in both directions, as by (Gate|Stack)"):
        jax.eval_shape(layer, params, (x, dt))
    jax.eval_shape(layer, params, x)


def test_the_derivative_of_an_ltc_keeps_no_conductances() -> None:
    """Kept, they are (B, H, H) for each of the solver's steps."""
    rows, hidden, unfolds = 2, 32, 6
    cell = rj.LTC(hidden, unfolds=unfolds)
    pull = jax.jit(jax.grad(lambda params, xs: jnp.sum(rj.unroll(cell, params, xs)[0])))

    def temporary(steps: int) -> int:
        xs = jax.ShapeDtypeStruct((steps, rows, 3), jnp.float32)
        return pull.lower(jax.eval_shape(lambda: params_of(cell)), xs).compile().memory_analysis().temp_size_in_bytes

    assert temporary(200) - temporary(100) < 100 * rows * hidden * 4 * 12 * unfolds
