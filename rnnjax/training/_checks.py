"""What of a batch can be checked before it is in a compiled program, which cannot raise: labels and ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _positions, losses, metrics
from ._batches import Batch, rows_of, take
from ._measure import CLASSES, ENTROPIES, Measure
from ._model import Model, Streamed
from .truncation import TBPTT

QUESTIONS = (losses.binary_cross_entropy, metrics.binary_accuracy, metrics.binary_f1)

Check = Callable[[Batch], None]


def checks(used: tuple[Measure, ...], model: Model, first: Batch, batch_size: int, truncate: TBPTT | None) -> Check:
    """A function that raises ValueError for a batch with targets that one of the measures cannot be of, and for ids
    that the model has no vector of.

    `first` are all rows or a first batch, whose outputs say what classes there are. It is checked at once; other
    batches are, if they lie on the host.
    """
    if not rows_of(first):
        return lambda batch: None
    part = first if truncate else take(first, slice(0, batch_size))

    def outputs_of(params: Any, rest: Any, part: Batch) -> Any:
        if truncate is None:
            return model.apply(params, rest, part, None, False)[0]
        inputs, reset = jax.tree.map(lambda leaf: leaf[:, : truncate.window], (part.inputs, part.reset))
        mask = jnp.ones(jax.tree.leaves(inputs)[0].shape[:2], bool)
        state = model.initial_state(params, rest, inputs)
        return model.stream(params, rest, Streamed(inputs, mask, reset, state), None, False)[0]

    outputs = jax.eval_shape(outputs_of, model.params, model.rest, part)
    if truncate is not None and hasattr(outputs, "shape"):
        outputs = jax.ShapeDtypeStruct((1, *np.shape(first.targets)[1:2], *outputs.shape[2:]), outputs.dtype)
    check_targets(used, outputs, first)
    check_ids(model.vocabulary, first)

    def later(batch: Batch) -> None:
        if isinstance(batch.inputs, np.ndarray):
            check_ids(model.vocabulary, batch)
        targets = batch.targets
        if isinstance(targets, np.ndarray) and hasattr(outputs, "shape") and len(outputs.shape) in (2, 3):
            steps = targets.shape[1:2] if len(outputs.shape) == 3 else ()
            check_targets(used, jax.ShapeDtypeStruct((1, *steps, outputs.shape[-1]), outputs.dtype), batch)

    return later


def check_targets(used: tuple[Measure, ...], outputs: Any, batch: Batch) -> None:
    """Raises ValueError for targets that are no classes, no probabilities or no sequences of labels, as the measures
    read them. `outputs` may have any number of rows."""
    targets = batch.targets
    if not hasattr(targets, "dtype") or not hasattr(outputs, "shape"):
        return
    floating = jnp.issubdtype(targets.dtype, jnp.floating)
    done = set()
    for measure in used:
        function = measure.inner
        if function is losses.ctc:
            if np.ndim(targets) != 2 or np.ndim(batch.weights) > 1:
                continue  # the loss says so
            keywords = getattr(measure.function, "keywords", {})
            losses.check_ctc_labels("targets", targets, outputs.shape[-1], batch.weights, **keywords)
            continue
        if function not in (*CLASSES, *QUESTIONS):
            continue
        shape = (rows_of(batch), *outputs.shape[1:])
        if function in CLASSES:
            instead = "binary_cross_entropy" if function in ENTROPIES else "binary_accuracy"
            _positions.check_several(shape, instead)
        weights = np.shape(batch.weights)
        if targets.shape[: len(shape) - 1] != shape[:-1] or weights != shape[:-1][: len(weights)]:
            continue  # the measure says so
        cut = measure.takes_lengths(outputs, batch)
        kind = function in QUESTIONS, function in ENTROPIES, cut  # what the check depends on
        if kind in done:
            continue
        done.add(kind)
        valid = _valid(shape[:-1], batch, cut)
        if function in QUESTIONS:
            _positions.check_shares("targets", targets, valid)
        elif jnp.issubdtype(targets.dtype, jnp.integer):
            _positions.check_classes("targets", targets, shape, valid)
        elif function not in ENTROPIES:  # takes the largest of any numbers
            if targets.shape == shape:  # else the measure says so
                _positions.check_single("targets", targets, valid)
        elif floating:
            _positions.check_probabilities("targets", targets, valid)


def check_ids(vocabulary: int | None, batch: Batch) -> None:
    """Raises ValueError for inputs (B, T) that are no ids of a vocabulary of that size, where the model has one. Steps
    behind the lengths are not read; those at weight 0 are, and NaN of them would reach the gradient."""
    if vocabulary is None or not hasattr(batch.inputs, "dtype"):
        return
    ids = np.asarray(batch.inputs)
    if not _outside(ids, vocabulary):
        return
    if batch.lengths is not None:
        ids = ids[np.arange(ids.shape[1]) < np.asarray(batch.lengths)[:, None]]
    if _outside(ids, vocabulary):
        raise ValueError(
            f"inputs must be ids in 0 … {vocabulary - 1}, those of the `Embedding`; got values from {ids.min()} to "
            f"{ids.max()}: what is padding may be anything behind `lengths`"
        )


def _outside(ids: np.ndarray, vocabulary: int) -> bool:
    return ids.size > 0 and bool(ids.min() < 0 or ids.max() >= vocabulary)


def _valid(shape: tuple[int, ...], batch: Batch, has_time: bool) -> np.ndarray:
    """Whether each position counts, (B), (B, T) or more axes, in NumPy: a computation of JAX would wait for the step
    that is running."""
    valid = np.ones(shape, bool)
    if batch.weights is not None:
        weights = np.asarray(batch.weights)
        valid &= (weights != 0).reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    if batch.lengths is not None and has_time:
        inside = np.arange(shape[1]) < np.asarray(batch.lengths)[:, None]
        valid &= inside.reshape(inside.shape + (1,) * (len(shape) - 2))
    return valid
