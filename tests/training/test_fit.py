"""`fit`, `evaluate` and `predict` against a loop written out in full, for every kind of model and of data."""

from __future__ import annotations

import copy
import csv
import functools
import gc
import inspect
import itertools
import json
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnnjax as rj
from rnnjax import training
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx
from rnnjax.training import _batches, _checks, _measure, _model, _progress, _runs
from rnnjax.training import _fit as fit_module

N, B, T, I, H, K = 10, 4, 5, 2, 3, 2  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype(np.float32)
Y = (X.sum((1, 2)) > 0).astype(np.int32)
LENGTHS = RNG.integers(1, T + 1, N)
LAYER = rj.Stack([rj.RNN(rj.GRU(H)), rj.Last(), rj.Dense(K)])
PARAMS = LAYER.init(jax.random.key(7), I)
TX = optax.adam(0.05)
fit = fit_module.fit
OPTIONS: dict[str, Any] = {"optimizer": TX, "batch_size": B, "shuffle": False, "progress": False}


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Optax and Flax mix dtypes, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def logits_of(params: Any, x: Any, lengths: Any = None) -> Any:
    return LAYER(params, jnp.swapaxes(x, 0, 1), lengths=lengths)[0]


def written_out(epochs: int, lengths: Any = None, order: Any = None) -> tuple[Any, list[float]]:
    """Parameters and the mean loss of each epoch; the last batch of an epoch has two rows."""

    def loss(params: Any, x: Any, y: Any, n: Any) -> Any:
        logits = logits_of(params, x, n)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    step = jax.jit(jax.value_and_grad(loss))
    params, state, losses = PARAMS, TX.init(PARAMS), []
    for epoch in range(epochs):
        rows, total = np.arange(N) if order is None else order[epoch], 0.0
        for i in range(0, N, B):
            part = rows[i : i + B]
            value, gradient = step(params, X[part], Y[part], None if lengths is None else lengths[part])
            updates, state = TX.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            total += float(value) * len(part)
        losses.append(total / N)
    return params, losses


def assert_close(got: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


class NnxModel(nnx.Module):
    """The same network of rnnjax's nnx modules."""

    def __init__(self) -> None:
        self.body = rnnx.Layer(LAYER, I, rngs=nnx.Rngs(0))

    def __call__(self, x: Any, lengths: Any = None) -> Any:
        return self.body(x, lengths=lengths)


def nnx_model() -> NnxModel:
    model = NnxModel()
    mine, wanted = jax.tree.leaves(nnx.state(model, nnx.Param)), jax.tree.leaves(PARAMS)
    assert sorted(a.shape for a in mine) == sorted(b.shape for b in wanted)
    by_name = {
        ("layer_0", "w"): PARAMS[0].w,
        ("layer_0", "u"): PARAMS[0].u,
        ("layer_0", "b"): PARAMS[0].b,
        ("layer_0", "b_n"): PARAMS[0].b_n,
        ("layer_1", "w"): PARAMS[2].w,
        ("layer_1", "b"): PARAMS[2].b,
    }
    state = nnx.state(model, nnx.Param)
    for path, variable in nnx.to_flat_state(state):
        (value,) = [array for name, array in by_name.items() if path[-2:] == name]
        variable[...] = value
    nnx.update(model, state)
    return model


def linen_model() -> Any:
    module = rlinen.Layer(LAYER)
    return module.bind({}).to_variables(PARAMS), module


MODELS: dict[str, Callable[[], Any]] = {
    "layer": lambda: (PARAMS, LAYER),
    "function": lambda: (PARAMS, logits_of),
    "nnx": nnx_model,
    "linen": linen_model,
}


class Watcher:
    """A callback that is also called within epochs, and copies what it is shown."""

    def __init__(self, every: int) -> None:
        self.every, self.seen = every, {}

    def __call__(self, event: Any) -> None:
        self.seen[f"epoch {event.epoch}"] = jax.tree.map(np.copy, event.state.params)

    def during(self, step: int, params: Any) -> None:
        self.seen[step] = jax.tree.map(np.copy, params)


@pytest.mark.parametrize("data", [(X, Y), lambda: iter([(X[i : i + 2], Y[i : i + 2]) for i in range(0, N, 2)])])
def test_callbacks_within_epochs(data: Any) -> None:
    """Epochs of five updates, in loops of three and two, or one by one: the same parameters as without callbacks."""
    options = OPTIONS | {"batch_size": 2, "epochs": 2}
    watcher = Watcher(every=3)
    watched = fit((PARAMS, LAYER), data, callbacks=[watcher], **options)
    alone = fit((PARAMS, LAYER), data, **options)
    jax.tree.map(np.testing.assert_array_equal, watched.params, alone.params)
    assert [step for step in watcher.seen if isinstance(step, int)] == [3, 5, 8, 10]
    jax.tree.map(np.testing.assert_array_equal, watcher.seen[10], watcher.seen["epoch 1"])
    third = fit((PARAMS, LAYER), (X[:6], Y[:6]), **options | {"epochs": 1})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), watcher.seen[3], third.params)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("ragged", [pytest.param(False, marks=pytest.mark.slow), True])
def test_trains_as_the_loop_that_is_written_out(kind: str, ragged: bool) -> None:
    lengths = LENGTHS if ragged else None
    wanted, losses = written_out(3, lengths)
    data = (X, Y, LENGTHS) if ragged else (X, Y)
    fitted = fit(MODELS[kind](), data, epochs=3, **OPTIONS)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    outputs = training.predict(fitted.model, X, lengths=lengths, batch_size=3)
    np.testing.assert_allclose(outputs, logits_of(wanted, X, lengths), atol=1e-5)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(fitted.params)) == sorted(
        leaf.shape for leaf in jax.tree.leaves(wanted)
    )


def test_nnx_module_is_updated_in_place_and_learns_statistics() -> None:
    class Normal(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.rnn = rnnx.RNN(rj.GRU(H), I, rngs=rngs)
            self.norm = nnx.BatchNorm(H, rngs=rngs, momentum=0.5)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.out = nnx.Linear(H, K, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(self.drop(self.norm(self.rnn(x)[:, -1])))

    model = Normal(nnx.Rngs(0))
    before = np.array(model.norm.mean[...])
    fitted = fit(model, (X[:8], Y[:8]), epochs=2, **OPTIONS)
    assert fitted.model is model
    assert not np.allclose(model.norm.mean[...], before)
    np.testing.assert_array_equal(training.predict(model, X), training.predict(model, X))  # no noise, no statistics


class Dropped(nnx.Module):
    """The mean over time, half of it dropped where the module trains."""

    def __init__(self) -> None:
        self.drop, self.out = nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(I, K, rngs=nnx.Rngs(1))

    def __call__(self, x: Any) -> Any:
        return self.out(self.drop(x.mean(1)))


@pytest.mark.parametrize(("make", "differs"), [(Dropped, True), (nnx_model, False)])
def test_nnx_modules_train_in_training_mode(make: Callable[[], Any], differs: bool) -> None:
    """At a learning rate of zero the losses of training and of evaluation are those of the same parameters."""
    model, data = make(), (X[:8], Y[:8])
    before = training.evaluate(model, data)["loss"]
    loss = fit(model, data, **OPTIONS | {"optimizer": optax.sgd(0.0)}).history["loss"][0]
    assert (abs(loss - before) > 1e-2) == differs
    assert differs or loss == pytest.approx(before, rel=1e-5)


def test_flax_sequentials_hand_marks_to_their_first_layer_alone() -> None:
    rngs = nnx.Rngs(0)
    parts = rnnx.GRU(H, H, return_sequences=False, rngs=rngs), nnx.Linear(H, K, rngs=rngs)
    one = nnx.Sequential(rnnx.GRU(I, H, return_sequences=False, rngs=rngs), nnx.Linear(H, K, rngs=rngs))
    two = nnx.Sequential(rnnx.GRU(I, H, rngs=rngs), *parts)
    linen = nn.Sequential([rlinen.GRU(H), rlinen.GRU(H, return_sequences=False), nn.Dense(K)])
    for model in (two, (linen.init(jax.random.key(0), X), linen)):
        with pytest.raises(TypeError, match="`Sequential` hands to its first layer alone: put the layers into"):
            fit(model, (X, Y, LENGTHS), **OPTIONS)
    gru, dense = one.layers
    ys, _ = gru.functional(gru.params, X.swapaxes(0, 1), lengths=LENGTHS)
    logits = ys[LENGTHS - 1, np.arange(N)] @ dense.kernel[...] + dense.bias[...]
    np.testing.assert_allclose(training.predict(one, X, lengths=LENGTHS), logits, atol=1e-6)
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), Y[:, None], 1).mean()
    fitted = fit(one, (X, Y, LENGTHS), **OPTIONS | {"batch_size": N})
    assert fitted.history["loss"][0] == pytest.approx(nats, rel=1e-5)


STREAMS: dict[str, Callable[[], Any]] = {
    "list": lambda: [(X[i : i + B], Y[i : i + B]) for i in range(0, N, B)],
    "function": lambda: lambda: ((X[i : i + B], Y[i : i + B]) for i in range(0, N, B)),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_iterables_train_as_arrays(kind: str) -> None:
    wanted, losses = written_out(2)
    fitted = fit((PARAMS, LAYER), STREAMS[kind](), epochs=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)


def test_what_was_fitted_goes_on() -> None:
    """With Adam's moments, schedule and noise: two epochs are one epoch and one more."""
    schedule = optax.exponential_decay(0.05, 2, 0.5)
    layer = rj.Stack([rj.RNN(rj.GRU(H)), rj.Last(), rj.Dropout(0.3), rj.Dense(K)])
    params = layer.init(jax.random.key(1), I)
    options = OPTIONS | {"optimizer": training.optimizer(schedule)}
    both = fit((params, layer), (X, Y), epochs=2, **options)
    one = fit((params, layer), (X, Y), **options)
    again = fit(one, (X, Y), **options)
    jax.tree.map(np.testing.assert_array_equal, again.params, both.params)
    assert again.state.step == both.state.step == 2 * one.state.step
    assert again.history["loss"] == both.history["loss"][1:]
    fit(one, (X, Y), **options)  # its arrays are still there
    anew = fit(one.model, (X, Y), **options)
    assert anew.history["loss"] != again.history["loss"]


def plain_loss(outputs: Any, targets: Any) -> Any:
    """A mean over the rows that takes no mask."""
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1).mean()


def test_a_loss_without_mask_takes_a_smaller_last_batch_of_an_iterable() -> None:
    wanted, losses = written_out(2)
    batches = STREAMS["list"]()
    fitted = fit((PARAMS, LAYER), batches, loss=plain_loss, validation=batches, epochs=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    nats = plain_loss(logits_of(wanted, X), Y)
    np.testing.assert_allclose(fitted.history["val_loss"][1], nats, rtol=1e-5)


def test_a_loss_without_mask_takes_loops_that_do_not_divide_the_epoch() -> None:
    """Five whole batches in loops of three: the last loop is filled up, and no row of a batch is missing."""
    options = OPTIONS | {"batch_size": 2}
    fitted = fit((PARAMS, LAYER), (X, Y), loss=plain_loss, callbacks=[Watcher(every=3)], **options)
    assert_close(fitted.params, fit((PARAMS, LAYER), (X, Y), loss="cross_entropy", **options).params)


class Rewinding:
    """An iterator that begins anew in `__iter__`, as older loaders do."""

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.at = -B
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        self.at += B
        if self.at >= N:
            raise StopIteration
        return X[self.at : self.at + B], Y[self.at : self.at + B]


def test_iterators_that_begin_anew_are_read_every_epoch() -> None:
    wanted, losses = written_out(2)
    fitted = fit((PARAMS, LAYER), Rewinding(), validation=Rewinding(), epochs=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    assert len(fitted.history["val_loss"]) == 2


@pytest.mark.slow
def test_loaders_of_torch_are_iterables_of_batches() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    wanted, losses = written_out(2)
    loader = torch.utils.data.DataLoader(data, batch_size=B)
    fitted = fit((PARAMS, LAYER), loader, epochs=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(training.predict(fitted, loader), logits_of(wanted, X), atol=1e-5)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)


class Loader:
    """As those of `grain` and `tf.data`: begins anew for every `iter`, and may go on for ever."""

    def __init__(self, repeats: bool = False) -> None:
        self.repeats = repeats

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            yield from STREAMS["function"]()()
            if not self.repeats:
                return


def test_epochs_of_so_many_steps() -> None:
    """Three batches, read twice in three epochs of two: by themselves, or because they are read anew."""
    wanted, _ = written_out(2)
    options = OPTIONS | {"steps_per_epoch": 2, "epochs": 3}
    numbers: list[int] = []

    def by_number(epoch: int) -> Any:
        numbers.append(epoch)
        return Loader()

    fits = [fit((PARAMS, LAYER), data, **options) for data in (Loader(repeats=True), Loader(), by_number)]
    for fitted in fits:
        assert_close(fitted.params, wanted)
        assert fitted.history == fits[0].history
    assert numbers == [0, 0, 1]  # once for the shapes
    assert [len(fitted.history["loss"]) for fitted in fits] == [3, 3, 3]
    once = (batch for batch in Loader(repeats=True))
    assert_close(fit((PARAMS, LAYER), once, **options).params, wanted)


def test_epochs_of_so_many_steps_go_on_in_the_middle() -> None:
    batches = [(np.full((1, 1), at), np.zeros(1)) for at in range(5)]
    stream = _batches.Stream(lambda: iter(batches), steps=4)
    assert [batch.inputs.item() for batch in stream.read(1, done=3)] == [2]
    assert [batch.inputs.item() for batch in stream.read(2)] == [3, 4, 0, 1]


def test_generator_is_read_once() -> None:
    wanted, _ = written_out(1)
    batches = ((X[i : i + B], Y[i : i + B]) for i in range(0, N, B))
    assert_close(fit((PARAMS, LAYER), batches, **OPTIONS).params, wanted)
    batches = ((X[i : i + B], Y[i : i + B]) for i in range(0, N, B))
    with pytest.raises(ValueError, match="a generator can be read once, so pass a function that makes one"):
        fit((PARAMS, LAYER), batches, epochs=2, **OPTIONS)
    assert len(list(batches)) == -(-N // B)  # nothing was read


def test_shuffles_anew_every_epoch_and_reads_every_row_once() -> None:
    order = [np.random.default_rng((3, epoch)).permutation(N) for epoch in range(2)]
    wanted, losses = written_out(2, order=order)
    fitted = fit((PARAMS, LAYER), (X, Y), epochs=2, seed=3, **(OPTIONS | {"shuffle": True}))
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)


@pytest.mark.parametrize("longest", [1, 2])
def test_blocks_train_as_one_loop(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches in blocks of two leave a batch without rows, which must not move the parameters."""
    monkeypatch.setattr(_runs, "LONGEST_BLOCK", longest)
    wanted, losses = written_out(2)
    fitted = fit((PARAMS, LAYER), (X, Y), epochs=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    assert int(fitted.state.step) == 6


@pytest.mark.parametrize(("rows", "batch", "longest"), [(10, 4, 512), (10, 4, 2), (7, 7, 3), (100, 1, 9), (97, 3, 8)])
def test_every_row_is_in_one_batch(rows: int, batch: int, longest: int) -> None:
    cut = _batches.Cut.of(rows, batch, longest)
    assert cut.block <= longest
    order, weights = cut.order(0, 5), cut.weights
    assert order.shape[1:] == (cut.block, batch)
    counts = np.ones(order.shape) if weights is None else weights
    np.testing.assert_array_equal(np.sort(order[counts > 0]), np.arange(rows))
    assert cut.skips == bool((counts.sum(-1) == 0).any())


def test_accumulated_gradient_is_that_of_the_batch() -> None:
    """Rows that fill up a batch all lie in its second part: a mean of means would be wrong."""
    wanted, losses = written_out(2, LENGTHS)
    fitted = fit((PARAMS, LAYER), (X, Y, LENGTHS), epochs=2, accumulate=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)


@pytest.mark.slow
def test_compiles_as_often_for_many_epochs_as_for_one() -> None:
    def traces(epochs: int, data: Any) -> int:
        count = 0

        def apply(params: Any, x: Any) -> Any:
            nonlocal count
            count += 1
            return logits_of(params, x)

        fit((PARAMS, apply), data, epochs=epochs, validation=(X, Y), **OPTIONS)
        return count

    for data in ((X, Y), STREAMS["list"]()):
        assert traces(1, data) == traces(4, data)


def test_iterables_with_a_ragged_end_are_one_program() -> None:
    """Traced for the check of the labels, for the shapes of the totals, and for the program; and so is validation, but
    for the labels."""

    def traces(**options: Any) -> int:
        count = 0

        def apply(params: Any, x: Any) -> Any:
            nonlocal count
            count += 1
            return logits_of(params, x)

        fit((PARAMS, apply), STREAMS["list"](), epochs=2, **OPTIONS, **options)
        return count

    assert traces() == 3
    assert traces(validation=STREAMS["list"]()) == 4


def test_validation_is_traced_before_anything_runs() -> None:
    """Labels of another shape are found by the loss alone; here within the program for six rows."""
    for labels in ((X, Y[:, None]), [(X, Y[:, None])]):
        watcher = Watcher(every=1)
        with pytest.raises(ValueError, match=r"`labels` must be integers"):
            fit((PARAMS, LAYER), (X, Y), validation=labels, callbacks=watcher, **OPTIONS)
        assert not watcher.seen

    def traces(run: Callable[..., Any], **options: Any) -> int:
        count = 0

        def apply(params: Any, x: Any) -> Any:
            nonlocal count
            count += len(x) == 6
            return logits_of(params, x)

        run((PARAMS, apply), **options)
        return count

    alone = traces(training.evaluate, data=(X[:6], Y[:6]))
    assert traces(fit, data=(X, Y), validation=(X[:6], Y[:6]), **OPTIONS | {"batch_size": 8}) == alone


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """What XLA has compiled since the list was emptied. Nothing is kept from the tests before."""
    _model._once.cache_clear()
    events: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event.endswith("backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("model", [(PARAMS, LAYER), (PARAMS, jax.jit(logits_of))], ids=["layer", "jitted"])
@pytest.mark.parametrize("data", [(X[:8], Y[:8]), [(X[:8], Y[:8])]], ids=["arrays", "iterable"])
def test_evaluation_compiles_once(model: Any, data: Any, compiled: list[str]) -> None:
    first = training.evaluate(model, data, metrics=["accuracy"])
    assert compiled
    doubled = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
    del compiled[:]
    again = training.evaluate((doubled, model[1]), data, metrics=["accuracy"])
    assert not compiled
    assert first["loss"] != again["loss"]
    assert training.evaluate(model, data, loss="perplexity")["loss"] != first["loss"]
    assert compiled


def test_evaluation_has_the_model_once_in_its_program() -> None:
    def apply(params: Any, rest: Any, batch: Any, key: Any, train: bool) -> Any:
        return jnp.sin(params * batch.inputs[:, 0]), rest

    run = _runs._of_arrays(apply, _measure.measures("cross_entropy", []))
    parts = _runs.stacked(training.Batch(X, Y), B)
    assert str(jax.make_jaxpr(run)(jnp.ones(I, np.float32), (), parts)).count(" sin ") == 1


def test_prediction_reads_a_batch() -> None:
    lengths = np.arange(1, len(X) + 1) % X.shape[1] + 1
    given = training.Batch(X, Y, lengths)
    wanted = training.predict((PARAMS, LAYER), X, lengths=lengths)
    np.testing.assert_array_equal(training.predict((PARAMS, LAYER), given), wanted)
    with pytest.raises(ValueError, match="a `Batch` has its own"):
        training.predict((PARAMS, LAYER), given, lengths=lengths)


@pytest.mark.parametrize("model", [(PARAMS, LAYER), (PARAMS, jax.jit(logits_of))], ids=["layer", "jitted"])
def test_prediction_compiles_once(model: Any, compiled: list[str]) -> None:
    first = training.predict(model, X, lengths=LENGTHS, batch_size=B)
    assert compiled
    doubled = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
    del compiled[:]
    again = training.predict((doubled, model[1]), X, lengths=LENGTHS, batch_size=B)
    assert not compiled
    assert np.abs(first - again).max() > 0.1


@pytest.mark.parametrize("name", ["train", "training", "deterministic"])
def test_an_nnx_module_is_called_with_the_mode_that_it_names(name: str) -> None:
    """Twice the inputs in training, and once outside of it."""

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.eye(I, K))

        def __call__(self, x: Any, **options: bool) -> Any:
            return x.mean(1) @ self.w * (1 + (options[name] != (name == "deterministic")))

    parameters = [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY),
    ]
    Net.__call__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    model = _model.adapt(Net(), X, jax.random.key(0))
    for train in (False, True):
        outputs, _ = model.apply(model.params, model.rest, training.Batch(X, Y), None, train)
        np.testing.assert_allclose(outputs, (1 + train) * X.mean(1) @ np.eye(I, K), rtol=1e-6)


@pytest.mark.parametrize("kind", ["nnx", "linen", "layer"])
def test_prediction_compiles_once_for_every_kind_and_in_any_dtype(kind: str, compiled: list[str]) -> None:
    options: dict[str, Any] = {"batch_size": B, "compute_dtype": jnp.bfloat16 if kind == "layer" else None}
    model = MODELS[kind]()
    del compiled[:]  # of making it
    first = training.predict(model, X, **options)
    assert compiled
    model = MODELS[kind]()
    del compiled[:]
    again = training.predict(model, X, **options)
    assert not compiled
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("layer", "arrays"),
        pytest.param("nnx", "arrays", marks=pytest.mark.slow),
        pytest.param("linen", "list", marks=pytest.mark.slow),
    ],
)
def test_fit_compiles_once(kind: str, data: str, compiled: list[str]) -> None:
    """But anew for another loss, optimizer or number of parts, which train as if nothing had been kept."""
    source, options = (X, Y) if data == "arrays" else STREAMS[data](), OPTIONS | {"epochs": 2, "validation": (X, Y)}
    if data == "list":
        source = source[:2]
    first = fit(MODELS[kind](), source, **options)
    assert compiled
    model = MODELS[kind]()
    del compiled[:]  # of making it
    again = fit(model, source, **options)
    assert not compiled
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    assert again.history == first.history
    smoothed = functools.partial(training.cross_entropy, label_smoothing=0.2)
    for change in ({"loss": smoothed}, {"optimizer": optax.sgd(0.5)}, {"accumulate": 2}):
        model = MODELS[kind]()
        del compiled[:]
        changed = fit(model, source, **options | change)
        assert compiled
        _model._once.cache_clear()
        alone = fit(MODELS[kind](), source, **options | change)
        jax.tree.map(np.testing.assert_array_equal, changed.params, alone.params)
        assert any(
            (a != b).any() for a, b in zip(jax.tree.leaves(changed.params), jax.tree.leaves(first.params), strict=True)
        )


def test_the_optimizer_that_is_taken_by_default_compiles_once(compiled: list[str]) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "optimizer"}
    fitted = fit(fit(LAYER, (X, Y), **options), (X, Y), **options)
    assert compiled
    del compiled[:]
    fit(fitted, (X, Y), **options)
    fit(LAYER, (X, Y), **options)
    assert not compiled


def test_what_is_kept_of_a_training_holds_no_parameters(compiled: list[str]) -> None:
    params = LAYER.init(jax.random.key(1), I)
    alive = [weakref.ref(leaf) for leaf in jax.tree.leaves(params)]
    fit((params, LAYER), (X, Y), validation=(X, Y), **OPTIONS)
    del params
    gc.collect()
    assert not [leaf for leaf in alive if leaf() is not None]


def test_training_sees_a_model_that_has_changed() -> None:
    class Net:
        scale = 1.0

        def __call__(self, params: Any, x: Any) -> Any:
            return self.scale * x.mean(1) @ params

    net, params = Net(), jnp.eye(I, 3)
    options = OPTIONS | {"validation": (X, Y), "optimizer": optax.sgd(0.1)}
    first, outputs = fit((params, net), (X, Y), **options), training.predict((params, net), X)
    batches = fit((params, net), (X, Y), **options | {"validation": [(X, Y)]})
    net.scale = 0.0
    for validation in ((X, Y), [(X, Y)]):
        history = fit((params, net), (X, Y), **options | {"validation": validation}).history
        assert [*history["loss"], *history["val_loss"]] == pytest.approx([np.log(3)] * 2)
        assert training.evaluate((params, net), validation)["loss"] == pytest.approx(np.log(3))
    assert not training.predict((params, net), X).any()
    assert outputs.any()
    assert first.history["val_loss"] == pytest.approx(batches.history["val_loss"])
    assert first.history["val_loss"] != pytest.approx([np.log(3)])


@pytest.mark.parametrize(
    "kind", ["function", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("function in bfloat16", "mesh"))]
)
def test_what_is_kept_of_a_model_holds_no_arrays(kind: str) -> None:
    """Neither those that a function closes over, nor the parameters of what is divided over devices."""
    params = LAYER.init(jax.random.key(1), I)
    alive = [weakref.ref(leaf) for leaf in jax.tree.leaves(params)]
    if kind == "mesh":
        fit((params, LAYER), (X, Y), validation=(X, Y), mesh=jax.make_mesh((1,), ("data",)), **OPTIONS)
    else:
        dtype = jnp.bfloat16 if "bfloat16" in kind else None
        model = jnp.float32(1.0), lambda scale, x, params=params: scale * logits_of(params, x)
        fit(model, (X, Y), compute_dtype=dtype, **OPTIONS)
        training.evaluate(model, (X, Y), compute_dtype=dtype)
        training.predict(model, X, compute_dtype=dtype)
        del model
    del params
    gc.collect()
    assert not [leaf for leaf in alive if leaf() is not None]


def test_what_is_kept_of_a_training_holds_no_array_of_a_layer() -> None:
    leak = jnp.full(4, 0.5)
    alive, model = weakref.ref(leak), rj.Stack([rj.RNN(rj.LeakyElman(4, leak=leak)), rj.Last(), rj.Dense(3)])
    fit(model, (X, Y), **OPTIONS)
    del leak, model
    gc.collect()
    assert alive() is None


class Level:
    """A measure of the user's own that may change."""

    value = 1.0

    def __call__(self, outputs: Any, targets: Any, mask: Any = None) -> Any:
        return 0 * outputs.sum() + self.value


def test_training_sees_a_loss_that_has_changed() -> None:
    level = Level()
    for value in (1.0, 2.0):
        level.value = value
        assert fit((PARAMS, LAYER), (X, Y), loss=level, **OPTIONS).history["loss"] == pytest.approx([value])


def test_evaluation_sees_a_metric_that_has_changed() -> None:
    level = Level()
    for value in (1.0, 2.0):
        level.value = value
        assert training.evaluate((PARAMS, LAYER), (X, Y), metrics=[("level", level)])["level"] == pytest.approx(value)


def test_validation_split_is_the_end_of_the_arrays() -> None:
    fitted = fit((PARAMS, LAYER), (X, Y), metrics=["accuracy"], validation_split=0.3, epochs=2, **OPTIONS)
    expected = training.evaluate(fitted, (X[7:], Y[7:]), metrics=["accuracy"])
    assert sorted(fitted.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert fitted.history["val_loss"][-1] == pytest.approx(expected["loss"])
    assert fitted.history["val_accuracy"][-1] == pytest.approx(expected["accuracy"])
    alone = fit((PARAMS, LAYER), (X[:7], Y[:7]), epochs=2, **OPTIONS)
    assert_close(fitted.params, alone.params, 1e-7)


def test_own_losses_get_no_mask_where_all_counts() -> None:
    """Batches of an iterable that are all equal: ones (B,) would not fit the (B, T) of a loss of one's own."""
    seen: list[Any] = []

    def own(outputs: Any, targets: Any, mask: Any = None) -> Any:
        seen.append(mask)
        return ((outputs[:, :4] - targets[:, None]) ** 2).mean()

    layer = rj.Stack([rj.RNN(rj.Elman(2)), rj.Dense(K)])
    data = [(X[i : i + 4], np.eye(K, dtype=np.float32)[Y[i : i + 4]]) for i in (0, 4)]
    fit(layer, data, loss=own, validation=data, **OPTIONS)
    assert seen
    assert all(mask is None for mask in seen)


def test_evaluation_does_not_depend_on_the_batches() -> None:
    logits = np.asarray(logits_of(PARAMS, X, LENGTHS), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = {"loss": -log_p[np.arange(N), Y].mean(), "accuracy": (logits.argmax(-1) == Y).mean()}
    whole = (X, Y, LENGTHS)
    parts = [(X[i : i + 3], Y[i : i + 3], LENGTHS[i : i + 3]) for i in range(0, N, 3)]
    for data, batch_size in ((whole, 128), (whole, 3), (parts, 1)):
        got = training.evaluate((PARAMS, LAYER), data, metrics=["accuracy"], batch_size=batch_size)
        assert got == pytest.approx(expected, rel=1e-5)


def test_patience_and_best_parameters() -> None:
    """A rate so high that the loss rises: training stops, and the parameters of the best epoch come back."""
    states = []
    options = OPTIONS | {"optimizer": optax.sgd(20.0), "epochs": 9, "validation": (X, Y)}
    keep = lambda event: states.append(jax.tree.map(np.array, event.state.params)) and None  # noqa: E731
    fitted = fit((PARAMS, LAYER), (X, Y), patience=2, restore_best=True, callbacks=[keep], **options)
    losses = fitted.history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 9
    assert_close(fitted.params, states[best], 0)


def test_small_improvements_are_none() -> None:
    """Of a loss that falls in every epoch, and of an accuracy that rises."""
    options = OPTIONS | {"epochs": 6, "validation": (X, Y), "metrics": ["accuracy"]}
    losses = fit((PARAMS, LAYER), (X, Y), **options).history["val_loss"]
    assert all(b < a for a, b in itertools.pairwise(losses))
    delta = losses[0] - losses[2]
    stopped = fit((PARAMS, LAYER), (X, Y), patience=2, min_delta=1.01 * delta, restore_best=True, **options)
    assert stopped.history["val_loss"] == pytest.approx(losses[:3])
    assert_close(stopped.params, fit((PARAMS, LAYER), (X, Y), **options | {"epochs": 1}).params, 1e-6)
    went_on = fit((PARAMS, LAYER), (X, Y), patience=2, min_delta=0.99 * delta, **options)
    assert len(went_on.history["val_loss"]) > 3
    rising = fit((PARAMS, LAYER), (X, Y), patience=1, min_delta=1.0, monitor="val_accuracy", **options)
    assert len(rising.history["val_loss"]) == 2


def test_metric_that_should_rise_is_monitored_upwards() -> None:
    fitted = fit((PARAMS, LAYER), (X, Y), metrics=["accuracy"], monitor="accuracy", patience=1, epochs=30, **OPTIONS)
    accuracy = fitted.history["accuracy"]
    assert len(accuracy) < 30
    assert accuracy[-1] <= max(accuracy[:-1])
    assert all(b > a for a, b in itertools.pairwise(accuracy[:-1]))


def test_direction_of_an_own_metric() -> None:
    """Its name says nothing: the loss of a model that learns, called accuracy, must fall."""
    own = ("accuracy", lambda outputs, targets, mask=None: training.cross_entropy(outputs, targets, mask=mask))
    options = OPTIONS | {"metrics": [own], "monitor": "accuracy", "restore_best": True, "epochs": 4}
    with pytest.raises(ValueError, match="`monitor` is 'accuracy', a function of your own: pass `mode=\"max\"` if"):
        fit((PARAMS, LAYER), (X, Y), **options)
    lowest, highest = (fit((PARAMS, LAYER), (X, Y), mode=mode, **options) for mode in ("min", "max"))
    assert lowest.history == highest.history
    curve = lowest.history["accuracy"]
    assert np.argmin(curve) == 3
    assert np.argmax(curve) == 0
    assert_close(lowest.params, fit((PARAMS, LAYER), (X, Y), epochs=4, **OPTIONS).params, 1e-6)
    assert_close(highest.params, fit((PARAMS, LAYER), (X, Y), epochs=1, **OPTIONS).params, 1e-6)


@pytest.mark.parametrize("true", [True, np.True_, jnp.array(True)])
def test_any_true_ends_the_training(true: Any) -> None:
    fitted = fit((PARAMS, LAYER), (X, Y), epochs=3, callbacks=lambda event: true, **OPTIONS)
    assert len(fitted.history["loss"]) == 1


def test_what_else_a_callback_returns_is_not_an_answer() -> None:
    """As of `callbacks=[lambda event: losses.append(…) or event.step]`."""
    assert len(fit((PARAMS, LAYER), (X, Y), epochs=2, callbacks=lambda event: 1, **OPTIONS).history["loss"]) == 2


def test_callback_stops_and_logs_are_written(tmp_path: Path) -> None:
    events = []

    def stop(event: Any) -> bool:
        events.append(event)
        return event.epoch == 1

    loggers = [training.csv_logger(tmp_path / "a" / "log.csv"), training.jsonl_logger(tmp_path / "log.jsonl")]
    fitted = fit((PARAMS, LAYER), (X, Y), epochs=5, callbacks=[stop], log=loggers, **OPTIONS)
    assert [event.step for event in events] == [3, 6]
    with (tmp_path / "a" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == fitted.history["loss"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    loggers[1](7, {"loss": float("nan")})
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["loss"] is None
    with pytest.raises(ValueError, match="has the columns step, loss; other came later"):
        loggers[0](9, {"loss": 1.0, "other": 2.0})


def scalars(directory: Path) -> list[tuple[int, str, float]]:
    """The points of the events that are whole by now: length (8), its checksum (4), event, its checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    points = []
    for file in directory.iterdir():
        content = file.read_bytes()
        while len(content) >= 16 and len(content) >= 16 + (size := int.from_bytes(content[:8], "little")):
            event = content[12 : 12 + size]
            assert masked_crc32c(event) == int.from_bytes(content[12 + size : 16 + size], "little")
            found = Event.FromString(event)
            points += [(found.step, value.tag, value.simple_value) for value in found.summary.value]
            content = content[16 + size :]
    return points


@pytest.mark.filterwarnings("ignore:::google.protobuf", "ignore:::tensorboardX")
@pytest.mark.slow
def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    log = training.tensorboard_logger(tmp_path / "run")
    log(3, {"loss": 0.5, "accuracy": 0.25})
    log(6, {"loss": 0.125})
    deadline = time.monotonic() + 60
    while len(points := scalars(tmp_path / "run")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)  # a thread writes them
    assert points == [(3, "loss", 0.5), (3, "accuracy", 0.25), (6, "loss", 0.125)]


class Inputs:
    """Batches of inputs alone, which begin anew for every `iter`, as those of a loader."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return (X[i : i + B] for i in range(0, N, B))


PREDICTED: dict[str, Callable[[], Any]] = {
    "generator": lambda: (X[i : i + B] for i in range(0, N, B)),
    "loader": Inputs,
    "list": lambda: list(Inputs()),
    "function": lambda: lambda: iter(Inputs()),
    "tuples of one": lambda: [(x,) for x in Inputs()],
    "lists of one": lambda: [[x] for x in Inputs()],
    "with targets": STREAMS["list"],
    "batches": lambda: [training.Batch(x, None) for x in Inputs()],
    "one without a row": lambda: [X[:0], *Inputs(), X[:0]],
}


@pytest.mark.parametrize("kind", PREDICTED)
def test_prediction_reads_iterables(kind: str) -> None:
    outputs = training.predict((PARAMS, LAYER), PREDICTED[kind]())
    np.testing.assert_allclose(outputs, logits_of(PARAMS, X), atol=1e-6)


def test_prediction_reads_lengths_and_several_inputs_of_an_iterable() -> None:
    wanted = logits_of(PARAMS, X, LENGTHS)
    batches = [(X[i : i + B], None, LENGTHS[i : i + B]) for i in range(0, N, B)]
    np.testing.assert_allclose(training.predict((PARAMS, LAYER), batches), wanted, atol=1e-6)
    count = 0

    def apply(params: Any, inputs: Any) -> Any:
        nonlocal count
        count += 1
        return logits_of(params, inputs["x"], inputs["lengths"])

    several = [{"x": X[i : i + B], "lengths": LENGTHS[i : i + B]} for i in range(0, N, B)]
    np.testing.assert_allclose(training.predict((PARAMS, apply), several), wanted, atol=1e-6)
    assert count == 1  # the last batch, of two rows, is filled up

    def added(params: Any, inputs: Any) -> Any:
        return params * (inputs[0] + inputs[1])

    outputs = training.predict((jnp.float32(2.0), added), [((X[:3], X[3:6]),), ((X[3:5], X[:2]),)])
    np.testing.assert_allclose(outputs, 2 * np.concatenate([X[:3] + X[3:6], X[3:5] + X[:2]]), rtol=1e-6)


ONE = rj.Stack([rj.RNN(rj.GRU(H)), rj.Last(), rj.Dense(1)])


def yes_or_no(**options: Any) -> tuple[Any, float, float]:
    """A model of one logit that was trained, and its loss and share of hits."""
    targets = Y[:, None].astype(np.float32)
    fitted = fit(ONE, (X, targets), loss="binary_cross_entropy", metrics=["binary_accuracy"], **OPTIONS | options)
    logits = np.asarray(ONE(fitted.params, X.swapaxes(0, 1))[0], np.float64)
    nats = np.log1p(np.exp(np.where(targets > 0, -logits, logits))).mean()
    return fitted, nats, ((logits > 0) == targets).mean()


def test_evaluation_takes_what_was_trained_with() -> None:
    fitted, nats, hits = yes_or_no()
    data = (X, Y[:, None].astype(np.float32))
    wanted = {"loss": pytest.approx(nats, rel=1e-5), "binary_accuracy": pytest.approx(hits)}
    for known in (fitted, pickle.loads(pickle.dumps(fitted)), copy.copy(fitted), fitted._replace(history={})):
        assert training.evaluate(known, data) == wanted
    assert training.evaluate(fitted, data, metrics=[]) == {"loss": wanted["loss"]}
    squares = training.evaluate(fitted, data, loss="mean_squared_error", metrics=())["loss"]
    logits = np.asarray(ONE(fitted.params, X.swapaxes(0, 1))[0], np.float64)
    assert squares == pytest.approx(((logits - data[1]) ** 2).mean(), rel=1e-5)
    with pytest.raises(ValueError, match=r"are of a single class, .* take `binary_cross_entropy`"):
        training.evaluate(fitted.model, data)


def test_what_was_fitted_is_a_tuple_of_four_and_a_tree_of_arrays() -> None:
    own = lambda outputs, targets, mask=None: training.cross_entropy(outputs, targets, mask=mask)  # noqa: E731
    fitted = fit((PARAMS, LAYER), (X, Y), loss=own, **OPTIONS)
    model, params, history, state = fitted
    assert (fitted.model, fitted.params, fitted.history, fitted.state) == (model, params, history, state)
    assert all(np.issubdtype(jnp.result_type(leaf), np.number) for leaf in jax.tree.leaves(fitted._replace(state=())))
    doubled = jax.tree.map(lambda leaf: leaf, fitted)
    assert type(doubled) is training.Fitted
    assert doubled.history == history
    assert copy.copy(fitted).loss is copy.deepcopy(fitted).loss is fitted.loss is own
    with pytest.raises(ValueError, match="comes from a pickle, without its loss"):  # a lambda cannot be pickled
        training.evaluate(pickle.loads(pickle.dumps(fitted)), (X, Y))


def test_a_training_goes_on_with_its_own_optimizer() -> None:
    """Whose state would fit that of another learning rate as well."""
    own = {name: value for name, value in OPTIONS.items() if name != "optimizer"}
    first, recipe = fit((PARAMS, LAYER), (X, Y), **OPTIONS), training.optimizer(0.3, clip_norm=1.0)
    wanted, _ = written_out(2)
    for known in (first, copy.deepcopy(first), first._replace(history={})):
        assert_close(fit(known, (X, Y), **own).params, wanted)
    stored = pickle.loads(pickle.dumps(first))
    with pytest.raises(
        ValueError, match=r"this `Fitted` has no optimizer, .* pass the `optimizer` that it was trained"
    ):
        fit(stored, (X, Y), **own)
    assert_close(fit(stored, (X, Y), **OPTIONS).params, wanted)
    other = fit((PARAMS, LAYER), (X, Y), **OPTIONS | {"optimizer": recipe})
    assert fit(other, (X, Y), **own).optimizer is recipe


def test_a_training_by_default_goes_on_from_a_pickle() -> None:
    """With its moments and the default optimizer, as one that was not interrupted."""
    own = {name: value for name, value in OPTIONS.items() if name != "optimizer"}
    stored = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(fit((PARAMS, LAYER), (X, Y), **own)))))
    again, whole = fit(stored, (X, Y), **own), fit((PARAMS, LAYER), (X, Y), epochs=2, **own)
    assert_close(again.params, whole.params)
    assert int(again.state.step) == int(whole.state.step)


def test_a_training_goes_on_with_its_own_loss() -> None:
    data = (X, Y[:, None].astype(np.float32))
    options = OPTIONS | {"loss": "binary_cross_entropy"}
    first = fit(ONE, data, metrics=["binary_accuracy"], **options)
    again, wanted = fit(first, data, **OPTIONS), fit(first, data, metrics=["binary_accuracy"], **options)
    assert again.history == wanted.history
    assert set(again.history) == {"loss", "binary_accuracy"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("restores", [False, True])
def test_an_error_leaves_a_module_with_what_it_has_learnt(error: type[BaseException], restores: bool) -> None:
    """After two epochs; or that of the first, where it was the best."""

    def end(event: Any) -> None:
        if event.epoch == 1:
            raise error

    worse = ("worse", lambda outputs, targets, mask=None: training.cross_entropy(outputs, targets, mask=mask))
    options = OPTIONS | {"metrics": [worse], "monitor": "worse", "mode": "max", "restore_best": restores}
    model = nnx_model()
    with pytest.raises(error):
        fit(model, (X, Y), epochs=5, callbacks=end, **options)
    wanted, _ = written_out(1 if restores else 2)
    np.testing.assert_allclose(training.predict(model, X), logits_of(wanted, X), atol=1e-5)


@pytest.mark.parametrize("data", [(X, Y), STREAMS["list"]()], ids=["arrays", "iterable"])
def test_ctrl_c_within_a_loop_leaves_a_module_with_what_it_has_learnt(
    data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the sixth update is under way, which has taken the memory of the state before: the last of two epochs."""
    calls, kept = itertools.count(1), _runs.Recipe.kept

    def interrupted(*args: Any) -> Any:
        programs = kept(*args)

        def run(*args: Any) -> Any:
            found = programs.run(*args)
            if next(calls) == 6:
                signal.raise_signal(signal.SIGINT)
            return found

        return programs._replace(run=run)

    monkeypatch.setattr(_runs, "LONGEST_BLOCK", 1)
    monkeypatch.setattr(_runs.Recipe, "kept", interrupted)
    model, before = nnx_model(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(model, data, epochs=5, **OPTIONS)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    wanted, _ = written_out(2)
    np.testing.assert_allclose(training.predict(model, X), logits_of(wanted, X), atol=1e-5)


def test_a_step_that_fails_leaves_a_module_as_it_was() -> None:
    """It has taken the memory of the state, and has none to give."""

    def fail(at: Any) -> None:
        if at > 0:
            raise RuntimeError("own")

    class Failing(nnx.Module):
        def __init__(self) -> None:
            self.out = nnx.Linear(I, K, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            outputs = self.out(x[:, 0])
            jax.debug.callback(fail, (x[:, 0, 0] > 99).sum())
            return outputs

    model, spoilt = Failing(), np.where(np.arange(N)[:, None, None] == 5, 100, X).astype(np.float32)
    before = np.array(model.out.kernel[...])
    with pytest.raises(Exception, match="own"):
        fit(model, (spoilt, Y), **OPTIONS)
    np.testing.assert_array_equal(model.out.kernel[...], before)


@pytest.mark.slow
@pytest.mark.parametrize("data", [(X, Y), STREAMS["list"]()], ids=["arrays", "iterable"])
def test_python_goes_no_further_ahead_than_one_loop(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of loops of one slow batch each: before one is begun, at most one is left."""
    begun: list[Any] = []
    left: list[int] = []
    kept = _runs.Recipe.kept

    def apply(params: Any, x: Any) -> Any:
        slow = jax.lax.fori_loop(0, 3000, lambda _, a: jnp.tanh(a @ a), jnp.full((64, 64), x[0, 0, 0]))
        return x.mean(1) @ params + 0 * slow[0, 0]

    def counted(*args: Any) -> Any:
        programs = kept(*args)

        def run(*args: Any) -> Any:
            left.append(sum(not totals[0].count.is_ready() for totals in begun))
            found = programs.run(*args)
            begun.append(found[1])
            return found

        return programs._replace(run=run)

    monkeypatch.setattr(_runs, "LONGEST_BLOCK", 1)
    monkeypatch.setattr(_runs.Recipe, "kept", counted)
    fit((np.eye(I, K, dtype=np.float32), apply), data, **OPTIONS | {"batch_size": 2})
    assert max(left) == 1


@pytest.mark.slow
def test_the_bar_moves_with_the_loops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parts, part = [], _progress.Bar.part
    monkeypatch.setattr(_progress.Bar, "part", lambda *own: (parts.append(own[1:]), part(*own)))
    monkeypatch.setattr(_runs, "LONGEST_BLOCK", 1)
    model = np.eye(I, K), jax.jit(lambda params, x: x.mean(1) @ params)
    options = {"optimizer": optax.sgd(0.1), "batch_size": B, "epochs": 2}
    fitted = fit(model, (X, Y), **options)
    assert parts == [(epoch, count / 3) for epoch in (0, 1) for count in (1, 2, 3)]
    lines = capsys.readouterr().err.replace("\n", "\r").rstrip("\r").split("\r")
    assert lines[-1].startswith("100%|")
    assert "| 2/2 epochs [" in lines[-1]
    assert f"loss={fitted.history['loss'][-1]:.4g}]" in lines[-1]
    fit(model, (X, Y), progress=False, **options)
    assert capsys.readouterr() == ("", "")


def test_a_second_ctrl_c_does_not_wait_for_the_loop() -> None:
    before, ended = signal.signal(signal.SIGINT, signal.default_int_handler), []

    def told(times: int) -> None:
        with _runs.Unbroken():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            ended.append(times)

    try:
        for times in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                told(times)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [1]


def test_models_are_given_arrays_of_jax() -> None:
    def apply(params: Any, x: Any) -> Any:
        x = x.at[:, 0].add(1.0)
        return jax.lax.map(lambda t: x[:, t], jnp.arange(T)).sum(0) * params

    got = training.evaluate((jnp.float32(1.0), apply), (X, Y))["loss"]
    logits = X.sum(1, dtype=np.float64) + 1
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert got == pytest.approx(-np.take_along_axis(log_p, Y[:, None], 1).mean(), rel=1e-5)


def test_a_batch_without_weight_is_no_step() -> None:
    """Neither Adam's moments nor decay nor a schedule go on."""
    recipe = training.skip_if_nonfinite(optax.adamw(optax.linear_schedule(0.1, 0.0, 4), weight_decay=0.1))
    one, other = ((X[:B], Y[:B], None, np.full(B, own, np.float32)) for own in (1.0, 0.0))
    options = OPTIONS | {"optimizer": recipe}
    whole, short = fit((PARAMS, LAYER), [one, other, one], **options), fit((PARAMS, LAYER), [one, one], **options)
    assert_close((whole.params, whole.state.optimizer), (short.params, short.state.optimizer), 1e-7)
    assert sorted(whole.history) == ["loss"]
    assert whole.history["loss"] == pytest.approx(short.history["loss"], rel=1e-6)


def test_a_batch_has_no_more_rows_than_there_are() -> None:
    """Ten rows in a batch of at most 64, or in four parts of three: but for the two there are no fillers."""
    seen: set[int] = set()

    def apply(params: Any, x: Any) -> Any:
        seen.add(len(x))
        return logits_of(params, x)

    def own(outputs: Any, targets: Any) -> Any:  # takes no `mask`
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()

    whole = fit((PARAMS, apply), (X, Y), loss=own, epochs=2, **OPTIONS | {"batch_size": 64})
    assert seen == {N}
    parts = fit((PARAMS, apply), (X, Y), epochs=2, accumulate=4, **OPTIONS | {"batch_size": 64})
    assert seen == {N, 3}
    assert_close(parts.params, whole.params)


def test_rows_that_no_alignment_fits_are_no_steps() -> None:
    """1 1 1 needs five steps. An epoch of nothing is NaN, still says how many rows were left out, and is never best."""
    layer = rj.Stack([rj.RNN(rj.Elman(2)), rj.Dense(K)])
    params, data = layer.init(jax.random.key(0), I), (X[:, :4], np.ones((N, 3), int))
    options = OPTIONS | {"optimizer": optax.adamw(0.1), "batch_size": N, "epochs": 3, "patience": 1}
    fitted = fit((params, layer), data, loss="ctc", validation=data, **options)
    assert fitted.history["loss_impossible"] == fitted.history["val_loss_impossible"] == [N]
    assert np.isnan(fitted.history["loss"] + fitted.history["val_loss"]).all()
    assert_close(fitted.params, params, 0)


def test_nonfinite_batch_is_skipped_and_counted() -> None:
    spoilt = X.copy()
    spoilt[5] = np.nan
    recipe = training.optimizer(0.05, clip_norm=1.0)
    fitted = fit((PARAMS, LAYER), (spoilt, Y), epochs=2, **(OPTIONS | {"optimizer": recipe}))
    assert fitted.history["skipped_steps"] == [1, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted.params))
    # of the rows that were trained on
    rest = np.r_[0:4, 8:10]
    alone = training.evaluate((PARAMS, LAYER), (X[rest], Y[rest]))["loss"]
    first = fit((PARAMS, LAYER), (spoilt, Y), **(OPTIONS | {"optimizer": training.optimizer(1e-9)})).history["loss"]
    np.testing.assert_allclose(first, alone, rtol=1e-5)


@pytest.mark.slow
def test_an_epoch_of_steps_that_are_left_out_is_told_once() -> None:
    model = np.eye(I, K), lambda params, x: x.mean(1) @ params
    options = OPTIONS | {"optimizer": training.skip_if_nonfinite(optax.sgd(0.1)), "epochs": 3}
    with pytest.warns(UserWarning, match="every step of epoch 0 was left out, as `skipped_steps` counts") as told:
        nothing = fit(model, (np.full_like(X, np.nan), Y), **options)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert nothing.history["skipped_steps"] == [3, 6, 9]
    assert np.isnan(nothing.history["loss"]).all()


@pytest.mark.slow
def test_an_epoch_is_left_out_where_every_group_is() -> None:
    """The root of a is at 0, of slope 0 · ∞; b learns, but in the second of three epochs."""

    def apply(params: Any, x: Any) -> Any:
        return x.mean(1) @ params["b"] + jnp.sqrt(0 * params["a"])

    groups = {name: training.skip_if_nonfinite(optax.sgd(0.1)) for name in "ab"}
    options = OPTIONS | {"optimizer": optax.partition(groups, {"a": "a", "b": "b"}), "batch_size": N, "epochs": 3}
    model = {"a": np.ones((), np.float32), "b": np.eye(I, K, dtype=np.float32)}, apply
    with pytest.warns(UserWarning, match="every step of epoch 1 was left out") as told:
        fitted = fit(model, lambda epoch: [(X * (np.nan if epoch == 1 else 1), Y)], **options)
    assert len(told) == 1
    assert fitted.history["skipped_steps"] == [1, 3, 4]


@pytest.mark.slow
def test_sums_of_gradients_with_a_guard_around_them() -> None:
    recipe = optax.MultiSteps(training.optimizer(0.1, skip_nonfinite=False), 2)
    spoilt = np.where(np.arange(N)[:, None, None] == 5, np.nan, X)  # the second of three batches
    options = OPTIONS | {"optimizer": training.skip_if_nonfinite(recipe)}
    fitted = fit((PARAMS, LAYER), (spoilt, Y), **options)
    assert fitted.history["skipped_steps"] == [1]
    rest = np.r_[:B, 2 * B : N]
    assert_close(fitted.params, fit((PARAMS, LAYER), (X[rest], Y[rest]), **options).params)


def test_rows_left_out_by_their_weight_may_be_nan() -> None:
    spoilt, weights = X.copy(), np.ones(N, np.float32)
    spoilt[0], weights[0] = np.nan, 0
    recipe = training.optimizer(1e-9)
    fitted = fit((PARAMS, LAYER), (spoilt, Y, None, weights), **(OPTIONS | {"optimizer": recipe}))
    assert "skipped_steps" not in fitted.history
    alone = training.evaluate((PARAMS, LAYER), (X[1:], Y[1:]))["loss"]
    np.testing.assert_allclose(fitted.history["loss"], alone, rtol=1e-5)


def test_a_filler_of_a_spoilt_row_is_no_second_spoilt_step() -> None:
    spoilt = X.copy()
    spoilt[0] = np.nan  # fills the last of three batches up
    fitted = fit((PARAMS, LAYER), (spoilt, Y), **(OPTIONS | {"optimizer": training.optimizer(0.05)}))
    assert fitted.history["skipped_steps"] == [1]


def test_lengths_reach_outputs_of_a_number_a_step() -> None:
    body = rj.Stack([rj.RNN(rj.GRU(H)), rj.Dense(1)])
    params = body.init(jax.random.key(0), I)

    def apply(params: Any, x: Any, lengths: Any) -> Any:
        return body(params, x.swapaxes(0, 1), lengths=lengths)[0][..., 0].T  # (B, T)

    def own(outputs: Any, targets: Any, *, mask: Any = None, lengths: Any = None) -> Any:
        return training.mean_squared_error(
            outputs[..., None], targets[..., None], lengths=lengths, mask=mask, time_major=False
        )

    targets = np.ones((N, T), np.float32)
    outputs = np.asarray(apply(params, jnp.asarray(X), jnp.asarray(LENGTHS)))
    inside = np.arange(T) < np.asarray(LENGTHS)[:, None]
    found = training.evaluate((params, apply), (X, targets, LENGTHS), loss=own)["loss"]
    np.testing.assert_allclose(found, ((outputs - 1) ** 2)[inside].mean(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"may be a number for each step, .* pass them as \(B, T, 1\)"):
        training.evaluate((params, apply), (X, targets, LENGTHS), loss="mean_squared_error")


def test_skipped_steps_have_a_column_from_the_first_epoch(tmp_path: Path) -> None:
    """The second epoch's batches are spoilt; a table cannot get a column then."""
    spoilt = np.where(np.arange(N)[:, None, None] == 5, np.nan, X)
    options = OPTIONS | {"optimizer": training.optimizer(0.05)}
    log = training.csv_logger(tmp_path / "log.csv")
    fitted = fit((PARAMS, LAYER), lambda epoch: [(spoilt if epoch else X, Y), (X, Y)], epochs=2, log=log, **options)
    assert fitted.history["skipped_steps"] == [0, 1]
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["skipped_steps"] for row in csv.DictReader(file)] == ["0", "1"]


def test_step_that_is_left_out_leaves_the_statistics_alone() -> None:
    class Normal(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            return nn.Dense(K)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x[:, -1]))

    spoilt = X.copy()
    spoilt[5] = np.nan
    variables = Normal().init(jax.random.key(0), X, False)
    options = OPTIONS | {"optimizer": training.optimizer(0.05), "validation": (X, Y)}
    fitted = fit((variables, Normal()), (spoilt, Y), **options)
    assert fitted.history["skipped_steps"] == [1]
    assert np.isfinite(fitted.history["val_loss"]).all()
    first, last = X[:4, -1].mean(0), X[[8, 9, 0, 0], -1].mean(0)  # the last batch is filled up with the first row
    mean = fitted.model[0]["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.25 * first + 0.5 * last, rtol=1e-5)


def test_noise_follows_the_seed() -> None:
    def trained(rate: float, seed: int) -> Any:
        layer = rj.Stack([rj.RNN(rj.GRU(H)), rj.Dropout(rate), rj.Last(), rj.Dense(K)])
        return fit((layer.init(jax.random.key(0), I), layer), (X, Y), seed=seed, **OPTIONS).params

    first, again, other = (trained(0.5, seed) for seed in (0, 0, 1))
    assert_close(first, again, 0)
    assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True))
    assert_close(trained(0.0, 0), trained(0.0, 1), 0)


def test_parameters_of_the_user_survive() -> None:
    """The compiled loop reuses the memory of its arguments, but not that of the user's arrays."""
    copies = jax.tree.map(np.array, PARAMS)
    fit((PARAMS, LAYER), (X, Y), **OPTIONS)
    assert_close(PARAMS, copies, 0)


def test_own_loss_is_a_scalar_or_a_mean() -> None:
    def scalar(outputs: Any, targets: Any, mask: Any = None) -> Any:
        weights = jnp.ones(len(targets)) if mask is None else mask
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return (weights * losses).sum() / weights.sum()

    wanted, losses = written_out(2)
    fitted = fit((PARAMS, LAYER), (X, Y), loss=scalar, metrics=[("own", scalar)], epochs=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(fitted.history["own"], losses, rtol=1e-5)


def test_own_mean_over_no_row_is_not_nan() -> None:
    """The last batch has two rows, so that its second part is all filler, over which the own loss is 0 / 0."""

    def scalar(outputs: Any, targets: Any, mask: Any) -> Any:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return (mask * losses).sum() / mask.sum()

    wanted, losses = written_out(2)
    fitted = fit((PARAMS, LAYER), (X, Y), loss=scalar, epochs=2, accumulate=2, **OPTIONS)
    assert_close(fitted.params, wanted)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)


def test_options_reach_a_function_that_takes_others_too() -> None:
    seen: dict[str, list[Any]] = {"train": [], "key": []}

    def apply(params: Any, x: Any, train: Any = None, key: Any = None, **others: Any) -> Any:
        seen["train"].append(train)
        seen["key"].append(key is not None)
        assert set(others) == {"lengths"}
        return logits_of(params, x, **others)

    fit((PARAMS, apply), (X, Y, LENGTHS), **OPTIONS)
    assert set(seen["train"]) == {True, False}  # the check of the labels does not train
    assert seen["key"] == seen["train"]


@pytest.mark.slow
def test_weights_of_steps() -> None:
    """As many rows of a batch as steps, so that weights of rows could pass for weights of steps."""
    layer = rj.Stack([rj.RNN(rj.GRU(H)), rj.Dense(K)])
    params, labels = layer.init(jax.random.key(0), I), (np.cumsum(X.sum(-1), 1) > 0).astype(np.int32)
    weights = RNG.uniform(size=(N, T)).astype(np.float32)

    def loss(params: Any, rows: Any) -> Any:
        logits = layer(params, jnp.swapaxes(X[rows], 0, 1))[0]
        log_p = jax.nn.log_softmax(jnp.swapaxes(logits, 0, 1))
        nats = -jnp.take_along_axis(log_p, labels[rows][..., None], -1)[..., 0]
        return (weights[rows] * nats).sum() / weights[rows].sum()

    wanted = params
    for rows in (slice(0, 5), slice(5, 8)):
        wanted = jax.tree.map(lambda p, g: p - 0.5 * g, wanted, jax.grad(loss)(wanted, rows))
    data = training.Batch(X[:8], labels[:8], None, weights[:8])
    options = OPTIONS | {"optimizer": optax.sgd(0.5), "batch_size": T}
    assert_close(fit((params, layer), data, **options).params, wanted)
    batches = [
        training.Batch(*(leaf if leaf is None else leaf[part] for leaf in data)) for part in (slice(5), slice(5, 8))
    ]
    assert_close(fit((params, layer), batches, **options).params, wanted)


def test_lengths_are_of_the_steps_of_the_inputs() -> None:
    """Outputs (B, 3, K) for three numbers that are asked after the last step: all three count in every row."""
    wide = rj.Stack([rj.RNN(rj.GRU(H)), rj.Last(), rj.Dense(3 * K)])
    params, labels = wide.init(jax.random.key(0), I), RNG.integers(0, K, (N, 3))

    def apply(params: Any, x: Any, lengths: Any) -> Any:
        return wide(params, jnp.swapaxes(x, 0, 1), lengths=lengths)[0].reshape(-1, 3, K)

    logits = np.asarray(apply(params, X, LENGTHS), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, labels[..., None], -1).mean()
    assert training.evaluate((params, apply), (X, labels, LENGTHS))["loss"] == pytest.approx(expected, rel=1e-5)


S = 3


def answers(params: Any, inputs: Any, lengths: Any) -> Any:
    """Logits (B, S, K) of a decoder, which depend on the target so far alone."""
    return params[inputs["target"]]


@pytest.mark.parametrize("steps", [T, S], ids=["other steps", "as many steps"])
@pytest.mark.parametrize(
    "source", [RNG.integers(0, 7, (N, T)), X], ids=["of as many axes as the target", "with features"]
)
def test_lengths_of_a_source_do_not_cut_the_outputs(source: Any, steps: int) -> None:
    source, lengths = source[:, :steps], np.minimum(LENGTHS, steps)
    table, target = RNG.normal(size=(4, K)).astype(np.float32), RNG.integers(0, 4, (N, S))
    labels, weights = RNG.integers(0, K, (N, S)), np.arange(S) < RNG.integers(1, S + 1, N)[:, None]
    log_p = np.asarray(jax.nn.log_softmax(table))[target]
    nats = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    inputs = {"source": source, "target": target}
    data = training.Batch(inputs, labels, lengths, weights.astype(np.float32))
    got = training.evaluate((table, answers), data, metrics=["accuracy"])
    assert got["loss"] == pytest.approx(nats[weights].mean(), rel=1e-5)
    assert got["accuracy"] == pytest.approx((log_p.argmax(-1) == labels)[weights].mean(), rel=1e-5)
    for unsaid in (data._replace(weights=None), data._replace(weights=np.ones(N))):
        with pytest.raises(ValueError, match=r"of the 3 steps of the outputs: say which .* by `weights` \(B, 3\)"):
            training.evaluate((table, answers), unsaid)

    def own(outputs: Any, targets: Any, mask: Any, lengths: Any) -> Any:
        return lengths.sum().astype(outputs.dtype)

    assert training.evaluate((table, answers), data, loss=own)["loss"] == lengths.sum()


class Logits(NamedTuple):
    h: jax.Array


@rj.struct
class Both(rj.Cell):
    """Logits a w + b v of inputs {"a": a, "b": b}, (T, B, I) each."""

    hidden_size: int = K

    def init(self, key: Any, in_size: int, dtype: Any = jnp.float32) -> Any:
        return jnp.ones((2, in_size, K), dtype)

    def initial_state(self, params: Any, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Logits:
        return Logits(jnp.zeros((*batch_shape, K), dtype))

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return x["a"] @ params[0] + x["b"] @ params[1]

    def step(self, params: Any, state: Logits, z: Any, noise: Any = None) -> Logits:
        return Logits(z)


def test_inputs_of_a_layer_share_their_steps() -> None:
    """Those of a function may not."""
    params, labels = RNG.normal(size=(2, I, K)).astype(np.float32), RNG.integers(0, K, (N, T))
    data = {"a": X, "b": 2 * X}, labels, LENGTHS
    log_p = np.asarray(jax.nn.log_softmax(X @ params[0] + 2 * X @ params[1]))
    inside = np.arange(T) < LENGTHS[:, None]
    nats = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0][inside].mean()
    assert training.evaluate((params, rj.RNN(Both())), data)["loss"] == pytest.approx(nats, rel=1e-5)
    options = OPTIONS | {"optimizer": optax.sgd(0.0), "batch_size": N}
    assert fit((params, rj.RNN(Both())), data, **options).history["loss"] == pytest.approx([nats], rel=1e-5)

    def alike(params: Any, xs: Any, lengths: Any) -> Any:
        return xs["a"] @ params[0] + xs["b"] @ params[1]

    with pytest.raises(ValueError, match=r"say which of these count by `weights` \(B, 5\)"):
        training.evaluate((params, alike), data)
    weighted = (*data, inside.astype(np.float32))
    assert training.evaluate((params, alike), weighted)["loss"] == pytest.approx(nats, rel=1e-5)


def test_own_measures_of_steps_take_lengths() -> None:
    """Without them they would count padding; a row's answer has none."""
    layer = rj.Stack([rj.RNN(rj.GRU(H)), rj.Dense(K)])
    params, labels = layer.init(jax.random.key(0), I), np.zeros((N, T), np.int32)

    def own(outputs: Any, targets: Any, mask: Any = None) -> Any:
        return outputs.mean()

    for measured in ({"loss": own}, {"metrics": [own]}):
        with pytest.raises(TypeError, match=r"does not take `lengths`, and would count the padding of outputs"):
            training.evaluate((params, layer), (X, labels, LENGTHS), **measured)
    found = training.evaluate((PARAMS, LAYER), (X, Y, LENGTHS), loss=own)["loss"]
    assert found == pytest.approx(np.asarray(logits_of(PARAMS, X, LENGTHS)).mean(), rel=1e-5)


def test_a_metric_over_nothing_is_not_a_number() -> None:
    """Zeros of `one_hot` are no label, so that there is a loss of squares and no accuracy."""
    got = training.evaluate((PARAMS, LAYER), (X, np.zeros((N, K))), loss="mean_squared_error", metrics=["accuracy"])
    assert got["loss"] == pytest.approx((np.asarray(logits_of(PARAMS, X)) ** 2).mean(), rel=1e-5)
    assert np.isnan(got["accuracy"])


@pytest.mark.parametrize("by", ["value", "norm"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}], ids=["whole", "parts"])
def test_a_clipped_gradient_is_that_of_the_mean(by: Any, options: dict[str, Any]) -> None:
    """Written out in NumPy: h_t = h_{t-1} u + x_t w + b, and half the squares of h_T, of rows whose weights differ, so
    that the parts differ in what counts."""
    rng, weights, bound = np.random.default_rng(1), np.array([1, 1, 0.1, 0, 1, 0, 0, 0], np.float32), 0.1
    x, target = rng.normal(size=(8, T, I)).astype(np.float32), rng.normal(size=(8, H)).astype(np.float32)
    layer = rj.Stack([rj.RNN(rj.GradientClip(rj.Elman(H, activation="identity"), bound, by=by)), rj.Last()])
    (cell, last) = layer.init(jax.random.key(2), I)
    w, u, h = np.asarray(cell.w, np.float64), np.asarray(cell.u, np.float64), [np.zeros((8, H))]
    for t in range(T):
        h.append(h[-1] @ u + x[:, t] @ w)
    flow = weights[:, None] / weights.sum() * 2 / H * (h[-1] - target)
    slopes, clipped = np.zeros_like(u), 0
    for t in reversed(range(T)):
        norm = np.linalg.norm(flow, axis=1, keepdims=True)
        bounded = (
            np.clip(flow, -bound, bound) if by == "value" else flow * np.minimum(1, bound / np.maximum(norm, 1e-9))
        )
        clipped += (bounded != flow).any(1).sum()
        slopes, flow = slopes + h[t].T @ bounded, bounded @ u.T
    assert 0 < clipped < 4 * T
    fixed = OPTIONS | {"optimizer": optax.sgd(1.0), "loss": "mean_squared_error", "batch_size": 8}
    fitted = fit(((cell, last), layer), (x, target, None, weights), **fixed, **options)
    np.testing.assert_allclose(np.asarray(cell.u) - fitted.params[0].u, slopes, rtol=1e-4, atol=1e-6)


def test_features_of_a_row_have_no_steps() -> None:
    """Of inputs (B, T, I) and (B, 3), lengths are of the first: they cut (B, T, K), and leave (B, 3) alone."""
    static, labels = RNG.normal(size=(N, 3)).astype(np.float32), RNG.integers(0, K, (N, T))

    def steps(params: Any, inputs: Any, lengths: Any) -> Any:
        x, static = inputs
        return params * x + static[:, None, :I]

    def row(params: Any, inputs: Any, lengths: Any) -> Any:
        return params * inputs[1]

    log_p = np.asarray(jax.nn.log_softmax(X + static[:, None, :I]))
    inside = np.arange(T) < LENGTHS[:, None]
    nats = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0][inside].mean()
    one = jnp.float32(1.0)
    assert training.evaluate((one, steps), ((X, static), labels, LENGTHS))["loss"] == pytest.approx(nats, rel=1e-5)
    found = training.evaluate((one, row), ((X, static), 0 * static, LENGTHS), loss="mean_squared_error")["loss"]
    assert found == pytest.approx((static**2).mean(), rel=1e-5)


def test_batches_are_checked_without_jax() -> None:
    """A computation of JAX would wait for the step that is running, and reading would not overlap with it."""
    x, labels = jax.ShapeDtypeStruct((N, T, K), np.float32), np.zeros((N, T), np.int32)
    batch = training.Batch(X, labels, LENGTHS, np.ones(N, np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_checks._positions, "jnp", None)
        _checks.check_targets(_measure.measures("cross_entropy", ["accuracy"]), x, batch)
        spoilt = batch._replace(targets=np.where(np.arange(T) == 0, K, labels))
        with pytest.raises(ValueError, match="`targets` must lie in 0 … 1"):
            _checks.check_targets(_measure.measures("cross_entropy", []), x, spoilt)


def test_accuracy_against_the_logits_of_a_teacher() -> None:
    teacher = np.asarray(logits_of(jax.tree.map(lambda leaf: 3 * leaf, PARAMS), X))
    got = training.evaluate((PARAMS, LAYER), (X, teacher), loss="mean_squared_error", metrics=["accuracy"])
    agreed = np.asarray(logits_of(PARAMS, X)).argmax(-1) == teacher.argmax(-1)
    assert got["accuracy"] == pytest.approx(agreed.mean())


@pytest.mark.slow
def test_inputs_that_are_a_tuple() -> None:
    cell = rj.Stack([rj.RNN(rj.LTC(H)), rj.Last(), rj.Dense(K)])
    params, dt = cell.init(jax.random.key(0), I), RNG.uniform(0.1, 1, (N, T)).astype(np.float32)
    fitted = fit((params, cell), ((X, dt), Y), **OPTIONS)
    batches = [((X[i : i + B], dt[i : i + B]), Y[i : i + B]) for i in range(0, N, B)]
    assert_close(fitted.params, fit((params, cell), batches, **OPTIONS).params)


@pytest.mark.slow
def test_elapsed_times_of_a_layer() -> None:
    """Batch-major times (B, T) arrive where the layer, time first, takes them."""
    layer = rj.Stack([rj.RNN(rj.CfC(H)), rj.Last(), rj.Dense(K)])
    params, dt = layer.init(jax.random.key(0), I), RNG.uniform(0.1, 3, (N, T)).astype(np.float32)

    def loss(params: Any) -> Any:
        return plain_loss(layer(params, (X.swapaxes(0, 1), dt.T))[0], Y)

    np.testing.assert_allclose(
        training.predict((params, layer), (X, dt), batch_size=B), layer(params, (X.swapaxes(0, 1), dt.T))[0], atol=1e-6
    )
    options = OPTIONS | {"optimizer": optax.sgd(0.5), "batch_size": N}
    wanted = jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, params, jax.grad(loss)(params))
    assert_close(fit((params, layer), ((X, dt), Y), **options).params, wanted)


class Two(NamedTuple):
    a: Any
    b: Any


@rj.struct
class OfTuple(Both):
    """The same of inputs (a, b)."""

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, {"a": x[0], "b": x[1]})


def test_a_cell_of_ones_own_reads_a_tuple() -> None:
    params, inputs = RNG.normal(size=(2, I, K)).astype(np.float32), (X, 2 * X)
    fitted = fit((params, rj.RNN(OfTuple())), (inputs, Y[:, None].repeat(T, 1)), **OPTIONS)
    a, b = np.asarray(fitted.params, np.float64)
    for read in (inputs, Two(*inputs), training.Batch(inputs, None)):
        np.testing.assert_allclose(training.predict(fitted, read), X @ a + 2 * X @ b, atol=1e-5)


def test_inputs_and_targets_that_are_tuples_are_a_batch_by_name() -> None:
    def apply(params: Any, inputs: Any) -> Any:
        return params * inputs[0][:, 0], inputs[1]

    def own(outputs: Any, targets: Any, mask: Any = None) -> Any:
        return ((outputs[0] - targets[0]) ** 2).mean() + ((outputs[1] - targets[1]) ** 2).mean()

    parts = (X, X[:, 1]), (X[:, 2], X[:, 3])
    with pytest.raises(TypeError, match=r"two tuples may be one batch or two: pass `rnnjax\.training\.Batch\("):
        training.evaluate((jnp.float32(1.0), apply), parts, loss=own)
    found = training.evaluate((jnp.float32(1.0), apply), training.Batch(*parts), loss=own)["loss"]
    assert found == pytest.approx(((X[:, 0] - X[:, 2]) ** 2).mean() + ((X[:, 1] - X[:, 3]) ** 2).mean(), rel=1e-5)


def test_labels_for_every_step_with_lengths() -> None:
    layer = rj.Stack([rj.RNN(rj.GRU(H)), rj.Dense(K)])
    params, labels = layer.init(jax.random.key(0), I), np.cumsum(X.sum(-1), 1) > 0
    got = training.evaluate((params, layer), (X, labels.astype(np.int32), LENGTHS), metrics=["accuracy"], batch_size=4)
    ys, _ = layer(params, X.swapaxes(0, 1), lengths=LENGTHS)
    logits = np.asarray(ys, np.float64).swapaxes(0, 1)
    valid = np.arange(T) < LENGTHS[:, None]
    assert got["accuracy"] == pytest.approx(((logits.argmax(-1) == labels)[valid]).mean())
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.where(labels, log_p[..., 1], log_p[..., 0])
    assert got["loss"] == pytest.approx(-picked[valid].mean(), rel=1e-5)


def test_embedding_reads_integers() -> None:
    layer = rj.Stack([rj.Embedding(7, 4), rj.RNN(rj.GRU(H)), rj.Last(), rj.Dense(K)])
    tokens = RNG.integers(0, 7, (N, T)).astype(np.int32)
    fitted = fit(layer, (tokens, Y), epochs=1, **OPTIONS)
    assert training.predict(fitted, tokens).shape == (N, K)


ELAPSED = RNG.normal(size=(2, I, K)).astype(np.float32)[0], rj.RNN(rj.CfC(K))


@pytest.mark.slow
def test_targets_that_may_be_times_are_told_once() -> None:
    layer = rj.RNN(rj.CfC(H))
    model = layer.init(jax.random.key(0), I), layer
    batches = [(X[i : i + 5], jnp.asarray(X[i : i + 5, :, 0])) for i in (0, 5)]
    with pytest.warns(UserWarning, match=r"pass `\(\(x, dt\),\)` for .*, and `rnnjax.training.Batch\(x, y\)`") as told:
        outputs = training.predict(model, batches)
    assert [warning.filename for warning in told] == [__file__]
    wanted, _ = layer(model[0], X.swapaxes(0, 1))
    np.testing.assert_allclose(outputs, wanted.swapaxes(0, 1), atol=1e-6)
    np.testing.assert_array_equal(training.predict(model, [training.Batch(*batch) for batch in batches]), outputs)


class Plain(nn.Module):
    """A linen module that takes no lengths."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(K)(x[:, -1])


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "not a model": (lambda: fit(3, (X, Y), **OPTIONS), TypeError, "`model` must be an nnx.Module, a layer"),
    "rows differ": (lambda: fit(LAYER, (X, Y[:3]), **OPTIONS), ValueError, "same number of rows"),
    "one array": (lambda: fit(LAYER, X, **OPTIONS), TypeError, "a batch must be"),
    "a number": (lambda: fit(LAYER, 3, **OPTIONS), TypeError, "data must be a tuple of arrays"),
    "a dictionary": (
        lambda: fit(LAYER, {"x": X, "y": Y}, **OPTIONS),
        TypeError,
        r"a batch must be \(inputs, targets\); got a dictionary of 'x', 'y': map it to such a tuple first",
    ),
    "batches that are dictionaries": (
        lambda: fit(LAYER, [{"x": X, "y": Y}], **OPTIONS),
        TypeError,
        "got a dictionary of 'x', 'y': map it to such a tuple first",
    ),
    "steps of arrays": (
        lambda: fit(LAYER, (X, Y), steps_per_epoch=2, **OPTIONS),
        ValueError,
        "`steps_per_epoch` needs an iterable: an epoch of arrays is every row once",
    ),
    "no steps": (
        lambda: fit(LAYER, [(X, Y)], steps_per_epoch=0, **OPTIONS),
        ValueError,
        "`steps_per_epoch` must be at least 1",
    ),
    "ragged lists": (
        lambda: fit(LAYER, [([[1.0], [1.0, 2.0]], [0, 1])], **OPTIONS),
        TypeError,
        "got a float: make an array",
    ),
    "no rows": (lambda: fit((PARAMS, LAYER), (X[:0], Y[:0]), **OPTIONS), ValueError, "hold no row"),
    "no batches": (lambda: fit((PARAMS, LAYER), [], **OPTIONS), ValueError, "hold no batch"),
    "unknown loss": (lambda: fit(LAYER, (X, Y), loss="mse", **OPTIONS), ValueError, "`loss` must be a function or one"),
    "a metric as loss": (lambda: fit(LAYER, (X, Y), loss="f1", **OPTIONS), TypeError, "a loss must be a mean"),
    "one metric": (lambda: fit(LAYER, (X, Y), metrics="f1", **OPTIONS), TypeError, "`metrics` must be a sequence"),
    "metrics of one name": (
        lambda: fit(LAYER, (X, Y), metrics=["f1", "f1"], **OPTIONS),
        ValueError,
        "names of metrics must differ",
    ),
    "no epochs": (lambda: fit(LAYER, (X, Y), epochs=0, **OPTIONS), ValueError, "`epochs` must be at least 1"),
    "a seed that is no integer": (
        lambda: fit(LAYER, (X, Y), **OPTIONS | {"seed": 1.5}),
        TypeError,
        "`seed` must be an integer; got 1.5",
    ),
    "a seed that is a truth": (
        lambda: fit(LAYER, (X, Y), **OPTIONS | {"seed": True}),
        TypeError,
        "`seed` must be an integer; got True",
    ),
    "a seed below zero": (
        lambda: fit(LAYER, (X, Y), **OPTIONS | {"seed": -1}),
        ValueError,
        "`seed` must not be negative; got -1",
    ),
    "no time axis": (lambda: fit(LAYER, (X[:, 0], Y), **OPTIONS), ValueError, r"must be \(B, T, I\); got shape"),
    "unknown monitor": (
        lambda: fit((PARAMS, LAYER), (X, Y), monitor="val_loss", patience=1, **OPTIONS),
        ValueError,
        "`monitor` is 'val_loss', and there is no validation",
    ),
    "a monitor that nobody watches": (
        lambda: fit((PARAMS, LAYER), (X, Y), monitor="acuracy", metrics=["accuracy"], **OPTIONS),
        ValueError,
        "`monitor` must be one of loss, accuracy, or of those after \"val_\"; got 'acuracy'",
    ),
    "a monitor of what is counted by the way": (
        lambda: fit((PARAMS, LAYER), (X, Y), monitor="skipped_steps", patience=1, **OPTIONS),
        ValueError,
        "`monitor` must be one of loss, or of those after \"val_\"; got 'skipped_steps'",
    ),
    "mode": (lambda: fit(LAYER, (X, Y), mode="up", **OPTIONS), ValueError, '`mode` must be "min", "max" or None'),
    "a negative improvement": (
        lambda: fit(LAYER, (X, Y), min_delta=-0.1, **OPTIONS),
        ValueError,
        "`min_delta` must be zero or positive; got -0.1",
    ),
    "no number for an improvement": (
        lambda: fit(LAYER, (X, Y), min_delta=None, **OPTIONS),
        TypeError,
        "`min_delta` must be a number; got None",
    ),
    "a file as log": (
        lambda: fit(LAYER, (X, Y), log="run.csv", **OPTIONS),
        TypeError,
        r"`log` must be a function of the step and the values, such as `csv_logger\(\"run.csv\"\)`.*; got 'run.csv'",
    ),
    "a callback that is no function": (
        lambda: fit(LAYER, (X, Y), callbacks=[print, 3], **OPTIONS),
        TypeError,
        r"`callbacks` must be a function of an `Epoch`, or a sequence of them; got \[.*, 3\]",
    ),
    "no callbacks": (
        lambda: fit(LAYER, (X, Y), callbacks=None, **OPTIONS),
        TypeError,
        "`callbacks` must be a function of an `Epoch`, or a sequence of them; got None",
    ),
    "pairs of what can be read once": (
        lambda: fit(LAYER, zip([X], [Y], strict=True), epochs=2, **OPTIONS),
        ValueError,
        "`data` is read in each of the 2 epochs, and a zip can be read once, so pass a function that makes one",
    ),
    "validation that can be read once": (
        lambda: fit(LAYER, (X, Y), epochs=2, validation=(part for part in [(X, Y)]), **OPTIONS),
        ValueError,
        "`validation` is read in each of the 2 epochs, and a generator can be read once",
    ),
    "a number of steps as windows": (
        lambda: fit(LAYER, (X, Y), truncate=50, **OPTIONS),
        TypeError,
        "`truncate` must be made by `tbptt`, such as .*; got 50",
    ),
    "a number of steps as windows, evaluated": (
        lambda: training.evaluate((PARAMS, LAYER), (X, Y), truncate=50),
        TypeError,
        "`truncate` must be made by `tbptt`",
    ),
    "a number of steps as windows, predicted": (
        lambda: training.predict((PARAMS, LAYER), X, truncate=50),
        TypeError,
        "`truncate` must be made by `tbptt`",
    ),
    "weights of steps for outputs of rows": (
        lambda: fit((PARAMS, LAYER), (X, Y, None, np.ones((N, T))), **OPTIONS),
        ValueError,
        r"`mask` must be \(4,\); got \(4, 5\)",
    ),
    "inputs and targets of a prediction": (
        lambda: training.predict((PARAMS, LAYER), (X, Y)),
        TypeError,
        r"a tuple of 2, which it cannot read: pass `x` of \(x, y\), or `rnnjax.training.Batch\(x, y\)`, whose targets "
        r"are left out, or `Batch\(\(a, b\), None\)` for several inputs",
    ),
    "inputs and targets of a prediction of a module": (
        lambda: training.predict(linen_model(), (X, Y)),
        TypeError,
        "`inputs` of this Stack are a tuple of 2, which it cannot read",
    ),
    "an optimizer's name": (
        lambda: fit(LAYER, (X, Y), **OPTIONS | {"optimizer": "adam"}),
        TypeError,
        r"`optimizer` must be an Optax transformation, such as `optax.adam\(1e-3\)`.*; got 'adam'",
    ),
    "lengths beyond the steps": (
        lambda: fit(LAYER, (X, Y, LENGTHS + T), **OPTIONS),
        ValueError,
        "`lengths` must lie in 0 … 5",
    ),
    "lengths beyond the steps of the inputs, within those of the targets": (
        lambda: fit(LAYER, (X, np.zeros((N, 2 * T), int), LENGTHS + T), **OPTIONS),
        ValueError,
        "`lengths` must lie in 0 … 5",
    ),
    "negative weights": (
        lambda: fit(LAYER, (X, Y, LENGTHS, -np.ones(N)), **OPTIONS),
        ValueError,
        "`weights` must be finite and not negative; got values from -1.0 to -1.0",
    ),
    "a label that is no class, in a later batch": (
        lambda: fit((PARAMS, LAYER), [(X, Y), (X, Y + 1)], **OPTIONS),
        ValueError,
        r"`targets` must lie in 0 … 1, .* got values from 1 to 2",
    ),
    "a label that is no class, in a later batch of validation": (
        lambda: fit((PARAMS, LAYER), (X, Y), validation=[(X, Y), (X, Y + 1)], **OPTIONS),
        ValueError,
        r"`targets` must lie in 0 … 1, .* got values from 1 to 2",
    ),
    "neither yes nor no": (
        lambda: fit((PARAMS, LAYER), (X, 3.0 * np.eye(K)[Y]), loss="binary_cross_entropy", **OPTIONS),
        ValueError,
        "`targets` must be 0 and 1, or probabilities between them; got values from 0.0 to 3.0",
    ),
    "soft labels": (
        lambda: fit((PARAMS, LAYER), (X, np.ones((N, K))), **OPTIONS),
        ValueError,
        "`targets` must be probabilities that sum to 1 over the last axis; got a sum of 2.0",
    ),
    "labels of ctc": (
        lambda: fit(rj.Stack([rj.RNN(rj.GRU(H)), rj.Dense(K)]), (X, Y[:, None]), loss="ctc", **OPTIONS),
        ValueError,
        "`targets` must be classes 0 … 1 without the blank, 0; got values from 0 to 1",
    ),
    "split of a stream": (
        lambda: fit(LAYER, [(X, Y)], validation_split=0.5, **OPTIONS),
        ValueError,
        "`validation_split` needs arrays",
    ),
    "split of all": (
        lambda: fit(LAYER, (X, Y), validation_split=1.0, **OPTIONS),
        ValueError,
        r"`validation_split` must lie in \(0, 1\)",
    ),
    "accumulate": (
        lambda: fit((PARAMS, LAYER), (X, Y), accumulate=3, **OPTIONS),
        ValueError,
        "`accumulate` must divide the rows of a batch, 4; got 3",
    ),
    "lengths for a model without": (
        lambda: fit((Plain().init(jax.random.key(0), X), Plain()), (X, Y, LENGTHS), **OPTIONS),
        TypeError,
        "the batch has `lengths`, which Plain does not take",
    ),
    "a loss without mask": (
        lambda: fit((PARAMS, LAYER), (X, Y), loss=lambda outputs, targets: outputs.sum(), **OPTIONS),
        TypeError,
        "does not take a `mask`",
    ),
    "what another optimizer has fitted": (
        lambda: fit(fit((PARAMS, LAYER), (X, Y), **OPTIONS), (X, Y), **OPTIONS | {"optimizer": optax.sgd(0.1)}),
        ValueError,
        "`model` is a `Fitted` of another optimizer or of other parameters",
    ),
    "a loss of many numbers": (
        lambda: fit((PARAMS, LAYER), (X[:8], Y[:8]), loss=lambda outputs, targets: outputs, **OPTIONS),
        TypeError,
        "must return a scalar or a total",
    ),
    "a label that is no class": (
        lambda: fit((PARAMS, LAYER), (X, Y + 1), **OPTIONS),
        ValueError,
        r"`targets` must lie in 0 … 1, .* got values from 1 to 2",
    ),
    "a label that is no class, in validation": (
        lambda: fit((PARAMS, LAYER), (X, Y), validation=(X, Y + 1), **OPTIONS),
        ValueError,
        r"`targets` must lie in 0 … 1, .* got values from 1 to 2",
    ),
    "a label that is no class, in a batch": (
        lambda: fit((PARAMS, LAYER), [(X, Y + 1)], **OPTIONS),
        ValueError,
        r"`targets` must lie in 0 … 1, .* got values from 1 to 2",
    ),
    "a label that is no class, evaluated": (
        lambda: training.evaluate((PARAMS, LAYER), (X, Y - 1)),
        ValueError,
        r"`targets` must lie in 0 … 1, .* got values from -1 to 0",
    ),
    "linen without params": (lambda: fit(({}, Plain()), (X, Y), **OPTIONS), ValueError, "must hold 'params'"),
    "one logit, with a loss of classes": (
        lambda: fit(ONE, (X, Y[:, None] * 1.0), **OPTIONS),
        ValueError,
        r"`logits` \(10, 1\) are of a single class, .*: for one yes or no take `binary_cross_entropy`, or two logits",
    ),
    "one logit, with classes": (
        lambda: fit(ONE, (X, Y), **OPTIONS),
        ValueError,
        "for one yes or no take `binary_cross_entropy`",
    ),
    "one logit, with a metric of classes": (
        lambda: fit(ONE, (X, Y[:, None] * 1.0), loss="binary_cross_entropy", metrics=["accuracy"], **OPTIONS),
        ValueError,
        "for one yes or no take `binary_accuracy`",
    ),
    "lengths beside an iterable": (
        lambda: training.predict((PARAMS, LAYER), [X], lengths=LENGTHS),
        ValueError,
        r"`lengths` are for arrays: batches of an iterable have their own, as in \(inputs, None, lengths\)",
    ),
    "a prediction of nothing": (
        lambda: training.predict((PARAMS, LAYER), []),
        ValueError,
        "the data hold no batch",
    ),
    "a prediction of no rows": (
        lambda: training.predict((PARAMS, LAYER), X[:0]),
        ValueError,
        "`inputs` hold no row",
    ),
    "a prediction of a number": (
        lambda: training.predict((PARAMS, LAYER), 3),
        TypeError,
        "an iterable of such batches, or a function that returns one; got int",
    ),
    "a prediction of six parts": (
        lambda: training.predict((PARAMS, LAYER), [(X,) * 6]),
        TypeError,
        r"a batch must be inputs, or \(inputs, targets\) .*; got a tuple of 6",
    ),
    "outputs of other steps": (
        lambda: training.predict((jnp.float32(1.0), lambda params, x: params * x), [X, X[:, :2]]),
        ValueError,
        r"must not differ behind their rows; got \(B, …\) with \(2, 2\), \(5, 2\): pad",
    ),
    "an evaluation of a bare layer": (
        lambda: training.evaluate(LAYER, (X, Y)),
        TypeError,
        r"`model` must have parameters, and a bare Stack has none: pass the `Fitted` that `fit` returned",
    ),
    "a prediction of a bare layer": (
        lambda: training.predict(LAYER, X),
        TypeError,
        "`model` must have parameters, and a bare Stack has none",
    ),
    "several classes of a row": (
        lambda: fit((PARAMS, LAYER), (X, np.ones((N, K))), loss="binary_cross_entropy", metrics=["f1"], **OPTIONS),
        ValueError,
        "`targets` must name one class a position; 10 of 10 name several, .*: take `binary_accuracy` or `binary_f1`",
    ),
    "sums of gradients": (
        lambda: fit(LAYER, (X, Y), **OPTIONS | {"optimizer": optax.MultiSteps(training.optimizer(0.1), 2)}),
        UserWarning,
        r"pass `rnnjax.training.skip_if_nonfinite\(optax.MultiSteps\(rnnjax.training.optimizer\(…, skip_nonfinite=F",
    ),
    "windows in parts": (
        lambda: fit(LAYER, (X, Y), truncate=training.tbptt(2), accumulate=2, **OPTIONS),
        ValueError,
        r"`truncate` needs arrays \(B, L, …\) and no `accumulate`",
    ),
    "windows, and validation that is an iterable": (
        lambda: fit(
            (jnp.float32(1.0), lambda params, x, state, mask: (x, jnp.ones(N))),
            (X, np.zeros((N, T), int)),
            validation=[(X, np.zeros((N, T), int))],
            truncate=training.tbptt(2),
            **OPTIONS,
        ),
        ValueError,
        r"`truncate` needs arrays \(B, L, …\) for validation too",
    ),
    "windows of a function without a state": (
        lambda: training.predict((jnp.float32(1.0), lambda params, x, state, mask: x), X, truncate=training.tbptt(2)),
        TypeError,
        r"<lambda> must return \(outputs, state\) where it is given a `state`",
    ),
    "two parts of validation": (
        lambda: fit(LAYER, (X, Y), validation=(X, Y), validation_split=0.5, **OPTIONS),
        ValueError,
        "`validation_split` needs arrays, and no `validation` beside it",
    ),
    "weights of features": (
        lambda: fit(LAYER, (X, Y, None, np.ones_like(X)), **OPTIONS),
        ValueError,
        r"`weights` must be \(B\), one a row, or \(B, T\), one a step; got float32\(10, 5, 2\)",
    ),
    "a metric that is a number": (
        lambda: fit(LAYER, (X, Y), metrics=[3], **OPTIONS),
        TypeError,
        r"`metrics` must be a name, a function of \(outputs, targets\), or a pair of both; got 3",
    ),
    "float lengths": (lambda: fit(LAYER, (X, Y, LENGTHS / 2), **OPTIONS), TypeError, "`lengths` must be integers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_buckets_hold_every_row_once_and_cut_time() -> None:
    lengths = RNG.integers(1, T + 1, 23)
    x = np.where(np.arange(T) < lengths[:, None], np.arange(23)[:, None] + 1.0, np.nan)[..., None]
    data = (x, np.arange(23), lengths)
    batches = training.buckets(data, 4, count=3)
    epochs = [list(batches(epoch=epoch)) for epoch in (0, 0, 1)]
    for epoch in epochs:
        seen = [(int(row), int(n)) for batch in epoch for row, n, w in zip(*batch[1:4], strict=True) if w]
        assert sorted(seen) == list(enumerate(lengths))
        for batch in epoch:
            assert batch.inputs.shape[0] == 4
            for row, own, n in zip(batch.inputs, batch.targets, batch.lengths, strict=True):
                np.testing.assert_array_equal(row[:n, 0], own + 1)
        assert len({batch.inputs.shape[1] for batch in epoch}) <= 3
        assert min(batch.inputs.shape[1] for batch in epoch) < T
    targets = [[batch.targets.tolist() for batch in epoch] for epoch in epochs]
    assert targets[0] == targets[1] != targets[2]
    with pytest.raises(ValueError, match="buckets need the lengths of the rows"):
        training.buckets((X, Y), 4)
    with pytest.raises(ValueError, match="`seed` must not be negative; got -2"):
        training.buckets(data, 4, seed=-2)
    with pytest.raises(ValueError, match=r"inputs have 5, 4 steps: `rnnjax\.data\.pair_buckets` is for a source and"):
        training.buckets(({"source": np.ones((23, T), int), "target": np.ones((23, 4), int)}, *data[1:]), 4)
    (batch, *_) = training.buckets(({"kinds": np.ones((23, 4), int), "x": x}, *data[1:]), 4, count=3, seed=None)()
    assert batch.inputs["kinds"].shape == (4, 4)  # of a row, or steps that the lengths are not of
    assert batch.inputs["x"].shape[1] < T
    target = np.ones((23, T), int)  # as many steps by chance, and longer than some source
    target[:, -1] = 2
    with pytest.raises(ValueError, match=r"must be padding, one number, behind `lengths`; int64\(23, 5\) is not"):
        training.buckets(({"source": x, "target": target}, *data[1:]), 4)
    pair = {"ids": np.where(np.arange(T) < lengths[:, None], target, 0), "x": x}
    shared = list(training.buckets((pair, *data[1:]), 4, count=3)())
    assert all(batch.inputs["ids"].shape[1] == batch.inputs["x"].shape[1] for batch in shared)
    assert min(batch.inputs["ids"].shape[1] for batch in shared) < T
    several = {"about": np.ones((23, 2)), "x": x}  # in this order
    (batch, *_) = training.buckets((several, *data[1:]), 4, count=3, seed=None)()
    assert lengths[batch.targets].max() <= batch.inputs["x"].shape[1] < T
    assert batch.inputs["about"].shape == (4, 2)


@pytest.mark.slow
def test_buckets_train_as_arrays_of_the_same_batches() -> None:
    batches = training.buckets((X, Y, LENGTHS), B, count=3)
    order = [list(batches(epoch=epoch)) for epoch in range(2)]
    fitted = fit((PARAMS, LAYER), batches, epochs=2, **OPTIONS)
    params, state = PARAMS, TX.init(PARAMS)

    def loss(params: Any, x: Any, y: Any, n: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_of(params, x, n)), y[:, None], 1).mean()

    for batch in [batch for epoch in order for batch in epoch]:
        keep = slice(None) if batch.weights is None else batch.weights > 0
        gradient = jax.grad(loss)(params, batch.inputs[keep], batch.targets[keep], batch.lengths[keep])
        updates, state = TX.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(fitted.params, params)


def test_a_function_of_batches_takes_an_epoch_or_nothing() -> None:
    data = [(jnp.ones((4, 3, 2)), jnp.zeros(4, int))]
    layer = rj.Stack([rj.Elman(3), rj.Last(), rj.Dense(2)])
    with pytest.raises(TypeError, match="one called `epoch`; got `e`"):
        training.fit(layer, lambda e: data, epochs=1, progress=False)
    for batches in (lambda: data, lambda epoch: data, lambda epoch=0, rows=4: data):
        training.fit(layer, batches, epochs=1, progress=False)
