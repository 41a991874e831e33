"""Jacobians, Lyapunov exponents and memory against closed forms, NumPy and known systems."""

from __future__ import annotations

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jax import Array

import rnnjax as rj
from rnnjax.diagnostics import (
    flossing,
    jacobian_norms,
    lyapunov_exponents,
    lyapunov_exponents_of_map,
    memory_horizon,
    recurrent_spectrum,
    step_jacobians,
)

T, B, I, H = 5, 3, 2, 3  # noqa: E741


def random_of(cell: Any, seed: int, steps: int = T) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = cell.init(jax.random.key(0), I, jnp.float64)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.8 * rng.standard_normal(leaf.shape)), shapes)
    return params, rng.standard_normal((steps, B, I))


def lstm_jacobian(params: Any, x: np.ndarray, s: np.ndarray) -> np.ndarray:
    """∂(h, c)_t/∂(h, c)_{t-1} of one row, by central differences of the equations."""
    weights = {name: np.asarray(value) for name, value in params._asdict().items()}

    def step(s: np.ndarray) -> np.ndarray:
        _, state = references.lstm(x[None, None], **weights, h=s[None, :H], c=s[None, H:])
        return np.concatenate([state["h"][0], state["c"][0]])

    columns = [(step(s + 1e-6 * e) - step(s - 1e-6 * e)) / 2e-6 for e in np.eye(2 * H)]
    return np.stack(columns, axis=1)


def test_step_jacobians_and_products() -> None:
    cell = rj.LSTM(H)
    params, x = random_of(cell, 0)
    visited = rj.diagnostics.states(cell, params, jnp.asarray(x))
    before = np.concatenate([np.zeros((1, B, 2 * H)), np.concatenate([visited.h, visited.c], -1)[:-1]])
    found, norms = step_jacobians(cell, params, jnp.asarray(x)), jacobian_norms(cell, params, jnp.asarray(x))
    for row in range(B):
        product = np.eye(2 * H)
        for t in reversed(range(T)):
            jacobian = lstm_jacobian(params, x[t, row], before[t, row])
            np.testing.assert_allclose(found[t, row], jacobian, rtol=0, atol=1e-8)
            product = product @ jacobian
            np.testing.assert_allclose(norms.step[t, row], np.log(np.linalg.norm(jacobian, 2)), atol=1e-7)
            np.testing.assert_allclose(norms.product[t, row], np.log(np.linalg.norm(product, 2)), atol=1e-7)


@pytest.mark.parametrize(
    "cell",
    [
        rj.GRU(H),
        rj.ResetBeforeGRU(H),
        rj.PeepholeLSTM(H),
        rj.LayerNormLSTM(H),
        rj.LeakyElman(H, leak=0.3),
        rj.Zoneout(rj.GRU(H), rate=0.4),
        rj.ConvLSTM(2, spatial_shape=(3,)),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_step_jacobians_of_any_cell(cell: Any) -> None:
    """Column by column: what `unroll` makes of states that are moved a little either way."""
    params, x = random_of(cell, 10)
    x = jnp.asarray(np.random.default_rng(11).standard_normal((2, 3, I) if cell.event_ndim == 2 else (2, I)))
    before = rj.diagnostics.states(cell, params, x[:1])
    flat, restore = jax.flatten_util.ravel_pytree(jax.tree.map(lambda leaf: leaf[0], before))
    step = jax.jit(jax.vmap(lambda s: jax.flatten_util.ravel_pytree(rj.unroll(cell, params, x[1:], restore(s))[1])[0]))
    moves = 1e-6 * np.eye(flat.size)
    wanted = (np.asarray(step(flat[None] + moves)) - np.asarray(step(flat[None] - moves))).T / 2e-6
    np.testing.assert_allclose(step_jacobians(cell, params, x)[1], wanted, rtol=0, atol=1e-8)


def test_a_gated_jacobian_costs_no_step_for_every_unit() -> None:
    cell = rj.GRU(64)
    params, xs = cell.init(jax.random.key(0), I), jnp.ones((3, I), jnp.float32)

    def flops(run: Any) -> float:
        return jax.jit(run).lower(params).compile().cost_analysis()["flops"]

    steps = flops(lambda params: rj.unroll(cell, params, xs, implementation="scan")[0])
    assert flops(lambda params: step_jacobians(cell, params, xs)) < 8 * steps


def test_products_neither_underflow_nor_overflow() -> None:
    cell = rj.Elman(2, activation="identity")
    params = cell.init(jax.random.key(0), 1)
    for scale in (0.01, 100.0):
        norms = jacobian_norms(cell, params._replace(u=scale * jnp.eye(2, dtype=jnp.float32)), jnp.ones((50, 1), "f4"))
        np.testing.assert_allclose(norms.product, np.log(scale) * np.arange(50, 0, -1), rtol=1e-5)
    zero = jacobian_norms(cell, params._replace(u=jnp.zeros((2, 2), "f4")), jnp.ones((4, 1), "f4"))
    assert np.all(np.asarray(zero.product) == -np.inf)


def test_recurrent_spectrum() -> None:
    cell = rj.GRU(H)
    params, _ = random_of(cell, 1)
    spectrum = recurrent_spectrum(cell, params)
    for gate in range(3):
        block = np.asarray(params.u)[:, gate * H : (gate + 1) * H]
        values = np.linalg.eigvals(block)
        np.testing.assert_allclose(spectrum.singular_values[gate], np.linalg.svd(block)[1], rtol=1e-10)
        np.testing.assert_allclose(
            np.sort_complex(np.asarray(spectrum.eigenvalues[gate])), np.sort_complex(values), rtol=1e-8
        )
        np.testing.assert_allclose(spectrum.radius[gate], np.abs(values).max(), rtol=1e-10)
    ungated = rj.ResetBeforeGRU(H)
    with pytest.raises(
        TypeError, match="`cell` must be a gated cell, which has one recurrent matrix; got ResetBeforeGRU"
    ):
        recurrent_spectrum(ungated, ungated.init(jax.random.key(0), I))


def linear(seed: int, size: int) -> tuple[rj.Elman, Any, np.ndarray]:
    """A linear network, and the logarithms of its eigenvalues' moduli in falling order."""
    cell = rj.Elman(size, activation="identity")
    u = np.random.default_rng(seed).standard_normal((size, size)) / size**0.5
    params = cell.init(jax.random.key(0), 1, jnp.float64)._replace(u=jnp.asarray(u))
    return cell, params, -np.sort(-np.log(np.abs(np.linalg.eigvals(u))))


def test_lyapunov_of_a_linear_network() -> None:
    cell, params, wanted = linear(2, 6)
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((12_000, 2, 1)))
    found = lyapunov_exponents(cell, params, xs, warmup=2_000)
    np.testing.assert_allclose(found.exponents, np.broadcast_to(wanted, (2, 6)), rtol=0, atol=1e-3)
    assert found.local.shape == (10_000, 2, 6)
    first = lyapunov_exponents(cell, params, xs, count=2, warmup=2_000)
    np.testing.assert_allclose(first.exponents, found.exponents[:, :2], rtol=0, atol=1e-3)


def test_lyapunov_of_invariant_axes() -> None:
    """The largest exponent, although its axis is the last and no axis mixes with another."""
    cell, params, _ = linear(0, 3)
    params = params._replace(u=jnp.diag(jnp.array([0.1, 0.5, 0.9])))
    found = lyapunov_exponents(cell, params, jnp.zeros((400, 1)), count=1, warmup=200)
    np.testing.assert_allclose(found.exponents, [np.log(0.9)], atol=1e-8)


def test_lyapunov_along_a_trajectory() -> None:
    """All exponents add up to the mean of log |det J|, which the equations give."""
    cell = rj.LSTM(H)
    params, x = random_of(cell, 4, steps=30)
    visited = rj.diagnostics.states(cell, params, jnp.asarray(x))
    before = np.concatenate([np.zeros((1, B, 2 * H)), np.concatenate([visited.h, visited.c], -1)[:-1]])
    found = lyapunov_exponents(cell, params, jnp.asarray(x), warmup=10)
    for row in range(B):
        logs = [np.linalg.slogdet(lstm_jacobian(params, x[t, row], before[t, row]))[1] for t in range(10, 30)]
        np.testing.assert_allclose(found.exponents[row].sum(), np.mean(logs), rtol=1e-5)
        assert np.all(np.diff(found.exponents[row]) <= 0)
    np.testing.assert_allclose(found.state.c, visited.c[-1], rtol=1e-12)


def test_lyapunov_spectrum_of_a_nonlinear_network() -> None:
    """Every exponent, by NumPy's decompositions of the Jacobians diag(1 − h²) uᵀ."""
    cell, rng = rj.Elman(4), np.random.default_rng(12)
    u, xs = 1.5 * rng.standard_normal((4, 4)), rng.standard_normal((4_000, 1))
    params = cell.init(jax.random.key(0), 1, jnp.float64)._replace(u=jnp.asarray(u))
    w, b, h, frame, logs = np.asarray(params.w), np.asarray(params.b), np.zeros(4), np.eye(4), np.zeros(4)
    for t, x in enumerate(xs):
        h = np.tanh(x @ w + h @ u + b)
        frame, r = np.linalg.qr((1 - h**2)[:, None] * u.T @ frame)
        logs += np.log(np.abs(np.diag(r))) if t >= 1_000 else 0
    found = lyapunov_exponents(cell, params, jnp.asarray(xs), warmup=1_000)
    np.testing.assert_allclose(found.exponents, -np.sort(-logs / 3_000), rtol=0, atol=1e-3)


def lorenz(s: Array, dt: float = 0.01) -> Array:
    """A step of the classical Runge–Kutta method."""

    def slope(s: Array) -> Array:
        x, y, z = s
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    a = slope(s)
    b = slope(s + dt / 2 * a)
    c = slope(s + dt / 2 * b)
    d = slope(s + dt * c)
    return s + dt / 6 * (a + 2 * b + 2 * c + d)


@pytest.mark.parametrize(
    ("steps", "error"), [(30_000, 0.1), pytest.param(200_000, 0.05, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_lyapunov_of_lorenz(steps: int, error: float) -> None:
    found = lyapunov_exponents_of_map(lorenz, jnp.array([1.0, 1.0, 20.0]), steps, warmup=2_000)
    np.testing.assert_allclose(found.exponents / 0.01, [0.906, 0.0, -14.57], rtol=0, atol=error)


def test_lyapunov_of_lost_and_singular_states() -> None:
    cell, params, _ = linear(5, 3)
    xs = jnp.zeros((9, 2, 1)).at[4, 1].set(jnp.nan)
    exponents = lyapunov_exponents(rj.Elman(3), params, xs).exponents
    assert np.isfinite(exponents[0]).all()
    assert np.isnan(exponents[1]).all()
    singular = params._replace(u=jnp.diag(jnp.array([0.5, 0.5, 0.0])))
    found = lyapunov_exponents(cell, singular, jnp.zeros((60, 1)), warmup=1).exponents
    np.testing.assert_allclose(found[:2], [np.log(0.5)] * 2, atol=1e-6)
    assert found[2] == -np.inf


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_lyapunov_of_units_that_are_off(dtype: Any) -> None:
    """Those of relu that are on, and no others, say what is left."""
    size, off = 12, 5
    rng, cell = np.random.default_rng(3), rj.Elman(size, activation="relu")
    u = 0.25 * rng.standard_normal((size, size)) / size**0.5
    b = np.where(np.arange(size) < off, -1.0, 1.0)
    params = cell.init(jax.random.key(0), 1, dtype)._replace(u=jnp.asarray(u, dtype), b=jnp.asarray(b, dtype))
    found = lyapunov_exponents(cell, params, jnp.zeros((400, 1), dtype), warmup=100)
    assert np.isneginf(found.exponents).sum() == off
    wanted = np.linalg.slogdet(u[off:, off:])[1]
    np.testing.assert_allclose(found.exponents[: size - off].sum(), wanted, rtol=1e-3)
    gradient = jax.grad(lambda p: flossing(cell, p, jnp.zeros((20, 1), dtype), count=3))(params)
    assert np.isfinite(gradient.u).all()
    assert np.any(gradient.u)


FRAME = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0][:3]


@pytest.mark.parametrize(
    ("u", "wanted"),
    [
        (np.diag([1, 1e-7]), [0, np.log(1e-7)]),
        (np.diag([1e-9, 1, 1e-3]), [0, np.log(1e-3), np.log(1e-9)]),
        (np.array([[1, 0.3], [0, 1e-7]]), [0, np.log(1e-7)]),
        (np.full((2, 2), 0.5), [0, -np.inf]),
        (FRAME.T @ np.diag([1, 0.5, 1e-3]) @ FRAME, [0, np.log(0.5), np.log(1e-3), -np.inf, -np.inf, -np.inf]),
        (np.outer([0.6, 0.8], [1.0, 0.5]), [0, -np.inf]),
        (np.zeros((2, 2)), [-np.inf, -np.inf]),
    ],
    ids=["small", "smaller", "skew", "mean", "symmetric", "rank one", "zero"],
)
def test_lyapunov_of_little_and_of_nothing(u: Any, wanted: list[float]) -> None:
    """In float32 a small eigenvalue is as far below the largest as what rounding makes of zero."""
    cell = rj.Elman(len(u), activation="identity")
    params = cell.init(jax.random.key(0), 1)._replace(u=jnp.asarray(u, jnp.float32))
    found = lyapunov_exponents(cell, params, jnp.zeros((100, 1), jnp.float32))
    np.testing.assert_allclose(found.exponents, wanted, atol=0.05)
    np.testing.assert_allclose(-np.sort(-found.local.mean(0)), found.exponents, rtol=1e-5)


@pytest.mark.parametrize("cell", [rj.GLA(4, rank=2), rj.DeltaNet(4)], ids=repr)
def test_lyapunov_of_what_is_only_read(cell: Any) -> None:
    """The output in a memory's state is formed anew at every step, and its old value forgotten."""
    params, xs = cell.init(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (30, 3))
    found = lyapunov_exponents(cell, params, xs, warmup=5)
    assert np.isneginf(found.exponents).sum() >= found.state.h.size
    assert np.isneginf(found.local[:, -found.state.h.size :]).all()


def test_lyapunov_errors() -> None:
    cell, params, _ = linear(6, 3)
    xs = jnp.zeros((9, 1))
    with pytest.raises(ValueError, match="`warmup` must leave at least one of the 9 steps of the trajectory; got 9"):
        lyapunov_exponents(cell, params, xs, warmup=9)
    with pytest.raises(ValueError, match="at most S = 3"):
        lyapunov_exponents(cell, params, xs, count=4)
    with pytest.raises(ValueError, match=r"`state` must be a vector \(S\); got shape \(2, 2\)"):
        lyapunov_exponents_of_map(lambda s: s, jnp.zeros((2, 2)), 5)


def test_flossing() -> None:
    """Its gradient, through the decompositions, against differences; and a descent along it brings the exponents in."""
    cell = rj.Elman(4)
    rng = np.random.default_rng(7)
    params = cell.init(jax.random.key(0), 1, jnp.float64)._replace(u=jnp.asarray(0.4 * rng.standard_normal((4, 4))))
    xs = jnp.asarray(rng.standard_normal((20, 2, 1)))
    term = jax.jit(lambda u: flossing(cell, params._replace(u=u), xs, count=2, warmup=5, target=0.1))
    value, gradient = jax.jit(jax.value_and_grad(term))(params.u)
    exponents = lyapunov_exponents(cell, params, xs, count=2, warmup=5).exponents
    np.testing.assert_allclose(value, ((np.asarray(exponents) - 0.1) ** 2).sum(-1).mean(), rtol=1e-10)
    for _ in range(3):
        way = rng.standard_normal((4, 4))
        slope = (term(params.u + 1e-6 * way) - term(params.u - 1e-6 * way)) / 2e-6
        np.testing.assert_allclose((gradient * way).sum(), slope, rtol=1e-5)
    u, descend = params.u, jax.jit(lambda u: u - 0.05 * jax.grad(term)(u))
    for _ in range(60):
        u = descend(u)
    assert term(u) < 0.1 * value
    held = lyapunov_exponents(cell, params._replace(u=u), xs, count=2, warmup=5).exponents
    assert np.abs(held.mean(0) - 0.1).max() < 0.5 * np.abs(exponents.mean(0) - 0.1).max()


def search_and_recall(cell: Any, params: Any, xs: Any) -> Any:
    starts = rj.diagnostics.sample_states(cell, params, xs, 4, jax.random.key(0))
    return rj.diagnostics.relax(cell, params, xs[0, 0], starts), memory_horizon(cell, params, xs, delays=1)


@pytest.mark.parametrize("run", [rj.diagnostics.jacobian_norms, lyapunov_exponents, search_and_recall])
@pytest.mark.parametrize("cell", [rj.GRU(3), rj.ResetBeforeGRU(3)], ids=["gated", "plain"])
def test_steps_are_exact_on_every_device(run: Any, cell: Any) -> None:
    """Of factors in float32 a GPU's default would keep 11 bits, a TPU's 8: no fixed point is met by such."""
    params, xs = cell.init(jax.random.key(0), 2), jax.random.normal(jax.random.key(1), (20, 4, 2))
    text = jax.jit(lambda *arrays: run(cell, *arrays)).lower(params, xs).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 2
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_memory_of_a_shift_register() -> None:
    """Two features, each kept for its own number of steps."""
    u = np.zeros((5, 5))
    u[0, 1] = u[1, 2] = u[3, 4] = 1
    w = np.zeros((2, 5))
    w[0, 0] = w[1, 3] = 1
    cell = rj.Elman(5, activation="identity")
    params = cell.init(jax.random.key(0), 2)._replace(u=jnp.asarray(u), w=jnp.asarray(w), b=jnp.ones(5))
    xs = jnp.asarray(np.random.default_rng(8).standard_normal((2_000, B, 2)) + 3)
    found = memory_horizon(cell, params, xs, delays=4)
    np.testing.assert_allclose(found.recall, [1, 1, 0.5, 0, 0], atol=0.01)
    assert int(found.horizon) == 1 + int(found.recall[2] >= 0.5)
    np.testing.assert_allclose(found.capacity, found.recall.sum())


def test_memory_of_a_leak() -> None:
    """h = a h + x: the best read-out of x_{t-k} explains a^{2k} (1 − a²) of its variance."""
    a, cell = 0.7, rj.Elman(1, activation="identity")
    params = cell.init(jax.random.key(0), 1, jnp.float64)._replace(u=jnp.full((1, 1), a), w=jnp.ones((1, 1)))
    xs = jnp.asarray(np.random.default_rng(9).standard_normal((50_000, 1)))
    found = memory_horizon(cell, params, xs, delays=3)
    np.testing.assert_allclose(found.recall, a ** (2 * np.arange(4)) * (1 - a**2), atol=0.01)
    assert int(found.horizon) == 0
    assert int(memory_horizon(cell, params._replace(w=jnp.zeros((1, 1))), xs, delays=3).horizon) == -1


def test_memory_errors() -> None:
    cell = rj.GRU(2)
    params = cell.init(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="must vary"):
        memory_horizon(cell, params, jnp.ones((50, 1)), delays=2)
    wide = rj.GRU(2).init(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="same inputs at every step"):
        memory_horizon(cell, wide, jnp.broadcast_to(jnp.arange(2.0), (50, 2)), delays=2)
    noise = jax.random.normal(jax.random.key(1), (50, 1))
    with pytest.raises(ValueError, match="`xs` must be finite"):
        memory_horizon(cell, params, noise.at[3].set(jnp.nan), delays=2)
    with pytest.raises(ValueError, match="the states must be finite"):
        memory_horizon(cell, params._replace(u=params.u * jnp.inf), noise, delays=2)
    twins = jax.tree.map(lambda leaf: leaf * 0 + 0.5, params)
    with pytest.raises(ValueError, match=r"`ridge` must be large enough .* got 0.0: take \d+e-\d+, or") as error:
        memory_horizon(cell, twins, noise, delays=2, ridge=0.0)
    enough = float(str(error.value).split("take ")[1].split(",")[0])
    assert np.isfinite(memory_horizon(cell, twins, noise, delays=2, ridge=enough).capacity)
    large = rj.GRU(13)
    with pytest.raises(ValueError, match=r"at least 2 S = 26 rows .* got 24 steps of 1"):
        memory_horizon(large, large.init(jax.random.key(0), 1), noise, delays=2)
    with pytest.raises(ValueError, match="at least 4"):
        memory_horizon(cell, params, jnp.ones((11, 1)), delays=2)
    with pytest.raises(TypeError, match="one array"):
        memory_horizon(cell, params, (jnp.ones((50, 1)),), delays=2)  # type: ignore[arg-type]
