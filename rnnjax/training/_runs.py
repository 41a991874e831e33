"""How the batches of an epoch are run through the compiled step, and how totals over all data are formed."""

from __future__ import annotations

import collections
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._batches import Batch, Cut, Stream, fill_up, gather, is_arrays, rows_of, take
from ._checks import Check
from ._measure import Measure, all_known, all_take_masks
from ._model import Model, cached
from ._parallel import Parallel
from ._step import Gather, TrainState, make_block, make_evaluation, make_single, make_step
from .truncation import TBPTT, Windows, begin

LONGEST_BLOCK = 512
"""Batches of one compiled loop; between loops the bar moves and a run can be stopped."""

Part = tuple[TrainState, Any, int, float]


Apply = Callable[..., tuple[Any, Any]]


class Recipe(NamedTuple):
    """What a step follows from, in the order of `make_step`."""

    model: Model
    used: tuple[Measure, ...]
    optimizer: optax.GradientTransformation
    accumulate: int
    parallel: Parallel

    def kept(self, make: Callable[..., Any], *of: Any) -> Any:
        """make(recipe, *of), which compiles and needs no parameters, the same again for an equal recipe.

        A function of the user's own, loss, metric or model, may have changed, and on a mesh nothing is ever equal: they
        are made anew.
        """
        if self.parallel.mesh is not None or not (self.model.kept and all_known(self.used)):
            return make(self, *of)
        bare = self.model._replace(params=None, rest=None, publish=None)  # what is kept must not keep arrays alive
        return cached(make, self._replace(model=bare, parallel=_ALONE), *of)


_ALONE = Parallel(None)


class Lies(NamedTuple):
    """How the state, the data and the numbers of the rows (S, B) lie on a mesh."""

    state: Any
    data: Any
    index: Any


class Programs(NamedTuple):
    """What a run calls: the compiled loop or step, and a function of which the shapes of the totals are known."""

    run: Callable[..., tuple[TrainState, Any]]
    totals: Callable[..., Any]


class Unbroken:
    """While it is entered Ctrl-C is put off: a call that takes the memory of the state ends, and what it returns gets
    its name. A second Ctrl-C does not wait. Handlers of the user's own, and those of checkpoints, are left alone."""

    def __enter__(self) -> None:
        self._told = False
        on_main = threading.current_thread() is threading.main_thread()
        self._holds = on_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._holds:
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._told and kind is None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            raise KeyboardInterrupt
        self._told = True


class Begun:
    """The loops or steps that were begun last: Python, which does not wait for what it begins, goes on when at most one
    is left. So the device finds one ready when it ends another, and no more batches lie there."""

    def __init__(self) -> None:
        self._totals: collections.deque[Any] = collections.deque(maxlen=2)

    def wait(self) -> None:
        """Before another one; nothing before the first two."""
        if len(self._totals) == 2:
            jax.block_until_ready(self._totals[0])

    def add(self, totals: Any) -> None:
        """One that was begun, by what it will return."""
        self._totals.append(totals)


class Blocks:
    """Epochs over data that lie on the devices, in compiled loops of many batches.

    newest: the state after the last loop, which has taken the memory of those before.
    """

    newest: TrainState | None = None

    def __init__(
        self, programs: Programs, cut: Cut, arrays: Any, seed: int | None, parallel: Parallel, lies: Lies
    ) -> None:
        self.state, _, self.index = lies
        self.block, self.first = programs
        self.cut, self.seed, self.parallel = cut, seed, parallel
        self.data = parallel.put(arrays, lies.data)
        self.ahead = 0, cut.order(seed, 0)
        weights = cut.weights
        self.weights = [None] * len(self.ahead[1]) if weights is None else parallel.put(list(weights), lies.index)

    def begin(self, state: TrainState) -> TrainState:
        """The state at the beginning of an epoch."""
        return state

    def steps(self, done: int) -> int:
        """Updates that so many loops of an epoch have made."""
        return min(done * self.cut.block, self.cut.steps)

    def zeros(self, state: TrainState) -> Any:
        """Totals of nothing."""
        rows = self.parallel.put(self.cut.order(None, 0)[0], self.index)
        return _zeros(jax.eval_shape(self.first, state, self.data, rows, self.weights[0]), self.parallel)

    def parts(self, state: TrainState, epoch: int, done: int, totals: Any) -> Iterator[Part]:
        """Runs what is left of an epoch after `done` loops; after each, state, totals, loops done and their share."""
        self.newest = state
        number, order = self.ahead
        if number != epoch:
            order = self.cut.order(self.seed, epoch)
        begun = Begun()
        for index in range(done, len(order)):
            rows, count = order[index], index + 1
            if self.parallel.mesh is not None:  # else the call does it in less time
                rows = self.parallel.put(rows, self.index)
            begun.wait()
            with Unbroken():
                self.newest, totals = self.block(self.newest, totals, self.data, rows, self.weights[index])
            begun.add(totals)
            if count == len(order):  # while the device computes
                self.ahead = epoch + 1, self.cut.order(self.seed, epoch + 1)
            yield self.newest, totals, count, count / len(order)


def block_programs(recipe: Recipe, gather: Gather, whole: bool, skips: bool, lies: Lies) -> Programs:
    """Those of a loop. whole: weights are all 1 and only tell which batches to leave out; skips: there are such."""
    step, parallel = make_step(*recipe), recipe.parallel
    state, data, index = lies

    def of_rows(data: Any, rows: Any, weights: Any) -> Batch:
        return gather(data, rows, None if whole else weights)

    def first(state: TrainState, data: Any, rows: Any, weights: Any) -> Any:
        return step(state, of_rows(data, rows[0], None if weights is None else weights[0]))[1]

    block = make_block(step, of_rows, skips, parallel)
    spread = parallel.spread(block, (state, parallel.whole, data, index, index), (state, parallel.whole))
    run = jax.jit(spread, donate_argnums=0)
    return Programs(run, parallel.spread(first, (state, data, index, index), parallel.whole))


class WindowBlocks(Blocks):
    """Epochs over the windows of long streams, in their order, from the initial state."""

    def __init__(self, recipe: Recipe, windows: Windows, every: int | None) -> None:
        model, parallel = recipe.model, recipe.parallel

        def one(data: Any, rows: Any, weights: Any) -> Batch:
            return windows.at(data, rows[0])

        def start(params: Any, rest: Any, data: Any) -> Any:
            return begin(model, params, rest, data[0].inputs)

        cut = Cut.of(windows.count, 1, LONGEST_BLOCK, every)
        whole, rows = parallel.whole, parallel.rows
        rest, arrays = (whole, rows), (windows.batch, windows.mask)
        lies = Lies(TrainState(whole, rest, whole, whole, whole), rows, whole)
        super().__init__(block_programs(recipe, one, cut.whole, cut.skips, lies), cut, arrays, None, parallel, lies)
        self.start = jax.jit(parallel.spread(start, (whole, rest, rows), rest))

    def begin(self, state: TrainState) -> TrainState:
        return dataclasses.replace(state, rest=self.start(state.params, state.rest, self.data))


class StreamRun:
    """Epochs over an iterable: while a step runs, the next batch is read and moved to the device.

    newest: the state after the last step, which has taken the memory of those before.
    """

    newest: TrainState | None = None

    def __init__(self, recipe: Recipe, first: Batch, stream: Stream, check: Check) -> None:
        self.first, self.stream, self.parallel, self.check = first, stream, recipe.parallel, check
        self.state = self.parallel.whole
        programs: Programs = recipe.kept(single_programs)
        self.single, self.step = programs

    def begin(self, state: TrainState) -> TrainState:
        """The state at the beginning of an epoch."""
        return state

    def steps(self, done: int) -> int:
        """Updates that so many batches of an epoch have made."""
        return done

    def zeros(self, state: TrainState) -> Any:
        """Totals of nothing."""
        return _zeros(jax.eval_shape(self.step, state, self.parallel.batch(self.first))[1], self.parallel)

    def parts(self, state: TrainState, epoch: int, done: int, totals: Any) -> Iterator[Part]:
        """Runs what is left of an epoch after `done` batches, which are read again and left out."""
        self.newest, begun = state, Begun()
        for count, batch in enumerate(self.stream.read(epoch, done), done + 1):
            self.check(batch)
            placed = self.parallel.batch(batch)
            begun.wait()
            with Unbroken():
                self.newest, totals = self.single(self.newest, totals, placed)
            begun.add(totals)
            yield self.newest, totals, count, count / self.stream.steps if self.stream.steps else 0.0


def single_programs(recipe: Recipe) -> Programs:
    """Those of a single step."""
    step, parallel = make_step(*recipe), recipe.parallel
    whole, rows = parallel.whole, parallel.rows
    spread = parallel.spread(make_single(step), (whole, whole, rows), whole)
    return Programs(jax.jit(spread, donate_argnums=0), parallel.spread(step, (whole, rows), whole))


def over_arrays(recipe: Recipe, arrays: Batch, batch_size: int, seed: int | None, every: int | None) -> Blocks:
    """Epochs over rows, shuffled if there is a seed, in loops of `every` batches. Every device has all of them."""
    if not rows_of(arrays):
        raise ValueError("the data hold no row")
    parallel = recipe.parallel
    cut = Cut.of(rows_of(arrays), batch_size, LONGEST_BLOCK, every)
    lies = Lies(parallel.whole, parallel.whole, parallel.steps)
    programs = recipe.kept(block_programs, gather, cut.whole, cut.skips, lies)
    return Blocks(programs, cut, arrays, seed, parallel, lies)


def _zeros(shapes: Any, parallel: Parallel) -> Any:
    """Zeros of these shapes."""
    return parallel.put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), parallel.whole)


class Evaluation:
    """The totals over data that lie on the devices, as a function of parameters and other state."""

    def __init__(self, run: Callable[..., Any], data: Any) -> None:
        self.run, self.data = run, data

    def __call__(self, params: Any, rest: Any) -> tuple[Any, ...]:
        return self.run(params, rest, self.data)

    def trace(self, params: Any, rest: Any) -> None:
        """Raises for what does not fit, before anything runs. What is traced here is not traced again."""
        jax.eval_shape(self.run, params, rest, self.data)


class StreamEvaluation(Evaluation):
    """The same over an iterable of batches."""

    def __init__(self, run: Callable[..., Any], first: Batch, data: Stream, parallel: Parallel, check: Check) -> None:
        super().__init__(run, data)
        self.first, self.parallel, self.check = first, parallel, check

    def __call__(self, params: Any, rest: Any) -> tuple[Any, ...]:
        found, begun = [], Begun()
        for batch in self.data.read(0):
            self.check(batch)
            placed = self.parallel.batch(batch)
            begun.wait()
            found.append(self.run(params, rest, placed))
            begun.add(found[-1])
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *found)

    def trace(self, params: Any, rest: Any) -> None:
        """As that of arrays, with the first batch."""
        self.check(self.first)
        jax.eval_shape(self.run, params, rest, self.parallel.batch(self.first))


def evaluation(
    model: Model,
    used: tuple[Measure, ...],
    first: Batch,
    data: Any,
    batch_size: int,
    truncate: TBPTT | None,
    parallel: Parallel,
    check: Check,
) -> Evaluation:
    """The totals over all data, as a function of parameters and other state. first: all rows of arrays, or the first
    batch of an iterable."""
    whole = parallel.whole

    def compiled(make: Callable[..., Any]) -> Callable[..., Any]:
        """The same again, unless a function of the user's own, which may have changed, is among model and measures."""
        return cached(make, model.apply, used, kept=model.kept and all_known(used))

    def summed(run: Callable[..., Any], *takes: Any) -> Callable[..., Any]:
        """The same over the rows of all devices."""
        if parallel.mesh is None:
            return run
        return jax.jit(parallel.spread(lambda *args: parallel.sum(run(*args)), takes, whole))

    if not is_arrays(data):
        if truncate is not None:
            raise ValueError("`truncate` needs arrays (B, L, …) for validation too")
        of_batch = summed(compiled(_of_a_batch), whole, whole, parallel.rows)
        return StreamEvaluation(of_batch, first, Stream(data, weighted=all_take_masks(used)), parallel, check)

    if not rows_of(first):
        raise ValueError("the data hold no row")
    if truncate is None:
        size = -(-min(batch_size, rows_of(first)) // parallel.devices) * parallel.devices
        over_arrays = summed(compiled(_of_arrays), whole, whole, parallel.steps)
        return Evaluation(over_arrays, parallel.put(stacked(first, size), parallel.steps))

    parallel.check_rows("B of validation", rows_of(first))
    windows = Windows.of(first, truncate)

    @jax.jit
    def of_windows(params: Any, rest: Any, streams: Any) -> tuple[Any, ...]:
        rest = begin(model, params, rest, streams[0].inputs)
        return of_parts(model.apply, used, params, rest, streams, windows.at, windows.count)

    over_windows = summed(of_windows, whole, (whole, parallel.rows), parallel.rows)
    return Evaluation(over_windows, parallel.put((windows.batch, windows.mask), parallel.rows))


def _of_a_batch(apply: Apply, used: tuple[Measure, ...]) -> Callable[..., tuple[Any, ...]]:
    """The totals of a batch, compiled."""
    one = make_evaluation(apply, used)
    return jax.jit(lambda params, rest, batch: one(params, rest, batch)[0])


def _of_arrays(apply: Apply, used: tuple[Measure, ...]) -> Callable[..., tuple[Any, ...]]:
    """The totals of batches (S, B, …), compiled."""
    return jax.jit(lambda params, rest, parts: of_parts(apply, used, params, rest, parts, take, rows_of(parts)))


def of_parts(
    apply: Apply,
    used: tuple[Measure, ...],
    params: Any,
    rest: Any,
    parts: Any,
    at: Callable[[Any, Any], Batch],
    count: int,
) -> tuple[Any, ...]:
    """The totals of so many batches, which `at` takes from the parts, in a loop."""
    one = make_evaluation(apply, used)
    shapes, _ = jax.eval_shape(one, params, rest, at(parts, 0))

    def body(carry: Any, index: Any) -> tuple[Any, None]:
        totals, rest = carry
        more, rest = one(params, rest, at(parts, index))
        return (jax.tree.map(jnp.add, totals, more), rest), None

    # not from the first batch, whose model would be compiled a second time outside the loop
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(body, (nothing, rest), jnp.arange(count))[0][0]


def stacked(arrays: Batch, size: int) -> Batch:
    """Rows as batches (S, B, …), the last one filled up at weight 0."""
    rows = rows_of(arrays)
    arrays = fill_up(arrays, -(-rows // size) * size)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), arrays)
