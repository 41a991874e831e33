"""Diagonal linear transitions s ↦ a ⊙ s + b, with real or complex numbers.

Complex numbers are pairs of real arrays: XLA compiles them faster, every device has them, and a derivative by a pair
needs no convention of its own.
"""

from __future__ import annotations

from operator import add, mul
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp

from ._types import Array

Numbers: TypeAlias = Literal["real", "complex"]
Parts: TypeAlias = tuple[Array, ...]
"""The arrays of a state. Real: any number of them, each by itself. Complex: two, real and imaginary part."""


class Affine(NamedTuple):
    """The transition s ↦ a ⊙ s + b; `a` and `b` have one array for each of the state's, in its order."""

    a: Parts
    b: Parts


def times(numbers: Numbers, a: Parts, s: Parts) -> Parts:
    """a ⊙ s."""
    if numbers == "real":
        return tuple(map(mul, a, s))
    (a_re, a_im), (s_re, s_im) = a, s
    return a_re * s_re - a_im * s_im, a_re * s_im + a_im * s_re


def plus(a: Parts, b: Parts) -> Parts:
    """a + b."""
    return tuple(map(add, a, b))


def conjugate(numbers: Numbers, a: Parts) -> Parts:
    """What multiplies a cotangent where `a` multiplied the value."""
    return a if numbers == "real" else (a[0], -a[1])


def one_like(numbers: Numbers, a: Parts) -> Parts:
    """The number 1 everywhere."""
    return tuple(
        jnp.ones_like(part) if i == 0 or numbers == "real" else jnp.zeros_like(part) for i, part in enumerate(a)
    )
