"""Unbiased online recurrent optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._types import Array, Params, Xs
from ._row import Row, add


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

    The ρ make the variance small; where one of two factors is zero, and with it their product, both are left out: they
    would add noise and no more. Each row of the batch draws signs of its own, from `key`.

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
        return _balanced(signs, direct)

    def advance(
        self, row: Row, params: Params, trace: UOROTrace, old: Array, x: Xs, key: Any
    ) -> tuple[Array, UOROTrace]:
        new, pull = jax.vjp(lambda params: row.step(params, old, x), params)
        carried = jax.jvp(lambda old: row.step(params, old, x), (old,), (trace.state,))[1]
        signs = jax.random.rademacher(key, new.shape, new.dtype)
        (direct,) = pull(signs)
        return new, add(_balanced(carried, trace.params), _balanced(signs, direct))

    def gradient(self, row: Row, params: Params, trace: UOROTrace, d_state: Array) -> Params:
        signal = jnp.vdot(d_state, trace.state, precision="highest")
        return jax.tree.map(lambda leaf: signal * leaf, trace.params)


def _balanced(state: Array, params: Params) -> UOROTrace:
    """ρ s̃ and θ̃ / ρ, as long as each other; zeros where their product is zero."""
    sizes = _norm(state), _norm(params)
    # NaN is not zero, and stays
    none = (sizes[0] == 0) | (sizes[1] == 0)
    ratio = jnp.sqrt(jnp.where(none, 1, sizes[1]) / jnp.where(none, 1, sizes[0]))
    pair = UOROTrace(ratio * state, jax.tree.map(lambda leaf: leaf / ratio, params))
    return jax.tree.map(lambda leaf: jnp.where(none, 0, leaf), pair)


def _norm(tree: Any) -> Array:
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares[1:], squares[0]))
