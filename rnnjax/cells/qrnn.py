"""The quasi-recurrent network's pooling."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._linear import Affine
from .._products import affine, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise
from ..activations import Activation, activation
from ._common import settle


class QRNNParams(NamedTuple):
    """w (I, 3H), b (3H); gates z, f, o."""

    w: Array
    b: Array


class QRNNState(NamedTuple):
    """c (*B, H)."""

    c: Array


@struct
class QRNN(DiagonalCell):
    """Quasi-recurrent network of window 1 with fo-pooling: an LSTM whose gates see the input of their own step alone.

    z   = φ(x_t w_z + b_z)       candidate
    f   = σ(x_t w_f + b_f)       forget gate
    o   = σ(x_t w_o + b_o)       output gate
    c_t = f ⊙ c_{t-1} + (1 − f) ⊙ z
    y_t = o ⊙ c_t

    ======  =======  ==============================
    w       (I, 3H)  input weights, Glorot uniform
    b       (3H)     bias, zero
    ======  =======  ==============================

    Gates lie on the last axis in the order z, f, o. In the paper they are convolutions over the last k steps; this is
    k = 1. For a wider window, give it the features of several steps. State: `QRNNState(c)`, zero at first. The output
    is y.

    Args:
        hidden_size: H.
        activation: φ of the candidate, a name from `rnnjax.activations` or a module-level function.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Bradbury, Merity, Xiong, Socher 2016, Quasi-recurrent neural networks, arXiv:1611.01576.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.QRNN(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.c.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    activation: Activation = "tanh"
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation")

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> QRNNParams:
        size = self.hidden_size
        return QRNNParams(
            w=initializers.glorot_uniform(key, (in_size, 3 * size), dtype, gates=3), b=jnp.zeros((3 * size,), dtype)
        )

    def initial_state(
        self, params: QRNNParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> QRNNState:
        return QRNNState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: QRNNParams, x: Array, noise: Noise = None) -> Affine:
        size = 2 * self.hidden_size
        z, f = split_gates(affine(x, params.w[:, :size], params.b[:size]), 2)
        return Affine((jax.nn.sigmoid(f),), (jax.nn.sigmoid(-f) * activation(self.activation)(z),))

    def emit(self, state: QRNNState) -> Array:
        return state.c

    def readout(self, params: QRNNParams, emitted: Any, x: Array) -> Array:
        size = 2 * self.hidden_size
        return jax.nn.sigmoid(affine(x, params.w[:, size:], params.b[size:])) * emitted
