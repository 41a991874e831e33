"""Measures the diagnostics: how exact they are, and how fast fixed points are found.

    python benchmarks/diagnostics.py [--quick] [--write]

| figure | measures |
|---|---|
| `lyapunov_linear_error` | largest distance to log |eigenvalue| of a linear network |
| `lyapunov_lorenz_error` | largest distance to (0.906, 0, −14.57), the exponents of the Lorenz system |
| `fixed_points_missed`, `fixed_points_invented` | of planar networks, beside SciPy in every cell of a fine grid |
| `flipflop_stable_points` | stable points of a GRU that was trained to hold 3 bits; there should be 8 |
| `ig_completeness_error` | largest |Σ contributions − (f(x) − f(b))|, float32 |
| `gradient_flow_error` | largest distance to central differences, float64 |
| `fixed_point_seconds` | `fixed_points` from 1,024 starts in that GRU of 128 units, its compilation included |
| `fixed_point_vs_loop` | the search from all starts at once, beside a compiled search called once for each |
| `compare_seconds` | `compare` of 6 models × 4 learning rates × 5 seeds on the digits of scikit-learn, 20 epochs |
| `monitor_overhead` | what a reading of `gradient_monitor` every 50 steps adds to the time of `fit` |

A step of the search is products and a factorisation of each start's own matrix, at which two cores are no more than
twice as fast for many starts as for one: what remains of `fixed_point_vs_loop` is what a call costs.

References: Sprott 2003, Chaos and time-series analysis, for Lorenz' exponents; Sussillo, Barak 2013,
doi:10.1162/NECO_a_00409, for the flip-flop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from core import RESULTS, machine, parsed
from scipy.optimize import fsolve
from sklearn.datasets import load_digits

import rnnjax as rj
from rnnjax import diagnostics

BITS, HIDDEN, STARTS = 3, 128, 1024
LORENZ = (0.906, 0.0, -14.57)


def lyapunov_linear_error(steps: int) -> float:
    """A random linear network of 16 units."""
    cell = rj.Elman(16, activation="identity")
    u = np.random.default_rng(0).standard_normal((16, 16)) / 4
    params = cell.init(jax.random.key(0), 1, jnp.float64)._replace(u=jnp.asarray(u))
    found = diagnostics.lyapunov_exponents(cell, params, jnp.zeros((steps, 1)), warmup=steps // 5)
    return float(np.abs(found.exponents + np.sort(-np.log(np.abs(np.linalg.eigvals(u))))).max())


def lorenz(s: jax.Array, dt: float = 0.01) -> jax.Array:
    """One step of the Lorenz system by the classical Runge–Kutta method."""

    def slope(s: jax.Array) -> jax.Array:
        x, y, z = s
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    a = slope(s)
    b = slope(s + dt / 2 * a)
    c = slope(s + dt / 2 * b)
    d = slope(s + dt * c)
    return s + dt / 6 * (a + 2 * b + 2 * c + d)


def lyapunov_lorenz_error(steps: int) -> float:
    """The map is 0.01 units of time."""
    found = diagnostics.lyapunov_exponents_of_map(lorenz, jnp.array([1.0, 1.0, 20.0]), steps, warmup=steps // 10)
    return float(np.abs(found.exponents / 0.01 - np.array(LORENZ)).max())


def on_a_grid(u: np.ndarray, b: np.ndarray, cells: int) -> np.ndarray:
    """The solutions of h = tanh(h u + b) that SciPy finds from the cells in which both residuals come near zero."""
    ticks = np.linspace(-1.01, 1.01, cells + 1)
    h = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1)
    residual = np.tanh(h @ u + b) - h
    corners = np.stack([residual[i : cells + i, j : cells + j] for i in (0, 1) for j in (0, 1)])
    margin = 0.2 * np.ptp(corners, axis=0)
    near = ((corners.min(0) - margin <= 0) & (corners.max(0) + margin >= 0)).all(-1)
    roots: list[np.ndarray] = []
    for i, j in np.argwhere(near):
        root, _, status, _ = fsolve(lambda h: np.tanh(h @ u + b) - h, h[i, j], full_output=True)
        if status == 1 and all(np.linalg.norm(root - known) > 1e-4 for known in roots):
            roots.append(root)
    return np.array(roots)


def planar_fixed_points(networks: int, cells: int) -> tuple[int, int]:
    """How many points were missed and invented in all networks."""
    missed = invented = 0
    for seed in range(networks):
        rng = np.random.default_rng(seed)
        u, b = 2 * np.eye(2) + 0.6 * rng.standard_normal((2, 2)), 0.2 * rng.standard_normal(2)
        cell = rj.Elman(2)
        params = cell.init(jax.random.key(0), 1, jnp.float64)._replace(u=jnp.asarray(u), b=jnp.asarray(b))
        starts = cell.initial_state(params, (400,), jnp.float64)._replace(h=jnp.asarray(rng.normal(size=(400, 2))))
        found = np.asarray(diagnostics.fixed_points(cell, params, jnp.zeros(1), starts).state.h)
        distance = np.linalg.norm(found[:, None] - on_a_grid(u, b, cells)[None], axis=-1)
        missed += int((distance.min(0) > 1e-3).sum())
        invented += int((distance.min(1) > 1e-3).sum())
    return missed, invented


def flip_flop(key: jax.Array, rows: int, steps: int) -> tuple[jax.Array, jax.Array]:
    """Pulses of ±1 on three wires, and the sign of the last pulse on each, both (T, B, 3); at first all wires pulse."""
    key_when, key_sign = jax.random.split(key)
    pulses = jax.random.bernoulli(key_when, 0.1, (steps, rows, BITS)).at[0].set(True)
    pulses = jnp.where(pulses, jax.random.rademacher(key_sign, (steps, rows, BITS), jnp.float32), 0)
    _, held = jax.lax.scan(lambda held, pulse: (jnp.where(pulse != 0, pulse, held),) * 2, pulses[0], pulses)
    return pulses, held


def trained(updates: int) -> tuple[rj.GRU, Any]:
    """A GRU that has learnt to hold three bits, and its parameters."""
    cell = rj.GRU(HIDDEN)
    model = rj.Stack([cell, rj.Dense(BITS)])
    params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), BITS)
    recipe = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(3e-3, updates)))

    def loss(params: Any, key: jax.Array) -> jax.Array:
        pulses, held = flip_flop(key, 32, 60)
        return jnp.mean((model(params, pulses)[0] - held) ** 2)

    def update(carry: Any, key: jax.Array) -> Any:
        params, inner = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        change, inner = recipe.update(gradient, inner, params)
        return (optax.apply_updates(params, change), inner), value

    keys = jax.random.split(jax.random.key(1), updates)
    (params, _), losses = jax.jit(lambda c, keys: jax.lax.scan(update, c, keys))((params, recipe.init(params)), keys)
    print(f"flip-flop: mean squared error {float(losses[-50:].mean()):.1e} after {updates} updates")
    return cell, params[0]


def flip_flop_points(cell: rj.GRU, params: Any) -> dict[str, float]:
    """Stable points, and the time that the search takes."""
    pulses, _ = flip_flop(jax.random.key(2), 64, 100)
    starts = diagnostics.sample_states(cell, params, pulses, STARTS, jax.random.key(3), noise=0.1)
    x = jnp.zeros(BITS, jnp.float32)
    began = time.perf_counter()
    found = diagnostics.fixed_points(cell, params, x, starts)
    seconds = time.perf_counter() - began
    print(f"flip-flop: {found.q.size} fixed points, {int(found.stable.sum())} stable, from {STARTS} starts")

    def search(starts: Any) -> float:
        began = time.perf_counter()
        jax.block_until_ready(diagnostics.relax(cell, params, x, starts))
        return time.perf_counter() - began

    singles = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], starts) for i in range(STARTS)]
    for warm in (starts, singles[0]):
        search(warm)
    turns = [(sum(map(search, singles)), search(starts)) for _ in range(5)]
    ratios = [loop / batch for loop, batch in turns]
    batches = ", ".join(f"{batch:.1f}" for _, batch in turns)
    print(f"flip-flop: search {batches} s; loop over batch {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return {
        "flipflop_stable_points": int(found.stable.sum()),
        "fixed_point_seconds": seconds,
        "fixed_point_vs_loop": statistics.median(ratios),
    }


def ig_completeness_error() -> float:
    """A classifier of 50 steps, LSTM on GRU, as it is initialised."""
    model = rj.Stack([rj.GRU(32), rj.LSTM(32), rj.Last(), rj.Dense(4)])
    params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), 8)
    xs = jax.random.normal(jax.random.key(1), (50, 16, 8), jnp.float32)
    found = jax.jit(lambda xs: diagnostics.integrated_gradients(lambda xs: model(params, xs)[0][:, 0], xs))(xs)
    return float(np.abs(np.asarray(found.values.sum((0, 2)) - found.difference)).max())


def gradient_flow_error() -> float:
    """Every state of an LSTM of 4 units over 8 steps, moved by 1e-6 either way in the model run step by step."""
    cell = rj.LSTM(4)
    params = jax.tree.map(lambda leaf: 2 * leaf, cell.init(jax.random.key(0), 3, jnp.float64))
    xs = jax.random.normal(jax.random.key(1), (8, 3), jnp.float64)
    flow = diagnostics.gradient_flow(cell, params, xs, lambda ys: (ys**2).sum())

    @jax.jit
    def loss(epsilon: Any) -> jax.Array:
        state, total = cell.initial_state(params, (), jnp.float64), jnp.zeros(())
        for t in range(8):
            _, state = rj.unroll(cell, params, xs[t : t + 1], state)
            state = jax.tree.map(lambda s, e, t=t: s + e[t], state, epsilon)
            total += (state.h**2).sum()
        return total

    zeros, worst = jax.tree.map(jnp.zeros_like, flow.gradients["rnn"]), 0.0
    for name in zeros._fields:
        for index in np.ndindex(8, 4):
            up, down = (
                loss(zeros._replace(**{name: jnp.zeros((8, 4)).at[index].set(sign * 1e-6)})) for sign in (1, -1)
            )
            worst = max(worst, abs(float((up - down) / 2e-6 - getattr(flow.gradients["rnn"], name)[index])))
    return worst


def monitor_overhead(epochs: int) -> float:
    """Epochs of 50 steps of a GRU of 64 units on 32 rows of 28 steps, with a reading after each, and without.

    The seconds of an epoch do not count its callbacks, which are timed here.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1_600, 28, 28)).astype("float32"), rng.integers(0, 10, 1_600)
    model = rj.Stack([rj.RNN(rj.GRU(64)), rj.Last(), rj.Dense(10)])
    monitor = diagnostics.gradient_monitor(model, (x, y), every=50)
    seconds: list[tuple[float, float]] = []

    def timed(event: Any) -> None:
        began = time.perf_counter()
        monitor(event)
        seconds.append((event.seconds, time.perf_counter() - began))

    rj.training.fit(model, (x, y), batch_size=32, epochs=epochs + 2, callbacks=[timed], progress=False)
    return statistics.median(reading / epoch for epoch, reading in seconds[2:])


def compare_seconds(epochs: int) -> float:
    """The 1,797 scans of 8 rows of 8 pixels, three fifths of them to train on, at 5,000 parameters."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    scans = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)[order]
    began = time.perf_counter()
    found = diagnostics.compare(None, (scans, digits[order].astype(np.int32)), 5_000, seeds=5, epochs=epochs)
    seconds = time.perf_counter() - began
    print(found)
    print(f"compare: {seconds:.0f} s, of them in training {sum(row.seconds for row in found.rows):.0f}")
    return seconds


def measure(quick: bool) -> dict[str, float]:
    """All figures; with `quick`, shorter trajectories and less training."""
    missed, invented = planar_fixed_points(2 if quick else 10, 200 if quick else 400)
    figures = {
        "lyapunov_linear_error": lyapunov_linear_error(20_000 if quick else 200_000),
        "lyapunov_lorenz_error": lyapunov_lorenz_error(50_000 if quick else 500_000),
        "fixed_points_missed": missed,
        "fixed_points_invented": invented,
        "ig_completeness_error": ig_completeness_error(),
        "gradient_flow_error": gradient_flow_error(),
        "monitor_overhead": monitor_overhead(5 if quick else 30),
        "compare_seconds": compare_seconds(2 if quick else 20),
    }
    return figures | flip_flop_points(*trained(200 if quick else 2_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute or two; the flip-flop is not learnt in it")
    parser.add_argument("--write", action="store_true", help="save the figures under benchmarks/results")
    args = parsed(parser)
    jax.config.update("jax_enable_x64", True)
    print(machine())
    figures = measure(args.quick)
    for name, value in figures.items():
        print(f"figure: {name} {value:.4g}")
    if args.write:
        (RESULTS / "diagnostics.json").write_text(
            json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
