"""Zero perturbations of every state of a model: the gradient by one is the gradient by the state."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Wrapper
from .._struct import node, struct
from .._types import Array, DTypeLike, Key, Noise, Params, State, Xs, Z
from .._unroll import unroll
from .._unroll.call import Dtypes
from ..layers import RNN, Bidirectional, Layer


@struct
class Perturbed(Wrapper):
    """A cell whose inputs are pairs (x, ε), and ε is added to the state after each step."""

    @property
    def capability(self) -> str:  # type: ignore[override]
        return "plain"

    def noise(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Noise:
        return self.cell.noise(key, steps, batch_shape, dtype)

    def project(self, params: Params, x: Xs, noise: Noise = None) -> Z:
        return self.cell.project(params, x[0], *_given(noise)), x[1]

    def step(self, params: Params, state: State, z: Z, noise: Noise = None) -> State:
        new = self.cell.step(params, state, z[0], *_given(noise))
        return jax.tree.map(lambda a, e: a + e.astype(a.dtype), new, z[1])

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
        compute = Dtypes.of(rnn.cell.compute_dtype, xs, params).compute
        epsilon = jax.tree.map(lambda leaf: leaf.astype(compute), self.epsilon)
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


class Site(NamedTuple):
    """An `RNN` within a model, and whether it runs backwards there."""

    layer: RNN
    reverse: bool


def sites(model: Layer) -> dict[str, Site]:
    """The recurrent layers of a model by their place in it: "0" or "1.forward" in a stack, "rnn" where it is alone."""
    found = jax.tree_util.tree_flatten_with_path(_both_directions(model), is_leaf=_is_rnn)[0]
    return {_name(path): Site(part, part.reverse ^ _turns(path)) for path, part in found if _is_rnn(part)}


def zero_perturbations(model: Layer, params: Params, xs: Xs) -> dict[str, State]:
    """Zeros for every state that the model's recurrent layers pass through, leaves (T, *B, …), by the layers' names."""
    lead = jax.tree.leaves(xs)[0].shape
    lead = lead[: len(lead) - model.event_ndim]
    dtype = functools.reduce(np.promote_types, (leaf.dtype for leaf in jax.tree.leaves(params)), np.dtype(np.float32))

    def zeros(rnn: RNN) -> State:
        shapes = jax.eval_shape(lambda: rnn.cell.initial_state(rnn.cell.init(jax.random.key(0), 1), lead))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), shapes)

    return {name: zeros(site.layer) for name, site in sites(model).items()}


def probed(model: Layer, epsilons: dict[str, State]) -> Layer:
    """The model with perturbations added to its states. It takes the same parameters."""

    def probe(path: Any, part: Any) -> Any:
        return Probed(part, epsilons[_name(path)]) if _is_rnn(part) else part

    return jax.tree_util.tree_map_with_path(probe, _both_directions(model), is_leaf=_is_rnn)


def _is_rnn(part: Any) -> bool:
    return isinstance(part, RNN)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").replace("layers.", "") or "rnn"


def _turns(path: Any) -> bool:
    """Whether an odd number of `Bidirectional`s around a layer turn it."""
    return sum(getattr(entry, "name", None) == "backward" for entry in path) % 2 == 1


def _both_directions(model: Any) -> Any:
    """The model with its `Bidirectional`s naming both of their layers, which so can be told apart."""

    def name_both(part: Any) -> Any:
        if not isinstance(part, Bidirectional):
            return part
        backward = part.forward if part.backward is None else part.backward
        return dataclasses.replace(part, forward=_both_directions(part.forward), backward=_both_directions(backward))

    return jax.tree.map(name_both, model, is_leaf=lambda part: isinstance(part, Bidirectional))
