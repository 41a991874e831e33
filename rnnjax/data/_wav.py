"""Sound files."""

from __future__ import annotations

import io
import math
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io.wavfile
import scipy.signal

from .._errors import check_size
from ._reading import PathLike, Place, Problem

UNKNOWN_SIZE = b"\xff\xff\xff\xff"


class Sound(NamedTuple):
    """A waveform, float32 (N,), PCM between −1 and 1, its rate in samples a second, and what was mended on the way."""

    samples: np.ndarray
    rate: int
    problems: tuple[Problem, ...] = ()


def read_wav(path: PathLike, rate: int | None = None) -> Sound:
    """The waveform of a wav file: PCM of 8, 16, 24 or 32 bits, or floating point.

    Several channels become their mean, another rate is resampled by a polyphase filter, numbers that are not finite
    become 0, and of a file that ends too early what is there is used; a problem says so for each.

    Args:
        path: the file.
        rate: samples a second that are wanted; None keeps those of the file.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: for one that is no wav file of these kinds, or holds no sample; it names the file.
    """
    place = Place(str(path))
    problems = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        raw = Path(path).read_bytes()
        try:
            found, data = scipy.io.wavfile.read(io.BytesIO(_whole_frames(raw)))
        # SciPy's parser has no error of its own: a header that makes no sense ends in any of these
        except Exception as error:
            reason = error if isinstance(error, ValueError) else "its header makes no sense"
            raise ValueError(f"{path} is no wav file that can be read: {reason}") from error
    if any("EOF" in str(warning.message) or "incomplete" in str(warning.message).lower() for warning in caught):
        problems.append(Problem(place, "cut short: the file ends before its header says; what is there is used"))
    if not data.size:
        raise ValueError(f"{path} holds no sample")
    samples = _floats(data)
    if samples.ndim == 2:
        problems.append(Problem(place, f"{samples.shape[1]} channels: their mean is used"))
        samples = samples.mean(1)
    if not np.isfinite(samples).all():
        problems.append(Problem(place, "samples that are not finite: 0 is used in their place"))
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    if rate is not None and rate != found:
        check_size("rate", rate)
        problems.append(Problem(place, f"{found} samples a second: resampled to {rate}"))
        common = math.gcd(rate, found)
        samples = scipy.signal.resample_poly(samples, rate // common, found // common)
        found = rate
    return Sound(samples.astype(np.float32), int(found), tuple(problems))


def _whole_frames(raw: bytes) -> bytes:
    """A file that ends within a sample or before one of its channels, without that part; one whose recorder did not
    live to write sizes, with the largest ones; any other as it is."""
    order = ">" if raw[:4] == b"RIFX" else "<"
    at, frame = 12, 1
    unfinished = raw[4:8] == bytes(4)
    if unfinished:
        raw = raw[:4] + UNKNOWN_SIZE + raw[8:]
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from(f"{order}4sI", raw, at)
        at += 8
        if unfinished and kind == b"data" and not size:
            raw = raw[: at - 4] + UNKNOWN_SIZE + raw[at:]
            size = len(raw)
        if kind == b"fmt " and at + 14 <= len(raw):
            (frame,) = struct.unpack_from(f"{order}H", raw, at + 12)
        if kind == b"data" and at + size > len(raw):
            return raw[: len(raw) - (len(raw) - at) % max(frame, 1)]
        at += size + size % 2  # a chunk of odd length is padded
    return raw


def _floats(data: Any) -> np.ndarray:
    """Samples between −1 and 1, float64; 24 bits come in the upper bytes of int32."""
    if data.dtype == np.uint8:
        return (data.astype(np.float64) - 128) / 128
    if np.issubdtype(data.dtype, np.integer):
        return data.astype(np.float64) / (np.iinfo(data.dtype).max + 1)
    return data.astype(np.float64)


def write_wav(path: PathLike, samples: Any, rate: int) -> None:
    """Writes samples (N,), floating point between −1 and 1 and clipped to that, as PCM of 16 bits."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"`samples` must be one channel, (N,); got {samples.shape}")
    if samples.dtype.kind in "biu":
        raise TypeError(f"`samples` must be floating point; got {samples.dtype}: divide PCM of 16 bits by 32768")
    if not np.isfinite(samples).all():
        raise ValueError("`samples` must be finite; got inf or NaN")
    check_size("rate", rate)
    numbers = np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    scipy.io.wavfile.write(Path(path), rate, numbers)
