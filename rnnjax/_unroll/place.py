"""A state with the placement of the inputs it will meet."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from .._types import Params, State, Xs


def like_inputs(xs: Xs, params: Params, state: State) -> State:
    """Gives a new state (*B, …) the batch sharding and the varying mesh axes of `xs` (T, *B, …) and `params`.

    A scan's carry must have one type throughout: under an explicit mesh, or inside `shard_map`, zeros made from a shape
    alone do not have the type that a step returns.
    """
    first = jax.tree.leaves(xs)[0]
    varying = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves((xs, params))))
    return jax.tree.map(lambda leaf: _spread(_shard(first, leaf), varying), state)


def _shard(first: Any, leaf: Any) -> Any:
    sharding = jax.typeof(first).sharding
    explicit = AxisType.Explicit in getattr(sharding.mesh, "axis_types", ())
    if sharding.mesh.empty or not explicit:
        return leaf
    batch = tuple(sharding.spec)[1 : leaf.ndim]
    return jax.sharding.reshard(leaf, PartitionSpec(*batch, *(None,) * (leaf.ndim - len(batch))))


def _varying(leaf: Any) -> frozenset[Any]:
    return frozenset(getattr(jax.typeof(leaf), "vma", frozenset()))


def _spread(leaf: Any, varying: frozenset[Any]) -> Any:
    missing = tuple(varying - _varying(leaf))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf
