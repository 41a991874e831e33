"""xLSTM's two residual blocks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import initializers
from .._errors import check_size
from .._products import add_bias, affine, split_gates
from .._struct import struct
from .._types import Array, DTypeLike, Gates, Key, Noise
from ..cells import MLSTM, SLSTM
from ..cells._common import scale
from ..cells._memory import head_product, merge_heads, split_heads
from ..cells.mlstm import MLSTMInputs
from ..cells.slstm import SLSTMParams
from ._layer import Layer
from .blocks import Activate, Composed
from .causal_conv import CausalConv
from .dense import Dense
from .gate import Gate
from .norms import LayerNorm, LayerNormParams
from .residual import Residual
from .stack import Stack


@struct
class MLSTMBlock(Composed):
    """xLSTM's block around a matrix memory, which reads more features than the block has.

    y = x + ((norm(h) + s ⊙ c) ⊙ swish(v w_2)) w_3,    v = norm(x),  u = v w_1,  c = swish(conv(u))
    h = mlstm(q, k, u),                                q = c w_q,  k = c w_k,  gates from (c, u)

    with biases beside w_1, w_2 and w_3; w_q and w_k are block-diagonal, s is a weight for each feature, one at first,
    and the norm of h is a layer norm for each head.

    Args:
        heads: N, a divisor of the features within.
        expansion: features within, in those of the inputs.
        conv: the width of the short causal convolution.
        projection: features of one block of w_q and w_k, a divisor of the features within.
        reverse: run from the last step to the first.

    Raises:
        ValueError: in `init`, for heads or blocks that do not divide the features.

    References:
        Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, figure 11.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> model = rj.Stack([rj.Embedding(30, 16), *[rj.MLSTMBlock()] * 2, rj.SLSTMBlock(), rj.LayerNorm(), rj.Dense(30)])
    >>> params = model.init(jax.random.key(0))
    >>> ys, state = model(params, jnp.ones((5, 2), int))
    >>> ys.shape
    (5, 2, 30)
    """

    heads: int = 4
    expansion: int = 2
    conv: int = 4
    projection: int = 4
    reverse: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "expansion", "conv", "projection"):
            check_size(name, getattr(self, name))

    def body(self, size: int) -> Layer:
        within = size * self.expansion
        core = _ConvolvedMLSTM(within, self.heads, projection=self.projection)
        memory = Stack([Dense(within), _convolved(self.conv), core])
        return Residual(Stack([LayerNorm(), Gate(memory, Dense(within, activation=jax.nn.silu)), Dense(size)]))


@struct
class SLSTMBlock(Composed):
    """xLSTM's block around an sLSTM, with a gated perceptron behind it.

    y = x + (gelu(g w_1) ⊙ (g w_2)) w_3,    g = norm(slstm(c, v)),  v = norm(x),  c = swish(conv(v))

    with biases beside the weights. Input and forget gates read c, cell input and output gate v, all of them head by
    head; the norm of the sLSTM's outputs is a layer norm for each head.

    Args:
        heads: N, a divisor of the features.
        hidden: features within the perceptron; None takes 4/3 of those of the inputs, rounded up.
        conv: the width of the short causal convolution.
        reverse: run from the last step to the first.

    Raises:
        ValueError: in `init`, for heads that do not divide the features.

    References:
        Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, figure 10.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.SLSTMBlock(heads=2)
    >>> params = layer.init(jax.random.key(0), in_size=4)
    >>> ys, state = layer(params, jnp.ones((5, 2, 4)))
    >>> ys.shape
    (5, 2, 4)
    """

    heads: int = 4
    hidden: int | None = None
    conv: int = 4
    reverse: bool = False

    def __post_init__(self) -> None:
        check_size("heads", self.heads)
        check_size("conv", self.conv)
        if self.hidden is not None:
            check_size("hidden", self.hidden)

    def body(self, size: int) -> Layer:
        hidden = -(-4 * size // 3) if self.hidden is None else self.hidden
        core = [LayerNorm(), _convolved(self.conv), _ConvolvedSLSTM(size, self.heads), LayerNorm(groups=self.heads)]
        perceptron = [Gate(Dense(hidden), Dense(hidden, activation=jax.nn.gelu)), Dense(size)]
        return Residual(Stack([*core, *perceptron]))


@struct
class _Beside(Residual):
    """A layer's outputs with its inputs beside them, (…, 2 I)."""

    def out_size(self, in_size: int) -> int:
        return 2 * super().out_size(in_size)

    def joined(self, x: Array, ys: Array) -> Array:
        return jnp.concatenate([ys, x], axis=-1)


def _convolved(width: int) -> Layer:
    return _Beside(Stack([CausalConv(width), Activate(jax.nn.silu)]))


class _ConvolvedMLSTMParams(NamedTuple):
    """w (2, H/S, S, S), w_gates (2H, 2N), b_gates (2N), norm, skip (H); queries and keys, gates i, f."""

    w: Array
    w_gates: Array
    b_gates: Array
    norm: LayerNormParams
    skip: Array


@struct
class _ConvolvedMLSTM(MLSTM):
    """An mLSTM of inputs (…, 2H), convolved and plain: queries and keys come of the first, values are the others."""

    projection: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.projection:
            raise ValueError(
                f"`projection` must divide the features within the block; got blocks of {self.projection} for "
                f"{self.hidden_size} features"
            )

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> _ConvolvedMLSTMParams:  # type: ignore[override]
        size, block = self.hidden_size, self.projection
        key_w, key_gates = jax.random.split(key)
        keys = jax.random.split(key_w, 2 * size // block)
        blocks = [initializers.glorot_uniform(k, (block, block), dtype) for k in keys]
        gates = super().init(key_gates, in_size, dtype)
        return _ConvolvedMLSTMParams(
            w=jnp.stack(blocks).reshape(2, size // block, block, block),
            w_gates=gates.w_gates,
            b_gates=gates.b_gates,
            norm=LayerNorm().init(key, size, dtype),
            skip=jnp.ones((size,), dtype),
        )

    def project(self, params: _ConvolvedMLSTMParams, x: Array, noise: Noise = None) -> MLSTMInputs:  # type: ignore[override]
        convolved, plain = jnp.split(x, 2, axis=-1)
        q, k = (merge_heads(head_product(convolved, w)) for w in params.w)
        v = plain.astype(q.dtype)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        log_i, f = split_gates(affine(x, params.w_gates, params.b_gates), 2)
        return MLSTMInputs(q, k / k.shape[-1] ** 0.5, v, log_i, jax.nn.log_sigmoid(f))

    def readout(self, params: _ConvolvedMLSTMParams, emitted: Array, x: Array) -> Array:  # type: ignore[override]
        passed = scale(jnp.split(x, 2, axis=-1)[0], params.skip)
        normed = LayerNorm(groups=self.heads).apply(params.norm, emitted, None, None)
        return normed.astype(passed.dtype) + passed


@struct
class _ConvolvedSLSTM(SLSTM):
    """An sLSTM of inputs (…, 2H), convolved and plain: w (N, D, 4D), of which i and f meet the first, z and o the
    others."""

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> SLSTMParams:
        units = self.hidden_size // self.heads
        key, key_w = jax.random.split(key)
        keys = jax.random.split(key_w, self.heads)
        w = [initializers.glorot_uniform(k, (units, 4 * units), dtype, gates=4) for k in keys]
        return super().init(key, in_size, dtype)._replace(w=jnp.stack(w))

    def project(self, params: SLSTMParams, x: Array, noise: Noise = None) -> Gates:
        ways = zip(jnp.split(x, 2, axis=-1), jnp.split(params.w, 2, axis=-1), strict=True)
        pairs = [jnp.split(head_product(part, w), 2, axis=-1) for part, w in ways]
        gates = (merge_heads(gate) for pair in pairs for gate in pair)
        biases = split_gates(params.b, 4)
        return tuple(add_bias(gate, b) for gate, b in zip(gates, biases, strict=True))
