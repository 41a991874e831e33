"""Attention by the state before a step, which the step reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._struct import struct
from ..._types import Array, DTypeLike, Key, Noise, Xs, Z
from .cell import Attention, Prepared, with_more
from .score import Attended


class BahdanauAttentionParams(NamedTuple):
    """cell, the inner cell's, and score, the score's."""

    cell: Any
    score: Any


class BahdanauAttentionState(NamedTuple):
    """cell, the inner cell's, and attention, what was read."""

    cell: Any
    attention: Attended


@struct
class BahdanauAttention(Attention):
    """A cell that reads a memory with its last state, and takes what it read as one more input.

    α_t = softmax_s score(q_{t-1}, m_s)     over the valid steps s of the memory; q_t is what the cell emits of s_t
    c_t = Σ_s α_{t,s} m_s                   context vector
    s_t = cell(s_{t-1}, [x_t; c_t])         h_t is the cell's output, for most cells q_t
    y_t = [h_t; c_t]

    ======  ======================  ==================================
    cell    the inner cell's        for inputs [x; c] of I + M features
    score   the score's             for queries q of Q features
    ======  ======================  ==================================

    The memory comes in through `context=` of `unroll`, layers and modules: an array (S, *B, M), a `rnnjax.Source` with
    lengths, or, computed once for many calls, what `cell.remember(params, source)` returns. A row without a valid step
    of the memory reads zeros. State: `BahdanauAttentionState(cell, attention)`; `attention.alignment` is α_t.
    Where the inner cell's projection of its inputs is a product, that of x is done for all steps at once.

    Args:
        cell: the inner cell.
        score: such as `rnnjax.AdditiveScore(A)`, that of the paper.
        memory_size: M.

    References:
        Bahdanau, Cho, Bengio 2015, Neural machine translation by jointly learning to align and translate,
        arXiv:1409.0473.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.BahdanauAttention(rj.GRU(5), rj.AdditiveScore(6), memory_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> encoded = rj.Source(jnp.ones((7, 2, 4)), lengths=jnp.array([7, 3]))
    >>> ys, state = rj.unroll(cell, params, jnp.ones((9, 2, 3)), context=encoded)
    >>> ys.shape, state.attention.alignment.shape
    ((9, 2, 9), (2, 7))
    """

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> BahdanauAttentionParams:
        key_cell, key_score = jax.random.split(key)
        return BahdanauAttentionParams(
            cell=self.cell.init(key_cell, in_size + self.memory_size, dtype),
            score=self.score.init(key_score, self.query_size, self.memory_size, dtype),
        )

    def out_size(self, in_size: int) -> int:
        return self.cell.out_size(in_size + self.memory_size) + self.memory_size

    def initial_state(
        self, params: Prepared, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> BahdanauAttentionState:
        attention = self.nothing_read(params, batch_shape, dtype)
        return BahdanauAttentionState(self.cell.initial_state(params.params.cell, batch_shape, dtype), attention)

    def step(
        self, params: Prepared, state: BahdanauAttentionState, z: Z, noise: Noise = None
    ) -> BahdanauAttentionState:
        attention = self.attend(params, state.cell, state.attention)
        return BahdanauAttentionState(self.advance(params, state.cell, z, attention.context, noise), attention)

    def emit(self, state: BahdanauAttentionState) -> tuple[Any, Array]:
        return self.cell.emit(state.cell), state.attention.context

    def readout(self, params: Prepared, emitted: tuple[Any, Array], x: Xs) -> Array:
        inner, context = emitted
        output = self.cell.readout(params.params.cell, inner, with_more(x, context))
        return jnp.concatenate([output, context.astype(output.dtype)], axis=-1)
