"""Which network suits some data: several kinds at one budget of parameters, over learning rates and seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from .._errors import check_size
from .._types import Params
from ..layers import Stack
from ..training import Swept, optimizer, sweep
from ..training._batches import Batch, rows_of, take
from ..training._measure import Measure, all_take_masks, badness, measures, rises
from ..training._model import adapt
from ..training._runs import of_parts, stacked
from . import _cost
from ._contenders import Contender, Task, contenders, within
from ._intervals import of_mean
from ._parts import check_finite, constancy, constant_quality, parts_of
from ._recommend import recommendation

Parts = tuple[Batch, Batch, Batch]

HORIZON_ROWS = 64
_HEAD = (
    "model", "width", "parameters", "rate", "quality", "interval", "FLOPs/step", "µs/step", "µs/step, training",
    "MB, training", "sees", "horizon",
)  # fmt: skip


class Compared(NamedTuple):
    """One row of a comparison.

    name, width, parameters: the model, the width of its body, and how many numbers are trained.
    learning_rate: the one with the best mean on the validation rows.
    validation: the mean over the seeds on the validation rows at that rate, by which the models are ranked.
    quality, low, high: the mean over the seeds on the test rows, and the ends of its confidence interval, cut off at
        the bounds of the measure.
    scores: the quality of every seed, (S).
    flops: floating-point operations of one forward step of one row.
    step_time, train_time: seconds of a call on one batch, divided by T, in the forward pass and with the backward pass;
        of short sequences that is mostly what a call costs.
    memory: bytes of temporary arrays of the gradient of one batch; None where the compiler does not say.
    receptive_field: how many inputs an output can see, the present one included; None where there is no bound.
    reach: how strongly the last output depends on the input k steps back, relative to the most, (T), when trained.
    horizon: the most steps back at which at least a hundredth of that is left; None where it is not finite.
    seconds: what its trainings took, compilation included.
    note: what is wrong with it, or "".
    """

    name: str
    width: int
    parameters: int
    learning_rate: float
    validation: float
    quality: float
    low: float
    high: float
    scores: np.ndarray
    flops: float
    step_time: float
    train_time: float
    memory: int | None
    receptive_field: int | None
    reach: np.ndarray
    horizon: int | None
    seconds: float
    note: str


class Comparison(NamedTuple):
    """What `compare` returns. It prints as a table and a recommendation.

    rows: one a model, the best on the validation rows first.
    metric: the measure of quality.
    confidence: that of the intervals.
    constant: the quality of a constant answer: mean, median, frequencies or a class, as is best on the training rows.
    recommendation: in words, with the numbers that it rests on.
    sweeps: the trainings, by name of the model.
    layers: the models, by name; with the parameters in `sweeps` they can be run.
    """

    rows: list[Compared]
    metric: str
    confidence: float
    constant: float
    recommendation: str
    sweeps: dict[str, Swept]
    layers: dict[str, Stack]

    def __str__(self) -> str:
        head = [self.metric if title == "quality" else title for title in _HEAD]
        head[head.index("interval")] = f"{self.confidence:.0%} interval"
        lines = [head, *(_texts(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = (
            "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]).rstrip() for line in lines
        )
        return "\n".join([*table, "", self.recommendation])


def _texts(row: Compared) -> list[str]:
    return [
        row.name, f"{row.width}", f"{row.parameters:,}", f"{row.learning_rate:.2g}", f"{row.quality:.4g}",
        f"{row.low:.4g} … {row.high:.4g}", f"{row.flops:,.0f}", f"{1e6 * row.step_time:.3g}",
        f"{1e6 * row.train_time:.3g}", "" if row.memory is None else f"{row.memory / 1e6:.2g}",
        "all" if row.receptive_field is None else f"{row.receptive_field}",
        "NaN" if row.horizon is None else f"{row.horizon}",
    ]  # fmt: skip


def compare(
    cells: Any,
    data: Any,
    budget: int,
    seeds: int = 5,
    *,
    learning_rates: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2),
    loss: Any = "cross_entropy",
    metric: Any = None,
    mode: Literal["min", "max"] | None = None,
    epochs: int = 20,
    batch_size: int = 32,
    validation: Any = 0.2,
    test: Any = 0.2,
    clip_norm: float = 1.0,
    embedding: int = 16,
    confidence: float = 0.95,
) -> Comparison:
    """Trains several kinds of networks with equally many parameters on your data, and says which one to take,
    where the numbers decide.

    A model is a body, as wide as the budget allows, below an affine layer; it reads tokens through an embedding, and
    answers after the last step or after every step, as the targets ask. Each kind is trained with every learning rate
    and seed in one compiled program, with Adam, clipping, and rates that fall to zero along a cosine. The mean over the
    seeds on the validation rows chooses the learning rate and the model that comes first; quality is that of the
    test rows, which take no part in training or choosing. Its interval is Student's over the seeds: it says how much
    the draw of weights and order matters, and not how much the rows do.

    Args:
        cells: functions of a width that return a cell or a layer, as a sequence such as [rnnjax.Elman, rnnjax.GRU] or a
            dictionary by name; one with a parameter `steps` is given T. `rnnjax.diagnostics.tcn` and `transformer`
            are such. None takes Elman, MGU, GRU, LSTM, TCN and Transformer.
        data: arrays (inputs, targets) or (inputs, targets, lengths), batch-major: inputs are numbers (N, T, I) or
            integer tokens (N, T); targets are classes (N) or (N, T), or numbers (N, O) or (N, T, O).
        budget: the most parameters of a model, embedding and affine layer included.
        seeds: how many, at least 2.
        learning_rates: those that are tried.
        loss: as for `rnnjax.training.fit`.
        metric: the measure of quality, as an entry of `metrics` of `fit`; None is "accuracy" for "cross_entropy", else
            the loss.
        mode: whether the metric is better when it is lower or higher, for a function of your own.
        epochs, batch_size: as for `fit`.
        validation, test: data like `data`, or the share of `data` that is taken from its end: the test rows last, the
            validation rows before them. Mix sorted rows first.
        clip_norm: bound of the gradient's norm.
        embedding: the numbers of a token's vector.
        confidence: of the intervals.

    Returns:
        a `Comparison`. Models that end as NaN come last and say so; so do all if inputs or targets are the same
        everywhere. Times are the least of a few, of this machine, which all models take in turn.

    Raises:
        ValueError, TypeError: for data that do not fit or are not finite, and for a budget that is too small for some
            model of width 1.

    >>> import numpy as np, rnnjax as rj
    >>> x = np.random.default_rng(0).normal(size=(60, 6, 2)).astype("float32")
    >>> y = (x[:, 0, 0] > 0).astype("int32")
    >>> found = rj.diagnostics.compare([rj.GRU], (x, y), 200, seeds=2, learning_rates=[0.03], epochs=2)
    >>> found.rows[0].name, found.rows[0].width, found.rows[0].parameters
    ('GRU', 6, 182)
    """
    for name, value in (("budget", budget), ("seeds", seeds), ("epochs", epochs), ("batch_size", batch_size)):
        check_size(name, value)
    check_size("embedding", embedding)
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2, or there is no interval; got {seeds}")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1); got {confidence}")
    if len(learning_rates) == 0:
        raise ValueError("`learning_rates` must hold at least one number; got none")
    parts = parts_of(data, validation, test)
    task = Task.of(parts, loss)
    check_finite(parts, task)
    if metric is None and loss == "cross_entropy":
        metric = "accuracy"
    used = measures(loss, [] if metric is None else [metric], shared=True)
    rising = rises(used, used[-1].name, mode)
    networks = [within(name, make, task, budget, embedding) for name, make in contenders(cells).items()]
    used = tuple(one._replace(keeps_time=networks[0].layer.keeps_time) for one in used)
    constant = constant_quality(parts[0], parts[2], task, used[-1], rising)
    _check_scores(networks[0].layer, parts[2], used)

    space = {"learning_rate": list(learning_rates), "seed": list(range(seeds))}
    sweeps, took = {}, []
    for own in networks:
        began = time.perf_counter()
        sweeps[own.name] = _trained(own.layer, space, parts, used, rising, epochs, batch_size, clip_norm)
        took.append(time.perf_counter() - began)
    rows = _rows(networks, sweeps, parts, task, used, rising, batch_size, confidence)
    rows = [row._replace(seconds=seconds) for row, seconds in zip(rows, took, strict=True)]
    rows.sort(key=lambda row: badness(row.validation if np.isfinite(row.quality) else np.nan, rising))
    title = (loss if isinstance(loss, str) else Measure.of(loss, "loss").name) if metric is None else used[-1].name
    said = recommendation(rows, title, rising, constant, confidence, learning_rates)
    layers = {own.name: own.layer for own in networks}
    return Comparison(rows, title, confidence, constant, said, sweeps, layers)


def _trained(
    layer: Stack,
    space: dict[str, list[Any]],
    parts: Parts,
    used: tuple[Measure, ...],
    rising: bool,
    epochs: int,
    batch_size: int,
    clip_norm: float,
) -> Swept:
    """All learning rates and seeds of one layer."""
    train, validation, _ = parts
    fall = optax.cosine_decay_schedule(1.0, epochs * -(-rows_of(train) // batch_size))

    def make(config: dict[str, Any]) -> Any:
        return layer, optimizer(config["learning_rate"], clip_norm=clip_norm, schedule=fall)

    return sweep(
        make,
        space,
        train,
        loss=used[0],
        metrics=used[1:],
        epochs=epochs,
        batch_size=batch_size,
        validation=validation,
        monitor=f"val_{used[-1].name}",
        mode="max" if rising else "min",
    )


def _rows(
    networks: Sequence[Contender],
    sweeps: dict[str, Swept],
    parts: Parts,
    task: Task,
    used: tuple[Measure, ...],
    rising: bool,
    batch_size: int,
    confidence: float,
) -> list[Compared]:
    """The table in the order of the networks, still without the seconds of training."""
    train, _, test = parts
    chosen = [_chosen(sweeps[own.name], f"val_{used[-1].name}", rising) for own in networks]
    batch, few, same = take(train, slice(0, batch_size)), take(test, slice(0, HORIZON_ROWS)), constancy(parts, task)
    costs = [
        _cost.cost(own.layer, jax.tree.map(lambda leaf: leaf[0], members), batch, used[0])
        for own, (_, _, members) in zip(networks, chosen, strict=True)
    ]
    times = _cost.seconds([program for cost in costs for program in (cost.forward, cost.gradient)])
    rows = []
    for i, (own, (learning_rate, validation, members)) in enumerate(zip(networks, chosen, strict=True)):
        scores, curve = _scores(own.layer, members, test, used), _cost.reach(own.layer, members, few, task)
        mean, low, high = of_mean(scores, confidence, used[-1].bounds)
        rows.append(
            Compared(
                name=own.name,
                width=own.width,
                parameters=own.parameters,
                learning_rate=learning_rate,
                validation=validation,
                quality=mean,
                low=low,
                high=high,
                scores=scores,
                flops=costs[i].flops,
                step_time=times[2 * i] / task.steps,
                train_time=times[2 * i + 1] / task.steps,
                memory=costs[i].memory,
                receptive_field=_receptive_field(own.layer),
                reach=curve,
                horizon=_cost.farthest(curve),
                seconds=0.0,
                note="; ".join(filter(None, [same, _lost(scores)])),
            )
        )
    return rows


def _lost(scores: np.ndarray) -> str:
    bad = int(np.isnan(scores).sum())
    return f"{bad} of {scores.size} seeds end in a loss that is not finite, at the best learning rate" if bad else ""


def _chosen(swept: Swept, measure: str, rising: bool) -> tuple[float, float, Params]:
    """The learning rate with the best mean over the seeds, that mean, and the parameters of its members, leaves
    (S, …)."""
    places: dict[float, list[int]] = {}
    for place in sorted(range(len(swept.configs)), key=lambda place: swept.configs[place]["seed"]):
        places.setdefault(swept.configs[place]["learning_rate"], []).append(place)
    means = {}
    for rate, own in places.items():
        rows = [swept.table[place] for place in own]
        means[rate] = float(np.mean([_where_finite(row["val_loss"], row[measure]) for row in rows]))
    best = min(sorted(means), key=lambda rate: badness(means[rate], rising))
    index = np.array(places[best])
    return best, means[best], jax.tree.map(lambda leaf: leaf[index], swept.members)


def _where_finite(loss: Any, quality: Any) -> np.ndarray:
    """The quality, but NaN where the loss is not finite: of NaN too, some class comes first."""
    return np.where(np.isfinite(loss), quality, np.nan)


def _scores(layer: Stack, members: Params, batch: Batch, used: tuple[Measure, ...]) -> np.ndarray:
    """The last measure of every member on these rows, (S); NaN where the first one, the loss, is not finite."""
    score = _scoring(layer, batch, used)
    found = jax.jit(lambda members: jax.lax.map(score, members))(members)
    return _where_finite(found[0], np.asarray(found[-1], np.float64))


def _check_scores(layer: Stack, batch: Batch, used: tuple[Measure, ...]) -> None:
    """Raises for measures that these rows cannot be scored by, before anything is trained."""
    params = jax.eval_shape(lambda: adapt(layer, batch.inputs, jax.random.key(0)).params)
    jax.eval_shape(_scoring(layer, batch, used), params)


def _scoring(layer: Stack, batch: Batch, used: tuple[Measure, ...]) -> Callable[[Params], list[Any]]:
    """The measures on these rows, as a function of parameters. A measure of one's own has them all at once: it may
    take no `mask` for rows that fill a part up, or be no mean."""
    apply = adapt((None, layer), batch.inputs, jax.random.key(0)).apply
    size = min(128, rows_of(batch)) if all_take_masks(used) else rows_of(batch)
    parts = jax.device_put(stacked(batch, size))

    def score(params: Params) -> list[Any]:
        totals = of_parts(apply, used, params, (), parts, take, rows_of(parts))
        return [total.value for total in totals]

    return score


def _receptive_field(layer: Stack) -> int | None:
    fields = [layer.module.receptive_field for layer in layer.layers if hasattr(layer, "module")]
    return fields[0] if fields else None
