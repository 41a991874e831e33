"""Recurrent modules for Flax linen. Each owns the parameters of a functional layer and calls it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.core import Tracer

from .. import cells, layers
from .._cell import Cell
from .._errors import check_flag, floating
from .._types import Array, DTypeLike, Key, Params, State, Xs
from .._unroll import Newton
from .._unroll.call import Remat
from ..activations import Activation
from ..initializers import RecurrentInit
from ..layers.rnn import as_layer
from . import _shared


class Recurrent(nn.Module, kw_only=True):
    """What the modules have in common: a functional layer, and its parameters in the collection "params".

    Parameters are nested dictionaries under the name `weights`, such as `params["weights"]["layer_0"]["w"]`. The names
    are those of the functional parameters' fields; entries of tuples are numbered, those without arrays left out. The
    number of features is that of the inputs.

    Of the arguments of a call, `nn.vmap` and `nn.scan` hand on only those that are given by position, in the order of
    `unroll`, and `nn.remat` traces those that are given by name.

    Args, for all modules:
        time_major: x is (T, *B, I), and mask and reset (T, *B); otherwise x is (*B, T, I) with time on the axis before
            the features, and mask and reset (*B, T). There may be any number of batch axes, also none.
        deterministic: no dropout and no noise; a call may override it. A module that draws noise must be told here or
            in the call, and draws from the stream "dropout".
        param_dtype: dtype of new parameters.
        sharding: mesh axes for arrays by name, such as `{"w": (None, "model"), "u": (None, "model"), "b": ("model",)}`,
            as `nn.with_partitioning` stores them. A name is a dotted one, such as "layer_0.w", or the end of one; of
            several that fit an array the longest holds, and a whole name fits its own array alone. This divides what is
            stored: layers gather what they multiply with, but not the table of an `rnnjax.Embedding`.
    """

    time_major: bool = False
    deterministic: bool | None = None
    param_dtype: DTypeLike = jnp.float32
    sharding: Mapping[str, Any] | None = None

    return_sequences = True  # a field where the last output of each direction is defined

    def __post_init__(self) -> None:
        super().__post_init__()
        # a bad option is reported where the module is made, not where it is first called
        _ = self.functional
        for name in ("time_major", "return_sequences"):
            check_flag(name, getattr(self, name))
        if self.deterministic is not None:
            check_flag("deterministic", self.deterministic)
        floating("param_dtype", self.param_dtype)

    @property
    @abc.abstractmethod
    def functional(self) -> layers.Layer:
        """The functional layer. Time-major, `functional(params, xs)` is what `unroll(xs)` returns."""

    @nn.nowrap
    def to_params(self, variables: Mapping[str, Any], in_features: int | None = None) -> Params:
        """The functional parameters, as `functional.init` returns them, from this module's variables.

        Args:
            variables: what `init` returned.
            in_features: features of the inputs, for the layers whose structure cannot be told without, such as
                `rnnjax.Residual` and `rnnjax.SRU`.
        """
        weights = nn.unbox(variables["params"]["weights"])
        return _shared.unnamed(_shared.structure(self.functional, in_features), weights)

    @nn.nowrap
    def to_variables(self, params: Params) -> dict[str, Any]:
        """This module's variables from functional parameters: what `apply` takes."""
        return {"params": {"weights": self._boxed(params)}}

    @nn.nowrap
    def _boxed(self, params: Params) -> Any:
        return _shared.place(_shared.named(params), self.sharding, _box)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32, *, in_features: int | None = None
    ) -> State:
        """The state before the first step: `module.apply(variables, (16,), method="initial_state")`.

        Layers whose structure cannot be told without them, such as `rnnjax.Residual`, need `in_features` here.
        """
        if not self.has_variable("params", "weights"):
            raise ValueError(
                "`initial_state` reads this module's parameters, which its first call makes: in `init` call the module "
                "with `state=None`, which starts from the same state"
            )
        params = self.to_params(self.variables, in_features)
        return self.functional.initial_state(params, batch_shape, dtype)

    def __call__(
        self,
        x: Xs,
        state: State | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        context: Any = None,
        deterministic: bool | None = None,
    ) -> Any:
        """The outputs of `unroll`, without the state."""
        ys, _ = self.unroll(
            x, state, lengths=lengths, mask=mask, reset=reset, context=context, deterministic=deterministic
        )
        return ys

    @nn.compact
    def unroll(
        self,
        x: Xs,
        state: State | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        context: Any = None,
        deterministic: bool | None = None,
    ) -> tuple[Any, State]:
        """Runs over a sequence and returns outputs and last state; streaming is the same call on the next piece.

        Args:
            x: inputs (*B, T, I), or (T, *B, I) if `time_major`.
            state: the state before the first step; None is `initial_state`.
            lengths: valid steps of each row, integers (*B).
            mask: True where a step is valid, booleans (*B, T), or (T, *B) if `time_major`.
            reset: True at a boundary before a step, in the form of `mask`.
            context: handed on to the layer as it is: an attention's memory is time-major, (S, *B, M), in any layout.
            deterministic: overrides the field.

        Returns:
            ys (*B, T, O), or (T, *B, O) if `time_major`, or (*B, O) without `return_sequences`; and the last state.

        Raises:
            ValueError, TypeError: for inputs that do not fit, before anything runs; for a traced `deterministic`.
        """
        layer, inputs = self.functional, _shared.Inputs(x, lengths, mask, reset, context)
        _shared.check_inputs(layer, inputs, self.time_major)
        in_features = _shared.in_features_of(layer, x, context, self.time_major)
        return _shared.run(
            layer,
            self._params(layer, in_features),
            inputs,
            state,
            key=self._key(layer, in_features, inputs, deterministic),
            time_major=self.time_major,
            return_sequences=self.return_sequences,
        )

    @nn.nowrap
    def _params(self, layer: layers.Layer, in_features: int | None) -> Params:
        if self.has_variable("params", "weights"):
            _shared.check_weights(layer, in_features, nn.unbox(self.get_variable("params", "weights")))

        def init(key: Key) -> Any:
            return self._boxed(layer.init(key, in_features, self.param_dtype))

        return _shared.unnamed(_shared.structure(layer, in_features), self.param("weights", init))

    @nn.nowrap
    def _key(
        self, layer: layers.Layer, in_features: Any, inputs: _shared.Inputs, deterministic: bool | None
    ) -> Key | None:
        deterministic = self.deterministic if deterministic is None else deterministic
        if isinstance(deterministic, Tracer):
            raise TypeError(
                f"`deterministic` must be known where the module is called; got {deterministic!r}. Under `nn.remat` "
                "give it by position, with `static_argnums=7`"
            )
        if deterministic or not _shared.draws_noise(layer, in_features, inputs.x, inputs.context, self.time_major):
            return None
        if deterministic is None:
            raise ValueError(
                "this module draws noise: give `deterministic` to its constructor or to the call, and for "
                '`deterministic=False` a random stream, `rngs={"dropout": key}`'
            )
        return self.make_rng("dropout")


def _box(array: Array, axes: tuple[Any, ...] | None) -> Any:
    return array if axes is None else nn.Partitioned(array, axes)


class Layer(Recurrent):
    """Any functional layer as a module.

    Args:
        layer: a layer or a cell, such as `rnnjax.Stack([…])`; a cell stands for `rnnjax.RNN(cell)`.

    The other arguments are those of `Recurrent`. A layer with pooling in it, such as `rnnjax.Last`, gives (*B, O).

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> from rnnjax.flax import linen as rlinen
    >>> model = rlinen.Layer(rj.Stack([rj.LSTM(8), rj.Mean(), rj.Dense(2)]))
    >>> x, lengths = jnp.ones((5, 7, 3)), jnp.array([7, 3, 7, 1, 2])
    >>> ys, variables = model.init_with_output(jax.random.key(0), x, lengths=lengths)
    >>> ys.shape
    (5, 2)
    """

    layer: Any

    @property
    def functional(self) -> layers.Layer:
        return as_layer("layer", self.layer)


class RNN(Recurrent):
    """Any cell as a module. Parameters and state are those of the cell.

    Args:
        cell: a cell, such as `rnnjax.GRU(128)`.
        reverse: run from the last step to the first; outputs stay in the order of the inputs.
        return_sequences: False gives the last valid output (*B, O) only, backwards in time the first one.
        remat: what the backward pass stores, as for `rnnjax.unroll`.
        implementation: None, the name of the one to run or a `rnnjax.Newton`, as for `rnnjax.unroll`.

    The other arguments are those of `Recurrent`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> from rnnjax.flax import linen as rlinen
    >>> rnn = rlinen.RNN(rj.GRU(8))
    >>> variables = rnn.init(jax.random.key(0), jnp.ones((5, 7, 3)))
    >>> head, state = rnn.apply(variables, jnp.ones((5, 7, 3)), method="unroll")
    >>> tail, state = rnn.apply(variables, jnp.ones((5, 2, 3)), state, method="unroll")
    >>> head.shape, tail.shape, state.h.shape
    ((5, 7, 8), (5, 2, 8), (5, 8))
    """

    cell: Any
    reverse: bool = False
    return_sequences: bool = True
    remat: Remat = None
    implementation: str | Newton | None = None

    @property
    def functional(self) -> layers.Layer:
        check_flag("reverse", self.reverse)
        return layers.RNN(self.cell, self.reverse, self.remat, self.implementation)


class Stacked(Recurrent, kw_only=True):
    """What LSTM, GRU and Elman have in common: one cell in several layers. The state is a tuple with one entry for each
    layer, and for each dropout between them ().

    Args, for all three:
        bidirectional: every layer runs in both directions, and outputs are the two next to each other, (…, 2H).
        dropout: rate of dropout between layers; one layer has none.
        return_sequences: False gives the last valid output (*B, O) only; a bidirectional module gives the forward
            layer's last and the backward layer's first, as Keras does.
        compute_dtype: as for the cell.
        remat, implementation: as for `rnnjax.unroll`.
    """

    bidirectional: bool = False
    dropout: float | Array = 0.0
    return_sequences: bool = True
    compute_dtype: DTypeLike | None = None
    remat: Remat = None
    implementation: str | Newton | None = None

    @nn.nowrap
    def _stack(self, cell: Cell, num_layers: int) -> layers.Layer:
        return _shared.stack(cell, num_layers, self.bidirectional, self.dropout, self.remat, self.implementation)


class LSTM(Stacked):
    """Layers of `rnnjax.LSTM` on top of each other.

    Args:
        hidden_size: H of every layer, in each direction.
        num_layers: number of layers.
        activation, gate_activation, forget_bias, max_time: as for `rnnjax.LSTM`.

    The other arguments are those of `Stacked` and `Recurrent`.

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from rnnjax.flax import linen as rlinen
    >>> model = nn.Sequential([rlinen.LSTM(8, num_layers=2, bidirectional=True), nn.Dense(2)])
    >>> ys, variables = model.init_with_output(jax.random.key(0), jnp.ones((5, 7, 3), "float32"))
    >>> ys.shape
    (5, 7, 2)
    """

    hidden_size: int
    num_layers: int = 1
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    forget_bias: float | Array = 1.0
    max_time: int | None = None

    @property
    def functional(self) -> layers.Layer:
        cell = cells.LSTM(
            self.hidden_size,
            self.activation,
            self.gate_activation,
            self.forget_bias,
            self.max_time,
            self.compute_dtype,
        )
        return self._stack(cell, self.num_layers)


class GRU(Stacked):
    """Layers of `rnnjax.GRU` on top of each other.

    Args:
        hidden_size: H of every layer, in each direction.
        num_layers: number of layers.
        activation, gate_activation, update_bias, max_time: as for `rnnjax.GRU`.

    The other arguments are those of `Stacked` and `Recurrent`.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.flax import linen as rlinen
    >>> encoder = rlinen.GRU(8, bidirectional=True, return_sequences=False)
    >>> x, lengths = jnp.ones((5, 7, 3)), jnp.array([7, 3, 7, 1, 2])
    >>> ys, variables = encoder.init_with_output(jax.random.key(0), x, lengths=lengths)
    >>> ys.shape
    (5, 16)
    """

    hidden_size: int
    num_layers: int = 1
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    update_bias: float | Array = 0.0
    max_time: int | None = None

    @property
    def functional(self) -> layers.Layer:
        cell = cells.GRU(
            self.hidden_size,
            self.activation,
            self.gate_activation,
            self.update_bias,
            self.max_time,
            self.compute_dtype,
        )
        return self._stack(cell, self.num_layers)


class Elman(Stacked):
    """Layers of `rnnjax.Elman` on top of each other.

    Args:
        hidden_size: H of every layer, in each direction.
        num_layers: number of layers.
        activation, recurrent_init: as for `rnnjax.Elman`.

    The other arguments are those of `Stacked` and `Recurrent`.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.flax import linen as rlinen
    >>> irnn = rlinen.Elman(8, activation="relu", recurrent_init="identity", time_major=True)
    >>> ys, variables = irnn.init_with_output(jax.random.key(0), jnp.ones((7, 5, 3)))
    >>> ys.shape
    (7, 5, 8)
    """

    hidden_size: int
    num_layers: int = 1
    activation: Activation = "tanh"
    recurrent_init: RecurrentInit = "orthogonal"

    @property
    def functional(self) -> layers.Layer:
        cell = cells.Elman(self.hidden_size, self.activation, self.recurrent_init, self.compute_dtype)
        return self._stack(cell, self.num_layers)
