"""Alignments of connectionist temporal classification that some class of probability zero forbids."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._types import Array
from .._unroll.lift import where

NOTHING = -1e5
"""What Optax takes for the log of a probability of zero: what lies lower is none of its sums."""


def without_zeros(logits: Array) -> tuple[Array, Array]:
    """Logits (…, K), finite where their probability is zero, and which these are, (…, K)."""
    least = jax.lax.stop_gradient(logits.max(-1, keepdims=True)) + NOTHING
    zero = logits < least
    return jnp.where(zero, least, logits), zero


def exist(zero: Array, labels: Array, given: Array, inside: Array, blank: int) -> Array:
    """Whether labels (B, N) have an alignment without a class of probability zero, (B, T, K).

    The forward pass of CTC with truths for probabilities. After some step, n labels are written and the last class is
    the blank, or the n-th label: (B, N + 1) for each.
    """

    def always(zero: Array) -> Array:
        return jnp.ones(zero.shape[:1], bool)

    def passed(zero: Array) -> Array:
        nothing = jnp.zeros((labels.shape[0], labels.shape[1] + 1), bool)
        other = labels[:, 1:] != labels[:, :-1]
        follows = jnp.pad(other, ((0, 0), (1, 0)))  # without a blank between; what is before the first label is none

        def step(carry: tuple[Array, Array], at: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            (blanks, written), (zero_blank, zero_label, valid) = carry, at
            reached = written[:, 1:] | blanks[:, :-1] | (written[:, :-1] & follows)
            after = ~zero_blank[:, None] & (blanks | written), jnp.pad(~zero_label & reached, ((0, 0), (1, 0)))
            return where(valid, after, carry), None

        of_labels = jnp.take_along_axis(zero, labels[:, None, :], 2)
        times = (zero[..., blank].T, of_labels.swapaxes(0, 1), inside.T)
        (blanks, written), _ = jax.lax.scan(step, (nothing.at[:, 0].set(True), nothing), times)
        return jnp.take_along_axis(blanks | written, given.sum(1, keepdims=True), 1)[:, 0]

    return jax.lax.cond(zero.any(), passed, always, zero)
