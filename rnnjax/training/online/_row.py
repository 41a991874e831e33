"""One step of one row of the batch, as a function of parameters, state and input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ..._types import Array, Key, Params, State, Xs
from ..._unroll.call import Dtypes
from ..._unroll.jacobians import Parts, flatten, unflatten

Take = Callable[..., State]


class Row(NamedTuple):
    """A cell and the dtypes it computes in. States are flat, (N), as derivatives want them."""

    cell: Any
    dtypes: Dtypes
    parts: Parts
    like: State

    @classmethod
    def of(cls, cell: Any, params: Params, dtypes: Dtypes) -> Row:
        like = jax.eval_shape(lambda p: cell.initial_state(cell.prepare(p), (), dtypes.state), params)
        return cls(cell, dtypes, Parts.of(like, 0), like)

    def start(self, params: Params) -> Array:
        """The state before the first step."""
        state = self.cell.initial_state(self.cell.prepare(params), (), self.dtypes.state)
        return flatten(self.parts, jax.tree.map(lambda leaf: leaf.astype(self.dtypes.state), state))

    def step(self, params: Params, state: Array, x: Xs, take: Take | None = None) -> Array:
        """The next state. `take` is a step with the cell's values and a derivative of its own."""
        params = self.dtypes.cast(self.cell.prepare(params))
        z = self.cell.project(params, jax.tree.map(lambda leaf: leaf[None], x))
        new = (take or self.cell.step)(params, self.unflatten(state), jax.tree.map(lambda leaf: leaf[0], z))
        return flatten(self.parts, jax.tree.map(lambda leaf: leaf.astype(self.dtypes.state), new))

    def read(self, params: Params, state: Array, x: Xs) -> Array:
        """The output."""
        params = self.dtypes.cast(self.cell.prepare(params))
        emitted, x = jax.tree.map(lambda leaf: leaf[None], (self.cell.emit(self.unflatten(state)), x))
        return self.cell.readout(params, emitted, x)[0].astype(self.dtypes.compute)

    def unflatten(self, flat: Array) -> State:
        """The cell's own state."""
        return unflatten(self.parts, self.like, flat)


class Method(Protocol):
    """What is carried forwards for one row, its trace, and what it says of the gradient."""

    random: bool

    def check(self, row: Row, in_size: int) -> None:
        """Raises ValueError where the method does not fit the cell."""
        ...

    def start(self, row: Row, params: Params, key: Key | None) -> Any:
        """The trace before the first step: what a learned initial state owes to its parameters."""
        ...

    def advance(self, row: Row, params: Params, trace: Any, old: Array, x: Xs, key: Key | None) -> tuple[Array, Any]:
        """The state after a step from `old`, and the trace that belongs to it."""
        ...

    def gradient(self, row: Row, params: Params, trace: Any, d_state: Array) -> Params:
        """The gradient by what the state, whose cotangent is given, owes to the parameters."""
        ...


def zeros_like(tree: Any) -> Any:
    """Zeros of the same shapes."""
    return jax.tree.map(jnp.zeros_like, tree)


def add(a: Any, b: Any) -> Any:
    """Leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)
