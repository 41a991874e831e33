"""Training, evaluation and prediction, for every kind of model, on arrays or on any iterator of batches."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._errors import check_not_negative, check_size, describe
from ..layers import Layer
from . import _runs
from ._batches import (
    Batch,
    Stream,
    as_batch,
    as_inputs,
    check_repeats,
    check_seed,
    fill_up,
    first_of,
    is_arrays,
    is_iterable,
    rows_of,
    split_rows,
    take,
)
from ._checks import Check, check_ids, checks
from ._loop import Judge, Loop, Record, Watchers, checkpoints, functions, taken_up
from ._measure import Measure, all_known, all_take_masks, measures, of_model, own_name, rises, values
from ._model import Model, adapt, cached, layer_of
from ._parallel import Parallel, divided
from ._precision import computed_in
from ._progress import Bar
from ._step import TrainState, start
from .loggers import Log
from .optimizers import check_accumulation
from .optimizers import optimizer as default_optimizer
from .truncation import TBPTT, Windows, check_truncate, outputs_of_windows, windowed


class _Fields(NamedTuple):
    model: Any
    params: Any
    history: dict[str, list[float]]
    state: TrainState


class Fitted(_Fields):
    """What `fit` returns.

    model: the trained model in the form in which it came: the same nnx module, updated, or a pair.
    params: its parameters.
    history: one list a measure, with an entry for every epoch.
    state: everything that changed in training.

    Beside these, which are the parts of the tuple, it has the `loss`, `metrics` and `optimizer` of its training, which
    `fit` takes where none are given, and `evaluate` the first two. Copies have them too. A pickle has no optimizer but
    that of `fit` itself, and no loss and metrics where one is a function of your own; what it lacks must then be
    passed. What `jax.tree` makes of it, or `Fitted(…)`, has "cross_entropy", no metrics and no optimizer.
    """

    loss: Any = "cross_entropy"
    metrics: Sequence[Any] = ()
    optimizer: optax.GradientTransformation | None = None

    def _trained_by(self, recipe: Mapping[str, Any]) -> Fitted:
        self.__dict__.update(recipe)
        return self

    def _replace(self, **changes: Any) -> Fitted:
        return super()._replace(**changes)._trained_by(vars(self))

    def __copy__(self) -> Fitted:
        return Fitted(*self)._trained_by(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Fitted:
        return Fitted(*copy.deepcopy(tuple(self), memo))._trained_by(vars(self))

    def __getstate__(self) -> dict[str, Any]:
        known = self.loss is not None and all_known(measures(self.loss, self.metrics))
        kept = {"loss": self.loss, "metrics": self.metrics} if known else {"loss": None, "metrics": ()}
        return kept | {"default optimizer": self.optimizer is _default()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        optimizer = _default() if kept["default optimizer"] else None
        self._trained_by({"loss": kept["loss"], "metrics": kept["metrics"], "optimizer": optimizer})


def fit(
    model: Any,
    data: Any,
    *,
    loss: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    metrics: Sequence[Any] | None = None,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    batch_size: int = 32,
    accumulate: int = 1,
    truncate: TBPTT | None = None,
    shuffle: bool = True,
    seed: int = 0,
    compute_dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    validation: Any = None,
    validation_split: float | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: str | None = None,
    mode: Literal["min", "max"] | None = None,
    restore_best: bool = False,
    callbacks: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
    log: Log | Sequence[Log] = (),
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool = True,
) -> Fitted:
    """Trains a model.

    Arrays that fit in memory are moved to the device once, and an epoch is one compiled loop. What is random follows
    from `seed`: the parameters of a bare layer, the order of the rows in every epoch, and noise, but for that of an nnx
    module, which draws from its own `Rngs`. The gradient is that of the batch's mean loss. A batch or window in which
    nothing counts changes neither parameters nor the optimizer's state. What is compiled for a layer, a module or a
    function of `jax.jit`, with measures of the library and the same optimizer object, serves later calls too, but for
    `truncate` and `mesh`.

    Where Ctrl-C or an error ends the training, an nnx module has what was trained so far; a pair has not, and needs
    `checkpoint_dir`. Ctrl-C waits for the compiled loops that have begun, two at most; a second one does not.

    Args:
        model: an `nnx.Module`, which is updated, and trained as after its `train()`, with dropout even if it was made
            `deterministic`; a layer of rnnjax, whose parameters are drawn; or a pair (params, layer), (params, apply)
            or (variables, linen module). Data are batch-major, and so is a model: (B, T, I) -> (B, T, O) or (B, O); for
            a layer of rnnjax the axes are swapped. A function `apply(params, inputs, …)` is given, of `lengths`, `key`,
            `train` and `deterministic`, the ones that it has parameters for; a module of Flax, beside the marks of the
            batch, `train`, `training` and `deterministic` where its call names them. Or a `Fitted`: its model goes on
            with the optimizer's moments, the steps of its schedules and the noise of where it ended; orders begin anew.
        data: arrays (inputs, targets), (inputs, targets, lengths) or (inputs, targets, lengths, weights) that lead with
            the rows, of which inputs or targets may be tuples, both only in a `Batch(inputs, targets)`; or an iterable
            of such batches, or a function that returns one, such as `buckets(…)`. Without `steps_per_epoch` an iterable
            is read once an epoch; a function with a parameter `epoch` is given its number. A batch with fewer rows than
            those before is filled up if loss and metrics are the library's, and else compiles once more. Where
            axis 1 of the outputs is the time of the inputs, lengths cut it; after pooling, or in a forecast, it is not.
            A function or module of your own is looked at with T steps and with 2 T; one that takes T alone is judged by
            shape, so that outputs (B, T, …) are cut: where their axis 1 is no time of the inputs, leave `lengths` out
            and say what counts by weights (B) or (B, T). Inputs of a layer, or module of rnnjax, share their T. Another
            model may read several sequences, such as a source and a target: arrays (B, T, …) or ids (B, T), but not
            times (B, T) beside an array (B, T, I). Then lengths are for the model alone, also where all have equal T,
            and outputs with the T of one of them need weights (B, T).
        loss: a name such as "cross_entropy", a function of `rnnjax.training`, or a function
            `(outputs, targets, *, mask, lengths) -> scalar or training.Mean`; it is passed the arguments that it takes,
            and must take those that the data need. A scalar counts as a mean over the rows, so that a mean over steps
            that differ in number from row to row must be a `Mean`, whose `count` has no gradient. None is the loss of a
            `Fitted`, and for any other model "cross_entropy".
        optimizer: an Optax transformation; None is that of a `Fitted`, and for any other model
            `rnnjax.training.optimizer(1e-3, clip_norm=1.0)`.
        metrics: more of the same, or pairs of a name and a function; None are those of a `Fitted`, else none.
        epochs: how often the data are read, or so many times `steps_per_epoch` batches of them.
        steps_per_epoch: batches of an epoch, for an iterable that does not end, or too late. The next epoch goes on
            where one has stopped. What ends within an epoch is read anew, and the `epoch` of a function counts that.
        batch_size: rows of one update, for arrays; all of them where there are fewer. A smaller last batch is filled up
            with repetitions of a row that count in no loss, gradient or metric; batch statistics of the model see them.
        accumulate: parts in which the gradient of a batch is formed, one after another, to save memory.
        truncate: `tbptt(window, overlap)` for long streams: inputs and targets are (B, L, …), an update is made for
            every window of all rows, and the model carries its state from one to the next. It must then be able to
            take a state: a layer that is causal, a module with `unroll` and `initial_state`, or a function that is
            given `state`, `mask` and `reset` and returns (outputs, state).
        shuffle: whether the rows of arrays are drawn in a new order every epoch.
        seed: of the parameters of a bare layer, of the order and of the noise; an integer from 0 on.
        compute_dtype: the dtype of products and outputs, `jnp.bfloat16` for mixed precision. Parameters, gradients,
            states, the loss and the optimizer stay in their own; parameters and inputs are cast for every pass, but for
            elapsed times (B, T) beside inputs (B, T, …).
        mesh: devices over which the rows of every batch are divided, for data-parallel training. The gradient is that
            of the whole batch; noise is drawn on every device. Parameters, and arrays but those of `truncate`, are on
            every device. Where several processes share the mesh, arrays must be the same in all, and an iterable gives
            each process the rows of its own devices.
        validation: data of the same kinds, evaluated after every epoch; an iterable must end.
        validation_split: the share of the arrays, taken from their end, that is kept for validation instead.
        patience: epochs without improvement after which training stops.
        min_delta: how much better than the best an epoch must be to improve on it, in the unit of `monitor`.
        monitor: the entry of the history that must improve; by default "val_loss", or "loss" without validation.
        mode: whether it improves by falling or by rising. None knows that of the library's measures.
        restore_best: whether the parameters of the best epoch are returned, rather than those of the last.
        callbacks: functions of an `Epoch`, called after every epoch; one that returns True ends the training, also for
            its checkpoints. One with an attribute `every` and a method `during(step, params)` is also called within
            epochs, each time that at least so many updates have passed, and at their ends. Compiled loops are no longer
            than that.
        log: functions of the step and the values of an epoch, such as `csv_logger("run.csv")`. A run that goes on from
            a checkpoint writes the epochs since then again.
        checkpoint_dir: a directory for checkpoints, of which the last two are kept. A run that finds one of itself
            there says so, goes on from it, and ends, on a CPU, with the same bits as if it had not been interrupted; an
            iterable must then hold the same batches in every epoch of that number, and with `steps_per_epoch` it is
            read again up to the place of the checkpoint. A run that had ended comes back as it was, with a warning. At
            SIGTERM a checkpoint is written before the process ends, and at Ctrl-C before KeyboardInterrupt is raised;
            where a handler of your own keeps it alive, `fit` returns what it has. Several processes end together, after
            the epoch in which one of them is told to. A checkpoint or log that cannot be written raises the error, but
            at the end of the run, where it is a warning.
        checkpoint_every: epochs from one checkpoint to the next.
        progress: whether a bar is shown.

    Returns:
        a `Fitted`. Its history names the loss "loss", metrics by their names and values of the validation after "val_";
        "skipped_steps" are the steps left out so far, where there are any, and "loss_impossible" the rows that `ctc`
        left out; values over nothing that counts are NaN. With `restore_best`, `model` and `params` are those of the
        best epoch, `state` is that of the last.

    Raises:
        ValueError, TypeError: for data, names and options that do not fit, before anything runs; for later batches of
            an iterable when they are read. ValueError also for a checkpoint that is damaged or of another run.

    >>> import numpy as np, rnnjax as rj
    >>> x, y = np.random.default_rng(0).normal(size=(64, 5, 2)).astype("float32"), np.arange(64) % 2
    >>> layers = [rj.RNN(rj.GRU(4)), rj.Last(), rj.Dense(2)]
    >>> fitted = rj.training.fit(rj.Stack(layers), (x, y), metrics=["accuracy"], epochs=2, progress=False)
    >>> sorted(fitted.history)
    ['accuracy', 'loss']
    """
    sizes = {"epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "checkpoint_every": checkpoint_every}
    optional = {"patience": patience, "steps_per_epoch": steps_per_epoch}
    for name, size in (sizes | {name: size for name, size in optional.items() if size is not None}).items():
        check_size(name, size)
    check_not_negative("min_delta", min_delta)
    check_seed(seed)
    # NumPy's integers cannot be written into a checkpoint
    batch_size, accumulate, seed = int(batch_size), int(accumulate), int(seed)
    steps_per_epoch = None if steps_per_epoch is None else int(steps_per_epoch)

    loss, metrics = _measured_by(model, loss, metrics)
    used, chain = measures(loss, metrics), _transformation(optimizer, model)
    monitor, rising = _direction(used, monitor, mode, validation is not None or validation_split is not None)
    judge, watchers = Judge(monitor, rising, patience, min_delta, restore_best), Watchers(callbacks)
    loggers = functions("log", log, 'of the step and the values, such as `csv_logger("run.csv")`')
    check_truncate(truncate)
    check_repeats("data", None if steps_per_epoch else data, epochs)
    check_repeats("validation", validation, epochs)
    read, parallel = _read(data, validation, validation_split, steps_per_epoch, all_take_masks(used)), Parallel(mesh)
    if read.batches is None:
        parallel.check_rows(*(("batch_size", batch_size) if truncate is None else ("B", rows_of(read.first))))

    init_key, noise_key = jax.random.split(jax.random.key(seed))
    plain = adapt(_model_of(model), read.first.inputs, init_key)
    adapted = divided(computed_in(plain, compute_dtype), parallel)
    if truncate is not None:
        if read.batches is not None or accumulate != 1:
            raise ValueError("`truncate` needs arrays (B, L, …) and no `accumulate`")
        adapted = windowed(adapted, truncate)
    measured = of_model(used, plain, read.first, truncate is not None)
    check = checks(measured, plain, read.first, batch_size, truncate)
    recipe, order = _runs.Recipe(adapted, measured, chain, accumulate, parallel), seed if shuffle else None
    run = _run(recipe, read, batch_size, order, truncate, watchers.every, steps_per_epoch, check)
    validate = None
    if read.validation is not None:
        held, validation = _peeked(read.validation, all_take_masks(used))
        own = of_model(used, plain, held, truncate is not None)
        if is_arrays(validation) or own != measured:  # else its outputs are those that training has
            check = checks(own, plain, held, batch_size, truncate)
        validate = _runs.evaluation(adapted, own, held, validation, batch_size, truncate, parallel, check)

    state = start(adapted, chain, noise_key)
    check_accumulation(state.optimizer)
    state = parallel.put(_after(model.state, state) if isinstance(model, Fitted) else state, run.state)
    state = run.begin(state)
    if validate is not None:
        validate.trace(state.params, state.rest)
    zeros = run.zeros(state)
    described = {
        "batch_size": batch_size,
        "seed": seed,
        "shuffle": shuffle,
        "accumulate": accumulate,
        "steps_per_epoch": steps_per_epoch,
        "compute_dtype": None if compute_dtype is None else jnp.dtype(compute_dtype).name,
        **judge.described,
        "loss": own_name(used[0].function) + used[0].fixed,
        "metrics": [measure.name + measure.fixed for measure in used[1:]],
        "rows": None if read.batches is not None else rows_of(read.first),
        "window": truncate and list(truncate),
    }
    within = {"`every` of its callbacks": None if read.batches is not None else watchers.every}
    with checkpoints(checkpoint_dir, described, within) as saver:
        record = taken_up(Record.new(state, zeros, judge), saver, judge, epochs)
        with Bar(epochs, progress) as bar:
            loop = Loop(run, used, validate, zeros, judge, watchers, loggers, epochs, checkpoint_every, saver, bar)
            try:
                state, history = loop.train(record)
            except BaseException:
                _hand_over(adapted, judge, run.newest)
                raise
    params, rest = judge.chosen(state)
    trained = {"loss": loss, "metrics": tuple(metrics), "optimizer": chain}
    return Fitted(adapted.publish(params, rest), params, history, state)._trained_by(trained)


def _measured_by(model: Any, loss: Any, metrics: Sequence[Any] | None) -> tuple[Any, Sequence[Any]]:
    """Loss and metrics as given, or those that a `Fitted` was trained with, or the first of a model's life."""
    trained = model if isinstance(model, Fitted) else Fitted
    loss = trained.loss if loss is None else loss
    if loss is None:
        raise ValueError("this `Fitted` comes from a pickle, without its loss, a function of your own: pass `loss`")
    return loss, trained.metrics if metrics is None else metrics


def _transformation(optimizer: Any, model: Any) -> optax.GradientTransformation:
    """The optimizer as given, or that of a `Fitted`, or the first of a model's life; TypeError for anything else."""
    chain = optimizer
    if optimizer is None:
        chain = model.optimizer if isinstance(model, Fitted) else _default()
        if chain is None:
            raise ValueError(
                "this `Fitted` has no optimizer, as where it comes from a pickle: pass the `optimizer` that it was "
                "trained with, or its `model` to begin anew"
            )
    if not (callable(getattr(chain, "init", None)) and callable(getattr(chain, "update", None))):
        raise TypeError(
            "`optimizer` must be an Optax transformation, such as `optax.adam(1e-3)` or "
            f'`rnnjax.training.optimizer(1e-3, algorithm="adam")`; got {chain!r}'
        )
    return chain


@functools.cache  # always the same, so that what is compiled of it is found again
def _default() -> optax.GradientTransformation:
    return default_optimizer(1e-3, clip_norm=1.0)


def _direction(used: tuple[Measure, ...], monitor: str | None, mode: str | None, validated: bool) -> tuple[str, bool]:
    """The entry of the history that is watched, and whether it improves by rising."""
    monitor = monitor or ("val_loss" if validated else "loss")
    if monitor.startswith("val_") and not validated:
        raise ValueError(
            f"`monitor` is {monitor!r}, and there is no validation: pass `validation` or another `monitor`"
        )
    return monitor, rises(used, monitor, mode)


class _Read(NamedTuple):
    """The data of a training. first: all rows of arrays, or the first batch of an iterable; batches: the iterable, None
    for arrays."""

    first: Batch
    batches: Any
    validation: Any


def _read(data: Any, validation: Any, share: float | None, steps_per_epoch: int | None, weighted: bool) -> _Read:
    """Data and validation, which may be a share of the data."""
    arrays = as_batch(data) if is_arrays(data) else None
    if share is not None:
        if arrays is None or validation is not None:
            raise ValueError("`validation_split` needs arrays, and no `validation` beside it")
        arrays, validation = split_rows(arrays, share)
    if arrays is None:
        return _Read(*first_of(data, weighted), validation)
    if steps_per_epoch is not None:
        raise ValueError("`steps_per_epoch` needs an iterable: an epoch of arrays is every row once")
    return _Read(arrays, None, validation)


def _peeked(data: Any, weighted: bool = False) -> tuple[Batch, Any]:
    """All rows of arrays, or the first batch of an iterable; and the data, which still have it."""
    return (as_batch(data), data) if is_arrays(data) else first_of(data, weighted)


def _run(
    recipe: _runs.Recipe,
    read: _Read,
    batch_size: int,
    order: int | None,
    truncate: TBPTT | None,
    every: int | None,
    steps_per_epoch: int | None,
    check: Check,
) -> _runs.Blocks | _runs.StreamRun:
    """The epochs over the data. order: the seed of that of the rows, None to leave it."""
    if read.batches is not None:
        stream = Stream(read.batches, steps_per_epoch, all_take_masks(recipe.used))
        return _runs.StreamRun(recipe, read.first, stream, check)
    if truncate is not None:
        return _runs.WindowBlocks(recipe, Windows.of(read.first, truncate), every)
    size = recipe.parallel.enough(batch_size, rows_of(read.first), recipe.accumulate)
    return _runs.over_arrays(recipe, read.first, size, order, every)


def _after(ended: TrainState, new: TrainState) -> TrainState:
    """A new state that goes on where another one ended, but for parameters and other state, which may be older."""
    shapes, given = (jax.tree.map(describe, state.optimizer) for state in (new, ended))
    if shapes != given:
        raise ValueError(
            "`model` is a `Fitted` of another optimizer or of other parameters, whose state does not fit this "
            "`optimizer`: pass its `model` to begin anew"
        )
    optimizer, step, key = jax.tree.map(
        lambda leaf: jnp.array(leaf, copy=True), (ended.optimizer, ended.step, ended.key)
    )
    return dataclasses.replace(new, optimizer=optimizer, step=step, key=key)


def _hand_over(model: Model, judge: Judge, state: TrainState | None) -> None:
    """Publishes what was trained before an error ends the training, for the modules that keep it; nothing where it was
    a step that has failed, which had taken the memory of the state."""
    if state is None:
        return
    chosen = judge.chosen(state)
    try:
        jax.block_until_ready(chosen)
    except RuntimeError:  # deleted, or its computation has failed
        return
    model.publish(*chosen)


def evaluate(
    model: Any,
    data: Any,
    *,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    batch_size: int = 128,
    truncate: TBPTT | None = None,
    compute_dtype: Any = None,
) -> dict[str, float]:
    """Loss and metrics of a model over all data, without noise.

    Args:
        model: a `Fitted`, or a model as for `fit`, but for a bare layer, whose parameters `fit` draws: it is one of a
            pair (params, layer).
        data: as for `fit`.
        loss, metrics: as for `fit`. None are those that a `Fitted` was trained with, and for any other model
            "cross_entropy" and no metrics.
        batch_size: rows that are evaluated at a time, for arrays.
        truncate, compute_dtype: as for `fit`.

    Returns:
        the values by name, the loss under "loss"; NaN where nothing counts.

    Raises:
        ValueError: for unknown names and two of one name, data without a row or a batch, rows or lengths that do not
            fit, targets that are no class or no probability, a `truncate` for an iterable or for arrays that are not
            (B, L, …), variables of linen without "params", float16 as `compute_dtype`, and a `batch_size` below 1.
        TypeError: for a model, data, metrics, `truncate`, `compute_dtype` or `batch_size` of another kind, a model
            that does not take the lengths or resets of the data, and a function that returns neither a scalar nor a
            total, takes no `mask` where rows have weights, or no `lengths` where steps of outputs (B, T, …) do not
            count.
    """
    check_size("batch_size", batch_size)
    check_truncate(truncate)
    used, trained = measures(*_measured_by(model, loss, metrics)), _trained(model)
    first, data = _peeked(data)
    adapted = computed_in(adapt(trained, first.inputs, jax.random.key(0)), compute_dtype)
    plain = adapted
    if truncate is not None:
        adapted = windowed(adapted, truncate)
    used = of_model(used, plain, first, truncate is not None)
    check = checks(used, plain, first, batch_size, truncate)
    totals = _runs.evaluation(adapted, used, first, data, batch_size, truncate, Parallel(None), check)
    return values(used, totals(adapted.params, adapted.rest))


def predict(
    model: Any,
    inputs: Any,
    *,
    lengths: Any = None,
    batch_size: int = 128,
    truncate: TBPTT | None = None,
    compute_dtype: Any = None,
) -> Any:
    """The outputs of a model for all rows of `inputs`, without noise.

    Args:
        model: as for `evaluate`.
        inputs: an array (N, …) or a pytree of them, such as a tuple (x, dt); a tuple that a layer cannot read is
            refused, for it may be inputs and targets. A layer that reads elapsed times takes (x, y) with floats y (N,
            T) for inputs and times: pass `x`, or `Batch(x, y)`. Or a `Batch`, of which targets are left out. Or an
            iterable of batches, such as a list, a generator or a loader, or a function that returns one. A batch is
            inputs alone, or a tuple as `fit` reads it, of which targets and weights are left out and lengths and resets
            are read, as by Keras. Inputs that are a tuple themselves are then `((x, dt),)`, for `(x, dt)` would be
            inputs and targets; of floats (B, T) for a layer that reads elapsed times it is warned. A `Batch(x, y)` is
            unmistakable.
        lengths: valid steps of each row, integers (N), for arrays; batches of an iterable have their own, as in
            `(inputs, None, lengths)`.
        batch_size: rows that are computed at a time, for arrays.
        truncate: as for `fit`, for arrays (B, L, …): one window at a time, each from the state of the one before.
        compute_dtype: as for `fit`.

    Returns:
        NumPy arrays that lead with the N rows, those of an iterable in the order in which they come.

    Raises:
        ValueError: for inputs that have no row or differ in their number of rows, lengths of another number or beyond
            the steps, lengths or `truncate` beside an iterable, a `truncate` for inputs that are not (B, L, …) or a
            model without an output for every step, batches whose outputs differ in more than their rows, variables of
            linen without "params", float16 as `compute_dtype`, and a `batch_size` below 1.
        TypeError: for a model, inputs, `truncate`, `compute_dtype` or `batch_size` of another kind, lengths that are
            not integers, and a model that does not take lengths, or a state for `truncate`, where they are given.
    """
    check_size("batch_size", batch_size)
    check_truncate(truncate)
    if truncate is not None and not isinstance(inputs, Batch) and is_iterable(inputs):
        raise ValueError("`truncate` needs arrays (B, L, …)")
    trained = _trained(model)
    layer = layer_of(trained)
    parts = _parts(inputs, lengths, batch_size, layer is not None and layer.elapsed)
    first = next(parts, None)
    if first is None:
        raise ValueError("`inputs` hold no row")
    plain = adapt(trained, first.inputs, jax.random.key(0))
    if type(inputs) is tuple and layer is not None and not layer.elapsed:
        _check_tuple(layer, plain, first)
    adapted = computed_in(plain, compute_dtype)
    if truncate is None:
        run = cached(_outputs, adapted.apply, kept=adapted.kept)
    else:
        run = outputs_of_windows(adapted, truncate)
    outputs, size = [], 0
    for part in itertools.chain([first], parts):
        check_ids(adapted.vocabulary, part)
        rows = rows_of(part)
        size = max(size, rows)  # a smaller batch than those before needs no program of its own
        filled = fill_up(part, size)._replace(weights=None)
        found = jax.device_get(run(adapted.params, adapted.rest, filled))
        outputs.append(jax.tree.map(lambda leaf, rows=rows: leaf[:rows], found))
    return jax.tree.map(_joined, *outputs)


def _check_tuple(layer: Layer, model: Model, first: Batch) -> None:
    """Raises TypeError for inputs that are a tuple which the layer cannot read."""
    try:
        jax.eval_shape(lambda *own: model.apply(*own, None, False), model.params, model.rest, first)
    except Exception as error:
        raise TypeError(
            f"`inputs` of this {type(layer).__name__} are a tuple of {len(first.inputs)}, which it cannot read: pass "
            "`x` of (x, y), or `rnnjax.training.Batch(x, y)`, whose targets are left out, or `Batch((a, b), None)` for "
            "several inputs"
        ) from error


def _parts(inputs: Any, lengths: Any, batch_size: int, elapsed: bool) -> Iterator[Batch]:
    """The batches of `predict` that have a row. elapsed: whether the model reads elapsed times beside its inputs."""
    if isinstance(inputs, Batch) and lengths is not None:
        raise ValueError("`lengths` are for inputs alone: a `Batch` has its own")
    if not is_iterable(inputs):
        batch = as_inputs(inputs) if isinstance(inputs, Batch) else as_batch(Batch(inputs, None, lengths))
        return (take(batch, slice(at, at + batch_size)) for at in range(0, rows_of(batch), batch_size))
    if lengths is not None:
        raise ValueError(
            "`lengths` are for arrays: batches of an iterable have their own, as in (inputs, None, lengths)"
        )
    return filter(rows_of, Stream(inputs, reads=_warning_of_times() if elapsed else as_inputs).read(0))


def _warning_of_times() -> Callable[[Any], Batch]:
    """`as_inputs`, which warns once of targets that may be elapsed times."""
    warned = False

    def reads(data: Any) -> Batch:
        nonlocal warned
        batch = as_inputs(data)
        if not warned and isinstance(data, (tuple, list)) and len(data) == 2 and _may_be_times(data[1], batch.inputs):
            warned = True
            warnings.warn(
                "a batch of two parts is (inputs, targets), and of targets that are floats (B, T), which this layer "
                "could read as elapsed times, nothing is read: pass `((x, dt),)` for inputs with times, and "
                "`rnnjax.training.Batch(x, y)` to be silent",
                stacklevel=4,
            )
        return batch

    return reads


def _may_be_times(targets: Any, inputs: Any) -> bool:
    """Whether these are floats (B, T) beside one array (B, T, …)."""
    if not jax.tree_util.all_leaves([inputs, targets]):
        return False
    found = targets if isinstance(targets, jax.Array) else np.asarray(targets)  # one on a device stays there
    return jnp.issubdtype(found.dtype, jnp.floating) and found.shape == inputs.shape[:2]


def _joined(*leaves: np.ndarray) -> np.ndarray:
    """The rows of all batches."""
    shapes = sorted({leaf.shape[1:] for leaf in leaves})
    if len(shapes) > 1:
        raise ValueError(
            f"outputs of the batches must not differ behind their rows; got (B, …) with {', '.join(map(str, shapes))}: "
            "pad inputs to one length, or predict batch by batch"
        )
    return np.concatenate(leaves)


def _outputs(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The outputs for a batch, compiled."""
    return jax.jit(lambda params, rest, batch: apply(params, rest, batch, None, False)[0])


def _model_of(model: Any) -> Any:
    return model.model if isinstance(model, Fitted) else model


def _trained(model: Any) -> Any:
    """The model of `evaluate` and `predict`; TypeError for a bare layer, which would draw new parameters."""
    if isinstance(model, Layer):
        raise TypeError(
            f"`model` must have parameters, and a bare {type(model).__name__} has none: pass the `Fitted` that `fit` "
            "returned, or `(params, layer)`"
        )
    return _model_of(model)
