"""Activations by name, with their derivatives written in terms of their outputs.

A gate's backward pass needs φ'(a), and for the usual activations φ' is a function of φ(a) alone, which the forward pass
has at hand: σ' = σ (1 − σ), tanh' = 1 − tanh². Activations without such a form leave their cell on the generic path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from ._types import Array

Activation: TypeAlias = str | Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    """σ(x) = ½ tanh(½ x) + ½: the values of 1 / (1 + e⁻ˣ) to the rounding of 1, without the division. Relative to a
    gate that is nearly shut the error is larger."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def hard_sigmoid(x: Array) -> Array:
    """min(max(x / 6 + ½, 0), 1), as in Keras 3, PyTorch and JAX (Keras 2 and ONNX divide by 5)."""
    return jnp.clip(x / 6 + 0.5, 0, 1)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


def hard_tanh(x: Array) -> Array:
    """x cut to [−1, 1]."""
    return jnp.clip(x, -1, 1)


def relu(x: Array) -> Array:
    """max(x, 0), with derivative 0 at 0."""
    return jax.nn.relu(x)


def identity(x: Array) -> Array:
    """x itself."""
    return x


def gelu(x: Array) -> Array:
    """x Φ(x) with Φ of the normal distribution, as in Keras 3 and PyTorch; "gelu_tanh" is JAX's approximation."""
    return jax.nn.gelu(x, approximate=False)


def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return jax.nn.soft_sign(x)


_NAMED: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "tanh": tanh,
    "hard_tanh": hard_tanh,
    "relu": relu,
    "identity": identity,
    "softsign": softsign,
    "silu": jax.nn.silu,
    "gelu": gelu,
    "gelu_tanh": jax.nn.gelu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}

_FROM_OUTPUT: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "relu": lambda y: (y > 0).astype(y.dtype),
    "identity": jnp.ones_like,
}


def activation(which: Activation) -> Callable[[Array], Array]:
    """The function behind a name or callable.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
        TypeError: for anything else that cannot be called.
    """
    if callable(which):
        return which
    if not isinstance(which, str):
        raise TypeError(f"an activation must be a name or a function of one array; got {which!r}")
    if which not in _NAMED:
        raise ValueError(f"unknown activation {which!r}; choose one of {', '.join(sorted(_NAMED))}, or pass a function")
    return _NAMED[which]


def derivative_from_output(which: Activation) -> Callable[[Array], Array] | None:
    """y ↦ φ'(φ⁻¹(y)) for the activations that have it, else None."""
    return _FROM_OUTPUT.get(which) if isinstance(which, str) else None


def _check(function: Callable[[Array], Array]) -> None:
    """Raises TypeError unless the function takes traced arrays and keeps their shape."""
    try:
        out = jax.eval_shape(lambda x: function(x), jax.ShapeDtypeStruct((2,), jnp.float32))
    except Exception as error:
        raise TypeError(f"an activation must be a function of one JAX array; {function!r} stops at: {error}") from error
    if getattr(out, "shape", None) != (2,):
        raise TypeError(f"an activation must keep the shape of its array; {function!r} makes {out} of (2,)")


def canonical(which: Activation) -> Activation:
    """The name of a named activation, else the function itself, so that equal choices compare equal."""
    function = activation(which)
    if not isinstance(which, str):
        _check(function)
    for name, named in _NAMED.items():
        if function is named:
            return name
    aliases = {jnp.tanh: "tanh", jax.nn.sigmoid: "sigmoid", jax.nn.relu: "relu", jax.nn.hard_sigmoid: "hard_sigmoid"}
    return aliases.get(function, function)
