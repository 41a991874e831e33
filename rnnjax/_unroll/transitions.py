"""Masks and resets of transitions, written once for all associative cells, and a piece of time run with them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._linear import Affine, Numbers, one_like, plus, times
from .._types import Array, State, Z, explicit_spec
from .._wrapper import acts, diagonal, takes_chunks
from . import chunks, recurrence
from .call import Call, Flow
from .lift import flip, hold, where
from .recurrence import Form


def supports(call: Call) -> str | None:
    """Why the call's steps do not compose, or None."""
    if takes_chunks(call.cell):
        return f"the transitions of {type(call.cell).__name__}, a chunked cell, are too large to compose"
    if not acts(call.cell):
        return f"{type(call.cell).__name__} is not an associative cell: its steps do not compose"
    return "there are no time steps" if call.steps == 0 else None


def in_pieces(call: Call, form: Form, length: int) -> tuple[Any, State]:
    """Outputs and last state, `length` steps at a time. The backward pass keeps the state between pieces and no more:
    with the products in the pieces, too, it is faster to form the rest again than to store and load it."""
    piece = partial(_piece, call, form)
    state, ys = chunks.in_pieces(piece, call.state, call.flow, call.steps, length, call.reverse)
    return ys, state


def _piece(call: Call, form: Form, state: State, flow: Flow) -> tuple[State, Any]:
    """Last state and outputs of one piece of time."""
    cell, z = call.cell, call.project(flow)
    numbers = diagonal(cell)
    if numbers is not None:
        states = _diagonal(call, form, numbers, z, state, flow)
    elif form == "loop":
        states = _loop(call, z, state, flow)
    else:
        states = _parallel(call, z, state, flow)
    last = jax.tree.map(lambda leaf: leaf[0 if call.reverse else -1], states)
    ys = cell.readout(call.dtypes.cast(call.params), cell.emit(states), flow.xs)
    return last, jax.tree.map(lambda y: y.astype(call.dtypes.compute), ys)


def _diagonal(call: Call, form: Form, numbers: Numbers, z: Affine, state: State, flow: Flow) -> State:
    """A masked step is s ↦ 1 ⊙ s + 0; behind a reset, s_t = b_t with what the boundary adds already in b."""
    z = jax.tree.map(lambda leaf: leaf.astype(call.dtypes.state), z)
    z = z._replace(a=tuple(map(_placed_like, z.a, z.b)))
    if flow.mask is not None:
        z = Affine(
            where(flow.mask, z.a, one_like(numbers, z.a)), where(flow.mask, z.b, jax.tree.map(jnp.zeros_like, z.b))
        )
    if flow.reset is not None:
        boundary = _over_time(call.boundary, z.b[0].shape[0])
        z = z._replace(b=where(flow.reset, plus(times(numbers, z.a, tuple(jax.tree.leaves(boundary))), z.b), z.b))
    leaves, structure = jax.tree.flatten(state)
    plan = recurrence.Plan(numbers, form, call.reverse)
    return jax.tree.unflatten(structure, recurrence.states(plan, z, tuple(leaves), flow.reset))


def _placed_like(a: Array, b: Array) -> Array:
    """`a` where `b` is: under an explicit mesh one that does not depend on the inputs lacks their sharding."""
    spec = explicit_spec(b)
    return a if spec is None else jax.sharding.reshard(a, spec)


def _loop(call: Call, z: Z, state: State, flow: Flow) -> State:
    cell: Any = call.cell

    def body(state: State, inputs: Any) -> tuple[State, State]:
        z_t, mask_t, reset_t = inputs
        old = where(reset_t, call.boundary, state)
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), cell.act(z_t, old), old)
        state = hold(mask_t, new, old)
        return state, state

    return lax.scan(body, state, (z, flow.mask, flow.reset), reverse=call.reverse)[1]


class _Lifted(NamedTuple):
    """A transition that starts from the boundary where `resets`, and leaves the state alone where not `moves`."""

    z: Z
    moves: Array
    resets: Array


def _parallel(call: Call, z: Z, state: State, flow: Flow) -> State:
    cell: Any = call.cell

    def compose(first: _Lifted, then: _Lifted) -> _Lifted:
        counts = first.moves & ~then.resets
        both = where(counts, cell.combine(first.z, then.z), then.z)
        return _Lifted(where(then.moves, both, first.z), counts | then.moves, first.resets | then.resets)

    shape = (jax.tree.leaves(z)[0].shape[0], *call.batch_shape)
    moves = jnp.ones(shape, bool) if flow.mask is None else flow.mask
    resets = jnp.zeros(shape, bool) if flow.reset is None else flow.reset
    lifted = flip(_Lifted(z, moves, resets), call.reverse)
    lifted = flip(lax.associative_scan(compose, lifted), call.reverse)
    start = _over_time(state, shape[0])
    if flow.reset is not None:
        start = where(lifted.resets, _over_time(call.boundary, shape[0]), start)
    new = jax.tree.map(lambda a, b: a.astype(b.dtype), cell.act(lifted.z, start), start)
    return where(lifted.moves, new, start)


def _over_time(state: State, steps: int) -> State:
    """The same state at every step."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (steps, *leaf.shape)), state)
