"""Unbiased online recurrent optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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

    The ρ make the variance small. Each row of the batch draws signs of its own, from `key`.

    References:
        Tallec, Ollivier 2017, Unbiased online recurrent optimization, arXiv:1702.05043.
    """

    random = True

    def check(self, row: Row, in_size: int) -> None:
        """It fits every cell."""

    def start(self, row: Row, params: Params) -> UOROTrace:
        state = row.start(params)
        return UOROTrace(jnp.zeros_like(state), jax.tree.map(jnp.zeros_like, params))

    def advance(
        self, row: Row, params: Params, trace: UOROTrace, old: Array, x: Xs, key: Any
    ) -> tuple[Array, UOROTrace]:
        new, pull = jax.vjp(lambda params: row.step(params, old, x), params)
        carried = jax.jvp(lambda old: row.step(params, old, x), (old,), (trace.state,))[1]
        signs = jax.random.rademacher(key, new.shape, new.dtype)
        (direct,) = pull(signs)
        norm = partial(_norm, new.dtype)
        keep, enter = _ratio(norm(trace.params), norm(carried)), _ratio(norm(direct), norm(signs))
        state = keep * carried + enter * signs
        return new, UOROTrace(state, jax.tree.map(lambda a, b: _over(a, keep) + _over(b, enter), trace.params, direct))

    def gradient(self, row: Row, params: Params, trace: UOROTrace, d_state: Array) -> Params:
        signal = jnp.vdot(d_state, trace.state, precision="highest")
        return jax.tree.map(lambda leaf: signal.astype(leaf.dtype) * leaf, trace.params)


def _norm(dtype: Any, tree: Any) -> Array:
    squares = [jnp.sum(jnp.square(leaf.astype(dtype))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares[1:], squares[0]))


def _ratio(a: Array, b: Array) -> Array:
    """√(a / b); where one of them is zero, so is its product with whatever it balances, and any number is right."""
    fit = (a > 0) & (b > 0)
    return jnp.where(fit, jnp.sqrt(jnp.where(fit, a, 1) / jnp.where(fit, b, 1)), 1)


def _over(leaf: Array, ratio: Array) -> Array:
    return leaf / ratio.astype(leaf.dtype)
