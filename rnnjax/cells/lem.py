"""Long expressive memory."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._products import dot, project_gates, split_gates
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise, at_least_float32
from ._common import across, settle, settle_positive


class LEMParams(NamedTuple):
    """w (I, 4H), u (H, 3H), u_h (H, H), b (4H); steps of z and of h, candidates z and h."""

    w: Array
    u: Array
    u_h: Array
    b: Array


class LEMState(NamedTuple):
    """h (*B, H), z (*B, H)."""

    h: Array
    z: Array


@struct
class LEM(Cell):
    """LEM, two layers of memory whose steps in time the input sets, unit by unit: a system of many time scales.

    δ_z  = Δ σ(x_t w_1 + h_{t-1} u_1 + b_1)                        step of z
    δ_h  = Δ σ(x_t w_2 + h_{t-1} u_2 + b_2)                        step of h
    z_t  = (1 − δ_z) ⊙ z_{t-1} + δ_z ⊙ tanh(x_t w_z + h_{t-1} u_z + b_z)
    h_t  = (1 − δ_h) ⊙ h_{t-1} + δ_h ⊙ tanh(x_t w_h + z_t u_h + b_h)

    ======  =======  =============================================
    w       (I, 4H)  input weights, uniform on ±1/√H
    u       (H, 3H)  recurrent weights of 1, 2, z, as w
    u_h     (H, H)   weights from z to h, as w
    b       (4H)     bias, as w
    ======  =======  =============================================

    Parts lie on the last axis in the order 1, 2, z, h. Δ is a leaf of the cell. State: `LEMState(h, z)`, zero at first,
    in at least float32. The output is h, y in the paper.

    Args:
        hidden_size: H.
        step_size: Δ > 0, one number or (H).
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Rusch, Mishra, Erichson, Mahoney 2021, Long expressive memory for sequence modeling, arXiv:2110.04744.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LEM(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.z.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    step_size: float | Array = node(default=1.0)
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self)
        settle_positive(self, "step_size")

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LEMParams:
        size, exact = self.hidden_size, at_least_float32(dtype)
        bound = size**-0.5
        shapes = (in_size, 4 * size), (size, 3 * size), (size, size), (4 * size,)
        keys = jax.random.split(key, 4)
        drawn = [jax.random.uniform(k, shape, exact, -bound, bound) for k, shape in zip(keys, shapes, strict=True)]
        return LEMParams(*(leaf.astype(dtype) for leaf in drawn))

    def initial_state(
        self, params: LEMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LEMState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return LEMState(zeros, zeros)

    def project(self, params: LEMParams, x: Array, noise: Noise = None) -> Gates:
        return project_gates(x, params.w, params.b, 4)

    def step(self, params: LEMParams, state: LEMState, z: Gates, noise: Noise = None) -> LEMState:
        fed_back = split_gates(dot(state.h, params.u), 3)
        step = across("step_size", self.step_size, state.h.shape, state.h.dtype)
        step_z, step_h = (step * jax.nn.sigmoid(z[i] + fed_back[i]) for i in range(2))
        new_z = (1 - step_z) * state.z + step_z * jnp.tanh(z[2] + fed_back[2])
        new_h = (1 - step_h) * state.h + step_h * jnp.tanh(z[3] + dot(new_z, params.u_h))
        return LEMState(new_h, new_z)
