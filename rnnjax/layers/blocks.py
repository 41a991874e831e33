"""The residual blocks that published models of linear recurrences are stacks of, as compositions of layers."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from .._errors import check_size
from .._struct import node, set_field, struct
from .._types import Array, DTypeLike, Key, Params, State, Xs
from ..activations import Activation, activation, canonical
from ..cells import RGLRU, MinGRU
from ._layer import Layer, Stateless, beside, one_array, split_elapsed
from .causal_conv import CausalConv
from .dense import Dense
from .dropout import VariationalDropout
from .gate import Gate
from .norms import LayerNorm, RMSNorm
from .residual import Residual
from .rnn import as_layer
from .stack import Stack


@struct
class Activate(Stateless):
    """An activation by itself: y = g(x).

    Args:
        activation: g, a name from `rnnjax.activations` or a module-level function such as `jax.nn.gelu`.
        event_ndim: trailing axes that `lengths` and `mask` do not cover: 1, after a convolutional cell 1 + its spatial
            axes.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.Activate("relu")((), jnp.array([[-1.0, 2.0]]))[0].tolist()
    [[0.0, 2.0]]
    """

    activation: Activation
    event_ndim: int = 1

    needs_time = False
    keeps_axes = True

    def __post_init__(self) -> None:
        set_field(self, "activation", canonical(self.activation))

    def apply(self, params: Params, x: Array, valid: Array | None, key: Key | None) -> Array:
        return activation(self.activation)(x)


class Composed(Layer):
    """A layer that is another one, made for the features of its inputs. A subclass has a field `reverse` and writes
    `body`, whose parameters begin with those of a norm; parameters and state are those of the body."""

    reverse: bool

    @abc.abstractmethod
    def body(self, size: int) -> Layer:
        """The layer for inputs of `size` features, running forwards."""

    def _directed(self, size: int) -> Layer:
        layer = self.body(size)
        return layer.reversed() if self.reverse else layer

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return not self.reverse

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        check_size("in_size", in_size)
        return self.body(in_size).init(key, in_size, dtype)

    def out_size(self, in_size: int) -> int:
        return in_size

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        size = jax.tree.leaves(params)[0].shape[-1]
        return self.body(size).initial_state(params, batch_shape, dtype)

    def __call__(
        self,
        params: Params,
        xs: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Array, State]:
        xs, dt = split_elapsed(self, xs)
        x = one_array(xs)
        layer = self._directed(x.shape[-1] if x.ndim else 1)
        return layer(
            params, beside(layer, x, dt), state, lengths=lengths, mask=mask, reset=reset, key=key, context=context
        )

    def reversed(self) -> Layer:
        return dataclasses.replace(self, reverse=not self.reverse)  # type: ignore[type-var]

    def parts(self, in_size: int) -> tuple[tuple[str, Layer, Any], ...]:
        return (("body", self._directed(in_size), in_size),)


@struct
class Block(Composed):
    """The pre-norm residual block of deep LRU and S5 models.

    y = x + drop(u w_1 ⊙ σ(u w_2)),    u = drop(gelu(core(conv(norm(x)))))    gate="full"
    y = x + drop(u ⊙ σ(u w_2))                                                gate="half"

    with biases beside w_1 and w_2. `Stack([Dense(D), *[Block(LRU(N))] * 6, Mean(), Dense(classes)])` has the shape of
    the model of the LRU's paper, and with `S5(N)` and the half gate that of S5, whose code runs most tasks so. Both
    dropouts are `VariationalDropout`, a mask for each row and feature that all steps share, as in S5's code; in
    streaming the same key gives every piece the same masks. The norm is a layer norm, whereas most results of both
    papers are with batch norms, and most of S5's read both directions.

    Args:
        core: a layer or a cell, such as `rnnjax.LRU(64)`.
        conv: the width of a short causal convolution in front of the core; None for none.
        dropout: the rate of both dropouts, a leaf.
        reverse: run from the last step to the first.
        gate: "full", a gated linear unit, or "half", u scaled by its gate.

    Raises:
        TypeError: for a core that is neither a layer nor a cell, or reads ids.
        ValueError: for a `conv` in front of a convolutional core, such as `rnnjax.ConvLSTM`.

    References:
        Orvieto et al. 2023, Resurrecting recurrent neural networks for long sequences, arXiv:2303.06349.
        Smith, Warrington, Linderman 2023, Simplified state space layers for sequence modeling, arXiv:2208.04933.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> model = rj.Stack([rj.Dense(4), *[rj.Block(rj.LRU(8))] * 2])
    >>> params = model.init(jax.random.key(0), in_size=3)
    >>> ys, state = model(params, jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 4)
    """

    core: Any = node()
    conv: int | None = None
    dropout: float | Array = node(default=0.0)
    reverse: bool = False
    gate: Literal["full", "half"] = "full"

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return self.core.event_ndim

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return self.core.elapsed

    def __post_init__(self) -> None:
        set_field(self, "core", as_layer("core", self.core))
        if self.core.event_ndim == 0:
            raise TypeError(f"`core` must read features, such as `rnnjax.LRU(64)`, and not ids; got {self.core!r}")
        set_field(self, "dropout", VariationalDropout(self.dropout).rate)
        if self.conv is not None:
            check_size("conv", self.conv)
            if self.core.event_ndim != 1:
                raise ValueError(f"`conv` must be None for a core that reads spatial axes; got {self.core!r}")
        if self.gate not in ("full", "half"):
            raise ValueError(f"`gate` must be 'full' or 'half'; got {self.gate!r}")

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self._directed(1).causal

    def body(self, size: int) -> Layer:
        axes = {"event_ndim": self.event_ndim}
        norm, drop, gelu = LayerNorm(**axes), VariationalDropout(self.dropout, **axes), Activate(jax.nn.gelu, **axes)
        conv = () if self.conv is None else (CausalConv(self.conv),)
        scaled = Dense(size, **axes) if self.gate == "full" else Activate("identity", **axes)
        gated = Gate(scaled, Dense(size, activation="sigmoid", **axes))
        return Residual(Stack([norm, *conv, self.core, gelu, drop, gated, drop]))


@struct
class GriffinBlock(Composed):
    """Griffin's residual block with a recurrent block in it: a gated RG-LRU, then a gated perceptron.

    u = x + (gelu(v w_1) ⊙ rglru(conv(v w_2))) w_3,    v = norm(x)
    y = u + (gelu(v w_4) ⊙ (v w_5)) w_6,               v = norm(u)

    with biases beside the weights, and RMS norms. The RG-LRU's gates have dense weights, as its equations are written;
    the published code has block-diagonal ones, a block for each head.

    Args:
        width: features of the recurrence; None takes as many as inputs have. The paper has 4/3 of them.
        conv: the width of the short causal convolution.
        perceptron_expansion: features within the perceptron, in those of the inputs.
        reverse: run from the last step to the first.

    References:
        De et al. 2024, Griffin: mixing gated linear recurrences with local attention for efficient language models,
        arXiv:2402.19427.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.GriffinBlock()
    >>> params = layer.init(jax.random.key(0), in_size=4)
    >>> ys, state = layer(params, jnp.ones((5, 2, 4)))
    >>> ys.shape
    (5, 2, 4)
    """

    width: int | None = None
    conv: int = 4
    perceptron_expansion: int = 3
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.width is not None:
            check_size("width", self.width)
        check_size("conv", self.conv)
        check_size("perceptron_expansion", self.perceptron_expansion)

    def body(self, size: int) -> Layer:
        width = size if self.width is None else self.width
        recurrent = Stack([Dense(width), CausalConv(self.conv), RGLRU(width)])
        mixing = Gate(recurrent, Dense(width, activation=jax.nn.gelu))
        within = size * self.perceptron_expansion
        perceptron = Gate(Dense(within), Dense(within, activation=jax.nn.gelu))
        parts = [RMSNorm(), mixing, Dense(size)], [RMSNorm(), perceptron, Dense(size)]
        return Stack([Residual(Stack(part)) for part in parts])


@struct
class MinGRUBlock(Composed):
    """The block of minGRU's language models: a short convolution and a minGRU, then a perceptron, each with a norm in
    front and the inputs added.

    u = x + mingru(conv(v)) w_1,             v = norm(x)
    y = u + gelu(v w_2) w_3,                 v = norm(u)

    with biases beside the weights, and RMS norms.

    Args:
        expansion: units of the minGRU, in features of the inputs.
        conv: the width of the short causal convolution.
        perceptron_expansion: features within the perceptron, in those of the inputs.
        reverse: run from the last step to the first.

    References:
        Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, Were RNNs all we needed?, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.MinGRUBlock()
    >>> params = layer.init(jax.random.key(0), in_size=4)
    >>> ys, state = layer(params, jnp.ones((5, 2, 4)))
    >>> ys.shape
    (5, 2, 4)
    """

    expansion: int = 2
    conv: int = 4
    perceptron_expansion: int = 4
    reverse: bool = False

    def __post_init__(self) -> None:
        for name in ("expansion", "conv", "perceptron_expansion"):
            check_size(name, getattr(self, name))

    def body(self, size: int) -> Layer:
        recurrent = Stack([RMSNorm(), CausalConv(self.conv), MinGRU(size * self.expansion), Dense(size)])
        within = Dense(size * self.perceptron_expansion, activation=jax.nn.gelu)
        perceptron = Stack([RMSNorm(), within, Dense(size)])
        return Stack([Residual(recurrent), Residual(perceptron)])
