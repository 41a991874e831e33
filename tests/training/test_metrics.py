"""Metrics against counting in plain Python, also when the data come in parts."""

from __future__ import annotations

import tracemalloc

import jax
import numpy as np
import pytest

from rnnjax import training
from rnnjax.training import _positions

T, B, K = 7, 4, 5
RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(T, B, K))
LABELS = RNG.integers(0, K - 1, (T, B))  # the last class never occurs
LABELS = np.where(RNG.uniform(size=(T, B)) < 0.5, LOGITS.argmax(-1), LABELS)
LABELS[LABELS == K - 1] = 0
LENGTHS = np.array([7, 3, 1, 5])
VALID = np.arange(T)[:, None] < LENGTHS
PAIRS = [
    (int(LABELS[t, b]), int(LOGITS[t, b].argmax())) for t in range(T) for b in range(B) if t < LENGTHS[b]
]  # label, guess


def class_f1(k: int) -> float | None:
    hits = sum(label == guess == k for label, guess in PAIRS)
    guessed, actual = sum(guess == k for _, guess in PAIRS), sum(label == k for label, _ in PAIRS)
    if not guessed and not actual:
        return None
    precision = hits / guessed if guessed else 0.0
    recall = hits / actual if actual else 0.0
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def test_accuracy() -> None:
    expected = np.mean([label == guess for label, guess in PAIRS])
    np.testing.assert_allclose(training.accuracy(LOGITS, LABELS, lengths=LENGTHS).value, expected)
    np.testing.assert_allclose(training.accuracy(LOGITS, np.eye(K)[LABELS], mask=VALID).value, expected)


def test_macro_accuracy_is_the_mean_over_classes_that_occur() -> None:
    present = sorted({label for label, _ in PAIRS})
    expected = np.mean([np.mean([guess == k for label, guess in PAIRS if label == k]) for k in present])
    assert len(present) < K
    np.testing.assert_allclose(training.macro_accuracy(LOGITS, LABELS, lengths=LENGTHS).value, expected, rtol=1e-6)


def test_f1() -> None:
    scores = [class_f1(k) for k in range(K)]
    expected = {
        "macro": np.mean([score for score in scores if score is not None]),
        "micro": np.mean([label == guess for label, guess in PAIRS]),  # of one label a position
        "binary": scores[1],
    }
    for average, value in expected.items():
        total = training.f1(LOGITS, LABELS, lengths=LENGTHS, average=average)  # type: ignore[arg-type]
        np.testing.assert_allclose(total.value, value, rtol=1e-6)
    with pytest.raises(ValueError, match="`average` must be"):
        training.f1(LOGITS, LABELS, average="weighted")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is the F1 of class 1; got 1 class"):
        training.f1(np.zeros((3, 1)), np.zeros(3, int), average="binary")


@pytest.mark.parametrize("name", ["accuracy", "macro_accuracy", "f1", "perplexity"])
def test_labels_are_an_array(name: str) -> None:
    with pytest.raises(TypeError, match="`labels` must be"):
        getattr(training, name)(np.zeros((2, 3)), [0, 1])


@pytest.mark.parametrize("name", ["accuracy", "macro_accuracy", "f1", "perplexity", "bits_per_character"])
def test_a_single_class_is_refused(name: str) -> None:
    """Its logit is always the largest, and says nothing of a yes or no."""
    instead = "binary_cross_entropy" if name in ("perplexity", "bits_per_character") else "binary_accuracy"
    for labels in (np.zeros((4, 1)), np.zeros(4, int)):
        with pytest.raises(ValueError, match=f"a single class, .* take `{instead}`, or two logits"):
            getattr(training, name)(np.zeros((4, 1)), labels)


@pytest.mark.parametrize("name", ["accuracy", "macro_accuracy", "f1", "perplexity", "bits_per_character"])
def test_a_class_to_ignore_does_not_count(name: str) -> None:
    """`jax.nn.one_hot` writes a class that there is not as zeros, whose largest would be class 0."""
    metric = getattr(training, name)
    ignored = jax.nn.one_hot(np.where(VALID, LABELS, -1), K, dtype=float)
    np.testing.assert_allclose(metric(LOGITS, ignored).value, metric(LOGITS, LABELS, lengths=LENGTHS).value, rtol=1e-12)


def test_binary_accuracy() -> None:
    answers = RNG.integers(0, 2, LOGITS.shape).astype(float)
    expected = ((LOGITS > 0) == (answers > 0.5))[VALID].mean()
    np.testing.assert_allclose(training.binary_accuracy(LOGITS, answers, lengths=LENGTHS).value, expected)


def test_binary_f1() -> None:
    """Of all answers to all questions, against scikit-learn, and in two parts."""
    answers = RNG.integers(0, 2, LOGITS.shape)
    metrics = pytest.importorskip("sklearn.metrics")
    expected = metrics.f1_score(answers[VALID], LOGITS[VALID] > 0, average="micro")
    np.testing.assert_allclose(training.binary_f1(LOGITS, answers, lengths=LENGTHS).value, expected, rtol=1e-6)
    first, rest = (training.binary_f1(LOGITS[t], answers[t], mask=VALID[t]) for t in (slice(2), slice(2, T)))
    np.testing.assert_allclose((first + rest).value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["accuracy", "macro_accuracy", "f1"])
def test_several_classes_of_a_position_are_refused(name: str) -> None:
    """But not two that are as likely, nor equal logits of a teacher."""
    metric, logits = getattr(training, name), np.zeros((2, 3))
    for several in ([1.0, 0.0, 1.0], [0.9, 0.9, 0.1]):
        with pytest.raises(ValueError, match="`labels` must name one class a position; 1 of 2 name several"):
            metric(logits, np.array([[0.0, 1.0, 0.0], several]))
        metric(logits, np.array([[0.0, 1.0, 0.0], several]), mask=np.array([True, False]))
    metric(logits, np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))
    metric(logits, np.array([[3.0, 3.0, -1.0], [0.0, 1.0, 0.0]]))


def test_labels_of_one_class_are_checked_without_a_copy() -> None:
    one_hot = np.eye(64, dtype=np.float32)[RNG.integers(0, 64, 4096)]
    tracemalloc.start()
    _positions.check_single("labels", one_hot, None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < one_hot.nbytes / 2


def test_perplexity_and_bits() -> None:
    uniform = np.zeros((T, B, K))
    np.testing.assert_allclose(training.perplexity(uniform, LABELS, lengths=LENGTHS).value, K)
    np.testing.assert_allclose(training.bits_per_character(uniform, LABELS, lengths=LENGTHS).value, np.log2(K))


def test_perplexity_and_bits_of_two_batches() -> None:
    """Of unequal size, so that the mean of two perplexities, or of two means, is another number."""
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_p, LABELS[..., None], -1)[..., 0]
    mean = nats[VALID].mean()
    for name, expected in (("perplexity", np.exp(mean)), ("bits_per_character", mean / np.log(2))):
        metric = getattr(training, name)
        parts = [metric(LOGITS[:, rows], LABELS[:, rows], lengths=LENGTHS[rows]) for rows in (slice(1), slice(1, B))]
        np.testing.assert_allclose((parts[0] + parts[1]).value, expected, rtol=1e-6)
        assert abs((parts[0].value + parts[1].value) / 2 - expected) > 1e-3


@pytest.mark.parametrize("name", ["accuracy", "macro_accuracy", "f1", "perplexity", "bits_per_character"])
def test_parts_add_up(name: str) -> None:
    metric = getattr(training, name)
    first = metric(LOGITS[:, :1], LABELS[:, :1], lengths=LENGTHS[:1])
    rest = metric(LOGITS[:, 1:], LABELS[:, 1:], lengths=LENGTHS[1:])
    whole = metric(LOGITS, LABELS, lengths=LENGTHS)
    np.testing.assert_allclose((first + rest).value, whole.value, rtol=1e-12)
    assert float(whole) == float(whole.value)
