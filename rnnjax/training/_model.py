"""One form for every kind of model: parameters, the rest of its state, and pure functions of both."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from .. import layers
from .._errors import check_key
from .._types import Array, Key, featured
from ._batches import Batch, rows_of, sequences

T = TypeVar("T")
KINDS = "an nnx.Module, a layer of rnnjax, or a pair: (params, apply), (params, layer) or (variables, linen module)"


class Streamed(NamedTuple):
    """What a model is given to go on with a sequence: the inputs (B, W, …), which of their steps are valid and which
    begin a new sequence, (B, W), and the state before the first of them."""

    inputs: Any
    mask: Array
    reset: Array | None
    state: Any


class Model(NamedTuple):
    """A model in pure form.

    apply(params, rest, batch, key, train) -> (outputs, rest)
    stream(params, rest, streamed, key, train) -> (outputs, state, rest)
    initial_state(params, rest, inputs) -> state

    params are trained. rest changes without a gradient, as batch statistics and streams of random numbers do. Inputs
    and outputs are batch-major: (B, T, I) -> (B, T, O) or (B, O). publish(params, rest) is what the user gets back.
    vocabulary is that of the `Embedding` that reads the inputs, None where it is not known to be one. kept says that
    apply is the same again for an equal model, holds no arrays and reads nothing that may have changed since.
    keeps_time is that of a layer, or of a module that owns one, whose inputs share one axis of time; None of others.
    """

    params: Any
    rest: Any
    apply: Callable[..., tuple[Any, Any]]
    stream: Callable[..., tuple[Any, Any, Any]]
    initial_state: Callable[..., Any]
    publish: Callable[[Any, Any], Any]
    vocabulary: int | None = None
    kept: bool = False
    keeps_time: bool | None = None


def adapt(model: Any, inputs: Any, key: Key) -> Model:
    """The pure form of a model. A bare layer draws its parameters with `key`, for inputs like these."""
    check_key("key", key)
    if isinstance(model, layers.Layer):
        in_size = None if model.event_ndim == 0 else jax.tree.leaves(inputs)[0].shape[-1]
        model = (cached(_drawing, model)(key, in_size), model)
    if _is_instance(model, "flax.nnx", "Module"):
        return _from_nnx(model)
    if isinstance(model, tuple) and len(model) == 2:
        params, apply = model
        if isinstance(apply, layers.Layer):
            return cached(_from_layer, apply)._replace(params=params, kept=_hashable(apply))
        if _is_instance(apply, "flax.linen", "Module"):
            return _from_linen(params, apply)
        if callable(apply):
            # one that is jitted is the same again, as for JAX; what others close over would be kept alive
            kept = isinstance(apply, jax.stages.Wrapped)
            return cached(_from_function, apply, kept=kept)._replace(params=params, kept=kept)
    raise TypeError(f"`model` must be {KINDS}; got {type(model).__name__}")


def layer_of(model: Any) -> layers.Layer | None:
    """The layer of rnnjax that a model is, or a module owns, alone or in a pair; None for other models."""
    body: Any = model[1] if isinstance(model, tuple) and len(model) == 2 else model
    body = body.functional if _is_module_of_ours(body) else body
    return body if isinstance(body, layers.Layer) else None


def keeps_time(model: Model, batch: Batch) -> bool | None:
    """Whether the outputs for a batch with lengths have the time of its inputs as axis 1, by two numbers of steps where
    the model does not say so; None where it takes one alone, and of inputs that are several sequences."""
    if model.keeps_time is not None or batch.lengths is None or len(sequences(batch.inputs)) != 1:
        return model.keeps_time
    shapes = jax.eval_shape(lambda *own: own, model.params, model.rest, batch._replace(targets=None))
    leaves, tree = jax.tree.flatten(shapes)
    return cached(_looked_at, model.apply, tree, tuple(leaves), kept=model.kept)


def _looked_at(apply: Callable[..., Any], tree: Any, leaves: tuple[Any, ...]) -> bool | None:
    """`keeps_time` of an apply for arguments (params, rest, batch) of these shapes. The other number of steps is their
    double, which a model with a stride divides as it does the first."""
    params, rest, batch = jax.tree.unflatten(tree, leaves)
    steps = sequences(batch.inputs)[0].shape[1]

    def doubled(leaf: Any) -> Any:
        has_steps = leaf.ndim > 1 and leaf.shape[1] == steps
        return jax.ShapeDtypeStruct((leaf.shape[0], 2 * steps, *leaf.shape[2:]), leaf.dtype) if has_steps else leaf

    def outputs_of(batch: Batch) -> Any:
        return jax.eval_shape(lambda *own: apply(*own, None, False)[0], params, rest, batch)

    inputs, reset = jax.tree.map(doubled, (batch.inputs, batch.reset))
    try:
        changed = outputs_of(batch._replace(inputs=inputs, reset=reset))
    except Exception:
        return None
    return every_step(outputs_of(batch), steps) and every_step(changed, 2 * steps)


def every_step(outputs: Any, steps: int) -> bool:
    """Whether all outputs are of so many steps, (B, T, …)."""
    return all(leaf.ndim > 1 and leaf.shape[1] == steps for leaf in jax.tree.leaves(outputs))


def cached(make: Callable[..., T], *of: Any, kept: bool = True) -> T:
    """make(*of), the same for equal arguments if it is to be kept, so that JAX finds again what it has compiled."""
    return _once(make, *of) if kept and _hashable(of) else make(*of)


def _hashable(value: Any) -> bool:
    """Whether there are no arrays in it."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


@functools.lru_cache(maxsize=32)
def _once(make: Callable[..., Any], *of: Any) -> Any:
    return make(*of)


def _drawing(layer: layers.Layer) -> Callable[..., Any]:
    return jax.jit(layer.init, static_argnums=1)


def _is_instance(value: Any, module: str, name: str) -> bool:
    """Whether it is an instance of a class of a module that need not have been imported."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _is_module_of_ours(value: Any) -> bool:
    return any(_is_instance(value, f"rnnjax.flax.{kind}", "Recurrent") for kind in ("nnx", "linen"))


def _time_first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def _from_layer(layer: layers.Layer) -> Model:
    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        first = jax.tree.leaves(batch.inputs)[0]
        if first.ndim < 2 + layer.event_ndim:
            wanted = "(B, T, I)" if layer.event_ndim == 1 else f"(B, T) and {layer.event_ndim} axes more"
            raise ValueError(
                f"inputs of a layer must be {wanted}; got shape {tuple(first.shape)}: is the time axis missing?"
            )
        xs, reset = _time_first((batch.inputs, batch.reset))
        ys, _ = layer(params, xs, lengths=batch.lengths, reset=reset, key=key if train else None)
        return _time_first(ys) if layer.keeps_time else ys, rest

    def stream(params: Any, rest: Any, streamed: Streamed, key: Key, train: bool) -> tuple[Any, Any, Any]:
        xs, mask, reset = _time_first(streamed[:3])
        ys, state = layer(params, xs, streamed.state, mask=mask, reset=reset, key=key if train else None)
        return _time_first(ys), state, rest

    def initial_state(params: Any, rest: Any, inputs: Any) -> Any:
        return layer.initial_state(params, (rows_of(Batch(inputs, None)),))

    return _about(layer, Model(None, (), apply, stream, initial_state, lambda params, rest: (params, layer)))


def _about(body: Any, model: Model) -> Model:
    """The model with what is known of a layer, or of a module that owns one: the size of the vocabulary whose ids it
    reads, if its first layer is an embedding, and whether it keeps time."""
    layer = layer_of(body)
    if layer is None:
        return model
    keeps = layer.keeps_time
    while isinstance(layer, layers.Stack):
        layer = layer.layers[0]
    vocabulary = layer.vocabulary if isinstance(layer, layers.Embedding) else None
    return model._replace(vocabulary=vocabulary, keeps_time=keeps)


def _from_function(function: Callable[..., Any]) -> Model:
    own = accepted(function)

    def noise(key: Key, train: bool) -> dict[str, Any]:
        return {"key": key if train else None, "train": train, "deterministic": not train}

    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        return function(params, batch.inputs, **_chosen(function, own, _marks(batch), noise(key, train))), rest

    def stream(params: Any, rest: Any, streamed: Streamed, key: Key, train: bool) -> tuple[Any, Any, Any]:
        inputs, mask, reset, state = streamed
        arguments = _chosen(function, own, {"state": state, "mask": mask, "reset": reset}, noise(key, train))
        return *_pair(function(params, inputs, **arguments), function), rest

    def initial_state(params: Any, rest: Any, inputs: Any) -> Any:
        nothing = jax.tree.map(lambda leaf: leaf[:, :0], inputs)
        mask = jnp.zeros(jax.tree.leaves(nothing)[0].shape[:2], bool)
        arguments = _chosen(function, own, {"mask": mask}, {"state": None} | noise(None, False))
        return _pair(function(params, nothing, **arguments), function)[1]

    return Model(None, (), apply, stream, initial_state, lambda params, rest: (params, function))


def _pair(found: Any, function: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"{_name(function)} must return (outputs, state) where it is given a `state`; got {type(found)}"
        )
    return found


def _from_linen(variables: Any, module: Any) -> Model:
    if "params" not in variables:
        raise ValueError(f"the variables of a linen module must hold 'params'; got {sorted(variables)}")
    rest = {name: value for name, value in variables.items() if name != "params"}
    model = cached(_of_linen, module)
    return model._replace(params=variables["params"], rest=rest, kept=_hashable(module))


def _of_linen(module: Any) -> Model:
    def run(params: Any, rest: Any, key: Key, train: bool, method: str, *inputs: Any, **marks: Any) -> tuple[Any, Any]:
        arguments = _chosen(module, accepted(getattr(module, method)), marks, _modes(train))
        # a stream of any other name draws from "params"
        rngs = {"params": jax.random.fold_in(key, 1), "dropout": key} if train else None
        variables = {"params": params, **rest}
        if not train or not rest:
            return module.apply(variables, *inputs, rngs=rngs, method=method, **arguments), rest
        outputs, changed = module.apply(variables, *inputs, rngs=rngs, method=method, mutable=list(rest), **arguments)
        return outputs, {**rest, **changed}

    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        return run(params, rest, key, train, "__call__", batch.inputs, **_marks(batch))

    def stream(params: Any, rest: Any, streamed: Streamed, key: Key, train: bool) -> tuple[Any, Any, Any]:
        inputs, mask, reset, state = streamed
        found, rest = run(params, rest, key, train, "unroll", inputs, state, mask=mask, reset=reset)
        return *found, rest

    def initial_state(params: Any, rest: Any, inputs: Any) -> Any:
        x, bound = featured(inputs), module.bind({"params": params, **rest})
        known = "in_features" in accepted(bound.initial_state).names and jnp.issubdtype(x.dtype, jnp.floating)
        return bound.initial_state((rows_of(Batch(inputs, None)),), **({"in_features": x.shape[-1]} if known else {}))

    def publish(params: Any, rest: Any) -> Any:
        return {"params": params, **rest}, module

    return _about(module, Model(None, (), apply, stream, initial_state, publish))


def _from_nnx(module: Any) -> Model:
    from flax import nnx

    training, evaluation = nnx.clone(module), nnx.clone(module)
    training.train()
    evaluation.eval()
    train_graph, params, rest = nnx.split(training, nnx.Param, ...)
    eval_graph, _, _ = nnx.split(evaluation, nnx.Param, ...)

    def publish(params: Any, rest: Any) -> Any:
        nnx.update(module, params, rest)
        return module

    known = type(module), train_graph, eval_graph
    model = _about(module, cached(_of_graphs, known))
    return model._replace(params=params, rest=rest, publish=publish, kept=_hashable(known))


def _of_graphs(known: tuple[Any, Any, Any]) -> Model:
    """What follows from a module's class and its graphs, in training and out of it; `publish` does not."""
    from flax import nnx

    kind, train_graph, eval_graph = known

    def alive(params: Any, rest: Any, train: bool) -> Any:
        # rebuilt, because variables can only be written in the trace that made them
        params, rest = jax.tree.map(lambda leaf: leaf, (params, rest))
        return nnx.merge(train_graph if train else eval_graph, params, rest)

    def rest_of(live: Any, rest: Any, train: bool) -> Any:
        return nnx.split(live, nnx.Param, ...)[2] if train else rest

    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        live = alive(params, rest, train)
        outputs = live(batch.inputs, **_chosen(live, accepted(kind.__call__), _marks(batch), _modes(train)))
        return outputs, rest_of(live, rest, train)

    def stream(params: Any, rest: Any, streamed: Streamed, key: Key, train: bool) -> tuple[Any, Any, Any]:
        inputs, mask, reset, state = streamed
        live, own, marks = alive(params, rest, train), accepted(kind.unroll), {"mask": mask, "reset": reset}
        named = {name: value for name, value in marks.items() if own.takes(name)}  # it may have no defaults
        outputs, state = live.unroll(inputs, state, **named | _chosen(live, own, marks, _modes(train)))
        return outputs, state, rest_of(live, rest, train)

    def initial_state(params: Any, rest: Any, inputs: Any) -> Any:
        return alive(params, rest, False).initial_state((rows_of(Batch(inputs, None)),))

    return Model(None, (), apply, stream, initial_state, lambda params, rest: None)


class Accepted(NamedTuple):
    """The keywords that a function names, and whether it takes any others (`**kwargs`)."""

    names: frozenset[str]
    others: bool

    def takes(self, name: str) -> bool:
        """Whether that keyword can be passed."""
        return self.others or name in self.names


def accepted(function: Callable[..., Any]) -> Accepted:
    """What can be passed to a function as keywords."""
    parameters = inspect.signature(function).parameters.values()
    names = frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
    return Accepted(names, any(p.kind is p.VAR_KEYWORD for p in parameters))


def _modes(train: bool) -> dict[str, Any]:
    """What modules of Flax call training, and its absence."""
    return {"train": train, "training": train, "deterministic": not train}


def _marks(batch: Batch) -> dict[str, Any]:
    return {"lengths": batch.lengths, "reset": batch.reset}


def _chosen(model: Any, accepted: Accepted, marks: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The marks that the batch has and the options that the model names; TypeError for a mark that it does not take."""
    present = {name: value for name, value in marks.items() if value is not None}
    _check_sequential(model, present)
    for name in present:
        if not accepted.takes(name):
            raise TypeError(
                f"the batch has `{name}`, which {_name(model)} does not take: give it a parameter of that name, or "
                "leave it out and mask the loss"
            )
    return present | {name: value for name, value in options.items() if name in accepted.names}


def _check_sequential(model: Any, marks: Iterable[str]) -> None:
    """Raises TypeError for Flax's `Sequential`s, which hand keywords to their first layer alone, if others need these
    marks."""
    call = next((base for base in type(model).__mro__ if "__call__" in vars(base)), object)
    if call.__name__ != "Sequential" or not call.__module__.startswith("flax."):
        return
    first, *others = map(accepted, model.layers)
    for name in marks:
        if not first.takes(name) or any(name in layer.names for layer in others):
            raise TypeError(
                f"the batch has `{name}`, which `Sequential` hands to its first layer alone: put the layers into "
                "`rnnjax.Stack`, whose modules are `rnnjax.flax.nnx.Layer` and `rnnjax.flax.linen.Layer`, or write a "
                "module that passes it on"
            )


def _name(model: Any) -> str:
    return getattr(model, "__name__", type(model).__name__)
