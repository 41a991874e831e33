"""Prefix beam search for connectionist temporal classification."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._types import Array
from .._unroll import lift
from ._beam import Beams, check_n_best
from ._best import best, largest
from ._ctc import frames
from ._fusion import Fusion
from ._step import at, pick, possible, repeat


class _Prefixes(NamedTuple):
    """The K best prefixes of each row, no two of them equal; places that are still free are empty and come last.

    `common` says exactly, and without comparing tokens, where one is the beginning of another.
    """

    t: Array
    tokens: Array  # (*B, K, T)
    lengths: Array  # (*B, K)
    blank: Array  # (*B, K): log-probability of the alignments that end with a blank
    label: Array  # (*B, K): that of the alignments that end with the last label
    common: Array  # (*B, K, K): labels of two prefixes before they part
    fused: Array  # (*B, K): what the language model has added
    ahead: Array | None  # (*B, K, W): what it adds for each next label
    carry: Any


class _Choice(NamedTuple):
    """Where each new prefix comes from: (*B, K) each."""

    parent: Array
    token: Array
    grown: Array  # whether it is the parent and the token, and not the parent alone


def ctc_prefix_beam(
    logits: Array,
    lengths: Array | None = None,
    beams: int = 16,
    *,
    blank: int = 0,
    lm: Fusion | None = None,
    n_best: int = 1,
    pad: int | None = None,
) -> Beams:
    """Searches for the labels of highest probability, summed over all their alignments.

    score = log P(labels | logits) + what the language model adds

    From frame to frame the K best prefixes are kept, with the probabilities of their alignments that end with a blank
    and with their last label. Equal prefixes are one hypothesis. Inside `jax.jit`; without, every call compiles anew.

    Args:
        logits: unnormalised log-probabilities (T, *B, V).
        lengths: valid frames of each row, integers (*B) in 0…T; None is all.
        beams: K.
        blank: the id that stands for no label.
        lm: a language model over the same ids, from `character_fusion` or `word_fusion`.
        n_best: N, the hypotheses that are returned for each row, at most K.
        pad: what fills `tokens` after the end; None is the blank, which is no label.

    Returns:
        a `Beams`, tokens (*B, N, T); its `log_probs` are without the language model.

    Raises:
        ValueError, TypeError: for shapes and dtypes that do not fit, a blank out of range, `n_best` above `beams`.

    References:
        Graves, Jaitly 2014, Towards end-to-end speech recognition with recurrent neural networks, ICML.
        Hannun, Maas, Jurafsky, Ng 2014, First-pass large vocabulary continuous speech recognition using bi-directional
        recurrent DNNs, arXiv:1408.2873.

    >>> import functools, jax, jax.numpy as jnp, rnnjax as rj
    >>> p = jnp.array([[0.6, 0.4], [0.6, 0.4]])  # the best path is blank, blank
    >>> found = jax.jit(functools.partial(rj.decoding.ctc_prefix_beam, beams=4))(jnp.log(p))
    >>> found.tokens.tolist(), round(float(jnp.exp(found.scores[0])), 2)
    ([[1, 0]], 0.64)
    """
    check_n_best(n_best, beams)
    log_probs, valid = frames(logits, lengths, blank)
    state = _start(log_probs, beams, lm)
    steps = jnp.max(valid.sum(0, dtype=jnp.int32), initial=0)

    def body(state: _Prefixes) -> _Prefixes:
        new = _frame(state, log_probs[state.t], blank, lm)
        return _Prefixes(state.t + 1, *lift.where(valid[state.t], new[1:], state[1:]))

    if len(log_probs):
        state = lax.while_loop(lambda state: state.t < steps, body, state)
    return _best_of(state, n_best, lm, blank if pad is None else pad)


def _start(log_probs: Array, beams: int, lm: Fusion | None) -> _Prefixes:
    """One empty prefix a row."""
    steps, *batch, vocabulary = log_probs.shape
    shape, dtype = (*batch, beams), log_probs.dtype
    nothing = jnp.full(shape, -jnp.inf, dtype)
    ahead, carry = None, None
    if lm is not None:
        lm = lm.settle(shape, vocabulary)
        ahead, carry = possible(repeat(lm.ahead, len(batch), beams)).astype(dtype), lm.carry
    return _Prefixes(
        t=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros((*shape, steps), jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        blank=nothing.at[..., 0].set(0),
        label=nothing,
        common=jnp.zeros((*shape, beams), jnp.int32),
        fused=jnp.zeros(shape, dtype),
        ahead=ahead,
        carry=carry,
    )


def _frame(state: _Prefixes, log_probs: Array, blank: int, lm: Fusion | None) -> _Prefixes:
    """The prefixes behind one more frame, log_probs (*B, V)."""
    vocabulary, beams = log_probs.shape[-1], state.lengths.shape[-1]
    log_probs = repeat(log_probs, log_probs.ndim - 1, beams)
    last = jnp.where(state.lengths > 0, at(state.tokens, jnp.maximum(state.lengths - 1, 0)), blank)
    total = jnp.logaddexp(state.blank, state.label)
    silent = total + log_probs[..., blank]
    same = jnp.where(state.lengths > 0, state.label + at(log_probs, last), -jnp.inf)
    ids = jnp.broadcast_to(jnp.arange(vocabulary, dtype=jnp.int32), log_probs.shape)
    # behind itself without a blank between, a label is the same one
    before = jnp.where(ids == last[..., None], state.blank[..., None], total[..., None])
    longer = jnp.where(ids == blank, -jnp.inf, before + log_probs)
    same, longer = _merge(state, last, same, longer)

    gain = state.fused[..., None] + (jnp.zeros_like(longer) if lm is None else state.ahead[..., :vocabulary])
    stays = jnp.logaddexp(silent, same) + state.fused
    grows, flat = best(longer + gain, jnp.zeros_like(total), beams)
    _, chosen = largest(jnp.concatenate([stays, grows], axis=-1), beams)
    grown = chosen >= beams
    flat = pick(flat, jnp.maximum(chosen - beams, 0))
    choice = _Choice(jnp.where(grown, flat // vocabulary, chosen), flat % vocabulary, grown)

    def either(stay: Array, grow: Array) -> Array:
        return jnp.where(
            grown, pick(grow.reshape(*grow.shape[:-2], beams * vocabulary), flat), pick(stay, choice.parent)
        )

    ahead, carry = (None, None) if lm is None else _read(state, choice, lm)
    tokens, lengths, common = _extend(state, choice)
    return _Prefixes(
        state.t,
        tokens,
        lengths,
        jnp.where(grown, -jnp.inf, pick(silent, choice.parent)),
        either(same, longer),
        common,
        either(state.fused, gain),
        ahead,
        carry,
    )


def _merge(state: _Prefixes, last: Array, same: Array, longer: Array) -> tuple[Array, Array]:
    """Where a prefix that grows becomes another one of them, its probability goes there and no second one is made.

    same (*B, K) and longer (*B, K, V): log-probabilities of prefixes that keep their last label, and that get another.
    """
    whole = state.common == state.lengths[..., :, None]
    by_one = state.lengths[..., :, None] + 1 == state.lengths[..., None, :]
    child = whole & by_one
    found, parent = child.any(-2), jnp.argmax(child, axis=-2).astype(jnp.int32)
    vocabulary, beams = longer.shape[-1], longer.shape[-2]
    flat = longer.reshape(*longer.shape[:-2], beams * vocabulary)
    where = parent * vocabulary + last
    same = jnp.logaddexp(same, jnp.where(found, pick(flat, where), -jnp.inf))
    # a matrix for each row, of which a scatter of K numbers is all that changes
    rows = flat.reshape(-1, beams * vocabulary)
    target = jnp.where(found, where, beams * vocabulary).reshape(-1, beams)
    row = jnp.broadcast_to(jnp.arange(len(rows), dtype=jnp.int32)[:, None], target.shape)
    return same, rows.at[row, target].set(-jnp.inf, mode="drop").reshape(longer.shape)


def _extend(state: _Prefixes, choice: _Choice) -> tuple[Array, Array, Array]:
    """Tokens, lengths and common lengths of the new prefixes."""
    grown = choice.grown
    old, lengths = pick(state.tokens, choice.parent), pick(state.lengths, choice.parent)
    place = jnp.broadcast_to(jnp.arange(old.shape[-1], dtype=jnp.int32), old.shape)
    tokens = jnp.where((place == lengths[..., None]) & grown[..., None], choice.token[..., None], old)

    common = pick(jnp.swapaxes(pick(state.common, choice.parent), -1, -2), choice.parent)
    here = jnp.broadcast_to(jnp.minimum(lengths, old.shape[-1] - 1)[..., None, :], common.shape)
    follows = jnp.take_along_axis(old, here, axis=-1) == choice.token[..., None, :]
    # [b, a]: all of a is the beginning of b, and what a grows by is how b goes on
    joins = grown[..., None, :] & follows & (common == lengths[..., None, :]) & (common < lengths[..., :, None])
    common = common + (joins | jnp.swapaxes(joins, -1, -2)).astype(jnp.int32)
    lengths = lengths + grown.astype(jnp.int32)
    itself = jnp.broadcast_to(jnp.eye(common.shape[-1], dtype=bool), common.shape)
    return tokens, lengths, jnp.where(itself, lengths[..., None], common)


def _read(state: _Prefixes, choice: _Choice, lm: Fusion) -> tuple[Array, Any]:
    """The language model behind the new prefixes; it reads where they have grown."""
    carry = jax.tree.map(lambda leaf: pick(leaf, choice.parent), state.carry)
    ahead, after = lm.step(carry, choice.token)
    kept = pick(state.ahead, choice.parent)
    return lift.where(choice.grown, (possible(ahead).astype(kept.dtype), after), (kept, carry))


def _best_of(state: _Prefixes, n_best: int, lm: Fusion | None, pad: int) -> Beams:
    total = jnp.logaddexp(state.blank, state.label)
    scores = total + state.fused
    if lm is not None and lm.end is not None:
        scores = scores + state.ahead[..., lm.end]
    scores, order = largest(scores, n_best)
    found = scores > -jnp.inf
    lengths = jnp.where(found, pick(state.lengths, order), 0)
    tokens = pick(state.tokens, order)
    place = jnp.broadcast_to(jnp.arange(tokens.shape[-1], dtype=jnp.int32), tokens.shape)
    tokens = jnp.where(place < lengths[..., None], tokens, pad)
    return Beams(tokens, lengths, scores, jnp.where(found, pick(total, order), -jnp.inf))
