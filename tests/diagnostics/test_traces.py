"""States and gates over time against the equations in NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from references import sigmoid

import rnnjax as rj
from rnnjax.diagnostics import dead_units, gates, sample_states, saturation, states

T, B, I, H = 5, 3, 2, 4  # noqa: E741


def random_of(cell: Any, seed: int) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = cell.init(jax.random.key(0), I, jnp.float64)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), shapes), rng.standard_normal(
        (T, B, I)
    )


def cut(array: Any, index: int) -> np.ndarray:
    return np.asarray(array)[..., index * H : (index + 1) * H]


def test_lstm() -> None:
    cell = rj.LSTM(H)
    params, x = random_of(cell, 0)
    start = cell.initial_state(params, (B,), jnp.float64)._replace(c=jnp.full((B, H), 0.3))
    visited, found = states(cell, params, jnp.asarray(x), start), gates(cell, params, jnp.asarray(x), start)
    h, c = np.asarray(start.h), np.asarray(start.c)
    assert sorted(found) == ["f", "i", "o"]
    for t in range(T):
        for name, index in (("i", 0), ("f", 1), ("o", 3)):
            gate = sigmoid(x[t] @ cut(params.w, index) + h @ cut(params.u, index) + cut(params.b, index))
            np.testing.assert_allclose(found[name][t], gate, rtol=1e-10)
        weights = {name: np.asarray(value) for name, value in params._asdict().items()}
        _, state = references.lstm(x[t : t + 1], **weights, h=h, c=c)
        h, c = state["h"], state["c"]
        np.testing.assert_allclose(visited.h[t], h, rtol=1e-10)
        np.testing.assert_allclose(visited.c[t], c, rtol=1e-10)


def test_gru() -> None:
    cell = rj.Zoneout(rj.GRU(H), rate=0.0)
    params, x = random_of(cell, 1)
    found, visited = gates(cell, params, jnp.asarray(x)), states(cell, params, jnp.asarray(x))
    before = np.concatenate([np.zeros((1, B, H)), np.asarray(visited.h)[:-1]])
    for name, index in (("r", 0), ("z", 1)):
        gate = sigmoid(x @ cut(params.w, index) + before @ cut(params.u, index) + cut(params.b, index))
        np.testing.assert_allclose(found[name], gate, rtol=1e-10)


def test_states_keep_elapsed_times_exact() -> None:
    """1.003 is 1 in bfloat16."""
    cell = rj.S5(H, compute_dtype="bfloat16")
    params, xs = cell.init(jax.random.key(0), I), (jnp.zeros((300, I)), jnp.full((300,), 1.003, jnp.float32))
    start = jax.tree.map(jnp.ones_like, cell.initial_state(params))
    visited, last = states(cell, params, xs, start), rj.unroll(cell, params, xs, start)[1]
    for leaf, wanted in zip(jax.tree.leaves(visited), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(leaf[-1], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        (rj.PeepholeLSTM(H), "fio"),
        (rj.CoupledLSTM(H), "fo"),
        (rj.MGU(H), "f"),
        (rj.ResetBeforeGRU(H), "rz"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, rj.Cell) else value,
)
def test_names(cell: Any, names: str) -> None:
    params, x = random_of(cell, 2)
    found = gates(cell, params, jnp.asarray(x))
    assert "".join(found) == names
    assert all(gate.shape == (T, B, H) and 0 < gate.min() < gate.max() < 1 for gate in found.values())


@pytest.mark.parametrize("cell", [rj.Elman(H), rj.SLSTM(H), rj.Zoneout(rj.MinGRU(H), rate=0.1)])
def test_cells_whose_gates_are_not_heard(cell: Any) -> None:
    params, x = random_of(cell, 2)
    with pytest.raises(TypeError, match="`cell` must pass its gates through a field `gate_activation`"):
        gates(cell, params, jnp.asarray(x))


def test_gates_of_the_first_step() -> None:
    """At the first step their gates are σ(x w + b), in the order of the docstrings."""
    for cell, name, index in (
        (rj.CoupledLSTM(H), "f", 0),
        (rj.CoupledLSTM(H), "o", 2),
        (rj.MGU(H), "f", 0),
        (rj.PeepholeLSTM(H), "i", 0),
        (rj.PeepholeLSTM(H), "f", 1),
        (rj.ProjectionLSTM(H, 2), "i", 0),
        (rj.ProjectionLSTM(H, 2), "f", 1),
        (rj.ProjectionLSTM(H, 2), "o", 3),
        (rj.ResetBeforeGRU(H), "r", 0),
        (rj.ResetBeforeGRU(H), "z", 1),
    ):
        params, x = random_of(cell, 3)
        gate = sigmoid(x[0] @ cut(params.w, index) + cut(params.b, index))
        np.testing.assert_allclose(gates(cell, params, jnp.asarray(x))[name][0], gate, rtol=1e-10)


def test_conv_lstm_and_no_batch() -> None:
    cell = rj.ConvLSTM(3, spatial_shape=(4,), kernel_size=3)
    params = cell.init(jax.random.key(0), I)
    x = jnp.asarray(np.random.default_rng(4).standard_normal((T, 4, I)))
    assert {name: gate.shape for name, gate in gates(cell, params, x).items()} == dict.fromkeys("fio", (T, 4, 3))
    ys, last = rj.unroll(cell, params, x)
    np.testing.assert_allclose(states(cell, params, x).h, ys, rtol=1e-6)
    np.testing.assert_allclose(states(cell, params, x).c[-1], last.c, rtol=1e-6)


def test_saturation() -> None:
    gate = np.random.default_rng(5).uniform(size=(T, B, H))
    found = saturation({"f": jnp.asarray(gate)}, low=0.2, high=0.7)["f"]
    for unit in range(H):
        own = gate[..., unit].ravel()
        np.testing.assert_allclose(found.closed[unit], sum(own < 0.2) / own.size, rtol=1e-6)
        np.testing.assert_allclose(found.open[unit], sum(own > 0.7) / own.size, rtol=1e-6)
    with pytest.raises(ValueError, match="at least one step"):
        saturation({"f": jnp.zeros((0, 2, 3))})
    with pytest.raises(ValueError, match="`low`"):
        saturation({"f": jnp.asarray(gate)}, low=-1)
    with pytest.raises(ValueError, match="`low` must be at most `high`"):
        saturation({"f": jnp.asarray(gate)}, low=0.9, high=0.1)
    found = saturation({"f": jnp.asarray(gate).at[2, 1, 0].set(jnp.nan)})["f"]
    for share in found:
        assert np.isnan(share).tolist() == [True] + [False] * (H - 1)


def test_dead_units() -> None:
    values = np.random.default_rng(6).standard_normal((T, B, H))
    values[..., 1] = 0.5
    values[..., 2] = 0.5
    values[0, 0, 2] = 0.5001
    values[0, 0, 3] = np.nan
    assert dead_units(jnp.asarray(values)).tolist() == [False, True, False, False]
    assert dead_units(jnp.asarray(values), tolerance=1e-3).tolist() == [False, True, True, False]
    assert not dead_units(jnp.full((20_000, 1), 0.5).at[7].set(jnp.nan))


def test_sample_states() -> None:
    """Without noise every sample is a state that was visited, with noise none is but the spread is right."""
    cell = rj.LSTM(H)
    params, x = random_of(cell, 7)
    visited = states(cell, params, jnp.asarray(x))
    rows = np.concatenate([np.asarray(visited.h), np.asarray(visited.c)], -1).reshape(T * B, 2 * H)
    plain = sample_states(cell, params, jnp.asarray(x), 200, jax.random.key(0))
    drawn = np.concatenate([plain.h, plain.c], -1)
    distances = np.linalg.norm(drawn[:, None] - rows[None], axis=-1)
    assert distances.min(1).max() < 1e-12
    assert set(distances.argmin(1)) == set(range(T * B))
    noisy = sample_states(cell, params, jnp.asarray(x), 200, jax.random.key(0), noise=0.5)
    assert 0.45 < np.std(np.concatenate([noisy.h - plain.h, noisy.c - plain.c])) < 0.55
    with pytest.raises(ValueError, match="at least one step"):
        sample_states(cell, params, jnp.zeros((0, B, I)), 2, jax.random.key(0))
    with pytest.raises(ValueError, match="`count`"):
        sample_states(cell, params, jnp.asarray(x), 0, jax.random.key(0))
    with pytest.raises(ValueError, match="`noise`"):
        sample_states(cell, params, jnp.asarray(x), 2, jax.random.key(0), noise=-0.1)
