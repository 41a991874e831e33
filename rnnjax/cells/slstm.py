"""The LSTM with exponential gates."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import Cell
from .._products import project_gates
from .._struct import struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ._common import settle
from ._memory import check_heads, head_product, merge_heads


class SLSTMParams(NamedTuple):
    """w (I, 4H), u (N, D, 4D), b (4H); gates i, f, z, o."""

    w: Array
    u: Array
    b: Array


class SLSTMState(NamedTuple):
    """h, c, n, m (*B, H)."""

    h: Array
    c: Array
    n: Array
    m: Array


@struct
class SLSTM(Cell):
    """sLSTM of xLSTM: an LSTM with exponential input gates, whose units read those of their own head only.

    ĩ, f̃, z̃, õ = x_t w + h_{t-1} u + b                        u head by head
    m_t    = max(log σ(f̃) + m_{t-1}, ĩ)                       stabiliser
    i, f   = exp(ĩ − m_t), exp(log σ(f̃) + m_{t-1} − m_t)
    c_t    = f ⊙ c_{t-1} + i ⊙ tanh(z̃)
    n_t    = f ⊙ n_{t-1} + i                                  normaliser
    h_t    = σ(õ) ⊙ c_t / n_t

    ======  ==========  ==========================================================
    w       (I, 4H)     input weights, Glorot uniform
    u       (N, D, 4D)  recurrent weights, orthogonal in each head and gate
    b       (4H)        bias, zero, for f from 3 to 6 over the units of a head
    ======  ==========  ==========================================================

    Gates lie on the last axis in the order i, f, z, o. There are N heads of D = H/N units, one after another. h does
    not depend on m, which only keeps exp in range; n is at least 1 behind the first step, but for the rounding of m.
    State: `SLSTMState(h, c, n, m)`, zero at first, but m so low that the first step forgets c and n, which a
    `LearnedInitialState` so does not learn; in at least float32. The output is h.

    The bias of f is what the authors' package calls "small_init". Its defaults are others: u zero, and a bias of f that
    falls from 5 to −7 over the units of a head, the faster the lower its block lies.

    Args:
        hidden_size: H.
        heads: N, a divisor of H.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    Raises:
        ValueError: for heads that do not divide H.

    References:
        Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.SLSTM(hidden_size=6, heads=2)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.m.shape, params.u.shape
    ((5, 7, 6), (7, 6), (2, 3, 12))
    """

    hidden_size: int
    heads: int = 1
    compute_dtype: DTypeLike | None = None

    unitwise = True
    scaled = True

    def __post_init__(self) -> None:
        settle(self)
        check_heads(self)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> SLSTMParams:
        size, units = self.hidden_size, self.hidden_size // self.heads
        key_w, key_u = jax.random.split(key)
        blocks = [initializers.orthogonal(k, units, 4, dtype) for k in jax.random.split(key_u, self.heads)]
        b = jnp.zeros((4, size), dtype).at[1].set(jnp.tile(jnp.linspace(3, 6, units, dtype=dtype), self.heads))
        return SLSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 4 * size), dtype, gates=4),
            u=jnp.stack(blocks),
            b=b.reshape(4 * size),
        )

    def initial_state(
        self, params: SLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> SLSTMState:
        shape = (*batch_shape, self.hidden_size)
        zeros = jnp.zeros(shape, dtype)
        return SLSTMState(zeros, zeros, zeros, jnp.full(shape, _NOTHING, dtype))

    def project(self, params: SLSTMParams, x: Array, noise: Noise = None) -> Gates:
        return project_gates(x, params.w, params.b, 4)

    def step(self, params: SLSTMParams, state: SLSTMState, z: Gates, noise: Noise = None) -> SLSTMState:
        product = head_product(state.h, params.u)
        i, f, new, o = (a + merge_heads(b) for a, b in zip(z, jnp.split(product, 4, axis=-1), strict=True))
        log_f = jax.nn.log_sigmoid(f)
        m = jnp.maximum(log_f + state.m, i)
        # not the sum of the maximum less m, which is 1 for every f that is too close to 1 for the rounding of m
        i, f = jnp.exp(i - m), jnp.exp(log_f + (state.m - m))
        c = f * state.c + i * jnp.tanh(new)
        n = f * state.n + i
        # n is 0 where nothing was written yet: behind a state of zeros, while every input gate is shut
        read = jnp.where(n > 0, c / jnp.where(n > 0, n, 1), 0)
        return SLSTMState(jax.nn.sigmoid(o) * read, c, n, m)


_NOTHING = -1e15  # as a parameter it has a square in float32
