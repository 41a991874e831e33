"""No time steps give back the state, no rows give no rows, and neither disturbs a gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax import testing

from . import Subject


def test_nothing_to_do(subject: Subject) -> None:
    testing.nothing_to_do(*subject)


@pytest.mark.parametrize(
    ("cell", "steps", "options"),
    [
        (rj.LSTM(4), 6, {"implementation": "scan", "remat": 2}),
        (rj.LSTM(4), 6, {"implementation": "fused", "remat": 2}),
        (rj.LSTM(4), 6, {"implementation": "fused", "remat": "sqrt"}),
        (rj.GRU(4), 1000, {}),
        (rj.LRU(4), 6, {"implementation": "chunked", "remat": 2}),
        pytest.param(rj.GLA(4, rank=2), 300, {}, marks=pytest.mark.slow),
        (rj.GRU(4), 6, {"implementation": "newton", "remat": 2}),
    ],
    ids=str,
)
def test_no_rows_in_pieces(cell: Any, steps: int, options: dict[str, Any]) -> None:
    params = cell.init(jax.random.key(0), 3)

    def loss(params: Any, xs: Any) -> Any:
        return jnp.sum(rj.unroll(cell, params, xs, **options)[0])

    grads = jax.grad(loss, argnums=(0, 1))(params, jnp.zeros((steps, 0, 3)))
    assert grads[1].shape == (steps, 0, 3)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("shape", [(3, 0, 2, 3), (3, 5, 0, 3)], ids=str)
@pytest.mark.parametrize(
    "cell",
    [rj.LSTM(4), *(pytest.param(cell, marks=pytest.mark.slow) for cell in (rj.GRU(4), rj.Elman(4)))],
    ids=lambda cell: type(cell).__name__,
)
def test_nothing_to_do_under_vmap(cell: Any, shape: tuple[int, ...]) -> None:
    params = cell.init(jax.random.key(0), 3)

    def loss(params: Any, xs: Any) -> Any:
        return jnp.sum(jax.vmap(lambda x: rj.unroll(cell, params, x)[0])(xs))

    grads = jax.grad(loss, argnums=(0, 1))(params, jnp.zeros(shape))
    assert grads[1].shape == shape
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(grads))
