"""Losses and metrics by name or as functions, called on a batch with whatever of its weights and lengths they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import losses, metrics
from ._batches import Batch, rows_of
from ._model import Accepted, accepted
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
SHARES = (metrics.accuracy, metrics.binary_accuracy, metrics.macro_accuracy, metrics.f1)


class Measure(NamedTuple):
    """A loss or metric: its name in the history, its function, and which arguments that takes."""

    name: str
    function: Callable[..., Any]
    accepted: Accepted

    @classmethod
    def of(cls, what: Any, role: str) -> Measure:
        """From a name, a function, or a pair of both."""
        if isinstance(what, Measure):
            return what
        if isinstance(what, str):
            if what not in NAMES:
                raise ValueError(f"`{role}` must be a function or one of {', '.join(NAMES)}; got {what!r}")
            what = NAMES[what]
        name, function = what if isinstance(what, tuple) and len(what) == 2 else (own_name(what), what)
        if not isinstance(name, str) or not callable(function):
            raise TypeError(
                f"`{role}` must be a name, a function of (outputs, targets), or a pair of both; got {what!r}"
            )
        return cls(name, function, accepted(function))

    def __call__(self, outputs: Any, batch: Batch) -> Total:
        """The total over a batch. A plain scalar counts as a mean over the rows."""
        arguments: dict[str, Any] = {}
        if self.accepted.takes("time_major"):
            arguments["time_major"] = False
        if batch.weights is not None:
            if not self.accepted.takes("mask"):
                raise TypeError(
                    f"{self.name} does not take a `mask`, and the batch has rows that do not count: let it take one, "
                    "or make the number of rows a multiple of the batch size"
                )
            arguments["mask"] = batch.weights
        if batch.lengths is not None and self.accepted.takes("lengths"):
            number_a_step = _number_a_step(outputs, batch)
            if number_a_step and getattr(self.function, "func", self.function) in NAMES.values():
                raise ValueError(
                    f"outputs and targets {tuple(outputs.shape)} may be a number for each step, which `lengths` cuts "
                    "off, or features of a row: pass them as (B, T, 1), or a loss of your own that takes `lengths`"
                )
            if keeps_time(outputs, batch) or number_a_step:
                arguments["lengths"] = batch.lengths
        total = self.function(outputs, batch.targets, **arguments)
        if isinstance(total, Total):
            return total
        if jnp.shape(total) != ():
            raise TypeError(f"{self.name} must return a scalar or a total; got an array of shape {jnp.shape(total)}")
        count = jnp.full((), rows_of(batch), total.dtype)
        if batch.weights is not None:
            count = batch.weights.sum().astype(total.dtype)
            # a mean over no row would be 0 / 0, and NaN times its count of 0 is NaN
            arguments["mask"] = jnp.where(count > 0, batch.weights, jnp.ones_like(batch.weights))
            total = self.function(outputs, batch.targets, **arguments)
        return Mean(total * count, count)

    @property
    def rising(self) -> bool | None:
        """Whether more is better; None where that is not known, of functions that are not the library's."""
        function = getattr(self.function, "func", self.function)
        if function in SHARES:
            return True
        return False if self.name == "loss" or function in NAMES.values() else None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that it can have, as far as that is known."""
        function = getattr(self.function, "func", self.function)
        if function not in NAMES.values():
            return -math.inf, math.inf
        return 0.0, 1.0 if function in SHARES else math.inf


def own_name(function: Any) -> Any:
    """The name of a loss or metric by itself."""
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


def is_loss(total: Total) -> Mean:
    """The total of a loss, whose gradient is taken; TypeError unless it is a mean."""
    if type(total).value is not Mean.value:
        raise TypeError(f"a loss must be a mean or a scalar; got {type(total).__name__}, which is a metric")
    return total  # type: ignore[return-value]


def rises(used: Sequence[Measure], monitor: str, mode: str | None) -> bool:
    """Whether more of the measure that `monitor` names is better.

    Raises:
        ValueError: if it names none of those in use, or a function whose direction neither `mode` nor the library says.
    """
    if mode not in (None, "min", "max"):
        raise ValueError(f'`mode` must be "min", "max" or None; got {mode!r}')
    name = monitor.removeprefix("val_")
    found = [measure for measure in used if measure.name == name]
    if not found:
        raise ValueError(
            f'`monitor` must be one of {", ".join(own.name for own in used)}, or of those after "val_"; got {monitor!r}'
        )
    if mode is not None:
        return mode == "max"
    rising = found[0].rising
    if rising is None:
        raise ValueError(
            f'`monitor` is {monitor!r}, a function of your own: pass `mode="max"` if more of it is better, and '
            '`mode="min"` otherwise'
        )
    return rising


def badness(value: float, rising: bool) -> float:
    """What is least for the best value and infinite for NaN."""
    return math.inf if math.isnan(value) else -value if rising else value


def keeps_time(outputs: Any, batch: Batch) -> bool:
    """Whether outputs may have features for each step of the inputs: (B, T, …), or anything but an array."""
    return not hasattr(outputs, "ndim") or (outputs.ndim >= 3 and outputs.shape[1] in _steps(batch))


def _number_a_step(outputs: Any, batch: Batch) -> bool:
    """Whether outputs and targets may be one number for each step, (B, T)."""
    shape = getattr(outputs, "shape", ())
    return len(shape) == 2 and shape[1] in _steps(batch) and getattr(batch.targets, "shape", None) == shape


def _steps(batch: Batch) -> set[int]:
    return {leaf.shape[1] for leaf in jax.tree.leaves(batch.inputs) if leaf.ndim > 1}


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
