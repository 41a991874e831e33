"""Noise and masks that make a recogniser robust."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._errors import check_key, check_unit_interval, describe
from .._types import Array, Key
from ._features import checked_features
from ._stft import before_end, checked


def spec_augment(
    key: Key,
    x: Array,
    lengths: Array | None = None,
    *,
    time_masks: int = 2,
    time_width: int = 100,
    time_share: float = 1.0,
    frequency_masks: int = 2,
    frequency_width: int = 27,
    value: float | Array = 0.0,
) -> Array:
    """Features with some bands of time and frequency blotted out, other ones in every row.

    A mask of frequency is f bands wide, f uniform in 0…frequency_width, and begins at a uniform f₀ in 0…F − f. A mask
    of time is t frames wide, t uniform in 0…min(time_width, time_share · τ), and begins at a uniform t₀ in 0…τ − t, τ
    the valid frames of the row. The warping of time is left out, which the paper found to matter least.

    Args:
        key: draws the masks.
        x: features (*B, T, F).
        lengths: valid frames of each row, integers (*B).
        time_masks, time_width, time_share: number of masks, greatest width in frames, and in shares of a row.
        frequency_masks, frequency_width: number of masks and greatest width in bands.
        value: what is put in, () or (F); 0 is the mean of standardised features.

    Returns:
        the features, (*B, T, F) in at least float32, and 0 behind the end of a row.

    Raises:
        ValueError: for features of fewer than two axes, a number of masks or a width that is no integer of at least 0,
            a `time_share` outside [0, 1], lengths or a `value` of another shape, concrete lengths outside 0…T, and
            several keys.
        TypeError: for a `key` that is none, features that are not floating point, lengths that are not integers, and a
            `time_share` that is no number.

    References:
        Park, Chan, Zhang, Chiu, Zoph, Cubuk, Le 2019, SpecAugment, arXiv:1904.08779. The defaults are its LD
        without warping.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> y = rj.data.spec_augment(jax.random.key(0), jnp.ones((4, 100, 40)))
    >>> y.shape, bool((y == 0).any())
    ((4, 100, 40), True)
    """
    check_key("key", key)
    x, lengths = checked_features(x, lengths)
    counts = {"time_masks": time_masks, "time_width": time_width}
    counts |= {"frequency_masks": frequency_masks, "frequency_width": frequency_width}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"`{name}` must be an integer of at least 0; got {count!r}")
    check_unit_interval("time_share", time_share)
    fill = jnp.asarray(value, x.dtype)
    if fill.shape not in ((), x.shape[-1:]):
        raise ValueError(f"`value` must be () or (F) = {x.shape[-1:]}; got {fill.shape}")
    return _masked(key, x, lengths, fill, time_share, time_masks, time_width, frequency_masks, frequency_width)


def add_noise(key: Key, signal: Array, snr_db: float | Array, lengths: Array | None = None) -> Array:
    """A waveform with white Gaussian noise at a signal-to-noise ratio.

    Args:
        key: draws the noise.
        signal, snr_db, lengths: as for `mix`.

    Returns:
        the noisy waveform, as of `mix`.

    Raises:
        ValueError: for several keys; and as for `mix`.
        TypeError: for a `key` that is none; and as for `mix`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> noisy = rj.data.add_noise(jax.random.key(0), jnp.ones(1000), 20.0)
    >>> print(f"{jnp.mean((noisy - 1) ** 2):.4f}")
    0.0100
    """
    check_key("key", key)
    signal, _ = checked(signal, None)
    return mix(signal, jax.random.normal(key, signal.shape, signal.dtype), snr_db, lengths)


def mix(signal: Array, noise: Array, snr_db: float | Array, lengths: Array | None = None) -> Array:
    """A waveform with a noise that is scaled to a signal-to-noise ratio.

    y = x + g n, 10 log₁₀(Σ x² / Σ (g n)²) = snr_db, sums over the valid samples of the row

    The ratio is exact, not only expected. A silent row, or a silent noise, leaves the waveform as it is.

    Args:
        signal: (*B, N), floating point.
        noise: the same shape and dtype.
        snr_db: decibels, () or (*B).
        lengths: valid samples of each row, integers (*B); what is behind the end is 0.

    Returns:
        y, (*B, N) in at least float32.

    Raises:
        ValueError: for a `noise` of another shape or dtype, an `snr_db` that is neither () nor (*B), lengths of another
            shape or, where they are concrete, outside 0…N, and a signal that is a single number.
        TypeError: for a signal or noise that is not floating point, and lengths that are not integers.
    """
    signal, lengths = checked(signal, lengths)
    noise, _ = checked(noise, None)
    if noise.shape != signal.shape or noise.dtype != signal.dtype:
        raise ValueError(f"`noise` must be like `signal`, {describe(signal)}; got {describe(noise)}")
    ratio = jnp.asarray(snr_db, signal.dtype)
    if ratio.shape not in ((), signal.shape[:-1]):
        raise ValueError(f"`snr_db` must be () or one for each row, {signal.shape[:-1]}; got {ratio.shape}")
    return _mixed(signal, noise, jnp.broadcast_to(ratio, signal.shape[:-1]), lengths)


@jax.jit
def _mixed(signal: Array, noise: Array, snr_db: Array, lengths: Array | None) -> Array:
    signal, noise = (before_end(array, lengths, signal.ndim - 1) for array in (signal, noise))
    loud, din = jnp.sum(signal**2, axis=-1), jnp.sum(noise**2, axis=-1)
    heard = (loud > 0) & (din > 0)
    # a safe quotient under the root, whose gradient at 0 is not finite
    squared = jnp.where(heard, loud, 1) / jnp.where(heard, din, 1) * 10 ** (-snr_db / 10)
    return signal + jnp.where(heard, jnp.sqrt(squared), 0)[..., None] * noise


@jax.jit(static_argnums=(5, 6, 7, 8))
def _masked(
    key: Key,
    x: Array,
    lengths: Array | None,
    fill: Array,
    time_share: Any,
    time_masks: int,
    time_width: int,
    frequency_masks: int,
    frequency_width: int,
) -> Array:
    rows, (steps, features) = x.shape[:-2], x.shape[-2:]
    valid = jnp.full(rows, steps, jnp.int32) if lengths is None else lengths
    key_time, key_frequency = jax.random.split(key)
    share = jnp.floor(jnp.asarray(time_share, jnp.float32) * valid.astype(jnp.float32)).astype(jnp.int32)
    widest = jnp.minimum(jnp.minimum(time_width, share), valid)
    in_time = _bands(key_time, time_masks, steps, valid, widest)  # (*B, T)
    whole = jnp.full(rows, features, jnp.int32)
    in_frequency = _bands(key_frequency, frequency_masks, features, whole, jnp.minimum(frequency_width, whole))
    hidden = in_time[..., :, None] | in_frequency[..., None, :]
    fill = jnp.expand_dims(jnp.broadcast_to(fill, (features,)), tuple(range(x.ndim - 1)))
    return before_end(jnp.where(hidden, fill, x), lengths, x.ndim - 2)


def _bands(key: Key, masks: int, size: int, length: Array, widest: Array) -> Array:
    """True within any of the masks of a row, (*B, size)."""
    key_width, key_start = jax.random.split(key)
    shape = (*length.shape, masks)
    width = jax.random.randint(key_width, shape, 0, widest[..., None] + 1, jnp.int32)
    start = jax.random.randint(key_start, shape, 0, length[..., None] - width + 1, jnp.int32)
    at = jnp.expand_dims(jnp.arange(size, dtype=jnp.int32), tuple(range(len(shape))))
    inside = (at >= start[..., None]) & (at < (start + width)[..., None])
    return jnp.any(inside, axis=-2)
