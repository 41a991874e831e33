"""Long short-term memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell, Kernel
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation, derivative_from_output
from ._common import check_max_time, forget_bias, settle, settle_number


class LSTMParams(NamedTuple):
    """w (I, 4H), u (H, 4H), b (4H); gates i, f, g, o."""

    w: Array
    u: Array
    b: Array


class LSTMState(NamedTuple):
    """h (*B, H), c (*B, H)."""

    h: Array
    c: Array


@struct
class LSTM(GatedCell):
    """Long short-term memory: a cell state that gates add to and scale, so that gradients survive many steps.

    i   = σ(x_t w_i + h_{t-1} u_i + b_i)       input gate
    f   = σ(x_t w_f + h_{t-1} u_f + b_f)       forget gate
    g   = φ(x_t w_g + h_{t-1} u_g + b_g)       candidate
    o   = σ(x_t w_o + h_{t-1} u_o + b_o)       output gate
    c_t = f ⊙ c_{t-1} + i ⊙ g
    h_t = o ⊙ φ(c_t)

    ======  =======  =============================================================
    w       (I, 4H)  input weights, Glorot uniform per gate
    u       (H, 4H)  recurrent weights, orthogonal per gate
    b       (4H)     bias, zero, with `forget_bias` for the forget gate
    ======  =======  =============================================================

    w, u and b hold a part for each gate on the last axis, in the order i, f, g, o. PyTorch's order is the same, its
    matrices are transposed and its two biases add up to b. State: `LSTMState(h, c)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of candidate and cell state.
        gate_activation: σ of the three gates.
        forget_bias: the forget gate's bias at initialisation, one number or (H) (Jozefowicz et al. 2015); the forward
            pass adds nothing.
        max_time: longest dependency in time steps; given, forget and input biases are drawn by chrono initialisation.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Hochreiter, Schmidhuber 1997, Long short-term memory, doi:10.1162/neco.1997.9.8.1735.
        Gers, Schmidhuber, Cummins 2000, Learning to forget, doi:10.1162/089976600300015015.
        Tallec, Ollivier 2018, Can recurrent neural networks warp time?, arXiv:1804.11188.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LSTM(hidden_size=3)
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

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return LSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 4 * size), dtype, gates=4),
            u=initializers.orthogonal(key_u, size, 4, dtype),
            b=forget_bias(self, key_b, dtype, gates=4, forget=1, inputs=0),
        )

    def initial_state(
        self, params: LSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return LSTMState(h=zeros, c=zeros)

    def input_weights(self, params: LSTMParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: LSTMParams) -> tuple[Array, None]:
        return params.u, None

    def kernel(self) -> Kernel | None:
        known = (self.activation, self.gate_activation) == ("tanh", "sigmoid")
        return Kernel("lstm", LSTM(self.hidden_size), LSTMParams) if known else None

    def update(self, params: LSTMParams, state: LSTMState, gx: Gates, gh: Gates, noise: Noise = None) -> LSTMState:
        return self._forward(state, gx, gh)[0]

    def _forward(self, state: LSTMState, gx: Gates, gh: Gates) -> tuple[LSTMState, tuple[Array, ...]]:
        gate, phi = activation(self.gate_activation), activation(self.activation)
        i = gate(gx[0] + gh[0])
        f = gate(gx[1] + gh[1])
        g = phi(gx[2] + gh[2])
        o = gate(gx[3] + gh[3])
        c = f * state.c + i * g
        return LSTMState(h=o * phi(c), c=c), (state.c, i, f, g, o)

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        phi = activation(self.activation)
        slope, gate_slope = derivative_from_output(self.activation), derivative_from_output(self.gate_activation)
        if slope is None or gate_slope is None:
            return None

        def backward(saved: tuple[Array, ...], d_new: LSTMState) -> tuple[LSTMState, Gates, Gates]:
            c_prev, i, f, g, o = saved
            phi_c = phi(f * c_prev + i * g)
            dc = d_new.c + d_new.h * o * slope(phi_c)
            da = (
                dc * g * gate_slope(i),
                dc * c_prev * gate_slope(f),
                dc * i * slope(g),
                d_new.h * phi_c * gate_slope(o),
            )
            return LSTMState(h=jnp.zeros_like(dc), c=dc * f), da, da

        return self._forward, backward
