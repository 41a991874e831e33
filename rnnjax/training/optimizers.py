"""Recipes of optimizers: Optax chains in the right order, with the guards that recurrent networks need."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from .._errors import check_not_negative, check_positive, is_array
from .._types import Array, Params

ALGORITHMS: dict[str, Callable[[], Any]] = {
    "adam": optax.scale_by_adam,
    "adabelief": optax.scale_by_belief,
    "lion": optax.scale_by_lion,
    "momentum": functools.partial(optax.trace, decay=0.9),
    "rmsprop": optax.scale_by_rms,
    "sgd": optax.identity,
}
Number = float | Array


def optimizer(
    learning_rate: Number | optax.Schedule = 1e-3,
    *,
    algorithm: str | optax.GradientTransformation = "adam",
    clip_norm: Number | None = None,
    clip_value: Number | None = None,
    clip_block_rms: Number | None = None,
    clip_adaptive: Number | None = None,
    weight_decay: Number = 0.0,
    recurrent_decay: Number | None = None,
    schedule: optax.Schedule | None = None,
    skip_nonfinite: bool = True,
) -> optax.GradientTransformation:
    """Clips, rescales by the algorithm, decays the weights and takes a step, in this order.

    Numbers may be traced: under `vmap` each member has its own.

    What an array is follows from the name of its field, in the parameters of any library, and of a cell of your own:
    `b`, `bias` and `scale` are biases and gains, whatever their axes, `u` and `u_h` are recurrent weights, `kernel` is
    Flax's name of weights, and `w_e`, `w_mu`, `w_sigma`, `u_e`, `u_mu` and `u_sigma` are potentials and slopes of
    synapses, and `w` and `u` beside them conductances. All others are weights if they have two axes or more.

    Args:
        learning_rate: the length of a step, a number or an Optax schedule.
        algorithm: "adam", "adabelief", "lion", "momentum", "rmsprop", "sgd", or Optax's own `scale_by_…`.
        clip_norm: bound of the norm of the whole gradient; None does not clip, here and below.
        clip_value: bound of each entry's magnitude.
        clip_block_rms: bound of the root mean square of each array.
        clip_adaptive: bound of the ratio of gradient to weights, unit by unit: over the inputs of every output of a
            matrix (inputs, outputs), of a head's block or a convolution with outputs last; vectors, biases and gains
            are bounded as wholes.
        weight_decay: decoupled decay of every array with two axes or more; biases and gains are spared, and so are the
            conductances, potentials and slopes of `LTC`.
        recurrent_decay: that of the recurrent weights, of vectors among them too; None takes `weight_decay`.
        schedule: a function of the step that multiplies the learning rate, such as
            `optax.cosine_decay_schedule(1.0, 1000)`.
        skip_nonfinite: whether a step whose gradient is not finite is left out, as `skip_if_nonfinite` does. Each group
            of `optax.partition` would see to its own gradient, step without the others and count for itself, and
            `optax.MultiSteps` would add up what is not finite before: take False within and `skip_if_nonfinite(…)`
            around them. `fit` and `sweep` warn of `MultiSteps` without.

    Returns:
        an `optax.GradientTransformation`. With `skip_nonfinite` its state counts the steps left out, for
        `skipped_steps`.

    Raises:
        ValueError: for a learning rate or bound that is not positive, a decay below 0, and an `algorithm` that is none
            of these or takes a step itself, as `optax.adam(…)` does. JAX arrays are not checked.
        TypeError: for a rate, bound or decay that is no number. The transformation's `init` raises ValueError for a
            `recurrent_decay` of parameters without recurrent weights, but not for a group of `optax.partition` or
            `optax.masked`, which has a part of the parameters.

    References:
        Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent neural networks, arXiv:1211.5063.
        Brock, De, Smith, Simonyan 2021, High-performance large-scale image recognition without normalization,
        arXiv:2102.06171, for `clip_adaptive`.
        Loshchilov, Hutter 2019, Decoupled weight decay regularization, arXiv:1711.05101.

    >>> import optax, rnnjax as rj
    >>> recipe = rj.training.optimizer(1e-3, clip_norm=1.0, schedule=optax.cosine_decay_schedule(1.0, 500))
    """
    if not callable(learning_rate):
        check_positive("learning_rate", learning_rate)
    clippings = (
        ("clip_value", clip_value, optax.clip),
        ("clip_block_rms", clip_block_rms, optax.clip_by_block_rms),
        ("clip_adaptive", clip_adaptive, _clip_units),
        ("clip_norm", clip_norm, optax.clip_by_global_norm),
    )
    for name, bound, _ in clippings:
        if bound is not None:
            check_positive(name, bound)
    check_not_negative("weight_decay", weight_decay)
    if recurrent_decay is not None:
        check_not_negative("recurrent_decay", recurrent_decay)
    if isinstance(algorithm, str) and algorithm in ALGORITHMS:
        algorithm = ALGORITHMS[algorithm]()
    elif not isinstance(algorithm, optax.GradientTransformation):
        raise ValueError(
            f"`algorithm` must be one of {', '.join(ALGORITHMS)}, or one of Optax's `scale_by_…`; got {algorithm!r}"
        )
    elif _descends(algorithm):
        raise ValueError(
            "`algorithm` must leave the step to `learning_rate`, as `optax.scale_by_adam()` does; got one that takes a "
            "step itself, as `optax.adam(…)` does, and would be turned round"
        )
    parts = [make(bound) for _, bound, make in clippings if bound is not None]
    parts.append(algorithm)
    if recurrent_decay is None:
        parts += _decay(weight_decay, decays)
    else:
        parts += _decay(weight_decay, lambda params: jax.tree.map(operator.gt, decays(params), recurrent(params)))
        parts += _decay(recurrent_decay, _some_recurrent)
    if schedule is not None:
        parts.append(optax.scale_by_schedule(schedule))
    parts.append(optax.scale_by_learning_rate(learning_rate))
    chain = optax.chain(*parts)
    return skip_if_nonfinite(chain) if skip_nonfinite else chain


def _descends(algorithm: optax.GradientTransformation) -> bool:
    """Whether it turns a gradient round."""
    param, gradient = jnp.zeros((1, 1)), jnp.ones((1, 1))
    with jax.numpy_dtype_promotion("standard"):
        update = optax.with_extra_args_support(algorithm).update
        change, _ = update(gradient, algorithm.init(param), param, value=jnp.zeros(()))
    # the sign tells of a step of length zero too, with which a schedule may begin
    return not isinstance(change, Tracer) and bool(np.all(np.signbit(np.asarray(change))))


def _clip_units(ratio: Number) -> optax.GradientTransformation:
    """Bounds the norm of every unit's gradient by so much of that of its weights, which counts as at least 1e-3."""

    def update(updates: Any, state: Any, params: Params | None = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "`clip_adaptive` compares with the parameters: pass them to `update` as the third argument"
            )
        leaves, _ = jax.tree_util.tree_flatten_with_path(params)
        biases = {tuple(_names(path)[:-1]): leaf.shape for path, leaf in leaves if _ends(path, BIASES)}

        def clipped(path: Any, gradient: Array, param: Array) -> Array:
            axes = _inputs(path, param.shape, biases)
            norm, own = (jnp.sqrt(jnp.sum(jnp.abs(leaf) ** 2, axes, keepdims=True)) for leaf in (gradient, param))
            most = ratio * jnp.maximum(own, 1e-3)
            return gradient * (most / jnp.maximum(norm, most)).astype(gradient.dtype)

        return jax.tree_util.tree_map_with_path(clipped, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _inputs(path: Any, shape: tuple[int, ...], biases: dict[tuple[str, ...], tuple[int, ...]]) -> tuple[int, ...]:
    """The axes of an array over which the weights of one unit lie. What has a number of its own in the bias beside it
    is a unit, which tells kernels (*K, I, O) and projections (I, N, D) from the blocks (N, D, O) of heads."""
    axes, beside = tuple(range(len(shape))), biases.get(tuple(_names(path)[:-1]), ())
    if len(shape) < 2 or _ends(path, BIASES):
        return axes
    if 0 < len(beside) < len(shape) and shape[-len(beside) :] == beside:
        return axes[: -len(beside)]
    return axes[:-1] if _ends(path, ("kernel",)) else axes[-2:-1]


def _decay(rate: Any, which: Callable[[Params], Any]) -> list[optax.GradientTransformation]:
    none = not is_array(rate) and rate == 0
    return [] if none else [optax.add_decayed_weights(rate, mask=which)]


def decays(params: Params) -> Any:
    """True for the arrays that weight decay is for: those with two axes or more, but for biases, gains, `NO_WEIGHTS`
    and conductances."""
    spared = _conductances(params)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.ndim(leaf) >= 2 and not _ends(path, (*BIASES, *NO_WEIGHTS)) and _names(path) not in spared
        ),
        params,
    )


def _conductances(params: Params) -> list[list[str]]:
    """Where a liquid cell has the `w` and `u` of its synapses, beside their centres: of a conductance softplus(w) zero
    is an open synapse, so that decay would open what is closed."""
    names = [_names(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return [[*own[:-1], own[-1].removesuffix("_mu")] for own in names if own[-1:] in (["w_mu"], ["u_mu"])]


BIASES = ("b", "bias", "scale")
"""The names of biases and gains, which have two axes in the attention of Flax."""


NO_WEIGHTS = ("w_e", "w_mu", "w_sigma", "u_e", "u_mu", "u_sigma")
"""Matrices of the liquid cells that are no weights, but potentials and the centres and slopes of synapses."""


RECURRENT = ("u", "u_h")
"""The names of recurrent weights."""


def recurrent(params: Params) -> Any:
    """True for recurrent weights: the arrays in fields of these names, and vectors of one weight a unit. That of a
    `LocationScore`, which is of its filters, is none, nor are conductances."""
    paths = [_names(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    scores = [names[:-2] for names in paths if names[-2:-1] == ["additive"]]
    spared = _conductances(params)

    def is_recurrent(path: Any, leaf: Any) -> bool:
        names = _names(path)
        return jnp.ndim(leaf) >= 1 and _ends(path, RECURRENT) and names[:-1] not in scores and names not in spared

    return jax.tree_util.tree_map_with_path(is_recurrent, params)


def _some_recurrent(params: Params) -> Any:
    """The same; ValueError where there are none, as in the modules of other libraries, but not of a part of them."""
    marks = recurrent(params)
    nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    partial = any(isinstance(node, optax.MaskedNode) for node in nodes)
    if not partial and not any(jax.tree.leaves(marks)):
        raise ValueError(
            f"`recurrent_decay` is for arrays named {' or '.join(f'`{name}`' for name in RECURRENT)}, and the "
            "parameters have none that are weights: leave it out, or give `weight_decay`"
        )
    return marks


def _ends(path: Any, names: tuple[str, ...]) -> bool:
    """Whether a field of one of these names holds the leaf."""
    return bool(path) and _names(path)[-1] in names


def _names(path: Any) -> list[str]:
    """The names of the fields down to a leaf, without that of the value of a variable of nnx."""
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    return names[:-1] if names[-1:] == ["value"] and len(names) > 1 else names


class SkipState(NamedTuple):
    """The state of the inner transformation, and how many steps were left out."""

    inner: Any
    skipped: Array


def skip_if_nonfinite(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Leaves out the steps whose gradient is not finite, and counts them.

    Such a gradient reaches neither parameters nor moments: the update is zero and the inner state stays as it was. A
    gradient whose squared norm overflows counts as not finite, because squares are what adaptive algorithms keep.
    """

    def init(params: Params) -> SkipState:
        return SkipState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: SkipState, params: Params | None = None, **extra: Any) -> tuple[Any, SkipState]:
        # formed as clipping by the norm forms it, so that XLA forms it once
        finite = jnp.isfinite(optax.tree.norm(updates, squared=True))
        new, inner_state = optax.with_extra_args_support(inner).update(updates, state.inner, params, **extra)
        new = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), new)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), inner_state, state.inner)
        return new, SkipState(kept, state.skipped + (1 - finite.astype(jnp.int32)))

    return optax.GradientTransformationExtraArgs(init, update)


def check_accumulation(state: Any) -> None:
    """Warns of the state of an `optax.MultiSteps` around an optimizer that leaves steps out, unless another guard is
    around it: its sum of gradients, which it empties by a multiplication with 0, would keep what is not finite."""

    def ends(node: Any) -> bool:
        return isinstance(node, (optax.MultiStepsState, SkipState, optax.ApplyIfFiniteState))

    for node in jax.tree.leaves(state, is_leaf=ends):
        unguarded = isinstance(node, optax.MultiStepsState) and not jax.tree.leaves(node.skip_state)
        if unguarded and counters(node.inner_opt_state):
            warnings.warn(
                "`optax.MultiSteps` adds a gradient that is not finite to its sum, before the optimizer within can "
                "leave it out, and no later step would be finite, unless its `should_skip_update_fn` leaves it out: "
                "pass `rnnjax.training.skip_if_nonfinite(optax.MultiSteps(rnnjax.training.optimizer(…, "
                "skip_nonfinite=False), k))`",
                stacklevel=3,
            )


def skipped_steps(state: Any) -> int:
    """How many steps `skip_nonfinite` left out, from the optimizer's state; 0 without it. Groups that count for
    themselves are added up."""
    return sum(int(np.asarray(counter).sum()) for counter in counters(state))


def has_skipped(before: Any, after: Any) -> Array:
    """Whether the step between two states of the optimizer was left out."""
    pairs = zip(counters(before), counters(after), strict=True)
    return functools.reduce(jnp.logical_or, [jnp.any(old != new) for old, new in pairs], jnp.asarray(False))


def counters(state: Any) -> list[Array]:
    """The counters of the steps that were left out, in the state of an optimizer; none if it leaves out none."""
    return [node.skipped for node in jax.tree.leaves(state, is_leaf=_is_skip) if _is_skip(node)]


def _is_skip(node: Any) -> bool:
    return isinstance(node, SkipState)
