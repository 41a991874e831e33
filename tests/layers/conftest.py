"""NumPy at work for the layers' tests: the cells' equations, and gradients by central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def elman() -> Callable[..., np.ndarray]:
    """h_t = tanh(x_t w + h_{t-1} u + b), a plain loop over xs (T, B, I)."""

    def run(params: Any, xs: np.ndarray, h: np.ndarray | None = None) -> np.ndarray:
        w, u, b = (np.asarray(leaf) for leaf in params)
        h = np.zeros((*xs.shape[1:-1], len(u))) if h is None else h
        ys = []
        for x in xs:
            h = np.tanh(x @ w + h @ u + b)
            ys.append(h)
        return np.array(ys)

    return run


@pytest.fixture(scope="session")
def differences() -> Callable[..., Any]:
    """The gradient of a NumPy function of a pytree, by central differences in every number of it."""

    def gradient(function: Callable[[Any], float], tree: Any, step: float = 1e-6) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        leaves = [np.array(leaf) for leaf in leaves]
        slopes = [np.zeros_like(leaf) for leaf in leaves]
        for leaf, slope in zip(leaves, slopes, strict=True):
            for index in np.ndindex(leaf.shape):
                kept = leaf[index]
                values = []
                for shift in (step, -step):
                    leaf[index] = kept + shift
                    values.append(function(jax.tree.unflatten(structure, leaves)))
                leaf[index] = kept
                slope[index] = (values[0] - values[1]) / (2 * step)
        return jax.tree.unflatten(structure, slopes)

    return gradient


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """Asserts that two pytrees agree in structure, shapes and values."""

    def check(got: Any, wanted: Any, tolerance: float = 1e-12) -> None:
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert np.shape(mine) == np.shape(theirs)
            np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=tolerance, atol=tolerance)

    return check


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """Standard normal NumPy arrays in float64, the same ones in every test."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.standard_normal(shape)
