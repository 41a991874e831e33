"""Masks, resets and directions: `where`, never a product, so that NaN on the side not taken does no harm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._types import Array, State, over


def where(condition: Array | None, then: Any, otherwise: Any) -> Any:
    """Leaf by leaf, `condition` (*B) over the leading axes; None is never true."""
    if condition is None:
        return otherwise
    return jax.tree.map(lambda a, b: jnp.where(over(condition, b), a, b), then, otherwise)


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
    return shift(reset, reverse=True)


def flip(tree: Any, reverse: bool) -> Any:
    """Leaves (T, …) in the opposite order if `reverse`. JAX's own reverse parallel scan would swap its operands."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), tree) if reverse else tree


def shift(tree: Any, reverse: bool = False, first: Any = None) -> Any:
    """Leaves (T, …) one step later in the direction of time. Leaves (…) of `first`, or zeros, come in."""

    def moved(leaf: Array, one: Array | None = None) -> Array:
        new = jnp.zeros_like(leaf[:1]) if one is None else one[None]
        return jnp.concatenate([leaf[1:], new] if reverse else [new, leaf[:-1]])

    return jax.tree.map(moved, tree) if first is None else jax.tree.map(moved, tree, first)
