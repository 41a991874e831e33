"""Residual: inputs added to outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

KEY = jax.random.key(11)
F64 = jnp.float64


def test_adds_its_inputs(elman, differences, close, draw):
    xs, weight = draw(3, 2, 3), draw(3, 2, 3)
    layer = rj.Residual(rj.Elman(3))
    params = layer.init(KEY, 3, F64)
    ys, state = layer(params, xs)
    close(ys, xs + elman(params, xs))
    close(state.h, elman(params, xs)[-1])
    slopes = jax.grad(lambda params, xs: (layer(params, xs)[0] * weight).sum(), argnums=(0, 1))(params, jnp.array(xs))
    wanted = differences(lambda both: ((both[1] + elman(*both)) * weight).sum(), (params, xs))
    close(slopes, wanted, 1e-7)
    assert layer.causal
    assert layer.out_size(3) == 3


def test_masked_steps_are_zero(close, draw):
    xs, mask = draw(3, 2, 4), np.array([[1, 0], [0, 1], [1, 1]], bool)
    layer = rj.Residual(rj.Bidirectional(rj.GRU(2)))
    params = layer.init(KEY, 4, F64)
    ys, _ = layer(params, np.where(mask[..., None], xs, np.nan), mask=mask)
    close(ys, layer(params, xs, mask=mask)[0])
    close(ys, np.where(mask[..., None], xs + layer.layer(params, xs, mask=mask)[0], 0))
    assert not layer.causal


def test_outputs_have_the_dtype_of_the_layer(draw):
    layer = rj.Residual(rj.Dense(2, compute_dtype="bfloat16"))
    ys, _ = layer(layer.init(KEY, 2, jnp.float32), jnp.asarray(draw(3, 1, 2), jnp.float32))
    assert ys.dtype == jnp.bfloat16


def test_refuses_what_does_not_fit(draw):
    with pytest.raises(TypeError, match=r"`layer` must be a layer or a cell; got 4"):
        rj.Residual(4)
    with pytest.raises(ValueError, match=r"`layer` must keep the time axis of the inputs that are added; got Mean\(\)"):
        rj.Residual(rj.Mean())
    layer = rj.Residual(rj.GRU(3))
    with pytest.raises(ValueError, match=r"adds inputs to outputs, which need one size; got 4 in and 3 out"):
        layer.init(KEY, 4)
    with pytest.raises(ValueError, match=r"need one size; got 4 in and \(2, 2\) out"):
        rj.Residual(rj.Bidirectional(rj.GRU(2), merge=None)).init(KEY, 4)
    with pytest.raises(ValueError, match=r"adds `xs` \(2, 1, 4\) to outputs of another shape; got float64\(2, 1, 3\)"):
        layer(rj.GRU(3).init(KEY, 4, F64), draw(2, 1, 4))
    with pytest.raises(TypeError, match=r"`xs` must be one array \(T, \*B, I\); got tuple"):
        layer(layer.init(KEY, 3, F64), (draw(2, 1, 3), draw(2, 1)))
