"""What depends on a source alone, computed once for many calls of a layer."""

from __future__ import annotations

from typing import Any

from ..._cell import Cell
from ..._errors import is_array
from ..._types import Params
from ..._wrapper import Wrapper
from ...cells.weight_drop import WeightDrop
from .._layer import Layer, Stateless, check_entries
from ..residual import Residual
from ..rnn import RNN
from ..stack import Stack
from .cell import Attention
from .memory import Source
from .pointer import PointerGenerator

_HANDS_ON = (Cell.prepare, Wrapper.prepare, WeightDrop.prepare)


def remembered(layer: Layer, params: Params, context: Any) -> Any:
    """The `context` for many calls of a layer with the same parameters.

    Of a source this is what the attention cell's `remember` makes, if that cell is all that reads it. Where something
    else may read it too, it stays what it is: a memory is for one cell.
    """
    if not isinstance(context, Source) and not is_array(context):
        return context
    readers = _readers(layer, params)
    if len(readers) != 1:
        return context
    cell, own = readers[0]
    attention = cell.cell if isinstance(cell, PointerGenerator) else cell
    # a `prepare` of a subclass is meant to see the source
    own_ways = type(cell).prepare in (Attention.prepare, PointerGenerator.prepare)
    if not isinstance(attention, Attention) or not own_ways or type(attention).prepare is not Attention.prepare:
        return context
    if not _ignores(attention.cell):
        return context
    return cell.remember(own, context)


def _readers(layer: Layer, params: Params) -> list[tuple[Any, Params]]:
    """What may read a context, with its parameters: cells, and layers of which nothing is known here."""
    if isinstance(layer, Stack):
        check_entries("params", params, layer.layers)
        return [one for part, own in zip(layer.layers, params, strict=True) for one in _readers(part, own)]
    if isinstance(layer, Residual):
        return _readers(layer.layer, params)
    if not isinstance(layer, RNN):
        return [] if isinstance(layer, Stateless) else [(layer, params)]
    return [] if _ignores(layer.cell) else [(layer.cell, params)]


def _ignores(cell: Any) -> bool:
    """Whether a cell has no use for a context, nor what it wraps."""
    return type(cell).prepare in _HANDS_ON and (not isinstance(cell, Wrapper) or _ignores(cell.cell))
