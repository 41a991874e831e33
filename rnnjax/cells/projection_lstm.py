"""Long short-term memory with a projected output."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import Cell
from .._errors import check_size
from .._products import dot, project_gates, split_gates
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation
from ._common import check_max_time, forget_bias, settle, settle_number


class ProjectionLSTMParams(NamedTuple):
    """w (I, 4H), u (P, 4H), b (4H); gates i, f, g, o. w_p (H, P)."""

    w: Array
    u: Array
    b: Array
    w_p: Array


class ProjectionLSTMState(NamedTuple):
    """h (*B, P), c (*B, H)."""

    h: Array
    c: Array


@struct
class ProjectionLSTM(Cell):
    """Long short-term memory whose output is projected to fewer features: a large memory with small recurrent weights.

    i   = σ(x_t w_i + h_{t-1} u_i + b_i)       input gate
    f   = σ(x_t w_f + h_{t-1} u_f + b_f)       forget gate
    g   = φ(x_t w_g + h_{t-1} u_g + b_g)       candidate
    o   = σ(x_t w_o + h_{t-1} u_o + b_o)       output gate
    c_t = f ⊙ c_{t-1} + i ⊙ g
    h_t = (o ⊙ φ(c_t)) w_p

    ======  =======  =============================================================
    w       (I, 4H)  input weights, Glorot uniform per gate
    u       (P, 4H)  recurrent weights, Glorot uniform per gate
    b       (4H)     bias, zero, with `forget_bias` for the forget gate
    w_p     (H, P)   projection, Glorot uniform
    ======  =======  =============================================================

    w, u and b hold a part for each gate on the last axis, in the order i, f, g, o, and w_p is an array of its own. This
    is PyTorch's `proj_size`, with w_p the transpose of its `weight_hr`. State: `ProjectionLSTMState(h, c)`, zero at
    first. The output is h, of P features.

    Args:
        hidden_size: H.
        proj_size: P.
        activation: φ of candidate and cell state.
        gate_activation: σ of the three gates.
        forget_bias: one number or (H), added to the forget gate's bias at initialisation, not in the forward pass.
        max_time: longest dependency in time steps; given, forget and input biases are drawn by chrono initialisation.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Sak, Senior, Beaufays 2014, Long short-term memory based recurrent neural network architectures for large
        vocabulary speech recognition, arXiv:1402.1128, here without peepholes.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.ProjectionLSTM(hidden_size=8, proj_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.h.shape, state.c.shape
    ((5, 7, 3), (7, 3), (7, 8))
    """

    hidden_size: int
    proj_size: int
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    forget_bias: float | Array = node(default=1.0)
    max_time: int | None = None
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")
        check_size("proj_size", self.proj_size)
        settle_number(self, "forget_bias")
        check_max_time(self.max_time)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> ProjectionLSTMParams:
        size, proj = self.hidden_size, self.proj_size
        key_w, key_u, key_b, key_p = jax.random.split(key, 4)
        return ProjectionLSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 4 * size), dtype, gates=4),
            u=initializers.glorot_uniform(key_u, (proj, 4 * size), dtype, gates=4),
            b=forget_bias(self, key_b, dtype, gates=4, forget=1, inputs=0),
            w_p=initializers.glorot_uniform(key_p, (size, proj), dtype),
        )

    def initial_state(
        self, params: ProjectionLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> ProjectionLSTMState:
        return ProjectionLSTMState(
            h=jnp.zeros((*batch_shape, self.proj_size), dtype), c=jnp.zeros((*batch_shape, self.hidden_size), dtype)
        )

    def project(self, params: ProjectionLSTMParams, x: Array, noise: Noise = None) -> Gates:
        return project_gates(x, params.w, params.b, 4)

    def step(
        self, params: ProjectionLSTMParams, state: ProjectionLSTMState, z: Gates, noise: Noise = None
    ) -> ProjectionLSTMState:
        gate, phi = activation(self.gate_activation), activation(self.activation)
        gh = split_gates(dot(state.h, params.u), 4)
        i = gate(z[0] + gh[0])
        f = gate(z[1] + gh[1])
        g = phi(z[2] + gh[2])
        o = gate(z[3] + gh[3])
        c = f * state.c + i * g
        return ProjectionLSTMState(h=dot(o * phi(c), params.w_p), c=c)

    def out_size(self, in_size: int) -> int:
        return self.proj_size
