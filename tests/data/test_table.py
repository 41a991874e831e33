"""Tables of numbers: what is in them, and what is wrong with them."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

import rnnjax as rj

DEFECTS = (
    "\ufeffdate,load, OT ,note\r\n"
    "2016-07-01 00:00:00,5.8,30.5,a\r\n"
    "\r\n"
    '2016-07-01 01:00:00,"5.7",?,b\r\n'
    "2016-07-01 02:00:00,5.6\r\n"
    "2016-13-01 03:00:00,,31,c\r\n"
    "2016-07-01T04:00+02:00,inf,1_000,d\r\n"
    '2016-07-01 05:00:00,"5,31,e\r\n'
).encode() + b"2016-07-01 06:00:00,5.4,31,\xe9\r\n2016-07-01 07:00:00,-1e2,3,f\r\n"


@pytest.mark.parametrize("packed", [False, True])
def test_every_defect_is_named_and_the_rest_is_used(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("oil.csv.gz" if packed else "oil.csv")
    path.write_bytes(gzip.compress(DEFECTS) if packed else DEFECTS)
    reading = rj.data.read_table(path)
    (table,) = reading
    assert (table.name, table.columns) == ("oil", ("load", "OT"))
    hours = ["2016-07-01T00", "2016-07-01T01", "NaT", "2016-07-01T02", "2016-07-01T07"]
    np.testing.assert_array_equal(table.time, np.array(hours, "datetime64[us]"))
    nan = np.nan
    np.testing.assert_array_equal(table.values, [[5.8, 30.5], [5.7, nan], [nan, 31], [nan, nan], [-100, 3]])
    assert (table.values.dtype, table.time.dtype) == ("float64", "datetime64[us]")
    assert [place.line for place in reading.places] == [None]
    assert [(problem.place.line, problem.message) for problem in reading.problems] == [
        (3, "left out: an empty line"),
        (5, "left out: 2 cells, where the first line has 4"),
        (8, "left out: unexpected end of data"),
        (9, "left out: not utf-8 (byte 0xe9 at column 28); pass another `encoding` if the file has one"),
        (None, "left out: column 3 (from 0), 'note', has no number"),
        (4, "NaN: '?' in column 2 (from 0), 'OT', is no finite number"),
        (6, "NaT: '2016-13-01 03:00:00' in column 0 (from 0), 'date', is no date"),
        (6, "NaN: '' in column 1 (from 0), 'load', is no finite number"),
        (7, "NaN: 'inf' in column 1 (from 0), 'load', is no finite number"),
        (7, "NaN: '1_000' in column 2 (from 0), 'OT', is no finite number"),
    ]
    assert str(reading.problems[5]).startswith(f"{path}:4: NaN: '?'")
    assert reading.report().startswith("1 items, 5 left out, 5 holes, 0 mended\n")


@pytest.mark.parametrize("text", ["nan,2,6\n1,3,9\n", "5,2,\n1,3,9\n"])
def test_missing_numbers_of_a_first_line_are_no_names(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    reading = rj.data.read_table(path)
    (table,) = reading
    assert (table.columns, table.values.shape, np.isnan(table.values).sum()) == (("0", "1", "2"), (2, 3), 1)
    assert [problem.place.line for problem in reading.problems] == [1]


@pytest.mark.parametrize(
    ("text", "options", "columns", "time", "values"),
    [
        ("1,2\n3,4\n", {}, ("0", "1"), None, [[1, 2], [3, 4]]),  # no line of names
        ("2020-01-01,2\n2020-01-02,4\n", {}, ("1",), ["2020-01-01", "2020-01-02"], [[2], [4]]),
        ("Date,n\n1949-01,112\n1949-02,118\n", {}, ("n",), ["1949-01", "1949-02"], [[112], [118]]),
        (",0\n1821,269\n1822,321\n", {}, ("", "0"), None, [[1821, 269], [1822, 321]]),
        (",0\n1821,269\n1822,321\n", {"time": ""}, ("0",), ["1821", "1822"], [[269], [321]]),
        ("a;b\n1;2020-01-01\n3;2020\n", {"time": "b", "delimiter": ";"}, ("a",), ["2020-01-01"] * 2, [[1], [3]]),
        ("a,b\n1,2", {}, ("a", "b"), None, [[1, 2]]),
    ],
)
def test_names_and_times(tmp_path: Path, text: str, options: dict, columns: tuple, time: list, values: list) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    reading = rj.data.read_table(path, **options)
    (table,) = reading
    assert table.columns == columns
    assert not reading.problems
    if time is None:
        assert table.time is None
    else:
        np.testing.assert_array_equal(table.time, np.array(time, "datetime64[us]"))
    np.testing.assert_array_equal(table.values, values)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "left out: no line of data"),
        ("a,b\n", {}, "left out: no line of data"),
        ("a,b\n1\n", {}, r"table\.csv:2: left out: 1 cells, where the first line has 2"),
        ("a,b\nx,y\n", {}, r"left out: column 0 \(from 0\), 'a', has no number"),
        ("a\n2020-01-01\n", {}, "left out: no column of numbers"),
        ("a,b\n1,2\n", {"time": "date"}, "left out: no column 'date'; it has 'a', 'b'"),
    ],
)
def test_nothing_to_use_is_an_error(tmp_path: Path, text: str, options: dict, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        rj.data.read_table(path, **options)


def test_archives_hold_a_table_a_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/b.csv", "n\n1\n")
        archive.writestr("in/a.csv.gz", gzip.compress(b"n\n2\n"))
        archive.writestr("in/c.txt", "n\n3\n")
    reading = rj.data.read_table(tmp_path / "all.zip")
    assert [(table.name, table.values.tolist()) for table in reading] == [("a", [[2]]), ("b", [[1]])]
