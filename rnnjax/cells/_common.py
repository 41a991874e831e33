"""What the constructors and initialisers of many cells share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .. import initializers
from .._errors import check_size
from .._struct import set_field
from .._types import Array, DTypeLike, Key
from ..activations import canonical


def settle(cell: Any, *activations: str) -> None:
    """Checks `hidden_size`, brings activations to their names and the compute dtype to a dtype."""
    check_size("hidden_size", cell.hidden_size)
    for name in activations:
        set_field(cell, name, canonical(getattr(cell, name)))
    if cell.compute_dtype is not None:
        dtype = jnp.dtype(cell.compute_dtype)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"`compute_dtype` must be a floating-point dtype such as bfloat16; got {dtype}")
        set_field(cell, "compute_dtype", dtype)


def settle_number(cell: Any, name: str) -> None:
    """Turns a Python integer leaf into a float, so that 1 and 1.0 are one trace."""
    value = getattr(cell, name)
    if isinstance(value, int) and not isinstance(value, bool):
        set_field(cell, name, float(value))


def choice(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}; got {value!r}")


def forget_bias(
    key: Key,
    size: int,
    gates: int,
    forget: int,
    inputs: int | None,
    bias: float,
    max_time: int | None,
    dtype: DTypeLike,
) -> Array:
    """b (G·H): zero, with `bias` for the forget gate, or chrono biases for forget and input gate when `max_time` is
    given."""
    blocks = [jnp.zeros((size,), dtype) for _ in range(gates)]
    if max_time is None:
        blocks[forget] = jnp.full((size,), bias, dtype)
    else:
        blocks[forget] = initializers.chrono(key, size, max_time, dtype)
        if inputs is not None:
            blocks[inputs] = -blocks[forget]
    return jnp.concatenate(blocks)
