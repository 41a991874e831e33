"""The automatic choice between `cpu` and the others is the one that benchmarks/choice.py has measured."""

from __future__ import annotations

import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rnnjax as rj
from rnnjax._unroll import kernels

SAVED = Path(__file__).parents[1] / "benchmarks" / "results" / "choice.json"
CELLS = {"LSTM": rj.LSTM, "GRU": rj.GRU, "Elman": rj.Elman}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.load().reason is not None, reason="no native kernels"),
    pytest.mark.skipif(not SAVED.exists(), reason=f"{SAVED} comes with the repository, and not with a wheel's tests"),
]

# the conditions that docs/cpu.md names
LIGHT, HEAVY = "under 100,000 weights", "100,000 weights or more"
SHORT, LONG = "B · T under 128", "B · T of 128 or more"
FEW, MANY = "a step of up to 16 rows", "a step of more than 16 rows"
LITTLE, MORE, MUCH = "under 300,000 multiplications", "300,000 multiplications or more", "5,000,000 or more"
SEQUENCES = [(weights, length) for weights in (LIGHT, HEAVY) for length in (SHORT, LONG)]
STEPS = [(FEW, LITTLE), (FEW, MORE), (MANY, LITTLE), (MANY, MORE), (MANY, MUCH)]


@cache
def parameters(name: str, hidden: int) -> Any:
    return CELLS[name](hidden).init(jax.random.key(0), hidden)


@cache
def taken(name: str, rows: int, steps: int, hidden: int) -> str:
    """What `explain` says; the table calls all others by the name of what was measured."""
    said = rj.explain(CELLS[name](hidden), parameters(name, hidden), jnp.ones((steps, rows, hidden)))
    return "cpu" if "→ cpu" in said else "scan" if steps == 1 else "fused"


def conditions(name: str, rows: int, steps: int, hidden: int) -> tuple[str, str]:
    weights = sum(leaf.size for leaf in jax.tree.leaves(parameters(name, hidden)))
    if steps == 1:
        few, work = rows <= 16, rows * weights
        return FEW if few else MANY, LITTLE if work < 300_000 else MORE if few or work < 5_000_000 else MUCH
    return LIGHT if weights < 100_000 else HEAVY, SHORT if rows * steps < 128 else LONG


@cache
def saved() -> Any:
    return json.loads(SAVED.read_text())


def by_decision(of: tuple[str, str]) -> dict[str, list[float]]:
    """How many times `cpu` was faster at sizes of these conditions, under the name of what is taken there."""
    found: dict[str, list[float]] = {}
    for row in saved()["rows"]:
        size = row["cell"], row["B"], row["T"], row["H"]
        if conditions(*size) == of:
            found.setdefault(taken(*size), []).append(row["ratio"])
    return found


@pytest.mark.parametrize("of", [pytest.param(of, id=", ".join(of)) for of in (*SEQUENCES, *STEPS)])
def test_each_clause_takes_what_was_measured_to_be_faster(of: tuple[str, str]) -> None:
    """In the mean over what a clause decides; a single size is noisy by half. A clause that parts these sizes further
    is right on either side."""
    decided = by_decision(of)
    assert sum(map(len, decided.values())) >= 4
    for name, ratios in decided.items():
        faster = statistics.geometric_mean(ratios)
        assert (faster if name == "cpu" else 1 / faster) > 1, (of, name, ratios)


def test_the_saved_table_says_what_is_taken() -> None:
    """After a change of the rule `python benchmarks/choice.py --rule` mends it."""
    rows = saved()["rows"]
    assert len(rows) > 200
    for row in rows:
        assert row["taken"] == taken(row["cell"], row["B"], row["T"], row["H"]), row
    gains = [row["ratio"] if row["taken"] == "cpu" else 1 / row["ratio"] for row in rows]
    assert saved()["figures"]["choice_least"] == pytest.approx(min(gains))
