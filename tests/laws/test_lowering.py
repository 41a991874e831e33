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


@pytest.mark.parametrize("remat", ["sqrt", "state", 2])
def test_a_gradient_for_every_length(remat: Any) -> None:
    """Chunks would need the length as a number: what the backward pass stores is then every gate."""
    cell = rj.GRU(4)
    params = cell.init(jax.random.key(0), 3, jnp.float32)

    def slope(xs: Any, remat: Any = remat) -> Any:
        return jax.grad(lambda xs: jnp.sum(rj.unroll(cell, params, xs, remat=remat)[0] ** 2))(xs)

    (steps,) = export.symbolic_shape("t")
    exported = export.export(jax.jit(slope))(jax.ShapeDtypeStruct((steps, 2, 3), jnp.float32))
    xs = jax.random.normal(jax.random.key(1), (7, 2, 3), jnp.float32)
    np.testing.assert_allclose(exported.call(xs), slope(xs, None), atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cover", ["nothing", "lengths", "mask", "reset"])
def test_a_convolution_of_every_length(cover: str, reverse: bool) -> None:
    layer = rj.CausalConv(3, reverse=reverse)
    params = layer.init(jax.random.key(0), 2, jnp.float32)
    flags = jax.random.bernoulli(jax.random.key(2), 0.6, (5, 2))
    cases = {"lengths": jnp.array([5, 2]), "mask": flags, "reset": flags}
    covers = {cover: cases[cover]} if cover in cases else {}

    def call(xs: Any, covers: Any) -> Any:
        ys, state = layer(params, xs, **covers)
        return ys, state.x

    steps, rows = export.symbolic_shape("t, b")
    shapes = {"lengths": (rows,), "mask": (steps, rows), "reset": (steps, rows)}
    symbols = {name: jax.ShapeDtypeStruct(shapes[name], leaf.dtype) for name, leaf in covers.items()}
    exported = export.export(jax.jit(call))(jax.ShapeDtypeStruct((steps, rows, 2), jnp.float32), symbols)
    xs = jax.random.normal(jax.random.key(1), (5, 2, 2), jnp.float32)
    for got, wanted in zip(exported.call(xs, covers), call(xs, covers), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def named(cell: Any) -> str:
    return "fused" if cell.capability == "gated" else "associative"
