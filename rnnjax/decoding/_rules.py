"""Which tokens may follow: bans, a least length, no repeated n-grams, and tokens that are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._errors import check_size, describe, is_array, known
from .._types import Array
from ._step import check_token


class Rules(NamedTuple):
    """Rules for the tokens of one call; `prefix` and `history` (*B, P) or None, the other fields are static."""

    end: int | None
    min_length: int
    bans: tuple[int, ...]
    no_repeat: int | None
    prefix: Array | None
    history: Array | None

    def apply(self, logits: Array, tokens: Array, t: Array) -> Array:
        """Logits (…, V) with −∞ for what must not be token t, given the tokens so far, (…, L).

        Axes of the logits that `prefix` and `history` lack lie between their own batch axes and V.
        """
        vocabulary = logits.shape[-1]
        banned = np.zeros(vocabulary, bool)
        banned[list(self.bans)] = True
        result = jnp.where(_spread(jnp.asarray(banned), logits), -jnp.inf, logits) if self.bans else logits
        if self.min_length:
            early = jnp.asarray(np.arange(vocabulary) == self.end) & (t < self.min_length)
            result = jnp.where(_spread(early, logits), -jnp.inf, result)
        if self.no_repeat is not None:
            known, count = self._known(tokens, t)
            if self.no_repeat <= known.shape[-1]:
                result = jnp.where(repeating(known, count, self.no_repeat, vocabulary), -jnp.inf, result)
        return result if self.prefix is None else self._force(result, logits, t)

    def _known(self, tokens: Array, t: Array) -> tuple[Array, Array]:
        """The tokens before the rows' own and these, (…, P + L), and how many of them count."""
        if self.history is None:
            return tokens, t
        steps, lead = self.history.shape[-1], (1,) * (tokens.ndim - self.history.ndim)
        before = self.history.reshape(*self.history.shape[:-1], *lead, steps)
        before = jnp.broadcast_to(before, (*tokens.shape[:-1], steps))
        return jnp.concatenate([before, tokens], axis=-1), t + steps

    def _force(self, result: Array, logits: Array, t: Array) -> Array:
        steps = self.prefix.shape[-1]
        given = jnp.where(t < steps, self.prefix[..., jnp.minimum(t, steps - 1)], -1)
        given = given.reshape(*given.shape, *(1,) * (logits.ndim - given.ndim))
        others = jnp.arange(logits.shape[-1], dtype=given.dtype).reshape(*(1,) * (logits.ndim - 1), -1) != given
        return jnp.where(given < 0, result, jnp.where(others, -jnp.inf, logits))


def rules(
    vocabulary: int,
    length: int,
    batch_shape: tuple[int, ...],
    end: int | None,
    min_length: int,
    bans: Sequence[int],
    no_repeat: int | None,
    prefix: Array | None,
    history: Array | None,
    penalised: bool = False,
) -> Rules:
    """Rules whose fields are checked. penalised: whether a repetition penalty counts `history` too."""
    check_size("length", length)
    if end is not None:
        check_token("end", end, vocabulary)
    if min_length != 0:
        check_size("min_length", min_length)
    if min_length and end is None:
        raise ValueError(f"`min_length` = {min_length} says how early `end` may come; give an `end`, or leave it out")
    if not isinstance(bans, Sequence):
        raise TypeError(f"`bans` must be a tuple of token ids; got {describe(bans)}")
    for token in bans:
        check_token("bans", token, vocabulary)
    if no_repeat is not None:
        check_size("no_repeat", no_repeat)
    if prefix is not None:
        prefix = _prefix(prefix, vocabulary, length, batch_shape)
    if history is not None:
        history = _history(history, batch_shape, penalised or no_repeat is not None)
    return Rules(end, min_length, tuple(bans), no_repeat, prefix, history)


def _history(history: Any, batch_shape: tuple[int, ...], counts: bool) -> Array:
    """Tokens before the rows' own, int32 (*B, P), those that are none first, so that nothing parts the others."""
    integers = is_array(history) and jnp.issubdtype(history.dtype, jnp.integer)
    if not integers or history.ndim == 0 or tuple(history.shape[:-1]) != batch_shape:
        raise ValueError(f"`history` must be integers (*B, P) with *B = {batch_shape}; got {describe(history)}")
    if not counts:
        raise ValueError("`history` is for `no_repeat` and the `repetition_penalty` of `sample`; give one of them")
    history = jnp.asarray(history).astype(jnp.int32)
    return jnp.take_along_axis(history, jnp.argsort(history >= 0, axis=-1, stable=True), axis=-1)


def _prefix(prefix: Any, vocabulary: int, length: int, batch_shape: tuple[int, ...]) -> Array | None:
    if not is_array(prefix) or not jnp.issubdtype(prefix.dtype, jnp.integer):
        raise TypeError(f"`prefix` must be integers (*B, P), negative where a token is free; got {describe(prefix)}")
    if tuple(prefix.shape[:-1]) != batch_shape or prefix.ndim == 0 or prefix.shape[-1] > length:
        raise ValueError(
            f"`prefix` must be (*B, P) with *B = {batch_shape} and P at most `length` = {length}; got shape "
            f"{tuple(prefix.shape)}"
        )
    concrete = known(prefix)
    if concrete is not None and concrete.size and concrete.max() >= vocabulary:
        raise ValueError(f"`prefix` must hold tokens up to V − 1 = {vocabulary - 1}; got {concrete.max()}")
    return jnp.asarray(prefix).astype(jnp.int32) if prefix.shape[-1] else None


def repeating(history: Array, t: Array, n: int, vocabulary: int) -> Array:
    """True for the tokens that would complete, as token t, an n-gram which history (…, L) holds before it, (…, V)."""
    windows = history.shape[-1] - n + 1
    found = jnp.broadcast_to(jnp.arange(windows, dtype=jnp.int32) + n - 1 < t, (*history.shape[:-1], windows))
    for j in range(n - 1):
        latest = jnp.take(history, jnp.maximum(t - (n - 1) + j, 0), axis=-1)[..., None]
        found &= history[..., j : j + windows] == latest
    last = history[..., n - 1 :]
    follows = jnp.where(found & (last >= 0), last, vocabulary)
    rows = math.prod(history.shape[:-1])
    row = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[:, None], (rows, windows))
    seen = jnp.zeros((rows, vocabulary), bool).at[row, follows.reshape(rows, windows)].set(True, mode="drop")
    return seen.reshape(*history.shape[:-1], vocabulary)


def _spread(flags: Array, logits: Array) -> Array:
    return jnp.broadcast_to(flags, logits.shape)
