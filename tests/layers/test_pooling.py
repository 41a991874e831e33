"""Pooling over the valid steps, and rows that have none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

MASK = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]], bool)
"""Rows with a hole, without any step, with both ends cut off, and whole."""
POOLS = {
    "first": (rj.First(), lambda steps: steps[0]),
    "last": (rj.Last(), lambda steps: steps[-1]),
    "mean": (rj.Mean(), lambda steps: steps.mean(0)),
    "max": (rj.Max(), lambda steps: steps.max(0)),
}
each = pytest.mark.parametrize("name", POOLS)


def by_hand(function, xs, mask):
    rows = [xs[mask[:, row], row] for row in range(xs.shape[1])]
    return np.array([function(steps) if len(steps) else np.zeros(xs.shape[2:]) for steps in rows])


@each
def test_values(close, draw, name):
    layer, function = POOLS[name]
    xs = draw(4, 4, 3)
    ys, state = layer((), np.where(MASK[..., None], xs, np.nan), mask=MASK)
    close(ys, by_hand(function, xs, MASK))
    close(layer((), xs)[0], by_hand(function, xs, np.ones_like(MASK)))
    lengths = np.array([4, 0, 1, 3])
    both = MASK & (np.arange(4)[:, None] < lengths)
    close(layer((), xs, lengths=lengths, mask=MASK)[0], by_hand(function, xs, both))
    assert state == ()
    assert layer.out_size(3) == 3
    assert not layer.keeps_time


@each
def test_gradients(differences, close, draw, name):
    """Finite everywhere, zero at masked steps and in rows without any, NaN in the padding or not."""
    layer, function = POOLS[name]
    xs, weight = draw(4, 4, 2), draw(4, 2)
    wanted = differences(lambda xs: (by_hand(function, xs, MASK) * weight).sum(), xs)
    for padding in (0.0, np.nan, np.inf):
        filled = jnp.where(MASK[..., None], xs, padding)
        close(jax.grad(lambda xs: (layer((), xs, mask=MASK)[0] * weight).sum())(filled), wanted, 1e-8)


@each
def test_no_steps_give_zeros(close, name):
    layer, _ = POOLS[name]
    xs = jnp.zeros((0, 2, 3))
    for flags in ({}, {"lengths": np.zeros(2, int)}, {"mask": np.zeros((0, 2), bool)}):
        close(layer((), xs, **flags)[0], np.zeros((2, 3)))
        assert jax.grad(lambda xs, flags=flags: layer((), xs, **flags)[0].sum())(xs).shape == (0, 2, 3)
    nothing = jnp.full((3, 2, 1), jnp.nan)
    close(layer((), nothing, lengths=np.zeros(2, int))[0], np.zeros((2, 1)))
    assert layer((), jnp.zeros((3, 0, 2)))[0].shape == (0, 2)


@each
def test_steps_without_batch_and_with_more_axes(close, draw, name):
    layer, function = POOLS[name]
    xs = draw(4, 4, 5, 2)
    close(type(layer)(event_ndim=2)((), xs, mask=MASK)[0], by_hand(function, xs, MASK))
    close(layer((), xs[:, 0, 0], mask=MASK[:, 0])[0], by_hand(function, xs[:, :1, 0], MASK[:, :1])[0])


def test_max_of_negative_values_and_ties(close):
    xs = jnp.array([[[-3.0]], [[-1.0]], [[-1.0]]])
    ys, pullback = jax.vjp(lambda xs: rj.Max()((), xs, lengths=np.array([3]))[0], xs)
    close(ys, np.array([[-1.0]]))
    close(pullback(ys)[0], np.array([[[0.0]], [[-0.5]], [[-0.5]]]))


def test_mean_adds_up_above_half_precision():
    ys, _ = rj.Mean()((), jnp.ones((4096, 1, 1), jnp.bfloat16), lengths=np.array([4096]))
    assert ys.dtype == jnp.bfloat16
    assert float(ys[0, 0]) == 1


@each
def test_refuses_what_does_not_fit(draw, name):
    layer, _ = POOLS[name]
    label = type(layer).__name__
    xs = draw(4, 4, 2)
    with pytest.raises(ValueError, match=rf"{label}\(\) is not causal: it reads the whole sequence at once"):
        layer((), xs, ())
    with pytest.raises(
        ValueError, match=rf"`reset` marks several sequences in one row, and {label}\(\) has one output"
    ):
        layer((), xs, reset=MASK)
    with pytest.raises(ValueError, match=r"`xs` must be \(T, \*B, I\), at least 2 axes; got shape \(4,\)"):
        layer((), xs[:, 0, 0])
    with pytest.raises(TypeError, match=r"`xs` must be floating point"):
        layer((), np.ones((4, 4, 2), int))
    with pytest.raises(TypeError, match=r"`params` must be what"):
        layer((xs,), xs)
