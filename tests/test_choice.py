"""The automatic choice between `cpu` and the others is the one that benchmarks/choice.py has measured."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rnnjax as rj
from rnnjax._unroll import kernels

SAVED = Path(__file__).parents[1] / "benchmarks" / "results" / "choice.json"
CELLS = {"LSTM": rj.LSTM, "GRU": rj.GRU, "Elman": rj.Elman}


@pytest.mark.slow
@pytest.mark.skipif(kernels.load().reason is not None, reason="no native kernels")
@pytest.mark.skipif(not SAVED.exists(), reason=f"{SAVED} comes with the repository, and not with a wheel's tests")
def test_explain_takes_what_was_measured_to_be_faster() -> None:
    """Forwards and with gradients together, in the mean it is faster than either choice would be everywhere. A single
    size is noisy by half, and none is much slower."""
    rows: list[dict[str, Any]] = json.loads(SAVED.read_text())["rows"]
    sizes: dict[Any, list[float]] = {}
    for row in rows:
        sizes.setdefault((row["cell"], row["B"], row["T"], row["H"]), []).append(row["ratio"])
    assert len(sizes) > 100
    gains, always = [], []
    for (name, batch, steps, hidden), ratios in sizes.items():
        cell = CELLS[name](hidden)
        said = rj.explain(cell, cell.init(jax.random.key(0), hidden), jnp.ones((steps, batch, hidden)))
        faster = statistics.geometric_mean(ratios)
        gains.append(faster if "→ cpu" in said else 1 / faster)
        always.append(faster)
        assert gains[-1] > 0.45, (name, batch, steps, hidden, ratios, said)
    assert statistics.geometric_mean(gains) > max(1, statistics.geometric_mean(always))
