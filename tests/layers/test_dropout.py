"""Dropout: statistics, the same draws from the same key, one mask over time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

KEY = jax.random.key(19)
KINDS = {"dropout": rj.Dropout, "variational": rj.VariationalDropout}
each = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@each
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_mean_and_variance(kind, rate):
    """E y = 1 and Var y = rate / (1 − rate), to five standard errors."""
    steps, rows = (100, 10) if kind is rj.Dropout else (1, 1000)
    ys = np.asarray(kind(rate)((), jnp.ones((steps, rows, 100)), key=KEY)[0])
    draws = ys.size
    dropped = float((ys == 0).mean())
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / draws)
    assert abs(ys.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / draws)
    np.testing.assert_allclose(np.unique(ys), [0, 1 / (1 - rate)])


@each
def test_is_a_mask_on_the_inputs(close, draw, kind):
    xs = draw(4, 3, 5)
    layer = kind(0.5)
    factor = np.asarray(layer((), np.ones((4, 3, 5)), key=KEY)[0])
    ys, state = layer((), xs, key=KEY)
    close(ys, xs * factor)
    close(jax.grad(lambda xs: (layer((), xs, key=KEY)[0] * xs).sum())(jnp.array(xs)), 2 * xs * factor)
    assert state == layer.init(KEY, 5) == layer.initial_state((), (3,)) == ()


@each
def test_same_key_same_draws(kind):
    xs = jnp.ones((4, 3, 32))
    ys, _ = kind(0.5)((), xs, key=KEY)
    np.testing.assert_array_equal(ys, kind(0.5)((), xs, key=KEY)[0])
    assert np.any(ys != kind(0.5)((), xs, key=jax.random.key(20))[0])


def test_fresh_at_every_step():
    ys, _ = rj.Dropout(0.5)((), jnp.ones((4, 3, 32)), key=KEY)
    assert all(np.any(ys[0] != ys[t]) for t in range(1, 4))


def test_variational_mask_is_constant_over_time(close):
    layer = rj.VariationalDropout(0.5)
    ys, _ = layer((), jnp.ones((4, 3, 32)), key=KEY)
    close(ys, np.broadcast_to(ys[:1], ys.shape))
    assert np.any(ys[0, 0] != ys[0, 1])
    head, state = layer((), jnp.ones((1, 3, 32)), key=KEY)
    tail, _ = layer((), jnp.ones((3, 3, 32)), state, key=KEY)
    close(jnp.concatenate([head, tail]), ys)


@each
def test_nothing_happens_without_a_key_or_rate(close, draw, kind):
    xs = draw(4, 3, 5)
    close(kind(0.5)((), xs)[0], xs)
    close(kind(0)((), xs, key=KEY)[0], xs)
    assert kind(0) == kind(0.0)


@each
def test_masked_steps_are_zero(close, draw, kind):
    xs, lengths = draw(4, 3, 5), np.array([4, 0, 2])
    valid = (np.arange(4)[:, None] < lengths)[..., None]
    layer = kind(0.5)
    close(layer((), np.where(valid, xs, np.nan), lengths=lengths)[0], np.where(valid, xs, 0))
    wanted = np.where(valid, layer((), xs, key=KEY)[0], 0)
    close(layer((), np.where(valid, xs, np.nan), lengths=lengths, key=KEY)[0], wanted)


@each
def test_vmap_over_rates(close, kind):
    xs = jnp.ones((3, 2, 8))
    rates = jnp.array([0.0, 0.25, 0.75])
    ys = jax.jit(jax.vmap(lambda layer: layer((), xs, key=KEY)[0]))(kind(rates))
    for i, rate in enumerate(rates):
        close(ys[i], kind(rate)((), xs, key=KEY)[0])


@each
def test_one_rate_for_each_feature(kind):
    ys, _ = kind(jnp.array([0.0, 0.9999]))((), jnp.ones((5, 3, 2)), key=KEY)
    assert ys[..., 0].tolist() == np.ones((5, 3)).tolist()
    assert not np.any(ys[..., 1])


@each
def test_draws_are_constants(kind):
    slope = jax.grad(lambda rate: kind(rate)((), jnp.ones((3, 2, 8)), key=KEY)[0].sum())(0.5)
    assert float(slope) == 0


@each
def test_keeps_the_dtype(kind):
    for dtype in ("bfloat16", "float32", "float64"):
        assert kind(0.5)((), jnp.ones((2, 1, 3), dtype), key=KEY)[0].dtype == dtype


def test_dropout_needs_no_time(close):
    ys, _ = rj.Dropout(0.5)((), jnp.ones(1000), key=KEY)
    assert set(np.unique(ys)) == {0.0, 2.0}


@each
def test_refuses_what_does_not_fit(draw, kind):
    for rate, message in ((1.5, r"must lie in \[0, 1\]"), (1, "must be below 1"), (-0.1, r"must lie in \[0, 1\]")):
        with pytest.raises(ValueError, match=f"`rate` {message}"):
            kind(rate)
    with pytest.raises(TypeError, match=r"`rate` must be a number in \[0, 1\], or an array of them; got None"):
        kind(None)
    with pytest.raises(ValueError, match=r"`rate` must be one number or one for each feature, \(5,\)"):
        kind(jnp.array([0.1, 0.2]))((), draw(2, 1, 5), key=KEY)
    with pytest.raises(TypeError, match=r"`key` must be a JAX random key"):
        kind(0.5)((), draw(2, 1, 5), key=True)
    with pytest.raises(TypeError, match=r"`xs` must be floating point"):
        kind(0.5)((), np.ones((2, 1, 5), int))
    with pytest.raises(TypeError, match=r"`state` must be \(\) or None"):
        kind(0.5)((), draw(2, 1, 5), draw(1))
