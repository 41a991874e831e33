"""The pointer-generator: its mixture by counting words, its extremes, coverage, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import rnnjax as rj
from rnnjax.flax import nnx as rnnx

from .attended import A, M, Q, parameters, softmax

T, B, I, S, V, X = 6, 3, 2, 5, 4, 3  # noqa: E741
ATTENTION = rj.LuongAttention(rj.LSTM(Q), rj.CoverageScore(A), M, 3)
CELL = rj.PointerGenerator(ATTENTION, V, X)
LENGTHS = np.array([5, 3, 0])
# a word twice, inside and outside of the vocabulary; the last row reads nothing, and padding is no id
IDS = np.array([[1, 4, -9], [5, 4, 0], [1, 0, 99], [6, -1, 2], [5, 77, 3]])


@jax.jit
def run(cell: Any, params: Any, xs: Any, state: Any = None, **options: Any) -> Any:
    return rj.unroll(cell, params, xs, state, **options)


def by_hand(params: Any, out: np.ndarray, read: np.ndarray, alignment: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """P of one row and step: output O, what the gate reads, alignment (S) and ids (S) of the valid steps."""
    generate = 1 / (1 + np.exp(-(read @ params.w_p[:, 0] + params.b_p[0]))) if len(ids) else 1.0
    probabilities = np.zeros(V + X)
    probabilities[:V] = generate * softmax(out @ params.w + params.b)
    for weight, word in zip(alignment, ids, strict=True):
        probabilities[word] += (1 - generate) * weight
    return probabilities


@pytest.mark.parametrize("inner", [ATTENTION, rj.BahdanauAttention(rj.GRU(Q), rj.AdditiveScore(A), M)])
def test_mixture(close, draw, inner):
    cell = rj.PointerGenerator(inner, V, X)
    params, xs = parameters(cell), draw(T, B, I)
    source = rj.Source(draw(S, B, M), lengths=LENGTHS, ids=IDS)
    got, state = run(cell, params, xs, context=source)
    outputs, last = run(inner, params.cell, xs, context=source)
    close(state, last)
    seen = rj.alignments(cell, params, xs, context=source)
    before, wanted = None, np.zeros((T, B, V + X))
    for t in range(T):
        _, before = run(inner, params.cell, xs[t : t + 1], before, context=source)
        for row, length in enumerate(LENGTHS):
            read = np.concatenate([before.attention.context[row], before.cell.h[row], xs[t, row]])
            alignment, ids = seen[t, row, :length], IDS[:length, row]
            wanted[t, row] = by_hand(params, outputs[t, row], read, alignment, ids)
    close(np.exp(got), wanted)
    close(np.exp(got).sum(-1), np.ones((T, B)))
    assert (np.isneginf(got) == (wanted == 0)).all()
    assert np.isneginf(np.asarray(got)[:, [0, 1, 1], [4, 5, 6]]).all()
    assert cell.out_size(I) == V + X


def test_gradients(draw):
    """Of words that can be said, with a word of probability 0 beside them and NaN in the memory's padding."""
    arrays, weight = (parameters(CELL), draw(T, B, I), draw(S, B, M)), draw(T, B, V)
    padding = np.arange(S)[:, None, None] >= LENGTHS[:, None]

    @jax.jit
    def loss(params, xs, values, filling):
        source = rj.Source(jnp.where(padding, filling, values), lengths=jnp.asarray(LENGTHS), ids=jnp.asarray(IDS))
        ys, state = rj.unroll(CELL, params, xs, context=source)
        return (ys[..., :V] * weight).sum() + ys[:, 0, V + 1].sum() + state.attention.overlap.sum()

    check_grads(lambda *arrays: loss(*arrays, 0.0), arrays, order=1, modes=["rev"], eps=1e-6)
    slopes = jax.grad(loss, argnums=(0, 1, 2))(*arrays, jnp.nan)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("gate", [-1e4, 1e4])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_extremes(draw, gate, scale):
    """In float32, with a gate that is shut, logits far apart and an alignment on one step."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), parameters(CELL))
    additive = params.cell.score.additive
    score = params.cell.score._replace(additive=additive._replace(v=additive.v * 1e4))
    params = params._replace(
        b_p=jnp.full((1,), gate, jnp.float32), w=params.w * scale, cell=params.cell._replace(score=score)
    )
    xs, values = draw(T, B, I).astype("float32"), draw(S, B, M).astype("float32")

    def loss(params):
        source = rj.Source(values, lengths=LENGTHS, ids=IDS)
        ys, _ = rj.unroll(CELL, params, xs, context=source)
        return ys[..., :V].sum() + ys[:, 0, V + 1].sum(), ys

    slopes, ys = jax.grad(loss, has_aux=True)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert np.isfinite(ys[..., :V]).all()
    assert np.isfinite(ys[:, 0, 5:]).all()
    assert np.isfinite(ys[:, 1, 4]).all()
    assert not np.isnan(ys).any()
    np.testing.assert_allclose(np.exp(np.asarray(ys, np.float64)).sum(-1), 1, rtol=1e-5)


def test_without_words_outside(close, draw):
    """No extra words and one memory for all beams; the ids are those of the row."""
    cell, beams = rj.PointerGenerator(ATTENTION, V + X), 2
    params, xs = parameters(cell), draw(T, B, beams, I)
    source = rj.Source(draw(S, B, M), lengths=LENGTHS, ids=IDS)
    got, state = run(cell, params, xs, context=source)
    for beam in range(beams):
        wanted, last = run(cell, params, xs[:, :, beam], context=source)
        close(got[:, :, beam], wanted)
        close(jax.tree.map(lambda leaf, beam=beam: leaf[:, beam], state), last)


def test_known_ids_outside_are_refused_before_anything_runs(draw):
    """In `unroll`, layers and modules, and where they are constants of a `jit`."""
    cell = rj.PointerGenerator(ATTENTION, V)  # its words outside are forgotten
    params, xs, values = parameters(cell), jnp.asarray(draw(T, B, I)), draw(S, B, M)
    layer = rj.Stack([cell])
    module = rnnx.Layer(layer, I, params=(params,), rngs=nnx.Rngs(0))
    source = rj.Source(values, lengths=jnp.asarray(LENGTHS), ids=jnp.asarray(IDS))
    for call in (
        lambda xs: rj.unroll(cell, params, xs, context=source),
        jax.jit(lambda xs: rj.unroll(cell, params, xs, context=source)),
        lambda xs: layer((params,), xs, context=source),
        lambda xs: module(jnp.swapaxes(xs, 0, 1), context=source),
        lambda xs: rj.unroll(rj.GradientClip(cell, 1.0), params, xs, context=source),
    ):
        with pytest.raises(
            ValueError, match=r"`ids` of the memory must lie in 0…V \+ X − 1 = 3; got values from 0 to 6"
        ):
            call(xs)
    rj.unroll(cell, params, xs, context=rj.Source(values, mask=(IDS >= 0) & (IDS < V), ids=IDS))
    rj.unroll(cell, params, xs, context=cell.remember(params, rj.Source(values, lengths=LENGTHS, ids=IDS % V)))


def test_ids_outside_are_not_copied(close, draw):
    """Traced ids cannot be refused: those outside copy no word, as if they all meant one that is left out."""
    params, xs, values = parameters(CELL), draw(T, B, I), draw(S, B, M)
    ids = np.array([[-1, V + X, 3], [4, 5, 5], [0, 0, -7], [2, 2, 2], [1, 1, 99]])
    left_out = np.where((ids < 0) | (ids >= V + X), V + X - 1, ids)
    got, _ = run(CELL, params, xs, context=rj.Source(values, ids=ids))
    wanted, _ = run(CELL, params, xs, context=rj.Source(values, ids=left_out))
    close(got[..., :-1], wanted[..., :-1])
    assert np.isneginf(got[..., -1]).all()


def test_streams_with_a_remembered_memory(close, draw):
    params, xs = parameters(CELL), draw(T, B, I)
    source = rj.Source(draw(S, B, M), lengths=LENGTHS, ids=IDS)
    mask = np.arange(T)[:, None] < np.array([6, 4, 2])
    wanted, last = run(CELL, params, xs, context=source, mask=mask)
    memory, state, pieces = CELL.remember(params, source), None, []
    for t in range(T):
        y, state = run(CELL, params, xs[t : t + 1], state, context=memory, mask=mask[t : t + 1])
        pieces.append(y)
    close((np.concatenate(pieces), state), (wanted, last))
    short, _ = run(CELL, params, xs[:4], context=source, mask=mask[:4])
    close(wanted[:4], short)


def test_overlap_is_the_coverage_loss(close, draw):
    """Σ_t Σ_s min(α_t, Σ_{τ<t} α_τ) of each row's own steps."""
    params, xs = parameters(CELL), draw(T, B, I)
    source, lengths = rj.Source(draw(S, B, M), ids=np.ones((S, B), int)), np.array([6, 4, 1])
    _, state = run(CELL, params, xs, lengths=lengths, context=source)
    seen = np.asarray(rj.alignments(CELL, params, xs, lengths=lengths, context=source))
    before = np.concatenate([np.zeros((1, B, S)), np.cumsum(seen, 0)[:-1]])
    close(state.attention.overlap, np.minimum(seen, before).sum((0, 2)))
    close(state.attention.coverage, seen.sum(0))
    assert state.attention.overlap[2] == 0


def test_refuses_what_does_not_fit(draw):
    params, xs, values = parameters(CELL), draw(T, B, I), draw(S, B, M)
    with pytest.raises(ValueError, match=r"`context` of PointerGenerator must have the ids of its tokens, \(S, \*B\)"):
        rj.unroll(CELL, params, xs, context=values)
    for ids in (IDS, np.where(IDS < 0, 0, IDS)):
        with pytest.raises(ValueError, match=r"`ids` of the memory must lie in 0…V \+ X − 1 = 6; got values from"):
            CELL.remember(params, rj.Source(values, ids=ids))
    CELL.remember(params, rj.Source(values, lengths=LENGTHS, ids=IDS))
    with pytest.raises(TypeError, match=r"`cell` must be an attention cell, such as `rnnjax.LuongAttention`; got LSTM"):
        rj.PointerGenerator(rj.LSTM(3), V)
    with pytest.raises(ValueError, match=r"`vocabulary` must be at least 1; got 0"):
        rj.PointerGenerator(ATTENTION, 0)
    with pytest.raises(ValueError, match=r"`extra` must be at least 1; got -1"):
        rj.PointerGenerator(ATTENTION, V, -1)
