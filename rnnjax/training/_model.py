"""One form for every kind of model: parameters, the rest of its state, and a pure function of both."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import layers
from .._errors import check_key
from .._types import Array, Key

KINDS = "an nnx.Module, a layer of rnnjax, or a pair: (params, apply), (params, layer) or (variables, linen module)"


class Model(NamedTuple):
    """A model in pure form.

    apply(params, rest, inputs, lengths, key, train) -> (outputs, rest)

    params are trained. rest changes without a gradient, as batch statistics and streams of random numbers do. Inputs
    and outputs are batch-major: (B, T, I) -> (B, T, O) or (B, O). publish(params, rest) is what the user gets back.
    """

    params: Any
    rest: Any
    apply: Callable[..., tuple[Any, Any]]
    publish: Callable[[Any, Any], Any]


def adapt(model: Any, inputs: Any, key: Key) -> Model:
    """The pure form of a model. A bare layer draws its parameters with `key`, for inputs like these."""
    check_key("key", key)
    if isinstance(model, layers.Layer):
        in_size = None if model.event_ndim == 0 else jax.tree.leaves(inputs)[0].shape[-1]
        model = (jax.jit(model.init, static_argnums=1)(key, in_size), model)
    if _is_instance(model, "flax.nnx", "Module"):
        return _from_nnx(model)
    if isinstance(model, tuple) and len(model) == 2:
        params, apply = model
        if isinstance(apply, layers.Layer):
            return _from_layer(params, apply)
        if _is_instance(apply, "flax.linen", "Module"):
            return _from_linen(params, apply)
        if callable(apply):
            return _from_function(params, apply)
    raise TypeError(f"`model` must be {KINDS}; got {type(model).__name__}")


def _is_instance(value: Any, module: str, name: str) -> bool:
    """Whether it is an instance of a class of a module that need not have been imported."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _from_layer(params: Any, layer: layers.Layer) -> Model:
    def apply(params: Any, rest: Any, inputs: Any, lengths: Array | None, key: Key, train: bool) -> tuple[Any, Any]:
        xs = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), inputs)
        ys, _ = layer(params, xs, lengths=lengths, key=key if train else None)
        return jnp.swapaxes(ys, 0, 1) if layer.keeps_time else ys, rest

    return Model(params, (), apply, lambda params, rest: (params, layer))


def _from_function(params: Any, function: Callable[..., Any]) -> Model:
    takes = accepted(function)

    def apply(params: Any, rest: Any, inputs: Any, lengths: Array | None, key: Key, train: bool) -> tuple[Any, Any]:
        given = {"lengths": lengths, "key": key if train else None, "train": train, "deterministic": not train}
        return function(params, inputs, **_chosen(given, takes, lengths, function)), rest

    return Model(params, (), apply, lambda params, rest: (params, function))


def _from_linen(variables: Any, module: Any) -> Model:
    if "params" not in variables:
        raise ValueError(f"the variables of a linen module must hold 'params'; got {sorted(variables)}")
    takes = accepted(module.__call__)
    rest = {name: value for name, value in variables.items() if name != "params"}

    def apply(params: Any, rest: Any, inputs: Any, lengths: Array | None, key: Key, train: bool) -> tuple[Any, Any]:
        given = {"lengths": lengths, "train": train, "training": train, "deterministic": not train}
        arguments = _chosen(given, takes, lengths, module)
        rngs = {"dropout": key} if train else None
        variables = {"params": params, **rest}
        if not train or not rest:
            return module.apply(variables, inputs, rngs=rngs, **arguments), rest
        outputs, changed = module.apply(variables, inputs, rngs=rngs, mutable=list(rest), **arguments)
        return outputs, {**rest, **changed}

    return Model(variables["params"], rest, apply, lambda params, rest: ({"params": params, **rest}, module))


def _from_nnx(module: Any) -> Model:
    from flax import nnx

    takes = accepted(module.__call__)
    training, evaluation = nnx.clone(module), nnx.clone(module)
    training.train()
    evaluation.eval()
    train_graph, params, rest = nnx.split(training, nnx.Param, ...)
    eval_graph, _, _ = nnx.split(evaluation, nnx.Param, ...)

    def apply(params: Any, rest: Any, inputs: Any, lengths: Array | None, key: Key, train: bool) -> tuple[Any, Any]:
        # rebuilt, because variables can only be written in the trace that made them
        params, rest = jax.tree.map(lambda leaf: leaf, (params, rest))
        live = nnx.merge(train_graph if train else eval_graph, params, rest)
        outputs = live(inputs, **_chosen({"lengths": lengths}, takes, lengths, module))
        return outputs, nnx.split(live, nnx.Param, ...)[2] if train else rest

    def publish(params: Any, rest: Any) -> Any:
        nnx.update(module, params, rest)
        return module

    return Model(params, rest, apply, publish)


def accepted(function: Callable[..., Any]) -> frozenset[str] | None:
    """The names that can be passed as keywords; None where any can."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))


def _chosen(given: dict[str, Any], takes: frozenset[str] | None, lengths: Any, model: Any) -> dict[str, Any]:
    """The arguments that the model takes; TypeError if the batch has lengths and the model has no use for them."""
    if lengths is not None and takes is not None and "lengths" not in takes:
        name = getattr(model, "__name__", type(model).__name__)
        raise TypeError(
            f"the batch has `lengths`, which {name} does not take: give it a parameter of that name, or leave them out "
            "and mask the loss"
        )
    if takes is None:
        return {} if lengths is None else {"lengths": lengths}
    return {name: value for name, value in given.items() if name in takes}
