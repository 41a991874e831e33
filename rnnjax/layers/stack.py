"""Layers on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._errors import check_key
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Key, Params, State, Xs
from .._unroll.driver import climb
from ._elapsed import check_one_direction
from ._layer import Layer, begin, beside, check_entries, fold, split_elapsed
from .dropout import Dropout, VariationalDropout
from .rnn import RNN, as_layer


@struct
class Stack(Layer):
    """Layers on top of each other, each run over the whole sequence before the next.

    Parameters and state are tuples with one entry for each layer. Behind a layer that drops time, such as `Mean`, the
    following ones get no lengths, mask or reset. Layer i draws from `fold_in(key, i)`, so that another layer on top
    leaves the draws of those below as they were.

    Args:
        layers: layers and cells, the first one reading the inputs; a cell stands for `RNN(cell)`.

    Raises:
        ValueError: if there is no layer, or one needs the time axis that an earlier one drops; in a call, for elapsed
            times that are read in both directions.
        TypeError: for anything that is neither a layer nor a cell.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> model = rj.Stack([rj.RNN(rj.Elman(8)), rj.Dense(3, activation="sigmoid")])
    >>> params = model.init(jax.random.key(0), in_size=2)
    >>> ys, state = model(params, jnp.ones((5, 7, 2)))
    >>> ys.shape
    (5, 7, 3)
    """

    layers: Sequence[Any] = node()

    def __post_init__(self) -> None:
        if not isinstance(self.layers, (list, tuple)):
            raise TypeError(f"`layers` must be a list or tuple of layers; got {self.layers!r}")
        if not self.layers:
            raise ValueError("`layers` must hold at least one layer; got none")
        layers = tuple(as_layer(f"layers[{i}]", layer) for i, layer in enumerate(self.layers))
        for i, layer in enumerate(layers[1:], start=1):
            if layer.needs_time and not all(below.keeps_time for below in layers[:i]):
                raise ValueError(f"`layers[{i}]` needs a time axis, which a layer below drops; got {layer!r}")
        set_field(self, "layers", layers)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return all(layer.causal for layer in self.layers)

    @property
    def keeps_time(self) -> bool:  # type: ignore[override]
        return all(layer.keeps_time for layer in self.layers)

    @property
    def needs_time(self) -> bool:  # type: ignore[override]
        return any(layer.needs_time for layer in self.layers)

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        same = sum(1 for _ in takewhile(lambda layer: layer.keeps_axes, self.layers))
        return max(layer.event_ndim for layer in self.layers[: same + 1])

    @property
    def keeps_axes(self) -> bool:  # type: ignore[override]
        return all(layer.keeps_axes for layer in self.layers)

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return any(layer.elapsed for layer in self.layers)

    def init(self, key: Key, in_size: int | None = None, dtype: DTypeLike = jnp.float32) -> tuple[Params, ...]:
        check_key("key", key)
        parts = enumerate(self.parts(in_size))
        return tuple(layer.init(jax.random.fold_in(key, i), size, dtype) for i, (_, layer, size) in parts)

    def out_size(self, in_size: int | None = None) -> int:
        _, layer, size = self.parts(in_size)[-1]
        return layer.out_size(size)

    def initial_state(
        self, params: tuple[Params, ...], batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[State, ...]:
        check_entries("params", params, self.layers)
        return tuple(
            layer.initial_state(own, batch_shape, dtype) for layer, own in zip(self.layers, params, strict=True)
        )

    def __call__(
        self,
        params: tuple[Params, ...],
        xs: Xs,
        state: tuple[State, ...] | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Array, tuple[State, ...]]:
        state, like = begin(self, state)
        check_entries("params", params, self.layers)
        states = (None,) * len(self.layers) if state is None else state
        check_entries("state", states, self.layers)
        if key is not None:
            check_key("key", key)
        xs, dt = split_elapsed(self, xs)
        if dt is not None:
            check_one_direction(self, xs)
        bare = lengths is None and mask is None and reset is None and key is None and context is None and dt is None
        last = []
        while len(last) < len(self.layers):
            i = len(last)
            if bare:
                xs, climbed = _climb(self.layers[i:], params[i:], xs, states[i:])
                last += climbed
                if climbed:
                    continue
            layer, own, before = self.layers[i], params[i], like(states[i])
            inputs = beside(layer, xs, dt)
            xs, after = layer(
                own, inputs, before, lengths=lengths, mask=mask, reset=reset, key=fold(key, i), context=context
            )
            last.append(after)
            if not layer.keeps_time:
                lengths = mask = reset = dt = None
        return xs, tuple(last)

    def reversed(self) -> Stack:
        return Stack(tuple(layer.reversed() for layer in self.layers))

    def parts(self, in_size: int | None) -> tuple[tuple[str, Layer, Any], ...]:
        parts, size = [], in_size
        for i, layer in enumerate(self.layers):
            parts.append((str(i), layer, size))
            size = layer.out_size(size)
        return tuple(parts)


def _climb(layers: Sequence[Layer], params: Sequence[Params], xs: Any, states: Any) -> tuple[Any, list[State]]:
    """What the lowest layers make of a single step in a compiled program where they are one native call, and their
    states; xs and none where they are not. Dropout between them, of which there is none here, is passed over."""
    if not (_plain(layers[0]) and isinstance(xs, Tracer) and xs.ndim > 1 and xs.shape[0] == 1):
        return xs, []
    run = [*takewhile(lambda layer: _plain(layer) or _dropout(layer), layers)]
    places = [i for i, layer in enumerate(run) if _plain(layer)]
    cells: Any = [run[i].cell for i in places]  # type: ignore[attr-defined]
    out = climb(cells, [params[i] for i in places], xs, [states[i] for i in places]) if len(cells) > 1 else None
    if out is None:
        return xs, []
    ys, climbed = out
    after, top = iter(climbed), places[len(climbed) - 1]
    # a dropout checks what it was given
    return ys, [next(after) if _plain(run[i]) else run[i](params[i], xs, states[i])[1] for i in range(top + 1)]


def _plain(layer: Any) -> bool:
    return type(layer) is RNN and not layer.reverse and layer.implementation is None


def _dropout(layer: Any) -> bool:
    return type(layer) in (Dropout, VariationalDropout)
