"""The delta rule as a recurrent network."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import ChunkedCell, Marks
from .._products import dot
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise
from . import _delta
from ._common import settle
from ._memory import check_heads, head_inputs, initial_memory, key_size, split_heads


class DeltaNetParams(NamedTuple):
    """w (I, 2·N·D + H), w_beta (I, N); q, k, v."""

    w: Array
    w_beta: Array


class DeltaNetState(NamedTuple):
    """h (*B, H), s (*B, N, D, V)."""

    h: Array
    s: Array


@struct
class DeltaNet(ChunkedCell):
    """DeltaNet, a matrix memory that replaces what it holds under a key instead of adding to it.

    q, k, v = x_t w
    q, k    = unit(SiLU(q)), unit(SiLU(k))                     of length 1 in each head
    β       = σ(x_t w_β)                                       strength of a write, one number a head
    S_t     = S_{t-1} + β k (v − S_{t-1}ᵀ k)ᵀ                  memory: one step of descent of ½ |Sᵀ k − v|²
    h_t     = S_tᵀ q

    ======  ===============  ==================================
    w       (I, 2·N·D + H)   weights of q, k, v, Glorot uniform
    w_beta  (I, N)           weights of β, Glorot uniform
    ======  ===============  ==================================

    There are N heads, one after another on the last axis, with keys of D features and values of V = H/N. unit(a) is
    a / √(|a|² + 10⁻⁶). This is the recurrence; the short convolutions in front of it and the norm and projection behind
    it belong to the paper's layer. State: `DeltaNetState(h, s)`, zero at first, in at least float32; h is what was read
    last and is kept for the output alone.

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
        Schlag, Irie, Schmidhuber 2021, Linear transformers are secretly fast weight programmers, arXiv:2102.11174.
        Yang, Wang, Zhang, Shen, Kim 2024, Parallelizing linear transformers with the delta rule over sequence length,
        arXiv:2406.06484.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.DeltaNet(hidden_size=6, heads=2)
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

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> DeltaNetParams:
        keys = self.heads * self.keys
        key_w, key_beta = jax.random.split(key)
        return DeltaNetParams(
            w=head_inputs(key_w, in_size, (keys, keys, self.hidden_size), dtype),
            w_beta=initializers.glorot_uniform(key_beta, (in_size, self.heads), dtype),
        )

    def initial_state(
        self, params: DeltaNetParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> DeltaNetState:
        return DeltaNetState(*initial_memory(self, self.keys, batch_shape, dtype))

    def project(self, params: DeltaNetParams, x: Array, noise: Noise = None) -> _delta.DeltaInputs:
        keys = self.heads * self.keys
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(dot(x, params.w), (keys, 2 * keys), axis=-1))
        q, k = (_delta.unit(jax.nn.silu(part)) for part in (q, k))
        return _delta.DeltaInputs(q, k, v, jax.nn.sigmoid(dot(x, params.w_beta)), None)

    def step(
        self, params: DeltaNetParams, state: DeltaNetState, z: _delta.DeltaInputs, noise: Noise = None
    ) -> DeltaNetState:
        return DeltaNetState(*_delta.step(state.s, z))

    def chunk(
        self, params: DeltaNetParams, state: DeltaNetState, z: _delta.DeltaInputs, marks: Marks
    ) -> tuple[DeltaNetState, Array]:
        last, s, h = _delta.chunk(state, z, marks)
        return DeltaNetState(last, s), h
