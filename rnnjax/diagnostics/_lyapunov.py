"""Lyapunov exponents, and gradient flossing, which holds them near zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._cell import Cell
from .._errors import check_size
from .._types import Array, Params, State, Xs
from ._flat import flat_cell


class Lyapunov(NamedTuple):
    """exponents: in falling order, (*B, K), per step; of a state that is not finite, NaN, and −inf of a direction that
        steps forget altogether, as units of relu that are off do.
    local: log |R_ii| of every step that counts, (T − warmup, *B, K), in the order of the directions; −inf where R_ii is
        0, and where it is no more than rounding if at most of the steps it is.
    state: the state at the end of the trajectory.
    """

    exponents: Array
    local: Array
    state: State


@partial(jax.jit, static_argnames=("count", "warmup"))
def lyapunov_exponents(
    cell: Cell, params: Params, xs: Xs, state: State | None = None, *, count: int | None = None, warmup: int = 0
) -> Lyapunov:
    """Lyapunov exponents of a cell driven by inputs: the rates at which small changes of state grow or fade.

    J_t Q_{t-1} = Q_t R_t,    λ_i = mean_t log |R_t,ii|

    J_t is the step's Jacobian along the trajectory, Q orthonormal and at first random. Above zero is chaos, below zero
    forgetting: an exponent λ keeps a memory for about −1/λ steps. Rows are separate trajectories. It differentiates.

    What a singular J_t leaves of a direction is rounding, |R_t,ii| ≤ S ε (‖J_t q_i‖ + ‖J_t (g ⊙ q_i)‖) with ε of the
    dtype and g drawn once from a normal distribution: as much as numbers of q_i that are off by ε change. A direction
    of which most steps leave no more has the exponent −inf; fewer such steps count as they are, so that its exponent is
    finite and depends on the dtype.

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`. There is no mask: pass rows of one length.
        count: K, how many of the largest exponents; None is all S, the numbers of one state.
        warmup: steps at the beginning that turn the directions and are not averaged, of the T of `xs`.

    Raises:
        ValueError: if no step is left after `warmup`, or `count` exceeds S.
        TypeError: if the step has no forward derivative.

    References:
        Vogt, Puelma Touzel, Shlizerman, Lajoie 2022, On Lyapunov exponents for RNNs, arXiv:2006.14123.
        Engelken, Wolf, Abbott 2023, Lyapunov spectra of chaotic recurrent neural networks, arXiv:2006.02427.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=2, activation="identity")
    >>> params = cell.init(jax.random.key(0), in_size=1)._replace(u=jnp.array([[0.5, 1.0], [0.0, 2.0]]))
    >>> found = rj.diagnostics.lyapunov_exponents(cell, params, jnp.zeros((100, 1)), warmup=50)
    >>> [round(float(x), 4) for x in jnp.exp(found.exponents)]
    [2.0, 0.5]
    """
    flat = flat_cell(cell, params, xs, state, differentiate=True)
    end, local = _along(flat.step, flat.start, flat.z, count, warmup)
    local = local.reshape(local.shape[0], *flat.batch_shape, local.shape[-1])
    return Lyapunov(_mean(local), local, flat.state(end, flat.batch_shape))


@partial(jax.jit, static_argnames=("step", "steps", "count", "warmup"))
def lyapunov_exponents_of_map(
    step: Callable[[Array], Array], state: Array, steps: int, *, count: int | None = None, warmup: int = 0
) -> Lyapunov:
    """Lyapunov exponents of any map of vectors, per application of the map.

    Args:
        step: a differentiable function (S) -> (S).
        state: where it starts, (S); `vmap` over several.
        steps: how often the map is applied, the warm-up included.
        count, warmup: as for `lyapunov_exponents`.

    Raises:
        ValueError: if `state` is no vector, no step is left after `warmup`, or `count` exceeds S.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> cat = lambda s: (jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ s) % 1
    >>> found = rj.diagnostics.lyapunov_exponents_of_map(cat, jnp.array([0.3, 0.4]), 200, warmup=100)
    >>> [round(float(x), 4) for x in found.exponents]
    [0.9624, -0.9624]
    """
    if jnp.ndim(state) != 1:
        raise ValueError(f"`state` must be a vector (S); got shape {jnp.shape(state)}: `vmap` over several")
    check_size("steps", steps)
    end, local = _along(lambda s, _: step(s), state[None], jnp.zeros((steps, 1, 0), state.dtype), count, warmup)
    return Lyapunov(_mean(local[:, 0]), local[:, 0], end[0])


def _mean(local: Array) -> Array:
    return -jnp.sort(-local.mean(0), axis=-1)


def _along(step: Callable[..., Array], start: Array, z: Any, count: int | None, warmup: int) -> tuple[Array, Array]:
    """Last states (N, S), and log |R_ii| of the steps after the warm-up, (T − warmup, N, K), −inf for `Lyapunov`'s."""
    rows, size = start.shape
    count = size if count is None else count
    check_size("count", count)
    if count > size:
        raise ValueError(f"`count` must be at most S = {size}, the numbers of one state; got {count}")
    steps = jax.tree.leaves(z)[0].shape[0]
    if not 0 <= warmup < steps:
        raise ValueError(f"`warmup` must leave at least one of the {steps} steps of the trajectory; got {warmup}")

    def one(s: Array, q: Array, z: Any) -> tuple[Array, Array, tuple[Array, Array]]:
        new, push = jax.linearize(lambda s: step(s, z), s)
        pushed = jax.vmap(push, in_axes=1, out_axes=1)(jnp.concatenate([q, weights * q], 1))
        least = size * jnp.finfo(q.dtype).eps * jnp.linalg.norm(lax.stop_gradient(pushed), axis=0)
        q, r = jnp.linalg.qr(pushed[:, :count])
        rates = jnp.abs(jnp.diagonal(r))
        return new, q, (rates, rates <= least[:count] + least[count:])

    def body(carry: tuple[Array, Array], z: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        s, q, local = jax.vmap(one)(*carry, z)
        return (s, q), local

    # a random frame: axes of the state may be invariant under the map, and then stay in the wrong order
    frame, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, count), start.dtype))
    weights = jax.random.normal(jax.random.key(1), (size, count), start.dtype)
    carry = start, jnp.broadcast_to(frame, (rows, size, count))
    (end, _), local = lax.scan(body, carry, z)
    rates, rounded = jax.tree.map(lambda leaf: leaf[warmup:], local)
    forgotten = (rates == 0) | (rounded & (rounded.mean(0, keepdims=True) > 0.5))
    return end, jnp.where(forgotten, -jnp.inf, jnp.log(jnp.where(forgotten, 1, rates)))


def flossing(
    cell: Cell,
    params: Params,
    xs: Xs,
    state: State | None = None,
    *,
    count: int,
    warmup: int = 0,
    target: float | Array = 0.0,
) -> Array:
    """Gradient flossing: a term of the loss that holds the largest Lyapunov exponents near zero.

    mean_b Σ_{i ≤ K} (λ_i − target)²

    Zero exponents are directions in which gradients neither vanish nor explode. Add it before training, or now and then
    during it, with a small weight. Gradients pass through the QR decompositions.

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`.
        count: K, how many of the largest exponents. An exponent of −inf makes the term infinite: take fewer.
        warmup: steps at the beginning that turn the directions and do not count.
        target: what the exponents are drawn to, a number or (K).

    Returns:
        a scalar.

    References:
        Engelken 2023, Gradient flossing: improving gradient descent through dynamic control of Jacobians,
        arXiv:2312.17306.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=1)
    >>> gradient = jax.grad(lambda p: rj.diagnostics.flossing(cell, p, jnp.ones((9, 1)), count=2))(params)
    >>> bool(jnp.isfinite(gradient.u).all())
    True
    """
    exponents = lyapunov_exponents(cell, params, xs, state, count=count, warmup=warmup).exponents
    wanted = jnp.broadcast_to(jnp.asarray(target, exponents.dtype), exponents.shape)
    return ((exponents - wanted) ** 2).sum(-1).mean()
