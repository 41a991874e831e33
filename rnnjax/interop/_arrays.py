"""What all conversions need: gates in another order, biases folded into one, and shapes that are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import cells
from .._cell import Cell
from .._types import Array, Params
from ..layers import RNN, Bidirectional, Dense, Embedding, Layer, LayerNorm, Stack, Stateless

ONE_BIAS: dict[type[Cell], Callable[..., Params]] = {
    cells.Elman: cells.ElmanParams,
    cells.LSTM: cells.LSTMParams,
    cells.PeepholeLSTM: cells.PeepholeLSTMParams,
    cells.ProjectionLSTM: cells.ProjectionLSTMParams,
    cells.ResetBeforeGRU: cells.ResetBeforeGRUParams,
    cells.ConvLSTM: cells.ConvLSTMParams,
}
"""Cells with w, u, one bias and maybe one array more: their parameters."""

LAYERS = (Bidirectional, Stack, Dense, Embedding, LayerNorm)
"""Layers that PyTorch and Keras have, too."""


def reordered(blocks: Array, order: tuple[int, ...]) -> Array:
    """Gate blocks along the last axis, in another order."""
    if blocks.ndim == 0 or blocks.shape[-1] % len(order):
        raise ValueError(f"arrays of {len(order)} gates are needed; got shape {blocks.shape}: of another cell?")
    split = jnp.split(blocks, len(order), axis=-1)
    return jnp.concatenate([split[i] for i in order], axis=-1)


def with_two_biases(cell: Cell, w: Array, u: Array, b: Array, b_h: Array, *more: Array) -> Params:
    """The parameters of a cell from a bias for the inputs and one for the state, of which a GRU's candidate needs both,
    and gates in the order of here."""
    if b.ndim != 1 or b.shape != b_h.shape:
        raise ValueError(f"{cell!r} has two biases of one shape (G·H,); got {b.shape} and {b_h.shape}: of other sizes?")
    if isinstance(cell, cells.GRU):
        gates, candidate = jnp.split(b_h, [2 * len(b_h) // 3])
        return fitting(cell, cells.GRUParams(w, u, b + jnp.pad(gates, (0, len(candidate))), candidate))
    return fitting(cell, ONE_BIAS[type(cell)](w, u, b + b_h, *more))


def both(layer: Bidirectional) -> tuple[Layer, Layer]:
    return layer.forward, layer.forward if layer.backward is None else layer.backward


def bare(layer: Layer) -> bool:
    """Whether a layer has no parameters."""
    return isinstance(layer, Stateless) and type(layer).init is Stateless.init


def cell_of(layer: Layer, library: str, known: tuple[type, ...], hint: str = "") -> Cell:
    """The layer's cell, if it is one of those; `known` names the layers beside them for the message, whose end is
    `hint`."""
    if isinstance(layer, RNN) and type(layer.cell) in known:
        return layer.cell
    names = ", ".join(kind.__name__ for kind in known)
    got = layer.cell if isinstance(layer, RNN) else layer
    raise TypeError(f"parameters of {library} fit {names}; got {got!r}{hint}")


def array(value: Any) -> Array:
    return value if isinstance(value, jax.Array) else jnp.asarray(np.asarray(value))


def entry(tree: Mapping[str, Any], name: str) -> Any:
    if name not in tree:
        raise ValueError(f"there is no {name!r} among {', '.join(map(repr, sorted(tree))) or 'no arrays at all'}")
    return tree[name]


def take(arrays: Mapping[str, Any], name: str) -> Array:
    """One of the arrays by its name; a variable of Flax is a tree around its array."""
    return array(jax.tree.leaves(entry(arrays, name))[0])


def bias_of(dense: Dense, arrays: Mapping[str, Any]) -> Array | None:
    """The array "bias" of a dense layer, which has none without `use_bias`."""
    if dense.use_bias:
        return take(arrays, "bias")
    if "bias" in arrays:
        raise ValueError(f"{dense!r} has no place for 'bias': leave `use_bias=False` out")
    return None


def bias_or_zeros(arrays: Mapping[str, Any], like: Array) -> Array:
    """The array "bias", or where there is none zeros along the last axis of `like`."""
    return take(arrays, "bias") if "bias" in arrays else jnp.zeros(like.shape[-1:], like.dtype)


def fitting(layer: Any, params: Params) -> Params:
    """The parameters, if they have the shapes that the layer needs for inputs of their own size."""
    axis = -1 if isinstance(layer, LayerNorm) else -2
    in_size = (1, 1, *params[0].shape)[axis] if layer.event_ndim else None
    wanted = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_size))
    have, want = ([tuple(leaf.shape) for leaf in jax.tree.leaves(tree)] for tree in (params, wanted))
    if have != want:
        raise ValueError(f"{layer!r} has arrays of shapes {want}; these give {have}: of another layer, or other sizes?")
    return params
