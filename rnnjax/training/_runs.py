"""How the batches of an epoch are run through the compiled step, and how totals over all data are formed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ._batches import Batch, Cut, Stream, as_batch, fill_up, gather, is_arrays, rows_of, take
from ._measure import Measure
from ._model import Model
from ._step import Gather, Step, TrainState, make_block, make_evaluation, make_single, totals_of
from .truncation import TBPTT, Windows, begin

LONGEST_BLOCK = 512
"""Batches of one compiled loop; between loops the bar moves and a run can be stopped."""

Part = tuple[TrainState, Any, int, float]


class Blocks:
    """Epochs over data that lie on the device, in compiled loops of many batches."""

    def __init__(self, step: Step, cut: Cut, gather: Gather, data: Any, seed: int | None) -> None:
        self.step, self.cut, self.gather, self.data, self.seed = step, cut, gather, data, seed
        self.block = make_block(step, gather, cut.skips)
        self.ahead: tuple[int, Any] = (0, cut.order(seed, 0))

    def begin(self, state: TrainState) -> TrainState:
        """The state at the beginning of an epoch."""
        return state

    def zeros(self, state: TrainState) -> Callable[[], Any]:
        """A function that makes totals of nothing."""
        rows, weights = self.cut.order(None, 0)[0]
        first = self.gather(self.data, rows[0], None if weights is None else weights[0])
        return totals_of(self.step, state, first)

    def parts(self, state: TrainState, epoch: int, done: int, totals: Any) -> Iterator[Part]:
        """Runs what is left of an epoch after `done` loops; after each, state, totals, loops done and their share."""
        number, order = self.ahead
        if number != epoch:
            order = self.cut.order(self.seed, epoch)
        for count, (rows, weights) in enumerate(order[done:], done + 1):
            state, totals = self.block(state, totals, self.data, rows, weights)
            if count == len(order):  # while the device computes
                self.ahead = epoch + 1, self.cut.order(self.seed, epoch + 1)
            yield state, totals, count, count / len(order)


class WindowBlocks(Blocks):
    """Epochs over the windows of long streams, in their order, from the initial state."""

    def __init__(self, step: Step, model: Model, windows: Windows) -> None:
        def one(data: Any, rows: Any, weights: Any) -> Batch:
            return windows.at(data, rows[0])

        self.model, self.windows = model, windows
        cut = Cut.of(windows.count, 1, LONGEST_BLOCK)
        super().__init__(step, cut, one, jax.device_put((windows.batch, windows.mask)), None)

    def begin(self, state: TrainState) -> TrainState:
        return dataclasses.replace(state, rest=begin(self.model, state.params, state.rest, self.windows))


class StreamRun:
    """Epochs over an iterable: while a step runs, the next batch is read and moved to the device."""

    def __init__(self, step: Step, first: Batch, data: Any) -> None:
        self.step, self.first, self.stream, self.single = step, first, Stream(data), make_single(step)

    def begin(self, state: TrainState) -> TrainState:
        """The state at the beginning of an epoch."""
        return state

    def zeros(self, state: TrainState) -> Callable[[], Any]:
        """A function that makes totals of nothing."""
        return totals_of(self.step, state, self.first)

    def parts(self, state: TrainState, epoch: int, done: int, totals: Any) -> Iterator[Part]:
        """Runs what is left of an epoch after `done` batches, which are read again and left out."""
        for count, batch in enumerate(itertools.islice(self.stream.read(epoch), done, None), done + 1):
            state, totals = self.single(state, totals, jax.device_put(batch))
            yield state, totals, count, 0.0


def over_arrays(step: Step, arrays: Batch, batch_size: int, seed: int | None) -> Blocks:
    """Epochs over rows, shuffled if there is a seed."""
    if not rows_of(arrays):
        raise ValueError("the data hold no row")
    cut = Cut.of(rows_of(arrays), batch_size, LONGEST_BLOCK)
    return Blocks(step, cut, gather, jax.device_put(arrays), seed)


def evaluation(
    model: Model, used: tuple[Measure, ...], data: Any, batch_size: int, truncate: TBPTT | None = None
) -> Callable[[Any, Any], tuple[Any, ...]]:
    """The totals over all data, as a function of parameters and other state."""
    one = make_evaluation(model, used)

    if not is_arrays(data):
        if truncate is not None:
            raise ValueError("`truncate` needs arrays (B, L, …) for validation too")
        stream, single = Stream(data), jax.jit(one)

        def over_stream(params: Any, rest: Any) -> tuple[Any, ...]:
            totals = [single(params, rest, jax.device_put(batch))[0] for batch in stream.read(0)]
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
