"""The affine layer."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from .. import initializers
from .._errors import check_flag, check_key, check_size, floating
from .._products import affine
from .._struct import set_field, struct
from .._types import Array, DTypeLike, Key
from .._unroll.call import Dtypes
from ..activations import Activation, activation, canonical
from ..cells._common import settle_compute_dtype
from ._layer import Stateless


class DenseParams(NamedTuple):
    """w (I, O), b (O) or None."""

    w: Array
    b: Array | None


@struct
class Dense(Stateless):
    """An affine map of every step by itself, with an activation.

    y_t = g(x_t w + b)

    ======  ======  ==============================
    w       (I, O)  weights, Glorot uniform
    b       (O)     bias, zero; None without bias
    ======  ======  ==============================

    It acts on the last axis, whatever leads it: (T, *B, I), or (*B, I) behind a layer that drops time. The activation
    is taken in at least float32, outputs are in the compute dtype.

    Args:
        size: O.
        activation: g, a name from `rnnjax.activations` or a module-level function such as `jax.nn.softmax`.
        use_bias: whether there is a b.
        compute_dtype: dtype of the product and outputs; None takes the promotion of inputs and parameters.
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.

    Raises:
        TypeError, ValueError: for a size that is not a positive integer, or an unknown activation.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Dense(4, activation="relu")
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> ys, _ = layer(params, jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 4)
    """

    size: int
    activation: Activation = "identity"
    use_bias: bool = True
    compute_dtype: DTypeLike | None = None
    event_ndim: int = 1

    needs_time = False
    keeps_axes = True

    def __post_init__(self) -> None:
        check_size("size", self.size)
        set_field(self, "activation", canonical(self.activation))
        check_flag("use_bias", self.use_bias)
        settle_compute_dtype(self)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> DenseParams:
        check_key("key", key)
        check_size("in_size", in_size)
        dtype = floating("dtype", dtype)
        return DenseParams(
            w=initializers.glorot_uniform(key, (in_size, self.size), dtype),
            b=jnp.zeros((self.size,), dtype) if self.use_bias else None,
        )

    def out_size(self, in_size: int) -> int:
        return self.size

    def apply(self, params: DenseParams, x: Array, valid: Array | None, key: Key | None) -> Array:
        dtypes = Dtypes.of(self.compute_dtype, x, params)
        w, b = dtypes.cast(params)
        return activation(self.activation)(affine(x, w, b)).astype(dtypes.compute)
