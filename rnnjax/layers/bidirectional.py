"""One layer forward in time and one backward."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_key
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Key, Params, State, Xs
from ._layer import Layer, begin, fold
from .rnn import as_layer
from .stack import Stack

_MERGES = ("concat", "sum", "mean", "product", None)


class BidirectionalParams(NamedTuple):
    """Parameters of the two layers."""

    forward: Any
    backward: Any


class BidirectionalState(NamedTuple):
    """States of the two layers, each after the last step that it took."""

    forward: Any
    backward: Any


@struct
class Bidirectional(Layer):
    """One layer forward in time and one backward, so that every output has read the whole sequence.

    y_t = [→y_t, ←y_t]     for "concat"; →y_t + ←y_t, its half, or →y_t ⊙ ←y_t for "sum", "mean", "product"

    With `lengths` or `mask` the backward layer starts at the last valid step of each row. It is not causal, so it does
    not stream: the states it returns are those of both ends, for a decoder.

    Parameters: `BidirectionalParams(forward, backward)`. State: `BidirectionalState(forward, backward)`.

    Args:
        forward: a layer or a cell.
        backward: a layer or a cell, given as it runs forward: its `reversed()` is run. None is the same as `forward`,
            with parameters of its own.
        merge: "concat", "sum", "mean", "product", or None for the pair (→y, ←y).

    Raises:
        ValueError: for an unknown `merge`; if only one of the two drops time, or runs backwards as given; in `init`, if
            they differ in size and `merge` adds or multiplies; in a call, for elapsed times, which differ backwards.
        TypeError: for anything that is neither a layer nor a cell.

    References:
        Schuster, Paliwal 1997, Bidirectional recurrent neural networks, doi:10.1109/78.650093.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Bidirectional(rj.GRU(4))
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> ys, state = layer(params, jnp.ones((6, 2, 3)), lengths=jnp.array([6, 2]))
    >>> ys.shape, state.backward.h.shape
    ((6, 2, 8), (2, 4))
    """

    forward: Any = node()
    backward: Any = node(default=None)
    merge: str | None = "concat"

    causal = False

    def __post_init__(self) -> None:
        if self.merge not in _MERGES:
            raise ValueError(f"`merge` must be one of {', '.join(map(repr, _MERGES))}; got {self.merge!r}")
        set_field(self, "forward", as_layer("forward", self.forward))
        if self.backward is None:
            return
        set_field(self, "backward", as_layer("backward", self.backward))
        if self.forward.keeps_time != self.backward.keeps_time:
            raise ValueError(f"only one of {self.forward!r} and {self.backward!r} drops the time axis")
        ways = [_directions(layer) for layer in (self.forward, self.backward)]
        if ways in ([{True}, {False}], [{False}, {True}]):
            raise ValueError(
                "`backward` must be given as it runs forward, and is reversed here; one of the two runs backwards, "
                f"so that both would run in the same direction; got {self.forward!r} and {self.backward!r}"
            )

    @property
    def keeps_time(self) -> bool:  # type: ignore[override]
        return self.forward.keeps_time

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return self.forward.event_ndim

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return any(layer.elapsed for layer in self._pair())

    def _pair(self) -> tuple[Layer, Layer]:
        return self.forward, (self.forward if self.backward is None else self.backward).reversed()

    def init(self, key: Key, in_size: Any, dtype: DTypeLike = jnp.float32) -> BidirectionalParams:
        check_key("key", key)
        self.out_size(in_size)
        forward, backward = self._pair()
        return BidirectionalParams(
            forward.init(jax.random.fold_in(key, 0), in_size, dtype),
            backward.init(jax.random.fold_in(key, 1), in_size, dtype),
        )

    def out_size(self, in_size: Any) -> Any:
        forward, backward = (layer.out_size(in_size) for layer in self._pair())
        if self.merge is None:
            return forward, backward
        if self.merge == "concat":
            return forward + backward
        self._check_same("sizes", forward, backward)
        return forward

    def initial_state(
        self, params: BidirectionalParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> BidirectionalState:
        forward, backward = self._pair()
        self._check_params(params)
        return BidirectionalState(
            forward.initial_state(params.forward, batch_shape, dtype),
            backward.initial_state(params.backward, batch_shape, dtype),
        )

    def __call__(
        self,
        params: BidirectionalParams,
        xs: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Any, BidirectionalState]:
        state, like = begin(self, state)
        self._check_params(params)
        if state is None:
            state = BidirectionalState(None, None)
        elif not isinstance(state, BidirectionalState):
            raise TypeError(f"`state` must be a BidirectionalState(forward, backward); got {type(state).__name__}")
        self._check_inputs(xs)
        if key is not None:
            check_key("key", key)

        def run(layer: Layer, own: Params, before: State, own_key: Key | None) -> tuple[Any, State]:
            return layer(own, xs, like(before), lengths=lengths, mask=mask, reset=reset, key=own_key, context=context)

        forward, backward = self._pair()
        ys_forward, state_forward = run(forward, params.forward, state.forward, fold(key, 0))
        ys_backward, state_backward = run(backward, params.backward, state.backward, fold(key, 1))
        return self._merge(ys_forward, ys_backward), BidirectionalState(state_forward, state_backward)

    def _merge(self, forward: Any, backward: Any) -> Any:
        if self.merge is None:
            return forward, backward
        dtype = np.promote_types(forward.dtype, backward.dtype)
        forward, backward = forward.astype(dtype), backward.astype(dtype)
        if self.merge == "concat":
            return jnp.concatenate([forward, backward], axis=-1)
        self._check_same("shapes", forward.shape, backward.shape)
        if self.merge == "product":
            return forward * backward
        return forward + backward if self.merge == "sum" else (forward + backward) / 2

    def _check_same(self, what: str, forward: Any, backward: Any) -> None:
        if forward != backward:
            raise ValueError(
                f"`merge={self.merge!r}` needs outputs of equal {what}; got {forward} forward and {backward} backward. "
                'Use `merge="concat"`'
            )

    def _check_inputs(self, xs: Xs) -> None:
        axes = [jnp.ndim(leaf) for leaf in jax.tree.leaves(xs)]
        beside_ids = not self.event_ndim and self.elapsed and isinstance(xs, tuple)
        if beside_ids or (self.event_ndim and any(ndim <= max(axes) - self.event_ndim for ndim in axes)):
            raise ValueError(
                "`xs` with elapsed times (T, *B) cannot be read in both directions: backwards, the time since the last "
                "step is that of the step behind. Call two layers, the second one `RNN(cell, reverse=True)` on "
                "`(x, jnp.roll(dt, -1, axis=0))`"
            )

    def _check_params(self, params: Any) -> None:
        if not isinstance(params, BidirectionalParams):
            raise TypeError(f"`params` must be BidirectionalParams(forward, backward); got {type(params).__name__}")

    def reversed(self) -> Bidirectional:
        backward = None if self.backward is None else self.backward.reversed()
        return dataclasses.replace(self, forward=self.forward.reversed(), backward=backward)

    def parts(self, in_size: Any) -> tuple[tuple[str, Layer, Any], ...]:
        forward, backward = self._pair()
        return ("forward", forward, in_size), ("backward", backward, in_size)


def _directions(layer: Layer) -> set[bool]:
    """True and False as the layer, or one of a stack, runs forwards or backwards; neither of one that runs in both."""
    if isinstance(layer, Stack):
        return set().union(*map(_directions, layer.layers))
    forwards, backwards = layer.causal, layer.reversed().causal
    return set() if forwards == backwards else {forwards}
