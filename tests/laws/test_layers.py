"""The laws of cells hold for layers: chunks, batch axes, masks, padding, resets, causality, tracing, values."""

from __future__ import annotations

import pickle
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import LAYERS, SLOW_LAYERS

import rnnjax as rj
from rnnjax import testing

STEPS, ROWS, FEATURES = 6, 3, 3


def over(layers: dict[str, rj.Layer], quick: tuple[str, ...] | None = None) -> pytest.MarkDecorator:
    """A row for each layer, slow where it is long, or where it is none of the `quick` ones."""
    slow = SLOW_LAYERS if quick is None else layers.keys() - set(quick)
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in layers}
    rows = [pytest.param(layer, id=name, marks=marks[name]) for name, layer in layers.items()]
    return pytest.mark.parametrize("layer", rows)


READING_FEATURES = {name: layer for name, layer in LAYERS.items() if layer.event_ndim}
each = over(READING_FEATURES)
keeping_time = over({name: layer for name, layer in READING_FEATURES.items() if layer.keeps_time})
causal = over({name: layer for name, layer in READING_FEATURES.items() if layer.causal})


def parameters(layer: rj.Layer) -> Any:
    rng = np.random.default_rng(1)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), FEATURES, jnp.float64))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.6, size=leaf.shape), params)


def inputs(*lead: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(*(lead or (STEPS, ROWS)), FEATURES))


@jax.jit
def run(layer: rj.Layer, params: Any, xs: Any, state: Any = None, **options: Any) -> Any:
    return layer(params, xs, state, **options)


@jax.jit
def pull(layer: rj.Layer, params: Any, xs: Any, weights: Any, **options: Any) -> Any:
    """Outputs, and the gradients of their weighted sum in parameters and inputs."""
    ys, back = jax.vjp(lambda params, xs: layer(params, xs, **options)[0], params, xs)
    return ys, back(jnp.broadcast_to(weights, ys.shape))


def weights(layer: rj.Layer, *lead: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(*lead, layer.out_size(FEATURES)))


def close(got: Any, wanted: Any) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), got, wanted)


@each
def test_value(layer: Any) -> None:
    testing.value(layer, FEATURES, "scan")


@causal
def test_streaming_is_the_whole(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    rng = np.random.default_rng(4)
    mask, reset = rng.random((STEPS, ROWS)) < 0.7, rng.random((STEPS, ROWS)) < 0.3
    wanted = run(layer, params, xs, mask=mask, reset=reset)
    for cuts in ([0, 0, 1, 3, STEPS], [0, 2, 2, 5, STEPS]):
        pieces, state = [], layer.initial_state(params, (ROWS,), jnp.float64)
        for first, last in pairwise(cuts):
            part = slice(first, last)
            ys, state = run(layer, params, xs[part], state, mask=mask[part], reset=reset[part])
            pieces.append(ys)
        close((np.concatenate(pieces), state), wanted)


@each
def test_a_batch_is_its_rows(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    lengths = np.array([STEPS, 0, 4])
    sums = weights(layer, *([STEPS, ROWS] if layer.keeps_time else [ROWS]))
    ys, (d_params, d_xs) = pull(layer, params, xs, sums, lengths=lengths)
    axis = int(layer.keeps_time)
    rows = [
        pull(layer, params, xs[:, row], np.take(sums, row, axis), lengths=lengths[row].reshape(()))
        for row in range(ROWS)
    ]
    close(ys, np.stack([row[0] for row in rows], axis))
    close(d_xs, np.stack([row[1][1] for row in rows], 1))
    close(d_params, jax.tree.map(lambda *leaves: sum(leaves), *(row[1][0] for row in rows)))


@each
def test_masked_tail_is_shorter(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    length = 4
    sums = weights(layer, *([STEPS] if layer.keeps_time else []), ROWS)
    ys, (d_params, d_xs) = pull(layer, params, xs, sums, lengths=np.full(ROWS, length))
    kept = slice(length if layer.keeps_time else None)
    want, (want_params, want_xs) = pull(layer, params, xs[:length], sums[kept])
    close((ys[kept], d_params, d_xs[:length]), (want, want_params, want_xs))
    assert not np.any(d_xs[length:])


@each
def test_padding_harms_nothing(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    mask = np.random.default_rng(5).random((STEPS, ROWS)) < 0.6
    mask[:, 1] = False
    sums = weights(layer, *([STEPS] if layer.keeps_time else []), ROWS)
    for junk in (np.nan, np.inf):
        spoilt = np.where(mask[..., None], xs, junk)
        close(pull(layer, params, spoilt, sums, mask=mask), pull(layer, params, xs, sums, mask=mask))


@keeping_time
def test_resets_separate_sequences(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    at = 4
    reset = np.zeros((STEPS, ROWS), bool)
    reset[at] = True
    sums = weights(layer, STEPS, ROWS)
    ys, (d_params, d_xs) = pull(layer, params, xs, sums, reset=reset)
    first, second = (pull(layer, params, xs[part], sums[part]) for part in (slice(at), slice(at, None)))
    close(ys, np.concatenate([first[0], second[0]]))
    close(d_xs, np.concatenate([first[1][1], second[1][1]]))
    close(d_params, jax.tree.map(jnp.add, first[1][0], second[1][0]))


@keeping_time
def test_causal_layers_see_no_later_step(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    sums = weights(layer, STEPS, ROWS)
    seen = np.zeros((STEPS, STEPS), bool)
    for t in range(STEPS):
        _, (_, d_xs) = pull(layer, params, xs, np.where(np.arange(STEPS)[:, None, None] == t, sums, 0))
        seen[t] = np.any(np.asarray(d_xs) != 0, axis=(1, 2))
    assert (not np.triu(seen, 1).any()) == layer.causal
    assert seen.diagonal().all()


@each
def test_nothing_to_do(layer: rj.Layer) -> None:
    params = parameters(layer)
    for lead in ((0, ROWS), (STEPS, 0)):
        ys, (d_params, d_xs) = pull(layer, params, inputs(*lead), 0.0)
        assert ys.shape == (*(lead if layer.keeps_time else lead[1:]), layer.out_size(FEATURES))
        assert d_xs.shape == (*lead, FEATURES)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(d_params))
        assert np.all(np.isfinite(ys))


@over(READING_FEATURES, quick=("stack", "bidirectional"))
def test_equal_layers_share_a_trace_and_keep_no_tracer(layer: rj.Layer) -> None:
    params, xs = parameters(layer), inputs()
    traces = []

    @jax.jit
    def call(layer: rj.Layer, params: Any, xs: Any) -> Any:
        traces.append(layer)
        return layer(params, xs)

    for other in (layer, pickle.loads(pickle.dumps(layer))):
        jax.eval_shape(call, other, params, xs)
    assert len(traces) == 1
    with jax.checking_leaks():
        jax.eval_shape(partial(pull, layer), params, xs, 1.0)


@each
def test_gradient_lowers_for_accelerators(layer: rj.Layer) -> None:
    params, xs = jax.tree.map(np.float32, (parameters(layer), inputs()))
    traced = jax.jit(jax.grad(lambda params: layer(params, xs)[0].sum())).trace(params)
    for platform in ("cuda", "tpu"):
        assert traced.lower(lowering_platforms=(platform,)).as_text()
