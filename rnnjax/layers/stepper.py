"""One compiled time step, for streams."""

from __future__ import annotations

from functools import reduce

import jax
import numpy as np

from .._cell import Cell
from .._types import Array, DTypeLike, Params, State, Xs
from ._layer import Layer
from .rnn import RNN


class Stepper:
    """What `stepper` returns: `y, state = step(x, state)`."""

    def __init__(self, layer: Layer, params: Params) -> None:
        self._layer, self._params = layer, params

        # the state first: JAX gives donated memory to the first results of its shape, and its memory is the next one's
        def run(state: State, x: Xs) -> tuple[State, Array]:
            # at compilation alone
            wanted = jax.tree.structure(jax.eval_shape(lambda: layer.initial_state(params)))
            if jax.tree.structure(state) != wanted:
                raise TypeError(f"`step(x, state)`: `state` must be {wanted}; got {jax.tree.structure(state)}")
            ys, state = layer(params, jax.tree.map(lambda leaf: leaf[None], x), state)
            return state, ys[0]

        self._run = jax.jit(run, donate_argnums=0)

    def __call__(self, x: Xs, state: State) -> tuple[Array, State]:
        """The output (*B, O) of one input (*B, I), and the next state. The state that was passed is used up: its memory
        becomes the next one's, and JAX refuses to read it again."""
        state, y = self._run(state, x)
        return y, state

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike | None = None) -> State:
        """The state before the first step, by default in the dtype of the parameters, and at least in float32."""
        if dtype is None:
            dtype = reduce(np.promote_types, (a.dtype for a in jax.tree.leaves(self._params)), np.dtype(np.float32))
        return self._layer.initial_state(self._params, batch_shape, dtype)

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
        passed in is used up, and `step.initial_state(batch_shape)` is the first.

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
