"""`stepper`: single compiled steps are the whole sequence, and what cannot be streamed is refused."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import CELLS, NATIVE

import rnnjax as rj

MODELS = {
    "cell": rj.LSTM(5),
    "learned": rj.LearnedInitialState(rj.GRU(5)),
    "stack": rj.Stack([rj.GRU(4), rj.Residual(rj.LSTM(4)), rj.Dropout(0.5), rj.Dense(3)]),
    "native": rj.Stack([rj.LSTM(5), rj.GRU(17), rj.Elman(3), rj.Elman(2, activation="relu"), rj.Dense(3)]),
}
LARGE = (rj.LSTM(160), rj.GRU(128), rj.LSTM(128))

native = pytest.mark.skipif("cpu" not in NATIVE, reason="the kernels are not there")


# above 16 rows a step is no native code
@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3), (17,), (64,)])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_steps_are_the_whole_sequence(model: Any, batch_shape: tuple[int, ...]) -> None:
    params = model.init(jax.random.key(0), 3, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (6, *batch_shape, 3), jnp.float64)
    ys, last = (rj.RNN(model) if isinstance(model, rj.Cell) else model)(params, xs)
    step = rj.stepper(model, params)
    state = step.initial_state(batch_shape, jnp.float64)
    for x, y in zip(xs, ys, strict=True):
        got, state = step(x, state)
        np.testing.assert_allclose(got, y, rtol=0, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), state.unpack(), last)


@pytest.mark.parametrize("rows", [1, 13])
def test_layers_that_two_threads_share(rows: int) -> None:
    """Large enough for a second thread to form the products with the states, as often as it comes in time."""
    model, slow = (rj.Stack([rj.RNN(c, implementation=how) for c in LARGE]) for how in (None, "scan"))
    params = model.init(jax.random.key(0), 3)
    xs = jax.random.normal(jax.random.key(1), (40, rows, 3))
    wanted, last = slow(params, xs)
    step = rj.stepper(model, params)
    state = step.initial_state((rows,))
    for x, y in zip(xs, wanted, strict=True):
        got, state = step(x, state)
        np.testing.assert_allclose(got, y, rtol=0, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-5), state.unpack(), last)


@native
def test_a_step_of_layers_is_one_call_without_copies() -> None:
    model = MODELS["native"]
    params = model.init(jax.random.key(0), 3)
    run = jax.jit(lambda state, x: model(params, x, state)[::-1], donate_argnums=0)
    compiled = run.lower(model.initial_state(params, (2,)), jnp.ones((1, 2, 3), jnp.float32)).compile().as_text()
    assert compiled.count('custom_call_target="rnnjax_cpu_climb"') == 1
    assert "rnnjax_cpu_forward" not in compiled
    assert " copy(" not in compiled


@native
@pytest.mark.slow
def test_neighbours_are_one_call_wherever_they_are() -> None:
    """Above an embedding and between other layers; dropout, of which there is none, does not part them."""
    cells = [rj.LSTM(3), rj.VariationalDropout(0.5), rj.GRU(4)], [rj.Elman(3), rj.Dropout(0.5), rj.LSTM(4), rj.GRU(2)]
    model = rj.Stack([rj.Embedding(9, 3), rj.Dropout(0.5), *cells[0], rj.Dense(3), *cells[1], rj.Dropout(0.5)])
    params, ids = model.init(jax.random.key(0), None, jnp.float64), jnp.array([[1, 8]])
    state = jax.tree.map(lambda a: a + 0.3, model.initial_state(params, (2,), jnp.float64))
    assert jax.jit(model).lower(params, ids, state).as_text().count("@rnnjax_cpu_climb") == 2
    got, wanted = jax.jit(model)(params, ids, state), _by_scan(model)(params, ids, state)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), got, wanted)
    drawn = jax.jit(model).lower(params, ids, state, key=jax.random.key(1))
    assert "rnnjax_cpu_climb" not in drawn.as_text()


def test_what_is_passed_over_is_checked() -> None:
    model = rj.Stack([rj.LSTM(3), rj.Dropout(0.5), rj.GRU(4)])
    params = model.init(jax.random.key(0), 3)
    lstm, _, gru = model.initial_state(params, (2,))
    with pytest.raises(TypeError, match=r"`state` must be \(\) or None, because Dropout"):
        jax.jit(model)(params, jnp.ones((1, 2, 3), jnp.float32), (lstm, gru, gru))


@pytest.mark.parametrize("batched", ["x", "state", "params"])
def test_vmap_of_a_step_of_layers_is_a_loop(batched: str) -> None:
    model = rj.Stack([rj.LSTM(3), rj.GRU(4)])
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.vmap(lambda key: model.init(key, 2, jnp.float64))(keys)
    state = jax.tree.map(lambda a: jnp.stack([a - 1, a, a + 1]), model.initial_state(model.init(keys[0], 2), (5,)))
    given = {"params": params, "x": jax.random.normal(keys[0], (3, 1, 5, 2), jnp.float64), "state": state}
    first = {name: jax.tree.map(lambda leaf: leaf[0], tree) for name, tree in given.items()}
    given = {name: given[name] if name == batched else first[name] for name in given}
    run = jax.jit(lambda own: model(own["params"], own["x"], own["state"]))
    got = jax.vmap(run, ({name: 0 if name == batched else None for name in given},))(given)
    each = [given | {batched: tree} for tree in _unstacked(given[batched])]
    wanted = [_by_scan(model)(own["params"], own["x"], own["state"]) for own in each]
    for a, b in zip(_unstacked(got), wanted, strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), a, b)


def test_the_gradient_of_a_step_of_layers() -> None:
    """In a compiled program, where it is one call, and of states that were not donated and are read again."""
    model = rj.Stack([rj.LSTM(3), rj.GRU(4)])
    params = model.init(jax.random.key(0), 2, jnp.float64)
    x = jax.random.normal(jax.random.key(1), (1, 5, 2), jnp.float64)
    state = jax.tree.map(lambda a: a + 0.3, model.initial_state(params, (5,), jnp.float64))

    def loss(model: Any, params: Any, x: Any, state: Any) -> Any:
        ys, after = model(params, x, state)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves((ys, after, state)))

    got, wanted = (jax.jit(jax.value_and_grad(partial(loss, m), (0, 1, 2))) for m in (model, _by_scan(model)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
        got(params, x, state),
        wanted(params, x, state),
    )


@rj.struct
class Twice(rj.LSTM):
    """Its outputs are more than what the kernel returns."""

    def readout(self, params: Any, emitted: Any, x: Any) -> Any:
        return 2 * emitted


@pytest.mark.parametrize(
    "cells",
    [
        (Twice(4), rj.LSTM(4), rj.GRU(3)),
        (rj.LSTM(4), rj.LearnedInitialState(Twice(4))),
        (rj.LSTM(4), rj.GRU(4, compute_dtype=jnp.float64)),
        (rj.GRU(4, compute_dtype=jnp.float64), rj.LSTM(4)),
        (rj.LSTM(4), rj.GRU(4, compute_dtype=jnp.bfloat16), rj.LSTM(4)),
    ],
    ids=["readout", "wrapped", "wider", "narrower", "bfloat16"],
)
def test_layers_that_are_no_single_call(cells: Any) -> None:
    model = rj.Stack(cells)
    params = model.init(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (1, 2, 3), jnp.float32)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), jax.jit(model)(params, x), model(params, x))


@pytest.mark.parametrize("marks", ["lengths", "mask", "reset"])
def test_a_marked_step_of_layers(marks: str) -> None:
    model = rj.Stack([rj.LSTM(3), rj.GRU(4)])
    params = model.init(jax.random.key(0), 2, jnp.float64)
    x = jax.random.normal(jax.random.key(1), (1, 2, 2), jnp.float64)
    state = jax.tree.map(lambda a: a + 0.3, model.initial_state(params, (2,), jnp.float64))
    row = jnp.array([1, 0])
    marked = {marks: row if marks == "lengths" else row[None] == 1}
    got, wanted = (jax.jit(partial(m, **marked))(params, x, state) for m in (model, _by_scan(model)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), got, wanted)


def test_a_step_of_layers_elsewhere() -> None:
    model = rj.Stack([rj.LSTM(3), rj.GRU(4)])
    params = model.init(jax.random.key(0), 2, jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: model(params, x)[0]), platforms=["tpu"])(
        jax.ShapeDtypeStruct((1, 5, 2), jnp.float32)
    )
    assert "rnnjax_cpu" not in exported.mlir_module()


def _unstacked(tree: Any) -> list[Any]:
    leaves, structure = jax.tree.flatten(tree)
    return [jax.tree.unflatten(structure, own) for own in zip(*leaves, strict=True)]


def _by_scan(model: rj.Stack) -> rj.Stack:
    cells = [isinstance(layer, rj.RNN) for layer in model.layers]
    return rj.Stack(
        [
            dataclasses.replace(layer, implementation="scan") if own else layer
            for layer, own in zip(model.layers, cells, strict=True)
        ]
    )


def test_a_state_is_used_up_and_one_program_serves_all_steps() -> None:
    cell = rj.LSTM(5)
    step = rj.stepper(cell, cell.init(jax.random.key(0), 3))
    first = state = step.initial_state((2,))
    for _ in range(3):
        _, state = step(jnp.ones((2, 3), jnp.float32), state)
    assert step._run._cache_size() == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_state_of_the_model_will_do(model: Any) -> None:
    """It is copied, and neither it nor a parameter is used up."""
    params = model.init(jax.random.key(0), 3)
    step = rj.stepper(model, params)
    own = jax.tree.map(lambda leaf: leaf + 0.5, model.initial_state(params, (2,)))
    got, after = step(jnp.ones((2, 3), jnp.float32), own)
    ys, last = (rj.RNN(model) if isinstance(model, rj.Cell) else model)(params, jnp.ones((1, 2, 3), jnp.float32), own)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), (got, after.unpack()), (ys[0], last))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, own, after)))


def test_a_state_is_few_arrays() -> None:
    """Leaves of one shape are one array, and each comes back to its place."""
    model = rj.Stack([rj.LSTM(5), rj.GRU(4), rj.LSTM(4), rj.LSTM(5), rj.MLSTM(128, heads=1)])
    params = model.init(jax.random.key(0), 3)
    step = rj.stepper(model, params)
    own = model.initial_state(params, (2,))
    own = jax.tree.map(lambda leaf, i: leaf + i, own, jax.tree.unflatten(jax.tree.structure(own), range(11)))
    packed = step.pack(own)
    shapes = [leaf.shape for leaf in jax.tree.leaves(packed)]
    assert shapes[:2] == [(2, 4, 5), (2, 3, 4)]
    assert (2, 1, 128, 128) in shapes  # to copy it would take longer
    jax.tree.map(np.testing.assert_array_equal, packed.unpack(), own)


def test_a_steps_state_says_how_to_read_it() -> None:
    cell = rj.LSTM(4)
    params = cell.init(jax.random.key(0), 3)
    state = rj.stepper(cell, params).initial_state()
    assert repr(state) == "Packed(float32(2, 4))"
    with pytest.raises(AttributeError, match=r"`state.unpack\(\)` is the model's own state"):
        _ = state.h
    with pytest.raises(TypeError, match=r"a stepper's: pass `state.unpack\(\)`"):
        rj.unroll(cell, params, jnp.ones((5, 3), jnp.float32), state)


@pytest.mark.parametrize(
    "layer",
    [rj.RNN(rj.LSTM(3)), rj.Stack([rj.LSTM(3)]), rj.Gate(rj.LSTM(3), rj.LSTM(3)), rj.Residual(rj.LSTM(3))],
    ids=["rnn", "stack", "gate", "residual"],
)
def test_a_steps_state_has_to_be_unpacked_elsewhere(layer: Any) -> None:
    params, xs = layer.init(jax.random.key(0), 3), jnp.ones((5, 2, 3), jnp.float32)
    step = rj.stepper(layer, params)
    state = step(xs[0], step.initial_state((2,)))[1]
    with pytest.raises(TypeError, match=r"`state` must be the model's own; got Packed\(.*: pass `state.unpack\(\)`"):
        layer(params, xs, state)
    assert layer(params, xs[1:], state.unpack())[0].shape == (4, 2, 3)


@pytest.mark.parametrize("model", [MODELS["stack"], MODELS["learned"]], ids=["stack", "learned"])
def test_rows_that_wait_or_begin_anew(model: Any) -> None:
    params = model.init(jax.random.key(0), 3, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (6, 4, 3), jnp.float64)
    mask, reset = jax.random.bernoulli(jax.random.key(2), 0.6, (2, 6, 4))
    ys, last = (rj.RNN(model) if isinstance(model, rj.Cell) else model)(params, xs, mask=mask, reset=reset)
    step = rj.stepper(model, params)
    state = step.initial_state((4,), jnp.float64)
    for t, y in enumerate(ys):
        got, state = step(xs[t], state, mask=mask[t], reset=reset[t])
        np.testing.assert_allclose(got, y, rtol=0, atol=1e-12)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), state.unpack(), last)
    said = (
        "`mask` must be (*B) = (4,) to match `x` (4, 3); got (3,). A step has no time axis: pass one flag for each row"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}(\n|$)"):
        step(xs[0], state, mask=mask[0, :3])
    said = "`reset` must be a boolean array (*B) = (4,); got float64(4,): compare with zero, `reset != 0`"
    with pytest.raises(TypeError, match=f"^{re.escape(said)}(\n|$)"):
        step(xs[0], state, reset=jnp.ones(4))


@pytest.fixture
def stream() -> Any:
    """A step, two rows of inputs and a state behind a step: as many rows as an LSTM has arrays in its state."""
    cell = rj.LSTM(4)
    step = rj.stepper(cell, cell.init(jax.random.key(0), 3))
    xs = jax.random.normal(jax.random.key(1), (2, 3), jnp.float32)
    return step, xs, step(xs, step.initial_state((2,)))[1]


def test_a_row_of_a_state_begins_anew(stream: Any) -> None:
    step, _, state = stream
    fresh = jax.tree.map(lambda leaf, zero: leaf.at[1].set(zero), state, step.initial_state())
    for leaf, before in zip(fresh.unpack(), state.unpack(), strict=True):
        np.testing.assert_array_equal(leaf, before.at[1].set(0))


def test_rows_of_a_state_are_its_first_axis(stream: Any) -> None:
    step, xs, state = stream
    wanted, after = jax.vmap(step)(xs, jax.tree.map(jnp.copy, state))
    got, last = step(xs, state)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), last.unpack(), after.unpack())


def test_steps_in_a_scan(stream: Any) -> None:
    step, xs, state = stream
    last, ys = jax.lax.scan(lambda state, x: step(x, state)[::-1], state, jnp.stack([xs, xs]))
    y, state = step(xs, step(xs, state)[1])
    np.testing.assert_allclose(ys[-1], y, rtol=0, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), last.unpack(), state.unpack())


def test_the_state_of_another_model_is_refused() -> None:
    models = rj.Stack([rj.LSTM(4), rj.GRU(4)]), rj.Stack([rj.GRU(4), rj.LSTM(4)])
    one, other = (rj.stepper(model, model.init(jax.random.key(0), 4)) for model in models)
    with pytest.raises(TypeError, match=r"`state` must be what a step returned, or .*; got "):
        one(jnp.ones(4), other.initial_state())


@pytest.mark.parametrize(
    ("leaves", "error", "message"),
    [
        ((np.zeros((2, 4), int), np.zeros((2, 4))), TypeError, r"`state.h` must be a floating point array; got int"),
        ((np.zeros((2, 4)), np.zeros((3, 4))), ValueError, r"`state.c` must be \(2, 4\); got \(3, 4\)"),
        ((np.zeros((2, 5)), np.zeros((2, 5))), ValueError, r"`state.h` must be \(2, 4\); got \(2, 5\)"),
    ],
    ids=["integers", "rows", "size"],
)
def test_a_state_of_other_arrays_is_refused(leaves: Any, error: type[Exception], message: str, stream: Any) -> None:
    step, xs, state = stream
    with pytest.raises(error, match=message):
        step(xs, type(state.unpack())(*leaves))


def test_states_keep_the_dtypes_of_the_model() -> None:
    def dtypes(tree: Any) -> list[Any]:
        return [leaf.dtype for leaf in jax.tree.leaves(tree)]

    model = rj.Stack([rj.LSTM(4), rj.GRU(4, compute_dtype=jnp.float64)])
    params = model.init(jax.random.key(0), 4)
    step = rj.stepper(model, params)
    x = jnp.ones((2, 4), jnp.float32)
    _, last = model(params, x[None], model.initial_state(params, (2,)))
    state = step.pack(last)
    for _ in range(3):
        _, state = step(x, state)
        assert dtypes(state.unpack()) == dtypes(last)
    assert step._run._cache_size() == 1


@rj.struct
class Remembers(rj.layers.Stateless):
    """It returns a state of which its first one says nothing."""

    def apply(self, params: Any, x: Any, valid: Any, key: Any) -> Any:
        return x

    def __call__(self, params: Any, xs: Any, state: Any = None, **_: Any) -> Any:
        return xs, xs[-1]


def test_a_layer_that_returns_another_state_is_refused() -> None:
    step = rj.stepper(rj.Stack([Remembers(), rj.LSTM(4)]), ((), rj.LSTM(4).init(jax.random.key(0), 3)))
    with pytest.raises(TypeError, match="returned another state than it was given"):
        step(jnp.ones((2, 3), jnp.float32), step.initial_state((2,)))


@native
@pytest.mark.parametrize("rows", [1, 16])
def test_a_step_is_native_code(rows: int) -> None:
    model = MODELS["native"]
    step = rj.stepper(model, model.init(jax.random.key(0), 3))
    compiled = step._run.lower(step.initial_state((rows,)), jnp.ones((rows, 3), jnp.float32)).compile().as_text()
    assert compiled.count('custom_call_target="rnnjax_cpu_climb"') == 1


@pytest.mark.slow
def test_states_share_no_array() -> None:
    for row in CELLS:
        cell = row.subject
        params = cell.prepare(cell.init(jax.random.key(0), row.in_size))
        for batch_shape in ((), (2,)):
            state = cell.initial_state(params, batch_shape)
            arrays = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
            others = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
            assert len({*arrays} - others) == len(arrays), row.name


def test_states_have_the_dtype_of_the_parameters() -> None:
    cell = rj.LSTM(4)
    for given, wanted in ((jnp.float64, jnp.float64), (jnp.bfloat16, jnp.float32)):
        step = rj.stepper(cell, cell.init(jax.random.key(0), 3, given))
        assert step.initial_state().unpack().h.dtype == wanted


def test_inputs_come_first() -> None:
    cell = rj.LSTM(4)
    step = rj.stepper(cell, cell.init(jax.random.key(0), 3))
    with pytest.raises(TypeError, match=r"`step\(x, state\)`: `state` must be"):
        step(step.initial_state((2,)), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (rj.Bidirectional(rj.GRU(4)), ValueError, "is not causal: it reads the whole sequence at once"),
        (rj.RNN(rj.GRU(4), reverse=True), ValueError, "is not causal"),
        (rj.Stack([rj.GRU(4), rj.Last()]), ValueError, "is not causal"),
        (
            rj.Stack([rj.Residual(rj.BahdanauAttention(rj.GRU(4), rj.AdditiveScore(3), 3))]),
            ValueError,
            "reads a `context`, which a stepper",
        ),
        (rj.GRU, TypeError, "`model` must be a layer or a cell; got .*make an instance"),
    ],
    ids=["bidirectional", "reverse", "pooled", "attention", "class"],
)
def test_what_cannot_stream_is_refused(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rj.stepper(model, ())
