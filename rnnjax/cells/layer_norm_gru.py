"""The gated recurrent unit with layer normalisation."""

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


class LayerNormGRUParams(NamedTuple):
    """w (I, 3H), u (H, 3H), b (3H), b_n (H), gain_x (3H), gain_h (3H); gates r, z, n."""

    w: Array
    u: Array
    b: Array
    b_n: Array
    gain_x: Array
    gain_h: Array


class LayerNormGRUState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class LayerNormGRU(GatedCell):
    """Gated recurrent unit, reset after the product, with layer normalisation of both products.

    LN(a) = (a − mean a) / √(var a + ε)
    r, z  = σ(gain_x ⊙ LN(x_t w) + gain_h ⊙ LN(h_{t-1} u) + b)                     reset and update gate
    n     = φ(gain_x ⊙ LN(x_t w_n) + b + r ⊙ (gain_h ⊙ LN(h_{t-1} u_n) + b_n))     candidate
    h_t   = (1 − z) ⊙ n + z ⊙ h_{t-1}

    ======  =======  ==============================================
    w       (I, 3H)  input weights, Glorot uniform per gate
    u       (H, 3H)  recurrent weights, orthogonal per gate
    b       (3H)     bias, zero, with `update_bias` for the update gate
    b_n     (H)      bias of the candidate's recurrent part, zero
    gain_x  (3H)     gain of the inputs' part, one
    gain_h  (3H)     gain of the recurrent part, one
    ======  =======  ==============================================

    As in the paper, mean and variance are over the 2H features of r and z together and over the H of n apart, and the
    reset acts after the product. The paper's z is 1 − z here, and its β₁ and β₂ of the gates are one b. Gates lie on
    the last axis in the order r, z, n. State: `LayerNormGRUState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of the candidate.
        gate_activation: σ of the two gates.
        update_bias: the update gate's bias at initialisation, one number or (H); above zero, units keep their values
            for longer.
        max_time: longest dependency in time steps; given, the update gate's biases are drawn by chrono initialisation
            (Tallec & Ollivier 2018, arXiv:1804.11188).
        epsilon: ε, added to the variance.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Ba, Kiros, Hinton 2016, Layer normalization, arXiv:1607.06450, supplementary material.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LayerNormGRU(hidden_size=3)
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
    epsilon: float = 1e-5
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")
        settle_number(self, "update_bias")
        check_max_time(self.max_time)
        check_positive_number("epsilon", self.epsilon)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LayerNormGRUParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return LayerNormGRUParams(
            w=initializers.glorot_uniform(key_w, (in_size, 3 * size), dtype, gates=3),
            u=initializers.orthogonal(key_u, size, 3, dtype),
            b=forget_bias(self, key_b, dtype, gates=3, forget=1, name="update_bias"),
            b_n=jnp.zeros((size,), dtype),
            gain_x=jnp.ones((3 * size,), dtype),
            gain_h=jnp.ones((3 * size,), dtype),
        )

    def initial_state(
        self, params: LayerNormGRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LayerNormGRUState:
        return LayerNormGRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: LayerNormGRUParams, x: Array, noise: Noise = None) -> Gates:
        normal = self._normalize(project_gates(x, params.w, None, 3), params.gain_x)
        return tuple(add_bias(a, b) for a, b in zip(normal, split_gates(params.b, 3), strict=True))

    def recurrent(self, params: LayerNormGRUParams) -> tuple[Array, None]:
        return params.u, None

    def update(
        self, params: LayerNormGRUParams, state: LayerNormGRUState, gx: Gates, gh: Gates, noise: Noise = None
    ) -> LayerNormGRUState:
        gate = activation(self.gate_activation)
        ah = self._normalize(gh, params.gain_h)
        r = gate(gx[0] + ah[0])
        z = gate(gx[1] + ah[1])
        n = activation(self.activation)(gx[2] + r * add_bias(ah[2], params.b_n))
        return LayerNormGRUState((1 - z) * n + z * state.h)

    def _normalize(self, gates: Gates, gain: Array) -> Gates:
        normal = (*standardize(gates[:2], self.epsilon), *standardize(gates[2:], self.epsilon))
        return tuple(scale(a, own) for a, own in zip(normal, split_gates(gain, 3), strict=True))
