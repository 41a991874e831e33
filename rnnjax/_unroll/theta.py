"""Which leaves of a cell and its parameters the maps of a gated cell read, so that only those are summed over time."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._types import Array, Gates, Noise, Params, State
from .._wrapper import input_weights, update_vjp
from .call import Dtypes, Flow, at_step, merge_noise, some


class Theta(NamedTuple):
    """The leaves of cell and parameters, and which of the floating-point ones `project` and `update` read: the others
    need no sum, and integers and flags have no gradient.

    Where `input_weights` or a hand-formed derivative stand for the map, it reads none.
    """

    leaves: list[Array]
    structure: Any
    dtypes: Dtypes
    project_reads: list[int]
    update_reads: list[int]

    @classmethod
    def of(cls, cell: Any, params: Params, dtypes: Dtypes, flow: Flow, constant_noise: Noise, state: State) -> Theta:
        leaves, structure = jax.tree.flatten((cell, params))
        one = jax.tree.map(lambda leaf: leaf[:1], flow)
        floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        everything = cls(leaves, structure, dtypes, floats, floats)
        project = partial(everything.run_project, x=one.xs, noise=merge_noise(one.noise, constant_noise))
        noise_t = merge_noise(at_step(one.noise), at_step(constant_noise))
        update = partial(everything.run_update, noise=noise_t)
        project_reads, update_reads = [], []
        if input_weights(cell, params) is None:
            project_reads = [floats[i] for i in _reads(project, everything.project)]
        if update_vjp(cell) is None:
            gates = jax.eval_shape(lambda values: at_step(project(values)), everything.project)
            update_reads = [floats[i] for i in _reads(update, everything.update, state, gates, gates)]
        return cls(leaves, structure, dtypes, project_reads, update_reads)

    @property
    def project(self) -> list[Array]:
        return [self.leaves[i] for i in self.project_reads]

    @property
    def update(self) -> list[Array]:
        return [self.leaves[i] for i in self.update_reads]

    def run_project(self, values: list[Array], x: Any, noise: Noise) -> Gates:
        """`project` with `values` in the places that it reads."""
        cell, params = self._with(self.project_reads, values)
        return cell.project(self.dtypes.cast(params), x, *some(noise))

    def run_update(self, values: list[Array], old: State, gx: Gates, gh: Gates, noise: Noise) -> State:
        """`update` with `values` in the places that it reads."""
        cell, params = self._with(self.update_reads, values)
        new = cell.update(self.dtypes.cast(params), old, gx, gh, *some(noise))
        return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)

    def gradients(self, weights: tuple[Any, Params], project: list[Array], update: list[Array]) -> tuple[Any, Params]:
        """The cotangents of cell and parameters, summed over the places that read them."""
        leaves, structure = jax.tree.flatten(weights)
        for reads, values in ((self.project_reads, project), (self.update_reads, update)):
            for i, value in zip(reads, values, strict=True):
                leaves[i] = leaves[i] + value
        return jax.tree.unflatten(structure, leaves)

    def _with(self, reads: list[int], values: list[Array]) -> tuple[Any, Params]:
        leaves = list(self.leaves)
        for i, value in zip(reads, values, strict=True):
            leaves[i] = value
        return jax.tree.unflatten(self.structure, leaves)


def linear(f: Any, at: Any) -> bool:
    """Whether the derivative of `f` is the same wherever it is taken."""
    return not _reads(lambda at, pulled: jax.vjp(f, at)[1](pulled), at, jax.eval_shape(f, at))


def _reads(f: Any, *args: Any) -> list[int]:
    """Which leaves of the first argument `f` looks at."""
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    read = {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in read for v in eqn.outvars):
            read.update(id(v) for v in eqn.invars)
    return [i for i, v in enumerate(jaxpr.invars[: len(jax.tree.leaves(args[0]))]) if id(v) in read]
