"""What is done to features of any kind: slopes over time, and a common scale."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_size, describe, is_array
from .._types import Array, wide
from ._stft import before_end, checked_lengths


def deltas(x: Array, lengths: Array | None = None, *, width: int = 9, order: int = 1) -> Array:
    """Slopes of features over time: derivatives of the polynomial of degree `order` that fits `width` frames best.

    order 1:  d_t = Σ_n n x_{t+n} / Σ_n n², n = −(width − 1)/2 … (width − 1)/2

    The first and the last valid frame are continued beyond the ends, as in torchaudio and in librosa with
    `mode="nearest"`.

    Args:
        x: features (*B, T, F).
        lengths: valid frames of each row, integers (*B); the slopes behind the end are 0.
        width: frames, odd, from 3, and more than `order`.
        order: which derivative.

    Returns:
        the slopes a frame, (*B, T, F).

    Raises:
        ValueError: for a `width` that is even, below 3 or not above `order`, an `order` below 1, features of fewer than
            two axes, and lengths of another shape or, where they are concrete, outside 0…T.
        TypeError: for features that are not floating point, and lengths, a `width` or an `order` that are not integers.
    """
    x, lengths = checked_features(x, lengths)
    check_size("order", order)
    check_size("width", width)
    if width < 3 or width % 2 == 0 or width <= order:
        raise ValueError(f"`width` must be odd, at least 3 and more than `order`, {order}; got {width}")
    return _slopes(x, lengths, width, order)


def standardize(x: Array, lengths: Array | None = None, *, epsilon: float = 1e-5) -> Array:
    """Features with mean 0 and variance 1 over the valid frames of each row, one feature at a time.

    y = (x − mean_t x) / √(var_t x + ε), and 0 behind the end of a row

    Args:
        x: features (*B, T, F).
        lengths: valid frames of each row, integers (*B).
        epsilon: ε, so that a feature that never changes is 0.
    """
    x, lengths = checked_features(x, lengths)
    return _standard(x, lengths, epsilon)


def checked_features(x: Any, lengths: Any) -> tuple[Array, Array | None]:
    """Features (*B, T, F) and lengths (*B), clamped to 0…T; TypeError or ValueError if they are none."""
    if not is_array(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`x` must be floating point features (*B, T, F); got {describe(x)}")
    if x.ndim < 2:
        raise ValueError(f"`x` must be features (*B, T, F); got {describe(x)}")
    x = wide(x)
    return x, None if lengths is None else checked_lengths(lengths, x.shape[:-2], x.shape[-2])


@jax.jit(static_argnums=(2, 3))
def _slopes(x: Array, lengths: Array | None, width: int, order: int) -> Array:
    steps = x.shape[-2]
    if not steps:
        return x
    half = width // 2
    offsets = np.arange(-half, half + 1)
    weights = (
        math.factorial(order) * np.linalg.pinv(np.vander(offsets, order + 1, increasing=True).astype(float))[order]
    )
    last = jnp.full(x.shape[:-2], steps - 1, jnp.int32) if lengths is None else jnp.maximum(lengths - 1, 0)
    times = jnp.asarray(np.arange(steps)[:, None] + offsets, jnp.int32)  # (T, width)
    times = jnp.expand_dims(times, tuple(range(last.ndim)))
    times = jnp.clip(times, 0, last[..., None, None]).reshape(*last.shape, steps * width, 1)
    near = jnp.take_along_axis(x, times, axis=-2).reshape(*last.shape, steps, width, x.shape[-1])
    slopes = jnp.einsum("...wf,w->...f", near, jnp.asarray(weights, x.dtype), precision="highest")
    return before_end(slopes, lengths, x.ndim - 2)


@jax.jit
def _standard(x: Array, lengths: Array | None, epsilon: Any) -> Array:
    rows, steps = x.shape[:-2], x.shape[-2]
    valid = jnp.full(rows, steps, jnp.int32) if lengths is None else lengths
    count = jnp.maximum(valid, 1).astype(x.dtype)[..., None, None]

    def mean(values: Array) -> Array:
        return jnp.sum(before_end(values, valid, len(rows)), axis=-2, keepdims=True) / count

    centred = before_end(x, valid, len(rows)) - mean(x)
    variance = mean(centred**2)
    return before_end(centred / jnp.sqrt(variance + jnp.asarray(epsilon, x.dtype)), valid, len(rows))
