"""Long short-term memory over images: convolutions in the place of products."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .. import initializers
from .._cell import Cell
from .._errors import check_size
from .._products import add_bias, split_gates
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Key, Noise, at_least_float32, explicit_spec
from ..activations import Activation, activation
from ._common import forget_bias, settle, settle_number


class ConvLSTMParams(NamedTuple):
    """w (*K, I, 4H), u (*K, H, 4H), b (4H); gates i, f, g, o, kernel sizes *K."""

    w: Array
    u: Array
    b: Array


class ConvLSTMState(NamedTuple):
    """h (*B, *S, H), c (*B, *S, H)."""

    h: Array
    c: Array


@struct
class ConvLSTM(Cell):
    """Long short-term memory over 1, 2 or 3 spatial axes, each place seeing its neighbourhood.

    i   = σ(x_t ∗ w_i + h_{t-1} ∗ u_i + b_i)       input gate
    f   = σ(x_t ∗ w_f + h_{t-1} ∗ u_f + b_f)       forget gate
    g   = φ(x_t ∗ w_g + h_{t-1} ∗ u_g + b_g)       candidate
    o   = σ(x_t ∗ w_o + h_{t-1} ∗ u_o + b_o)       output gate
    c_t = f ⊙ c_{t-1} + i ⊙ g
    h_t = o ⊙ φ(c_t)

    ======  ===========  =============================================================
    w       (*K, I, 4H)  input kernels, Glorot uniform per gate
    u       (*K, H, 4H)  recurrent kernels, Glorot uniform per gate
    b       (4H)         bias, zero, with `forget_bias` for the forget gate
    ======  ===========  =============================================================

    Inputs are (T, *B, *S, I): features last, as in Keras, whose layouts and gate order i, f, g, o are the same. Both
    convolutions pad with zeros to keep *S; a kernel of even size pads one more behind than before. There are no
    peepholes, as in Keras; the paper has them. State: `ConvLSTMState(h, c)`, zero at first. The output is h,
    (T, *B, *S, H).

    Args:
        hidden_size: H.
        spatial_shape: *S, 1 to 3 sizes.
        kernel_size: one size for all spatial axes, or one for each.
        activation: φ of candidate and cell state.
        gate_activation: σ of the three gates.
        forget_bias: one number or (H), added to the forget gate's bias at initialisation, not in the forward pass.
        compute_dtype: dtype of the products and outputs; None takes the promotion of inputs and parameters.

    References:
        Shi et al. 2015, Convolutional LSTM network: a machine learning approach for precipitation nowcasting,
        arXiv:1506.04214.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.ConvLSTM(hidden_size=3, spatial_shape=(8, 6))
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 8, 6, 2)))
    >>> ys.shape, state.c.shape
    ((5, 7, 8, 6, 3), (7, 8, 6, 3))
    """

    hidden_size: int
    spatial_shape: tuple[int, ...]
    kernel_size: int | tuple[int, ...] = 3
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    forget_bias: float | Array = node(default=1.0)
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self, "activation", "gate_activation")
        settle_number(self, "forget_bias")
        set_field(self, "spatial_shape", _spatial_shape(self.spatial_shape))
        set_field(self, "kernel_size", _kernel_size(self.kernel_size, len(self.spatial_shape)))

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return 1 + len(self.spatial_shape)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> ConvLSTMParams:
        size, kernel = self.hidden_size, _kernel_size(self.kernel_size, len(self.spatial_shape))
        key_w, key_u, key_b = jax.random.split(key, 3)
        return ConvLSTMParams(
            w=initializers.glorot_uniform(key_w, (*kernel, in_size, 4 * size), dtype, gates=4),
            u=initializers.glorot_uniform(key_u, (*kernel, size, 4 * size), dtype, gates=4),
            b=forget_bias(self, key_b, dtype, gates=4, forget=1, inputs=0),
        )

    def initial_state(
        self, params: ConvLSTMParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> ConvLSTMState:
        zeros = jnp.zeros((*batch_shape, *self.spatial_shape, self.hidden_size), dtype)
        return ConvLSTMState(h=zeros, c=zeros)

    def project(self, params: ConvLSTMParams, x: Array, noise: Noise = None) -> Array:
        if x.shape[-self.event_ndim : -1] != self.spatial_shape:
            raise ValueError(
                f"`xs` must be (T, *B, *S, I) with *S = {self.spatial_shape}, the cell's `spatial_shape`; got shape "
                f"{x.shape}"
            )
        return add_bias(convolve(x, params.w), params.b)

    def step(self, params: ConvLSTMParams, state: ConvLSTMState, z: Array, noise: Noise = None) -> ConvLSTMState:
        gate, phi = activation(self.gate_activation), activation(self.activation)
        i, f, g, o = split_gates(z + convolve(state.h, params.u), 4)
        c = gate(f) * state.c + gate(i) * phi(g)
        return ConvLSTMState(h=gate(o) * phi(c), c=c)


def convolve(x: Array, w: Array) -> Array:
    """x (…, *S, I) convolved with w (*K, I, O) in the dtype of w, accumulated and returned in at least float32."""
    axes = "012"[: w.ndim - 2]
    if x.ndim > w.ndim and explicit_spec(x) is not None:
        # an explicit mesh does not fold a sharded batch axis into time
        return lax.map(lambda at_time: convolve(at_time, w), x)
    lead, event = x.shape[: x.ndim - w.ndim + 1], x.shape[x.ndim - w.ndim + 1 :]
    y = lax.conv_general_dilated(
        x.reshape(math.prod(lead), *event).astype(w.dtype),
        w,
        window_strides=(1,) * len(axes),
        padding="SAME",
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        preferred_element_type=at_least_float32(w.dtype),
    )
    return y.reshape(*lead, *y.shape[1:])


def _spatial_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)) or not 1 <= len(shape) <= 3:
        raise TypeError(f"`spatial_shape` must be a tuple of 1 to 3 sizes, such as (28, 28); got {shape!r}")
    for i, size in enumerate(shape):
        check_size(f"spatial_shape[{i}]", size)
    return tuple(shape)


def _kernel_size(kernel: Any, axes: int) -> tuple[int, ...]:
    if not isinstance(kernel, (tuple, list)):
        check_size("kernel_size", kernel)
        return (kernel,) * axes
    if len(kernel) != axes:
        raise ValueError(
            f"`kernel_size` must be one size, or one for each of the {axes} axes of `spatial_shape`; got {kernel!r}"
        )
    for i, size in enumerate(kernel):
        check_size(f"kernel_size[{i}]", size)
    return tuple(kernel)
