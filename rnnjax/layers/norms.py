"""Normalisation over the features of each step."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from .._errors import check_size
from .._products import add_bias
from .._struct import set_field, struct
from .._types import Array, DTypeLike, Key
from .._unroll.call import Dtypes
from ..cells._common import check_positive_number, scale, settle_compute_dtype
from ._layer import Stateless


class LayerNormParams(NamedTuple):
    """scale (I), bias (I)."""

    scale: Array
    bias: Array


@struct
class LayerNorm(Stateless):
    """Every step's features brought to mean 0 and variance 1, then scaled and shifted.

    y_t = (x_t − μ_t) / √(σ_t² + ε) ⊙ scale + bias,  mean and variance over the features of x_t

    ======  ======  ==================
    scale   (I)     one
    bias    (I)     zero
    ======  ======  ==================

    It acts on the last axis, whatever leads it, and is taken in at least float32.

    Args:
        epsilon: ε.
        groups: features lie in so many groups of one size, each with a mean and variance of its own: with one for each
            head the head-wise norm of matrix memories, called group norm there.
        compute_dtype: dtype of the outputs; None takes the promotion of inputs and parameters.
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.

    Raises:
        ValueError: in `init`, for groups that do not divide the features.

    References:
        Ba, Kiros, Hinton 2016, Layer normalization, arXiv:1607.06450.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.LayerNorm()
    >>> ys, _ = layer(layer.init(jax.random.key(0), in_size=2), jnp.array([[3.0, 5.0]]))
    >>> ys.round(3).tolist()
    [[-1.0, 1.0]]
    """

    epsilon: float = 1e-6
    groups: int = 1
    compute_dtype: DTypeLike | None = None
    event_ndim: int = 1

    needs_time = False
    keeps_axes = True

    def __post_init__(self) -> None:
        _settle(self)
        check_size("groups", self.groups)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LayerNormParams:
        check_size("in_size", in_size)
        if in_size % self.groups:
            raise ValueError(f"`groups` must divide the features; got {self.groups} groups of {in_size}")
        return LayerNormParams(jnp.ones((in_size,), dtype), jnp.zeros((in_size,), dtype))

    def apply(self, params: LayerNormParams, x: Array, valid: Array | None, key: Key | None) -> Array:
        dtypes = Dtypes.of(self.compute_dtype, x, params)
        grouped = x.astype(dtypes.state).reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        centred = grouped - grouped.mean(-1, keepdims=True)
        y = scale((centred * _inverse_root(centred, self.epsilon)).reshape(x.shape), params.scale)
        return add_bias(y, params.bias).astype(dtypes.compute)


class RMSNormParams(NamedTuple):
    """scale (I)."""

    scale: Array


@struct
class RMSNorm(Stateless):
    """Every step's features brought to a root mean square of 1, then scaled.

    y_t = x_t / √(mean x_t² + ε) ⊙ scale

    ======  ======  ==================
    scale   (I)     one
    ======  ======  ==================

    It acts on the last axis, whatever leads it, and is taken in at least float32.

    Args:
        epsilon: ε.
        compute_dtype: dtype of the outputs; None takes the promotion of inputs and parameters.
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.

    References:
        Zhang, Sennrich 2019, Root mean square layer normalization, arXiv:1910.07467.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.RMSNorm()
    >>> ys, _ = layer(layer.init(jax.random.key(0), in_size=2), jnp.array([[3.0, -3.0]]))
    >>> ys.round(3).tolist()
    [[1.0, -1.0]]
    """

    epsilon: float = 1e-6
    compute_dtype: DTypeLike | None = None
    event_ndim: int = 1

    needs_time = False
    keeps_axes = True

    def __post_init__(self) -> None:
        _settle(self)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> RMSNormParams:
        check_size("in_size", in_size)
        return RMSNormParams(jnp.ones((in_size,), dtype))

    def apply(self, params: RMSNormParams, x: Array, valid: Array | None, key: Key | None) -> Array:
        dtypes = Dtypes.of(self.compute_dtype, x, params)
        x = x.astype(dtypes.state)
        return scale(x * _inverse_root(x, self.epsilon), params.scale).astype(dtypes.compute)


def _settle(layer: LayerNorm | RMSNorm) -> None:
    check_positive_number("epsilon", layer.epsilon)
    set_field(layer, "epsilon", float(layer.epsilon))
    settle_compute_dtype(layer)


def _inverse_root(x: Array, epsilon: float) -> Array:
    """1 / √(mean x² + ε) over the features."""
    return lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon)
