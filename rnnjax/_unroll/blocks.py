"""Linear recurrences whose matrices are block-diagonal, all steps at once.

A vector is (T, *B, G, K), a matrix (T, *B, G, K, K): G blocks of K × K numbers. One block is a dense matrix, blocks of
one number a diagonal one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from .._types import Array
from .lift import shift

# below this size a sum of products fuses with what surrounds it
_LEAST_PRODUCT = 5


def times(a: Array, b: Array) -> Array:
    """The products of the blocks."""
    if a.shape[-1] == 1:
        return a * b
    if a.shape[-1] < _LEAST_PRODUCT:
        return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def act(a: Array, x: Array) -> Array:
    """The blocks of `a` times those of the vector."""
    if a.shape[-1] < _LEAST_PRODUCT:
        return (a * x[..., None, :]).sum(-1)
    return jnp.matmul(a, x[..., None], precision=lax.Precision.HIGHEST)[..., 0]


def transposed(a: Array) -> Array:
    """The transposes of the blocks."""
    return jnp.swapaxes(a, -1, -2)


def inverse(a: Array) -> Array:
    """The inverses of the blocks."""
    return 1 / a if a.shape[-1] == 1 else jnp.linalg.inv(a)


def solve(a: Array, b: Array) -> Array:
    """x_t = a_t x_{t-1} + b_t with x_{-1} = 0."""

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return times(then[0], first[0]), act(then[0], first[1]) + then[1]

    return lax.associative_scan(compose, (a, b))[1]


def solve_transposed(a: Array, b: Array) -> Array:
    """x_t = b_t + aᵀ_{t+1} x_{t+1} with x_T = 0."""
    later = transposed(shift(a, reverse=True))
    return jnp.flip(solve(jnp.flip(later, 0), jnp.flip(b, 0)), 0)


class _Filter(NamedTuple):
    """Some steps of a Kalman filter as one: the state behind them is a x + b with covariance c for the state x before
    them, of which what is observed within has the information j and the information vector eta."""

    a: Array
    b: Array
    c: Array
    eta: Array
    j: Array


def solve_damped(a: Array, b: Array, damping: Array) -> Array:
    """The x that minimises Σ_t |x_t − a_t x_{t-1} − b_t|² + damping Σ_t |x_t|², with a_0 = 0 and damping ≥ 0.

    It is the mean of a linear Gaussian system with noise of variance 1 that is observed as 0 with variance 1 / damping:
    a Kalman filter forwards and a smoother backwards, both parallel (Särkkä, García-Fernández 2021, arXiv:1905.13002).
    """
    eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    gain = damping / (1 + damping)
    at = transposed(a)
    one = _Filter((1 - gain) * a, (1 - gain) * b, (1 - gain) * eye, -gain * act(at, b), gain * times(at, a))
    seen = lax.associative_scan(lambda first, then: _compose(eye[:1], first, then), one)
    mean, covariance = seen.b, seen.c

    next_a, next_b = shift((a, b), reverse=True)
    carried = times(next_a, covariance)
    back = times(transposed(carried), inverse(times(carried, transposed(next_a)) + eye))
    rest = mean - act(back, act(next_a, mean) + next_b)
    return jnp.flip(solve(jnp.flip(back, 0), jnp.flip(rest, 0)), 0)


def _compose(eye: Array, first: _Filter, then: _Filter) -> _Filter:
    weight = inverse(jnp.broadcast_to(eye, first.c.shape) + times(first.c, then.j))
    through, back = times(then.a, weight), times(transposed(first.a), transposed(weight))
    return _Filter(
        a=times(through, first.a),
        b=act(through, first.b + act(first.c, then.eta)) + then.b,
        c=times(times(through, first.c), transposed(then.a)) + then.c,
        eta=act(back, then.eta - act(then.j, first.b)) + first.eta,
        j=times(times(back, then.j), first.a) + first.j,
    )
