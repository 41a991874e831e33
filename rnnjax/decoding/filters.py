"""Filters of logits: each takes logits (…, V) and returns them with some changed, mostly to −∞.

They are computed in at least float32, and NaN and ∞ count as −∞. Among equal logits those with lower ids come first.
"""

from __future__ import annotations

import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .._errors import check_size, describe, is_array, known
from .._types import Array
from ._step import possible


def temperature(logits: Array, value: float | Array) -> Array:
    """Logits divided by a temperature, after their maximum is subtracted: below 1 sharper, above 1 flatter.

    y = (x − max x) / τ

    At τ = 0 the limit holds: 0 for the largest logits, −∞ for all others.

    Args:
        logits: (…, V).
        value: τ, a number or one for each distribution, (…).

    Returns:
        y, (…, V) in at least float32; NaN and ∞ become −∞.

    Raises:
        ValueError: for a concrete τ outside [0, ∞), or one of another shape, and for logits whose last axis is missing
            or empty.
        TypeError: for logits that are not floating point, and a τ that is no number.

    >>> import jax.numpy as jnp
    >>> from rnnjax.decoding import temperature
    >>> temperature(jnp.array([1.0, 3.0, 2.0]), 0.5).tolist()
    [-4.0, 0.0, -2.0]
    """
    logits = _logits(logits)
    tau = _number("temperature", value, logits)
    _inside("temperature", value, 0, np.finfo(np.float32).max, "[0, ∞)")
    high = logits.max(-1, keepdims=True)
    below = logits - jnp.where(jnp.isfinite(high), high, 0)
    limit = jnp.where(below == 0, below, -jnp.inf)
    warm = jnp.where(below > -jnp.inf, below / jnp.where(tau > 0, tau, 1), -jnp.inf)  # where τ is traced it may be ∞
    return jnp.where(tau > 0, warm, limit)


def top_k(logits: Array, k: int) -> Array:
    """The k largest logits, −∞ for the others; exactly k where logits are equal. All of them when k ≥ V.

    Args:
        logits: (…, V).
        k: how many, at least 1.

    Returns:
        (…, V), in at least float32; NaN and ∞ become −∞.

    Raises:
        ValueError: for a `k` below 1, and for logits whose last axis is missing or empty.
        TypeError: for logits that are not floating point, and a `k` that is no integer.

    References:
        Fan, Lewis, Dauphin 2018, Hierarchical neural story generation, arXiv:1805.04833.

    >>> import jax.numpy as jnp
    >>> from rnnjax.decoding import top_k
    >>> top_k(jnp.array([1.0, 3.0, 1.0, 2.0]), 3).tolist()
    [1.0, 3.0, -inf, 2.0]
    """
    check_size("top_k", k)
    logits = _logits(logits)
    if k >= logits.shape[-1]:
        return logits
    least = lax.top_k(logits, k)[0][..., -1:]
    return _largest(logits, least, jnp.full(least.shape, k, jnp.int32))


def top_p(logits: Array, p: float | Array) -> Array:
    """The fewest tokens, most probable first, whose probabilities add up to at least p, −∞ for the others.

    One token is always kept, and p = 1 keeps all.

    Args:
        logits: (…, V).
        p: in (0, 1], a number or one for each distribution, (…).

    Returns:
        (…, V), in at least float32; NaN and ∞ become −∞.

    Raises:
        ValueError: for a concrete p outside, or one of another shape, and for logits whose last axis is missing or
            empty.
        TypeError: for logits that are not floating point, and a p that is no number.

    References:
        Holtzman, Buys, Du, Forbes, Choi 2020, The curious case of neural text degeneration, arXiv:1904.09751.

    >>> import jax.numpy as jnp
    >>> from rnnjax.decoding import top_p
    >>> kept = top_p(jnp.log(jnp.array([0.1, 0.6, 0.3])), 0.8)
    >>> (kept > -jnp.inf).tolist()
    [False, True, True]
    """
    logits = _logits(logits)
    share = _number("top_p", p, logits)
    _inside("top_p", p, np.finfo(np.float32).tiny, 1, "(0, 1]")
    ordered = lax.sort(logits, dimension=-1)[..., ::-1]
    high = ordered[..., :1]
    mass = jnp.exp(ordered - jnp.where(jnp.isfinite(high), high, 0))
    up_to = jnp.cumsum(mass, axis=-1)
    before = jnp.concatenate([jnp.zeros_like(up_to[..., :1]), up_to[..., :-1]], axis=-1)
    # a sum may reach 1 before its last terms, which p = 1 must not lose
    needed = (before < share * up_to[..., -1:]) | jnp.broadcast_to(share >= 1, before.shape)
    count = jnp.maximum(needed.sum(-1, keepdims=True, dtype=jnp.int32), 1)
    return _largest(logits, jnp.take_along_axis(ordered, count - 1, axis=-1), count)


def repetition_penalty(logits: Array, seen: Array, penalty: float | Array) -> Array:
    """Logits of tokens that were seen before made smaller: x / θ where positive, x θ where negative.

    Args:
        logits: (…, V).
        seen: True for the tokens that were, booleans (…, V).
        penalty: θ, above 1 against repetition and below 1 in favour, a number or one for each distribution, (…).

    Returns:
        (…, V), in at least float32; NaN and ∞ become −∞.

    Raises:
        ValueError: for a concrete θ outside (0, ∞), shapes that do not fit, and a `seen` that is not boolean.
        TypeError: for logits that are not floating point, and a θ that is no number.

    References:
        Keskar, McCann, Varshney, Xiong, Socher 2019, CTRL, arXiv:1909.05858.

    >>> import jax.numpy as jnp
    >>> from rnnjax.decoding import repetition_penalty
    >>> repetition_penalty(jnp.array([2.0, -1.0, 3.0]), jnp.array([True, True, False]), 2.0).tolist()
    [1.0, -2.0, 3.0]
    """
    logits = _logits(logits)
    theta = _number("repetition_penalty", penalty, logits)
    _inside("repetition_penalty", penalty, np.finfo(np.float32).tiny, np.finfo(np.float32).max, "(0, ∞)")
    if not is_array(seen) or seen.dtype != jnp.bool_ or seen.shape != logits.shape:
        raise ValueError(f"`seen` must be booleans {tuple(logits.shape)}, as `logits`; got {describe(seen)}")
    return jnp.where(seen, jnp.where(logits > 0, logits / theta, logits * theta), logits)


def _logits(logits: Array) -> Array:
    if not is_array(logits) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"`logits` must be a floating-point array (…, V); got {describe(logits)}")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"`logits` must be (…, V) with V ≥ 1; got shape {tuple(logits.shape)}")
    return possible(jnp.asarray(logits))


def _number(name: str, value: Any, logits: Array) -> Array:
    """A number, or one for each distribution, as an array (…, 1) or () in the dtype of the logits."""
    if isinstance(value, (bool, str)) or not (isinstance(value, numbers.Real) or is_array(value)):
        raise TypeError(f"`{name}` must be a number or an array (…); got {value!r}")
    array = jnp.asarray(value, logits.dtype)
    if array.shape not in ((), logits.shape[:-1]):
        raise ValueError(
            f"`{name}` must be a number or one for each distribution, {tuple(logits.shape[:-1])}; got {array.shape}"
        )
    return jnp.broadcast_to(array[..., None], (*logits.shape[:-1], 1)) if array.ndim else array


def _inside(name: str, value: Any, low: float, high: float, interval: str) -> None:
    """Raises if concrete numbers lie outside; traced ones pass."""
    values = known(value)
    if values is not None and not ((values >= low) & (values <= high)).all():
        raise ValueError(f"`{name}` must lie in {interval}; got {value}")


def _largest(logits: Array, least: Array, count: Array) -> Array:
    """The `count` largest logits, given the least of them; −∞ for the others."""
    tied = logits == least
    room = count - (logits > least).sum(-1, keepdims=True, dtype=jnp.int32)
    kept = (logits > least) | (tied & (jnp.cumsum(tied, axis=-1, dtype=jnp.int32) <= room))
    return jnp.where(kept, logits, -jnp.inf)
