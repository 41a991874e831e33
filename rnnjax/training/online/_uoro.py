"""Unbiased online recurrent optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._types import Array, Params, Xs
from ._row import Row


class UOROTrace(NamedTuple):
    """state (N) and params, whose outer product is the influence matrix in the mean."""

    state: Array
    params: Params


@dataclass(frozen=True)
class UORO:
    """Unbiased online recurrent optimisation: the influence matrix as one outer product s̃ θ̃, right in the mean over
    random signs ν, from N + |θ| numbers and for any cell.

    s̃_t = ρ₀ J_t s̃_{t-1} + ρ₁ ν    θ̃_t = θ̃_{t-1} / ρ₀ + ν ∂s_t/∂θ / ρ₁    ∂L_t/∂θ = (∂L_t/∂s_t · s̃_t) θ̃_t
    ρ₀ = √(|θ̃_{t-1}| / |J_t s̃_{t-1}|)    ρ₁ = √(|ν ∂s_t/∂θ| / |ν|)
    s̃_0 = ρ₁ ν, θ̃_0 = ν ∂s_0/∂θ / ρ₁ of a learned initial state, else 0

    The ρ make the variance small. Each row of the batch draws signs of its own, from `key`.

    References:
        Tallec, Ollivier 2017, Unbiased online recurrent optimization, arXiv:1702.05043.
    """

    random = True

    def check(self, row: Row, in_size: int) -> None:
        """It fits every cell."""

    def start(self, row: Row, params: Params, key: Any) -> UOROTrace:
        state, pull = jax.vjp(row.start, params)
        signs = jax.random.rademacher(key, state.shape, state.dtype)
        (direct,) = pull(signs)
        size = _norm(direct)
        enter = _ratio(size, _norm(signs))
        # where the initial state is not learned, signs would be noise and no more
        return UOROTrace(jnp.where(size > 0, enter * signs, 0), jax.tree.map(lambda leaf: leaf / enter, direct))

    def advance(
        self, row: Row, params: Params, trace: UOROTrace, old: Array, x: Xs, key: Any
    ) -> tuple[Array, UOROTrace]:
        new, pull = jax.vjp(lambda params: row.step(params, old, x), params)
        carried = jax.jvp(lambda old: row.step(params, old, x), (old,), (trace.state,))[1]
        signs = jax.random.rademacher(key, new.shape, new.dtype)
        (direct,) = pull(signs)
        keep, enter = _ratio(_norm(trace.params), _norm(carried)), _ratio(_norm(direct), _norm(signs))
        state = keep * carried + enter * signs
        return new, UOROTrace(state, jax.tree.map(lambda a, b: a / keep + b / enter, trace.params, direct))

    def gradient(self, row: Row, params: Params, trace: UOROTrace, d_state: Array) -> Params:
        signal = jnp.vdot(d_state, trace.state, precision="highest")
        return jax.tree.map(lambda leaf: signal * leaf, trace.params)


def _norm(tree: Any) -> Array:
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares[1:], squares[0]))


def _ratio(a: Array, b: Array) -> Array:
    """√(a / b); where one of them is zero, so is its product with whatever it balances, and any number is right."""
    fit = (a > 0) & (b > 0)
    return jnp.where(fit, jnp.sqrt(jnp.where(fit, a, 1) / jnp.where(fit, b, 1)), 1)
