"""A row without a valid step keeps the state it was given, or else the initial one, and adds to no gradient."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_no_valid_step(subject: Subject) -> None:
    testing.no_valid_step(*subject)
