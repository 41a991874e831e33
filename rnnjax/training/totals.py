"""What losses and metrics return: totals that add up over batches and devices, and the value they stand for.

A mean of means is wrong when batches differ in valid steps. A total keeps numerator and denominator apart, so that

    total = sum of the totals of all parts,    value = a function of the total alone

holds for any way to cut the data. Totals are pytrees: `jax.lax.psum` adds them across devices, `+` across batches.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .._struct import node, struct
from .._types import Array

T = TypeVar("T", bound="Total")


class Total:
    """A pytree of sums. A subclass is made by `struct` and says what `value` the sums stand for."""

    @property
    def value(self) -> Array:
        """The loss or metric, a scalar array."""
        raise NotImplementedError

    def __add__(self: T, other: T) -> T:
        if jax.tree.structure(self) != jax.tree.structure(other):
            raise TypeError(f"totals of one kind add up; got {type(self).__name__} and {type(other).__name__}")
        return jax.tree.map(jnp.add, self, other)

    def __float__(self) -> float:
        return float(self.value)


def ratio(total: Array, count: Array) -> Array:
    """total / count, and zero, with a gradient of zero, where nothing was counted."""
    return total / jnp.where(count > 0, count, jnp.ones_like(count))


def mean_where(values: Array, chosen: Array) -> Array:
    """The mean of the chosen values, 0 of none; the others must be 0."""
    return ratio(values.sum(), chosen.sum().astype(values.dtype))


@struct
class Mean(Total):
    """A mean over valid positions: total () and count (). Of no positions it is 0."""

    total: Any = node()
    count: Any = node()

    @property
    def value(self) -> Array:
        return ratio(self.total, self.count)


@struct
class Perplexity(Mean):
    """e to the mean of nats: 1 is certain, the number of classes is blind."""

    @property
    def value(self) -> Array:
        return jnp.exp(ratio(self.total, self.count))


@struct
class Bits(Mean):
    """The mean of nats in bits: divided by ln 2."""

    @property
    def value(self) -> Array:
        return ratio(self.total, self.count) / jnp.log(2.0)


@struct
class MacroAccuracy(Total):
    """Hits (C) and counts (C) of every class; the value is the mean of the accuracies of the classes that occurred."""

    hits: Any = node()
    count: Any = node()

    @property
    def value(self) -> Array:
        return mean_where(ratio(self.hits, self.count), self.count > 0)


@struct
class F1(Total):
    """Hits (C), predictions (C) and labels (C) of every class.

    F1 of a class is 2 · hits / (predictions + labels). The value is their mean over the classes that were predicted or
    occurred (`macro`), or F1 of the sums (`micro`), or that of class 1 (`binary`).
    """

    hits: Any = node()
    predicted: Any = node()
    actual: Any = node()
    average: str = "macro"

    @property
    def value(self) -> Array:
        both = self.predicted + self.actual
        if self.average == "micro":
            return ratio(2 * self.hits.sum(), both.sum())
        scores = ratio(2 * self.hits, both)
        return scores[1] if self.average == "binary" else mean_where(scores, both > 0)


@struct
class CTCMean(Mean):
    """A mean over rows, and how many rows were left out because their labels cannot be aligned."""

    impossible: Any = node()
