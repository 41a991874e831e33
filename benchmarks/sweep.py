"""A sweep of 32 configurations in one program, against the same configurations one after another.

    python benchmarks/sweep.py [--quick] [--write]

Both run the same compiled epoch, once with an axis of 32 learning rates and 32 times with one, taking turns, warm; a
figure is the median of the ratios. `sweep_compile` is the time of the first epoch, compilation included, of 32 LSTM(8)
over that of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import numpy as np
from core import RESULTS, machine, parsed

import rnnjax as rj
from rnnjax.training._batches import as_batch
from rnnjax.training._measure import measures
from rnnjax.training._sweep import _Program

COUNT, STEPS = 32, 50
SHAPES = {"sweep_h8": (8, 8), "sweep_h32": (16, 32), "sweep_h64": (16, 64)}
"""Batch and hidden size."""


def programs(batch: int, hidden: int, batches: int, group: int | None) -> tuple[Any, dict[str, np.ndarray]]:
    """An LSTM that classifies sequences, its learning rate mapped over."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch * batches, STEPS, 4)).astype(np.float32)
    y = (x.sum((1, 2)) > 0).astype(np.int32)

    def make(config: dict[str, Any]) -> Any:
        layer = rj.Stack([rj.RNN(rj.LSTM(hidden)), rj.Last(), rj.Dense(2)])
        return layer, rj.training.optimizer(config["learning_rate"], clip_norm=1.0)

    program = _Program(make, measures("cross_entropy", []), as_batch((x, y)), None, batch, group)
    return program, {"learning_rate": np.geomspace(1e-4, 1e-1, COUNT).astype(np.float32)}


def measure(batch: int, hidden: int, batches: int, rounds: int, group: int | None) -> tuple[float, float, float]:
    """The ratio of the times, its spread, and that of the times to compile."""
    together, values = programs(batch, hidden, batches, group)
    alone, _ = programs(batch, hidden, batches, None)
    seeds = np.zeros(COUNT, int)
    ones = [{name: value[i : i + 1] for name, value in values.items()} for i in range(COUNT)]
    states = together.start(values, seeds)
    singles = [alone.start(one, seeds[:1]) for one in ones]
    began = time.perf_counter()
    states, _ = together.epoch(values, states, seeds, 0)
    compiled = time.perf_counter() - began
    began = time.perf_counter()
    singles[0], _ = alone.epoch(ones[0], singles[0], seeds[:1], 0)
    compile_ratio = compiled / (time.perf_counter() - began)
    ratios = []
    for epoch in range(1, rounds + 1):
        began = time.perf_counter()
        states, _ = together.epoch(values, states, seeds, epoch)
        jax.block_until_ready(states)
        middle = time.perf_counter()
        for i, one in enumerate(ones):
            singles[i], _ = alone.epoch(one, singles[i], seeds[:1], epoch)
        jax.block_until_ready(singles)
        ratios.append((time.perf_counter() - middle) / (middle - began))
    return statistics.median(ratios), max(ratios) - min(ratios), compile_ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: within a minute")
    parser.add_argument("--write", action="store_true", help="save the figures under benchmarks/results")
    parser.add_argument("--group", type=int, help="configurations side by side, instead of the automatic choice")
    args = parsed(parser)
    print(machine())
    figures = {}
    for name, (batch, hidden) in SHAPES.items():
        ratio, spread, compiled = measure(batch, hidden, batches=10, rounds=3 if args.quick else 9, group=args.group)
        figures[name] = ratio
        figures.setdefault("sweep_compile", compiled)
        print(f"{name}: ×{ratio:.2f} (spread {spread:.2f}), compile ×{compiled:.2f}", flush=True)
    for name, value in figures.items():
        print(f"figure: {name} {value:.4g}")
    if args.write:
        (RESULTS / "sweep.json").write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
