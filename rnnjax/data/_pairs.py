"""Readers of pairs: lines of cells and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ._reading import EMPTY, HALF, Found, PathLike, Place, Problem, Reading, filled_lines, halved, read_files
from ._rows import rows


def read_pairs(
    path: PathLike,
    *,
    columns: tuple[int | str, int | str] = (0, 1),
    delimiter: str = "\t",
    header: bool = False,
    quoted: bool = False,
    encoding: str = "utf-8",
) -> Reading[tuple[str, str]]:
    """Pairs of texts from lines of cells.

    Args:
        path: a file, gzipped or not, or a zip file or folder of `.tsv` and `.txt` files, and of `.csv` files where the
            delimiter is no tab. A set in this form is Tatoeba's Spanish–English, `spa-eng.zip` from manythings.org/anki
            and tatoeba.org, CC BY 2.0, 118,121 pairs: many English sentences are there more than once, so split by them
            (`split(pairs, …, by=…)`).
        columns: which two columns, each by its number, from 0, or its name; (1, 0) turns the pairs round.
        delimiter: the character between cells.
        header: whether the first line names the columns, and is no pair; it does wherever a column is given by name.
        quoted: whether a cell may stand in double quotes, as pandas and spreadsheets write it; if not, quotes are text.
        encoding: of the file.

    Returns:
        a `Reading` of pairs. A line that is empty, not in this encoding or without text in a column is left out, and
        so is a file whose header cannot be read or lacks a column.

    Raises:
        ValueError: for columns that are not two numbers from 0 or names, and a delimiter that is not one character.

    >>> import tempfile, pathlib, rnnjax as rj
    >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.csv")
    >>> _ = path.write_text('id,English,Spanish\\n7,"Yes, go.",Ve.\\n')
    >>> rj.data.read_pairs(path, columns=("Spanish", "English"), delimiter=",", quoted=True).items
    [('Ve.', 'Yes, go.')]
    """
    fits = [isinstance(one, str) or (isinstance(one, int) and one >= 0) for one in columns]
    if isinstance(columns, str) or fits != [True, True]:
        raise ValueError(f"`columns` must be two numbers from 0 or names, such as (0, 1); got {columns!r}")

    def read(name: str, raw: bytes) -> Iterator[Found[tuple[str, str]]]:
        return _pairs(rows(name, raw, delimiter, quoted, encoding), columns, delimiter, header)

    return read_files(path, (".tsv", ".txt") if delimiter == "\t" else (".tsv", ".txt", ".csv"), read)


def _pairs(
    found: Sequence[Found[list[str]]], columns: tuple[int | str, int | str], delimiter: str, header: bool
) -> Iterator[Found[tuple[str, str]]]:
    """The pairs of a file's rows."""
    names = None if header or any(isinstance(column, str) for column in columns) else []
    for one in found:
        if isinstance(one, Problem):
            if names is None and one.place.line is not None and one.message != EMPTY:
                wrong = f"line {one.place.line}, cannot be read: {one.message.removeprefix('left out: ')}"
                yield Problem(Place(one.place.path), f"left out: its header, {wrong}")
                return
            yield one
        elif names is None:
            names = one[1]
            unknown = [column for column in columns if isinstance(column, str) and column not in names]
            if unknown:
                place = Place(one[0].path)
                yield Problem(place, f"left out: no column {unknown[0]!r}; it has {', '.join(map(repr, names))}")
                return
        else:
            at = [names.index(column) if isinstance(column, str) else column for column in columns]
            yield _pair(*one, at, delimiter)


def _pair(place: Place, cells: list[str], columns: Sequence[int], delimiter: str) -> Found[tuple[str, str]]:
    if len(cells) <= max(columns):
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        needed = f"column {max(columns)} (from 0) is needed"
        return Problem(place, f"left out: {count} between {delimiter!r}, and {needed}")
    first, second = (cells[column] for column in columns)
    empty = next((column for column in columns if not cells[column]), None)
    if empty is not None:
        return Problem(place, f"left out: column {empty} (from 0) is empty")
    return place, (first, second)


def read_json_lines(
    path: PathLike, fields: Sequence[str] = ("source", "target"), *, encoding: str = "utf-8"
) -> Reading[tuple[Any, ...]]:
    """Values of some fields from a file with one JSON object a line.

    Args:
        path: a `.jsonl` or `.json` file, the same gzipped, or a zip file or folder of such files. A set in this form is
            SciTLDR-A (Cachola et al. 2020, arXiv:2004.15011; github.com/allenai/scitldr, Apache-2.0), abstracts and
            one-line summaries, 1,992 + 619 + 618: its source and target are lists of sentences.
        fields: names of the fields, all of which an object must have.
        encoding: of the file.

    Returns:
        a `Reading` of tuples. A line that is empty, no JSON object, or has nothing in a field is left out: no such
        field, null, NaN, white space, or a list or object of such.

    Raises:
        TypeError: for `fields` that are one string.
    """
    if isinstance(fields, str):
        raise TypeError(f"`fields` must be a sequence of names, such as ({fields!r},); got the string {fields!r}")

    def read(name: str, raw: bytes) -> Iterator[Found[tuple[Any, ...]]]:
        for one in filled_lines(name, raw, encoding):
            yield one if isinstance(one, Problem) else _values(*one, fields)

    return read_files(path, (".jsonl", ".json"), read)


def _values(place: Any, line: str, fields: Sequence[str]) -> Found[tuple[Any, ...]]:
    try:
        value = json.loads(line)
        if halved(value):
            return Problem(place, HALF)
    except (ValueError, RecursionError) as error:
        return Problem(place, f"left out: not JSON ({error})")
    if not isinstance(value, dict):
        return Problem(place, f"left out: a JSON {type(value).__name__} and no object")
    missing = [field for field in fields if _nothing(value.get(field))]
    if missing:
        return Problem(place, f'left out: the object has nothing in "{missing[0]}"')
    return place, tuple(value[field] for field in fields)


def _nothing(value: Any) -> bool:
    """Whether a JSON value is null, NaN, white space, or a list or object of such."""
    left = [value]  # and no recursion, whose depth Python limits
    while left:
        one = left.pop()
        if isinstance(one, (list, dict)):
            left.extend(one.values() if isinstance(one, dict) else one)
        elif not (one is None or one != one or (isinstance(one, str) and not one.strip())):
            return False
    return True
