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
    raw, said = _repaired(Path(path).read_bytes())
    problems = [Problem(place, text) for text in said]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of chunks that are not sound
        try:
            found, data = scipy.io.wavfile.read(io.BytesIO(raw))
        # SciPy's parser has no error of its own: a header that makes no sense ends in any of these
        except Exception as error:
            reason = error if isinstance(error, ValueError) else "its header makes no sense"
            raise ValueError(f"{path} is no wav file that can be read: {reason}") from error
    if not data.size:
        raise ValueError(f"{path} holds no sample")
    samples = _floats(data)
    if samples.ndim == 2:
        problems.append(Problem(place, f"{samples.shape[1]} channels: their mean is used"))
        samples = samples.mean(1)
    finite = np.abs(samples) <= np.finfo(np.float32).max
    if not finite.all():
        problems.append(Problem(place, "samples that are not finite in float32: 0 is used in their place"))
        samples = np.where(finite, samples, 0)
    if rate is not None and rate != found:
        check_size("rate", rate)
        problems.append(Problem(place, f"{found} samples a second: resampled to {rate}"))
        common = math.gcd(rate, found)
        samples = scipy.signal.resample_poly(samples, rate // common, found // common)
        found = rate
    return Sound(samples.astype(np.float32), int(found), tuple(problems))


def _repaired(raw: bytes) -> tuple[bytes, list[str]]:
    """A file up to the end of its samples with the sizes that it has, whole frames only, and what was wrong with it.
    SciPy reads no other, and a recorder that was killed leaves sizes that are 0, or those of its first block."""
    if raw[:4] not in (b"RIFF", b"RIFX"):
        return raw, []
    order, at, frame = ">" if raw[:4] == b"RIFX" else "<", 12, 1
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from(f"{order}4sI", raw, at)
        at += 8
        if kind == b"fmt " and at + 14 <= len(raw):
            frame = max(1, *struct.unpack_from(f"{order}H", raw, at + 12))
        if kind == b"data":
            break
        at += size + size % 2  # a chunk of odd length is padded
    else:
        return raw, []
    problems, there = [], len(raw) - at
    if size > there or (size == 0 and not _are_chunks(raw, at, order)):
        problems, size = ["cut short: the file ends before its header says; what is there is used"], there
    elif not _are_chunks(raw, at + size + size % 2, order):
        problems = [f"goes on behind its samples, as its header counts them: {there - size} bytes are not used"]
    elif size % frame:
        problems = ["ends within a frame: that part is not used"]
    size -= size % frame
    samples = raw[at : at + size] + bytes(size % 2)
    head = raw[8 : at - 4] + struct.pack(f"{order}I", size)
    return raw[:4] + struct.pack(f"{order}I", len(head) + len(samples)) + head + samples, problems


def _are_chunks(raw: bytes, at: int, order: str) -> bool:
    """Whether the file goes on with chunks from here to its end; some writers forget what pads the last one."""
    while at + 8 <= len(raw):
        (size,) = struct.unpack_from(f"{order}I", raw, at + 4)
        at += 8 + size + size % 2
    return at - 1 <= len(raw) <= at


def _floats(data: Any) -> np.ndarray:
    """Samples between −1 and 1, float64; 24 bits come in the upper bytes of int32."""
    if data.dtype == np.uint8:
        return (data.astype(np.float64) - 128) / 128
    if np.issubdtype(data.dtype, np.integer):
        return data.astype(np.float64) / (np.iinfo(data.dtype).max + 1)
    return data.astype(np.float64)


def write_wav(path: PathLike, samples: Any, rate: int) -> None:
    """Writes a waveform as PCM of 16 bits.

    Args:
        path: the file; another one of that name is replaced.
        samples: one channel, (N,), floating point between −1 and 1 and clipped to that.
        rate: samples a second.

    Raises:
        ValueError: for samples that are not (N,) or not finite, and a `rate` below 1.
        TypeError: for samples that are integers or booleans, and a `rate` that is no integer.
        OSError: if the file cannot be written.
    """
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
