"""Data-parallel training: the rows of a batch are divided over the devices of a mesh, which sum what they find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._errors import check_size
from .._types import Key
from ._batches import Batch, fill_up, rows_of, weighed
from ._model import Model, Streamed


class Parallel:
    """Where things lie and how programs are compiled, on one device or on all of a mesh.

    On a mesh every device runs the whole program on rows of its own, and `sum` is where they meet: parameters are on
    every device, and the axes of the mesh, of either kind, are manual inside. Without a mesh all of this is nothing.

    whole, rows, steps: the sharding of what every device has, of (B, …) and of (S, B, …).
    """

    def __init__(self, mesh: Mesh | None) -> None:
        if mesh is not None and not isinstance(mesh, Mesh):
            raise TypeError(
                f"`mesh` must be a `jax.sharding.Mesh`, such as `jax.make_mesh((8,), ('data',))`; got {mesh!r}"
            )
        self.mesh = mesh
        axes = None if mesh is None else mesh.axis_names
        self.axes: Any = axes
        self.whole, self.rows, self.steps = PartitionSpec(), PartitionSpec(axes), PartitionSpec(None, axes)
        self.devices = 1 if mesh is None else mesh.size

    def spread(self, function: Callable[..., Any], takes: Any, gives: Any) -> Callable[..., Any]:
        """The function of all that the devices have, from one of each device's own part, which lies as `takes` says."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=takes, out_specs=gives, check_vma=False)

    def put(self, tree: Any, spec: Any) -> Any:
        """Moves arrays, which all processes have alike, to where they belong; `spec` may be a prefix of the tree."""
        if self.mesh is None:
            return jax.device_put(tree)
        shardings = jax.tree.map(lambda own: NamedSharding(self.mesh, own), spec, is_leaf=_is_spec)
        if jax.process_count() == 1:
            return jax.device_put(tree, shardings)
        # only what lies on the host can be moved to the devices of other processes
        placed = jax.device_put(jax.tree.map(_on_host, tree), shardings)
        return jax.tree.map(lambda leaf, own: _wrapped(own, leaf), tree, placed)

    def batch(self, batch: Batch) -> Batch:
        """Moves a batch to the devices, each process the rows that it has read, filled up so that they can be dealt."""
        if self.mesh is None:
            return jax.device_put(batch)
        local = max(len(self.mesh.local_devices), 1)
        batch = fill_up(batch, -(-rows_of(batch) // local) * local)
        if jax.process_count() > 1:  # where one has weights, all must
            batch = weighed(batch)
        sharding = NamedSharding(self.mesh, self.rows)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)

    def check_rows(self, name: str, rows: int) -> None:
        """Raises unless so many rows can be dealt evenly."""
        check_size(name, rows)
        if rows % self.devices:
            raise ValueError(f"`{name}` must be a multiple of the mesh's {self.devices} devices; got {rows}")

    def enough(self, batch_size: int, rows: int, parts: int) -> int:
        """Rows of a batch of at most that size: no more than there are, but so many that they can be dealt to the
        devices, in so many parts each."""
        least = self.devices * parts
        return min(batch_size, -(-rows // least) * least)

    def sum(self, tree: Any) -> Any:
        """The sum over the devices, inside a compiled function."""
        return tree if self.mesh is None else jax.lax.psum(tree, self.axes)

    def agree(self, tree: Any, before: Any) -> Any:
        """The mean over the devices of what each has seen of its own rows, such as batch statistics. Keys are those
        from before, because each device has drawn with one of its own."""

        def common(leaf: Any, old: Any) -> Any:
            if _is_key(leaf):
                return old
            return jax.lax.pmean(leaf, self.axes) if jax.numpy.issubdtype(leaf.dtype, np.inexact) else leaf

        return tree if self.mesh is None else jax.tree.map(common, tree, before)

    def own(self, key: Key) -> Key:
        """A key of the device's own, so that no two draw the same noise."""
        return key if self.mesh is None else jax.random.fold_in(key, jax.lax.axis_index(self.axes))

    def own_keys(self, tree: Any) -> Any:
        """The tree with keys of the device's own."""
        return jax.tree.map(lambda leaf: self.own(leaf) if _is_key(leaf) else leaf, tree)


def divided(model: Model, parallel: Parallel) -> Model:
    """The model on a device's own rows: with noise of its own, and with other state that all devices agree on."""
    if parallel.mesh is None:
        return model

    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        outputs, changed = model.apply(params, parallel.own_keys(rest), batch, own(key), train)
        return outputs, parallel.agree(changed, rest) if train else rest

    def stream(params: Any, rest: Any, streamed: Streamed, key: Key, train: bool) -> tuple[Any, Any, Any]:
        outputs, state, changed = model.stream(params, parallel.own_keys(rest), streamed, own(key), train)
        return outputs, state, parallel.agree(changed, rest) if train else rest

    def own(key: Key | None) -> Key | None:
        return None if key is None else parallel.own(key)

    return model._replace(apply=apply, stream=stream, kept=False)


def _on_host(leaf: Any) -> Any:
    """An array that one process alone has as one of NumPy, a key as its numbers."""
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return np.asarray(leaf) if isinstance(leaf, jax.Array) and leaf.is_fully_addressable else leaf


def _wrapped(numbers: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(like)) if _is_key(like) else numbers


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)
