"""Readers of arrays and of time series: IDX files and the archives' `.ts` files."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._reading import UNREADABLE, Found, PathLike, Place, Problem, Reading, filled_lines, read_files

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: PathLike) -> np.ndarray:
    """The array of an IDX file, the format of MNIST.

    Args:
        path: the file, or the same gzipped. MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0) is four of them: images
            (60000, 28, 28) and (10000, 28, 28), and their digits.

    Returns:
        the array in the file's shape and dtype.

    Raises:
        OSError: if there is no file.
        ValueError: if it is none of these, or shorter or longer than its header says.

    >>> import tempfile, pathlib, rnnjax as rj
    >>> path = pathlib.Path(tempfile.mkdtemp(), "digits-idx1-ubyte")
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    >>> rj.data.read_idx(path).tolist()
    [5, 0, 4]
    """
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except UNREADABLE as error:
            raise ValueError(f"{path} cannot be read ({error}): fetch it again") from error
    dtype = _IDX_DTYPES.get(raw[2]) if len(raw) >= 4 and raw[:2] == b"\0\0" else None
    if dtype is None:
        raise ValueError(f"{path} is no IDX file: it begins with {raw[:4].hex(' ') or 'nothing'}, not with 00 00")
    ndim = raw[3]
    start = 4 + 4 * ndim
    shape = tuple(np.frombuffer(raw[:start].ljust(start, b"\0"), ">u4", ndim, 4).tolist())
    needed = start + math.prod(shape) * np.dtype(dtype).itemsize
    if len(raw) != needed:
        raise ValueError(f"{path} has {len(raw):,} bytes, and its header says {needed:,} for {shape}: fetch it again")
    array = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))


class Series(NamedTuple):
    """A time series, values (T, D) in float32, and its label, None where the file has none."""

    values: np.ndarray
    label: str | None


def read_ts(path: PathLike, *, encoding: str = "utf-8") -> Reading[Series]:
    """Time series of the UCR and UEA archives in the form of the packages sktime and aeon.

    After lines with `#` and `@` a line is a series: its channels, with `:` between them, of numbers with `,` between
    them, and its label behind the last `:`. Steps at the end without a number in any channel, which are padding, are
    cut off; other numbers that are missing are NaN.

    Args:
        path: a `.ts` file, the same gzipped, or a zip file or folder of such files; folders usually hold a training and
            a test part, so name the file. Sets in this form are at timeseriesclassification.com, such as JapaneseVowels
            (270 + 370 series of 12 channels and 7 to 29 steps, 9 speakers).
        encoding: of the file.

    Returns:
        a `Reading` of `Series`. A line whose channels differ in length, or in number from those of the first one, or
        with something that is no number, is left out; so is a file with time stamps.

    >>> import tempfile, pathlib, rnnjax as rj
    >>> path = pathlib.Path(tempfile.mkdtemp(), "two.ts")
    >>> _ = path.write_text("@classLabel true up down\\n@data\\n1,2,3:4,5,6:up\\n2,1:0,0:down\\n")
    >>> [(series.values.shape, series.label) for series in rj.data.read_ts(path)]
    [((3, 2), 'up'), ((2, 2), 'down')]
    """

    def read(name: str, raw: bytes) -> Iterator[Found[Series]]:
        labelled, begun, channels = False, False, 0
        for one in filled_lines(name, raw, encoding):
            if isinstance(one, Problem):
                yield one
                continue
            place, line = one
            if not begun and line.startswith("@"):
                key, _, value = line[1:].strip().partition(" ")
                said = value.split(" ")[0].lower() == "true"
                if key.lower() == "timestamps" and said:
                    yield Problem(Place(name), "left out: a file with time stamps; only evenly spaced steps are read")
                    return
                labelled |= key.lower() in ("classlabel", "targetlabel") and said
                begun = key.lower() == "data"
            elif line.startswith("#"):
                continue
            elif not begun:
                yield Problem(place, "left out: before the line @data")
            else:
                found = _series(place, line, labelled)
                if not isinstance(found, Problem):
                    count = found[1].values.shape[1]
                    channels = channels or count
                    if count != channels:
                        message = f"left out: {count} channels, where the first series has {channels}"
                        found = Problem(place, message + (", or no label" if labelled else ""))
                yield found

    return read_files(path, (".ts",), read)


def _series(place: Place, line: str, labelled: bool) -> Found[Series]:
    *channels, last = line.strip().split(":")
    label = last.strip() if labelled else None
    if not labelled:
        channels.append(last)
    if label == "" or not channels:
        return Problem(place, "left out: no label behind the last `:`")
    try:
        rows = [[_number(cell) for cell in channel.split(",")] for channel in channels]
    except ValueError as error:
        return Problem(place, f"left out: {error}")
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        return Problem(place, f"left out: channels of {lengths[0]} to {lengths[-1]} steps; they must be of one length")
    values = np.array(rows, np.float32).T  # (T, D)
    filled = np.flatnonzero(~np.isnan(values).all(1))
    if filled.size == 0:
        return Problem(place, "left out: no number in it")
    return place, Series(values[: filled[-1] + 1], label)


def _number(cell: str) -> float:
    if cell.strip() == "?":
        return math.nan
    number = float(cell) if "_" not in cell else math.inf
    if abs(number) > float(np.finfo(np.float32).max):
        raise ValueError(f"{cell.strip()} is no number that float32 can hold")
    return number
