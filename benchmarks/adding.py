"""The adding problem: how many training steps a cell needs to add two numbers from far apart in a sequence.

    python benchmarks/adding.py [--quick] [--write]

A sequence of T steps holds numbers, uniform in [0, 1], and a mark at two of them, one drawn from each half; the target
is the sum of the marked numbers. Predicting its mean, 1, gives a mean squared error of 1/6. Batches are drawn afresh at
every step. The learning rate is constant until the error on 1,000 other sequences is at most 0.001, or the steps run
out, and then falls to zero along a cosine.

For each cell and T, `adding_CELL_T` is the error on 2,000 more sequences at the end of all that, and
`adding_CELL_T_steps` the steps until 0.001 was reached, absent where it never was. The goal, an error of at most 0.001
within 20,000 steps, is for `gru` and `chrono_lstm` at T = 200; the other cells are there to compare.

References: Hochreiter, Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Le, Jaitly, Hinton 2015, arXiv:1504.00941; the
marks as in Arjovsky, Shah, Bengio 2016, arXiv:1511.06464.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from core import RESULTS, machine, parsed

import rnnjax as rj

HIDDEN, BATCH = 64, 32
EVERY = 250
"""Steps from one evaluation to the next."""
GOAL, BUDGET, DECAY = 1e-3, 20_000, 1_000
"""The error to reach, the steps that it may take, and how many of them the learning rate falls."""


class Contestant(NamedTuple):
    """A cell as a function of T, and its learning rate."""

    cell: Callable[[int], rj.Cell]
    learning_rate: float


CONTESTANTS = {
    "gru": Contestant(lambda steps: rj.GRU(HIDDEN), 1e-2),
    "chrono_lstm": Contestant(lambda steps: rj.LSTM(HIDDEN, max_time=steps), 1e-2),
    "lstm": Contestant(lambda steps: rj.LSTM(HIDDEN), 1e-2),
    "irnn": Contestant(lambda steps: rj.Elman(HIDDEN, activation="relu", recurrent_init="identity"), 3e-3),
    "elman": Contestant(lambda steps: rj.Elman(HIDDEN), 1e-3),
}


def draw(key: jax.Array, rows: int, steps: int) -> tuple[jax.Array, jax.Array]:
    """Numbers and marks (rows, T, 2), and the sums of the marked numbers (rows, 1)."""
    key_numbers, key_first, key_second = jax.random.split(key, 3)
    numbers = jax.random.uniform(key_numbers, (rows, steps))
    first = jax.random.randint(key_first, (rows, 1), 0, steps // 2)
    second = jax.random.randint(key_second, (rows, 1), steps // 2, steps)
    places = jnp.arange(steps)
    marks = ((places == first) | (places == second)).astype(numbers.dtype)
    return jnp.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdims=True)


def fresh_batches(key: jax.Array, steps: int) -> Callable[[int], Iterator[tuple[jax.Array, jax.Array]]]:
    """A function of the epoch: the batches up to the next evaluation, drawn on the device."""

    @jax.jit
    def many(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda key: draw(key, BATCH, steps))(jax.random.split(key, EVERY))

    def batches(epoch: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        yield from zip(*many(jax.random.fold_in(key, epoch)), strict=True)

    return batches


def train(contestant: Contestant, steps: int, budget: int, seed: int = 0) -> dict[str, Any]:
    """Trains one network on sequences of so many steps: its errors, and the training steps that they took."""
    began = time.perf_counter()
    key_held, key_decay, key_validation, key_test = jax.random.split(jax.random.key(seed), 4)
    curve: list[tuple[int, float]] = []

    def phase(model: Any, key: jax.Array, count: int, schedule: optax.Schedule | None) -> Any:
        before = curve[-1][0] if curve else 0

        def see(event: rj.training.Epoch) -> bool:
            curve.append((before + event.step, event.logs["val_loss"]))
            return schedule is None and event.logs["val_loss"] <= GOAL

        recipe = rj.training.optimizer(contestant.learning_rate, clip_norm=1.0, schedule=schedule)
        fitted = rj.training.fit(
            model,
            fresh_batches(key, steps),
            loss="mean_squared_error",
            optimizer=recipe,
            epochs=count // EVERY,
            seed=seed,
            validation=draw(key_validation, 1_000, steps),
            callbacks=[see],
            progress=False,
        )
        return fitted.model

    model = rj.Stack([rj.RNN(contestant.cell(steps)), rj.Last(), rj.Dense(1)])
    model = phase(model, key_held, budget - DECAY, None)
    model = phase(model, key_decay, DECAY, optax.cosine_decay_schedule(1.0, DECAY))
    test = rj.training.evaluate(model, draw(key_test, 2_000, steps), loss="mean_squared_error")["loss"]
    reached = next((step for step, error in curve if error <= GOAL), None)
    return {"test": test, "reached": reached, "curve": curve, "seconds": time.perf_counter() - began}


def report(name: str, steps: int, row: dict[str, Any]) -> str:
    """A few lines on one network: its curve, thinned out, and what came of it."""
    curve = row["curve"]
    shown = curve[:: -(-len(curve) // 10)]
    shown += [] if shown[-1] == curve[-1] else [curve[-1]]
    errors = "  ".join(f"{step:,}: {error:.2g}" for step, error in shown)
    reached = f"{GOAL} after {row['reached']:,} steps" if row["reached"] else f"never {GOAL}"
    return f"{name} T={steps}: test {row['test']:.2e}, {reached}, {row['seconds']:.0f} s\n  {errors}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short sequences and three cells: within a minute")
    parser.add_argument("--write", action="store_true", help="save the figures under benchmarks/results")
    args = parsed(parser)
    print(machine())
    names, lengths, budget = list(CONTESTANTS), (100, 200), BUDGET
    if args.quick:
        names, lengths, budget = ["gru", "chrono_lstm", "elman"], (30,), DECAY + 4 * EVERY
    figures: dict[str, float] = {}
    rows = []
    for steps in lengths:
        for name in names:
            row = train(CONTESTANTS[name], steps, budget)
            print(report(name, steps, row), flush=True)
            figures[f"adding_{name}_{steps}"] = row["test"]
            if row["reached"]:
                figures[f"adding_{name}_{steps}_steps"] = row["reached"]
            rows.append({"cell": name, "T": steps, **row})
    for name, value in figures.items():
        print(f"figure: {name} {value:.4g}")
    if args.write:
        data = {"machine": machine(), "figures": figures, "rows": rows}
        (RESULTS / "adding.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
