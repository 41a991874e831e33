"""A bound on the gradient that flows from each step to the one before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from .._struct import node, struct
from .._types import Array, Noise, Params, State
from .._wrapper import Wrapper, update_vjp
from ._common import choice, settle_positive


@struct
class GradientClip(Wrapper):
    """A cell whose back-propagated gradient is clipped at every step, so that it cannot explode on its way back.

    s_t = cell(s_{t-1}, x_t)    ∂L/∂s_t ← clip(∂L/∂s_t)

    Clipping the whole gradient after back-propagation bounds its length and keeps its direction, which one exploding
    step may have set; this keeps that step from drowning the others. The values are the inner cell's. The gradient is
    then not that of any function, so that it has no forward mode; where nothing is clipped it is the inner cell's.
    L is the loss that is differentiated, in `rnnjax.training.fit` the mean over what counts in a batch: of the mean
    over n steps or rows, ∂L/∂s_t is about 1/n of what it is of their sum, and a bound must be as much smaller.
    Parameters, state and output are the inner cell's, and so are implementations, but for "cpu" and "newton", where it
    is not one whose steps compose.

    Args:
        cell: the inner cell.
        bound: the largest magnitude, one number, a leaf.
        by: what it bounds: "value" every entry, "norm" the norm over the last axis of each array of the state.

    References:
        Graves 2013, Generating sequences with recurrent neural networks, arXiv:1308.0850, clips by value.
        Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent neural networks, arXiv:1211.5063.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GradientClip(rj.Elman(hidden_size=3), bound=1.0)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    bound: float | Array = node(default=1.0)
    by: Literal["value", "norm"] = "value"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_positive(self, "bound")
        choice("by", self.by, ("value", "norm"))

    def finish(self, params: Params, old: State, new: State, noise: Noise) -> State:
        return _clipped(self.by, new, self.bound)

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        pair = update_vjp(self.cell)
        if pair is None:
            return None
        forward, backward = pair
        return forward, lambda saved, d_new: backward(saved, _clip(self.by, d_new, self.bound))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _clipped(by: str, state: State, bound: Any) -> State:
    return state


def _clipped_fwd(by: str, state: State, bound: Any) -> tuple[State, Any]:
    return state, bound


def _clipped_bwd(by: str, bound: Any, gradient: State) -> tuple[State, Any]:
    return _clip(by, gradient, bound), jnp.zeros_like(bound)


_clipped.defvjp(_clipped_fwd, _clipped_bwd)


def _clip(by: str, gradient: State, bound: Any) -> State:
    def clip(leaf: Array) -> Array:
        limit = jnp.asarray(bound, leaf.dtype)
        if by == "value":
            return jnp.clip(leaf, -limit, limit)
        # in units of the largest entry, whose square may be out of range
        largest = jnp.max(jnp.abs(leaf), axis=-1, keepdims=True)
        unit = jnp.where(largest > 0, largest, 1)
        norm = unit * jnp.linalg.norm(leaf / jnp.broadcast_to(unit, leaf.shape), axis=-1, keepdims=True)
        scale = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1), 1)
        return leaf * jnp.broadcast_to(scale.astype(leaf.dtype), leaf.shape)

    return jax.tree.map(clip, gradient)
