"""The minimal LSTM without a recurrent product."""

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


class MinLSTMParams(NamedTuple):
    """w (I, 3H), b (3H); gates f, i, h."""

    w: Array
    b: Array


class MinLSTMState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class MinLSTM(DiagonalCell):
    """minLSTM, an LSTM whose gates depend on the input alone and sum to 1, so that all steps can run at once.

    f      = σ(x_t w_f + b_f)       forget gate
    i      = σ(x_t w_i + b_i)       input gate
    f', i' = f / (f + i), i / (f + i)
    n      = g(x_t w_h + b_h)       candidate, g(a) = a + ½ for a ≥ 0, σ(a) below
    h_t    = f' ⊙ h_{t-1} + i' ⊙ n

    ======  =======  ==============================
    w       (I, 3H)  input weights, Glorot uniform
    b       (3H)     bias, zero
    ======  =======  ==============================

    Gates lie on the last axis in the order f, i, h. f' and i' are formed in log-space, as σ(±(log i − log f)): two
    closed gates divide 0 by 0 otherwise. State: `MinLSTMState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, Were RNNs all we needed?, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.MinLSTM(hidden_size=3)
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

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> MinLSTMParams:
        size = self.hidden_size
        return MinLSTMParams(
            w=initializers.glorot_uniform(key, (in_size, 3 * size), dtype, gates=3), b=jnp.zeros((3 * size,), dtype)
        )

    def initial_state(
        self, params: MinLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MinLSTMState:
        return MinLSTMState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: MinLSTMParams, x: Array, noise: Noise = None) -> Affine:
        f, i, n = split_gates(affine(x, params.w, params.b), 3)
        odds = jax.nn.log_sigmoid(i) - jax.nn.log_sigmoid(f)
        return Affine((jax.nn.sigmoid(-odds),), (jax.nn.sigmoid(odds) * positive_activation(n),))
