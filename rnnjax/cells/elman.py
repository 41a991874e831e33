"""The Elman network's cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell, Kernel
from .._struct import struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation, derivative_from_output
from ..initializers import RecurrentInit
from ._common import choice, settle


class ElmanParams(NamedTuple):
    """w (I, H), u (H, H), b (H)."""

    w: Array
    u: Array
    b: Array


class ElmanState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class Elman(GatedCell):
    """The simple recurrent network: one layer that also reads its own last output.

    h_t = φ(x_t w + h_{t-1} u + b)

    ======  ======  ===========================================
    w       (I, H)  input weights, Glorot uniform
    u       (H, H)  recurrent weights, orthogonal or identity
    b       (H)     bias, zero
    ======  ======  ===========================================

    State: `ElmanState(h)`, zero at first. The output is h.

    Args:
        hidden_size: H.
        activation: φ, a name from `rnnjax.activations` or a module-level function.
        recurrent_init: "orthogonal", or "identity": with `activation="relu"` that is the IRNN.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Elman 1990, Finding structure in time, doi:10.1207/s15516709cog1402_1.
        Le, Jaitly, Hinton 2015, A simple way to initialize recurrent networks of rectified linear units,
        arXiv:1504.00941.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 2)))
    >>> ys.shape, state.h.shape
    ((5, 3), (3,))
    """

    hidden_size: int
    activation: Activation = "tanh"
    recurrent_init: RecurrentInit = "orthogonal"
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation")
        choice("recurrent_init", self.recurrent_init, get_args(RecurrentInit))

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> ElmanParams:
        size = self.hidden_size
        key_w, key_u = jax.random.split(key)
        return ElmanParams(
            w=initializers.glorot_uniform(key_w, (in_size, size), dtype),
            u=initializers.recurrent(self.recurrent_init, key_u, size, 1, dtype),
            b=jnp.zeros((size,), dtype),
        )

    def initial_state(
        self, params: ElmanParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> ElmanState:
        return ElmanState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def input_weights(self, params: ElmanParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: ElmanParams) -> tuple[Array, None]:
        return params.u, None

    def kernel(self) -> Kernel | None:
        kinds: dict[Any, Literal["elman_tanh", "elman_relu"]] = {"tanh": "elman_tanh", "relu": "elman_relu"}
        if self.activation not in kinds:
            return None
        return Kernel(kinds[self.activation], Elman(self.hidden_size, self.activation), ElmanParams)

    def update(self, params: ElmanParams, state: ElmanState, gx: Gates, gh: Gates, noise: Noise = None) -> ElmanState:
        return ElmanState(activation(self.activation)(gx[0] + gh[0]))

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        slope = derivative_from_output(self.activation)
        if slope is None:
            return None

        def forward(state: ElmanState, gx: Gates, gh: Gates) -> tuple[ElmanState, Array]:
            new = self.update(None, state, gx, gh)  # type: ignore[arg-type]
            return new, new.h

        def backward(h: Array, d_new: ElmanState) -> tuple[ElmanState, Gates, Gates]:
            da = (d_new.h * slope(h),)
            return ElmanState(jnp.zeros_like(h)), da, da

        return forward, backward
