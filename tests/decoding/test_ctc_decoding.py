"""CTC decoding against sums over all alignments, and against prefix search with dictionaries."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax.decoding import Beams, Fusion, Labels, character_fusion, ctc_greedy, ctc_prefix_beam, word_fusion

from .toy import log_softmax

RNG = np.random.default_rng(0)
Prefix = tuple[int, ...]


def read(path: Any, blank: int) -> Prefix:
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def find(logits: Any, lengths: Any = None, **options: Any) -> Beams:
    """With `lm` a function that makes one, so that all is compiled."""
    make = options.pop("lm", lambda: None)
    call = jax.jit(lambda logits, lengths: ctc_prefix_beam(logits, lengths, lm=make(), **options))
    return call(jnp.asarray(logits), None if lengths is None else jnp.asarray(lengths))


def follow(logits: Any, lengths: Any = None, **options: Any) -> Labels:
    call = jax.jit(lambda logits, lengths: ctc_greedy(logits, lengths, **options))
    return call(jnp.asarray(logits), None if lengths is None else jnp.asarray(lengths))


def all_readings(log_probs: np.ndarray, blank: int) -> dict[Prefix, float]:
    """The probability of all labels that T frames (T, V) can read, summed path by path."""
    found: dict[Prefix, float] = defaultdict(float)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        found[read(path, blank)] += np.exp(sum(row[label] for row, label in zip(log_probs, path, strict=True)))
    return found


def agrees(found: Beams, row: Any, wanted: list[tuple[float, Prefix]], steps: int, pad: int = 0) -> None:
    wanted = sorted(wanted, reverse=True)
    for i in range(found.tokens.shape[-2]):
        score, labels = wanted[i] if i < len(wanted) and wanted[i][0] > -np.inf else (-np.inf, ())
        np.testing.assert_allclose(found.scores[row][i], score, rtol=1e-9, atol=1e-12)
        assert found.lengths[row][i] == len(labels)
        assert found.tokens[row][i].tolist() == list(labels) + [pad] * (steps - len(labels))


@pytest.mark.parametrize("blank", [0, 2, 3])
def test_greedy_is_the_best_path(blank: int) -> None:
    logits, lengths = RNG.normal(size=(9, 6, 4)) * 2, np.array([9, 0, 3, 9, 5, 1])
    logits[:, 0] = 5 * np.eye(4)[[1, 1, 2, 2, 1, 0, 0, 3, 3]]
    found = follow(logits, lengths, blank=blank, pad=-1)
    for row, n in enumerate(lengths):
        labels = read(logits[:n, row].argmax(-1), blank)
        assert found.lengths[row] == len(labels)
        assert found.tokens[row].tolist() == list(labels) + [-1] * (9 - len(labels))
        np.testing.assert_allclose(found.log_probs[row], log_softmax(logits[:n, row]).max(-1).sum(), atol=1e-12)
    whole, labels = follow(logits[:, 0], blank=blank), read([1, 1, 2, 2, 1, 0, 0, 3, 3], blank)
    assert whole.tokens.tolist() == list(labels) + [blank] * (9 - len(labels))


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_enough_beams_are_the_sum_over_all_alignments(blank: int) -> None:
    steps, lengths = 5, np.array([5, 5, 3, 1, 0])
    logits = RNG.normal(size=(steps, 5, 3)) * 2
    found = find(logits, lengths, beams=70, n_best=60, blank=blank, pad=-1)
    for row, n in enumerate(lengths):
        sums = all_readings(log_softmax(logits[:n, row]), blank)
        agrees(found, row, [(np.log(p), labels) for labels, p in sums.items()], steps, pad=-1)
    np.testing.assert_array_equal(found.log_probs, found.scores)
    np.testing.assert_allclose(jnp.exp(found.scores).sum(1), 1, rtol=1e-12)


def prefix_search(
    log_probs: np.ndarray, beams: int, blank: int, gain: Any = lambda prefix: 0.0
) -> list[tuple[float, Prefix]]:
    """Hannun 2014 with a dictionary; `gain(prefix)` is what its last label adds, and all before."""
    live: dict[Prefix, tuple[float, float]] = {(): (0.0, -np.inf)}
    for frame in log_probs:
        new: dict[Prefix, list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        for prefix, (silent, label) in live.items():
            total = np.logaddexp(silent, label)
            new[prefix][0] = np.logaddexp(new[prefix][0], total + frame[blank])
            for token in range(len(frame)):
                if token == blank:
                    continue
                if prefix and token == prefix[-1]:
                    new[prefix][1] = np.logaddexp(new[prefix][1], label + frame[token])
                    new[*prefix, token][1] = np.logaddexp(new[*prefix, token][1], silent + frame[token])
                else:
                    new[*prefix, token][1] = np.logaddexp(new[*prefix, token][1], total + frame[token])
        ranked = sorted(new, key=lambda prefix: -np.logaddexp(*new[prefix]) - gain(prefix))
        live = {prefix: (new[prefix][0], new[prefix][1]) for prefix in ranked[:beams]}
    return [(np.logaddexp(*pair) + gain(prefix), prefix) for prefix, pair in live.items()]


@pytest.mark.parametrize("beams", [1, 2, 3, 7])
def test_few_beams_are_the_search_with_dictionaries(beams: int) -> None:
    steps, rows = 14, 60
    logits = RNG.normal(size=(steps, rows, 4)) * 1.2
    found = find(logits, beams=beams, n_best=beams)
    for row in range(rows):
        agrees(found, row, prefix_search(log_softmax(logits[:, row]), beams, 0), steps)


AFTER = RNG.normal(size=(6, 5)) * 2  # rows: the last label, 4 is the end, 5 what stands before the first
WEIGHT, BONUS = 0.7, 0.4


def bigram(carry: Any, tokens: Any) -> Any:
    return jnp.asarray(AFTER)[jnp.where(carry["first"], 5, tokens)], {"first": jnp.zeros_like(carry["first"])}


def bigram_gain(prefix: Prefix, blank: int, end: bool) -> float:
    """α log P + β of all labels, where the blank is none of them."""
    logits = AFTER.copy()
    logits[:, blank] = -np.inf
    log_probs = log_softmax(logits)
    gain = sum(WEIGHT * log_probs[a, b] + BONUS for a, b in zip((5, *prefix[:-1]), prefix, strict=False))
    return gain + (WEIGHT * log_probs[prefix[-1] if prefix else 5, 4] if end else 0)


def characters(rows: int, blank: int, end: int | None) -> Fusion:
    start = jnp.zeros(rows, jnp.int32)
    return character_fusion(bigram, {"first": start == 0}, start, weight=WEIGHT, bonus=BONUS, end=end, blank=blank)


@pytest.mark.parametrize("end", [None, 4])
@pytest.mark.parametrize("blank", [0, 2])
def test_a_language_model_of_characters_adds_up(blank: int, end: int | None) -> None:
    steps, lengths = 4, np.array([4, 3, 0])
    logits = RNG.normal(size=(steps, 3, 4)) * 2
    found = find(logits, lengths, beams=160, n_best=120, blank=blank, lm=lambda: characters(3, blank, end))
    for row, n in enumerate(lengths):
        sums = all_readings(log_softmax(logits[:n, row]), blank)
        gains = {labels: bigram_gain(labels, blank, end is not None) for labels in sums}
        agrees(found, row, [(np.log(p) + gains[labels], labels) for labels, p in sums.items()], steps, pad=blank)
        for i in range(3 if n else 1):
            labels = tuple(found.tokens[row, i, : found.lengths[row, i]].tolist())
            np.testing.assert_allclose(found.log_probs[row, i], np.log(sums[labels]), rtol=1e-9, atol=1e-12)


def test_a_model_whose_end_has_the_number_of_the_blank() -> None:
    """Its logit counts, as the end's: what is best without an end is not what is best with one."""
    logits, start = RNG.normal(size=(3, 2, 4)) * 2, jnp.zeros(2, jnp.int32)

    def model() -> Fusion:
        return character_fusion(bigram, {"first": start == 0}, start, weight=WEIGHT, end=0, blank=None)

    found = find(logits, beams=80, n_best=1, lm=model)
    table = np.array([log_softmax(row) for row in AFTER])
    for row in range(2):
        sums = all_readings(log_softmax(logits[:, row]), 0)
        scores = {
            labels: np.log(p) + WEIGHT * sum(table[a, b] for a, b in itertools.pairwise((5, *labels, 0)))
            for labels, p in sums.items()
        }
        best = max(scores, key=lambda labels: scores[labels])
        assert tuple(found.tokens[row, 0, : found.lengths[row, 0]].tolist()) == best
        np.testing.assert_allclose(found.scores[row, 0], scores[best], rtol=1e-9)


def test_a_language_model_takes_part_in_the_search() -> None:
    logits = RNG.normal(size=(10, 30, 4))
    found = find(logits, beams=4, n_best=4, lm=lambda: characters(30, 0, None))
    for row in range(30):
        wanted = prefix_search(log_softmax(logits[:, row]), 4, 0, lambda prefix: bigram_gain(prefix, 0, False))
        agrees(found, row, wanted, 10)


WORDS: list[Prefix] = [(), (2,), (2, 3), (3, 3), (3, 2, 2)]  # 0 is blank, 1 the space
WORD_AFTER = RNG.normal(size=(5, 5)) * 2


def words_gain(labels: Prefix) -> float:
    """α log P + β of all words, −∞ unless the labels spell some with single spaces between."""
    spelt = [tuple(group) for space, group in itertools.groupby(labels, lambda label: label == 1) if not space]
    spaces = [len(list(group)) for space, group in itertools.groupby(labels, lambda label: label == 1) if space]
    if any(word not in WORDS for word in spelt) or any(n > 1 for n in spaces) or labels[:1] == (1,):
        return -np.inf
    ids = [WORDS.index(word) for word in spelt]
    log_probs = log_softmax(WORD_AFTER)
    return sum(WEIGHT * log_probs[a, b] + BONUS for a, b in zip([0, *ids[:-1]], ids, strict=False))


def test_a_language_model_of_words_adds_up() -> None:
    steps, lengths = 6, np.array([6, 5, 2])
    logits = RNG.normal(size=(steps, 3, 4))
    logits[:, :, 1] += 1

    def step(carry: Any, tokens: Any) -> Any:
        return jnp.asarray(WORD_AFTER)[tokens], carry

    def words() -> Fusion:
        start = jnp.zeros(3, jnp.int32)
        return word_fusion(WORDS, step, (), start, vocabulary=4, space=1, weight=WEIGHT, bonus=BONUS)

    found = find(logits, lengths, beams=400, n_best=30, lm=words)
    for row, n in enumerate(lengths):
        sums = all_readings(log_softmax(logits[:n, row]), 0)
        wanted = [(np.log(p) + words_gain(labels), labels) for labels, p in sums.items()]
        assert sum(score > -np.inf and 1 in labels[:-1] for score, labels in wanted) > (5 if n > 4 else -1)
        agrees(found, row, [(score, labels if score > -np.inf else ()) for score, labels in wanted], steps)


def test_a_model_with_a_state_reads_each_label_once() -> None:
    layer = rj.Stack([rj.Embedding(5, 3), rj.GRU(4), rj.Dense(5)])
    params = layer.init(jax.random.key(0), 5, jnp.float64)
    logits = RNG.normal(size=(8, 2, 4)) * 2

    @jax.jit
    def transcribe(params: Any, logits: Any) -> Beams:
        step = rj.decoding.next_token(layer, params)
        lm = character_fusion(step, step.initial_state((2,)), jnp.full(2, 4, jnp.int32), blank=None)
        return ctc_prefix_beam(logits, beams=6, lm=lm, n_best=4)

    found, read_all = transcribe(params, jnp.asarray(logits)), jax.jit(layer)
    for row, i in itertools.product(range(2), range(4)):
        labels = [4, *found.tokens[row, i, : found.lengths[row, i]].tolist()]
        log_probs = log_softmax(np.asarray(read_all(params, jnp.asarray(labels + [0] * (9 - len(labels))))[0]))
        gain = sum(log_probs[t, label] for t, label in enumerate(labels[1:]))
        np.testing.assert_allclose(found.scores[row, i] - found.log_probs[row, i], gain, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_rows_do_not_depend_on_each_other() -> None:
    logits, lengths = jnp.asarray(RNG.normal(size=(7, 4, 4))), jnp.array([7, 2, 0, 5])
    whole = find(logits, lengths, beams=4, n_best=3)
    call = jax.jit(lambda logits, lengths: ctc_prefix_beam(logits, lengths, beams=4, n_best=3))
    mapped = jax.vmap(call, (1, 0))(logits, lengths)
    grid = call(logits.reshape(7, 2, 2, 4), lengths.reshape(2, 2))
    for got, batch, wanted in zip(mapped, grid, whole, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
        np.testing.assert_allclose(batch, wanted.reshape(batch.shape), rtol=1e-12)
    for row in range(4):
        for got, wanted in zip(call(logits[:, row], lengths[row]), whole, strict=True):
            np.testing.assert_allclose(got, wanted[row], rtol=1e-12)
        for got, wanted in zip(call(logits[: int(lengths[row]), row], lengths[row]), whole, strict=True):
            width = got.shape[-1] if got.ndim == 2 else None
            np.testing.assert_allclose(got, wanted[row][..., :width] if width is not None else wanted[row], rtol=1e-12)


def test_padding_is_never_read() -> None:
    logits, lengths = RNG.normal(size=(6, 3, 4)), np.array([6, 2, 4])
    spoilt = np.where(np.arange(6)[:, None, None] < lengths[:, None], logits, np.nan)
    for decode in (lambda x: find(x, lengths, beams=5, n_best=2), lambda x: follow(x, lengths)):
        jax.tree.map(np.testing.assert_array_equal, decode(spoilt), decode(logits))


def test_what_is_not_finite_is_never_read() -> None:
    logits = RNG.normal(size=(5, 3, 4))
    logits[:, 0, 2] = np.nan
    logits[2, 1] = -np.inf
    found = find(logits, beams=40, n_best=3)
    sums = all_readings(log_softmax(np.where(np.isnan(logits[:, 0]), -np.inf, logits[:, 0])), 0)
    agrees(found, 0, [(np.log(p), labels) for labels, p in sums.items() if p], 5)
    assert (found.scores[1] == -np.inf).all()
    assert (found.lengths[1] == 0).all()
    assert jnp.isfinite(found.scores[2]).all()
    path = follow(logits)
    assert (path.tokens[0] != 2).all()
    assert jnp.isfinite(path.log_probs).tolist() == [True, False, True]


def test_pieces_of_a_stream_read_as_the_whole() -> None:
    logits = RNG.normal(size=(12, 4, 3)) * 2
    whole = follow(logits, blank=1)
    for cuts in ((0, 5, 12), (0, 1, 2, 3, 12), (0, 0, 7, 7, 12)):
        last, read_so_far, log_probs = None, [[] for _ in range(4)], 0.0
        for start, stop in itertools.pairwise(cuts):
            piece = follow(logits[start:stop], blank=1, previous=last)
            last, log_probs = piece.last, log_probs + piece.log_probs
            for row in range(4):
                read_so_far[row] += piece.tokens[row, : piece.lengths[row]].tolist()
        assert read_so_far == [whole.tokens[row, : whole.lengths[row]].tolist() for row in range(4)]
        np.testing.assert_allclose(log_probs, whole.log_probs, rtol=1e-12)
    ragged = follow(logits, np.array([12, 3, 0, 1]), blank=1, previous=jnp.array([0, 0, 2, 0]))
    assert ragged.last.tolist() == [*(logits[[11, 2], [0, 1]].argmax(-1)), 2, logits[0, 3].argmax()]


def test_prefixes_that_were_impossible_come_back() -> None:
    logits = RNG.normal(size=(9, 40, 3))
    holes = RNG.random(logits.shape) < 0.4
    logits = np.where(holes & ~holes.all(-1, keepdims=True), -np.inf, logits)
    for beams in (4, 40):
        found = find(logits, beams=beams, n_best=4)
        for row in range(40):
            with np.errstate(invalid="ignore"):
                wanted = prefix_search(log_softmax(logits[:, row]), beams, 0)
            agrees(found, row, [pair for pair in wanted if pair[0] > -np.inf], 9)


def test_dtypes_and_nothing_to_read() -> None:
    logits = RNG.normal(size=(6, 2, 5))
    for dtype in (jnp.float32, jnp.float64):
        found = find(logits.astype(dtype), beams=4)
        assert [leaf.dtype for leaf in found] == [jnp.int32, jnp.int32, dtype, dtype]
        path = follow(logits.astype(dtype))
        assert [leaf.dtype for leaf in path] == [jnp.int32, jnp.int32, dtype, jnp.int32]
    for steps, rows in ((0, 2), (6, 0)):
        found = find(logits[:steps, :rows], beams=4)
        assert found.tokens.shape == (rows, 1, steps)
        assert (found.scores == 0).all()
        assert follow(logits[:steps, :rows]).tokens.shape == (rows, steps)


def lm(**change: Any) -> Fusion:
    return characters(2, 0, None)._replace(**change)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_frame_that_says_nothing_holds_no_label(value: float) -> None:
    path = jnp.array([1, 1, 3, 2])
    logits = (5 * jax.nn.one_hot(path, 5)).at[2].set(value)
    found = ctc_greedy(logits, blank=4)
    assert found.tokens.tolist() == [1, 2, 4, 4]
    assert found.log_probs == -jnp.inf


X = jnp.zeros((3, 2, 4))
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: ctc_greedy(X.astype(int)), TypeError, r"`logits` must be a floating-point array \(T, \*B, V\)"),
    (lambda: ctc_greedy(X[0, 0]), ValueError, r"`logits` must be \(T, \*B, V\) with V ≥ 1; got shape \(4,\)"),
    (lambda: ctc_greedy(X, blank=4), ValueError, "`blank` must lie in 0…V − 1 = 3; got 4"),
    (lambda: ctc_greedy(X, jnp.array([4, 1])), ValueError, "`lengths` must lie in 0…T = 3"),
    (lambda: ctc_greedy(X, previous=jnp.array([1])), ValueError, r"`previous` must be integers \(\*B\) = \(2,\)"),
    (lambda: ctc_greedy(X, jnp.array([1])), ValueError, r"`lengths` must be \(\*B\) = \(2,\)"),
    (lambda: ctc_greedy(X, jnp.array([1, 2, 3])), ValueError, r"each row of `logits`; got shape \(3,\)\. Time comes"),
    (lambda: ctc_prefix_beam(X, beams=0), ValueError, "`beams` must be at least 1"),
    (lambda: ctc_prefix_beam(X, beams=2, n_best=3), ValueError, "`n_best` must be at most `beams` = 2"),
    (lambda: ctc_prefix_beam(X[..., :3, :], lm=characters(3, 0, None)), ValueError, r"`lm` must score labels"),
    (lambda: ctc_prefix_beam(jnp.zeros((3, 2, 6)), lm=lm()), ValueError, "W ≥ V = 6"),
    (lambda: ctc_prefix_beam(X, lm=lm(end=5)), ValueError, "`lm.end` must lie in"),
    (lambda: ctc_prefix_beam(X, lm=lm(ahead=jnp.zeros((2, 4)))), ValueError, "as many labels as `lm.ahead`, 4; got 5"),
    (lambda: ctc_prefix_beam(X, lm=lm(carry=jnp.zeros(3))), ValueError, "`carry` must lead with the batch axes"),
    (lambda: characters(2, 7, None), ValueError, "`blank` must lie in"),
    (lambda: characters(2, 0, 5), ValueError, "`end` must lie in"),
    (
        lambda: characters(2, 0, 0),
        ValueError,
        "`end` must be another id than `blank`.*got 0 for both: pass `blank=None`",
    ),
    (lambda: lexicon([(2,), (2,)]), ValueError, r"`words\[0\]` and `words\[1\]` are spelt the same, \(2,\)"),
    (lambda: lexicon([(2, 1)]), ValueError, r"`words\[0\]` must not hold the space, 1"),
    (lambda: lexicon([(2, 4)]), ValueError, r"`words\[0\]` must lie in 0…V − 1 = 3; got 4"),
    (lambda: lexicon([(2,), (3,), (2, 3)]), ValueError, "one logit for each of the 3 words; got 2"),
]


def lexicon(words: list[Prefix]) -> Fusion:
    def step(carry: Any, tokens: Any) -> Any:
        return jnp.zeros((*tokens.shape, 2)), carry

    return word_fusion(words, step, (), jnp.zeros(2, jnp.int32), vocabulary=4, space=1)


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
