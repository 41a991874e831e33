"""Which lengths and weights of a batch reach a loss, for outputs of every shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.training import ctc, evaluate

N, T, K = 4, 3, 3
RNG = np.random.default_rng(0)
LENGTHS = np.array([3, 2, 3, 2])
ONE = jnp.float32(1.0)


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def alignments(logits: np.ndarray, labels: list[int]) -> float:
    """−log Σ over all paths (T) that collapse to the labels, of which 0 is the blank."""
    log_p, found = log_softmax(logits), -np.inf
    for path in itertools.product(range(K), repeat=len(logits)):
        if [k for k, _ in itertools.groupby(path) if k] == labels:
            found = np.logaddexp(found, log_p[np.arange(len(logits)), path].sum())
    return -found


def test_ctc_of_a_model_that_halves_the_steps() -> None:
    """Lengths of the inputs are none of the outputs; those may come with the labels."""
    x = RNG.normal(size=(N, 2 * T, K)).astype(np.float32)
    labels, lengths = np.array([[1, 2], [2, -1], [1, -1], [1, 2]]), 2 * LENGTHS

    def halves(params: Any, x: Any, lengths: Any) -> Any:
        return params * x[:, ::2]

    def loss(logits: Any, targets: Any, mask: Any = None) -> Any:
        labels, lengths = targets
        return ctc(logits, labels, lengths=lengths, mask=mask, time_major=False)

    rows = zip(x[:, ::2].astype(np.float64), LENGTHS, labels, strict=True)
    expected = np.mean([alignments(row[:n], [k for k in own if k > 0]) for row, n, own in rows])
    found = evaluate((ONE, halves), (x, (labels, LENGTHS), lengths), loss=loss)["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"ctc needs those of the 3 steps of the outputs: pass them with the labels"):
        evaluate((ONE, halves), (x, labels, lengths), loss="ctc")


def test_as_many_classes_as_steps() -> None:
    """Soft labels (B, K) are a row's, whatever K is; answers (B, O) may be one for each step."""
    x = RNG.normal(size=(N, T, 1)).astype(np.float32)
    labels = RNG.dirichlet(np.ones(T), N).astype(np.float32)

    def row(params: Any, x: Any, lengths: Any) -> Any:
        return params * x[..., 0]

    log_p = log_softmax(x[..., 0].astype(np.float64))
    found = evaluate((ONE, row), (x, labels, LENGTHS), metrics=["accuracy"])
    np.testing.assert_allclose(found["loss"], -(labels * log_p).sum(-1).mean(), rtol=1e-5)
    assert found["accuracy"] == (log_p.argmax(-1) == labels.argmax(-1)).mean()
    with pytest.raises(ValueError, match="takes `lengths`, or that, for features, takes none"):
        evaluate((ONE, row), (x, labels, LENGTHS), loss="binary_cross_entropy")


def test_steps_of_video_count_or_do_not() -> None:
    video, target = RNG.normal(size=(2, N, T, 2, 3, 1)).astype(np.float32)
    weights = RNG.uniform(size=(N, T)).astype(np.float32)

    def same(params: Any, x: Any, lengths: Any = None) -> Any:
        return params * x

    error = ((video - target) ** 2).mean((2, 3, 4))
    inside = np.arange(T) < LENGTHS[:, None]
    for lengths, own, share in (
        (LENGTHS, None, inside),
        (None, weights, weights),
        (LENGTHS, weights, weights * inside),
    ):
        found = evaluate((ONE, same), (video, target, lengths, own), loss="mean_squared_error")["loss"]
        np.testing.assert_allclose(found, (share * error).sum() / share.sum(), rtol=1e-5)
