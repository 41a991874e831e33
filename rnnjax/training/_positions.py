"""Which positions of a batch count: the checks and masks that losses and metrics share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._errors import describe, is_array
from .._types import Array, wide
from .totals import Mean


def floating(name: str, value: Any) -> Array:
    """`value` in at least float32; TypeError unless it is a floating-point array with a last axis."""
    if not is_array(value) or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"`{name}` must be a floating-point array (…, O); got {describe(value)}")
    if value.ndim == 0:
        raise ValueError(f"`{name}` must be (…, O), with a last axis of features; got a scalar")
    return wide(value)


def like(name: str, value: Any, other: Array, other_name: str) -> Array:
    """`value` in the dtype of `other`; ValueError unless it has the same shape."""
    if not is_array(value):
        raise TypeError(f"`{name}` must be an array of shape {other.shape}, that of `{other_name}`; got {value!r}")
    if value.shape != other.shape:
        raise ValueError(f"`{name}` must have the shape of `{other_name}`, {other.shape}; got {value.shape}")
    return jnp.asarray(value).astype(other.dtype)


def soft(name: str, labels: Any, logits: Array, what: str = "probabilities") -> Array:
    """Labels that are numbers (…, K) for logits (…, K); TypeError for classes that are not integers."""
    if is_array(labels) and labels.shape == logits.shape[:-1]:
        raise TypeError(
            f"`{name}` must be classes, integers {labels.shape}, or {what} {logits.shape}; got {describe(labels)}: "
            "cast classes with `.astype(int)`"
        )
    return like(name, labels, logits, "logits")


def labelled(labels: Array, weight: Array | None) -> Array:
    """The weight of every position, 0 where its numbers (…, K) are all zero, as `jax.nn.one_hot` writes a class to
    ignore."""
    given = (labels != 0).any(-1).astype(labels.dtype)
    return given if weight is None else weight * given


def classes(name: str, labels: Any, logits: Array, valid: Array | None) -> Array:
    """Integer labels (…) for logits (…, K); labels at invalid positions become 0."""
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"`{name}` must be integers {logits.shape[:-1]} for `logits` {logits.shape}; got {describe(labels)}"
        )
    check_classes(name, labels, logits.shape, valid)
    labels = jnp.asarray(labels).astype(jnp.int32)
    return labels if valid is None else jnp.where(valid != 0, labels, 0)


def check_several(shape: tuple[int, ...], instead: str) -> None:
    """Raises for logits (…, 1), of a single class: there is nothing to learn or to guess."""
    if shape[-1:] == (1,):
        raise ValueError(
            f"`logits` {shape} are of a single class, whose probability is always 1: for one yes or no take "
            f"`{instead}`, or two logits"
        )


def check_classes(name: str, labels: Any, shape: tuple[int, ...], valid: Any) -> None:
    """Raises for concrete labels at valid positions that are no class of logits of that shape (…, K)."""
    found = _seen(labels, valid)
    if found is not None and (found.min() < 0 or found.max() >= shape[-1]):
        raise ValueError(
            f"`{name}` must lie in 0 … {shape[-1] - 1}, the classes of `logits` {shape}; got values from "
            f"{found.min()} to {found.max()}: mask what is padding"
        )


def check_shares(name: str, values: Any, valid: Array | None) -> None:
    """Raises for concrete values at valid positions that do not lie in [0, 1]."""
    found = _seen(values, valid)
    if found is not None and not (found.min() >= 0 and found.max() <= 1):
        raise ValueError(
            f"`{name}` must be 0 and 1, or probabilities between them; got values from {found.min()} to {found.max()}"
        )


def check_single(name: str, values: Any, valid: Array | None) -> None:
    """Raises for concrete answers (…, K) of which several at a valid position are yes: they are no single class."""
    found = _seen(values, valid)
    if found is None:
        return
    tied = (found == found.max(-1, keepdims=True)).sum(-1) > 1
    several = (found[tied].astype(np.float64).sum(-1) > 1.02).sum()  # else they are as likely classes
    if several and found.min() >= 0 and found.max() <= 1:
        raise ValueError(
            f"`{name}` must name one class a position; {several} of {tied.size} name several, as answers to "
            "yes-or-no questions do: take `binary_accuracy` or `binary_f1`, which read log odds"
        )


def check_probabilities(name: str, values: Any, valid: Array | None) -> None:
    """Raises for concrete values (…, K) at valid positions that are not the probabilities of K classes."""
    check_shares(name, values, valid)
    found = _seen(values, valid)
    if found is None:
        return
    sums = found.astype(np.float64).sum(-1)
    off = np.where(sums == 0, 0, np.abs(sums - 1))  # a class to ignore
    if off.max() > 0.02:  # what bfloat16 makes of many probabilities
        raise ValueError(
            f"`{name}` must be probabilities that sum to 1 over the last axis; got a sum of {sums.flat[off.argmax()]}"
        )


def _seen(values: Any, valid: Array | None) -> np.ndarray | None:
    """The values at valid positions, which lead their axes; None of traced ones and of none."""
    if isinstance(values, Tracer) or isinstance(valid, Tracer):
        return None
    found = np.asarray(values) if valid is None else np.asarray(values)[np.asarray(valid) != 0]
    return found if found.size else None


def weights(
    shape: tuple[int, ...], mask: Array | None, lengths: Array | None, time_major: bool, dtype: Any
) -> Array | None:
    """The weight of every position, 0 where it does not count, or None where all count the same.

    `shape` is that of the positions: (B), or (T, B, …) with `time_major`, else (B, T, …). A mask is of that shape, one
    of steps, without what follows (T, B) or (B, T), or one of rows, (B).
    """
    weight = None
    batch_axis = 1 if time_major and len(shape) > 1 else 0
    if mask is not None:
        mask = jnp.asarray(mask)
        rows = shape[batch_axis : batch_axis + 1]
        if mask.shape not in (shape, shape[:2], rows):
            wanted = f"{shape}" + f", {shape[:2]} for whole steps" * (len(shape) > 2)
            wanted += f", or {rows} for whole rows" * (len(shape) > 1)
            raise ValueError(f"`mask` must be {wanted}; got {mask.shape}")
        found = _seen(mask, None)
        if found is not None and found.min() < 0:
            raise ValueError(f"`mask` must hold no negative weight; got {found.min()}")
        weight = mask.astype(dtype)
        if mask.shape != shape:
            own = (0, 1) if mask.ndim == 2 else (batch_axis,)
            others = tuple(axis for axis in range(len(shape)) if axis not in own)
            weight = jnp.broadcast_to(jnp.expand_dims(weight, others), shape)
    if lengths is not None:
        inside = within(shape, lengths, time_major).astype(dtype)
        weight = inside if weight is None else weight * inside
    return weight


def within(shape: tuple[int, ...], lengths: Array, time_major: bool) -> Array:
    """True at the valid steps of positions of that shape; ValueError unless they have a time axis."""
    lengths = jnp.asarray(lengths)
    if len(shape) < 2:
        raise ValueError(f"`lengths` need a time axis: positions must lead with (T, B) or (B, T); got {shape}")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers; got {describe(lengths)}")
    time, batch = (0, 1) if time_major else (1, 0)
    if lengths.shape != (shape[batch],):
        raise ValueError(
            f"`lengths` must be (B) = ({shape[batch]},), one for each row of {shape}; got {lengths.shape}. "
            f"Time is taken as axis {time}: pass `time_major={not time_major}` if it is the other one"
        )
    check_lengths(lengths, shape[time])
    steps = jax.lax.broadcasted_iota(jnp.int32, shape, time)
    others = tuple(axis for axis in range(len(shape)) if axis != batch)
    return steps < jnp.broadcast_to(jnp.expand_dims(lengths.astype(jnp.int32), others), shape)


def check_lengths(lengths: Any, steps: int) -> None:
    """Raises for concrete lengths that are negative or longer than that."""
    found = _seen(lengths, None)
    if found is not None and (found.min() < 0 or found.max() > steps):
        raise ValueError(
            f"`lengths` must lie in 0 … {steps}, the steps that there are; got values from {found.min()} to "
            f"{found.max()}"
        )


def mean(loss: Callable[..., Array], weight: Array | None, *arrays: Array) -> Mean:
    """The weighted mean of `loss`, which maps arrays to one number a position. Positions of weight 0 are not read."""
    if weight is None:
        values = loss(*arrays)
        return Mean(values.sum(), jnp.full((), values.size, values.dtype))
    values = loss(*(blank(array, weight) for array in arrays))
    return Mean((jnp.where(weight != 0, values, 0) * weight).sum(), weight.sum())


def blank(array: Array, weight: Array) -> Array:
    """The array with zeros at positions of weight 0."""
    keep = jnp.expand_dims(weight != 0, tuple(range(weight.ndim, array.ndim)))
    return jnp.where(jnp.broadcast_to(keep, array.shape), array, jnp.zeros_like(array))
