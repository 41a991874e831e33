"""Bidirectional: two unrolls, one on rows flipped by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

KEY = jax.random.key(5)
F64 = jnp.float64
LENGTHS = np.array([4, 0, 2])
MERGES = {
    "concat": lambda f, b: np.concatenate([f, b], -1),
    "sum": lambda f, b: f + b,
    "mean": lambda f, b: (f + b) / 2,
    "product": lambda f, b: f * b,
    None: lambda f, b: (f, b),
}


def flip(values, lengths):
    """Each row with its own valid part the other way round, in NumPy."""
    flipped = np.zeros(values.shape)
    for row, length in enumerate(lengths):
        flipped[:length, row] = np.asarray(values)[:length, row][::-1]
    return flipped


def valid_part(values, lengths):
    return np.where((np.arange(len(values))[:, None] < lengths)[..., None], values, 0)


@pytest.mark.parametrize("merge", MERGES)
def test_is_two_unrolls(elman, close, draw, merge):
    xs = draw(4, 3, 2)
    layer = rj.Bidirectional(rj.Elman(3), merge=merge)
    params = layer.init(KEY, 2, F64)
    ys, state = layer(params, xs, lengths=LENGTHS)
    forward = valid_part(elman(params.forward, xs), LENGTHS)
    backward = valid_part(elman(params.backward, flip(xs, LENGTHS)), LENGTHS)
    close(ys, MERGES[merge](forward, flip(backward, LENGTHS)))
    ends = [(values[length - 1, row] if length else np.zeros(3)) for values in (forward, backward)
            for row, length in enumerate(LENGTHS)]  # fmt: skip
    close(np.concatenate([state.forward.h, state.backward.h]), np.array(ends))
    assert layer.out_size(2) == {"concat": 6, None: (3, 3)}.get(merge, 3)


def test_gradients(elman, differences, close, draw):
    xs, weight = draw(3, 2, 2), draw(3, 2, 4)
    lengths = np.array([3, 2])
    layer = rj.Bidirectional(rj.Elman(2))
    params = layer.init(KEY, 2, F64)

    def by_hand(params, xs):
        backward = flip(valid_part(elman(params.backward, flip(xs, lengths)), lengths), lengths)
        return np.concatenate([valid_part(elman(params.forward, xs), lengths), backward], -1)

    loss = jax.grad(lambda params, xs: (layer(params, xs, lengths=lengths)[0] * weight).sum(), argnums=(0, 1))
    wanted = differences(lambda both: (by_hand(*both) * weight).sum(), (params, xs))
    close(loss(params, jnp.array(xs)), wanted, 1e-7)


def test_with_mask_and_reset(close, draw):
    """A mask with holes, and a boundary that separates in both directions."""
    xs = draw(5, 2, 2)
    layer = rj.Bidirectional(rj.Elman(3))
    params = layer.init(KEY, 2, F64)
    mask = np.array([[1, 1], [0, 1], [1, 1], [1, 0], [1, 1]], bool)
    ys, _ = layer(params, xs, mask=mask)
    for row in range(2):
        close(ys[mask[:, row], row], layer(params, xs[mask[:, row], row])[0])
    reset = np.arange(5)[:, None].repeat(2, 1) == 2
    ys, _ = layer(params, xs, reset=reset)
    close(ys, jnp.concatenate([layer(params, xs[:2])[0], layer(params, xs[2:])[0]]))


def test_takes_two_layers(close, draw):
    xs = draw(4, 3, 2)
    layer = rj.Bidirectional(rj.LSTM(3), rj.Stack([rj.Dense(4), rj.GRU(2)]))
    params = layer.init(KEY, 2, F64)
    assert layer.out_size(2) == 5
    ys, state = layer(params, xs, lengths=LENGTHS)
    forward, lstm = rj.unroll(rj.LSTM(3), params.forward, xs, lengths=LENGTHS)
    dense, _ = rj.Dense(4)(params.backward[0], xs, lengths=LENGTHS)
    backward, gru = rj.unroll(rj.GRU(2), params.backward[1], dense, lengths=LENGTHS, reverse=True)
    close(ys, jnp.concatenate([forward, backward], -1))
    close(state, rj.layers.BidirectionalState(lstm, ((), gru)))
    close(layer.initial_state(params, (3,), F64), jax.tree.map(jnp.zeros_like, state))


def test_both_ends(close, draw):
    """Around a stack that keeps the last step, the two ends of each row."""
    xs = draw(4, 3, 2)
    layer = rj.Bidirectional(rj.Stack([rj.GRU(3), rj.Last()]))
    params = layer.init(KEY, 2, F64)
    ys, state = layer(params, xs, lengths=LENGTHS)
    close(ys, jnp.concatenate([state.forward[0].h, state.backward[0].h], -1))
    assert not layer.keeps_time


def test_each_direction_draws_its_own_noise(close, draw):
    xs = draw(2, 2, 8)
    layer = rj.Bidirectional(rj.Dropout(0.5), merge=None)
    (forward, backward), _ = layer(rj.layers.BidirectionalParams((), ()), xs, key=KEY)
    close(forward, rj.Dropout(0.5)((), xs, key=jax.random.fold_in(KEY, 0))[0])
    close(backward, rj.Dropout(0.5)((), xs, key=jax.random.fold_in(KEY, 1))[0])
    assert np.any(forward != backward)


def test_joins_unequal_dtypes(draw):
    layer = rj.Bidirectional(rj.Elman(2, compute_dtype="bfloat16"), rj.Elman(2))
    params = layer.init(KEY, 2, jnp.float32)
    assert layer(params, jnp.asarray(draw(3, 1, 2), jnp.float32))[0].dtype == jnp.float32


def test_starts_from_what_is_given(close, draw):
    """Each direction begins with its own state: the backward one behind every row's last valid step."""
    cell, xs = rj.LSTM(3), draw(4, 3, 2)
    layer = rj.Stack([rj.Bidirectional(cell), rj.RNN(rj.GRU(2), reverse=True), rj.Last()])
    params = layer.init(KEY, 2, F64)
    start = jax.tree.map(lambda leaf: draw(*leaf.shape), layer.initial_state(params, (3,), F64))
    ys, state = layer(params, xs, rj.Start(start), lengths=LENGTHS)
    both = params[0]
    f, last_f = rj.unroll(cell, both.forward, xs, start[0].forward, lengths=LENGTHS)
    b, last_b = rj.unroll(cell, both.backward, flip(xs, LENGTHS), start[0].backward, lengths=LENGTHS)
    middle = np.concatenate([f, flip(b, LENGTHS)], -1)
    top, last = rj.unroll(rj.GRU(2), params[1], flip(middle, LENGTHS), start[1], lengths=LENGTHS)
    close(ys, np.where(LENGTHS[:, None] > 0, flip(top, LENGTHS)[np.maximum(LENGTHS - 1, 0), np.arange(3)], 0))
    close(state[:2], (rj.layers.BidirectionalState(last_f, last_b), last))
    with pytest.raises(TypeError, match=r"`state` must be a BidirectionalState\(forward, backward\); got tuple"):
        layer.layers[0](both, xs, rj.Start(tuple(start[0])))


def test_a_start_of_a_causal_layer_is_its_state(close, draw):
    layer, xs = rj.Stack([rj.GRU(3), rj.Residual(rj.LSTM(3)), rj.CausalConv(2)]), draw(4, 3, 2)
    params = layer.init(KEY, 2, F64)
    start = jax.tree.map(lambda leaf: draw(*leaf.shape), layer.initial_state(params, (3,), F64))
    close(layer(params, xs, rj.Start(start)), layer(params, xs, start))


BACKWARDS = rj.RNN(rj.GRU(2), reverse=True)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (rj.GRU(2), BACKWARDS),
        (BACKWARDS, rj.GRU(2)),
        (rj.Block(rj.LRU(4)), rj.Block(rj.LRU(4), reverse=True)),
        (rj.Block(rj.LRU(4)), rj.Block(rj.RNN(rj.LRU(4), reverse=True))),
        (rj.SLSTMBlock(), rj.SLSTMBlock(reverse=True)),
        (rj.CausalConv(2), rj.CausalConv(2, reverse=True)),
        (rj.GRU(2), rj.Stack([rj.Dense(3), BACKWARDS, BACKWARDS])),
        (rj.Stack([rj.GRU(2), rj.Last()]), rj.Stack([rj.Stack([rj.Residual(BACKWARDS)]), rj.First()])),
        (rj.Stack([rj.Bidirectional(rj.GRU(2)), rj.GRU(2)]), rj.Gate(BACKWARDS, rj.Dense(2))),
    ],
    ids=lambda layer: repr(layer),
)
def test_a_half_that_runs_backwards_as_given_is_refused(forward, backward):
    with pytest.raises(
        ValueError, match=r"one of the two runs backwards, so that both would run in the same direction"
    ):
        rj.Bidirectional(forward, backward)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (BACKWARDS, BACKWARDS),
        (rj.Dense(2), BACKWARDS),
        (rj.Bidirectional(rj.GRU(2)), BACKWARDS),
        (rj.GRU(2), rj.Stack([rj.GRU(2), BACKWARDS])),
    ],
    ids=lambda layer: repr(layer),
)
def test_other_halves_are_not(forward, backward):
    layer = rj.Bidirectional(forward, backward)
    assert layer.reversed().reversed() == layer


def test_refuses_what_does_not_fit(draw):
    with pytest.raises(ValueError, match=r"`merge` must be one of 'concat', 'sum', 'mean', 'product', None; got 'max'"):
        rj.Bidirectional(rj.GRU(2), merge="max")
    with pytest.raises(TypeError, match=r"`forward` must be a layer or a cell; got None"):
        rj.Bidirectional(None)
    with pytest.raises(TypeError, match=r"`backward` must be a layer or a cell; got 'gru'"):
        rj.Bidirectional(rj.GRU(2), "gru")
    with pytest.raises(ValueError, match=r"only one of Last\(\) and RNN.* drops the time axis"):
        rj.Bidirectional(rj.Last(), rj.GRU(2))
    unequal = rj.Bidirectional(rj.GRU(2), rj.GRU(3), merge="sum")
    with pytest.raises(ValueError, match=r"`merge='sum'` needs outputs of equal sizes; got 2 forward and 3 backward"):
        unequal.init(KEY, 4)
    params = rj.Bidirectional(rj.GRU(2), rj.GRU(3)).init(KEY, 4, F64)
    with pytest.raises(ValueError, match=r"outputs of equal shapes; got \(3, 1, 2\) forward and \(3, 1, 3\) backward"):
        unequal(params, draw(3, 1, 4))
    layer = rj.Bidirectional(rj.GRU(2))
    with pytest.raises(TypeError, match=r"`params` must be BidirectionalParams\(forward, backward\); got tuple"):
        layer(tuple(params), draw(3, 1, 4))
    with pytest.raises(TypeError, match=r"`params` must be BidirectionalParams"):
        layer.initial_state(tuple(params))
    params = layer.init(KEY, 4, F64)
    with pytest.raises(ValueError, match=r"Bidirectional\(RNN\(GRU\(hidden_size=2\)\)\) is not causal"):
        layer(params, draw(3, 1, 4), layer.initial_state(params, (1,), F64))
    with pytest.raises(TypeError, match=r"`key` must be a JAX random key"):
        layer(params, draw(3, 1, 4), key="seed")
    layer = rj.Bidirectional(rj.CfC(2))
    with pytest.raises(TypeError, match=r"elapsed times dt \(T, \*B\); got shapes \(3, 1, 4\), \(3, 1, 4\)"):
        layer(layer.init(KEY, 4, F64), (draw(3, 1, 4), draw(3, 1, 4)))
