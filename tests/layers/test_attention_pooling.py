"""Attention pooling: its equations row by row, rows without a valid step, and weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

from .attended import random_like, softmax

MASK = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]], bool)
"""Rows with a hole, without any step, with both ends cut off, and whole."""
LAYER = rj.AttentionPooling(5)
PARAMS = random_like(1, jax.eval_shape(lambda: LAYER.init(jax.random.key(0), 3, jnp.float64)))


def by_hand(params, xs, mask):
    """Outputs (B, F) and weights (T, B)."""
    ys, weights = np.zeros(xs.shape[1:]), np.zeros(xs.shape[:2])
    for row in range(xs.shape[1]):
        steps = np.flatnonzero(mask[:, row])
        if len(steps):
            weights[steps, row] = softmax(
                np.array([params.v @ np.tanh(xs[t, row] @ params.w + params.b) for t in steps])
            )
        ys[row] = weights[:, row] @ np.where(mask[:, row, None], xs[:, row], 0)
    return ys, weights


@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
def test_values_and_gradients(differences, close, draw, padding):
    xs, weight = draw(4, 4, 3), draw(4, 3)
    filled = np.where(MASK[..., None], xs, padding)
    ys, state = LAYER(PARAMS, filled, mask=MASK)
    close((ys, LAYER.weights(PARAMS, filled, mask=MASK)), by_hand(PARAMS, xs, MASK))
    assert state == ()
    slopes = jax.grad(lambda params, xs: (LAYER(params, xs, mask=MASK)[0] * weight).sum(), argnums=(0, 1))
    wanted = differences(lambda arrays: (by_hand(*arrays, MASK)[0] * weight).sum(), (PARAMS, xs))
    close(slopes(PARAMS, jnp.asarray(filled)), wanted, 1e-7)


def test_lengths_and_all_steps(close, draw):
    xs, lengths = draw(4, 4, 3), np.array([4, 0, 1, 3])
    both = MASK & (np.arange(4)[:, None] < lengths)
    close(LAYER(PARAMS, xs, lengths=lengths, mask=MASK)[0], by_hand(PARAMS, xs, both)[0])
    close(LAYER.weights(PARAMS, xs, lengths=lengths, mask=MASK), by_hand(PARAMS, xs, both)[1])
    close(LAYER(PARAMS, xs)[0], by_hand(PARAMS, xs, np.ones_like(MASK))[0])
    close(LAYER(PARAMS, xs[:, 0])[0], by_hand(PARAMS, xs[:, :1], np.ones((4, 1), bool))[0][0])


def test_no_steps_give_zeros(close):
    close(LAYER(PARAMS, jnp.zeros((0, 2, 3)))[0], np.zeros((2, 3)))
    assert LAYER.weights(PARAMS, jnp.zeros((0, 2, 3))).shape == (0, 2)
    assert LAYER(PARAMS, jnp.zeros((3, 0, 3)))[0].shape == (0, 3)


def test_half_precision_adds_up_in_single():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    ys, _ = LAYER(params, jnp.ones((4096, 1, 3), jnp.bfloat16))
    assert ys.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ys.astype("float32"), 1)


def test_behind_a_recurrent_layer(draw):
    model = rj.Stack([rj.Bidirectional(rj.GRU(2)), LAYER, rj.Dense(2)])
    params = model.init(jax.random.key(0), 3)
    assert params[1].w.shape == (4, 5)
    assert model(params, draw(4, 2, 3), lengths=np.array([4, 0]))[0].shape == (2, 2)
    assert (LAYER.out_size(3), LAYER.keeps_time, LAYER.causal) == (3, False, False)
    assert LAYER.reversed() == LAYER


def test_refuses_what_does_not_fit(draw):
    xs = draw(4, 4, 3)
    with pytest.raises(ValueError, match=r"AttentionPooling\(size=5\) is not causal"):
        LAYER(PARAMS, xs, ())
    with pytest.raises(ValueError, match=r"`reset` marks several sequences in one row, and AttentionPooling"):
        LAYER(PARAMS, xs, reset=MASK)
    for call in (LAYER, LAYER.weights):
        with pytest.raises(ValueError, match=r"`params.w` must be \(2, 5\)"):
            call(PARAMS, xs[..., :2])
        with pytest.raises(ValueError, match=r"`lengths` must lie in 0…T = 4; got values from 1 to 5"):
            call(PARAMS, xs, lengths=np.array([1, 2, 5, 4]))
        with pytest.raises(TypeError, match=r"`xs` must be floating point"):
            call(PARAMS, np.ones((4, 4, 3), int))
    with pytest.raises(ValueError, match=r"`size` must be at least 1; got 0"):
        rj.AttentionPooling(0)
