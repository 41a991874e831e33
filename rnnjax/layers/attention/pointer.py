"""A vocabulary, and the words of the source beside it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ... import initializers
from ..._cell import with_elapsed
from ..._errors import check_size, known
from ..._products import affine
from ..._struct import struct
from ..._types import Array, DTypeLike, Key, Params, State, Xs
from ..._wrapper import Wrapper
from .cell import Attention, Prepared, joined
from .memory import Memory, Source, as_source, spread


class PointerGeneratorParams(NamedTuple):
    """cell, the attention cell's, w (O, V), b (V), w_p (M + Q + I, 1), b_p (1)."""

    cell: Any
    w: Array
    b: Array
    w_p: Array
    b_p: Array


@struct
class PointerGenerator(Wrapper):
    """An attention cell whose outputs are log probabilities of words, which it generates or copies from the source.

    P_gen  = softmax(o_t w + b)                  o_t the output of the attention cell
    p_t    = σ([c_t; q_t; x_t] w_p + b_p)        probability of generating; q_t the query of the state after the step
    P_t(k) = p_t P_gen(k) + (1 − p_t) Σ_{s: id_s = k} α_{t,s}
    y_t    = log P_t                             (V + X)

    ======  ===============  ===================================================
    cell    the cell's       as the attention cell draws them
    w       (O, V)           weights of the vocabulary, Glorot uniform
    b       (V)              bias, zero
    w_p     (M + Q + I, 1)   weights of context, query and input, Glorot uniform
    b_p     (1)              bias, zero
    ======  ===============  ===================================================

    The ids of the source's tokens come in through `context=`: `rnnjax.Source(values, lengths=lengths, ids=ids)`. Those
    from 0 to V − 1 are the vocabulary, and those from V to V + X − 1 words outside of it, which every row numbers in
    its own way: they have the probability of their copies alone, and where the row's source has none log 0 = −∞. A
    word of the source has at least the smallest normal number as its copies' sum, so that −∞ is not reached by
    rounding. A row whose memory has no valid step generates only. Ids at steps that are not valid are never read. A
    concrete one outside of 0 … V + X − 1 raises ValueError; a traced one is not copied, and its weight is lost.

    State, and all else, is the attention cell's. With `rnnjax.CoverageScore` the score sees the coverage, and
    `state.attention.overlap` of the last state is each row's sum of coverage losses over all steps. The embedding below
    has no rows for X: map these words to an unknown one before.

    Args:
        cell: an attention cell, such as `rnnjax.LuongAttention(…)`.
        vocabulary: V.
        extra: X, the most words outside of the vocabulary that a row of the source may have.

    References:
        See, Liu, Manning 2017, Get to the point: summarization with pointer-generator networks, arXiv:1704.04368.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> attention = rj.LuongAttention(rj.LSTM(5), rj.CoverageScore(6), memory_size=4, size=8)
    >>> cell = rj.PointerGenerator(attention, vocabulary=10, extra=2)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> source = rj.Source(jnp.ones((7, 2, 4)), ids=jnp.full((7, 2), 11))
    >>> ys, state = rj.unroll(cell, params, jnp.ones((9, 2, 3)), context=source)
    >>> ys.shape, bool(jnp.allclose(jnp.exp(ys).sum(-1), 1)), float(ys[0, 0, 10])
    ((9, 2, 12), True, -inf)
    """

    vocabulary: int
    extra: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Attention):
            raise TypeError(f"`cell` must be an attention cell, such as `rnnjax.LuongAttention`; got {self.cell!r}")
        check_size("vocabulary", self.vocabulary)
        if self.extra != 0:
            check_size("extra", self.extra)

    def unwrap(self, params: PointerGeneratorParams) -> Params:
        return params.cell

    def rewrap(self, params: PointerGeneratorParams, inner: Params) -> PointerGeneratorParams:
        return params._replace(cell=inner)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> PointerGeneratorParams:
        key_cell, key_w, key_p = jax.random.split(key, 3)
        reads = self.cell.memory_size + self.cell.query_size + in_size
        return PointerGeneratorParams(
            cell=self.cell.init(key_cell, in_size, dtype),
            w=initializers.glorot_uniform(key_w, (self.cell.out_size(in_size), self.vocabulary), dtype),
            b=jnp.zeros((self.vocabulary,), dtype),
            w_p=initializers.glorot_uniform(key_p, (reads, 1), dtype),
            b_p=jnp.zeros((1,), dtype),
        )

    def out_size(self, in_size: int) -> int:
        return self.vocabulary + self.extra

    def remember(self, params: PointerGeneratorParams, source: Source) -> Memory:
        """As `remember` of the attention cell; ValueError for concrete ids outside of 0 … V + X − 1."""
        source = as_source(source)
        self._check_ids(source)
        return self.cell.remember(params.cell, source)

    def prepare(self, params: PointerGeneratorParams, *, key: Key | None = None, context: Any = None) -> Params:
        memory = context if isinstance(context, Memory) else self.remember(params, context)
        if memory.ids is None:
            raise ValueError(
                f"`context` of {type(self).__name__} must have the ids of its tokens, (S, *B), to copy them; got none: "
                "pass `rnnjax.Source(values, ids=ids)`"
            )
        return super().prepare(params, key=key, context=memory)

    def check_context(self, context: Any) -> None:
        if isinstance(context, Source):
            self._check_ids(context)

    def _check_ids(self, source: Source) -> None:
        ids = known(source.ids)
        if ids is None:
            return
        with jax.ensure_compile_time_eval():  # what is known is so within `jit` too
            valid = source.valid
        if valid is not None:
            valid = known(valid)
            if valid is None:
                return
            ids = ids[valid]
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary + self.extra):
            raise ValueError(
                f"`ids` of the memory must lie in 0…V + X − 1 = {self.vocabulary + self.extra - 1}; got values from "
                f"{ids.min()} to {ids.max()}"
            )

    def emit(self, state: State) -> tuple[Any, Array, Array, Array]:
        attention = state.attention
        return self.cell.emit(state), attention.context, self.cell.cell.emit(state.cell), attention.alignment

    def readout(self, params: PointerGeneratorParams, emitted: tuple[Any, Array, Array, Array], x: Xs) -> Array:
        inner, context, hidden, alignment = emitted
        prepared: Prepared = params.cell
        memory = prepared.memory
        logits = affine(self.cell.readout(prepared, inner, x), params.w, params.b)
        given = context, joined(hidden), with_elapsed(x)[0]
        read = jnp.concatenate([part.astype(logits.dtype) for part in given], axis=-1)
        gate = affine(read, params.w_p, params.b_p)
        return _mixture(logits, gate, alignment.astype(logits.dtype), memory.ids, memory.mask, self.extra)


def _mixture(logits: Array, gate: Array, alignment: Array, ids: Array, mask: Array | None, extra: int) -> Array:
    """log P (T, *B, V + X) of logits (T, *B, V), gate (T, *B, 1), alignment (T, *B, S) and memory."""
    vocabulary = logits.shape[-1]
    size = vocabulary + extra
    readable = (ids >= 0) & (ids < size)
    readable = readable if mask is None else readable & mask
    # what is not read goes behind the end, where it is dropped: negative indices count from there
    ids = jnp.where(readable, ids, size)

    def over_time(leaf: Array) -> Array:
        return spread(leaf, alignment.ndim - 1, 1)[None]

    occurs = over_time(_scatter(jnp.ones_like(ids), ids, size) > 0)
    copied = jnp.maximum(_scatter(alignment, over_time(ids), size), jnp.finfo(alignment.dtype).tiny)
    copies = jnp.where(occurs, jax.nn.log_sigmoid(-gate) + jnp.log(copied), -jnp.inf)
    generates = jnp.where(over_time(readable.any(-1, keepdims=True)), jax.nn.log_sigmoid(gate), 0)
    words = jnp.logaddexp(jax.nn.log_softmax(logits) + generates, copies[..., :vocabulary])
    return jnp.concatenate([words, copies[..., vocabulary:]], axis=-1)


def _scatter(weights: Array, ids: Array, size: int) -> Array:
    """Sums (…, size) of weights (…, S) over equal ids (…, S)."""

    def one(weights: Array, ids: Array) -> Array:
        return jnp.zeros((size,), weights.dtype).at[ids].add(weights, mode="drop")

    return jnp.vectorize(one, signature="(s),(s)->(k)")(weights, ids)
