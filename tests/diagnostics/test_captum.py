"""Attributions of an LSTM classifier against Captum's on the same weights, which `generate_captum.py` has made."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import rnnjax as rj
from rnnjax.cells.lstm import LSTMParams

TARGET, NODES, DEVIATION, DRAWS = 1, 20, 0.3, 20_000
OCCLUSIONS = {"single": (1, 1), "overlapping": (3, 1), "strided": (2, 2)}


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("captum.npz")) as archive:
        return dict(archive)


def logit(xs: Array) -> Array:
    """The target's logit (B) of inputs (T, B, I), with PyTorch's weights."""
    g = golden()
    bias = g["lstm.bias_ih_l0"] + g["lstm.bias_hh_l0"]
    params = LSTMParams(g["lstm.weight_ih_l0"].T, g["lstm.weight_hh_l0"].T, bias)
    ys, _ = rj.unroll(rj.LSTM(bias.size // 4), jax.tree.map(jnp.asarray, params), xs)
    return ys[-1] @ g["out.weight"][TARGET] + g["out.bias"][TARGET]


def test_integrated_gradients() -> None:
    g = golden()
    found = rj.diagnostics.integrated_gradients(logit, jnp.asarray(g["x"]), jnp.asarray(g["baseline"]), nodes=NODES)
    np.testing.assert_allclose(found.values, g["integrated"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["saliency", "times_input"])
def test_gradients(name: str) -> None:
    tool = rj.diagnostics.saliency if name == "saliency" else rj.diagnostics.gradient_times_input
    np.testing.assert_allclose(tool(logit, jnp.asarray(golden()["x"])), golden()[name], rtol=1e-8, atol=1e-10)


def test_tokens() -> None:
    """Captum integrates in the layer of the embedding, from the vector of token 0."""
    g = golden()
    ids, table = g["ids"].astype(int), g["embedding"]
    model = rj.Stack([rj.Embedding(len(table), table.shape[1]), rj.Dense(2)])
    params = (rj.layers.EmbeddingParams(jnp.asarray(table)), model.init(jax.random.key(0), None, jnp.float64)[1])
    vectors, _ = rj.diagnostics.at_embedding(model, params, jnp.asarray(ids))
    found = rj.diagnostics.integrated_gradients(logit, vectors, jnp.asarray(table[0]), nodes=NODES)
    np.testing.assert_allclose(found.values, g["tokens"], rtol=1e-8, atol=1e-10)


def test_means_over_draws() -> None:
    """Both sides draw for themselves. Seeds differ by 0.003 and 0.02 of the largest; without noise it would be 0.06."""
    g, key = golden(), jax.random.key(0)
    x, background = jnp.asarray(g["x"]), jnp.asarray(g["background"])[:, :, None]
    background = jnp.broadcast_to(background, (len(background), *x.shape))
    smooth = jax.jit(lambda x: rj.diagnostics.smooth_grad(logit, x, key, deviation=DEVIATION, samples=DRAWS))(x)
    expected = jax.jit(lambda x: rj.diagnostics.expected_gradients(logit, x, background, key, samples=DRAWS).values)(x)
    for found, name, share in ((smooth, "smooth", 0.006), (expected, "expected", 0.04)):
        np.testing.assert_allclose(found, g[name], rtol=0, atol=share * np.abs(g[name]).max())


@pytest.mark.parametrize("name", OCCLUSIONS)
def test_occlusion(name: str) -> None:
    """Captum gives every feature of a step the step's number, and adds up in float32."""
    g, (window, stride) = golden(), OCCLUSIONS[name]
    found = rj.diagnostics.occlusion(
        logit, jnp.asarray(g["x"]), jnp.asarray(g["baseline"]), window=window, stride=stride
    )
    np.testing.assert_allclose(
        np.broadcast_to(found[..., None], g["x"].shape), g[f"occlusion_{name}"], rtol=0, atol=3e-8
    )
