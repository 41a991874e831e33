"""Attention cells: the papers' equations row by row, memories, streams, beams, modules, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import rnnjax as rj
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx
from rnnjax.layers import Attended
from rnnjax.layers.attention.memory import masked_softmax

from .attended import SCORES, A, M, Q, by_hand, parameters, random_like

T, B, I, S = 6, 4, 2, 5  # noqa: E741
LENGTHS = np.array([5, 3, 0, 1])
ADDITIVE = rj.BahdanauAttention(rj.GRU(Q), rj.AdditiveScore(A), M)
GENERAL = rj.LuongAttention(rj.LSTM(Q), rj.GeneralScore(), M, 3)
each = pytest.mark.parametrize("cell", [ADDITIVE, GENERAL], ids=["bahdanau", "luong"])
CASES = {
    **{f"bahdanau_{name}": rj.BahdanauAttention(rj.GRU(Q), score, M) for name, score in SCORES.items()},
    **{
        f"luong_{name}": rj.LuongAttention(rj.GRU(Q), SCORES[name], M, 3)
        for name in ("coverage", "general", "location", "multi_head")
    },
    "bahdanau_lstm": rj.BahdanauAttention(rj.LSTM(Q), SCORES["additive"], M),
    "bahdanau_plain": rj.BahdanauAttention(rj.LayerNormGRU(Q), SCORES["additive"], M),
    "bahdanau_dot": rj.BahdanauAttention(rj.Elman(M), rj.DotScore(), M),
    "luong_without_feeding": rj.LuongAttention(rj.LSTM(Q), SCORES["general"], M, 3, input_feeding=False),
    "luong_plain_without_feeding": rj.LuongAttention(rj.ResetBeforeGRU(Q), SCORES["general"], M, 3, False),
    "luong_scaled_dot": rj.LuongAttention(rj.Elman(M), rj.ScaledDotScore(), M, 3),
}


@jax.jit
def run(cell: Any, params: Any, xs: Any, state: Any = None, **options: Any) -> Any:
    return rj.unroll(cell, params, xs, state, **options)


def of_row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row], tree)


def start(cell: Any, params: Any, source: Any, *lead: int) -> Any:
    """A state with random numbers for the inner cell's, and nothing read."""
    state = cell.initial_state(cell.prepare(params, context=source), lead, jnp.float64)
    return state._replace(cell=jax.tree.map(jnp.tanh, random_like(5, state.cell)))


@pytest.mark.parametrize("name", CASES)
def test_equations(close, draw, name):
    """With memories of several lengths, none among them, and NaN behind them."""
    cell = CASES[name]
    params, xs, values = parameters(cell), draw(T, B, I), draw(S, B, M)
    padded = np.where(np.arange(S)[:, None, None] < LENGTHS[:, None], values, np.nan)
    source = rj.Source(jnp.asarray(padded), lengths=LENGTHS)
    before = start(cell, params, source, B)
    ys, state = run(cell, params, xs, before, context=source)
    seen = rj.alignments(cell, params, jnp.asarray(xs), before, context=source)
    for row, length in enumerate(LENGTHS):
        wanted = by_hand(cell, params, xs[:, row], values[:length, row], of_row(before.cell, row))
        close(ys[:, row], wanted.ys)
        close(seen[:, row, :length], wanted.alignments)
        close(of_row(state.cell, row), wanted.state)
        attention = of_row(state.attention, row)
        close(attention.alignment[:length], wanted.alignments[-1])
        close(attention.coverage[:length], wanted.coverage)
        close(attention.overlap, np.float64(wanted.overlap))
        assert not seen[:, row, length:].any()
        assert not attention.coverage[length:].any()
    assert not state.attention.context[2].any()


@pytest.mark.parametrize("name", ["bahdanau_lstm", "luong_location", "luong_multi_head"])
def test_gradients_of_parameters_inputs_and_memory(draw, name):
    cell = CASES[name]
    weight = draw(T, B, cell.out_size(I))
    valid = jnp.asarray(np.arange(S)[:, None, None] < LENGTHS[:, None])

    @jax.jit
    def loss(params, xs, values, padding):
        source = rj.Source(jnp.where(valid, values, padding), mask=valid[..., 0])
        ys, state = rj.unroll(cell, params, xs, context=source)
        return (ys * weight).sum() + state.attention.coverage[:, 1].sum() + state.attention.overlap.sum()

    arrays = parameters(cell), draw(T, B, I), draw(S, B, M)
    check_grads(lambda *arrays: loss(*arrays, 0.0), arrays, order=1, modes=["rev"], eps=1e-6)
    gradient = jax.grad(loss, argnums=(0, 1, 2))
    for padding in (jnp.nan, jnp.inf):
        spoilt, clean = gradient(*arrays, padding), gradient(*arrays, 0.0)
        jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
    assert not spoilt[2][:, 2].any()
    assert not spoilt[2][3:, 1].any()
    assert np.abs(spoilt[2][0, 0]).min() > 0


@each
def test_nothing_to_read(cell, draw):
    """No step, or none that is valid: zeros without a gradient, as if the context vector were left out."""
    params, xs = parameters(cell), draw(T, B, I)
    empty = rj.Source(jnp.zeros((0, B, M)))
    masked = rj.Source(jnp.full((S, B, M), jnp.nan), lengths=jnp.zeros(B, int))

    def loss(params, source):
        ys, state = rj.unroll(cell, params, xs, context=source)
        return (ys**2).sum(), (ys, state.attention)

    results = [jax.jit(jax.grad(loss, has_aux=True))(params, source) for source in (empty, masked)]
    for grads, (ys, attention) in results:
        assert not any(leaf.any() for leaf in jax.tree.leaves(attention))
        assert not any(leaf.any() for leaf in jax.tree.leaves(grads.score))
        assert np.isfinite(ys).all()
    (first, (ys, _)), (second, (others, _)) = results
    jax.tree.map(np.testing.assert_allclose, (first, ys), (second, others))


@each
def test_a_remembered_memory_step_by_step(cell, close, draw):
    """Whole = pieces = single steps in a loop, from the source and from what is computed of it once."""
    params, xs = parameters(cell), draw(T, B, I)
    source = rj.Source(draw(S, B, M), lengths=LENGTHS)
    memory = cell.remember(params, source)
    wanted = run(cell, params, xs, context=source)
    close(run(cell, params, xs, context=memory), wanted)
    nothing, state = run(cell, params, xs[:0], context=memory)
    assert nothing.shape == (0, *wanted[0].shape[1:])
    close(state, cell.initial_state(cell.prepare(params, context=memory), (B,), jnp.float64))
    head, state = run(cell, params, xs[:1], state, context=source)

    def step(state, x):
        ys, state = rj.unroll(cell, params, x[None], state, context=memory)
        return state, ys[0]

    state, tail = jax.lax.scan(step, state, xs[1:])
    close((np.concatenate([head, tail]), state), wanted)


@pytest.mark.parametrize("name", ["bahdanau_coverage", "luong_location", "luong_multi_head", "luong_scaled_dot"])
def test_beams_read_the_memory_of_their_row(close, draw, name):
    """States (B, K, …) and a memory (S, B, M), or (S, M) for all."""
    cell, beams = CASES[name], 3
    params, xs = parameters(cell), draw(T, B, beams, I)
    source = rj.Source(draw(S, B, M), lengths=LENGTHS)
    got = run(cell, params, xs, context=source)
    repeated = rj.Source(
        np.repeat(source.values[:, :, None], beams, 2), mask=np.repeat(source.valid[..., None], beams, 2)
    )
    close(got, run(cell, params, xs, context=repeated))
    shared = rj.Source(source.values[:, 0])
    same = rj.Source(np.repeat(source.values[:, :1], B, 1))
    close(run(cell, params, xs, context=shared), run(cell, params, xs, context=same))


def test_several_models_at_once(close, draw):
    xs, source = draw(T, B, I), rj.Source(draw(S, B, M), lengths=LENGTHS)
    models = [random_like(seed, parameters(ADDITIVE)) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    got = jax.vmap(lambda params: rj.unroll(ADDITIVE, params, xs, context=source))(stacked)
    memories = jax.vmap(lambda params: ADDITIVE.remember(params, source))(stacked)
    again = jax.vmap(lambda params, memory: rj.unroll(ADDITIVE, params, xs, context=memory))(stacked, memories)
    for i, params in enumerate(models):
        wanted = run(ADDITIVE, params, xs, context=source)
        close(of_row(got, i), wanted)
        close(of_row(again, i), wanted)


@rj.struct
class Shaky(rj.LayerNormGRU):
    """Noise on what `project` returns, and on the state after an update."""

    def noise(self, key, steps, batch_shape, dtype=jnp.float32):
        return jax.random.normal(key, (steps, *batch_shape, Q), dtype)

    def project(self, params, x, noise=None):
        return tuple(gate + noise for gate in super().project(params, x))

    def update(self, params, state, gx, gh, noise=None):
        return jax.tree.map(lambda leaf: leaf + noise, super().update(params, state, gx, gh))


@pytest.mark.parametrize("inner", [Shaky(Q), rj.Zoneout(rj.GRU(Q), rate=0.5)], ids=["plain", "gated"])
def test_noise_of_the_inner_cell(close, draw, inner):
    """A memory of zeros is one more input of zeros, with the same draws."""
    cell = rj.BahdanauAttention(inner, SCORES["additive"], M)
    params, xs, key = parameters(cell), draw(T, B, I), jax.random.key(3)
    ys, _ = run(cell, params, xs, context=np.zeros((S, B, M)), key=key)
    wanted, _ = run(inner, params.cell, np.concatenate([xs, np.zeros((T, B, M))], -1), key=key)
    close(ys[..., :Q], wanted)


def test_alignments_of_a_stack(close, draw):
    """With an embedding below and a projection above; masked steps are rows of zeros, and resets begin again."""
    model = rj.Stack([rj.Embedding(7, I), rj.RNN(rj.Elman(I)), CASES["luong_coverage"], rj.Dense(2)])
    params = random_like(4, jax.eval_shape(lambda: model.init(jax.random.key(0), None, jnp.float64)))
    params = jax.tree.map(jnp.asarray, params)
    ids, source = np.array([[1, 2], [3, 4], [0, 6], [5, 5]]), rj.Source(draw(S, 2, M), lengths=np.array([5, 2]))
    mask = np.array([[1, 1], [0, 1], [1, 1], [1, 0]], bool)
    reset = np.array([[0, 0], [0, 0], [0, 1], [1, 0]], bool)
    below, _ = rj.Stack(model.layers[:2])(params[:2], ids, mask=mask, reset=reset)
    cell, own = model.layers[2].cell, params[2]
    state, wanted = None, []
    for t in range(4):
        flags = {"mask": mask[t : t + 1], "reset": reset[t : t + 1]}
        _, state = run(cell, own, below[t : t + 1], state, context=source, **flags)
        wanted.append(np.where(mask[t][:, None], state.attention.alignment, 0))
    close(rj.alignments(model, params, ids, mask=mask, reset=reset, context=source), np.array(wanted))
    lengths = np.array([4, 2])
    cut = np.arange(4)[:, None] < lengths
    close(
        rj.alignments(model, params, ids, lengths=lengths, context=source),
        rj.alignments(model, params, ids, mask=cut, context=source),
    )


@pytest.mark.parametrize("name", ["bahdanau_multi_head", "luong_multi_head"])
def test_alignments_of_heads(close, draw, name):
    """In the state and of a whole sequence; a masked step is zeros, and the mean over the heads is the alignment."""
    cell = CASES[name]
    params, xs, values = parameters(cell), draw(T, B, I), draw(S, B, M)
    source, lengths = rj.Source(jnp.asarray(values), lengths=LENGTHS), np.array([6, 4, 6, 5])
    before = start(cell, params, source, B)
    seen = rj.alignments(cell, params, jnp.asarray(xs), before, lengths=lengths, context=source, heads=True)
    assert seen.shape == (T, B, 2, S)
    _, state = run(cell, params, xs, before, lengths=lengths, context=source)
    for row, length in enumerate(LENGTHS):
        given = xs[: lengths[row], row]
        wanted = by_hand(cell, params, given, values[:length, row], of_row(before.cell, row))
        close(seen[: lengths[row], row, :, :length], wanted.heads)
        close(state.attention.heads[row, :, :length], wanted.heads[-1])
        assert not seen[:, row, :, length:].any()
        assert not seen[lengths[row] :, row].any()
    with pytest.raises(ValueError, match=r"`heads` are those of a `MultiHeadScore`; .* has one alignment"):
        rj.alignments(GENERAL, parameters(GENERAL), xs, context=source, heads=True)


def test_alignments_need_one_attention(draw):
    xs, source = draw(T, B, I), draw(S, B, M)
    with pytest.raises(ValueError, match=r"`model` must have one attention cell in it; RNN\(GRU.*\) has 0"):
        rj.alignments(rj.GRU(3), rj.GRU(3).init(jax.random.key(0), I), xs)
    two = rj.Stack([ADDITIVE, GENERAL])
    with pytest.raises(ValueError, match=r"has 2. Of several, call each by itself"):
        rj.alignments(two, two.init(jax.random.key(0), I), xs, context=source)
    backwards = rj.RNN(ADDITIVE, reverse=True)
    with pytest.raises(ValueError, match=r"is not causal: it cannot run step by step"):
        rj.alignments(backwards, parameters(ADDITIVE), xs, context=source)


def test_modules(close, draw):
    """A batch-major module takes a time-major source, and has the functional layer's values and gradients."""
    layer = rj.Stack([ADDITIVE, rj.Dense(2)])
    params = random_like(2, jax.eval_shape(lambda: layer.init(jax.random.key(0), I, jnp.float64)))
    x, source = draw(B, T, I), rj.Source(draw(S, B, M), lengths=LENGTHS)
    wanted, state = layer(params, jnp.swapaxes(x, 0, 1), context=source)
    module = rnnx.Layer(layer, I, params=params, rngs=nnx.Rngs(0))
    got = nnx.jit(lambda module, x, source: module.unroll(x, context=source))(module, x, source)
    close(got, (jnp.swapaxes(wanted, 0, 1), state))
    tail, _ = module.unroll(x[:, 2:], module.unroll(x[:, :2], context=source)[1], context=source)
    close(tail, jnp.swapaxes(wanted, 0, 1)[:, 2:])
    other = rlinen.Layer(layer)
    variables = other.init(jax.random.key(0), x, context=source)
    assert other.apply(variables, x, context=source).shape == (B, T, 2)

    def functional(values):
        return (layer(params, jnp.swapaxes(x, 0, 1), context=rj.Source(values, lengths=LENGTHS))[0] ** 2).sum()

    slopes = jax.grad(lambda values: (module(x, context=rj.Source(values, lengths=LENGTHS)) ** 2).sum())(source.values)
    close(slopes, jax.grad(functional)(source.values))


def test_dtypes(draw):
    """The compute dtype holds for keys, values and outputs; alignments are in the state's."""
    cell = rj.BahdanauAttention(rj.GRU(Q, compute_dtype="bfloat16"), SCORES["additive"], M)
    params = cell.init(jax.random.key(0), I)
    xs, values = draw(T, B, I).astype("float32"), draw(S, B, M).astype("float32")
    ys, state = rj.unroll(cell, params, xs, context=values)
    exact, _ = rj.unroll(rj.BahdanauAttention(rj.GRU(Q), SCORES["additive"], M), params, xs, context=values)
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32"}
    np.testing.assert_allclose(ys.astype("float32"), exact, atol=0.05)
    assert rj.unroll(ADDITIVE, params, xs, context=draw(S, B, M))[0].dtype == jnp.float32


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_huge_scores(close, axis):
    """Nothing overflows or divides by zero, in what is masked neither."""
    scores = np.array([[-1e5, -1e5 - 1, 0, 3], [1e5, 0, 2e5, 1e5], [1, 2, np.inf, 3], [5, 6, 7, 8]])
    mask = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    wanted = np.array([[1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 1], [0, 0, 0, 0]])
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    slopes = wanted * (weight - (wanted * weight).sum(1, keepdims=True))
    if axis == 0:
        scores, mask, wanted, slopes = scores.T, mask.T, wanted.T, slopes.T
    weight = np.broadcast_to(np.expand_dims(weight, 1 - axis), scores.shape)
    close(masked_softmax(jnp.asarray(scores), mask, axis), wanted)
    close(jax.grad(lambda scores: (masked_softmax(scores, mask, axis) * weight).sum())(jnp.asarray(scores)), slopes)
    assert masked_softmax(jnp.zeros((2, 0)), None).shape == (2, 0)


def test_state_says_what_it_is():
    memory = ADDITIVE.remember(parameters(ADDITIVE), rj.Source(np.ones((S, B, M)), ids=np.ones((S, B), int)))
    assert {name: leaf.shape for name, leaf in memory._asdict().items() if leaf is not None} == {
        "keys": (B, S, A),
        "values": (B, S, M),
        "ids": (B, S),
    }
    state = ADDITIVE.initial_state(ADDITIVE.prepare(parameters(ADDITIVE), context=memory), (B, 2))
    assert isinstance(state.attention, Attended)
    *leaves, heads = state.attention
    assert [leaf.shape for leaf in leaves] == [(B, 2, M), (B, 2, S), (B, 2, S), (B, 2)]
    assert heads is None


@each
def test_refuses_what_does_not_fit(cell, draw):
    params, xs = parameters(cell), draw(T, B, I)
    with pytest.raises(ValueError, match=r"`context` must be the memory to attend to.*got None: pass it to the call"):
        rj.unroll(cell, params, xs)
    with pytest.raises(ValueError, match=r"must be \(S, \*B, M\) with M = 3, the `memory_size`.*got shape \(5, 4, 2\)"):
        rj.unroll(cell, params, xs, context=draw(S, B, 2))
    with pytest.raises(ValueError, match=r"(?m)got \*B = \(3,\) for inputs with the batch axes \(4,\)\.$"):
        rj.unroll(cell, params, xs, context=draw(S, 3, M))
    with pytest.raises(ValueError, match=r"got \*B = \(5,\) for .* \(4,\)\. It comes time first, .*swapaxes"):
        rj.unroll(cell, params, xs, context=draw(B, S, M))
    with pytest.raises(ValueError, match=r"got \*B = \(4, 2\) for inputs with the batch axes \(4,\)"):
        rj.unroll(cell, params, xs, context=draw(S, B, 2, M))
    with pytest.raises(ValueError, match=r"has a weight for every step of the memory.*pass `state=None`"):
        cell.initial_state(params, (B,))
    _, state = rj.unroll(cell, params, xs, context=draw(S, B, M))
    with pytest.raises(
        ValueError, match=r"`state.attention.alignment` must be \(4, 4\) for batch shape \(4,\); got \(4, 5\)"
    ):
        rj.unroll(cell, params, xs, state, context=draw(S - 1, B, M))
    memory = cell.remember(params, draw(S, B, M))
    with pytest.raises(ValueError, match=r"`context.keys` must be \(\*B, S, \d\), as `remember` of .* makes it; got"):
        rj.unroll(cell, params, xs, context=memory._replace(keys=memory.keys[..., 1:]))
    with pytest.raises(ValueError, match=r"`context.values` must be \(\*B, S, 3\)"):
        rj.unroll(cell, params, xs, context=memory._replace(values=memory.values[..., 1:]))
    with pytest.raises(TypeError, match=r"`xs` of \w+Attention must be one array \(T, \*B, I\); got tuple"):
        rj.unroll(cell, params, (xs, xs), context=memory)


def test_sources_refuse_what_does_not_fit(draw):
    values = draw(S, B, M)
    for wrong, message in (
        ([1.0], r"the memory must be an array \(S, \*B, M\); got list"),
        (np.ones((S, B, M), int), r"the memory must be floating point; got int64\(5, 4, 3\)"),
    ):
        with pytest.raises(TypeError, match=message):
            rj.Source(wrong)
    with pytest.raises(ValueError, match=r"the memory must be \(S, \*B, M\), at least 2 axes; got shape \(5,\)"):
        rj.Source(values[:, 0, 0])
    with pytest.raises(ValueError, match=r"`lengths` of the memory must lie in 0…S = 5; got values from 0 to 6"):
        rj.Source(values, lengths=LENGTHS + (LENGTHS == 5))
    with pytest.raises(ValueError, match=r"got values from -1 to 4"):
        rj.Source(values, lengths=LENGTHS - 1)
    with pytest.raises(ValueError, match=r"`lengths` of the memory must be an integer array \(\*B\) = \(4,\).*\(3,\)"):
        rj.Source(values, lengths=LENGTHS[1:])
    with pytest.raises(
        ValueError, match=r"`mask` of the memory must be a boolean array \(S, \*B\) = \(5, 4\).*\(4, 5\)"
    ):
        rj.Source(values, mask=np.ones((B, S), bool))
    with pytest.raises(TypeError, match=r"`mask` of the memory must be a boolean array .*; got int64\(5, 4\)"):
        rj.Source(values, mask=np.ones((S, B), int))
    with pytest.raises(TypeError, match=r"`ids` of the memory must be an integer array .*; got float64\(5, 4\)"):
        rj.Source(values, ids=values[..., 0])
    both = rj.Source(values, lengths=LENGTHS, mask=np.arange(S * B).reshape(S, B) % 3 > 0)
    np.testing.assert_array_equal(both.valid, (np.arange(S)[:, None] < LENGTHS) & both.mask)


@rj.struct
class Pair(rj.LSTM):
    """Emits two arrays."""

    def emit(self, state):
        return state.h, state.c


def test_cells_refuse_what_does_not_fit():
    with pytest.raises(TypeError, match=r"`cell` must emit one array \(\*B, Q\), because it is the query; Pair"):
        rj.BahdanauAttention(Pair(4), rj.GeneralScore(), 3).init(jax.random.key(0), 2)
    with pytest.raises(TypeError, match=r"`cell` must be a cell with inputs \(\*B, I\).*; got RNN"):
        rj.BahdanauAttention(rj.RNN(rj.GRU(3)), rj.DotScore(), 3)
    with pytest.raises(TypeError, match=r"`cell` must be a cell with inputs \(\*B, I\).*; got ConvLSTM"):
        rj.BahdanauAttention(rj.ConvLSTM(3, (4,)), rj.DotScore(), 3)
    with pytest.raises(TypeError, match=r"`score` must be a score, such as `rnnjax.AdditiveScore\(128\)`; got 'dot'"):
        rj.LuongAttention(rj.GRU(3), "dot", 3, 3)
    with pytest.raises(ValueError, match=r"`memory_size` must be at least 1; got 0"):
        rj.LuongAttention(rj.GRU(3), rj.DotScore(), 0, 3)
    with pytest.raises(TypeError, match=r"`input_feeding` must be True or False; got 2"):
        rj.LuongAttention(rj.GRU(3), rj.DotScore(), 3, 3, 2)
    with pytest.raises(ValueError, match=r"`size` must be a multiple of `heads`; got 6 features for 4 heads"):
        rj.MultiHeadScore(6)
    for score in (rj.DotScore(), rj.ScaledDotScore()):
        with pytest.raises(ValueError, match=r"got Q = 4 features of the cell's state and M = 3 of the memory"):
            rj.LuongAttention(rj.GRU(4), score, 3, 3).init(jax.random.key(0), 2)
