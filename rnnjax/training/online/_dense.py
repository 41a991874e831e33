"""Real-time recurrent learning with the whole influence matrix, for small cells of any kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..._types import Array, Key, Params, Xs
from ._row import Row


@dataclass(frozen=True)
class DenseRTRL:
    """Real-time recurrent learning: the exact gradient of any cell, from the influence of every parameter on every
    number of the state.

    M_t = J_t M_{t-1} + ∂s_t/∂θ    J_t = ∂s_t/∂s_{t-1}    ∂L_t/∂θ = ∂L_t/∂s_t M_t

    Memory is N · |θ| for each row of the batch and time N² · |θ| for each step, N numbers in a row's state: for small
    cells, and to measure others by. `RTRL` is as exact where units do not see each other.

    References:
        Williams, Zipser 1989, A learning algorithm for continually running fully recurrent neural networks,
        doi:10.1162/neco.1989.1.2.270.
    """

    random = False

    def check(self, row: Row, in_size: int) -> None:
        """It fits every cell."""

    def start(self, row: Row, params: Params, key: Key | None) -> Params:
        """Leaves (N, *leaf.shape)."""
        pull = jax.vjp(row.start, params)[1]
        return jax.vmap(lambda basis: pull(basis)[0])(_eye(row))

    def advance(
        self, row: Row, params: Params, trace: Params, old: Array, x: Xs, key: Key | None
    ) -> tuple[Array, Params]:
        new, pull = jax.vjp(lambda params, old: row.step(params, old, x), params, old)
        direct, jacobian = jax.vmap(pull)(_eye(row))
        return new, jax.tree.map(lambda m, d: d + _times(jacobian, m), trace, direct)

    def gradient(self, row: Row, params: Params, trace: Params, d_state: Array) -> Params:
        return jax.tree.map(lambda m: _times(d_state[None], m)[0], trace)


def _eye(row: Row) -> Array:
    return jnp.eye(sum(row.parts.sizes), dtype=row.dtypes.state)


def _times(a: Array, b: Any) -> Array:
    """a (K, N) times b (N, …)."""
    return jnp.matmul(a, b.reshape(b.shape[0], -1), precision="highest").reshape(a.shape[0], *b.shape[1:])
