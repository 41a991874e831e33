"""Matrix memories, a chunk of K steps at once. Inside a chunk the axes are (*B, N, K, D): N heads of D features.

With one decay for each head, the memory after step t is what step t sees of the one before the chunk, and what each
earlier step j wrote, decayed over the steps between: sums of logarithms, formed without differences of long sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .. import initializers
from .._cell import Marks
from .._errors import check_size
from .._types import Array, DTypeLike, Key, State, at_least_float32, over


def check_heads(cell: Any) -> None:
    """Raises unless `heads` divides `hidden_size`."""
    check_size("heads", cell.heads)
    if cell.hidden_size % cell.heads:
        raise ValueError(
            f"`heads` must divide `hidden_size`, so that every head has as many features; got {cell.heads} heads for "
            f"`hidden_size` = {cell.hidden_size}"
        )


def key_size(cell: Any, default: int) -> int:
    """Features of one head's key."""
    if cell.key_size is None:
        return default
    check_size("key_size", cell.key_size)
    return cell.key_size


def head_inputs(key: Key, in_size: int, sizes: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Input weights (I, Σ sizes), Glorot uniform for each size by itself."""
    keys = jax.random.split(key, len(sizes))
    drawn = [initializers.glorot_uniform(k, (in_size, size), dtype) for k, size in zip(keys, sizes, strict=True)]
    return jnp.concatenate(drawn, axis=1)


def initial_memory(cell: Any, keys: int, batch_shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Array, Array]:
    """Zeros for h (*B, H) and s (*B, N, D, V)."""
    shape = (cell.heads, keys, cell.hidden_size // cell.heads)
    return jnp.zeros((*batch_shape, cell.hidden_size), dtype), jnp.zeros((*batch_shape, *shape), dtype)


def split_heads(x: Array, heads: int) -> Array:
    """x (…, N·D) as (…, N, D)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: Array) -> Array:
    """x (…, N, D) as (…, N·D)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def head_product(x: Array, w: Array) -> Array:
    """x (…, N·D) times w (N, D, E), head by head, as (…, N, E) in at least float32."""
    heads = split_heads(x, w.shape[0]).astype(w.dtype)
    return jnp.einsum("...nd,nde->...ne", heads, w, preferred_element_type=at_least_float32(w.dtype))


def exact(equation: str, a: Array, b: Array) -> Array:
    """`einsum`, exact to the dtype on every device, of what is carried on: by default accelerators round factors."""
    return jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST)


def stored(k: Array, v: Array) -> Array:
    """What K steps add to a memory, Σ_j k_j v_jᵀ (…, D, V), of keys (…, K, D) and values (…, K, V)."""
    return exact("...jd,...je->...de", k, v)


def inside(x: Array, axes: int) -> Array:
    """x (K, *B, …) with the axis of steps in front of the last `axes` ones."""
    return jnp.moveaxis(x, 0, -1 - axes)


class Reach(NamedTuple):
    """What the steps of a chunk see.

    pairs: (K, K) or (*B, 1, K, K); at [t, j] whether step t sees what step j wrote: j ≤ t and no reset between.
    behind: (*B, 1, K) or None without resets; whether a reset lies before step t, which sees the boundary, not the
    state.
    """

    pairs: Array
    behind: Array | None

    @classmethod
    def of(cls, reset: Array | None, steps: int) -> Reach:
        """For resets (K, *B) or None."""
        pairs = jnp.tril(jnp.ones((steps, steps), bool))
        if reset is None:
            return cls(pairs, None)
        count = jnp.moveaxis(jnp.cumsum(reset, 0, dtype=jnp.int32), 0, -1)[..., None, :]
        same = count[..., :, None] == count[..., None, :]
        return cls(same & jnp.broadcast_to(pairs, same.shape), count > 0)

    def before(self, marks: Marks, state: State, read: Callable[[State], Array]) -> Array:
        """What each step reads of the state, or behind a reset of the boundary, (*B, N, K, …)."""
        start = read(state)
        if self.behind is None:
            return start
        return jnp.where(over(self.behind, start), read(marks.boundary), start)

    def last(self, marks: Marks, state: State, read: Callable[[State], Array]) -> Array:
        """What the last step reads of the state, or behind a reset of the boundary, (*B, N, …)."""
        start = read(state)
        if self.behind is None:
            return start
        return jnp.where(over(self.behind[..., -1], start), read(marks.boundary), start)

    def decays(self, g: Array) -> tuple[Array, Array]:
        """For the logarithms g (*B, N, K) of the steps' decays, those from step j, which is not among them, to step t
        (*B, N, K, K), −∞ out of reach, and those from before the chunk, or from the last reset, to step t (*B, N, K).
        """
        steps = g.shape[-1]
        square = (*g.shape, steps)
        pairs = jnp.broadcast_to(self.pairs, square)
        later = jnp.tril(jnp.broadcast_to(g[..., :, None], square), -1)
        between = exact("tl,...lj->...tj", jnp.tri(steps, dtype=g.dtype), later)
        past = jnp.where(pairs, jnp.broadcast_to(g[..., None, :], square), 0).sum(-1)
        return jnp.where(pairs, between, -jnp.inf), past


def latest(mask: Array | None, h: Array) -> Array:
    """h (K, *B, …) of the last valid step."""
    if mask is None:
        return h[-1]
    steps = jnp.arange(h.shape[0], dtype=jnp.int32).reshape(h.shape[0], *(1,) * (mask.ndim - 1))
    steps = jnp.broadcast_to(steps, mask.shape)
    last = steps == jnp.where(mask, steps, -1).max(0, keepdims=True)
    return jnp.where(over(last, h), h, 0).sum(0)
