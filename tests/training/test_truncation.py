"""Truncated back-propagation against a loop over windows that is written out, and against the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax as rj
from rnnjax import training
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx
from rnnjax.training import _batches, fit, tbptt, truncation
from rnnjax.training._model import Model

B, L, I, K, H = 3, 11, 2, 3, 4  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, L, I)).astype(np.float32)
Y = RNG.integers(0, K, (B, L)).astype(np.int32)
LENGTHS = np.array([11, 4, 8])
CELL = rj.GRU(H)
LAYER = rj.Stack([rj.RNN(CELL), rj.Dense(K)])
PARAMS = LAYER.init(jax.random.key(3), I)
TX = optax.sgd(0.5)
OPTIONS: dict[str, Any] = {"optimizer": TX, "progress": False}


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Optax and Flax mix dtypes, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def steps(params: Any, state: Any, start: int, stop: int, resets: Any) -> tuple[list[Any], Any]:
    """Logits (B, K) of the steps from `start` to `stop`, one call of the cell's step each; none before step 0."""
    logits = []
    for t in range(max(start, 0), stop):
        keep = jnp.ones((B, 1)) if resets is None else 1 - jnp.asarray(resets[:, t : t + 1], jnp.float32)
        state = jax.tree.map(lambda leaf, keep=keep: leaf * keep, state)
        z = CELL.project(params[0], jnp.asarray(X[None, :, t]))
        state = CELL.step(params[0], state, jax.tree.map(lambda leaf: leaf[0], z))
        logits.append(state.h @ params[1].w + params[1].b)
    return logits, state


def written_out(window: int, overlap: int, epochs: int = 1, lengths: Any = None, resets: Any = None) -> Any:
    stride, params = window - overlap, PARAMS
    lengths = np.full(B, L) if lengths is None else lengths
    for _ in range(epochs):
        state = CELL.initial_state(params[0], (B,))
        for first in range(0, L, stride):
            last = min(first + stride, L)

            def loss(params: Any, state: Any, first: int = first, last: int = last) -> tuple[Any, Any]:
                _, middle = steps(params, state, first - overlap, last - overlap, resets)
                logits, _ = steps(params, state, first - overlap, last, resets)
                total, count = jnp.zeros(()), 0
                for t, own in zip(range(first, last), logits[-(last - first) :], strict=True):
                    for b in range(B):
                        if t < lengths[b]:
                            total -= jax.nn.log_softmax(own[b])[Y[b, t]]
                            count += 1
                return total / max(count, 1), middle

            (_, middle), gradient = jax.value_and_grad(loss, has_aux=True)(params, state)
            params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
            state = jax.tree.map(jax.lax.stop_gradient, middle)
    return params


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("window", "overlap"),
    [pytest.param(4, 0, marks=pytest.mark.slow), pytest.param(5, 2, marks=pytest.mark.slow), (20, 0)],
)
def test_windows_train_as_the_loop_that_is_written_out(window: int, overlap: int) -> None:
    fitted = fit((PARAMS, LAYER), (X, Y), truncate=tbptt(window, overlap), epochs=2, **OPTIONS)
    assert_close(fitted.params, written_out(window, overlap, epochs=2))


def test_lengths_and_resets() -> None:
    """Document ends reset their row alone; what lies behind a row's length is neither read nor counted."""
    resets = np.zeros((B, L), bool)
    resets[0, 5] = resets[2, 4] = resets[2, 6] = True
    spoilt = np.where(np.arange(L)[:, None] < LENGTHS[:, None, None], X, np.nan)
    data = training.Batch(spoilt, Y, LENGTHS, None, resets)
    fitted = fit((PARAMS, LAYER), data, truncate=tbptt(5, 1), **OPTIONS)
    wanted = written_out(5, 1, lengths=LENGTHS, resets=resets)
    assert_close(fitted.params, wanted)


@pytest.mark.slow
def test_weights_of_steps_and_of_rows() -> None:
    """Steps of weight 0 count as little as those behind a row's length; a row of weight 0 is the same for all steps."""
    steps = (np.arange(L) < LENGTHS[:, None]).astype(np.float32)
    fitted = fit((PARAMS, LAYER), (X, Y, None, steps), truncate=tbptt(5, 2), **OPTIONS)
    assert_close(fitted.params, written_out(5, 2, lengths=LENGTHS))
    fitted = fit((PARAMS, LAYER), (X, Y, None, np.array([1.0, 0.0, 1.0])), truncate=tbptt(5, 2), **OPTIONS)
    assert_close(fitted.params, written_out(5, 2, lengths=np.array([L, 0, L])))


def test_window_over_everything_is_the_whole_back_propagation() -> None:
    whole = fit((PARAMS, LAYER), (X, Y, LENGTHS), batch_size=B, shuffle=False, epochs=3, **OPTIONS)
    for cut in (tbptt(L), tbptt(L + 5)):
        windows = fit((PARAMS, LAYER), (X, Y, LENGTHS), truncate=cut, epochs=3, **OPTIONS)
        assert_close(windows.params, whole.params, 1e-6)
        np.testing.assert_allclose(windows.history["loss"], whole.history["loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "linen"])
def test_learned_initial_state_is_trained_by_the_first_window(kind: str) -> None:
    """Windows over everything are the whole back-propagation, and of several windows the loop that is written out."""
    learned = rj.Stack([rj.RNN(rj.LearnedInitialState(CELL)), rj.Dense(K)])
    params = learned.init(jax.random.key(3), I)
    start = params[0].state._replace(h=jnp.array([0.5, -0.3, 0.2, 0.1]))
    params = (params[0]._replace(state=start), params[1])
    module = rlinen.Layer(learned)
    model = (params, learned) if kind == "layer" else (module.bind({}).to_variables(params), module)

    def loss(params: Any, first: int, last: int, state: Any) -> tuple[Any, Any]:
        cell, dense = params
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, H)), cell.state) if state is None else state
        total = jnp.zeros(())
        for t in range(first, last):
            state = CELL.step(cell.cell, state, CELL.project(cell.cell, jnp.asarray(X[:, t])))
            log_p = jax.nn.log_softmax(state.h @ dense.w + dense.b)
            total -= jnp.take_along_axis(log_p, Y[:, t, None], 1).sum()
        return total / (B * (last - first)), state

    for cut in (tbptt(L + 5, 5), tbptt(6)):
        wanted, state = params, None
        for first in range(0, L, cut.stride):
            step = jax.grad(loss, has_aux=True)
            gradient, state = step(wanted, first, min(first + cut.stride, L), state)
            wanted = jax.tree.map(lambda p, g: p - 0.5 * g, wanted, gradient)
        fitted = fit(model, (X, Y), truncate=cut, **OPTIONS)
        found = fitted.params if kind == "layer" else module.to_params(fitted.model[0], I)
        assert_close(found, wanted)
        assert np.abs(np.asarray(found[0].state.h - start.h)).max() > 1e-3


def test_the_initial_state_is_formed_by_the_first_window_alone() -> None:
    """d√0 is infinite: times the zero by which other windows do not depend on it, that would be NaN."""

    def stream(params: Any, rest: Any, streamed: Any, key: Any, train: bool) -> tuple[Any, Any, Any]:
        state = streamed.state + params["b"]
        return state, state, rest

    def initial_state(params: Any, rest: Any, inputs: Any) -> Any:
        return jnp.sqrt(params["a"]) * jnp.ones(B)

    def loss(params: Any, begins: bool) -> Any:
        batch = _batches.Batch((X, jnp.ones((B, L)), jnp.full(B, begins)), None)
        return model.apply(params, (None, jnp.ones(B)), batch, None, True)[0].sum()

    model = truncation.windowed(Model(None, None, None, stream, initial_state, None), tbptt(L))  # type: ignore[arg-type]
    run = jax.jit(jax.grad(loss))
    assert_close(run({"a": jnp.zeros(()), "b": jnp.ones(())}, False), {"a": 0.0, "b": B})
    assert_close(run({"a": jnp.full((), 4.0), "b": jnp.ones(())}, True), {"a": B / 4, "b": B})


def function(params: Any, x: Any, state: Any = None, mask: Any = None, reset: Any = None) -> Any:
    swap = lambda leaf: None if leaf is None else jnp.swapaxes(leaf, 0, 1)  # noqa: E731
    ys, state = LAYER(params, swap(x), state, mask=swap(mask), reset=swap(reset))
    return swap(ys), state


def nnx_module() -> Any:
    return rnnx.Layer(LAYER, I, rngs=rnnx.nnx.Rngs(0))


def linen_module() -> Any:
    module = rlinen.Layer(LAYER)
    return module.bind({}).to_variables(PARAMS), module


MODELS: dict[str, Callable[[], Any]] = {
    "layer": lambda: (PARAMS, LAYER),
    "function": lambda: (PARAMS, function),
    "nnx": nnx_module,
    "linen": linen_module,
}


@pytest.mark.parametrize(
    "kind", [kind if kind == "function" else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS]
)
def test_windows_evaluate_as_the_whole_sequence(kind: str) -> None:
    model = MODELS[kind]()
    params = PARAMS if kind != "nnx" else model.params
    ys, _ = LAYER(params, X.swapaxes(0, 1), lengths=LENGTHS)
    logits = np.asarray(ys, np.float64).swapaxes(0, 1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = np.arange(L) < LENGTHS[:, None]
    expected = -np.take_along_axis(log_p, Y[..., None], -1)[..., 0][valid].mean()
    for cut in (tbptt(4), tbptt(5, 3)):
        got = training.evaluate(model, (X, Y, LENGTHS), metrics=["accuracy"], truncate=cut)
        assert got["loss"] == pytest.approx(expected, rel=1e-5)
        assert got["accuracy"] == pytest.approx((logits.argmax(-1) == Y)[valid].mean())
    data = (X, Y, LENGTHS)
    fitted = fit(model, data, truncate=tbptt(4, 1), validation=data, **OPTIONS)
    assert np.isfinite(fitted.history["val_loss"]).all()


@pytest.mark.parametrize("kind", [pytest.param("function", marks=pytest.mark.slow), "nnx", "linen"])
def test_every_kind_of_model_trains_as_a_layer(kind: str) -> None:
    resets = RNG.uniform(size=(B, L)) < 0.2
    data, options = training.Batch(X, Y, LENGTHS, None, resets), OPTIONS | {"truncate": tbptt(5, 2), "epochs": 2}
    model = MODELS[kind]()
    start = jax.tree.map(jnp.array, model.params) if kind == "nnx" else PARAMS
    wanted = fit((start, LAYER), data, **options)
    fitted = fit(model, data, **options)
    np.testing.assert_allclose(fitted.history["loss"], wanted.history["loss"], rtol=1e-5)
    inside = np.arange(L) < LENGTHS[:, None]
    ys, _ = LAYER(wanted.params, X.swapaxes(0, 1), lengths=LENGTHS, reset=resets.T)
    for cut in (tbptt(5, 2), tbptt(4)):
        outputs = training.predict(fitted, data, truncate=cut, batch_size=2)
        assert outputs.shape == (B, L, K)
        np.testing.assert_allclose(outputs[inside], np.asarray(ys).swapaxes(0, 1)[inside], atol=1e-5)


def test_window_that_is_left_out_leaves_the_state_alone() -> None:
    """NaN in the second of three windows: the third starts from the state after the first."""
    spoilt = X.copy()
    spoilt[1, 5] = np.nan
    options = OPTIONS | {"optimizer": training.skip_if_nonfinite(TX)}
    fitted = fit((PARAMS, LAYER), (spoilt, Y), truncate=tbptt(4), **options)
    assert fitted.history["skipped_steps"] == [1]
    kept = np.r_[0:4, 8:11]
    wanted = fit((PARAMS, LAYER), (X[:, kept], Y[:, kept]), truncate=tbptt(4), **options)
    assert_close(fitted.params, wanted.params, 1e-6)


def test_windows_of_padding_are_no_steps() -> None:
    """All rows end with the first of three windows: behind it neither moments nor decay nor a schedule go on."""
    recipe = training.skip_if_nonfinite(optax.adamw(optax.linear_schedule(0.1, 0.0, 6), weight_decay=0.1))
    options = OPTIONS | {"optimizer": recipe, "truncate": tbptt(4), "epochs": 2}
    short = fit((PARAMS, LAYER), (X[:, :4], Y[:, :4]), **options)
    long = fit((PARAMS, LAYER), (X, Y, np.full(B, 4)), **options)
    assert int(long.state.step) == 3 * int(short.state.step)
    assert_close((long.params, long.state.optimizer), (short.params, short.state.optimizer), 1e-7)
    np.testing.assert_allclose(long.history["loss"], short.history["loss"], rtol=1e-6)
    assert "skipped_steps" not in long.history


@pytest.mark.parametrize("kind", ["layer", "nnx", "linen"])
def test_inputs_of_float64(kind: str) -> None:
    """The state becomes as wide as the inputs, and so it is before the first window too."""
    narrow, wide = (fit(MODELS[kind](), (x, Y), truncate=tbptt(4), **OPTIONS) for x in (X, X.astype(np.float64)))
    np.testing.assert_allclose(wide.history["loss"], narrow.history["loss"], rtol=1e-5)
    assert_close(wide.params, narrow.params)


@pytest.mark.slow
def test_parameters_of_float64() -> None:
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
    fitted = fit((wide, LAYER), (X.astype(np.float64), Y), truncate=tbptt(4), **OPTIONS)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(fitted.params)} == {"float64"}
    assert_close(fitted.params, written_out(4, 0))


@pytest.mark.parametrize("layer", [rj.Residual(rj.GRU(I)), rj.RNN(rj.SRU(I))], ids=["Residual", "SRU"])
def test_linen_modules_whose_parameters_follow_the_features(layer: Any) -> None:
    """Their structure cannot be told without `in_features`."""
    params, module = layer.init(jax.random.key(0), I), rlinen.Layer(layer)
    options = OPTIONS | {"loss": "mean_squared_error", "truncate": tbptt(5, 1)}
    wanted = fit((params, layer), (X, X[..., ::-1].copy()), **options)
    fitted = fit((module.bind({}).to_variables(params), module), (X, X[..., ::-1].copy()), **options)
    np.testing.assert_allclose(fitted.history["loss"], wanted.history["loss"], rtol=1e-6)
    assert_close(module.to_params(fitted.model[0], I), wanted.params, 1e-6)


def test_lengths_of_a_function_whose_state_has_no_steps() -> None:
    """What it returns is a pair, but in windows there is an output for every step; padding need be no class."""
    inside = np.arange(L) < LENGTHS[:, None]
    padded = np.where(inside, Y, -1)

    def stream(params: Any, x: Any, lengths: Any = None, state: Any = None, mask: Any = None) -> Any:
        return params * x.mean(2, keepdims=True) * jnp.arange(1.0, K + 1), jnp.zeros(B)

    logits = np.asarray(stream(1.0, X)[0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_p, Y[..., None], -1)[..., 0][inside].mean()
    model, cut = (jnp.float32(1.0), stream), tbptt(4)
    assert training.evaluate(model, (X, padded, LENGTHS), truncate=cut)["loss"] == pytest.approx(nats, rel=1e-5)


def test_streams_lie_one_after_another() -> None:
    np.testing.assert_array_equal(training.streams(np.arange(11), 3), [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    with pytest.raises(ValueError, match="`sequence` must have at least 3 steps, one a row; got 2"):
        training.streams(np.arange(2), 3)


def test_a_loss_without_mask_is_told_of_the_steps() -> None:
    """Another number of rows would not help."""
    options = OPTIONS | {"truncate": tbptt(4), "loss": lambda outputs, targets: outputs.sum()}
    with pytest.raises(TypeError, match=r"the batch has steps that do not count: let it take one(\n|$)"):
        fit((PARAMS, LAYER), (X, Y), **options)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "overlap"), [(11, 0), (8, 7)])
def test_a_loss_without_mask_where_all_steps_count(window: int, overlap: int) -> None:
    def own(outputs: Any, targets: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[..., None], -1).mean()

    fitted = fit((PARAMS, LAYER), (X, Y), loss=own, truncate=tbptt(window, overlap), **OPTIONS)
    assert_close(fitted.params, written_out(window, overlap))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tbptt(4, 4), "`overlap` must be smaller than `window`, 4; got 4"),
        (lambda: tbptt(0), "`window` must be at least 1"),
        (lambda: fit((PARAMS, LAYER), [(X, Y)], truncate=tbptt(4), **OPTIONS), "`truncate` needs arrays"),
        (lambda: training.predict((PARAMS, LAYER), [X], truncate=tbptt(4)), "`truncate` needs arrays"),
        (
            lambda: training.predict(
                (1.0, lambda params, x, state, mask: (x.sum(1), jnp.ones(B))), X, truncate=tbptt(4)
            ),
            r"an output for every step, \(B, L, …\); got \(3, 2\) for 1 of them",
        ),
        (
            lambda: training.predict(
                (1.0, lambda params, x, state, mask: (jnp.ones((B, 4)), jnp.ones(B))), X, truncate=tbptt(4)
            ),
            r"an output for every step, \(B, L, …\); got \(3, 4\) for 1 of them",
        ),
        (
            lambda: training.predict(
                (1.0, lambda params, x, state, mask: (jnp.ones((B, 1)), jnp.ones(B))), X, truncate=tbptt(4)
            ),
            r"an output for every step, \(B, L, …\); got \(3, 1\) for 4 of them",
        ),
        (
            lambda: fit((PARAMS, LAYER), (X, Y[:, 0]), truncate=tbptt(4), **OPTIONS),
            "targets and resets, where there are any",
        ),
        (
            lambda: fit((PARAMS, LAYER), (X, Y + 1, LENGTHS), truncate=tbptt(4), **OPTIONS),
            r"`targets` must lie in 0 … 2, the classes of `logits` \(3, 11, 3\); got values from 1 to 3",
        ),
        (
            lambda: fit(rj.Bidirectional(CELL), (X, Y), truncate=tbptt(4), **OPTIONS),
            "is not causal",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
