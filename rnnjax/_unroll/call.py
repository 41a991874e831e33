"""One checked call of `unroll`, as every implementation receives it."""

from __future__ import annotations

from functools import reduce
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._types import Array, DTypeLike, Noise, Params, State, Xs, Z, at_least_float32

Remat: TypeAlias = int | Literal["state", "sqrt"] | None


class Dtypes(NamedTuple):
    """What a call computes in. Products and outputs are in `compute`, gates and states in `state`, at least float32."""

    compute: Any
    state: Any

    @classmethod
    def of(cls, compute: DTypeLike | None, *arrays: Any) -> Dtypes:
        """For a given compute dtype, or for the promotion of all floating-point arrays."""
        if compute is None:
            dtypes = [leaf.dtype for leaf in jax.tree.leaves(arrays) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
            # not NumPy's promotion, which has none for float16 with bfloat16
            with jax.numpy_dtype_promotion("standard"):
                compute = reduce(jnp.promote_types, dtypes)
        compute = jnp.dtype(compute)
        return cls(compute, at_least_float32(compute))

    def cast(self, params: Params) -> Params:
        """Matrices to the compute dtype and vectors to the state dtype. It is done where the parameters are used, so
        that their gradients add up in the dtype that they have between steps: `accumulators`."""
        return jax.tree.map(self._cast_leaf, params)

    def inputs(self, xs: Xs, axes: int) -> Xs:
        """Features to the compute dtype. What has none beside its (T, *B), so many axes, is an elapsed time: in the
        state dtype, because its rounding would add up over time."""
        return jax.tree.map(lambda leaf: leaf.astype(self.compute if leaf.ndim > axes else self.state), xs)

    def _cast_leaf(self, leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.astype(self.compute if leaf.ndim > 1 else self.state)


def accumulators(tree: Any) -> Any:
    """Floating-point leaves of parameters or of a cell in at least float32. Their gradients are sums over time, whose
    terms would be lost in a bfloat16 that has grown to 256 of them."""

    def widened(leaf: Array) -> Array:
        narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and at_least_float32(leaf.dtype) != leaf.dtype
        return leaf.astype(jnp.float32) if narrow else leaf

    return jax.tree.map(widened, tree)


def features(xs: Xs, axes: int) -> list[Array]:
    """The leaves of inputs that have features beside their (T, *B), so many axes. The others are elapsed times, which
    have no say in the compute dtype."""
    return [leaf for leaf in jax.tree.leaves(xs) if leaf.ndim > axes]


class Flow(NamedTuple):
    """What runs along time, leaves (T, …): inputs, noise, mask and reset, the last three possibly None."""

    xs: Xs
    noise: Noise
    mask: Array | None
    reset: Array | None


class Call(NamedTuple):
    """`noise` of time length 1 stays constant over time and is kept apart from `flow.noise`; `boundary` is the state
    behind a reset, and `reset` is already relative to the direction: True restarts before the step is taken."""

    cell: Cell
    params: Params
    flow: Flow
    state: State
    boundary: State | None
    constant_noise: Noise
    steps: int
    batch_shape: tuple[int, ...]
    dtypes: Dtypes
    reverse: bool
    remat: Remat

    def project(self, flow: Flow) -> Z:
        """What the cell makes of the inputs of a piece of time, with its noise."""
        noise = merge_noise(flow.noise, self.constant_noise)
        return self.cell.project(self.dtypes.cast(self.params), flow.xs, *some(noise))


def split_noise(noise: Noise, steps: int) -> tuple[Noise, Noise]:
    """Noise that runs along time, and noise that is constant over it, with None in the other's places."""
    runs = jax.tree.map(lambda leaf: leaf if leaf.shape[0] == steps else None, noise)
    constant = jax.tree.map(lambda leaf: None if leaf.shape[0] == steps else leaf, noise)
    return runs, constant


def merge_noise(runs: Noise, constant: Noise) -> Noise:
    """Undoes `split_noise` for a slice of time."""
    return jax.tree.map(lambda a, b: b if a is None else a, runs, constant, is_leaf=lambda leaf: leaf is None)


def some(noise: Noise) -> tuple[Noise, ...]:
    """The noise as the last argument of a map, and no argument where there is none."""
    return () if noise is None else (noise,)


def at_step(constant: Noise) -> Noise:
    """Constant noise as one step sees it, without its time axis."""
    return jax.tree.map(lambda leaf: leaf[0], constant)
