"""Losses and metrics by name or as functions, called on a batch with whatever of its weights and lengths they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, featured
from . import losses, metrics
from ._batches import Batch, rows_of, sequences
from ._model import Accepted, Model, accepted, keeps_time
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
        metrics.binary_f1,
        metrics.perplexity,
        metrics.bits_per_character,
    )
}
SHARES = (metrics.accuracy, metrics.binary_accuracy, metrics.macro_accuracy, metrics.f1, metrics.binary_f1)
ENTROPIES = (losses.cross_entropy, metrics.perplexity, metrics.bits_per_character)
CLASSES = (*ENTROPIES, metrics.accuracy, metrics.macro_accuracy, metrics.f1)


class Measure(NamedTuple):
    """A loss or metric: its name in the history, its function, and which arguments that takes. shared says that all
    inputs of the model share their steps, and keeps_time whether its outputs have them; None where that is open."""

    name: str
    function: Callable[..., Any]
    accepted: Accepted
    shared: bool = False
    keeps_time: bool | None = None

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
            self._check_mask(batch.weights)
            arguments["mask"] = batch.weights
        if self.takes_lengths(outputs, batch):
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

    def _check_mask(self, weights: Any) -> None:
        """Raises TypeError if it takes no `mask`, which weights of rows or of steps need."""
        if self.accepted.takes("mask"):
            return
        what, otherwise = "rows", ", or make the number of rows a multiple of the batch size"
        if weights.ndim == 2:
            what, otherwise = "steps", ""
        raise TypeError(
            f"{self.name} does not take a `mask`, and the batch has {what} that do not count: let it take one"
            f"{otherwise}"
        )

    def _check_lengths(self) -> None:
        """Raises TypeError if it takes no `lengths`, which steps of the outputs need."""
        if not self.accepted.takes("lengths"):
            raise TypeError(
                f"{self.name} does not take `lengths`, and would count the padding of outputs (B, T, …): let it take "
                "them, also if it knows padding by itself"
            )

    def takes_lengths(self, outputs: Any, batch: Batch) -> bool:
        """Whether it is given the lengths of a batch, because they are of the steps of the outputs. Where that is open,
        as for numbers (B, T), and for inputs that are several sequences, a function of the user's own is given them,
        and for one of the library's it is a ValueError: but for those of classes, of which (B, K) are always a row's.
        For `ctc` it is one too where the model changes T."""
        if batch.lengths is None:
            return False
        takes = self.accepted.takes("lengths")
        if not hasattr(outputs, "ndim"):
            return takes
        steps, others = _steps(batch.inputs, self.shared)
        own = outputs.shape[1] if outputs.ndim > 1 and self.keeps_time is not False else None
        if outputs.ndim == 2:
            same = own in steps and getattr(batch.targets, "shape", None) == outputs.shape
            if not same or self.inner in CLASSES:
                return False
            if not self.known:
                return takes
            raise ValueError(
                f"outputs and targets {tuple(outputs.shape)} may be a number for each step, which `lengths` cuts "
                "off, or features of a row: pass them as (B, T, 1), or a loss of your own that takes `lengths`, or "
                "that, for features, takes none"
            )
        if self.inner is losses.ctc and outputs.ndim == 3 and steps != [own]:
            raise ValueError(
                f"`lengths` are of the steps of the inputs, and ctc needs those of the {outputs.shape[1]} steps of the "
                "outputs: pass them with the labels, as targets (labels, output_lengths), and a loss of your own that "
                "hands both to `ctc`"
            )
        if outputs.ndim < 3 or own not in (*steps, *others):
            return False
        if steps == [own]:
            self._check_lengths()
            return True
        if not self.known:
            return takes
        if np.ndim(batch.weights) == 2:
            return False
        raise ValueError(
            f"inputs are several arrays with steps, and `lengths` may not be of the {own} steps of the outputs: say "
            f"which of these count by `weights` (B, {own}), or pass a loss of your own that takes `lengths`. Integers "
            "(B, K) that are features of a row are no steps as floats"
        )

    @property
    def inner(self) -> Callable[..., Any]:
        """The function without the arguments that `functools.partial` has fixed."""
        return getattr(self.function, "func", self.function)

    @property
    def fixed(self) -> str:
        """The numbers and words that `functools.partial` has fixed, such as "(delta=5)", or nothing."""
        keywords = sorted(getattr(self.function, "keywords", {}).items())
        plain = [f"{name}={value!r}" for name, value in keywords if isinstance(value, bool | int | float | str)]
        return f"({', '.join(plain)})" if plain else ""

    @property
    def known(self) -> bool:
        """Whether the function is the library's, and not the user's own."""
        return self.inner in NAMES.values()

    @property
    def rising(self) -> bool | None:
        """Whether more is better; None where that is not known, of functions that are not the library's."""
        if self.inner in SHARES:
            return True
        return False if self.name == "loss" or self.known else None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that it can have, as far as that is known."""
        if not self.known:
            return -math.inf, math.inf
        return 0.0, 1.0 if self.inner in SHARES else math.inf


def own_name(function: Any) -> Any:
    """The name of a loss or metric by itself."""
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", type(inner).__name__)


def measures(
    loss: Any, others: Sequence[Any], shared: bool = False, keeps_time: bool | None = None
) -> tuple[Measure, ...]:
    """The loss, named so, and the metrics, for a model of which this is known, or not yet; their names must differ."""
    if isinstance(others, str) or not isinstance(others, Sequence):
        raise TypeError(f'`metrics` must be a sequence, such as ["accuracy"]; got {others!r}')
    found = (Measure.of(loss, "loss")._replace(name="loss"), *(Measure.of(other, "metrics") for other in others))
    names = [one.name for one in found]
    if len(set(names)) != len(names):
        raise ValueError(f"names of metrics must differ; got {', '.join(names)}: give a pair of name and function")
    return tuple(one._replace(shared=shared, keeps_time=keeps_time) for one in found)


def of_model(used: tuple[Measure, ...], model: Model, batch: Batch, windows: bool = False) -> tuple[Measure, ...]:
    """The measures with what is known of a model that reads such batches, or windows of them, which have an output for
    every step."""
    shared, keeps = model.keeps_time is not None, windows or keeps_time(model, batch)
    return tuple(one._replace(shared=shared, keeps_time=keeps) for one in used)


def all_known(used: Sequence[Measure]) -> bool:
    """Whether none of them is the user's own, which may change what it computes."""
    return all(measure.known for measure in used)


def all_take_masks(used: Sequence[Measure]) -> bool:
    """Whether weights of ones change none of them. A function of the user's own may expect a mask of its own shape."""
    return all(measure.known and measure.accepted.takes("mask") for measure in used)


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


def _steps(inputs: Any, shared: bool) -> tuple[list[int], set[int]]:
    """T of each sequence among the inputs, one if they share it, and the second axes of all inputs."""
    found = [featured(inputs)] if shared else sequences(inputs)
    every = {leaf.shape[1] for leaf in jax.tree.leaves(inputs) if leaf.ndim > 1}
    return [leaf.shape[1] for leaf in found if leaf.ndim > 1], every


def values(used: tuple[Measure, ...], totals: Any, prefix: str = "") -> dict[str, float]:
    """The `entries` of totals as Python numbers."""
    found = entries(used, totals, jax.device_get(_numbers(totals)), prefix)
    return {name: np.asarray(value).item() for name, value in found.items()}


def entries(used: tuple[Measure, ...], totals: Any, values: list[Any], prefix: str = "") -> dict[str, Any]:
    """What totals of these values enter into the history, by name: the values, and how many rows a loss left out."""
    found = {}
    for measure, total, value in zip(used, totals, values, strict=True):
        found[prefix + measure.name] = value
        if hasattr(total, "impossible"):
            found[f"{prefix}{measure.name}_impossible"] = total.impossible
    return found


def numbers(totals: Any) -> list[Array]:
    """The values of totals, of which the first is the loss's. A mean that has counted nothing, as where every step was
    left out, is NaN; what is no mean goes by the loss."""

    def counts(total: Total) -> Any:
        mean = total if isinstance(total, Mean) else totals[0]
        return mean.count > 0 if isinstance(mean, Mean) else True

    with jax.numpy_dtype_promotion("standard"):  # a total of the user's own may have a value that is an integer
        return [jnp.where(counts(total), total.value, jnp.nan) for total in totals]


_numbers = jax.jit(numbers)
