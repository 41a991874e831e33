"""Scores by a small network of query and memory, also of where and how much was read before."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ... import initializers
from ..._errors import check_size
from ..._products import affine, dot
from ..._struct import struct
from ..._types import Array, DTypeLike, Key
from ...cells.conv_lstm import convolve
from .memory import spread
from .score import Attended, Score


class AdditiveScoreParams(NamedTuple):
    """w_q (Q, A), w_k (M, A), b (A), v (A)."""

    w_q: Array
    w_k: Array
    b: Array
    v: Array


@struct
class AdditiveScore(Score):
    """A network with one layer of A units.

    score_s = v · tanh(q w_q + m_s w_k + b)

    ======  ======  =========================================
    w_q     (Q, A)  of queries, Glorot uniform
    w_k     (M, A)  of the memory, Glorot uniform
    b       (A)     bias, zero; the paper has none
    v       (A)     of the units, Glorot uniform
    ======  ======  =========================================

    m_s w_k + b is computed once for all queries.

    Args:
        size: A.

    References:
        Bahdanau, Cho, Bengio 2015, Neural machine translation by jointly learning to align and translate,
        arXiv:1409.0473.
    """

    size: int

    def __post_init__(self) -> None:
        check_size("size", self.size)

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> AdditiveScoreParams:
        key_q, key_k, key_v = jax.random.split(key, 3)
        return AdditiveScoreParams(
            w_q=initializers.glorot_uniform(key_q, (query_size, self.size), dtype),
            w_k=initializers.glorot_uniform(key_k, (memory_size, self.size), dtype),
            b=jnp.zeros((self.size,), dtype),
            v=initializers.glorot_uniform(key_v, (self.size, 1), dtype)[:, 0],
        )

    def keys(self, params: AdditiveScoreParams, values: Array) -> Array:
        return affine(values, params.w_k, params.b)

    def score(self, params: AdditiveScoreParams, query: Array, keys: Array, attended: Attended) -> Array:
        return _units(params.v, dot(query, params.w_q), keys)


class LocationScoreParams(NamedTuple):
    """additive, those of `AdditiveScore`; f (R, K), u (K, A)."""

    additive: AdditiveScoreParams
    f: Array
    u: Array


@struct
class LocationScore(Score):
    """An additive score that sees where the alignment was before, so that it can move on.

    location_s = Σ_r α_{t-1, s + r − ⌊(R − 1) / 2⌋} f_r                    r = 0 … R − 1, α zero outside the memory
    score_s    = v · tanh(q w_q + m_s w_k + location_s u + b)

    ========  ======  ===========================================
    additive  –       w_q, w_k, b and v, as in `AdditiveScore`
    f         (R, K)  filters, Glorot uniform
    u         (K, A)  of the filters' outputs, Glorot uniform
    ========  ======  ===========================================

    Args:
        size: A.
        filters: K.
        width: R, in steps of the memory.

    References:
        Chorowski, Bahdanau, Serdyuk, Cho, Bengio 2015, Attention-based models for speech recognition, arXiv:1506.07503.
    """

    size: int
    filters: int = 10
    width: int = 31

    def __post_init__(self) -> None:
        for name in ("size", "filters", "width"):
            check_size(name, getattr(self, name))

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> LocationScoreParams:
        own, key_f, key_u = jax.random.split(key, 3)
        return LocationScoreParams(
            additive=AdditiveScore(self.size).init(own, query_size, memory_size, dtype),
            f=initializers.glorot_uniform(key_f, (self.width, 1, self.filters), dtype)[:, 0],
            u=initializers.glorot_uniform(key_u, (self.filters, self.size), dtype),
        )

    def keys(self, params: LocationScoreParams, values: Array) -> Array:
        return AdditiveScore(self.size).keys(params.additive, values)

    def score(self, params: LocationScoreParams, query: Array, keys: Array, attended: Attended) -> Array:
        location = convolve(attended.alignment[..., None], params.f[:, None])
        return _units(params.additive.v, dot(query, params.additive.w_q), keys, location, params.u)


class CoverageScoreParams(NamedTuple):
    """additive, those of `AdditiveScore`; w_c (A)."""

    additive: AdditiveScoreParams
    w_c: Array


@struct
class CoverageScore(Score):
    """An additive score that sees how much of each step was read before, so that it need not read it again.

    coverage_s = Σ_{τ<t} α_{τ,s}
    score_s    = v · tanh(q w_q + m_s w_k + coverage_s w_c + b)

    ========  ====  =============================================
    additive  –     w_q, w_k, b and v, as in `AdditiveScore`
    w_c       (A)   of the coverage, zero
    ========  ====  =============================================

    Args:
        size: A.

    References:
        See, Liu, Manning 2017, Get to the point: summarization with pointer-generator networks, arXiv:1704.04368.
    """

    size: int

    def __post_init__(self) -> None:
        check_size("size", self.size)

    def init(self, key: Key, query_size: int, memory_size: int, dtype: DTypeLike = jnp.float32) -> CoverageScoreParams:
        additive = AdditiveScore(self.size).init(key, query_size, memory_size, dtype)
        return CoverageScoreParams(additive, w_c=jnp.zeros((self.size,), dtype))

    def keys(self, params: CoverageScoreParams, values: Array) -> Array:
        return AdditiveScore(self.size).keys(params.additive, values)

    def score(self, params: CoverageScoreParams, query: Array, keys: Array, attended: Attended) -> Array:
        coverage = attended.coverage[..., None]
        return _units(params.additive.v, dot(query, params.additive.w_q), keys, coverage, params.w_c[None])


@partial(jax.checkpoint, prevent_cse=False)
def _units(v: Array, query: Array, keys: Array, more: Array | None = None, w_more: Array | None = None) -> Array:
    """v · tanh(query + more w_more + keys) for every step: query (*B, *R, A), keys (*B, S, A), more (*B, *R, S, K).

    The backward pass computes the units again: that takes less time than S · A numbers a query to be written and read.
    """
    own = query[..., None, :]
    if more is not None:
        own = own + dot(more, w_more).astype(own.dtype)
    units = jnp.tanh(own + spread(keys.astype(own.dtype), own.ndim, 2))
    return jnp.sum(units * spread(v.astype(own.dtype), own.ndim, 1), axis=-1)
