"""Equal cells share one trace, as do cells that differ in leaves alone, second calls have none; also in `jit`."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_traces(subject: Subject) -> None:
    testing.traces(*subject)
