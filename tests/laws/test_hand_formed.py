"""Derivatives formed by hand, of memories over several chunks and of complex numbers in parallel: quick cases of what
the laws of slow rows hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import rnnjax as rj
from rnnjax._laws.trial import agree

STEPS = 36


@partial(jax.jit, static_argnames=("cell", "remat", "implementation"))
def slopes(cell: Any, params: Any, xs: Any, state: Any, **statics: Any) -> Any:
    def loss(*arrays: Any) -> Any:
        ys, last = rj.unroll(cell, *arrays, **statics)
        return (ys**2).sum() + sum((leaf**2).sum() for leaf in last)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(params, xs, state)


@pytest.mark.parametrize(
    ("cell", "implementation", "remat"),
    [
        (rj.GLA(4, heads=2, key_size=3, rank=2), "chunked", 12),
        (rj.DeltaNet(4, heads=2, key_size=3), "chunked", 12),
        (rj.GatedDeltaNet(4, heads=2), "chunked", 12),
        (rj.LRU(4), "associative", None),
        (rj.S5(4), "associative", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, rj.Cell) else str(value),
)
def test_derivatives_are_those_of_the_loop(cell: Any, implementation: str, remat: int | None) -> None:
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> Any:
        return 0.5 * rng.normal(size=leaf.shape)

    params = jax.tree.map(draw, jax.eval_shape(lambda: cell.init(jax.random.key(0), 3)))
    state = jax.tree.map(draw, jax.eval_shape(lambda: cell.initial_state(params, (2,))))
    arrays = params, rng.normal(size=(STEPS, 2, 3)), state
    got = slopes(cell, *arrays, implementation=implementation, remat=remat)
    agree("loss and gradients", got, slopes(cell, *arrays, implementation="scan"), tolerance=1e-9)
