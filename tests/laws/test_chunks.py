"""A sequence cut anywhere, into pieces of any length with 0 and 1 among them, is the whole sequence."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_chunks(subject: Subject) -> None:
    testing.chunks(*subject)
