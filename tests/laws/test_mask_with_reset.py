"""Masks and resets together, on the same steps too, are what a loop over each row alone gives."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_mask_with_reset(subject: Subject) -> None:
    testing.mask_with_reset(*subject)
