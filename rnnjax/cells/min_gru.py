"""The minimal gated recurrent unit without a recurrent product."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._linear import Affine
from .._products import affine, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise
from ._common import positive_activation, settle


class MinGRUParams(NamedTuple):
    """w (I, 2H), b (2H); gates z, h."""

    w: Array
    b: Array


class MinGRUState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class MinGRU(DiagonalCell):
    """minGRU, a GRU whose gate and candidate depend on the input alone, so that all steps can run at once.

    z    = σ(x_t w_z + b_z)                       update gate
    n    = g(x_t w_h + b_h)                       candidate, g(a) = a + ½ for a ≥ 0, σ(a) below
    h_t  = (1 − z) ⊙ h_{t-1} + z ⊙ n

    ======  =======  ==============================
    w       (I, 2H)  input weights, Glorot uniform
    b       (2H)     bias, zero
    ======  =======  ==============================

    Gates lie on the last axis in the order z, h. This is the form that the paper runs in log-space: g keeps candidates
    above 0, and 1 − z is σ(−a), exact where z is close to 1. The paper's scan needs logarithms because it divides by
    products of gates; composed transitions only multiply them, which is as stable without. z is the weight of the
    candidate, where `GRU` has 1 − z. State: `MinGRUState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, Were RNNs all we needed?, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.MinGRU(hidden_size=3)
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

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> MinGRUParams:
        size = self.hidden_size
        return MinGRUParams(
            w=initializers.glorot_uniform(key, (in_size, 2 * size), dtype, gates=2), b=jnp.zeros((2 * size,), dtype)
        )

    def initial_state(
        self, params: MinGRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MinGRUState:
        return MinGRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: MinGRUParams, x: Array, noise: Noise = None) -> Affine:
        z, n = split_gates(affine(x, params.w, params.b), 2)
        return Affine((jax.nn.sigmoid(-z),), (jax.nn.sigmoid(z) * positive_activation(n),))
