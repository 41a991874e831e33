"""The few best of very many candidates."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from .._types import Array
from ._step import pick

WIDTH = 64


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """`lax.top_k`, behind which XLA must not see that a part of the result is cut off: it would sort everything."""
    return lax.optimization_barrier(lax.top_k(values, count))


def best(scores: Array, offset: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest of scores (*B, K, V) + offset (*B, K), largest first, with indices into K·V, (*B, count).

    As `lax.top_k` finds them, lower indices first where values are equal; indices of −∞ mean nothing. One pass for the
    maxima of blocks is all that is done over everything: the values are in the `count` blocks of largest maximum,
    because one in another block would come behind a larger or earlier one from each of these.
    """
    *batch, beams, vocabulary = scores.shape
    blocks = -(-vocabulary // WIDTH)
    if count >= beams * blocks:
        return largest((scores + offset[..., None]).reshape(*batch, beams * vocabulary), count)
    spare = blocks * WIDTH - vocabulary
    if spare:
        ends = [(0, 0)] * (scores.ndim - 1) + [(0, spare)]
        scores = jnp.pad(scores, ends, constant_values=-jnp.inf)
    split = scores.reshape(*batch, beams, blocks, WIDTH)
    highest = (split.max(-1) + offset[..., None]).reshape(*batch, beams * blocks)
    chosen = jnp.sort(largest(highest, count)[1], axis=-1)
    beam = chosen // blocks
    inside = pick(split.reshape(*batch, beams * blocks, WIDTH), chosen) + pick(offset, beam)[..., None]
    values, index = largest(inside.reshape(*batch, count * WIDTH), count)
    block = pick(chosen, index // WIDTH)
    token = block % blocks * WIDTH + index % WIDTH
    return values, jnp.minimum(block // blocks * vocabulary + token, beams * vocabulary - 1)
