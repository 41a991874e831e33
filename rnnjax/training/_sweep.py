"""Many configurations trained at once: one compiled program with an axis for the configurations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import layers
from .._errors import check_positive, check_size
from .._types import default_platform
from ._batches import Batch, Cut, as_batch, check_seed, gather, is_arrays, rows_of, split_rows, take
from ._checks import checks
from ._measure import Measure, badness, entries, measures, numbers, of_model, rises
from ._model import Model, adapt
from ._parallel import Parallel
from ._runs import of_parts, stacked
from ._step import TrainState, make_step, scan_batches, start
from .optimizers import check_accumulation, counters, decays, recurrent
from .optimizers import optimizer as default_optimizer

Config = Mapping[str, Any]
Make = Callable[[dict[str, Any]], Any]


class Swept(NamedTuple):
    """What `sweep` returns, the best configuration first.

    configs: the configurations, one dictionary each.
    table: one row a configuration: its numbers, the last entries of its history, and the epochs that it was trained.
    history: measures by name, (N, epochs), NaN after a configuration was dropped. As in that of `fit`, "skipped_steps"
        are the steps left out so far, where any configuration has some, and "loss_impossible" the rows that `ctc` left
        out.
    params: the parameters of the best configuration.
    model: the best model, a pair (params, layer). `fit(swept.model, …)` goes on from its parameters, and begins the
        optimizer's moments and schedules anew. Train what needs longer from the start: by `fit`, with the numbers of
        `configs[0]`, or by a `sweep` of more epochs.
    members: the parameters of all configurations that were trained to the end, leaves (M, …) in the order of the table.
    """

    configs: list[dict[str, float]]
    table: list[dict[str, float]]
    history: dict[str, np.ndarray]
    params: Any
    model: tuple[Any, Any]
    members: Any

    def __str__(self) -> str:
        names = list(self.table[0])
        rows = [names, *([_cell(row[name]) for name in names] for row in self.table)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _cell(value: float) -> str:
    return f"{value:.4g}"


def sweep(
    make: Make,
    space: Mapping[str, Sequence[Any]] | Sequence[Config],
    data: Any,
    *,
    loss: Any = "cross_entropy",
    metrics: Sequence[Any] = (),
    epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
    validation: Any = None,
    validation_split: float | None = None,
    monitor: str | None = None,
    mode: Literal["min", "max"] | None = None,
    halve_after: Sequence[int] = (),
    group: int | None = None,
) -> Swept:
    """Trains one model for each configuration, all in one compiled program.

    Every configuration ends where `fit` would bring it alone, with the same seed and the same first weights. Values are
    numbers that the program maps over: rates, norms, biases, the leaves of cells, and those of two reserved names.
    "seed" is that of the parameters, of the order and of the noise. "initial_scale", which `fit` does not have,
    multiplies the weights that were drawn, which are the arrays that weight decay is for, and no biases. No value may
    have the name of a column of the table: "epochs", "skipped_steps", a measure, or "val_" and a measure.

    What changes shapes, such as a hidden size, cannot be mapped over: take the largest and leave units out with
    `rnnjax.ActiveUnits`.

    Args:
        make: a function of a configuration, a dictionary of scalars, that returns a layer of rnnjax, or a pair of a
            layer and an Optax transformation. It is traced: it may compute with the scalars, but not branch on them.
            What it raises for a configuration comes with a note that names it.
        space: a list of values for each name, of which all combinations are taken, or a list of configurations.
        data, loss, metrics, epochs, batch_size, shuffle, seed, validation, validation_split: as for `fit`, of arrays.
        monitor: the measure that sorts, by default "val_loss", or "loss" without validation.
        mode: as for `fit`.
        halve_after: epochs after which the worse half of the configurations is dropped. The program is compiled anew
            for those that are left, so that it pays where an epoch takes longer than that.
        group: how many configurations are computed side by side, the groups one after another; None chooses.
            Where there are several devices the configurations are spread over them, with copies of the last one where
            they cannot be dealt evenly, and a group has as many of every device.

    Returns:
        a `Swept`, which prints as its table. Those that were trained longest come first, and of these the best.

    Raises:
        ValueError: for a `space` without a value, configurations that differ in their names or name a column of the
            table, unknown names of measures, a `monitor` that is none of them, data or validation without a row,
            targets that are no class or no probability, `validation_split` beside `validation`, a share that leaves no
            rows, an epoch of `halve_after` that is not before the last, a negative seed, an initial scale that is not
            positive, and sizes below 1.
        TypeError: for a value that is no number, data or validation that are no arrays, a `make` that does not return
            a layer, a `halve_after` that is no sequence, and sizes and seeds that are not integers.

    References:
        Jamieson, Talwalkar 2016, Non-stochastic best arm identification and hyperparameter optimization,
        arXiv:1502.07943, for the halving.

    >>> import numpy as np, rnnjax as rj
    >>> x, y = np.random.default_rng(0).normal(size=(64, 5, 2)).astype("float32"), np.arange(64) % 2
    >>> def make(config):
    ...     layer = rj.Stack([rj.RNN(rj.GRU(4)), rj.Last(), rj.Dense(2)])
    ...     return layer, rj.training.optimizer(config["learning_rate"], clip_norm=1.0)
    >>> swept = rj.training.sweep(make, {"learning_rate": [1e-3, 1e-2, 1e-1]}, (x, y), epochs=2)
    >>> len(swept.table), sorted(swept.table[0])
    (3, ['epochs', 'learning_rate', 'loss'])
    """
    check_size("epochs", epochs)
    check_size("batch_size", batch_size)
    if group is not None:
        check_size("group", group)
    configs = configurations(space)
    for config in configs:
        check_seed(config.get("seed", seed))
        check_positive("initial_scale", config.get("initial_scale", 1.0))
    used = measures(loss, metrics)
    if not is_arrays(data):
        raise TypeError("a sweep needs arrays (inputs, targets), which all configurations share; got an iterable")
    arrays = as_batch(data)
    if not rows_of(arrays):
        raise ValueError("the data hold no row")
    if validation_split is not None:
        if validation is not None:
            raise ValueError("`validation_split` needs no `validation` beside it")
        arrays, validation = split_rows(arrays, validation_split)
    names = [measure.name for measure in used]
    names += [] if validation is None else [f"val_{name}" for name in names]
    monitor = monitor or ("loss" if validation is None else "val_loss")
    if monitor not in names:
        raise ValueError(f"`monitor` must be one of {', '.join(names)}; got {monitor!r}")
    rising = rises(used, monitor, mode)
    if taken := [name for name in configs[0] if name in (*names, "skipped_steps", "epochs")]:
        raise ValueError(f"`space` must not name {', '.join(taken)}, which the table has: choose another name")
    if not isinstance(halve_after, Iterable):
        raise TypeError(f"`halve_after` must be a sequence of epochs, such as [1]; got {halve_after!r}")
    for epoch in halve_after:
        check_size("halve_after", epoch)
        if epoch >= epochs:
            raise ValueError(f"`halve_after` must lie before the last of {epochs} epochs; got {epoch}")
    cuts = sorted({int(epoch) for epoch in halve_after})

    values = {name: _numbers([config[name] for config in configs]) for name in configs[0]}
    held = None if validation is None else as_batch(validation)
    if held is not None and not rows_of(held):
        raise ValueError("the validation holds no row")
    used = _checked(make, values, used, arrays, held, batch_size)
    run = _Program(make, used, arrays, held, batch_size, group)
    alive = np.arange(len(configs))
    seeds = np.array([int(config.get("seed", seed)) for config in configs])
    states = run.start(values, seeds)
    check_accumulation(states.optimizer)
    history = {name: np.full((len(configs), epochs), np.nan) for name in names}
    trained = np.zeros(len(configs), int)
    for epoch in range(epochs):
        own = {name: value[alive] for name, value in values.items()}
        states, found = run.epoch(own, states, seeds[alive] if shuffle else None, epoch)
        for name, curve in found.items():
            history.setdefault(name, np.full((len(configs), epochs), np.nan))[alive, epoch] = curve
        trained[alive] += 1
        if epoch + 1 in cuts and len(alive) > 1:
            kept = np.sort(_order(history[monitor][alive, epoch], rising)[: -(-len(alive) // 2)])
            alive, states = alive[kept], jax.tree.map(lambda leaf, kept=kept: leaf[kept], states)

    if not np.nansum(history["skipped_steps"]):
        del history["skipped_steps"]
    last = {name: curve[np.arange(len(configs)), trained - 1] for name, curve in history.items()}
    ranks = sorted(range(len(configs)), key=lambda i: (-trained[i], badness(last[monitor][i], rising)))
    table = [
        {**configs[i], **{name: float(own[i]) for name, own in last.items()}, "epochs": int(trained[i])} for i in ranks
    ]
    places = {int(index): place for place, index in enumerate(alive)}
    order = np.array([places[i] for i in ranks if i in places])
    members = jax.tree.map(lambda leaf: leaf[order], states.params)
    best = jax.tree.map(lambda leaf: leaf[0], members)
    layer, _ = _made(make, {name: value[ranks[0]] for name, value in values.items()})
    return Swept(
        [dict(configs[i]) for i in ranks],
        table,
        {name: curve[ranks] for name, curve in history.items()},
        best,
        (best, layer),
        members,
    )


def _numbers(values: list[Any]) -> np.ndarray:
    """One value for each configuration: integers as int32, others as float32, which Optax's clipping asks for."""
    found = np.array(values)
    return found.astype(np.int32 if np.issubdtype(found.dtype, np.integer) else np.float32)


def configurations(space: Any) -> list[dict[str, Any]]:
    """One dictionary of numbers for each configuration; errors say which value is none."""
    if isinstance(space, Mapping):
        for name, values in space.items():
            if isinstance(values, str) or not np.ndim(values) == 1 or not len(values):
                raise TypeError(f"`space[{name!r}]` must be a list of numbers; got {values!r}")
        configs = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    else:
        configs = [dict(config) for config in space]
    if not configs or not configs[0]:
        raise ValueError(f"`space` must name at least one value to try; got {space!r}")
    for config in configs:
        if config.keys() != configs[0].keys():
            raise ValueError(f"all configurations must have the same names; got {list(configs[0])} and {list(config)}")
        for name, value in config.items():
            if isinstance(value, str) or np.ndim(value) != 0 or not np.issubdtype(np.asarray(value).dtype, np.number):
                raise TypeError(
                    f"`{name}` must be a number, because all configurations are one program; got {value!r}: sweep over "
                    "anything else in a loop of your own"
                )
    return [{name: np.asarray(value).item() for name, value in config.items()} for config in configs]


def _order(values: np.ndarray, rising: bool) -> np.ndarray:
    """From the best to the worst, NaN last."""
    return np.argsort([badness(value, rising) for value in values], kind="stable")


def _made(make: Make, config: dict[str, Any]) -> tuple[layers.Layer, optax.GradientTransformation]:
    made = make(config)
    layer, chain = (
        made if isinstance(made, tuple) and len(made) == 2 else (made, default_optimizer(1e-3, clip_norm=1.0))
    )
    if not isinstance(layer, layers.Layer):
        raise TypeError(
            f"`make` must return a layer of rnnjax, or a pair of it and an optimizer; got {type(layer).__name__}"
        )
    return layer, chain


def _checked(
    make: Make,
    values: Mapping[str, np.ndarray],
    used: tuple[Measure, ...],
    arrays: Batch,
    held: Batch | None,
    size: int,
) -> tuple[Measure, ...]:
    """Makes every configuration once with its numbers, which a program only sees traced, so that their own checks
    raise before anything runs; checks the targets, and returns the measures of such a model."""
    found = []
    for config in (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)):
        try:
            found.append(_made(make, config)[0])
        except Exception as error:
            error.add_note(f"in the configuration { ({name: value.item() for name, value in config.items()}) }")
            raise
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: adapt(found[0], arrays.inputs, key).params)
    model = adapt((params, found[0]), arrays.inputs, key)
    used = of_model(used, model, arrays)
    for batch in (arrays, held):
        if batch is not None:
            checks(used, model, batch, size, None)
    return used


class _Program:
    """The compiled parts of a sweep, each with a leading axis for the configurations."""

    def __init__(
        self,
        make: Make,
        used: tuple[Measure, ...],
        arrays: Batch,
        validation: Batch | None,
        batch_size: int,
        group: int | None,
    ) -> None:
        self.make, self.used, self.group = make, used, group
        held = None if validation is None else stacked(validation, min(batch_size, rows_of(validation)))
        self.data, self._placed = (arrays, held), (0, None)
        size = min(batch_size, rows_of(arrays))
        self.cut = Cut.of(rows_of(arrays), size, -(-rows_of(arrays) // size))
        self._starts = jax.jit(jax.vmap(self._start))
        self._epochs = jax.jit(self._all, donate_argnums=1)

    def start(self, values: Any, seeds: np.ndarray) -> TrainState:
        """The states before the first step, with the keys that `fit` would draw."""
        keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in seeds])
        return self._starts(*_spread((values, keys), len(seeds)))

    def _start(self, config: Any, keys: Any) -> TrainState:
        layer, chain = _made(self.make, config)
        model = adapt(layer, self.data[0].inputs, keys[0])
        return start(_scaled(model, config.get("initial_scale")), chain, keys[1])

    def epoch(self, values: Any, states: Any, seeds: np.ndarray | None, epoch: int) -> tuple[Any, dict[str, Any]]:
        """One epoch of all: their states, behind which copies of the last may follow, and by name what each of them
        enters into its history."""
        count = len(next(iter(values.values())))
        if seeds is None or len(set(seeds)) == 1:
            (rows,) = self.cut.order(None if seeds is None else int(seeds[0]), epoch)
        else:
            rows = np.stack([self.cut.order(int(seed), epoch)[0] for seed in seeds])
        weights = None if self.cut.weights is None else self.cut.weights[0]
        rows = rows if rows.ndim == 2 else _spread(rows, count)
        states, found = self._epochs(*_spread((values, states), count), self._on_all(count), rows, weights)
        return states, {name: np.asarray(value)[:count] for name, value in found.items()}

    def _on_all(self, count: int) -> Any:
        """Data and validation, whole on every device over which so many configurations are dealt. They are arguments
        of the program: what it closes over is a part of its text, and is compiled with it."""
        busy = _busy(count)
        if self._placed[0] != busy:
            self._placed = busy, jax.device_put(self.data, _over(busy))
        return self._placed[1]

    def _all(self, values: Any, states: Any, data: Any, rows: Any, weights: Any) -> Any:
        shared = rows.ndim == 2
        count = states.step.shape[0]
        group = self.group or _group(states, count)
        if group >= count:
            axes = (0, 0, None, None if shared else 0, None)
            return jax.vmap(self._one, in_axes=axes)(values, states, data, rows, weights)

        def one(own: tuple[Any, TrainState, Any]) -> Any:
            config, state, order = own
            return self._one(config, state, data, rows if order is None else order, weights)

        members = (values, states, None if shared else rows)
        busy = _busy(count)
        if busy == 1:
            return jax.lax.map(one, members, batch_size=group)
        # a group takes from every device what lies there; the next ones in a row lie on a few
        dealt = jax.tree.map(lambda leaf: leaf.reshape(busy, -1, *leaf.shape[1:]).swapaxes(0, 1), members)
        found = jax.lax.map(jax.vmap(one), dealt, batch_size=-(-group // busy))
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), found)

    def _one(self, config: Any, state: TrainState, data: Any, rows: Any, weights: Any) -> tuple[TrainState, Any]:
        arrays, held = data
        layer, chain = _made(self.make, config)
        model = adapt((state.params, layer), arrays.inputs, state.key)
        step = make_step(model, self.used, chain, 1, Parallel(None))
        state, totals = scan_batches(step, gather, state, arrays, rows, weights)
        skipped = sum(counters(state.optimizer), jnp.zeros((), jnp.int32))
        found = entries(self.used, totals, numbers(totals)) | {"skipped_steps": skipped}
        if held is not None:
            totals = of_parts(model.apply, self.used, state.params, state.rest, held, take, rows_of(held))
            found |= entries(self.used, totals, numbers(totals), "val_")
        return state, found


def _scaled(model: Model, scale: Any) -> Model:
    """The model with its weights multiplied; None leaves them."""
    if scale is None:
        return model

    def scaled(leaf: Any, weight: bool) -> Any:
        return leaf * scale.astype(leaf.dtype) if weight else leaf

    return model._replace(params=jax.tree.map(scaled, model.params, decays(model.params)))


def _spread(tree: Any, count: int) -> Any:
    """So many configurations, dealt evenly: over all devices, or as many as are busy as long. What the last of them
    lacks are copies of the last configuration, behind the others; where they are already there, they stay."""
    busy = _busy(count)
    places = np.minimum(np.arange(-(-count // busy) * busy), count - 1)
    even = jax.tree.map(lambda leaf: leaf if len(leaf) == len(places) else leaf[places], tree)
    return jax.device_put(even, _over(busy, "configurations"))


def _over(busy: int, *axes: str) -> NamedSharding | None:
    """How arrays lie on so many devices: whole on each, or dealt along the axis of that name."""
    devices = jax.devices()
    if len(devices) == 1:
        return None
    return NamedSharding(Mesh(np.array(devices[:busy]), ("configurations",)), PartitionSpec(*axes))


def _busy(count: int) -> int:
    """Over how many devices so many configurations are dealt."""
    return -(-count // -(-count // len(jax.devices())))


_SIDE_BY_SIDE = 16
"""The hidden size up to which `vmap` is faster than one after another on a CPU; benchmarks/sweep.py measures it."""


def _group(states: TrainState, count: int) -> int:
    """How many configurations to compute side by side: all on an accelerator, and on a CPU all of the small ones."""
    if default_platform() != "cpu" or len(jax.devices()) > 1:
        return count
    params = jax.tree.leaves(states.params), jax.tree.leaves(recurrent(states.params))
    matrices = [(leaf, own) for leaf, own in zip(*params, strict=True) if leaf.ndim >= 3]
    widest = max(leaf.shape[-2] for leaf, own in matrices if own or not any(own for _, own in matrices))
    return count if widest <= _SIDE_BY_SIDE else 1
