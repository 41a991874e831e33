"""What `unroll` refuses, before anything runs."""

from __future__ import annotations

import numbers
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._errors import check_flag, check_key, describe, is_array, known
from .._types import Params, State, Xs, explicit_spec, featured, in_sizes
from . import table

_TIME = "Time is axis 0: transpose it, or use the Flax wrappers, which are batch-major"
_STEP = "A step has no time axis: pass one flag for each row"
_EVENT = "Features of several axes, as a convolutional cell has them, need `event_ndim` in the layer"
_CONVERT = "convert it with `jnp.asarray`"
_CAST = "cast it with `.astype(jnp.float32)`"


def arguments(
    cell: Any,
    params: Any,
    xs: Any,
    state: Any,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    key: Any = None,
    context: Any = None,
    remat: Any = None,
    implementation: Any = None,
    reverse: Any = False,
) -> None:
    """Raises ValueError or TypeError with one sentence on the first argument that does not fit."""
    if not isinstance(cell, Cell):
        hint = "; make an instance, such as `rnnjax.LSTM(128)`" if isinstance(cell, type) else ""
        raise TypeError(f"`cell` must be a cell; got {cell!r}{hint}")
    if jax.tree.structure(cell) == jax.tree.structure(0):
        raise TypeError(f"`{type(cell).__name__}` must be decorated with `rnnjax.struct`, as every class of a cell is")
    inputs(xs)
    steps, batch_shape = sizes(cell, xs)
    check_placement(xs, 1 + len(batch_shape))
    parameters(cell, params, xs)
    cell.check_context(context)
    if not is_array(xs):
        check_structure(cell, params, xs, context)
    if state is not None:
        check_state(cell, params, state, batch_shape, context)
    check_lengths(lengths, steps, batch_shape)
    check_flags("mask", mask, steps, batch_shape, xs)
    check_flags("reset", reset, steps, batch_shape, xs)
    if cell.elapsed and isinstance(xs, tuple):
        check_elapsed(xs[1], lengths, mask)
    if key is not None:
        check_key("key", key)
    check_flag("reverse", reverse)
    check_remat(remat)
    table.check_name(implementation)


def inputs(xs: Xs) -> None:
    """Inputs are floating-point arrays."""
    leaves = jax.tree.leaves(xs)
    if not leaves:
        raise TypeError(f"`xs` must be an array (T, *B, I) or a pytree of them; got {xs!r}")
    for leaf in leaves:
        if not is_array(leaf):
            came = describe(xs) if leaf is xs else f"{describe(xs)} with {describe(leaf)} inside"
            raise TypeError(f"`xs` must be an array (T, *B, I) or a pytree of them; got {came}: {_CONVERT}")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"`xs` must be floating point; got {describe(leaf)}. Cast it with `.astype(jnp.float32)`, or embed "
                "tokens with `rnnjax.Embedding` first"
            )
    if isinstance(xs, list):
        raise TypeError(
            "`xs` must be one array (T, *B, I), or a tuple of them for a cell with several inputs; got a list of "
            f"{len(xs)} arrays: join time steps with `jnp.stack`"
        )


def check_structure(cell: Cell, params: Params, xs: Xs, context: Any) -> None:
    """Several inputs are those that the cell reads."""

    def project(params: Params, xs: Xs, context: Any) -> Any:
        return cell.project(cell.prepare(params, context=context), xs)

    try:
        jax.eval_shape(project, params, xs, context)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise TypeError(
            f"`xs` must be what {cell!r} reads, one array (T, *B, I) for most cells; got {describe(xs)} of "
            f"{_shapes(xs)}, at which it stops: {error}{'' if cell.elapsed else '. It reads no elapsed times'}"
        ) from error


def check_placement(xs: Xs, axes: int) -> None:
    """Inputs are whole along time, their axis 0, and along what follows the batch axes, from axis `axes` on."""
    for leaf in jax.tree.leaves(xs):
        spec = explicit_spec(leaf)
        for axis, names in enumerate(() if spec is None else spec):
            if names is not None and not 0 < axis < axes:
                along = "time, its axis 0" if axis == 0 else f"features, its axis {axis}"
                raise ValueError(
                    f"`xs` must not be sharded along {along}; got {spec}: shard a batch axis, or gather that one with "
                    "`jax.sharding.reshard`"
                )


def sizes(cell: Any, xs: Xs) -> tuple[int, tuple[int, ...]]:
    """T and the batch shape, from the leaf of `xs` that has features."""
    leaves, first = jax.tree.leaves(xs), featured(xs)
    axes = 1 + cell.event_ndim
    if first.ndim < axes:
        event = "I" if cell.event_ndim == 1 else "*S, I"
        raise ValueError(
            f"`xs` must be (T, *B, {event}), at least {axes} axes; got shape {tuple(first.shape)}. A single step needs "
            "a time axis of length 1: `x[None]`"
        )
    lead = first.shape[: first.ndim - cell.event_ndim]
    for leaf in leaves:
        if leaf.shape[: len(lead)] != lead:
            raise ValueError(
                f"the leaves of `xs` must all lead with (T, *B) = {tuple(lead)}, as that with features does; got shape "
                f"{tuple(leaf.shape)}"
            )
    return lead[0], tuple(lead[1:])


def parameters(cell: Any, params: Params, xs: Xs) -> None:
    """Parameters have the structure and the shapes that `cell.init` gives for these inputs."""
    in_size = _in_size(cell, params, xs)
    if in_size == 0:
        raise ValueError(f"`xs` must have at least one feature, on its last axis; got shape {_shapes(xs)}")
    expected = _expected_parameters(*signature(cell), in_size)
    if expected is None:
        return
    wanted, got = jax.tree.structure(expected), jax.tree.structure(params)
    if wanted != got:
        owner = "cell" if isinstance(cell, Cell) else "layer"
        raise TypeError(
            f"`params` must be what `{owner}.init(key, {in_size})` returns for {cell!r}, {_outline(expected)}; got "
            f"{_outline(params)}"
        )
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(expected)[0]]
    for path, want, have in zip(paths, jax.tree.leaves(expected), jax.tree.leaves(params), strict=True):
        if not is_array(have):
            raise TypeError(f"`params{path}` must be an array {tuple(want.shape)}; got {have!r}: {_CONVERT}")
        if tuple(want.shape) != tuple(have.shape):
            raise ValueError(
                f"`params{path}` must be {tuple(want.shape)} for {cell!r} and inputs of {in_size} features; got "
                f"{tuple(have.shape)}. `xs` has shape {_shapes(xs)}: its last axis must be the `in_size` that the "
                "parameters were made for"
            )
        if not jnp.issubdtype(have.dtype, jnp.floating):
            raise TypeError(f"`params{path}` must be floating point; got {describe(have)}: {_CAST}")


def _in_size(cell: Any, params: Params, xs: Xs) -> int:
    """Of the sizes that inputs may have the one that parameters were made for, or else the first."""
    first, *others = in_sizes(xs)
    for size in (first, *others) if others else ():
        try:
            expected = _expected_parameters(*signature(cell), size)
        except ValueError:  # some cells take inputs of one size only
            continue
        if expected is None or _leaf_shapes(expected) == _leaf_shapes(params):
            return size
    return first


def _leaf_shapes(tree: Any) -> list[Any]:
    return [getattr(leaf, "shape", None) for leaf in jax.tree.leaves(tree)]


def signature(tree: Any) -> tuple[Any, tuple[Any, ...]]:
    """The structure of a tree, and shape and dtype of each leaf: what a cache can be asked by."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((tuple(np.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)


def shaped(structure: Any, leaves: tuple[Any, ...]) -> Any:
    """A tree of `jax.ShapeDtypeStruct` with that signature."""
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])


@lru_cache(maxsize=1024)
def _expected_parameters(structure: Any, leaves: tuple[Any, ...], in_size: int) -> Params | None:
    """What `init` returns, or None where it asks for values, which only a real key and a real cell have."""
    cell, key = shaped(structure, leaves), jax.eval_shape(lambda: jax.random.key(0))
    try:
        return jax.eval_shape(lambda cell, key: cell.init(key, in_size), cell, key)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ):
        return None


@lru_cache(maxsize=1024)
def _expected_state(cell: Any, params: Any, context: Any, batch_shape: tuple[int, ...]) -> State:
    """What `initial_state` returns, from signatures."""

    def initial(cell: Cell, params: Params, context: Any) -> State:
        return cell.initial_state(cell.prepare(params, context=context), batch_shape)

    return jax.eval_shape(initial, shaped(*cell), shaped(*params), shaped(*context))


def check_state(cell: Cell, params: Params, state: State, batch_shape: tuple[int, ...], context: Any) -> None:
    """A state has the structure and the shapes of `cell.initial_state`."""
    check_unpacked(state)
    expected = _expected_state(signature(cell), signature(params), signature(context), batch_shape)
    if jax.tree.structure(expected) != jax.tree.structure(state):
        raise TypeError(
            f"`state` must be {_outline(expected)}, as `cell.initial_state` makes it; got {_outline(state)}"
        )
    for (path, want), have in zip(
        jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(state), strict=True
    ):
        name = f"`state{jax.tree_util.keystr(path)}`"
        if not is_array(have):
            raise TypeError(f"{name} must be an array {tuple(want.shape)}; got {have!r}: {_CONVERT}")
        if tuple(want.shape) != tuple(have.shape):
            raise ValueError(
                f"{name} must be {tuple(want.shape)} for batch shape {batch_shape}; got {tuple(have.shape)}. "
                "States are never broadcast: use `cell.initial_state(params, batch_shape)`"
            )
        if not jnp.issubdtype(have.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point; got {describe(have)}: {_CAST}")


def check_unpacked(state: State) -> None:
    """A state is the model's own, not that of a stepper."""
    if hasattr(state, "unpack"):
        raise TypeError(f"`state` must be the model's own; got {state!r}, a stepper's: pass `state.unpack()`")


def check_lengths(
    lengths: Any,
    steps: int,
    batch_shape: tuple[int, ...],
    of: str = "xs",
    hint: str | None = None,
) -> None:
    """Lengths are integers (*B), within 0…T where they are concrete."""
    if lengths is None:
        return
    if not is_array(lengths):
        raise TypeError(f"`lengths` must be an integer array (*B) = {batch_shape}; got {describe(lengths)}: {_CONVERT}")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        mend = "pass it as `mask`" if lengths.dtype == jnp.bool_ else "cast it with `.astype(jnp.int32)`"
        raise TypeError(f"`lengths` must be an integer array (*B) = {batch_shape}; got {describe(lengths)}: {mend}")
    shape = tuple(lengths.shape)
    if shape != batch_shape:
        if hint is None and shape == (steps, *batch_shape[1:]):
            hint = _TIME
        elif hint is None and shape and shape == batch_shape[: len(shape)]:
            hint = _EVENT
        raise ValueError(
            f"`lengths` must be (*B) = {batch_shape}, one number for each row of `{of}`; got shape {shape}. "
            f"{hint or 'Flags for every step go into `mask`'}"
        )
    values = known(lengths)
    if values is None or values.size == 0:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or (isinstance(steps, int) and high > steps):  # a symbol is of any length
        raise ValueError(
            f"`lengths` must lie in 0…T = {steps}; got values from {low} to {high}: pad `{of}` to the longest row, or "
            "cut them with `jnp.clip`"
        )


def check_flags(name: str, flags: Any, steps: int | None, batch_shape: tuple[int, ...], xs: Xs) -> None:
    """Masks and resets are booleans (T, *B), or (*B) beside a single step without a time axis, `steps` None."""
    if flags is None:
        return
    lead, axes, of, hint = ((steps,), "(T, *B)", "xs", _TIME) if steps is not None else ((), "(*B)", "x", _STEP)
    wanted = (*lead, *batch_shape)
    if not is_array(flags) or flags.dtype != jnp.bool_:
        mend = f"compare with zero, `{name} != 0`" if is_array(flags) else _CONVERT
        raise TypeError(f"`{name}` must be a boolean array {axes} = {wanted}; got {describe(flags)}: {mend}")
    shape = tuple(flags.shape)
    if shape != wanted:
        hint = _EVENT if len(shape) > len(lead) and shape == wanted[: len(shape)] else hint
        raise ValueError(f"`{name}` must be {axes} = {wanted} to match `{of}` {_shapes(xs)}; got {shape}. {hint}")


def check_elapsed(dt: Any, lengths: Any, mask: Any) -> None:
    """Elapsed times (T, *B) are 0 or more at valid steps, where all three are concrete."""
    times = known(dt)
    if times is None or not (times < 0).any():
        return
    below = times < 0
    if lengths is not None:
        cut = known(lengths)
        if cut is None:
            return
        below &= np.arange(len(times)).reshape(-1, *(1,) * cut.ndim) < cut
    if mask is not None:
        valid = known(mask)
        if valid is None:
            return
        below &= valid
    if below.any():
        raise ValueError(
            f"elapsed times `dt` must be 0 or more, the time since the step before; got {times[below].min()}: sort the "
            "steps by time, or mask those that are not valid"
        )


def check_remat(remat: Any) -> None:
    """`remat` is None, "state", "sqrt" or a positive number of steps."""
    if remat is None or (isinstance(remat, str) and remat in ("state", "sqrt")):
        return
    if isinstance(remat, bool) or not isinstance(remat, numbers.Integral) or remat < 1:
        raise ValueError(f'`remat` must be None, "state", "sqrt" or a chunk length of at least 1 step; got {remat!r}')


def _outline(tree: Any) -> str:
    if hasattr(tree, "_fields"):
        fields = ", ".join(f"{name}={_outline(value)}" for name, value in zip(tree._fields, tree, strict=True))
        return f"{type(tree).__name__}({fields})"
    return str(tuple(tree.shape)) if hasattr(tree, "shape") else type(tree).__name__


def _shapes(xs: Xs) -> str:
    return ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(xs))
