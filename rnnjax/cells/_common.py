"""What the constructors and initialisers of many cells share."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .. import initializers
from .._errors import check_size, floating, is_array, known
from .._struct import set_field
from .._types import Array, DTypeLike, Gates, Key, at_least_float32
from ..activations import canonical


def settle(cell: Any, *activations: str) -> None:
    """Checks `hidden_size`, and brings activations and compute dtype to their names."""
    check_size("hidden_size", cell.hidden_size)
    for name in activations:
        set_field(cell, name, canonical(getattr(cell, name)))
    settle_compute_dtype(cell)


def settle_compute_dtype(owner: Any) -> None:
    """Brings a compute dtype to its name, which prints, pickles and compares: NumPy holds dtype("float64") equal to
    None."""
    if owner.compute_dtype is not None:
        set_field(owner, "compute_dtype", floating("compute_dtype", owner.compute_dtype).name)


def settle_number(cell: Any, name: str) -> None:
    """Turns a Python integer leaf into a float, so that 1 and 1.0 are one trace."""
    value = getattr(cell, name)
    if isinstance(value, (bool, str, list, tuple)) or value is None:
        raise TypeError(f"`{name}` must be a number, or an array with one for each unit; got {value!r}")
    if isinstance(value, int):
        set_field(cell, name, float(value))


def choice(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}; got {value!r}")


def forget_bias(
    cell: Any,
    key: Key,
    dtype: DTypeLike,
    *,
    gates: int,
    forget: int,
    inputs: int | None = None,
    name: str = "forget_bias",
) -> Array:
    """b (G·H): zero, with the cell's field `name` for the gate at place `forget` (of a GRU, the update gate), or chrono
    biases for it and for the gate at place `inputs` when the cell has a `max_time`."""
    size, max_time = cell.hidden_size, getattr(cell, "max_time", None)
    blocks = [jnp.zeros((size,), dtype) for _ in range(gates)]
    if max_time is None:
        blocks[forget] = across(name, getattr(cell, name), (size,), dtype)
    else:
        blocks[forget] = initializers.chrono(key, size, max_time, dtype)
        if inputs is not None:
            blocks[inputs] = -blocks[forget]
    return jnp.concatenate(blocks)


def settle_positive(cell: Any, name: str) -> None:
    """`settle_number`, and raises if a number is not positive; what is traced passes."""
    settle_number(cell, name)
    value = getattr(cell, name)
    if not is_array(value):
        check_positive_number(name, value)
    numbers_of = known(value)
    if numbers_of is not None and not (numbers_of > 0).all():
        raise ValueError(f"`{name}` must be above 0; got {value}")


def check_positive_number(name: str, value: Any) -> None:
    """Raises unless `value` is a positive Python number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a positive number; got {value!r} of type {type(value).__name__}")
    if not float(value) > 0:
        raise ValueError(f"`{name}` must be above 0; got {value}")


def check_max_time(max_time: Any) -> None:
    """Raises unless `max_time` is None or an integer that is large enough for chrono initialisation."""
    if max_time is not None:
        check_size("max_time", max_time)
        initializers.check_chrono(max_time)


def across(name: str, value: Any, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A cell's number, or its one number for each feature, as an array of `shape` (…, H)."""
    if jnp.shape(value) not in ((), shape[-1:]):
        raise ValueError(
            f"`{name}` must be one number or one for each feature, {shape[-1:]}; got shape {jnp.shape(value)}. For "
            "several models at once, `vmap` over the cell"
        )
    return jnp.broadcast_to(jnp.asarray(value, dtype), shape)


def scale(x: Array, gain: Array) -> Array:
    """x (…, H) ⊙ gain (H), written so that it holds when rank promotion is an error."""
    return x * jnp.broadcast_to(gain.astype(x.dtype), x.shape)


def standardize(gates: Gates, epsilon: float) -> Gates:
    """(z − μ) / √(σ² + ε), mean and variance over the features of all these gates together."""
    size = sum(gate.shape[-1] for gate in gates)
    mean = sum(gate.sum(-1, keepdims=True) for gate in gates) / size
    centred = tuple(gate - mean for gate in gates)
    variance = sum((gate * gate).sum(-1, keepdims=True) for gate in centred) / size
    return tuple(gate * lax.rsqrt(variance + epsilon) for gate in centred)


def drop_scale(key: Key, name: str, rate: Any, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """What inverted dropout multiplies with: 0 with probability `rate`, elsewhere 1 / (1 − rate)."""
    rate = across(name, rate, shape, at_least_float32(dtype))
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(keep, 1 / (1 - rate), jnp.zeros_like(rate)).astype(dtype)


def other_dropout(cell: Any) -> str:
    """What else regularises a cell that a wrapper which drops something refuses."""
    return "`Dropout` between layers" if cell.scaled else "`Zoneout`"


def abstract_params(cell: Any) -> Any:
    """Shapes of a cell's parameters for inputs of its own size; some cells take no other."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), cell.hidden_size))


def abstract_state(cell: Any, batch_shape: tuple[int, ...]) -> Any:
    """Shapes of a cell's state, which do not depend on the size of its inputs."""
    return jax.eval_shape(lambda params: cell.initial_state(params, batch_shape), abstract_params(cell))


def positive_activation(x: Array) -> Array:
    """g(x) = x + ½ for x ≥ 0 and σ(x) below: continuous and above 0 everywhere."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


def check_as_many_features(cell: Any, in_size: int) -> None:
    """Raises ValueError unless inputs have as many features as the cell."""
    if in_size != cell.hidden_size:
        raise ValueError(
            f"`in_size` must be `hidden_size` = {cell.hidden_size} for {type(cell).__name__}, whose inputs enter "
            f"unit by unit; got {in_size}: put a `Dense({cell.hidden_size})` in front"
        )


def check_own_state(wrapper: Any) -> None:
    """Raises TypeError for a wrapper around a cell whose state depends on the `context` of a call."""
    if wrapper.cell.contextual:
        raise TypeError(
            f"`cell` must be one whose state does not depend on the `context` of a call; got {wrapper.cell!r}: put "
            f"`{type(wrapper).__name__}` inside, around the recurrent cell"
        )
