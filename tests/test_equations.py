"""Every cell and implementation against the NumPy transcription of its equations, at random parameters and states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from descriptors import CELLS, Descriptor

import rnnjax as rj

STEPS, ROWS = 5, 2
ACTIVATIONS = {"tanh": np.tanh, "relu": references.relu}
Options = Callable[[Any], dict[str, Any]]


def _nothing(cell: Any) -> dict[str, Any]:
    return {}


def _phi(cell: Any) -> dict[str, Any]:
    return {"phi": ACTIVATIONS[cell.activation]}


def _phi_and_leak(cell: Any) -> dict[str, Any]:
    return {**_phi(cell), "leak": np.asarray(cell.leak)}


def _eps(cell: Any) -> dict[str, Any]:
    return {"eps": cell.epsilon}


def _leaves(*names: str) -> Options:
    return lambda cell: {name: np.asarray(getattr(cell, name)) for name in names}


def _heads(cell: Any) -> dict[str, Any]:
    return {"heads": cell.heads}


def _heads_and_temperature(cell: Any) -> dict[str, Any]:
    return {"heads": cell.heads, "temperature": cell.temperature}


def _discretization(cell: Any) -> dict[str, Any]:
    return {"discretization": cell.discretization}


REFERENCES: dict[type, tuple[Callable[..., Any], Options]] = {
    rj.Elman: (references.elman, _phi),
    rj.LeakyElman: (references.leaky_elman, _phi_and_leak),
    rj.LSTM: (references.lstm, _nothing),
    rj.PeepholeLSTM: (references.peephole_lstm, _nothing),
    rj.ProjectionLSTM: (references.projection_lstm, _nothing),
    rj.CoupledLSTM: (references.coupled_lstm, _nothing),
    rj.LayerNormLSTM: (references.layer_norm_lstm, _eps),
    rj.GRU: (references.gru, _nothing),
    rj.ResetBeforeGRU: (references.reset_before_gru, _nothing),
    rj.LayerNormGRU: (references.layer_norm_gru, _eps),
    rj.MGU: (references.mgu, _nothing),
    rj.IndRNN: (references.ind_rnn, _phi),
    rj.ConvLSTM: (references.conv_lstm, _nothing),
    rj.MinGRU: (references.min_gru, _nothing),
    rj.MinLSTM: (references.min_lstm, _nothing),
    rj.LinearElman: (references.linear_elman, _nothing),
    rj.LRU: (references.lru, _nothing),
    rj.RGLRU: (references.rg_lru, _nothing),
    rj.S5: (references.s5, _discretization),
    rj.QRNN: (references.qrnn, _phi),
    rj.SRU: (references.sru, _phi),
    rj.HGRN: (references.hgrn, _leaves("lower_bound")),
    rj.CoRNN: (references.co_rnn, _leaves("step_size", "frequency", "damping")),
    rj.LEM: (references.lem, _leaves("step_size")),
    rj.CfC: (references.cfc, _nothing),
    rj.LTC: (references.ltc, _leaves("unfolds")),
    rj.SLSTM: (references.slstm, _heads),
    rj.MLSTM: (references.mlstm, _heads),
    rj.GLA: (references.gla, _heads_and_temperature),
    rj.DeltaNet: (references.delta_net, _heads),
    rj.GatedDeltaNet: (references.gated_delta_net, _heads),
}
CASES = [
    pytest.param(descriptor, implementation, id=f"{descriptor.name}-{implementation}")
    for descriptor in CELLS
    if type(descriptor.cell) in REFERENCES
    for implementation in descriptor.implementations
]


def _random_like(seed: int, tree: Any) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.7)), tree)


def _problem(cell: rj.Cell, event_shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), event_shape[-1], jnp.float64))
    state = jax.eval_shape(lambda p: cell.initial_state(p, (ROWS,), jnp.float64), params)
    xs = jax.ShapeDtypeStruct((STEPS, ROWS, *event_shape), jnp.float64)
    return _random_like(1, params), _random_like(2, xs), _random_like(3, state)


def _check(cell: rj.Cell, event_shape: tuple[int, ...], implementation: str) -> None:
    params, xs, state = _problem(cell, event_shape)
    reference, options = REFERENCES[type(cell)]
    arrays = {**params._asdict(), **state._asdict()}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    wanted_ys, wanted_state = reference(np.asarray(xs), **arrays, **options(cell))
    ys, last = rj.unroll(cell, params, xs, state, implementation=implementation)
    np.testing.assert_allclose(ys, wanted_ys, rtol=0, atol=1e-12)
    assert set(last._fields) == set(wanted_state)
    for name, wanted in wanted_state.items():
        np.testing.assert_allclose(getattr(last, name), wanted, rtol=0, atol=1e-12)


def test_every_cell_has_a_transcription() -> None:
    """But wrappers and cells that read a memory, which have tests of their own."""
    cells = {type(row.cell) for row in CELLS if row.memory_size is None and not isinstance(row.cell, rj.Wrapper)}
    assert set(REFERENCES) == cells


def test_parameters_and_states_have_public_names() -> None:
    """Users make their own: `rnnjax.cells.LSTMState(h, c)`."""
    for row in CELLS:
        if type(row.cell) in REFERENCES:
            params, _, state = _problem(row.cell, row.event_shape)
            for tree in (params, state):
                assert vars(rj.cells)[type(tree).__name__] is type(tree)


@pytest.mark.parametrize(("descriptor", "implementation"), CASES)
def test_cell_follows_its_equations(descriptor: Descriptor, implementation: str) -> None:
    _check(descriptor.cell, descriptor.event_shape, implementation)


def test_bilinear_states() -> None:
    _check(rj.S5(4, discretization="bilinear"), (3,), "chunked")


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("implementation", ["chunked", "associative", "scan"])
def test_irregular_steps(discretization: str, implementation: str) -> None:
    cell = rj.S5(4, discretization=discretization)
    params, xs, state = _problem(cell, (3,))
    dt = np.random.default_rng(4).uniform(0, 3, size=(STEPS, ROWS))
    arrays = {name: np.asarray(array) for name, array in {**params._asdict(), **state._asdict()}.items()}
    wanted, _ = references.s5(np.asarray(xs), **arrays, discretization=discretization, dt=dt)
    ys, _ = rj.unroll(cell, params, (xs, jnp.asarray(dt)), state, implementation=implementation)
    np.testing.assert_allclose(ys, wanted, rtol=0, atol=1e-12)
    # half the time twice, with the same input held, is the whole time once
    if discretization == "zoh":
        halves = jnp.repeat(xs, 2, axis=0), jnp.repeat(jnp.asarray(dt) / 2, 2, axis=0)
        ys, _ = rj.unroll(cell, params, halves, state, implementation=implementation)
        np.testing.assert_allclose(ys[1::2], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("cell", "reference"), [(rj.CfC(4, 5), references.cfc), (rj.LTC(4, 2), references.ltc)], ids=["cfc", "ltc"]
)
def test_elapsed_times(cell: Any, reference: Callable[..., Any]) -> None:
    params, xs, state = _problem(cell, (3,))
    dt = np.random.default_rng(4).uniform(0, 3, size=(STEPS, ROWS))
    arrays = {name: np.asarray(array) for name, array in {**params._asdict(), **state._asdict()}.items()}
    options = {"unfolds": 2} if reference is references.ltc else {}
    wanted, _ = reference(np.asarray(xs), **arrays, **options, dt=dt)
    ys, _ = rj.unroll(cell, params, (xs, jnp.asarray(dt)), state)
    np.testing.assert_allclose(ys, wanted, rtol=0, atol=1e-12)


def test_leak_for_each_unit() -> None:
    _check(rj.LeakyElman(4, leak=jnp.array([0.0, 0.2, 0.7, 1.0])), (3,), "fused")


def test_independent_units_with_relu() -> None:
    _check(rj.IndRNN(4), (3,), "scan")


def test_a_batch_of_rows_has_any_number_of_axes_also_for_convolutions() -> None:
    cell = rj.ConvLSTM(2, (4, 3))
    params, xs, _ = _problem(cell, (4, 3, 2))
    ys, _ = rj.unroll(cell, params, xs)
    rows = [rj.unroll(cell, params, xs[:, row])[0] for row in range(ROWS)]
    np.testing.assert_allclose(ys, np.stack(rows, axis=1), rtol=0, atol=1e-14)
    pair, _ = rj.unroll(cell, params, jnp.stack([xs, xs], axis=1))
    np.testing.assert_allclose(pair[:, 1], ys, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (3, 0)])
def test_convolutions_of_nothing(steps: int, rows: int) -> None:
    cell = rj.ConvLSTM(2, (4, 3))
    params, _, _ = _problem(cell, (4, 3, 2))
    ys, state = rj.unroll(cell, params, jnp.zeros((steps, rows, 4, 3, 2)))
    assert ys.shape == (steps, rows, 4, 3, 2)
    assert state.h.shape == (rows, 4, 3, 2)


def test_layer_norm_is_finite_on_constant_features() -> None:
    cell = rj.LayerNormLSTM(4)
    params = cell.init(jax.random.key(0), 3, jnp.float64)
    gradient = jax.jit(jax.grad(lambda p: rj.unroll(cell, p, jnp.zeros((2, 3)), implementation="scan")[0].sum()))(
        params
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_ind_rnn_constrains_its_recurrent_weights() -> None:
    cell = rj.IndRNN(64, max_time=4)
    params = cell.init(jax.random.key(0), 3)
    assert float(params.u.min()) >= 0
    assert float(params.u.max()) <= 2**0.25
    wild = params._replace(u=jnp.linspace(-3.0, 3.0, 64))
    tame = cell.constrain(wild)
    np.testing.assert_allclose(float(jnp.abs(tame.u).max()) ** 4, 2, rtol=1e-6)
    np.testing.assert_array_equal(tame.w, wild.w)
    assert rj.IndRNN(4).max_recurrent == 1


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: rj.LeakyElman(4, leak=1.5), ValueError, "`leak` must lie in"),
        (lambda: rj.LeakyElman(4, leak=None), TypeError, "`leak` must be a number"),
        (lambda: rj.LeakyElman(4, recurrent_init="eye"), ValueError, "`recurrent_init` must be one of"),
        (lambda: rj.PeepholeLSTM(0), ValueError, "`hidden_size` must be at least 1"),
        (lambda: rj.PeepholeLSTM(4, max_time=2.5), TypeError, "`max_time` must be a positive integer"),
        (lambda: rj.ProjectionLSTM(4, proj_size=0), ValueError, "`proj_size` must be at least 1"),
        (lambda: rj.CoupledLSTM(4, activation="tanhh"), ValueError, "unknown activation"),
        (lambda: rj.LayerNormLSTM(4, epsilon=0), ValueError, "`epsilon` must be above 0"),
        (lambda: rj.LayerNormGRU(4, epsilon="small"), TypeError, "`epsilon` must be a positive number"),
        (lambda: rj.IndRNN(4, max_time=0), ValueError, "`max_time` must be at least 1"),
        (lambda: rj.ConvLSTM(4, 5), TypeError, "`spatial_shape` must be a tuple of 1 to 3 sizes"),
        (lambda: rj.ConvLSTM(4, (1, 2, 3, 4)), TypeError, "`spatial_shape` must be a tuple of 1 to 3 sizes"),
        (lambda: rj.ConvLSTM(4, (5, 0)), ValueError, r"`spatial_shape\[1\]` must be at least 1"),
        (lambda: rj.ConvLSTM(4, (5, 5), kernel_size=(3,)), ValueError, "one for each of the 2 axes"),
        (lambda: rj.ConvLSTM(4, (5, 5), kernel_size=(3, 0)), ValueError, r"`kernel_size\[1\]` must be at least 1"),
        (lambda: rj.ConvLSTM(4, (5, 5), kernel_size=3.0), TypeError, "`kernel_size` must be a positive integer"),
    ],
)
def test_bad_hyperparameters_are_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_leak_of_another_length_is_refused() -> None:
    cell = rj.LeakyElman(4, leak=jnp.array([0.1, 0.2, 0.3]))
    params, xs, _ = _problem(cell, (3,))
    with pytest.raises(ValueError, match="`leak` must be one number or one for each feature"):
        rj.unroll(cell, params, xs)


def test_another_spatial_shape_is_refused() -> None:
    cell = rj.ConvLSTM(2, (4, 3))
    params, _, _ = _problem(cell, (4, 3, 2))
    with pytest.raises(ValueError, match=r"\*S = \(4, 3\)"):
        rj.unroll(cell, params, jnp.zeros((5, 2, 3, 4, 2)))


def test_a_compute_dtype_of_float64_is_not_the_absence_of_one() -> None:
    cells = [rj.GRU(4), rj.GRU(4, compute_dtype=jnp.float64), rj.GRU(4, compute_dtype="bfloat16")]
    params = jax.eval_shape(lambda: cells[0].init(jax.random.key(0), 3))
    xs = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    dtypes = [jax.eval_shape(rj.unroll, cell, params, xs)[0].dtype for cell in cells]
    assert dtypes == [jnp.float32, jnp.float64, jnp.bfloat16]
