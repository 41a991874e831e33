"""Beam search against every sequence there is, against a search written with lists, and the laws of rows."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax.decoding import GNMT, Beams, Decoded, PerToken, beam_search, coverage_penalty, greedy
from rnnjax.decoding._best import best

from .toy import RULES, Toy, forbidden, log_softmax

LENGTH_PENALTIES = {
    "none": (None, lambda n: 1.0),
    "gnmt": (GNMT(0.8), lambda n: ((5 + n) / 6) ** 0.8),
    "mean": (PerToken(), lambda n: float(n)),
    "short": (PerToken(-0.7), lambda n: n**-0.7),
    "hump": (lambda n: 1 + jnp.where(n == 4, 3.0, 0.0), lambda n: 1 + 3.0 * (n == 4)),
}


def find(model: Any, length: int, beams: int, dtype: Any = jnp.float64, **options: Any) -> Beams:
    call = jax.jit(lambda carry, start: beam_search(model.step, carry, start, length, beams, **options))
    return call(model.carry(dtype), jnp.asarray(model.start))


def greedily(model: Any, length: int, **options: Any) -> Decoded:
    call = jax.jit(lambda carry, start: greedy(model.step, carry, start, length, **options))
    return call(model.carry(), jnp.asarray(model.start))


def penalty(carry: Any) -> Any:
    return -3 * (1 + jnp.tanh(carry["h"][..., 0]))


def score(model: Any, row: int, tokens: Any, divisor: Any, penalised: bool) -> float:
    cost = -3 * (1 + np.tanh(model.hidden(row, tokens[:-1])[0])) if penalised else 0
    return model.log_prob(row, tokens) / divisor(len(tokens)) + cost


def agrees(found: Beams, row: int, wanted: list[tuple[float, tuple[int, ...]]], model: Any, pad: int = 0) -> None:
    """The hypotheses of a row are these, best first, and none beyond."""
    length = found.tokens.shape[-1]
    for i in range(found.tokens.shape[1]):
        if i >= len(wanted):
            assert found.scores[row, i] == found.log_probs[row, i] == -np.inf
            assert found.lengths[row, i] == 0
            continue
        value, tokens = wanted[i]
        np.testing.assert_allclose(found.scores[row, i], value, rtol=1e-10)
        assert found.lengths[row, i] == len(tokens)
        assert tuple(found.tokens[row, i].tolist()) == tokens + (pad,) * (length - len(tokens))
        np.testing.assert_allclose(found.log_probs[row, i], model.log_prob(row, tokens), rtol=1e-10)


def all_sequences(vocabulary: int, length: int, end: int | None) -> list[tuple[int, ...]]:
    """Those that end with `end` and have it nowhere else, and those of full length without it."""
    found = []
    for n in range(1, length + 1):
        for tokens in itertools.product(range(vocabulary), repeat=n):
            if end not in tokens[:-1] and (tokens[-1] == end or n == length):
                found.append(tokens)
    return found


@pytest.mark.parametrize(
    ("name", "penalised"), list(zip(LENGTH_PENALTIES, (False, True, False, True, False), strict=True))
)
def test_a_full_beam_is_an_exhaustive_search(name: str, penalised: bool) -> None:
    given, divisor = LENGTH_PENALTIES[name]
    model = Toy(3, 3)
    options = {"length_penalty": given, "penalty": penalty if penalised else None}
    found = find(model, 4, 81, end=1, n_best=60, pad=-1, **options)
    for row in range(3):
        wanted = [(score(model, row, tokens, divisor, penalised), tokens) for tokens in all_sequences(3, 4, 1)]
        agrees(found, row, sorted(wanted, reverse=True), model, pad=-1)


@pytest.mark.parametrize("rule", ["min_length", "bans", "unigrams", "bigrams", "prefix"])
def test_a_full_beam_follows_the_rules(rule: str) -> None:
    options = {
        "min_length": {"end": 1, "min_length": 3},
        "bans": {"end": 1, "bans": (2,)},
        "unigrams": {"no_repeat": 1},
        "bigrams": {"end": 1, "no_repeat": 2},
        "prefix": {"end": 1, "prefix": np.array([[0, -1, 2], [-1, 2, -1], [1, 0, 0]]), "no_repeat": 2},
    }[rule]
    model = Toy(3, 3)
    found = find(model, 4, 81, n_best=40, **options)
    for row in range(3):
        wanted = []
        for tokens in all_sequences(3, 4, options.get("end")):
            heads = [list(tokens[:i]) for i in range(len(tokens))]
            if not any(tokens[i] in forbidden_of_3(head, row, options) for i, head in enumerate(heads)):
                wanted.append((model.log_prob(row, tokens), tokens))
        agrees(found, row, sorted(wanted, reverse=True)[:40], model)


def forbidden_of_3(tokens: list[int], row: int, options: dict[str, Any]) -> set[int]:
    return {token for token in forbidden(tokens, row, **options) if token < 3}


def search_with_lists(
    model: Any,
    row: int,
    length: int,
    beams: int,
    n_best: int,
    end: int,
    divisor: Any,
    penalised: bool,
    rule: dict[str, Any],
) -> list[tuple[float, tuple[int, ...]]]:
    """What the docstring says, without a bound that stops early."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    closed: list[tuple[int, ...]] = []
    for _ in range(length):
        candidates = []
        for _, tokens in live:
            banned = forbidden(list(tokens), row, end=end, **rule)
            candidates += [(*tokens, token) for token in range(len(model.e)) if token not in banned]
        ordered = sorted(((model.log_prob(row, tokens), tokens) for tokens in candidates), reverse=True)
        closed += [tokens for _, tokens in ordered[:beams] if tokens[-1] == end]
        live = [pair for pair in ordered if pair[1][-1] != end][:beams]
    closed += [tokens for _, tokens in live]
    return sorted(((score(model, row, tokens, divisor, penalised), tokens) for tokens in closed), reverse=True)[:n_best]


@pytest.mark.parametrize(
    ("name", "penalised"), list(zip(LENGTH_PENALTIES, (True, False, True, False, True), strict=True))
)
def test_a_narrow_beam_is_the_search_with_lists(name: str, penalised: bool) -> None:
    given, divisor = LENGTH_PENALTIES[name]
    model = Toy(7, 12, scale=1.5)
    options = {"length_penalty": given, "penalty": penalty if penalised else None}
    found = find(model, 6, 3, end=2, n_best=3, **options)
    for row in range(12):
        agrees(found, row, search_with_lists(model, row, 6, 3, 3, 2, divisor, penalised, {}), model)


def test_a_narrow_beam_with_rules_is_the_search_with_lists() -> None:
    model = Toy(7, 6, scale=1.5)
    history = np.random.default_rng(0).integers(-2, 7, (6, 9))
    rule = {"min_length": 2, "bans": (4,), "no_repeat": 2, "history": history}
    found = find(model, 6, 4, end=2, n_best=2, length_penalty=PerToken(), **rule)
    for row in range(6):
        agrees(found, row, search_with_lists(model, row, 6, 4, 2, 2, lambda n: n, False, rule), model)


@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
def test_one_beam_is_greedy(options: dict[str, Any]) -> None:
    model = Toy(7, 5)
    found = find(model, 7, 1, **options)
    wanted = greedily(model, 7, **options)
    alive = np.asarray(wanted.log_probs) > -np.inf
    assert alive.any()
    np.testing.assert_array_equal(found.tokens[alive, 0], wanted.tokens[alive])
    np.testing.assert_array_equal(found.lengths[:, 0], jnp.where(alive, wanted.lengths, 0))
    np.testing.assert_allclose(found.log_probs[:, 0], wanted.log_probs, rtol=1e-12)
    np.testing.assert_allclose(found.scores[:, 0], wanted.log_probs, rtol=1e-12)


def test_one_beam_is_greedy_however_long() -> None:
    """Behind a thousand tokens the digits of log P are coarser than what lies between two candidates."""
    model = Toy(64, 4, scale=0.001)
    carry, start = model.carry(jnp.float32), jnp.asarray(model.start)
    found = jax.jit(lambda carry: beam_search(model.step, carry, start, 1500, 1))(carry)
    wanted = jax.jit(lambda carry: greedy(model.step, carry, start, 1500))(carry)
    np.testing.assert_array_equal(found.tokens[:, 0], wanted.tokens)


def test_one_beam_is_greedy_where_all_is_equal() -> None:
    model = Toy(7, 2, scale=0.0)
    for end in (0, 3):
        found = find(model, 5, 1, end=end)
        np.testing.assert_array_equal(found.tokens[:, 0], greedily(model, 5, end=end).tokens)


def test_a_layer_fed_the_outputs_agrees() -> None:
    layer = rj.Stack([rj.Embedding(7, 4), rj.LSTM(5), rj.GRU(4), rj.Dense(7)])
    params = layer.init(jax.random.key(0), 7, jnp.float64)
    start = jnp.array([2, 0, 6], jnp.int32)

    @jax.jit
    def decode(params: Any) -> Beams:
        step = rj.decoding.next_token(layer, params)
        return beam_search(step, step.initial_state((3,)), start, 8, 4, end=1, n_best=3, min_length=3)

    found = decode(params)
    tokens = np.moveaxis(np.asarray(found.tokens), -1, 0)
    read = np.concatenate([np.broadcast_to(np.asarray(start)[:, None], tokens[:1].shape), tokens[:-1]])
    logits, _ = jax.jit(layer)(params, jnp.asarray(read))
    log_probs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], axis=-1)[..., 0]
    inside = np.arange(8)[:, None, None] < np.asarray(found.lengths)
    np.testing.assert_allclose(found.log_probs, np.where(inside, log_probs, 0).sum(0), rtol=1e-12)


def test_rows_do_not_depend_on_each_other() -> None:
    model = Toy(7, 6, scale=1.5)
    options: dict[str, Any] = {"end": 2, "n_best": 2, "length_penalty": GNMT(0.6), "penalty": penalty}
    whole = find(model, 8, 3, **options)
    assert len(set(whole.lengths[:, 0].tolist())) > 2
    call = jax.jit(lambda carry, start: beam_search(model.step, carry, start, 8, 3, **options))
    for row in range(6):
        alone = call(jax.tree.map(lambda leaf, row=row: leaf[row], model.carry()), jnp.asarray(model.start[row]))
        for got, wanted in zip(alone, whole, strict=True):
            np.testing.assert_allclose(got, wanted[row], rtol=1e-12)
    arguments = model.carry(), jnp.asarray(model.start)
    grid = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), arguments)
    for got, mapped, wanted in zip(call(*grid), jax.vmap(call)(*arguments), whole, strict=True):
        np.testing.assert_allclose(got, wanted.reshape(got.shape), rtol=1e-12)
        np.testing.assert_allclose(mapped, wanted, rtol=1e-12)


def test_a_memory_of_rows_serves_all_their_beams() -> None:
    model = Toy(7, 4)
    memory = np.random.default_rng(3).normal(size=(5, 4, 7)) * 3

    def step(carry: Any, tokens: Any) -> Any:
        logits, carry = model.step(carry, tokens)
        held = jnp.asarray(memory).reshape(5, 4, *(1,) * (tokens.ndim - 1), 7)
        return logits + held[0] + held.max(0), carry

    found = jax.jit(lambda carry, start: beam_search(step, carry, start, 5, 3))(model.carry(), jnp.asarray(model.start))
    for row in range(4):
        tokens = found.tokens[row, 0].tolist()
        shifted = [x + memory[0, row] + memory[:, row].max(0) for x in model.logits(row, tokens)]
        log_prob = sum(x[t] - np.log(np.exp(x).sum()) for x, t in zip(shifted, tokens, strict=False))
        np.testing.assert_allclose(found.scores[row, 0], log_prob, rtol=1e-12)


@pytest.mark.parametrize("once", [False, True], ids=["source", "remembered"])
def test_a_decoder_attends_and_pays_for_what_it_has_not_covered(once: bool) -> None:
    cell = rj.BahdanauAttention(rj.GRU(5), rj.AdditiveScore(4), memory_size=3)
    layer = rj.Stack([rj.Embedding(7, 4), cell, rj.Dense(7)])
    draw = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: 3 * leaf, layer.init(jax.random.key(0), 7, jnp.float64))
    memory, lengths, start = draw.normal(size=(6, 3, 3)) * 2, np.array([6, 2, 4]), jnp.array([2, 0, 6], jnp.int32)

    @jax.jit
    def decode(params: Any) -> Beams:
        source = rj.Source(jnp.asarray(memory), jnp.asarray(lengths))
        step = rj.decoding.next_token(layer, params, cell.remember(params[1], source) if once else source)

        def penalty(carry: Any) -> Any:
            return coverage_penalty(carry[1].attention.coverage, 0.5, np.arange(6) < lengths[:, None])

        return beam_search(step, step.initial_state((3,)), start, 7, 4, end=1, n_best=2, penalty=penalty)

    @jax.jit
    def alone(read: Any, values: Any, length: Any) -> Any:
        source = rj.Source(values, length)
        return layer(params, read, context=source)[0], rj.alignments(layer, params, read, context=source)

    found = decode(params)
    assert (found.lengths > 2).any()
    for row, i in itertools.product(range(3), range(2)):
        n = int(found.lengths[row, i])
        tokens = np.asarray(found.tokens[row, i])
        read = np.concatenate([np.asarray(start)[row : row + 1], tokens[:-1]])
        logits, alignments = alone(read, memory[:, row], lengths[row])
        log_prob = log_softmax(np.asarray(logits))[np.arange(n), tokens[:n]].sum()
        coverage = np.asarray(alignments)[:n, : lengths[row]].sum(0)
        np.testing.assert_allclose(found.log_probs[row, i], log_prob, rtol=1e-10)
        lost = 0.5 * np.log(np.minimum(coverage, 1)).sum()
        assert lost < 0 or lengths[row] == 2
        np.testing.assert_allclose(found.scores[row, i], log_prob + lost, rtol=1e-10)


def steps_of(model: Any, length: int, beams: int, **options: Any) -> tuple[int, Beams]:
    calls: list[int] = []

    def step(carry: Any, tokens: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        logits, carry = model.step(carry, tokens)
        return logits.at[..., 2].add(2.0), carry

    found = jax.jit(lambda carry, start: beam_search(step, carry, start, length, beams, **options))(
        model.carry(), jnp.asarray(model.start)
    )
    jax.block_until_ready(found)
    jax.effects_barrier()
    return len(calls), found


def test_the_search_stops_when_nothing_can_be_won() -> None:
    model = Toy(7, 5, scale=1.5)
    calls, found = steps_of(model, 40, 3, end=2)
    assert int(found.lengths.max()) <= calls < 20


@pytest.mark.parametrize("name", LENGTH_PENALTIES)
def test_the_search_stops_as_soon_as_nothing_can_be_won(name: str) -> None:
    given, divisor = LENGTH_PENALTIES[name]
    model, length, beams = Toy(7, 5, scale=1.5), 12, 3
    calls, found = steps_of(model, length, beams, end=2, length_penalty=given)
    steps = []
    for row in range(5):
        live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        closed = [-np.inf]
        for n in range(1, length + 1):
            ordered = []
            for log_prob, tokens in live:
                logits = model.logits(row, tokens)[-1] + 2.0 * (np.arange(7) == 2)
                ordered += [(log_prob + x, (*tokens, token)) for token, x in enumerate(log_softmax(logits))]
            ordered.sort(reverse=True)
            closed += [value / divisor(n) for value, tokens in ordered[:beams] if tokens[-1] == 2]
            live = [pair for pair in ordered if pair[1][-1] != 2][:beams]
            ahead = [divisor(later) for later in range(n + 1, length + 1)]
            if not ahead or max(closed) >= live[0][0] / max(ahead):
                break
        steps.append(n)
        closed += [value / divisor(length) for value, _ in live if n == length]
        np.testing.assert_allclose(found.scores[row, 0], max(closed), rtol=1e-10)
    assert calls == max(steps)


def test_what_is_not_finite_is_never_taken() -> None:
    model = Toy(7, 3)

    def step(carry: Any, tokens: Any) -> Any:
        logits, carry = model.step(carry, tokens)
        broken = jnp.where((tokens == 4)[..., None], jnp.nan, logits)
        return broken.at[..., 5].set(jnp.inf).at[2].set(-jnp.inf), carry

    found = jax.jit(lambda carry, start: beam_search(step, carry, start, 5, 3, end=1, n_best=3))(
        model.carry(), jnp.full(3, 2, jnp.int32)
    )
    assert (found.tokens != 5).all()
    assert (found.tokens[..., :-1] != 4).all()
    assert jnp.isfinite(found.scores[:2]).all()
    assert (found.scores[2] == -jnp.inf).all()
    assert (found.lengths[2] == 0).all()


def test_a_penalty_that_is_nan_rules_out() -> None:
    found = find(Toy(7, 2), 4, 3, end=1, penalty=lambda carry: jnp.full_like(carry["h"][..., 0], jnp.nan))
    assert (found.scores == -jnp.inf).all()


def test_dtypes() -> None:
    model = Toy(7, 3)
    for dtype in (jnp.float32, jnp.float64):
        found = find(model, 5, 3, dtype, end=1, length_penalty=GNMT(), penalty=penalty)
        assert [leaf.dtype for leaf in found] == [jnp.int32, jnp.int32, dtype, dtype]
    np.testing.assert_allclose(find(model, 5, 3, jnp.float32, end=1).scores, find(model, 5, 3, end=1).scores, rtol=1e-4)


def test_no_rows() -> None:
    assert find(Toy(7, 0), 5, 3, end=1).tokens.shape == (0, 1, 5)


@pytest.mark.parametrize("shape", [(2, 3, 700), (3, 129), (1, 64), (4, 1, 1000), (2, 2, 2, 130)])
@pytest.mark.parametrize("values", ["normal", "few", "infinite"])
def test_the_best_of_many_are_those_of_a_sort(shape: tuple[int, ...], values: str) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=shape) if values == "normal" else draw.integers(0, 4, shape).astype(float)
    x = np.where(draw.random(shape) < {"normal": 0, "few": 0.97, "infinite": 0.999}[values], -np.inf, x)
    offset = draw.integers(-2, 1, shape[:-1]).astype(float)
    for count in (1, 7, shape[-1]):
        found, index = jax.jit(best, static_argnums=2)(jnp.asarray(x), jnp.asarray(offset), count)
        flat = (x + offset[..., None]).reshape(*shape[:-2], -1)
        order = np.argsort(-flat, axis=-1, kind="stable")[..., :count]
        wanted = np.take_along_axis(flat, order, axis=-1)
        np.testing.assert_array_equal(found, wanted)
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(np.asarray(index)[finite], order[finite])
        assert index.min() >= 0
        assert index.max() < flat.shape[-1]


def test_length_penalties_follow_their_formulas() -> None:
    n = np.arange(1.0, 9)
    np.testing.assert_allclose(GNMT(0.7)(jnp.asarray(n)), ((5 + n) / 6) ** 0.7)
    np.testing.assert_allclose(PerToken(0.7)(jnp.asarray(n)), n**0.7)


def test_coverage_penalty_follows_its_formula() -> None:
    coverage = np.random.default_rng(0).random((2, 3, 5)) * 2
    mask = np.arange(5) < 3
    logs = np.log(np.minimum(coverage, 1))
    np.testing.assert_allclose(coverage_penalty(jnp.asarray(coverage), 0.3), 0.3 * logs.sum(-1))
    np.testing.assert_allclose(coverage_penalty(jnp.asarray(coverage), 0.3, mask), 0.3 * logs[..., :3].sum(-1))
    rows = np.arange(5) < np.array([[2], [4]])  # (B, S), also where there are as many rows as beams
    for beams in (3, 2):
        of_rows = np.where(rows[:, None], logs[:, :beams], 0).sum(-1)
        np.testing.assert_allclose(coverage_penalty(jnp.asarray(coverage[:, :beams]), 1.0, rows), of_rows)
    nothing = coverage_penalty(jnp.zeros((2, 3), jnp.float32))
    assert jnp.isfinite(nothing).all()
    assert (nothing < -50).all()
    assert coverage_penalty(jnp.zeros((2, 3), jnp.float32), mask=np.zeros(3, bool)).tolist() == [0, 0]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"beams": 0}, ValueError, "`beams` must be at least 1"),
    ({"beams": 2.0}, TypeError, "`beams` must be a positive integer"),
    ({"n_best": 0}, ValueError, "`n_best` must be at least 1"),
    ({"n_best": 4}, ValueError, "`n_best` must be at most `beams` = 3; got 4"),
    ({"length": 0}, ValueError, "`length` must be at least 1"),
    ({"end": 7}, ValueError, "`end` must lie in"),
    ({"bans": (9,)}, ValueError, "`bans` must lie in"),
    ({"start": jnp.zeros(3, int)}, ValueError, "must lead with the batch axes of `start`"),
    ({"start": jnp.zeros(4)}, TypeError, "`start` must be an integer array"),
    ({"length_penalty": lambda n: 2.0}, ValueError, "`length_penalty` must map numbers of tokens"),
    ({"length_penalty": lambda n: -n}, ValueError, "`length_penalty` must be positive"),
    (
        {"penalty": lambda carry: carry["h"]},
        ValueError,
        r"`penalty` must map the carry to numbers \(\*B, K\) = \(4, 3\)",
    ),
    (
        {"step": lambda carry, tokens: (jnp.zeros((4, 7)), carry)},
        ValueError,
        r"logits \(\*B, V\) for tokens \*B = \(4, 3\); got \(4, 7\)",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = Toy(7, 4)
    given = {"step": model.step, "carry": model.carry(), "start": jnp.asarray(model.start), "length": 5, "beams": 3}
    with pytest.raises(error, match=message):
        beam_search(**(given | options))


def test_coverage_must_be_floating_point() -> None:
    with pytest.raises(TypeError, match="`coverage` must be a floating-point array"):
        coverage_penalty(jnp.ones(3, int))


@pytest.mark.parametrize("mask", [np.ones((3, 5), bool), np.ones((2, 1, 5), bool), np.ones(4, bool), np.ones(5)])
def test_a_mask_of_coverage_has_its_first_axes(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`mask` must be booleans \(5,\), one for each position of `coverage`"):
        coverage_penalty(jnp.ones((2, 3, 5)), mask=mask)
