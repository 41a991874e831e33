"""How many floating-point operations a function takes, counted in what JAX traces of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

MOVES = {
    "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "gather", "iota", "pad", "reshape", "rev", "select_n", "slice", "split", "squeeze", "stop_gradient",
    "transpose",
}  # fmt: skip
"""What moves numbers and computes none."""


def flops(f: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of f(*args): 2 M N K of a product (M, K) × (K, N), and 1 of any other number computed.

    Loops count as often as they run, of branches the dearest counts, a `while` whose end is unknown counts once. Calls
    of foreign code are not seen.
    """
    return _of_jaxpr(jax.make_jaxpr(f)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return params["length"] * _of_jaxpr(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
    inner = [_of_jaxpr(getattr(value, "jaxpr", value)) for value in params.values() if _is_jaxpr(value)]
    if inner:
        return sum(inner)
    out = equation.outvars[0].aval
    if name in MOVES or not jnp.issubdtype(out.dtype, jnp.inexact):
        return 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(out.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        return 2 * math.prod(out.shape) * math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    if name.startswith(("reduce_", "cum", "arg")):
        return math.prod(equation.invars[0].aval.shape)
    return math.prod(out.shape)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
