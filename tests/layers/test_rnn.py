"""RNN: a cell over time as a layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

KEY = jax.random.key(3)
F64 = jnp.float64


def test_is_unroll(elman, close, draw):
    xs = draw(5, 2, 3)
    layer = rj.RNN(rj.Elman(4))
    params = layer.init(KEY, 3, F64)
    close(params, rj.Elman(4).init(KEY, 3, F64))
    ys, state = layer(params, xs)
    close(ys, elman(params, xs))
    close(state.h, elman(params, xs)[-1])
    assert layer.causal
    assert layer.out_size(3) == 4


def test_continues_from_a_state(elman, close, draw):
    xs, h = draw(3, 2, 3), draw(2, 4)
    layer = rj.RNN(rj.Elman(4), remat="state", implementation="scan")
    params = layer.init(KEY, 3, F64)
    start = layer.initial_state(params, (2,), F64)
    assert start.h.dtype == F64
    close(start.h, np.zeros((2, 4)))
    close(layer(params, xs, rj.cells.ElmanState(jnp.array(h)))[0], elman(params, xs, h))


def test_backward_reverses_the_valid_part_of_each_row(elman, close, draw):
    xs, lengths = draw(4, 2, 3), np.array([4, 2])
    layer = rj.RNN(rj.Elman(4), reverse=True)
    params = layer.init(KEY, 3, F64)
    ys, state = layer(params, xs, lengths=lengths)
    for row, length in enumerate(lengths):
        alone = elman(params, xs[:length, row : row + 1][::-1])[:, 0]
        close(ys[:length, row], alone[::-1])
        close(state.h[row], alone[-1])
    assert not layer.causal
    assert layer.reversed() == rj.RNN(rj.Elman(4))


def test_passes_every_argument_on(close, draw):
    xs = draw(4, 3, 2)
    cell = rj.RecurrentDropout(rj.GRU(3), rate=0.5)
    params = cell.init(KEY, 2, F64)
    mask, reset = np.arange(12).reshape(4, 3) % 3 != 0, np.arange(12).reshape(4, 3) % 4 == 2
    lengths = np.array([4, 2, 3])
    wanted = rj.unroll(cell, params, xs, lengths=lengths, mask=mask, reset=reset, reverse=True, key=KEY)
    got = rj.RNN(cell, reverse=True)(params, xs, lengths=lengths, mask=mask, reset=reset, key=KEY)
    close(got, wanted)


def test_refuses_what_is_not_a_cell():
    with pytest.raises(TypeError, match=r"`cell` must be a cell, such as `rnnjax.LSTM\(128\)`; got Dense\(size=2\)"):
        rj.RNN(rj.Dense(2))
    with pytest.raises(TypeError, match=r"`cell` must be a cell"):
        rj.RNN(rj.RNN(rj.Elman(2)))
    with pytest.raises(ValueError, match=r"`remat` must be None"):
        rj.RNN(rj.Elman(2), remat=0)
    with pytest.raises(ValueError, match=r"`implementation` must be None, one of"):
        rj.RNN(rj.Elman(2), implementation="fast")
    with pytest.raises(TypeError, match=r"`in_size` must be a positive integer; got \(2, 2\)"):
        rj.Stack([rj.Bidirectional(rj.GRU(2), merge=None), rj.GRU(2)]).init(KEY, 3)


def test_functions_are_told_how_to_be_layers():
    """By doing what the message says: an activation is wrapped, and any other map is a class of the user's."""

    @rj.struct
    class Double(rj.Stateless):
        def apply(self, params, x, valid, key):
            return 2 * x

    words = r"got <.*; wrap an activation in `rnnjax.Activate\(f\)`; .* derive from `rnnjax.Stateless`"
    with pytest.raises(TypeError, match=rf"`layers\[1\]` must be a layer or a cell; {words}"):
        rj.Stack([rj.Dense(2), jnp.cos])
    ys, _ = rj.Stack([rj.Activate(jnp.cos), Double()])(((), ()), jnp.array([[0.0, np.pi]]))
    np.testing.assert_allclose(ys, [[2, -2]])


def test_backward_refuses_a_state(draw):
    layer = rj.RNN(rj.Elman(2), reverse=True)
    params = layer.init(KEY, 3, F64)
    with pytest.raises(ValueError, match=r"RNN\(Elman\(hidden_size=2\), reverse=True\) is not causal"):
        layer(params, draw(4, 2, 3), layer.initial_state(params, (2,), F64))
