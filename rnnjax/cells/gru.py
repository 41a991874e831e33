"""The gated recurrent unit whose reset gate acts after the recurrent product."""

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


class GRUParams(NamedTuple):
    """w (I, 3H), u (H, 3H), b (3H), b_n (H); gates r, z, n."""

    w: Array
    u: Array
    b: Array
    b_n: Array


class GRUState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class GRU(GatedCell):
    """Gated recurrent unit, reset after the product: the one of PyTorch, cuDNN and Keras.

    r   = σ(x_t w_r + h_{t-1} u_r + b_r)                     reset gate
    z   = σ(x_t w_z + h_{t-1} u_z + b_z)                     update gate
    n   = φ(x_t w_n + b_x + r ⊙ (h_{t-1} u_n + b_n))         candidate
    h_t = (1 − z) ⊙ n + z ⊙ h_{t-1}

    ======  =======  ==============================================
    w       (I, 3H)  input weights, Glorot uniform per gate
    u       (H, 3H)  recurrent weights, orthogonal per gate
    b       (3H)     bias, zero, with `update_bias` for the update gate
    b_n     (H)      bias of the candidate's recurrent part, zero
    ======  =======  ==============================================

    w, u and b hold a part for each gate on the last axis, in the order r, z, n, as in PyTorch; Keras stores z, r, h.
    The parts of b are b_r, b_z and b_x, which belongs to the candidate; `b_n` is an array of its own. It is what lets
    weights of PyTorch, Keras (`reset_after=True`) and cuDNN fit exactly; `ResetBeforeGRU` is the cell of the paper.
    State: `GRUState(h)`, zero at first. The output is h.

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
        Cho et al. 2014, Learning phrase representations using RNN encoder–decoder, arXiv:1406.1078, version 1 for the
        reset after the product.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=3)
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

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> GRUParams:
        size = self.hidden_size
        key_w, key_u, key_b = jax.random.split(key, 3)
        return GRUParams(
            w=initializers.glorot_uniform(key_w, (in_size, 3 * size), dtype, gates=3),
            u=initializers.orthogonal(key_u, size, 3, dtype),
            b=forget_bias(self, key_b, dtype, gates=3, forget=1, name="update_bias"),
            b_n=jnp.zeros((size,), dtype),
        )

    def initial_state(
        self, params: GRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> GRUState:
        return GRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def input_weights(self, params: GRUParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: GRUParams) -> tuple[Array, tuple[None, None, Array]]:
        return params.u, (None, None, params.b_n)

    def kernel(self) -> Kernel | None:
        known = (self.activation, self.gate_activation) == ("tanh", "sigmoid")
        return Kernel("gru", GRU(self.hidden_size), GRUParams) if known else None

    def update(self, params: GRUParams, state: GRUState, gx: Gates, gh: Gates, noise: Noise = None) -> GRUState:
        return self._forward(state, gx, gh)[0]

    def _forward(self, state: GRUState, gx: Gates, gh: Gates) -> tuple[GRUState, tuple[Array, ...]]:
        gate = activation(self.gate_activation)
        r = gate(gx[0] + gh[0])
        z = gate(gx[1] + gh[1])
        n = activation(self.activation)(gx[2] + r * gh[2])
        return GRUState((1 - z) * n + z * state.h), (state.h, r, z, n, gh[2])

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        slope, gate_slope = derivative_from_output(self.activation), derivative_from_output(self.gate_activation)
        if slope is None or gate_slope is None:
            return None

        def backward(saved: tuple[Array, ...], d_new: GRUState) -> tuple[GRUState, Gates, Gates]:
            h, r, z, n, gh_n = saved
            dn = d_new.h * (1 - z) * slope(n)
            dz = d_new.h * (h - n) * gate_slope(z)
            dr = dn * gh_n * gate_slope(r)
            return GRUState(d_new.h * z), (dr, dz, dn), (dr, dz, dn * r)

        return self._forward, backward
