"""The LSTM with a matrix memory."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import ChunkedCell, Marks
from .._products import affine, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise
from ._common import settle
from ._memory import Reach, check_heads, inside, latest, merge_heads, split_heads, stored


class MLSTMParams(NamedTuple):
    """w (I, 4H), b (4H), w_gates (I, 2N), b_gates (2N); q, k, v, o and gates i, f."""

    w: Array
    b: Array
    w_gates: Array
    b_gates: Array


class MLSTMState(NamedTuple):
    """h (*B, H), c (*B, N, D, D), n (*B, N, 2, D), which is a sum of two, m (*B, N)."""

    h: Array
    c: Array
    n: Array
    m: Array


class MLSTMInputs(NamedTuple):
    """q, k, v (T, *B, N, D), log_i, log_f (T, *B, N)."""

    q: Array
    k: Array
    v: Array
    log_i: Array
    log_f: Array


@struct
class MLSTM(ChunkedCell):
    """mLSTM of xLSTM: an LSTM with a matrix for a memory, exponential input gates and nothing fed back.

    q, k, v  = x_t w + b                                  query, key and value of each head; k is divided by √D
    log i, f̃ = x_t w_i + b_i, x_t w_f + b_f               gates, one number a head
    m_t      = max(log σ(f̃) + m_{t-1}, log i)             stabiliser
    i, f     = exp(log i − m_t), exp(log σ(f̃) + m_{t-1} − m_t)
    C_t      = f C_{t-1} + i k vᵀ                         memory
    n_t      = f n_{t-1} + i k                            normaliser
    h_t      = qᵀ C_t / max(|qᵀ n_t|, exp(−m_t))
    y_t      = σ(x_t w_o + b_o) ⊙ h_t                     output

    =======  =======  ================================================================
    w        (I, 4H)  weights of q, k, v, o, Glorot uniform
    b        (4H)     their bias, zero
    w_gates  (I, 2N)  weights of i, f, zero
    b_gates  (2N)     their bias: i normal with deviation 0.1, f from 3 to 6 over heads
    =======  =======  ================================================================

    There are N heads of D = H/N features, one after another on the last axis. h and y do not depend on m, which only
    keeps exp in range; exp(−m_t) is kept between e⁻⁸⁰ and e⁸⁰. State: `MLSTMState(h, c, n, m)`, zero at first, in at
    least float32; h is what was read last and is kept for the output alone. n is two numbers, its value and what
    rounding took from it, because qᵀ n is small where its terms are not (compensated summation).

    K steps at once, the memory is read as attention with a decay, (q_t·k_j) exp(log i_j + Σ_{j<l≤t} log f_l − m_t), and
    written once a chunk.

    Args:
        hidden_size: H, the features of outputs.
        heads: N, a divisor of H.
        compute_dtype: dtype of the products with weights and of the outputs; None takes the promotion of inputs and
            parameters.

    Raises:
        ValueError: for heads that do not divide H.

    References:
        Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.MLSTM(hidden_size=6, heads=2)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.c.shape
    ((5, 7, 6), (7, 2, 3, 3))
    """

    hidden_size: int
    heads: int = 1
    compute_dtype: DTypeLike | None = None

    scaled = True

    def __post_init__(self) -> None:
        settle(self)
        check_heads(self)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> MLSTMParams:
        size, heads = self.hidden_size, self.heads
        key_w, key_b = jax.random.split(key)
        bias_i = 0.1 * jax.random.normal(key_b, (heads,), jnp.float32)
        return MLSTMParams(
            w=initializers.glorot_uniform(key_w, (in_size, 4 * size), dtype, gates=4),
            b=jnp.zeros((4 * size,), dtype),
            w_gates=jnp.zeros((in_size, 2 * heads), dtype),
            b_gates=jnp.concatenate([bias_i.astype(dtype), jnp.linspace(3, 6, heads, dtype=dtype)]),
        )

    def initial_state(
        self, params: MLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MLSTMState:
        heads, size = self.heads, self.hidden_size // self.heads
        return MLSTMState(
            h=jnp.zeros((*batch_shape, self.hidden_size), dtype),
            c=jnp.zeros((*batch_shape, heads, size, size), dtype),
            n=jnp.zeros((*batch_shape, heads, 2, size), dtype),
            m=jnp.zeros((*batch_shape, heads), dtype),
        )

    def project(self, params: MLSTMParams, x: Array, noise: Noise = None) -> MLSTMInputs:
        inputs = 3 * self.hidden_size
        q, k, v = split_gates(affine(x, params.w[:, :inputs], params.b[:inputs]), 3)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        log_i, f = split_gates(affine(x, params.w_gates, params.b_gates), 2)
        return MLSTMInputs(q, k / k.shape[-1] ** 0.5, v, log_i, jax.nn.log_sigmoid(f))

    def step(self, params: MLSTMParams, state: MLSTMState, z: MLSTMInputs, noise: Noise = None) -> MLSTMState:
        m = jnp.maximum(z.log_f + state.m, z.log_i)
        # f − 1, because a float32 f close to 1 is off by up to 3e-8, which adds up over 1 / (1 − f) steps
        i, loss = jnp.exp(z.log_i - m)[..., None], jnp.expm1(z.log_f + (state.m - m))[..., None]
        c = state.c + loss[..., None] * state.c + (i * z.k)[..., None] * z.v[..., None, :]
        n = _added(state.n, loss * state.n.sum(-2) + i * z.k)
        read = jnp.einsum("...d,...de->...e", z.q, c), jnp.einsum("...d,...sd->...", z.q, n)
        return MLSTMState(merge_heads(_normalized(*read, m)), c, n, m)

    def chunk(self, params: MLSTMParams, state: MLSTMState, z: MLSTMInputs, marks: Marks) -> tuple[MLSTMState, Array]:
        q, k, v = (inside(part, 1) for part in z[:3])
        log_i, log_f = (inside(gate, 0) for gate in z[3:])
        if marks.mask is not None:
            valid = jnp.broadcast_to(inside(marks.mask, 0)[..., None, :], log_i.shape)
            log_i, log_f = jnp.where(valid, log_i, -jnp.inf), jnp.where(valid, log_f, 0)
        reach = Reach.of(marks.reset, q.shape[-2])
        between, past = reach.decays(log_f)
        start = reach.before(marks, state, lambda s: jnp.broadcast_to(s.m[..., None], past.shape))
        m = jnp.maximum((between + log_i[..., None, :]).max(-1), past + start)
        # differences of large numbers first: a decay close to 1 would be lost in their rounding
        written, past = jnp.exp(between + (log_i[..., None, :] - m[..., None])), jnp.exp(past + (start - m))

        weights = jnp.einsum("...td,...jd->...tj", q, k) * written
        c = reach.before(marks, state, lambda s: q @ s.c)
        n = reach.before(marks, state, lambda s: jnp.einsum("...td,...sd->...t", q, s.n))
        h = _normalized(weights @ v + past[..., None] * c, weights.sum(-1) + past * n, m)
        h = merge_heads(jnp.moveaxis(h, -2, 0))

        k, past = k * written[..., -1, :, None], past[..., -1, None]
        c = stored(k, v) + past[..., None] * reach.last(marks, state, lambda s: s.c)
        n = _added(past[..., None] * reach.last(marks, state, lambda s: s.n), k.sum(-2))
        return MLSTMState(latest(marks.mask, h), c, n, m[..., -1]), h

    def readout(self, params: MLSTMParams, emitted: Array, x: Array) -> Array:
        outputs = 3 * self.hidden_size
        o = affine(x, params.w[:, outputs:], params.b[outputs:])
        return jax.nn.sigmoid(o) * emitted.astype(o.dtype)


def _added(total: Array, change: Array) -> Array:
    """total (…, 2, D), a value and what rounding took from it, plus change (…, D)."""
    value, lost = total[..., 0, :], total[..., 1, :]
    change = change + lost
    new = value + change
    return jnp.stack([new, jax.lax.stop_gradient(change - (new - value))], axis=-2)


def _normalized(read: Array, norm: Array, m: Array) -> Array:
    """read (…, D) over the norm (…), which is at least 1 where m is 0."""
    return read / jnp.maximum(jnp.abs(norm), jnp.exp(-jnp.clip(m, -80.0, 80.0)))[..., None]
