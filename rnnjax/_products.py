"""Products with weights and biases, and packed gates."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ._types import Array, Bias, Gates, at_least_float32, default_platform, explicit_spec


def dot(x: Array, w: Array) -> Array:
    """x (…, I) times w (I, O) in the dtype of w, accumulated and returned in at least float32."""
    leading = x.shape[:-1]
    # Over several axes XLA copies the cotangents, transposed, for the gradient of w. Axes that may be divided over
    # devices stay apart.
    joined = len(leading) > 1 and jax.device_count() == 1 and explicit_spec(x) is None
    rows = x.reshape(math.prod(leading), x.shape[-1]) if joined else x
    accumulator = at_least_float32(w.dtype)
    product = lax.dot_general(
        rows.astype(w.dtype), w, (((rows.ndim - 1,), (0,)), ((), ())), preferred_element_type=accumulator
    )
    return product.reshape(*leading, w.shape[1]) if joined else product


def affine(x: Array, w: Array, b: Array | None) -> Array:
    """x (…, I) times w (I, O) plus b (O), as `dot`; None is no bias."""
    return dot(x, w) if b is None else add_bias(dot(x, w), b)


def add_bias(x: Array, b: Array) -> Array:
    """x (…, O) + b (O), written so that it holds when rank promotion is an error."""
    return x + jnp.broadcast_to(b.astype(x.dtype), x.shape)


def split_gates(x: Array, gates: int) -> Gates:
    """x (…, G·H) as one array (…, H) per gate."""
    return tuple(jnp.split(x, gates, axis=-1))


def split_bias(b: Bias, gates: int) -> tuple[Array | None, ...]:
    """The bias of each gate: None is none for any, an array (G·H) has a part for each, a tuple says it itself."""
    if b is None:
        return (None,) * gates
    return b if isinstance(b, tuple) else split_gates(b, gates)


def recurrent_gates(hidden: Array, u: Array, biases: tuple[Array | None, ...]) -> Gates:
    """hidden (*B, H) times u (H, G·H), one product for all gates, plus the bias of each, as one array per gate."""
    products = split_gates(dot(hidden, u), len(biases))
    return tuple(a if b is None else add_bias(a, b) for a, b in zip(products, biases, strict=True))


def input_gates(w: Array, b: Bias, gates: int) -> Callable[[Array], Gates]:
    """The map from x (T, *B, I) to x w + b as one array per gate, with its weights cut up once for all calls.

    One product a gate: XLA:CPU reads such arrays in the loop at twice the speed of slices of one. There a bias is one
    more row of w, because adding it is one more pass over memory; elsewhere the addition fuses with what reads it.
    """
    as_row = False
    if b is not None and not isinstance(b, tuple) and b.dtype == w.dtype and default_platform() == "cpu":
        as_row, w, b = True, jnp.concatenate([w, b[None]], axis=0), None
    parts, biases = split_gates(w, gates), split_bias(b, gates)

    def project(x: Array) -> Gates:
        if as_row:
            x = jnp.concatenate([x.astype(w.dtype), jnp.ones_like(x[..., :1], w.dtype)], axis=-1)
        return tuple(affine(x, part, bias) for part, bias in zip(parts, biases, strict=True))

    return project


def project_gates(x: Array, w: Array, b: Bias, gates: int) -> Gates:
    """x (T, *B, I) times w (I, G·H) plus b, as one array per gate."""
    return input_gates(w, b, gates)(x)
