"""Beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._errors import check_size, describe, is_array, known
from .._types import Array
from ._best import best, largest
from ._rules import Rules, rules
from ._step import Step, check_carry, log_normaliser, pick, possible, repeat, settle, start_tokens


class Beams(NamedTuple):
    """The N best hypotheses of each row, best first. Where a row has fewer, scores are −∞ and lengths 0.

    tokens: integers (*B, N, L), `pad` after the end.
    lengths: tokens of each, the end token among them, (*B, N).
    scores: what they are ordered by, (*B, N).
    log_probs: their log-probabilities, (*B, N).
    """

    tokens: Array
    lengths: Array
    scores: Array
    log_probs: Array


class _Search(NamedTuple):
    """K open hypotheses, which go on, and the N best closed ones. `live` is −∞ where there is no hypothesis, and in all
    of a row whose closed ones can no longer be beaten."""

    t: Array
    token: Array
    carry: Any
    history: Array
    live: Array
    penalty: Array
    closed: Beams


class _Task(NamedTuple):
    """What stays the same during a search."""

    step: Step
    rule: Rules
    beams: int
    divisor: Array  # (L): lp of 1 … L tokens
    most: Array  # (L): the largest lp of so many tokens or more
    penalty: Callable[[Any], Array] | None


def beam_search(
    step: Step,
    carry: Any,
    start: Array,
    length: int,
    beams: int,
    *,
    end: int | None = None,
    n_best: int = 1,
    length_penalty: Callable[[Array], Array] | None = None,
    penalty: Callable[[Any], Array] | None = None,
    min_length: int = 0,
    bans: Sequence[int] = (),
    no_repeat: int | None = None,
    history: Array | None = None,
    prefix: Array | None = None,
    pad: int = 0,
) -> Beams:
    """Searches for the sequences of highest score among those that end with `end` or have L tokens.

    score = log P / lp(n) + penalty

    At each step the K best continuations of all open hypotheses are found. Those of them that end are closed, the K
    best that do not end stay open. A row is finished when no open hypothesis can come to a better score than the n_best
    closed ones, for which its log-probability is divided by the largest lp that still lies before it. Hypotheses that
    are open at L tokens compete as they are. Inside `jax.jit`; without, every call compiles anew.

    Args:
        step: `step(carry, tokens) -> (logits, carry)`, called with tokens (*B, K), leaves of the carry (*B, K, …) and
            logits (*B, K, V): `next_token` makes one.
        carry: its carry before the first token, leaves (*B, …).
        start: the tokens read first, integers (*B); they are no part of the result.
        length: L, the most tokens that a hypothesis may have.
        beams: K. With 1 and no penalties this is `greedy`.
        end: the token that closes a hypothesis; with None all have L tokens.
        n_best: N, the hypotheses that are returned for each row, at most K.
        length_penalty: lp, a function of numbers of tokens, such as `GNMT(0.6)` or `PerToken()`; it must be positive.
            None is 1.
        penalty: a function of the carry (leaves (*B, K, …), as the step returns it with the logits of a hypothesis'
            last token) to numbers ≤ 0, (*B, K), such as a `coverage_penalty`. It counts where hypotheses close, not
            among open ones.
        min_length, bans, no_repeat, history, prefix, pad: as for `sample`.

    Returns:
        a `Beams`. A token whose logit is not finite is never taken.

    Raises:
        ValueError, TypeError: as for `sample`; for `n_best` above `beams`, and penalties of the wrong shape.

    References:
        Wu et al. 2016, Google's neural machine translation system, arXiv:1609.08144.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Stack([rj.Embedding(7, 4), rj.LSTM(5), rj.Dense(7)])
    >>> @jax.jit
    ... def search(params, start):
    ...     step = rj.decoding.next_token(layer, params)
    ...     return rj.decoding.beam_search(step, step.initial_state(start.shape), start, 6, beams=4, end=2, n_best=2)
    >>> found = search(layer.init(jax.random.key(0), 7), jnp.array([0, 0, 3]))
    >>> found.tokens.shape, found.scores.shape
    ((3, 2, 6), (3, 2))
    """
    check_n_best(n_best, beams)
    start = start_tokens(start)
    batch_shape = start.shape
    check_carry(carry, batch_shape)
    carry = jax.tree.map(lambda leaf: repeat(jnp.asarray(leaf), len(batch_shape), beams), carry)
    token = repeat(start, len(batch_shape), beams)
    carry, vocabulary, dtype = settle(step, carry, token)
    rule = rules(vocabulary, length, batch_shape, end, min_length, bans, no_repeat, prefix, history)
    divisor = _divisors(length_penalty, length, dtype)
    task = _Task(step, rule, beams, divisor, lax.cummax(divisor, reverse=True), penalty)
    closed = Beams(
        tokens=jnp.full((*batch_shape, n_best, length), pad, jnp.int32),
        lengths=jnp.zeros((*batch_shape, n_best), jnp.int32),
        scores=jnp.full((*batch_shape, n_best), -jnp.inf, dtype),
        log_probs=jnp.full((*batch_shape, n_best), -jnp.inf, dtype),
    )
    first = _Search(
        t=jnp.zeros((), jnp.int32),
        token=token,
        carry=carry,
        history=jnp.full((*token.shape, length), pad, jnp.int32),
        live=jnp.full(token.shape, -jnp.inf, dtype).at[..., 0].set(0),
        penalty=jnp.zeros(token.shape, dtype),
        closed=closed,
    )
    last = lax.while_loop(
        lambda search: (search.t < length) & (search.live > -jnp.inf).any(),
        lambda search: _advance(task, search),
        first,
    )
    return _close(last.closed, last.history, last.t, last.live, divisor[last.t - 1], last.penalty)


def check_n_best(n_best: int, beams: int) -> None:
    """Raises unless both are positive and `n_best` is at most `beams`."""
    check_size("beams", beams)
    check_size("n_best", n_best)
    if n_best > beams:
        raise ValueError(f"`n_best` must be at most `beams` = {beams}; got {n_best}")


def _advance(task: _Task, search: _Search) -> _Search:
    logits, carry = task.step(search.carry, search.token)
    logits = possible(logits)
    vocabulary, t, end = logits.shape[-1], search.t, task.rule.end
    penalty = search.penalty if task.penalty is None else _penalties(task.penalty, carry, search.penalty)
    offset = search.live - log_normaliser(logits)[..., 0]
    # candidates are compared by what lies between them: the digits of a long hypothesis' log P do not reach as far
    base = offset.max(-1, keepdims=True)
    base = jnp.where(base > -jnp.inf, base, 0)
    # at most K of the 2 K best end, so that K go on
    wanted = task.beams if end is None else min(2 * task.beams, task.beams * vocabulary)
    values, index = best(task.rule.apply(logits, search.history, t), offset - base, wanted)
    parent, token = index // vocabulary, index % vocabulary
    closed = search.closed
    if end is not None:
        top = slice(0, task.beams)
        ending = jnp.where(token[..., top] == end, values[..., top] + base, -jnp.inf)
        history = pick(search.history, parent[..., top]).at[..., t].set(end)
        closed = _close(closed, history, t + 1, ending, task.divisor[t], pick(penalty, parent[..., top]))
        values, going = largest(jnp.where(token == end, -jnp.inf, values), task.beams)
        parent, token = pick(parent, going), pick(token, going)
    values = values + base
    reachable = values[..., :1] / task.most[jnp.minimum(t + 1, task.most.shape[0] - 1)]
    return _Search(
        t=t + 1,
        token=token,
        carry=jax.tree.map(lambda leaf: pick(leaf, parent), carry),
        history=pick(search.history, parent).at[..., t].set(token),
        live=jnp.where(closed.scores[..., -1:] >= reachable, -jnp.inf, values),
        penalty=pick(penalty, parent),
        closed=closed,
    )


def _close(closed: Beams, tokens: Array, length: Array, log_probs: Array, divisor: Array, penalty: Array) -> Beams:
    """The best of the closed hypotheses and of new ones (*B, K) with so many tokens."""
    scores = jnp.where(log_probs > -jnp.inf, log_probs / divisor + penalty, -jnp.inf)
    lengths = jnp.where(scores > -jnp.inf, length, 0)
    new = Beams(tokens, lengths, scores, log_probs)
    axis = log_probs.ndim - 1
    both = Beams(*(jnp.concatenate(pair, axis) for pair in zip(closed, new, strict=True)))
    _, order = largest(both.scores, closed.scores.shape[-1])
    return Beams(*(pick(leaf, order) for leaf in both))


def _divisors(length_penalty: Callable[[Array], Array] | None, length: int, dtype: Any) -> Array:
    """lp of 1 … L tokens."""
    lengths = jnp.arange(1, length + 1, dtype=dtype)
    if length_penalty is None:
        return jnp.ones_like(lengths)
    divisor = length_penalty(lengths)
    if not is_array(divisor) or divisor.shape != lengths.shape:
        raise ValueError(
            f"`length_penalty` must map numbers of tokens (L) = {lengths.shape} to as many divisors; got "
            f"{describe(divisor)}"
        )
    divisors = known(divisor)
    if divisors is not None and not (divisors > 0).all():
        raise ValueError(f"`length_penalty` must be positive for 1 … L = {length} tokens; got {divisor}")
    return jnp.asarray(divisor).astype(dtype)


def _penalties(penalty: Callable[[Any], Array], carry: Any, like: Array) -> Array:
    """The penalties (*B, K) of what a step returned, NaN as −∞."""
    given = penalty(carry)
    if not is_array(given) or given.shape != like.shape:
        raise ValueError(f"`penalty` must map the carry to numbers (*B, K) = {like.shape}; got {describe(given)}")
    given = given.astype(like.dtype)
    return jnp.where(jnp.isnan(given), -jnp.inf, given)
