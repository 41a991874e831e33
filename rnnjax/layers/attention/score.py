"""Scores: how well each step of a memory answers a query. Those that are products of the two."""

from __future__ import annotations

import abc
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ... import initializers
from ..._errors import check_size
from ..._products import dot
from ..._struct import struct
from ..._types import Array, DTypeLike, Key, Params
from .memory import Memory, masked_softmax, match, mix, spread


class Attended(NamedTuple):
    """What was read last, and what has been read so far.

    context (*B, M): the vector read last, Σ_s α_s value_s.
    alignment (*B, S): its weights α, which sum to 1, or to 0 where no step of the memory is valid.
    coverage (*B, S): the sum of all alignments since the beginning of the sequence.
    overlap (*B): Σ_t Σ_s min(α_{t,s}, coverage_{t-1,s}), the sum of the coverage losses of See, Liu and Manning.
    heads (*B, N, S): the weights of each head, of which α is the mean; None for a score without heads.
    """

    context: Array
    alignment: Array
    coverage: Array
    overlap: Array
    heads: Array | None = None


class Score(abc.ABC):
    """How well each step of a memory answers a query. A subclass is a frozen dataclass made by `struct`; it writes
    `init`, `score` and, where the memory has a projection, `keys`.

    Sizes: query Q, memory M, steps S. The batch axes of the memory are the first ones of the query's.
    """

    heads: int | None = None
    """N, where several alignments are made side by side."""

    @abc.abstractmethod
    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws parameters; () when there are none."""

    @abc.abstractmethod
    def score(self, params: Params, query: Array, keys: Array, attended: Attended) -> Array:
        """Scores (*B, S) of a query (*B, Q), given what was attended before."""

    def keys(self, params: Params, values: Array) -> Array:
        """Everything that depends on the memory (*B, S, M) alone, (*B, S, A): computed once."""
        return values

    def values(self, params: Params, values: Array) -> Array:
        """What is summed up, from the memory (*B, S, M): computed once."""
        return values

    def read(
        self, params: Params, query: Array, memory: Memory, attended: Attended
    ) -> tuple[Array, Array, Array | None]:
        """Context (*B, M), alignment (*B, S) and those of the heads (*B, N, S), None where there are none."""
        alignment = _align(self.score(params, query, memory.keys, attended), memory.mask)
        return mix(alignment, memory.values), alignment, None


def _align(scores: Array, mask: Array | None) -> Array:
    """Softmax over the valid steps; scores (*B, *R, S), mask (*B, S)."""
    return masked_softmax(
        scores, None if mask is None else jnp.broadcast_to(spread(mask, scores.ndim, 1), scores.shape)
    )


@struct
class DotScore(Score):
    """The product of query and memory, which are of one size.

    score_s = q · m_s

    References:
        Luong, Pham, Manning 2015, Effective approaches to attention-based neural machine translation, arXiv:1508.04025.
    """

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> tuple[()]:
        _check_equal(self, query_size, memory_size)
        return ()

    def score(self, params: Params, query: Array, keys: Array, attended: Attended) -> Array:
        return match(query, keys)


@struct
class ScaledDotScore(Score):
    """The product of query and memory, which are of one size, with variance 1 for independent entries of variance 1.

    score_s = q · m_s / √Q

    References:
        Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762.
    """

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> tuple[()]:
        _check_equal(self, query_size, memory_size)
        return ()

    def score(self, params: Params, query: Array, keys: Array, attended: Attended) -> Array:
        return match(query, keys) / math.sqrt(query.shape[-1])


def _check_equal(score: Score, query_size: int, memory_size: int) -> None:
    if query_size != memory_size:
        raise ValueError(
            f"{score!r} needs queries and memory of one size; got Q = {query_size} features of the cell's state and M "
            f"= {memory_size} of the memory: use `GeneralScore()`"
        )


class GeneralScoreParams(NamedTuple):
    """w (M, Q)."""

    w: Array


@struct
class GeneralScore(Score):
    """A bilinear form of query and memory, also called multiplicative.

    score_s = q · (m_s w)

    ======  ======  =======================
    w       (M, Q)  weights, Glorot uniform
    ======  ======  =======================

    References:
        Luong, Pham, Manning 2015, Effective approaches to attention-based neural machine translation, arXiv:1508.04025.
    """

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> GeneralScoreParams:
        return GeneralScoreParams(initializers.glorot_uniform(key, (memory_size, query_size), dtype))

    def keys(self, params: GeneralScoreParams, values: Array) -> Array:
        return dot(values, params.w)

    def score(self, params: GeneralScoreParams, query: Array, keys: Array, attended: Attended) -> Array:
        return match(query, keys)


class MultiHeadScoreParams(NamedTuple):
    """w_q (Q, A), w_k (M, A), w_v (M, A), w_o (A, M)."""

    w_q: Array
    w_k: Array
    w_v: Array
    w_o: Array


@struct
class MultiHeadScore(Score):
    """Several scaled products side by side, each with an alignment and a share of the features of its own.

    score_{n,s} = (q w_q)_n · (m_s w_k)_n / √(A / N)        n-th of N slices of A features
    context     = [Σ_s α_{1,s} (m_s w_v)_1; …; Σ_s α_{N,s} (m_s w_v)_N] w_o

    ======  ======  =========================
    w_q     (Q, A)  of queries
    w_k     (M, A)  of keys
    w_v     (M, A)  of what is summed up
    w_o     (A, M)  of the sums
    ======  ======  =========================

    All are Glorot uniform, and there are no biases. The alignment in the state is the mean over the heads, whose own
    are beside it, in `state.attention.heads`.

    Args:
        size: A, a multiple of `heads`.
        heads: N.

    References:
        Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762.
    """

    size: int
    heads: int = 4  # type: ignore[override]

    def __post_init__(self) -> None:
        check_size("size", self.size)
        check_size("heads", self.heads)
        if self.size % self.heads:
            raise ValueError(f"`size` must be a multiple of `heads`; got {self.size} features for {self.heads} heads")

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> MultiHeadScoreParams:
        sizes = ((query_size, self.size), (memory_size, self.size), (memory_size, self.size), (self.size, memory_size))
        keys = jax.random.split(key, 4)
        return MultiHeadScoreParams(
            *(initializers.glorot_uniform(k, shape, dtype) for k, shape in zip(keys, sizes, strict=True))
        )

    def keys(self, params: MultiHeadScoreParams, values: Array) -> Array:
        return dot(values, params.w_k)

    def values(self, params: MultiHeadScoreParams, values: Array) -> Array:
        return dot(values, params.w_v)

    def score(self, params: MultiHeadScoreParams, query: Array, keys: Array, attended: Attended) -> Array:
        """Scores (N, *B, S)."""
        query, keys = self._heads(dot(query, params.w_q)), self._heads(keys)
        return match(query, keys) / math.sqrt(query.shape[-1])

    def read(
        self, params: MultiHeadScoreParams, query: Array, memory: Memory, attended: Attended
    ) -> tuple[Array, Array, Array]:
        scores = self.score(params, query, memory.keys, attended)
        mask = memory.mask
        alignment = _align(scores, None if mask is None else jnp.broadcast_to(mask[None], (self.heads, *mask.shape)))
        context = mix(alignment, self._heads(memory.values))
        joined = jnp.moveaxis(context, 0, -2).reshape(*query.shape[:-1], self.size)
        return dot(joined, params.w_o), jnp.mean(alignment, axis=0), jnp.moveaxis(alignment, 0, -2)

    def _heads(self, array: Array) -> Array:
        """(…, A) as (N, …, A / N)."""
        return jnp.moveaxis(array.reshape(*array.shape[:-1], self.heads, self.size // self.heads), -2, 0)
