"""The delta rule, a step and a chunk of steps at once.

S_t = α_t (S_{t-1} − β_t k_t k_tᵀ S_{t-1}) + β_t k_t v_tᵀ is a sum over earlier steps of decayed k_j u_jᵀ, where

    u_t + β_t Σ_{j<t} γ_tj (k_t·k_j) u_j = β_t (v_t − γ_t S₀ᵀ k_t),    γ_tj = α_{j+1} … α_t,    γ_t = α_1 … α_t

is a triangular system for the K vectors u of a chunk: the WY form of the product of its transitions (Yang et al. 2024,
arXiv:2406.06484, with α Yang et al. 2024, arXiv:2412.06464).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from .._cell import Marks
from .._types import Array, State
from ._memory import Reach, exact, inside, latest, merge_heads, stored


class DeltaInputs(NamedTuple):
    """q, k (T, *B, N, D), v (T, *B, N, V), beta (T, *B, N), log_a (T, *B, N) or None for no decay."""

    q: Array
    k: Array
    v: Array
    beta: Array
    log_a: Array | None


def unit(x: Array) -> Array:
    """x (…, D) of length 1, and of less where it is as short as 10⁻³ or shorter."""
    return x * lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def step(s: Array, z: DeltaInputs) -> tuple[Array, Array]:
    """What is read, (*B, N·V), and the memory (*B, N, D, V) after one step."""
    if z.log_a is not None:
        s = jnp.exp(z.log_a)[..., None, None] * s
    u = z.beta[..., None] * (z.v - exact("...d,...de->...e", z.k, s))
    s = s + z.k[..., None] * u[..., None, :]
    return merge_heads(jnp.einsum("...d,...de->...e", z.q, s)), s


def chunk(state: State, z: DeltaInputs, marks: Marks) -> tuple[Array, Array, Array]:
    """What is read last, the last memory, and what every step reads (steps, *B, N·V), from a state with a field s."""
    q, k, v = (inside(part, 1) for part in z[:3])
    beta = inside(z.beta, 0)
    log_a = jnp.zeros_like(beta) if z.log_a is None else inside(z.log_a, 0)
    if marks.mask is not None:
        valid = jnp.broadcast_to(inside(marks.mask, 0)[..., None, :], beta.shape)
        beta, log_a = jnp.where(valid, beta, 0), jnp.where(valid, log_a, 0)
    reach = Reach.of(marks.reset, q.shape[-2])
    between, past = map(jnp.exp, reach.decays(log_a))

    beta, past = beta[..., None], past[..., None]
    overlaps = jnp.tril(beta * exact("...td,...jd->...tj", k, k) * between, -1)
    wanted = beta * (v - past * reach.before(marks, state, lambda s: _product(k, s.s)))
    u = _product(_inverse(overlaps), wanted)
    weights = jnp.einsum("...td,...jd->...tj", q, k) * between
    h = weights @ u + past * reach.before(marks, state, lambda s: q @ s.s)
    h = merge_heads(jnp.moveaxis(h, -2, 0))

    k = k * between[..., -1, :, None]
    s = stored(k, u) + past[..., -1:, :] * reach.last(marks, state, lambda s: s.s)
    return latest(marks.mask, h), s, h


def _inverse(below: Array) -> Array:
    """(1 + L)⁻¹ for L (…, steps, steps) below the diagonal, from blocks of one row on, two of which make one:
    [[P, 0], [C, Q]]⁻¹ = [[P⁻¹, 0], [−Q⁻¹ C P⁻¹, Q⁻¹]].

    Products of matrices alone: on a CPU, triangular systems in a batch wait for threads (seen with jaxlib 0.10.2).
    """
    steps, size = below.shape[-1], 1
    rows = 1 << (steps - 1).bit_length()
    below = jnp.pad(below, [(0, 0)] * (below.ndim - 2) + [(0, rows - steps)] * 2)
    inverse = jnp.ones((*below.shape[:-1], 1, 1), below.dtype)
    while size < rows:
        blocks = below.reshape(*below.shape[:-2], rows // (2 * size), 2 * size, rows // (2 * size), 2 * size)
        blocks = jnp.moveaxis(jnp.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
        first, then = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -_product(_product(then, blocks[..., size:, :size]), first)
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([upper, jnp.concatenate([corner, then], axis=-1)], axis=-2)
        size *= 2
    return inverse[..., 0, :steps, :steps]


def _product(a: Array, b: Array) -> Array:
    return exact("...ij,...jk->...ik", a, b)
