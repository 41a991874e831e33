"""One continuation a row: drawn, or the most probable token at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._errors import describe, is_array, raw_key_shape
from .._types import Array, Key
from .._unroll.lift import where
from . import filters
from ._rules import Rules, rules
from ._step import Step, at, check_carry, log_normaliser, possible, settle, start_tokens

Choice = Callable[[Array, Array, Any], Array]  # (logits (*B, V), t, seen (*B, V) or None) -> tokens (*B)


class Decoded(NamedTuple):
    """What `greedy` and `sample` return.

    tokens: integers (*B, L), `pad` after the end.
    lengths: tokens of each row, the end token among them, (*B).
    log_probs: log-probability of those tokens under the model, without filters, temperature and rules, (*B). −∞ for a
        row that ended because no token was possible.
    carry: what the step returned last for each row. It has read all tokens but the last: with that one as `start` the
        row goes on.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    carry: Any


class _Rows(NamedTuple):
    t: Array
    token: Array
    carry: Any
    tokens: Array
    lengths: Array
    log_probs: Array
    ended: Array
    seen: Array | None


def greedy(
    step: Step,
    carry: Any,
    start: Array,
    length: int,
    *,
    end: int | None = None,
    min_length: int = 0,
    bans: Sequence[int] = (),
    no_repeat: int | None = None,
    history: Array | None = None,
    prefix: Array | None = None,
    pad: int = 0,
) -> Decoded:
    """Takes the most probable token at each step; among equal ones that with the lowest id.

    Args:
        step, carry, start, length, end, min_length, bans, no_repeat, history, prefix, pad: as for `sample`.

    Returns:
        a `Decoded`, as of `sample`.

    Raises:
        ValueError, TypeError: as for `sample`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> count = lambda carry, tokens: (jax.nn.one_hot(tokens + 1, 5), carry)
    >>> rj.decoding.greedy(count, (), jnp.array([1, 3]), length=4, end=4).tokens.tolist()
    [[2, 3, 4, 0], [4, 0, 0, 0]]
    """

    start = start_tokens(start)

    def choose(logits: Array, t: Array, seen: Array | None) -> Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def make(vocabulary: int) -> Rules:
        return rules(vocabulary, length, start.shape, end, min_length, bans, no_repeat, prefix, history)

    return _decode(step, carry, start, length, make, choose, pad)


def sample(
    step: Step,
    carry: Any,
    start: Array,
    length: int,
    key: Key,
    *,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array | None = None,
    repetition_penalty: float | Array | None = None,
    history: Array | None = None,
    end: int | None = None,
    min_length: int = 0,
    bans: Sequence[int] = (),
    no_repeat: int | None = None,
    prefix: Array | None = None,
    pad: int = 0,
) -> Decoded:
    """Draws one continuation a row, token by token, until all rows have ended.

    Rules come first, then the repetition penalty, temperature, `top_k` and `top_p`, and then the draw. A row's draws
    depend on its own key alone, not on the other rows. Inside `jax.jit`; without, every call compiles anew.

    Args:
        step: `step(carry, tokens) -> (logits, carry)` with tokens (*B), logits (*B, V): `next_token` makes one.
        carry: its carry before the first token, a pytree whose leaves lead with *B.
        start: the tokens read first, integers (*B); they are no part of the result.
        length: L, the most tokens that a row may have.
        key: one key, typed or raw, from which row i, counted through all batch axes, gets `fold_in(key, i)`; or one a
            row, (*B).
        temperature: τ ≥ 0; 0 draws among the most probable tokens alone.
        top_k: draw from so many most probable tokens.
        top_p: draw from the fewest most probable tokens with at least this probability, in (0, 1].
        repetition_penalty: what the logits of tokens that the row has already are divided by where positive, and
            multiplied by where negative.
        history: tokens before the row's own, such as those of a prompt with `start`, integers (*B, P), negative for
            none. `repetition_penalty` and `no_repeat` count them too; `start` alone they do not.
        end: the token behind which a row has ended; None lets all rows run to `length`.
        min_length: tokens that a row must have before `end` may come.
        bans: tokens that never come.
        no_repeat: n, so that no n tokens in a row come twice.
        prefix: tokens that are given, integers (*B, P), and negative where the choice is free. They come before all
            other rules.
        pad: what fills `tokens` after the end.

    Returns:
        a `Decoded`. A token whose logit is not finite is never taken, and a row in which no token is possible ends
        there, with log-probability −∞.

    Raises:
        ValueError: for a carry or logits of other batch axes, for `end`, `bans`, `top_k`, `top_p`, `temperature` or
            `length` out of range, and for a `history` that nothing counts.
        TypeError: for tokens that are no integers, or something that is no key.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Stack([rj.Embedding(7, 4), rj.GRU(5), rj.Dense(7)])
    >>> @jax.jit
    ... def draw(params, start, key):
    ...     step = rj.decoding.next_token(layer, params)
    ...     return rj.decoding.sample(step, step.initial_state(start.shape), start, 6, key, top_p=0.9, end=2)
    >>> drawn = draw(layer.init(jax.random.key(0), 7), jnp.array([0, 0, 3]), jax.random.key(1))
    >>> drawn.tokens.shape, drawn.lengths.shape
    ((3, 6), (3,))
    """
    start = start_tokens(start)
    keys = row_keys(key, start.shape)
    penalised = repetition_penalty is not None

    def choose(logits: Array, t: Array, seen: Array | None) -> Array:
        if seen is not None:
            logits = filters.repetition_penalty(logits, seen, repetition_penalty)
        logits = filters.temperature(logits, temperature)
        if top_k is not None:
            logits = filters.top_k(logits, top_k)
        if top_p is not None:
            logits = filters.top_p(logits, top_p)
        return _draw(keys, t, logits)

    def make(vocabulary: int) -> Rules:
        return rules(vocabulary, length, start.shape, end, min_length, bans, no_repeat, prefix, history, penalised)

    return _decode(step, carry, start, length, make, choose, pad, remember=penalised)


def _decode(
    step: Step,
    carry: Any,
    start: Array,
    length: int,
    make_rules: Callable[[int], Rules],
    choose: Choice,
    pad: int,
    remember: bool = False,
) -> Decoded:
    batch_shape = start.shape
    check_carry(carry, batch_shape)
    carry, vocabulary, dtype = settle(step, jax.tree.map(jnp.asarray, carry), start)
    rule = make_rules(vocabulary)
    ids = jnp.arange(vocabulary, dtype=jnp.int32).reshape(*(1,) * len(batch_shape), vocabulary)
    seen = jnp.zeros((*batch_shape, vocabulary), bool) if remember else None
    if remember and rule.history is not None:
        seen = (rule.history[..., None] == ids[..., None, :]).any(-2)

    def body(rows: _Rows) -> _Rows:
        logits, carry = step(rows.carry, rows.token)
        logits = possible(logits)
        allowed = rule.apply(logits, rows.tokens, rows.t)
        token = choose(allowed, rows.t, rows.seen)
        stuck = ~rows.ended & (at(allowed, token) == -jnp.inf)
        active = ~rows.ended & ~stuck
        gain = jnp.where(active, at(logits - log_normaliser(logits), token), 0)
        return _Rows(
            t=rows.t + 1,
            token=jnp.where(active, token, rows.token),
            carry=where(active, carry, rows.carry),
            tokens=rows.tokens.at[..., rows.t].set(jnp.where(active, token, pad)),
            lengths=rows.lengths + active.astype(jnp.int32),
            log_probs=jnp.where(stuck, -jnp.inf, rows.log_probs + gain),
            ended=rows.ended | stuck if rule.end is None else rows.ended | stuck | (token == rule.end),
            seen=None if rows.seen is None else rows.seen | ((ids == token[..., None]) & active[..., None]),
        )

    first = _Rows(
        t=jnp.zeros((), jnp.int32),
        token=start,
        carry=carry,
        tokens=jnp.full((*batch_shape, length), pad, jnp.int32),
        lengths=jnp.zeros(batch_shape, jnp.int32),
        log_probs=jnp.zeros(batch_shape, dtype),
        ended=jnp.zeros(batch_shape, bool),
        seen=seen,
    )
    last = lax.while_loop(lambda rows: (rows.t < length) & ~rows.ended.all(), body, first)
    return Decoded(last.tokens, last.lengths, last.log_probs, last.carry)


def row_keys(key: Any, batch_shape: tuple[int, ...]) -> Key:
    """One key a row, (*B)."""
    if is_array(key) and key.dtype == jnp.uint32 and key.shape[-1:] == raw_key_shape():
        key = jax.random.wrap_key_data(jnp.asarray(key))
    if not is_array(key) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"`key` must be a JAX random key, or one a row; got {describe(key)}: `jax.random.key(0)` is one"
        )
    if key.shape == batch_shape:
        return key
    if key.shape != ():
        raise ValueError(f"`key` must be one key or one a row, *B = {batch_shape}; got keys of shape {key.shape}")
    rows = jnp.arange(math.prod(batch_shape), dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows).reshape(batch_shape)


def _draw(keys: Key, t: Array, logits: Array) -> Array:
    def row(key: Key, logits: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, t), logits).astype(jnp.int32)

    return jax.vmap(row)(keys.reshape(-1), logits.reshape(keys.size, logits.shape[-1])).reshape(keys.shape)
