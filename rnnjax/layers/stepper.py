"""One compiled time step, for streams."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._types import Array, DTypeLike, Params, State, Xs
from ._layer import Layer
from .rnn import RNN


class Packed(NamedTuple):
    """The state between steps: leaves of one shape lie in one array, because each array that JAX hands over costs it a
    microsecond, as long as a small layer's step. `Stepper.unpack` makes the model's own state of it."""

    arrays: tuple[Array, ...]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a stepper's state has no {name!r}; `step.unpack(state)` is the model's own state")


class Stepper:
    """What `stepper` returns: `y, state = step(x, state)`."""

    def __init__(self, layer: Layer, params: Params) -> None:
        self._layer, self._params = layer, params
        leaves, self._structure = jax.tree.flatten(jax.eval_shape(lambda: layer.initial_state(params)))
        kinds = [(leaf.shape, leaf.dtype) for leaf in leaves]
        self._groups = [[i for i, own in enumerate(kinds) if own == kind] for kind in dict.fromkeys(kinds)]

        # the state first: JAX gives donated memory to the first results of its shape, and its memory is the next one's
        def run(state: Packed, x: Xs) -> tuple[Packed, Array]:
            ys, after = layer(params, jax.tree.map(lambda leaf: leaf[None], x), self._apart(state))
            return self._together(after), ys[0]

        self._run = jax.jit(run, donate_argnums=0)
        self._pack, self._unpack = jax.jit(self._together), jax.jit(self._apart)

    def __call__(self, x: Xs, state: Packed | State) -> tuple[Array, Packed]:
        """The output (*B, O) of one input (*B, I), and the next state. A state of `initial_state` or of the step before
        is used up: its memory becomes the next one's, and JAX refuses to read it again. The model's own state, as
        `unroll` returns it, is copied."""
        if type(state) is not Packed:
            state = self.pack(state)
        state, y = self._run(state, x)
        return y, state

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike | None = None) -> Packed:
        """The state before the first step, by default in the dtype of the parameters, and at least in float32."""
        if dtype is None:
            dtype = reduce(np.promote_types, (a.dtype for a in jax.tree.leaves(self._params)), np.dtype(np.float32))
        return self._pack(self._layer.initial_state(self._params, batch_shape, dtype))

    def pack(self, state: State) -> Packed:
        """The model's own state, copied, as steps take it."""
        if jax.tree.structure(state) != self._structure:
            raise TypeError(
                f"`step(x, state)`: `state` must be {self._structure}, or what a step returned; "
                f"got {jax.tree.structure(state)}"
            )
        return self._pack(state)

    def unpack(self, state: Packed) -> State:
        """The model's own state, as `unroll` takes it; `state` is still there."""
        return self._unpack(state)

    def _together(self, state: State) -> Packed:
        leaves = jax.tree.leaves(state)
        return Packed(tuple(jnp.stack([leaves[i] for i in group]) for group in self._groups))

    def _apart(self, state: Packed) -> State:
        leaves: dict[int, Array] = {}
        for group, array in zip(self._groups, state.arrays, strict=True):
            leaves |= zip(group, array, strict=True)
        return jax.tree.unflatten(self._structure, [leaves[i] for i in range(len(leaves))])

    def __repr__(self) -> str:
        return f"stepper({self._layer!r})"


def stepper(model: Cell | Layer, params: Params) -> Stepper:
    """Compiles a single time step, for inputs that come one at a time.

    The parameters become constants of the program, which so has less to be handed at each step; new parameters need a
    new stepper. It is compiled at the first call with each batch shape. For several steps at once `unroll` is faster.

    Args:
        model: a cell, or a causal layer.
        params: its parameters.

    Returns:
        a `Stepper`: `y, state = step(x, state)` with one input x (*B, I) and its output y (*B, O). The state that is
        passed in is used up, and `step.initial_state(batch_shape)` is the first. It is packed into few arrays:
        `step.unpack(state)` is the model's own, to read or to go on with in `unroll`, whose states a step takes too.

    Raises:
        TypeError: if `model` is neither a cell nor a layer.
        ValueError: if it needs the whole sequence at once.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> step = rj.stepper(cell, params)
    >>> state = step.initial_state(batch_shape=(2,))
    >>> for _ in range(3):
    ...     y, state = step(jnp.ones((2, 3)), state)
    >>> y.shape
    (2, 4)
    >>> step.unpack(state).h.shape
    (2, 4)
    """
    layer = RNN(model) if isinstance(model, Cell) else model
    if not isinstance(layer, Layer):
        raise TypeError(f"`model` must be a cell or a layer, such as `rnnjax.LSTM(128)`; got {model!r}")
    if not layer.causal:
        raise ValueError(
            f"{layer!r} is not causal: it reads the whole sequence at once and cannot run step by step. Call it with "
            "all steps"
        )
    return Stepper(layer, params)
