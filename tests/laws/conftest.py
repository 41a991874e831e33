from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest
from descriptors import CELLS, Descriptor

from . import Subject

NEWTON = ("elman", "lstm", "lru", "zoneout")
"""Rows whose laws Newton's method runs too: Jacobians that are dense, blocks or complex diagonals, and noise."""

RUNS = [(row, name) for row in CELLS for name in row.matrix if name != "newton" or row.name in NEWTON]
LAST = {row.name: name for row, name in RUNS}
PAIRS = [
    pytest.param((row, name), id=f"{row.name}-{name}", marks=[pytest.mark.slow] if row.slow or name == "newton" else [])
    for row, name in RUNS
]


@pytest.fixture(scope="session", params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Descriptor, str]]:
    """A row and one of its implementations. The session's scope makes pytest run all laws of a pair one after another,
    because they share compilations, which are dropped after the row's last one."""
    row, implementation = request.param
    yield row, implementation
    if implementation == LAST[row.name]:
        jax.clear_caches()


@pytest.fixture
def subject(pair: tuple[Descriptor, str]) -> Subject:
    row, implementation = pair
    return Subject(row.subject, row.event_shape, implementation)
