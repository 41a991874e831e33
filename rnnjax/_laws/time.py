"""Laws about the order of steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import numpy as np

from .._cell import Cell
from .trial import ROWS, STEPS, Shape, Trial, agree, loop, require, start


def steps_in_a_loop(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """A sequence is a Python loop of `step`, with masks and resets, noise and direction."""
    trial = Trial.of(cell, event_shape, implementation)
    patterned = trial.patterned()
    for case in (trial, patterned, patterned.but(reverse=True), patterned.but(key=jax.random.key(3))):
        agree("outcome", case.run(), loop(case))


def chunks(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """A sequence cut anywhere, into pieces of 0 to 3 steps, is the whole sequence."""
    whole = Trial.of(cell, event_shape, implementation).patterned()
    want = whole.run()
    rng = np.random.default_rng(5)
    for _ in range(3):
        state, ys = whole.state, []
        for first, last in pairwise(np.cumsum([0, *_pieces(rng)])):
            piece = whole.between(first, last).but(state=state)
            outputs, state = (piece if last > first else piece.but(implementation=None)).run()
            ys.append(outputs)
        agree("outcome", (np.concatenate(ys), state), tuple(want))


def _pieces(rng: np.random.Generator) -> list[int]:
    pieces = [0, 1, 3]
    while sum(pieces) < STEPS:
        pieces.append(min(int(rng.integers(0, 3)), STEPS - sum(pieces)))
    return list(rng.permutation(pieces))


def direction(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Backwards is forwards on the flipped sequence, flipped again; with lengths each row flips its own valid part."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    got = trial.but(reverse=True).pull()
    behind = np.concatenate([np.zeros_like(trial.reset[:1]), _flip(trial.reset[1:])])
    ys = _flip(trial.cotangents.ys)
    flipped = trial.but(
        xs=_flip(trial.xs), mask=_flip(trial.mask), reset=behind, cotangents=trial.cotangents._replace(ys=ys)
    ).pull()
    agree("outcome", got.out, flipped.out._replace(ys=_flip(flipped.out.ys)))
    agree("gradients", got.grads, flipped.grads._replace(xs=_flip(flipped.grads.xs)))

    lengths = np.array([STEPS, 4, 1])
    ragged = trial.but(mask=None, reset=None, lengths=lengths)
    got = ragged.but(reverse=True).run()
    want = ragged.but(xs=_flip_rows(trial.xs, lengths)).run()
    agree("outcome with lengths", got, want._replace(ys=_flip_rows(want.ys, lengths)))


def _flip(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[::-1], tree)


def _flip_rows(tree: Any, lengths: np.ndarray) -> Any:
    times, rows = np.arange(STEPS)[:, None], np.arange(len(lengths))
    source = np.where(times < lengths, lengths - 1 - times, times)
    return jax.tree.map(lambda leaf: leaf[source, rows], tree)


def causality(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """An output depends on every input up to its own and on none after it; backwards the other way round."""
    trial = Trial.of(cell, event_shape, implementation).flagged()
    rng = np.random.default_rng(3)
    # with relu one draw may leave no path open between two steps
    draws = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), trial.xs) for _ in range(4)]
    for reverse in (False, True):
        for t in range(STEPS):
            at_t = jax.tree.map(np.zeros_like, trial.cotangents)
            at_t.ys[t] = trial.cotangents.ys[t]
            directed = trial.but(reverse=reverse, cotangents=at_t)
            reached = np.any([_reached(directed.but(xs=xs).pull().grads.xs) for xs in draws], axis=0)
            past = np.arange(STEPS) >= t if reverse else np.arange(STEPS) <= t
            require((reached == past).all(), f"y[{t}] depends on the inputs {np.flatnonzero(reached)}, {reverse=}")


def _reached(grads: Any) -> np.ndarray:
    return np.any([np.abs(leaf).reshape(STEPS, -1).max(-1) > 0 for leaf in jax.tree.leaves(grads)], axis=0)


def nothing_to_do(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """No time steps give back the state, no rows give no rows, and neither disturbs a gradient."""
    no_steps = Trial.of(cell, event_shape, None, steps=0).flagged()
    pulled = no_steps.pull()
    agree("state after no steps", pulled.out.state, no_steps.state)
    agree("state's gradient after no steps", pulled.grads.state, no_steps.cotangents.state)
    agree("initial state after no steps", no_steps.but(state=None).run().state, start(cell, no_steps.params, (ROWS,)))

    no_rows = Trial.of(cell, event_shape, implementation, batch_shape=(0,)).flagged()
    pulled = no_rows.pull()
    require(pulled.out.ys.shape == no_rows.cotangents.ys.shape, f"ys without rows have shape {pulled.out.ys.shape}")
    for leaf in jax.tree.leaves((pulled.grads, no_steps.pull().grads._replace(state=()))):
        require((np.asarray(leaf) == 0).all(), f"a gradient is {leaf} where there is nothing to do")
