"""The law about transitions."""

from __future__ import annotations

from typing import Any

import jax

from .._cell import Cell
from .._wrapper import acts
from .trial import ROWS, Shape, Trial, agree


def composition(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """An associative cell's transitions compose in any order, and one composed of two acts as one after the other."""
    if not acts(cell):
        return
    trial = Trial.of(cell, event_shape, implementation)
    own: Any = trial.cell
    params = own.prepare(trial.params)
    z = own.project(params, trial.xs)
    f, g, h = (jax.tree.map(lambda leaf, t=t: leaf[t], z) for t in range(3))
    together = own.combine(own.combine(f, g), h)
    agree("the last two first", own.combine(f, own.combine(g, h)), together)
    one_by_one = own.act(h, own.act(g, own.act(f, trial.state)))
    agree("action", own.act(together, trial.state), one_by_one)
    agree("step", own.step(params, trial.state, f), own.act(f, trial.state))
    # the parallel scan composes many steps in one call
    at_once = own.combine(*(jax.tree.map(lambda leaf, t=t: leaf[t : t + 2], z) for t in (0, 2)))
    row = jax.tree.map(lambda leaf: leaf[:, ROWS - 1], at_once)
    alone = own.combine(*(jax.tree.map(lambda leaf, t=t: leaf[t : t + 2, ROWS - 1], z) for t in (0, 2)))
    agree("leading axes", row, alone)
