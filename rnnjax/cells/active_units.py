"""A cell that uses the first of its units only."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._errors import is_array, known
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Gates, Noise, Params, State, Z
from .._wrapper import Wrapper
from ._common import settle_positive


@struct
class ActiveUnits(Wrapper):
    """A cell whose first `units` units work and whose others stay zero: a hidden size that `vmap` can run over.

    s_t = m ⊙ cell(m ⊙ s_{t-1}, x_t),    m = 1 for the first `units` features, else 0

    What is zero feeds nothing back and reaches no later layer, and its weights get no gradient. Nor is anything else
    read in its place of a `state` that is passed in, or of an initial state that is learned. Parameters, state and
    output are the inner cell's, and so are implementations, but for "cpu", where it is not one whose steps compose.
    The weights are drawn for the full size.

    Args:
        cell: the inner cell, of the largest size. It must be `unitwise`: Elman, LSTM and GRU cells are, those that
            normalise over units, mix them within a step or have matrices for memories are not.
        units: how many units work, a whole number from 1 to the cell's, a leaf. One that is traced is not checked.

    Raises:
        TypeError: for a cell that is not `unitwise`.
        ValueError: for more units than there are, none, or a number that is not whole.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.ActiveUnits(rj.GRU(hidden_size=4), units=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> bool((ys[..., 3] == 0).all())
    True
    """

    units: float | Array = node()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cell.unitwise:
            raise TypeError(
                "`cell` must be one whose units meet in its recurrent product alone, such as an LSTM, or with fewer of "
                f"them it is another network; got {self.cell!r}. A cell of your own says so by `unitwise = True`"
            )
        settle_positive(self, "units")
        numbers_of = known(self.units)
        if numbers_of is not None and (numbers_of % 1 != 0).any():
            raise ValueError(f"`units` must be a whole number, because units work or do not; got {self.units}")
        if numbers_of is not None and (numbers_of > self.cell.hidden_size).any():
            raise ValueError(f"`units` must be at most the cell's {self.cell.hidden_size}; got {self.units}")
        if is_array(self.units):
            set_field(self, "units", jnp.asarray(self.units, jnp.float32))  # integers have no gradient, not even zero

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return jax.tree.map(self._masked, super().initial_state(params, batch_shape, dtype))

    def step(self, params: Params, state: State, z: Z, noise: Noise = None) -> State:
        return super().step(params, jax.tree.map(self._masked, state), z, noise)

    def update(self, params: Params, state: State, gx: Gates, gh: Gates, noise: Noise = None) -> State:
        return super().update(params, jax.tree.map(self._masked, state), gx, gh, noise)

    def feed(self, hidden: Array, noise: Noise) -> Array:
        return self._masked(hidden)

    def finish(self, params: Params, old: State, new: State, noise: Noise) -> State:
        return jax.tree.map(self._masked, new)

    def _masked(self, leaf: Array) -> Array:
        at = jax.lax.broadcasted_iota(jnp.float32, leaf.shape, leaf.ndim - 1)
        # between two units, so that rounding cannot move the border
        active = at + 0.5 < jnp.asarray(self.units, jnp.float32)
        # not `jnp.where`, a call in which the rule that checks `feed` cannot look for whether it is linear
        return jax.lax.select(active, leaf, jnp.zeros_like(leaf))
