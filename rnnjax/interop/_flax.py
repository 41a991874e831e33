"""Parameters from Flax, linen or nnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .. import cells
from .._cell import Cell
from .._types import Array, Params
from ..layers import Dense, Embedding, LayerNorm
from ..layers.dense import DenseParams
from ..layers.embedding import EmbeddingParams
from ..layers.norms import LayerNormParams
from ..layers.rnn import as_layer
from ._arrays import bias_of, bias_or_zeros, cell_of, entry, fitting, reordered, take, with_two_biases

GATES: dict[type[Cell], tuple[str, ...]] = {
    cells.Elman: ("",),
    cells.LSTM: tuple("ifgo"),
    cells.GRU: tuple("rzn"),
    cells.ConvLSTM: ("h",),
}
"""The gates by their names there, in the order of here; `ih` and `hh` of a convolution are all of them."""


def from_flax(layer: Any, params: Mapping[str, Any]) -> Params:
    """Parameters of a layer from those of Flax, linen or nnx.

    Args:
        layer: what reads the parameters: `Elman` for `SimpleCell`, `LSTM` for `LSTMCell` and `OptimizedLSTMCell`, `GRU`
            for `GRUCell`, `ConvLSTM` for `ConvLSTMCell`, `Dense` for `Dense` and `Linear`, `Embedding` for `Embed`,
            `LayerNorm`.
        params: those of the cell or of an `RNN` around it, as nested dictionaries: `module.init(…)`, or
            `nnx.state(module, nnx.Param)`.

    Returns:
        parameters as `layer.init` makes them.

    Raises:
        TypeError: for a layer of another kind; those made of several are put together by hand, part by part.
        ValueError: for arrays that are missing or of other shapes, and a bias beside `use_bias=False`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> from flax import linen as nn
    >>> module = nn.RNN(nn.OptimizedLSTMCell(4))
    >>> variables = module.init(jax.random.key(0), jnp.ones((2, 5, 3), "float32"))
    >>> rj.interop.from_flax(rj.LSTM(4), variables).w.shape
    (3, 16)
    """
    layer, own = as_layer("layer", layer), params
    while len(own) == 1 and next(iter(own)) in ("params", "cell"):
        (own,) = own.values()
    if isinstance(layer, Dense):
        return fitting(layer, DenseParams(take(own, "kernel"), bias_of(layer, own)))
    if isinstance(layer, Embedding):
        return fitting(layer, EmbeddingParams(take(own, "embedding")))
    if isinstance(layer, LayerNorm):
        scale = take(own, "scale")
        return fitting(layer, LayerNormParams(scale, bias_or_zeros(own, scale)))
    cell = cell_of(layer, "Flax", (*GATES, Dense, Embedding, LayerNorm))
    (w, b), (u, b_h) = (_joined(own, side, GATES[type(cell)]) for side in "ih")
    if isinstance(cell, cells.ConvLSTM):  # gates i, g, f, o, of which f has 1 added in every step
        w, b, u, b_h = (reordered(one, (0, 2, 1, 3)) for one in (w, b, u, b_h))
        b = b + jnp.repeat(jnp.array([0, 1, 0, 0], b.dtype), len(b) // 4)
    return with_two_biases(cell, w, u, b, b_h)


def _joined(params: Mapping[str, Any], side: str, gates: tuple[str, ...]) -> tuple[Array, Array]:
    """Kernel and bias of the products with the inputs, side "i", or with the state, "h". No bias is one of zeros."""
    if f"dense_{side}" in params:
        parts = [params[f"dense_{side}"]]
    else:
        # nnx writes `if_`, because `if` is a word of Python
        names = [f"{side}{gate}_" if f"{side}{gate}_" in params else f"{side}{gate}" for gate in gates]
        parts = [entry(params, name) for name in names]
    kernels = [take(part, "kernel") for part in parts]
    biases = [bias_or_zeros(part, kernel) for part, kernel in zip(parts, kernels, strict=True)]
    return jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases)
