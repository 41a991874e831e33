"""Cells that read several arrays at once, as a dictionary or a tuple."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnnjax as rj
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx

T, B, I, H = 6, 2, 3, 4  # noqa: E741
E = 5  # features of the other input
KEY = jax.random.key(0)


class PairParams(NamedTuple):
    """w (I, H), v (E, H), u (H, H)."""

    w: jax.Array
    v: jax.Array
    u: jax.Array


class PairState(NamedTuple):
    h: jax.Array


@rj.struct
class Pair(rj.Cell):
    """h_t = tanh(x_t w + e_t v + h_{t-1} u) for inputs {"extra": e, "x": x}: `in_size` is that of x, the second."""

    hidden_size: int

    def init(self, key: Any, in_size: int, dtype: Any = jnp.float32) -> PairParams:
        shapes = (in_size, H), (E, H), (H, H)
        keys = jax.random.split(key, 3)
        return PairParams(*(jax.random.normal(k, shape, dtype) for k, shape in zip(keys, shapes, strict=True)))

    def initial_state(self, params: Any, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> PairState:
        return PairState(jnp.zeros((*batch_shape, H), dtype))

    def project(self, params: PairParams, x: Any, noise: Any = None) -> jax.Array:
        return x["x"] @ params.w + x["extra"] @ params.v

    def step(self, params: PairParams, state: PairState, z: jax.Array, noise: Any = None) -> PairState:
        return PairState(jnp.tanh(z + state.h @ params.u))


@rj.struct
class Joined(Pair):
    """The same with one matrix w (E + I, H) for both: `in_size` is E + I, and v is not read."""

    def project(self, params: PairParams, x: Any, noise: Any = None) -> jax.Array:
        return jnp.concatenate([x["extra"], x["x"]], axis=-1) @ params.w


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(T, B, I)), "extra": rng.normal(size=(T, B, E))}


def by_hand(z: np.ndarray, u: Any) -> np.ndarray:
    h, ys = np.zeros((B, H)), []
    for z_t in z:
        h = np.tanh(z_t + h @ np.asarray(u))
        ys.append(h)
    return np.stack(ys)


def test_parameters_are_those_of_any_input() -> None:
    xs, cell = inputs(), Pair(H)
    params = cell.init(KEY, I, jnp.float64)
    wanted = by_hand(xs["x"] @ params.w + xs["extra"] @ params.v, params.u)
    np.testing.assert_allclose(rj.unroll(cell, params, xs)[0], wanted, atol=1e-12)
    np.testing.assert_allclose(jax.jit(rj.RNN(cell))(params, xs)[0], wanted, atol=1e-12)


def test_or_of_all_together() -> None:
    xs, cell = inputs(), Joined(H)
    params = cell.init(KEY, E + I, jnp.float64)
    wanted = by_hand(np.concatenate([xs["extra"], xs["x"]], -1) @ params.w, params.u)
    np.testing.assert_allclose(rj.unroll(cell, params, xs)[0], wanted, atol=1e-12)


def test_other_parameters_are_refused() -> None:
    xs, cell = inputs(), Pair(H)
    with pytest.raises(ValueError, match=r"`params.w` must be \(5, 4\) .* got \(2, 4\)\. `xs` has shape \(6, 2, 5\), "):
        rj.unroll(cell, cell.init(KEY, 2, jnp.float64), xs)
    with pytest.raises(TypeError, match=r"`xs` must be what Pair\(hidden_size=4\) reads"):
        rj.unroll(cell, cell.init(KEY, E, jnp.float64), xs)
    empty = {name: leaf[..., :0] for name, leaf in xs.items()}
    with pytest.raises(ValueError, match="`xs` must have at least one feature"):
        rj.unroll(cell, cell.init(KEY, 1), empty)


def test_modules_find_the_input_that_counts() -> None:
    """Linen draws parameters for it, and nnx takes them."""
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf.swapaxes(0, 1)), inputs())
    module = rlinen.RNN(Pair(H), param_dtype=jnp.float64)
    ys, variables = module.init_with_output(KEY, x)
    params = module.to_params(variables)
    assert params.w.shape == (I, H)
    wanted = by_hand(inputs()["x"] @ params.w + inputs()["extra"] @ params.v, params.u)
    np.testing.assert_allclose(ys.swapaxes(0, 1), wanted, atol=1e-12)
    own = rnnx.RNN(Pair(H), I, params=params)
    np.testing.assert_array_equal(own(x), ys)
    with pytest.raises(ValueError, match=r"in_features = 7 on its last axis; got 5 or 3 or 8, in shape \(2, 6, 5\), "):
        rnnx.RNN(Pair(H), 7, rngs=nnx.Rngs(0))(x)


@rj.struct
class Seen(rj.Cell):
    """h_t = ½ h_{t-1} + Σ image_t + Σ speed_t, for images (T, *B, S, I) with a speed (T, *B, E)."""

    hidden_size: int = 1

    event_ndim = 2

    def init(self, key: Any, in_size: int, dtype: Any = jnp.float32) -> tuple[()]:
        return ()

    def initial_state(self, params: Any, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> PairState:
        return PairState(jnp.zeros((*batch_shape, 1), dtype))

    def project(self, params: Any, x: Any, noise: Any = None) -> jax.Array:
        return x["image"].sum((-1, -2))[..., None] + x["speed"].sum(-1)[..., None]

    def step(self, params: Any, state: PairState, z: jax.Array, noise: Any = None) -> PairState:
        return PairState(0.5 * state.h + z)


def test_both_directions_of_inputs_with_unequal_axes() -> None:
    """What has features of its own is no elapsed time; what has none is."""
    rng = np.random.default_rng(0)
    xs = {"image": rng.normal(size=(T, B, 3, 2)), "speed": rng.normal(size=(T, B, E))}
    layer = rj.Bidirectional(Seen(), merge=None)
    params = layer.init(KEY, 2)
    (forward, backward), _ = layer(params, xs)
    z = xs["image"].sum((2, 3)) + xs["speed"].sum(2)
    weights = np.tril(0.5 ** np.subtract.outer(np.arange(T), np.arange(T)).clip(0))
    np.testing.assert_allclose(forward[..., 0], weights @ z, atol=1e-12)
    np.testing.assert_allclose(backward[..., 0], weights.T @ z, atol=1e-12)
    with pytest.raises(ValueError, match=r"`xs` with elapsed times \(T, \*B\) cannot be read in both directions"):
        layer(params, {**xs, "speed": xs["speed"][..., 0]})
