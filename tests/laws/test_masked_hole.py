"""Masked steps anywhere are as if deleted, in values and gradients."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_masked_hole(subject: Subject) -> None:
    testing.masked_hole(*subject)
