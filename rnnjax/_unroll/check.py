"""What `unroll` refuses, before anything runs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._errors import check_key, describe
from .._types import Params, State, Xs
from . import table

_TIME = "Time is axis 0: transpose it, or use the Flax wrappers, which are batch-major"


def arguments(
    cell: Any,
    params: Any,
    xs: Any,
    state: Any,
    lengths: Any,
    mask: Any,
    reset: Any,
    key: Any,
    remat: Any,
    implementation: Any,
) -> None:
    """Raises ValueError or TypeError with one sentence on the first argument that does not fit."""
    if not isinstance(cell, Cell):
        hint = "; make an instance, such as `rnnjax.LSTM(128)`" if isinstance(cell, type) else ""
        raise TypeError(f"`cell` must be a cell; got {cell!r}{hint}")
    inputs(xs)
    steps, batch_shape = sizes(cell, xs)
    parameters(cell, params, xs)
    if state is not None:
        check_state(cell, params, state, batch_shape)
    check_lengths(lengths, steps, batch_shape)
    check_flags("mask", mask, steps, batch_shape, xs)
    check_flags("reset", reset, steps, batch_shape, xs)
    if key is not None:
        check_key("key", key)
    check_remat(remat)
    table.check_name(implementation)


def inputs(xs: Xs) -> None:
    """Inputs are floating-point arrays."""
    leaves = jax.tree.leaves(xs)
    if not leaves:
        raise TypeError(f"`xs` must be an array (T, *B, I) or a pytree of them; got {xs!r}")
    for leaf in leaves:
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise TypeError(
                f"`xs` must be an array (T, *B, I) or a pytree of them; got {type(leaf).__name__}: "
                "convert it with `jnp.asarray`"
            )
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"`xs` must be floating point; got {describe(leaf)}. Cast it with `.astype(jnp.float32)`, or embed "
                "tokens with `rnnjax.Embedding` first"
            )


def sizes(cell: Cell, xs: Xs) -> tuple[int, tuple[int, ...]]:
    """T and the batch shape, from the first leaf of `xs`."""
    leaves = jax.tree.leaves(xs)
    first = leaves[0]
    axes = 1 + cell.event_ndim
    if first.ndim < axes:
        event = "I" if cell.event_ndim == 1 else "*S, I"
        raise ValueError(
            f"`xs` must be (T, *B, {event}), at least {axes} axes; got shape {tuple(first.shape)}. A single step needs "
            "a time axis of length 1: `x[None]`"
        )
    lead = first.shape[: first.ndim - cell.event_ndim]
    for leaf in leaves[1:]:
        if leaf.shape[: len(lead)] != lead:
            raise ValueError(
                f"the leaves of `xs` must all lead with (T, *B) = {tuple(lead)}, as the first one does; got shape "
                f"{tuple(leaf.shape)}"
            )
    return lead[0], tuple(lead[1:])


def parameters(cell: Cell, params: Params, xs: Xs) -> None:
    """Parameters have the structure and the shapes that `cell.init` gives for these inputs."""
    in_size = jax.tree.leaves(xs)[0].shape[-1]
    expected = _expected_parameters(*_signature(cell), in_size)
    wanted, got = jax.tree.structure(expected), jax.tree.structure(params)
    if wanted != got:
        raise TypeError(
            f"`params` must be what `cell.init(key, {in_size})` returns for {cell!r}, {_outline(expected)}; got "
            f"{_outline(params)}"
        )
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(expected)[0]]
    for path, want, have in zip(paths, jax.tree.leaves(expected), jax.tree.leaves(params), strict=True):
        if tuple(want.shape) != tuple(np.shape(have)):
            raise ValueError(
                f"`params{path}` must be {tuple(want.shape)} for {cell!r} and inputs of {in_size} features; got "
                f"{tuple(np.shape(have))}. `xs` has shape {_shapes(xs)}: its last axis must be the `in_size` that the "
                "parameters were made for"
            )
        if not jnp.issubdtype(have.dtype, jnp.inexact):
            raise TypeError(f"`params{path}` must be floating point; got {describe(have)}")


def _signature(cell: Cell) -> tuple[Any, tuple[Any, ...]]:
    leaves, structure = jax.tree.flatten(cell)
    return structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


@lru_cache(maxsize=1024)
def _expected_parameters(structure: Any, leaves: tuple[Any, ...], in_size: int) -> Params:
    cell = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    return jax.eval_shape(lambda cell, key: cell.init(key, in_size), cell, jax.eval_shape(lambda: jax.random.key(0)))


def check_state(cell: Cell, params: Params, state: State, batch_shape: tuple[int, ...]) -> None:
    """A state has the structure and the shapes of `cell.initial_state`."""
    expected = jax.eval_shape(lambda cell, p: cell.initial_state(p, batch_shape), cell, params)
    if jax.tree.structure(expected) != jax.tree.structure(state):
        raise TypeError(
            f"`state` must be {_outline(expected)}, as `cell.initial_state` makes it; got {_outline(state)}"
        )
    for (path, want), have in zip(
        jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(state), strict=True
    ):
        name = f"`state{jax.tree_util.keystr(path)}`"
        if tuple(want.shape) != tuple(np.shape(have)):
            raise ValueError(
                f"{name} must be {tuple(want.shape)} for batch shape {batch_shape}; got {tuple(np.shape(have))}. "
                "States are never broadcast: use `cell.initial_state(params, batch_shape)`"
            )
        if not hasattr(have, "dtype") or not jnp.issubdtype(have.dtype, jnp.inexact):
            raise TypeError(f"{name} must be a floating-point array; got {describe(have)}")


def check_lengths(lengths: Any, steps: int, batch_shape: tuple[int, ...]) -> None:
    """Lengths are integers (*B), within 0…T where they are concrete."""
    if lengths is None:
        return
    if not hasattr(lengths, "dtype") or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be an integer array (*B) = {batch_shape}; got {describe(lengths)}")
    if tuple(lengths.shape) != batch_shape:
        raise ValueError(
            f"`lengths` must be (*B) = {batch_shape}, one number for each row; got shape "
            f"{tuple(lengths.shape)}. {_TIME}"
        )
    if isinstance(lengths, jax.core.Tracer) or lengths.size == 0 or not getattr(lengths, "is_fully_addressable", True):
        return
    # under `jit` a reduction of a concrete JAX array would be traced
    values = np.asarray(lengths)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > steps:
        raise ValueError(f"`lengths` must lie in 0…T = {steps}; got values from {low} to {high}")


def check_flags(name: str, flags: Any, steps: int, batch_shape: tuple[int, ...], xs: Xs) -> None:
    """Masks and resets are booleans (T, *B)."""
    if flags is None:
        return
    wanted = (steps, *batch_shape)
    if not hasattr(flags, "dtype") or flags.dtype != jnp.bool_:
        raise TypeError(
            f"`{name}` must be a boolean array (T, *B) = {wanted}; got {describe(flags)}: "
            f"compare with zero, `{name} != 0`"
        )
    if tuple(flags.shape) != wanted:
        raise ValueError(
            f"`{name}` must be (T, *B) = {wanted} to match `xs` {_shapes(xs)}; got {tuple(flags.shape)}. {_TIME}"
        )


def check_remat(remat: Any) -> None:
    """`remat` is None, "state", "sqrt" or a positive number of steps."""
    if remat is None or remat in ("state", "sqrt"):
        return
    if isinstance(remat, bool) or not isinstance(remat, int) or remat < 1:
        raise ValueError(f'`remat` must be None, "state", "sqrt" or a chunk length of at least 1 step; got {remat!r}')


def _outline(tree: Any) -> str:
    if hasattr(tree, "_fields"):
        fields = ", ".join(f"{name}={_outline(value)}" for name, value in zip(tree._fields, tree, strict=True))
        return f"{type(tree).__name__}({fields})"
    return str(tuple(tree.shape)) if hasattr(tree, "shape") else type(tree).__name__


def _shapes(xs: Xs) -> str:
    return ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(xs))
