"""The gated recurrent unit whose reset gate acts before the recurrent product."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import Cell
from .._products import dot, project_gates, split_gates
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation
from ._common import check_max_time, forget_bias, settle, settle_number


class ResetBeforeGRUParams(NamedTuple):
    """w (I, 3H), u (H, 3H), b (3H); gates r, z, n."""

    w: Array
    u: Array
    b: Array


class ResetBeforeGRUState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class ResetBeforeGRU(Cell):
    """Gated recurrent unit, reset before the product: the one of the paper, and the default of ONNX.

    r   = σ(x_t w_r + h_{t-1} u_r + b_r)            reset gate
    z   = σ(x_t w_z + h_{t-1} u_z + b_z)            update gate
    n   = φ(x_t w_n + (r ⊙ h_{t-1}) u_n + b_n)      candidate
    h_t = (1 − z) ⊙ n + z ⊙ h_{t-1}

    ======  =======  ==============================================
    w       (I, 3H)  input weights, Glorot uniform per gate
    u       (H, 3H)  recurrent weights, orthogonal per gate
    b       (3H)     bias, zero, with `update_bias` for the update gate
    ======  =======  ==============================================

    Gates lie on the last axis in the order r, z, n; Keras (`reset_after=False`) and ONNX (`linear_before_reset=0`)
    store z, r, h. The candidate's product waits for r: two products a step, where `GRU` has one. State:
    `ResetBeforeGRUState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of the candidate.
        gate_activation: σ of the two gates.
        update_bias: the update gate's bias at initialisation, one number or (H); above zero, units keep their values
            for longer.
        max_time: longest dependency in time steps; given, the update gate's biases are drawn by chrono initialisation
            (Tallec & Ollivier 2018, arXiv:1804.11188).
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Cho et al. 2014, Learning phrase representations using RNN encoder–decoder, arXiv:1406.1078, version 3.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.ResetBeforeGRU(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    update_bias: float | Array = node(default=0.0)
    max_time: int | None = None
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")
        settle_number(self, "update_bias")
        check_max_time(self.max_time)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> ResetBeforeGRUParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return ResetBeforeGRUParams(
            w=initializers.glorot_uniform(key_w, (in_size, 3 * size), dtype, gates=3),
            u=initializers.orthogonal(key_u, size, 3, dtype),
            b=forget_bias(self, key_b, dtype, gates=3, forget=1, name="update_bias"),
        )

    def initial_state(
        self, params: ResetBeforeGRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> ResetBeforeGRUState:
        return ResetBeforeGRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: ResetBeforeGRUParams, x: Array, noise: Noise = None) -> Gates:
        return project_gates(x, params.w, params.b, 3)

    def step(
        self, params: ResetBeforeGRUParams, state: ResetBeforeGRUState, z: Gates, noise: Noise = None
    ) -> ResetBeforeGRUState:
        gate, size = activation(self.gate_activation), self.hidden_size
        gh = split_gates(dot(state.h, params.u[:, : 2 * size]), 2)
        reset = gate(z[0] + gh[0])
        keep = gate(z[1] + gh[1])
        n = activation(self.activation)(z[2] + dot(reset * state.h, params.u[:, 2 * size :]))
        return ResetBeforeGRUState((1 - keep) * n + keep * state.h)
