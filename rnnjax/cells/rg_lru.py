"""The real-gated linear recurrent unit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._linear import Affine
from .._products import affine, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from ._common import check_as_many_features, scale, settle


class RGLRUParams(NamedTuple):
    """w (H, 2H), b (2H), decay (H); gates r, i."""

    w: Array
    b: Array
    decay: Array


class RGLRUState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class RGLRU(DiagonalCell):
    """RG-LRU, the real-gated linear recurrent unit of Griffin: a decay for each unit, gated by the input.

    r   = σ(x_t w_r + b_r)       recurrence gate
    i   = σ(x_t w_i + b_i)       input gate
    a   = σ(Λ)^(c r),    c = 8
    h_t = a ⊙ h_{t-1} + √(1 − a²) ⊙ (i ⊙ x_t)

    ======  =======  ======================================================
    w       (H, 2H)  gates' weights, Glorot uniform
    b       (2H)     gates' bias, zero
    decay   (H)      Λ, with σ(Λ)^c uniform on [0.9, 0.999]
    ======  =======  ======================================================

    Gates lie on the last axis in the order r, i. Inputs enter unit by unit, so there are as many features as units:
    I = H. a is formed by its logarithm and 1 − a² by `expm1`, exact where a is close to 1. State: `RGLRUState(h)`, zero
    at first. The output is h. Λ starts as the paper says; in the authors' RecurrentGemma σ(Λ), not its power, lies in
    [0.9, 0.999] at first, which forgets c times as fast.

    Args:
        hidden_size: H, the features of inputs and outputs.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    Raises:
        ValueError: from `init`, for inputs of another number of features.

    References:
        De et al. 2024, Griffin: mixing gated linear recurrences with local attention for efficient language models,
        arXiv:2402.19427.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.RGLRU(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 3)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> RGLRUParams:
        size = self.hidden_size
        check_as_many_features(self, in_size)
        key_w, key_decay = jax.random.split(key)
        slowest = jax.random.uniform(key_decay, (size,), at_least_float32(dtype), 0.9, 0.999)
        return RGLRUParams(
            w=initializers.glorot_uniform(key_w, (size, 2 * size), dtype, gates=2),
            b=jnp.zeros((2 * size,), dtype),
            decay=-jnp.log(jnp.expm1(-jnp.log(slowest) / _SHARPNESS)).astype(dtype),
        )

    def initial_state(
        self, params: RGLRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> RGLRUState:
        return RGLRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: RGLRUParams, x: Array, noise: Noise = None) -> Affine:
        r, i = (jax.nn.sigmoid(gate) for gate in split_gates(affine(x, params.w, params.b), 2))
        log_a = scale(r, _SHARPNESS * jax.nn.log_sigmoid(params.decay))
        rest = -jnp.expm1(2 * log_a)
        # a root has no derivative at 0, which a gate that is closed to rounding reaches
        positive = rest > 0
        gain = jnp.where(positive, jnp.sqrt(jnp.where(positive, rest, 1)), 0)
        return Affine((jnp.exp(log_a),), (gain * (i * x.astype(i.dtype)),))


_SHARPNESS = 8.0
