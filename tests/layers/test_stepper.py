"""`stepper`: single compiled steps are the whole sequence, and what cannot be streamed is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import CELLS

import rnnjax as rj

MODELS = {
    "cell": rj.LSTM(5),
    "learned": rj.LearnedInitialState(rj.GRU(5)),
    "stack": rj.Stack([rj.GRU(4), rj.Residual(rj.LSTM(4)), rj.Dropout(0.5), rj.Dense(3)]),
}


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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), state, last)


def test_a_state_is_used_up_and_one_program_serves_all_steps() -> None:
    cell = rj.LSTM(5)
    step = rj.stepper(cell, cell.init(jax.random.key(0), 3))
    first = state = step.initial_state((2,))
    for _ in range(3):
        _, state = step(jnp.ones((2, 3), jnp.float32), state)
    assert step._run._cache_size() == 1
    assert all(leaf.is_deleted() for leaf in first)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_state_of_the_model_will_do(model: Any) -> None:
    """It is used up as well, and takes no parameter with it."""
    params = model.init(jax.random.key(0), 3)
    step = rj.stepper(model, params)
    wanted, _ = step(jnp.ones(3, jnp.float32), step.initial_state())
    got, _ = step(jnp.ones(3, jnp.float32), model.initial_state(params))
    np.testing.assert_array_equal(got, wanted)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


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
        assert rj.stepper(cell, cell.init(jax.random.key(0), 3, given)).initial_state().h.dtype == wanted


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
        (rj.GRU, TypeError, "`model` must be a cell or a layer"),
    ],
    ids=["bidirectional", "reverse", "pooled", "class"],
)
def test_what_cannot_stream_is_refused(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rj.stepper(model, ())
