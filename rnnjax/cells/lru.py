"""The linear recurrent unit."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._linear import Affine
from .._products import dot, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from ._common import check_positive_number, scale, settle


class LRUParams(NamedTuple):
    """nu (H), theta (H), gamma (H), w (I, 2H), c (H, 2I), d (I); real, then imaginary parts."""

    nu: Array
    theta: Array
    gamma: Array
    w: Array
    c: Array
    d: Array


class LRUState(NamedTuple):
    """re (*B, H), im (*B, H)."""

    re: Array
    im: Array


@struct
class LRU(DiagonalCell):
    """Linear recurrent unit: a complex diagonal recurrence inside the unit circle, with as many outputs as inputs.

    λ   = exp(−exp ν + i exp θ)
    s_t = λ ⊙ s_{t-1} + exp γ ⊙ (x_t w)
    y_t = Re(s_t c) + d ⊙ x_t

    ======  =======  ====================================================================
    nu      (H)      decays ν, so that λ is uniform on the ring r_min ≤ |λ| ≤ r_max
    theta   (H)      angles θ, so that those of λ are uniform on [0, max_phase]
    gamma   (H)      γ = log √(1 − |λ|²), so that states have the variance of inputs
    w       (I, 2H)  input weights, normal with variance 1/(2I) in each part
    c       (H, 2I)  output weights, normal with variance 1/H in each part
    d       (I)      skip weights, normal with variance 1
    ======  =======  ====================================================================

    w and c are complex: real parts, then imaginary parts, on the last axis. |λ| < 1 whatever ν is. State:
    `LRUState(re, im)`, zero at first; complex numbers are pairs, in at least float32. The output has I features.

    Args:
        hidden_size: H, complex numbers in the state.
        r_min: smallest |λ| at first, in [0, r_max).
        r_max: largest |λ| at first, at most 1; close to 1 for long memories.
        max_phase: largest angle of λ at first, in radians; small for long memories.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De 2023, Resurrecting recurrent neural networks for long
        sequences, arXiv:2303.06349.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LRU(hidden_size=3, r_min=0.9, r_max=0.999)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.re.shape
    ((5, 7, 2), (7, 3))
    """

    hidden_size: int
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi
    compute_dtype: DTypeLike | None = None
    numbers = "complex"

    def __post_init__(self) -> None:
        settle(self)
        check_positive_number("r_max", self.r_max)
        check_positive_number("max_phase", self.max_phase)
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(f"radii must satisfy 0 ≤ `r_min` < `r_max` ≤ 1; got {self.r_min} and {self.r_max}")

    def out_size(self, in_size: int) -> int:
        return in_size

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LRUParams:
        size, exact = self.hidden_size, at_least_float32(dtype)
        key_ring, key_w, key_c, key_d = jax.random.split(key, 4)
        nu, theta = initializers.ring(key_ring, size, self.r_min, self.r_max, self.max_phase, exact)
        params = LRUParams(
            nu=nu,
            theta=theta,
            gamma=0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu))),
            w=jax.random.normal(key_w, (in_size, 2 * size), exact) / (2 * in_size) ** 0.5,
            c=jax.random.normal(key_c, (size, 2 * in_size), exact) / size**0.5,
            d=jax.random.normal(key_d, (in_size,), exact),
        )
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def initial_state(
        self, params: LRUParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LRUState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return LRUState(zeros, zeros)

    def project(self, params: LRUParams, x: Array, noise: Noise = None) -> Affine:
        gain = jnp.exp(params.gamma)
        scaled = scale(params.w.astype(gain.dtype), jnp.tile(gain, 2)).astype(params.w.dtype)
        b = split_gates(dot(x, scaled), 2)
        radius, phase = jnp.exp(-jnp.exp(params.nu)), jnp.exp(params.theta)
        eigenvalues = radius * jnp.cos(phase), radius * jnp.sin(phase)
        return Affine(tuple(jnp.broadcast_to(part.astype(b[0].dtype), b[0].shape) for part in eigenvalues), b)

    def emit(self, state: LRUState) -> LRUState:
        return state

    def readout(self, params: LRUParams, emitted: Any, x: Array) -> Array:
        c_re, c_im = jnp.split(params.c, 2, axis=-1)
        y = dot(emitted.re, c_re) - dot(emitted.im, c_im)
        return y + scale(x.astype(y.dtype), params.d)
