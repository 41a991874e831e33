"""The epochs of a training: what is watched, recorded, told and saved, and what ends them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_size
from ._checkpoint import Checkpoints, filled
from ._measure import Measure, values
from ._progress import Bar
from ._runs import Blocks, Evaluation, Part, StreamRun
from ._step import TrainState
from .loggers import Log
from .optimizers import counters


class Epoch(NamedTuple):
    """What callbacks are given: the epoch's number from 0, the steps so far, its values, the state, its seconds.

    The arrays of `state` are overwritten by the next epoch: copy what you keep.
    """

    epoch: int
    step: int
    logs: dict[str, float]
    state: TrainState
    seconds: float


def functions(name: str, given: Any, what: str) -> tuple[Callable[..., Any], ...]:
    """One function or several as a tuple; TypeError for anything else."""
    found = (given,) if callable(given) else tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(map(callable, found)):
        raise TypeError(f"`{name}` must be a function {what}, or a sequence of them; got {given!r}")
    return found


class Watchers:
    """The callbacks, of which some are also called within epochs. every: the fewest updates between two such calls, or
    None."""

    def __init__(self, callbacks: Callable[..., Any] | Sequence[Callable[..., Any]]) -> None:
        self.callbacks = functions("callbacks", callbacks, "of an `Epoch`")
        self._within: list[Any] = [callback for callback in self.callbacks if hasattr(callback, "during")]
        for watcher in self._within:
            check_size("every", watcher.every)
        self.every = min((int(watcher.every) for watcher in self._within), default=None)
        self._called: list[int] = []

    def begin(self, step: int) -> None:
        """Before an epoch, or what is left of one."""
        self._called = [step] * len(self._within)

    def see(self, step: int, params: Any, ends: bool = False) -> None:
        """Calls those whose updates have passed; where the epoch ends, all that have not seen its last one."""
        for at, watcher in enumerate(self._within):
            passed = step - self._called[at]
            if passed >= watcher.every or (ends and passed):
                self._called[at] = step
                watcher.during(step, params)

    def stop(self, event: Epoch) -> bool:
        """Calls all of them after an epoch; whether one has said True."""
        answers = [callback(event) for callback in self.callbacks]
        return any(map(_is_true, answers))


def _is_true(answer: Any) -> bool:
    """Whether a callback said True: one of Python, NumPy or JAX, but nothing else that counts as true."""
    return isinstance(answer, bool | np.bool_ | jax.Array) and np.asarray(answer).dtype == np.bool_ and bool(answer)


class Judge:
    """Watches one entry of the history: when to stop, and which parameters were the best."""

    def __init__(self, monitor: str, rising: bool, patience: int | None, min_delta: float, restore: bool) -> None:
        self.monitor, self.rising, self.patience, self.restore = monitor, rising, patience, restore
        self.min_delta = min_delta
        self.watches = patience is not None or restore
        self.best, self.waited, self.stopped = math.inf, 0, False
        self.kept: Any = None

    @property
    def described(self) -> dict[str, Any]:
        """What a run depends on, if anything is watched."""
        restores = {"restore_best": self.restore}
        if not self.watches:
            return restores | {"monitor": None, "mode": None, "min_delta": None}
        mode = "max" if self.rising else "min"
        return restores | {"monitor": self.monitor, "mode": mode, "min_delta": float(self.min_delta)}

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

    def recall(self, record: Record) -> None:
        """Goes on from what a checkpoint says."""
        _, _, self.waited, stopped = (int(number) for number in record.place)
        self.best, self.stopped = float(record.best), bool(stopped)
        if self.restore and np.isfinite(self.best):
            self.kept = record.kept

    def chosen(self, state: TrainState) -> tuple[Any, Any]:
        """The best parameters and other state if they are to be restored, else the last."""
        return (state.params, state.rest) if self.kept is None else self.kept


class Record(NamedTuple):
    """What a checkpoint holds. place: the epoch, loops done in it, epochs without improvement, whether a
    callback has ended it."""

    state: TrainState
    totals: Any
    kept: Any
    place: np.ndarray
    best: np.ndarray
    history: dict[str, Any]

    @classmethod
    def new(cls, state: TrainState, totals: Any, judge: Judge) -> Record:
        """Before the first step."""
        return cls.of(state, totals, {}, judge, 0, 0)

    @classmethod
    def of(cls, state: TrainState, totals: Any, history: Any, judge: Judge, epoch: int, done: int) -> Record:
        """At some place of some epoch."""
        kept = (state.params, state.rest) if judge.restore and judge.kept is None else judge.kept
        place = np.array([epoch, done, judge.waited, judge.stopped], np.int64)
        curves = {name: np.array(curve) for name, curve in history.items()}
        return cls(state, totals, kept, place, np.array(judge.best), curves)

    def restored(self, saver: Checkpoints) -> Record | None:
        """The newest checkpoint, which this record has the form of, or None where there is none."""
        arrays = saver.load(self)
        if arrays is None:
            return None
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
def checkpoints(
    directory: Any, described: Mapping[str, Any], within: Mapping[str, Any]
) -> Iterator[Checkpoints | None]:
    """Those of a directory, while signals are noted; None without one."""
    if directory is None:
        yield None
        return
    with Checkpoints(directory, described, within) as saver:
        yield saver


def taken_up(record: Record, saver: Checkpoints | None, judge: Judge, epochs: int) -> Record:
    """The newest checkpoint, of which the user is told, or this record where there is none."""
    found = None if saver is None else record.restored(saver)
    if saver is None or found is None:
        return record
    judge.recall(found)
    if found.epoch >= epochs or judge.ended:
        by, more = "", "`epochs` may be more, or "
        if judge.stopped:
            by, more = ", by a callback", ""
        elif judge.ended:
            by, more = ", by its `patience`", "`patience` may be more, or "
        warnings.warn(
            f"the run in {saver.directory} had ended, after {found.epoch} epochs{by}: nothing is trained, and what it "
            f"had learnt comes back, also where data or learning rate have changed; {more}choose another "
            "`checkpoint_dir`",
            stacklevel=3,
        )
    else:
        print(f"the run in {saver.directory} goes on at epoch {found.epoch + 1} of {epochs}", file=sys.stderr)
    return found


@contextlib.contextmanager
def _warned_of(what: str, error: type[Exception], last: bool) -> Iterator[None]:
    """Makes such an error in writing a warning where it is the last of a run, whose model it would take along."""
    try:
        yield
    except error as found:
        if not last:
            raise
        warnings.warn(f"{what} could not be written ({type(found).__name__}: {found})", stacklevel=6)


@dataclasses.dataclass
class Loop:
    """The epochs of a run, up to the last one or until something ends them.

    validate: the totals of the validation, if there is any.
    checkpoint_every: epochs from one checkpoint to the next.
    zeros: the totals with which an epoch begins.
    """

    run: Blocks | StreamRun
    used: tuple[Measure, ...]
    validate: Evaluation | None
    zeros: Any
    judge: Judge
    watchers: Watchers
    loggers: Sequence[Log]
    epochs: int
    checkpoint_every: int
    saver: Checkpoints | None
    bar: Bar

    def train(self, record: Record) -> tuple[TrainState, dict[str, list[float]]]:
        """Goes on from a record; the last state and the history."""
        parallel = self.run.parallel
        self.history, self.epoch, self.done = record.history, record.epoch, record.done
        self.totals = parallel.put(record.totals, parallel.whole)
        self.state = parallel.put(record.state, self.run.state)
        self.counted, self.warns = None if self.done else self._counts(), True
        while not self._ended:
            began = time.perf_counter()
            if not self._runs_through():
                break
            self._closes(began)
            if self._ends_with_a_checkpoint():
                break
        return self.state, self.history

    def _runs_through(self) -> bool:
        """Runs what is left of an epoch; False where a signal has ended it, after a checkpoint."""
        run, watchers = self.run, self.watchers
        if not self.done:
            self.state, self.totals = run.begin(self.state), self.zeros
        before = int(self.state.step) - run.steps(self.done) if watchers.every else 0
        watchers.begin(before + run.steps(self.done))
        for part in self._parts():
            self.state, self.totals, self.done, share = part
            self.bar.part(self.epoch, share)
            watchers.see(before + run.steps(self.done), self.state.params)
            if self._told:
                break
        if self.saver is not None and self._told:
            self._save(self.saver)
            self.saver.stop()
            return False
        watchers.see(before + run.steps(self.done), self.state.params, ends=True)
        return True

    def _parts(self) -> Iterator[Part]:
        """Those of what is left of an epoch, up to where reading fails after a signal, which may have ended the workers
        of a loader as well."""
        try:
            yield from self.run.parts(self.state, self.epoch, self.done, self.totals)
        except Exception:
            taken = any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state))  # by a step that failed
            if taken or not self._told:
                raise

    @property
    def _ended(self) -> bool:
        """Whether no epoch follows."""
        return self.epoch >= self.epochs or self.judge.ended

    @property
    def _told(self) -> bool:
        """Whether a signal ends the run here."""
        return self.saver is not None and self.saver.stops_within

    def _closes(self, began: float) -> None:
        """Values of the epoch reach the history, loggers, callbacks, the bar and the judge."""
        logs = values(self.used, self.totals)
        if self.validate is not None:
            logs |= values(self.used, self.validate(self.state.params, self.state.rest), "val_")
        steps, *counted = counts = self._counts()
        skipped = sum(counted)
        # a column from the first epoch on, because a table cannot get one later
        columns = {**logs, "skipped_steps": skipped} if counted else logs
        if skipped:
            logs["skipped_steps"] = skipped
        for name, value in logs.items():
            curve = self.history.setdefault(name, [])
            missing = 0.0 if name == "skipped_steps" else math.nan  # of epochs without, before a run went on
            curve += [missing] * (self.epoch - len(curve)) + [value]
        event = Epoch(self.epoch, steps, logs, self.state, time.perf_counter() - began)
        self._warn_of_nothing(counts)
        failed = self._log(steps, columns)
        stopped = self.watchers.stop(event)
        self.bar.epoch(self.epoch, logs)
        self.judge.see(logs, self.state)
        self.judge.stopped |= stopped
        self.epoch, self.done = self.epoch + 1, 0
        with _warned_of("the values of the last epoch", OSError, self._ended):
            if failed is not None:
                raise failed

    def _log(self, steps: int, columns: Mapping[str, float]) -> OSError | None:
        """Calls the loggers, before callbacks, which may raise; an error of the disk is to be raised behind them."""
        failed = None
        for logger in self.loggers:
            try:
                logger(steps, columns)
            except OSError as error:
                failed = error
        return failed

    def _counts(self) -> list[int]:
        """The steps so far, and by each counter those that were left out."""
        return [int(np.asarray(count).sum()) for count in (self.state.step, *counters(self.state.optimizer))]

    def _warn_of_nothing(self, counts: list[int]) -> None:
        """Warns once of an epoch in which every step was left out, by every counter; not of one that was begun by
        another process."""
        before, self.counted = self.counted, counts
        if before is None:
            return
        steps, *skipped = (new - old for new, old in zip(self.counted, before, strict=True))
        if self.warns and skipped and all(count == steps for count in skipped):
            self.warns = False
            warnings.warn(
                f"every step of epoch {self.epoch} was left out, as `skipped_steps` counts, and nothing was learnt: "
                "inputs, loss or gradient are not finite",
                stacklevel=5,
            )

    def _ends_with_a_checkpoint(self) -> bool:
        """Writes a checkpoint where one is due after an epoch; whether a signal has ended the run with it."""
        saver = self.saver
        if saver is None:
            return False
        last, told = self._ended, saver.stops_after()
        if not (last or told or self.epoch % self.checkpoint_every == 0):
            return False
        with _warned_of("the last checkpoint", Exception, last):
            self._save(saver)
        if not (told or saver.stops_within):  # told meanwhile
            return False
        saver.stop()
        return True

    def _save(self, saver: Checkpoints) -> None:
        record = Record.of(self.state, self.totals, self.history, self.judge, self.epoch, self.done)
        saver.save(int(self.state.step), record, within=self.done > 0)
