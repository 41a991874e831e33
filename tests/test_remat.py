"""`remat` saves the memory that it says it saves."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import NATIVE

import rnnjax as rj

T, B, I, H = 512, 8, 4, 16  # noqa: E741
STATE = B * H * 4
"""Bytes of one float32 state (B, H)."""


def problem(cell: rj.Cell) -> Any:
    """Shapes of parameters, inputs and a state, in float32."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    state = jax.eval_shape(lambda params: cell.initial_state(params, (B,)), params)
    return params, jax.ShapeDtypeStruct((T, B, I), jnp.float32), state


def size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_fused_needs_less_memory_for_a_gradient() -> None:
    cell = rj.LSTM(H)

    def needed(remat: Any) -> int:
        def loss(*arrays: Any) -> Any:
            return (rj.unroll(cell, *arrays, implementation="fused", remat=remat)[0] ** 2).sum()

        return jax.jit(jax.grad(loss)).lower(*problem(cell)).compile().memory_analysis().temp_size_in_bytes

    every, state, chunks = needed(None), needed("state"), needed(16)
    assert every > 5 * T * STATE
    assert state < every / 2
    # the gradient of the outputs, which the loss makes, and little else
    assert T * STATE < chunks < min(state, 2.5 * T * STATE)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["scan", "newton"])
def test_a_few_states_and_no_gates(implementation: str) -> None:
    """Of a cell that no fast implementation takes: the states of pieces, and all that a step has of one piece alone."""
    cell, steps, rows = rj.ConvLSTM(3, (4,)), 256, 2
    params = cell.init(jax.random.key(0), 1, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (steps, rows, 4, 1), jnp.float64)
    state = rows * 4 * 3 * 8 * 2

    def loss(remat: Any, params: Any, xs: Any) -> Any:
        return (rj.unroll(cell, params, xs, implementation=implementation, remat=remat)[0][-1] ** 2).sum()

    every, few = (
        jax.jit(jax.value_and_grad(partial(loss, remat), (0, 1))).lower(params, xs).compile()
        for remat in (None, "state")
    )
    needed = [run.memory_analysis().temp_size_in_bytes for run in (every, few)]
    assert needed[1] < needed[0] / 4
    if implementation == "scan":
        assert needed[0] > 4 * steps * state
        assert needed[1] < 2 * steps * state  # the outputs and their cotangents are half a state each
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-11), few(params, xs), every(params, xs))


@pytest.mark.skipif("cpu" not in NATIVE, reason="the kernels are not there")
@pytest.mark.parametrize(
    ("cell", "gates", "states"),
    [(rj.LSTM(H), 5, 1), (rj.GRU(H), 4, 0), (rj.Elman(H), 0, 0)],
    ids=["lstm", "gru", "elman"],
)
def test_the_kernels_keep_what_is_documented(cell: rj.Cell, gates: int, states: int) -> None:
    """Besides what goes in and the outputs: so many arrays of every step, or states of every so many steps."""
    arrays = problem(cell)

    def kept(remat: Any) -> int:
        def residuals(*arrays: Any) -> Any:
            ys, pull = jax.vjp(lambda *arrays: rj.unroll(cell, *arrays, implementation="cpu", remat=remat)[0], *arrays)
            return ys, jax.tree.leaves(pull)

        ys, saved = jax.eval_shape(residuals, *arrays)
        return size(saved) - size((arrays, ys))

    assert kept(None) == gates * T * STATE
    assert kept(16) == states * T // 16 * STATE
    assert kept("state") == kept("sqrt") == states * 24 * STATE  # √512 is 22, and 24 times 22 is 512 or more
