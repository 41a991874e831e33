"""What all decoders run: a step from tokens to logits over any carry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import describe, is_array
from .._struct import node, struct
from .._types import Array, Params, at_least_float32
from ..layers import Layer
from ..layers.attention.once import remembered

Step: TypeAlias = Callable[[Any, Array], tuple[Array, Any]]
"""`step(carry, tokens) -> (logits, carry)`: tokens (*B) int32, logits (*B, V), leaves of the carry (*B, …)."""


@struct
class NextToken:
    """What `next_token` returns: `logits, state = step(state, tokens)`. A pytree, which `jax.jit` takes as an argument;
    its leaves are the parameters and the context, of an attention's source what these parameters remember of it: with
    others, call `next_token` again."""

    layer: Any = node()
    params: Any = node()
    context: Any = node(default=None)

    def __call__(self, carry: Any, tokens: Array) -> tuple[Array, Any]:
        ys, state = self.layer(self.params, tokens[None], carry, context=self.context)
        return ys[0], state

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Any:
        """The layer's state before the first token, for `carry`."""
        # of no steps, because a state may depend on the context: attention has one number for each step of its memory
        _, state = self.layer(self.params, jnp.zeros((0, *batch_shape), jnp.int32), context=self.context)
        return state


def next_token(layer: Layer, params: Params, context: Any = None) -> NextToken:
    """Makes a decoder's step from a layer that reads ids and puts out logits.

    The state of the layer is the carry: the one that it returned behind all of a prompt but its last token, which is
    `start`, or `step.initial_state((B,))`.

    Args:
        layer: a causal layer whose inputs are ids, such as `Stack([Embedding(V, 32), LSTM(64), Dense(V)])`.
        params: its parameters.
        context: handed on to the layer, such as an attention memory. Beams are an axis behind the batch, so that the
            layer's batch axes are (*B, K): a memory with batch axes *B serves all beams of a row, as `rnnjax.Source`
            says. Of a source everything that depends on it alone is computed here, once for all tokens, by `remember`
            of the attention cell, if a single one in a `Stack`, `Residual` or `RNN` reads it.

    Returns:
        a `NextToken`: `logits, state = step(state, tokens)` with tokens (*B) and logits (*B, V).

    Raises:
        TypeError: if `layer` is no layer.
        ValueError: if it needs the whole sequence at once.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Stack([rj.Embedding(7, 4), rj.LSTM(5), rj.Dense(7)])
    >>> step = rj.decoding.next_token(layer, layer.init(jax.random.key(0), 7))
    >>> logits, state = step(step.initial_state((2,)), jnp.array([3, 1]))
    >>> logits.shape
    (2, 7)
    """
    if not isinstance(layer, Layer):
        raise TypeError(
            f"`layer` must be a layer, such as `Stack([Embedding(V, 32), LSTM(64), Dense(V)])`; got {layer!r}"
        )
    if not layer.causal or not layer.keeps_time:
        raise ValueError(f"{layer!r} reads the whole sequence at once and cannot run token by token")
    return NextToken(layer, params, remembered(layer, params, context))


def start_tokens(start: Any) -> Array:
    """The first tokens (*B) as int32; TypeError unless they are an integer array."""
    if not is_array(start) or not jnp.issubdtype(start.dtype, jnp.integer):
        raise TypeError(f"`start` must be an integer array (*B) of the tokens read first; got {describe(start)}")
    return jnp.asarray(start).astype(jnp.int32)


def check_carry(carry: Any, batch_shape: tuple[int, ...]) -> None:
    """Raises unless all leaves lead with the batch axes."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(carry)[0]:
        name = f"`carry{jax.tree_util.keystr(path)}`"
        if not is_array(leaf):
            raise TypeError(f"{name} must be an array (*B, …) with *B = {batch_shape}; got {describe(leaf)}")
        if tuple(leaf.shape[: len(batch_shape)]) != batch_shape:
            raise ValueError(
                f"{name} must lead with the batch axes of `start`, *B = {batch_shape}; got shape {tuple(leaf.shape)}: "
                "what all rows share belongs into the step, not into its carry"
            )


def settle(step: Step, carry: Any, tokens: Array) -> tuple[Any, int, Any]:
    """The carry in the dtypes in which the step returns it, the vocabulary V, and the dtype of log-probabilities.

    Raises unless the step returns logits (*B, V) and a carry of the same structure and shapes.
    """
    if not callable(step):
        raise TypeError(f"`step` must be a function (carry, tokens) -> (logits, carry); got {step!r}")
    returned = jax.eval_shape(step, carry, tokens)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"`step` must return (logits, carry); got {describe(returned)}")
    logits, after = returned
    if not is_array(logits) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"`step` must return floating-point logits (*B, V); got {describe(logits)}")
    if logits.ndim != tokens.ndim + 1 or logits.shape[:-1] != tokens.shape or logits.shape[-1] == 0:
        raise ValueError(
            f"`step` must return logits (*B, V) for tokens *B = {tuple(tokens.shape)}; got {tuple(logits.shape)}"
        )
    if jax.tree.structure(after) != jax.tree.structure(carry):
        raise TypeError(
            f"`step` must return a carry of the structure that it takes, {jax.tree.structure(carry)}; got "
            f"{jax.tree.structure(after)}"
        )
    for (path, old), new in zip(jax.tree_util.tree_flatten_with_path(carry)[0], jax.tree.leaves(after), strict=True):
        if old.shape != new.shape:
            raise ValueError(
                f"`step` must keep the shapes of its carry; `carry{jax.tree_util.keystr(path)}` goes from "
                f"{tuple(old.shape)} to {tuple(new.shape)}"
            )
    carry = jax.tree.map(lambda old, new: old if old.dtype == new.dtype else old.astype(new.dtype), carry, after)
    return carry, logits.shape[-1], at_least_float32(logits.dtype)


def possible(logits: Array) -> Array:
    """Logits in at least float32, with −∞ for NaN and ∞: a token of which nothing is known is never taken."""
    logits = logits.astype(at_least_float32(logits.dtype))
    return jnp.where(logits < jnp.inf, logits, -jnp.inf)


def log_normaliser(logits: Array) -> Array:
    """log Σ exp over the last axis, which stays; ∞ where no token is possible, so that all log-probabilities are −∞."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.where(total == -jnp.inf, jnp.inf, total)


def pick(leaf: Array, index: Array) -> Array:
    """Entries (*B, M, …) of a leaf (*B, K, …), for indices (*B, M) into its axis K: one gather of whole rows."""
    batch, beams = index.shape[:-1], leaf.shape[index.ndim - 1]
    rows = math.prod(batch)
    first = jnp.arange(rows, dtype=index.dtype).reshape(*batch, 1) * beams
    flat = leaf.reshape(rows * beams, *leaf.shape[index.ndim :])
    return flat.at[jnp.broadcast_to(first, index.shape) + index].get(mode="promise_in_bounds")


def at(values: Array, index: Array) -> Array:
    """The entry of each last axis of values (…, N) that an index (…) names."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def repeat(leaf: Array, axis: int, beams: int) -> Array:
    """A leaf (*B, …) for every beam of its row, (*B, K, …); `axis` is the number of batch axes."""
    shape = (*leaf.shape[:axis], beams, *leaf.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(leaf, axis), shape)


def check_token(name: str, token: Any, vocabulary: int) -> None:
    """Raises unless `token` is an integer in 0…V − 1."""
    if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
        raise TypeError(f"`{name}` must be a token, an integer in 0…V − 1 = {vocabulary - 1}; got {token!r}")
    if not 0 <= token < vocabulary:
        raise ValueError(f"`{name}` must lie in 0…V − 1 = {vocabulary - 1}; got {token}")
