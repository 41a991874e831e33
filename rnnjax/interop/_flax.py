"""Parameters from Flax, linen or nnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .. import cells
from .._cell import Cell
from .._types import Array, Params
from ..layers import Dense, Embedding
from ..layers.dense import DenseParams
from ..layers.embedding import EmbeddingParams
from ..layers.rnn import as_layer
from ._arrays import cell_of, entry, fitting, take, with_two_biases

GATES: dict[type[Cell], tuple[str, ...]] = {cells.Elman: ("",), cells.LSTM: tuple("ifgo"), cells.GRU: tuple("rzn")}
"""The gates by their names there, in the order of here."""


def from_flax(layer: Any, params: Mapping[str, Any]) -> Params:
    """Parameters of a layer from those of Flax, linen or nnx.

    Args:
        layer: what reads the parameters: `Elman` for `SimpleCell`, `LSTM` for `LSTMCell` and `OptimizedLSTMCell`, `GRU`
            for `GRUCell`, `Dense` for `Dense` and `Linear`, `Embedding` for `Embed`.
        params: those of the cell or of an `RNN` around it, as nested dictionaries: `module.init(…)`, or
            `nnx.state(module, nnx.Param)`.

    Returns:
        parameters as `layer.init` makes them.

    Raises:
        TypeError: for a layer of another kind; those made of several are put together by hand, part by part.
        ValueError: for arrays that are missing or of other shapes.

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
        return fitting(layer, DenseParams(take(own, "kernel"), take(own, "bias") if layer.use_bias else None))
    if isinstance(layer, Embedding):
        return fitting(layer, EmbeddingParams(take(own, "embedding")))
    cell = cell_of(layer, "Flax", GATES)
    (w, b), (u, b_h) = (_joined(own, side, GATES[type(cell)]) for side in "ih")
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
    biases = [
        take(part, "bias") if "bias" in part else jnp.zeros(kernel.shape[-1:], kernel.dtype)
        for part, kernel in zip(parts, kernels, strict=True)
    ]
    return jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases)
