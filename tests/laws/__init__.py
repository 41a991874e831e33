"""One law a file. Each runs over every row of `tests/descriptors.py` and every implementation that the row names."""

from __future__ import annotations

from typing import NamedTuple

import rnnjax as rj


class Subject(NamedTuple):
    """What a law takes."""

    cell: rj.Cell
    event_shape: tuple[int, ...]
    implementation: str
