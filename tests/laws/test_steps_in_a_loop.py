"""A sequence is a Python loop of `step`, with masks and resets, noise and direction."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_steps_in_a_loop(subject: Subject) -> None:
    testing.steps_in_a_loop(*subject)
