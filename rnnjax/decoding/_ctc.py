"""Connectionist temporal classification: from logits of frames to labels."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from .._errors import describe, is_array
from .._types import Array
from .._unroll.check import check_lengths
from .._unroll.lift import lengths_to_mask
from ._step import at, check_token, log_normaliser, possible


class Labels(NamedTuple):
    """What `ctc_greedy` returns.

    tokens: labels (*B, T), `pad` after the end.
    lengths: labels of each row, (*B).
    log_probs: log-probability of the path through the frames that they were read from, (*B).
    last: the id on the path at the last valid frame, (*B): the `previous` of the next piece of a stream.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    last: Array


def ctc_greedy(
    logits: Array,
    lengths: Array | None = None,
    *,
    previous: Array | None = None,
    blank: int = 0,
    pad: int | None = None,
) -> Labels:
    """The labels of the most probable path: repeats merged, then blanks left out.

    Args:
        logits: unnormalised log-probabilities (T, *B, V).
        lengths: valid frames of each row, integers (*B) in 0…T; None is all.
        previous: where the frames continue a stream, `last` of the piece before, so that the pieces together read as
            the whole does.
        blank: the id that stands for no label.
        pad: what fills `tokens` after the end; None is the blank, which is no label.

    Returns:
        a `Labels`. A frame without a finite logit holds no label and gives log-probability −∞.

    Raises:
        ValueError, TypeError: for shapes and dtypes that do not fit, and a blank out of range.

    References:
        Graves, Fernández, Gomez, Schmidhuber 2006, Connectionist temporal classification, doi:10.1145/1143844.1143891.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> path = jnp.array([1, 1, 0, 1, 2, 2])
    >>> labels = jax.jit(rj.decoding.ctc_greedy)(5 * jax.nn.one_hot(path, 3))
    >>> labels.tokens.tolist(), int(labels.lengths)
    ([1, 1, 2, 0, 0, 0], 3)
    """
    log_probs, valid = frames(logits, lengths, blank)
    known = log_probs.max(-1) > -jnp.inf
    path = jnp.where(known, jnp.argmax(log_probs, axis=-1), blank).astype(jnp.int32)
    path = jnp.concatenate([_previous(previous, blank, path.shape[1:])[None], path])
    last = at(jnp.moveaxis(path, 0, -1), valid.sum(0, dtype=jnp.int32))
    before, path = path[:-1], path[1:]
    new = valid & (path != blank) & (path != before)
    position = jnp.where(new, jnp.cumsum(new, axis=0, dtype=jnp.int32) - 1, len(path))
    rows = math.prod(path.shape[1:])
    row = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), (len(path), rows))
    flat = jnp.full((rows, len(path)), blank if pad is None else pad, jnp.int32)
    flat = flat.at[row, position.reshape(row.shape)].set(path.reshape(row.shape), mode="drop")
    return Labels(
        tokens=flat.reshape(*path.shape[1:], len(path)),
        lengths=new.sum(0, dtype=jnp.int32),
        log_probs=jnp.where(valid, log_probs.max(-1), 0).sum(0),
        last=last,
    )


def _previous(previous: Array | None, blank: int, batch_shape: tuple[int, ...]) -> Array:
    if previous is None:
        return jnp.full(batch_shape, blank, jnp.int32)
    if not is_array(previous) or not jnp.issubdtype(previous.dtype, jnp.integer) or previous.shape != batch_shape:
        raise ValueError(f"`previous` must be integers (*B) = {batch_shape}; got {describe(previous)}")
    return jnp.asarray(previous).astype(jnp.int32)


def frames(logits: Array, lengths: Array | None, blank: int) -> tuple[Array, Array]:
    """Log-probabilities (T, *B, V), and which frames are valid, (T, *B)."""
    if not is_array(logits) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"`logits` must be a floating-point array (T, *B, V); got {describe(logits)}")
    if logits.ndim < 2 or logits.shape[-1] == 0:
        raise ValueError(f"`logits` must be (T, *B, V) with V ≥ 1; got shape {tuple(logits.shape)}")
    check_token("blank", blank, logits.shape[-1])
    steps, *batch = logits.shape[:-1]
    hint = f"Time comes first in `logits`, {tuple(logits.shape)}: batch-major ones need `swapaxes(0, 1)`"
    check_lengths(lengths, steps, tuple(batch), "logits", hint)
    logits = possible(jnp.asarray(logits))
    valid = jnp.ones(logits.shape[:-1], bool) if lengths is None else lengths_to_mask(jnp.asarray(lengths), steps)
    return logits - log_normaliser(logits), valid
