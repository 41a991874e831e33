"""Rows of cells: lines that a character divides, as tables and spreadsheets are written."""

from __future__ import annotations

import csv

from ._reading import EMPTY, Found, Place, Problem, lines


def rows(name: str, raw: bytes, delimiter: str, quoted: bool, encoding: str = "utf-8") -> list[Found[list[str]]]:
    """The cells of each row of a file, stripped, with the line that it begins on; a problem for each line that is none.

    With `quoted` a cell may stand in double quotes, as spreadsheets write it: it can then hold the delimiter, doubled
    quotes and ends of lines. One that is never closed costs its first line.

    Raises:
        ValueError: for a delimiter that is not one character, or an end of line or a double quote.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"`delimiter` must be one character, such as a tab or a comma; got {delimiter!r}")
    found: list[Found[list[str]]] = []
    numbered: list[tuple[Place, str]] = []
    for one in lines(name, raw, encoding):
        if isinstance(one, Problem):
            found.append(one)
        else:
            numbered.append(one)
    texts, at = [line + "\n" for _, line in numbered], 0
    while at < len(texts):
        place, used = numbered[at][0], 1
        if not texts[at].strip():
            found.append(Problem(place, EMPTY))
        elif quoted:
            reader = csv.reader(map(texts.__getitem__, range(at, len(texts))), delimiter=delimiter, strict=True)
            try:
                found.append((place, [cell.strip() for cell in next(reader)]))
                used = reader.line_num
            except csv.Error as error:
                found.append(Problem(place, f"left out: {error}"))
        else:
            found.append((place, [cell.strip() for cell in texts[at].split(delimiter)]))
        at += used
    return sorted(found, key=lambda one: one[0].line or 0)
