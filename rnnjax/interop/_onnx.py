"""Parameters from ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .. import cells
from .._cell import Cell
from .._types import Array, Params
from ..layers import Bidirectional, Layer
from ..layers.bidirectional import BidirectionalParams
from ..layers.rnn import as_layer
from ._arrays import both, cell_of, reordered, take, with_two_biases

ORDERS: dict[type[Cell], tuple[int, ...]] = {
    cells.Elman: (0,),
    cells.LSTM: (0, 2, 3, 1),
    cells.PeepholeLSTM: (0, 2, 3, 1),
    cells.GRU: (1, 0, 2),
    cells.ResetBeforeGRU: (1, 0, 2),
}
"""Where the gates of here are there."""


def from_onnx(layer: Any, arrays: Mapping[str, Any]) -> Params:
    """Parameters of a layer from the inputs W, R, B and P of ONNX's operators.

    Args:
        layer: what reads the parameters: `Elman` for `RNN`; `LSTM`, or `PeepholeLSTM` where there is a P; `GRU` where
            `linear_before_reset` is 1, `ResetBeforeGRU` where it is 0; `Bidirectional` of one for a bidirectional
            operator. Attributes are not among the arrays: `direction` "reverse" is
            `RNN(cell, reverse=True)`; `activations` must be those of the cell, σ for the gates and tanh unless it says
            others; there is no `clip`, and `input_forget` must be 0; inputs here are time first, as with `layout` 0.
        arrays: arrays by name, each with the directions for its first axis. Without a B biases are zero.

    Returns:
        parameters as `layer.init` makes them.

    Raises:
        TypeError: for a layer that ONNX does not have.
        ValueError: for arrays that are missing or of other shapes, and a P that the cell has not.

    >>> import numpy as np, rnnjax as rj
    >>> arrays = {"W": np.ones((1, 4, 3)), "R": np.ones((1, 4, 4)), "B": np.ones((1, 8))}
    >>> rj.interop.from_onnx(rj.Elman(4), arrays).b.tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    layer = as_layer("layer", layer)
    parts = both(layer) if isinstance(layer, Bidirectional) else (layer,)
    for name in [name for name in "WRBP" if name in arrays]:
        shape = take(arrays, name).shape
        if shape[:1] != (len(parts),):
            raise ValueError(
                f"{name!r} must lead with the {len(parts)} of {layer!r} for its directions; got shape {shape}: an "
                "operator of both is `Bidirectional`"
            )
    params = [_one(part, arrays, direction) for direction, part in enumerate(parts)]
    return BidirectionalParams(*params) if isinstance(layer, Bidirectional) else params[0]


def _one(layer: Layer, arrays: Mapping[str, Any], direction: int) -> Params:
    """The parameters of one direction."""
    cell = cell_of(layer, "ONNX", (*ORDERS, Bidirectional))
    order = ORDERS[type(cell)]

    def gates(array: Array) -> Array:
        return reordered(array, order)

    w, u = (gates(take(arrays, name)[direction].T) for name in "WR")
    b = b_h = jnp.zeros(w.shape[-1:], w.dtype)
    if "B" in arrays:
        b, b_h = map(gates, jnp.split(take(arrays, "B")[direction], 2))
    if isinstance(cell, cells.PeepholeLSTM):
        peepholes = reordered(take(arrays, "P")[direction], (0, 2, 1))  # i, o, f
        return with_two_biases(cell, w, u, b, b_h, peepholes)
    if "P" in arrays:
        raise ValueError(f"{cell!r} has no place for the peepholes 'P': with them an LSTM is a `PeepholeLSTM`")
    return with_two_biases(cell, w, u, b, b_h)
