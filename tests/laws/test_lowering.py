"""The gradient lowers for accelerators, in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import rnnjax as rj
from rnnjax import testing

from . import Subject


def test_lowering(subject: Subject) -> None:
    testing.lowering(*subject)


@pytest.mark.parametrize("cell", [rj.LSTM(4), rj.LRU(4)], ids=["gated", "associative"])
def test_a_program_for_every_batch(cell: Any) -> None:
    """Sizes may be symbols, as `jax.export` has them: then the reference runs."""
    params = cell.init(jax.random.key(0), 3)
    leaves, structure = jax.tree.flatten(params)

    def call(leaves: Any, xs: Any) -> Any:
        return rj.unroll(cell, jax.tree.unflatten(structure, leaves), xs)[0]

    steps, rows = export.symbolic_shape("t, b")
    exported = export.export(jax.jit(call))(leaves, jax.ShapeDtypeStruct((steps, rows, 3), jnp.float32))
    xs = jax.random.normal(jax.random.key(1), (5, 2, 3), jnp.float32)
    np.testing.assert_allclose(exported.call(leaves, xs), call(leaves, xs), atol=1e-6)
    with pytest.raises(ValueError, match="sizes are symbolic"):
        export.export(jax.jit(lambda xs: rj.unroll(cell, params, xs, implementation=named(cell))))(
            jax.ShapeDtypeStruct((5, rows, 3), jnp.float32)
        )


def named(cell: Any) -> str:
    return "fused" if cell.capability == "gated" else "associative"
