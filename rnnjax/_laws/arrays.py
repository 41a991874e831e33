"""Laws about batch axes and dtypes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._unroll import unroll
from .trial import ROWS, Outcome, Pulled, Shape, Trial, agree, computing, require


def batch(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Two batch axes are rows of one, one is rows of none, and both are `vmap`, in values and gradients."""
    whole = Trial.of(cell, event_shape, implementation, batch_shape=(2, ROWS)).patterned()
    rows = [whole.row(i) for i in range(2)]
    _agree_with_rows(whole.pull(), [row.pull() for row in rows])

    one = rows[0]
    each = [one.row(i).pull() for i in range(ROWS)]
    _agree_with_rows(one.pull(), each)

    def pull(xs: Any, state: Any, mask: Any, reset: Any, ys: Any, last: Any) -> Pulled:
        trial = one.but(xs=xs, state=state, mask=mask, reset=reset, cotangents=Outcome(ys, last))
        return trial.traced_pull()

    arrays = one.xs, one.state, one.mask, one.reset, *one.cotangents
    agree("vmap", jax.vmap(pull, in_axes=(1, 0, 1, 1, 1, 0))(*arrays), _stack(each, 0))


def _agree_with_rows(got: Pulled, rows: list[Pulled]) -> None:
    agree("ys", got.out.ys, np.stack([row.out.ys for row in rows], axis=1))
    agree("state", got.out.state, _stack([row.out.state for row in rows], 0))
    agree("inputs' gradients", got.grads.xs, _stack([row.grads.xs for row in rows], 1))
    agree("state's gradients", got.grads.state, _stack([row.grads.state for row in rows], 0))
    shared = [(row.grads.cell, row.grads.params) for row in rows]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *shared)
    agree("gradients of cell and parameters", (got.grads.cell, got.grads.params), summed)


def _stack(trees: list[Any], axis: int) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *trees)


# inputs, parameters, compute_dtype -> outputs, state
_TABLE = (
    ("float32", "float32", None, "float32", "float32"),
    ("bfloat16", "float32", None, "float32", "float32"),
    ("float32", "bfloat16", None, "float32", "float32"),
    ("bfloat16", "bfloat16", None, "bfloat16", "float32"),
    ("float64", "float64", None, "float64", "float64"),
    ("float32", "float64", None, "float64", "float64"),
    ("float32", "float32", "bfloat16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float64", "float64", "float64"),
    ("float64", "float64", "bfloat16", "bfloat16", "float32"),
)


def dtypes(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Outputs are in the compute dtype, states in at least float32, gradients in the dtype of what they belong to."""
    trial = Trial.of(cell, event_shape, implementation)
    for inputs, parameters, compute, outputs, states in _TABLE:
        own = computing(cell, compute)
        if own is None:
            continue
        row = f"xs {inputs}, params {parameters}, compute_dtype {compute}"
        xs, params = _cast(trial.xs, inputs), _cast(trial.params, parameters)
        (ys, state), back = jax.eval_shape(partial(_pull_ones, own, implementation), params, xs)
        require(ys.dtype == outputs, f"{row}: ys are {ys.dtype}, not {outputs}")
        for leaf in jax.tree.leaves(state):
            require(leaf.dtype == states, f"{row}: the state is {leaf.dtype}, not {states}")
        for leaf, grad in zip(jax.tree.leaves((params, xs)), jax.tree.leaves(back), strict=True):
            require(leaf.dtype == grad.dtype, f"{row}: the gradient of {leaf.dtype} is {grad.dtype}")
    for kind, compute in (("bfloat16", None), ("float32", "bfloat16")):
        own = computing(cell, compute)
        if own is not None:
            _near_float64(own, implementation, trial, kind)
    for kind in ("int32", "bool"):
        integers = jax.tree.map(lambda leaf, kind=kind: leaf.astype(kind), trial.xs)
        try:
            unroll(cell, trial.params, integers)
        except TypeError:
            continue
        raise AssertionError(f"inputs of {kind} are taken without a TypeError")


def _near_float64(cell: Cell, implementation: str, trial: Trial, kind: str) -> None:
    """With products in bfloat16, values are those of float64 but for a few roundings, and no state is rounded."""
    params, xs = _cast(trial.params, kind), _cast(trial.xs, kind)
    got = jax.device_get(jax.jit(partial(_run, cell, implementation))(params, xs))
    exact = trial.but(params=_cast(params, "float64"), xs=_cast(xs, "float64"), state=None).run()
    for mine, wide in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        largest = max(1e-30, np.abs(wide).max(initial=0))
        agree(kind, np.asarray(mine, float) / largest, np.asarray(wide, float) / largest, tolerance=0.05)
    wide_state = jax.tree.leaves(exact.state)
    for (path, leaf), wide in zip(jax.tree_util.tree_flatten_with_path(got.state)[0], wide_state, strict=True):
        rounded = _representable(leaf) and not _representable(np.asarray(wide))
        require(not rounded, f"{kind}: the state{jax.tree_util.keystr(path)} is rounded to bfloat16")


def _representable(leaf: Any) -> bool:
    """Whether bfloat16 holds every number exactly, as it does counts and zeros."""
    return bool((leaf.astype(jnp.bfloat16).astype(leaf.dtype) == leaf).all())


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def _run(cell: Cell, implementation: str, params: Any, xs: Any) -> Outcome:
    return Outcome(*unroll(cell, params, xs, implementation=implementation))


def _pull_ones(cell: Cell, implementation: str, params: Any, xs: Any) -> tuple[Outcome, Any]:
    out, back = jax.vjp(partial(_run, cell, implementation), params, xs)
    return out, back(jax.tree.map(jnp.ones_like, out))
