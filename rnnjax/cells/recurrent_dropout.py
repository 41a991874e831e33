"""Dropout of what a cell feeds back."""

from __future__ import annotations

import jax

from .._errors import check_flag, check_rate
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise
from .._wrapper import Wrapper
from ._common import abstract_state, check_own_state, drop_scale, other_dropout, settle_number
from .weight_drop import droppable


@struct
class RecurrentDropout(Wrapper):
    """A cell that sees its own last output through dropout, one mask for all time steps.

    h̃_{t-1} = m ⊙ h_{t-1},    m = 0 with probability rate, else 1 / (1 − rate)

    The recurrent product reads h̃ in the place of h; all gates share m, and the state itself is not dropped. Without a
    key nothing is. Only gated cells name what they feed back, so that others such as `ConvLSTM`, `ResetBeforeGRU`,
    `ProjectionLSTM` and `IndRNN` are refused. Parameters, state and output are the inner cell's, and
    implementations but for "cpu".

    Args:
        cell: the inner cell, gated.
        rate: probability in [0, 1) of dropping a unit, one number or (H), a leaf.
        per_step: a mask of its own for each time step, which forgets more than the one that stays.

    Raises:
        TypeError: for a cell that is not gated, and a rate that is no number.
        ValueError: for a rate outside [0, 1).

    References:
        Gal, Ghahramani 2016, A theoretically grounded application of dropout in recurrent neural networks,
        arXiv:1512.05287.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.RecurrentDropout(rj.GRU(hidden_size=3), rate=0.25)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)), key=jax.random.key(1))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    rate: float | Array = node(default=0.1)
    per_step: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capability != "gated":
            check_own_state(self)
            weights = "`WeightDrop`, or " if droppable(self.cell) else ""
            raise TypeError(
                f"`cell` must be a gated cell for RecurrentDropout, one whose `hidden` is what it feeds back; got "
                f"{self.cell!r}: use {weights}{other_dropout(self.cell)}"
            )
        check_rate("rate", self.rate)
        settle_number(self, "rate")
        check_flag("per_step", self.per_step)

    def draw(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike) -> Noise:
        hidden = jax.eval_shape(self.cell.hidden, abstract_state(self.cell, batch_shape))
        return drop_scale(key, "rate", self.rate, (steps if self.per_step else 1, *hidden.shape), dtype)

    def feed(self, hidden: Array, noise: Noise) -> Array:
        return hidden if noise is None else hidden * noise
