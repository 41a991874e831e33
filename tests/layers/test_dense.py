"""Dense: the affine map on the last axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

KEY = jax.random.key(13)
F64 = jnp.float64


@pytest.mark.parametrize("lead", [(), (4,), (3, 2), (2, 0, 2), (2, 2, 2)])
def test_values_with_any_leading_axes(close, draw, lead):
    xs = draw(*lead, 3)
    layer = rj.Dense(2, activation=jnp.tanh)
    params = layer.init(KEY, 3, F64)
    params = params._replace(b=jnp.array([0.5, -1.0]))
    ys, state = layer(params, xs)
    close(ys, np.tanh(xs @ np.asarray(params.w) + np.asarray(params.b)))
    assert state == ()


@pytest.mark.parametrize("use_bias", [True, False])
def test_gradients(differences, close, draw, use_bias):
    xs, weight = draw(2, 2, 3), draw(2, 2, 2)
    layer = rj.Dense(2, activation="sigmoid", use_bias=use_bias)
    params = layer.init(KEY, 3, F64)

    def by_hand(both):
        (w, b), xs = both
        return (weight / (1 + np.exp(-(xs @ w + (0 if b is None else b))))).sum()

    slopes = jax.grad(lambda both: (layer(*both)[0] * weight).sum())((params, jnp.array(xs)))
    close(slopes, differences(by_hand, (params, xs)), 1e-7)
    assert (params.b is not None) == use_bias


def test_initial_values():
    params = rj.Dense(300).init(KEY, 200, jnp.float32)
    assert not np.any(params.b)
    limit = np.sqrt(6 / 500)
    assert np.abs(params.w).max() <= limit
    assert np.std(params.w) == pytest.approx(limit / np.sqrt(3), rel=0.01)


def test_masked_steps_are_zero_and_never_read(close, draw):
    xs, mask = draw(3, 2, 2), np.array([[1, 0], [0, 1], [1, 1]], bool)
    layer = rj.Dense(2, activation="sigmoid")
    params = layer.init(KEY, 2, F64)
    wanted = np.where(mask[..., None], layer(params, xs)[0], 0)
    spoilt = jnp.where(mask[..., None], xs, jnp.nan)
    close(layer(params, spoilt, mask=mask)[0], wanted)
    d_params, d_xs = jax.grad(lambda p, x: layer(p, x, mask=mask)[0].sum(), argnums=(0, 1))(params, spoilt)
    slope = wanted * (1 - wanted)
    close(d_params.b, slope.sum((0, 1)))
    close(d_params.w, np.einsum("tbi,tbo->io", np.where(mask[..., None], xs, 0), slope))
    close(d_xs, slope @ np.asarray(params.w).T)


def test_mask_of_steps_that_have_more_axes(close, draw):
    xs, mask = draw(3, 2, 5, 2), np.array([[1, 0], [0, 1], [1, 1]], bool)
    layer = rj.Dense(3, event_ndim=2)
    params = layer.init(KEY, 2, F64)
    close(layer(params, xs, mask=mask)[0], np.where(mask[..., None, None], layer(params, xs)[0], 0))


@pytest.mark.parametrize(
    ("xs", "params", "compute", "wanted"),
    [
        ("float32", "float32", None, "float32"),
        ("bfloat16", "bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", None, "float32"),
        ("float32", "float64", None, "float64"),
        ("float32", "float32", "bfloat16", "bfloat16"),
        ("float32", "float32", "float16", "float16"),
    ],
)
def test_dtypes(xs, params, compute, wanted):
    layer = rj.Dense(2, "tanh", compute_dtype=compute)
    params = layer.init(KEY, 3, params)
    assert layer(params, jnp.ones((2, 3), xs))[0].dtype == wanted
    slopes = jax.grad(lambda own: layer(own, jnp.ones((2, 3), xs))[0].astype(jnp.float32).sum())(params)
    assert {leaf.dtype for leaf in slopes} == {leaf.dtype for leaf in params}


def test_accumulates_above_half_precision():
    """4096 ones in bfloat16 stop at 256."""
    layer = rj.Dense(1, use_bias=False)
    params = rj.layers.DenseParams(jnp.ones((4096, 1), jnp.bfloat16), None)
    assert float(layer(params, jnp.ones((4096,), jnp.bfloat16))[0][0]) == 4096


def test_refuses_what_does_not_fit(draw):
    for size, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match=r"`size` must be"):
            rj.Dense(size)
    with pytest.raises(ValueError, match=r"unknown activation 'swish'"):
        rj.Dense(2, "swish")
    with pytest.raises(TypeError, match=r"`compute_dtype` must be a floating-point dtype .* got 'int8'"):
        rj.Dense(2, compute_dtype="int8")
    with pytest.raises(TypeError, match=r"`in_size` must be a positive integer; got \(3, 3\)"):
        rj.Dense(2).init(KEY, (3, 3))
    layer = rj.Dense(2)
    params = layer.init(KEY, 3, F64)
    with pytest.raises(TypeError, match=r"`params` must be what .* returns for Dense\(size=2\), DenseParams"):
        layer((), draw(2, 3))
    with pytest.raises(TypeError, match=r"`params` must be what"):
        rj.Dense(2, use_bias=False)(params, draw(2, 3))
    with pytest.raises(ValueError, match=r"`params\.w` must be \(4, 2\) for Dense\(size=2\) .* got \(3, 2\)"):
        layer(params, draw(2, 4))
    with pytest.raises(TypeError, match=r"`xs` must be floating point; got int64\(2, 3\)"):
        layer(params, np.ones((2, 3), int))
    with pytest.raises(TypeError, match=r"`xs` must be one array \(T, \*B, I\); got list"):
        layer(params, [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"`xs` must end in an axis of features, \(…, I\); got shape \(\)"):
        layer(params, np.float64(1))
    with pytest.raises(ValueError, match=r"`mask` must be \(T, \*B\) = \(2, 4\)"):
        layer(params, draw(2, 4, 3), mask=np.ones((2,), bool))
    with pytest.raises(TypeError, match=r"`reset` must be a boolean array"):
        layer(params, draw(2, 4, 3), reset=np.ones((2, 4)))
