"""No tracer outlives its trace, in the gradient either."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_leaks(subject: Subject) -> None:
    testing.leaks(*subject)
