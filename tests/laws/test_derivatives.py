"""Reverse mode is right by finite differences; so is forward mode, or it says which implementation has it."""

from __future__ import annotations

import pytest

from rnnjax import testing

from . import Subject


def test_derivatives(subject: Subject) -> None:
    testing.derivatives(*subject)


@pytest.mark.slow
def test_second_derivatives(subject: Subject) -> None:
    testing.second_derivatives(*subject)
