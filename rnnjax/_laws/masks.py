"""Laws about masks, lengths and resets."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from .._cell import Cell
from .trial import ROWS, STEPS, Outcome, Shape, Trial, agree, initial_state, one_step, require, spread, start


def masked_tail(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """A masked tail, by mask or by lengths, is a shorter sequence, in values and gradients."""
    trial = Trial.of(cell, event_shape, implementation)
    lengths = np.array([STEPS, 4, 2])
    masked = trial.flagged(np.arange(STEPS)[:, None] < lengths)
    ragged = trial.but(lengths=lengths).run()
    agree("lengths for a mask", ragged, masked.run())
    for row, length in enumerate(lengths):
        got = masked.only_row(row).pull()
        want = trial.between(0, length).only_row(row).pull()
        agree("ys", got.out.ys[:length, row], want.out.ys[:, row])
        require((got.out.ys[length:, row] == 0).all(), "ys are not zero behind the length")
        agree("state", _row(got.out.state, row), _row(want.out.state, row))
        agree("cut gradients", got.grads._replace(xs=_cut(got.grads.xs, 0, length)), want.grads)
        require(not _any(_cut(got.grads.xs, length, STEPS)), "masked inputs have a gradient")


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row], tree)


def _cut(tree: Any, first: int, last: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[first:last], tree)


def _any(tree: Any) -> bool:
    return any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(tree))


def masked_hole(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Masked steps anywhere are as if deleted, in values and gradients."""
    trial = Trial.of(cell, event_shape, implementation)
    holes = np.array([[0, 1], [2, 4], [1, 5]])
    valid = np.stack([np.delete(np.arange(STEPS), hole) for hole in holes], axis=1)
    rows = np.arange(ROWS)
    mask = np.zeros((STEPS, ROWS), bool)
    mask[valid, rows] = True

    def pick(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[valid, rows], tree)

    got = trial.flagged(mask).pull()
    ys, state = trial.cotangents
    want = trial.but(xs=pick(trial.xs), cotangents=Outcome(pick(ys), state)).pull()
    agree("outcome", got.out._replace(ys=pick(got.out.ys)), want.out)
    agree("gradients", got.grads._replace(xs=pick(got.grads.xs)), want.grads)
    require((got.out.ys[holes.T, rows] == 0).all(), "ys are not zero in the holes")
    require(not _any(jax.tree.map(lambda leaf: leaf[holes.T, rows], got.grads.xs)), "masked inputs have a gradient")


def reset_splits(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """A reset ends one sequence and begins another from the initial state, in values and gradients."""
    trial = Trial.of(cell, event_shape, implementation)
    at = np.array([4, 2, 0])
    joined = trial.flagged(reset=np.arange(STEPS)[:, None] == at)
    begin = partial(initial_state, batch_shape=(ROWS,))
    initial, pull_initial = jax.vjp(begin, trial.cell, trial.params)
    for row, first in enumerate(at):
        got = joined.only_row(row).pull()
        after = trial.between(first, STEPS).but(state=jax.device_get(initial)).only_row(row).pull()
        agree("ys behind the reset", got.out.ys[first:, row], after.out.ys[:, row])
        agree("state behind the reset", _row(got.out.state, row), _row(after.out.state, row))
        agree("inputs' gradients behind the reset", _cut(got.grads.xs, first, STEPS), after.grads.xs)
        own = after.grads.cell, after.grads.params
        wanted = jax.tree.map(np.add, own, jax.device_get(pull_initial(after.grads.state)))
        if first > 0:
            before = trial.between(0, first).only_row(row)
            unused = jax.tree.map(np.zeros_like, before.cotangents.state)
            before = before.but(cotangents=before.cotangents._replace(state=unused)).pull()
            agree("ys before the reset", got.out.ys[:first, row], before.out.ys[:, row])
            agree("inputs' gradients before the reset", _cut(got.grads.xs, 0, first), before.grads.xs)
            agree("state's gradient", got.grads.state, before.grads.state)
            wanted = jax.tree.map(np.add, wanted, (before.grads.cell, before.grads.params))
        else:
            require(not _any(got.grads.state), "the state before a reset at the first step has a gradient")
        agree("gradients of cell and parameters", (got.grads.cell, got.grads.params), wanted)


def mask_with_reset(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Masks and resets together, on the same steps too, are what a loop over each row alone gives."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    for directed in (trial, trial.but(reverse=True)):
        out = directed.run()
        for row in range(ROWS):
            want = _one_row(directed.row(row))
            agree(f"row {row}", Outcome(out.ys[:, row], _row(out.state, row)), want)


def _one_row(trial: Trial) -> Outcome:
    state, initial = trial.state, start(trial.cell, trial.params, ())
    ys = np.zeros(trial.cotangents.ys.shape)
    for t in range(STEPS)[:: -1 if trial.reverse else 1]:
        if not trial.reverse and trial.reset[t]:
            state = initial
        if trial.mask[t]:
            ys[t], state = one_step(trial.cell, trial.params, state, trial.xs[t])
        if trial.reverse and trial.reset[t] and t > 0:
            state = initial
    return Outcome(ys, state)


def padding(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """NaN and infinity in masked inputs reach no value and no gradient."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    rng = np.random.default_rng(2)

    def spoil(leaf: Any) -> Any:
        junk = rng.choice([np.nan, np.inf, -np.inf], size=leaf.shape)
        return np.where(spread(trial.mask, leaf), leaf, junk)

    spoilt = trial.but(xs=jax.tree.map(spoil, trial.xs))
    for reverse in (False, True):
        agree("run", spoilt.but(reverse=reverse).pull(), trial.but(reverse=reverse).pull())


def no_valid_step(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """A row without a valid step keeps the state it was given, or else the initial one, and adds to no gradient."""
    trial = Trial.of(cell, event_shape, implementation)
    mask = np.ones((STEPS, ROWS), bool)
    mask[:, 1] = False
    pulled = trial.flagged(mask).pull()
    require(not _any(pulled.out.ys[:, 1]), "ys are not zero")
    agree("state", _row(pulled.out.state, 1), _row(trial.state, 1), tolerance=0)
    agree("state's gradient", _row(pulled.grads.state, 1), _row(trial.cotangents.state, 1), tolerance=0)
    require(not _any(pulled.grads.xs[:, 1]), "masked inputs have a gradient")
    alone = trial.flagged(mask).only_row(1).pull().grads
    require(not _any((alone.cell, alone.params)), "cell or parameters have a gradient")
    fresh = trial.but(state=None, lengths=np.array([STEPS, 0, 3])).run()
    agree("initial state", _row(fresh.state, 1), start(trial.cell, trial.params, ()), tolerance=0)
