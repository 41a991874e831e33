"""A cell's step as a map from vectors to vectors, one row at a time: what Jacobians, spectra and solvers work on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._types import Array, Params, State, Xs, Z
from .._unroll import check
from .._unroll.call import Dtypes

Step = Callable[[Array, Z], Array]


class Flat(NamedTuple):
    """A cell, its parameters and inputs, with states as vectors (S) in which all arrays of a state follow each other.

    step(s, z) -> s takes one row; z has leaves (T, N, …), start is (N, S), N the batch axes in one.
    """

    step: Step
    start: Array
    z: Z
    batch_shape: tuple[int, ...]
    shapes: State

    def state(self, flat: Array, lead: tuple[int, ...]) -> State:
        """Vectors (…, S) as a state with leaves (*lead, …)."""
        return unflatten(flat.reshape(*lead, flat.shape[-1]), self.shapes)


def flatten(state: State, rows: int) -> Array:
    """A state with leaves (…), whose leading axes hold so many rows, as (rows, S)."""
    return jnp.concatenate([leaf.reshape(rows, -1) for leaf in jax.tree.leaves(state)], axis=1)


def unflatten(flat: Array, shapes: State) -> State:
    """Vectors (*lead, S) as a state; `shapes` are those of one row."""
    leaves, structure = jax.tree.flatten(shapes)
    parts, begin = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        parts.append(flat[..., begin : begin + size].reshape(*flat.shape[:-1], *leaf.shape))
        begin += size
    return jax.tree.unflatten(structure, parts)


def flat_cell(cell: Cell, params: Params, xs: Xs, state: State | None) -> Flat:
    """The flat form of a cell over inputs (T, *B, I), without noise; raises as `rnnjax.unroll` does."""
    check.arguments(cell, params, xs, state, None, None, None, None, None, None, None)
    steps, batch_shape = check.sizes(cell, xs)
    rows = math.prod(batch_shape)
    dtypes = Dtypes.of(cell.compute_dtype, xs, params)
    params = dtypes.cast(cell.prepare(params))
    xs = jax.tree.map(lambda x: x.astype(dtypes.compute).reshape(steps, rows, *x.shape[1 + len(batch_shape) :]), xs)
    if state is None:
        state = cell.initial_state(params, batch_shape, dtypes.state)
    shapes = jax.eval_shape(lambda: cell.initial_state(params, (), dtypes.state))

    def step(flat: Array, z: Z) -> Array:
        return flatten(cell.step(params, unflatten(flat, shapes), z), 1)[0].astype(flat.dtype)

    return Flat(step, flatten(state, rows).astype(dtypes.state), cell.project(params, xs), batch_shape, shapes)
