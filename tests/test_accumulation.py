"""Gradients of parameters are sums over time. In bfloat16 such a sum stops to grow at 256 equal terms."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

STEPS = 2_000


@pytest.mark.parametrize(
    ("cell", "implementation"),
    [(rj.LSTM(3), "scan"), (rj.LSTM(3), "fused"), (rj.ResetBeforeGRU(3), "scan")],
    ids=["lstm-scan", "lstm-fused", "reset_before_gru-scan"],
)
def test_gradients_of_bfloat16_parameters_lose_no_steps(cell: Any, implementation: str) -> None:
    """Against float64 with the same rounded numbers. A state of 8 bits is no issue: states are float32."""
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), cell.init(jax.random.key(0), 2))
    xs = 1 + 0.1 * jax.random.normal(jax.random.key(1), (STEPS, 1, 2), jnp.bfloat16)

    def gradient(params: Any, xs: Any) -> Any:
        def total(params: Any) -> Any:
            return rj.unroll(cell, params, xs, implementation=implementation)[0].sum(dtype=jnp.float32)

        return jax.jit(jax.grad(total))(params)

    found = gradient(low, xs)
    with jax.enable_x64(True):
        expected = gradient(jax.tree.map(lambda p: p.astype(jnp.float64), low), xs.astype(jnp.float64))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.bfloat16
        scale = np.abs(other).max()
        np.testing.assert_allclose(one.astype(np.float64) / scale, np.asarray(other) / scale, atol=0.02)


def test_the_gradient_of_a_bfloat16_hyper_parameter_loses_no_steps() -> None:
    """A leaf of the cell, which is no part of its parameters: the frequency of an oscillator at rest."""
    cell = rj.CoRNN(3)
    params = cell.init(jax.random.key(0), 2)
    xs = jnp.ones((STEPS, 1, 2))

    def gradient(frequency: Any) -> Any:
        def total(frequency: Any) -> Any:
            given = dataclasses.replace(cell, frequency=frequency)
            return (rj.unroll(given, params, xs, implementation="scan")[0] ** 2).sum()

        return jax.jit(jax.grad(total))(frequency)

    low = jnp.array(2.75, jnp.bfloat16)
    found, expected = gradient(low), gradient(low.astype(jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0.02)
