"""Initial values for recurrent weights and biases.

Orthogonal draws are made in float32 and then cast, because the QR decomposition refuses half precision.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ._errors import check_size
from ._types import Array, DTypeLike, Key, at_least_float32

RecurrentInit: TypeAlias = Literal["orthogonal", "identity"]


def glorot_uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, *, gates: int = 1) -> Array:
    """Uniform on ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), the fans counted per gate.

    `shape` is (*receptive field, I, G·H).
    """
    field = math.prod(shape[:-2])
    limit = math.sqrt(6 / (field * (shape[-2] + shape[-1] // gates)))
    return jax.random.uniform(key, shape, at_least_float32(dtype), -limit, limit).astype(dtype)


def orthogonal(key: Key, size: int, gates: int = 1, dtype: DTypeLike = jnp.float32, scale: float = 1.0) -> Array:
    """u (H, G·H) with one orthogonal H × H block per gate (Saxe et al. 2013, arXiv:1312.6120)."""
    blocks = _orthogonal_blocks(key, size, gates, at_least_float32(dtype))
    return (scale * blocks).astype(dtype)


@partial(jax.jit, static_argnums=(1, 2, 3))  # a loop that is called as it is compiles every time
def _orthogonal_blocks(key: Key, size: int, gates: int, dtype: DTypeLike) -> Array:
    # one matrix at a time: on a CPU, decompositions of several hand parts to the threads that they run on, and two such
    # calls at once can wait for each other for ever (seen with jaxlib 0.10.2 on two threads)
    blocks = jax.lax.map(lambda k: jax.random.orthogonal(k, size, dtype=dtype), jax.random.split(key, gates))
    return jnp.moveaxis(blocks, 0, 1).reshape(size, gates * size)


def identity(size: int, gates: int = 1, dtype: DTypeLike = jnp.float32, scale: float = 1.0) -> Array:
    """u (H, G·H) with `scale` times the identity in every gate's block: with relu, the IRNN (Le et al. 2015,
    arXiv:1504.00941)."""
    return jnp.tile(scale * jnp.eye(size, dtype=dtype), (1, gates))


def recurrent(kind: RecurrentInit, key: Key, size: int, gates: int, dtype: DTypeLike) -> Array:
    """The recurrent initialiser of a cell by its name, "orthogonal" or "identity"; ValueError for another."""
    if kind not in get_args(RecurrentInit):
        raise ValueError(f"`kind` must be one of {', '.join(map(repr, get_args(RecurrentInit)))}; got {kind!r}")
    return identity(size, gates, dtype) if kind == "identity" else orthogonal(key, size, gates, dtype)


def check_chrono(max_time: int) -> None:
    """Raises ValueError for a time that is too short for `chrono`."""
    if max_time < 3:
        raise ValueError(f"`max_time` must be at least 3 time steps for chrono initialisation; got {max_time}")


def chrono(key: Key, size: int, max_time: int, dtype: DTypeLike = jnp.float32) -> Array:
    """Forget-gate biases log u, u ~ U(1, T_max − 1), for dependencies of up to `max_time` steps; the input gate takes
    the negative (Tallec & Ollivier 2018, arXiv:1804.11188)."""
    check_size("max_time", max_time)
    check_chrono(max_time)
    exact = at_least_float32(dtype)
    return jnp.log(jax.random.uniform(key, (size,), exact, 1.0, max_time - 1.0)).astype(dtype)


def ring(
    key: Key, size: int, r_min: float, r_max: float, max_phase: float, dtype: DTypeLike = jnp.float32
) -> tuple[Array, Array]:
    """ν and θ, each (N), of λ = exp(−exp ν + i exp θ), uniform on the ring r_min ≤ |λ| ≤ r_max of the complex plane
    between the angles 0 and `max_phase` (Orvieto et al. 2023, arXiv:2303.06349, lemma 3.2)."""
    exact = at_least_float32(dtype)
    key_radius, key_phase = jax.random.split(key)
    squared = jax.random.uniform(key_radius, (size,), exact, r_min**2, r_max**2)
    # a radius of 0 or 1 has no logarithm or none of its own
    squared = jnp.clip(squared, 1e-12, 1 - 1e-6)
    phase = jax.random.uniform(key_phase, (size,), exact, 1e-6 * max_phase, max_phase)
    return jnp.log(-0.5 * jnp.log(squared)).astype(dtype), jnp.log(phase).astype(dtype)


@lru_cache(maxsize=16)
def hippo(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Imaginary parts (N) and eigenvectors (2N, N) of the eigenvalues −½ + iω, ω > 0, of HiPPO-LegS's normal part.

    That is the real 2N × 2N matrix A with A[n, n] = −½ and A[n, k] = −√(n + ½) √(k + ½) = −A[k, n] for n > k (Gu et al.
    2022, arXiv:2206.11893). The other N are the conjugates of these.
    """
    root = np.sqrt(np.arange(2 * size) + 0.5)
    below = np.tril(np.outer(root, root), -1)
    phases, vectors = np.linalg.eigh(1j * (below - below.T))
    return phases[size:], vectors[:, size:]
