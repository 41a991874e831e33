"""The law about noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .gradients import check_reverse_mode
from .trial import ROWS, STEPS, Gradients, Shape, Trial, agree, loop, require


def noise(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """The same key gives the same draws, another key and another row others, no key none; gradients see constants."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    first, second = (trial.but(key=jax.random.key(seed)) for seed in (1, 2))
    agree("no key", trial.run(), loop(trial))
    still, ys = trial.run().ys, first.run().ys
    agree("the same key", first.but(key=jax.random.key(1)).run().ys, ys, tolerance=0)
    drawn = jax.tree.leaves(trial.cell.noise(first.key, STEPS, (ROWS,), jnp.float64))
    if np.array_equal(ys, still):
        require(not drawn, "the noise changes nothing")
        return
    require(not np.allclose(ys, second.run().ys), "two keys give the same outputs")
    for leaf in drawn:
        lead = leaf.shape[: 1 + len(trial.batch_shape)]
        require(lead[0] in (1, STEPS) and lead[1:] == (ROWS,), f"noise must lead with (T or 1, *B); got {leaf.shape}")
    many = jax.tree.leaves(trial.cell.noise(first.key, STEPS, (64,), jnp.float64))
    for leaf in many:
        require(any((leaf[:, 0] != leaf[:, row]).any() for row in range(1, 64)), "all rows share their noise")
    for reverse, remats in ((False, (None,)), (True, ("state", 2))):
        want = first.but(implementation="scan", reverse=reverse).pull()
        agree(f"outcome under noise, {reverse=}", want.out, loop(first.but(reverse=reverse)))
        for remat in remats:
            agree(f"gradients under noise, {reverse=} {remat=}", first.but(reverse=reverse, remat=remat).pull(), want)
    check_reverse_mode(first, Gradients(None, first.params, first.xs, first.state))
    without, under = (_in_prepare(first, key) for key in (None, first.key))
    for name, gradient in under.items():
        require(without[name].any() or not gradient.any(), f"what `prepare` draws has a gradient in the cell's {name}")


def _in_prepare(trial: Trial, key: Any) -> dict[str, np.ndarray]:
    """What one cotangent of the prepared parameters becomes in each of the cell's numbers."""

    def prepared(cell: Cell) -> list[Any]:
        leaves = jax.tree.leaves(cell.prepare(trial.params, key=key))
        return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    params, pull = jax.vjp(prepared, trial.cell)
    rng = np.random.default_rng(13)
    grads = pull([rng.normal(size=leaf.shape).astype(leaf.dtype) for leaf in params])[0]
    paths = jax.tree_util.tree_flatten_with_path(grads)[0]
    floats = [(path, leaf) for path, leaf in paths if leaf.dtype != jax.dtypes.float0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in floats}
