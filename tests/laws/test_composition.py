"""An associative cell's transitions compose in any order, and one composed of two acts as one after the other."""

from __future__ import annotations

import pytest
from descriptors import CELLS, Descriptor

from rnnjax import testing

ROWS = [row for row in CELLS if "associative" in row.implementations]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_composition(row: Descriptor) -> None:
    testing.composition(row.cell, row.event_shape, "associative")
