"""How well, and how fast, two LSTM layers learn to predict the characters of Shakespeare.

    python benchmarks/charlm.py [--quick] [--write]

The text is tinyshakespeare in the folder of `RNNJAX_DATA`: the first 90 % for training, the last 10 % for validation.
`charlm_nats` is the mean loss of a validation character, read as one stream from its beginning. For its first 20
minutes a PyTorch twin, with the same layers, windows and recipe, trains in turns with it, epoch by epoch in one
process, and the validation losses over each one's own training time are the two curves. It is left out where PyTorch is
not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import generation
import jax
import numpy as np
from core import RESULTS, machine, parsed

import rnnjax as rj

TWIN_SECONDS = 20 * 60
FULL = ["--hidden", "256", "--layers", "2", "--dropout", "0.25", "--epochs", "16", "--window", "100"]
QUICK = ["--hidden", "32", "--layers", "2", "--dropout", "0.1", "--epochs", "1", "--window", "100"]
GOAL = 1.60


def shakespeare() -> Path:
    """The text, or the end of the program where it is not there."""
    path = Path(os.environ.get("RNNJAX_DATA", "$RNNJAX_DATA")) / "tinyshakespeare" / "input.txt"
    if not path.exists():
        raise SystemExit(f"no text at {path}: RNNJAX_DATA must name the folder that holds tinyshakespeare/input.txt")
    return path


def twin(text: generation.Text, args: argparse.Namespace) -> Callable[[], tuple[float, float]]:
    """A function that trains PyTorch's network for one epoch: its seconds and the loss on the validation part."""
    import torch

    torch.manual_seed(args.seed)
    symbols, hidden = len(text.vocabulary), args.hidden

    class Network(torch.nn.Module):
        """Embedding, LSTM layers with dropout behind each, scores."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(symbols, min(symbols, hidden))
            self.lstm = torch.nn.LSTM(min(symbols, hidden), hidden, args.layers, dropout=args.dropout, batch_first=True)
            self.drop = torch.nn.Dropout(args.dropout)
            self.dense = torch.nn.Linear(hidden, symbols)

        def forward(self, codes: Any, state: Any) -> tuple[Any, Any]:
            hidden, state = self.lstm(self.embedding(codes), state)
            return self.dense(self.drop(hidden)), state

    network = Network()
    for layer in range(args.layers):  # as in rnnjax: a forget bias of 1 in all
        for name in (f"bias_ih_l{layer}", f"bias_hh_l{layer}"):
            torch.nn.init.zeros_(getattr(network.lstm, name))
        getattr(network.lstm, f"bias_ih_l{layer}").data[hidden : 2 * hidden] = 1
    data, validation = (
        tuple(map(torch.tensor, part)) for part in generation.split(text.codes.astype(np.int64), args.rows)
    )
    updates = args.epochs * -(-data[0].shape[1] // args.window)
    optimizer = torch.optim.Adam(network.parameters(), args.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.02 + 0.49 * (1 + np.cos(np.pi * step / updates))
    )
    loss = torch.nn.CrossEntropyLoss()

    def windows(part: Any) -> Any:
        return ((x, y) for x, y in zip(part[0].split(args.window, 1), part[1].split(args.window, 1), strict=True))

    def epoch() -> tuple[float, float]:
        began = time.perf_counter()
        network.train()
        state: Any = None
        for x, y in windows(data):
            scores, state = network(x, state)
            state = tuple(part.detach() for part in state)
            optimizer.zero_grad()
            loss(scores.flatten(0, 1), y.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            total, state = 0.0, None
            for x, y in windows(validation):
                scores, state = network(x, state)
                total += float(loss(scores.flatten(0, 1), y.flatten())) * y.numel()
        return time.perf_counter() - began, total / validation[1].numel()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one epoch of a small network: shows that it runs")
    parser.add_argument("--write", action="store_true", help=f"save to {RESULTS.name}/charlm.json")
    options = parsed(parser)
    args = generation.arguments().parse_args(QUICK if options.quick else FULL)
    text = generation.read(str(shakespeare()))

    curves: dict[str, list[tuple[float, float]]] = {"rnnjax": []}
    if importlib.util.find_spec("torch"):
        curves["torch"] = []
        other = twin(text, args)

    def spent(name: str) -> float:
        return curves[name][-1][0] if curves[name] else 0.0

    def after(epoch: rj.training.Epoch) -> None:
        curves["rnnjax"].append((spent("rnnjax") + epoch.seconds, epoch.logs["val_loss"]))
        if "torch" in curves and spent("torch") < TWIN_SECONDS:
            seconds, loss = other()
            curves["torch"].append((spent("torch") + seconds, loss))
        shown = (f"{name} {spent(name) / 60:.1f} min {curve[-1][1]:.3f} nats" for name, curve in curves.items())
        print(f"epoch {epoch.epoch}: {', '.join(shown)}", flush=True)

    fitted = generation.train(text, args, callbacks=[after], progress=False)
    nats = generation.judge(fitted, text)["nats"]
    size = sum(leaf.size for leaf in jax.tree.leaves(fitted.params))
    minutes = spent("rnnjax") / 60
    print(f"{size:,} weights, {minutes:.1f} minutes of training and validation; goal {GOAL} nats within 60")
    print(generation.Writer(fitted, text).write("ROMEO:\n", generation.How()))
    name = "charlm_quick_nats" if options.quick else "charlm_nats"
    figures = {name: nats, name.replace("nats", "minutes"): minutes}
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        found = {"machine": machine(), "figures": figures, "weights": size, "options": vars(args), "curves": curves}
        (RESULTS / "charlm.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, value in figures.items():
        print(f"figure: {name} {value:.3f}")


if __name__ == "__main__":
    main()
