"""An initial state that is learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._struct import struct
from .._types import DTypeLike, Key, Params, State
from .._wrapper import Wrapper
from ._common import check_own_state


class LearnedInitialStateParams(NamedTuple):
    """cell, the inner cell's parameters, and state, its initial state without batch axes."""

    cell: Any
    state: Any


@struct
class LearnedInitialState(Wrapper):
    """A cell whose initial state is a parameter, the same for every row of the batch.

    s_0 = state

    ======  ==========================  ==============================================
    cell    the inner cell's            as the inner cell draws them
    state   of one row, such as (H)     the inner cell's own initial state, mostly zero
    ======  ==========================  ==============================================

    It is also the state behind a `reset`. A `state` that is passed to `unroll` is taken as it is. State, output and
    implementations are the inner cell's.

    Args:
        cell: the inner cell; not an attention cell, which takes a `LearnedInitialState` inside.

    Raises:
        TypeError: for such a cell.

    References:
        Forcada, Carrasco 1995, Learning the initial state of a second-order recurrent neural network during regular-
        language inference, doi:10.1162/neco.1995.7.5.923.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LearnedInitialState(rj.LSTM(hidden_size=3))
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.c.shape, params.state.c.shape
    ((5, 7, 3), (7, 3), (3,))
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own_state(self)

    def unwrap(self, params: LearnedInitialStateParams) -> Params:
        return params.cell

    def rewrap(self, params: LearnedInitialStateParams, inner: Params) -> LearnedInitialStateParams:
        return params._replace(cell=inner)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LearnedInitialStateParams:
        inner = self.cell.init(key, in_size, dtype)
        return LearnedInitialStateParams(inner, self.cell.initial_state(inner, (), dtype))

    def initial_state(
        self, params: LearnedInitialStateParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)).astype(dtype), params.state
        )
