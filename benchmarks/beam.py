"""Measures beam search beside a batched PyTorch twin: the same decoder, the same search, the same hypotheses.

    python benchmarks/beam.py [--quick] [--write]

An embedding, an LSTM and a projection: width 8, vocabulary 8,000, H 512, batch 16, 40 steps, a length penalty. The twin
has the weights of our layer and, as ours, no work on the host but the question whether all rows are finished. Rivals
take turns; a figure is a ratio of medians. benchmarks/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from core import machine, parsed
from speed import in_turns
from torch import Tensor

import rnnjax as rj

ROWS, BEAMS, VOCABULARY, HIDDEN, LENGTH, END, ALPHA = 16, 8, 8000, 512, 40, 1, 0.6
RESULTS = Path(__file__).parent / "results"

Run = Callable[[], Any]


def model() -> tuple[rj.Layer, Any]:
    """The layer and its parameters, with logits that spread as those of a trained model do."""
    layer = rj.Stack([rj.Embedding(VOCABULARY, HIDDEN), rj.LSTM(HIDDEN), rj.Dense(VOCABULARY)])
    embedding, lstm, dense = layer.init(jax.random.key(0), VOCABULARY)
    return layer, (embedding, lstm, dense._replace(w=dense.w * 20))


def starts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, ROWS).astype(np.int32)


def ours(layer: rj.Layer, params: Any) -> Run:
    @jax.jit
    def search(params: Any, start: Any) -> rj.decoding.Beams:
        step = rj.decoding.next_token(layer, params)
        return rj.decoding.beam_search(
            step,
            step.initial_state(start.shape),
            start,
            LENGTH,
            BEAMS,
            end=END,
            n_best=BEAMS,
            length_penalty=rj.decoding.GNMT(ALPHA),
        )

    compiled = search.lower(params, starts()).compile()
    start = jnp.asarray(starts())
    return lambda: jax.block_until_ready(compiled(params, start))


class Closed(NamedTuple):
    """The finished hypotheses: tokens (B, N, L), lengths (B, N), scores (B, N)."""

    tokens: Tensor
    lengths: Tensor
    scores: Tensor

    def best_with(self, tokens: Tensor, lengths: int, scores: Tensor) -> Closed:
        count = self.scores.shape[1]
        scores, order = torch.cat([self.scores, scores], 1).topk(count)
        every = torch.cat([self.lengths, torch.full(tokens.shape[:2], lengths)], 1)
        both = torch.cat([self.tokens, tokens], 1)
        return Closed(both.gather(1, order[..., None].expand(-1, -1, both.shape[2])), every.gather(1, order), scores)


class Twin(torch.nn.Module):
    """The decoder in PyTorch, and its search."""

    def __init__(self, params: Any) -> None:
        super().__init__()
        embedding, lstm, dense = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), params)
        self.embedding = torch.nn.Embedding.from_pretrained(embedding.w)
        self.cell = torch.nn.LSTMCell(HIDDEN, HIDDEN)
        self.dense = torch.nn.Linear(HIDDEN, VOCABULARY)
        for own, given in (
            (self.cell.weight_ih, lstm.w.T),
            (self.cell.weight_hh, lstm.u.T),
            (self.cell.bias_ih, lstm.b),
            (self.cell.bias_hh, torch.zeros_like(lstm.b)),
            (self.dense.weight, dense.w.T),
            (self.dense.bias, dense.b),
        ):
            own.data.copy_(given)

    @torch.inference_mode()
    def forward(self, start: Tensor) -> Closed:
        rows, width = len(start), BEAMS
        first = torch.arange(rows)[:, None] * width  # of each row, among all beams
        token = start.repeat_interleave(width)
        h, c = torch.zeros(2, rows * width, HIDDEN).unbind()
        live = torch.full((rows, width), -torch.inf)
        live[:, 0] = 0
        history = torch.zeros(rows * width, LENGTH, dtype=torch.long)
        closed = Closed(
            torch.zeros(rows, width, LENGTH, dtype=torch.long),
            torch.zeros(rows, width, dtype=torch.long),
            torch.full((rows, width), -torch.inf),
        )
        divisor = ((5 + torch.arange(1, LENGTH + 1)) / 6) ** ALPHA
        for t in range(LENGTH):
            h, c = self.cell(self.embedding(token), (h, c))
            log_probs = torch.log_softmax(self.dense(h), -1).view(rows, width, VOCABULARY)
            values, index = (log_probs + live[..., None]).view(rows, -1).topk(2 * width)
            parent, token = index // VOCABULARY + first, index % VOCABULARY
            ends = token == END

            finished = history[parent[:, :width]]
            finished[..., t] = END
            ending = values[:, :width].masked_fill(~ends[:, :width], -torch.inf)
            closed = closed.best_with(finished, t + 1, ending / divisor[t])

            live, going = values.masked_fill(ends, -torch.inf).topk(width)
            parent, token = parent.gather(1, going).flatten(), token.gather(1, going).flatten()
            h, c, history = h[parent], c[parent], history[parent]
            history[:, t] = token
            live = live.masked_fill(closed.scores[:, -1:] >= live[:, :1] / divisor[-1], -torch.inf)
            if not torch.isfinite(live).any():
                return closed
        return closed.best_with(history.view(rows, width, LENGTH), LENGTH, live / divisor[-1])


def check(found: rj.decoding.Beams, twin: Closed) -> int:
    """Raises unless both found the same; the number of steps that the longest hypothesis took."""
    np.testing.assert_allclose(found.scores, twin.scores, rtol=1e-4)
    same = (np.asarray(found.tokens) == twin.tokens.numpy()).all(-1).mean()
    if same < 0.98:  # scores that differ by less than rounding may change places
        raise RuntimeError(f"only {same:.0%} of the hypotheses agree")
    return int(np.max(found.lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three turns: shows that it runs")
    parser.add_argument("--write", action="store_true", help="save the table under benchmarks/results")
    args = parsed(parser)
    print(f"{machine()}, torch {torch.__version__}")
    layer, params = model()
    twin = Twin(params)
    start = torch.from_numpy(starts()).long()
    rivals = {"torch": lambda: twin(start), "rnnjax": ours(layer, params)}
    steps = check(rivals["rnnjax"](), rivals["torch"]())
    times = in_turns(rivals, 0 if args.quick else 60, 3 if args.quick else 15)
    ratios = sorted(a / b for a, b in zip(times["torch"], times["rnnjax"], strict=True))
    quartiles = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    medians = {name: statistics.median(own) for name, own in times.items()}
    figure = medians["torch"] / medians["rnnjax"]
    for name, median in medians.items():
        print(f"{name:8} {median:7.0f} ms, {median / steps:.1f} ms a step")
    print(f"quartiles of the ratio over {len(ratios)} turns: {quartiles[0]:.2f}–{quartiles[1]:.2f}")
    print(f"figure: beam_vs_torch {figure:.4g}")
    if args.write:
        RESULTS.mkdir(exist_ok=True)
        data = {"machine": machine(), "ms": medians, "quartiles": quartiles, "figures": {"beam_vs_torch": figure}}
        (RESULTS / "beam.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
