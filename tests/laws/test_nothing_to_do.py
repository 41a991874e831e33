"""No time steps give back the state, no rows give no rows, and neither disturbs a gradient."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_nothing_to_do(subject: Subject) -> None:
    testing.nothing_to_do(*subject)
