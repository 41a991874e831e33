"""The linear Elman network."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._linear import Affine
from .._products import affine
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from ._common import settle


class LinearElmanParams(NamedTuple):
    """w (I, H), u (H), b (H)."""

    w: Array
    u: Array
    b: Array


class LinearElmanState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class LinearElman(DiagonalCell):
    """Linear Elman network with a diagonal recurrent matrix: a filter with one decay for each unit.

    h_t = u ⊙ h_{t-1} + x_t w + b

    ======  ======  ====================================
    w       (I, H)  input weights, Glorot uniform
    u       (H)     recurrent weights, uniform on [0, 1]
    b       (H)     bias, zero
    ======  ======  ====================================

    A dense recurrent matrix with real eigenvalues is this one in another basis; `LRU` has complex ones. It is `IndRNN`
    with φ the identity, and all its steps can run at once; put what is not linear between the layers. |u| > 1 explodes.
    State: `LinearElmanState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Martin, Cundy 2017, Parallelizing linear recurrent neural nets over sequence length, arXiv:1709.04057.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LinearElman(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LinearElmanParams:
        size = self.hidden_size
        key_w, key_u = jax.random.split(key)
        return LinearElmanParams(
            w=initializers.glorot_uniform(key_w, (in_size, size), dtype),
            u=jax.random.uniform(key_u, (size,), at_least_float32(dtype)).astype(dtype),
            b=jnp.zeros((size,), dtype),
        )

    def initial_state(
        self, params: LinearElmanParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LinearElmanState:
        return LinearElmanState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: LinearElmanParams, x: Array, noise: Noise = None) -> Affine:
        b = affine(x, params.w, params.b)
        return Affine((jnp.broadcast_to(params.u.astype(b.dtype), b.shape),), (b,))
