"""The compiled step: gradients of the loss over its count, the optimizer's update, totals of loss and metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._struct import node, struct
from .._types import Array, Key, over
from .._unroll.lift import where
from ._batches import Batch, rows_of
from ._measure import Measure, is_loss
from ._model import Model
from ._parallel import Parallel
from .optimizers import has_skipped


@struct
class TrainState:
    """All that changes in training: parameters, the model's other state, the optimizer's, and the count of steps.

    The noise of a step is drawn from `key` and the step's number, so that nothing else needs to be kept to go on.
    """

    params: Any = node()
    rest: Any = node()
    optimizer: Any = node()
    step: Any = node()
    key: Any = node()


def start(model: Model, optimizer: optax.GradientTransformation, key: Key) -> TrainState:
    """The state before the first step. Arrays are copied: the step may reuse their memory."""
    params, rest = jax.tree.map(jnp.array, (model.params, model.rest))
    return TrainState(
        params, rest, jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32), jnp.array(key, copy=True)
    )


Step = Callable[[TrainState, Batch], tuple[TrainState, Any]]


def make_step(
    model: Model,
    measures: tuple[Measure, ...],
    optimizer: optax.GradientTransformation,
    accumulate: int,
    parallel: Parallel,
) -> Step:
    """A function from a state and a batch to the next state and the totals of that batch, not compiled yet.

    On a mesh the batch is the device's own part of it; gradient and totals are those of all parts.
    """
    update = optax.with_extra_args_support(optimizer).update

    def forward(params: Any, rest: Any, batch: Batch, key: Key) -> tuple[Any, Any]:
        outputs, rest = model.apply(params, rest, _without_spoilt_rows(batch), key, True)
        totals = tuple(measure(outputs, batch) for measure in measures)
        is_loss(totals[0])
        return totals, rest

    def loss(params: Any, rest: Any, batch: Batch, key: Key, count: Array | None = None) -> tuple[Array, Any]:
        """The part that a batch has in the mean over `count`, by default that of the batch on all devices."""
        totals, rest = forward(params, rest, batch, key)
        mean = totals[0]
        every = parallel.sum(jax.lax.stop_gradient(mean.count)) if count is None else count
        scale = 1 / jnp.where(every > 0, every, 1)
        return mean.total * scale.astype(mean.total.dtype), (totals, rest)

    def gradients(state: TrainState, batch: Batch, key: Key) -> tuple[Any, Any, Any]:
        if accumulate == 1:
            (_, (totals, rest)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, state.rest, batch, key)
            return gradient, totals, rest

        def counted(part: Any) -> Array:  # mostly of weights and lengths alone, and XLA leaves the model out
            index, batch = part
            return forward(state.params, state.rest, batch, jax.random.fold_in(key, index))[0][0].count

        def micro(carry: Any, part: Any) -> tuple[Any, Any]:
            rest, gradient = carry
            index, batch = part
            (_, (totals, rest)), more = jax.value_and_grad(loss, has_aux=True)(
                state.params, rest, batch, jax.random.fold_in(key, index), count
            )
            return (rest, jax.tree.map(jnp.add, gradient, more)), totals

        batches = jax.tree.map(lambda leaf: leaf.reshape(accumulate, -1, *leaf.shape[1:]), batch)
        parts = jnp.arange(accumulate), batches
        count = parallel.sum(jax.lax.map(counted, parts).sum(0))
        nothing = jax.tree.map(jnp.zeros_like, state.params)
        (rest, gradient), totals = jax.lax.scan(micro, (state.rest, nothing), parts)
        return gradient, jax.tree.map(lambda leaf: leaf.sum(0), totals), rest

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        if rows_of(batch) % accumulate:
            place = "" if parallel.mesh is None else " on one device"
            raise ValueError(f"`accumulate` must divide the rows of a batch{place}, {rows_of(batch)}; got {accumulate}")
        gradient, totals, rest = gradients(state, batch, jax.random.fold_in(state.key, state.step))
        gradient, totals = parallel.sum((gradient, totals))
        mean = totals[0]
        # of a complex number JAX gives the conjugate of the direction in which the loss rises
        gradient = jax.tree.map(jnp.conj, gradient)
        # optax mixes dtypes inside, which the strict promotion of a user's own settings would refuse
        with jax.numpy_dtype_promotion("standard"):
            change, after = update(gradient, state.optimizer, state.params, value=mean.value)
            params = optax.apply_updates(state.params, change)
            # where nothing counts, moments, decay and schedules would go on without a gradient
            params, inner = where(mean.count > 0, (params, after), (state.params, state.optimizer))
        skipped = has_skipped(state.optimizer, after)
        rest, totals = _sane(rest, state.rest, skipped, parallel), _counted(totals, skipped)
        return TrainState(params, rest, inner, state.step + 1, state.key), totals

    return step


def _without_spoilt_rows(batch: Batch) -> Batch:
    """Zeros for inputs that are not finite in rows at weight 0, which would reach the gradient by 0 · NaN."""
    if batch.weights is None:
        return batch
    counts = (batch.weights != 0).any(axis=tuple(range(1, batch.weights.ndim)))

    def mended(leaf: Array) -> Array:
        finite = jnp.isfinite(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.ones(leaf.shape, bool)
        return jnp.where(over(counts, leaf) | finite, leaf, jnp.zeros_like(leaf))

    return batch._replace(inputs=jax.tree.map(mended, batch.inputs))


def _counted(totals: Any, skipped: Array) -> Any:
    """Totals of a step; nothing where it was left out and they are not finite, which would spoil those of the epoch."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(totals)]
    counts = ~skipped | functools.reduce(jnp.logical_and, finite)
    return where(counts, totals, jax.tree.map(jnp.zeros_like, totals))


def _sane(new: Any, old: Any, skipped: Array, parallel: Parallel) -> Any:
    """The model's other state after a step. What is not finite after one that was left out, such as a carried state or
    batch statistics, would spoil all steps to come: all floating-point leaves are then those from before."""
    leaves = [leaf for leaf in jax.tree.leaves(new) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not leaves:
        return new
    finite = functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in leaves])
    finite = parallel.sum((~finite).astype(jnp.int32)) == 0  # devices choose alike

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(skipped & ~finite, b, a) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    return jax.tree.map(choose, new, old)


Gather = Callable[[Any, Any, Any], Batch]


def make_block(step: Step, gather: Gather, skips: bool, parallel: Parallel) -> Callable[..., tuple[TrainState, Any]]:
    """Many steps as one loop over data that lie on the device, to be compiled.

    block(state, totals, data, rows (S, B), weights (S, B) or None) -> (state, totals), where `gather` takes the rows of
    one batch and their weights from the data. With `skips`, steps without any row that counts are left out, so that the
    last block of an epoch has the shape of the others.
    """

    def block(state: TrainState, totals: Any, data: Any, rows: Array, weights: Array | None) -> Any:
        def one(carry: Any, index: Any) -> tuple[Any, None]:
            rows, weight = index
            batch = gather(data, rows, weight)
            if not skips:
                return _add(step, carry, batch), None
            # the same on all devices, because a step is where they meet
            counts = parallel.sum(jnp.sum(weight != 0)) > 0
            return jax.lax.cond(counts, lambda carry: _add(step, carry, batch), lambda carry: carry, carry), None

        return jax.lax.scan(one, (state, totals), (rows, weights))[0]

    return block


def scan_batches(step: Step, gather: Gather, state: TrainState, data: Any, rows: Array, weights: Array | None) -> Any:
    """All batches of an epoch in one loop: the last state and the totals."""

    def one(state: TrainState, index: Any) -> tuple[TrainState, Any]:
        return step(state, gather(data, *index))

    state, totals = jax.lax.scan(one, state, (rows, weights))
    return state, jax.tree.map(lambda leaf: leaf.sum(0), totals)


def make_single(step: Step) -> Callable[..., tuple[TrainState, Any]]:
    """One step, to be compiled: single(state, totals, batch) -> (state, totals)."""
    return lambda state, totals, batch: _add(step, (state, totals), batch)


def _add(step: Step, carry: Any, batch: Batch) -> Any:
    state, totals = carry
    state, more = step(state, batch)
    return state, jax.tree.map(jnp.add, totals, more)


def make_evaluation(apply: Callable[..., tuple[Any, Any]], measures: tuple[Measure, ...]) -> Callable[..., Any]:
    """A function from parameters, other state and a batch to the totals of that batch, and the other state."""

    def evaluate(params: Any, rest: Any, batch: Batch) -> Any:
        outputs, rest = apply(params, rest, batch, None, False)
        return tuple(measure(outputs, batch) for measure in measures), rest

    return evaluate
