"""One output for a whole sequence, from its valid steps."""

from __future__ import annotations

import abc

import jax.numpy as jnp

from .._struct import struct
from .._types import Array, Key, Params, at_least_float32, over
from .._unroll.lift import where, zero_where_masked
from ._layer import Stateless


@struct
class Pooling(Stateless):
    """A layer that drops time: (T, *B, F) to (*B, F). A subclass writes `pool`.

    A row without any valid step gives zeros, in values and gradients. `reset` is refused: it marks several sequences
    in a row, and there is one output.

    Args:
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.
    """

    event_ndim: int = 1

    causal = False
    keeps_time = False

    @abc.abstractmethod
    def pool(self, x: Array, valid: Array | None) -> Array:
        """The pooled rows of T > 0 steps, zero where none is valid; x is zero at masked steps."""

    def apply(self, params: Params, x: Array, valid: Array | None, key: Key | None) -> Array:
        return self.pool(x, valid) if x.shape[0] else jnp.zeros(x.shape[1:], x.dtype)


@struct
class Last(Pooling):
    """The last valid step of each row; backwards in time, the first.

    y = x_t, t the last with mask_t

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> ys, _ = rj.Last()((), jnp.arange(6.0).reshape(3, 2, 1), lengths=jnp.array([3, 1]))
    >>> ys.tolist()
    [[4.0], [1.0]]
    """

    def pool(self, x: Array, valid: Array | None) -> Array:
        if valid is None:
            return x[-1]
        times = _times(valid)
        last = jnp.max(jnp.where(valid, times, -1), axis=0, keepdims=True)
        return _pick(x, times == jnp.broadcast_to(last, valid.shape))

    def reversed(self) -> First:
        return First(self.event_ndim)


@struct
class First(Pooling):
    """The first valid step of each row, where a layer that runs backwards ends; backwards in time, the last.

    y = x_t, t the first with mask_t

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> ys, _ = rj.First()((), jnp.arange(3.0).reshape(3, 1), mask=jnp.array([False, True, True]))
    >>> ys.tolist()
    [1.0]
    """

    def pool(self, x: Array, valid: Array | None) -> Array:
        if valid is None:
            return x[0]
        times = _times(valid)
        first = jnp.min(jnp.where(valid, times, valid.shape[0]), axis=0, keepdims=True)
        return _pick(x, times == jnp.broadcast_to(first, valid.shape))

    def reversed(self) -> Last:
        return Last(self.event_ndim)


@struct
class Mean(Pooling):
    """The mean over the valid steps of each row, summed in at least float32.

    y = Σ_t mask_t x_t / max(Σ_t mask_t, 1)

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> ys, _ = rj.Mean()((), jnp.arange(6.0).reshape(3, 2, 1), lengths=jnp.array([3, 0]))
    >>> ys.tolist()
    [[2.0], [0.0]]
    """

    def pool(self, x: Array, valid: Array | None) -> Array:
        total = jnp.sum(x.astype(at_least_float32(x.dtype)), axis=0)
        if valid is None:
            return (total / x.shape[0]).astype(x.dtype)
        count = jnp.maximum(jnp.sum(valid, axis=0), 1).astype(total.dtype)
        return (total / over(count, total)).astype(x.dtype)


@struct
class Max(Pooling):
    """The largest value over the valid steps of each row, for each feature. Ties share the gradient.

    y = max_t x_t over t with mask_t

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> ys, _ = rj.Max()((), -jnp.ones((3, 2, 1)), lengths=jnp.array([3, 0]))
    >>> ys.tolist()
    [[-1.0], [0.0]]
    """

    def pool(self, x: Array, valid: Array | None) -> Array:
        if valid is None:
            return jnp.max(x, axis=0)
        largest = jnp.max(where(valid, x, jnp.full_like(x, -jnp.inf)), axis=0)
        return where(jnp.any(valid, axis=0), largest, jnp.zeros_like(largest))


def _times(valid: Array) -> Array:
    return over(jnp.arange(valid.shape[0]), valid)


def _pick(x: Array, chosen: Array) -> Array:
    # a masked sum and not a gather: its gradient is a select, and it keeps any sharding of the batch
    return jnp.sum(zero_where_masked(chosen, x), axis=0)
