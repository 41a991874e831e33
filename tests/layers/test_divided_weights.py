"""Layers whose weights are divided over an explicit mesh, as `sharding` of the Flax modules divides them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax as rj

T, B, I = 3, 4, 8  # noqa: E741
MESH = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
LAYERS = {
    "dense": rj.Dense(8),
    "layer_norm": rj.LayerNorm(groups=2),
    "rms_norm": rj.RMSNorm(),
    "causal_conv": rj.CausalConv(3),
    "attention_pooling": rj.AttentionPooling(8),
    "stack": rj.Stack([rj.Dense(8), rj.LSTM(8)]),
}


def placed(leaf: Any, spec: P) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(MESH, spec))


@pytest.mark.parametrize("axis", ["data", "model"])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_gathered(name: str, axis: str) -> None:
    """Outputs have the placement of the batch alone, also where the weights lie along its axis, and gradients that of
    the weights."""
    layer, xs = LAYERS[name], jax.ShapeDtypeStruct((T, B, I), jnp.float64)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), I, jnp.float64))
    params = jax.tree.map(lambda leaf: placed(leaf, P(*[None] * (leaf.ndim - 1), axis)), params)

    def outputs(params: Any, xs: Any) -> Any:
        ys, _ = layer(params, xs)
        return ys.sum(), ys

    with jax.sharding.use_abstract_mesh(MESH):
        slopes, ys = jax.eval_shape(jax.grad(outputs, has_aux=True), params, placed(xs, P(None, "data")))
    batch = P(None, "data", None) if layer.keeps_time else P("data", None)
    assert ys.sharding.spec == batch
    assert jax.tree.map(lambda leaf: leaf.sharding.spec, slopes) == jax.tree.map(
        lambda leaf: leaf.sharding.spec, params
    )


@pytest.mark.parametrize("axis", ["data", "model"])
def test_the_table_of_an_embedding_is_not_gathered(axis: str) -> None:
    seen = []

    class Watched(rj.Embedding):
        def apply(self, params: Any, *args: Any) -> Any:
            seen.append(jax.typeof(params.w).sharding.spec)
            return super().apply(params, *args)

    layer, ids = Watched(8, 8), placed(jax.ShapeDtypeStruct((T, B), jnp.int32), P(None, "data"))
    params = jax.tree.map(lambda leaf: placed(leaf, P(None, axis)), jax.eval_shape(layer.init, jax.random.key(0)))
    with jax.sharding.use_abstract_mesh(MESH):
        ys, _ = jax.eval_shape(lambda *args: layer(*args), params, ids)
    assert seen == [P(None, axis)]
    assert ys.sharding.spec == P(None, "data", None)


def test_the_weights_of_the_pooling_are_gathered() -> None:
    layer = LAYERS["attention_pooling"]
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), I, jnp.float64))
    params = params._replace(w=placed(params.w, P(None, "data")))
    xs = placed(jax.ShapeDtypeStruct((T, B, I), jnp.float64), P(None, "data"))
    with jax.sharding.use_abstract_mesh(MESH):
        alpha = jax.eval_shape(layer.weights, params, xs)
    assert alpha.sharding.spec == P(None, "data")
