"""Checks whose messages say what was expected, what came and how to mend it."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_size(name: str, value: Any) -> None:
    """Raises unless `value` is a positive integer: TypeError for another type, ValueError below 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` must be a positive integer; got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1; got {value}")


def check_flag(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False; got {value!r}")


def check_unit_interval(name: str, value: Any) -> None:
    """Raises if a number of `value` lies outside [0, 1]; what is traced passes."""
    if isinstance(value, (bool, str, list, tuple)) or value is None:
        raise TypeError(f"`{name}` must be a number in [0, 1], or an array of them; got {value!r}")
    numbers_of = known(value)
    if numbers_of is not None and not ((numbers_of >= 0) & (numbers_of <= 1)).all():
        raise ValueError(f"`{name}` must lie in [0, 1]; got {value}")


def check_rate(name: str, value: Any) -> None:
    """Raises if a number of `value` is no probability of dropping: it must lie in [0, 1)."""
    check_unit_interval(name, value)
    numbers_of = known(value)
    if numbers_of is not None and (numbers_of == 1).any():
        raise ValueError(f"`{name}` must be below 1, or nothing is left to scale up; got {value}")


def check_positive(name: str, value: Any) -> None:
    """Raises if a number is not positive; arrays of JAX pass."""
    _check_number(name, value, "positive", lambda number: number > 0)


def check_not_negative(name: str, value: Any) -> None:
    """Raises if a number is negative; arrays of JAX pass."""
    _check_number(name, value, "zero or positive", lambda number: number >= 0)


def _check_number(name: str, value: Any, what: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.ndarray, np.generic)):
        raise TypeError(f"`{name}` must be a number; got {value!r}")
    if np.ndim(value) == 0 and not holds(float(value)):
        raise ValueError(f"`{name}` must be {what}; got {value}")


def known(value: Any) -> np.ndarray | None:
    """The numbers of `value`, or None where they are traced, on another machine, or no numbers. As an array of NumPy's:
    under `jit` a reduction of a concrete JAX array would be traced."""
    if isinstance(value, (numbers.Real, np.generic, np.ndarray)):
        return np.asarray(value)
    here = isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_fully_addressable
    return np.asarray(value) if here else None


def floating(name: str, dtype: Any) -> Any:
    """A dtype as JAX names it; TypeError unless it is a real floating-point one."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"`{name}` must be a floating-point dtype such as float32 or bfloat16; got {dtype!r}")
    return found


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
    elif key.dtype != jnp.uint32 or key.shape != raw_key_shape():
        raise TypeError(f"`{name}` must be a JAX random key; got {describe(key)}: {hint}")


def raw_key_shape() -> tuple[int, ...]:
    """That of a key which is no key array but its numbers."""
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def is_array(value: Any) -> bool:
    """Whether `value` has a dtype and a shape, as arrays, tracers and shape structs have."""
    return hasattr(value, "dtype") and hasattr(value, "shape")


def describe(value: Any) -> str:
    """Dtype and shape of an array as one word, such as `float32(16, 8)`, or the name of another value's type."""
    return f"{value.dtype}{tuple(value.shape)}" if is_array(value) else type(value).__name__
