"""The short-time Fourier transform."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_size, describe, is_array, known
from .._struct import struct
from .._types import Array, wide

WINDOWS = {"hann": (0.5, 0.5), "hamming": (0.54, 0.46), "ones": (1.0, 0.0)}


@struct
class STFT:
    """The short-time Fourier transform of a waveform.

    X_tk = Σ_n window_n x_{t·hop + n} exp(−2πi k n / n_fft)

    Calling it with a waveform (*B, N) and perhaps the valid samples of each row, integers (*B), returns the spectrum,
    complex (*B, T, 1 + n_fft // 2), and the valid frames of each row, int32 (*B). Samples behind the end of a row count
    as silence, whatever they are, and frames behind its end are zero, so that a padded row has the frames of the row
    alone. A row without samples has no frame. Parameters are as in librosa, whose axes are (F, T); torchaudio's default
    is `pad_mode="reflect"`.

    Args:
        n_fft: samples of a frame.
        hop_length: samples from one frame to the next; None takes win_length // 4.
        win_length: samples of the window, in the middle of the frame; None takes n_fft.
        window: "hann", "hamming" or "ones", periodic.
        center: whether frame t has its middle at sample t·hop, with half a frame added at both ends, or, as a stream
            needs it, its beginning.
        pad_mode: what is added, "constant" for silence or "reflect", which cannot be combined with lengths.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> spectrum, frames = rj.data.STFT(8, 4)(jnp.ones((2, 12)), jnp.array([12, 5]))
    >>> spectrum.shape, frames.tolist()
    ((2, 4, 5), [4, 2])
    """

    n_fft: int
    hop_length: int | None = None
    win_length: int | None = None
    window: str = "hann"
    center: bool = True
    pad_mode: str = "constant"

    def __post_init__(self) -> None:
        check_size("n_fft", self.n_fft)
        check_size("hop_length", self.hop)
        check_size("win_length", self.width)
        if self.width > self.n_fft:
            raise ValueError(f"`win_length` must be at most `n_fft`, {self.n_fft}; got {self.width}")
        if self.window not in WINDOWS:
            raise ValueError(f"`window` must be one of {', '.join(WINDOWS)}; got {self.window!r}")
        if self.pad_mode not in ("constant", "reflect"):
            raise ValueError(f'`pad_mode` must be "constant" or "reflect"; got {self.pad_mode!r}')

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(self.width // 4, 1) if self.hop_length is None else self.hop_length

    @property
    def width(self) -> int:
        """Samples of the window."""
        return self.n_fft if self.win_length is None else self.win_length

    @property
    def bins(self) -> int:
        """1 + n_fft // 2 frequencies, from 0 to half the rate."""
        return 1 + self.n_fft // 2

    def frames(self, samples: Any) -> Any:
        """How many frames so many samples have: integers or arrays of them."""
        xp: Any = jnp if isinstance(samples, jax.Array) else np
        if self.center:  # n_fft // 2 more on either side, one less than a frame in all where n_fft is odd
            return xp.where(samples > 0, 1 + (samples - self.n_fft % 2) // self.hop, 0)
        return xp.maximum(0, 1 + (samples - self.n_fft) // self.hop)

    def __call__(self, signal: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        signal, lengths = checked(signal, lengths)
        if self.pad_mode == "reflect" and self.center and signal.shape[-1] <= self.n_fft // 2:
            raise ValueError(
                f"`signal` must be longer than half a frame, {self.n_fft // 2} samples, to be reflected; "
                f'got {signal.shape[-1]}: use `pad_mode="constant"`'
            )
        if self.pad_mode == "reflect" and lengths is not None:
            raise ValueError('`lengths` need `pad_mode="constant"`: where a row ends it is followed by silence')
        return _transform(self, signal, lengths)


def checked(signal: Any, lengths: Any) -> tuple[Array, Array | None]:
    """A waveform (*B, N) and its lengths (*B), clamped to 0…N; TypeError or ValueError if they are none."""
    if not is_array(signal) or not jnp.issubdtype(signal.dtype, jnp.floating):
        raise TypeError(
            f"`signal` must be a floating point array (*B, N); got {describe(signal)}: divide PCM of 16 bits by 32768"
        )
    if signal.ndim == 0:
        raise ValueError("`signal` must be (*B, N); got a single number")
    signal = wide(signal)
    return signal, None if lengths is None else checked_lengths(lengths, signal.shape[:-1], signal.shape[-1])


def checked_lengths(lengths: Any, rows: tuple[int, ...], longest: int) -> Array:
    """Integers (*B), clamped to 0…longest; concrete ones outside are a ValueError."""
    if not is_array(lengths) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers {rows}; got {describe(lengths)}")
    if lengths.shape != rows:
        raise ValueError(f"`lengths` must have one entry for each row, {rows}; got {lengths.shape}")
    concrete = known(lengths)
    if concrete is not None and concrete.size and not 0 <= concrete.min() <= concrete.max() <= longest:
        raise ValueError(f"`lengths` must lie in 0…{longest}; got {concrete.min()}…{concrete.max()}")
    return jnp.clip(jnp.asarray(lengths, jnp.int32), 0, longest)


def before_end(x: Array, lengths: Array | None, axis: int) -> Array:
    """x (*B, T, …) with zeros behind the end of each row; `axis` is that of time, which follows the batch's."""
    if lengths is None:
        return x
    times = jnp.arange(x.shape[axis], dtype=jnp.int32)
    inside = times < jnp.expand_dims(lengths, -1) if lengths.ndim == 0 else _less(times, lengths)
    inside = jnp.expand_dims(inside, tuple(range(inside.ndim, x.ndim)))
    return jnp.where(inside, x, jnp.zeros((), x.dtype))


def _less(times: Array, lengths: Array) -> Array:
    times = jnp.expand_dims(times, tuple(range(lengths.ndim)))
    return times < lengths[..., None]


def window(kind: str, win_length: int, n_fft: int) -> np.ndarray:
    """A periodic window in the middle of a frame, float64 (n_fft)."""
    mean, swing = WINDOWS[kind]
    values = mean - swing * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    left = (n_fft - win_length) // 2
    return np.pad(values, (left, n_fft - win_length - left))


@jax.jit
def _transform(stft: STFT, signal: Array, lengths: Array | None) -> tuple[Array, Array]:
    signal = before_end(signal, lengths, signal.ndim - 1)
    rows, samples = signal.shape[:-1], signal.shape[-1]
    count = int(stft.frames(samples))
    frames = jnp.full(rows, count, jnp.int32) if lengths is None else stft.frames(lengths).astype(jnp.int32)
    if not count:
        return jnp.zeros((*rows, 0, stft.bins), np.result_type(signal.dtype, np.complex64)), frames
    if stft.center:
        half = stft.n_fft // 2
        signal = jnp.pad(signal, [(0, 0)] * len(rows) + [(half, half)], mode=stft.pad_mode)
    starts = np.arange(count) * stft.hop
    framed = signal[..., starts[:, None] + np.arange(stft.n_fft)[None]]
    shape = (1,) * (framed.ndim - 1) + (stft.n_fft,)
    shaped = jnp.asarray(window(stft.window, stft.width, stft.n_fft), signal.dtype).reshape(shape)
    spectrum = jnp.fft.rfft(framed * shaped)
    return before_end(spectrum, frames, len(rows)), frames
