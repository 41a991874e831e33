"""What both kinds of modules share: stacks, names of parameters, layouts and checks."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._errors import check_flag, check_rate, check_size, describe, is_array
from .._types import Array, Key, Params, State, Xs, featured, in_sizes
from .._unroll import Newton, check
from .._unroll.call import Remat
from ..layers import RNN, Bidirectional, Dropout, First, Last, Layer, Stack

_LAYOUT = "Modules are batch-major unless `time_major=True`"


def stack(
    cell: Cell,
    num_layers: int,
    bidirectional: bool,
    dropout: float | Array,
    remat: Remat = None,
    implementation: str | Newton | None = None,
) -> Stack:
    """A cell in layers on top of each other, with dropout between them."""
    check_size("num_layers", num_layers)
    check_flag("bidirectional", bidirectional)
    check_rate("dropout", dropout)
    one = RNN(cell, remat=remat, implementation=implementation)
    layer = Bidirectional(one, None) if bidirectional else one
    between = () if isinstance(dropout, numbers.Real) and dropout == 0 else (Dropout(dropout),)
    if between and num_layers == 1:
        warnings.warn(
            "`dropout` lies between layers, and there is one: for dropout of inputs or in the recurrence make a "
            "`Layer` of `rnnjax.Dropout` or `rnnjax.RecurrentDropout`",
            stacklevel=4,
        )
    return Stack((layer, *(*between, layer) * (num_layers - 1)))


def check_in_features(layer: Layer, in_features: Any) -> None:
    """Raises unless `in_features` is a size, or None for a layer that reads integer ids."""
    if layer.event_ndim or in_features is not None:
        check_size("in_features", in_features)


def named(params: Params) -> Any:
    """Parameters as nested dictionaries, by the names of their fields.

    The entries of tuples are numbered `layer_0`, `layer_1`, …, and those without arrays are left out and not counted:
    dropout and pooling between layers change no name.
    """
    children = _children(params)
    if children[:1] and not children[0][0]:
        return params
    names: dict[str, Any] = {}
    for (key,), child in children:
        if jax.tree.leaves(child):
            positional = isinstance(key, jax.tree_util.SequenceKey)
            names[f"layer_{len(names)}" if positional else jax.tree_util.keystr((key,), simple=True)] = named(child)
    return names


def _children(tree: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """The entries of one node and their keys; for a leaf itself, without a key."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]


def unnamed(structure: Any, weights: Any) -> Params:
    """Undoes `named`: parameters of a tree structure from nested dictionaries.

    Raises:
        ValueError: if the names are not those of this structure.
    """
    places = named(jax.tree.unflatten(structure, range(structure.num_leaves)))
    check_names(places, weights)
    array_at = dict(zip(jax.tree.leaves(places), jax.tree.leaves(weights), strict=True))
    return jax.tree.unflatten(structure, [array_at[place] for place in range(structure.num_leaves)])


def check_names(wanted: Any, weights: Any) -> None:
    """Raises ValueError unless two nested dictionaries have the same names, and so the same order of arrays."""
    want, have = array_names(wanted), array_names(weights)
    if want != have:
        raise ValueError(f"weights must have the names {', '.join(want)}; got {', '.join(have)}")


def array_names(weights: Any) -> list[str]:
    """The dotted name of every array."""
    paths = jax.tree_util.tree_flatten_with_path(weights)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def place(
    weights: Any, sharding: Mapping[str, Any] | None, make: Callable[[Array, tuple[Any, ...] | None], Any]
) -> Any:
    """`make(array, axes)` for every array; `axes` is what `sharding` has under its dotted name, or the longest end of
    it that is there and not another whole name, or None."""
    sharding = {} if sharding is None else sharding
    names = array_names(weights)
    for name in sharding:
        if not any(name in _endings(whole) for whole in names):
            raise ValueError(
                f"`sharding` must name arrays among {', '.join(names)}, by the whole name or its end; got {name!r}"
            )

    def one(path: Any, array: Array) -> Any:
        whole = jax.tree_util.keystr(path, simple=True, separator=".")
        fit = (name for name in _endings(whole) if name == whole or name not in names)
        name = next((name for name in fit if name in sharding), None)
        if name is None:
            return make(array, None)
        axes = tuple(sharding[name])
        if len(axes) != array.ndim:
            raise ValueError(
                f"`sharding[{name!r}]` must have one mesh axis, or None, for each of the {array.ndim} axes of "
                f"{tuple(array.shape)}; got {axes}"
            )
        return make(array, axes)

    return jax.tree_util.tree_map_with_path(one, weights)


def _endings(name: str) -> list[str]:
    """A dotted name, and what is left of it without its first parts, the longest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def expected(layer: Layer, in_features: Any) -> Params:
    """Shapes of the parameters that `layer.init` draws."""
    return _expected(*check.signature(layer), in_features)


@lru_cache(maxsize=256)
def _expected(structure: Any, leaves: tuple[Any, ...], in_features: Any) -> Params:
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda layer, key: layer.init(key, in_features), check.shaped(structure, leaves), key)
    # without the mesh under which this was asked for first
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


def structure(layer: Layer, in_features: Any = None) -> Any:
    """The tree structure of a layer's parameters, which for most layers is the same for any number of features."""
    if in_features is not None or not layer.event_ndim:
        return jax.tree.structure(expected(layer, in_features))
    try:
        return jax.tree.structure(expected(layer, 1))
    except ValueError as error:
        raise ValueError(
            f"the parameters of {layer!r} cannot be told without the features of its inputs: pass `in_features`"
        ) from error


def check_weights(layer: Layer, in_features: Any, weights: Any) -> None:
    """Raises ValueError unless weights have the names and shapes that the layer needs for inputs of these features."""
    wanted = named(expected(layer, in_features))
    check_names(wanted, weights)
    for name, want, have in zip(array_names(wanted), jax.tree.leaves(wanted), jax.tree.leaves(weights), strict=True):
        if tuple(want.shape) != tuple(np.shape(have)):
            raise ValueError(
                f"`weights.{name}` must have shape {tuple(want.shape)} for inputs of {in_features} features; got "
                f"{tuple(np.shape(have))}"
            )


def draws_noise(layer: Layer, in_features: Any, x: Xs, context: Any = None, time_major: bool = True) -> bool:
    """Whether a layer reads its key on such inputs. Nothing is run; inputs that do not fit raise as in the layer."""
    known = tuple(0.0 if isinstance(leaf, numbers.Real) and leaf == 0 else None for leaf in jax.tree.leaves(layer))
    return _draws_noise(*check.signature(layer), known, in_features, *check.signature((x, context)), time_major)


@lru_cache(maxsize=256)
def _draws_noise(
    structure: Any,
    leaves: tuple[Any, ...],
    known: tuple[Any, ...],
    in_features: Any,
    args: Any,
    arg_leaves: tuple[Any, ...],
    time_major: bool,
) -> bool:
    layer, (x, context) = check.shaped(structure, leaves), check.shaped(args, arg_leaves)
    params = _expected(structure, leaves, in_features)

    def outputs(layer: Layer, params: Params, x: Xs, context: Any, key: Key | None = None) -> Any:
        # a dropout whose rate is known to be 0 draws nothing
        own = [leaf if one is None else one for leaf, one in zip(jax.tree.leaves(layer), known, strict=True)]
        return _outputs(time_major, jax.tree.unflatten(structure, own), params, x, context, key)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0)))
    jax.eval_shape(outputs, layer, params, x, context)
    try:
        # JAX refuses `out_axes=None` where outputs differ from key to key
        over_keys = jax.vmap(outputs, in_axes=(None, None, None, None, 0), out_axes=None)
        jax.eval_shape(over_keys, layer, params, x, context, keys)
    except ValueError:
        return True
    return False


def _outputs(time_major: bool, layer: Layer, params: Params, x: Xs, context: Any, key: Key | None = None) -> Any:
    axis = time_axis(layer, x, time_major)
    xs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, axis, 0), x)
    with jax.numpy_dtype_promotion("standard"):  # parameters are float32 here, whatever the module has
        return layer(params, xs, key=key, context=context)


def may_draw_noise(layer: Layer, in_features: Any) -> bool:
    """Whether some call might read the key: `draws_noise` on one step, or True if the layer reads no such array."""
    event = (*(1,) * (layer.event_ndim - 1), in_features) if layer.event_ndim else ()
    try:
        x = jax.ShapeDtypeStruct((1, *event), jnp.float32 if layer.event_ndim else jnp.int32)
        return draws_noise(layer, in_features, x)
    except Exception:
        return True


class Inputs(NamedTuple):
    """What a module is called with, apart from the state: x (*B, T, I) or time-major, and what covers its steps."""

    x: Xs
    lengths: Array | None
    mask: Array | None
    reset: Array | None
    context: Any


def time_axis(layer: Layer, x: Xs, time_major: bool) -> int:
    """Where time is in the caller's layout."""
    return 0 if time_major else featured(x).ndim - 1 - layer.event_ndim


def in_features_of(layer: Layer, x: Xs, context: Any, time_major: bool) -> Any:
    """Features of the inputs, None for integer ids. Of several inputs those of one of them, or of all together: the
    first with which the layer takes them."""
    if not layer.event_ndim:
        return None
    first, *others = in_sizes(x)
    if not others:
        return first
    return _in_features_of(*check.signature(layer), (first, *others), *check.signature((x, context)), time_major)


@lru_cache(maxsize=256)
def _in_features_of(
    structure: Any,
    leaves: tuple[Any, ...],
    sizes: tuple[int, ...],
    args: Any,
    arg_leaves: tuple[Any, ...],
    time_major: bool,
) -> int:
    layer, inputs = check.shaped(structure, leaves), check.shaped(args, arg_leaves)
    for size in sizes:
        try:
            jax.eval_shape(partial(_outputs, time_major), layer, _expected(structure, leaves, size), *inputs)
        except Exception:
            continue
        return size
    return sizes[0]


def check_inputs(layer: Layer, inputs: Inputs, time_major: bool) -> None:
    """Raises on inputs that do not fit, in terms of the caller's layout."""
    order = "(T, *B)" if time_major else "(*B, T)"
    lead = _leading_axes(layer, inputs.x, order)
    steps, batch_shape = (lead[0], lead[1:]) if time_major else (lead[-1], lead[:-1])
    check.check_lengths(inputs.lengths, steps, batch_shape, "x", _LAYOUT)
    for name, flags in (("mask", inputs.mask), ("reset", inputs.reset)):
        _check_flags(name, flags, order, lead)


def _leading_axes(layer: Layer, x: Xs, order: str) -> tuple[int, ...]:
    form = order[:-1] + {0: ")", 1: ", I)"}.get(layer.event_ndim, ", *S, I)")
    leaves = jax.tree.leaves(x)
    for leaf in leaves or [None]:
        if not is_array(leaf):
            raise TypeError(f"`x` must be an array {form}; got {type(leaf).__name__}: convert it with `jnp.asarray`")
    shape = tuple(featured(x).shape)
    if len(shape) < 1 + layer.event_ndim:
        raise ValueError(
            f"`x` must be {form}, at least {1 + layer.event_ndim} axes; got shape {shape}. A single step needs a time "
            "axis of length 1"
        )
    lead = shape[: len(shape) - layer.event_ndim]
    for leaf in leaves:
        if tuple(leaf.shape[: len(lead)]) != lead:
            raise ValueError(
                f"the leaves of `x` must all lead with {order} = {lead}, as that with features does; got shape "
                f"{tuple(leaf.shape)}"
            )
    return lead


def _check_flags(name: str, flags: Any, order: str, lead: tuple[int, ...]) -> None:
    if flags is None:
        return
    if not is_array(flags) or flags.dtype != jnp.bool_:
        mend = f"compare with zero, `{name} != 0`" if is_array(flags) else "convert it with `jnp.asarray`"
        raise TypeError(f"`{name}` must be a boolean array {order} = {lead}; got {describe(flags)}: {mend}")
    if tuple(flags.shape) != lead:
        raise ValueError(f"`{name}` must be {order} = {lead} to match `x`; got {tuple(flags.shape)}. {_LAYOUT}")


def check_features(layer: Layer, in_features: Any, x: Xs) -> None:
    """Raises ValueError unless inputs have the features that the parameters were made for."""
    sizes = in_sizes(x) if layer.event_ndim else (in_features,)
    if in_features not in sizes:
        got, shapes = " or ".join(map(str, sizes)), ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(x))
        raise ValueError(f"`x` must have in_features = {in_features} on its last axis; got {got}, in shape {shapes}")


def run(
    layer: Layer,
    params: Params,
    inputs: Inputs,
    state: State | None,
    *,
    key: Key | None,
    time_major: bool,
    return_sequences: bool,
) -> tuple[Any, State]:
    """Calls a functional layer in the caller's layout, on inputs that have been checked."""
    axis = time_axis(layer, inputs.x, time_major)
    xs, mask, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, axis, 0), (inputs.x, inputs.mask, inputs.reset))
    ys, state = layer(
        params, xs, state, lengths=inputs.lengths, mask=mask, reset=reset, key=key, context=inputs.context
    )
    if not return_sequences:
        return _ends(layer, ys, inputs.lengths, mask), state
    if layer.keeps_time:
        ys = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), ys)
    return ys, state


def _ends(layer: Layer, ys: Array, lengths: Array | None, mask: Array | None) -> Array:
    """The last output that each direction computed, (*B, O)."""

    def end(reverse: bool, ys: Array) -> Array:
        return (First if reverse else Last)(layer.event_ndim)((), ys, lengths=lengths, mask=mask)[0]

    top = layer.layers[-1] if isinstance(layer, Stack) else layer
    if not isinstance(top, Bidirectional):
        return end(isinstance(top, RNN) and top.reverse, ys)
    forward, backward = jnp.split(ys, 2, axis=-1)
    return jnp.concatenate([end(False, forward), end(True, backward)], axis=-1)
