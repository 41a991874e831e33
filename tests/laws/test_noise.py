"""The same key gives the same draws, another key and another row others, no key none; gradients see constants."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax import testing

from . import Subject


def test_noise(subject: Subject) -> None:
    testing.noise(*subject)


def zoneout(key: jax.Array) -> list[Any]:
    held = rj.Zoneout(rj.LSTM(4), rate=0.2, cell_rate=0.4).noise(key, 200, (50,))[1]
    return [held.h, held.c]


def recurrent_dropout(key: jax.Array) -> list[Any]:
    return [rj.RecurrentDropout(rj.LSTM(4), rate=0.3).noise(key, 1, (10_000,))[1]]


def weight_drop(key: jax.Array) -> list[Any]:
    cell = rj.WeightDrop(rj.Elman(200), rate=0.3)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(lambda: cell.init(key, 1)))
    return [cell.prepare(ones, key=key).u]


# inverted dropout multiplies with 0 or 1 / (1 - p): mean 1, variance p / (1 - p)
@pytest.mark.parametrize(
    ("draw", "moments"),
    [
        (zoneout, [(0.2, 0.2 * 0.8), (0.4, 0.4 * 0.6)]),
        (recurrent_dropout, [(1.0, 0.3 / 0.7)]),
        (weight_drop, [(1.0, 0.3 / 0.7)]),
    ],
)
def test_mean_and_variance(draw: Any, moments: list[tuple[float, float]]) -> None:
    for drawn, (mean, variance) in zip(draw(jax.random.key(4)), moments, strict=True):
        drawn = np.asarray(drawn, float)
        assert drawn.size == 40_000
        # five standard errors of the mean, and as much of the variance of a two-valued variable
        assert abs(drawn.mean() - mean) < 5 * np.sqrt(variance / drawn.size)
        assert abs(drawn.var() - variance) < 0.05 * variance
