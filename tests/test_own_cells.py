"""The functions that a cell of one's own is written with, against NumPy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import cells

RNG = np.random.default_rng(0)
BF16 = jnp.bfloat16


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 1, 5, 3)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_affine_over_any_leading_axes(shape: tuple[int, ...], biased: bool) -> None:
    x, w, b = (RNG.normal(size=size) for size in (shape, (3, 4), (4,)))
    got = cells.affine(jnp.asarray(x), jnp.asarray(w), jnp.asarray(b) if biased else None)
    np.testing.assert_allclose(got, np.einsum("...i,io->...o", x, w) + (b if biased else 0), rtol=1e-12)


@pytest.mark.parametrize("kind", [BF16, jnp.float16, jnp.float32, jnp.float64])
def test_dot_rounds_to_the_dtype_of_its_weights_and_accumulates_in_float32(kind: Any) -> None:
    """257 products of 1 in bfloat16, whose next number after 256 is 258."""
    x, w = jnp.full((2, 257), 1 + 2.0**-12), jnp.ones((257, 1), kind)
    got = cells.dot(x, w)
    assert got.dtype == (jnp.float64 if kind == jnp.float64 else jnp.float32)
    np.testing.assert_array_equal(got, 257 * float(jnp.asarray(1 + 2.0**-12, kind)))


@pytest.mark.parametrize("shape", [(3,), (6, 3), (6, 2, 2, 3)], ids=str)
@pytest.mark.parametrize("bias", ["none", "all", "some", "narrow"])
def test_project_gates(shape: tuple[int, ...], bias: str) -> None:
    x, w, b = (RNG.normal(size=size) for size in (shape, (3, 8), (8,)))
    if bias == "narrow":
        b = np.asarray(jnp.asarray(b, jnp.float32), float)
    given = {
        "none": None,
        "all": jnp.asarray(b),
        "some": (None, jnp.asarray(b[4:])),
        "narrow": jnp.asarray(b, jnp.float32),
    }
    added = {"none": 0, "some": np.where(np.arange(8) < 4, 0, b)}.get(bias, b)
    gates = cells.project_gates(jnp.asarray(x), jnp.asarray(w), given[bias], 2)
    assert len(gates) == 2
    np.testing.assert_allclose(np.concatenate(gates, -1), np.einsum("...i,io->...o", x, w) + added, rtol=1e-12)


@pytest.mark.parametrize("gates", [1, 2, 3])
def test_split_gates_cuts_the_last_axis(gates: int) -> None:
    x = RNG.normal(size=(5, 2, 6))
    for i, gate in enumerate(cells.split_gates(jnp.asarray(x), gates)):
        np.testing.assert_array_equal(gate, x[..., i * 6 // gates : (i + 1) * 6 // gates])


@pytest.mark.parametrize("value", [2, 0.5, np.arange(3.0)], ids=str)
def test_across_spreads_a_number_or_one_for_each_feature(value: Any) -> None:
    got = cells.across("gain", value, (4, 2, 3), BF16)
    assert got.dtype == BF16
    np.testing.assert_array_equal(got.astype(float), np.broadcast_to(value, (4, 2, 3)))


@pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 3)], ids=str)
def test_across_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`gain` must be one number or one for each feature, \(3,\); got shape \("):
        cells.across("gain", np.ones(shape), (4, 2, 3), jnp.float32)
