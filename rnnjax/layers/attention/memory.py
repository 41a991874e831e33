"""What attention reads: a sequence of vectors, which of them are valid, and what is computed from them once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ..._errors import describe, is_array, known
from ..._struct import node, struct
from ..._types import Array, at_least_float32
from ..._unroll.lift import valid_steps, zero_where_masked

_CONVERT = "convert it with `jnp.asarray`"


@struct
class Source:
    """A sequence to attend to, such as the outputs of an encoder, for `context=` of `unroll`, layers and modules.

    An array (S, *B, M) by itself is a source whose steps are all valid. Its batch axes are the first ones of the state
    that attends: with a state (*B, K, H), as in a beam search, all K read the memory of their row. It is time-major in
    the batch-major Flax modules too.

    Args:
        values: vectors (S, *B, M). Those that are not valid are never read.
        lengths: valid steps of each row, integers (*B) in 0…S; traced ones act as if cut to 0…S.
        mask: True where a step is valid, booleans (S, *B). With `lengths` as well, both must hold.
        ids: the token at each step, integers (S, *B), for `rnnjax.PointerGenerator`.

    Raises:
        ValueError, TypeError: for shapes and dtypes that do not fit, and concrete lengths out of range.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.Source(jnp.ones((3, 2, 4)), lengths=jnp.array([3, 1])).valid.T.tolist()
    [[True, True, True], [True, False, False]]
    """

    values: Any = node()
    lengths: Any = node(default=None)
    mask: Any = node(default=None)
    ids: Any = node(default=None)

    def __post_init__(self) -> None:
        _check_values(self.values)
        lead = tuple(self.values.shape[:-1])
        _check("mask", self.mask, "a boolean array (S, *B)", lead, jnp.bool_)
        _check("ids", self.ids, "an integer array (S, *B)", lead, jnp.integer)
        _check("lengths", self.lengths, "an integer array (*B)", lead[1:], jnp.integer)
        _check_range(self.lengths, lead[0])

    @property
    def valid(self) -> Array | None:
        """Which steps are valid, (S, *B), or None for all."""
        lengths = None if self.lengths is None else jnp.asarray(self.lengths)
        return valid_steps(lengths, self.mask, self.values.shape[0])


class Memory(NamedTuple):
    """A source with everything that depends on it alone, as an attention cell's `remember` makes it.

    keys (*B, S, A), values (*B, S, M), mask (*B, S) or None where all steps are valid, ids (*B, S) or None. It belongs
    to the parameters that made it. Rows of a batch can be picked and repeated on the leading axes.
    """

    keys: Array
    values: Array
    mask: Array | None
    ids: Array | None


def as_source(context: Any) -> Source:
    """A `context` as a source; ValueError without one."""
    if context is None:
        raise ValueError(
            "`context` must be the memory to attend to, an array (S, *B, M), a `rnnjax.Source` or what `cell.remember` "
            "returns; got None: pass it to the call, `context=encoded`"
        )
    return context if isinstance(context, Source) else Source(context)


def rows_first(source: Source) -> tuple[Array, Array | None, Array | None]:
    """Values (*B, S, M), zero where not valid, mask (*B, S) and ids (*B, S)."""
    valid = source.valid
    values = jnp.moveaxis(zero_where_masked(valid, jnp.asarray(source.values)), 0, -2)
    return values, _steps_last(valid), _steps_last(source.ids)


def _steps_last(leaf: Array | None) -> Array | None:
    return None if leaf is None else jnp.moveaxis(leaf, 0, -1)


def masked_softmax(scores: Array, mask: Array | None, axis: int = -1) -> Array:
    """exp(score) / Σ exp(score) over the entries where `mask`, of the same shape, is True: zero elsewhere, and zero
    everywhere where none is."""
    lowest = jnp.full_like(scores, -jnp.inf)
    allowed = scores if mask is None else jnp.where(mask, scores, lowest)
    largest = lax.stop_gradient(jnp.max(allowed, axis=axis, keepdims=True, initial=-jnp.inf))
    shifted = scores - jnp.where(jnp.isfinite(largest), largest, 0)
    # the exponent of an entry that does not count may overflow, and its gradient with it
    weights = jnp.exp(shifted if mask is None else jnp.where(mask, shifted, 0))
    if mask is not None:
        weights = jnp.where(mask, weights, 0)
    total = jnp.sum(weights, axis=axis, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def spread(leaf: Array, ndim: int, event: int) -> Array:
    """(*B, …) with axes of length 1 behind its batch axes, up to `ndim` axes; the last `event` axes are not batch."""
    lead = leaf.ndim - event
    return lax.expand_dims(leaf, range(lead, lead + ndim - leaf.ndim))


def match(query: Array, keys: Array) -> Array:
    """query (*B, *R, A) · keys (*B, S, A) for every step, (*B, *R, S), in the dtype of the keys."""
    return _product(query, keys, query.ndim - 1, keys.ndim - 1)


def mix(weights: Array, values: Array) -> Array:
    """Σ_s weights (*B, *R, S) values (*B, S, M), (*B, *R, M), in the dtype of the values."""
    return _product(weights, values, weights.ndim - 1, values.ndim - 2)


def _product(a: Array, b: Array, over_a: int, over_b: int) -> Array:
    batch = tuple(range(b.ndim - 2))
    dimensions = (((over_a,), (over_b,)), (batch, batch))
    return lax.dot_general(a.astype(b.dtype), b, dimensions, preferred_element_type=at_least_float32(b.dtype))


def _check_values(values: Any) -> None:
    if not is_array(values):
        raise TypeError(f"the memory must be an array (S, *B, M); got {describe(values)}: {_CONVERT}")
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        raise TypeError(f"the memory must be floating point; got {describe(values)}: encode tokens first")
    if values.ndim < 2:
        raise ValueError(f"the memory must be (S, *B, M), at least 2 axes; got shape {tuple(values.shape)}")


def _check(name: str, value: Any, what: str, shape: tuple[int, ...], kind: Any) -> None:
    if value is None:
        return
    if not is_array(value) or not jnp.issubdtype(value.dtype, kind):
        raise TypeError(f"`{name}` of the memory must be {what} = {shape}; got {describe(value)}: {_CONVERT}")
    if tuple(value.shape) != shape:
        raise ValueError(
            f"`{name}` of the memory must be {what} = {shape} to match its values; got shape {tuple(value.shape)}. S "
            "comes first, as time does"
        )


def _check_range(lengths: Any, steps: int) -> None:
    values = known(lengths)
    if values is None or values.size == 0:
        return
    if values.min() < 0 or values.max() > steps:
        raise ValueError(
            f"`lengths` of the memory must lie in 0…S = {steps}; got values from {values.min()} to {values.max()}"
        )
