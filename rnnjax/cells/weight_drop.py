"""Dropout of recurrent weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._errors import check_rate
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Params, split_key
from .._wrapper import Wrapper
from ._common import abstract_params, check_own_state, drop_scale, other_dropout, settle_number
from .ltc import LTC


@struct
class WeightDrop(Wrapper):
    """A cell with DropConnect on its recurrent weights: one mask for all time steps and the whole batch.

    ũ = m ⊙ u,    m = 0 with probability rate, else 1 / (1 − rate)

    ũ is formed once for each call of `unroll`, before the first step, so the loop is as fast as without. Without a key
    u is itself. Parameters, state, output and implementations are the inner cell's, which must have matrices u
    that multiply its state; of LEM u_h has a mask, too. A vector u, as of `IndRNN` and `LinearElman`, is
    refused: it says how fast a unit forgets itself, and what 1 / (1 − rate) brings above 1 explodes.

    Args:
        cell: the inner cell.
        rate: probability in [0, 1) of dropping a weight, a leaf.

    Raises:
        TypeError: for a rate that is no number, and a cell whose state depends on a `context`; `init` raises it for a
            cell without such matrices.
        ValueError: for a rate outside [0, 1).

    References:
        Merity, Keskar, Socher 2017, Regularizing and optimizing LSTM language models, arXiv:1708.02182.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.WeightDrop(rj.LSTM(hidden_size=3), rate=0.5)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)), key=jax.random.key(1))
    >>> ys.shape, state.c.shape
    ((5, 7, 3), (7, 3))
    """

    rate: float | Array = node(default=0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own_state(self)
        check_rate("rate", self.rate)
        settle_number(self, "rate")

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        params = super().init(key, in_size, dtype)
        return _with_recurrent(self.cell, params, lambda place, u: u)

    def prepare(self, params: Params, *, key: Key | None = None, context: Any = None) -> Params:
        own_key, inner_key = split_key(key)
        if own_key is not None:
            params = _with_recurrent(self.cell, params, lambda place, u: u * self._scale(own_key, place, u))
        return super().prepare(params, key=inner_key, context=context)

    def _scale(self, key: Key, place: int, u: Array) -> Array:
        key = jax.random.fold_in(key, place) if place else key
        return jax.lax.stop_gradient(drop_scale(key, "rate", self.rate, u.shape, u.dtype))


def _with_recurrent(cell: Cell, params: Params, change: Callable[[int, Array], Array]) -> Params:
    """The parameters of the innermost cell with its recurrent weights changed, each by `change(its number, it)`."""
    if isinstance(cell, Wrapper):
        return cell.rewrap(params, _with_recurrent(cell.cell, cell.unwrap(params), change))
    names = _matrices(cell, params)
    if not names:
        raise TypeError(
            f"`cell` must have matrices `u` that multiply its state for WeightDrop; got {cell!r}: use "
            f"{other_dropout(cell)}"
        )
    return params._replace(**{name: change(place, getattr(params, name)) for place, name in enumerate(names)})


def _matrices(cell: Cell, params: Params) -> list[str]:
    """Names of the recurrent weights that may be dropped; none unless all are."""
    names = [name for name in ("u", "u_h") if hasattr(params, name)]
    # LTC's are conductances, open where they are zero
    alike = not isinstance(cell, LTC) and all(len(getattr(params, name).shape) > 1 for name in names)
    return names if alike else []


def droppable(cell: Cell) -> bool:
    """Whether `WeightDrop` takes the cell."""
    params = abstract_params(cell)
    while isinstance(cell, Wrapper):
        cell, params = cell.cell, cell.unwrap(params)
    return bool(_matrices(cell, params))
