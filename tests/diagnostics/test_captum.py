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

TARGET, NODES = 1, 20
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
