"""Ragged rows as arrays, and batches of pairs that `fit` takes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax import data

RNG = np.random.default_rng(0)
SOURCES = [RNG.integers(4, 9, size=n) for n in RNG.integers(0, 12, size=23)]
TARGETS = [RNG.integers(4, 9, size=n) for n in RNG.integers(0, 9, size=23)]


def test_pad_of_features_and_ids() -> None:
    rows = [RNG.standard_normal((n, 2)) for n in (3, 0, 5)]
    array, lengths = data.pad(rows, value=-1, multiple=4)
    assert array.shape == (3, 8, 2)
    assert array.dtype == np.float64
    assert lengths.tolist() == [3, 0, 5]
    for row, given in zip(array, rows, strict=True):
        np.testing.assert_array_equal(row[: len(given)], given)
        np.testing.assert_array_equal(row[len(given) :], -1)
    assert data.pad([[1], []])[0].dtype == np.int32
    assert data.pad([[1.5], []])[0].dtype == np.float32
    assert data.pad([np.ones(2, np.int8)], length=3)[0].dtype == np.int8
    assert data.pad([[], []])[0].shape == (2, 0)


@pytest.mark.parametrize(("run", "message"), [
    (lambda: data.pad([]), "at least one"),
    (lambda: data.pad([[1, 2], [3]], length=1), "sequence 0 has 2 steps"),
    (lambda: data.pad([np.ones((2, 3)), np.ones((2, 4))]), "agree in all axes"),
    (lambda: data.pad([[2**63]]), r"number 0 has 9223372036854775808 … 9223372036854775808: pass arrays"),
    (lambda: data.pad([[1], [2**31]]), r"number 1 has 2147483648 … 2147483648: pass arrays"),
    (lambda: data.pad([[1, 2], [1]], value=float("nan")), "`value` must be one that int32, the dtype of the sequences"),
    (lambda: data.pad([np.ones(2, np.uint8)], value=-1), "`value` must be one that uint8"),
    (lambda: data.pad_pairs([[2**32 + 5]], [[1]], start=1, end=2), "must hold ids from 0; number 0 has 4294967301"),
    (lambda: data.pad_pairs([[1]], [], start=1, end=2), "got 1 and 0"),
])  # fmt: skip
def test_bad_sequences(run, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


@pytest.mark.parametrize("rows", [[[1.7]], [["a"]], [[[1, 2]]], [1]], ids=str)
def test_pairs_are_of_integers(rows) -> None:
    for name, sources, targets in (("sources", rows, [[1]]), ("targets", [[1]], rows)):
        with pytest.raises(TypeError, match=f"`{name}` must be rows of ids, which are integers; number 0"):
            data.pad_pairs(sources, targets, start=1, end=2)


@pytest.mark.parametrize("sequences", [[["a"], ["b", "c"]], [[b"a"]], [[1], 2], [[{}]]], ids=str)
def test_what_is_no_sequence_of_numbers(sequences) -> None:
    with pytest.raises(TypeError, match="must be arrays or lists of numbers"):
        data.pad(sequences)


def test_decoder_reads_behind_start_and_learns_up_to_end() -> None:
    pairs = data.pad_pairs(SOURCES, TARGETS, start=1, end=2)
    for n, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        s, u = pairs.source_lengths[n], pairs.target_lengths[n]
        assert pairs.sources[n, :s].tolist() == source.tolist()
        assert pairs.inputs[n, :u].tolist() == [1, *target]
        assert pairs.targets[n, :u].tolist() == [*target, 2]
        assert not pairs.sources[n, s:].any()
        assert not pairs.inputs[n, u:].any()
        assert not pairs.targets[n, u:].any()


def test_buckets_hold_every_pair_once() -> None:
    pairs = data.pad_pairs(SOURCES, TARGETS, start=1, end=2)
    batches = data.pair_buckets(pairs, 4, count=3, seed=5)

    def rows(epoch: int) -> list[tuple]:
        found = []
        for inputs, targets, lengths, weights in batches(epoch=epoch):
            (sources, decoded), (labels, target_lengths) = inputs.values(), targets.values()
            assert len(sources) == 4
            for n in np.flatnonzero(weights):
                s, u = lengths[n], target_lengths[n]
                assert labels[n, u - 1] == 2
                found.append((tuple(sources[n, :s]), tuple(decoded[n, :u]), tuple(labels[n, :u])))
        return found

    given = [(tuple(s), (1, *t), (*t, 2)) for s, t in zip(SOURCES, TARGETS, strict=True)]
    assert sorted(rows(0)) == sorted(rows(1)) == sorted(given)
    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    shapes = {(inputs["source"].shape, inputs["target"].shape) for inputs, *_ in batches()}
    assert len(shapes) <= 3
    assert sum(s[0][1] < pairs.sources.shape[1] for s in shapes) >= 2


def padded_steps(pairs: data.Pairs, batch_size: int, count: int) -> int:
    """Steps of the sources and targets of an epoch, with those of padding."""
    batches = data.pair_buckets(pairs, batch_size, count=count)()
    return sum(inputs["source"].size + inputs["target"].size for inputs, *_ in batches)


def test_one_division_is_the_best_of_all() -> None:
    """Two buckets against every division that a length of either axis makes."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths = rng.geometric(0.15, (40, 2)).clip(1, 30)
        pairs = data.pad_pairs([[5] * s for s, _ in lengths], [[6] * (u - 1) for _, u in lengths], start=1, end=2)
        costs = [40 * lengths.max(0).sum()]
        for axis in (0, 1):
            for border in set(lengths[:, axis]) - {lengths[:, axis].max()}:
                sides = (lengths[lengths[:, axis] <= border], lengths[lengths[:, axis] > border])
                costs.append(sum(-(-len(side) // 4) * 4 * side.max(0).sum() for side in sides))
        assert padded_steps(pairs, 4, 1) == costs[0]
        assert padded_steps(pairs, 4, 2) == min(costs)


def test_more_buckets_pad_less_until_no_division_saves_a_step() -> None:
    lengths = np.random.default_rng(0).geometric(0.15, (400, 2)).clip(1, 30)
    pairs = data.pad_pairs([[5] * s for s, _ in lengths], [[6] * (u - 1) for _, u in lengths], start=1, end=2)
    steps = [padded_steps(pairs, 4, count) for count in (1, 2, 4, 8, 16, 400)]
    assert (np.diff(steps) < 0).all()
    assert lengths.sum() <= steps[-1] < 1.2 * lengths.sum()
    same = data.pad_pairs([[5, 5]] * 8, [[6]] * 8, start=1, end=2)
    assert padded_steps(same, 4, 3) == 8 * 4


def test_fit_takes_buckets_and_arrays() -> None:
    """A model of the two lengths learns from both forms; equal widths of sources and targets are not confused."""
    pairs = data.pad_pairs([[5], [6, 7, 8], [9, 5]], [[4, 4], [5], [6]], start=1, end=2)
    assert pairs.sources.shape == pairs.inputs.shape
    params = {"table": jnp.zeros((10, 10))}

    def apply(params, inputs, lengths):
        sources, decoded = inputs["source"], inputs["target"]
        inside = jnp.arange(sources.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
        read = jnp.where(inside[..., None], params["table"][sources], 0).sum(1)
        return params["table"][decoded] + read[:, None]

    def loss(outputs, targets, mask):
        return rj.training.cross_entropy(outputs, **targets, mask=mask, time_major=False)

    for source in (pairs.batch(), data.pair_buckets(pairs, 2, count=2)):
        fitted = rj.training.fit((params, apply), source, loss=loss, epochs=3, batch_size=2, progress=False)
        history = fitted.history["loss"]
        np.testing.assert_allclose(history[0], np.log(10), rtol=0.01)
        assert history[-1] < history[0]
    assert jax.tree.leaves(params)[0].shape == (10, 10)
