"""What the benchmarks compare with computes the same, and is measured as fairly."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

FOLDER = Path(__file__).parents[1] / "benchmarks"
CELLS = {
    "mingru": rj.MinGRU(8),
    "lru": rj.LRU(8),
    "gru": rj.GRU(8),
    "mlstm": rj.MLSTM(8, heads=4),
    "gated_delta_net": rj.GatedDeltaNet(8, heads=4),
}
WAITING = {"mingru": 0, "lru": 0, "gru": 1, "mlstm": 1, "gated_delta_net": 2}
"""Products of a step that wait for a state."""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.mark.parametrize("name", CELLS)
def test_plain_loops_are_the_cells(name: str, module: Any) -> None:
    cell, rivals = CELLS[name], module("textbook").RIVALS[name]
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), 8, jnp.float64))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.5, size=leaf.shape)), shapes)
    xs = jnp.asarray(rng.normal(size=(5, 2, 8)))
    wanted, _ = rj.unroll(cell, params, xs, implementation="scan")
    with jax.numpy_rank_promotion("allow"):
        for rival in rivals.values():
            np.testing.assert_allclose(rival(params, xs), wanted, rtol=1e-9, atol=1e-9)
        loop = jax.make_jaxpr(rivals["scan, products outside"])(params, xs)
    (scan,) = (equation for equation in loop.eqns if equation.primitive.name == "scan")
    assert str(scan.params["jaxpr"]).count("dot_general[") == WAITING[name]


def test_a_figure_is_against_the_best_of_all_rivals(module: Any) -> None:
    kinds = [("plain scan", 8, 40), ("plain scan, products outside", 3, 50), ("rnnjax", 2, 10), ("rnnjax scan", 1, 5)]
    rows = [{"what": what, "ms": ms, "bytes": held} for what, ms, held in kinds]
    assert module("parallel").ratios("a", rows) == {"a_time": 1.5, "a_memory": 0.25}


def test_rivals_take_turns_in_any_order_each_behind_itself(module: Any) -> None:
    calls: list[str] = []
    times = module("core").turns([partial(calls.append, name) for name in "abc"], 0, 8)
    assert [len(own) for own in times] == [8, 8, 8]
    assert calls[::2] == calls[1::2]
    turns = ["".join(calls[i : i + 6 : 2]) for i in range(0, 48, 6)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 2
