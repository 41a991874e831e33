"""Filters of logits against loops over sorted lists; ties, edges and bad input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.decoding import repetition_penalty, temperature, top_k, top_p

RNG = np.random.default_rng(0)
CONTINUOUS = RNG.normal(size=(6, 9)) * 2
TIED = RNG.integers(-2, 3, size=(6, 9)).astype(float)
WITH_INFINITIES = np.where(RNG.random((6, 9)) < 0.4, -np.inf, TIED)
each_kind = pytest.mark.parametrize("x", [CONTINUOUS, TIED, WITH_INFINITIES], ids=["continuous", "tied", "infinite"])


def keep(row: np.ndarray, tokens: list[int]) -> np.ndarray:
    return np.where(np.isin(np.arange(len(row)), tokens), row, -np.inf)


def ranked(row: np.ndarray) -> list[int]:
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


@each_kind
@pytest.mark.parametrize("k", [1, 2, 5, 8, 9, 20])
def test_top_k_keeps_the_first_k_of_the_ranking(x: np.ndarray, k: int) -> None:
    wanted = [keep(row, ranked(row)[:k]) for row in x]
    np.testing.assert_array_equal(top_k(jnp.asarray(x), k), wanted)


@each_kind
@pytest.mark.parametrize("p", [1e-9, 0.13, 0.5, 0.77, 0.99, 1.0])
def test_top_p_keeps_the_shortest_head_with_that_probability(x: np.ndarray, p: float) -> None:
    wanted = []
    for row in x:
        mass = np.exp(row - row.max())
        kept: list[int] = []
        for token in ranked(row):
            if kept and mass[kept].sum() >= p * mass.sum() and p < 1:
                break
            kept.append(token)
        wanted.append(keep(row, kept))
    np.testing.assert_array_equal(top_p(jnp.asarray(x), p), wanted)


def test_top_p_stops_where_the_probability_is_reached_exactly() -> None:
    assert jnp.isfinite(top_p(jnp.zeros(4), 0.5)).tolist() == [True, True, False, False]
    assert jnp.isfinite(top_p(jnp.zeros(4), 0.51)).tolist() == [True, True, True, False]


def test_top_p_of_1_keeps_a_tail_that_sums_lose() -> None:
    x = jnp.log(jnp.array([1.0, 1e-9, 1e-12], jnp.float32))
    assert jnp.isfinite(top_p(x, 1.0)).all()
    assert jnp.isfinite(top_p(x, 1.0 - 1e-3)).tolist() == [True, False, False]


@each_kind
def test_temperature_divides_and_at_zero_keeps_the_largest(x: np.ndarray) -> None:
    tau = np.array([0.0, 0.1, 0.5, 1.0, 3.0, 0.0])
    high = x.max(-1, keepdims=True)
    wanted = [np.where(row == top, 0, -np.inf) if t == 0 else (row - top) / t for row, top, t in zip(x, high, tau)]  # noqa: B905
    np.testing.assert_allclose(temperature(jnp.asarray(x), jnp.asarray(tau)), wanted, rtol=1e-14)
    np.testing.assert_allclose(temperature(jnp.asarray(x[1]), 0.1), wanted[1], rtol=1e-14)


def test_a_tiny_temperature_does_not_overflow() -> None:
    y = temperature(jnp.array([1e30, -1e30, 3.0], jnp.float32), 1e-30)
    assert y.tolist() == [0.0, -np.inf, -np.inf]


def test_repetition_penalty_follows_its_formula() -> None:
    seen = RNG.random(CONTINUOUS.shape) < 0.5
    theta = np.array([1.0, 1.5, 0.5, 2.0, 3.0, 1.2])
    wanted = CONTINUOUS.copy()
    for row, token in zip(*np.nonzero(seen)):  # noqa: B905
        wanted[row, token] *= 1 / theta[row] if wanted[row, token] > 0 else theta[row]
    got = repetition_penalty(jnp.asarray(CONTINUOUS), jnp.asarray(seen), jnp.asarray(theta))
    np.testing.assert_allclose(got, wanted, rtol=1e-14)


def filters() -> dict[str, Any]:
    seen = jnp.array([True, False, True, False])
    return {
        "temperature": lambda x: temperature(x, 0.7),
        "top_k": lambda x: top_k(x, 2),
        "top_p": lambda x: top_p(x, 0.6),
        "repetition_penalty": lambda x: repetition_penalty(x, seen, 1.3),
    }


@pytest.mark.parametrize("name", filters())
def test_nan_and_infinity_count_as_impossible(name: str) -> None:
    apply = filters()[name]
    x = jnp.array([np.nan, 1.0, 0.5, np.inf])
    np.testing.assert_array_equal(apply(x), apply(jnp.where(jnp.isfinite(x), x, -jnp.inf)))
    assert (apply(jnp.full(4, -jnp.inf)) == -jnp.inf).all()
    assert jnp.isfinite(apply(x)).any()


@pytest.mark.parametrize("name", filters())
def test_dtypes_and_transformations(name: str) -> None:
    apply = filters()[name]
    x = jnp.asarray(CONTINUOUS[:, :4])
    np.testing.assert_allclose(jax.jit(jax.vmap(apply))(x), jnp.stack([apply(row) for row in x]), rtol=1e-14)
    for dtype, kept in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)):
        assert apply(x[0].astype(dtype)).dtype == kept


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: temperature(x, -0.5), ValueError, r"`temperature` must lie in \[0, ∞\); got -0.5"),
        (lambda x: temperature(x, np.nan), ValueError, "must lie in"),
        (lambda x: temperature(x, "warm"), TypeError, "`temperature` must be a number or an array"),
        (lambda x: temperature(x, jnp.ones(3)), ValueError, r"one for each distribution, \(2,\); got \(3,\)"),
        (lambda x: top_k(x, 0), ValueError, "`top_k` must be at least 1"),
        (lambda x: top_k(x, 1.5), TypeError, "`top_k` must be a positive integer"),
        (lambda x: top_p(x, 0.0), ValueError, r"`top_p` must lie in \(0, 1\]; got 0.0"),
        (lambda x: top_p(x, 1.1), ValueError, "`top_p` must lie in"),
        (lambda x: top_p(x, jnp.array([0.5, 1.5])), ValueError, "`top_p` must lie in"),
        (lambda x: repetition_penalty(x, x > 0, 0.0), ValueError, r"`repetition_penalty` must lie in \(0, ∞\)"),
        (lambda x: repetition_penalty(x, x[0] > 0, 2.0), ValueError, r"`seen` must be booleans \(2, 4\)"),
        (lambda x: repetition_penalty(x, x, 2.0), ValueError, "`seen` must be booleans"),
        (lambda x: top_k(x.astype(int), 2), TypeError, "`logits` must be a floating-point array"),
        (lambda x: top_k(jnp.float32(3), 2), ValueError, "`logits` must be .* with V ≥ 1"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(jnp.ones((2, 4)))
