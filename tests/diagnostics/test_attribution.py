"""Attributions against closed forms, brute force and their own axioms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import rnnjax as rj
from rnnjax.diagnostics import (
    at_embedding,
    contributions,
    expected_gradients,
    gradient_times_input,
    influence,
    integrated_gradients,
    occlusion,
    saliency,
    smooth_grad,
)

T, B, I, H = 6, 3, 2, 4  # noqa: E741


def classifier(seed: int, dtype: Any = jnp.float64) -> tuple[Any, Array, Array]:
    """A function (T, B, I) -> (B), inputs and a baseline."""
    model = rj.Stack([rj.GRU(H), rj.LSTM(H), rj.Last(), rj.Dense(3)])
    rng = np.random.default_rng(seed)
    shapes = model.init(jax.random.key(0), I, dtype)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), dtype), shapes)
    xs, baseline = (jnp.asarray(rng.standard_normal((T, B, I)), dtype) for _ in range(2))
    return lambda xs: model(params, xs)[0][:, 1], xs, baseline


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_integrated_gradients_are_complete(dtype: Any) -> None:
    f, xs, baseline = classifier(0, dtype)
    found = jax.jit(lambda xs, b: integrated_gradients(f, xs, b))(xs, baseline)
    assert found.values.dtype == dtype
    difference = np.asarray(f(xs)) - np.asarray(f(baseline))
    assert np.abs(difference).min() > 0.01
    np.testing.assert_allclose(found.difference, difference, rtol=1e-5)
    np.testing.assert_allclose(
        found.values.sum((0, 2)), difference, rtol=0, atol=1e-5 if dtype is jnp.float32 else 1e-10
    )


def test_integrated_gradients_against_a_sum() -> None:
    """The integral as a midpoint sum over many points."""
    f, xs, baseline = classifier(1)
    gradient = jax.jit(jax.grad(lambda xs: f(xs).sum()))
    points = [gradient(baseline + (k + 0.5) / 400 * (xs - baseline)) for k in range(400)]
    wanted = np.asarray(xs - baseline) * np.mean(points, axis=0)
    np.testing.assert_allclose(integrated_gradients(f, xs, baseline).values, wanted, atol=1e-4)


def test_pytrees_scalars_and_baselines() -> None:
    f = lambda xs: (xs["a"] ** 3).sum() * xs["b"]  # noqa: E731
    xs = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    found = integrated_gradients(f, xs)
    np.testing.assert_allclose(found.values["a"], [3 * 3 / 4, 24 * 3 / 4], rtol=1e-12)
    np.testing.assert_allclose(found.values["b"], 27 / 4, rtol=1e-12)
    shifted = integrated_gradients(lambda x: (x**2).sum(0), jnp.ones((4, 3)), jnp.array([0.0, 0.5, 1.0]), rows=(1,))
    np.testing.assert_allclose(shifted.values[0], [1.0, 0.75, 0.0], rtol=1e-12)
    assert jax.vmap(lambda x: integrated_gradients(jnp.sum, x).difference)(jnp.ones((5, 3))).tolist() == [3.0] * 5


def test_gradients() -> None:
    xs = jnp.asarray(np.random.default_rng(2).standard_normal((T, B, I)))
    f = lambda xs: jnp.sin(xs).sum((0, 2))  # noqa: E731
    np.testing.assert_allclose(saliency(f, xs), np.cos(xs), rtol=1e-12)
    np.testing.assert_allclose(gradient_times_input(f, xs), xs * np.cos(xs), rtol=1e-12)


def test_smooth_grad() -> None:
    """E cos(x + ε) = cos(x) e^{−σ²/2}."""
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((T, B, I)))
    found = smooth_grad(lambda xs: jnp.sin(xs).sum((0, 2)), xs, jax.random.key(0), deviation=0.8, samples=4_000)
    np.testing.assert_allclose(found, np.cos(xs) * np.exp(-0.32), atol=0.04)
    plain = smooth_grad(lambda xs: jnp.sin(xs).sum((0, 2)), xs, jax.random.key(0), deviation=0.0, samples=2)
    np.testing.assert_allclose(plain, np.cos(xs), rtol=1e-12)


def test_expected_gradients() -> None:
    """For x² the contribution of a number against a baseline b is x² − b²."""
    rng = np.random.default_rng(4)
    xs, background = rng.standard_normal((T, B)), rng.standard_normal((5, T, B))
    f = lambda xs: (xs**2).sum(0)  # noqa: E731
    given = jnp.asarray(xs), jnp.asarray(background), jax.random.key(0)
    found = expected_gradients(f, *given, samples=20_000, rows=(1,))
    np.testing.assert_allclose(found.values, xs**2 - (background**2).mean(0), atol=0.1)
    np.testing.assert_allclose(found.difference, (xs**2).sum(0) - (background**2).sum(1).mean(0), rtol=1e-10)
    with pytest.raises(ValueError, match="`background`"):
        expected_gradients(f, jnp.asarray(xs), jnp.asarray(xs), jax.random.key(0))
    both = {"a": jnp.asarray(xs), "b": jnp.asarray(xs)}
    with pytest.raises(TypeError, match="structure of `xs`"):
        expected_gradients(lambda xs: xs["a"].sum(0), both, jnp.asarray(background), jax.random.key(0))
    uneven = {"a": jnp.asarray(background), "b": jnp.asarray(background[:2])}
    with pytest.raises(ValueError, match="the same N in all arrays"):
        expected_gradients(lambda xs: xs["a"].sum(0), both, uneven, jax.random.key(0))


@pytest.mark.parametrize(
    ("window", "stride", "axis"), [(1, 1, 0), (2, 1, 0), (3, 2, 0), (2, 3, 0), (1, 4, 0), (2, 1, 1)]
)
def test_occlusion(window: int, stride: int, axis: int) -> None:
    """Every window by itself."""
    f, xs, baseline = classifier(5)
    x, b = np.asarray(xs), np.asarray(baseline)
    total, count = np.zeros((T, B)), np.zeros(T)
    begin = 0
    while True:
        changed = x.copy()
        changed[begin : begin + window] = b[begin : begin + window]
        total[begin : begin + window] += np.asarray(f(xs) - f(jnp.asarray(changed)))
        count[begin : begin + window] += 1
        if begin + window >= T:
            break
        begin = min(begin + stride, T - window if stride > window else T)
    assert stride <= window or count[-1] == 1
    wanted = total / np.maximum(count, 1)[:, None]
    turn = (lambda a: a.swapaxes(0, 1)) if axis else (lambda a: a)
    found = occlusion(lambda xs: f(turn(xs)), turn(xs), turn(baseline), window=window, stride=stride, axis=axis)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.slow
def test_influence() -> None:
    """A linear network: ∂y_t/∂x_s = w u^{t−s}; and of any network what `jacrev` says."""
    rng = np.random.default_rng(6)
    cell = rj.Elman(H, activation="identity")
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), cell.init(jax.random.key(0), I))
    xs = jnp.asarray(rng.standard_normal((T, B, I)))
    found = influence(lambda xs: rj.unroll(cell, params, xs)[0], xs)
    w, u = np.asarray(params.w), np.asarray(params.u)
    for t in range(T):
        for s in range(T):
            wanted = np.linalg.norm(w @ np.linalg.matrix_power(u, t - s)) if s <= t else 0.0
            np.testing.assert_allclose(found[t, s], np.full(B, wanted), rtol=1e-10)
    both = rj.Bidirectional(rj.GRU(2))
    params = both.init(jax.random.key(1), I, jnp.float64)
    jacobian = jax.jacrev(lambda x: both(params, x)[0])(xs[:, 0])
    found = influence(lambda xs: both(params, xs)[0], xs)
    np.testing.assert_allclose(found[..., 0], np.sqrt((np.asarray(jacobian) ** 2).sum((1, 3))), rtol=1e-10)


def test_contributions() -> None:
    """Of a linear network they add up to the outputs; of any network they are what `jacrev` says times the inputs."""
    rng = np.random.default_rng(8)
    cell = rj.Elman(H, activation="identity")
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jnp.asarray(rng.standard_normal((T, B, I)))
    ys, _ = rj.unroll(cell, params, xs)
    found = contributions(lambda xs: rj.unroll(cell, params, xs)[0], xs)
    assert found.shape == (T, T, B, H)
    np.testing.assert_allclose(found.sum(1), ys, rtol=1e-10, atol=1e-12)
    both = rj.Bidirectional(rj.GRU(2))
    params = both.init(jax.random.key(1), I, jnp.float64)
    jacobian = jax.jacrev(lambda x: both(params, x)[0])(xs[:, 0])  # (T, O, T, I)
    found = contributions(lambda xs: both(params, xs)[0], xs)
    wanted = np.einsum("tosi,si->tso", np.asarray(jacobian), np.asarray(xs[:, 0]))
    np.testing.assert_allclose(found[:, :, 0], wanted, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="same rows"):
        contributions(lambda xs: xs[:, 0], xs)


def test_at_embedding() -> None:
    model = rj.Stack([rj.Embedding(10, 4), rj.GRU(3), rj.Last(), rj.Dense(2)])
    params = model.init(jax.random.key(0), None, jnp.float64)
    ids, lengths = jnp.array([[1, 2], [3, 4], [5, 6], [7, 8]]), jnp.array([4, 2])
    vectors, rest = at_embedding(model, params, ids)
    np.testing.assert_allclose(rest(vectors, lengths=lengths), model(params, ids, lengths=lengths)[0], rtol=1e-12)
    found = integrated_gradients(lambda v: rest(v, lengths=lengths)[:, 0], vectors)
    np.testing.assert_allclose(found.values.sum((0, 2)), found.difference, atol=1e-10)
    assert not np.any(found.values[2:, 1])
    with pytest.raises(TypeError, match="Embedding"):
        at_embedding(rj.Stack([rj.GRU(3)]), (), ids)


@pytest.mark.parametrize("tool", [saliency, integrated_gradients, occlusion])
@pytest.mark.parametrize("shape", [(T, B, 2), (2, B, 3), (T, 2), (2, 3)], ids=str)
def test_all_classes_are_no_number_for_each_row(tool: Any, shape: tuple[int, ...]) -> None:
    """Also where there are as many classes as features or steps."""
    with pytest.raises(ValueError, match=r"one number for each row.* choose one, such as the logit of a class"):
        tool(lambda xs: jnp.stack([xs.sum((0, -1)), xs[0].sum(-1)], -1), jnp.ones(shape))


def test_rows_on_any_axis() -> None:
    """Batch-major inputs, and images over time of which each is one row."""
    xs = jnp.asarray(np.random.default_rng(9).standard_normal((B, T, I)))
    f = lambda xs: jnp.sin(xs).sum((1, 2))  # noqa: E731
    np.testing.assert_allclose(saliency(f, xs, rows=(0,)), np.cos(xs), rtol=1e-12)
    np.testing.assert_allclose(gradient_times_input(f, xs, rows=(-3,)), xs * np.cos(xs), rtol=1e-12)
    found = occlusion(lambda xs: xs.sum((0, 2, 3)), jnp.ones((T, B, 4, 5)), rows=(1,))
    np.testing.assert_array_equal(found, np.full((T, B), 20.0))
    with pytest.raises(
        ValueError, match=r"for each row, \(6,\), .* got shape \(3,\): .* `rows=\(0,\)` for batch-major"
    ):
        saliency(f, xs)


def test_errors() -> None:
    f, xs, _ = classifier(7)
    with pytest.raises(TypeError, match="at_embedding"):
        saliency(f, jnp.ones((T, B, I), jnp.int32))
    with pytest.raises(
        ValueError, match=r"for each row, \(3,\), of inputs \(6, 3, 2\); got shape \(3, 7\): choose one"
    ):
        saliency(lambda xs: jnp.zeros((B, 7)) + xs.sum(), xs)
    for rows in ((3,), (0, 0), (1, -2)):
        with pytest.raises(ValueError, match=r"`rows` must be distinct axes of `xs`, of shape \(6, 3, 2\); got \("):
            saliency(pytest.fail, xs, rows=rows)
    for rows in (0, "1", (0.0,)):
        with pytest.raises(TypeError, match=r"`rows` must be None or a sequence of axes of `xs`, such as \(0,\); got"):
            saliency(pytest.fail, xs, rows=rows)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`f` must return"):
        saliency(lambda xs: xs.shape[0], xs)
    for shape in ((7, T, B, I), (5,)):
        with pytest.raises(ValueError, match=r"`baseline` must broadcast against `xs` \(6, 3, 2\); got"):
            integrated_gradients(f, xs, jnp.ones(shape))
    with pytest.raises(ValueError, match="`nodes`"):
        integrated_gradients(f, xs, nodes=0)
    with pytest.raises(ValueError, match="`window`"):
        occlusion(f, xs, window=T + 1)
    with pytest.raises(ValueError, match="same rows"):
        influence(f, xs)
