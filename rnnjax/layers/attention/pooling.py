"""The mean of a sequence, weighted by attention."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ... import initializers
from ..._errors import check_size
from ..._products import affine, dot
from ..._struct import struct
from ..._types import Array, DTypeLike, Key, at_least_float32, over
from ..._unroll.call import Dtypes
from ..._unroll.lift import zero_where_masked
from ..._unroll.place import whole
from .._layer import Stateless, one_array, valid_steps
from .memory import masked_softmax


class AttentionPoolingParams(NamedTuple):
    """w (F, A), b (A), v (A)."""

    w: Array
    b: Array
    v: Array


@struct
class AttentionPooling(Stateless):
    """A layer that drops time, (T, *B, F) to (*B, F): the mean over the valid steps, with weights that it learns.

    α = softmax_t v · tanh(x_t w + b)     over the valid steps
    y = Σ_t α_t x_t

    ======  ======  =======================
    w       (F, A)  weights, Glorot uniform
    b       (A)     bias, zero
    v       (A)     query, Glorot uniform
    ======  ======  =======================

    `weights` returns α, such as to highlight words. A row without any valid step gives zeros, in values and gradients.
    `reset` is refused: it marks several sequences in a row, and there is one output.

    Args:
        size: A.

    References:
        Yang et al. 2016, Hierarchical attention networks for document classification, doi:10.18653/v1/N16-1174.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.AttentionPooling(8)
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> xs, lengths = jnp.ones((5, 2, 3)), jnp.array([5, 2])
    >>> layer(params, xs, lengths=lengths)[0].shape
    (2, 3)
    >>> print(layer.weights(params, xs, lengths=lengths).T)
    [[0.2 0.2 0.2 0.2 0.2]
     [0.5 0.5 0.  0.  0. ]]
    """

    size: int

    causal = False
    keeps_time = False

    def __post_init__(self) -> None:
        check_size("size", self.size)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> AttentionPoolingParams:
        check_size("in_size", in_size)
        key_w, key_v = jax.random.split(key)
        return AttentionPoolingParams(
            w=initializers.glorot_uniform(key_w, (in_size, self.size), dtype),
            b=jnp.zeros((self.size,), dtype),
            v=initializers.glorot_uniform(key_v, (self.size, 1), dtype)[:, 0],
        )

    def weights(
        self, params: AttentionPoolingParams, xs: Array, *, lengths: Array | None = None, mask: Array | None = None
    ) -> Array:
        """The weight α (T, *B) of every step: they sum to 1 over a row, and to 0 where no step is valid."""
        x = one_array(xs)
        self.check(params, x)
        valid = valid_steps(self, x, lengths, mask)
        params = whole(params)
        return self._weights(params, zero_where_masked(valid, x), valid)

    def apply(self, params: AttentionPoolingParams, x: Array, valid: Array | None, key: Key | None) -> Array:
        weights = self._weights(params, x, valid)
        total = x.astype(at_least_float32(x.dtype))
        return jnp.sum(over(weights.astype(total.dtype), total) * total, axis=0).astype(x.dtype)

    def _weights(self, params: AttentionPoolingParams, x: Array, valid: Array | None) -> Array:
        w, b, v = Dtypes.of(None, x, params).cast(params)
        scores = dot(jnp.tanh(affine(x, w, b)), v.astype(w.dtype)[:, None])[..., 0]
        return masked_softmax(scores, valid, axis=0)
