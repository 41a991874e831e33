"""Recurrent modules for Flax NNX. Each owns the parameters of a functional layer and calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import cells, layers
from .._cell import Cell
from .._errors import check_flag, floating
from .._types import Array, DTypeLike, Params, State, Xs
from .._unroll import Newton
from .._unroll.call import Remat
from ..activations import Activation
from ..initializers import RecurrentInit
from ..layers.rnn import as_layer
from . import _shared


class Hyper(nnx.Variable):
    """A number of a cell or layer, such as a leak, that was given as an array: not a parameter, but `vmap` and `grad`
    reach it."""


class Recurrent(nnx.Module):
    """What the modules have in common: a functional layer, and its parameters in `weights`.

    Args, for all modules:
        return_sequences: False gives the last valid output (*B, O) only. Backwards in time that is the first one; a
            bidirectional module gives the forward layer's last and the backward layer's first, as Keras does.
        time_major: x is (T, *B, I), and mask and reset (T, *B); otherwise x is (*B, T, I) with time on the axis before
            the features, and mask and reset (*B, T). There may be any number of batch axes, also none.
        deterministic: no dropout and no noise; `train()` and `eval()` set it, and a call may override it.
        param_dtype: dtype of new parameters.
        sharding: mesh axes for arrays by name, such as `{"w": (None, "model"), "u": (None, "model"), "b": ("model",)}`,
            stored as `out_sharding` of the `nnx.Param`. A name is a dotted one, such as "layer_0.w", or the end of
            one; of several that fit an array the longest holds, and a whole name fits its own array alone. This divides
            what is stored: layers gather what they multiply with, but not the table of an `rnnjax.Embedding`.
        params: functional parameters to own, in place of new ones.
        rngs: `nnx.Rngs`; "params" draws the parameters. A module that draws noise keeps a fork of "dropout"; any other
            keeps no stream, so that plain `jax.jit` and `jax.grad` may close over it.

    Attributes:
        weights: nested dictionaries with one `nnx.Param` for each array, such as `weights["layer_0"]["w"]`. The names
            are those of the functional parameters' fields; entries of tuples are numbered, and those without arrays
            left out.
        hyper: one `Hyper` for each number of the layer that was given as an array, under the names of the fields that
            lead to it with underscores between, or dots where two would have one name.
    """

    def __init__(
        self,
        layer: Any,
        in_features: int | None,
        *,
        return_sequences: bool,
        time_major: bool,
        deterministic: bool,
        param_dtype: DTypeLike,
        sharding: Mapping[str, Any] | None,
        params: Params | None,
        rngs: nnx.Rngs | None,
    ):
        layer = as_layer("layer", layer)
        _shared.check_in_features(layer, in_features)
        flags = {"return_sequences": return_sequences, "time_major": time_major, "deterministic": deterministic}
        for name, value in flags.items():
            check_flag(name, value)
        dtype = floating("param_dtype", param_dtype)
        if rngs is not None and not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"`rngs` must be an nnx.Rngs, such as `nnx.Rngs(0)`; got {type(rngs).__name__}")
        if params is None:
            if rngs is None:
                raise ValueError("`rngs` must be given to draw parameters, such as `nnx.Rngs(0)`, or `params` to own")
            params = layer.init(rngs.params(), in_features, dtype)
        weights = _shared.named(params)
        _shared.check_weights(layer, in_features, weights)

        self.in_features = in_features
        self.return_sequences = return_sequences
        self.time_major = time_major
        self.deterministic = deterministic
        self.form, hyper = _split(layer)
        self.hyper = nnx.data(hyper)
        self.weights = nnx.data(_shared.place(weights, sharding, _param))
        self.rngs = nnx.data(_fork(rngs) if _shared.may_draw_noise(self.functional, in_features) else None)
        self._structure = _shared.structure(layer, in_features)

    @property
    def functional(self) -> layers.Layer:
        """The functional layer. Time-major, `functional(params, xs)` is what `unroll(xs)` returns."""
        return jax.tree.map(lambda leaf: _value(self.hyper[leaf]) if isinstance(leaf, str) else leaf, self.form)

    @property
    def params(self) -> Params:
        """The functional parameters, as `functional.init` returns them."""
        arrays = jax.tree.map(_value, self.weights, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
        return _shared.unnamed(self._structure, arrays)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step."""
        return self.functional.initial_state(self.params, batch_shape, dtype)

    def __call__(
        self,
        x: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        context: Any = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> Any:
        """The outputs of `unroll`, without the state."""
        return self._run(_shared.Inputs(x, lengths, mask, reset, context), state, deterministic, rngs)[0]

    def unroll(
        self,
        x: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        context: Any = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> tuple[Any, State]:
        """Runs over a sequence and returns outputs and last state; streaming is the same call on the next piece.

        Args:
            x: inputs (*B, T, I), or (T, *B, I) if `time_major`.
            state: the state before the first step; None is `initial_state`.
            lengths: valid steps of each row, integers (*B).
            mask: True where a step is valid, booleans (*B, T), or (T, *B) if `time_major`.
            reset: True at a boundary before a step, in the form of `mask`.
            context: handed on to the layer as it is: an attention's memory is time-major, (S, *B, M), in any layout.
            deterministic: overrides the attribute.
            rngs: overrides the module's own stream: an `nnx.Rngs`, of which "dropout" is taken, a stream or one key.
                With a key nothing is mutated, so that plain `jax.jit` may close over a module that draws noise.

        Returns:
            ys (*B, T, O), or (T, *B, O) if `time_major`, or (*B, O) without `return_sequences`; and the last state.

        Raises:
            ValueError, TypeError: for inputs that do not fit, before anything runs.
        """
        return self._run(_shared.Inputs(x, lengths, mask, reset, context), state, deterministic, rngs)

    def _run(
        self,
        inputs: _shared.Inputs,
        state: State | None,
        deterministic: bool | None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None,
    ) -> tuple[Any, State]:
        layer = self.functional
        _shared.check_inputs(layer, inputs, self.time_major)
        _shared.check_features(layer, self.in_features, inputs.x)
        return _shared.run(
            layer,
            self.params,
            inputs,
            state,
            key=self._key(layer, inputs, deterministic, rngs),
            time_major=self.time_major,
            return_sequences=self.return_sequences,
        )

    def _key(
        self,
        layer: layers.Layer,
        inputs: _shared.Inputs,
        deterministic: bool | None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None,
    ) -> jax.Array | None:
        deterministic = self.deterministic if deterministic is None else deterministic
        check_flag("deterministic", deterministic)
        if deterministic or not _shared.draws_noise(layer, self.in_features, inputs.x, inputs.context, self.time_major):
            return None
        source = self.rngs if rngs is None else rngs
        if source is None:
            raise ValueError(
                "this module draws noise and has no random stream: give `rngs` to its constructor or to the call, or "
                "set `deterministic=True`"
            )
        if isinstance(source, nnx.Rngs):
            source = source["dropout"]
        return source() if isinstance(source, nnx.RngStream) else source

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the options that `nnx.view(module, deterministic=…)` gives the modules of a view.

        Args:
            deterministic: if True, no dropout and no noise.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def _fork(rngs: nnx.Rngs | None) -> nnx.RngStream | None:
    return rngs["dropout"].fork() if rngs is not None and ("dropout" in rngs or "default" in rngs) else None


def _param(array: Array, axes: tuple[Any, ...] | None) -> nnx.Param:
    return nnx.Param(array) if axes is None else nnx.Param(array, out_sharding=axes)


def _value(variable: nnx.Variable) -> Any:
    return variable.get_value()


def _split(layer: layers.Layer) -> tuple[layers.Layer, dict[str, Hyper]]:
    """A layer with names in place of its arrays, which can be static, and the arrays under these names."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(layer)
    arrays = {path: leaf for path, leaf in leaves if isinstance(leaf, (jax.Array, np.ndarray, np.generic))}
    names = {path: jax.tree_util.keystr(path, simple=True, separator="_") for path in arrays}
    taken = Counter(names.values())
    # fields have underscores in their names: `cell_rate`, and the `rate` of the inner `cell`
    names |= {
        path: jax.tree_util.keystr(path, simple=True, separator=".") for path, name in names.items() if taken[name] > 1
    }
    form = jax.tree.unflatten(structure, [names.get(path, leaf) for path, leaf in leaves])
    return form, {names[path]: Hyper(jnp.asarray(leaf)) for path, leaf in arrays.items()}


class Layer(Recurrent):
    """Any functional layer as a module.

    Args:
        layer: a layer or a cell, such as `rnnjax.Stack([…])`; a cell stands for `rnnjax.RNN(cell)`.
        in_features: features of its inputs, None for integer ids.

    The other arguments are those of `Recurrent`. A layer with pooling in it, such as `rnnjax.Last`, gives (*B, O).

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> from flax import nnx
    >>> from rnnjax.flax import nnx as rnnx
    >>> model = rnnx.Layer(rj.Stack([rj.LSTM(8), rj.Mean(), rj.Dense(2)]), 3, rngs=nnx.Rngs(0))
    >>> model(jnp.ones((5, 7, 3)), lengths=jnp.array([7, 3, 7, 1, 2])).shape
    (5, 2)
    """

    def __init__(
        self,
        layer: Any,
        in_features: int | None,
        *,
        time_major: bool = False,
        deterministic: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Mapping[str, Any] | None = None,
        params: Params | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(
            layer,
            in_features,
            return_sequences=True,
            time_major=time_major,
            deterministic=deterministic,
            param_dtype=param_dtype,
            sharding=sharding,
            params=params,
            rngs=rngs,
        )


class RNN(Recurrent):
    """Any cell as a module. Parameters and state are those of the cell.

    Args:
        cell: a cell, such as `rnnjax.GRU(128)`.
        in_features: features of its inputs.
        reverse: run from the last step to the first; outputs stay in the order of the inputs.
        remat: what the backward pass stores, as for `rnnjax.unroll`.
        implementation: None, the name of the one to run or a `rnnjax.Newton`, as for `rnnjax.unroll`.

    The other arguments are those of `Recurrent`.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> from flax import nnx
    >>> from rnnjax.flax import nnx as rnnx
    >>> rnn = rnnx.RNN(rj.GRU(8), 3, rngs=nnx.Rngs(0))
    >>> head, state = rnn.unroll(jnp.ones((5, 7, 3)))
    >>> tail, state = rnn.unroll(jnp.ones((5, 2, 3)), state)
    >>> head.shape, tail.shape, state.h.shape
    ((5, 7, 8), (5, 2, 8), (5, 8))
    """

    def __init__(
        self,
        cell: Cell,
        in_features: int,
        *,
        reverse: bool = False,
        return_sequences: bool = True,
        time_major: bool = False,
        remat: Remat = None,
        implementation: str | Newton | None = None,
        deterministic: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Mapping[str, Any] | None = None,
        params: Params | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        check_flag("reverse", reverse)
        super().__init__(
            layers.RNN(cell, reverse, remat, implementation),
            in_features,
            return_sequences=return_sequences,
            time_major=time_major,
            deterministic=deterministic,
            param_dtype=param_dtype,
            sharding=sharding,
            params=params,
            rngs=rngs,
        )


class LSTM(Recurrent):
    """Layers of `rnnjax.LSTM` on top of each other. The state is a tuple with one entry for each layer, and for each
    dropout between them ().

    Args:
        in_features: features of the inputs.
        hidden_size: H of every layer, in each direction.
        num_layers: number of layers.
        bidirectional: every layer runs in both directions, and outputs are the two next to each other, (…, 2H).
        dropout: rate of dropout between layers; one layer has none.
        activation, gate_activation, forget_bias, max_time, compute_dtype: as for `rnnjax.LSTM`.
        remat, implementation: as for `rnnjax.unroll`.

    The other arguments are those of `Recurrent`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from rnnjax.flax import nnx as rnnx
    >>> rngs = nnx.Rngs(0)
    >>> lstm = rnnx.LSTM(3, 8, num_layers=2, bidirectional=True, rngs=rngs)
    >>> model = nnx.Sequential(lstm, nnx.Linear(16, 2, rngs=rngs))
    >>> model(jnp.ones((5, 7, 3), "float32")).shape
    (5, 7, 2)
    """

    def __init__(
        self,
        in_features: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float | Array = 0.0,
        return_sequences: bool = True,
        time_major: bool = False,
        activation: Activation = "tanh",
        gate_activation: Activation = "sigmoid",
        forget_bias: float | Array = 1.0,
        max_time: int | None = None,
        compute_dtype: DTypeLike | None = None,
        remat: Remat = None,
        implementation: str | Newton | None = None,
        deterministic: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Mapping[str, Any] | None = None,
        params: Params | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        cell = cells.LSTM(hidden_size, activation, gate_activation, forget_bias, max_time, compute_dtype)
        super().__init__(
            _shared.stack(cell, num_layers, bidirectional, dropout, remat, implementation),
            in_features,
            return_sequences=return_sequences,
            time_major=time_major,
            deterministic=deterministic,
            param_dtype=param_dtype,
            sharding=sharding,
            params=params,
            rngs=rngs,
        )


class GRU(Recurrent):
    """Layers of `rnnjax.GRU` on top of each other. The state is a tuple with one entry for each layer, and for each
    dropout between them ().

    Args:
        in_features: features of the inputs.
        hidden_size: H of every layer, in each direction.
        num_layers: number of layers.
        bidirectional: every layer runs in both directions, and outputs are the two next to each other, (…, 2H).
        dropout: rate of dropout between layers; one layer has none.
        activation, gate_activation, update_bias, max_time, compute_dtype: as for `rnnjax.GRU`.
        remat, implementation: as for `rnnjax.unroll`.

    The other arguments are those of `Recurrent`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from rnnjax.flax import nnx as rnnx
    >>> encoder = rnnx.GRU(3, 8, bidirectional=True, return_sequences=False, rngs=nnx.Rngs(0))
    >>> encoder(jnp.ones((5, 7, 3)), lengths=jnp.array([7, 3, 7, 1, 2])).shape
    (5, 16)
    """

    def __init__(
        self,
        in_features: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float | Array = 0.0,
        return_sequences: bool = True,
        time_major: bool = False,
        activation: Activation = "tanh",
        gate_activation: Activation = "sigmoid",
        update_bias: float | Array = 0.0,
        max_time: int | None = None,
        compute_dtype: DTypeLike | None = None,
        remat: Remat = None,
        implementation: str | Newton | None = None,
        deterministic: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Mapping[str, Any] | None = None,
        params: Params | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        cell = cells.GRU(hidden_size, activation, gate_activation, update_bias, max_time, compute_dtype)
        super().__init__(
            _shared.stack(cell, num_layers, bidirectional, dropout, remat, implementation),
            in_features,
            return_sequences=return_sequences,
            time_major=time_major,
            deterministic=deterministic,
            param_dtype=param_dtype,
            sharding=sharding,
            params=params,
            rngs=rngs,
        )


class Elman(Recurrent):
    """Layers of `rnnjax.Elman` on top of each other. The state is a tuple with one entry for each layer, and for each
    dropout between them ().

    Args:
        in_features: features of the inputs.
        hidden_size: H of every layer, in each direction.
        num_layers: number of layers.
        bidirectional: every layer runs in both directions, and outputs are the two next to each other, (…, 2H).
        dropout: rate of dropout between layers; one layer has none.
        activation, recurrent_init, compute_dtype: as for `rnnjax.Elman`.
        remat, implementation: as for `rnnjax.unroll`.

    The other arguments are those of `Recurrent`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from rnnjax.flax import nnx as rnnx
    >>> irnn = rnnx.Elman(3, 8, activation="relu", recurrent_init="identity", time_major=True, rngs=nnx.Rngs(0))
    >>> irnn(jnp.ones((7, 5, 3))).shape
    (7, 5, 8)
    """

    def __init__(
        self,
        in_features: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float | Array = 0.0,
        return_sequences: bool = True,
        time_major: bool = False,
        activation: Activation = "tanh",
        recurrent_init: RecurrentInit = "orthogonal",
        compute_dtype: DTypeLike | None = None,
        remat: Remat = None,
        implementation: str | Newton | None = None,
        deterministic: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Mapping[str, Any] | None = None,
        params: Params | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        cell = cells.Elman(hidden_size, activation, recurrent_init, compute_dtype)
        super().__init__(
            _shared.stack(cell, num_layers, bidirectional, dropout, remat, implementation),
            in_features,
            return_sequences=return_sequences,
            time_major=time_major,
            deterministic=deterministic,
            param_dtype=param_dtype,
            sharding=sharding,
            params=params,
            rngs=rngs,
        )
