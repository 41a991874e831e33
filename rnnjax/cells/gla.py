"""Gated linear attention."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._cell import ChunkedCell, Marks
from .._errors import check_size
from .._products import affine, dot
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise
from ._common import across, settle, settle_positive
from ._memory import (
    check_heads,
    head_inputs,
    initial_memory,
    inside,
    key_size,
    latest,
    merge_heads,
    split_heads,
    stored,
)


class GLAParams(NamedTuple):
    """w (I, 2·N·D + H), w_down (I, R), w_up (R, N·D), b (N·D); q, k, v."""

    w: Array
    w_down: Array
    w_up: Array
    b: Array


class GLAState(NamedTuple):
    """h (*B, H), s (*B, N, D, V)."""

    h: Array
    s: Array


class GLAInputs(NamedTuple):
    """q, k (T, *B, N, D), v (T, *B, N, V), log_a (T, *B, N, D)."""

    q: Array
    k: Array
    v: Array
    log_a: Array


@struct
class GLA(ChunkedCell):
    """Gated linear attention: a matrix memory whose rows decay at rates that the inputs set.

    q, k, v = x_t w                                query, key and value of each head; q is divided by √D
    α       = σ(x_t w_down w_up + b)^(1/τ)         decays, one for each feature of a key
    S_t     = diag(α) S_{t-1} + k vᵀ               memory
    h_t     = S_tᵀ q

    ======  ===============  ==================================
    w       (I, 2·N·D + H)   weights of q, k, v, Glorot uniform
    w_down  (I, R)           weights of α, Glorot uniform
    w_up    (R, N·D)         weights of α, Glorot uniform
    b       (N·D)            bias of α, zero
    ======  ===============  ==================================

    There are N heads, one after another on the last axis, with keys of D features and values of V = H/N. This is the
    recurrence; the norm, the output gate and the projection of the paper's layer come behind it. State: `GLAState(h,
    s)`, zero at first, in at least float32; h is what was read last and is kept for the output alone.

    Many steps at once are halves of halves: the later half reads what the earlier one wrote, with queries decayed from
    the middle on and keys decayed up to it, so that no factor exceeds 1, whatever the decays.

    Args:
        hidden_size: H, the features of outputs.
        heads: N, a divisor of H.
        key_size: D, features of each key; None takes half of V as the paper does, rounded up.
        rank: R, the rank of the decays' weights.
        temperature: τ, which keeps decays close to 1; a leaf.
        compute_dtype: dtype of the products with weights and of the outputs; None takes the promotion of inputs and
            parameters.

    Raises:
        ValueError: for heads that do not divide H.

    References:
        Yang, Wang, Shen, Panda, Kim 2023, Gated linear attention transformers with hardware-efficient training,
        arXiv:2312.06635.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GLA(hidden_size=8, heads=2)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, jnp.ones((5, 7, 2)))
    >>> ys.shape, state.s.shape
    ((5, 7, 8), (7, 2, 2, 4))
    """

    hidden_size: int
    heads: int = 1
    key_size: int | None = None
    rank: int = 16
    temperature: float | Array = node(default=16.0)
    compute_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        settle(self)
        check_heads(self)
        check_size("rank", self.rank)
        settle_positive(self, "temperature")

    @property
    def keys(self) -> int:
        """D."""
        return key_size(self, (self.hidden_size // self.heads + 1) // 2)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> GLAParams:
        keys = self.heads * self.keys
        key_w, key_down, key_up = jax.random.split(key, 3)
        return GLAParams(
            w=head_inputs(key_w, in_size, (keys, keys, self.hidden_size), dtype),
            w_down=initializers.glorot_uniform(key_down, (in_size, self.rank), dtype),
            w_up=initializers.glorot_uniform(key_up, (self.rank, keys), dtype),
            b=jnp.zeros((keys,), dtype),
        )

    def initial_state(
        self, params: GLAParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> GLAState:
        return GLAState(*initial_memory(self, self.keys, batch_shape, dtype))

    def project(self, params: GLAParams, x: Array, noise: Noise = None) -> GLAInputs:
        keys = self.heads * self.keys
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(dot(x, params.w), (keys, 2 * keys), axis=-1))
        log_a = jax.nn.log_sigmoid(affine(dot(x, params.w_down), params.w_up, params.b))
        log_a = log_a / across("temperature", self.temperature, log_a.shape, log_a.dtype)
        return GLAInputs(q / self.keys**0.5, k, v, split_heads(log_a, self.heads))

    def step(self, params: GLAParams, state: GLAState, z: GLAInputs, noise: Noise = None) -> GLAState:
        s = jnp.exp(z.log_a)[..., None] * state.s + z.k[..., None] * z.v[..., None, :]
        return GLAState(merge_heads(jnp.einsum("...d,...de->...e", z.q, s)), s)

    def chunk(self, params: GLAParams, state: GLAState, z: GLAInputs, marks: Marks) -> tuple[GLAState, Array]:
        steps = z.q.shape[0]
        q, k, v, g = (_padded(inside(part, 1)) for part in z)
        valid, cut = (None if mark is None else _padded_mark(mark, g) for mark in (marks.mask, marks.reset))
        if valid is not None:
            g, k = jnp.where(valid, g, 0), jnp.where(valid, k, 0)
        h, (prefix, suffix, again) = _halves(q, k, v, g, cut)

        h = h + (q * jnp.exp(prefix)) @ state.s
        k = k * jnp.exp(suffix)
        s = jnp.exp(prefix[..., -1, :, None]) * state.s + stored(k, v)
        if again is not None and marks.boundary is not None:
            h = h + (q * jnp.exp(again)) @ marks.boundary.s
            s = s + jnp.exp(again[..., -1, :, None]) * marks.boundary.s
        h = merge_heads(jnp.moveaxis(h[..., :steps, :], -2, 0))
        return GLAState(latest(marks.mask, h), s), h


class _Decays(NamedTuple):
    """Logarithms of decays within blocks of time, (*B, N, steps, D).

    prefix: from before the block through this step, −∞ across a reset.
    suffix: from behind this step through the end of the block.
    again: from the last reset in the block through this step, −∞ where there is none; None without resets.
    """

    prefix: Array
    suffix: Array
    again: Array | None

    def halves(self, size: int) -> tuple[_Decays, _Decays]:
        """Those of the first and of the second of every two blocks of `size` steps."""
        prefix, suffix = _pair(self.prefix, size), _pair(self.suffix, size)
        again = (None, None) if self.again is None else _pair(self.again, size)
        return _Decays(prefix[0], suffix[0], again[0]), _Decays(prefix[1], suffix[1], again[1])


def _halves(q: Array, k: Array, v: Array, g: Array, cut: Array | None) -> tuple[Array, _Decays]:
    """What each step reads of what was written in the chunk, and the decays of the chunk as one block."""
    again = None if cut is None else jnp.where(cut, g, -jnp.inf)
    g = g if cut is None else jnp.where(cut, -jnp.inf, g)
    decays = _Decays(g, jnp.zeros_like(g), again)
    h = (q * k).sum(-1, keepdims=True) * v
    size = 1
    while size < q.shape[-2]:
        first, then = decays.halves(size)
        reads = _pair(q, size)[1] * jnp.exp(then.prefix)
        writes = _pair(k, size)[0] * jnp.exp(first.suffix)
        early, late = _pair(h, size)
        late = late + jnp.einsum("...td,...jd->...tj", reads, writes) @ _pair(v, size)[0]
        h, decays, size = _join(early, late), _merged(first, then), 2 * size
    return h, decays


def _merged(first: _Decays, then: _Decays) -> _Decays:
    """The decays of two blocks as one."""
    prefix = _join(first.prefix, first.prefix[..., -1:, :] + then.prefix)
    suffix = _join(first.suffix + then.prefix[..., -1:, :], then.suffix)
    if first.again is None or then.again is None:
        return _Decays(prefix, suffix, None)
    return _Decays(prefix, suffix, _join(first.again, jnp.maximum(then.again, first.again[..., -1:, :] + then.prefix)))


def _pair(x: Array, size: int) -> tuple[Array, Array]:
    """x (…, steps, D) as the first and the second of every two blocks of `size` steps, (…, blocks, size, D)."""
    x = x.reshape(*x.shape[:-2], x.shape[-2] // (2 * size), 2, size, x.shape[-1])
    return x[..., 0, :, :], x[..., 1, :, :]


def _join(first: Array, then: Array) -> Array:
    """Undoes `_pair`."""
    both = jnp.concatenate([first, then], axis=-2)
    return both.reshape(*both.shape[:-3], both.shape[-3] * both.shape[-2], both.shape[-1])


def _padded(x: Array) -> Array:
    """x (…, steps, D) with zeros up to a power of two: steps that neither write nor decay."""
    missing = (1 << (x.shape[-2] - 1).bit_length()) - x.shape[-2]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])


def _padded_mark(mark: Array, like: Array) -> Array:
    """mark (steps, *B) over (*B, N, D) with the axis of steps in front of the last, padded with False."""
    mark = inside(mark, 0)[..., None, :, None]
    return jnp.broadcast_to(_padded(mark), like.shape)
