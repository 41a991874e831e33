"""The alignments of a whole sequence."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from ..._cell import Cell
from ..._errors import check_flag
from ..._types import Array, Params, State, Xs
from ..._unroll.lift import zero_where_masked
from .._layer import Layer, begin, valid_steps
from ..rnn import as_layer
from .once import remembered
from .score import Attended


def alignments(
    model: Layer | Cell,
    params: Params,
    xs: Xs,
    state: State | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    context: Any = None,
    heads: bool = False,
) -> Array:
    """What a model with attention reads at every step of a sequence, such as for a picture of rows over columns.

    The model runs step by step, without noise: it takes longer than the model's own call.

    Args:
        model: a layer or a cell that is causal, with one attention cell in it.
        params, xs, state, lengths, mask, reset, context: as in the model's own call.
        heads: those of each head of a `MultiHeadScore`, not their mean.

    Returns:
        alignments (T, *B, S), of heads (T, *B, N, S), zero at masked steps.

    Raises:
        ValueError: for a model that is not causal, or with another number of attention cells than one, and for `heads`
            of a score that has none.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> model = rj.Stack([rj.BahdanauAttention(rj.GRU(5), rj.AdditiveScore(6), memory_size=4), rj.Dense(2)])
    >>> params = model.init(jax.random.key(0), in_size=3)
    >>> rj.alignments(model, params, jnp.ones((9, 2, 3)), context=jnp.ones((7, 2, 4))).shape
    (9, 2, 7)
    """
    check_flag("heads", heads)
    layer = as_layer("model", model)
    if not layer.causal:
        raise ValueError(f"{layer!r} is not causal: it cannot run step by step, which is how alignments are collected")
    state, _ = begin(layer, state)
    valid = valid_steps(layer, xs, lengths, mask, reset)
    _, state = layer(params, jax.tree.map(lambda leaf: leaf[:0], xs), state, context=context)
    _alignment(layer, state, heads)
    memory = remembered(layer, params, context)

    def step(state: State, inputs: Any) -> tuple[State, Array]:
        x, mask, reset = jax.tree.map(lambda leaf: leaf[None], inputs)
        _, state = layer(params, x, state, mask=mask, reset=reset, context=memory)
        return state, _alignment(layer, state, heads)

    return zero_where_masked(valid, lax.scan(step, state, (xs, valid, reset))[1])


def _alignment(layer: Layer, state: State, heads: bool) -> Array:
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Attended))
    found = [leaf for leaf in leaves if isinstance(leaf, Attended)]
    if len(found) != 1:
        raise ValueError(
            f"`model` must have one attention cell in it; {layer!r} has {len(found)}. Of several, call each by itself"
        )
    if not heads:
        return found[0].alignment
    if found[0].heads is None:
        raise ValueError(f"`heads` are those of a `MultiHeadScore`; {layer!r} has one alignment: leave `heads` out")
    return found[0].heads
