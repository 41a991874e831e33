"""NaN and infinity in masked inputs reach no value and no gradient."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_padding(subject: Subject) -> None:
    testing.padding(*subject)
