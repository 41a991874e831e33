"""Two layers side by side, multiplied."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from .._errors import check_key
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Key, Params, State, Xs
from .._unroll.call import Dtypes
from ._elapsed import check_one_direction
from ._layer import Layer, begin, beside, check_entries, fold, split_elapsed
from .rnn import as_layer


class GateParams(NamedTuple):
    """Parameters of the layer and of its gate."""

    layer: Params
    gate: Params


class GateState(NamedTuple):
    """States of the layer and of its gate."""

    layer: State
    gate: State


@struct
class Gate(Layer):
    """Two layers that read the same inputs, the outputs of one scaled by those of the other.

    y = layer(x) ⊙ gate(x)

    `Gate(Dense(8), Dense(8, activation="sigmoid"))` is a gated linear unit.

    Args:
        layer: a layer or a cell.
        gate: another one, with as many outputs.

    Raises:
        ValueError: if one of them drops time; in `init`, if their outputs differ in size; in a call, for elapsed times
            that are read in both directions.
        TypeError: for anything that is neither a layer nor a cell.

    References:
        Dauphin, Fan, Auli, Grangier 2017, Language modeling with gated convolutional networks, arXiv:1612.08083.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Gate(rj.GRU(4), rj.Dense(4, activation="sigmoid"))
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> ys, state = layer(params, jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 4)
    """

    layer: Any = node()
    gate: Any = node()

    def __post_init__(self) -> None:
        for name in ("layer", "gate"):
            set_field(self, name, as_layer(name, getattr(self, name)))
            if not getattr(self, name).keeps_time:
                raise ValueError(f"`{name}` must keep the time axis; got {getattr(self, name)!r}")

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return any(layer.elapsed for layer in self._pair)

    @property
    def _pair(self) -> tuple[Layer, Layer]:
        return self.layer, self.gate

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return max(layer.event_ndim for layer in self._pair)

    @property
    def keeps_axes(self) -> bool:  # type: ignore[override]
        return all(layer.keeps_axes for layer in self._pair)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self.layer.causal and self.gate.causal

    @property
    def needs_time(self) -> bool:  # type: ignore[override]
        return self.layer.needs_time or self.gate.needs_time

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> GateParams:
        check_key("key", key)
        self.out_size(in_size)
        parts = enumerate(self._pair)
        return GateParams(*(layer.init(fold(key, i), in_size, dtype) for i, layer in parts))  # type: ignore[arg-type]

    def out_size(self, in_size: int) -> int:
        sizes = [layer.out_size(in_size) for layer in self._pair]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{self!r} multiplies outputs, which need one size; got {sizes[0]} and {sizes[1]}")
        return sizes[0]

    def initial_state(
        self, params: GateParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> GateState:
        pairs = zip(self._pair, params, strict=True)
        return GateState(*(layer.initial_state(own, batch_shape, dtype) for layer, own in pairs))

    def __call__(
        self,
        params: GateParams,
        xs: Xs,
        state: GateState | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Array, GateState]:
        state, like = begin(self, state)
        xs, dt = split_elapsed(self, xs)
        if dt is not None:
            check_one_direction(self, xs)
        states = (None, None) if state is None else tuple(state)
        check_entries("params", tuple(params), self._pair)
        check_entries("state", states, self._pair)
        outs = [
            layer(
                own,
                beside(layer, xs, dt),
                like(before),
                lengths=lengths,
                mask=mask,
                reset=reset,
                key=fold(key, i),
                context=context,
            )
            for i, (layer, own, before) in enumerate(zip(self._pair, params, states, strict=True))
        ]
        (ys, first), (gates, second) = outs
        dtype = Dtypes.of(None, ys, gates).compute
        return ys.astype(dtype) * gates.astype(dtype), GateState(first, second)

    def reversed(self) -> Gate:
        return Gate(self.layer.reversed(), self.gate.reversed())

    def parts(self, in_size: int) -> tuple[tuple[str, Layer, Any], ...]:
        return ("layer", self.layer, in_size), ("gate", self.gate, in_size)
