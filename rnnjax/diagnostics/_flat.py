"""A cell's step as a map from vectors to vectors, one row at a time: what Jacobians, spectra and solvers work on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from .._cell import Cell, Gates
from .._products import recurrent_gates, split_bias
from .._types import Array, Params, State, Xs, Z
from .._unroll import check
from .._unroll.call import Dtypes, features
from .._unroll.jacobians import elementwise

Step = Callable[[Array, Z], Array]
P = ParamSpec("P")
R = TypeVar("R")


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """The function with whole factors in its products: an accelerator's default keeps 11 bits of them, a TPU's 8."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return call


class Flat(NamedTuple):
    """A cell, its parameters and inputs, with states as vectors (S) in which all arrays of a state follow each other.

    step(s, z) -> s takes one row, jacobian(s, z) is ∂step/∂s (S, S) there; z has leaves (T, N, …), start is (N, S), N
    the batch axes in one.
    """

    step: Step
    jacobian: Step
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


@exact
def flat_cell(cell: Cell, params: Params, xs: Xs, state: State | None, differentiate: bool = False) -> Flat:
    """The flat form of a cell over inputs (T, *B, I), without noise; raises as `rnnjax.unroll` does, and with
    `differentiate` TypeError for a step that has no forward derivative."""
    check.arguments(cell, params, xs, state)
    steps, batch_shape = check.sizes(cell, xs)
    rows = math.prod(batch_shape)
    lead = 1 + len(batch_shape)
    dtypes = Dtypes.of(cell.compute_dtype, features(xs, lead), params)
    prepared = cell.prepare(params)
    params = dtypes.cast(prepared)
    xs = jax.tree.map(lambda x: x.reshape(steps, rows, *x.shape[lead:]), dtypes.inputs(xs, lead))
    if state is None:
        state = cell.initial_state(prepared, batch_shape, dtypes.state)
    shapes = jax.eval_shape(lambda: cell.initial_state(prepared, (), dtypes.state))

    @exact
    def step(flat: Array, z: Z) -> Array:
        return flatten(cell.step(params, unflatten(flat, shapes), z), 1)[0].astype(flat.dtype)

    z = cell.project(params, xs)
    start = flatten(state, rows).astype(dtypes.state)
    if differentiate:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), z)
        _check_forward(cell, step, jax.ShapeDtypeStruct(start.shape[1:], start.dtype), one)
    jacobian = _gated_jacobian(cell, params, shapes, z) or jax.jacfwd(step)
    return Flat(step, exact(jacobian), start, z, batch_shape, shapes)


def _check_forward(cell: Cell, step: Step, start: Any, z: Any) -> None:
    """`start` (S) and `z` are shapes of one row."""
    try:
        jax.eval_shape(lambda s, z: jax.jvp(lambda s: step(s, z), (s,), (s,)), start, z)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise TypeError(
            f"the step of {cell!r} must have a forward derivative, of which Jacobians are made; JAX says: {error}. "
            "Write what it calls in JAX, or give it a derivative by `jax.custom_jvp`"
        ) from error


def _gated_jacobian(cell: Any, params: Params, shapes: State, z: Z) -> Step | None:
    """∂step/∂s of a gated cell whose `update` is elementwise, from one derivative of it for each gate and each array
    of the state instead of one of the step for each number of the state; None for other cells."""
    if cell.capability != "gated":
        return None
    u, b = cell.recurrent(params)
    biases = split_bias(b, len(z))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), z)

    def update(read: tuple[State, Gates], gx: Gates) -> list[Array]:
        return jax.tree.leaves(cell.update(params, read[0], gx, read[1]))

    if not elementwise(lambda read: update(*read), ((shapes, like), like)) or not elementwise(cell.hidden, shapes):
        return None

    blocks, one = jnp.split(u.T, len(z)), jnp.eye(u.shape[0], dtype=u.dtype)

    def jacobian(flat: Array, z: Gates) -> Array:
        state = unflatten(flat, shapes)
        (hidden,), by_array = _slopes(lambda state: [cell.hidden(state)], state)
        gates = recurrent_gates(hidden, u, biases)
        _, slopes = _slopes(lambda read: update(read, z), (state, gates))
        arrays, rows = len(by_array), []
        for new in range(arrays):
            through = sum(slope[new][:, None] * block for slope, block in zip(slopes[arrays:], blocks, strict=True))
            rows.append([through * by_array[old, 0][None] + slopes[old, new][:, None] * one for old in range(arrays)])
        return jnp.block(rows).astype(flat.dtype)

    return jacobian


def _slopes(f: Callable[[Any], list[Array]], at: Any) -> tuple[list[Array], Array]:
    """An elementwise function's values, and the derivative (P, Q, H) of each of Q results by each of P arrays."""
    leaves, structure = jax.tree.flatten(at)

    def push(chosen: Array) -> tuple[list[Array], list[Array]]:
        tangents = [jnp.full_like(leaf, one) for leaf, one in zip(leaves, chosen, strict=True)]
        return jax.jvp(f, (at,), (jax.tree.unflatten(structure, tangents),))

    values, slopes = jax.vmap(push, out_axes=(None, 0))(jnp.eye(len(leaves), dtype=leaves[0].dtype))
    return values, jnp.stack(slopes, 1)
