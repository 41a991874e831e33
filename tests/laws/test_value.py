"""Copies, replacements, pickles and what `repr` says are equal cells with equal hashes; other cells differ."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_value(subject: Subject) -> None:
    testing.value(*subject)
