"""Samples per second of `fit` on the quickstart's Elman network, beside Keras 3 and a plain PyTorch loop.

    python benchmarks/fit.py [--quick] [--write]

All train the same network with Adam on the same digits in batches of 32, epochs taking turns in one process in an order
that is drawn anew each time; a figure is the ratio of the medians. `fit_overhead` is the time of an epoch of `fit`
beyond that of its own compiled loop over the same batches. Keras and PyTorch are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import jax
import numpy as np
import optax
import quickstart
from core import RESULTS, machine, parsed

import rnnjax as rj
from rnnjax.training import _batches, _model, _parallel, _runs, _step
from rnnjax.training._measure import measures

BATCH = 32


def network() -> rj.Stack:
    """The Elman network of the quickstart."""
    return quickstart.build(rj.Elman)


def keras_epochs(x: np.ndarray, y: np.ndarray) -> Callable[[int], float]:
    """A function that trains so many epochs with Keras's `fit` and returns the median seconds of one."""
    import keras

    layers = keras.layers
    model = keras.Sequential([layers.SimpleRNN(128, return_sequences=True), layers.SimpleRNN(64), layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )

    class Clock(keras.callbacks.Callback):
        """Seconds of every epoch."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seconds.append(time.perf_counter() - self.began)

    seconds: list[float] = []

    def run(epochs: int) -> float:
        seconds.clear()
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[Clock()])
        return statistics.median(seconds)

    return run


def torch_epochs(x: np.ndarray, y: np.ndarray) -> Callable[[int], float]:
    """The same with a plain PyTorch loop: shuffled batches, loss, accuracy, clipping, Adam."""
    import torch

    class Network(torch.nn.Module):
        """Two Elman layers and a dense one on the last state."""

        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.RNN(8, 128, batch_first=True)
            self.second = torch.nn.RNN(128, 64, batch_first=True)
            self.out = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.second(self.first(x)[0])[0][:, -1])

    xs, ys, model = torch.tensor(x), torch.tensor(y).long(), Network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def epoch() -> None:
        order, total, hits = torch.randperm(len(xs)), torch.zeros(()), torch.zeros(())
        for i in range(0, len(xs), BATCH):
            rows = order[i : i + BATCH]
            logits = model(xs[rows])
            loss = torch.nn.functional.cross_entropy(logits, ys[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.detach() * len(rows)
            hits += (logits.argmax(-1) == ys[rows]).sum()
        assert total.item() >= 0
        assert hits.item() >= 0

    def run(epochs: int) -> float:
        seconds = []
        for _ in range(epochs):
            began = time.perf_counter()
            epoch()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    return run


def own_loop(x: np.ndarray, y: np.ndarray, recipe: optax.GradientTransformation) -> Callable[[int], float]:
    """The compiled loop of `fit` alone, on an order of the rows that is made once."""
    used, batch = measures("cross_entropy", ["accuracy"]), _batches.as_batch((x, y))
    model = _model.adapt(network(), x, jax.random.key(0))
    alone = _parallel.Parallel(None)
    blocks = _runs.over_arrays(_runs.Recipe(model, used, recipe, 1, alone), batch, BATCH, 0, None)
    state = _step.start(model, recipe, jax.random.key(0))
    zeros, (rows,), (weights,) = blocks.zeros(state), blocks.ahead[1], blocks.weights

    def run(epochs: int) -> float:
        nonlocal state
        seconds = []
        for _ in range(epochs):
            began = time.perf_counter()
            state, totals = blocks.block(state, zeros, blocks.data, rows, weights)
            jax.block_until_ready(totals)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    return run


def measure(rounds: int, epochs: int) -> dict[str, float]:
    """Trains with `fit`; after every few of its epochs the rivals train as many."""
    data = quickstart.load_data(0)
    x, y = data.x_train, data.y_train
    recipe = rj.training.optimizer(1e-3, clip_norm=1.0)
    rivals = {"loop": own_loop(x, y, recipe)}
    for name, make in (("keras", keras_epochs), ("torch", torch_epochs)):
        if importlib.util.find_spec(name):
            rivals[name] = make(x, y)
    for run in rivals.values():
        run(2)
    times: dict[str, list[float]] = {name: [] for name in ("fit", *rivals)}
    recent: list[float] = []
    shuffled = np.random.default_rng(0)

    def turn(event: Any) -> None:
        recent.append(event.seconds)
        if len(recent) == epochs:
            if event.epoch >= epochs:  # the first epochs compile
                times["fit"].append(statistics.median(recent))
                for name in shuffled.permutation(list(rivals)):  # each comes behind each of the others
                    times[name].append(rivals[name](epochs))
            recent.clear()

    options = {"optimizer": recipe, "metrics": ["accuracy"], "batch_size": BATCH, "progress": False}
    rj.training.fit(network(), (x, y), epochs=epochs * (rounds + 1), callbacks=[turn], **options)
    medians = {name: statistics.median(own) for name, own in times.items()}
    for name, own in times.items():
        rate, spread = len(x) / medians[name], f"{min(own) * 1e3:.1f}–{max(own) * 1e3:.1f}"
        print(f"{name:<6} {medians[name] * 1e3:8.1f} ms an epoch ({spread}), {rate:,.0f} samples/s")
    figures = {f"fit_vs_{name}": medians[name] / medians["fit"] for name in ("keras", "torch") if name in medians}
    overheads = [a / b - 1 for a, b in zip(times["fit"], times["loop"], strict=True)]
    return figures | {"fit_overhead": statistics.median(overheads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds: within a minute")
    parser.add_argument("--write", action="store_true", help="save the figures under benchmarks/results")
    args = parsed(parser)
    print(machine())
    figures = measure(rounds=4 if args.quick else 15, epochs=3)
    for name, value in figures.items():
        print(f"figure: {name} {value:.4g}")
    if args.write:
        (RESULTS / "fit.json").write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
