"""The simple recurrent unit."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._linear import Affine
from .._products import add_bias, affine, dot, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise
from ..activations import Activation, activation
from ._common import check_as_many_features, settle


class SRUParams(NamedTuple):
    """w (H, 3H), b (2H); gates c, f, r, the last two with a bias."""

    w: Array
    b: Array


class SRUState(NamedTuple):
    """c (*B, H)."""

    c: Array


@struct
class SRU(DiagonalCell):
    """Simple recurrent unit: a light recurrence of the projected input, with a gated shortcut around it.

    f   = σ(x_t w_f + b_f)       forget gate
    r   = σ(x_t w_r + b_r)       reset gate
    c_t = f ⊙ c_{t-1} + (1 − f) ⊙ (x_t w_c)
    y_t = r ⊙ φ(c_t) + (1 − r) ⊙ x_t

    ======  =======  ==============================
    w       (H, 3H)  input weights, Glorot uniform
    b       (2H)     bias of f and r, zero
    ======  =======  ==============================

    Gates lie on the last axis in the order c, f, r. This is the unit of the paper's first version; later ones also let
    c_{t-1} into the gates, and then steps no longer compose. The shortcut needs as many features as units: I = H.
    State: `SRUState(c)`, zero at first. The output is y.

    Args:
        hidden_size: H, the features of inputs and outputs.
        activation: φ, a name from `rnnjax.activations` or a module-level function.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    Raises:
        ValueError: from `init`, for inputs of another number of features.

    References:
        Lei, Zhang, Wang, Dai, Artzi 2017, Simple recurrent units for highly parallelizable recurrence,
        arXiv:1709.02755, version 1.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.SRU(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 3)))
    >>> ys.shape, state.c.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    activation: Activation = "tanh"
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self, "activation")

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> SRUParams:
        size = self.hidden_size
        check_as_many_features(self, in_size)
        return SRUParams(
            w=initializers.glorot_uniform(key, (size, 3 * size), dtype, gates=3), b=jnp.zeros((2 * size,), dtype)
        )

    def initial_state(
        self, params: SRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> SRUState:
        return SRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: SRUParams, x: Array, noise: Noise = None) -> Affine:
        size = self.hidden_size
        c, f = split_gates(dot(x, params.w[:, : 2 * size]), 2)
        f = add_bias(f, params.b[:size])
        return Affine((jax.nn.sigmoid(f),), (jax.nn.sigmoid(-f) * c,))

    def emit(self, state: SRUState) -> Array:
        return state.c

    def readout(self, params: SRUParams, emitted: Any, x: Array) -> Array:
        size = self.hidden_size
        r = jax.nn.sigmoid(affine(x, params.w[:, 2 * size :], params.b[size:]))
        return r * activation(self.activation)(emitted) + (1 - r) * x.astype(r.dtype)
