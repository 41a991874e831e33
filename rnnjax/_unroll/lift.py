"""Masks and resets around a step: `where`, never a product, so that NaN on the side not taken does no harm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array, State


def where(condition: Array | None, then: Any, otherwise: Any) -> Any:
    """Leaf by leaf, `condition` (*B) over the leading axes; None is never true."""
    if condition is None:
        return otherwise
    return jax.tree.map(lambda a, b: jnp.where(over(condition, b), a, b), then, otherwise)


def over(condition: Array, leaf: Array) -> Array:
    """`condition` with trailing axes of length 1 added until it broadcasts over `leaf`."""
    condition = condition.reshape(condition.shape + (1,) * (leaf.ndim - condition.ndim))
    return jnp.broadcast_to(condition, leaf.shape)


def hold(mask: Array | None, new: State, old: State) -> State:
    """The new state where the step is valid and the old one elsewhere."""
    return new if mask is None else where(mask, new, old)


def zero_where_masked(mask: Array | None, values: Any) -> Any:
    """Zeros at masked steps; `mask` (T, *B), leaves (T, *B, …)."""
    if mask is None:
        return values
    return where(mask, values, jax.tree.map(jnp.zeros_like, values))


def lengths_to_mask(lengths: Array, steps: int) -> Array:
    """mask (T, *B): True for t < lengths."""
    times = jnp.arange(steps).reshape((steps,) + (1,) * lengths.ndim)
    shape = (steps, *lengths.shape)
    return jnp.broadcast_to(times, shape) < jnp.broadcast_to(lengths[None].astype(times.dtype), shape)


def valid_steps(lengths: Array | None, mask: Array | None, steps: int) -> Array | None:
    """mask (T, *B) of the steps that both `lengths` and `mask` allow, or None where neither is given."""
    if lengths is None:
        return mask
    valid = lengths_to_mask(lengths, steps)
    return valid if mask is None else mask & valid


def along(reset: Array | None, reverse: bool) -> Array | None:
    """Resets relative to the direction. `reset[t]` lies between t − 1 and t: backwards it acts before step t − 1."""
    if reset is None or not reverse:
        return reset
    return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
