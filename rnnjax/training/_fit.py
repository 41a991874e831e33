"""Training, evaluation and prediction, for every kind of model, on arrays or on any iterator of batches."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._errors import check_not_negative, check_size, describe
from . import _runs
from ._batches import Batch, Stream, as_batch, check_seed, fill_up, first_of, is_arrays, rows_of, split_rows, take
from ._checkpoint import Checkpoints, filled
from ._checks import check_ids, checks
from ._measure import all_take_masks, measures, own_name, rises, values
from ._model import adapt
from ._parallel import Parallel, divided
from ._precision import computed_in
from ._progress import Bar
from ._step import TrainState, make_step, start
from .loggers import Log
from .optimizers import counts_skips, skipped_steps
from .optimizers import optimizer as default_optimizer
from .truncation import TBPTT, Windows, windowed


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
    module, which draws from its own `Rngs`. A batch or window in which nothing counts changes neither parameters nor
    the optimizer's state.

    Args:
        model: an `nnx.Module`, which is updated, and trained as after its `train()`, with dropout even if it was made
            `deterministic`; a layer of rnnjax, whose parameters are drawn; or a pair (params, layer), (params, apply)
            or (variables, linen module). Data are batch-major, and so is a model: (B, T, I) -> (B, T, O) or (B, O); for
            a layer of rnnjax the axes are swapped. A function `apply(params, inputs, …)` is given, of `lengths`, `key`,
            `train` and `deterministic`, the ones that it has parameters for. Or a `Fitted`: its model goes on with the
            optimizer's moments, the steps of its schedules and the noise of where it ended; orders begin anew.
        data: arrays (inputs, targets), (inputs, targets, lengths) or (inputs, targets, lengths, weights) that lead with
            the rows, of which inputs or targets may be tuples, both only in a `Batch(inputs, targets)`; or an iterable
            of such batches, or a function that returns one, such as `buckets(…)`. Without `steps_per_epoch` an iterable
            is read once an epoch; a function with a parameter `epoch` is given its number. A batch with fewer rows than
            those before is filled up if loss and metrics take a `mask`, and else compiles once more. Lengths cut off
            outputs (B, T, …) with the T of the inputs. Where these differ in T, outputs with that of one of them need
            weights (B, T), such as those of a decoder, and lengths are for the model alone.
        loss: a name such as "cross_entropy", a function of `rnnjax.training`, or a function
            `(outputs, targets, *, mask, lengths) -> scalar or Mean`; it is passed the arguments that it takes.
        optimizer: an Optax transformation; None is `rnnjax.training.optimizer(1e-3, clip_norm=1.0)`.
        metrics: more of the same, or pairs of a name and a function.
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
            there goes on from it, and ends, on a CPU, with the same bits as if it had not been interrupted; an iterable
            must then hold the same batches in every epoch of that number, and with `steps_per_epoch` it is read again
            up to the place of the checkpoint. At SIGTERM a checkpoint is written before the process ends, and at Ctrl-C
            before KeyboardInterrupt is raised; where a handler of your own keeps it alive, `fit` returns what it has.
            Several processes end together, after the epoch in which one of them is told to.
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
    check_size("epochs", epochs)
    check_size("batch_size", batch_size)
    check_size("accumulate", accumulate)
    check_size("checkpoint_every", checkpoint_every)
    if patience is not None:
        check_size("patience", patience)
    if steps_per_epoch is not None:
        check_size("steps_per_epoch", steps_per_epoch)
        steps_per_epoch = int(steps_per_epoch)
    check_not_negative("min_delta", min_delta)
    check_seed(seed)
    # NumPy's integers cannot be written into a checkpoint
    batch_size, accumulate, seed = int(batch_size), int(accumulate), int(seed)
    used = measures(loss, metrics)
    monitor = monitor or ("loss" if validation is None and validation_split is None else "val_loss")
    if monitor.startswith("val_") and validation is None and validation_split is None:
        raise ValueError(
            f"`monitor` is {monitor!r}, and there is no validation: pass `validation` or another `monitor`"
        )
    rising = rises(used, monitor, mode)
    chain = default_optimizer(1e-3, clip_norm=1.0) if optimizer is None else optimizer
    if not (callable(getattr(chain, "init", None)) and callable(getattr(chain, "update", None))):
        raise TypeError(
            "`optimizer` must be an Optax transformation, such as `optax.adam(1e-3)` or "
            f'`rnnjax.training.optimizer(1e-3, algorithm="adam")`; got {chain!r}'
        )
    callbacks = (callbacks,) if callable(callbacks) else tuple(callbacks)
    arrays = as_batch(data) if is_arrays(data) else None
    if validation_split is not None:
        if arrays is None or validation is not None:
            raise ValueError("`validation_split` needs arrays, and no `validation` beside it")
        arrays, validation = split_rows(arrays, validation_split)
    if arrays is not None and steps_per_epoch is not None:
        raise ValueError("`steps_per_epoch` needs an iterable: an epoch of arrays is every row once")
    weighted = all_take_masks(used)
    first, data = first_of(data, weighted) if arrays is None else (arrays, None)
    parallel = Parallel(mesh)
    if arrays is not None:
        parallel.check_rows(*(("batch_size", batch_size) if truncate is None else ("B", rows_of(arrays))))

    init_key, noise_key = jax.random.split(jax.random.key(seed))
    plain = adapt(_model_of(model), first.inputs, init_key)
    adapted = divided(computed_in(plain, compute_dtype), parallel)
    if truncate is not None:
        if arrays is None or accumulate != 1:
            raise ValueError("`truncate` needs arrays (B, L, …) and no `accumulate`")
        adapted = windowed(adapted, truncate)
    step = make_step(adapted, used, chain, accumulate, parallel)
    watchers = _Watchers(callbacks)
    every = watchers.every
    check = checks(used, plain, first, batch_size, truncate)
    if arrays is None:
        run = _runs.StreamRun(step, first, Stream(data, steps_per_epoch, weighted), parallel, check)
    elif truncate is None:
        size = parallel.enough(batch_size, rows_of(arrays), accumulate)
        run = _runs.over_arrays(step, arrays, size, seed if shuffle else None, parallel, every)
    else:
        run = _runs.WindowBlocks(step, adapted, Windows.of(arrays, truncate), parallel, every)
    if validation is not None and is_arrays(validation):
        checks(used, plain, as_batch(validation), batch_size, truncate)
    validate = None
    if validation is not None:
        validate = _runs.evaluation(adapted, used, validation, batch_size, truncate, parallel, check)
    state = start(adapted, chain, noise_key)
    state = parallel.put(_after(model.state, state) if isinstance(model, Fitted) else state, run.state)
    judge = _Judge(monitor, rising, patience, min_delta, restore_best)
    state = run.begin(state)
    if validate is not None:
        validate.trace(state.params, state.rest)
    record, zeros = _Record.new(state, judge), run.zeros(state)
    record = record._replace(totals=zeros())
    described = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "accumulate": accumulate}
    described |= {"steps_per_epoch": steps_per_epoch}
    described |= {"compute_dtype": None if compute_dtype is None else jnp.dtype(compute_dtype).name}
    described |= {"every": None if arrays is None else every, "monitor": None, "mode": None, "min_delta": None}
    described |= {"loss": own_name(used[0].function), "metrics": [measure.name for measure in used[1:]]}
    if judge.watches:
        described |= {"monitor": monitor, "mode": "max" if rising else "min", "min_delta": float(min_delta)}
    described |= {"rows": None if arrays is None else rows_of(arrays), "window": truncate and list(truncate)}
    loggers = (log,) if callable(log) else tuple(log)

    with Bar(epochs, progress) as bar, _checkpoints(checkpoint_dir, described) as saver:
        if saver is not None:
            record = record.restored(saver)
            judge.recall(record)
        history, totals = record.history, parallel.put(record.totals, parallel.whole)
        state = parallel.put(record.state, run.state)
        epoch, done = record.epoch, record.done
        while epoch < epochs and not judge.ended:
            began = time.perf_counter()
            if not done:
                state, totals = run.begin(state), zeros()
            before = int(state.step) - run.steps(done) if every else 0
            watchers.begin(before + run.steps(done))
            stopped = False
            for part in run.parts(state, epoch, done, totals):
                state, totals, done, share = part
                bar.part(epoch, share)
                watchers.see(before + run.steps(done), state.params)
                if saver is not None and saver.stops_within:
                    saver.save(int(state.step), _Record.of(state, totals, history, judge, epoch, done))
                    saver.stop()
                    stopped = True
                    break
            if stopped:
                break
            watchers.see(before + run.steps(done), state.params, ends=True)
            logs = values(used, totals)
            if validate is not None:
                logs |= values(used, validate(state.params, state.rest), "val_")
            skipped = skipped_steps(state.optimizer)
            # a column from the first epoch on, because a table cannot get one later
            columns = {**logs, "skipped_steps": skipped} if counts_skips(state.optimizer) else logs
            if skipped:
                logs["skipped_steps"] = skipped
            for name, value in logs.items():
                column = history.setdefault(name, [])
                missing = 0.0 if name == "skipped_steps" else math.nan  # of epochs without, before a run went on
                column += [missing] * (epoch - len(column)) + [value]
            event = Epoch(epoch, int(state.step), logs, state, time.perf_counter() - began)
            for logger in loggers:
                logger(event.step, columns)
            stop = [callback(event) for callback in callbacks]
            bar.epoch(epoch, logs)
            judge.see(logs, state)
            judge.stopped |= any(map(_is_true, stop))
            epoch, done = epoch + 1, 0
            last = epoch == epochs or judge.ended
            stopped = saver is not None and saver.stops_after()
            if saver is not None and (last or stopped or epoch % checkpoint_every == 0):
                saver.save(int(state.step), _Record.of(state, totals, history, judge, epoch, done))
                if stopped or saver.stops_within:  # told meanwhile
                    saver.stop()
                    break
    params, rest = judge.chosen(state)
    return Fitted(adapted.publish(params, rest), params, history, state)


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


class _Watchers:
    """The callbacks that are also called within epochs. every: the fewest updates between two calls, or None."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._all = [callback for callback in callbacks if hasattr(callback, "during")]
        for watcher in self._all:
            check_size("every", watcher.every)
        self.every = min((int(watcher.every) for watcher in self._all), default=None)
        self._called: list[int] = []

    def begin(self, step: int) -> None:
        """Before an epoch, or what is left of one."""
        self._called = [step] * len(self._all)

    def see(self, step: int, params: Any, ends: bool = False) -> None:
        """Calls those whose updates have passed; where the epoch ends, all that have not seen its last one."""
        for at, watcher in enumerate(self._all):
            passed = step - self._called[at]
            if passed >= watcher.every or (ends and passed):
                self._called[at] = step
                watcher.during(step, params)


def _is_true(answer: Any) -> bool:
    """Whether a callback said True: one of Python, NumPy or JAX, but nothing else that counts as true."""
    return isinstance(answer, bool | np.bool_ | jax.Array) and np.asarray(answer).dtype == np.bool_ and bool(answer)


class _Judge:
    """Watches one entry of the history: when to stop, and which parameters were the best."""

    def __init__(self, monitor: str, rising: bool, patience: int | None, min_delta: float, restore: bool) -> None:
        self.monitor, self.rising, self.patience, self.restore = monitor, rising, patience, restore
        self.min_delta = min_delta
        self.watches = patience is not None or restore
        self.best, self.waited, self.stopped = math.inf, 0, False
        self.kept: Any = None

    @property
    def ended(self) -> bool:
        """A callback has said so, or the epochs without improvement have reached the patience."""
        return self.stopped or (self.patience is not None and self.waited >= self.patience)

    def see(self, logs: Mapping[str, float], state: TrainState) -> None:
        """Takes note of an epoch."""
        if not self.watches:
            return
        if self.monitor not in logs:
            raise ValueError(f"`monitor` must be one of {', '.join(logs)}; got {self.monitor!r}")
        value = -logs[self.monitor] if self.rising else logs[self.monitor]
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            if self.restore:
                self.kept = jax.tree.map(jnp.copy, (state.params, state.rest))
            return
        self.waited += 1

    def recall(self, record: _Record) -> None:
        """Goes on from what a checkpoint says."""
        _, _, self.waited, stopped = (int(number) for number in record.place)
        self.best, self.stopped = float(record.best), bool(stopped)
        if self.restore and np.isfinite(self.best):
            self.kept = record.kept

    def chosen(self, state: TrainState) -> tuple[Any, Any]:
        """The best parameters and other state if they are to be restored, else the last."""
        return (state.params, state.rest) if self.kept is None else self.kept


class _Record(NamedTuple):
    """What a checkpoint holds. place: the epoch, loops done in it, epochs without improvement, whether a
    callback has ended it."""

    state: TrainState
    totals: Any
    kept: Any
    place: np.ndarray
    best: np.ndarray
    history: dict[str, Any]

    @classmethod
    def new(cls, state: TrainState, judge: _Judge) -> _Record:
        """Before the first step."""
        return cls.of(state, (), {}, judge, 0, 0)

    @classmethod
    def of(cls, state: TrainState, totals: Any, history: Any, judge: _Judge, epoch: int, done: int) -> _Record:
        """At some place of some epoch."""
        kept = (state.params, state.rest) if judge.restore and judge.kept is None else judge.kept
        place = np.array([epoch, done, judge.waited, judge.stopped], np.int64)
        curves = {name: np.array(curve) for name, curve in history.items()}
        return cls(state, totals, kept, place, np.array(judge.best), curves)

    def restored(self, saver: Checkpoints) -> _Record:
        """The newest checkpoint, or this record where there is none."""
        arrays = saver.load(self)
        if arrays is None:
            return self
        curves = {name.removeprefix("history."): curve for name, curve in arrays.items() if name.startswith("history.")}
        history = {name: np.asarray(curve).tolist() for name, curve in sorted(curves.items())}
        return filled(self, arrays)._replace(history=history)

    @property
    def epoch(self) -> int:
        return int(self.place[0])

    @property
    def done(self) -> int:
        return int(self.place[1])


@contextlib.contextmanager
def _checkpoints(directory: Any, described: Mapping[str, Any]) -> Iterator[Checkpoints | None]:
    if directory is None:
        yield None
        return
    with Checkpoints(directory, described) as saver:
        yield saver


def evaluate(
    model: Any,
    data: Any,
    *,
    loss: Any = "cross_entropy",
    metrics: Sequence[Any] = (),
    batch_size: int = 128,
    truncate: TBPTT | None = None,
    compute_dtype: Any = None,
) -> dict[str, float]:
    """Loss and metrics of a model over all data, without noise.

    Args:
        model: what `fit` takes or returns in `Fitted.model`, or a `Fitted`.
        data, loss, metrics: as for `fit`.
        batch_size: rows that are evaluated at a time, for arrays.
        truncate, compute_dtype: as for `fit`.

    Returns:
        the values by name, the loss under "loss"; NaN where nothing counts.

    Raises:
        ValueError: for unknown names and two of one name, data without a row or a batch, rows or lengths that do not
            fit, targets that are no class or no probability, a `truncate` for an iterable or for arrays that are not
            (B, L, …), variables of linen without "params", float16 as `compute_dtype`, and a `batch_size` below 1.
        TypeError: for a model, data, metrics, `compute_dtype` or `batch_size` of another kind, a model that does not
            take the lengths or resets of the data, and a function that returns neither a scalar nor a total, or takes
            no `mask` where rows have weights.
    """
    check_size("batch_size", batch_size)
    used = measures(loss, metrics)
    first, data = (as_batch(data), data) if is_arrays(data) else first_of(data)
    adapted = computed_in(adapt(_model_of(model), first.inputs, jax.random.key(0)), compute_dtype)
    plain = adapted
    if truncate is not None:
        adapted = windowed(adapted, truncate)
    check = checks(used, plain, first, batch_size, truncate)
    totals = _runs.evaluation(adapted, used, data, batch_size, truncate, Parallel(None), check)
    return values(used, totals(adapted.params, adapted.rest))


def predict(model: Any, inputs: Any, *, lengths: Any = None, batch_size: int = 128, compute_dtype: Any = None) -> Any:
    """The outputs of a model for all rows of `inputs`, without noise.

    Args:
        model: what `fit` takes or returns in `Fitted.model`, or a `Fitted`.
        inputs: an array (N, …) or a pytree of them.
        lengths: valid steps of each row, integers (N).
        batch_size: rows that are computed at a time.
        compute_dtype: as for `fit`.

    Returns:
        NumPy arrays that lead with the N rows.

    Raises:
        ValueError: for inputs that have no row or differ in their number of rows, lengths of another number or beyond
            the steps, variables of linen without "params", float16 as `compute_dtype`, and a `batch_size` below 1.
        TypeError: for a model, `compute_dtype` or `batch_size` of another kind, lengths that are not integers, and
            a model that does not take lengths, where they are given.
    """
    check_size("batch_size", batch_size)
    batch = as_batch((inputs, np.zeros(len(jax.tree.leaves(inputs)[0])), lengths))
    adapted, rows = adapt(_model_of(model), batch.inputs, jax.random.key(0)), rows_of(batch)
    adapted = computed_in(adapted, compute_dtype)
    if not rows:
        raise ValueError("`inputs` hold no row")
    check_ids(adapted.vocabulary, batch)

    size = min(batch_size, rows)
    parts = [fill_up(take(batch, slice(i, i + size)), size) for i in range(0, rows, size)]
    outputs = [
        jax.device_get(_outputs(adapted.apply, adapted.params, adapted.rest, part._replace(weights=None)))
        for part in parts
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:rows], *outputs)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(apply: Callable[..., Any], params: Any, rest: Any, batch: Batch) -> Any:
    return apply(params, rest, batch, None, False)[0]


def _model_of(model: Any) -> Any:
    return model.model if isinstance(model, Fitted) else model
