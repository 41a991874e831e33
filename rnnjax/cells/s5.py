"""The simplified state space layer's recurrence."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import initializers
from .._cell import DiagonalCell, with_elapsed
from .._linear import Affine, Parts, times
from .._products import dot, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, Xs, at_least_float32
from ._common import check_positive_number, choice, scale, settle


class S5Params(NamedTuple):
    """decay (H), phase (H), log_step (H), w (I, 2H), c (H, 2I), d (I); real, then imaginary parts."""

    decay: Array
    phase: Array
    log_step: Array
    w: Array
    c: Array
    d: Array


class S5State(NamedTuple):
    """re (*B, H), im (*B, H)."""

    re: Array
    im: Array


@struct
class S5(DiagonalCell):
    """S5, a diagonal state space model in continuous time, discretised with a learned step for each state.

    ds/dt = λ ⊙ s + x w,    y = 2 Re(s c) + d ⊙ x,    λ = −exp(decay) + i phase,    Δ = exp(log_step)

    zoh       s_t = exp(λΔ) ⊙ s_{t-1} + (exp(λΔ) − 1)/λ ⊙ (x_t w)
    bilinear  s_t = (1 + ½λΔ)/(1 − ½λΔ) ⊙ s_{t-1} + Δ/(1 − ½λΔ) ⊙ (x_t w)

    ========  =======  ============================================================================
    decay     (H)      log of −Re λ, ½ at first
    phase     (H)      Im λ, the upper half of the eigenvalues of the normal part of HiPPO-LegS
    log_step  (H)      log Δ, uniform between the logarithms of min_step and max_step
    w         (I, 2H)  input weights in the basis of eigenvectors
    c         (H, 2I)  output weights in that basis
    d         (I)      skip weights, normal with variance 1
    ========  =======  ============================================================================

    Of every two conjugate states one is kept, so H complex numbers stand for a real state of 2H. w and c hold real
    parts, then imaginary parts, on the last axis; they are drawn as real matrices of variance 1/I and 1/(2H) in the
    basis of that real state. Irregular samples: pass `(x, dt)`, with dt (T, *B) ≥ 0 the time since the last step in
    units of the regular one, and Δ dt takes the place of Δ. State: `S5State(re, im)`, zero at first, in at least
    float32. The output has I features.

    Args:
        hidden_size: H, complex numbers in the state.
        discretization: "zoh", which holds each input over the time since the last step, or "bilinear".
        min_step: smallest Δ at first.
        max_step: largest Δ at first.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Smith, Warrington, Linderman 2022, Simplified state space layers for sequence modeling, arXiv:2208.04933.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.S5(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, (jnp.ones((5, 7, 2)), jnp.full((5, 7), 0.5)))
    >>> ys.shape, state.re.shape
    ((5, 7, 2), (7, 3))
    """

    hidden_size: int
    discretization: Literal["zoh", "bilinear"] = "zoh"
    min_step: float = 0.001
    max_step: float = 0.1
    compute_dtype: DTypeLike | None = None

    elapsed = True
    numbers = "complex"

    def __post_init__(self) -> None:
        settle(self)
        choice("discretization", self.discretization, ("zoh", "bilinear"))
        check_positive_number("min_step", self.min_step)
        check_positive_number("max_step", self.max_step)
        if self.min_step > self.max_step:
            raise ValueError(f"`min_step` must be at most `max_step`; got {self.min_step} and {self.max_step}")

    def out_size(self, in_size: int) -> int:
        return in_size

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> S5Params:
        size, exact = self.hidden_size, at_least_float32(dtype)
        key_step, key_w, key_c, key_d = jax.random.split(key, 4)
        phases, vectors = initializers.hippo(size)
        real, imaginary = np.real(vectors).astype(exact), np.imag(vectors).astype(exact)
        w = jax.random.normal(key_w, (in_size, 2 * size), exact) / in_size**0.5
        c = jax.random.normal(key_c, (2 * size, in_size), exact) / (2 * size) ** 0.5
        logarithms = np.log(self.min_step), np.log(self.max_step)
        params = S5Params(
            decay=jnp.full((size,), np.log(0.5), exact),
            phase=jnp.asarray(phases, exact),
            log_step=jax.random.uniform(key_step, (size,), exact, *logarithms),
            w=jnp.concatenate([w @ real, -w @ imaginary], axis=1),
            c=jnp.concatenate([real.T @ c, imaginary.T @ c], axis=1),
            d=jax.random.normal(key_d, (in_size,), exact),
        )
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def initial_state(
        self, params: S5Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> S5State:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return S5State(zeros, zeros)

    def project(self, params: S5Params, x: Xs, noise: Noise = None) -> Affine:
        x, dt = with_elapsed(x)
        inputs = split_gates(dot(x, params.w), 2)
        step = jnp.exp(params.log_step)
        if dt is not None:
            step = scale(jnp.broadcast_to(dt.astype(step.dtype)[..., None], inputs[0].shape), step)
        a, gain = self._discretized(-jnp.exp(params.decay), params.phase, step)
        a, gain = (tuple(_over(part, inputs[0]) for part in parts) for parts in (a, gain))
        return Affine(a, times("complex", gain, inputs))

    def _discretized(self, re: Array, im: Array, step: Array) -> tuple[Parts, Parts]:
        """What multiplies the state and what multiplies the input, both (…, H), for λ = re + i im (H) and Δ (…, H)."""
        re_step, im_step = scale(step, re), scale(step, im)
        if self.discretization == "bilinear":
            half = _divide((jnp.ones_like(step), jnp.zeros_like(step)), (1 - 0.5 * re_step, -0.5 * im_step))
            return times("complex", half, (1 + 0.5 * re_step, 0.5 * im_step)), (step * half[0], step * half[1])
        grown = jnp.exp(re_step)
        a = grown * jnp.cos(im_step), grown * jnp.sin(im_step)
        # exp(λΔ) − 1 without the difference of two numbers close to 1
        moved = jnp.expm1(re_step) * jnp.cos(im_step) - 2 * jnp.sin(0.5 * im_step) ** 2, a[1]
        return a, _divide(moved, (_over(re, step), _over(im, step)))

    def emit(self, state: S5State) -> S5State:
        return state

    def readout(self, params: S5Params, emitted: Any, x: Xs) -> Array:
        x, _ = with_elapsed(x)
        c_re, c_im = jnp.split(params.c, 2, axis=-1)
        y = 2 * (dot(emitted.re, c_re) - dot(emitted.im, c_im))
        return y + scale(x.astype(y.dtype), params.d)


def _over(part: Array, like: Array) -> Array:
    return jnp.broadcast_to(part.astype(like.dtype), like.shape)


def _divide(a: Parts, b: Parts) -> Parts:
    """Complex a / b."""
    norm = b[0] * b[0] + b[1] * b[1]
    re, im = times("complex", a, (b[0], -b[1]))
    return re / norm, im / norm
