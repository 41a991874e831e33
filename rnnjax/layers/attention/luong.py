"""Attention by the state after a step, which the output reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ... import initializers
from ..._errors import check_flag, check_size
from ..._products import dot
from ..._struct import struct
from ..._types import Array, DTypeLike, Key, Noise, Z
from .cell import Attention, Prepared
from .score import Attended


class LuongAttentionParams(NamedTuple):
    """cell, the inner cell's, score, the score's, and w (M + H, O)."""

    cell: Any
    score: Any
    w: Array


class LuongAttentionState(NamedTuple):
    """cell, the inner cell's, attention, what was read, and output (*B, O)."""

    cell: Any
    attention: Attended
    output: Array


@struct
class LuongAttention(Attention):
    """A cell that reads a memory with its new state, and whose output is made of both.

    s_t = cell(s_{t-1}, [x_t; y_{t-1}])     input feeding; without it cell(s_{t-1}, x_t)
    α_t = softmax_s score(q_t, m_s)         over the valid steps s of the memory; q_t is what the cell emits of s_t
    c_t = Σ_s α_{t,s} m_s                   context vector
    y_t = tanh([c_t; h_t] w)                h_t is the cell's output, for most cells q_t

    ======  ================  ==================================================
    cell    the inner cell's  for I + O features with input feeding, else for I
    score   the score's       for queries q of Q features
    w       (M + H, O)        for outputs h of H features, Glorot uniform
    ======  ================  ==================================================

    The memory comes in through `context=` of `unroll`, layers and modules: an array (S, *B, M), a `rnnjax.Source` with
    lengths, or, computed once for many calls, what `cell.remember(params, source)` returns. A row without a valid step
    of the memory reads zeros. State: `LuongAttentionState(cell, attention, output)`; `attention.alignment` is α_t and
    output is y_t, zero at first. Where the inner cell's projection of its inputs is a product, that of x is done for
    all steps at once.

    Args:
        cell: the inner cell.
        score: such as `rnnjax.GeneralScore()` or `rnnjax.DotScore()`, those of the paper.
        memory_size: M.
        size: O, features of the output.
        input_feeding: whether the inner cell reads the last output too.

    References:
        Luong, Pham, Manning 2015, Effective approaches to attention-based neural machine translation, arXiv:1508.04025.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LuongAttention(rj.LSTM(5), rj.GeneralScore(), memory_size=4, size=6)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((9, 2, 3)), context=jnp.ones((7, 2, 4)))
    >>> ys.shape, state.attention.alignment.shape
    ((9, 2, 6), (2, 7))
    """

    size: int
    input_feeding: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("size", self.size)
        check_flag("input_feeding", self.input_feeding)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LuongAttentionParams:
        key_cell, key_score, key_w = jax.random.split(key, 3)
        inner_size = in_size + self.size * self.input_feeding
        joined_size = self.memory_size + self.cell.out_size(inner_size)
        return LuongAttentionParams(
            cell=self.cell.init(key_cell, inner_size, dtype),
            score=self.score.init(key_score, self.query_size, self.memory_size, dtype),
            w=initializers.glorot_uniform(key_w, (joined_size, self.size), dtype),
        )

    def out_size(self, in_size: int) -> int:
        return self.size

    def initial_state(
        self, params: Prepared, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LuongAttentionState:
        attention = self.nothing_read(params, batch_shape, dtype)
        inner = self.cell.initial_state(params.params.cell, batch_shape, dtype)
        return LuongAttentionState(inner, attention, jnp.zeros((*batch_shape, self.size), dtype))

    def step(self, params: Prepared, state: LuongAttentionState, z: Z, noise: Noise = None) -> LuongAttentionState:
        fed = state.output if self.input_feeding else state.output[..., :0]
        inner = self.advance(params, state.cell, z, fed, noise)
        attention = self.attend(params, inner, state.attention)
        context, hidden = attention.context, self.output(params, inner, z, fed)
        joined = jnp.concatenate([context.astype(hidden.dtype), hidden], axis=-1)
        return LuongAttentionState(inner, attention, jnp.tanh(dot(joined, params.params.w)))

    def emit(self, state: LuongAttentionState) -> Array:
        return state.output
