"""Initial values for recurrent weights and biases.

Orthogonal draws are made in float32 and then cast, because the QR decomposition refuses half precision.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ._errors import check_size
from ._types import Array, DTypeLike, Key, at_least_float32


def glorot_uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, *, gates: int = 1) -> Array:
    """Uniform on ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), the fans counted per gate.

    `shape` is (*receptive field, I, G·H).
    """
    field = math.prod(shape[:-2])
    limit = math.sqrt(6 / (field * (shape[-2] + shape[-1] // gates)))
    return jax.random.uniform(key, shape, at_least_float32(dtype), -limit, limit).astype(dtype)


def orthogonal(key: Key, size: int, gates: int = 1, dtype: DTypeLike = jnp.float32, scale: float = 1.0) -> Array:
    """u (H, G·H) with one orthogonal H × H block per gate (Saxe et al. 2013, arXiv:1312.6120)."""
    exact = at_least_float32(dtype)
    blocks = jax.vmap(lambda k: jax.random.orthogonal(k, size, dtype=exact))(jax.random.split(key, gates))
    return (scale * jnp.moveaxis(blocks, 0, 1).reshape(size, gates * size)).astype(dtype)


def identity(size: int, gates: int = 1, dtype: DTypeLike = jnp.float32, scale: float = 1.0) -> Array:
    """u (H, G·H) with `scale` times the identity in every gate's block: with relu, the IRNN (Le et al. 2015,
    arXiv:1504.00941)."""
    return jnp.tile(scale * jnp.eye(size, dtype=dtype), (1, gates))


def recurrent(kind: str, key: Key, size: int, gates: int, dtype: DTypeLike) -> Array:
    """The recurrent initialiser of a cell by its name, "orthogonal" or "identity"."""
    return identity(size, gates, dtype) if kind == "identity" else orthogonal(key, size, gates, dtype)


def chrono(key: Key, size: int, max_time: int, dtype: DTypeLike = jnp.float32) -> Array:
    """Forget-gate biases log u, u ~ U(1, T_max − 1), for dependencies of up to `max_time` steps; the input gate takes
    the negative (Tallec & Ollivier 2018, arXiv:1804.11188)."""
    check_size("max_time", max_time)
    if max_time < 3:
        raise ValueError(f"`max_time` must be at least 3 time steps for chrono initialisation; got {max_time}")
    exact = at_least_float32(dtype)
    return jnp.log(jax.random.uniform(key, (size,), exact, 1.0, max_time - 1.0)).astype(dtype)
