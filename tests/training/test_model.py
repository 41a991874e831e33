"""Models in pure form: which random streams and marks a module is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnnjax.training import fit
from rnnjax.training._batches import Batch
from rnnjax.training._model import Streamed, adapt


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Drawn(nn.Module):
    """Adds numbers of a stream of its own, and of that of dropout, in training alone."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        w = self.param("w", nn.initializers.ones, ())
        noise = [jax.random.normal(self.make_rng(name), (3,)) for name in ("noise", "dropout") if train]
        return w * x, noise


class Sums(nnx.Module):
    """Sums of the steps that are valid; what it is given has no defaults, and it cannot be called."""

    def unroll(self, x: Any, state: Any, *, mask: Any, reset: Any) -> Any:
        assert reset is None
        ys = state[:, None] + jnp.cumsum(jnp.where(mask, x, 0), 1)
        return ys, ys[:, -1]

    def initial_state(self, batch: tuple[int, ...]) -> Any:
        return jnp.zeros(batch)


def test_an_nnx_module_that_only_unrolls_is_given_all_marks() -> None:
    x, mask = np.arange(6.0).reshape(2, 3), np.array([[True, True, True], [True, False, True]])
    model = adapt(Sums(), x, jax.random.key(0))
    state = model.initial_state(model.params, model.rest, x) + 1
    ys, state, _ = model.stream(model.params, model.rest, Streamed(x, mask, None, state), None, True)
    np.testing.assert_array_equal(ys, [[1, 2, 4], [4, 4, 9]])
    np.testing.assert_array_equal(state, [4, 9])


def test_streams_of_other_names_are_drawn_from() -> None:
    module, x, keys = Drawn(), np.ones((2, 3), np.float32), jax.random.split(jax.random.key(0))
    variables = module.init(jax.random.key(1), x)
    model = adapt((variables, module), x, keys[0])

    def run(key: Any) -> Any:
        (_, drawn), _ = model.apply(model.params, model.rest, Batch(x, None), key, True)
        return drawn

    noise, dropout = run(keys[0])
    _, (_, alone) = module.apply(variables, x, train=True, rngs={"dropout": keys[0], "noise": keys[1]})
    np.testing.assert_array_equal(dropout, alone)
    assert np.all(noise != dropout)
    np.testing.assert_array_equal(run(keys[0])[0], noise)
    assert np.all(run(keys[1])[0] != noise)


def test_a_module_with_noise_trains() -> None:
    def loss(outputs: Any, targets: Any, mask: Any = None) -> Any:
        y, noise = outputs
        return ((y + sum(noise) - targets) ** 2).mean()

    x = np.ones((4, 3), np.float32)
    module = Drawn()
    variables = module.init(jax.random.key(1), x)
    options: dict[str, Any] = {"loss": loss, "optimizer": optax.sgd(0.1), "batch_size": 4, "progress": False}
    fitted = fit((variables, module), (x, x), **options)
    assert fitted.history["loss"][0] > 0  # without noise it would be 0
