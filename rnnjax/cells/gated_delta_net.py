"""The delta rule with a decay."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import ChunkedCell, Marks
from .._products import add_bias, dot, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32
from . import _delta
from ._common import scale, settle
from ._memory import check_heads, head_inputs, initial_memory, key_size, split_heads


class GatedDeltaNetParams(NamedTuple):
    """w (I, 2·N·D + H), w_gates (I, 2N), b (N), decay (N); q, k, v and gates α, β."""

    w: Array
    w_gates: Array
    b: Array
    decay: Array


class GatedDeltaNetState(NamedTuple):
    """h (*B, H), s (*B, N, D, V)."""

    h: Array
    s: Array


@struct
class GatedDeltaNet(ChunkedCell):
    """Gated DeltaNet, a matrix memory that replaces what it holds under a key and forgets at a rate that inputs set.

    q, k, v = SiLU(x_t w)
    q, k    = unit(q), unit(k)                                 of length 1 in each head
    α       = exp(−exp(decay) softplus(x_t w_α + b))           decay, one number a head
    β       = σ(x_t w_β)                                       strength of a write, one number a head
    S_t     = α (S_{t-1} − β k (S_{t-1}ᵀ k)ᵀ) + β k vᵀ         memory
    h_t     = S_tᵀ q

    =======  ===============  ===============================================================================
    w        (I, 2·N·D + H)   weights of q, k, v, Glorot uniform
    w_gates  (I, 2N)          weights of α, β, Glorot uniform
    b        (N)              bias of α, with the logarithm of softplus(b) uniform between those of 10⁻³ and 0.1
    decay    (N)              log of a rate that is uniform on [1, 16]
    =======  ===============  ===============================================================================

    There are N heads, one after another on the last axis, with keys of D features and values of V = H/N. unit(a) is
    a / √(|a|² + 10⁻⁶). This is the recurrence; the short convolutions in front of it and the gated norm and projection
    behind it belong to the paper's layer. State: `GatedDeltaNetState(h, s)`, zero at first, in at least float32; h is
    what was read last and is kept for the output alone.

    Many steps at once are one triangular system for what each step writes.

    Args:
        hidden_size: H, the features of outputs.
        heads: N, a divisor of H.
        key_size: D, features of each key; None takes V.
        compute_dtype: dtype of the products with weights and of the outputs; None takes the promotion of inputs and
            parameters.

    Raises:
        ValueError: for heads that do not divide H.

    References:
        Yang, Kautz, Hatamizadeh 2024, Gated delta networks: improving Mamba2 with delta rule, arXiv:2412.06464.
        Dao, Gu 2024, Transformers are SSMs, arXiv:2405.21060, for α and its initial values.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GatedDeltaNet(hidden_size=6, heads=2)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.s.shape
    ((5, 7, 6), (7, 2, 3, 3))
    """

    hidden_size: int
    heads: int = 1
    key_size: int | None = None
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self)
        check_heads(self)

    @property
    def keys(self) -> int:
        """D."""
        return key_size(self, self.hidden_size // self.heads)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> GatedDeltaNetParams:
        keys, heads, exact = self.heads * self.keys, self.heads, at_least_float32(dtype)
        key_w, key_gates, key_rate, key_decay = jax.random.split(key, 4)
        rate = jnp.exp(jax.random.uniform(key_rate, (heads,), exact, math.log(1e-3), math.log(0.1)))
        return GatedDeltaNetParams(
            w=head_inputs(key_w, in_size, (keys, keys, self.hidden_size), dtype),
            w_gates=initializers.glorot_uniform(key_gates, (in_size, 2 * heads), dtype, gates=2),
            b=jnp.log(jnp.expm1(rate)).astype(dtype),
            decay=jnp.log(jax.random.uniform(key_decay, (heads,), exact, 1.0, 16.0)).astype(dtype),
        )

    def initial_state(
        self, params: GatedDeltaNetParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> GatedDeltaNetState:
        return GatedDeltaNetState(*initial_memory(self, self.keys, batch_shape, dtype))

    def project(self, params: GatedDeltaNetParams, x: Array, noise: Noise = None) -> _delta.DeltaInputs:
        keys = self.heads * self.keys
        parts = jnp.split(jax.nn.silu(dot(x, params.w)), (keys, 2 * keys), axis=-1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        alpha, beta = split_gates(dot(x, params.w_gates), 2)
        log_a = -scale(jax.nn.softplus(add_bias(alpha, params.b)), jnp.exp(params.decay))
        return _delta.DeltaInputs(_delta.unit(q), _delta.unit(k), v, jax.nn.sigmoid(beta), log_a)

    def step(
        self, params: GatedDeltaNetParams, state: GatedDeltaNetState, z: _delta.DeltaInputs, noise: Noise = None
    ) -> GatedDeltaNetState:
        return GatedDeltaNetState(*_delta.step(state.s, z))

    def chunk(
        self, params: GatedDeltaNetParams, state: GatedDeltaNetState, z: _delta.DeltaInputs, marks: Marks
    ) -> tuple[GatedDeltaNetState, Array]:
        last, s, h = _delta.chunk(state, z, marks)
        return GatedDeltaNetState(last, s), h
