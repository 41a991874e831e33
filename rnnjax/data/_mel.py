"""What a recogniser hears: mel spectra, their logarithms, cepstra."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_size
from .._struct import set_field, struct
from .._types import Array
from ._stft import STFT, before_end

# Slaney's scale is linear up to 1 kHz, 15 mels, and logarithmic above
LINEAR, KNEE, LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def hz_to_mel(frequency: Any, scale: str = "slaney") -> np.ndarray:
    """Hertz in mels.

    htk:     m = 2595 log₁₀(1 + f / 700)
    slaney:  m = 3 f / 200 below 1 kHz, 15 + 27 ln(f / 1000) / ln 6.4 from there on

    Args:
        frequency: f, a number or an array of any shape.
        scale: "slaney" as in librosa, or "htk" as in torchaudio.

    Returns:
        m, float64, of the same shape.

    Raises:
        ValueError: for another `scale`.
    """
    f = np.asarray(frequency, np.float64)
    if _scale(scale) == "htk":
        return 2595 * np.log10(1 + f / 700)
    return np.where(f < KNEE, f / LINEAR, KNEE / LINEAR + np.log(np.maximum(f, KNEE) / KNEE) / LOG_STEP)


def mel_to_hz(mel: Any, scale: str = "slaney") -> np.ndarray:
    """Mels in hertz, the inverse of `hz_to_mel`.

    Args:
        mel: a number or an array of any shape.
        scale: as for `hz_to_mel`.

    Returns:
        hertz, float64, of the same shape.

    Raises:
        ValueError: for another `scale`.
    """
    m = np.asarray(mel, np.float64)
    if _scale(scale) == "htk":
        return 700 * (10 ** (m / 2595) - 1)
    knee = KNEE / LINEAR
    return np.where(m < knee, m * LINEAR, KNEE * np.exp(LOG_STEP * np.maximum(m - knee, 0)))


def _scale(scale: str) -> str:
    if scale not in ("slaney", "htk"):
        raise ValueError(f'`scale` must be "slaney" or "htk"; got {scale!r}')
    return scale


def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int = 128,
    *,
    fmin: float = 0.0,
    fmax: float | None = None,
    scale: str = "slaney",
    norm: str | None = "slaney",
) -> np.ndarray:
    """Triangles that overlap by half, evenly spaced in mels.

    Args:
        sample_rate: samples a second.
        n_fft: samples of a frame.
        n_mels: how many.
        fmin, fmax: hertz at which the first begins and the last ends; None is half the rate.
        scale: "slaney" as in librosa, or "htk" as in torchaudio.
        norm: "slaney" gives each triangle the area 1 over hertz, as in librosa; None the height 1, as in torchaudio.

    Returns:
        the height of each triangle at the frequencies of the transform, float64 (1 + n_fft // 2, n_mels).

    Raises:
        ValueError: for a triangle so narrow that it meets no frequency of the transform, ends that are not
            0 ≤ fmin < fmax ≤ sample_rate / 2, another `scale` or `norm`, and sizes below 1.
        TypeError: for a `sample_rate`, `n_fft` or `n_mels` that is no integer.

    References:
        Stevens, Volkmann, Newman 1937, doi:10.1121/1.1915893; Slaney 1998, Auditory Toolbox, version 2.
    """
    check_size("sample_rate", sample_rate)
    check_size("n_fft", n_fft)
    check_size("n_mels", n_mels)
    fmax = sample_rate / 2 if fmax is None else fmax
    if not 0 <= fmin < fmax <= sample_rate / 2:
        raise ValueError(f"`fmin` and `fmax` must be 0 ≤ fmin < fmax ≤ {sample_rate / 2} Hz; got {fmin} and {fmax}")
    if norm not in ("slaney", None):
        raise ValueError(f'`norm` must be "slaney" or None; got {norm!r}')
    bins = np.arange(1 + n_fft // 2)[:, None] * (sample_rate / n_fft)
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), n_mels + 2), scale)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    heights = np.maximum(0, np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)))
    empty = np.flatnonzero(heights.max(0) == 0)
    if empty.size:
        raise ValueError(
            f"`n_mels`, {n_mels}, is too large for `n_fft`, {n_fft}: filter {empty[0]} meets no frequency; take fewer "
            "filters, longer frames or another range"
        )
    return heights * (2 / (right - left)) if norm == "slaney" else heights


@struct
class MelSpectrogram:
    """The power of a waveform in bands that are evenly spaced in mels.

    M_tm = Σ_k |X_tk|^power filter_km, X the short-time Fourier transform

    Calling it with (*B, N) and perhaps lengths (*B) returns (*B, T, n_mels) and the valid frames (*B), as `STFT` does.

    Args:
        sample_rate: samples a second.
        stft: the transform.
        n_mels, fmin, fmax, scale, norm: as for `mel_filters`.
        power: 2 for power, 1 for magnitude.
    """

    sample_rate: int
    stft: STFT
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float | None = None
    scale: str = "slaney"
    norm: str | None = "slaney"
    power: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.stft, STFT):
            raise TypeError(f"`stft` must be an `rnnjax.data.STFT`; got {type(self.stft).__name__}")
        self.filters()

    def filters(self) -> np.ndarray:
        """The filters, float64 (bins, n_mels)."""
        ends = {"fmin": self.fmin, "fmax": self.fmax}
        return mel_filters(self.sample_rate, self.stft.n_fft, self.n_mels, **ends, scale=self.scale, norm=self.norm)

    def __call__(self, signal: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        spectrum, frames = self.stft(signal, lengths)
        return _bands(self, spectrum), frames


@struct
class LogMel:
    """The natural logarithm of a mel spectrogram, the usual input of a recogniser.

    y = ln max(M, floor), and 0 behind the end of a row

    Nothing in it depends on other frames, so with `STFT(center=False)` a stream may be cut into chunks that overlap by
    n_fft − hop_length samples.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> features = rj.data.LogMel(rj.data.MelSpectrogram(8000, rj.data.STFT(256, 80), n_mels=20))
    >>> y, frames = features(jnp.ones((3, 800)), jnp.array([800, 400, 0]))
    >>> y.shape, frames.tolist()
    ((3, 11, 20), [11, 6, 0])
    """

    mel: MelSpectrogram
    floor: float = 1e-10

    def __post_init__(self) -> None:
        _check_mel(self.mel)
        check_floor("floor", self.floor)

    def __call__(self, signal: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        power, frames = self.mel(signal, lengths)
        return before_end(jnp.log(jnp.maximum(power, self.floor)), frames, power.ndim - 2), frames


@struct
class MFCC:
    """Mel-frequency cepstral coefficients: the cosine transform (DCT-II, orthonormal) of a mel spectrum in decibels.

    c_tk = s_k Σ_m cos(π k (m + ½) / n_mels) dB(M)_tm, s_0 = √(1 / n_mels), s_k = √(2 / n_mels)

    Calling it with (*B, N) and perhaps lengths (*B) returns (*B, T, n_mfcc), 0 behind the end of a row, and the valid
    frames (*B).

    Args:
        mel: the spectrogram.
        n_mfcc: how many coefficients, 20 as in librosa; torchaudio's default is 40.
        top_db: how far below the loudest band of its row a band may be, or None.
        lifter: L of the weights 1 + L/2 sin(π (k + 1) / L), or 0 for none.

    References:
        Davis, Mermelstein 1980, doi:10.1109/TASSP.1980.1163420.
    """

    mel: MelSpectrogram
    n_mfcc: int = 20
    top_db: float | None = 80.0
    lifter: float = 0.0

    def __post_init__(self) -> None:
        _check_mel(self.mel)
        check_size("n_mfcc", self.n_mfcc)
        if self.n_mfcc > self.mel.n_mels:
            raise ValueError(f"`n_mfcc` must be at most the {self.mel.n_mels} bands; got {self.n_mfcc}")
        if self.lifter < 0:
            raise ValueError(f"`lifter` must be at least 0; got {self.lifter}")
        set_field(self, "lifter", float(self.lifter))

    def __call__(self, signal: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        power, frames = self.mel(signal, lengths)
        decibels = power_to_db(power, top_db=self.top_db)
        cepstra = jnp.matmul(decibels, jnp.asarray(self._transform(), power.dtype), precision="highest")
        return before_end(cepstra, frames, power.ndim - 2), frames

    def _transform(self) -> np.ndarray:
        k = np.arange(self.n_mfcc)
        cosines = np.cos(np.pi * k * (np.arange(self.mel.n_mels)[:, None] + 0.5) / self.mel.n_mels)
        scale = np.where(k == 0, 1, np.sqrt(2)) / np.sqrt(self.mel.n_mels)
        lift = 1 + self.lifter / 2 * np.sin(np.pi * (k + 1) / self.lifter) if self.lifter else 1
        return cosines * scale * lift


def power_to_db(power: Array, *, ref: float = 1.0, amin: float = 1e-10, top_db: float | None = 80.0) -> Array:
    """Power (*B, T, F) in decibels, 10 log₁₀(max(power, amin) / max(ref, amin)).

    Args:
        power: what is measured.
        ref: what is 0 dB.
        amin: the least power, at least float32's smallest normal number.
        top_db: values further than this below the loudest of their row (T, F) are raised to there; None leaves them.

    Returns:
        decibels (*B, T, F).

    Raises:
        ValueError: for an `amin` below float32's smallest normal number, and a `top_db` below 0.
    """
    check_floor("amin", amin)
    decibels = 10 * jnp.log10(jnp.maximum(power, amin)) - float(10 * np.log10(max(ref, amin)))
    if top_db is None or not decibels.size:
        return decibels
    if top_db < 0:
        raise ValueError(f"`top_db` must be at least 0; got {top_db}")
    loudest = jnp.max(decibels, axis=(-2, -1), keepdims=True)
    return jnp.maximum(decibels, jnp.broadcast_to(loudest - top_db, decibels.shape))


def check_floor(name: str, value: float) -> None:
    """Raises unless a least power is above 0 in float32, whose logarithm is taken."""
    if not value >= np.finfo(np.float32).tiny:
        raise ValueError(f"`{name}` must be positive, {np.finfo(np.float32).tiny:.2g} or more; got {value}")


def _check_mel(mel: Any) -> None:
    if not isinstance(mel, MelSpectrogram):
        raise TypeError(f"`mel` must be an `rnnjax.data.MelSpectrogram`; got {type(mel).__name__}")


@jax.jit
def _bands(mel: MelSpectrogram, spectrum: Array) -> Array:
    # squares and not a root: the root of silence has no gradient
    squares = spectrum.real**2 + spectrum.imag**2
    if mel.power != 2:
        loud = squares > 0
        squares = jnp.where(loud, jnp.where(loud, squares, 1) ** (mel.power / 2), 0)
    return jnp.matmul(squares, jnp.asarray(mel.filters(), squares.dtype), precision="highest")
