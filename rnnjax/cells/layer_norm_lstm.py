"""Long short-term memory with layer normalisation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell
from .._products import add_bias, project_gates, split_gates
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation
from ._common import check_max_time, check_positive_number, forget_bias, scale, settle, settle_number, standardize


class LayerNormLSTMParams(NamedTuple):
    """w (I, 4H), u (H, 4H), b (4H), gain_x (4H), gain_h (4H); gates i, f, g, o. gain_c (H), b_c (H)."""

    w: Array
    u: Array
    b: Array
    gain_x: Array
    gain_h: Array
    gain_c: Array
    b_c: Array


class LayerNormLSTMState(NamedTuple):
    """h (*B, H), c (*B, H)."""

    h: Array
    c: Array


@struct
class LayerNormLSTM(GatedCell):
    """Long short-term memory with layer normalisation of both products and of the cell state.

    LN(z)   = (z − mean z) / √(var z + ε)
    i, f, o = σ(gain_x ⊙ LN(x_t w) + gain_h ⊙ LN(h_{t-1} u) + b)       input, forget and output gate
    g       = φ(gain_x ⊙ LN(x_t w) + gain_h ⊙ LN(h_{t-1} u) + b)       candidate
    c_t     = f ⊙ c_{t-1} + i ⊙ g
    h_t     = o ⊙ φ(gain_c ⊙ LN(c_t) + b_c)

    ======  =======  =============================================================
    w       (I, 4H)  input weights, Glorot uniform per gate
    u       (H, 4H)  recurrent weights, orthogonal per gate
    b       (4H)     bias, zero, with `forget_bias` for the forget gate
    gain_x  (4H)     gain of the inputs' part, one
    gain_h  (4H)     gain of the recurrent part, one
    gain_c  (H)      gain of the cell state, one
    b_c     (H)      bias of the cell state, zero
    ======  =======  =============================================================

    As in the paper, mean and variance are over the 4H features of all gates together, and c itself is carried as it is:
    only what h sees of it is normalised. The paper's biases β₁, β₂ and b have one effect and are one b. Gates lie on
    the last axis in the order i, f, g, o. State: `LayerNormLSTMState(h, c)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of candidate and cell state.
        gate_activation: σ of the three gates.
        forget_bias: one number or (H), added to the forget gate's bias at initialisation, not in the forward pass.
        max_time: longest dependency in time steps; given, forget and input biases are drawn by chrono initialisation.
        epsilon: ε, added to the variance.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Ba, Kiros, Hinton 2016, Layer normalization, arXiv:1607.06450, supplementary material.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LayerNormLSTM(hidden_size=3)
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
    epsilon: float = 1e-5
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")
        settle_number(self, "forget_bias")
        check_max_time(self.max_time)
        check_positive_number("epsilon", self.epsilon)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LayerNormLSTMParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return LayerNormLSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 4 * size), dtype, gates=4),
            u=initializers.orthogonal(key_u, size, 4, dtype),
            b=forget_bias(self, key_b, dtype, gates=4, forget=1, inputs=0),
            gain_x=jnp.ones((4 * size,), dtype),
            gain_h=jnp.ones((4 * size,), dtype),
            gain_c=jnp.ones((size,), dtype),
            b_c=jnp.zeros((size,), dtype),
        )

    def initial_state(
        self, params: LayerNormLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LayerNormLSTMState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return LayerNormLSTMState(h=zeros, c=zeros)

    def project(self, params: LayerNormLSTMParams, x: Array, noise: Noise = None) -> Gates:
        normal = standardize(project_gates(x, params.w, None, 4), self.epsilon)
        gains, biases = split_gates(params.gain_x, 4), split_gates(params.b, 4)
        return tuple(add_bias(scale(a, gain), b) for a, gain, b in zip(normal, gains, biases, strict=True))

    def recurrent(self, params: LayerNormLSTMParams) -> tuple[Array, None]:
        return params.u, None

    def update(
        self, params: LayerNormLSTMParams, state: LayerNormLSTMState, gx: Gates, gh: Gates, noise: Noise = None
    ) -> LayerNormLSTMState:
        gate, phi = activation(self.gate_activation), activation(self.activation)
        gains = split_gates(params.gain_h, 4)
        ah = tuple(scale(a, gain) for a, gain in zip(standardize(gh, self.epsilon), gains, strict=True))
        i = gate(gx[0] + ah[0])
        f = gate(gx[1] + ah[1])
        g = phi(gx[2] + ah[2])
        o = gate(gx[3] + ah[3])
        c = f * state.c + i * g
        (normal_c,) = standardize((c,), self.epsilon)
        return LayerNormLSTMState(h=o * phi(add_bias(scale(normal_c, params.gain_c), params.b_c)), c=c)
