"""The alignments of connectionist temporal classification, and what all of them together have for a probability."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from .._types import Array

RULED_OUT = -1e5
"""The logit, from the largest on, below which a class has probability zero."""


def nats(logits: Array, labels: Array, given: Array, inside: Array, blank: int) -> Array:
    """−log of the probability of labels (B, N), over all alignments with the steps of logits (B, T, K), a number for
    each row: ∞ where there is none. Its gradient is then zero.

    given, inside: which labels there are, (B, N), and which steps, (B, T), both at the front.
    """
    log_p, dead = _log_probabilities(logits)
    # a path goes along blank, label, blank, …, label, blank: S = 2N + 1 places, each step by at most two of them
    places = jnp.full((labels.shape[0], 2 * labels.shape[1] + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    follows = (places != blank) & (places != jnp.pad(places, ((0, 0), (2, 0)), constant_values=blank)[:, :-2])
    log_p = jnp.take_along_axis(log_p, places[:, None, :], 2)

    def step(before: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        own, valid = at
        skipped = jnp.where(follows, _moved(before, 2), -jnp.inf)
        after = own + _log_sum(before, _moved(before, 1), skipped)
        return jnp.where(valid[:, None], after, before), None

    first = jnp.full(places.shape, -jnp.inf, logits.dtype).at[:, 0].set(0)
    last, _ = jax.lax.scan(step, first, (log_p.swapaxes(0, 1), inside.T))
    count = 2 * given.sum(1, keepdims=True)
    ends = [jnp.take_along_axis(_moved(last, by), count, 1)[:, 0] for by in (0, 1)]
    return jnp.where(dead, jnp.inf, -_log_sum(*ends))


def _log_probabilities(logits: Array) -> tuple[Array, Array]:
    """(B, T, K), −∞ where the logit is ruled out, and the rows (B) with a step at which all are."""
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    nothing = largest == -jnp.inf
    zero = logits < largest + RULED_OUT
    log_p = jax.nn.log_softmax(jnp.where(nothing, 0, jnp.where(zero, -jnp.inf, logits)))
    return log_p, nothing.any((1, 2))


def _moved(array: Array, by: int) -> Array:
    """(B, S), each entry from so many places before; −∞ from before the first."""
    return jnp.pad(array, ((0, 0), (by, 0)), constant_values=-jnp.inf)[:, : array.shape[1]]


def _log_sum(*terms: Array) -> Array:
    """log Σ exp, with a gradient of zero where all terms are −∞, and so is the sum."""
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    nothing = largest == -jnp.inf
    finite = jnp.where(nothing, 0, largest)
    total = sum(jnp.exp(term - finite) for term in terms)
    return jnp.where(nothing, -jnp.inf, finite + jnp.log(jnp.where(nothing, 1, total)))
