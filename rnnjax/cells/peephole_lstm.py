"""Long short-term memory whose gates see the cell state."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell
from .._products import split_gates
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation
from ._common import check_max_time, forget_bias, scale, settle, settle_number


class PeepholeLSTMParams(NamedTuple):
    """w (I, 4H), u (H, 4H), b (4H); gates i, f, g, o. p (3H); gates i, f, o."""

    w: Array
    u: Array
    b: Array
    p: Array


class PeepholeLSTMState(NamedTuple):
    """h (*B, H), c (*B, H)."""

    h: Array
    c: Array


@struct
class PeepholeLSTM(GatedCell):
    """Long short-term memory with peepholes: each gate also reads its own unit's cell state, for precise timing.

    i   = σ(x_t w_i + h_{t-1} u_i + b_i + p_i ⊙ c_{t-1})   input gate
    f   = σ(x_t w_f + h_{t-1} u_f + b_f + p_f ⊙ c_{t-1})   forget gate
    g   = φ(x_t w_g + h_{t-1} u_g + b_g)                   candidate
    c_t = f ⊙ c_{t-1} + i ⊙ g
    o   = σ(x_t w_o + h_{t-1} u_o + b_o + p_o ⊙ c_t)       output gate, which sees the new cell state
    h_t = o ⊙ φ(c_t)

    ======  =======  =============================================================
    w       (I, 4H)  input weights, Glorot uniform per gate
    u       (H, 4H)  recurrent weights, orthogonal per gate
    b       (4H)     bias, zero, with `forget_bias` for the forget gate
    p       (3H)     peepholes, zero
    ======  =======  =============================================================

    w, u and b hold a part for each gate on the last axis, in the order i, f, g, o, and p in the order i, f, o; ONNX
    stores i, o, f, c and i, o, f. State: `PeepholeLSTMState(h, c)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of candidate and cell state.
        gate_activation: σ of the three gates.
        forget_bias: one number or (H), added to the forget gate's bias at initialisation, not in the forward pass.
        max_time: longest dependency in time steps; given, forget and input biases are drawn by chrono initialisation.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Gers, Schmidhuber 2000, Recurrent nets that time and count, doi:10.1109/IJCNN.2000.861302.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.PeepholeLSTM(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.c.shape, params.p.shape
    ((5, 7, 3), (7, 3), (9,))
    """

    hidden_size: int
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    forget_bias: float | Array = node(default=1.0)
    max_time: int | None = None
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")
        settle_number(self, "forget_bias")
        check_max_time(self.max_time)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> PeepholeLSTMParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return PeepholeLSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 4 * size), dtype, gates=4),
            u=initializers.orthogonal(key_u, size, 4, dtype),
            b=forget_bias(self, key_b, dtype, gates=4, forget=1, inputs=0),
            p=jnp.zeros((3 * size,), dtype),
        )

    def initial_state(
        self, params: PeepholeLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> PeepholeLSTMState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return PeepholeLSTMState(h=zeros, c=zeros)

    def input_weights(self, params: PeepholeLSTMParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: PeepholeLSTMParams) -> tuple[Array, None]:
        return params.u, None

    def update(
        self, params: PeepholeLSTMParams, state: PeepholeLSTMState, gx: Gates, gh: Gates, noise: Noise = None
    ) -> PeepholeLSTMState:
        gate, phi = activation(self.gate_activation), activation(self.activation)
        p_i, p_f, p_o = split_gates(params.p, 3)
        i = gate(gx[0] + gh[0] + scale(state.c, p_i))
        f = gate(gx[1] + gh[1] + scale(state.c, p_f))
        g = phi(gx[2] + gh[2])
        c = f * state.c + i * g
        o = gate(gx[3] + gh[3] + scale(c, p_o))
        return PeepholeLSTMState(h=o * phi(c), c=c)
