"""IDX arrays and `.ts` files: what is in them, and what is wrong with them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rnnjax as rj

HEADER = "# a remark\n@problemName two\n@timeStamps false\n@classLabel true up down\n@data\n"


@pytest.mark.parametrize(("code", "form"), [(8, "B"), (9, "b"), (11, "h"), (12, "i"), (13, "f"), (14, "d")])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_arrays_of_every_dtype(tmp_path: Path, code: int, form: str, packed: bool) -> None:
    numbers = [3, 1, 4, 1, 5, 9]
    raw = bytes([0, 0, code, 2]) + struct.pack(">2I", 2, 3) + struct.pack(f">6{form}", *numbers)
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    array = rj.data.read_idx(path)
    assert array.tolist() == [[3, 1, 4], [1, 5, 9]]
    assert array.dtype.isnative
    assert array.dtype == {8: "u1", 9: "i1", 11: "i2", 12: "i4", 13: "f4", 14: "f8"}[code]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"P5 1", "is no IDX file: it begins with 50 35 20 31"),
        (bytes([0, 0, 7, 1, 0, 0, 0, 0]), "is no IDX file"),
        (bytes([0, 0, 8, 2, 0, 0]), "has 6 bytes, and its header says 12"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 5]), r"has 9 bytes, and its header says 11 for \(3,\): fetch it again"),
        (gzip.compress(bytes(1000), mtime=0)[:-9], "cannot be read"),
    ],
)
def test_what_is_no_idx_file_is_said(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "array"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        rj.data.read_idx(path)


def test_series_and_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    path.write_text(HEADER + "1,2.5,-3e1:4,?,6:up\n7,NaN:8,NaN:down\n")
    first, second = rj.data.read_ts(path)
    np.testing.assert_array_equal(first.values, np.array([[1, 4], [2.5, np.nan], [-30, 6]], np.float32))
    np.testing.assert_array_equal(second.values, [[7, 8]])  # what is padded is cut off
    assert (first.label, second.label) == ("up", "down")
    path.write_text("@classLabel false\n@data\n1,2\n")
    assert rj.data.read_ts(path).items[0].label is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2:3:up", "channels of 1 to 2 steps"),
        ("1,two:up", "could not convert string to float: 'two'"),
        ("1,2:", "no label behind the last"),
        ("up", "no label behind the last"),
        ("1,2:3,4:up", "2 channels, where the first series has 1, or no label"),
        ("1,1_0:up", "1_0 is no number"),
        ("1,1e39:up", "1e39 is no number that float32 can hold"),
        ("?,?:up", "no number in it"),
        ("", "an empty line"),
    ],
)
def test_bad_lines_are_named_and_the_rest_is_used(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "two.ts"
    path.write_text(HEADER + f"1,2:up\n{line}\n3,4:down\n")
    reading = rj.data.read_ts(path)
    assert [series.label for series in reading] == ["up", "down"]
    (problem,) = reading.problems
    assert problem.place == (str(path), 7)
    assert message in problem.message


def test_files_with_time_stamps_or_without_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    path.write_text("@timeStamps true\n@data\n(0,1),(1,2):up\n")
    with pytest.raises(ValueError, match="time stamps"):
        rj.data.read_ts(path)
    path.write_text("1,2:up\n")
    with pytest.raises(ValueError, match="before the line @data"):
        rj.data.read_ts(path)


def test_the_archives_files(data_path: Callable[[str], Path]) -> None:
    """Sizes as published."""
    folder = data_path("aeon_time_series")
    vowels = rj.data.read_ts(folder / "JapaneseVowels" / "JapaneseVowels_TRAIN.ts")
    assert len(vowels) == 270
    assert not vowels.problems
    lengths = {len(series.values) for series in vowels}
    assert (min(lengths), max(lengths)) == (7, 26)
    assert {series.values.shape[1] for series in vowels} == {12}
    assert {series.label for series in vowels} == set("123456789")
    gestures = rj.data.read_ts(folder / "PickupGestureWiimoteZ" / "PickupGestureWiimoteZ_TRAIN.ts")
    assert len(gestures) == 50
    assert not any(np.isnan(series.values).any() for series in gestures)


def test_mnist(data_path: Callable[[str], Path]) -> None:
    folder = data_path("mnist")
    images = rj.data.read_idx(folder / "t10k-images-idx3-ubyte.gz")
    digits = rj.data.read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(digits).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images[0].max() == 255
    assert digits[:5].tolist() == [7, 2, 1, 0, 4]
