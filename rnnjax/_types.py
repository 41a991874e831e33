"""The axes and array names used in every signature and docstring, and small questions to arrays, keys and devices.

    T   time steps                      G   gates of a cell
    *B  any batch axes, also none       K   time steps in one chunk
    I   input features                  S   spatial sizes of a convolutional cell
    H   hidden features                 N   models under `vmap`
    O   output features

Time is always axis 0 in the functional form: one input is (*B, I), a sequence of them (T, *B, I). Single rooms use more
letters, and some of these otherwise: CONTRIBUTING.md has the table.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jax.typing import DTypeLike as DTypeLike

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # a typed key from `jax.random.key`
Params: TypeAlias = Any  # a NamedTuple of arrays, as `init` returns it
State: TypeAlias = Any  # a NamedTuple of arrays (*B, …)
Xs: TypeAlias = Any  # an array (T, *B, I), or a pytree whose leaves lead with (T, *B)
Z: TypeAlias = Any  # what `project` returns: leaves (T, *B, …)
Noise: TypeAlias = Any  # leaves (T or 1, *B, …), or None
Gates: TypeAlias = tuple[jax.Array, ...]  # one array (*B, H) per gate
Bias: TypeAlias = jax.Array | tuple[jax.Array | None, ...] | None  # (G·H), or (H) or None for each gate


def featured(xs: Xs) -> Any:
    """The leaf of inputs that has features, not only times: the first of those with the most axes."""
    return max(jax.tree.leaves(xs), key=lambda leaf: leaf.ndim)


def in_sizes(xs: Xs) -> tuple[int, ...]:
    """What the `in_size` of such inputs may be: the features of a leaf that has any, or of all together; 0 for none."""
    axes = featured(xs).ndim
    sizes = [leaf.shape[-1] for leaf in jax.tree.leaves(xs) if leaf.ndim == axes and leaf.shape[-1] != 0]
    return tuple(dict.fromkeys([*sizes, sum(sizes)]))


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """The dtype, or float32 where that is wider. NumPy's promotion also holds when JAX's is strict."""
    return np.promote_types(dtype, np.float32)


def wide(x: Any) -> Array:
    """The array in at least float32. NumPy's float64 become what JAX is set to, without its warning."""
    x = jnp.asarray(x)
    return x.astype(at_least_float32(x.dtype))


def explicit_spec(array: Array) -> PartitionSpec | None:
    """The sharding that is part of an array's type, one entry an axis, or None without an explicit mesh."""
    sharding = jax.typeof(array).sharding
    if sharding.mesh.empty or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return PartitionSpec(*sharding.spec, *(None,) * (array.ndim - len(sharding.spec)))


def split_key(key: Key | None) -> tuple[Key | None, Key | None]:
    """Two keys from one, or twice None."""
    return (None, None) if key is None else tuple(jax.random.split(key))


def default_platform() -> str:
    """The platform that a program runs on by default: that of `jax.default_device`, or else of JAX's first backend."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def over(condition: Array, leaf: Array) -> Array:
    """`condition` with trailing axes of length 1 added until it broadcasts over `leaf`."""
    condition = condition.reshape(condition.shape + (1,) * (leaf.ndim - condition.ndim))
    return jnp.broadcast_to(condition, leaf.shape)
