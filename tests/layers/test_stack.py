"""Stack: the layers by hand, streaming, masks all the way through, keys, and what it refuses."""

from __future__ import annotations

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnnjax as rj
from rnnjax.flax import nnx as rnnx

KEY = jax.random.key(7)
F64 = jnp.float64
LENGTHS = np.array([4, 0, 2])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tower():
    return rj.Stack([rj.RNN(rj.LSTM(4)), rj.Dense(3, activation="tanh"), rj.Residual(rj.GRU(3)), rj.Elman(2)])


def every_kind():
    return rj.Stack(
        [
            rj.Dense(3, activation="sigmoid"),
            rj.Dropout(0.25),
            rj.Bidirectional(rj.Elman(2)),
            rj.VariationalDropout(0.25),
            rj.Residual(rj.Dense(4)),
            rj.GRU(2),
            rj.Dense(3),
        ]
    )


def test_textbook_model(elman, differences, close, draw):
    """h_t = f(W x_t + U h_{t-1} + b), y_t = g(W_y h_t + b_y), in values and gradients."""
    xs, weight = draw(5, 2, 3), draw(5, 2, 2)
    model = rj.Stack([rj.RNN(rj.Elman(4)), rj.Dense(2, activation="sigmoid")])
    params = model.init(KEY, 3, F64)
    ys, state = model(params, xs)

    def by_hand(params, xs):
        hidden, (w, b) = params
        return sigmoid(elman(hidden, xs) @ np.asarray(w) + np.asarray(b))

    close(ys, by_hand(params, xs))
    close(state, (rj.cells.ElmanState(elman(params[0], xs)[-1]), ()))
    slopes = jax.grad(lambda params, xs: (model(params, xs)[0] * weight).sum(), argnums=(0, 1))(params, jnp.array(xs))
    wanted = differences(lambda both: (by_hand(*both) * weight).sum(), (params, xs))
    close(slopes, wanted, 1e-7)


def test_is_its_layers_in_turn(close, draw):
    xs = draw(4, 3, 2)
    model = tower()
    params = model.init(KEY, 2, F64)
    ys, state = model(params, xs, lengths=LENGTHS)
    lstm, lstm_state = rj.unroll(rj.LSTM(4), params[0], xs, lengths=LENGTHS)
    valid = (np.arange(4)[:, None] < LENGTHS)[..., None]
    dense = np.where(valid, np.tanh(lstm @ params[1].w + np.broadcast_to(params[1].b, (4, 3, 3))), 0)
    gru, gru_state = rj.unroll(rj.GRU(3), params[2], dense, lengths=LENGTHS)
    wanted, elman_state = rj.unroll(rj.Elman(2), params[3], dense + gru, lengths=LENGTHS)
    close(ys, wanted)
    close(state, (lstm_state, (), gru_state, elman_state))
    assert model.out_size(2) == 2


def test_params_of_each_layer_come_from_its_own_key(close):
    model = rj.Stack([rj.Elman(4), rj.Dense(2)])
    longer = rj.Stack([rj.Elman(4), rj.Dense(2), rj.Dense(5)])
    params = model.init(KEY, 3, F64)
    close(longer.init(KEY, 3, F64)[:2], params)
    close(params[0], rj.Elman(4).init(jax.random.fold_in(KEY, 0), 3, F64))
    close(params[1], rj.Dense(2).init(jax.random.fold_in(KEY, 1), 4, F64))


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5), (0, 2, 2)])
def test_streams(close, draw, cuts):
    """Step by step, or in pieces of any length, 0 among them, is the same as at once."""
    xs = draw(6, 3, 2)
    mask = np.random.default_rng(1).random((6, 3)) < 0.7
    reset = np.random.default_rng(2).random((6, 3)) < 0.3
    model = rj.Stack([tower(), rj.Dense(2)])
    params = model.init(KEY, 2, F64)
    whole, last = model(params, xs, mask=mask, reset=reset)
    assert model.causal
    state = model.initial_state(params, (3,), F64)
    pieces = []
    for start, stop in zip((0, *cuts), (*cuts, 6), strict=True):
        ys, state = model(params, xs[start:stop], state, mask=mask[start:stop], reset=reset[start:stop])
        pieces.append(ys)
    close(jnp.concatenate(pieces), whole)
    close(state, last)


def test_nested_is_flat(close, draw):
    xs = draw(4, 3, 2)
    flat = tower()
    params = flat.init(KEY, 2, F64)
    nested = rj.Stack([rj.Stack(flat.layers[:2]), rj.Stack((rj.Stack(flat.layers[2:]),))])
    ys, state = nested((params[:2], (params[2:],)), xs, lengths=LENGTHS)
    wanted, last = flat(params, xs, lengths=LENGTHS)
    close(ys, wanted)
    close(state, (last[:2], (last[2:],)))


@pytest.mark.slow
def test_masked_steps_are_zero_and_nan_there_harms_nothing(close, draw):
    """Every kind of layer, with noise, in values and gradients."""
    xs, weight = draw(4, 3, 2), draw(4, 3, 3)
    model = every_kind()
    params = model.init(KEY, 2, F64)
    valid = np.arange(4)[:, None] < LENGTHS
    spoilt = np.where(valid[..., None], xs, np.nan)

    def loss(params, xs, flags):
        ys, state = model(params, xs, lengths=flags.get("lengths"), mask=flags.get("mask"), key=KEY)
        return (ys * weight).sum(), (ys, state)

    slopes, (ys, state) = jax.grad(loss, has_aux=True)(params, xs, {"lengths": LENGTHS})
    assert not np.any(np.asarray(ys)[~valid])
    assert np.all(np.asarray(ys)[valid] != 0)
    both = {"lengths": np.array([4, 1, 2]), "mask": valid}
    (d_params, d_xs), outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, jnp.array(spoilt), both)
    close(d_params, slopes)
    close(outputs, (ys, state))
    assert not np.any(np.asarray(d_xs)[~valid])


def test_rows_are_those_cut_to_their_length(close, draw):
    xs = draw(4, 3, 2)
    model = every_kind()
    params = model.init(KEY, 2, F64)
    ys, _ = model(params, xs, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        close(ys[:length, row], model(params, xs[:length, row])[0])


def test_reset_starts_anew_in_every_layer(close, draw):
    xs = draw(5, 2, 2)
    model = rj.Stack([rj.LSTM(3), rj.Bidirectional(rj.GRU(2)), rj.Dense(2)])
    params = model.init(KEY, 2, F64)
    ys, _ = model(params, xs, reset=np.array([[False, False]] * 3 + [[True, True], [False, False]]))
    close(ys, jnp.concatenate([model(params, xs[:3])[0], model(params, xs[3:])[0]]))


def test_layers_behind_pooling_get_no_flags(close, draw):
    xs = draw(4, 3, 2)
    model = rj.Stack([rj.GRU(3), rj.Last(), rj.Dropout(0.5), rj.Dense(2), rj.Residual(rj.Dense(2))])
    params = model.init(KEY, 2, F64)
    ys, state = model(params, xs, lengths=LENGTHS)
    h = rj.unroll(rj.GRU(3), params[0], xs, lengths=LENGTHS)[1].h
    first = h @ params[3].w + np.broadcast_to(params[3].b, (3, 2))
    close(ys, first + first @ params[4].w + np.broadcast_to(params[4].b, (3, 2)))
    assert not model.keeps_time
    assert not model.causal
    assert state[1:] == ((), (), (), ())


def test_draws_do_not_depend_on_the_layers_above(close, draw):
    xs = draw(4, 3, 8)
    low = rj.Stack([rj.Dropout(0.5), rj.Dropout(0.5)])
    high = rj.Stack([rj.Dropout(0.5), rj.Dropout(0.5), rj.Dropout(0.0)])
    close(low(((), ()), xs, key=KEY)[0], high(((), (), ()), xs, key=KEY)[0])
    once = rj.Dropout(0.5)((), xs, key=jax.random.fold_in(KEY, 0))[0]
    close(low(((), ()), xs, key=KEY)[0], rj.Dropout(0.5)((), once, key=jax.random.fold_in(KEY, 1))[0])
    close(low(((), ()), xs)[0], xs)


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (4, 2), (2, 2, 2, 2)])
def test_any_batch_shape(close, draw, shape):
    model = every_kind()
    params = model.init(KEY, 2, F64)
    xs = draw(*shape)
    ys, _ = model(params, xs)
    assert ys.shape == (*shape[:-1], 3)
    if len(shape) == 4:
        close(ys[:, 1], model(params, xs[:, 1])[0])


def test_embeds_tokens(close):
    ids = np.array([[1, 4], [0, -1]])
    model = rj.Stack([rj.Embedding(5, 3), rj.GRU(2)])
    params = model.init(KEY, None, F64)
    ys, _ = model(params, ids, lengths=np.array([2, 1]))
    close(ys[:, 0], rj.unroll(rj.GRU(2), params[1], params[0].w[jnp.array([1, 0])])[0])
    assert not np.any(ys[1, 1])


def test_is_a_value(draw):
    model = every_kind()
    assert model == pickle.loads(pickle.dumps(model)) == dataclasses.replace(model)
    assert hash(model) == hash(every_kind())
    assert model != rj.Stack(model.layers[:-1])
    assert repr(rj.Stack([rj.Elman(2), rj.Dense(3)])) == "Stack((RNN(Elman(hidden_size=2)), Dense(size=3)))"


def test_runs_under_jit_and_vmap(close, draw):
    """The stack is an argument: its rate and its parameters have an axis of models."""
    xs = draw(3, 2, 4)
    rates = jnp.array([0.0, 0.5])
    many = rj.Stack([rj.Dropout(rates), rj.Dense(2)])
    params = jax.vmap(lambda key: rj.Stack([rj.Dropout(0.5), rj.Dense(2)]).init(key, 4, F64))(jax.random.split(KEY))
    ys = jax.jit(jax.vmap(lambda model, own: model(own, xs, key=KEY)[0]))(many, params)
    for i in range(2):
        one = rj.Stack([rj.Dropout(rates[i]), rj.Dense(2)])
        close(ys[i], one(jax.tree.map(lambda leaf, i=i: leaf[i], params), xs, key=KEY)[0])


def test_half_precision_stays_half(draw):
    model = rj.Stack(
        [rj.LSTM(3, compute_dtype="bfloat16"), rj.Residual(rj.Dense(3, compute_dtype="bfloat16")), rj.Dropout(0.5)]
    )
    params = model.init(KEY, 2, jnp.float32)
    ys, state = model(params, jnp.asarray(draw(3, 2, 2), jnp.bfloat16), key=KEY)
    assert ys.dtype == jnp.bfloat16
    assert state[0].c.dtype == jnp.float32


def test_refuses_layers_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`layers` must hold at least one layer; got none"):
        rj.Stack([])
    with pytest.raises(TypeError, match=r"`layers` must be a list or tuple of layers; got Dense\(size=2\)"):
        rj.Stack(rj.Dense(2))
    with pytest.raises(TypeError, match=r"`layers\[1\]` must be a layer or a cell; got .*such as `GRU\(8\)`"):
        rj.Stack([rj.Dense(2), rj.GRU])
    with pytest.raises(TypeError, match=r"`layers\[0\]` must be a layer or a cell; got 3"):
        rj.Stack([3])
    with pytest.raises(ValueError, match=r"`layers\[2\]` needs a time axis, which a layer below drops; got RNN"):
        rj.Stack([rj.Mean(), rj.Dense(2), rj.Stack([rj.Dense(3), rj.GRU(2)]).layers[1]])
    with pytest.raises(ValueError, match=r"`layers\[1\]` needs a time axis"):
        rj.Stack([rj.Stack([rj.GRU(2), rj.Last()]), rj.Stack([rj.Dense(2), rj.Max()])])


def test_refuses_arguments_that_do_not_fit(draw):
    model = rj.Stack([rj.GRU(3), rj.Dense(2)])
    params = model.init(KEY, 2, F64)
    xs = draw(4, 3, 2)
    state = model.initial_state(params, (3,), F64)
    with pytest.raises(TypeError, match=r"`params` must be a tuple with one entry for each layer; got DenseParams"):
        model(params[1], xs)
    with pytest.raises(ValueError, match=r"`params` must have 2 entries, one for each layer of RNN.*; got 1"):
        model(params[:1], xs)
    with pytest.raises(ValueError, match=r"`params` must have 2 entries"):
        model.initial_state(params[:1])
    with pytest.raises(TypeError, match=r"`params` must be what .* returns for GRU\(hidden_size=3\)"):
        model(params[::-1], xs)
    with pytest.raises(TypeError, match=r"`state` must be a tuple with one entry for each layer; got GRUState"):
        model(params, xs, state[0])
    with pytest.raises(ValueError, match=r"`state` must have 2 entries"):
        model(params, xs, (*state, ()))
    with pytest.raises(TypeError, match=r"`state` must be GRUState"):
        model(params, xs, state[::-1])
    with pytest.raises(
        TypeError, match=r"`state` must be \(\) or None, because Dense\(size=2\) has none; got GRUState"
    ):
        model(params, xs, (state[0], state[0]))
    with pytest.raises(ValueError, match=r"`lengths` must lie in 0…T = 4; got values from 1 to 5"):
        model(params, xs, lengths=np.array([1, 5, 2]))
    with pytest.raises(ValueError, match=r"`mask` must be \(T, \*B\) = \(4, 3\)"):
        model(params, xs, mask=np.ones((3, 4), bool))
    with pytest.raises(TypeError, match=r"`key` must be a JAX random key"):
        model(params, xs, key=3)
    with pytest.raises(TypeError, match=r"`key` must be a JAX random key"):
        model.init(3, 2)
    with pytest.raises(TypeError, match=r"`in_size` must be a positive integer; got None"):
        model.init(KEY, None)
    streamless = rj.Stack([rj.GRU(3), rj.Bidirectional(rj.GRU(2))])
    with pytest.raises(ValueError, match=r"Stack.* is not causal: it reads the whole sequence at once"):
        streamless(streamless.init(KEY, 2, F64), xs, (state[0], None))


@rj.struct
class AddChannel(rj.Stateless):
    """Features (T, *B, F) as F places with one channel."""

    def out_size(self, in_size):
        return 1

    def apply(self, params, x, valid, key):
        return x[..., None]


def test_inputs_have_the_axes_of_the_layer_behind_those_that_keep_them(close, draw):
    """Without T for a place: a layer below the convolution takes places for rows and says nothing of them."""
    conv, xs = rj.ConvLSTM(2, (4, 4)), draw(3, 4, 4, 4, 1)  # (B, T = 4, S, S, I)
    stack = rj.Stack([rj.Dropout(0.1), rj.Stack([rj.LayerNorm(), conv]), rj.Dense(2)])
    assert stack.event_ndim == 3
    assert not stack.keeps_axes
    params = stack.init(KEY, 1, F64)
    wanted = stack(params, jnp.moveaxis(jnp.asarray(xs), 1, 0))[0]
    module = rnnx.Layer(stack, 1, params=params, deterministic=True, param_dtype=F64)
    close(module(jnp.asarray(xs)), np.moveaxis(np.asarray(wanted), 0, 1))


def test_ids_become_features(close):
    assert rj.Stack([rj.Embedding(9, 4), rj.LSTM(4)]).event_ndim == 0
    assert rj.Stack([rj.Stack([rj.Embedding(9, 4)]), rj.Dropout(0.1), rj.LSTM(4)]).event_ndim == 0
    stack, ids = rj.Stack([rj.Embedding(9, 4), rj.ConvLSTM(2, (5,))]), np.arange(30).reshape(3, 2, 5) % 9
    assert stack.event_ndim == 0  # also of ids (T, *B, S)
    module = rnnx.Layer(stack, None, rngs=nnx.Rngs(0), time_major=True, param_dtype=F64)
    vectors = np.asarray(module.params[0].w)[ids]
    close(module(jnp.asarray(ids)), rj.unroll(stack.layers[1].cell, module.params[1], jnp.asarray(vectors))[0])


def test_the_axes_behind_a_layer_that_adds_one_are_its_own(close, draw):
    conv, xs = rj.ConvLSTM(2, (4,)), draw(3, 4, 4)  # (B, T = 4, F = 4)
    for below in (
        [AddChannel()],
        [rj.LayerNorm(), AddChannel()],
        [rj.Stack([rj.Residual(rj.LayerNorm())]), AddChannel()],
    ):
        assert rj.Stack([*below, conv]).event_ndim == 1
    module = rnnx.Layer(rj.Stack([AddChannel(), conv]), 4, rngs=nnx.Rngs(0), param_dtype=F64)
    wanted = rj.unroll(conv, module.params[1], jnp.asarray(np.swapaxes(xs, 0, 1)[..., None]))[0]
    close(module(jnp.asarray(xs)), np.swapaxes(np.asarray(wanted), 0, 1))
