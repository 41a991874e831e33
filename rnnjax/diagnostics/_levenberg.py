"""Nonlinear least squares from many starts at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._types import Array
from ._flat import exact

Map = Callable[[Array], Array]


class Search(NamedTuple):
    """Where a search stands: the point, q there, the damping, steps taken, steps in a row that gained little, and
    whether it has ended. Of many searches, every array leads with (N)."""

    point: Array
    q: Array
    damping: Array
    steps: Array
    idle: Array
    ended: Array


@exact
def minimise(
    residual: Map, jacobian: Map, starts: Array, tolerance: float | Array, iterations: int, together: int
) -> tuple[Array, Array]:
    """Local minima of q(s) = ½ |r(s)|² from starts (N, S), and q there, by the method of Levenberg and Marquardt.

    (JᵀJ + μ 1) δ = −Jᵀ r,    J = ∂r/∂s,    μ = damping · |r|

    With μ in proportion to |r| the last steps converge as Newton's do. `met` says what is within the tolerance. So many
    searches at a time take a step; one that has ended makes room for the next, so that none waits for the slowest.
    """
    rows = starts.shape[0]
    together = min(together, rows)
    q = jax.vmap(lambda s: _half_square(residual(s)))(starts)
    count = jnp.zeros((rows,), jnp.int32)
    first = Search(starts, q, jnp.full_like(q, 0.1), count, count, ~jnp.isfinite(q))

    def step(all_: Search) -> Search:
        chosen = jnp.argsort(all_.ended, stable=True)[:together]
        some = jax.tree.map(lambda leaf: leaf[chosen], all_)
        moved = jax.vmap(lambda one: _step(residual, jacobian, one, tolerance, iterations))(some)
        return jax.tree.map(lambda leaf, new: leaf.at[chosen].set(new), all_, moved)

    last = jax.lax.while_loop(lambda all_: ~all_.ended.all(), step, first) if rows else first
    return last.point, last.q


def _step(residual: Map, jacobian: Map, at: Search, tolerance: float | Array, iterations: int) -> Search:
    """One step, which is taken if it lowers q.

    A search ends once the tolerance is met and q no longer quartered, once no step lowers q, or once three in a
    row have lowered it by less than a tenth: that is a local minimum, or a slope on which it would take for ever.
    """
    r, slope = residual(at.point), jacobian(at.point)
    normal = slope.T @ slope + at.damping * jnp.sqrt(2 * at.q) * jnp.eye(r.size, dtype=r.dtype)
    factor = jnp.linalg.cholesky(normal)
    point = at.point - jax.scipy.linalg.cho_solve((factor, True), slope.T @ r)
    q = _half_square(residual(point))
    lower = q < at.q
    idle = jnp.where(lower, jnp.where(q > 0.9 * at.q, at.idle + 1, 0), at.idle)
    near = met(at.point, at.q, tolerance)
    arrived = near & ~(q < 0.25 * at.q)
    stuck = ~near & ((idle >= 3) | (~lower & (at.damping > 1e6)))
    moved = Search(
        point=jnp.where(lower, point, at.point),
        q=jnp.where(lower, q, at.q),
        damping=jnp.where(lower, jnp.maximum(at.damping / 5, 1e-6), at.damping * 4),
        steps=at.steps + 1,
        idle=idle,
        ended=arrived | stuck | (at.steps + 1 >= iterations),
    )
    return jax.tree.map(lambda old, new: jnp.where(at.ended, old, new), at, moved)


def met(points: Array, q: Array, tolerance: float | Array) -> Array:
    """Whether q (…) at points (…, S) is no more than the tolerance, or than rounding of the points leaves, (ε |s|)²."""
    rounding = (jnp.finfo(points.dtype).eps * jnp.linalg.norm(points, axis=-1)) ** 2
    return q <= jnp.maximum(tolerance, rounding)


def _half_square(r: Array) -> Array:
    return 0.5 * jnp.vdot(r, r)
