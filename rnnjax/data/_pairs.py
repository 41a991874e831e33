"""Readers of pairs: tab-separated lines and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ._reading import Found, PathLike, Problem, Reading, filled_lines, read_files


def read_pairs(
    path: PathLike, *, columns: tuple[int, int] = (0, 1), encoding: str = "utf-8"
) -> Reading[tuple[str, str]]:
    """Pairs of texts from tab-separated lines.

    Args:
        path: a `.tsv` or `.txt` file, the same gzipped, or a zip file or folder of such files. A set in this form is
            Tatoeba's Spanish–English, `spa-eng.zip` from manythings.org/anki and tatoeba.org, CC BY 2.0, 118,121 pairs:
            many English sentences are there more than once, so split by them (`split(pairs, …, by=…)`).
        columns: which two columns, from 0; (1, 0) turns the pairs round.
        encoding: of the file.

    Returns:
        a `Reading` of pairs. A line that is empty, not in this encoding or without text in a column is left out.
    """

    def read(name: str, raw: bytes) -> Iterator[Found[tuple[str, str]]]:
        for one in filled_lines(name, raw, encoding):
            yield one if isinstance(one, Problem) else _pair(*one, columns)

    return read_files(path, (".tsv", ".txt"), read)


def _pair(place: Any, line: str, columns: tuple[int, int]) -> Found[tuple[str, str]]:
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) <= max(columns):
        return Problem(
            place, f"left out: {len(cells)} columns between tabs, and column {max(columns)} (from 0) is needed"
        )
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
        a `Reading` of tuples. A line that is empty, no JSON object, or without a field is left out.

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
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Problem(place, "left out: half of a surrogate pair, which is no character")
    except (ValueError, RecursionError) as error:
        return Problem(place, f"left out: not JSON ({error})")
    if not isinstance(value, dict):
        return Problem(place, f"left out: a JSON {type(value).__name__} and no object")
    missing = [field for field in fields if value.get(field) in (None, "", [])]
    if missing:
        return Problem(place, f'left out: the object has nothing in "{missing[0]}"')
    return place, tuple(value[field] for field in fields)
