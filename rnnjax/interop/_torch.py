"""Parameters from PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .. import cells
from .._types import Params
from ..layers import Bidirectional, Dense, Embedding, Layer, LayerNorm, Stack
from ..layers.bidirectional import BidirectionalParams
from ..layers.dense import DenseParams
from ..layers.embedding import EmbeddingParams
from ..layers.norms import LayerNormParams
from ..layers.rnn import as_layer
from ._arrays import LAYERS, bare, bias_of, bias_or_zeros, both, cell_of, fitting, take, with_two_biases

KNOWN = (cells.Elman, cells.LSTM, cells.ProjectionLSTM, cells.GRU)
_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")


def from_torch(layer: Any, tensors: Mapping[str, Any], prefix: str = "") -> Params:
    """Parameters of a layer from the `state_dict` of PyTorch's.

    Args:
        layer: what reads the parameters: `Elman`, `LSTM`, `ProjectionLSTM` or `GRU`, such a cell in both directions by
            `Bidirectional`, or a `Stack` of them for several layers, with dropout between them; `Dense` for `Linear`,
            `Embedding`, `LayerNorm`, which wants `epsilon=1e-5`. `RNNCell`, `LSTMCell` and `GRUCell` are one layer.
        tensors: tensors by name, such as "weight_ih_l0", or "weight_ih" of a cell.
        prefix: what their names begin with in the `state_dict` of a larger model, such as "encoder.".

    Returns:
        parameters as `layer.init` makes them.

    Raises:
        TypeError: for a layer that PyTorch does not have; for a `Stack` or `Bidirectional` of several modules there.
        ValueError: for tensors that are missing, of other shapes, or of layers, directions or biases that `layer` has
            not.

    >>> import numpy as np, rnnjax as rj
    >>> tensors = {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "bias_ih_l0": (12,), "bias_hh_l0": (12,)}
    >>> rj.interop.from_torch(rj.GRU(4), {name: np.ones(shape, "float32") for name, shape in tensors.items()}).b_n.shape
    (4,)
    """
    layer = as_layer("layer", layer)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if isinstance(layer, Dense):
        return fitting(layer, DenseParams(take(own, "weight").T, bias_of(layer, own)))
    if isinstance(layer, Embedding):
        return fitting(layer, EmbeddingParams(take(own, "weight")))
    if isinstance(layer, LayerNorm):
        scale = take(own, "weight")
        return fitting(layer, LayerNormParams(scale, bias_or_zeros(own, scale)))
    recurrent = {name: tensor for name, tensor in own.items() if _RECURRENT.fullmatch(name)}
    if not recurrent:
        raise ValueError(
            f"no name is {prefix!r} and then one such as 'weight_ih_l0', or 'weight_ih' of a cell, among "
            f"{', '.join(map(repr, sorted(tensors)))}: give as `prefix` what the names begin with"
        )
    stacked = isinstance(layer, Stack)
    parts, fit = (layer.layers, (*KNOWN, Bidirectional)) if stacked else ((layer,), (*KNOWN, *LAYERS))
    numbered = any("_l" in name for name in recurrent)  # the tensors of a cell by itself are not
    params, level = [], 0
    for part in parts:
        params.append(() if bare(part) else _torch_level(part, recurrent, f"_l{level}" if numbered else "", fit))
        level += not bare(part)
    if recurrent:
        raise ValueError(f"{layer!r} has no place for {', '.join(map(repr, sorted(recurrent)))}")
    return tuple(params) if stacked else params[0]


def _torch_level(layer: Layer, tensors: dict[str, Any], suffix: str, fit: tuple[type, ...]) -> Params:
    """The parameters of one of PyTorch's layers, whose tensors are taken out; `fit` are the kinds that it may be."""
    if isinstance(layer, Bidirectional) and Bidirectional in fit:
        ways = zip(both(layer), (suffix, f"{suffix}_reverse"), strict=True)
        return BidirectionalParams(*(_torch_level(part, tensors, own, KNOWN) for part, own in ways))
    apart = (
        " as a part of one recurrent module: take each part of a model by its own prefix, such as "
        '`from_torch(layer, tensors, "head.")`'
    )
    cell = cell_of(layer, "PyTorch", fit, apart if Stack not in fit and isinstance(layer, LAYERS) else "")
    sides = ("ih", "hh", "hr") if isinstance(cell, cells.ProjectionLSTM) else ("ih", "hh")
    names = [f"{kind}_{side}{suffix}" for kind in ("weight", "bias") for side in sides]
    own = {name: tensors.pop(name) for name in names if name in tensors}
    w, u = (take(own, f"weight_{side}{suffix}").T for side in ("ih", "hh"))
    if any(name.startswith("bias") for name in own):
        b, b_h = (take(own, f"bias_{side}{suffix}") for side in ("ih", "hh"))
    else:
        b = b_h = jnp.zeros(w.shape[-1:], w.dtype)
    if isinstance(cell, cells.ProjectionLSTM):
        return with_two_biases(cell, w, u, b, b_h, take(own, f"weight_hr{suffix}").T)
    return with_two_biases(cell, w, u, b, b_h)
