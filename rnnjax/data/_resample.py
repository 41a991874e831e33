"""Waveforms at another rate or speed."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_key, check_size, is_array
from .._types import Array, Key
from ._stft import before_end, checked

GRID = 1000
"""Speeds are multiples of 1 / GRID, so that positions are exact integers and fractions however long a waveform is."""


def resample(
    signal: Array, from_rate: int, to_rate: int, lengths: Array | None = None, *, width: int = 6, rolloff: float = 0.99
) -> tuple[Array, Array]:
    """A waveform at another rate, by a windowed sinc.

    y_n = c Σ_m x_m sinc(c (m − p_n)) cos²(π c (m − p_n) / 2 width) over |c (m − p_n)| ≤ width,
    p_n = n · from_rate / to_rate, c = rolloff · min(1, to_rate / from_rate)

    It is the filter of `torchaudio.functional.resample`, with its parameters and its ⌈N · to_rate / from_rate⌉ samples;
    between equal rates nothing is filtered.

    Args:
        signal: (*B, N), floating point.
        from_rate, to_rate: samples a second, before and after.
        lengths: valid samples of each row, integers (*B).
        width: zero crossings of the sinc on either side.
        rolloff: where the filter cuts off, as a share of the lower of the two halved rates.

    Returns:
        the waveform (*B, M) and its valid samples, int32 (*B).

    Raises:
        ValueError: for rates whose common divisor is too small for exact positions, rates or a `width` below 1, lengths
            of another shape or, where they are concrete, outside 0…N, and a signal that is a single number.
        TypeError: for a signal that is not floating point, and lengths, rates or a `width` that are not integers.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> y, lengths = rj.data.resample(jnp.ones((2, 80)), 8000, 11025)
    >>> y.shape, lengths.tolist()
    ((2, 111), [111, 111])
    """
    signal, lengths = checked(signal, lengths)
    check_size("from_rate", from_rate)
    check_size("to_rate", to_rate)
    check_size("width", width)
    common = math.gcd(from_rate, to_rate)
    num, den = from_rate // common, to_rate // common
    if num * (den + 1) >= 2**31:
        raise ValueError(f"{from_rate} and {to_rate} have too small a common divisor, {common}, for exact positions")
    count = -(-signal.shape[-1] * den // num)
    cutoff = rolloff * min(1.0, den / num)
    valid = jnp.full(signal.shape[:-1], signal.shape[-1], jnp.int32) if lengths is None else lengths
    signal = before_end(signal, lengths, signal.ndim - 1)
    if num == den:
        return signal, valid
    y = _interpolated(signal, num, den, count, cutoff, width, math.ceil(width / cutoff))
    new = _scaled_up(valid, num, den)
    return before_end(y, new, y.ndim - 1), new


def change_speed(
    signal: Array,
    speed: Any,
    lengths: Array | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    width: int = 6,
) -> tuple[Array, Array]:
    """A waveform played faster or slower, in time and pitch, by a windowed sinc: a step of speed perturbation.

    Args:
        signal: (*B, N), floating point.
        speed: rounded to thousandths; 1.1 takes 1/1.1 of the time. A number, or an array, which may be traced, () or
            (*B).
        lengths: valid samples of each row, integers (*B).
        bounds: the lowest and the highest speed that an array may hold, from 0.1 to 10; the lowest sets the shape of
            the result, and speeds outside are brought to the nearer bound. A plain number needs none.
        width: zero crossings of the sinc on either side.

    Returns:
        the waveform (*B, ⌈N / slowest⌉) and its valid samples, int32 (*B).

    Raises:
        ValueError: for a `speed` that is neither () nor (*B), an array without `bounds`, a number outside them, bounds
            that are not 0.1 ≤ lowest ≤ highest ≤ 10, a `width` below 1, lengths of another shape or, where they are
            concrete, outside 0…N, and a signal that is a single number.
        TypeError: for a `speed` that is neither number nor array, a signal that is not floating point, and lengths or a
            `width` that are not integers.

    References:
        Ko, Peddinti, Povey, Khudanpur 2015, Audio augmentation for speech recognition, Interspeech.
    """
    signal, lengths = checked(signal, lengths)
    rows, samples = signal.shape[:-1], signal.shape[-1]
    check_size("width", width)
    if isinstance(speed, numbers.Real) and not isinstance(speed, bool):
        speed = float(speed)
        bounds = (speed, speed) if bounds is None else bounds
        if not bounds[0] <= speed <= bounds[1]:
            raise ValueError(f"`speed` must lie within `bounds`, {bounds}; got {speed}")
    elif not is_array(speed):
        raise TypeError(f"`speed` must be a number or an array; got {speed!r}")
    elif speed.shape not in ((), rows):
        raise ValueError(f"`speed` must be () or one for each row, {rows}; got {speed.shape}")
    if bounds is None:
        raise ValueError("an array `speed` needs `bounds`, of which the lowest sets the shape of the result")
    low, high = bounds
    if not 0.1 <= low <= high <= 10:
        raise ValueError(f"speeds must lie in 0.1…10, the lower bound first; got {bounds}")
    ends = (round(low * GRID), round(high * GRID))
    steps = jnp.clip(jnp.round(jnp.asarray(speed, signal.dtype) * GRID), *ends).astype(jnp.int32)
    valid = jnp.full(rows, samples, jnp.int32) if lengths is None else lengths
    signal = before_end(signal, lengths, signal.ndim - 1)
    return _played(signal, jnp.broadcast_to(steps, rows), valid, ends, width)


def perturb_speed(
    key: Key, signal: Array, lengths: Array | None = None, *, speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
) -> tuple[Array, Array]:
    """Each row at one of these speeds, drawn at random.

    Args:
        key: draws the speeds.
        signal, lengths: as for `change_speed`.
        speeds: from 0.1 to 10, all equally likely; the lowest sets the shape of the result.

    Returns:
        the waveform and its valid samples, as of `change_speed`.

    Raises:
        ValueError: for no speed or one outside 0.1…10, for several keys, and for a signal or lengths as `change_speed`.
        TypeError: for a `key` that is none, and for a signal or lengths as `change_speed`.
    """
    check_key("key", key)
    if not speeds or not all(0.1 <= speed <= 10 for speed in speeds):
        raise ValueError(f"`speeds` must lie in 0.1…10; got {speeds}")
    drawn = jax.random.choice(key, jnp.asarray(speeds, jnp.float32), jnp.shape(signal)[:-1])
    return change_speed(signal, drawn, lengths, bounds=(min(speeds), max(speeds)))


def _scaled_up(lengths: Array, num: Any, den: int) -> Array:
    """⌈length · den / num⌉ without an overflow of the product."""
    whole, rest = lengths // num, lengths % num
    return (whole * den + (rest * den + num - 1) // num).astype(jnp.int32)


@jax.jit(static_argnums=(3, 4))
def _played(signal: Array, steps: Array, valid: Array, ends: tuple[int, int], width: int) -> tuple[Array, Array]:
    count = -(-signal.shape[-1] * GRID // ends[0])
    reach = -(-width * max(ends[1], GRID) // GRID)

    def row(signal: Array, num: Array) -> Array:
        cutoff = jnp.minimum(1, GRID / num.astype(signal.dtype))
        return _interpolated(signal, num, GRID, count, cutoff, width, reach)

    rows = math.prod(steps.shape)
    flat = jax.vmap(row)(signal.reshape(rows, signal.shape[-1]), steps.reshape(rows))
    new = _scaled_up(valid, steps, GRID)
    return before_end(flat.reshape(*steps.shape, count), new, steps.ndim), new


@jax.jit(static_argnums=(2, 3, 5, 6))
def _interpolated(signal: Array, num: Any, den: int, count: int, cutoff: Any, width: int, reach: int) -> Array:
    """Samples at the positions n · num / den, summed over neighbours one after another: (*B, N) to (*B, count)."""
    samples, dtype = signal.shape[-1], signal.dtype
    if not samples or not count:
        return jnp.zeros((*signal.shape[:-1], count), dtype)
    n = jnp.arange(count, dtype=jnp.int32)
    num = jnp.asarray(num, jnp.int32)
    cutoff = jnp.asarray(cutoff, dtype)
    whole, rest = (n // den) * num + (n % den) * num // den, (n % den) * num % den
    fraction = rest.astype(dtype) / den

    def add(total: Array, offset: Array) -> tuple[Array, None]:
        at = whole + offset
        t = cutoff * (offset.astype(dtype) - fraction)
        bell = jnp.where(jnp.abs(t) < width, jnp.cos(np.pi / 2 / width * t) ** 2, 0)
        weight = jnp.where((at >= 0) & (at < samples), cutoff * jnp.sinc(t) * bell, 0)
        near = signal[..., jnp.clip(at, 0, samples - 1)]
        return total + near * jnp.expand_dims(weight, tuple(range(near.ndim - 1))), None

    offsets = jnp.arange(-reach, reach + 2, dtype=jnp.int32)
    return jax.lax.scan(add, jnp.zeros((*signal.shape[:-1], count), dtype), offsets)[0]
