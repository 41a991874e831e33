"""Shortcuts of gated cells (`input_weights`, `update_vjp`) say how a map was made; a changed map loses its shortcut."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

T, B, I, H = 6, 2, 3, 4  # noqa: E741


@rj.struct
class DoubledInput(rj.LSTM):
    """An LSTM that reads its inputs twice as large."""

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, 2 * x)


@rj.struct
class HalfStep(rj.GRU):
    """A GRU that goes half of the way."""

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = super().update(params, state, gx, gh)
        return new._replace(h=(new.h + state.h) / 2)


@rj.struct
class DoublingWrapper(rj.Wrapper):
    """The inner cell with its inputs twice as large."""

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, 2 * x)


CHANGED = [DoubledInput(H), HalfStep(H), DoublingWrapper(rj.LSTM(H)), DoublingWrapper(rj.GRU(H))]


def gradients(cell: rj.Cell, implementation: str) -> Any:
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float64)

    def loss(params: Any, xs: Any) -> Any:
        ys, state = rj.unroll(cell, params, xs, implementation=implementation)
        return (ys**2).sum() + state.h.sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, xs)


@pytest.mark.parametrize("cell", CHANGED, ids=lambda cell: type(cell).__name__)
def test_changed_map_is_differentiated(cell: rj.Cell) -> None:
    pairs = zip(*(jax.tree.leaves(gradients(cell, name)) for name in ("fused", "scan")), strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_inputs_are_doubled() -> None:
    plain, params = rj.LSTM(H), rj.LSTM(H).init(jax.random.key(0), I)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    expected, _ = rj.unroll(plain, params, 2 * xs)
    for cell in (DoubledInput(H), DoublingWrapper(plain)):
        np.testing.assert_allclose(rj.unroll(cell, params, xs)[0], expected, atol=1e-6)


def test_neither_shortcut_nor_map_is_an_error() -> None:
    @rj.struct
    class Unfinished(rj.LSTM):
        def input_weights(self, params: Any) -> None:
            return None

    params = rj.LSTM(H).init(jax.random.key(0), I)
    with pytest.raises(NotImplementedError, match="`input_weights` or `project`"):
        rj.unroll(Unfinished(H), params, jnp.ones((T, B, I)))
