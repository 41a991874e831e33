"""Long short-term memory with one gate for both input and forgetting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation, derivative_from_output
from ._common import check_max_time, forget_bias, settle, settle_number


class CoupledLSTMParams(NamedTuple):
    """w (I, 3H), u (H, 3H), b (3H); gates f, g, o."""

    w: Array
    u: Array
    b: Array


class CoupledLSTMState(NamedTuple):
    """h (*B, H), c (*B, H)."""

    h: Array
    c: Array


@struct
class CoupledLSTM(GatedCell):
    """Long short-term memory with coupled input and forget gate (CIFG): it writes as much as it forgets.

    f   = σ(x_t w_f + h_{t-1} u_f + b_f)       forget gate
    g   = φ(x_t w_g + h_{t-1} u_g + b_g)       candidate
    o   = σ(x_t w_o + h_{t-1} u_o + b_o)       output gate
    c_t = f ⊙ c_{t-1} + (1 − f) ⊙ g
    h_t = o ⊙ φ(c_t)

    ======  =======  =============================================================
    w       (I, 3H)  input weights, Glorot uniform per gate
    u       (H, 3H)  recurrent weights, orthogonal per gate
    b       (3H)     bias, zero, with `forget_bias` for the forget gate
    ======  =======  =============================================================

    w, u and b hold a part for each gate on the last axis, in the order f, g, o. There are no peepholes. State:
    `CoupledLSTMState(h, c)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of candidate and cell state.
        gate_activation: σ of the two gates, with values in [0, 1].
        forget_bias: one number or (H), added to the forget gate's bias at initialisation, not in the forward pass.
        max_time: longest dependency in time steps; given, forget biases are drawn by chrono initialisation.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Greff, Srivastava, Koutník, Steunebrink, Schmidhuber 2015, LSTM: a search space odyssey, arXiv:1503.04069.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.CoupledLSTM(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.c.shape
    ((5, 7, 3), (7, 3))
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

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> CoupledLSTMParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return CoupledLSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 3 * size), dtype, gates=3),
            u=initializers.orthogonal(key_u, size, 3, dtype),
            b=forget_bias(self, key_b, dtype, gates=3, forget=0),
        )

    def initial_state(
        self, params: CoupledLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> CoupledLSTMState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return CoupledLSTMState(h=zeros, c=zeros)

    def input_weights(self, params: CoupledLSTMParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: CoupledLSTMParams) -> tuple[Array, None]:
        return params.u, None

    def update(
        self, params: CoupledLSTMParams, state: CoupledLSTMState, gx: Gates, gh: Gates, noise: Noise = None
    ) -> CoupledLSTMState:
        return self._forward(state, gx, gh)[0]

    def _forward(self, state: CoupledLSTMState, gx: Gates, gh: Gates) -> tuple[CoupledLSTMState, tuple[Array, ...]]:
        gate, phi = activation(self.gate_activation), activation(self.activation)
        f = gate(gx[0] + gh[0])
        g = phi(gx[1] + gh[1])
        o = gate(gx[2] + gh[2])
        c = f * state.c + (1 - f) * g
        return CoupledLSTMState(h=o * phi(c), c=c), (state.c, f, g, o)

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        phi = activation(self.activation)
        slope, gate_slope = derivative_from_output(self.activation), derivative_from_output(self.gate_activation)
        if slope is None or gate_slope is None:
            return None

        def backward(saved: tuple[Array, ...], d_new: CoupledLSTMState) -> tuple[CoupledLSTMState, Gates, Gates]:
            c_prev, f, g, o = saved
            phi_c = phi(f * c_prev + (1 - f) * g)
            dc = d_new.c + d_new.h * o * slope(phi_c)
            da = (
                dc * (c_prev - g) * gate_slope(f),
                dc * (1 - f) * slope(g),
                d_new.h * phi_c * gate_slope(o),
            )
            return CoupledLSTMState(h=jnp.zeros_like(dc), c=dc * f), da, da

        return self._forward, backward
