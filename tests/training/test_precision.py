"""Mixed precision: products are computed in bfloat16, and everything that adds up stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnnjax as rj
from rnnjax.training import evaluate, fit, predict, tbptt

N, T, I, H, K = 8, 4, 3, 3, 2  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype(np.float32)
Y = (X.sum((1, 2)) > 0).astype(np.int32)
LAYER = rj.Stack([rj.RNN(rj.GRU(H)), rj.Last(), rj.Dense(K)])
OPTIONS: dict[str, Any] = {"batch_size": N, "progress": False, "shuffle": False}


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


def dtypes(tree: Any) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


def test_step_is_the_one_written_out() -> None:
    """SGD on the gradient of float32 parameters through rounded ones, with the loss of logits in float32."""
    params = LAYER.init(jax.random.key(0), I)
    rate = 0.5

    def loss(params: Any) -> Any:
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        logits, _ = LAYER(low, jnp.swapaxes(X, 0, 1).astype(jnp.bfloat16))
        assert logits.dtype == jnp.bfloat16
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        return -jnp.take_along_axis(log_p, Y[:, None], 1).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    wanted = jax.tree.map(lambda leaf, own: leaf - rate * own, params, gradient)
    fitted = fit((params, LAYER), (X, Y), optimizer=optax.sgd(rate), compute_dtype=jnp.bfloat16, **OPTIONS)
    assert dtypes(fitted.params) == {"float32"}
    np.testing.assert_allclose(fitted.history["loss"][0], value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    plain = fit((params, LAYER), (X, Y), optimizer=optax.sgd(rate), **OPTIONS)
    gap = abs(plain.history["loss"][0] - fitted.history["loss"][0])
    assert 1e-6 < gap < 1e-2


def test_the_optimizer_and_the_products() -> None:
    seen: dict[str, set[str]] = {}

    def apply(params: Any, x: Any) -> Any:
        seen["params"], seen["inputs"] = dtypes(params), dtypes(x)
        return x["numbers"][:, 0] @ params["w"] + x["counts"][:, None].astype(x["numbers"].dtype)

    def loss(outputs: Any, targets: Any) -> Any:
        seen["outputs"] = dtypes(outputs)
        return (outputs**2).mean()

    data = {"numbers": X, "counts": np.arange(N)}
    params = {"w": jnp.ones((I, K), jnp.float32)}
    fitted = fit((params, apply), (data, Y), loss=loss, compute_dtype="bfloat16", optimizer=optax.adam(0.1), **OPTIONS)
    assert seen == {"params": {"bfloat16"}, "inputs": {"bfloat16"}, "outputs": {"float32"}}
    assert dtypes(fitted.state.optimizer) == {"float32"}
    assert dtypes(predict(fitted, data, compute_dtype=jnp.bfloat16)) == {"float32"}


def test_elapsed_times_are_not_rounded() -> None:
    """1 + 2⁻⁹ is none of bfloat16's numbers. Features of a row, (N, T + 1), are no times."""
    seen: list[set[str]] = []

    def apply(params: Any, inputs: Any) -> Any:
        x, dt, static = inputs
        seen.append(dtypes((params, x, static)))
        return jnp.cumsum(dt, 1)

    dt, static = np.full((N, T), 1 + 2.0**-9, np.float32), np.ones((N, T + 1), np.float32)
    one, inputs = jnp.float32(1.0), (X, dt, static)
    got = predict((one, apply), inputs, compute_dtype=jnp.bfloat16)
    np.testing.assert_array_equal(got, dt.cumsum(1))
    assert seen == [{"bfloat16"}]

    layer = rj.Stack([rj.RNN(rj.LTC(H)), rj.Last(), rj.Dense(K)])
    params = layer.init(jax.random.key(0), I)
    low, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, X))
    wanted, _ = layer(low, (x.swapaxes(0, 1), dt.T))
    got = predict((params, layer), (X, dt), compute_dtype=jnp.bfloat16)
    np.testing.assert_allclose(got, wanted.astype(jnp.float32), rtol=1e-2, atol=1e-2)


def test_elapsed_times_beside_ids_are_not_rounded() -> None:
    """Features of a row, alone or beside marks of which are missing, are no times."""

    def apply(params: Any, inputs: Any) -> Any:
        return jnp.cumsum(inputs["dt"], 1)

    dt, ids = np.full((N, T), 1 + 2.0**-9, np.float32), np.zeros((N, T), np.int32)
    model = jnp.float32(1.0), apply
    got = predict(model, {"dt": dt, "ids": ids}, compute_dtype=jnp.bfloat16)
    np.testing.assert_array_equal(got, dt.cumsum(1))
    for rounded in ({"dt": dt}, {"dt": dt, "missing": ids == 0}, {"dt": dt, "ids": ids[:, 0]}):
        got = predict(model, rounded, compute_dtype=jnp.bfloat16)
        np.testing.assert_array_equal(got, np.ones((N, T)).cumsum(1))


def test_elapsed_times_of_windows_are_not_rounded() -> None:
    def apply(params: Any, inputs: Any, state: Any, mask: Any) -> Any:
        return inputs[1][..., None], jnp.zeros((N, 1))

    data = (X, np.full((N, T), 1 + 2.0**-9, np.float32)), np.zeros((N, T, 1), np.float32)
    options: dict[str, Any] = {"loss": "mean_absolute_error", "truncate": tbptt(2), "compute_dtype": jnp.bfloat16}
    assert evaluate((jnp.float32(1.0), apply), data, **options)["loss"] == 1 + 2.0**-9


def test_states_stay_wide_between_windows() -> None:
    """A cell of the user's own whose state would become bfloat16."""

    def apply(params: Any, x: Any, state: Any, mask: Any) -> Any:
        fresh = jnp.zeros((N, 1), params.dtype)
        state = params * (fresh if state is None else state) + x.sum((1, 2))[:, None].astype(params.dtype)
        return jnp.broadcast_to(state[:, None], (*x.shape[:2], 1)), state.astype(params.dtype)

    targets = np.zeros((N, T, 1), np.float32)
    fitted = fit(
        (jnp.float32(0.5), apply),
        (X, targets),
        loss="mean_squared_error",
        truncate=tbptt(2),
        compute_dtype=jnp.bfloat16,
        progress=False,
    )
    assert dtypes(fitted.state.rest) == {"float32"}


@pytest.mark.slow
def test_learns_as_well_as_in_float32() -> None:
    scores = {}
    for dtype in (None, jnp.bfloat16):
        module = nnx.Sequential(nnx.Linear(T * I, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, K, rngs=nnx.Rngs(1)))
        recipe = rj.training.optimizer(0.05)
        fitted = fit(module, (X.reshape(N, -1), Y), epochs=30, optimizer=recipe, compute_dtype=dtype, **OPTIONS)
        scores[dtype] = fitted.history["loss"][-1]
        assert dtypes(nnx.state(fitted.model, nnx.Param)) == {"float32"}
        again = evaluate(fitted, (X.reshape(N, -1), Y), compute_dtype=dtype)["loss"]
        assert again < 0.5 * fitted.history["loss"][0]
    np.testing.assert_allclose(scores[jnp.bfloat16], scores[None], rtol=0.2)


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        (jnp.float16, ValueError, "float16 loses small gradients without a scaled loss: use `jnp.bfloat16`"),
        (jnp.int32, TypeError, "`compute_dtype` must be a floating dtype, such as `jnp.bfloat16`; got int32"),
        ("half-ish", TypeError, "data type .half-ish. not understood"),
    ],
)
def test_dtypes_that_do_not_work_are_refused(dtype: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(LAYER, (X, Y), compute_dtype=dtype, **OPTIONS)
