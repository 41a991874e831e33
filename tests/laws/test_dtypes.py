"""Outputs are in the compute dtype, states in at least float32, gradients in the dtype of what they belong to."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_dtypes(subject: Subject) -> None:
    testing.dtypes(*subject)
