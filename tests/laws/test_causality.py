"""An output depends on every input up to its own and on none after it; backwards the other way round."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_causality(subject: Subject) -> None:
    testing.causality(*subject)
