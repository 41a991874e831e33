"""Two batch axes are rows of one, one is rows of none, and both are `vmap`, in values and gradients."""

from __future__ import annotations

from rnnjax import testing

from . import Subject


def test_batch(subject: Subject) -> None:
    testing.batch(*subject)
