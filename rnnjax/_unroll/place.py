"""Arrays with the placement of the inputs they will meet.

A scan's carry must have one type throughout. Under an explicit mesh, or inside `shard_map`, an array made from a shape
alone does not have the type of what a step returns: it lacks the batch sharding, or the varying mesh axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from .._types import explicit_spec


class Placement(NamedTuple):
    """The batch axes' sharding under an explicit mesh, else None, and the mesh axes along which values vary."""

    batch: tuple[Any, ...] | None
    varying: frozenset[str]

    @classmethod
    def of(cls, leading: Any, axes: int, *others: Any) -> Placement:
        """From an input (T, *B, …) with `axes` leading axes, and from everything else that enters the call."""
        varying = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves((leading, others))))
        spec = explicit_spec(leading)
        return cls(None if spec is None else tuple(spec)[1:axes], varying)

    def vary(self, tree: Any) -> Any:
        """Parameters and leaves of a cell: the same everywhere, but typed as varying like the data."""
        return jax.tree.map(self._vary_leaf, tree)

    def state(self, tree: Any) -> Any:
        """Leaves (*B, …)."""
        return jax.tree.map(lambda leaf: self._vary_leaf(self._shard(leaf, 0)), tree)

    def along_time(self, tree: Any) -> Any:
        """Leaves (T, *B, …)."""
        return jax.tree.map(lambda leaf: self._vary_leaf(self._shard(leaf, 1)), tree)

    def _shard(self, leaf: Any, before: int) -> Any:
        if self.batch is None:
            return leaf
        spec = (*(None,) * before, *self.batch)
        return jax.sharding.reshard(leaf, PartitionSpec(*spec, *(None,) * (leaf.ndim - len(spec))))

    def _vary_leaf(self, leaf: Any) -> Any:
        missing = tuple(self.varying - _varying(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf


def whole(tree: Any) -> Any:
    """Parameters whose storage is divided under an explicit mesh, gathered; their gradients are divided again."""
    return jax.tree.map(_gathered, tree)


def _gathered(leaf: Any) -> Any:
    spec = explicit_spec(leaf)
    divided = spec is not None and any(names is not None for names in spec)
    return jax.sharding.reshard(leaf, PartitionSpec(*(None,) * leaf.ndim)) if divided else leaf


def _varying(leaf: Any) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying


def vary_alike(arrays: list[Any]) -> list[Any]:
    """Arrays that all vary along the mesh axes along which any of them does."""
    varying = frozenset().union(*map(_varying, arrays))
    return [Placement(None, varying)._vary_leaf(leaf) for leaf in arrays]


def result_like(array: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """A result with the dtype of `array` and varying as it does."""
    kind = jax.typeof(array)
    sharding = jax.sharding.NamedSharding(kind.sharding.mesh, PartitionSpec(*(None,) * len(shape)))
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding, manual_axis_type=kind.manual_axis_type)
