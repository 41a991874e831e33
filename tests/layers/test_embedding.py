"""Embedding: rows of a table, and gradients that add up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax.flax import nnx as rnnx

KEY = jax.random.key(17)
F64 = jnp.float64


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "uint32"])
def test_takes_rows(close, dtype):
    layer = rj.Embedding(300, 2)
    params = layer.init(KEY, None, F64)
    ids = np.array([[1, 0], [127, 1]], dtype)
    ys, state = layer(params, ids)
    close(ys, np.asarray(params.w)[ids.astype(int)])
    assert state == ()
    assert layer.out_size() == layer.out_size(300) == 2


def test_gradient_adds_up_over_repeated_ids(close, draw):
    layer = rj.Embedding(4, 3)
    params = layer.init(KEY, 4, F64)
    ids, weight = np.array([[1, 0], [1, 1], [3, 0]]), draw(3, 2, 3)
    mask = np.array([[1, 1], [1, 0], [1, 1]], bool)
    wanted = np.zeros((4, 3))
    np.add.at(wanted, ids[mask], weight[mask])
    slopes = jax.grad(lambda own: (layer(own, ids, mask=mask)[0] * weight).sum())(params)
    close(slopes.w, wanted)


def test_gradient_adds_up_above_half_precision():
    """4096 ones in bfloat16 stop at 256."""
    layer = rj.Embedding(2, 1)
    params = layer.init(KEY, None, jnp.bfloat16)
    ys, pullback = jax.vjp(lambda own: layer(own, np.zeros(4096, int))[0], params)
    assert ys.dtype == jnp.bfloat16
    assert pullback(jnp.ones_like(ys))[0].w.tolist() == [[4096.0], [0.0]]


def test_initial_values():
    w = rj.Embedding(400, 100).init(KEY).w
    assert w.dtype == jnp.float32
    assert abs(float(w.mean())) < 0.02
    assert float(w.std()) == pytest.approx(1, abs=0.02)


def test_masked_ids_are_never_read(close):
    """The usual −1 for padding, concrete and traced."""
    layer = rj.Embedding(4, 3)
    params = layer.init(KEY, None, F64)
    ids, lengths = np.array([[1, 2], [-1, 3]]), np.array([1, 2])
    wanted = np.where((ids >= 0)[..., None], np.asarray(params.w)[ids], 0)
    close(layer(params, ids, lengths=lengths)[0], wanted)
    close(jax.jit(layer)(params, ids, lengths=lengths)[0], wanted)


def test_ids_out_of_range():
    layer = rj.Embedding(4, 3)
    params = layer.init(KEY, None, F64)
    ids = np.array([[1, -1], [3, 4]])
    with pytest.raises(ValueError, match=r"`xs` must hold ids in 0…V − 1 = 3; got values from -1 to 4"):
        layer(params, ids)
    with pytest.raises(ValueError, match=r"got values from 0 to 4"):
        layer(params, ids, mask=ids >= 0)
    ys, pullback = jax.vjp(jax.jit(lambda own, ids: layer(own, ids)[0]), params, ids)
    assert np.isnan(ys).all(-1).tolist() == [[False, True], [False, True]]
    assert not np.isnan(ys[:, 0]).any()
    fixed = jnp.array(ids)
    with pytest.raises(ValueError, match=r"`xs` must hold ids"):
        jax.jit(lambda own: layer(own, fixed)[0])(params)
    np.testing.assert_array_equal(pullback(jnp.ones_like(ys))[0].w, np.outer([0, 1, 0, 1], np.ones(3)))


def test_a_single_id_and_none(close):
    layer = rj.Embedding(4, 3)
    params = layer.init(KEY, None, F64)
    close(layer(params, np.int32(2))[0], params.w[2])
    assert layer(params, np.zeros((0, 2), int))[0].shape == (0, 2, 3)


@rj.struct
class Passed(rj.Elman):
    """The time that has passed, for all units, and no weights of it."""

    elapsed = True

    def project(self, params, x, noise=None):
        return x

    def step(self, params, state, z, noise=None):
        return rj.cells.ElmanState(state.h + z[1][..., None] * z[0].sum(-1, keepdims=True))


def test_elapsed_times_beside_ids(close, draw):
    layer, ids, dt = rj.Stack([rj.Embedding(4, 2), Passed(1)]), np.arange(6).reshape(3, 2) % 4, draw(3, 2) ** 2
    params = (rj.layers.EmbeddingParams(draw(4, 2)), jax.tree.map(np.zeros_like, Passed(1).init(KEY, 2, F64)))
    wanted = np.cumsum(dt * params[0].w[ids].sum(-1), axis=0)[..., None]
    close(layer(params, (ids, dt))[0], wanted)
    module = rnnx.Layer(layer, None, params=params)
    close(module((ids.T, dt.T)), np.swapaxes(wanted, 0, 1))


def test_elapsed_times_beside_ids_are_refused_where_they_do_not_fit():
    layer, ids, dt = rj.Stack([rj.Embedding(4, 2), rj.S5(3)]), np.zeros((3, 2), int), np.ones((3, 2))
    with pytest.raises(TypeError, match=r"must be ids x \(T, \*B\), or \(x, dt\) .*; got shapes \(3, 2\), \(3,\)"):
        layer(jax.eval_shape(layer.init, KEY), (ids, dt[:, 0]))
    for both in (rj.Bidirectional(layer), rj.Stack([rj.Embedding(4, 2), rj.Bidirectional(rj.S5(3))])):
        with pytest.raises(ValueError, match="cannot be read in both directions"):
            both(jax.eval_shape(lambda both=both: both.init(KEY, None)), (ids, dt))


def test_refuses_what_does_not_fit(draw):
    with pytest.raises(ValueError, match=r"`vocabulary` must be at least 1; got 0"):
        rj.Embedding(0, 3)
    with pytest.raises(TypeError, match=r"`size` must be a positive integer; got 2.5"):
        rj.Embedding(4, 2.5)
    layer = rj.Embedding(4, 3)
    with pytest.raises(ValueError, match=r"`in_size` must be None or the vocabulary, 4, because inputs are ids; got 3"):
        layer.init(KEY, 3)
    params = layer.init(KEY, None, F64)
    for wrong in (draw(2, 2), np.ones((2, 2), bool)):
        with pytest.raises(TypeError, match=r"`xs` must be integer ids \(T, \*B\); got (float64|bool)\(2, 2\)"):
            layer(params, wrong)
    ids = np.ones((2, 2), int)
    with pytest.raises(TypeError, match=r"`params` must be EmbeddingParams\(w=\(4, 3\)\); got ArrayImpl"):
        layer(params.w, ids)
    with pytest.raises(ValueError, match=r"`params.w` must be \(4, 3\) for Embedding\(.*\); got \(5, 3\)"):
        layer(rj.Embedding(5, 3).init(KEY), ids)
    with pytest.raises(ValueError, match=r"`lengths` must be \(\*B\) = \(2,\)"):
        layer(params, ids, lengths=np.array([1, 2, 2]))


def test_parameters_may_be_numpy_arrays():
    layer, ids = rj.Embedding(5, 3), np.array([[1, 4], [0, 1]])
    w = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    ys, _ = layer(rj.layers.EmbeddingParams(w), ids)
    np.testing.assert_array_equal(ys, w[ids])
