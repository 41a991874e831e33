"""The gradient lowers for accelerators, in float32."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_lowering(subject: Subject) -> None:
    testing.lowering(*subject)
