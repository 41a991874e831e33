"""A linen module where a layer is asked for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._struct import struct
from .._types import Array, DTypeLike, Key, Params
from ..layers import Stateless


@struct
class ModuleLayer(Stateless):
    """A linen module that maps sequences (*B, T, I) to (*B, T, O), as a layer, which is time-major.

    Parameters are the module's collection "params"; it may have no other. Masked inputs are zeros, and the module is
    not told of them: no earlier step may depend on a later one, and padding must come last. The sequence must come
    whole, because there is no state from which to go on.

    Args:
        module: such as `TCN(8, levels=2)`.
    """

    module: Any

    causal = False

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        params = self.module.init(key, jnp.zeros((1, 1, in_size), jnp.float32))["params"]
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def out_size(self, in_size: int) -> int:
        def features(key: Key) -> Array:
            return self.module.init_with_output(key, jnp.zeros((1, 1, in_size), jnp.float32))[0]

        return jax.eval_shape(features, jax.random.key(0)).shape[-1]

    def apply(self, params: Params, x: Array, valid: Array | None, key: Key | None) -> Array:
        return jnp.moveaxis(self.module.apply({"params": params}, jnp.moveaxis(x, 0, -2)), -2, 0)
