"""Losses and metrics by name or as functions, called on a batch with whatever of its weights and lengths they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import _positions, losses, metrics
from ._batches import Batch, rows_of
from ._model import accepted
from .totals import Mean, Total

NAMES: dict[str, Callable[..., Total]] = {
    function.__name__: function
    for function in (
        losses.cross_entropy,
        losses.binary_cross_entropy,
        losses.mean_squared_error,
        losses.mean_absolute_error,
        losses.huber,
        losses.ctc,
        metrics.accuracy,
        metrics.binary_accuracy,
        metrics.macro_accuracy,
        metrics.f1,
        metrics.perplexity,
        metrics.bits_per_character,
    )
}
RISING = ("accuracy", "f1")
SHARES = (metrics.accuracy, metrics.binary_accuracy, metrics.macro_accuracy, metrics.f1)


class Measure(NamedTuple):
    """A loss or metric: its name in the history, its function, and which arguments that takes."""

    name: str
    function: Callable[..., Any]
    takes: frozenset[str] | None

    @classmethod
    def of(cls, what: Any, role: str) -> Measure:
        """From a name, a function, or a pair of both."""
        if isinstance(what, Measure):
            return what
        if isinstance(what, str):
            if what not in NAMES:
                raise ValueError(f"`{role}` must be a function or one of {', '.join(NAMES)}; got {what!r}")
            what = NAMES[what]
        name, function = what if isinstance(what, tuple) and len(what) == 2 else (_name(what), what)
        if not isinstance(name, str) or not callable(function):
            raise TypeError(
                f"`{role}` must be a name, a function of (outputs, targets), or a pair of both; got {what!r}"
            )
        return cls(name, function, accepted(function))

    def __call__(self, outputs: Any, batch: Batch) -> Total:
        """The total over a batch. A plain scalar counts as a mean over the rows."""
        arguments: dict[str, Any] = {}
        if self._takes("time_major"):
            arguments["time_major"] = False
        if batch.weights is not None:
            if not self._takes("mask"):
                raise TypeError(
                    f"{self.name} does not take a `mask`, and the batch has rows that do not count: let it take one, "
                    "or make the number of rows a multiple of the batch size"
                )
            arguments["mask"] = batch.weights
        has_time = not hasattr(outputs, "ndim") or outputs.ndim >= 3
        if batch.lengths is not None and has_time and self._takes("lengths"):
            arguments["lengths"] = batch.lengths
        total = self.function(outputs, batch.targets, **arguments)
        if isinstance(total, Total):
            return total
        if jnp.shape(total) != ():
            raise TypeError(f"{self.name} must return a scalar or a total; got an array of shape {jnp.shape(total)}")
        count = jnp.full((), rows_of(batch)) if batch.weights is None else batch.weights.sum()
        return Mean(total * count.astype(total.dtype), count.astype(total.dtype))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that it can have, as far as that is known."""
        function = getattr(self.function, "func", self.function)
        if function not in NAMES.values():
            return -math.inf, math.inf
        return 0.0, 1.0 if function in SHARES else math.inf

    def _takes(self, name: str) -> bool:
        return self.takes is None or name in self.takes


def _name(function: Any) -> Any:
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", type(inner).__name__)


def measures(loss: Any, others: Sequence[Any]) -> tuple[Measure, ...]:
    """The loss, named so, and the metrics; their names must differ."""
    if isinstance(others, str) or not isinstance(others, Sequence):
        raise TypeError(f'`metrics` must be a sequence, such as ["accuracy"]; got {others!r}')
    found = (Measure.of(loss, "loss")._replace(name="loss"), *(Measure.of(other, "metrics") for other in others))
    names = [one.name for one in found]
    if len(set(names)) != len(names):
        raise ValueError(f"names of metrics must differ; got {', '.join(names)}: give a pair of name and function")
    return found


CLASSES = (
    losses.cross_entropy,
    metrics.accuracy,
    metrics.macro_accuracy,
    metrics.f1,
    metrics.perplexity,
    metrics.bits_per_character,
)


def check_labels(used: tuple[Measure, ...], outputs: Any, batch: Batch) -> None:
    """Raises ValueError for a label that is no class, while the labels can still be seen: a program cannot raise."""
    labels, lengths = batch.targets, batch.lengths
    if not hasattr(labels, "dtype") or not jnp.issubdtype(labels.dtype, jnp.integer):
        return
    if any(getattr(measure.function, "func", measure.function) in CLASSES for measure in used):
        logits = jax.ShapeDtypeStruct((rows_of(batch), *outputs.shape[1:]), outputs.dtype)
        lengths = lengths if len(logits.shape) == 3 else None
        weight = _positions.weights(logits.shape[:-1], batch.weights, lengths, False, jnp.float32)
        _positions.classes("targets", labels, logits, weight)  # type: ignore[arg-type]


def is_loss(total: Total) -> Mean:
    """The total of a loss, whose gradient is taken; TypeError unless it is a mean."""
    if type(total).value is not Mean.value:
        raise TypeError(f"a loss must be a mean or a scalar; got {type(total).__name__}, which is a metric")
    return total  # type: ignore[return-value]


def rises(name: str) -> bool:
    """Whether more is better, by the name of the measure."""
    return any(name.endswith(word) for word in RISING)


def values(used: tuple[Measure, ...], totals: Any, prefix: str = "") -> dict[str, float]:
    """The values of totals as Python numbers, and how many rows a loss left out, if it did."""
    found = {}
    for measure, total, value in zip(used, totals, jax.device_get(_values(totals)), strict=True):
        found[prefix + measure.name] = float(value)
        if hasattr(total, "impossible"):
            found[f"{prefix}{measure.name}_impossible"] = int(total.impossible)
    return found


@jax.jit
def _values(totals: Any) -> list[Any]:
    return [total.value for total in totals]
