"""A small causal Transformer, an attentive rival of recurrent networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .._errors import check_size
from .._types import Array


class CausalTransformer(nn.Module):
    """Transformer whose every output attends to its own input and earlier ones.

    x   ← x w + p                                 p_t: sines and cosines of t
    x   ← x + attention(norm(x))                  N blocks of both
    x   ← x + gelu(norm(x) w_1 + b_1) w_2 + b_2
    y   = norm(x)

    Norms are layer norms in front of each part (Xiong et al. 2020). Each of the A heads has max(1, ⌊W / A⌋) numbers, so
    that any width will do. There is no dropout.

    It is a linen module: inputs (*B, T, I), outputs (*B, T, W).

    Args:
        width: W.
        blocks: N.
        heads: A.
        expansion: the hidden features of the second part, in multiples of W.

    References:
        Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762.
        Xiong et al. 2020, On layer normalization in the Transformer architecture, arXiv:2002.04745.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> net = rj.diagnostics.CausalTransformer(width=8)
    >>> ys, variables = jax.jit(net.init_with_output)(jax.random.key(0), jnp.ones((5, 20, 3), jnp.float32))
    >>> ys.shape
    (5, 20, 8)
    """

    width: int
    blocks: int = 2
    heads: int = 4
    expansion: int = 2

    receptive_field = None
    """No bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "blocks", "heads", "expansion"):
            check_size(name, getattr(self, name))

    @nn.compact
    def __call__(self, x: Array) -> Array:
        steps, lead = x.shape[-2], (1,) * (x.ndim - 2)
        past = jnp.tril(jnp.ones((steps, steps), bool)).reshape(*lead, 1, steps, steps)
        x = nn.Dense(self.width)(x)
        x = x + jnp.asarray(_positions(steps, self.width), x.dtype).reshape(*lead, steps, self.width)
        size = max(1, self.width // self.heads)
        for _ in range(self.blocks):
            attention = nn.MultiHeadDotProductAttention(self.heads, qkv_features=self.heads * size)
            x = x + attention(nn.LayerNorm()(x), mask=past)
            hidden = jax.nn.gelu(nn.Dense(self.expansion * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        return nn.LayerNorm()(x)


def _positions(steps: int, width: int) -> np.ndarray:
    """Sines and cosines (T, W) of the step at wavelengths from 2π to 10,000 · 2π."""
    rates = 10_000.0 ** -(np.arange(0, width, 2) / width)
    angles = np.arange(steps)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(steps, -1)[:, :width]
