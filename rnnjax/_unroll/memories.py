"""Chunked cells: many steps in one call of the cell, and pieces of time that the backward pass forms again."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._cell import Marks
from .._types import Array, State
from . import chunks
from .call import Call, Flow
from .lift import flip, where


def run(call: Call, length: int, kept: int) -> tuple[Any, State]:
    """Outputs and last state, `length` steps at once; the backward pass keeps the state every `kept` steps, and within
    such a piece, while it is formed again, every `length`."""

    def piece(state: State, flow: Flow) -> tuple[State, Any]:
        steps = jax.tree.leaves(flow.xs)[0].shape[0]
        return chunks.in_pieces(partial(_chunk, call), state, flow, steps, length, call.reverse)

    state, ys = chunks.in_pieces(piece, call.state, call.flow, call.steps, max(kept, length), call.reverse)
    return ys, state


def _chunk(call: Call, state: State, flow: Flow) -> tuple[State, Any]:
    """Last state and outputs of one chunk. Backwards the cell sees it flipped.

    A chunk multiplies by zero what a step must not see, what comes later or lies on the other side of a reset, and zero
    times NaN is NaN. Numbers that are not finite are therefore left out, and what they would reach is NaN without them.
    """
    cell: Any = call.cell
    params, axes = call.dtypes.cast(call.params), 1 + len(call.batch_shape)
    bad = ~_finite(flow.xs, axes)
    xs = _without(flow.xs)
    z = call.project(flow._replace(xs=xs))
    z, mask, reset, bad = flip((z, flow.mask, flow.reset, bad), call.reverse)
    bad |= ~_finite(z, axes)  # where a product of finite inputs overflows
    start, lost = _contained(state, bad, reset, call.boundary)
    new, emitted = cell.chunk(params, start, _without(z), Marks(mask, reset, call.boundary))
    # not where a step is masked: a readout would multiply the cotangent, which is zero there, with NaN
    emitted = _filled(jnp.nan, lost if mask is None else lost & mask, emitted)
    new = _filled(jnp.nan, lost[-1], new)
    ys = cell.readout(params, flip(emitted, call.reverse), xs)
    new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
    new = _moved(call, mask, reset, new, state)
    return new, jax.tree.map(lambda y: y.astype(call.dtypes.compute), ys)


def _contained(state: State, bad: Array, reset: Array | None, boundary: State | None) -> tuple[State, Array]:
    """The state, or the boundary in rows with a reset whose state is not finite, and the steps (K, *B) that such a
    state or a bad input before them in their sequence reaches."""
    if reset is None:
        return state, lax.cummax(bad.astype(jnp.int32)) > 0
    count = jnp.cumsum(reset, 0, dtype=jnp.int32)
    bad_state = (count[-1] > 0) & ~_finite(state, count.ndim - 1)
    # the number of the last sequence that was reached so far; the state belongs to number 0
    before = jnp.where(bad_state, 0, -1).astype(jnp.int32)
    reached = lax.cummax(jnp.where(bad, count, jnp.broadcast_to(before[None], count.shape)))
    return where(bad_state, boundary, state), reached == count


def _finite(tree: Any, axes: int) -> Array:
    """Whether all numbers behind the first `axes` axes are finite."""
    found = [jnp.isfinite(leaf).all(tuple(range(axes, leaf.ndim))) for leaf in jax.tree.leaves(tree)]
    return reduce(jnp.logical_and, found)


def _without(tree: Any) -> Any:
    """Zero for every number that is not finite."""
    return jax.tree.map(lambda leaf: _filled(0, ~jnp.isfinite(leaf), leaf), tree)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _filled(value: float, at: Array, tree: Any) -> Any:
    """Leaves with `value` where `at`. The cotangent of what a loss has read there is NaN: it read what was lost."""
    return where(at, jax.tree.map(lambda leaf: jnp.full_like(leaf, value), tree), tree)


def _filled_fwd(value: float, at: Array, tree: Any) -> tuple[Any, Array]:
    return _filled(value, at, tree), at


def _filled_bwd(value: float, at: Array, cotangents: Any) -> tuple[None, Any]:
    read = jax.tree.map(lambda leaf: jnp.where(leaf == 0, leaf, jnp.nan), cotangents)
    return None, where(at, read, cotangents)


_filled.defvjp(_filled_fwd, _filled_bwd)


def _moved(call: Call, mask: Array | None, reset: Array | None, new: State, old: State) -> State:
    """The new state where a step is valid behind the last reset, elsewhere the boundary or the old state, exactly."""
    if mask is None:
        return new
    if reset is None:
        return where(mask.any(0), new, old)
    behind = jnp.flip(jnp.cumsum(jnp.flip(reset[1:], 0), 0, dtype=jnp.int32), 0) == 0
    behind = jnp.concatenate([behind, jnp.ones_like(reset[:1])])
    return where((mask & behind).any(0), new, where(reset.any(0), call.boundary, old))
