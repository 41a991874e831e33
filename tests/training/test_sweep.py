"""Every member of a sweep ends where `fit` brings it alone; halving, grouping, devices, bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.core import Tracer

import rnnjax as rj
from rnnjax import training
from rnnjax.training import _sweep, fit, optimizer, sweep

N, T, I, K = 22, 5, 2, 2  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype(np.float32)
Y = (X.sum((1, 2)) > 0).astype(np.int32)
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "metrics": ["accuracy"], "validation_split": 0.3}


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Optax mixes dtypes, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def make(config: dict[str, Any]) -> Any:
    """Everything that a sweep can map over: leaves of cells and layers, rates, norms, decays, sizes."""
    cell = rj.ActiveUnits(rj.LSTM(4, forget_bias=config.get("forget_bias", 1.0)), units=config.get("units", 4))
    layer = rj.Stack([rj.RNN(cell), rj.Dropout(config.get("dropout", 0.0)), rj.Last(), rj.Dense(K)])
    rate, norm = config.get("learning_rate", 0.05), config.get("clip_norm", 1.0)
    return layer, optimizer(rate, clip_norm=norm, weight_decay=config.get("weight_decay", 0.0))


SPACES: dict[str, Any] = {
    "rates": [{"learning_rate": 0.01, "clip_norm": 10.0}, {"learning_rate": 0.1, "clip_norm": 0.1}],
    "decay and dropout": [{"weight_decay": 0.1, "dropout": 0.0}, {"weight_decay": 0.0, "dropout": 0.4}],
    "leaves of cells": {"forget_bias": [0.0, 3.0]},
    "sizes and seeds": [{"units": 2, "seed": 0}, {"units": 4, "seed": 1}, {"units": 4, "seed": 0}],
}


SLOW = ("decay and dropout", "leaves of cells", "sizes and seeds")


@pytest.mark.parametrize(
    "space", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SPACES]
)
def test_members_are_trained_as_alone(space: str) -> None:
    swept = sweep(make, SPACES[space], (X, Y), **OPTIONS)
    for place, (config, row) in enumerate(zip(swept.configs, swept.table, strict=True)):
        layer, recipe = make(config)
        alone = fit(layer, (X, Y), optimizer=recipe, seed=config.get("seed", 0), progress=False, **OPTIONS)
        assert swept.history.keys() == alone.history.keys()
        for name, curve in alone.history.items():
            np.testing.assert_allclose(swept.history[name][place], curve, rtol=2e-4, atol=1e-6)
            assert row[name] == pytest.approx(curve[-1], rel=2e-4)
        member = swept.params if place == 0 else jax.tree.map(lambda leaf, place=place: leaf[place], swept.members)
        for a, b in zip(jax.tree.leaves(member), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    losses = [row["val_loss"] for row in swept.table]
    assert losses == sorted(losses)


def test_initial_scale_multiplies_the_weights_that_were_drawn() -> None:
    """Against runs whose weights, but not their biases, are scaled by hand. A forget bias of 1 would show."""
    swept = sweep(make, {"initial_scale": [0.25, 2]}, (X, Y), **OPTIONS)
    for config, curve in zip(swept.configs, swept.history["loss"], strict=True):
        layer, recipe = make(config)
        cell, *between, dense = layer.init(jax.random.split(jax.random.key(0))[0], I)
        scale = np.float32(config["initial_scale"])
        params = (cell._replace(w=scale * cell.w, u=scale * cell.u), *between, dense._replace(w=scale * dense.w))
        alone = fit((params, layer), (X, Y), optimizer=recipe, progress=False, **OPTIONS)
        np.testing.assert_allclose(curve, alone.history["loss"], rtol=2e-4)


def test_programs_are_traced_once() -> None:
    """One for the start and one for an epoch, whatever the number of epochs and configurations."""
    traced = 0

    def counted(config: dict[str, Any]) -> Any:
        nonlocal traced
        traced += isinstance(config["learning_rate"], Tracer)
        return make(config)

    sweep(counted, {"learning_rate": [0.01, 0.02, 0.1]}, (X, Y), **OPTIONS | {"epochs": 3})
    assert traced == 2


def small(config: dict[str, Any]) -> Any:
    return rj.Stack([rj.RNN(rj.Elman(3)), rj.Last(), rj.Dense(K)]), optax.sgd(config["learning_rate"])


def test_programs_do_not_grow_with_the_data() -> None:
    """Arrays within a program would be compiled with it, and end at 2 GB."""
    texts: list[str] = []
    epoch = _sweep._Program.epoch

    def seen(program: Any, *args: Any) -> Any:
        run = program._epochs

        def lowered(*given: Any) -> Any:
            texts.append(run.lower(*given).as_text())
            return run(*given)

        program._epochs = lowered
        return epoch(program, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep._Program, "epoch", seen)
        for copies in (1, 100):
            data = np.tile(X, (copies, 1, 1)), np.tile(Y, copies)
            sweep(small, {"learning_rate": [0.1, 0.2]}, data, batch_size=8 * copies, validation=data)
    few, many = map(len, texts)
    assert many < 1.1 * few


def test_programs_hold_the_validation_once() -> None:
    """Not once for its first batch, and once more for the others."""
    counts: list[int] = []
    epoch = _sweep._Program.epoch

    def sine(config: dict[str, Any]) -> Any:
        return rj.Stack([rj.Last(), rj.Dense(K), rj.Activate(jax.lax.sin)]), optax.sgd(config["learning_rate"])

    def seen(program: Any, *args: Any) -> Any:
        run = program._epochs

        def lowered(*given: Any) -> Any:
            counts.append(run.lower(*given).as_text().count("stablehlo.sine"))
            return run(*given)

        program._epochs = lowered
        return epoch(program, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep._Program, "epoch", seen)
        for validation in (None, (X, Y)):
            sweep(sine, {"learning_rate": [0.1, 0.2]}, (X, Y), batch_size=8, validation=validation)
    assert counts[1] == counts[0] + 1


def test_own_measures_see_the_batches_of_fit() -> None:
    """Of one that is no mean the value depends on them. One that takes no `mask` can have no batch filled up, as one of
    128 of these 132 rows would leave."""

    def root(outputs: Any, targets: Any) -> Any:
        return jnp.sqrt(((outputs - targets) ** 2).mean())

    targets = np.eye(K, dtype=np.float32)[Y]
    held = np.tile(X, (6, 1, 1)), np.tile(targets, (6, 1))
    options: dict[str, Any] = {
        "loss": "mean_squared_error",
        "metrics": [root],
        "batch_size": N // 2,
        "validation": held,
    }
    swept = sweep(small, {"learning_rate": [0.1]}, (X, targets), **options)
    layer, recipe = small({"learning_rate": 0.1})
    alone = fit(layer, (X, targets), optimizer=recipe, progress=False, **options)
    for name, curve in alone.history.items():
        np.testing.assert_allclose(swept.history[name][0], curve, rtol=1e-5)


@pytest.mark.slow
def test_rows_that_ctc_leaves_out_are_counted() -> None:
    """Four equal labels need seven steps of the five that there are."""

    def tagger(config: dict[str, Any]) -> Any:
        return rj.Stack([rj.RNN(rj.Elman(3)), rj.Dense(K)]), optax.sgd(config["learning_rate"])

    labels = np.where(np.arange(N)[:, None] % 8 == 0, 1, [[1, -1, -1, -1]])
    options: dict[str, Any] = {"loss": "ctc", "batch_size": 8, "validation_split": 0.3}
    swept = sweep(tagger, {"learning_rate": [0.1]}, (X, labels), **options)
    layer, recipe = tagger({"learning_rate": 0.1})
    alone = fit(layer, (X, labels), optimizer=recipe, progress=False, **options)
    assert (swept.table[0]["loss_impossible"], swept.table[0]["val_loss_impossible"]) == (2, 1)
    for name, curve in alone.history.items():
        np.testing.assert_allclose(swept.history[name][0], curve, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 2])
def test_groups_are_trained_as_all_at_once(group: int) -> None:
    whole = sweep(make, SPACES["sizes and seeds"], (X, Y), group=3, **OPTIONS)
    parts = sweep(make, SPACES["sizes and seeds"], (X, Y), group=group, **OPTIONS)
    assert parts.configs == whole.configs
    for name, curves in whole.history.items():
        np.testing.assert_allclose(parts.history[name], curves, rtol=1e-4)


def test_best_model_predicts_and_the_table_prints() -> None:
    swept = sweep(make, {"learning_rate": [0.001, 0.1]}, (X, Y), monitor="val_accuracy", **OPTIONS)
    accuracy = [row["val_accuracy"] for row in swept.table]
    assert accuracy == sorted(accuracy, reverse=True)
    cut = N - round(0.3 * N)
    got = training.evaluate(swept.model, (X[cut:], Y[cut:]), metrics=["accuracy"])
    assert got["loss"] == pytest.approx(swept.table[0]["val_loss"], rel=1e-5)
    assert str(swept).splitlines()[0].split() == [*swept.table[0]]


@pytest.mark.slow
def test_halving_drops_the_worse_half() -> None:
    space = {"learning_rate": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]}
    options = OPTIONS | {"epochs": 3}
    whole = sweep(make, space, (X, Y), **options)
    halved = sweep(make, space, (X, Y), halve_after=[1, 2], **options)
    assert [row["epochs"] for row in halved.table] == [3, 3, 2, 1, 1]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(halved.members)} == {2}
    by_rate = {config["learning_rate"]: i for i, config in enumerate(whole.configs)}
    first = [whole.history["val_loss"][by_rate[config["learning_rate"]], 0] for config in halved.configs]
    assert max(first[:3]) <= min(first[3:])
    for i, config in enumerate(halved.configs):
        epochs = int(halved.table[i]["epochs"])
        np.testing.assert_allclose(
            halved.history["loss"][i, :epochs],
            whole.history["loss"][by_rate[config["learning_rate"]], :epochs],
            rtol=1e-4,
        )
        assert np.isnan(halved.history["loss"][i, epochs:]).all()


def test_diverged_members_are_last() -> None:
    swept = sweep(make, {"learning_rate": [1e-2, 1e30]}, (X, Y), **OPTIONS)
    assert swept.configs[0]["learning_rate"] == 1e-2


@pytest.mark.slow
def test_diverged_members_are_last_without_validation_too() -> None:
    """From the second epoch on all its steps are left out: what was counted is nothing, and no loss of zero."""
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8, "loss": "mean_squared_error"}
    targets = np.eye(K, dtype=np.float32)[Y]
    swept = sweep(make, {"learning_rate": [1e-2, 1e25]}, (X, targets), **options)
    assert [config["learning_rate"] for config in swept.configs] == [1e-2, 1e25]
    layer, recipe = make(swept.configs[1])
    with pytest.warns(UserWarning, match="every step of epoch 1 was left out"):
        alone = fit(layer, (X, targets), optimizer=recipe, progress=False, **options)
    assert swept.history["skipped_steps"].tolist() == [[0, 0], alone.history["skipped_steps"]]
    assert [row["skipped_steps"] for row in swept.table] == [0, alone.history["skipped_steps"][-1]]
    assert np.isnan(swept.history["loss"][1, 1])
    assert swept.history["loss"][0, 1] < swept.history["loss"][0, 0]


@pytest.mark.slow
def test_fewer_rows_than_a_batch_are_not_filled_up() -> None:
    """Noise is drawn for the rows of a batch, so that more of them would be another dropout than that of `fit`."""

    def own(outputs: Any, targets: Any) -> Any:  # takes no `mask`
        return ((outputs - targets) ** 2).mean()

    targets = np.eye(K, dtype=np.float32)[Y]
    configs: list[dict[str, Any]] = [{"learning_rate": 0.1, "dropout": 0.4}]
    swept = sweep(make, configs, (X, targets), epochs=2, batch_size=64, loss=own)
    layer, recipe = make(configs[0])
    alone = fit(layer, (X, targets), optimizer=recipe, epochs=2, batch_size=N, loss=own, progress=False)
    np.testing.assert_allclose(swept.history["loss"][0], alone.history["loss"], rtol=1e-5)


def check_members_are_spread() -> None:
    """On eight devices: eleven configurations, of which six and then three are left. Six devices with two each are busy
    as long as eight would be."""
    found: list[tuple[int, int]] = []
    epoch = _sweep._Program.epoch

    def seen(*args: Any) -> Any:
        states, totals = epoch(*args)
        (lie,) = {leaf.sharding.shard_shape(leaf.shape)[0] for leaf in jax.tree.leaves(states.params)}
        (devices,) = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(states.params)}
        found.append((devices, lie))
        return states, totals

    assert len(jax.devices()) == 8
    rates = [{"learning_rate": rate, "seed": place % 3} for place, rate in enumerate(np.geomspace(1e-2, 1.0, 11))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep._Program, "epoch", seen)
        swept = sweep(small, rates, (X, Y), epochs=3, batch_size=8, halve_after=[1, 2], validation=(X, Y))
    assert found == [(6, 2), (6, 1), (3, 1)]
    assert [row["epochs"] for row in swept.table] == [3] * 3 + [2] * 3 + [1] * 5
    assert {len(leaf) for leaf in jax.tree.leaves(swept.members)} == {3}
    for i in (0, 10):
        layer, recipe = small(swept.configs[i])
        epochs, seed = int(swept.table[i]["epochs"]), int(swept.configs[i]["seed"])
        options: dict[str, Any] = {"epochs": epochs, "batch_size": 8, "seed": seed, "validation": (X, Y)}
        alone = fit(layer, (X, Y), optimizer=recipe, progress=False, **options)
        for name, curve in alone.history.items():
            np.testing.assert_allclose(swept.history[name][i, :epochs], curve, rtol=1e-3)


def check_groups_lie_on_all_devices() -> None:
    """Seven devices with three configurations each, in groups of one or two a device, which fetch none from another."""
    rates = np.geomspace(1e-2, 1.0, 21).tolist()
    epoch = _sweep._Program.epoch

    def seen(program: Any, *args: Any) -> Any:
        run = program._epochs

        def compiled(*given: Any) -> Any:
            alone = run.lower(*given).compile()
            assert not re.search("all-gather|all-to-all|collective-permute", alone.as_text())
            return alone(*given)

        program._epochs = compiled
        return epoch(program, *args)

    wanted = sweep(small, {"learning_rate": rates}, (X, Y), batch_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep._Program, "epoch", seen)
        for group in (3, 9):
            found = sweep(small, {"learning_rate": rates}, (X, Y), batch_size=8, group=group)
            assert found.configs == wanted.configs
            np.testing.assert_allclose(found.history["loss"], wanted.history["loss"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["members_are_spread", "groups_lie_on_all_devices"])
def test_members_are_spread_over_devices(check: str) -> None:
    """On eight devices of one host, in a process of its own."""
    code = f"import test_sweep as own; own.check_{check}()"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no values": (lambda: sweep(make, {}, (X, Y)), ValueError, "`space` must name at least one value"),
    "a scalar": (lambda: sweep(make, {"a": 1.0}, (X, Y)), TypeError, r"`space\['a'\]` must be a list of numbers"),
    "words": (lambda: sweep(make, {"a": ["x"]}, (X, Y)), TypeError, "`a` must be a number, because all"),
    "other names": (lambda: sweep(make, [{"a": 1}, {"b": 1}], (X, Y)), ValueError, "must have the same names"),
    "a name of the table": (
        lambda: sweep(make, {"epochs": [1]}, (X, Y)),
        ValueError,
        "`space` must not name epochs, which the table has",
    ),
    "a stream": (lambda: sweep(make, {"a": [1]}, [(X, Y)]), TypeError, "a sweep needs arrays"),
    "no layer": (lambda: sweep(lambda config: 3, {"a": [1]}, (X, Y)), TypeError, "`make` must return a layer"),
    "no rows": (lambda: sweep(make, {"a": [1]}, (X[:0], Y[:0])), ValueError, "the data hold no row"),
    "no rows of validation": (
        lambda: sweep(make, {"a": [1]}, (X, Y), validation=(X[:0], Y[:0])),
        ValueError,
        "the validation holds no row",
    ),
    "two parts of validation": (
        lambda: sweep(make, {"a": [1]}, (X, Y), validation=(X, Y), validation_split=0.5),
        ValueError,
        "`validation_split` needs no `validation` beside it",
    ),
    "sums of gradients": (
        lambda: sweep(lambda config: (make(config)[0], optax.MultiSteps(optimizer(), 2)), {"a": [1]}, (X, Y)),
        UserWarning,
        "`optax.MultiSteps` adds a gradient that is not finite to its sum",
    ),
    "labels": (lambda: sweep(make, {"a": [1]}, (X, Y + 1)), ValueError, "`targets` must lie in 0 … 1"),
    "labels of validation": (
        lambda: sweep(make, {"a": [1]}, (X, Y), validation=(X, Y - 1)),
        ValueError,
        "`targets` must lie in 0 … 1",
    ),
    "a rate": (
        lambda: sweep(make, {"learning_rate": [0.1, -0.1]}, (X, Y)),
        ValueError,
        "`learning_rate` must be positive; got -0.1",
    ),
    "a seed below zero": (
        lambda: sweep(make, {"a": [1]}, (X, Y), seed=-1),
        ValueError,
        "`seed` must not be negative; got -1",
    ),
    "one of many seeds": (
        lambda: sweep(make, {"seed": [0, 0.5]}, (X, Y)),
        TypeError,
        r"`seed` must be an integer; got 0\.5",
    ),
    "one epoch to halve after": (
        lambda: sweep(make, {"a": [1]}, (X, Y), epochs=2, halve_after=1),  # type: ignore[arg-type]
        TypeError,
        r"`halve_after` must be a sequence of epochs, such as \[1\]; got 1",
    ),
    "no scale": (
        lambda: sweep(make, {"initial_scale": [1.0, 0.0]}, (X, Y)),
        ValueError,
        "`initial_scale` must be positive; got 0.0",
    ),
    "monitor": (lambda: sweep(make, {"a": [1]}, (X, Y), monitor="f1"), ValueError, "`monitor` must be one of loss"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_parts_without_rows_and_epochs_that_are_not_there() -> None:
    space = {"learning_rate": [0.1, 0.01]}
    for share in (0.01, 0.99):
        with pytest.raises(ValueError, match="must leave rows on both sides"):
            sweep(make, space, (X, Y), validation_split=share)
    for after, error, message in (
        ([5], ValueError, "must lie before the last of 5 epochs; got 5"),
        ([0], ValueError, "must be at least 1; got 0"),
        ([2.7], TypeError, r"must be a positive integer; got 2\.7"),
    ):
        with pytest.raises(error, match=f"`halve_after` {message}"):
            sweep(make, space, (X, Y), epochs=5, halve_after=after)
