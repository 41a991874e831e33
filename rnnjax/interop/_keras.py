"""Parameters from Keras."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .. import cells
from .._types import Array, Params
from ..layers import Bidirectional, Dense, Embedding, Layer, LayerNorm, Stack
from ..layers.bidirectional import BidirectionalParams
from ..layers.dense import DenseParams
from ..layers.embedding import EmbeddingParams
from ..layers.norms import LayerNormParams
from ..layers.rnn import as_layer
from ._arrays import LAYERS, ONE_BIAS, array, bare, both, cell_of, fitting, reordered, with_two_biases

KNOWN = (cells.Elman, cells.LSTM, cells.GRU, cells.ResetBeforeGRU, cells.ConvLSTM)


def from_keras(layer: Any, arrays: Sequence[Any]) -> Params:
    """Parameters of a layer from Keras's `get_weights()`.

    Args:
        layer: what reads the parameters: `Elman` for `SimpleRNN`, `LSTM`, `GRU`, `ResetBeforeGRU` for a GRU with
            `reset_after=False`, `ConvLSTM`, `Bidirectional`, `Dense`, `Embedding`, `LayerNorm` for
            `LayerNormalization`, which wants `epsilon=1e-3`, or a `Stack` of them for a whole model, among layers
            without parameters. Options are not among the arrays. Those of the cell must be set alike:
            `activation`, `recurrent_activation` as `gate_activation`; `go_backwards=True` is `RNN(cell, reverse=True)`,
            whose outputs keep the order of the inputs. A `ConvLSTM` is one with `padding="same"`, which is not Keras's
            default, and strides and dilation of 1.
        arrays: what `get_weights()` of the layer or model returned.

    Returns:
        parameters as `layer.init` makes them.

    Raises:
        TypeError: for a layer that Keras does not have.
        ValueError: for arrays that are too few, too many or of other shapes.

    >>> import numpy as np, rnnjax as rj
    >>> model = rj.Stack([rj.Elman(4), rj.Last(), rj.Dense(2)])  # SimpleRNN(4), Dense(2)
    >>> arrays = [np.ones(shape, "float32") for shape in ((3, 4), (4, 4), (4,), (4, 2), (2,))]
    >>> params = rj.interop.from_keras(model, arrays)
    >>> params[2].w.shape
    (4, 2)
    """
    layer = as_layer("layer", layer)
    left = iter([array(one) for one in arrays])
    params = _taken(layer, left)
    if rest := len(list(left)):
        raise ValueError(f"`arrays` must be the {len(arrays) - rest} of {layer!r}; got {len(arrays)}")
    return params


def _taken(layer: Layer, arrays: Iterator[Array]) -> Params:
    """The parameters of a layer, from the next of the arrays."""
    if isinstance(layer, Stack):
        return tuple(_taken(part, arrays) for part in layer.layers)
    if isinstance(layer, Bidirectional):
        return BidirectionalParams(*(_taken(part, arrays) for part in both(layer)))
    if bare(layer):
        return ()
    if isinstance(layer, Dense):
        return fitting(layer, DenseParams(_next(layer, arrays), _next(layer, arrays) if layer.use_bias else None))
    if isinstance(layer, Embedding):
        return fitting(layer, EmbeddingParams(_next(layer, arrays)))
    if isinstance(layer, LayerNorm):
        return fitting(layer, LayerNormParams(_next(layer, arrays), _next(layer, arrays)))
    cell = cell_of(layer, "Keras", (*KNOWN, *LAYERS))
    own = [_next(layer, arrays) for _ in range(3)]
    if isinstance(cell, cells.GRU | cells.ResetBeforeGRU):
        own = [reordered(one, (1, 0, 2)) for one in own]
    if isinstance(cell, cells.GRU):
        w, u, b = own
        if b.ndim != 2 or len(b) != 2:
            raise ValueError(
                f"{cell!r} has a bias for the inputs and one for the state, (2, 3H); got {b.shape}: of a layer with "
                "`reset_after=False`, which is `ResetBeforeGRU`?"
            )
        return with_two_biases(cell, w, u, b[0], b[1])
    return fitting(cell, ONE_BIAS[type(cell)](*own))


def _next(layer: Layer, arrays: Iterator[Array]) -> Array:
    try:
        return next(arrays)
    except StopIteration:
        raise ValueError(f"there are too few arrays: none is left for {layer!r}") from None
