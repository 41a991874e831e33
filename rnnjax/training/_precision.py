"""Mixed precision: a model that computes in another dtype than that in which its parameters are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Key
from ._batches import Batch
from ._model import Model, Streamed, cached


def computed_in(model: Model, dtype: Any) -> Model:
    """The model with its parameters and inputs cast to `dtype` for every pass, and its outputs cast back.

    Gradients, and the states and other state that a pass hands to the next, have the dtypes that they have without.
    Elapsed times (B, T) beside inputs with features, (B, T, …), or beside integer ids (B, T) stay as they are, because
    their rounding would add up over time.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for float16, whose small gradients would vanish.
    """
    if dtype is None:
        return model
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`compute_dtype` must be a floating dtype, such as `jnp.bfloat16`; got {dtype}")
    if dtype == jnp.float16:
        raise ValueError("`compute_dtype` float16 loses small gradients without a scaled loss: use `jnp.bfloat16`")

    apply, stream = cached(_cast, model.apply, model.stream, dtype, kept=model.kept)
    return model._replace(apply=apply, stream=stream)


def _cast(run: Callable[..., Any], run_stream: Callable[..., Any], dtype: Any) -> tuple[Any, Any]:
    def low(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if _floating(leaf) else leaf, tree)

    def low_inputs(inputs: Any) -> Any:
        leaves = jax.tree.leaves(inputs)
        most = max(leaf.ndim for leaf in leaves)
        sequences = [leaf for leaf in leaves if leaf.ndim == most and (most > 2 or (most == 2 and _integer(leaf)))]
        steps = {leaf.shape[:2] for leaf in sequences}
        return jax.tree.map(lambda leaf: leaf if leaf.shape in steps else low(leaf), inputs)

    def high(outputs: Any) -> Any:
        widest = jnp.promote_types(dtype, jnp.float32)
        return jax.tree.map(lambda leaf: leaf.astype(widest) if _floating(leaf) else leaf, outputs)

    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        outputs, changed = run(low(params), rest, batch._replace(inputs=low_inputs(batch.inputs)), key, train)
        return high(outputs), _like(rest, changed)

    def stream(params: Any, rest: Any, streamed: Streamed, key: Key, train: bool) -> tuple[Any, Any, Any]:
        cast = streamed._replace(inputs=low_inputs(streamed.inputs))
        outputs, state, changed = run_stream(low(params), rest, cast, key, train)
        return high(outputs), _like(streamed.state, state), _like(rest, changed)

    return apply, stream


def _floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _integer(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)


def _like(before: Any, after: Any) -> Any:
    return jax.tree.map(lambda old, new: new.astype(old.dtype) if _floating(old) else new, before, after)
