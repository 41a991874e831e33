"""How many steps back a cell's state still holds its inputs."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._errors import check_size, known
from .._types import Array, Params, State, Xs
from ._flat import exact, flatten
from ._traces import states


class Recall(NamedTuple):
    """recall: R² of inputs of k steps ago read out of the state, k = 0 … D, in [0, 1], (D + 1).
    horizon: the largest k up to which R² is at least one half, −1 where not even the present input is recalled, or
        where R² is NaN, ().
    capacity: Σ_k R² over all k, ().
    """

    recall: Array
    horizon: Array
    capacity: Array


def memory_horizon(
    cell: Cell,
    params: Params,
    xs: Array,
    state: State | None = None,
    *,
    delays: int,
    ridge: float | Array = 1e-6,
) -> Recall:
    """How well a linear read-out of the state recalls the inputs of k steps ago.

    x_{t−k} ≈ s_t w_k + b_k,    R²_k = 1 − Σ (x_{t−k} − x̂_{t−k})² / Σ (x_{t−k} − x̄)²

    The read-outs are fitted by ridge regression on the first half of the steps and scored on the second, negative
    scores counting as 0; R² is the mean over features that vary in the second half. Inputs must be unpredictable, such
    as white noise: what a periodic input did long ago can be read from what it does now.

    Args:
        cell, params, state: as for `rnnjax.unroll`.
        xs: inputs (T, *B, I), one array.
        delays: D, the largest k.
        ridge: the penalty on w, relative to the mean variance of the state's numbers.

    Returns:
        a `Recall`: `recall`, R² for k = 0 … D, (D + 1), `horizon` and `capacity`, ().

    Raises:
        ValueError: if T is below 4 (D + 1), or the first half of the steps has fewer than 2 S rows, S the numbers of a
            state: with S + 1 unknowns for each read-out so few say what the fit can, not what the network does. Where
            they are concrete, also for inputs that do not vary, for inputs and states that are not finite, and for a
            `ridge` too small for the states' dtype.
        TypeError: if `xs` is no single array.

    References:
        Jaeger 2001, Short term memory in echo state networks, GMD report 152.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=3, activation="identity")
    >>> params = cell.init(jax.random.key(0), in_size=1)
    >>> params = params._replace(w=jnp.eye(1, 3), u=jnp.eye(3, k=1))  # a shift register
    >>> found = rj.diagnostics.memory_horizon(cell, params, jax.random.normal(jax.random.key(1), (400, 1)), delays=4)
    >>> [round(float(r), 1) for r in found.recall], int(found.horizon)
    ([1.0, 1.0, 1.0, 0.0, 0.0], 2)
    """
    check_size("delays", delays)
    if not hasattr(xs, "shape"):
        raise TypeError(f"`xs` must be one array (T, *B, I); got {type(xs).__name__}")
    if xs.ndim > 0 and xs.shape[0] < 4 * (delays + 1):
        raise ValueError(f"`xs` must have at least 4 (D + 1) = {4 * (delays + 1)} steps; got {xs.shape[0]}")
    inputs = known(xs)
    if inputs is not None and inputs.size and not np.ptp(inputs.astype(np.float64), axis=0).any():
        raise ValueError("`xs` must vary over time, or there is nothing to recall; got the same inputs at every step")
    found = _recall(cell, params, xs, state, delays, ridge)
    capacity = known(found.capacity)
    if capacity is not None and np.isnan(capacity):
        raise ValueError(_why(cell, params, xs, state, ridge))
    return found


def _why(cell: Cell, params: Params, xs: Array, state: State | None, ridge: float | Array) -> str:
    """Why a read-out is NaN."""
    visited = states(cell, params, xs, state)
    for name, tree in (("`xs`", xs), ("the states", visited)):
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree)):
            return f"{name} must be finite, or nothing can be read out; some are inf or NaN"
    rows = math.prod(xs.shape[: xs.ndim - cell.event_ndim])
    s = flatten(visited, rows)
    enough = max(10 * float(ridge), s.size / rows * float(jnp.finfo(s.dtype).eps))
    return (
        f"`ridge` must be large enough for the covariance of the states, some of which are all but sums of others; got "
        f"{ridge}: take {enough:.1g}, or float64"
    )


@partial(jax.jit, static_argnames="delays")
def _recall(cell: Cell, params: Params, xs: Xs, state: State | None, delays: int, ridge: Array) -> Recall:
    visited = states(cell, params, xs, state)
    steps = xs.shape[0]
    rows = math.prod(xs.shape[1 : xs.ndim - cell.event_ndim])
    s = flatten(visited, steps * rows).reshape(steps, rows, -1)[delays:]
    x = xs.reshape(steps, rows, -1).astype(s.dtype)
    back = jnp.stack([x[delays - k : steps - k] for k in range(delays + 1)], axis=-2)
    half, size = s.shape[0] // 2, s.shape[-1]
    if half * rows < 2 * size:
        raise ValueError(
            f"`xs` must have at least 2 S = {2 * size} rows in the first half of the steps after `delays`, for states "
            f"of S = {size} numbers; got {half} steps of {rows}: pass more steps or sequences"
        )
    predicted = _ridge(_rows(s[:half]), _rows(back[:half]), _rows(s[half:]), ridge)
    wanted = _rows(back[half:])
    error = ((wanted - predicted) ** 2).sum(0)
    spread = ((wanted - wanted.mean(0, keepdims=True)) ** 2).sum(0)
    score = jnp.where(spread > 0, jnp.clip(1 - error / jnp.where(spread > 0, spread, 1), 0), 0)
    varying = (spread > 0).reshape(delays + 1, -1)
    recall = score.reshape(delays + 1, -1).sum(1) / jnp.maximum(varying.sum(1), 1).astype(s.dtype)
    return Recall(recall, jnp.cumprod(recall >= 0.5).sum() - 1, recall.sum())


def _rows(leaf: Array) -> Array:
    """(T, N, …) as (T·N, numbers of each)."""
    return leaf.reshape(leaf.shape[0] * leaf.shape[1], -1)


@exact
def _ridge(s: Array, y: Array, new: Array, ridge: Array) -> Array:
    """Predictions for `new` from a ridge regression of y on s, both centred."""
    mean_s, mean_y = s.mean(0, keepdims=True), y.mean(0, keepdims=True)
    centred = s - mean_s
    covariance = centred.T @ centred / s.shape[0]
    size = covariance.shape[0]
    spread = jnp.trace(covariance)
    # a state that never moves predicts the mean
    penalty = jnp.where(spread > 0, ridge * spread / size, 1).astype(s.dtype)
    matrix = covariance + penalty * jnp.eye(size, dtype=s.dtype)
    w = jax.scipy.linalg.solve(matrix, centred.T @ (y - mean_y) / s.shape[0], assume_a="pos")
    return (new - mean_s) @ w + mean_y
