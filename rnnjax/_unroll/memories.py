"""Chunked cells: many steps in one call of the cell, and pieces of time that the backward pass forms again."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Marks
from .._types import Array, State
from . import chunks
from .call import Call, Flow, merge_noise
from .lift import where
from .recurrence import flip
from .theta import some


def run(call: Call, length: int, kept: int) -> tuple[Any, State]:
    """Outputs and last state, `length` steps at once; the backward pass keeps the state every `kept` steps, and within
    such a piece, while it is formed again, every `length`."""

    def piece(state: State, flow: Flow) -> tuple[State, Any]:
        steps = jax.tree.leaves(flow.xs)[0].shape[0]
        return chunks.in_pieces(partial(_chunk, call), state, flow, steps, length, call.reverse)

    state, ys = chunks.in_pieces(piece, call.state, call.flow, call.steps, max(kept, length), call.reverse)
    return ys, state


def _chunk(call: Call, state: State, flow: Flow) -> tuple[State, Any]:
    """Last state and outputs of one chunk. Backwards the cell sees it flipped."""
    cell: Any = call.cell
    params = call.dtypes.cast(call.params)
    z = cell.project(params, flow.xs, *some(merge_noise(flow.noise, call.constant_noise)))
    z, mask, reset = flip((z, flow.mask, flow.reset), call.reverse)
    new, emitted = cell.chunk(params, state, z, Marks(mask, reset, call.boundary))
    ys = cell.readout(params, flip(emitted, call.reverse), flow.xs)
    new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
    new = _moved(call, mask, reset, new, state)
    return new, jax.tree.map(lambda y: y.astype(call.dtypes.compute), ys)


def _moved(call: Call, mask: Array | None, reset: Array | None, new: State, old: State) -> State:
    """The new state where a step is valid behind the last reset, elsewhere the boundary or the old state, exactly."""
    if mask is None:
        return new
    if reset is None:
        return where(mask.any(0), new, old)
    behind = jnp.flip(jnp.cumsum(jnp.flip(reset[1:], 0), 0, dtype=jnp.int32), 0) == 0
    behind = jnp.concatenate([behind, jnp.ones_like(reset[:1])])
    return where((mask & behind).any(0), new, where(reset.any(0), call.boundary, old))
