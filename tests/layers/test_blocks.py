"""Residual blocks and what they are made of, against NumPy, in pieces and with flags."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import rnnjax as rj

KEY = jax.random.key(3)
F64 = jnp.float64
T, B, D = 7, 2, 3


def drawn(layer: rj.Layer, size: int = D) -> Any:
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: layer.init(KEY, size, F64))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.6, size=leaf.shape), shapes)


def fields(params: Any) -> dict[str, np.ndarray]:
    return params._asdict()


def norm(x: Any, scale: Any, bias: Any = None) -> Any:
    if bias is None:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


def gelu(x: Any) -> Any:
    """By the tanh that the papers' code takes."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


def conv(x: Any, w: Any, b: Any) -> Any:
    out = np.zeros_like(x)
    for t in range(len(x)):
        for k in range(len(w)):
            if t >= k:
                out[t] += w[k] * x[t - k]
    return out + b


def lru_block(p: Any, x: Any) -> Any:
    first, taps, core, _, _, gated, _ = p
    u = conv(norm(x, *first), *taps)
    zero = np.zeros((x.shape[1], len(core.nu)))
    u = gelu(references.lru(u, **fields(core), re=zero, im=zero)[0])
    return x + dense(u, *gated.layer) * references.sigmoid(dense(u, *gated.gate))


def half_gated_block(p: Any, x: Any) -> Any:
    first, core, _, _, gated, _ = p
    zero = np.zeros((x.shape[1], len(core.phase)))
    u = gelu(references.s5(norm(x, *first), **fields(core), re=zero, im=zero, discretization="zoh")[0])
    return x + u * references.sigmoid(dense(u, *gated.gate))


def griffin(p: Any, x: Any) -> Any:
    (first, mixing, out), (second, hidden, back) = p
    v = norm(x, *first)
    h = conv(dense(v, *mixing.layer[0]), *mixing.layer[1])
    h = references.rg_lru(h, **fields(mixing.layer[2]), h=np.zeros(h.shape[1:]))[0]
    u = x + dense(gelu(dense(v, *mixing.gate)) * h, *out)
    v = norm(u, *second)
    return u + dense(gelu(dense(v, *hidden.gate)) * dense(v, *hidden.layer), *back)


def min_gru(p: Any, x: Any) -> Any:
    (first, taps, core, out), (second, hidden, back) = p
    h = np.zeros((x.shape[1], core.w.shape[1] // 2))
    h = references.min_gru(conv(norm(x, *first), *taps), **fields(core), h=h)[0]
    u = x + dense(h, *out)
    return u + dense(gelu(dense(norm(u, *second), *hidden)), *back)


def heads_norm(x: Any, scale: Any, bias: Any, heads: int) -> Any:
    size = x.shape[-1] // heads
    parts = [slice(a * size, (a + 1) * size) for a in range(heads)]
    return np.concatenate([norm(x[..., part], scale[part], bias[part]) for part in parts], -1)


def diagonal(blocks: Any) -> Any:
    """Blocks (G, S, E) on the diagonal of a matrix (G·S, G·E)."""
    groups, size, out = blocks.shape
    whole = np.zeros((groups * size, groups * out))
    for g, block in enumerate(blocks):
        whole[g * size : (g + 1) * size, g * out : (g + 1) * out] = block
    return whole


def swish(x: Any) -> Any:
    return x * references.sigmoid(x)


def mlstm_block(p: Any, x: Any) -> Any:
    """By the plain mLSTM of (c, u): its output gate, shut by no input, halves what is read."""
    first, gated, out = p
    up, (taps, _), core = gated.layer
    v = norm(x, *first)
    u = dense(v, *up)
    c = swish(conv(u, *taps))
    size = u.shape[-1]
    zero = np.zeros((size, size))
    w = np.block([[diagonal(core.w[0]), diagonal(core.w[1]), zero, zero], [zero, zero, np.eye(size), zero]])
    start = {"h": (B, size), "c": (B, 2, size // 2, size // 2), "n": (B, 2, 2, size // 2), "m": (B, 2)}
    h = (
        2
        * references.mlstm(
            np.concatenate([c, u], -1),
            w=w,
            b=np.zeros(4 * size),
            w_gates=core.w_gates,
            b_gates=core.b_gates,
            heads=2,
            **{name: np.zeros(shape) for name, shape in start.items()},
        )[0]
    )
    return x + dense((heads_norm(h, *core.norm, 2) + core.skip * c) * swish(dense(v, *gated.gate)), *out)


def slstm_block(p: Any, x: Any) -> Any:
    first, (taps, _), core, second, gated, out = p
    v = norm(x, *first)
    c = swish(conv(v, *taps))
    i, f, z, o = (diagonal(part) for part in np.split(core.w, 4, -1))
    zero = np.zeros_like(i)
    start = {name: np.zeros((B, D)) for name in ("h", "c", "n")}
    h = references.slstm(
        np.concatenate([c, v], -1),
        w=np.block([[i, f, zero, zero], [zero, zero, z, o]]),
        u=core.u,
        b=core.b,
        m=np.full((B, D), -1e30),
        heads=3,
        **start,
    )[0]
    g = heads_norm(h, *second, 3)
    return x + dense(gelu(dense(g, *gated.gate)) * dense(g, *gated.layer), *out)


BLOCKS = [
    (rj.Block(rj.LRU(2), conv=2), lru_block),
    (rj.Block(rj.S5(2), gate="half"), half_gated_block),
    (rj.GriffinBlock(width=4, conv=3), griffin),
    (rj.MinGRUBlock(), min_gru),
    (rj.MLSTMBlock(heads=2, projection=2), mlstm_block),
    (rj.SLSTMBlock(heads=3), slstm_block),
]


@pytest.mark.parametrize(("block", "published"), BLOCKS, ids=lambda value: type(value).__name__)
def test_blocks_are_their_papers(block: rj.Layer, published: Callable[..., Any], draw: Any, close: Any) -> None:
    params, xs = drawn(block), draw(T, B, D)
    ys, _ = jax.jit(block)(params, xs)
    close(ys, published(params, xs), 1e-10)


def test_a_block_drops_twice_the_same_at_every_step(close: Any) -> None:
    """With a core of ones, what reaches the gated layer and what leaves it are 0 or 1 / (1 − p)."""
    rate, size = 0.4, 400
    block = rj.Block(rj.Dense(size), conv=None, dropout=rate)
    params = jax.tree.map(jnp.zeros_like, block.init(KEY, size))
    _, core, *middle, gated, last = params
    ones = core._replace(b=jnp.full(size, 50.0))  # gelu is then the identity
    gate = gated.gate._replace(b=jnp.full(size, 50.0))
    eye = gated.layer._replace(w=jnp.eye(size))
    params = type(params)((params[0], ones, *middle, gated._replace(layer=eye, gate=gate), last))
    xs = jnp.zeros((3, 2, size))
    close(block(params, xs)[0], 50 * np.ones_like(xs), 1e-5)
    ys = np.asarray(block(params, xs, key=KEY)[0]) / 50
    close(ys, np.broadcast_to(ys[0], ys.shape), 0)
    close(block(params, xs[:1], key=KEY)[0][0] / 50, ys[0], 0)  # a piece of the stream, with the same key
    kept = np.isclose(ys[0], 1 / (1 - rate) ** 2, rtol=1e-5)
    assert np.isclose(ys[0][~kept], 0).all()
    assert (np.abs(kept.mean(1) - (1 - rate) ** 2) < 5 * np.sqrt(0.25 / size)).all()
    assert (kept[0] != kept[1]).any()


def test_a_block_of_a_convolutional_core(draw: Any, close: Any) -> None:
    """Lengths cover time, and none of the axes behind the batch."""
    block = rj.Block(rj.ConvLSTM(D, (2, 2)))
    params, xs = drawn(block), draw(4, 2, 2, 2, D)
    ys, _ = jax.jit(block)(params, xs, lengths=jnp.array([4, 2]))
    first, core, _, _, gated, _ = params
    zero = np.zeros((2, 2, 2, D))
    u = gelu(references.conv_lstm(norm(xs, *first), **fields(core), h=zero, c=zero)[0])
    wanted = xs + dense(u, *gated.layer) * references.sigmoid(dense(u, *gated.gate))
    wanted[2:, 1] = 0
    close(ys, wanted, 1e-10)


def test_a_block_without_dropout_draws_nothing(draw: Any) -> None:
    def draws(dropout: Any) -> bool:
        block = rj.Block(rj.Dense(D), dropout=dropout)
        params = jax.eval_shape(lambda: block.init(KEY, D, F64))
        return "random_bits" in str(jax.make_jaxpr(partial(block, key=KEY))(params, draw(T, B, D)))

    assert draws(0.1)
    assert draws(jnp.float64(0))  # under `jit` any number
    assert not draws(0)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "published"), BLOCKS, ids=lambda value: type(value).__name__)
def test_blocks_stream_step_by_step(block: rj.Layer, published: Callable[..., Any], draw: Any, close: Any) -> None:
    model = rj.Stack([rj.Dense(6), block, block])
    params, xs = drawn(model), draw(T, B, D)
    step = rj.stepper(model, params)
    state, ys = step.initial_state((B,), F64), []
    for x in xs:
        y, state = step(x, state)
        ys.append(y)
    close((np.stack(ys), state.unpack()), jax.jit(model)(params, xs))
    backwards = model.reversed()
    assert backwards.reversed() == model
    assert model.causal
    assert not backwards.causal
    close(jax.jit(backwards)(params, xs)[0], np.flip(jax.jit(model)(params, np.flip(xs, 0))[0], 0))


def convolved(params: Any, xs: Any, start: Any, mask: Any, reset: Any, reverse: bool = False) -> tuple[Any, Any]:
    """Outputs, and the last two inputs of each row."""
    steps, rows, _ = xs.shape
    wanted, last = np.zeros_like(xs), np.zeros_like(start)
    for row in range(rows):
        past = list(start[row])
        for t in reversed(range(steps)) if reverse else range(steps):
            at = t + 1 if reverse else t
            if at < steps and reset[at, row]:
                past = [np.zeros(D)] * 2
            if mask[t, row]:
                window = [*past, xs[t, row]]
                wanted[t, row] = sum(params.w[k] * window[2 - k] for k in range(3)) + params.b
                past = window[1:]
        last[row] = past
    return wanted, last


@pytest.mark.parametrize("reverse", [False, True])
def test_convolution_skips_what_is_masked_and_stops_at_resets(reverse: bool, draw: Any, close: Any) -> None:
    layer = rj.CausalConv(3, reverse=reverse)
    params, xs = drawn(layer), draw(9, 4, D)
    rng = np.random.default_rng(2)
    mask, reset = rng.random((9, 4)) < 0.6, rng.random((9, 4)) < 0.3
    start = np.zeros((4, 2, D)) if reverse else draw(4, 2, D)
    state = None if reverse else rj.layers.CausalConvState(jnp.asarray(start))
    ys, after = layer(params, np.where(mask[..., None], xs, np.nan), state, mask=mask, reset=reset)
    close((ys, after.x), convolved(params, xs, start, mask, reset, reverse))


@pytest.mark.parametrize("resets", [False, True])
def test_convolution_of_padded_rows_sorts_nothing(resets: bool, draw: Any, close: Any) -> None:
    """Padding is behind what is valid as it is."""
    layer, lengths = rj.CausalConv(3), np.array([9, 0, 1, 5])
    params, xs, start = drawn(layer), draw(9, 4, D), draw(4, 2, D)
    mask = np.arange(9)[:, None] < lengths
    reset = np.random.default_rng(2).random((9, 4)) < 0.3 if resets else np.zeros((9, 4), bool)
    given = params, jnp.asarray(np.where(mask[..., None], xs, np.nan)), jnp.asarray(start)

    def total(params: Any, xs: Any, start: Any, **options: Any) -> Any:
        state = rj.layers.CausalConvState(start)
        ys, after = layer(params, xs, state, reset=reset if resets else None, **options)
        return jnp.sin(ys).sum() + jnp.cos(after.x).sum(), (ys, after.x)

    pull = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    got, moved = pull(*given, lengths=lengths), pull(*given, mask=mask)
    close(got[0][1], convolved(params, xs, start, mask, reset))
    close(got, moved)
    for options, sorts in (({"lengths": lengths}, False), ({"mask": mask}, True)):
        assert (" sort[" in str(jax.make_jaxpr(partial(pull, **options))(*given))) == sorts


def test_norms_are_their_equations(draw: Any, close: Any) -> None:
    x = draw(4, 5) + 2
    for layer in (rj.LayerNorm(), rj.RMSNorm()):
        params = drawn(layer, 5)
        close(layer(params, x)[0], norm(x, *params))


def test_a_gate_multiplies(elman: Any, draw: Any, close: Any) -> None:
    layer = rj.Gate(rj.Elman(4), rj.Dense(4, activation="sigmoid"))
    params, xs = drawn(layer), draw(3, B, D)
    ys, state = layer(params, xs)
    close(ys, elman(params.layer, xs) * references.sigmoid(dense(xs, *params.gate)))
    close(state.layer.h, elman(params.layer, xs)[-1])
    with pytest.raises(ValueError, match=r"multiplies outputs, which need one size; got 4 and 3"):
        rj.Gate(rj.Elman(4), rj.Dense(3)).init(KEY, D)
    with pytest.raises(ValueError, match=r"`gate` must keep the time axis; got Mean\(\)"):
        rj.Gate(rj.Elman(4), rj.Mean())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: rj.CausalConv(0), ValueError, "`width` must be at least 1"),
        (lambda: rj.RMSNorm(epsilon=0), ValueError, "`epsilon` must be above 0"),
        (lambda: rj.Block(4), TypeError, "`core` must be a layer or a cell; got 4"),
        (lambda: rj.Block(rj.Embedding(4, 2)), TypeError, r"`core` must read features, .* not ids; got Embedding"),
        (lambda: rj.Block(rj.ConvLSTM(4, (8, 8)), conv=2), ValueError, r"`conv` must be None .*; got RNN\(ConvLSTM"),
        (lambda: rj.Block(rj.LRU(2), dropout=1), ValueError, "must be below 1"),
        (lambda: rj.Block(rj.LRU(2), gate="none"), ValueError, "`gate` must be 'full' or 'half'; got 'none'"),
        (lambda: rj.GriffinBlock(conv=0), ValueError, "`conv` must be at least 1"),
        (lambda: rj.MLSTMBlock(heads=4).init(KEY, 3), ValueError, "`heads` must divide"),
        (lambda: rj.MLSTMBlock(heads=2).init(KEY, 3), ValueError, "got blocks of 4 for 6 features"),
        (lambda: rj.SLSTMBlock().init(KEY, 6), ValueError, "got 4 heads for `hidden_size` = 6"),
        (
            lambda: rj.LayerNorm(groups=2).init(KEY, 3),
            ValueError,
            "`groups` must divide the features; got 2 groups of 3",
        ),
        (lambda: rj.MinGRUBlock(expansion=1.5), TypeError, "`expansion` must be a positive integer"),
        (lambda: rj.MinGRUBlock(perceptron_expansion=0), ValueError, "`perceptron_expansion` must be at least 1"),
        (
            lambda: rj.CausalConv(2)(drawn(rj.CausalConv(2)), np.zeros((T, B, D)), np.zeros((B, 1, D))),
            TypeError,
            "`state` must be a CausalConvState",
        ),
        (
            lambda: rj.CausalConv(2)(
                drawn(rj.CausalConv(2)), np.zeros((T, B, D)), rj.layers.CausalConvState(np.zeros((B + 1, 1, D)))
            ),
            ValueError,
            r"`state.x` must be \(\*B, K − 1, I\) = ",
        ),
    ],
)
def test_refuses_what_does_not_fit(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "above", [rj.LayerNorm(event_ndim=2), rj.RMSNorm(event_ndim=2), rj.Activate("relu", 2)], ids=str
)
def test_layers_behind_a_convolution_know_its_axes(above: rj.Layer, draw: Any, close: Any) -> None:
    """Padding behind a row's length, with places (S, I) for features, is neither read nor written."""
    layer, xs, lengths = rj.Stack([rj.ConvLSTM(2, (4,)), above]), draw(T, B, 4, 3), np.array([T, 3])
    params = drawn(layer)
    ys, _ = layer(params, xs, lengths=lengths)
    close(ys[:, 0], layer(params, xs[:, :1])[0][:, 0])
    close(ys[:3, 1], layer(params, xs[:3, 1:])[0][:, 0])
    assert not ys[3:, 1].any()
    with pytest.raises(ValueError, match="need `event_ndim` in the layer"):
        rj.LayerNorm()(rj.LayerNorm().init(KEY, 3), xs, lengths=lengths)


def test_a_gate_of_convolutions_has_their_axes(draw: Any, close: Any) -> None:
    gate, xs, lengths = rj.Gate(rj.ConvLSTM(2, (4,)), rj.ConvLSTM(2, (4,))), draw(T, B, 4, 3), np.array([T, 3])
    params = drawn(gate)
    assert gate.event_ndim == 2
    ys, _ = gate(params, xs, lengths=lengths)
    wanted = [rj.unroll(gate.layer.cell, own, xs, lengths=lengths)[0] for own in params]
    close(ys, wanted[0] * wanted[1])
