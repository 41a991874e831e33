"""Every implementation and every `remat` has the values and gradients of `scan` without it."""

from __future__ import annotations

import pytest

from rnnjax import testing

from . import Subject


def test_same_as_scan(subject: Subject) -> None:
    testing.same_as_scan(*subject)


@pytest.mark.slow
def test_same_as_scan_in_all_combinations(subject: Subject) -> None:
    testing.same_as_scan_in_all_combinations(*subject)
