"""Vectors for integer ids."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from .._errors import check_key, check_size, describe, floating, known
from .._struct import struct
from .._types import Array, DTypeLike, Key, at_least_float32, explicit_spec
from ._layer import Stateless


class EmbeddingParams(NamedTuple):
    """w (V, E)."""

    w: Array


@struct
class Embedding(Stateless):
    """A trained vector for each id of a vocabulary.

    y_t = w[x_t]

    ======  ======  ==================================
    w       (V, E)  one vector an id, standard normal
    ======  ======  ==================================

    Inputs are integers (T, *B) in 0…V − 1, outputs (T, *B, E) in the dtype of w. Ids at masked steps are never read and
    may be anything. Where an id comes up several times, its gradients add up in at least float32.

    Args:
        vocabulary: V.
        size: E.

    Raises:
        TypeError: for ids that are not integers.
        ValueError: for concrete ids outside 0…V − 1. Traced ones give a row of NaN and no gradient. In `init`, for an
            `in_size` that is neither None nor V.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Embedding(vocabulary=10, size=4)
    >>> params = layer.init(jax.random.key(0))
    >>> ys, _ = layer(params, jnp.array([[1, 2], [3, 1]]))
    >>> ys.shape, bool((ys[0, 0] == ys[1, 1]).all())
    ((2, 2, 4), True)
    """

    vocabulary: int
    size: int

    needs_time = False
    event_ndim = 0
    gathers = False  # it reads a few rows of a table that may be large

    def __post_init__(self) -> None:
        check_size("vocabulary", self.vocabulary)
        check_size("size", self.size)

    def init(self, key: Key, in_size: int | None = None, dtype: DTypeLike = jnp.float32) -> EmbeddingParams:
        if in_size is not None and in_size != self.vocabulary:
            raise ValueError(
                f"`in_size` must be None or the vocabulary, {self.vocabulary}, because inputs are ids; got {in_size}"
            )
        check_key("key", key)
        dtype = floating("dtype", dtype)
        exact = at_least_float32(dtype)
        return EmbeddingParams(jax.random.normal(key, (self.vocabulary, self.size), exact).astype(dtype))

    def out_size(self, in_size: int | None = None) -> int:
        return self.size

    def check(self, params: EmbeddingParams, x: Array) -> None:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"`xs` must be integer ids (T, *B); got {describe(x)}")
        wanted = (self.vocabulary, self.size)
        if not isinstance(params, EmbeddingParams):
            raise TypeError(f"`params` must be EmbeddingParams(w={wanted}); got {type(params).__name__}")
        if tuple(params.w.shape) != wanted:
            raise ValueError(f"`params.w` must be {wanted} for {self!r}; got {tuple(params.w.shape)}")

    def apply(self, params: EmbeddingParams, x: Array, valid: Array | None, key: Key | None) -> Array:
        self._check_range(x)
        w = jnp.asarray(params.w, at_least_float32(params.w.dtype))
        spec = explicit_spec(x)
        placed = {} if spec is None else {"out_sharding": PartitionSpec(*spec, None)}
        rows = w.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False, **placed)
        return rows.astype(params.w.dtype)

    def _check_range(self, ids: Array) -> None:
        values = known(ids)
        if values is None or values.size == 0:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.vocabulary:
            raise ValueError(f"`xs` must hold ids in 0…V − 1 = {self.vocabulary - 1}; got values from {low} to {high}")
