"""The hierarchically gated recurrent network's cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import DiagonalCell
from .._errors import check_unit_interval
from .._linear import Affine
from .._products import affine, split_gates
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from ._common import across, scale, settle, settle_number


class HGRNParams(NamedTuple):
    """w (I, 5H), b (5H), theta (H); candidate, real and imaginary, gate f, output gate, real and imaginary."""

    w: Array
    b: Array
    theta: Array


class HGRNState(NamedTuple):
    """re (*B, H), im (*B, H)."""

    re: Array
    im: Array


@struct
class HGRN(DiagonalCell):
    """HGRN, a gated linear recurrence of complex numbers that turn, with a lower bound for the forget gate.

    c    = SiLU(x_t w_re + b_re) + i SiLU(x_t w_im + b_im)     candidate
    f    = γ + (1 − γ) σ(x_t w_f + b_f)                        forget gate
    s_t  = f exp(iθ) ⊙ s_{t-1} + (1 − f) ⊙ c
    y_t  = σ(x_t w_o + b_o) ⊙ [Re s_t, Im s_t]

    ======  =======  ==========================================================
    w       (I, 5H)  input weights, Glorot uniform
    b       (5H)     bias, zero
    theta   (H)      θ, the angle of a step, 10000^(−2j/H) for unit j at first
    ======  =======  ==========================================================

    Parts lie on the last axis in the order re, im, f, o; o has 2H. In the paper γ is learned and grows from layer to
    layer, from 0 up, so that upper layers remember longer: a cumulative sum of a softmax over the layers. Here it is a
    hyper-parameter that training leaves as it is, and each layer of a stack is given its own, such as
    `Stack([HGRN(H, lower_bound=k / L) for k in range(L)])`, the sum of equal weights. The norm and projection of the
    paper's layer come behind the cell. State: `HGRNState(re, im)`, zero at first, in at least float32. The output has
    2H features.

    Args:
        hidden_size: H, complex numbers in the state.
        lower_bound: γ in [0, 1], one number or (H), a leaf.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Qin, Yang, Zhong 2023, Hierarchically gated recurrent neural network for sequence modeling, arXiv:2311.04823.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.HGRN(hidden_size=3, lower_bound=0.5)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.re.shape
    ((5, 7, 6), (7, 3))
    """

    hidden_size: int
    lower_bound: float | Array = node(default=0.0)
    compute_dtype: DTypeLike | None = None
    numbers = "complex"

    def __post_init__(self) -> None:
        settle(self)
        check_unit_interval("lower_bound", self.lower_bound)
        settle_number(self, "lower_bound")

    def out_size(self, in_size: int) -> int:
        return 2 * self.hidden_size

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> HGRNParams:
        size = self.hidden_size
        units = jnp.arange(size, dtype=at_least_float32(dtype))
        return HGRNParams(
            w=initializers.glorot_uniform(key, (in_size, 5 * size), dtype, gates=5),
            b=jnp.zeros((5 * size,), dtype),
            theta=(10000.0 ** (-2 * units / size)).astype(dtype),
        )

    def initial_state(
        self, params: HGRNParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> HGRNState:
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return HGRNState(zeros, zeros)

    def project(self, params: HGRNParams, x: Array, noise: Noise = None) -> Affine:
        inputs = 3 * self.hidden_size
        re, im, f = split_gates(affine(x, params.w[:, :inputs], params.b[:inputs]), 3)
        free = 1 - across("lower_bound", self.lower_bound, f.shape, f.dtype)
        # 1 − f without the difference of two numbers close to 1
        new = free * jax.nn.sigmoid(-f)
        f = 1 - free + free * jax.nn.sigmoid(f)
        a = scale(f, jnp.cos(params.theta)), scale(f, jnp.sin(params.theta))
        return Affine(a, (new * jax.nn.silu(re), new * jax.nn.silu(im)))

    def emit(self, state: HGRNState) -> HGRNState:
        return state

    def readout(self, params: HGRNParams, emitted: Any, x: Array) -> Array:
        inputs = 3 * self.hidden_size
        o = jax.nn.sigmoid(affine(x, params.w[:, inputs:], params.b[inputs:]))
        return o * jnp.concatenate([emitted.re, emitted.im], axis=-1).astype(o.dtype)
