"""Reader of tables: columns of numbers, and the times of their rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from ._reading import Found, PathLike, Place, Problem, Reading, read_files, stem
from ._rows import rows as rows_of

_YEAR_OR_MONTH = re.compile(r"\d{4}(-\d\d)?")
_NO_DATE = np.datetime64("NaT", "us")
_Row = tuple[Place, list[str]]


class Table(NamedTuple):
    """Columns of numbers.

    name: of the file.
    columns: names of the D columns of numbers.
    time (T), datetime64[us]: NaT where the file has no date, or None for all of it if there is no column of dates.
    values (T, D), float64: NaN where the file has no number.
    """

    name: str
    columns: tuple[str, ...]
    time: np.ndarray | None
    values: np.ndarray


def read_table(
    path: PathLike, *, time: str | None = None, delimiter: str = ",", encoding: str = "utf-8"
) -> Reading[Table]:
    """Tables of numbers, such as series to forecast, from lines of cells.

    The first line names the columns; one that holds nothing but numbers and dates is data, and the names are then the
    places, from 0. A cell may stand in double quotes.

    Args:
        path: a file, gzipped or not, or a zip file or folder of `.csv` files. Sets in this form: ETTh1 and ETTh2 (Zhou
            et al. 2021, arXiv:2012.07436; github.com/zhouhaoyi/ETDataset, CC BY-ND 4.0), 17,420 hours of 7 columns, and
            the series to forecast of the package aeon.
        time: name of the column with the times of the rows, in the forms of ISO 8601: days, with a time or without,
            months or years. Those with an offset from UTC become UTC. None is the first column if it holds dates and no
            number.
        delimiter: the character between cells.
        encoding: of the files.

    Returns:
        a `Reading` of one `Table` a file. A cell that is no finite number, empty ones too, is NaN, and a time that is
        none is NaT. A column without any number is left out, and so is a line with more or fewer cells than the first.

    >>> import tempfile, pathlib, rnnjax as rj
    >>> path = pathlib.Path(tempfile.mkdtemp(), "oil.csv")
    >>> _ = path.write_text("date,load,OT\\n2016-07-01 00:00,5.8,30.5\\n2016-07-01 01:00,5.7,?\\n")
    >>> reading = rj.data.read_table(path)
    >>> table = reading.items[0]
    >>> table.columns, table.values.tolist(), str(table.time[1])
    (('load', 'OT'), [[5.8, 30.5], [5.7, nan]], '2016-07-01T01:00:00.000000')
    >>> [(problem.place.line, problem.message) for problem in reading.problems]
    [(3, "NaN: '?' in column 2 (from 0), 'OT', is no finite number")]
    """

    def read(name: str, raw: bytes) -> Iterator[Found[Table]]:
        rows: list[_Row] = []
        for found in rows_of(name, raw, delimiter, True, encoding):
            if not isinstance(found, Problem) and rows and len(found[1]) != len(rows[0][1]):
                message = f"left out: {len(found[1])} cells, where the first line has {len(rows[0][1])}"
                found = Problem(found[0], message)
            if isinstance(found, Problem):
                yield found
            else:
                rows.append(found)
        yield from _table(name, rows, time)

    return read_files(path, (".csv",), read)


def _table(name: str, rows: Sequence[_Row], time: str | None) -> Iterator[Found[Table]]:
    place = Place(name)
    names, rows = _named(rows)
    if not rows:
        yield Problem(place, "left out: no line of data")
        return
    if time is not None and time not in names:
        yield Problem(place, f"left out: no column {time!r}; it has {', '.join(map(repr, names))}")
        return
    numbers = [[_number(row[column]) for _, row in rows] for column in range(len(names))]
    filled = [column for column in range(len(names)) if any(number is not None for number in numbers[column])]
    clock = 0 if time is None else names.index(time)
    dates = [_date(row[clock]) for _, row in rows]
    if time is None and (clock in filled or all(date is None for date in dates)):
        clock = None
    kept = [column for column in filled if column != clock]
    which = [f"column {column} (from 0), {label!r}," for column, label in enumerate(names)]
    for column in range(len(names)):
        if column not in (*kept, clock):
            yield Problem(place, f"left out: {which[column]} has no number")
    if not kept:
        yield Problem(place, "left out: no column of numbers")
        return
    for index, (at, row) in enumerate(rows):
        if clock is not None and dates[index] is None:
            yield Problem(at, f"NaT: {row[clock]!r} in {which[clock]} is no date")
        for column in kept:
            if numbers[column][index] is None:
                yield Problem(at, f"NaN: {row[column]!r} in {which[column]} is no finite number")
    stamps = np.array([_NO_DATE if date is None else date for date in dates])
    values = np.ascontiguousarray(np.array([numbers[column] for column in kept], np.float64).T)  # None is NaN
    yield place, Table(stem(name), tuple(names[column] for column in kept), None if clock is None else stamps, values)


def _named(rows: Sequence[_Row]) -> tuple[list[str], Sequence[_Row]]:
    """Names of the columns, and the lines of data."""
    if not rows:
        return [], rows
    first = rows[0][1]
    # missing cells are no names, but for that of an index, which comes first
    if not first[0] or any(_number(cell) is None and _date(cell) is None and not _missing(cell) for cell in first):
        return first, rows[1:]
    return [str(column) for column in range(len(first))], rows


def _missing(cell: str) -> bool:
    return cell.lower() in ("", "na", "n/a", "nan", "null", "none")


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if "_" not in cell and math.isfinite(number) else None


def _date(cell: str) -> np.datetime64 | None:
    try:
        if _YEAR_OR_MONTH.fullmatch(cell):
            return np.datetime64(cell, "us")
        date = datetime.fromisoformat(cell)
        utc = date if date.tzinfo is None else date.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return np.datetime64(utc, "us")
