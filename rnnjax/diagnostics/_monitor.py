"""Gradient flow while a model is trained: a callback of `fit`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from .._errors import check_size
from .._types import Array
from ..layers import Layer
from ..training import Epoch
from ..training._batches import as_batch, take
from ..training._measure import is_loss, measures
from ..training.loggers import Log
from ._gradient_flow import gradient_flow, horizon, kept_share, steps_back


class Reading(NamedTuple):
    """One reading: the step, and by layer the share of the gradient left k steps back (K), as far as some row reaches,
    K = 0 without any gradient, and its horizon, −1 where there is no gradient or it is NaN."""

    step: int
    share: dict[str, np.ndarray]
    horizon: dict[str, int]


class GradientMonitor:
    """What `gradient_monitor` returns; `readings` is a list of `Reading`."""

    def __init__(self, model: Layer, data: Any, loss: Any, every: int, rows: int, log: Log | None) -> None:
        self.readings: list[Reading] = []
        self.every, self._log, self._last = every, log, -math.inf
        batch = take(as_batch(data), slice(0, rows))
        (measure,) = measures(loss, (), shared=True, keeps_time=model.keeps_time)
        xs, reset = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 1, 0), (batch.inputs, batch.reset))

        def total(ys: Array) -> Array:
            outputs = ys.swapaxes(0, 1) if model.keeps_time else ys
            return is_loss(measure(outputs, batch)).value

        def read(params: Any) -> Any:
            flow = gradient_flow(model, params, xs, total, lengths=batch.lengths, reset=reset)
            found = {}
            for name, norms in flow.norms.items():
                share = kept_share(norms, flow.reverse[name], flow.mask)
                found[name] = share, steps_back(norms, flow.reverse[name], flow.mask) + 1, horizon(share)
            return found

        self._read = jax.jit(read)

    def __call__(self, event: Epoch) -> None:
        """As `during`, after an epoch."""
        self.during(event.step, event.state.params)

    def during(self, step: int, params: Any) -> None:
        """Takes a reading if enough steps have passed since the last one."""
        if step - self._last < self.every:
            return
        self._last = step
        found = jax.device_get(self._read(params))
        shares = {name: share[:reached] for name, (share, reached, _) in found.items()}
        reading = Reading(step, shares, {name: int(memory) for name, (_, _, memory) in found.items()})
        self.readings.append(reading)
        if self._log is not None:
            self._log(step, _values(reading))


def _values(reading: Reading) -> Mapping[str, float]:
    values = {f"gradient_left/{name}": float(share[-1]) if share.size else 0.0 for name, share in reading.share.items()}
    return values | {f"gradient_horizon/{name}": float(steps) for name, steps in reading.horizon.items()}


def gradient_monitor(
    model: Layer, data: Any, *, loss: Any = "cross_entropy", every: int = 1, rows: int = 32, log: Log | None = None
) -> GradientMonitor:
    """A callback of `rnnjax.training.fit` that follows how far back the gradient reaches.

    `fit` calls it within epochs and after them, so that a reading is taken once `every` steps have passed since the
    last one. Each is one forward and one backward pass over a few rows, without noise.

    Args:
        model: the layer that is trained.
        data: arrays as for `fit`, batch-major, such as (inputs, targets, lengths); the first `rows` are used.
        loss: as for `fit`.
        every: steps from one reading to the next; an epoch whose steps it does not divide begins to count anew.
        rows: how many rows of `data` are used.
        log: a function of the step and the values, such as `rnnjax.training.csv_logger("flow.csv")`.

    Returns:
        a `GradientMonitor`, one of the `callbacks` of `fit`. Its `readings` is a list of `Reading`: the step and, by
        layer, the share of the gradient left k steps back, (K), and the horizon.

    Raises:
        TypeError: if the model is no layer of rnnjax, if `every` or `rows` is no integer, and for data and a `loss` as
            `fit`.
        ValueError: if `every` or `rows` is below 1, and for data and a `loss` as `fit`.

    >>> import numpy as np, rnnjax as rj
    >>> x, y = np.random.default_rng(0).normal(size=(64, 5, 2)).astype("float32"), np.arange(64) % 2
    >>> model = rj.Stack([rj.RNN(rj.GRU(4)), rj.Last(), rj.Dense(2)])
    >>> monitor = rj.diagnostics.gradient_monitor(model, (x, y), every=10)
    >>> fitted = rj.training.fit(model, (x, y), batch_size=2, epochs=1, callbacks=[monitor], progress=False)
    >>> [(reading.step, reading.share["0"].shape) for reading in monitor.readings]
    [(10, (5,)), (20, (5,)), (30, (5,))]
    """
    if not isinstance(model, Layer):
        raise TypeError(f"`model` must be a layer of rnnjax, whose states can be reached; got {type(model).__name__}")
    check_size("every", every)
    check_size("rows", rows)
    return GradientMonitor(model, data, loss, every, rows, log)
