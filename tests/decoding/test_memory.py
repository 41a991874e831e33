"""A memory's projection: `next_token` and `alignments` compute it once, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import rnnjax as rj
from rnnjax import decoding

S, B, M, A, E, V, L = 11, 3, 6, 10, 5, 7, 4
LENGTHS = np.array([11, 4, 7])
INNER = rj.GRU(8)


def stack(cell: Any, *more: Any) -> rj.Stack:
    return rj.Stack([rj.Embedding(V, E), cell, *more, rj.Dense(V)])


POINTER = rj.PointerGenerator(rj.LuongAttention(INNER, rj.CoverageScore(A), M, size=9), vocabulary=V)
LAYERS = {
    "additive": stack(rj.BahdanauAttention(INNER, rj.AdditiveScore(A), M)),
    "general": stack(rj.LuongAttention(rj.WeightDrop(INNER), rj.GeneralScore(), M, size=9)),
    "multi_head": stack(rj.Residual(rj.LuongAttention(INNER, rj.MultiHeadScore(A, heads=2), M, size=E))),
    "pointer": rj.Stack([rj.Embedding(V, E), rj.Dropout(0.3), POINTER]),
}


def source() -> rj.Source:
    draw = np.random.default_rng(0)
    values, ids = draw.normal(size=(S, B, M)), draw.integers(0, V, (S, B))
    return rj.Source(jnp.asarray(values), lengths=jnp.asarray(LENGTHS), ids=jnp.asarray(ids))


def parameters(layer: rj.Layer) -> Any:
    return jax.tree.map(lambda leaf: 2 * leaf, layer.init(jax.random.key(1), V, jnp.float64))


def equations(jaxpr: Any, inside: bool = False) -> Iterator[tuple[Any, bool]]:
    """All equations of a program, and whether each is within a loop."""
    for equation in jaxpr.eqns:
        yield equation, inside
        for part in jaxprs_in_params(equation.params):
            yield from equations(part, inside or equation.primitive.name in ("while", "scan"))


def projections(run: Any, *arguments: Any) -> list[bool]:
    """Whether each product of the memory (B, S, M) with weights (M, …) is within a loop."""
    found = []
    for equation, inside in equations(jax.make_jaxpr(run)(*arguments).jaxpr):
        if equation.primitive.name == "dot_general":
            memory, weights = (variable.aval.shape for variable in equation.invars)
            rows = math.prod(memory[:-1]) == B * S
            found += [inside] if rows and memory[-1] == M and len(weights) == 2 else []
    return found


def decode(layer: rj.Layer, how: str) -> Any:
    start = jnp.array([1, 0, 3], jnp.int32)

    def run(params: Any, context: Any) -> Any:
        step = decoding.next_token(layer, params, context)
        carry = step.initial_state((B,))
        if how == "beams":
            return decoding.beam_search(step, carry, start, L, 3)[:4]
        if how == "sample":
            return decoding.sample(step, carry, start, L, jax.random.key(0), temperature=0.5)[:3]
        return decoding.greedy(step, carry, start, L)[:3]

    return run


@pytest.mark.parametrize("how", ["greedy", "sample", "beams"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_search_projects_the_memory_in_its_loop(name: str, how: str) -> None:
    layer = LAYERS[name]
    found = projections(decode(layer, how), parameters(layer), source())
    assert len(found) == (2 if name == "multi_head" else 1)
    assert not any(found)


def test_alignments_project_the_memory_once() -> None:
    layer, words = LAYERS["general"], jnp.zeros((L, B), jnp.int32)

    def run(params: Any, context: Any) -> Any:
        return rj.alignments(layer, params, words, context=context)

    # the state before the first step comes from a call of its own
    assert projections(run, parameters(layer), source()) == [False, False]


@pytest.mark.parametrize("name", LAYERS)
def test_tokens_are_those_of_a_loop_that_hands_on_the_source(name: str) -> None:
    layer, context = LAYERS[name], source()
    params = parameters(layer)
    decoded = jax.jit(decode(layer, "greedy"))(params, context)
    step = jax.jit(lambda tokens, state: layer(params, tokens[None], state, context=context))
    tokens, state = jnp.array([1, 0, 3], jnp.int32), None
    total = np.zeros(B)
    for t in range(L):
        logits, state = step(tokens, state)
        tokens = logits[0].argmax(-1).astype(jnp.int32)
        total += np.asarray(jax.nn.log_softmax(logits[0]).max(-1))
        np.testing.assert_array_equal(decoded[0][:, t], tokens)
    np.testing.assert_allclose(decoded[2], total, rtol=1e-10)


@rj.struct
class Reading(rj.GRU):
    """A cell of somebody else's, which has its own use for the context."""

    def prepare(self, params: Any, *, key: Any = None, context: Any = None) -> Any:
        return params._replace(b_n=params.b_n + context.values.mean())


ADDITIVE = rj.BahdanauAttention(INNER, rj.AdditiveScore(A), M)


class Shifting(rj.BahdanauAttention):
    """Changes the source before it is read."""

    def prepare(self, params: Any, *, key: Any = None, context: Any = None) -> Any:
        return super().prepare(params, key=key, context=context.values + 1)


OTHERS = {
    "subclass": stack(Shifting(INNER, rj.AdditiveScore(A), M)),
    "two": stack(ADDITIVE, rj.LuongAttention(INNER, rj.GeneralScore(), M, size=9)),
    "beside": stack(ADDITIVE, Reading(4)),
    "inside": stack(rj.BahdanauAttention(Reading(4), rj.AdditiveScore(A), M)),
    "none": stack(INNER),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_source_that_others_read_too_stays_one(name: str) -> None:
    layer, context = OTHERS[name], source()
    step = decoding.next_token(layer, parameters(layer), context)
    assert step.context is context


def test_what_is_no_source_stays_what_it_is() -> None:
    layer = LAYERS["additive"]
    params = parameters(layer)
    memory = layer.layers[1].cell.remember(params[1], source())
    assert decoding.next_token(layer, params, memory).context is memory
    with pytest.raises(ValueError, match="`context` must be the memory to attend to"):
        decoding.next_token(layer, params).initial_state((B,))
    with pytest.raises(ValueError, match=r"must be \(S, \*B, M\) with M = 6"):
        decoding.next_token(layer, params, jnp.ones((S, B, 2)))
    with pytest.raises(ValueError, match="`params` must have 3 entries"):
        decoding.next_token(layer, params[:2], source())
