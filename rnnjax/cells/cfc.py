"""The closed-form continuous-time network's cell."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import Cell, with_elapsed
from .._errors import check_size
from .._products import affine, dot, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, Xs
from ._common import settle


class CfCParams(NamedTuple):
    """w (I, M), u (H, M), b (M), v (M, 4H), c (4H); f, g, rate, offset."""

    w: Array
    u: Array
    b: Array
    v: Array
    c: Array


class CfCState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class CfC(Cell):
    """CfC, a closed form of a continuous-time network: from one value to another, as fast as its inputs say.

    a    = 1.7159 tanh(0.666 (x_t w + h_{t-1} u + b))          backbone
    f, g = tanh(a v_f + c_f), tanh(a v_g + c_g)                where the way begins and ends
    s    = σ((a v_r + c_r) Δt + a v_o + c_o)                   how far it goes in the time Δt
    h_t  = (1 − s) ⊙ f + s ⊙ g

    ======  =======  ==========================================
    w       (I, M)   input weights, Glorot uniform
    u       (H, M)   recurrent weights, Glorot uniform
    b       (M)      bias, zero
    v       (M, 4H)  weights of the heads, Glorot uniform
    c       (4H)     bias of the heads, zero
    ======  =======  ==========================================

    Heads lie on the last axis in the order f, g, r, o. Irregular samples: pass `(x, dt)`, with dt (T, *B) ≥ 0 the
    time since the last step; without it Δt = 1. State: `CfCState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        backbone_size: M, units of the backbone.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Hasani, Lechner, Amini, Liebenwein, Ray, Tschaikowski, Teschl, Rus 2022, Closed-form continuous-time neural
        networks, arXiv:2106.13898.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.CfC(hidden_size=3, backbone_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, (jnp.ones((5, 7, 2)), jnp.full((5, 7), 0.5)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    backbone_size: int = 128
    compute_dtype: DTypeLike | None = None

    elapsed = True

    def __post_init__(self) -> None:
        settle(self)
        check_size("backbone_size", self.backbone_size)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> CfCParams:
        size, units = self.hidden_size, self.backbone_size
        key_w, key_u, key_v = jax.random.split(key, 3)
        return CfCParams(
            w=initializers.glorot_uniform(key_w, (in_size, units), dtype),
            u=initializers.glorot_uniform(key_u, (size, units), dtype),
            b=jnp.zeros((units,), dtype),
            v=initializers.glorot_uniform(key_v, (units, 4 * size), dtype, gates=4),
            c=jnp.zeros((4 * size,), dtype),
        )

    def initial_state(
        self, params: CfCParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> CfCState:
        return CfCState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: CfCParams, x: Xs, noise: Noise = None) -> tuple[Array, Array | None]:
        x, dt = with_elapsed(x)
        return affine(x, params.w, params.b), dt

    def step(self, params: CfCParams, state: CfCState, z: tuple[Array, Array | None], noise: Noise = None) -> CfCState:
        inputs, dt = z
        a = 1.7159 * jnp.tanh(0.666 * (inputs + dot(state.h, params.u)))
        f, g, rate, offset = split_gates(affine(a, params.v, params.c), 4)
        elapsed = rate if dt is None else rate * dt.astype(rate.dtype)[..., None]
        s = jax.nn.sigmoid(elapsed + offset)
        return CfCState((1 - s) * jnp.tanh(f) + s * jnp.tanh(g))
