"""Newton's method has the values and gradients of `scan` for every row that names it, with a mask and resets."""

from __future__ import annotations

import pytest
from descriptors import CELLS, Descriptor

import rnnjax as rj
from rnnjax._laws.trial import agree
from rnnjax.testing import Trial

PLAIN = ("gru", "min_gru")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[] if row.name in PLAIN else pytest.mark.slow)
        for row in CELLS
        if row.newton
    ],
)
def test_newton_is_scan(row: Descriptor) -> None:
    trial = Trial.of(row.subject, row.event_shape, "newton").patterned()
    agree("outcome and gradients", trial.pull(), trial.but(implementation="scan").pull())
    report = rj.newton_report(trial.cell, trial.params, trial.xs, trial.state, mask=trial.mask, reset=trial.reset)
    assert report.converged  # or the result was that of the loop
