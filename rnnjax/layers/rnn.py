"""A cell as a layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from .._cell import Cell
from .._errors import check_flag
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Params, State, Xs
from .._unroll import Newton, check, table, unroll
from .._unroll.call import Remat
from ._layer import Layer, begin


@struct
class RNN(Layer):
    """A cell over time, as `rnnjax.unroll` runs it, in the form of a layer.

    Parameters and state are those of the cell.

    Args:
        cell: a cell, such as `rnnjax.LSTM(128)`.
        reverse: run from the last step to the first. Outputs stay in the order of the inputs, and with `lengths` each
            row reverses its own valid part. Such a layer is not causal.
        remat: what the backward pass stores, as for `rnnjax.unroll`.
        implementation: None, the name of the one to run or a `rnnjax.Newton`, as for `rnnjax.unroll`.

    Raises:
        TypeError: if `cell` is not a cell.
        ValueError: for an unknown `remat` or `implementation`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.RNN(rj.LSTM(4))
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> ys, state = layer(params, xs)
    >>> head, state = layer(params, xs[:4])
    >>> tail, state = layer(params, xs[4:], state)
    >>> bool(jnp.allclose(jnp.concatenate([head, tail]), ys))
    True
    """

    cell: Any = node()
    reverse: bool = False
    remat: Remat = None
    implementation: str | Newton | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise TypeError(f"`cell` must be a cell, such as `rnnjax.LSTM(128)`; got {self.cell!r}")
        check_flag("reverse", self.reverse)
        check.check_remat(self.remat)
        table.check_name(self.implementation)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return not self.reverse

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return self.cell.event_ndim

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return self.cell.elapsed

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return self.cell.init(key, in_size, dtype)

    def out_size(self, in_size: int) -> int:
        return self.cell.out_size(in_size)

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(params, batch_shape, dtype)

    def __call__(
        self,
        params: Params,
        xs: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Array, State]:
        state, _ = begin(self, state)
        return unroll(
            self.cell,
            params,
            xs,
            state,
            lengths=lengths,
            mask=mask,
            reset=reset,
            reverse=self.reverse,
            key=key,
            context=context,
            remat=self.remat,
            implementation=self.implementation,
        )

    def reversed(self) -> RNN:
        return dataclasses.replace(self, reverse=not self.reverse)


def as_layer(name: str, value: Any) -> Layer:
    """A layer as it is, a cell as an `RNN` over it; TypeError for anything else, `name` saying where it stood."""
    if isinstance(value, Layer):
        return value
    if isinstance(value, Cell):
        return RNN(value)
    hint = ""
    if isinstance(value, type):
        hint = f"; make an instance, such as `{value.__name__}(8)`"
    elif callable(value):
        hint = "; wrap an activation in `rnnjax.Activate(f)`; for any other map derive from `rnnjax.Stateless`"
    raise TypeError(f"`{name}` must be a layer or a cell; got {value!r}{hint}")
