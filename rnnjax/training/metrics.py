"""Metrics over rows or steps, with masks: totals that add up over batches. Arguments are those of `losses`."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from .._errors import is_array
from .._types import Array
from . import _positions
from .losses import cross_entropy
from .totals import F1, Bits, MacroAccuracy, Mean, Perplexity


def accuracy(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Mean:
    """The share of positions whose largest logit is that of the label, or of the likeliest label.

    Args:
        logits: (…, K), floating point, of two classes or more.
        labels: classes 0 … K−1, integers (…), or numbers (…, K), of which the largest is the label; where all are zero
            there is none, and the position does not count. Answers (…, K) of which several are yes are for
            `binary_accuracy` and `binary_f1`.
        mask, lengths, time_major: what counts, as for `cross_entropy`.

    Returns:
        a `Mean` over the positions that count.

    Raises:
        ValueError: for shapes that do not fit, for logits of a single class, and for concrete labels that are no class
            or several, lengths beyond the steps and negative weights.
        TypeError: for logits that are not floating point, labels that are no array, and classes or lengths that are no
            integers.
    """
    logits, labels, weight = _checked(logits, labels, mask, lengths, time_major)

    def hit(logits: Array, labels: Array) -> Array:
        return (_guesses(logits) == labels).astype(logits.dtype)

    return _positions.mean(hit, weight, logits, labels)


def binary_accuracy(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Mean:
    """The share of yes-or-no questions whose log odds are positive where the label is above ½, and only there.

    Args:
        logits: log odds (…, O), floating point.
        labels: 0 and 1, booleans, or probabilities, (…, O).
        mask, lengths, time_major: what counts, as for `cross_entropy`.

    Returns:
        a `Mean` over the positions that count, of each the share of its O questions.

    Raises:
        ValueError: for shapes that do not fit, and for concrete labels outside [0, 1], lengths beyond the steps and
            negative weights.
        TypeError: for logits that are not floating point, labels that are no array, and lengths that are not integers.
    """
    logits, labels, weight = _answered(logits, labels, mask, lengths, time_major)

    def hit(logits: Array, labels: Array) -> Array:
        return ((logits > 0) == (labels > 0.5)).astype(logits.dtype).mean(-1)

    return _positions.mean(hit, weight, logits, labels)


def macro_accuracy(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> MacroAccuracy:
    """The accuracy of each class, averaged over the classes that occur: a frequent class counts no more than others.

    Args:
        logits, labels, mask, lengths, time_major: as for `accuracy`.

    Returns:
        a `MacroAccuracy`, hits and counts (K).

    Raises:
        ValueError, TypeError: as for `accuracy`.
    """
    hits, _, actual = _by_class(logits, labels, mask, lengths, time_major)
    return MacroAccuracy(hits, actual)


def f1(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
    average: Literal["macro", "micro", "binary"] = "macro",
) -> F1:
    """The harmonic mean of precision and recall: of each class, averaged (`macro`), of all together (`micro`), or of
    class 1 (`binary`).

    Args:
        logits, labels, mask, lengths, time_major: as for `accuracy`.
        average: "macro" for the mean over the classes that were predicted or occurred, "micro" or "binary".

    Returns:
        an `F1`, hits, predictions and labels (K).

    Raises:
        ValueError: for another `average`, for "binary" of a single class, and as for `accuracy`.
        TypeError: as for `accuracy`.
    """
    if average not in ("macro", "micro", "binary"):
        raise ValueError(f'`average` must be "macro", "micro" or "binary"; got {average!r}')
    if average == "binary" and logits.shape[-1] < 2:
        raise ValueError(f'`average="binary"` is the F1 of class 1; got {logits.shape[-1]} class')
    return F1(*_by_class(logits, labels, mask, lengths, time_major), average=average)


def binary_f1(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> F1:
    """The harmonic mean of precision and recall of the answer yes to all questions of all positions together, where
    positive log odds are a yes, and so is a label above ½.

    Args:
        logits, labels, mask, lengths, time_major: as for `binary_accuracy`.

    Returns:
        an `F1`, hits, predictions and labels (O) of every question, of which the value is that of the sums.

    Raises:
        ValueError, TypeError: as for `binary_accuracy`.
    """
    logits, labels, weight = _answered(logits, labels, mask, lengths, time_major)
    weight = jnp.ones(logits.shape[:-1], logits.dtype) if weight is None else weight
    guesses, answers = logits > 0, labels > 0.5

    def count(chosen: Array) -> Array:
        return weight.reshape(-1) @ chosen.reshape(-1, chosen.shape[-1]).astype(weight.dtype)

    return F1(count(guesses & answers), count(guesses), count(answers), average="micro")


def perplexity(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Perplexity:
    """e to the cross-entropy.

    Args:
        logits, labels, mask, lengths, time_major: as for `cross_entropy`.

    Returns:
        a `Perplexity` over the positions that count.

    Raises:
        ValueError, TypeError: as for `cross_entropy`.
    """
    mean = cross_entropy(logits, labels, mask=mask, lengths=lengths, time_major=time_major)
    return Perplexity(mean.total, mean.count)


def bits_per_character(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Bits:
    """The cross-entropy in bits.

    Args:
        logits, labels, mask, lengths, time_major: as for `cross_entropy`, with a character at each position.

    Returns:
        a `Bits` over the positions that count.

    Raises:
        ValueError, TypeError: as for `cross_entropy`.
    """
    mean = cross_entropy(logits, labels, mask=mask, lengths=lengths, time_major=time_major)
    return Bits(mean.total, mean.count)


def _checked(
    logits: Array, labels: Array, mask: Array | None, lengths: Array | None, time_major: bool
) -> tuple[Array, Array, Array | None]:
    """Logits, integer labels and weights."""
    logits = _positions.floating("logits", logits)
    _positions.check_several(logits.shape, "binary_accuracy")
    weight = _positions.weights(logits.shape[:-1], mask, lengths, time_major, logits.dtype)
    if not (is_array(labels) and jnp.issubdtype(labels.dtype, jnp.integer)):
        labels = _positions.soft("labels", labels, logits, "numbers")
        _positions.check_single("labels", labels, weight)
        weight = _positions.labelled(labels, weight)
        labels = _guesses(labels)
    return logits, _positions.classes("labels", labels, logits, weight), weight


def _answered(
    logits: Array, labels: Array, mask: Array | None, lengths: Array | None, time_major: bool
) -> tuple[Array, Array, Array | None]:
    """Log odds, answers in [0, 1] and weights."""
    logits = _positions.floating("logits", logits)
    labels = _positions.like("labels", labels, logits, "logits")
    weight = _positions.weights(logits.shape[:-1], mask, lengths, time_major, logits.dtype)
    _positions.check_shares("labels", labels, weight)
    return logits, labels, weight


def _guesses(logits: Array) -> Array:
    return jax.lax.argmax(logits, logits.ndim - 1, jnp.int32)


def _by_class(
    logits: Array, labels: Array, mask: Array | None, lengths: Array | None, time_major: bool
) -> tuple[Array, Array, Array]:
    """Hits, predictions and labels of every class, (K) each."""
    logits, labels, weight = _checked(logits, labels, mask, lengths, time_major)
    guesses = _guesses(logits)
    weight = jnp.ones(labels.shape, logits.dtype) if weight is None else weight

    def count(values: Array, weight: Array) -> Array:
        one_hot = jax.nn.one_hot(values.reshape(-1), logits.shape[-1], dtype=weight.dtype)
        return weight.reshape(-1) @ one_hot

    return (
        count(labels, weight * (guesses == labels).astype(weight.dtype)),
        count(guesses, weight),
        count(labels, weight),
    )
