"""What a hypothesis is worth: penalties for its length, and for what it has left out."""

from __future__ import annotations

import jax.numpy as jnp

from .._errors import describe, is_array
from .._struct import node, struct
from .._types import Array, wide


@struct
class GNMT:
    """The length penalty of Google's translation system: log P / lp(n), with

    lp(n) = ((5 + n) / 6)^α

    Args:
        alpha: α; 0 compares plain log-probabilities, and more favours long hypotheses.

    References:
        Wu et al. 2016, Google's neural machine translation system, arXiv:1609.08144.

    >>> from rnnjax.decoding import GNMT
    >>> float(GNMT(alpha=0.5)(19.0))
    2.0
    """

    alpha: float | Array = node(default=0.6)

    def __call__(self, lengths: Array) -> Array:
        return ((5 + lengths) / 6) ** self.alpha


@struct
class PerToken:
    """Log-probability per token: log P / lp(n), with

    lp(n) = n^α

    Args:
        alpha: α; 1 is the mean over tokens.

    >>> from rnnjax.decoding import PerToken
    >>> float(PerToken()(4.0))
    4.0
    """

    alpha: float | Array = node(default=1.0)

    def __call__(self, lengths: Array) -> Array:
        return lengths**self.alpha


def coverage_penalty(coverage: Array, beta: float | Array = 0.2, mask: Array | None = None) -> Array:
    """What a hypothesis loses for source positions that it has not attended to.

    cp = β Σ_s log min(coverage_s, 1)

    For `beam_search`: `penalty=lambda carry: coverage_penalty(carry[1].attention.coverage, mask=mask)` where layer 1 of
    a stack is an attention cell and `mask` (B, S) is True within the sources.

    Args:
        coverage: alignments summed over the steps so far, (…, S), in a search (B, K, S).
        beta: β.
        mask: True at the positions that count, booleans (S), or (B, S) with the first axes of `coverage`. Without one
            each position of padding costs β log of the smallest number.

    Returns:
        cp ≤ 0, (…). A position that has got nothing counts as the smallest number that the dtype has.

    Raises:
        TypeError, ValueError: for a `coverage` that is no floating-point array (…, S), and a mask of another shape.

    References:
        Wu et al. 2016, Google's neural machine translation system, arXiv:1609.08144.

    >>> import jax.numpy as jnp
    >>> from rnnjax.decoding import coverage_penalty
    >>> round(float(coverage_penalty(jnp.array([0.5, 1.5, 1.0]), beta=1.0)), 4)
    -0.6931
    """
    if not is_array(coverage) or not jnp.issubdtype(coverage.dtype, jnp.floating) or coverage.ndim == 0:
        raise TypeError(f"`coverage` must be a floating-point array (…, S); got {describe(coverage)}")
    coverage = wide(coverage)
    logs = jnp.log(jnp.clip(coverage, jnp.finfo(coverage.dtype).tiny, 1))
    if mask is not None:
        mask = jnp.asarray(mask)
        rows = mask.shape[:-1]
        if mask.dtype != bool or mask.shape != (*logs.shape[: len(rows)], *logs.shape[-1:]):
            raise ValueError(
                f"`mask` must be booleans {logs.shape[-1:]}, one for each position of `coverage` {logs.shape}, with as "
                f"many of its first axes as you like; got {describe(mask)}"
            )
        mask = jnp.expand_dims(mask, tuple(range(len(rows), logs.ndim - 1)))
        logs = jnp.where(jnp.broadcast_to(mask, logs.shape), logs, 0)
    return beta * logs.sum(-1)
