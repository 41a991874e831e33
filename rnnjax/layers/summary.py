"""A model as a table of text."""

from __future__ import annotations

import math
from typing import Any

import jax

from .._cell import Cell
from ._layer import Layer
from .rnn import as_layer

_HEAD = ("layer", "out", "parameters", "count")


def summary(model: Layer | Cell, in_size: int | None) -> str:
    """A table of layers, features of their outputs, shapes and counts of their parameters. No arrays are made.

    Args:
        model: a layer or a cell.
        in_size: features of one input, as for `init`.

    Returns:
        one line for each layer, indented below the one that it is part of, and one for the total.

    Raises:
        TypeError: for anything that is neither a layer nor a cell.

    >>> import rnnjax as rj
    >>> print(rj.summary(rj.Stack([rj.Elman(8), rj.Dense(3)]), in_size=2))
    layer                          out  parameters                  count
    Stack                          3
      0 RNN(Elman(hidden_size=8))  8    w (2, 8), u (8, 8), b (8,)     88
      1 Dense(size=3)              3    w (8, 3), b (3,)               27
    total                                                             115
    """
    layer = as_layer("model", model)
    rows = [_HEAD, *_rows("", layer, in_size, 0), ("total", "", "", _count(_parameters(layer, in_size)))]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    count_width = max(len(row[3]) for row in rows)
    lines = ("  ".join((*map(str.ljust, row[:3], widths), row[3].rjust(count_width))) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _rows(name: str, layer: Layer, in_size: Any, depth: int) -> list[tuple[str, str, str, str]]:
    parts = layer.parts(in_size)
    title = "  " * depth + f"{name} {type(layer).__name__ if parts else repr(layer)}".lstrip()
    if parts:
        below = [row for label, part, size in parts for row in _rows(label, part, size, depth + 1)]
        return [(title, _out(layer, in_size), "", ""), *below]
    params = _parameters(layer, in_size)
    return [(title, _out(layer, in_size), _shapes(params), _count(params))]


def _out(layer: Layer, in_size: Any) -> str:
    return str(layer.out_size(in_size))


def _parameters(layer: Layer, in_size: Any) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda layer, key: layer.init(key, in_size), layer, key)


def _shapes(params: Any) -> str:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return ", ".join(f"{jax.tree_util.keystr(path, simple=True, separator='.')} {leaf.shape}" for path, leaf in leaves)


def _count(params: Any) -> str:
    return f"{sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)):,}"
