"""Training, evaluation and prediction, for every kind of model, on arrays or on any iterator of batches."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._errors import check_size
from ._batches import Batch, Cut, Stream, as_batch, fill_up, first_of, gather, is_arrays, rows_of, split_rows, take
from ._measure import Measure, measures, rises, values
from ._model import Model, adapt
from ._progress import Bar
from ._step import Gather, Step, TrainState, make_block, make_evaluation, make_single, make_step, start, totals_of
from .loggers import Log
from .optimizers import optimizer as default_optimizer
from .optimizers import skipped_steps
from .truncation import TBPTT, Windows, begin, windowed

_LONGEST_BLOCK = 512


class Epoch(NamedTuple):
    """What callbacks are given: the epoch's number from 0, the steps so far, its values, the state, its seconds.

    The arrays of `state` are overwritten by the next epoch: copy what you keep.
    """

    epoch: int
    step: int
    logs: dict[str, float]
    state: TrainState
    seconds: float


class Fitted(NamedTuple):
    """What `fit` returns.

    model: the trained model in the form in which it came: the same nnx module, updated, or a pair.
    params: its parameters.
    history: one list a measure, with an entry for every epoch.
    state: everything that changed in training.
    """

    model: Any
    params: Any
    history: dict[str, list[float]]
    state: TrainState


def fit(
    model: Any,
    data: Any,
    *,
    loss: Any = "cross_entropy",
    optimizer: optax.GradientTransformation | None = None,
    metrics: Sequence[Any] = (),
    epochs: int = 1,
    batch_size: int = 32,
    accumulate: int = 1,
    truncate: TBPTT | None = None,
    shuffle: bool = True,
    seed: int = 0,
    validation: Any = None,
    validation_split: float | None = None,
    patience: int | None = None,
    monitor: str | None = None,
    restore_best: bool = False,
    callbacks: Sequence[Callable[..., Any]] = (),
    log: Log | Sequence[Log] = (),
    progress: bool = True,
) -> Fitted:
    """Trains a model.

    Arrays that fit in memory are moved to the device once, and an epoch is one compiled loop. Everything random follows
    from `seed`: the parameters of a bare layer, the order of the rows in every epoch, and noise.

    Args:
        model: an `nnx.Module`, which is updated; a layer of rnnjax, whose parameters are drawn; or a pair
            (params, layer), (params, apply) or (variables, linen module). Data are batch-major, and so is a model:
            (B, T, I) -> (B, T, O) or (B, O); for a layer of rnnjax the axes are swapped. A function
            `apply(params, inputs, …)` is given, of `lengths`, `key`, `train` and `deterministic`, the ones that it has
            parameters for.
        data: arrays (inputs, targets), (inputs, targets, lengths) or (inputs, targets, lengths, weights) that lead with
            the rows, or an iterable of such batches, or a function that returns one. An iterable is read once an epoch.
        loss: a name such as "cross_entropy", a function of `rnnjax.training`, or a function
            `(outputs, targets, *, mask, lengths) -> scalar or Mean`; it is passed the arguments that it takes.
        optimizer: an Optax transformation; None is `rnnjax.training.optimizer(1e-3, clip_norm=1.0)`.
        metrics: more of the same, or pairs of a name and a function.
        epochs: how often the data are read.
        batch_size: rows of one update, for arrays. A smaller last batch is filled up with rows that do not count.
        accumulate: parts in which the gradient of a batch is formed, one after another, to save memory.
        truncate: `tbptt(window, overlap)` for long streams: inputs and targets are (B, L, …), an update is made for
            every window of all rows, and the model carries its state from one to the next. It must then be able to
            take a state: a layer that is causal, a module with `unroll` and `initial_state`, or a function that is
            given `state`, `mask` and `reset` and returns (outputs, state).
        shuffle: whether the rows of arrays are drawn in a new order every epoch.
        seed: of the parameters of a bare layer, of the order and of the noise.
        validation: data of the same kinds, evaluated after every epoch.
        validation_split: the share of the arrays, taken from their end, that is kept for validation instead.
        patience: epochs without improvement after which training stops.
        monitor: the entry of the history that must improve; by default "val_loss", or "loss" without validation.
        restore_best: whether the parameters of the best epoch are returned, rather than those of the last.
        callbacks: functions of an `Epoch`, called after every epoch; one that returns True stops the training.
        log: functions of the step and the values of an epoch, such as `csv_logger("run.csv")`.
        progress: whether a bar is shown.

    Raises:
        ValueError, TypeError: for data, names and options that do not fit, before anything runs.

    >>> import numpy as np, rnnjax as rj
    >>> x, y = np.random.default_rng(0).normal(size=(64, 5, 2)).astype("float32"), np.arange(64) % 2
    >>> layers = [rj.RNN(rj.GRU(4)), rj.Last(), rj.Dense(2)]
    >>> fitted = rj.training.fit(rj.Stack(layers), (x, y), metrics=["accuracy"], epochs=2, progress=False)
    >>> sorted(fitted.history)
    ['accuracy', 'loss']
    """
    check_size("epochs", epochs)
    check_size("batch_size", batch_size)
    check_size("accumulate", accumulate)
    if patience is not None:
        check_size("patience", patience)
    used = measures(loss, metrics)
    arrays = as_batch(data) if is_arrays(data) else None
    if validation_split is not None:
        if arrays is None or validation is not None:
            raise ValueError("`validation_split` needs arrays, and no `validation` beside it")
        arrays, validation = split_rows(arrays, validation_split)
    first, data = first_of(data) if arrays is None else (arrays, None)

    init_key, noise_key = jax.random.split(jax.random.key(seed))
    adapted = adapt(model, first.inputs, init_key)
    if truncate is not None:
        if arrays is None or accumulate != 1:
            raise ValueError("`truncate` needs arrays (B, L, …) and no `accumulate`")
        adapted = windowed(adapted, truncate)
    chain = default_optimizer(1e-3, clip_norm=1.0) if optimizer is None else optimizer
    step = make_step(adapted, used, chain, accumulate)
    state = start(adapted, chain, noise_key)
    if arrays is None:
        run = _over_stream(step, data)
    elif truncate is None:
        run = _over_arrays(step, arrays, batch_size, seed, shuffle)
    else:
        run = _over_windows(step, adapted, Windows.of(arrays, truncate))
    validate = None if validation is None else _evaluation(adapted, used, validation, batch_size, truncate)
    judge = _Judge(monitor or ("loss" if validation is None else "val_loss"), patience, restore_best)
    history: dict[str, list[float]] = {}
    loggers = (log,) if callable(log) else tuple(log)

    with Bar(epochs, progress) as bar:
        for epoch in range(epochs):
            began = time.perf_counter()
            state, totals = run(state, epoch, bar)
            logs = values(used, totals)
            if validate is not None:
                logs |= values(used, validate(state.params, state.rest), "val_")
            if skipped := skipped_steps(state.optimizer):
                logs["skipped_steps"] = skipped
            for name, value in logs.items():
                history.setdefault(name, [math.nan] * epoch).append(value)
            event = Epoch(epoch, int(state.step), logs, state, time.perf_counter() - began)
            for logger in loggers:
                logger(event.step, logs)
            stop = [callback(event) for callback in callbacks]
            bar.epoch(epoch, logs)
            if judge.stops(logs, state) or any(answer is True for answer in stop):
                break
    params, rest = judge.chosen(state)
    return Fitted(adapted.publish(params, rest), params, history, state)


class _Judge:
    """Watches one entry of the history: when to stop, and which parameters were the best."""

    def __init__(self, monitor: str, patience: int | None, restore: bool) -> None:
        self.monitor, self.patience, self.restore = monitor, patience, restore
        self.best, self.waited, self.kept = math.inf, 0, None

    def stops(self, logs: Mapping[str, float], state: TrainState) -> bool:
        """Whether the epochs without improvement have reached the patience."""
        if self.patience is None and not self.restore:
            return False
        if self.monitor not in logs:
            raise ValueError(f"`monitor` must be one of {', '.join(logs)}; got {self.monitor!r}")
        value = -logs[self.monitor] if rises(self.monitor) else logs[self.monitor]
        if value < self.best:
            self.best, self.waited = value, 0
            if self.restore:
                self.kept = jax.tree.map(jnp.copy, (state.params, state.rest))
            return False
        self.waited += 1
        return self.patience is not None and self.waited >= self.patience

    def chosen(self, state: TrainState) -> tuple[Any, Any]:
        """The best parameters and other state if they are to be restored, else the last."""
        return (state.params, state.rest) if self.kept is None else self.kept


Run = Callable[[TrainState, int, Bar], tuple[TrainState, Any]]


def _over_arrays(step: Step, arrays: Batch, batch_size: int, seed: int, shuffle: bool) -> Run:
    """Epochs over arrays that lie on the device, a compiled loop for each block of batches."""
    rows = rows_of(arrays)
    if not rows:
        raise ValueError("the data hold no row")
    cut = Cut.of(rows, batch_size, _LONGEST_BLOCK)
    blocks = _Blocks(step, cut, gather, jax.device_put(arrays))
    return lambda state, epoch, bar: blocks.run(state, cut.order(seed if shuffle else None, epoch), epoch, bar)


def _over_windows(step: Step, model: Model, windows: Windows) -> Run:
    """Epochs over the windows of long streams, in their order, from the initial state."""
    cut = Cut.of(windows.count, 1, _LONGEST_BLOCK)

    def one(data: Any, rows: Any, weights: Any) -> Batch:
        return windows.at(data, rows[0])

    blocks = _Blocks(step, cut, one, jax.device_put((windows.batch, windows.mask)))

    def run(state: TrainState, epoch: int, bar: Bar) -> tuple[TrainState, Any]:
        state = dataclasses.replace(state, rest=begin(model, state.params, state.rest, windows))
        return blocks.run(state, cut.order(None, epoch), epoch, bar)

    return run


class _Blocks:
    """The compiled loops of an epoch over data on the device, one after another."""

    def __init__(self, step: Step, cut: Cut, gather: Gather, data: Any) -> None:
        self.step, self.gather, self.data = step, gather, data
        self.block, self.zeros = make_block(step, gather, cut.skips), None

    def run(self, state: TrainState, order: Sequence[Any], epoch: int, bar: Bar) -> tuple[TrainState, Any]:
        """One epoch: its state at the end, and its totals."""
        if self.zeros is None:
            rows, weights = order[0]
            first = self.gather(self.data, rows[0], None if weights is None else weights[0])
            self.zeros = totals_of(self.step, state, first)
        totals = self.zeros()
        for done, (rows, weights) in enumerate(order, 1):
            state, totals = self.block(state, totals, self.data, rows, weights)
            bar.part(epoch, done / len(order))
        return state, totals


def _over_stream(step: Step, data: Any) -> Run:
    """Epochs over an iterable: while a step runs, the next batch is read and moved to the device."""
    stream, single = Stream(data), make_single(step)
    zeros: Any = None

    def run(state: TrainState, epoch: int, bar: Bar) -> tuple[TrainState, Any]:
        nonlocal zeros
        totals = None
        for batch in stream:
            batch = jax.device_put(batch)
            if totals is None:
                zeros = zeros or totals_of(step, state, batch)
                totals = zeros()
            state, totals = single(state, totals, batch)
        return state, totals

    return run


def _evaluation(
    model: Model, used: tuple[Measure, ...], data: Any, batch_size: int, truncate: TBPTT | None = None
) -> Callable[[Any, Any], tuple[Any, ...]]:
    """The totals over all data, as a function of parameters and other state."""
    one = make_evaluation(model, used)

    if not is_arrays(data):
        if truncate is not None:
            raise ValueError("`truncate` needs arrays (B, L, …) for validation too")
        stream, single = Stream(data), jax.jit(one)

        def over_stream(params: Any, rest: Any) -> tuple[Any, ...]:
            totals = [single(params, rest, jax.device_put(batch))[0] for batch in stream]
            return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *totals)

        return over_stream

    arrays = as_batch(data)
    if not rows_of(arrays):
        raise ValueError("the data hold no row")
    if truncate is None:
        parts, at = jax.device_put(stacked(arrays, min(batch_size, rows_of(arrays)))), take
        count, start = rows_of(parts), lambda params, rest: rest
    else:
        windows = Windows.of(arrays, truncate)
        parts, at = jax.device_put((windows.batch, windows.mask)), windows.at
        count, start = windows.count, lambda params, rest: begin(model, params, rest, windows)

    @jax.jit
    def over_arrays(params: Any, rest: Any, parts: Any) -> tuple[Any, ...]:
        def body(carry: Any, index: Any) -> tuple[Any, None]:
            totals, rest = carry
            more, rest = one(params, rest, at(parts, index))
            return (jax.tree.map(jnp.add, totals, more), rest), None

        first = one(params, start(params, rest), at(parts, 0))
        return jax.lax.scan(body, first, jnp.arange(1, count))[0][0]

    return lambda params, rest: over_arrays(params, rest, parts)


def stacked(arrays: Batch, size: int) -> Batch:
    """Rows as batches (S, B, …), the last one filled up at weight 0."""
    rows = rows_of(arrays)
    arrays = fill_up(arrays, -(-rows // size) * size)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), arrays)


def evaluate(
    model: Any,
    data: Any,
    *,
    loss: Any = "cross_entropy",
    metrics: Sequence[Any] = (),
    batch_size: int = 128,
    truncate: TBPTT | None = None,
) -> dict[str, float]:
    """Loss and metrics of a model over all data, without noise.

    Args:
        model: what `fit` takes or returns in `Fitted.model`, or a `Fitted`.
        data, loss, metrics: as for `fit`.
        batch_size: rows that are evaluated at a time, for arrays.
        truncate: for long streams, as for `fit`.

    Returns:
        the values by name, the loss under "loss".
    """
    check_size("batch_size", batch_size)
    used = measures(loss, metrics)
    first, data = (as_batch(data), data) if is_arrays(data) else first_of(data)
    adapted = adapt(_model_of(model), first.inputs, jax.random.key(0))
    adapted = adapted if truncate is None else windowed(adapted, truncate)
    return values(used, _evaluation(adapted, used, data, batch_size, truncate)(adapted.params, adapted.rest))


def predict(model: Any, inputs: Any, *, lengths: Any = None, batch_size: int = 128) -> Any:
    """The outputs of a model for all rows of `inputs`, without noise.

    Args:
        model: what `fit` takes or returns in `Fitted.model`, or a `Fitted`.
        inputs: an array (N, …) or a pytree of them.
        lengths: valid steps of each row, integers (N).
        batch_size: rows that are computed at a time.

    Returns:
        NumPy arrays that lead with the N rows.
    """
    check_size("batch_size", batch_size)
    batch = as_batch((inputs, np.zeros(len(jax.tree.leaves(inputs)[0])), lengths))
    adapted, rows = adapt(_model_of(model), batch.inputs, jax.random.key(0)), rows_of(batch)
    if not rows:
        raise ValueError("`inputs` hold no row")

    @jax.jit
    def apply(params: Any, rest: Any, batch: Batch) -> Any:
        return adapted.apply(params, rest, batch, None, False)[0]

    size = min(batch_size, rows)
    parts = [fill_up(take(batch, slice(i, i + size)), size) for i in range(0, rows, size)]
    outputs = [jax.device_get(apply(adapted.params, adapted.rest, part._replace(weights=None))) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:rows], *outputs)


def _model_of(model: Any) -> Any:
    return model.model if isinstance(model, Fitted) else model
