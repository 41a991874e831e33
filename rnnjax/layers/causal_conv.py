"""A short convolution over past steps, which streams."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._errors import check_key, check_size
from .._products import add_bias
from .._struct import set_field, struct
from .._types import Array, DTypeLike, Key, State, Xs, at_least_float32
from .._unroll import check
from .._unroll.call import Dtypes
from .._unroll.lift import along, flip, where, zero_where_masked
from .._unroll.place import Placement, whole
from ..cells._common import scale, settle_compute_dtype
from ._layer import Layer, begin, one_array, valid_steps


class CausalConvParams(NamedTuple):
    """w (K, I), b (I); w[0] meets the present input, w[k] the one k steps before."""

    w: Array
    b: Array


class CausalConvState(NamedTuple):
    """x (*B, K − 1, I): the last inputs, oldest first."""

    x: Array


@struct
class CausalConv(Layer):
    """A depthwise causal convolution: each feature with weights of its own over its last few inputs.

    y_t = Σ_k w_k ⊙ x_{t-k} + b,    k = 0 … K − 1

    ======  ======  ==========================================
    w       (K, I)  weights, normal with variance 1/K
    b       (I)     bias, zero
    ======  ======  ==========================================

    State: `CausalConvState(x)`, zero at first, so that a sequence may come in pieces. A step that is masked out is as
    if it were not there, and nothing reaches over a reset.

    Args:
        width: K.
        reverse: run from the last step to the first: a convolution of the inputs that follow, not causal.
        compute_dtype: dtype of the outputs; None takes the promotion of inputs and parameters.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.CausalConv(width=2)
    >>> params = layer.init(jax.random.key(0), in_size=1)._replace(w=jnp.array([[1.0], [10.0]]))
    >>> ys, state = layer(params, jnp.array([[1.0], [2.0], [3.0]]))
    >>> ys.ravel().tolist(), state.x.tolist()
    ([1.0, 12.0, 23.0], [[3.0]])
    """

    width: int = 4
    reverse: bool = False
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        check_size("width", self.width)
        set_field(self, "width", int(self.width))
        settle_compute_dtype(self)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return not self.reverse

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> CausalConvParams:
        check_key("key", key)
        check_size("in_size", in_size)
        w = jax.random.normal(key, (self.width, in_size), at_least_float32(dtype)) / self.width**0.5
        return CausalConvParams(w.astype(dtype), jnp.zeros((in_size,), dtype))

    def out_size(self, in_size: int) -> int:
        return in_size

    def initial_state(
        self, params: CausalConvParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> CausalConvState:
        return CausalConvState(jnp.zeros((*batch_shape, self.width - 1, params.b.shape[0]), dtype))

    def reversed(self) -> CausalConv:
        return dataclasses.replace(self, reverse=not self.reverse)

    def __call__(
        self,
        params: CausalConvParams,
        xs: Xs,
        state: CausalConvState | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Array, State]:
        state, _ = begin(self, state)
        x = one_array(xs)
        check.inputs(x)
        _, batch_shape = check.sizes(self, x)
        check.parameters(self, params, x)
        valid = valid_steps(self, x, lengths, mask, reset)
        dtypes = Dtypes.of(self.compute_dtype, x, params)
        x = zero_where_masked(valid, x.astype(dtypes.state))
        start = self.initial_state(params, batch_shape, dtypes.state) if state is None else state
        place = Placement.of(x, 1 + len(batch_shape))
        params = whole(params)
        past = place.along_time(self._past(start, batch_shape, x))
        reset = along(None if reset is None else place.along_time(jnp.asarray(reset)), self.reverse)
        x, valid, reset = flip((x, valid, reset), self.reverse)
        # running forwards, what lies beyond a row's length is behind its valid steps
        in_order = mask is None and (lengths is None or not self.reverse)
        ys, past = self._run(params, x, past, valid, reset, in_order)
        ys = zero_where_masked(valid, add_bias(ys, params.b)).astype(dtypes.compute)
        return flip(ys, self.reverse), CausalConvState(jnp.moveaxis(past, 0, -2))

    def _past(self, state: Any, batch_shape: tuple[int, ...], x: Array) -> Array:
        """The state as the first of the inputs, (K − 1, *B, I)."""
        if not isinstance(state, CausalConvState):
            raise TypeError(f"`state` must be a CausalConvState, as `initial_state` makes it; got {state!r}")
        wanted = (*batch_shape, self.width - 1, x.shape[-1])
        if state.x.shape != wanted:
            raise ValueError(f"`state.x` must be (*B, K − 1, I) = {wanted}; got {tuple(state.x.shape)}")
        return jnp.moveaxis(state.x.astype(x.dtype), -2, 0)

    def _run(
        self,
        params: CausalConvParams,
        x: Array,
        past: Array,
        valid: Array | None,
        reset: Array | None,
        in_order: bool,
    ) -> tuple[Array, Array]:
        """Outputs and the last inputs. Where a row's valid steps are not its first, they move to its front, and outputs
        back to where they were."""
        sequence = None if reset is None else jnp.cumsum(reset, axis=0, dtype=jnp.int32)
        if in_order or valid is None:
            both, of = _behind(past, x, sequence)
            return self._convolved(params, both, of), self._kept(both, of, valid)
        order = jnp.argsort(~valid, axis=0, stable=True)
        both, of = _behind(past, _take(x, order), None if sequence is None else _take(sequence, order))
        rank = jnp.maximum(jnp.cumsum(valid, axis=0, dtype=jnp.int32) - 1, 0)
        return _take(self._convolved(params, both, of), rank), self._kept(both, of, valid)

    def _convolved(self, params: CausalConvParams, both: Array, of: Array | None) -> Array:
        taps = []
        for k in range(self.width):
            tap = both[self._at(k, both)]
            if of is not None:
                tap = where(of[self._at(k, both)] == of[self._at(0, both)], tap, jnp.zeros_like(tap))
            taps.append(scale(tap, params.w[k]))
        return sum(taps[1:], taps[0])

    def _kept(self, both: Array, of: Array | None, valid: Array | None) -> Array:
        """The last K − 1 inputs of each row's valid steps, with zeros for those from before the last reset."""
        past = self.width - 1
        places = None
        if valid is not None and past > 0:
            count = valid.sum(0, dtype=jnp.int32)
            places = jnp.stack([count + k for k in range(past)])

        def pick(leaf: Array) -> Array:
            return leaf[leaf.shape[0] - past :] if places is None else _take(leaf, places)

        new = pick(both)
        if of is None:
            return new
        return where(pick(of) == of.max(0, initial=0)[None], new, jnp.zeros_like(new))

    def _at(self, k: int, both: Array) -> slice:
        """Where the inputs k steps before lie, behind those of the past."""
        return slice(self.width - 1 - k, both.shape[0] - k)


def _behind(past: Array, x: Array, sequence: Array | None) -> tuple[Array, Array | None]:
    """The past and the inputs behind it, (K − 1 + T, *B, I), and which of the sequences between resets each is of."""
    both = jnp.concatenate([past, x])
    if sequence is None:
        return both, None
    return both, jnp.concatenate([jnp.zeros_like(past[..., 0], jnp.int32), sequence])


def _take(x: Array, at: Array) -> Array:
    """x (T, *B, …) at the steps (T', *B)."""
    places = at.reshape(*at.shape, *(1,) * (x.ndim - at.ndim))
    return jnp.take_along_axis(x, jnp.broadcast_to(places, (*at.shape, *x.shape[at.ndim :])), 0)
