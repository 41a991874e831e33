"""States are sums over time and keep the precision of float32: over long sequences, and beside bfloat16."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj


def distance(got: Any, want: Any) -> float:
    """Largest difference, relative to the largest entry of each array; NaN if there is one, which Python's `max` would
    lose."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in pairs]
    return float(np.max([np.abs(a - b).max() / max(1e-30, np.abs(b).max()) for a, b in pairs]))


def exact(cell: rj.Cell, params: Any, xs: Any) -> Any:
    """Outputs and state of the loop in float64."""
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, xs))
    return jax.jit(lambda params, xs: rj.unroll(cell, params, xs, implementation="scan"))(*wide)


def slow(cell: Any) -> Any:
    """Parameters in bfloat16 of a cell that remembers for hundreds of steps."""
    params, size = cell.init(jax.random.key(0), 3, jnp.float32), cell.hidden_size
    if isinstance(cell, rj.MinGRU):
        params = params._replace(b=params.b.at[:size].set(-5))
    if isinstance(cell, rj.MLSTM):
        params = params._replace(b_gates=params.b_gates.at[cell.heads :].set(6))
    if isinstance(cell, rj.SLSTM):
        params = params._replace(b=params.b.at[size : 2 * size].set(6), u=0.3 * params.u)
    if isinstance(cell, rj.LTC):
        params = params._replace(c=params.c + 200)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


def forgetful(cell: Any, params: Any, xs: Any) -> Any:
    """The state of a loop that keeps bfloat16."""

    def step(state: Any, x: Any) -> Any:
        state = rj.unroll(cell, params, x[None], state, implementation="scan")[1]
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), state), None

    return jax.lax.scan(step, cell.initial_state(params, xs.shape[1:-1]), xs)[0]


SLOW = [
    rj.MinGRU(4),
    rj.LRU(4, r_min=0.998, r_max=0.9999, max_phase=0.01),
    rj.GLA(4, rank=2, temperature=500),
    rj.MLSTM(4),
    rj.SLSTM(4),
    rj.LEM(4, step_size=0.003),
    rj.CoRNN(4, step_size=0.01),
    rj.LTC(4, unfolds=2),
]


@pytest.mark.parametrize(
    "cell", [SLOW[0], *(pytest.param(cell, marks=pytest.mark.slow) for cell in SLOW[1:])], ids=repr
)
def test_states_beside_bfloat16_do_not_stall(cell: Any) -> None:
    """What a step adds to a slow state is less than half of the last bit that bfloat16 has."""
    params = slow(cell)
    xs = (1 + jax.random.normal(jax.random.key(1), (512, 2, 3))).astype(jnp.bfloat16)
    ys, state = exact(cell, params, xs)
    for implementation in {None, "scan"}:
        got_ys, got = rj.unroll(cell, params, xs, implementation=implementation)
        assert got_ys.dtype == jnp.bfloat16
        assert distance(got_ys, ys) < 8e-3  # rounded once
        assert distance(got, state) < 2e-3  # of sums of inputs that are rounded
    assert distance(jax.jit(forgetful, static_argnums=0)(cell, params, xs), state) > 2e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        rj.SLSTM(2),
        rj.CfC(2, backbone_size=3),
        rj.LTC(2, unfolds=2),
        rj.CoRNN(2),
        rj.LEM(2),
        rj.MinGRU(2),
        rj.RGLRU(2),
        rj.S5(2),
        rj.LRU(2, r_min=0.99, r_max=0.9999),
        rj.MLSTM(2),
        rj.GatedDeltaNet(2),
    ],
    ids=repr,
)
def test_long_loops_in_float32(cell: Any) -> None:
    """65,536 steps, one by one."""
    params = cell.init(jax.random.key(0), 2, jnp.float32)
    xs = jax.random.normal(jax.random.key(1), (65_536, 1, 2), jnp.float32)
    got = jax.jit(lambda params, xs: rj.unroll(cell, params, xs, implementation="scan"))(params, xs)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(got))
    # a rounding of λ moves what it sums up by up to 2⁻²⁴ / (1 − |λ|): with |λ| = 0.9995, 1e-4
    assert distance(got, exact(cell, params, xs)) < (3e-4 if isinstance(cell, (rj.S5, rj.LRU)) else 1e-5)
