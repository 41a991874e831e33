"""Comparisons: budgets, intervals, costs and reach by other means, and what is said about them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import rnnjax as rj
from rnnjax.diagnostics import Compared, _compare, compare
from rnnjax.diagnostics._contenders import DEFAULT, Task, network, parameters_of, within
from rnnjax.diagnostics._cost import by_steps, farthest, reach
from rnnjax.diagnostics._flops import flops
from rnnjax.diagnostics._intervals import of_difference, of_mean
from rnnjax.diagnostics._parts import check_finite, constancy, constant_quality
from rnnjax.diagnostics._recommend import recommendation
from rnnjax.training._batches import Batch
from rnnjax.training._measure import measures

N, T, I = 40, 6, 2  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype(np.float32)
Y = (X[:, 0, 0] > 0).astype(np.int32)
TASK = Task(in_size=I, vocabulary=None, outputs=2, each_step=False, steps=T, classes=True)
SHORT: dict[str, Any] = {"seeds": 2, "learning_rates": [0.03], "epochs": 1, "batch_size": 16}


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Optax and Flax mix ranks and dtypes, which the strict settings refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("LSTM", "TCN") else pytest.mark.slow) for name in DEFAULT]
)
def test_width_meets_the_budget(name: str) -> None:
    """The next width has too many parameters."""
    own = within(name, DEFAULT[name], TASK, 700, embedding=16)
    assert own.parameters == parameters_of(own.layer, I) <= 700
    assert parameters_of(network(DEFAULT[name], own.width + 1, TASK, 16), I) > 700
    with pytest.raises(ValueError, match=f"`budget` must be at least .* those of {name} of width 1"):
        within(name, DEFAULT[name], TASK, 5, embedding=16)


def test_width_by_the_formula() -> None:
    """4 H (I + H + 1) of an LSTM and (H + 1) O above; tokens add their vectors."""
    count = lambda h, i: 4 * h * (i + h + 1) + (h + 1) * 2  # noqa: E731
    own = within("LSTM", rj.LSTM, TASK, 1000, embedding=16)
    assert own.width == max(h for h in range(1, 100) if count(h, I) <= 1000)
    assert own.parameters == count(own.width, I)
    tokens = TASK._replace(in_size=None, vocabulary=7)
    own = within("LSTM", rj.LSTM, tokens, 1000, embedding=3)
    assert own.width == max(h for h in range(1, 100) if 21 + count(h, 3) <= 1000)


def test_intervals_are_those_of_scipy() -> None:
    a, b = RNG.normal(size=5), 0.3 + 2 * RNG.normal(size=4)
    low, high = stats.t.interval(0.9, len(a) - 1, loc=a.mean(), scale=stats.sem(a))
    np.testing.assert_allclose(of_mean(a, 0.9), (a.mean(), low, high))
    bounds = measures("cross_entropy", ["accuracy"])[1].bounds
    np.testing.assert_allclose(of_mean(np.array([0.2, 0.9]), 0.95, bounds), (0.55, 0, 1))
    assert measures("huber", [])[0].bounds == (0, np.inf)
    assert measures(lambda outputs, targets: 0.0, [])[0].bounds == (-np.inf, np.inf)
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    np.testing.assert_allclose(of_difference(a, b, 0.9), (a.mean() - b.mean(), welch.low, welch.high))
    assert of_difference(np.ones(3), np.zeros(3), 0.9) == (1, 1, 1)
    assert np.isnan(of_difference(a, np.array([1.0, np.nan]), 0.9).low)


def test_parts_may_have_other_lengths() -> None:
    longer = Batch(np.ones((4, 2 * T, I), np.float32), np.zeros(4, np.int32), np.array([2 * T, 3, T, 1]))
    check_finite([Batch(X[:4], Y[:4], np.full(4, T)), longer], TASK)
    longer.inputs[1, 3:] = np.nan
    check_finite([longer], TASK)
    longer.inputs[0, T + 1] = np.nan
    with pytest.raises(ValueError, match=r"inputs must be finite; got nan at \(0, 7, 0\)"):
        check_finite([longer], TASK)


def test_flops_by_hand() -> None:
    """Products, sums and loops of an Elman network: two products, two sums and an activation a step."""
    x, w = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert flops(lambda x, w: jax.jit(jnp.tanh)(x @ w).sum(), x, w) == 2 * 3 * 4 * 5 + 3 * 5 + 3 * 5
    assert flops(lambda x: jax.lax.fori_loop(0, 7, lambda _, x: 2 * x, x), x) == 7 * 12
    layer = by_steps(rj.Stack([rj.Elman(8), rj.Last()]), I)
    params = layer.init(jax.random.key(0), I)
    found = flops(lambda x: layer(params, x)[0], jnp.ones((T, I)))
    assert abs(found - T * (2 * I * 8 + 2 * 8 * 8 + 3 * 8)) <= T * 8


def test_reach_of_a_linear_network() -> None:
    """A state that is halved at every step, read at the row's end: 2^−k, also behind padding, and of tokens."""
    layer = rj.Stack([rj.Elman(2, activation="identity"), rj.Last(), rj.Dense(2)])
    params = layer.init(jax.random.key(0), I)
    members = jax.tree.map(lambda leaf: leaf[None], (params[0]._replace(u=0.5 * jnp.eye(2)), *params[1:]))
    batch = Batch(jnp.asarray(X[:4]), None)
    np.testing.assert_allclose(reach(layer, members, batch, TASK), 0.5 ** np.arange(T), rtol=1e-5)
    short = batch._replace(lengths=jnp.array([3, T, 1, 2]))
    np.testing.assert_allclose(reach(layer, members, short, TASK), 0.5 ** np.arange(T), rtol=1e-5)
    steps = rj.Stack([rj.Embedding(5, 2), layer.layers[0], rj.Dense(2)])
    embedding = rj.layers.EmbeddingParams(jnp.ones((1, 5, 2)))
    tokens = Batch(jnp.ones((4, T), jnp.int32), None, jnp.array([3, T, 1, 2]))
    task = TASK._replace(in_size=None, vocabulary=5, each_step=True)
    found = reach(steps, (embedding, members[0], members[2]), tokens, task)
    np.testing.assert_allclose(found, 0.5 ** np.arange(T), rtol=1e-5)


def test_farthest() -> None:
    assert farthest(np.array([1.0, 0.001, 0.02, 0.009])) == 2
    assert farthest(np.zeros(3)) == 0
    assert farthest(np.array([1.0, np.nan])) is None


def test_constant_answers() -> None:
    """Frequencies, means and log odds of the training targets, without their padding; a median or a class where that is
    better there, whatever is on the test rows."""
    accuracy, squares, odds = (
        measures(name, ())[0] for name in ("accuracy", "mean_squared_error", "binary_cross_entropy")
    )
    train, test = Batch(X[:3], np.array([1, 1, 0])), Batch(X[:4], np.array([1, 0, 0, 0]))
    assert constant_quality(train, test, TASK, accuracy, True) == 0.25
    y = np.arange(3.0 * T).reshape(3, T, 1)
    train, test = Batch(X[:3], y, np.array([2, 1, 0])), Batch(X[:3], y)
    task = TASK._replace(outputs=1, each_step=True, classes=False)
    mean = (0 + 1 + T) / 3
    np.testing.assert_allclose(constant_quality(train, test, task, squares, False), ((y - mean) ** 2).mean(), rtol=1e-6)
    yes = Batch(X[:4], np.array([[1], [1], [1], [0]]))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    task = TASK._replace(outputs=1, classes=False)
    np.testing.assert_allclose(constant_quality(yes, yes, task, odds, False), entropy, rtol=1e-6)
    absolute, f1 = (measures(name, ())[0] for name in ("mean_absolute_error", "f1"))
    rare = Batch(X[:10], np.where(np.arange(10) == 0, 5.0, 0.0)[:, None])
    assert constant_quality(rare, rare._replace(targets=rare.targets + 1), task, absolute, False) == 1.5
    three = TASK._replace(outputs=3)
    balanced = measures(functools.partial(f1.function, average="binary"), ())[0]
    train, test = Batch(X[:6], np.array([0, 0, 0, 0, 1, 2])), Batch(X[:4], np.array([1, 1, 0, 2]))
    assert constant_quality(train, test, three, f1, True) == pytest.approx(2 / 5 / 3)  # of class 0, on average over all
    assert constant_quality(train, test, three, balanced, True) == pytest.approx(2 * 2 / (4 + 2))  # all are 1
    many = TASK._replace(outputs=30)
    often = Batch(X[:9], np.array([20, 21, 22, 23, 24, 25, 26, 29, 29]))
    assert constant_quality(often, often, many, accuracy, True) == pytest.approx(2 / 9)
    soft = Batch(X[:2], np.array([[0.5, 0.25, 0.25], [0.7, 0.15, 0.15]]))
    nats = -(soft.targets * np.log([0.6, 0.2, 0.2])).sum(-1).mean()
    entropy = measures("cross_entropy", ())[0]
    found = constant_quality(soft, soft, three._replace(classes=False), entropy, False)
    assert found == pytest.approx(nats, rel=1e-5)
    bad = X.copy()
    bad[1, 3:] = np.nan
    lengths = np.array([6, 3, 6, 6])
    check_finite([yes._replace(inputs=bad[:4], lengths=lengths)], task)
    with pytest.raises(ValueError, match=r"inputs must be finite; got nan at \(1, 3, 0\)"):
        check_finite([yes._replace(inputs=bad[:4], lengths=np.array([6, 4, 6, 6]))], task)
    assert constancy([yes, yes._replace(targets=np.ones((4, 1)))], task) == ""
    assert constancy([yes._replace(inputs=np.ones_like(X[:4]))], task).startswith("inputs are the same everywhere")


def row(name: str, scores: Any, step_time: float = 1.0, learning_rate: float = 0.01) -> Compared:
    scores = np.asarray(scores, np.float64)
    costs = (10.0, step_time, 3.0, 100, None, np.ones(3), 2, 1.0, "")
    return Compared(name, 4, 90, learning_rate, 0.0, *of_mean(scores, 0.95), scores, *costs)


def test_recommendation() -> None:
    good, same, bad = [0.90, 0.92, 0.91], [0.89, 0.92, 0.91], [0.5, 0.52, 0.51]
    rows = [row("GRU", good), row("LSTM", same, step_time=0.5), row("Elman", bad, learning_rate=0.1)]
    said = recommendation(rows, "accuracy", True, 0.3, 0.95, [0.001, 0.01, 0.1])
    assert said.startswith(
        "GRU comes first on the validation rows.\n"
        "GRU: accuracy 0.91 on the test rows, 95% interval 0.8852 to 0.9348 over 3 seeds"
    )
    assert "Not told apart from it, by how much it is better and the 95% interval: LSTM, 0.0033" in said
    assert "LSTM is worse by 0.035 at most and takes 0.5 of the time per step of GRU" in said
    assert "Worse: Elman, by 0.4 (" in said
    assert said.endswith("so try others: Elman.")
    flipped = [row("Elman", bad), row("GRU", good)]
    said = recommendation(flipped, "mean_squared_error", False, 2.0, 0.95, [0.01])
    assert said.startswith("Elman comes first on the validation rows.\nElman: mean squared error 0.51")
    assert "Worse: GRU, by 0.4 (" in said
    assert said.endswith("Too few learning rates to know whether others are better for some model: 1.")
    wide = [row("GRU", good), row("LSTM", [0.4, 0.95, 0.9], step_time=0.5), row("Elman", [0.98, 0.99, 0.985])]
    said = recommendation(wide, "accuracy", True, 0.3, 0.95, [0.01])
    assert "where time counts" not in said
    assert "Better on the test rows, though not on the validation rows: Elman, by 0.075 (" in said
    said = recommendation(rows, "accuracy", True, 0.92, 0.95, [0.01])
    assert said.startswith("Nothing can be recommended: no model is better, beyond doubt, than a constant answer")
    broken = row("GRU", [np.nan] * 3)._replace(note="3 of 3 seeds end as NaN")
    said = recommendation([broken], "accuracy", True, 0.5, 0.95, [0.01])
    assert said == "Nothing can be recommended: the quality of every model is NaN.\nGRU: 3 of 3 seeds end as NaN."


@pytest.mark.parametrize(
    ("second", "rate", "rates", "decided"),
    [
        ([0.5, 0.52, 0.51], 0.01, [0.001, 0.01, 0.1], True),
        ([np.nan] * 3, 0.001, [0.001, 0.01, 0.1], True),  # the first rate where none has a quality
        ([0.89, 0.92, 0.91], 0.01, [0.001, 0.01, 0.1], False),
        ([0.98, 0.99, 0.985], 0.01, [0.001, 0.01, 0.1], False),
        ([0.5, 0.52, 0.51], 0.1, [0.001, 0.01, 0.1], False),
        ([0.5, 0.52, 0.51], 0.001, [0.001, 0.01, 0.1], False),
        ([0.5, 0.52, 0.51], 0.01, [0.01, 0.1], False),
    ],
    ids=["worse", "NaN", "equal", "better on the test rows", "largest rate", "least rate", "two rates"],
)
def test_takes_only_what_the_numbers_decide(
    second: list[float], rate: float, rates: list[float], decided: bool
) -> None:
    rows = [row("GRU", [0.90, 0.92, 0.91]), row("Elman", second, learning_rate=rate)]
    said = recommendation(rows, "accuracy", True, 0.3, 0.95, rates)
    assert said.split("\n")[0] == ("Take GRU." if decided else "GRU comes first on the validation rows.")


def broken(x: jax.Array) -> jax.Array:
    """NaN whatever comes."""
    return jnp.sqrt(-1 - x**2)


@pytest.mark.slow
def test_nothing_is_hidden() -> None:
    """A model that ends as NaN comes last and says so; so does everyone where there is nothing to learn."""
    cells = {"broken": lambda width: rj.Elman(width, activation=broken), "Elman": rj.Elman}
    found = compare(cells, (X, np.ones_like(Y)), 60, **SHORT)
    assert [row.name for row in found.rows] == ["Elman", "broken"]
    assert np.isnan(found.rows[1].quality)
    assert found.rows[1].horizon is None
    assert "2 of 2 seeds end in a loss that is not finite" in found.rows[1].note
    assert all("targets are the same everywhere" in row.note for row in found.rows)
    assert found.constant == 1
    assert "broken: targets are the same everywhere" in str(found)
    assert str(found).splitlines()[2].split()[:2] == ["broken", f"{found.rows[1].width}"]


@pytest.mark.slow
def test_the_validation_rows_choose() -> None:
    """With wrong labels there, the model that learns comes last, although it is the better one on the test rows."""
    y = (X[:, -1, 0] > 0).astype(np.int32)
    cells = {"learns": rj.GRU, "blind": lambda width: rj.Elman(width, activation=jnp.zeros_like)}
    options = SHORT | {"epochs": 30, "validation": (X, 1 - y), "test": (X, y)}
    found = compare(cells, (X, y), 60, **options)
    assert [row.name for row in found.rows] == ["blind", "learns"]
    assert found.rows[1].quality > 0.9 > 0.7 > found.rows[0].quality
    assert found.recommendation.startswith("Nothing can be recommended") or "blind comes first" in found.recommendation


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers at every step", "tokens"])
def test_scores_are_those_of_fit(kind: str) -> None:
    """Each seed at the chosen rate is trained as `fit` trains it alone, and tested on rows that took no part."""
    lengths = RNG.integers(1, T + 1, N)
    if kind == "tokens":
        data, loss = (RNG.integers(0, 5, (N, T)), RNG.integers(0, 3, N), lengths), "cross_entropy"
        layers = [rj.Embedding(5, 3), rj.GRU(4), rj.Last(), rj.Dense(3)]
    else:
        data, loss = (X, X[..., :1], lengths), "mean_squared_error"
        layers = [rj.GRU(4), rj.Dense(1)]
    model = rj.Stack(layers)
    budget = parameters_of(model, None if kind == "tokens" else I)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8}
    found = compare([rj.GRU], data, budget, 2, loss=loss, learning_rates=[0.1, 0.01], embedding=3, **options)
    (row,), parts = found.rows, [tuple(array[i:j] for array in data) for i, j in ((0, 24), (24, 32), (32, 40))]
    assert (row.width, row.parameters) == (4, budget)
    assert found.metric == ("accuracy" if kind == "tokens" else "mean_squared_error")
    means = {}
    for rate in (0.01, 0.1):
        scores = []
        for seed in range(2):
            recipe = rj.training.optimizer(rate, clip_norm=1.0, schedule=optax.cosine_decay_schedule(1.0, 9))
            settings: dict[str, Any] = {"loss": loss, "metrics": ["accuracy"] if kind == "tokens" else []}
            fitted = rj.training.fit(
                model, parts[0], optimizer=recipe, seed=seed, progress=False, **settings, **options
            )
            name = "accuracy" if kind == "tokens" else "loss"
            scores.append([rj.training.evaluate(fitted, part, **settings)[name] for part in parts[1:]])
        means[rate] = np.mean(scores, axis=0), scores
    best = (max if kind == "tokens" else min)(means, key=lambda rate: means[rate][0][0])
    assert row.learning_rate == best
    np.testing.assert_allclose(row.validation, means[best][0][0], rtol=1e-4)
    np.testing.assert_allclose(row.scores, np.array(means[best][1])[:, 1], rtol=1e-4)


@pytest.mark.parametrize("role", ["loss", "metric"])
def test_scores_are_checked_before_anything_is_trained(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compare, "sweep", None)

    def alone(outputs: Any, targets: Any, mask: Any = None) -> Any:
        if len(outputs) == 8:
            raise ValueError("eight rows")
        return outputs.mean()

    measured: dict[str, Any] = {"metric": "accuracy"} | {role: alone}
    with pytest.raises(ValueError, match="eight rows"):
        compare([rj.Elman], (X, Y), 60, mode="max", test=(X[:8], Y[:8]), **measured, **SHORT)


@pytest.mark.slow
def test_an_own_metric_sees_all_test_rows_at_once() -> None:
    """132 rows, which are no multiple of what the library's measures are given at a time: it takes no `mask`, and is no
    mean."""

    def root(outputs: Any, targets: Any) -> Any:
        return jnp.sqrt(((outputs - targets) ** 2).mean())

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(132, T, I)).astype(np.float32), rng.normal(size=(132, 1)).astype(np.float32)
    data, held = (X, X[:, 0, :1]), (X[:16], X[:16, 0, :1])
    options: dict[str, Any] = SHORT | {"loss": "mean_squared_error", "mode": "min", "validation": held}
    found = compare([rj.Elman], data, 60, metric=root, test=(x, y), **options | {"batch_size": 8})
    members = found.sweeps["Elman"].members
    for place, config in enumerate(found.sweeps["Elman"].configs):
        params = jax.tree.map(lambda leaf, place=place: leaf[place], members)
        outputs = np.asarray(found.layers["Elman"](params, x.swapaxes(0, 1))[0], np.float64)
        wanted = np.sqrt(((outputs - y) ** 2).mean())
        assert found.rows[0].scores[int(config["seed"])] == pytest.approx(wanted, rel=1e-5)
    assert found.constant == pytest.approx(np.sqrt(((y - X[:, 0, :1].mean()) ** 2).mean()), rel=1e-2)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"data": [X]}, TypeError, "`data` must be arrays"),
        ({"data": (X[..., 0], Y)}, ValueError, "inputs must be numbers"),
        ({"data": (X, Y[:, None, None])}, ValueError, "targets must be classes"),
        ({"data": (X, X[:, :3])}, ValueError, "with the T of the inputs"),
        ({"data": (X, Y - 1)}, ValueError, "classes must be 0 or more"),
        ({"data": (np.where(X > 1, np.nan, X), Y)}, ValueError, "inputs must be finite"),
        ({"data": (X, Y, np.full(N, T), np.ones(N))}, ValueError, "without weights"),
        ({"data": (X[:2], Y[:2])}, ValueError, "must each have rows; got 2, 0, 0 of 2"),
        ({"validation": 1.5}, ValueError, "`validation` must be a share"),
        ({"test": (X[..., :1], Y)}, ValueError, "must be like `data`"),
        ({"seeds": 1}, ValueError, "`seeds` must be at least 2"),
        ({"budget": 3}, ValueError, "`budget` must be at least 8"),
        ({"confidence": 95}, ValueError, r"`confidence` must lie in \(0, 1\)"),
        ({"cells": "GRU"}, TypeError, "`cells` must be a sequence"),
        ({"cells": {"GRU": rj.GRU(3)}}, TypeError, "functions of a width"),
        ({"cells": []}, ValueError, "at least one cell"),
        ({"cells": [rj.GRU, rj.GRU]}, ValueError, "different names"),
        ({"cells": {"same": lambda width: rj.Elman(1)}}, ValueError, "more parameters the wider"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        compare(**{"cells": [rj.Elman], "data": (X, Y), "budget": 60} | change)
