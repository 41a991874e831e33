"""How fast the translation example learns Tatoeba's Spanish–English, beside a PyTorch twin.

    python benchmarks/translation_torch.py [--quick] [--write]

The pairs are tatoeba_spa_eng in the folder of `RNNJAX_DATA`. The twin has the network, the initial weights, the batches
and the recipe of `examples/translation.py`, whose full run is the figure `spa_eng_bleu`. Both train in turns, epoch by
epoch in one process, until the twin has trained for 20 minutes; the validation losses over each one's own training time
are the two curves. Dropout is drawn by each library for itself. Axes: B pairs, S steps of the source, T of the target.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import jax
import numpy as np
import torch
import translation
from core import RESULTS, machine, parsed
from torch import Tensor, nn

import rnnjax as rj

TWIN_SECONDS = 20 * 60


def tatoeba() -> Path:
    """The pairs, or the end of the program where they are not there."""
    path = Path(os.environ.get("RNNJAX_DATA", "$RNNJAX_DATA")) / "tatoeba_spa_eng" / "spa-eng.zip"
    if not path.exists():
        raise SystemExit(f"no pairs at {path}: RNNJAX_DATA must name the folder that holds tatoeba_spa_eng/spa-eng.zip")
    return path


class Twin(nn.Module):
    """The network of the example: a bidirectional GRU, and a GRU with additive attention and input feeding."""

    def __init__(self, sources: int, targets: int, recipe: translation.Recipe) -> None:
        super().__init__()
        embedding, hidden = recipe.embedding, recipe.hidden
        self.read = nn.Embedding(sources, embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True, bidirectional=True)
        self.written = nn.Embedding(targets, embedding)
        self.cell = nn.GRUCell(embedding + hidden, hidden)
        self.key = nn.Linear(2 * hidden, recipe.score)
        self.query = nn.Linear(hidden, recipe.score, bias=False)
        self.score = nn.Linear(recipe.score, 1, bias=False)
        self.join = nn.Linear(3 * hidden, hidden, bias=False)
        self.head = nn.Linear(hidden, targets)
        self.drop = nn.Dropout(recipe.dropout)

    def forward(self, sources: Tensor, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, T, V), for sources (B, S) and inputs (B, T)."""
        rows, steps = sources.shape
        packed = nn.utils.rnn.pack_padded_sequence(
            self.drop(self.read(sources)), lengths.clamp(min=1), batch_first=True, enforce_sorted=False
        )
        memory, _ = nn.utils.rnn.pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=steps)
        memory = self.drop(memory)  # (B, S, 2H)
        keys = self.key(memory)  # (B, S, units of the score)
        outside = torch.arange(steps) >= lengths[:, None]  # (B, S)
        state = output = memory.new_zeros(rows, self.cell.hidden_size)
        outputs = []
        for word in self.drop(self.written(inputs)).unbind(1):  # (B, E)
            state = self.cell(torch.cat([word, output], 1), state)
            scores = self.score(torch.tanh(self.query(state)[:, None] + keys))[:, :, 0]  # (B, S)
            weights = scores.masked_fill(outside, -math.inf).softmax(1)
            context = torch.bmm(weights[:, None], memory)[:, 0]  # (B, 2H)
            output = torch.tanh(self.join(torch.cat([context, state], 1)))
            outputs.append(output)
        return self.head(self.drop(torch.stack(outputs, 1)))

    def load(self, params: Any) -> Twin:
        """Takes the weights of the example's network."""
        embedded, _, both, _ = params["encoder"]
        written, _, attention, _, dense = params["decoder"]
        own = {"read.weight": embedded.w, "written.weight": written.w}
        own |= {"key.weight": attention.score.w_k.T, "key.bias": attention.score.b}
        own |= {"query.weight": attention.score.w_q.T, "score.weight": attention.score.v[None]}
        own |= {"join.weight": attention.w.T}
        own |= {"head.weight": dense.w.T, "head.bias": dense.b}
        for prefix, suffix, gru in (
            ("encoder", "_l0", both.forward),
            ("encoder", "_l0_reverse", both.backward),
            ("cell", "", attention.cell),
        ):
            zeros = np.zeros(2 * gru.b_n.size, np.float32)
            own |= {f"{prefix}.weight_ih{suffix}": gru.w.T, f"{prefix}.weight_hh{suffix}": gru.u.T}
            own |= {f"{prefix}.bias_ih{suffix}": gru.b, f"{prefix}.bias_hh{suffix}": np.concatenate([zeros, gru.b_n])}
        self.load_state_dict({name: torch.tensor(np.array(value)) for name, value in own.items()})
        return self


def loss_of(twin: Twin, batch: tuple[Any, ...], smoothing: float) -> tuple[Tensor, int]:
    """The sum of the loss over the steps that count, and their number."""
    inputs, targets, lengths, weights = batch
    counts = np.arange(targets["labels"].shape[1]) < targets["lengths"][:, None]  # (B, T)
    labels = np.where(counts & (weights[:, None] > 0), targets["labels"], -1)
    source, target, labels = (
        torch.from_numpy(a.astype(np.int64)) for a in (inputs["source"], inputs["target"], labels)
    )
    scores = twin(source, target, torch.from_numpy(lengths.astype(np.int64)))
    rules = {"ignore_index": -1, "reduction": "sum", "label_smoothing": smoothing}
    total = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), **rules)
    return total, int((labels >= 0).sum())


def evaluated(twin: Twin, batches: Iterable[tuple[Any, ...]], smoothing: float) -> float:
    """The mean loss of a step, without dropout."""
    twin.eval()
    with torch.no_grad():
        pairs = [loss_of(twin, batch, smoothing) for batch in batches]
    return sum(float(total) for total, _ in pairs) / sum(count for _, count in pairs)


def trainer(task: translation.Task, recipe: translation.Recipe, seed: int) -> Callable[[], tuple[float, float]]:
    """A function that trains the twin for one epoch: its seconds and the loss on the validation part."""
    torch.manual_seed(seed)
    params = translation.build(len(task.source), len(task.target), recipe).init(jax.random.key(seed))
    twin = Twin(len(task.source), len(task.target), recipe).load(params)
    parts = translation.padded(task, task.train), translation.padded(task, task.validation)
    batches = rj.data.pair_buckets(parts[0], recipe.batch, count=recipe.buckets, seed=seed)
    validation = rj.data.pair_buckets(parts[1], recipe.batch, count=1, seed=None)
    steps = recipe.epochs * sum(1 for _ in batches())
    warm = steps // 20

    def rate(step: int) -> float:
        return step / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    optimizer = torch.optim.Adam(twin.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    epochs = iter(range(recipe.epochs))

    def epoch() -> tuple[float, float]:
        began = time.perf_counter()
        twin.train()
        for batch in batches(epoch=next(epochs)):
            optimizer.zero_grad()
            total, count = loss_of(twin, batch, recipe.smoothing)
            (total / count).backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        loss = evaluated(twin, validation(), recipe.smoothing)
        return time.perf_counter() - began, loss

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two epochs of a small network: shows that it runs")
    parser.add_argument("--write", action="store_true", help=f"save to {RESULTS.name}/translation_torch.json")
    args = parsed(parser)
    task = translation.sentences(str(tatoeba()), (1, 0), 10, "bpe", 4000, seed=0)
    recipe = translation.SENTENCES
    if args.quick:
        task = task._replace(train=task.train[:2000], validation=task.validation[:100])
        recipe = translation.SMOKE._replace(epochs=2)
    other = trainer(task, recipe, seed=0)
    curves: dict[str, list[tuple[float, float]]] = {"rnnjax": [], "torch": []}

    def add(name: str, seconds: float, loss: float) -> None:
        before = curves[name][-1][0] if curves[name] else 0.0
        curves[name].append((before + seconds, loss))
        print(f"{name}: {(before + seconds) / 60:.1f} min, {loss:.4f} nats a token", flush=True)

    def after(epoch: rj.training.Epoch) -> bool:
        add("rnnjax", epoch.seconds, epoch.logs["val_loss"])
        add("torch", *other())
        return curves["torch"][-1][0] >= TWIN_SECONDS

    translation.train(task, recipe, seed=0, callbacks=[after], progress=False)
    ours, theirs = (curves[name][-1] for name in ("rnnjax", "torch"))
    name = "translation_quick_time_vs_torch" if args.quick else "translation_time_vs_torch"
    figures = {name: theirs[0] / ours[0]}
    if args.write:
        RESULTS.mkdir(exist_ok=True)
        found = {"machine": machine(), "figures": figures, "recipe": recipe._asdict(), "curves": curves}
        (RESULTS / "translation_torch.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"after {len(curves['torch'])} epochs: {ours[1]:.4f} and {theirs[1]:.4f} nats a token")
    print(f"figure: {name} {figures[name]:.3f}")


if __name__ == "__main__":
    main()
