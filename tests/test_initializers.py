"""Initial values: what is drawn, where it lies and how it is spread."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax import initializers

KEY = jax.random.key(0)
SIZE = 6


def _blocks(array: jax.Array, gates: int) -> list[np.ndarray]:
    return np.split(np.asarray(array, np.float64), gates, axis=-1)


def test_orthogonal_is_orthogonal_in_every_gate_and_differs_between_them() -> None:
    blocks = _blocks(initializers.orthogonal(KEY, SIZE, 3, jnp.float64), 3)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(SIZE), rtol=0, atol=1e-12)
    assert not np.allclose(blocks[0], blocks[1])


def test_orthogonal_scales() -> None:
    block = np.asarray(initializers.orthogonal(KEY, SIZE, 1, jnp.float64, scale=3.0))
    np.testing.assert_allclose(block @ block.T, 9 * np.eye(SIZE), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("cell", "gates"),
    [(rj.Elman(SIZE), 1), (rj.LSTM(SIZE), 4), (rj.GRU(SIZE), 3), (rj.CoupledLSTM(SIZE), 3), (rj.MGU(SIZE), 2)],
)
def test_cells_start_with_orthogonal_recurrent_weights(cell: rj.Cell, gates: int) -> None:
    for block in _blocks(cell.init(KEY, 3, jnp.float64).u, gates):
        np.testing.assert_allclose(block @ block.T, np.eye(SIZE), rtol=0, atol=1e-12)


def test_identity_is_in_every_gate() -> None:
    for block in _blocks(initializers.identity(SIZE, 2, scale=0.5), 2):
        np.testing.assert_array_equal(block, 0.5 * np.eye(SIZE))
    np.testing.assert_array_equal(rj.Elman(SIZE, recurrent_init="identity").init(KEY, 3).u, np.eye(SIZE))


def test_recurrent_weights_have_a_known_name() -> None:
    np.testing.assert_array_equal(
        initializers.recurrent("identity", KEY, SIZE, 2, jnp.float32), np.tile(np.eye(SIZE), 2)
    )
    with pytest.raises(ValueError, match="`kind` must be one of 'orthogonal', 'identity'; got 'identiy'"):
        initializers.recurrent("identiy", KEY, SIZE, 1, jnp.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "gates", "fans"), [((40, 120), 3, 40 + 40), ((3, 3, 10, 80), 4, 9 * (10 + 20))])
def test_glorot_is_uniform_within_the_limit_of_one_gate(shape: tuple[int, ...], gates: int, fans: int) -> None:
    draws = np.asarray(initializers.glorot_uniform(KEY, shape, jnp.float64, gates=gates))
    limit = np.sqrt(6 / fans)
    assert 0.98 * limit < np.abs(draws).max() <= limit
    # five standard errors of mean and variance of a uniform distribution
    assert abs(draws.mean()) < 5 * limit / np.sqrt(3 * draws.size)
    assert abs(draws.var() - limit**2 / 3) < 5 * limit**2 * np.sqrt(4 / 45 / draws.size)


@pytest.mark.parametrize(
    ("make", "gates", "forget"),
    [
        (rj.LSTM, 4, 1),
        (rj.PeepholeLSTM, 4, 1),
        (lambda size, **options: rj.ProjectionLSTM(size, proj_size=2, **options), 4, 1),
        (rj.CoupledLSTM, 3, 0),
        (rj.LayerNormLSTM, 4, 1),
        (lambda size, **options: rj.ConvLSTM(size, (3,), **options), 4, 1),
    ],
)
def test_forget_bias_lies_in_the_forget_gate(make: type, gates: int, forget: int) -> None:
    for bias in (1.0, -2.5, 3):
        blocks = _blocks(make(SIZE, forget_bias=bias).init(KEY, 3).b, gates)
        for gate, block in enumerate(blocks):
            np.testing.assert_array_equal(block, bias if gate == forget else 0)


@pytest.mark.parametrize("make", [rj.GRU, rj.ResetBeforeGRU, rj.LayerNormGRU])
def test_update_bias_lies_in_the_update_gate(make: type) -> None:
    r, z, n = _blocks(make(SIZE, update_bias=1.5).init(KEY, 3).b, 3)
    np.testing.assert_array_equal(z, 1.5)
    np.testing.assert_array_equal(np.concatenate([r, n]), 0)
    r, z, n = _blocks(make(SIZE, max_time=50).init(KEY, 3).b, 3)
    assert 0 <= z.min() < z.max() <= np.log(49)
    np.testing.assert_array_equal(np.concatenate([r, n]), 0)


def test_forget_bias_is_a_leaf() -> None:
    biases = jnp.array([0.0, 1.0, 2.0])
    drawn = jax.vmap(lambda bias: rj.LSTM(SIZE, forget_bias=bias).init(KEY, 3).b)(biases)
    np.testing.assert_array_equal(drawn[:, SIZE : 2 * SIZE], np.repeat(np.asarray(biases)[:, None], SIZE, axis=1))


def test_chrono_spreads_time_scales_up_to_the_longest() -> None:
    times = np.exp(np.asarray(initializers.chrono(KEY, 20_000, 100, jnp.float64)))
    assert 1 <= times.min() < 1.1
    assert 98.9 < times.max() <= 99
    np.testing.assert_allclose(times.mean(), 50, rtol=0.02)


@pytest.mark.parametrize("make", [rj.LSTM, rj.PeepholeLSTM, rj.LayerNormLSTM])
def test_chrono_gives_the_input_gate_the_negative(make: type) -> None:
    i, f, g, o = _blocks(make(SIZE, max_time=50).init(KEY, 3).b, 4)
    assert 0 <= f.min() < f.max() <= np.log(49)
    np.testing.assert_array_equal(i, -f)
    np.testing.assert_array_equal(np.concatenate([g, o]), 0)


def test_chrono_without_an_input_gate() -> None:
    f, g, o = _blocks(rj.CoupledLSTM(SIZE, max_time=50).init(KEY, 3).b, 3)
    assert 0 <= f.min() < f.max() <= np.log(49)
    np.testing.assert_array_equal(np.concatenate([g, o]), 0)


def test_chrono_refuses_what_has_no_long_dependencies() -> None:
    with pytest.raises(ValueError, match="at least 3 time steps"):
        initializers.chrono(KEY, SIZE, 2)


UNITS = 600


def _uniform(values: Any, low: float, high: float) -> bool:
    """Whether so many values fill an interval evenly: their extremes and each tenth of it."""
    values, width = np.asarray(values, float).ravel(), high - low
    assert values.size >= UNITS
    assert low <= values.min() < low + width / 20
    assert high - width / 20 < values.max() <= high
    counts, _ = np.histogram(values, 10, (low, high))
    return bool((np.abs(counts / values.size - 0.1) < 5 * np.sqrt(0.09 / values.size)).all())


def _glorot(w: Any, gates: int) -> bool:
    """Uniform on ±√(6 / (I + H)), gate by gate."""
    limit = (6 / (w.shape[0] + w.shape[1] / gates)) ** 0.5
    return all(_uniform(part, -limit, limit) for part in np.split(np.asarray(w), gates, axis=1))


def test_slstm_forgets_slowly_from_3_to_6() -> None:
    params = rj.SLSTM(12, heads=3).init(KEY, 50, jnp.float64)
    i, f, z, o = _blocks(params.b, 4)
    np.testing.assert_allclose(f, np.tile([3, 4, 5, 6], 3), rtol=1e-7)
    np.testing.assert_array_equal(np.concatenate([i, z, o]), 0)
    assert _glorot(params.w, 4)
    for head in params.u:
        for gate in np.split(np.asarray(head), 4, axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-12)


def test_mlstm_forgets_slowly_from_3_to_6() -> None:
    params = rj.MLSTM(2 * UNITS, heads=UNITS).init(KEY, 3, jnp.float64)
    i, f = _blocks(params.b_gates, 2)
    np.testing.assert_allclose(f, np.linspace(3, 6, UNITS), rtol=1e-7)
    assert abs(i.mean()) < 0.5 / UNITS**0.5
    np.testing.assert_allclose(i.std(), 0.1, rtol=0.15)
    assert not np.any(params.b)
    assert not np.any(params.w_gates)
    assert _glorot(params.w, 4)


def test_gated_delta_net_decays_at_many_rates() -> None:
    params = rj.GatedDeltaNet(2 * UNITS, heads=UNITS, key_size=1).init(KEY, 3, jnp.float64)
    assert _uniform(np.log(np.log1p(np.exp(params.b))), np.log(1e-3), np.log(0.1))
    assert _uniform(np.exp(params.decay), 1, 16)
    assert _glorot(params.w_gates, 2)


def test_delta_net_and_gla_draw_each_part_for_itself() -> None:
    params = rj.DeltaNet(300, heads=3, key_size=20).init(KEY, 40, jnp.float64)
    for part in np.split(np.asarray(params.w), [60, 120], axis=1):
        assert _glorot(part, 1)
    assert params.w_beta.shape == (40, 3)
    params = rj.GLA(300, heads=3, key_size=20, rank=30).init(KEY, 40, jnp.float64)
    assert _glorot(params.w_down, 1)
    assert _glorot(params.w_up, 1)
    assert not np.any(params.b)


def test_ltc_draws_what_its_table_says() -> None:
    params = rj.LTC(UNITS).init(KEY, 3, jnp.float64)
    softplus = lambda x: np.log1p(np.exp(np.asarray(x)))  # noqa: E731
    for name in ("w", "u", "g"):
        assert _uniform(softplus(getattr(params, name)), 0.001, 1)
    assert _uniform(softplus(params.c), 0.4, 0.6)
    assert _uniform(params.e, -0.2, 0.2)
    for side in ("w", "u"):
        assert _uniform(getattr(params, f"{side}_mu"), 0.3, 0.8)
        assert _uniform(getattr(params, f"{side}_sigma"), 3, 8)
        signs = np.asarray(getattr(params, f"{side}_e"))
        np.testing.assert_array_equal(np.abs(signs), 1)
        assert abs(signs.mean()) < 5 / signs.size**0.5


def test_oscillators_draw_as_linear_layers_of_torch() -> None:
    params = rj.LEM(UNITS).init(KEY, 3, jnp.float64)
    assert all(_uniform(leaf, -(UNITS**-0.5), UNITS**-0.5) for leaf in params)
    params = rj.CoRNN(UNITS).init(KEY, 3, jnp.float64)
    assert all(_uniform(leaf, -((3 + 2 * UNITS) ** -0.5), (3 + 2 * UNITS) ** -0.5) for leaf in params)


def test_linear_cells_draw_what_their_tables_say() -> None:
    params = rj.LinearElman(UNITS).init(KEY, 3, jnp.float64)
    assert _uniform(params.u, 0, 1)
    assert not np.any(params.b)
    assert _glorot(params.w, 1)
    params = rj.HGRN(8).init(KEY, 90, jnp.float64)
    np.testing.assert_allclose(params.theta, 10000.0 ** (-np.arange(0, 16, 2) / 8), rtol=1e-12)
    assert not np.any(params.b)
    assert _glorot(params.w, 5)
    for cell, gates in ((rj.MinGRU(8), 2), (rj.MinLSTM(8), 3), (rj.QRNN(8), 3)):
        params = cell.init(KEY, 90, jnp.float64)
        assert _glorot(params.w, gates)
        assert not np.any(params.b)


def _normal(values: Any, variance: float) -> bool:
    """Whether so many values have mean 0, this variance and the fourth moment of a normal distribution."""
    values = np.asarray(values, float).ravel() / variance**0.5
    assert values.size >= UNITS
    error = 5 / values.size**0.5
    fourth = (values**4).mean() / 3
    return bool(abs(values.mean()) < error and abs((values**2).mean() - 1) < 2 * error and abs(fourth - 1) < 4 * error)


def test_lru_draws_what_its_paper_says() -> None:
    """Complex numbers of variance 1/I and 2/H in all, skip weights of variance 1, and γ of the drawn |λ|."""
    inputs, states = 700, 30
    params = rj.LRU(states, r_min=0.4, r_max=0.9).init(KEY, inputs, jnp.float64)
    for part in _blocks(params.w, 2):
        assert _normal(part, 1 / (2 * inputs))
    for part in _blocks(params.c, 2):
        assert _normal(part, 1 / states)
    assert _normal(params.d, 1)
    radius = np.exp(-np.exp(np.asarray(params.nu)))
    np.testing.assert_allclose(np.exp(params.gamma), np.sqrt(1 - radius**2), rtol=1e-12)


def test_s5_draws_what_its_paper_says() -> None:
    """B and C are those of LeCun for the real state of 2H, in the basis of eigenvectors; steps are log-uniform."""
    inputs, states = 700, 40
    params = rj.S5(states).init(KEY, inputs, jnp.float64)
    assert _normal(params.d, 1)
    # the basis is unitary and half of it is kept: half of the length goes into complex numbers of H
    w, c = (np.square(_blocks(leaf, 2)).sum(0) for leaf in (params.w, params.c))
    np.testing.assert_allclose(w.sum(1).mean(), states / inputs, rtol=5 / UNITS**0.5 / states**0.5)
    np.testing.assert_allclose(c.sum(0).mean(), 1 / 2, rtol=5 / UNITS**0.5 / states**0.5)
    steps = jax.vmap(lambda key: rj.S5(6).init(key, 1, jnp.float64).log_step)(jax.random.split(KEY, UNITS))
    assert _uniform(steps, np.log(0.001), np.log(0.1))


@pytest.mark.parametrize(("cell", "gates"), [(rj.RGLRU(80), 2), (rj.SRU(80), 3)], ids=["rg_lru", "sru"])
def test_square_gates_have_the_variance_of_lecun(cell: Any, gates: int) -> None:
    """1/H: between −√(3/H) and √(3/H), as for SRU, and LeCun's variance, as for RG-LRU."""
    params = cell.init(KEY, 80, jnp.float64)
    for part in _blocks(params.w, gates):
        assert _uniform(part, -((3 / 80) ** 0.5), (3 / 80) ** 0.5)
        np.testing.assert_allclose(part.var(), 1 / 80, rtol=0.06)
    np.testing.assert_array_equal(params.b, 0)


def test_cfc_draws_its_backbone() -> None:
    params = rj.CfC(30, backbone_size=40).init(KEY, 20, jnp.float64)
    assert _glorot(params.w, 1)
    assert _glorot(params.u, 1)
    assert _glorot(params.v, 4)
    assert not np.any(params.b)
    assert not np.any(params.c)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "cell",
    [
        rj.LSTM(SIZE, max_time=9),
        rj.IndRNN(SIZE),
        rj.ConvLSTM(SIZE, (3,)),
        rj.LearnedInitialState(rj.LayerNormGRU(SIZE)),
    ],
)
def test_half_precision_parameters_are_cast_from_float32(cell: rj.Cell, dtype: jnp.dtype) -> None:
    half, full = cell.init(KEY, 3, dtype), cell.init(KEY, 3, jnp.float32)
    for low, high in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert low.dtype == dtype
        np.testing.assert_array_equal(low, high.astype(dtype))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the calls are those of a CPU")
def test_decompositions_are_of_one_matrix() -> None:
    """Calls with several have waited for each other for ever."""
    text = jax.jit(lambda key: initializers.orthogonal(key, 5, 4)).lower(KEY).as_text()
    calls = [line for line in text.splitlines() if "geqrf" in line]
    assert calls
    assert all("tensor<5x5xf32>" in line and "tensor<4x5x5xf32>" not in line for line in calls)
