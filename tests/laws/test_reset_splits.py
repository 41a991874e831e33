"""A reset ends one sequence and begins another from the initial state, in values and gradients."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_reset_splits(subject: Subject) -> None:
    testing.reset_splits(*subject)
