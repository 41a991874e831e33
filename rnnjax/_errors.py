"""Checks whose messages say what was expected, what came and how to mend it."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_size(name: str, value: Any) -> None:
    """Raises unless `value` is a positive integer: TypeError for another type, ValueError below 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` must be a positive integer; got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1; got {value}")


def check_unit_interval(name: str, value: Any) -> None:
    """Raises if the Python number `value` lies outside [0, 1]; arrays and tracers pass."""
    if isinstance(value, (bool, str)) or value is None:
        raise TypeError(f"`{name}` must be a number in [0, 1]; got {value!r}")
    if isinstance(value, (numbers.Real, np.generic)) and not 0 <= float(value) <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1]; got {value}")


def check_rate(name: str, value: Any) -> None:
    """Raises if the Python number `value` is no probability of dropping: it must lie in [0, 1)."""
    check_unit_interval(name, value)
    if isinstance(value, (numbers.Real, np.generic)) and float(value) == 1:
        raise ValueError(f"`{name}` must be below 1, or nothing is left to scale up; got {value}")


def check_key(name: str, key: Any) -> None:
    """Raises unless `key` is one JAX random key, typed or raw."""
    hint = "make one with `jax.random.key(0)`"
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"`{name}` must be a JAX random key; got {type(key).__name__}: {hint}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(
                f"`{name}` must be one key, of shape (); got keys of shape {key.shape}: use one, or `vmap`"
            )
    elif key.dtype != jnp.uint32 or key.shape != _raw_key_shape():
        raise TypeError(f"`{name}` must be a JAX random key; got {describe(key)}: {hint}")


def _raw_key_shape() -> tuple[int, ...]:
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def is_array(value: Any) -> bool:
    """Whether `value` has a dtype and a shape, as arrays, tracers and shape structs have."""
    return hasattr(value, "dtype") and hasattr(value, "shape")


def describe(value: Any) -> str:
    """Dtype and shape of an array as one word, such as `float32(16, 8)`, or the name of another value's type."""
    return f"{value.dtype}{tuple(value.shape)}" if is_array(value) else type(value).__name__
