"""The minimal gated unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell
from .._struct import struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation, derivative_from_output
from ._common import settle


class MGUParams(NamedTuple):
    """w (I, 2H), u (H, 2H), b (2H), b_n (H); gates f, n."""

    w: Array
    u: Array
    b: Array
    b_n: Array


class MGUState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class MGU(GatedCell):
    """Minimal gated unit: a gated recurrent unit whose one gate both resets and updates.

    f   = σ(x_t w_f + h_{t-1} u_f + b_f)                     forget gate
    n   = φ(x_t w_n + b_x + f ⊙ (h_{t-1} u_n + b_n))         candidate
    h_t = (1 − f) ⊙ h_{t-1} + f ⊙ n

    ======  =======  ==============================================
    w       (I, 2H)  input weights, Glorot uniform per gate
    u       (H, 2H)  recurrent weights, orthogonal per gate
    b       (2H)     bias, zero
    b_n     (H)      bias of the candidate's recurrent part, zero
    ======  =======  ==============================================

    Here the gate acts after the recurrent product, as in `GRU`, so that a step has one product; in the paper it acts
    before, (f ⊙ h_{t-1}) u_n, and there is no b_n. f = 1 forgets, as in the paper; in Flax it keeps. w, u and b hold a
    part for each gate on the last axis, in the order f, n. The parts of b are b_f and b_x, which belongs to the
    candidate; `b_n` is an array of its own. State: `MGUState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ of the candidate.
        gate_activation: σ of the gate.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Zhou, Wu, Zhang, Zhou 2016, Minimal gated unit for recurrent neural networks, arXiv:1603.09420.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.MGU(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> MGUParams:
        size = self.hidden_size
        key_w, key_u = jax.random.split(key)
        return MGUParams(
            w=initializers.glorot_uniform(key_w, (in_size, 2 * size), dtype, gates=2),
            u=initializers.orthogonal(key_u, size, 2, dtype),
            b=jnp.zeros((2 * size,), dtype),
            b_n=jnp.zeros((size,), dtype),
        )

    def initial_state(
        self, params: MGUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MGUState:
        return MGUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def input_weights(self, params: MGUParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: MGUParams) -> tuple[Array, tuple[None, Array]]:
        return params.u, (None, params.b_n)

    def update(self, params: MGUParams, state: MGUState, gx: Gates, gh: Gates, noise: Noise = None) -> MGUState:
        return self._forward(state, gx, gh)[0]

    def _forward(self, state: MGUState, gx: Gates, gh: Gates) -> tuple[MGUState, tuple[Array, ...]]:
        f = activation(self.gate_activation)(gx[0] + gh[0])
        n = activation(self.activation)(gx[1] + f * gh[1])
        return MGUState((1 - f) * state.h + f * n), (state.h, f, n, gh[1])

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        slope, gate_slope = derivative_from_output(self.activation), derivative_from_output(self.gate_activation)
        if slope is None or gate_slope is None:
            return None

        def backward(saved: tuple[Array, ...], d_new: MGUState) -> tuple[MGUState, Gates, Gates]:
            h, f, n, gh_n = saved
            dn = d_new.h * f * slope(n)
            df = (d_new.h * (n - h) + dn * gh_n) * gate_slope(f)
            return MGUState(d_new.h * (1 - f)), (df, dn), (df, dn * f)

        return self._forward, backward
