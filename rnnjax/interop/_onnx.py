"""Parameters from ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .. import cells
from .._cell import Cell
from .._types import Array, Params
from ..layers.rnn import as_layer
from ._arrays import cell_of, fitting, reordered, take, with_two_biases

ORDERS: dict[type[Cell], tuple[int, ...]] = {
    cells.Elman: (0,),
    cells.LSTM: (0, 2, 3, 1),
    cells.PeepholeLSTM: (0, 2, 3, 1),
    cells.GRU: (1, 0, 2),
    cells.ResetBeforeGRU: (1, 0, 2),
}
"""Where the gates of here are there."""


def from_onnx(cell: Any, arrays: Mapping[str, Any], direction: int = 0) -> Params:
    """Parameters of a cell from the inputs W, R, B and P of ONNX's operators.

    Args:
        cell: what reads the parameters: `Elman` for `RNN`; `LSTM`, or `PeepholeLSTM` where there is a P; `GRU` where
            `linear_before_reset` is 1, `ResetBeforeGRU` where it is 0.
        arrays: arrays by name, each with the directions for its first axis.
        direction: 0, or 1 for the second one of a bidirectional operator.

    Returns:
        parameters as `cell.init` makes them.

    Raises:
        TypeError: for a cell that ONNX does not have.
        ValueError: for arrays that are missing or of other shapes.

    >>> import numpy as np, rnnjax as rj
    >>> arrays = {"W": np.ones((1, 4, 3)), "R": np.ones((1, 4, 4)), "B": np.ones((1, 8))}
    >>> rj.interop.from_onnx(rj.Elman(4), arrays).b.tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    cell = cell_of(as_layer("cell", cell), "ONNX", ORDERS)
    order = ORDERS[type(cell)]

    def gates(array: Array) -> Array:
        return reordered(array, order)

    w, u = (gates(take(arrays, name)[direction].T) for name in "WR")
    b, b_h = map(gates, jnp.split(take(arrays, "B")[direction], 2))
    if isinstance(cell, cells.PeepholeLSTM):
        peepholes = reordered(take(arrays, "P")[direction], (0, 2, 1))  # i, o, f
        return fitting(cell, cells.PeepholeLSTMParams(w, u, b + b_h, peepholes))
    return with_two_biases(cell, w, u, b, b_h)
