"""Fixed and slow points of a cell with a constant input."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._errors import check_size, describe
from .._types import Array, Params, State
from ._flat import flat_cell, flatten, unflatten
from ._levenberg import Map, met, minimise


class Relaxed(NamedTuple):
    """Where the search from each start ended: states with leaves (N, …), and q = ½ |F(s) − s|² there, (N)."""

    state: State
    q: Array


class FixedPoints(NamedTuple):
    """What was found, those that most starts ended at first.

    state: the points, leaves (K, …).
    q: ½ |F(s) − s|², (K).
    fixed: whether q is within the tolerance, (K); the others are slow points.
    eigenvalues: of ∂F/∂s, complex (K, S), in falling order of their modulus.
    stable: whether all of them are inside the unit circle, (K); within rounding of it, either may be said.
    starts: how many starts ended there, (K).
    """

    state: State
    q: Array
    fixed: Array
    eigenvalues: Array
    stable: Array
    starts: Array


@partial(jax.jit, static_argnames=("iterations", "together"))
def relax(
    cell: Cell,
    params: Params,
    x: Array,
    starts: State,
    *,
    tolerance: float | Array = 1e-12,
    iterations: int = 100,
    together: int = 16,
) -> Relaxed:
    """Lowers the speed of a cell's state from many starts at once: the search in `fixed_points`, which is pure.

    q(s) = ½ |F(s) − s|²,    F(s) = step(s, x)

    Args:
        cell, params: a cell and its parameters.
        x: the constant input (I).
        starts: states with leaves (N, …).
        tolerance: below this q, or that of rounding as in `fixed_points`, the search goes on only while each step
            quarters q.
        iterations: the most steps of Levenberg and Marquardt from each start.
        together: how many searches take a step at a time; memory for S² numbers each.

    Raises:
        TypeError, ValueError: if `x` or `starts` have another structure or shape, or the step no forward derivative.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=2)
    >>> params = cell.init(jax.random.key(0), in_size=1)._replace(u=2 * jnp.eye(2))
    >>> starts = cell.initial_state(params, (1,))._replace(h=jnp.array([[0.8, -0.8]]))
    >>> [round(float(h), 4) for h in rj.diagnostics.relax(cell, params, jnp.zeros(1), starts).state.h[0]]
    [0.9575, -0.9575]
    """
    step, jacobian, shapes = _constant(cell, params, x)
    rows = _rows(starts, shapes)
    flat = flatten(starts, rows).astype(jax.tree.leaves(shapes)[0].dtype)
    one = jnp.eye(flat.shape[1], dtype=flat.dtype)
    points, q = minimise(lambda s: step(s) - s, lambda s: jacobian(s) - one, flat, tolerance, iterations, together)
    return Relaxed(unflatten(points, shapes), q)


def _constant(cell: Cell, params: Params, x: Array) -> tuple[Map, Map, State]:
    """The map of state vectors at a constant input, its Jacobian, and the shapes of a state."""
    first = jax.tree.leaves(x)[0]
    if jnp.ndim(first) != cell.event_ndim:
        raise ValueError(f"`x` must be one constant input, without time and rows, such as (I); got {jnp.shape(first)}")
    flat = flat_cell(cell, params, jax.tree.map(lambda leaf: leaf[None], x), None, differentiate=True)
    z = jax.tree.map(lambda leaf: leaf[0, 0], flat.z)
    return lambda s: flat.step(s, z), lambda s: flat.jacobian(s, z), flat.shapes


def _rows(starts: State, shapes: State) -> int:
    """N, of states that fit the cell's."""
    leaves = [jnp.shape(leaf) for leaf in jax.tree.leaves(starts)]
    rows = leaves[0][:1] if leaves else ()
    wanted = [leaf.shape for leaf in jax.tree.leaves(shapes)]
    if jax.tree.structure(starts) != jax.tree.structure(shapes) or leaves != [(*rows, *shape) for shape in wanted]:
        parts = ", ".join("(" + ", ".join(map(str, ("N", *shape))) + ")" for shape in wanted)
        raise ValueError(
            f"`starts` must be states with leaves {parts}, as `sample_states` draws them; got {describe(starts)} "
            f"with {', '.join(map(str, leaves)) or 'no leaves'}"
        )
    return int(leaves[0][0])


def fixed_points(
    cell: Cell,
    params: Params,
    x: Array,
    starts: State,
    *,
    tolerance: float = 1e-12,
    slow: float | None = None,
    unique: float = 1e-3,
    outlier: float = 10.0,
    iterations: int = 100,
) -> FixedPoints:
    """Fixed points, and slow points, of a cell with a constant input, from many starts.

    q(s) = ½ |F(s) − s|²,    F(s) = step(s, x),    J = ∂F/∂s

    From every start q is lowered to a local minimum by the method of Levenberg and Marquardt. Minima with q above
    `slow` and those far from all starts are dropped; those within `unique` of one with a lower q are the same point.
    Saddles are found as well as attractors. What no start leads to is not found: draw starts with `sample_states`, and
    some noise. How many points there are depends on the numbers, so that this is not to be jitted; `relax`, the part
    that takes time, can be.

    Args:
        cell, params: a cell and its parameters.
        x: the constant input (I).
        starts: states with leaves (N, …).
        tolerance: the largest q of a fixed point; where rounding of a state leaves more, (ε |s|)² with ε of its dtype,
            that.
        slow: the largest q of a slow point; None keeps fixed points alone.
        unique: the largest Euclidean distance of two points that count as one.
        outlier: points farther from the mean of the starts than so many mean distances of the starts from it are
            dropped, unless all starts are one.
        iterations: the most steps from each start.

    Returns:
        a `FixedPoints`; K is 0 where no start leads to a point that is kept.

    Raises:
        TypeError, ValueError: as `relax`, and if parameters, `x` or starts are not finite or there are no starts.

    References:
        Sussillo, Barak 2013, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
        networks, doi:10.1162/NECO_a_00409.
        Golub, Sussillo 2018, FixedPointFinder, doi:10.21105/joss.01003.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=2)
    >>> params = cell.init(jax.random.key(0), in_size=1)._replace(u=2 * jnp.eye(2))
    >>> starts = cell.initial_state(params, (200,))._replace(h=jax.random.normal(jax.random.key(1), (200, 2)))
    >>> found = rj.diagnostics.fixed_points(cell, params, jnp.zeros(1), starts)
    >>> found.q.size, int(found.stable.sum())
    (9, 4)
    """
    _check_finite(params=params, x=x, starts=starts)
    check_size(
        "N, the number of `starts`,",
        min((n for leaf in jax.tree.leaves(starts) for n in np.shape(leaf)[:1]), default=1),
    )
    relaxed = relax(cell, params, x, starts, tolerance=tolerance, iterations=iterations)
    rows = relaxed.q.size
    origins = np.asarray(flatten(starts, rows), np.float64)
    points, q = np.asarray(flatten(relaxed.state, rows)), np.asarray(relaxed.q)
    fixed = np.asarray(met(points, q, tolerance))
    fits = fixed if slow is None else fixed | (q <= slow)
    index, counts = _distinct(points, q, fits & _near(points, origins, outlier), unique)
    eigenvalues = _eigenvalues(cell, params, x, points[index])
    return FixedPoints(
        state=jax.tree.map(lambda leaf: leaf[index], relaxed.state),
        q=jnp.asarray(q[index]),
        fixed=jnp.asarray(fixed[index]),
        eigenvalues=jnp.asarray(eigenvalues),
        stable=jnp.asarray((np.abs(eigenvalues) < 1).all(-1)),
        starts=jnp.asarray(counts),
    )


def _check_finite(**trees: Any) -> None:
    for name, tree in trees.items():
        if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree)):
            raise ValueError(f"`{name}` must be finite; got inf or NaN, from which no search leads anywhere")


def _near(points: np.ndarray, starts: np.ndarray, outlier: float) -> np.ndarray:
    """Which points are within so many mean distances of the starts' mean."""
    centre = starts.mean(0)
    radius = np.linalg.norm(starts - centre, axis=1).mean()
    if radius == 0:
        return np.ones(len(points), bool)
    return np.linalg.norm(points - centre, axis=1) <= outlier * radius


def _distinct(points: np.ndarray, q: np.ndarray, fits: np.ndarray, unique: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows that stand for distinct points, and how many rows each stands for, in falling order of that."""
    left, rows, counts = fits.copy(), [], []
    for row in np.argsort(q):
        if left[row]:
            same = left & (np.linalg.norm(points - points[row], axis=1) <= unique)
            left &= ~same
            rows.append(row)
            counts.append(same.sum())
    order = np.argsort(-np.array(counts, int), kind="stable")
    return np.array(rows, int)[order], np.array(counts, int)[order]


def _eigenvalues(cell: Cell, params: Params, x: Any, points: np.ndarray) -> np.ndarray:
    """Eigenvalues at each point, (K, S), in falling order of modulus."""
    if not len(points):
        return np.zeros((0, points.shape[1]), np.complex128)
    # filled up to a power of two, so that few programs are compiled
    size = 1 << (len(points) - 1).bit_length()
    filled = np.concatenate([points, np.repeat(points[:1], size - len(points), axis=0)])
    values = np.linalg.eigvals(np.asarray(_jacobians(cell, params, x, filled))[: len(points)])
    return np.take_along_axis(values, np.argsort(-np.abs(values), axis=1), axis=1)


@jax.jit
def _jacobians(cell: Cell, params: Params, x: Any, points: Array) -> Array:
    _, jacobian, _ = _constant(cell, params, x)
    return jax.lax.map(jacobian, points, batch_size=min(64, points.shape[0]))
