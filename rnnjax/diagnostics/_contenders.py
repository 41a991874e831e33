"""The networks that `compare` trains: a body of some width between what the data and the targets need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import cells
from .._errors import describe, is_array
from ..layers import Dense, Embedding, Last, Layer, Stack
from ..layers.rnn import as_layer
from ..training._batches import Batch
from ..training._model import accepted
from ._module import ModuleLayer
from ._tcn import TCN
from ._transformer import CausalTransformer

Make = Callable[..., Any]


def tcn(width: int, steps: int) -> Layer:
    """A `TCN` of that many channels with kernels of 3 steps, as deep as it takes to see all steps, as a layer.

    Args:
        width: C, the channels.
        steps: T, how many inputs the last output must see.

    Returns:
        a layer (T, *B, I) -> (T, *B, C), which takes sequences whole.

    Raises:
        ValueError: for a `width` below 1.
        TypeError: for a `width` that is no integer.

    >>> import rnnjax as rj
    >>> rj.diagnostics.tcn(8, steps=20).module.receptive_field
    29
    """
    levels = 1
    while TCN(width, levels).receptive_field < steps:
        levels += 1
    return ModuleLayer(TCN(width, levels))


def transformer(width: int) -> Layer:
    """A `CausalTransformer` of that width with two blocks of four heads, as a layer.

    >>> import rnnjax as rj
    >>> rj.diagnostics.transformer(8).out_size(in_size=3)
    8
    """
    return ModuleLayer(CausalTransformer(width))


DEFAULT: dict[str, Make] = {
    "Elman": cells.Elman,
    "MGU": cells.MGU,
    "GRU": cells.GRU,
    "LSTM": cells.LSTM,
    "TCN": tcn,
    "Transformer": transformer,
}


def contenders(cells: Any) -> dict[str, Make]:
    """Functions of a width by name."""
    if cells is None:
        return dict(DEFAULT)
    if isinstance(cells, Mapping):
        named = dict(cells)
    elif isinstance(cells, Sequence) and not isinstance(cells, str):
        named = {getattr(make, "__name__", repr(make)): make for make in cells}
        if len(named) != len(cells):
            raise ValueError(f"`cells` must have different names; got {cells!r}: pass a dictionary of names")
    else:
        raise TypeError(f"`cells` must be a sequence such as [rnnjax.GRU], or a dictionary of them; got {cells!r}")
    for name, make in named.items():
        if not callable(make) or isinstance(make, Layer):
            raise TypeError(
                f"`cells` must be functions of a width that return a cell or a layer, such as `rnnjax.GRU` or "
                f"`lambda width: rnnjax.LSTM(width, max_time=100)`; {name} is {make!r}"
            )
    if not named:
        raise ValueError("`cells` must name at least one cell; got none")
    return named


class Task(NamedTuple):
    """What the data ask of a network. in_size or vocabulary is None, outputs is O, each_step is whether every step has
    a target, steps is T, classes is whether targets are classes."""

    in_size: int | None
    vocabulary: int | None
    outputs: int
    each_step: bool
    steps: int
    classes: bool

    @classmethod
    def of(cls, parts: Sequence[Batch], loss: Any) -> Task:
        """Told from the shapes and dtypes of all arrays; ValueError or TypeError for others."""
        found = [cls._of(part, loss) for part in parts]
        whole = found[0]
        for other in found[1:]:
            if (other.in_size, other.each_step, other.classes) != (whole.in_size, whole.each_step, whole.classes):
                raise ValueError(f"`validation` and `test` must be like `data`, {whole}; got {other}")
        tokens = whole.vocabulary is not None
        return whole._replace(
            vocabulary=max(other.vocabulary or 0 for other in found) if tokens else None,
            outputs=max(other.outputs for other in found),
        )

    @classmethod
    def _of(cls, data: Batch, loss: Any) -> Task:
        inputs, targets = data.inputs, data.targets
        if not is_array(inputs) or not is_array(targets):
            raise TypeError(f"inputs and targets must be one array each; got {describe(inputs)}, {describe(targets)}")
        tokens = np.issubdtype(inputs.dtype, np.integer)
        if inputs.ndim != (2 if tokens else 3) or not (tokens or np.issubdtype(inputs.dtype, np.floating)):
            raise ValueError(f"inputs must be numbers (N, T, I) or integer tokens (N, T); got {describe(inputs)}")
        if 0 in inputs.shape:
            raise ValueError(f"every part of the data must hold a row, a step and a feature; got {describe(inputs)}")
        classes = np.issubdtype(targets.dtype, np.integer) and not is_binary(loss)
        each_step = targets.ndim == (2 if classes else 3)
        if targets.ndim - each_step != (1 if classes else 2) or (each_step and targets.shape[1] != inputs.shape[1]):
            raise ValueError(
                "targets must be classes (N) or (N, T), or numbers (N, O) or (N, T, O), with the T of the inputs "
                f"{tuple(inputs.shape)}; got {describe(targets)}"
            )
        for name, array in (("tokens", inputs if tokens else None), ("classes", targets if classes else None)):
            if array is not None and array.min() < 0:
                raise ValueError(f"{name} must be 0 or more, in padding too; got {array.min()}")
        return cls(
            in_size=None if tokens else inputs.shape[-1],
            vocabulary=int(inputs.max()) + 1 if tokens else None,
            outputs=int(targets.max()) + 1 if classes else targets.shape[-1],
            each_step=each_step,
            steps=inputs.shape[1],
            classes=classes,
        )


def is_binary(loss: Any) -> bool:
    """Whether targets are yes-or-no questions, although they may be integers."""
    return getattr(loss, "__name__", loss) == "binary_cross_entropy"


class Contender(NamedTuple):
    """A network within the budget: its name, the width of its body, the layer, and how many parameters it has."""

    name: str
    width: int
    layer: Stack
    parameters: int


def network(make: Make, width: int, task: Task, embedding: int) -> Stack:
    """The body of that width, behind an embedding of tokens, below the last step and an affine layer."""
    options = {"steps": task.steps} if "steps" in accepted(make).names else {}
    body = as_layer("cells", make(width, **options))
    below = [] if task.vocabulary is None else [Embedding(task.vocabulary, embedding)]
    above = [] if task.each_step else [Last()]
    return Stack([*below, body, *above, Dense(task.outputs)])


def within(name: str, make: Make, task: Task, budget: int, embedding: int) -> Contender:
    """The widest network with at most `budget` parameters; ValueError if there is none."""
    counts: dict[int, int] = {}

    def count(width: int) -> int:
        if width not in counts:
            counts[width] = parameters_of(network(make, width, task, embedding), task.in_size)
        return counts[width]

    if count(1) > budget:
        raise ValueError(
            f"`budget` must be at least {count(1)} parameters, those of {name} of width 1 on these data; got {budget}"
        )
    high = 2
    while count(high) <= budget:
        if count(high) <= count(high // 2):
            raise ValueError(f"{name} must have more parameters the wider it is; it has {count(high)} at width {high}")
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return Contender(name, low, network(make, low, task, embedding), count(low))


def parameters_of(layer: Layer, in_size: int | None) -> int:
    """How many numbers are trained."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda layer, key: layer.init(key, in_size), layer, key)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
