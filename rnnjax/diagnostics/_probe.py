"""Zero perturbations of every state of a model: the gradient by one is the gradient by the state."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise, Params, State, Xs, Z, featured
from .._unroll import unroll
from .._unroll.call import Dtypes, features
from .._wrapper import Wrapper
from ..layers import RNN, Bidirectional, Layer
from ..layers.blocks import Composed


@struct
class Perturbed(Wrapper):
    """A cell whose inputs are pairs (x, ε), and ε is added to the state after each step: its leaves are (T, *B, n), the
    n numbers of a row in one axis."""

    @property
    def capability(self) -> str:  # type: ignore[override]
        return "plain"

    def noise(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Noise:
        return self.cell.noise(key, steps, batch_shape, dtype)

    def project(self, params: Params, x: Xs, noise: Noise = None) -> Z:
        return self.cell.project(params, x[0], *_given(noise)), x[1]

    def step(self, params: Params, state: State, z: Z, noise: Noise = None) -> State:
        new = self.cell.step(params, state, z[0], *_given(noise))
        return jax.tree.map(lambda a, e: a + e.reshape(a.shape).astype(a.dtype), new, z[1])

    def readout(self, params: Params, emitted: Any, x: Xs) -> Array:
        return self.cell.readout(params, emitted, x[0])


def _given(noise: Noise) -> tuple[Noise, ...]:
    return () if noise is None else (noise,)


@struct
class Probed(Layer):
    """An `RNN` whose states are perturbed: epsilon is a state with leaves (T, *B, …), in the order of the inputs."""

    layer: Any = node()
    epsilon: Any = node()

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self.layer.causal

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return self.layer.event_ndim

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return self.layer.elapsed

    def init(self, key: Key, in_size: Any, dtype: DTypeLike = jnp.float32) -> Params:
        return self.layer.init(key, in_size, dtype)

    def out_size(self, in_size: Any) -> Any:
        return self.layer.out_size(in_size)

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.layer.initial_state(params, batch_shape, dtype)

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
        rnn = self.layer
        lead = leading(self, xs)
        compute = Dtypes.of(rnn.cell.compute_dtype, features(xs, len(lead)), params).compute

        def in_one_axis(leaf: Array) -> Array:
            return leaf.astype(compute).reshape(*leaf.shape[: len(lead)], math.prod(leaf.shape[len(lead) :]))

        epsilon = jax.tree.map(in_one_axis, self.epsilon)
        return unroll(
            Perturbed(rnn.cell),
            params,
            (xs, epsilon),
            state,
            lengths=lengths,
            mask=mask,
            reset=reset,
            reverse=rnn.reverse,
            key=key,
            context=context,
            remat=rnn.remat,
        )

    def reversed(self) -> Probed:
        return dataclasses.replace(self, layer=self.layer.reversed())


def leading(model: Layer, xs: Xs) -> tuple[int, ...]:
    """(T, *B) of a model's inputs."""
    shape = featured(xs).shape
    return shape[: len(shape) - model.event_ndim]


def in_size(model: Layer, xs: Xs) -> int | None:
    """Features of a model's inputs; None for ids."""
    return featured(xs).shape[-1] if model.event_ndim else None


def opened(model: Any, size: Any) -> Any:
    """The model for inputs of `size` features, with all of its layers in sight: blocks are the layers that they make,
    and each `Bidirectional` names both of its own. It takes the same parameters."""
    if isinstance(model, Composed):
        ((_, body, _),) = model.parts(size)
        return opened(body, size)
    if isinstance(model, Bidirectional):
        backward = model.forward if model.backward is None else model.backward
        return dataclasses.replace(model, forward=opened(model.forward, size), backward=opened(backward, size))
    leaves, structure = jax.tree.flatten(model, is_leaf=lambda part: part is not model and isinstance(part, Layer))
    parts = iter(_parts(model, leaves, size))
    leaves = [opened(*next(parts)) if isinstance(leaf, Layer) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, leaves)


def _parts(model: Layer, leaves: list[Any], size: Any) -> list[tuple[Layer, Any]]:
    """The layers among a layer's leaves, with the features of their inputs; 1 where the layer does not say."""
    inner = [leaf for leaf in leaves if isinstance(leaf, Layer)]
    sizes = [part_size for _, _, part_size in model.parts(size)] if inner else []
    return list(zip(inner, sizes if len(sizes) == len(inner) else [1] * len(inner), strict=True))


class Site(NamedTuple):
    """An `RNN` within a model, the features of its inputs, and whether it runs backwards there."""

    layer: RNN
    in_size: Any
    reverse: bool


def sites(model: Layer, size: Any) -> dict[str, Site]:
    """The recurrent layers of an opened model by their place in it: "0" or "1.forward" in a stack, "rnn" where it is
    alone."""
    found = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_rnn)[0]
    layers = [(path, part) for path, part in found if _is_rnn(part)]
    return {
        _name(path): Site(part, features, part.reverse ^ _turns(path))
        for (path, part), features in zip(layers, _features(model, size), strict=True)
    }


def _features(model: Any, size: Any) -> list[Any]:
    """Features of the inputs of each `RNN` in an opened model."""
    if _is_rnn(model):
        return [size]
    leaves = jax.tree.leaves(model, is_leaf=lambda part: part is not model and isinstance(part, Layer))
    return [found for part, part_size in _parts(model, leaves, size) for found in _features(part, part_size)]


def zero_perturbations(found: dict[str, Site], params: Params, lead: tuple[int, ...], context: Any) -> dict[str, State]:
    """Zeros for every state that recurrent layers pass through, leaves (T, *B, …) with these leading axes."""
    steps, *batch = lead
    dtype = functools.reduce(np.promote_types, (leaf.dtype for leaf in jax.tree.leaves(params)), np.dtype(np.float32))

    def zeros(site: Site) -> State:
        cell = site.layer.cell

        def first() -> State:
            own = cell.init(jax.random.key(0), site.in_size)
            return cell.initial_state(cell.prepare(own, context=context), tuple(batch))

        return jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), dtype), jax.eval_shape(first))

    return {name: zeros(site) for name, site in found.items()}


def probed(model: Layer, epsilons: dict[str, State]) -> Layer:
    """An opened model with perturbations added to its states. It takes the same parameters."""

    def probe(path: Any, part: Any) -> Any:
        return Probed(part, epsilons[_name(path)]) if _is_rnn(part) else part

    return jax.tree_util.tree_map_with_path(probe, model, is_leaf=_is_rnn)


def _is_rnn(part: Any) -> bool:
    return isinstance(part, RNN)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").replace("layers.", "") or "rnn"


def _turns(path: Any) -> bool:
    """Whether an odd number of `Bidirectional`s around a layer turn it."""
    return sum(getattr(entry, "name", None) == "backward" for entry in path) % 2 == 1
