"""The coupled oscillatory network's cell."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._products import affine, dot
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from ..activations import Activation, activation
from ._common import across, settle, settle_positive


class CoRNNParams(NamedTuple):
    """w (I, H), u (2H, H), b (H); positions above velocities in u."""

    w: Array
    u: Array
    b: Array


class CoRNNState(NamedTuple):
    """h (*B, H), v (*B, H)."""

    h: Array
    v: Array


@struct
class CoRNN(Cell):
    """coRNN, oscillators that the input and each other drive: positions h with velocities v.

    h″ = φ([h, h′] u + x w + b) − γ h − ε h′, with steps of time Δ:

    v_t = v_{t-1} + Δ (φ(x_t w + [h_{t-1}, v_{t-1}] u + b) − γ h_{t-1} − ε v_{t-1})
    h_t = h_{t-1} + Δ v_t

    ======  =======  ===========================================
    w       (I, H)   input weights, uniform on ±1/√(I + 2H)
    u       (2H, H)  recurrent weights, uniform on ±1/√(I + 2H)
    b       (H)      bias, uniform on ±1/√(I + 2H)
    ======  =======  ===========================================

    With bounded φ and small Δ states stay bounded and gradients neither explode nor vanish. Δ, γ and ε are leaves of
    the cell. State: `CoRNNState(h, v)`, zero at first, in at least float32. The output is h.

    Args:
        hidden_size: H.
        step_size: Δ > 0, one number or (H).
        frequency: γ > 0, one number or (H).
        damping: ε > 0, one number or (H).
        activation: φ, a name from `rnnjax.activations` or a module-level function.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Rusch, Mishra 2020, Coupled oscillatory recurrent neural network (coRNN), arXiv:2010.00951.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.CoRNN(hidden_size=3, step_size=0.05)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.v.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    step_size: float | Array = node(default=0.042)
    frequency: float | Array = node(default=2.7)
    damping: float | Array = node(default=4.7)
    activation: Activation = "tanh"
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation")
        for name in ("step_size", "frequency", "damping"):
            settle_positive(self, name)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> CoRNNParams:
        size, exact = self.hidden_size, at_least_float32(dtype)
        bound = (in_size + 2 * size) ** -0.5
        shapes = (in_size, size), (2 * size, size), (size,)
        keys = jax.random.split(key, 3)
        drawn = [jax.random.uniform(k, shape, exact, -bound, bound) for k, shape in zip(keys, shapes, strict=True)]
        return CoRNNParams(*(leaf.astype(dtype) for leaf in drawn))

    def initial_state(
        self, params: CoRNNParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> CoRNNState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return CoRNNState(zeros, zeros)

    def project(self, params: CoRNNParams, x: Array, noise: Noise = None) -> Array:
        return affine(x, params.w, params.b)

    def step(self, params: CoRNNParams, state: CoRNNState, z: Array, noise: Noise = None) -> CoRNNState:
        h, v = state
        delta, gamma, epsilon = (
            across(name, getattr(self, name), h.shape, h.dtype) for name in ("step_size", "frequency", "damping")
        )
        drive = activation(self.activation)(z + dot(jnp.concatenate([h, v], axis=-1), params.u))
        v = v + delta * (drive - gamma * h - epsilon * v)
        return CoRNNState(h + delta * v, v)
