"""The temporal convolutional network, a convolutional rival of recurrent ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from .._errors import check_size
from .._types import Array


class CausalConv(nn.Module):
    """A dilated convolution over the past: K inputs, d steps apart, the last of them the present one.

    It is one product of K copies, each moved d steps on, so that a batch of them is a batched product.
    """

    channels: int
    kernel_size: int
    dilation: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        taps = [_delayed(x, self.dilation * k) for k in range(self.kernel_size)]
        taps = jnp.concatenate(taps, axis=-1)
        v = self.param("v", nn.initializers.he_normal(), (taps.shape[-1], self.channels), jnp.float32)
        norm = jnp.sqrt((v**2).sum(0))
        g = self.param("g", lambda _: norm)
        b = self.param("b", nn.initializers.zeros, (self.channels,), jnp.float32)
        # a column of zeros has no direction
        y = taps @ v * (g / jnp.where(norm > 0, norm, 1)).reshape((1,) * (x.ndim - 1) + (-1,))
        return y + b.reshape((1,) * (x.ndim - 1) + (-1,))


def _delayed(x: Array, steps: int) -> Array:
    """x (*B, T, I), so many steps later, behind zeros."""
    length = x.shape[-2]
    steps = min(steps, length)
    zeros = [(0, 0)] * (x.ndim - 2) + [(steps, 0), (0, 0)]
    return jnp.pad(x[..., : length - steps, :], zeros)


class TCN(nn.Module):
    """Temporal convolutional network: causal convolutions in blocks, each dilated twice as much as the one below.

    conv_d(x)_t  = Σ_{k<K} x_{t−dk} w_k + b,    w = g v / ‖v‖           for each channel
    block_d(x)   = relu(relu(conv_d(relu(conv_d(x)))) + skip(x)),    d = 1, 2, 4 … 2^(L−1)

    The skip is the identity, or a product where the number of channels changes. As in the paper, weights are normalised
    and a block has two convolutions; unlike there, no dropout is built in, and weights are drawn as He et al. 2015 do.
    An output sees 1 + 2 (K − 1)(2^L − 1) inputs, its own the last.

    It is a linen module: inputs (*B, T, I), outputs (*B, T, C).

    Args:
        channels: C.
        levels: L, the blocks.
        kernel_size: K.

    References:
        Bai, Kolter, Koltun 2018, An empirical evaluation of generic convolutional and recurrent networks for sequence
        modeling, arXiv:1803.01271.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> net = rj.diagnostics.TCN(channels=8, levels=2)
    >>> ys, variables = net.init_with_output(jax.random.key(0), jnp.ones((5, 20, 3), jnp.float32))
    >>> ys.shape, net.receptive_field
    ((5, 20, 8), 13)
    """

    channels: int
    levels: int
    kernel_size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "levels", "kernel_size"):
            check_size(name, getattr(self, name))

    @property
    def receptive_field(self) -> int:
        """How many inputs an output sees."""
        return 1 + 2 * (self.kernel_size - 1) * (2**self.levels - 1)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for level in range(self.levels):
            y = x
            for _ in range(2):
                y = jax.nn.relu(CausalConv(self.channels, self.kernel_size, 2**level)(y))
            if x.shape[-1] != self.channels:
                x = nn.Dense(self.channels, use_bias=False)(x)
            x = jax.nn.relu(y + x)
        return x
