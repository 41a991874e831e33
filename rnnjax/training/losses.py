"""Losses over rows or steps, with masks: each returns a total whose `value` is the loss.

Logits and predictions are (B, O), or (T, B, O), or with `time_major=False` (B, T, O); positions are all axes but the
last, of which there may be more, as in video (T, B, H, W, O). A mask, weights or lengths choose what counts; the other
positions are never read, so that NaN there is harmless. All is computed in at least float32. The value over no position
at all is 0, and so is its gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from .._errors import check_positive, check_unit_interval, describe, is_array
from .._types import Array
from . import _ctc, _positions
from .totals import CTCMean, Mean


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
    label_smoothing: float | Array = 0.0,
) -> Mean:
    """Softmax cross-entropy in nats, −Σ_k p_k log softmax(logits)_k.

    A class that a logit of −∞ rules out adds nothing where its label is 0. Where it has a share of the label, one of
    `label_smoothing` too, the loss is ∞.

    Args:
        logits: unnormalised log probabilities (…, K) of two classes or more.
        labels: classes 0 … K−1, integers (…), or probabilities (…, K), of which a position that has none does not
            count: `jax.nn.one_hot` writes a class to ignore so.
        mask: True at the positions that count, or their weights: (…), one a step, (T, B), or one a row, (B).
        lengths: valid steps of each row, integers (B). All positions of a step count, or none.
        time_major: whether time is axis 0, as everywhere in the functional form, or axis 1. Masks of steps are then
            (B, T).
        label_smoothing: the share of each label that is spread evenly over all classes, in [0, 1].

    Returns:
        a `Mean` over the positions that count.

    Raises:
        ValueError, TypeError: for shapes and dtypes that do not fit, for logits of a single class, of which this would
            always be 0, for concrete labels that are no class or no probabilities, for concrete lengths beyond the
            steps and for negative weights.

    >>> import jax.numpy as jnp
    >>> from rnnjax.training import cross_entropy
    >>> loss = cross_entropy(jnp.zeros((3, 2)), jnp.array([0, 1, 9]), mask=jnp.array([True, True, False]))
    >>> print(f"{loss.value:.4f} over {loss.count:.0f} rows")
    0.6931 over 2 rows
    """
    logits = _positions.floating("logits", logits)
    _positions.check_several(logits.shape, "binary_cross_entropy")
    weight = _positions.weights(logits.shape[:-1], mask, lengths, time_major, logits.dtype)
    check_unit_interval("label_smoothing", label_smoothing)
    if is_array(labels) and jnp.issubdtype(labels.dtype, jnp.integer):
        labels = _positions.classes("labels", labels, logits, weight)
        if not is_array(label_smoothing) and label_smoothing == 0:
            return _positions.mean(optax.losses.softmax_cross_entropy_with_integer_labels, weight, logits, labels)
        return _positions.mean(partial(_smoothed_cross_entropy, label_smoothing), weight, logits, labels)
    labels = _positions.soft("labels", labels, logits)
    _positions.check_probabilities("labels", labels, weight)
    weight = _positions.labelled(labels, weight)
    labels = optax.losses.smooth_labels(labels, label_smoothing)
    return _positions.mean(_soft_cross_entropy, weight, logits, labels)


def _smoothed_cross_entropy(smoothing: Any, logits: Array, labels: Array) -> Array:
    """−(1 − ε) log softmax(logits)_label − ε mean_k log softmax(logits)_k, (…), without the K shares of each label."""
    logits = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    own = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    of_label, of_all = _times(1 - smoothing, own), _times(smoothing, logits.mean(-1))
    return jnp.log(jnp.exp(logits).sum(-1)) - of_label - of_all


def _times(share: Any, log_p: Array) -> Array:
    """share · log p, with 0 · log 0 = 0."""
    return share * jnp.where(jnp.isneginf(log_p) & (jnp.asarray(share) == 0), 0, log_p)


def _soft_cross_entropy(logits: Array, labels: Array) -> Array:
    """−Σ_k p_k log softmax(logits)_k, (…), with 0 · log 0 = 0, of which Optax's function makes NaN."""
    return -_times(labels, jax.nn.log_softmax(logits)).sum(-1)


def binary_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Mean:
    """Sigmoid cross-entropy in nats, averaged over the O independent yes-or-no questions of a position.

    Args:
        logits: log odds (…, O).
        labels: 0 and 1, booleans, or probabilities, (…, O).
        mask, lengths, time_major: what counts, as for `cross_entropy`.

    Returns:
        a `Mean` over the positions that count.

    Raises:
        ValueError, TypeError: for shapes and dtypes that do not fit, for concrete labels outside [0, 1], for concrete
            lengths beyond the steps and for negative weights.
    """
    loss = optax.losses.sigmoid_binary_cross_entropy
    return _over_features(loss, "logits", logits, "labels", labels, mask, lengths, time_major, shares=True)


def mean_squared_error(
    predictions: Array,
    targets: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Mean:
    """(prediction − target)², averaged over the O features of a position.

    Args:
        predictions: (…, O), floating point.
        targets: numbers of the same shape.
        mask, lengths, time_major: what counts, as for `cross_entropy`.

    Returns:
        a `Mean` over the positions that count.

    Raises:
        ValueError: for shapes that do not fit, and for concrete lengths beyond the steps and negative weights.
        TypeError: for predictions that are not floating point, targets that are no array, and lengths that are not
            integers.
    """
    loss = optax.losses.squared_error
    return _over_features(loss, "predictions", predictions, "targets", targets, mask, lengths, time_major)


def mean_absolute_error(
    predictions: Array,
    targets: Array,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Mean:
    """|prediction − target|, averaged over the O features of a position.

    Args:
        predictions, targets, mask, lengths, time_major: as for `mean_squared_error`.

    Returns:
        a `Mean` over the positions that count.

    Raises:
        ValueError, TypeError: as for `mean_squared_error`.
    """

    def loss(a: Array, b: Array) -> Array:
        return jnp.abs(a - b)

    return _over_features(loss, "predictions", predictions, "targets", targets, mask, lengths, time_major)


def huber(
    predictions: Array,
    targets: Array,
    *,
    delta: float | Array = 1.0,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
) -> Mean:
    """½ e² up to |e| = δ and δ (|e| − ½ δ) beyond, e = prediction − target, averaged over the O features of a position.

    Args:
        predictions, targets: as for `mean_squared_error`.
        delta: δ > 0, in the unit of the predictions. JAX arrays are not checked, so that it may be traced.
        mask, lengths, time_major: what counts, as for `cross_entropy`.

    Returns:
        a `Mean` over the positions that count.

    Raises:
        ValueError: for a `delta` that is not positive; and as for `mean_squared_error`.
        TypeError: for a `delta` that is no number; and as for `mean_squared_error`.

    References:
        Huber 1964, Robust estimation of a location parameter, doi:10.1214/aoms/1177703732.
    """
    check_positive("delta", delta)

    def loss(a: Array, b: Array) -> Array:
        return optax.losses.huber_loss(a, b, delta=delta)

    return _over_features(loss, "predictions", predictions, "targets", targets, mask, lengths, time_major)


def _over_features(
    loss: Any,
    name: str,
    predictions: Any,
    target_name: str,
    targets: Any,
    mask: Array | None,
    lengths: Array | None,
    time_major: bool,
    shares: bool = False,
) -> Mean:
    predictions = _positions.floating(name, predictions)
    targets = _positions.like(target_name, targets, predictions, name)
    weight = _positions.weights(predictions.shape[:-1], mask, lengths, time_major, predictions.dtype)
    if shares:
        _positions.check_shares(target_name, targets, weight)
    return _positions.mean(lambda a, b: loss(a, b).mean(-1), weight, predictions, targets)


def check_ctc_labels(
    name: str, labels: Any, classes: int, mask: Any, *, label_lengths: Any = None, blank: int = 0, **_: Any
) -> None:
    """Raises ValueError for a blank that is no class, and for concrete labels (B, N) of rows that count, of which some
    are no class, or the blank, or come after a gap. Takes the arguments of `ctc`."""
    if not 0 <= blank < classes:
        raise ValueError(f"`blank` must be one of the classes 0 … {classes - 1} of `logits`; got {blank}")
    if any(isinstance(value, Tracer) for value in (labels, mask, label_lengths)):
        return
    labels = np.asarray(labels)
    if mask is not None:
        labels = labels[np.asarray(mask) != 0]
        label_lengths = None if label_lengths is None else np.asarray(label_lengths)[np.asarray(mask) != 0]
    given = labels >= 0
    if label_lengths is not None:
        given = np.arange(labels.shape[1]) < np.asarray(label_lengths)[:, None]
    elif (given[:, 1:] & ~given[:, :-1]).any():
        row = int((given[:, 1:] & ~given[:, :-1]).any(1).argmax())
        raise ValueError(
            f"`{name}` must be filled up behind the labels of a row, and row {row} has labels after a negative number: "
            f"{labels[row].tolist()}"
        )
    found = labels[given]
    if found.size and (found.min() < 0 or found.max() >= classes or (found == blank).any()):
        raise ValueError(
            f"`{name}` must be classes 0 … {classes - 1} without the blank, {blank}; got values from {found.min()} to "
            f"{found.max()}: fill rows up with -1, or pass `label_lengths`"
        )


def ctc(
    logits: Array,
    labels: Array,
    *,
    label_lengths: Array | None = None,
    mask: Array | None = None,
    lengths: Array | None = None,
    time_major: bool = True,
    blank: int = 0,
) -> CTCMean:
    """Connectionist temporal classification: −log of the probability, over all alignments, of the labels of a row.

    Labels that need more steps than the row has (one each, and one between equal neighbours) have no alignment, and
    neither have those that need a class whose probability is zero: a logit of −∞, or 10⁵ below the largest. A step at
    which all logits are −∞ allows nothing. Such rows are left out of the mean and its gradient and counted in
    `impossible`, instead of a finite number that means nothing.

    Args:
        logits: unnormalised log probabilities (T, B, K), or (B, T, K) without `time_major`.
        labels: classes without the blank, integers (B, N), filled up with negative numbers, or with any after
            `label_lengths`.
        label_lengths: labels of each row, integers (B); None counts those that are not negative.
        mask: True for the rows that count, or their weights, (B).
        lengths: valid steps of each row of the logits, integers (B). `fit` has those of the inputs, and refuses them
            where the model changes T.
        time_major: whether time is axis 0 or axis 1.
        blank: the class that stands for no label.

    Returns:
        a `CTCMean` of nats a row.

    Raises:
        ValueError, TypeError: for shapes and dtypes that do not fit, and for concrete labels that are no class, the
            blank, or not at the front of their row.

    References:
        Graves, Fernández, Gomez, Schmidhuber 2006, Connectionist temporal classification, doi:10.1145/1143844.1143891.
    """
    logits = _positions.floating("logits", logits)
    if logits.ndim != 3:
        raise ValueError(f"`logits` must be (T, B, K), or (B, T, K) without `time_major`; got {logits.shape}")
    logits = jnp.swapaxes(logits, 0, 1) if time_major else logits
    rows, steps, _ = logits.shape
    if not is_array(labels) or labels.ndim != 2 or labels.shape[0] != rows:
        raise ValueError(f"`labels` must be integers (B, N) with B = {rows}; got {describe(labels)}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must be integers (B, N); got {describe(labels)}")
    labels = jnp.asarray(labels)
    check_ctc_labels("labels", labels, logits.shape[-1], mask, label_lengths=label_lengths, blank=blank)
    labels = labels.astype(jnp.int32)
    given = labels >= 0 if label_lengths is None else _positions.within(labels.shape, label_lengths, False)
    inside = jnp.full((rows, steps), True) if lengths is None else _positions.within((rows, steps), lengths, False)
    weight = _positions.weights((rows,), mask, None, False, logits.dtype)
    weight = jnp.ones((rows,), logits.dtype) if weight is None else weight

    counts = weight != 0
    logits = _positions.blank(logits, jnp.where(inside, weight[:, None], 0))
    labels = jnp.where(given & counts[:, None], labels, blank)
    nats = _ctc.nats(logits, labels, given, inside, blank)
    impossible = jnp.isposinf(nats)
    mean = _positions.mean(lambda nats: nats, jnp.where(impossible, 0, weight), nats)
    return CTCMean(mean.total, mean.count, (impossible & counts).sum())
