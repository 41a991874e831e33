"""Sampling and greedy decoding against loops in NumPy, exact distributions, and the laws of rows and time."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import rnnjax as rj
from rnnjax.decoding import Decoded, greedy, sample
from rnnjax.decoding._sample import row_keys

from .toy import END, RULES, Toy, forbidden

B, V, L = 5, 7, 9


def follow(model: Any, row: int, length: int, options: dict[str, Any]) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < length and (not tokens or tokens[-1] != options.get("end")):
        logits = model.logits(row, tokens)[-1].copy()
        logits[list(forbidden(tokens, row, **options))] = -np.inf
        if np.isneginf(logits).all():
            break
        tokens.append(int(logits.argmax()))
    return tokens


def run(decoder: Any, model: Any, length: int = L, dtype: Any = jnp.float64, **options: Any) -> Decoded:
    call = jax.jit(lambda carry, start: decoder(model.step, carry, start, length, **options))
    return call(model.carry(dtype), jnp.asarray(model.start))


def test_a_prefix_that_jit_closes_over() -> None:
    model = Toy(V, B)
    prefix, start, carry = jnp.full((B, 1), 3), jnp.asarray(model.start), model.carry(jnp.float64)
    found = jax.jit(lambda carry, start: greedy(model.step, carry, start, L, prefix=prefix))(carry, start)
    np.testing.assert_array_equal(found.tokens, greedy(model.step, carry, start, L, prefix=prefix).tokens)
    np.testing.assert_array_equal(found.tokens[:, 0], 3)


@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
def test_greedy_is_the_loop(options: dict[str, Any]) -> None:
    model = Toy(V, B)
    found = run(greedy, model, pad=-5, **options)
    for row in range(B):
        tokens = follow(model, row, L, options)
        n = len(tokens)
        assert found.lengths[row] == n
        assert found.tokens[row].tolist() == tokens + [-5] * (L - n)
        np.testing.assert_allclose(found.carry["h"][row], model.hidden(row, tokens[:-1]), rtol=1e-12)
        stuck = n < L and tokens[-1] != options.get("end")
        np.testing.assert_allclose(found.log_probs[row], -np.inf if stuck else model.log_prob(row, tokens), rtol=1e-12)


def test_the_rules_change_something() -> None:
    model = Toy(V, B)
    found = [follow(model, row, L, options) for options in RULES.values() for row in range(B)]
    assert len({str(found[i : i + B]) for i in range(0, len(found), B)}) == len(RULES)
    assert len(follow(model, 0, L, RULES["unigrams"])) == V


def test_ends_and_pieces_make_the_whole() -> None:
    model = Toy(V, B)
    whole, head = run(greedy, model, L), run(greedy, model, 4)
    last = jnp.take_along_axis(head.tokens, head.lengths[:, None] - 1, axis=1)[:, 0]
    tail = jax.jit(lambda carry, start: greedy(model.step, carry, start, L - 4))(head.carry, last)
    np.testing.assert_array_equal(jnp.concatenate([head.tokens, tail.tokens], axis=1), whole.tokens)
    np.testing.assert_allclose(head.log_probs + tail.log_probs, whole.log_probs, rtol=1e-12)


@pytest.mark.parametrize("decoder", [greedy, partial(sample, key=jax.random.key(4), temperature=1.5, top_k=5)])
def test_fed_its_own_outputs_a_layer_agrees(decoder: Any) -> None:
    layer = rj.Stack([rj.Embedding(V, 4), rj.LSTM(5), rj.GRU(4), rj.Dense(V)])
    params = layer.init(jax.random.key(0), V, jnp.float64)
    start = jnp.array([2, 0, 6], jnp.int32)

    @jax.jit
    def decode(params: Any) -> Decoded:
        step = rj.decoding.next_token(layer, params)
        return decoder(step, step.initial_state((3,)), start, 8, end=END)

    found = decode(params)
    read = jnp.concatenate([start[:, None], jnp.where(found.tokens < 0, 0, found.tokens)[:, :-1]], axis=1)
    logits, _ = jax.jit(layer)(params, read.T)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), found.tokens.T[..., None], axis=-1)[..., 0]
    inside = np.arange(8)[:, None] < np.asarray(found.lengths)
    np.testing.assert_allclose(found.log_probs, jnp.where(inside, log_probs, 0).sum(0), rtol=1e-12)


@pytest.mark.slow
def test_ragged_prompts_are_read_but_for_their_last_tokens() -> None:
    """The state is of all before the last token, which is `start`: what follows is what the layer says behind all."""
    layer = rj.Stack([rj.Embedding(V, 4), rj.GRU(5), rj.Dense(V)])
    params = jax.tree.map(lambda leaf: 3 * leaf, layer.init(jax.random.key(1), V, jnp.float64))
    prompts, lengths = jnp.array([[3, 5, 1, 4], [2, 6, 0, 0], [4, 0, 0, 0]], jnp.int32), jnp.array([4, 2, 1], jnp.int32)

    @jax.jit
    def go_on(params: Any) -> Decoded:
        _, carry = layer(params, prompts.T, lengths=lengths - 1)
        start = jnp.take_along_axis(prompts, lengths[:, None] - 1, axis=1)[:, 0]
        return greedy(rj.decoding.next_token(layer, params), carry, start, 3)

    tokens, read = np.asarray(go_on(params).tokens), np.zeros((7, 3), np.int32)
    for row, length in enumerate(lengths.tolist()):
        read[: length + 3, row] = [*prompts[row, :length], *tokens[row]]
    logits, _ = jax.jit(layer)(params, read)
    for row, length in enumerate(lengths.tolist()):
        assert tokens[row].tolist() == np.asarray(logits[length - 1 : length + 2, row]).argmax(-1).tolist()
    assert len({tuple(row) for row in tokens.tolist()}) == 3


def filtered(logits: np.ndarray, tokens: list[int], options: dict[str, Any]) -> np.ndarray:
    """Probabilities by the definitions: repetition, temperature, k largest, head with probability p."""
    logits = logits.copy()
    for token in set(tokens):
        penalty = options.get("repetition_penalty", 1.0)
        logits[token] *= 1 / penalty if logits[token] > 0 else penalty
    logits /= options.get("temperature", 1.0)
    order = np.argsort(-logits)
    p = np.exp(logits - logits.max())
    p[order[options.get("top_k", len(p)) :]] = 0
    p /= p.sum()
    before = np.concatenate([[0], np.cumsum(p[order])[:-1]])
    p[order[before >= options.get("top_p", 1.0)]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 2.5},
        {"top_k": 3},
        {"top_p": 0.7},
        {"repetition_penalty": 3.0},
        {"repetition_penalty": 3.0, "history": [0, -1, 2]},
        {"temperature": 2.0, "top_k": 4, "top_p": 0.9, "repetition_penalty": 0.5},
    ],
    ids=str,
)
def test_frequencies_are_the_exact_distribution(options: dict[str, Any]) -> None:
    draws, vocabulary = 6000, 5
    model = Toy(vocabulary, 1, seed=5, scale=1.0)
    carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, draws, axis=0), model.carry())
    start = jnp.repeat(jnp.asarray(model.start), draws)
    before = options.get("history", [])
    if before:
        options = {**options, "history": jnp.tile(jnp.asarray(before), (draws, 1))}
    call = jax.jit(lambda carry, start: sample(model.step, carry, start, 2, jax.random.key(7), **options).tokens)
    tokens = np.asarray(call(carry, start))
    counts = np.zeros((vocabulary, vocabulary))
    np.add.at(counts, (tokens[:, 0], tokens[:, 1]), 1)
    before = [token for token in before if token >= 0]
    first = filtered(model.logits(0, [])[-1], before, options)
    second = [filtered(model.logits(0, [token])[-1], [*before, token], options) for token in range(vocabulary)]
    expected = draws * first[:, None] * np.array(second)
    assert (counts[expected == 0] == 0).all()
    likely = expected > 5
    rest = counts[~likely].sum(), expected[~likely].sum()
    observed, wanted = np.append(counts[likely], rest[0]), np.append(expected[likely], rest[1])
    kept = wanted > 0
    assert stats.chisquare(observed[kept], wanted[kept]).pvalue > 0.01


def test_temperature_zero_is_greedy_and_may_differ_by_row() -> None:
    model = Toy(V, B)
    best = run(greedy, model, end=END)
    cold = run(partial(sample, key=jax.random.key(1)), model, end=END, temperature=0.0)
    np.testing.assert_array_equal(cold.tokens, best.tokens)
    np.testing.assert_allclose(cold.log_probs, best.log_probs, rtol=1e-14)
    mixed = run(partial(sample, key=jax.random.key(1)), model, temperature=jnp.array([0, 9, 0, 9, 9.0]))
    same = (mixed.tokens == run(greedy, model).tokens).all(1)
    assert same.tolist() == [True, False, True, False, False]


def test_a_row_draws_by_its_own_key_alone() -> None:
    model = Toy(V, B)
    key = jax.random.key(11)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(B, dtype=jnp.uint32))
    options: dict[str, Any] = {"end": END, "top_p": 0.95, "repetition_penalty": 1.2}
    whole = run(partial(sample, key=key), model, **options)
    np.testing.assert_array_equal(run(partial(sample, key=keys), model, **options).tokens, whole.tokens)
    assert len({tuple(row) for row in whole.tokens.tolist()}) == B
    call = jax.jit(lambda carry, start, key: sample(model.step, carry, start, L, key, **options))
    for row in range(B):
        own = jax.tree.map(lambda leaf, row=row: leaf[row], model.carry())
        alone = call(own, jnp.asarray(model.start[row]), keys[row])
        assert alone.tokens.tolist() == whole.tokens[row].tolist()
        assert alone.lengths == whole.lengths[row]
        np.testing.assert_allclose(alone.log_probs, whole.log_probs[row], rtol=1e-12)
    mapped = jax.vmap(call)(model.carry(), jnp.asarray(model.start), keys)
    np.testing.assert_array_equal(mapped.tokens, whole.tokens)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), (model.carry(), jnp.asarray(model.start), keys))
    both = call(*twice)
    np.testing.assert_array_equal(both.tokens, jnp.stack([whole.tokens, whole.tokens[::-1]]))


def test_raw_keys_are_those_that_they_hold() -> None:
    key = jax.random.key(11)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(B, dtype=jnp.uint32))
    wanted = jax.random.key_data(keys)
    for given in (jax.random.key_data(key), np.asarray(jax.random.key_data(key)), wanted):
        np.testing.assert_array_equal(jax.random.key_data(row_keys(given, (B,))), wanted)


def test_equal_draws_at_later_steps_differ() -> None:
    flat = Toy(V, 1, scale=0.0)
    tokens = run(partial(sample, key=jax.random.key(0)), flat, 60).tokens[0]
    assert (tokens[1:] == tokens[:-1]).mean() < 0.5


def test_runs_longer_than_all_that_is_known_ask_for_nothing() -> None:
    model, start = Toy(V, B), jnp.zeros(B, jnp.int32)

    def program(no_repeat: int | None, known: int | None = None) -> int:
        history = None if known is None else jnp.zeros((B, known), jnp.int32)
        run = partial(greedy, model.step, length=6, no_repeat=no_repeat, history=history)
        return len(jax.make_jaxpr(run)(model.carry(), start).pretty_print())

    assert program(7) == program(10**6) == program(None) < program(6)
    assert program(9, known=2) == program(10**6, known=2) < program(8, known=2)


def test_the_loop_stops_with_the_last_row() -> None:
    model = Toy(V, B)
    options = {"end": END, "no_repeat": 1}
    lengths = [len(follow(model, row, 50, options)) for row in range(B)]
    calls: list[int] = []

    def step(carry: Any, tokens: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return model.step(carry, tokens)

    found = jax.jit(lambda carry, start: greedy(step, carry, start, 50, **options))(
        model.carry(), jnp.asarray(model.start)
    )
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert found.lengths.tolist() == lengths
    assert len(set(lengths)) > 1
    assert len(calls) == max(lengths) < 50
    assert found.carry["count"].tolist() == lengths


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("decoder", [greedy, partial(sample, key=jax.random.key(0))], ids=["greedy", "sample"])
def test_what_is_not_finite_is_never_taken(decoder: Any, bad: float) -> None:
    model = Toy(V, B)

    def step(carry: Any, tokens: Any) -> Any:
        logits, carry = model.step(carry, tokens)
        some = logits.at[..., 2].set(bad).at[0, :].set(jnp.where(carry["count"][0] > 3, bad, logits[0]))
        return some, carry

    found = jax.jit(lambda carry, start: decoder(step, carry, start, L))(model.carry(), jnp.asarray(model.start))
    assert found.lengths.tolist() == [3, *[L] * (B - 1)]
    assert (found.tokens != 2).all()
    assert found.log_probs[0] == -jnp.inf
    assert jnp.isfinite(found.log_probs[1:]).all()
    w = model.w.copy()
    model.w = np.delete(w, 2, axis=1)
    shifted = [token - (token > 2) for token in found.tokens[1].tolist()]
    log_probs = [x - np.log(np.exp(x).sum()) for x in model.logits(1, found.tokens[1].tolist())]
    np.testing.assert_allclose(
        found.log_probs[1], sum(x[token] for x, token in zip(log_probs, shifted, strict=False)), rtol=1e-12
    )


def test_dtypes() -> None:
    model = Toy(V, B)
    for dtype in (jnp.float32, jnp.float64):
        found = run(greedy, model, dtype=dtype, end=END)
        assert (found.tokens.dtype, found.lengths.dtype, found.log_probs.dtype) == (jnp.int32, jnp.int32, dtype)
    np.testing.assert_allclose(run(greedy, model, dtype=jnp.float32).log_probs, run(greedy, model).log_probs, rtol=1e-4)


def test_a_carry_takes_the_dtype_of_the_step() -> None:
    model = Toy(V, B)

    def step(carry: Any, tokens: Any) -> Any:
        return model.step(jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), carry, model.carry()), tokens)

    found = jax.jit(lambda carry, start: greedy(step, carry, start, L))(
        model.carry(jnp.float32), jnp.asarray(model.start)
    )
    assert found.carry["h"].dtype == jnp.float64


def test_no_rows() -> None:
    for decoder in (greedy, partial(sample, key=jax.random.key(0))):
        assert run(decoder, Toy(V, 0)).tokens.shape == (0, L)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"length": 0}, ValueError, "`length` must be at least 1"),
    ({"start": jnp.zeros(B)}, TypeError, "`start` must be an integer array"),
    ({"start": 3}, TypeError, "`start` must be an integer array"),
    ({"start": jnp.zeros(B + 1, int)}, ValueError, r"`carry\['count'\]` must lead with the batch axes of `start`"),
    ({"carry": {"h": 3.0}}, TypeError, r"`carry\['h'\]` must be an array"),
    ({"end": V}, ValueError, "`end` must lie in 0…V − 1 = 6; got 7"),
    ({"end": -1}, ValueError, "`end` must lie in"),
    ({"end": 1.0}, TypeError, "`end` must be a token"),
    ({"end": True}, TypeError, "`end` must be a token"),
    ({"min_length": 2}, ValueError, "`min_length` = 2 says how early `end` may come"),
    ({"min_length": -1, "end": 1}, ValueError, "`min_length` must be at least 1"),
    ({"bans": (1, V)}, ValueError, "`bans` must lie in"),
    ({"bans": 4}, TypeError, "`bans` must be a tuple"),
    ({"no_repeat": 0}, ValueError, "`no_repeat` must be at least 1"),
    ({"prefix": jnp.zeros((B, 2))}, TypeError, "`prefix` must be integers"),
    ({"prefix": jnp.zeros((2, B), int)}, ValueError, r"`prefix` must be \(\*B, P\) with \*B = \(5,\)"),
    ({"prefix": jnp.zeros((B, L + 1), int)}, ValueError, "P at most `length` = 9"),
    ({"prefix": jnp.full((B, 1), V)}, ValueError, "`prefix` must hold tokens up to V − 1 = 6; got 7"),
    ({"step": 3}, TypeError, "`step` must be a function"),
    ({"step": lambda carry, tokens: jnp.zeros((B, V))}, TypeError, r"`step` must return \(logits, carry\)"),
    ({"step": lambda carry, tokens: (jnp.zeros((B, V), int), carry)}, TypeError, "floating-point logits"),
    (
        {"step": lambda carry, tokens: (jnp.zeros((V, B)), carry)},
        ValueError,
        r"logits \(\*B, V\) for tokens \*B = \(5,\)",
    ),
    ({"step": lambda carry, tokens: (jnp.zeros((B, V)), ())}, TypeError, "carry of the structure that it takes"),
    (
        {"step": lambda carry, tokens: (jnp.zeros((B, V)), {**carry, "h": carry["h"][:, :2]})},
        ValueError,
        r"`carry\['h'\]` goes from \(5, 6\) to \(5, 2\)",
    ),
    ({"key": 3}, TypeError, "`key` must be a JAX random key"),
    ({"key": jnp.zeros(2, jnp.int32)}, TypeError, "`key` must be a JAX random key"),
    ({"key": jnp.zeros((B, 3), jnp.uint32)}, TypeError, "`key` must be a JAX random key"),
    ({"key": jnp.zeros((3, 2), jnp.uint32)}, ValueError, r"one key or one a row, \*B = \(5,\)"),
    ({"key": jax.random.split(jax.random.key(0), 3)}, ValueError, r"one key or one a row, \*B = \(5,\)"),
    ({"temperature": -1.0}, ValueError, "`temperature` must lie in"),
    ({"top_k": 0}, ValueError, "`top_k` must be at least 1"),
    ({"top_p": 0.0}, ValueError, "`top_p` must lie in"),
    ({"top_p": 1.5}, ValueError, "`top_p` must lie in"),
    ({"temperature": np.inf}, ValueError, r"`temperature` must lie in \[0, ∞\); got inf"),
    ({"repetition_penalty": -1.0}, ValueError, "`repetition_penalty` must lie in"),
    ({"repetition_penalty": np.inf}, ValueError, r"`repetition_penalty` must lie in \(0, ∞\); got inf"),
    ({"history": jnp.zeros((B, 2), int)}, ValueError, "`history` is for `no_repeat` and the `repetition_penalty`"),
    (
        {"history": jnp.zeros((2, B), int), "no_repeat": 2},
        ValueError,
        r"`history` must be integers \(\*B, P\) with \*B",
    ),
    ({"history": [1], "repetition_penalty": 2.0}, ValueError, r"`history` must be integers \(\*B, P\) with \*B"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = Toy(V, B)
    given = {"step": model.step, "carry": model.carry(), "start": jnp.asarray(model.start), "length": L}
    given |= {"key": jax.random.key(0)}
    with pytest.raises(error, match=message):
        sample(**(given | options))


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (rj.LSTM(3), TypeError, "`layer` must be a layer"),
        (rj.Stack([rj.Embedding(4, 3), rj.Bidirectional(rj.GRU(3))]), ValueError, "cannot run token by token"),
        (rj.Stack([rj.Embedding(4, 3), rj.GRU(3), rj.Last()]), ValueError, "cannot run token by token"),
    ],
    ids=["cell", "bidirectional", "pooled"],
)
def test_layers_that_cannot_step(layer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rj.decoding.next_token(layer, ())


def test_a_step_is_an_argument_of_jit() -> None:
    layer = rj.Stack([rj.Embedding(V, 4), rj.GRU(5), rj.Dense(V)])
    traces = []

    @jax.jit
    def decode(step: Any) -> Decoded:
        traces.append(1)
        return greedy(step, step.initial_state((2,)), jnp.zeros(2, jnp.int32), 4)

    first, second = (
        decode(rj.decoding.next_token(layer, layer.init(jax.random.key(seed), V))).log_probs for seed in (0, 1)
    )
    assert len(traces) == 1
    assert (first != second).all()
