"""Zoneout: units that at random keep their value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._errors import check_unit_interval
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise, Params, State
from .._wrapper import Wrapper
from ._common import abstract_state, across, check_own_state, settle_number


@struct
class Zoneout(Wrapper):
    """A cell whose units keep their last value with some probability, each unit and step on its own.

    s_t = d_t ⊙ s_{t-1} + (1 − d_t) ⊙ cell(s_{t-1}, x_t),    d_t ~ Bernoulli(rate)    with a key
    s_t = rate ⊙ s_{t-1} + (1 − rate) ⊙ cell(s_{t-1}, x_t)                            without, the expectation

    Within a step the inner cell works with its new values: an LSTM's h_t is formed from c_t before c_t is held, as in
    the paper. The rates are leaves of the cell: `vmap` reaches them, and without a key `grad` as well. Parameters,
    state and output are the inner cell's, and so are implementations, but for "cpu", where it is not one whose steps
    compose.

    Args:
        cell: the inner cell; not `SLSTM` or `MLSTM`, in whose states one array says in which units others are, nor an
            attention cell, which takes a `Zoneout` inside: `BahdanauAttention(Zoneout(GRU(24)), …)`.
        rate: probability in [0, 1] that a unit of h keeps its value, one number or (H).
        cell_rate: the same for every other field of the state, such as c; None takes `rate`.

    Raises:
        TypeError: for such a cell, and for rates that are no numbers.
        ValueError: for rates outside [0, 1].

    References:
        Krueger et al. 2016, Zoneout: regularizing RNNs by randomly preserving hidden activations, arXiv:1606.01305.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Zoneout(rj.LSTM(hidden_size=3), rate=0.05, cell_rate=0.5)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)), key=jax.random.key(1))
    >>> ys.shape, state.c.shape
    ((5, 7, 3), (7, 3))
    """

    rate: float | Array = node(default=0.1)
    cell_rate: float | Array | None = node(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own_state(self)
        if self.cell.scaled:
            raise TypeError(
                f"`cell` must be one whose state can be held array by array; in {self.cell!r} one array says in which "
                "units others are: use `Dropout` between layers"
            )
        check_unit_interval("rate", self.rate)
        settle_number(self, "rate")
        if self.cell_rate is not None:
            check_unit_interval("cell_rate", self.cell_rate)
            settle_number(self, "cell_rate")

    def draw(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike) -> Noise:
        leaves, structure = jax.tree_util.tree_flatten_with_path(abstract_state(self.cell, batch_shape))
        drawn = []
        for leaf_key, (path, leaf) in zip(jax.random.split(key, len(leaves)), leaves, strict=True):
            shape = (steps, *leaf.shape)
            drawn.append(jax.random.bernoulli(leaf_key, self._rate(path, shape, dtype), shape))
        return jax.tree.unflatten(structure, drawn)

    def finish(self, params: Params, old: State, new: State, noise: Noise) -> State:
        if noise is not None:
            return jax.tree.map(jnp.where, noise, old, new)
        return jax.tree_util.tree_map_with_path(self._expect, old, new)

    def _expect(self, path: Any, old: Array, new: Array) -> Array:
        rate = self._rate(path, new.shape, new.dtype)
        return rate * old + (1 - rate) * new

    def _rate(self, path: Any, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if self.cell_rate is None or jax.tree_util.keystr(path[:1], simple=True) == "h":
            return across("rate", self.rate, shape, dtype)
        return across("cell_rate", self.cell_rate, shape, dtype)
