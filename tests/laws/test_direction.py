"""Backwards is forwards on the flipped sequence, flipped again; with lengths each row flips its own valid part."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_direction(subject: Subject) -> None:
    testing.direction(*subject)
