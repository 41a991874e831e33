"""Which lengths and weights of a batch reach a loss, for outputs of every shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax as rj
from rnnjax.flax import linen as rlinen
from rnnjax.training import Batch, _model, ctc, evaluate, fit, sweep

N, T, K = 4, 3, 3
RNG = np.random.default_rng(0)
LENGTHS = np.array([3, 2, 3, 2])
ONE = jnp.float32(1.0)


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def alignments(logits: np.ndarray, labels: list[int]) -> float:
    """−log Σ over all paths (T) that collapse to the labels, of which 0 is the blank."""
    log_p, found = log_softmax(logits), -np.inf
    for path in itertools.product(range(K), repeat=len(logits)):
        if [k for k, _ in itertools.groupby(path) if k] == labels:
            found = np.logaddexp(found, log_p[np.arange(len(logits)), path].sum())
    return -found


def test_ctc_of_a_model_that_halves_the_steps() -> None:
    """Lengths of the inputs are none of the outputs; those may come with the labels."""
    x = RNG.normal(size=(N, 2 * T, K)).astype(np.float32)
    labels, lengths = np.array([[1, 2], [2, -1], [1, -1], [1, 2]]), 2 * LENGTHS

    def halves(params: Any, x: Any, lengths: Any) -> Any:
        return params * x[:, ::2]

    def loss(logits: Any, targets: Any, mask: Any = None) -> Any:
        labels, lengths = targets
        return ctc(logits, labels, lengths=lengths, mask=mask, time_major=False)

    rows = zip(x[:, ::2].astype(np.float64), LENGTHS, labels, strict=True)
    expected = np.mean([alignments(row[:n], [k for k in own if k > 0]) for row, n, own in rows])
    found = evaluate((ONE, halves), (x, (labels, LENGTHS), lengths), loss=loss)["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"ctc needs those of the 3 steps of the outputs: pass them with the labels"):
        evaluate((ONE, halves), (x, labels, lengths), loss="ctc")


def test_as_many_classes_as_steps() -> None:
    """Soft labels (B, K) are a row's, whatever K is; answers (B, O) may be one for each step."""
    x = RNG.normal(size=(N, T, 1)).astype(np.float32)
    labels = RNG.dirichlet(np.ones(T), N).astype(np.float32)

    def row(params: Any, x: Any, lengths: Any) -> Any:
        return params * x[..., 0]

    log_p = log_softmax(x[..., 0].astype(np.float64))
    found = evaluate((ONE, row), (x, labels, LENGTHS), metrics=["accuracy"])
    np.testing.assert_allclose(found["loss"], -(labels * log_p).sum(-1).mean(), rtol=1e-5)
    assert found["accuracy"] == (log_p.argmax(-1) == labels.argmax(-1)).mean()
    with pytest.raises(ValueError, match="takes `lengths`, or that, for features, takes none"):
        evaluate((ONE, row), (x, labels, LENGTHS), loss="binary_cross_entropy")


def test_steps_of_video_count_or_do_not() -> None:
    video, target = RNG.normal(size=(2, N, T, 2, 3, 1)).astype(np.float32)
    weights = RNG.uniform(size=(N, T)).astype(np.float32)

    def same(params: Any, x: Any, lengths: Any = None) -> Any:
        return params * x

    error = ((video - target) ** 2).mean((2, 3, 4))
    inside = np.arange(T) < LENGTHS[:, None]
    for lengths, own, share in (
        (LENGTHS, None, inside),
        (None, weights, weights),
        (LENGTHS, weights, weights * inside),
    ):
        found = evaluate((ONE, same), (video, target, lengths, own), loss="mean_squared_error")["loss"]
        np.testing.assert_allclose(found, (share * error).sum() / share.sum(), rtol=1e-5)


def pooled(form: str) -> tuple[Any, np.ndarray]:
    """A model of frames (N, T, T, 2, 1) whose outputs (N, T, 2, 1) are the last valid one, and these outputs."""
    frames = rj.Stack([rj.Last(event_ndim=3), rj.Dense(1)])
    params = frames.init(jax.random.key(0), 1)
    w, b = (np.asarray(leaf, np.float64) for leaf in params[1])
    module = rlinen.Layer(frames)
    model = (params, frames) if form == "layer" else (module.bind({}).to_variables(params), module)
    return model, FRAMES[np.arange(N), LENGTHS - 1] @ w + b


FRAMES, IMAGES = RNG.normal(size=(N, T, T, 2, 1)).astype(np.float32), RNG.normal(size=(N, T, 2, 1)).astype(np.float32)


@pytest.mark.parametrize("form", ["layer", "module"])
def test_rows_of_an_image_are_no_steps(form: str) -> None:
    """As many of them as frames: lengths are of the frames."""
    model, outputs = pooled(form)
    found = evaluate(model, (FRAMES, IMAGES, LENGTHS), loss="mean_squared_error")["loss"]
    np.testing.assert_allclose(found, ((outputs - IMAGES) ** 2).mean(), rtol=1e-5)


def test_rows_of_an_image_are_no_steps_in_a_sweep() -> None:
    (_, layer), _ = pooled("layer")
    swept = sweep(
        lambda config: (layer, optax.sgd(config["rate"])),
        {"rate": [0.0]},
        (FRAMES, IMAGES, LENGTHS),
        loss="mean_squared_error",
        epochs=1,
    )
    w, b = (np.asarray(leaf, np.float64) for leaf in swept.params[1])
    error = (FRAMES[np.arange(N), LENGTHS - 1] @ w + b - IMAGES) ** 2
    np.testing.assert_allclose(swept.table[0]["loss"], error.mean(), rtol=1e-5)


def test_as_many_features_as_steps() -> None:
    """Numbers (B, O) of a layer that drops time are of a row, also for O = T."""
    layer = rj.Stack([rj.Last(), rj.Dense(T)])
    params = layer.init(jax.random.key(0), 1)
    x, y = RNG.normal(size=(N, T, 1)).astype(np.float32), RNG.normal(size=(N, T)).astype(np.float32)
    w, b = (np.asarray(leaf, np.float64) for leaf in params[1])
    expected = ((x[np.arange(N), LENGTHS - 1] @ w + b - y) ** 2).mean()
    found = evaluate((params, layer), (x, y, LENGTHS), loss="mean_squared_error")["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def forecast(params: Any, x: Any, lengths: Any = None) -> Any:
    """The next T numbers (B, T, 1), of inputs of any number of steps."""
    return params * x.sum((1, 2))[:, None, None] + jnp.arange(float(T))[None, :, None]


def test_a_forecast_is_not_cut() -> None:
    """In no batch, whether its inputs have as many steps as the forecast or more; of training, or of validation."""
    x = RNG.normal(size=(N, T + 1, 1)).astype(np.float32)
    y = RNG.normal(size=(N, T, 1)).astype(np.float32)
    batches = [(x[:, :T], y, LENGTHS), (x, y, LENGTHS)]
    errors = [(np.asarray(forecast(1.0, batch[0]), np.float64) - y) ** 2 for batch in batches]
    model, loss = (ONE, forecast), "mean_squared_error"
    np.testing.assert_allclose(evaluate(model, batches, loss=loss)["loss"], np.mean(errors), rtol=1e-5)
    options: dict[str, Any] = {"optimizer": optax.sgd(0.0), "progress": False, "validation": batches, "loss": loss}
    history = fit(model, batches[0], **options).history
    np.testing.assert_allclose(history["loss"], [errors[0].mean()], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], [np.mean(errors)], rtol=1e-5)
    unmarked = fit(model, (x, y), **options).history  # lengths in the validation alone
    np.testing.assert_allclose(unmarked["val_loss"], [np.mean(errors)], rtol=1e-5)


def test_steps_of_a_function_with_a_stride_are_cut() -> None:
    """It keeps the time of an even number of steps alone."""
    x, y = RNG.normal(size=(2, N, 2 * T, 1)).astype(np.float32)

    def strided(params: Any, x: Any, lengths: Any) -> Any:
        return params * x[:, ::2].repeat(2, 1)

    inside = np.arange(2 * T) < 2 * LENGTHS[:, None]
    error = (x[:, ::2].astype(np.float64).repeat(2, 1) - y) ** 2
    found = evaluate((ONE, strided), (x, y, 2 * LENGTHS), loss="mean_squared_error")["loss"]
    np.testing.assert_allclose(found, error[inside].mean(), rtol=1e-5)


class Doubled(nn.Module):
    """Counts how often it is looked at."""

    calls = 0

    def __call__(self, x: Any, lengths: Any = None) -> Any:
        Doubled.calls += 1
        return 2 * x


def test_a_module_is_looked_at_once_for_each_shape() -> None:
    x = jnp.ones((N, T, 1))
    for steps, looks in ((T, 2), (T, 0), (2, 2), (T, 0)):
        before, batch = Doubled.calls, Batch(x[:, :steps], None, np.minimum(LENGTHS, steps))
        model = _model.adapt(({"params": {}}, Doubled()), batch.inputs, jax.random.key(0))
        assert _model.keeps_time(model, batch)
        assert Doubled.calls - before == looks


@pytest.mark.parametrize("fixed", [False, True], ids=["of any length", "of one length"])
def test_steps_of_a_function_are_cut(fixed: bool) -> None:
    table, (x, y) = RNG.normal(size=(1, T, 1)).astype(np.float32), RNG.normal(size=(2, N, T, 1)).astype(np.float32)

    def steps(params: Any, x: Any, lengths: Any) -> Any:
        return params * x + (table if fixed else 0.0)

    error, inside = (np.asarray(steps(1.0, x, None), np.float64) - y) ** 2, np.arange(T) < LENGTHS[:, None]
    found = evaluate((ONE, steps), (x, y, LENGTHS), loss="mean_squared_error")["loss"]
    np.testing.assert_allclose(found, error[inside].mean(), rtol=1e-5)
