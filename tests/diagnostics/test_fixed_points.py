"""Fixed points against closed forms, and against every cell of a fine grid."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from scipy.optimize import brentq, fsolve

import rnnjax as rj
from rnnjax.cells.elman import ElmanState
from rnnjax.diagnostics import fixed_points, relax


def elman(u: np.ndarray, b: np.ndarray | float = 0.0, dtype: Any = jnp.float64) -> tuple[rj.Elman, Any]:
    cell = rj.Elman(len(u))
    params = cell.init(jax.random.key(0), 1, dtype)
    return cell, params._replace(u=jnp.asarray(u, dtype), b=jnp.broadcast_to(jnp.asarray(b, dtype), (len(u),)))


def normal_starts(count: int, size: int, seed: int = 0, dtype: Any = jnp.float64) -> ElmanState:
    return ElmanState(jnp.asarray(np.random.default_rng(seed).normal(size=(count, size)), dtype))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_three_switches(dtype: Any) -> None:
    """h = tanh(2 h) in each of three units has three solutions, so that there are 27 points, 8 of them stable."""
    cell, params = elman(2 * np.eye(3), dtype=dtype)
    found = fixed_points(cell, params, jnp.zeros(1, dtype), normal_starts(600, 3, dtype=dtype))
    up = brentq(lambda h: np.tanh(2 * h) - h, 0.5, 1)
    wanted = np.array(list(product((-up, 0, up), repeat=3)))
    distance = np.linalg.norm(np.asarray(found.state.h)[:, None] - wanted[None], axis=-1)
    assert distance.shape == (27, 27)
    assert distance.min(0).max() < 1e-5
    assert found.stable.sum() == 8
    assert found.fixed.all()
    slopes = 2 * (1 - np.tanh(2 * wanted[distance.argmin(1)]) ** 2)
    np.testing.assert_allclose(found.eigenvalues, -np.sort(-slopes, axis=1), atol=1e-4)
    assert 590 <= found.starts.sum() <= 600
    assert np.all(np.diff(found.starts) <= 0)


def on_a_grid(u: np.ndarray, b: np.ndarray, cells: int = 400) -> np.ndarray:
    """All solutions of h = tanh(h u + b) in the plane: each cell of a grid in which both residuals change sign, or all
    but, is searched with SciPy."""
    ticks = np.linspace(-1.01, 1.01, cells + 1)
    h = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1)
    residual = np.tanh(h @ u + b) - h
    corners = np.stack([residual[i : cells + i, j : cells + j] for i in (0, 1) for j in (0, 1)])
    margin = 0.2 * np.ptp(corners, axis=0)
    crosses = ((corners.min(0) - margin <= 0) & (corners.max(0) + margin >= 0)).all(-1)
    roots: list[np.ndarray] = []
    for i, j in np.argwhere(crosses):
        root, _, status, _ = fsolve(
            lambda h: np.tanh(h @ u + b) - h, h[i, j] + ticks[1] / 2 - ticks[0] / 2, full_output=True
        )
        if status == 1 and all(np.linalg.norm(root - known) > 1e-4 for known in roots):
            roots.append(root)
    return np.array(roots)


@pytest.mark.parametrize("seed", range(4))
def test_plane_against_a_grid(seed: int) -> None:
    """None is missed and none invented, and each is as stable as SciPy's is."""
    rng = np.random.default_rng(seed)
    u, b = 2 * np.eye(2) + 0.6 * rng.standard_normal((2, 2)), 0.2 * rng.standard_normal(2)
    wanted = on_a_grid(u, b)
    assert len(wanted) > 1
    cell, params = elman(u, b)
    found = fixed_points(cell, params, jnp.zeros(1), normal_starts(400, 2))
    distance = np.linalg.norm(np.asarray(found.state.h)[:, None] - wanted[None], axis=-1)
    assert distance.shape == (len(wanted), len(wanted))
    assert distance.min(0).max() < 1e-5
    for point, stable in zip(found.state.h, found.stable, strict=True):
        jacobian = np.diag(1 - np.tanh(np.asarray(point) @ u + b) ** 2) @ u.T
        assert bool(stable) == (np.abs(np.linalg.eigvals(jacobian)).max() < 1)


@pytest.mark.parametrize(("gain", "stable"), [(0.9, True), (1.1, False)])
def test_rotation(gain: float, stable: bool) -> None:
    """A quarter turn has imaginary eigenvalues: only their modulus says that the spiral opens."""
    cell, params = elman(gain * np.array([[0.0, 1.0], [-1.0, 0.0]]))
    found = fixed_points(cell, params, jnp.zeros(1), normal_starts(50, 2))
    np.testing.assert_allclose(np.abs(found.eigenvalues), [[gain, gain]], rtol=1e-6)
    assert found.stable.tolist() == [stable]


def test_input_moves_the_points() -> None:
    cell, params = elman(np.array([[0.5]]))
    params = params._replace(w=jnp.array([[2.0]]))
    found = fixed_points(cell, params, jnp.array([0.4]), normal_starts(5, 1))
    np.testing.assert_allclose(found.state.h, [[brentq(lambda h: np.tanh(0.5 * h + 0.8) - h, -1, 1)]], atol=1e-8)


def test_lstm() -> None:
    """Points of h and c together, which the equations keep."""
    cell, rng = rj.LSTM(4), np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), cell.init(jax.random.key(0), 2))
    xs = jnp.asarray(rng.standard_normal((30, 8, 2)))
    starts = rj.diagnostics.sample_states(cell, params, xs, 60, jax.random.key(1), noise=0.3)
    x = np.array([0.3, -0.2])
    found = fixed_points(cell, params, jnp.asarray(x), starts)
    assert len(found.q) >= 1
    weights = {name: np.asarray(value) for name, value in params._asdict().items()}
    h, c = np.asarray(found.state.h), np.asarray(found.state.c)
    _, after = references.lstm(np.broadcast_to(x, (1, len(h), 2)), **weights, h=h, c=c)
    np.testing.assert_allclose(after["h"], h, atol=2e-6)
    np.testing.assert_allclose(after["c"], c, atol=2e-6)
    assert found.eigenvalues.shape == (len(h), 8)


def test_points_that_rounding_keeps_from_resting() -> None:
    """Cells near 100 are rounded to 1e-5 in float32, so that no step leaves them as they are: q is above the tolerance,
    and they are fixed points as in float64."""
    cell, rng, size = rj.LSTM(6), np.random.default_rng(0), 6
    params = cell.init(jax.random.key(0), 1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), params)
    params = params._replace(b=params.b.at[size : 2 * size].set(6.0))
    weights = {name: np.asarray(value, np.float64) for name, value in params._asdict().items()}
    _, end = references.lstm(np.zeros((6_000, 1, 1)), **weights, h=np.zeros((1, size)), c=np.zeros((1, size)))
    near = 1 + np.linspace(-0.02, 0.02, 6)[:, None]
    starts = jax.tree.map(lambda leaf: jnp.asarray(near * leaf, jnp.float32), rj.cells.LSTMState(end["h"], end["c"]))
    found = fixed_points(cell, params, jnp.zeros(1, jnp.float32), starts)
    assert found.q.max() > 1e-12
    assert found.starts.sum() == 6
    assert found.fixed.all()
    np.testing.assert_allclose(found.state.c, np.broadcast_to(end["c"], found.state.c.shape), rtol=1e-3)


def test_slow_points() -> None:
    """Just before a saddle-node bifurcation q has a minimum above zero: a slow point, wanted or not."""
    cell, params = elman(np.array([[2.0]]), 0.54)
    ghost = brentq(lambda h: 2 * (1 - np.tanh(2 * h + 0.54) ** 2) - 1, -1, 0.54 / -2)
    q = 0.5 * (np.tanh(2 * ghost + 0.54) - ghost) ** 2
    assert 1e-6 < q < 1e-4
    starts = normal_starts(100, 1)
    assert len(fixed_points(cell, params, jnp.zeros(1), starts).q) == 1
    found = fixed_points(cell, params, jnp.zeros(1), starts, slow=1e-4, unique=0.05)
    assert found.fixed.tolist().count(True) == 1
    slow = int(np.argmin(found.fixed))
    np.testing.assert_allclose(found.state.h[slow, 0], ghost, atol=1e-2)
    np.testing.assert_allclose(found.q[slow], q, rtol=1e-2)


def test_tolerances() -> None:
    cell, params = elman(2 * np.eye(2))
    starts = normal_starts(200, 2)
    everything = fixed_points(cell, params, jnp.zeros(1), starts)
    assert len(everything.q) == 9
    assert len(fixed_points(cell, params, jnp.zeros(1), starts, unique=10.0).q) == 1
    # the four corners are 1.35 from the middle, the starts 1.25 on average
    assert len(fixed_points(cell, params, jnp.zeros(1), starts, outlier=1.0).q) == 5
    one = ElmanState(jnp.full((3, 2), 0.9))
    assert fixed_points(cell, params, jnp.zeros(1), one).starts.tolist() == [3]


def test_relax_batches_and_vmap() -> None:
    """Each start by itself ends where it ends among others, however many take a step at a time."""
    cell, params = elman(2 * np.eye(2) + 0.3 * np.random.default_rng(2).standard_normal((2, 2)))
    starts, x = normal_starts(12, 2), jnp.zeros(1)
    points, q = relax(cell, params, x, starts)
    few, _ = relax(cell, params, x, starts, together=5)
    np.testing.assert_allclose(few.h, points.h, atol=1e-9)
    each = jax.vmap(lambda h: relax(cell, params, x, ElmanState(h[None])).state.h[0])(starts.h)
    np.testing.assert_allclose(each, points.h, atol=1e-9)
    residual = np.tanh(np.asarray(points.h) @ np.asarray(params.u)) - np.asarray(points.h)
    np.testing.assert_allclose(q, 0.5 * (residual**2).sum(-1), atol=1e-15)
    assert np.all(np.asarray(q) <= 0.5 * ((np.tanh(starts.h @ params.u) - starts.h) ** 2).sum(-1))
    limited = relax(cell, params, x, starts, iterations=1)
    assert np.any(np.asarray(limited.q) > 1e-6)


def test_none_found_and_bad_starts() -> None:
    cell, params = elman(np.array([[2.0]]), 0.54)
    nothing = fixed_points(cell, params, jnp.zeros(1), normal_starts(3, 1), tolerance=0.0)
    assert nothing.eigenvalues.shape in ((0, 1), (1, 1))
    empty = fixed_points(cell, params, jnp.zeros(1), normal_starts(3, 1), iterations=1, tolerance=1e-30)
    assert (empty.state.h.shape, empty.eigenvalues.shape) == ((0, 1), (0, 1))
    with pytest.raises(ValueError, match="`starts` must be finite"):
        fixed_points(cell, params, jnp.zeros(1), ElmanState(jnp.full((3, 1), jnp.nan)))
    with pytest.raises(ValueError, match="`params` must be finite"):
        fixed_points(cell, params._replace(u=params.u * jnp.nan), jnp.zeros(1), normal_starts(3, 1))
    with pytest.raises(ValueError, match="at least 1"):
        fixed_points(cell, params, jnp.zeros(1), normal_starts(0, 1))
    with pytest.raises(ValueError, match="`x` must be finite"):
        fixed_points(cell, params, jnp.full(1, jnp.inf), normal_starts(3, 1))
    with pytest.raises(ValueError, match=r"`x` must be one constant input.*\(5, 1\)"):
        fixed_points(cell, params, jnp.zeros((5, 1)), normal_starts(3, 1))
    for starts in (
        jnp.zeros((3, 1)),
        ElmanState(jnp.zeros(())),
        (),
        ElmanState(jnp.zeros((3, 2))),
        ElmanState(jnp.zeros((5, 3, 1))),
    ):
        with pytest.raises(ValueError, match=r"`starts` must be states with leaves \(N, 1\)"):
            fixed_points(cell, params, jnp.zeros(1), starts)


def callback(x: jax.Array) -> jax.Array:
    return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def test_a_step_without_a_forward_derivative() -> None:
    cell = rj.Elman(2, activation=callback)
    params = cell.init(jax.random.key(0), 1)
    for run in (
        lambda: fixed_points(cell, params, jnp.zeros(1), normal_starts(3, 2, dtype=jnp.float32)),
        lambda: rj.diagnostics.step_jacobians(cell, params, jnp.ones((3, 1))),
        lambda: rj.diagnostics.lyapunov_exponents(cell, params, jnp.ones((3, 1))),
    ):
        with pytest.raises(TypeError, match=r"the step of .*Elman.* must have a forward derivative"):
            run()
    assert rj.diagnostics.states(cell, params, jnp.ones((3, 1))).h.shape == (3, 2)
