"""The rows that a comparison trains on, chooses by and tests on, and what can be said of them without any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import describe
from ..training._batches import Batch, as_batch, is_arrays, rows_of, take
from ..training._measure import Measure, badness
from ._contenders import Task


def parts_of(data: Any, validation: Any, test: Any) -> tuple[Batch, Batch, Batch]:
    """Rows to train on, to choose by, and to test on."""
    if not is_arrays(data):
        raise TypeError(f"`data` must be arrays (inputs, targets) or (inputs, targets, lengths); got {describe(data)}")
    left = as_batch(data)
    if left.weights is not None or left.reset is not None:
        raise ValueError("`data` must be (inputs, targets) or (inputs, targets, lengths), without weights and reset")
    rows, found = rows_of(left), []
    for name, part in (("test", test), ("validation", validation)):
        if isinstance(part, tuple):
            found.append(as_batch(part))
            continue
        if isinstance(part, bool) or not isinstance(part, float | int) or not 0 < part < 1:
            raise ValueError(f"`{name}` must be a share in (0, 1), or data like `data`; got {part!r}")
        cut = rows_of(left) - round(rows * part)
        found.append(take(left, slice(cut, None)))
        left = take(left, slice(0, max(cut, 0)))
    if not all(map(rows_of, (left, *found))):
        counts = ", ".join(str(rows_of(part)) for part in (left, *reversed(found)))
        raise ValueError(f"training, validation and test must each have rows; got {counts} of {rows}")
    return left, found[1], found[0]


def check_finite(parts: Sequence[Batch], task: Task) -> None:
    """Raises ValueError for inf and NaN, except in padding."""
    for batch in parts:
        for name, array, valid in _arrays(batch, task):
            bad = np.argwhere(~np.isfinite(array.astype(np.float64)) & valid)
            if bad.size:
                raise ValueError(f"{name} must be finite; got {array[tuple(bad[0])]} at {tuple(bad[0].tolist())}")


def constancy(parts: Sequence[Batch], task: Task) -> str:
    """Which arrays hold one number alone, or nothing."""
    notes = []
    for found in zip(*(_arrays(batch, task) for batch in parts), strict=True):
        values = np.concatenate([array[valid] for _, array, valid in found])
        if np.unique(values).size < 2:
            notes.append(f"{found[0][0]} are the same everywhere, so that there is nothing to learn")
    return "; ".join(notes)


def _arrays(batch: Batch, task: Task) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Inputs and targets by name, and which of their numbers are no padding."""
    found = []
    for name, timed in (("inputs", True), ("targets", task.each_step)):
        array = np.asarray(getattr(batch, name))
        valid = np.ones(array.shape, bool)
        if timed and batch.lengths is not None:
            inside = np.arange(array.shape[1]) < np.asarray(batch.lengths)[:, None]
            valid &= inside.reshape(*inside.shape, *(1,) * (array.ndim - 2))
        found.append((name, array, valid))
    return found


_CLASSES_TRIED = 10
"""As answers by themselves: each is an evaluation of all training rows."""


def constant_quality(train: Batch, test: Batch, task: Task, measure: Measure, rising: bool) -> float:
    """The quality on the test rows of an answer that does not read the inputs: of `_constants` the one that is best on
    the training rows."""

    @jax.jit
    def quality(answer: jax.Array, batch: Batch) -> jax.Array:
        lead = batch.inputs.shape[:2] if task.each_step else batch.inputs.shape[:1]
        return measure(jnp.broadcast_to(answer, (*lead, task.outputs)), batch).value

    answers, rows = jnp.asarray(_constants(train, task), jnp.float32), jax.device_put(train)
    best = min(answers, key=lambda answer: badness(float(quality(answer, rows)), rising))
    return float(quality(best, jax.device_put(test)))


def _constants(train: Batch, task: Task) -> np.ndarray:
    """Answers (K, O): log frequencies and each of the most frequent classes, or means and medians, and what these are
    as logits where all targets are probabilities."""
    _, (_, targets, valid) = _arrays(train, task)
    if task.classes:
        counts = np.bincount(targets[valid], minlength=task.outputs)
        frequent = np.argsort(-counts, kind="stable")[:_CLASSES_TRIED]
        return np.stack([np.log((counts + 1) / (counts + 1).sum()), *(np.arange(task.outputs) == frequent[:, None])])
    numbers = targets[valid].reshape(-1, task.outputs).astype(np.float64)
    mean, median = numbers.mean(0), np.median(numbers, axis=0)
    if numbers.min(initial=0) < 0 or numbers.max(initial=1) > 1:
        return np.stack([mean, median])
    share = np.clip(mean, 1e-6, 1 - 1e-6)
    return np.stack([mean, median, np.log(share) - np.log1p(-share), np.log(share)])
