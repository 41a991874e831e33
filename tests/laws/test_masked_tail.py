"""A masked tail, by mask or by lengths, is a shorter sequence, in values and gradients."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_masked_tail(subject: Subject) -> None:
    testing.masked_tail(*subject)
