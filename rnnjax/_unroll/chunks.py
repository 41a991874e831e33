"""Loops over chunks of time, with a shorter last chunk where the length does not divide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Chunks(NamedTuple):
    """Whole chunks stacked on a leading axis (n, K, …), and the shorter rest (R, …) that is processed after them.

    Running forwards the rest is the end of the sequence, running backwards its beginning. Either may be None.
    """

    whole: Any
    rest: Any


def split(xs: Any, steps: int, length: int, reverse: bool) -> Chunks:
    """Cuts leaves (T, …) into chunks of `length` steps; one chunk or less is all rest."""
    if length >= steps:
        return Chunks(None, xs)
    count, rest = divmod(steps, length)
    head, tail = (slice(rest, None), slice(0, rest)) if reverse else (slice(0, steps - rest), slice(steps - rest, None))
    whole = jax.tree.map(lambda leaf: leaf[head].reshape((count, length, *leaf.shape[1:])), xs)
    return Chunks(whole, jax.tree.map(lambda leaf: leaf[tail], xs) if rest else None)


def join(chunks: Chunks, reverse: bool) -> Any:
    """Undoes `split`."""
    if chunks.whole is None:
        return chunks.rest
    whole = jax.tree.map(lambda leaf: leaf.reshape((leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])), chunks.whole)
    if chunks.rest is None:
        return whole
    first, last = (chunks.rest, whole) if reverse else (whole, chunks.rest)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)


def scan(f: Callable[..., Any], carry: Any, chunks: Chunks, reverse: bool, *, undo: bool = False) -> tuple[Any, Chunks]:
    """`lax.scan` of `f` over chunks. `undo` walks them in the opposite order, as a backward pass does."""
    whole = rest = None
    if undo and chunks.rest is not None:
        carry, rest = f(carry, chunks.rest)
    if chunks.whole is not None:
        carry, whole = lax.scan(f, carry, chunks.whole, reverse=reverse != undo)
    if not undo and chunks.rest is not None:
        carry, rest = f(carry, chunks.rest)
    return carry, Chunks(whole, rest)


def in_pieces(
    piece: Callable[..., Any], state: Any, xs: Any, steps: int, length: int, reverse: bool
) -> tuple[Any, Any]:
    """Last state and outputs of `piece(state, xs)`, run on `length` steps at a time. The backward pass keeps the state
    between pieces and forms the rest again."""
    parts = split(xs, steps, length, reverse)
    if parts.whole is not None:
        piece = jax.checkpoint(piece, prevent_cse=False)
    state, ys = scan(piece, state, parts, reverse)
    return state, join(ys, reverse)


def even_length(steps: int, target: int) -> int:
    """A chunk length near `target`, a divisor of `steps` where there is one between half and once and a half of it."""
    target = max(1, min(target, steps))
    near = [k for k in range((target + 1) // 2, min(steps, target * 3 // 2) + 1) if steps % k == 0]
    return min(near, key=lambda k: (abs(math.log(k / target)), k)) if near else target


def length(steps: int, remat: int | str) -> int:
    """The steps in a chunk that `remat` asks for: a number, or about √T for "state" and "sqrt"."""
    return even_length(steps, math.isqrt(steps)) if isinstance(remat, str) else remat
