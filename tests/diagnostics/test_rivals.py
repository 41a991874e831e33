"""The convolutional network and the Transformer against their equations in NumPy, and what their outputs can see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax.diagnostics import TCN, CausalTransformer, ModuleLayer

B, T, I = 2, 12, 3  # noqa: E741
X = np.random.default_rng(0).standard_normal((B, T, I))


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Flax mixes ranks and dtypes, which the strict settings refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def random_params(module: Any, seed: int, positive: bool = False) -> Any:
    shapes = jax.eval_shape(module.init, jax.random.key(0), X)["params"]
    rng = np.random.default_rng(seed)
    draw = jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape), shapes)
    return jax.tree.map(np.abs, draw) if positive else draw


def run(module: Any, params: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(module.apply)({"params": params}, x))


def seen(module: Any, params: Any) -> np.ndarray:
    """Whether output t changes when input s does, (t, s), for outputs with a positive share of every path."""
    x = np.abs(X[0])
    apply = jax.jit(module.apply)
    before = np.asarray(apply({"params": params}, x))
    moved = [np.asarray(apply({"params": params}, x + (np.arange(T) == s)[:, None])) for s in range(T)]
    return np.stack([np.abs(after - before).max(-1) > 1e-12 for after in moved], axis=1)


def test_tcn_against_its_equations() -> None:
    module = TCN(4, levels=2, kernel_size=2)
    params = random_params(module, 1)

    def conv(own: Any, x: np.ndarray, dilation: int) -> np.ndarray:
        w = (own["g"] * own["v"] / np.linalg.norm(own["v"], axis=0)).reshape(2, x.shape[-1], 4)
        past = [np.concatenate([np.zeros((B, dilation * k, x.shape[-1])), x], 1)[:, :T] for k in range(2)]
        return past[0] @ w[0] + past[1] @ w[1] + own["b"]

    y = X
    for level in range(2):
        inner = np.maximum(conv(params[f"CausalConv_{2 * level}"], y, 2**level), 0)
        inner = np.maximum(conv(params[f"CausalConv_{2 * level + 1}"], inner, 2**level), 0)
        skip = y @ params["Dense_0"]["kernel"] if level == 0 else y
        y = np.maximum(inner + skip, 0)
    np.testing.assert_allclose(run(module, params, X), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("levels", "kernel_size", "field"), [(1, 2, 3), (2, 2, 7), (1, 3, 5), (3, 3, 29)])
def test_tcn_sees_its_receptive_field(levels: int, kernel_size: int, field: int) -> None:
    """Positive weights and inputs, so that no rectifier closes a path."""
    module = TCN(2, levels, kernel_size)
    assert module.receptive_field == field
    back = np.arange(T)[:, None] - np.arange(T)
    np.testing.assert_array_equal(seen(module, random_params(module, 2, positive=True)), (back >= 0) & (back < field))


def norm(own: Any, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * own["scale"] + own["bias"]


def affine(own: Any, x: np.ndarray) -> np.ndarray:
    return x @ own["kernel"] + own["bias"]


def test_transformer_against_its_equations() -> None:
    """One block of two heads of two numbers; the fifth number of the width is in none of the heads' sizes."""
    module = CausalTransformer(5, blocks=1, heads=2)
    params = random_params(module, 3)
    times = np.arange(T)[:, None]
    rates = 10_000.0 ** -(np.array([0, 0, 2, 2, 4]) / 5)
    positions = np.where(np.arange(5) % 2 == 0, np.sin(times * rates), np.cos(times * rates))
    x = affine(params["Dense_0"], X) + positions
    own, inner = params["MultiHeadDotProductAttention_0"], norm(params["LayerNorm_0"], x)
    q, k, v = (
        np.einsum("btw,whd->bthd", inner, own[name]["kernel"]) + own[name]["bias"] for name in ("query", "key", "value")
    )
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(2)
    scores = np.where(np.tri(T, dtype=bool), np.exp(scores), 0)
    weights = scores / scores.sum(-1, keepdims=True)
    mixed = np.einsum("bhts,bshd->bthd", weights, v)
    x = x + np.einsum("bthd,hdw->btw", mixed, own["out"]["kernel"]) + own["out"]["bias"]
    hidden = affine(params["Dense_1"], norm(params["LayerNorm_1"], x))
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    x = x + affine(params["Dense_2"], hidden)
    np.testing.assert_allclose(run(module, params, X), norm(params["LayerNorm_2"], x), rtol=1e-5, atol=1e-5)


def test_transformer_sees_the_past_alone() -> None:
    module = CausalTransformer(5, blocks=1, heads=2)
    np.testing.assert_array_equal(seen(module, random_params(module, 4)), np.tri(T, dtype=bool))


def test_transformer_of_a_width() -> None:
    """Two blocks of four heads, whose numbers are the width together; as wide on the way out."""
    layer = rj.diagnostics.transformer(8)
    params = jax.eval_shape(lambda key: layer.init(key, I, jnp.float32), jax.random.key(0))
    queries = [own["query"]["kernel"].shape for name, own in params.items() if "Attention" in name]
    assert queries == [(8, 4, 2)] * 2
    assert layer.out_size(I) == 8


def test_module_layer() -> None:
    """Time-major, any batch axes, padding that is not read, the whole sequence or nothing."""
    layer = ModuleLayer(TCN(4, levels=1))
    params = random_params(layer.module, 5)
    xs = jnp.asarray(X.swapaxes(0, 1))
    wanted = run(layer.module, params, X).swapaxes(0, 1)
    call = jax.jit(layer)
    np.testing.assert_allclose(call(params, xs[:, 0])[0], wanted[:, 0])
    ys, _ = call(params, xs.at[5:, 0].set(jnp.nan), lengths=jnp.array([5, T]))
    np.testing.assert_allclose(ys[:5, 0], wanted[:5, 0])
    np.testing.assert_allclose(ys[:, 1], wanted[:, 1])
    assert not np.any(ys[5:, 0])
    assert layer.out_size(I) == 4
    shapes = jax.eval_shape(lambda key: layer.init(key, I, jnp.bfloat16), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}
    assert layer == ModuleLayer(TCN(4, levels=1))
    assert layer != ModuleLayer(TCN(4, levels=2))
    with pytest.raises(ValueError, match="not causal"):
        layer(params, xs, ())


def test_as_deep_as_it_takes() -> None:
    for steps in (1, 5, 6, 13, 14, 100):
        module = rj.diagnostics.tcn(2, steps).module
        assert module.receptive_field >= steps
        assert module.levels == 1 or TCN(2, module.levels - 1).receptive_field < steps


def test_errors() -> None:
    with pytest.raises(ValueError, match="`levels` must be at least 1"):
        TCN(4, levels=0)
    with pytest.raises(TypeError, match="`width` must be a positive integer"):
        CausalTransformer(4.0)  # type: ignore[arg-type]
