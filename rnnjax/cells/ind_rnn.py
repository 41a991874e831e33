"""The independently recurrent network's cell."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import Cell
from .._errors import check_size
from .._products import affine
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from ..activations import Activation, activation
from ._common import scale, settle


class IndRNNParams(NamedTuple):
    """w (I, H), u (H), b (H)."""

    w: Array
    u: Array
    b: Array


class IndRNNState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class IndRNN(Cell):
    """Independently recurrent network: each unit reads its own last output only.

    h_t = φ(x_t w + u ⊙ h_{t-1} + b)

    ======  ======  ===========================================
    w       (I, H)  input weights, Glorot uniform
    u       (H)     recurrent weights, uniform on [0, u_max]
    b       (H)     bias, zero
    ======  ======  ===========================================

    u_max = 2^(1/T) for sequences of T = `max_time` steps, and 1 without: with relu, the gradient of h_T with respect to
    h_0 is then 2 at most. Training leaves that range: apply `constrain` after each step of the optimiser, or in
    `rnnjax.training.fit` by an Optax transformation that is the last of a chain. Units mix only between layers, so
    stack at least two. State: `IndRNNState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ, a name from `rnnjax.activations` or a module-level function.
        max_time: T, the longest sequence in time steps; None for any length.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Li, Li, Cook, Zhu, Gao 2018, Independently recurrent neural network (IndRNN), arXiv:1803.04831.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.IndRNN(hidden_size=3, max_time=10)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    >>> [round(float(u), 3) for u in cell.constrain(params._replace(u=jnp.array([0.5, -9.0, 9.0]))).u]
    [0.5, -1.072, 1.072]
    """

    hidden_size: int
    activation: Activation = "relu"
    max_time: int | None = None
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation")
        if self.max_time is not None:
            check_size("max_time", self.max_time)

    @property
    def max_recurrent(self) -> float:
        """u_max."""
        return 1.0 if self.max_time is None else 2.0 ** (1 / self.max_time)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> IndRNNParams:
        size = self.hidden_size
        key_w, key_u = jax.random.split(key)
        return IndRNNParams(
            w=initializers.glorot_uniform(key_w, (in_size, size), dtype),
            u=jax.random.uniform(key_u, (size,), at_least_float32(dtype), 0.0, self.max_recurrent).astype(dtype),
            b=jnp.zeros((size,), dtype),
        )

    def constrain(self, params: IndRNNParams) -> IndRNNParams:
        """The parameters with u cut to [−u_max, u_max], to apply after each step of the optimiser."""
        return params._replace(u=jnp.clip(params.u, -self.max_recurrent, self.max_recurrent))

    def initial_state(
        self, params: IndRNNParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> IndRNNState:
        return IndRNNState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: IndRNNParams, x: Array, noise: Noise = None) -> Array:
        return affine(x, params.w, params.b)

    def step(self, params: IndRNNParams, state: IndRNNState, z: Array, noise: Noise = None) -> IndRNNState:
        return IndRNNState(activation(self.activation)(z + scale(state.h, params.u)))
