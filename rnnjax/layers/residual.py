"""A layer whose inputs are added to its outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from .._errors import describe
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Key, Params, State, Xs
from .._unroll.lift import zero_where_masked
from ._layer import Layer, beside, one_array, split_elapsed, valid_steps
from .rnn import as_layer


@struct
class Residual(Layer):
    """A layer whose inputs are added to its outputs, so that gradients pass by it.

    y_t = x_t + layer(x)_t

    Parameters and state are those of the layer, and outputs have its dtype.

    Args:
        layer: a layer or a cell with as many outputs as inputs.

    Raises:
        ValueError: if the layer drops time, and in `init` if its outputs differ from its inputs in size.
        TypeError: for anything that is neither a layer nor a cell.

    References:
        He, Zhang, Ren, Sun 2015, Deep residual learning for image recognition, arXiv:1512.03385.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Residual(rj.GRU(3))
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> ys, state = layer(params, jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 3)
    """

    layer: Any = node()

    def __post_init__(self) -> None:
        set_field(self, "layer", as_layer("layer", self.layer))
        if not self.layer.keeps_time:
            raise ValueError(f"`layer` must keep the time axis of the inputs that are added; got {self.layer!r}")

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self.layer.causal

    @property
    def needs_time(self) -> bool:  # type: ignore[override]
        return self.layer.needs_time

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return self.layer.event_ndim

    @property
    def keeps_axes(self) -> bool:  # type: ignore[override]
        return self.layer.keeps_axes

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return self.layer.elapsed

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        self.out_size(in_size)
        return self.layer.init(key, in_size, dtype)

    def out_size(self, in_size: int) -> int:
        size = self.layer.out_size(in_size)
        if size != in_size:
            raise ValueError(f"{self!r} adds inputs to outputs, which need one size; got {in_size} in and {size} out")
        return size

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.layer.initial_state(params, batch_shape, dtype)

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
        xs, dt = split_elapsed(self, xs)
        x = one_array(xs)
        inputs = beside(self.layer, x, dt)
        ys, state = self.layer(params, inputs, state, lengths=lengths, mask=mask, reset=reset, key=key, context=context)
        if getattr(ys, "shape", None) != x.shape:
            raise ValueError(f"{self!r} adds `xs` {tuple(x.shape)} to outputs of another shape; got {describe(ys)}")
        return self.joined(zero_where_masked(valid_steps(self, x, lengths, mask), x).astype(ys.dtype), ys), state

    def joined(self, x: Array, ys: Array) -> Array:
        """Outputs from the inputs, zero where masked, and those of the layer."""
        return x + ys

    def reversed(self) -> Residual:
        return dataclasses.replace(self, layer=self.layer.reversed())

    def parts(self, in_size: int) -> tuple[tuple[str, Layer, Any], ...]:
        return (("layer", self.layer, in_size),)
