"""Every implementation and every `remat` has the values and gradients of `scan` without it."""

from __future__ import annotations

import pytest
from descriptors import Descriptor

from rnnjax import testing

from . import Subject

COMBINED = (
    "elman", "lstm", "conv_lstm_2d", "min_gru", "lru", "mlstm", "learned_initial_state", "learned_initial_lru",
    "zoneout", "weight_drop", "nested", "bahdanau_attention",
)  # fmt: skip
"""The rows that run all combinations, which are about loops: every kind of state, of loop and of wrapper once. Newton's
method, which is one loop, runs them with the first."""


def test_same_as_scan(subject: Subject) -> None:
    testing.same_as_scan(*subject)


@pytest.mark.slow
def test_same_as_scan_in_all_combinations(pair: tuple[Descriptor, str], subject: Subject) -> None:
    row, implementation = pair
    if row.name not in COMBINED or (implementation == "newton" and row.name != COMBINED[0]):
        pytest.skip("a row of the same kind of loop holds it")
    testing.same_as_scan_in_all_combinations(*subject)
