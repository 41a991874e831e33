"""Units switched off at random during training."""

from __future__ import annotations

import numbers

import jax.numpy as jnp
from jax import lax

from .._errors import check_rate
from .._struct import node, struct
from .._types import Array, Key, Params, at_least_float32
from ..cells._common import drop_scale, settle_number
from ._layer import Stateless


@struct
class Dropout(Stateless):
    """Dropout: elements switched off at random, anew at every step, and the others scaled up; nothing without a key.

    y = x ⊙ m / (1 − rate),  m ~ Bernoulli(1 − rate)

    The draws depend on the shape of `xs`: in streaming give each piece a key of its own.

    Args:
        rate: probability of switching off, in [0, 1), one number or one for each feature; a leaf, so that `vmap`
            reaches it. Draws are constants to differentiation. With the number 0 there are none.
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.

    Raises:
        ValueError: for a Python number outside [0, 1); traced ones are not checked.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014, Dropout: a simple way to prevent neural networks
        from overfitting, JMLR 15.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> ys, _ = rj.Dropout(0.5)((), jnp.ones((4, 8)), key=jax.random.key(0))
    >>> sorted(set(ys.flatten().tolist()))
    [0.0, 2.0]
    """

    rate: float | Array = node()
    event_ndim: int = 1

    needs_time = False
    keeps_axes = True

    def __post_init__(self) -> None:
        _settle_rate(self)

    def apply(self, params: Params, x: Array, valid: Array | None, key: Key | None) -> Array:
        return _drop(x, self.rate, key, x.shape)


@struct
class VariationalDropout(Stateless):
    """Dropout with one mask for the whole sequence, drawn for each row and feature; nothing without a key.

    y_t = x_t ⊙ m / (1 − rate),  m ~ Bernoulli(1 − rate), the same at every t

    The mask does not depend on the number of steps: in streaming the same key gives every piece the same mask.

    Args:
        rate: probability of switching off, in [0, 1), one number or one for each feature; a leaf, so that `vmap`
            reaches it. Draws are constants to differentiation. With the number 0 there are none.
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.

    Raises:
        ValueError: for a Python number outside [0, 1); traced ones are not checked.

    References:
        Gal, Ghahramani 2016, A theoretically grounded application of dropout in recurrent neural networks,
        arXiv:1512.05287.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> ys, _ = rj.VariationalDropout(0.5)((), jnp.ones((4, 2, 8)), key=jax.random.key(0))
    >>> bool((ys == ys[:1]).all())
    True
    """

    rate: float | Array = node()
    event_ndim: int = 1

    keeps_axes = True

    def __post_init__(self) -> None:
        _settle_rate(self)

    def apply(self, params: Params, x: Array, valid: Array | None, key: Key | None) -> Array:
        return _drop(x, self.rate, key, (1, *x.shape[1:]))


def _settle_rate(layer: Dropout | VariationalDropout) -> None:
    check_rate("rate", layer.rate)
    settle_number(layer, "rate")


def _drop(x: Array, rate: float | Array, key: Key | None, shape: tuple[int, ...]) -> Array:
    """Multiplies x with one draw for each element of `shape`, which broadcasts to that of x."""
    if key is None or (isinstance(rate, numbers.Real) and rate == 0):
        return x
    exact = at_least_float32(x.dtype)
    scale = lax.stop_gradient(drop_scale(key, "rate", rate, shape, exact))
    return (x.astype(exact) * jnp.broadcast_to(scale, x.shape)).astype(x.dtype)
