"""The Elman network's cell with leaky integration."""

from __future__ import annotations

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import GatedCell
from .._errors import check_unit_interval
from .._struct import node, struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..activations import Activation, activation
from ..initializers import RecurrentInit
from ._common import across, choice, settle, settle_number


class LeakyElmanParams(NamedTuple):
    """w (I, H), u (H, H), b (H)."""

    w: Array
    u: Array
    b: Array


class LeakyElmanState(NamedTuple):
    """h (*B, H)."""

    h: Array


@struct
class LeakyElman(GatedCell):
    """The simple recurrent network with units that forget slowly: leaky integrators of time constant about 1 / α.

    h_t = (1 − α) ⊙ h_{t-1} + α ⊙ φ(x_t w + h_{t-1} u + b)

    ======  ======  ===========================================
    w       (I, H)  input weights, Glorot uniform
    u       (H, H)  recurrent weights, orthogonal or identity
    b       (H)     bias, zero
    ======  ======  ===========================================

    α is a leaf of the cell: `vmap` and `grad` reach it. α = 1 is `Elman`. State: `LeakyElmanState(h)`, zero at first.
    The output is h.

    Args:
        hidden_size: H.
        leak: α in [0, 1], one number or (H).
        activation: φ, a name from `rnnjax.activations` or a module-level function.
        recurrent_init: "orthogonal" or "identity".
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Jaeger, Lukoševičius, Popovici, Siewert 2007, Optimization and applications of echo state networks with leaky-
        integrator neurons, doi:10.1016/j.neunet.2007.04.016.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LeakyElman(hidden_size=3, leak=0.1)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 2)))
    >>> ys.shape, state.h.shape
    ((5, 3), (3,))
    """

    hidden_size: int
    leak: float | Array = node(default=0.5)
    activation: Activation = "tanh"
    recurrent_init: RecurrentInit = "orthogonal"
    compute_dtype: DTypeLike | None = None

    unitwise = True

    def __post_init__(self) -> None:
        settle(self, "activation")
        choice("recurrent_init", self.recurrent_init, get_args(RecurrentInit))
        check_unit_interval("leak", self.leak)
        settle_number(self, "leak")

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LeakyElmanParams:
        size = self.hidden_size
        key_w, key_u = jax.random.split(key)
        return LeakyElmanParams(
            w=initializers.glorot_uniform(key_w, (in_size, size), dtype),
            u=initializers.recurrent(self.recurrent_init, key_u, size, 1, dtype),
            b=jnp.zeros((size,), dtype),
        )

    def initial_state(
        self, params: LeakyElmanParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LeakyElmanState:
        return LeakyElmanState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def input_weights(self, params: LeakyElmanParams) -> tuple[Array, Array]:
        return params.w, params.b

    def recurrent(self, params: LeakyElmanParams) -> tuple[Array, None]:
        return params.u, None

    def update(
        self, params: LeakyElmanParams, state: LeakyElmanState, gx: Gates, gh: Gates, noise: Noise = None
    ) -> LeakyElmanState:
        leak = across("leak", self.leak, state.h.shape, state.h.dtype)
        return LeakyElmanState((1 - leak) * state.h + leak * activation(self.activation)(gx[0] + gh[0]))
