"""Wrappers: what they draw, what they leave alone, and that the fast path takes the same draws as the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

KEY = jax.random.key(7)
STEPS, ROWS, IN, SIZE = 6, 2, 3, 4


def _random_like(seed: int, tree: Any) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.7)), tree)


def _problem(cell: rj.Cell) -> tuple[Any, jax.Array]:
    params = jax.eval_shape(lambda: cell.init(KEY, IN, jnp.float64))
    return _random_like(1, params), _random_like(2, jax.ShapeDtypeStruct((STEPS, ROWS, IN), jnp.float64))


def _linear() -> tuple[rj.Elman, Any]:
    """h_t = h_{t-1} u: what is fed back can be read off the outputs."""
    cell = rj.Elman(SIZE, activation="identity")
    params, _ = _problem(cell)
    return cell, params._replace(w=jnp.zeros_like(params.w), b=jnp.zeros_like(params.b))


def _close(a: Any, b: Any, atol: float = 1e-12) -> None:
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=atol)


NOISY: list[tuple[str, Callable[[Any], rj.Cell]]] = [
    ("zoneout", lambda rate: rj.Zoneout(rj.GRU(SIZE), rate=rate)),
    ("recurrent_dropout", lambda rate: rj.RecurrentDropout(rj.GRU(SIZE), rate=rate)),
    ("per_step", lambda rate: rj.RecurrentDropout(rj.GRU(SIZE), rate=rate, per_step=True)),
    ("weight_drop", lambda rate: rj.WeightDrop(rj.GRU(SIZE), rate=rate)),
]
noisy = pytest.mark.parametrize("make", [make for _, make in NOISY], ids=[name for name, _ in NOISY])


@noisy
def test_same_key_same_draws_and_another_key_others(make: Callable[[Any], rj.Cell]) -> None:
    cell = make(0.5)
    params, xs = _problem(cell)
    first, again, other = (rj.unroll(cell, params, xs, key=jax.random.key(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@noisy
def test_a_rate_of_zero_is_the_inner_cell(make: Callable[[Any], rj.Cell]) -> None:
    cell = make(0)
    params, xs = _problem(cell)
    _close(rj.unroll(cell, params, xs, key=KEY), rj.unroll(cell.cell, params, xs))


@pytest.mark.parametrize("name", [name for name, _ in NOISY if name != "zoneout"])
def test_no_key_no_draws(name: str) -> None:
    """Of zoneout the expectation remains, which is a test of its own."""
    cell = dict(NOISY)[name](0.5)
    params, xs = _problem(cell)
    one, other = (rj.unroll(each, params, xs, implementation="fused") for each in (cell, cell.cell))
    _close(one, other, atol=0)


@noisy
def test_vmap_over_rates(make: Callable[[Any], rj.Cell]) -> None:
    rates = jnp.array([0.1, 0.6])
    params, xs = _problem(make(0.5))
    several = jax.vmap(lambda rate: rj.unroll(make(rate), params, xs, key=KEY)[0])(rates)
    for rate, ys in zip((0.1, 0.6), several, strict=True):
        _close(ys, rj.unroll(make(rate), params, xs, key=KEY)[0])


def test_zoneout_holds_each_unit_of_each_field_at_its_own_rate() -> None:
    cell = rj.Zoneout(rj.LSTM(50), rate=0.1, cell_rate=0.4)
    _, drawn = cell.noise(KEY, 40, (10,))
    assert drawn.h.shape == drawn.c.shape == (40, 10, 50)
    for held, rate in ((drawn.h, 0.1), (drawn.c, 0.4)):
        assert held.dtype == bool
        share = np.asarray(held, np.float64)
        # five standard errors of a share
        assert abs(share.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / share.size)
        assert np.ptp(share.mean(axis=(1, 2))) > 0
    together = np.mean(np.asarray(drawn.h) & np.asarray(drawn.c))
    assert abs(together - 0.04) < 5 * np.sqrt(0.04 * 0.96 / drawn.h.size)


@pytest.mark.parametrize("inner", [rj.GRU, rj.ResetBeforeGRU, rj.MinGRU, rj.RGLRU])
def test_zoneout_takes_the_old_or_the_new_value(inner: Any) -> None:
    cell = rj.Zoneout(inner(SIZE), rate=0.5)
    params = _random_like(1, jax.eval_shape(lambda: cell.init(KEY, SIZE, jnp.float64)))
    xs = _random_like(2, jax.ShapeDtypeStruct((STEPS, ROWS, SIZE), jnp.float64))
    state = cell.initial_state(params, (ROWS,), jnp.float64)
    ys, _ = rj.unroll(cell, params, xs, key=KEY)
    before = jnp.concatenate([state.h[None], ys[:-1]])
    steps = jax.vmap(lambda x, h: rj.unroll(cell.cell, params, x[None], state._replace(h=h))[0][0])
    after = steps(xs, before)
    held = np.isclose(ys, before, rtol=0, atol=1e-12)
    assert 0.2 < held.mean() < 0.8
    np.testing.assert_allclose(ys, np.where(held, before, after), rtol=0, atol=1e-12)


def test_zoneout_without_a_key_takes_the_expectation() -> None:
    cell = rj.Zoneout(rj.LSTM(SIZE), rate=0.3, cell_rate=jnp.array([0.0, 0.2, 0.5, 1.0]))
    params, xs = _problem(cell)
    ys, last = rj.unroll(cell, params, xs)
    state = cell.initial_state(params, (ROWS,), jnp.float64)
    for t in range(STEPS):
        _, new = rj.unroll(cell.cell, params, xs[t : t + 1], state)
        rate = np.asarray(cell.cell_rate)
        state = type(state)(
            h=0.3 * state.h + 0.7 * new.h, c=rate * np.asarray(state.c) + (1 - rate) * np.asarray(new.c)
        )
        state = jax.tree.map(jnp.asarray, state)
        _close(ys[t], state.h)
    _close(last, state)


def test_zoneout_gives_all_fields_the_same_rate_unless_told() -> None:
    cell = rj.Zoneout(rj.LSTM(SIZE), rate=1.0)
    params, xs = _problem(cell)
    state = _random_like(3, cell.initial_state(params, (ROWS,), jnp.float64))
    _close(rj.unroll(cell, params, xs, state, key=KEY)[1], state, atol=0)
    _close(rj.unroll(cell, params, xs, state)[1], state)


@pytest.mark.parametrize("per_step", [False, True])
def test_recurrent_dropout_keeps_the_mean(per_step: bool) -> None:
    rate = 0.3
    _, scale = rj.RecurrentDropout(rj.Elman(100), rate=rate, per_step=per_step).noise(KEY, 50, (60,), jnp.float64)
    assert scale.shape == (50 if per_step else 1, 60, 100)
    np.testing.assert_allclose(np.unique(scale), [0, 1 / (1 - rate)])
    variance = rate / (1 - rate)
    assert abs(float(scale.mean()) - 1) < 5 * np.sqrt(variance / scale.size)
    np.testing.assert_allclose(float(scale.var()), variance, rtol=0.05)


@pytest.mark.parametrize("implementation", ["scan", "fused"])
def test_recurrent_dropout_has_one_mask_for_all_steps(implementation: str) -> None:
    inner, params = _linear()
    params = params._replace(u=jnp.eye(SIZE))
    xs, state = jnp.zeros((STEPS, 8, IN)), rj.cells.ElmanState(jnp.ones((8, SIZE)))
    powers = jnp.broadcast_to(jnp.arange(1.0, STEPS + 1)[:, None, None], (STEPS, 8, SIZE))

    def outputs(per_step: bool) -> jax.Array:
        cell = rj.RecurrentDropout(inner, rate=0.5, per_step=per_step)
        return rj.unroll(cell, params, xs, state, key=KEY, implementation=implementation)[0]

    constant, changing = outputs(False), outputs(True)
    assert set(np.unique(constant[0])) == {0.0, 2.0}
    np.testing.assert_array_equal(constant, constant[:1] ** powers)
    assert not np.array_equal(changing, changing[:1] ** powers)


def test_recurrent_dropout_leaves_the_carried_state_alone() -> None:
    cell = rj.RecurrentDropout(rj.GRU(SIZE), rate=0.5)
    params, xs = _problem(cell)
    always_keep = params._replace(b=params.b.at[SIZE : 2 * SIZE].set(1e3))
    state = _random_like(3, cell.initial_state(params, (ROWS,), jnp.float64))
    _close(rj.unroll(cell, always_keep, xs, state, key=KEY)[1], state)


@pytest.mark.parametrize("implementation", ["scan", "fused"])
def test_weight_drop_changes_u_once(implementation: str) -> None:
    inner, params = _linear()
    cell = rj.WeightDrop(inner, rate=0.4)
    rows = rj.cells.ElmanState(jnp.eye(SIZE))
    ys, _ = rj.unroll(cell, params, jnp.zeros((STEPS, SIZE, IN)), rows, key=KEY, implementation=implementation)
    dropped = np.asarray(ys[0])
    assert 0 < np.mean(dropped == 0) < 1
    np.testing.assert_allclose(dropped, np.where(dropped == 0, 0, params.u / 0.6), rtol=1e-12)
    for t in range(STEPS):
        np.testing.assert_allclose(ys[t], np.linalg.matrix_power(dropped, t + 1), rtol=1e-9, atol=1e-12)


def test_weight_drop_keeps_the_mean_and_reaches_the_innermost_weights() -> None:
    inner = rj.LearnedInitialState(rj.Zoneout(rj.LSTM(60)))
    cell = rj.WeightDrop(inner, rate=0.25)
    params = cell.init(KEY, IN, jnp.float64)
    dropped = cell.prepare(params, key=KEY)
    scale = np.asarray(dropped.cell.u / params.cell.u)
    np.testing.assert_allclose(np.unique(np.round(scale, 9)), [0, np.round(4 / 3, 9)])
    assert abs(scale.mean() - 1) < 5 * np.sqrt(1 / 3 / scale.size)
    np.testing.assert_array_equal(dropped.cell.w, params.cell.w)
    _close(cell.prepare(params), params, atol=0)


def test_weight_drop_of_both_recurrent_weights() -> None:
    """LEM has two: each with a mask of its own."""
    cell = rj.WeightDrop(rj.LEM(60), rate=0.25)
    params = cell.init(KEY, IN, jnp.float64)
    dropped = cell.prepare(params, key=KEY)
    scales = [np.asarray(dropped[i] / params[i]) for i in (1, 2)]
    for scale in scales:
        np.testing.assert_allclose(np.unique(np.round(scale, 9)), [0, np.round(4 / 3, 9)])
        assert abs(scale.mean() - 1) < 5 * np.sqrt(1 / 3 / scale.size)
    size = scales[1].size
    for first in (scales[0].ravel()[:size], scales[0][:, :60].ravel()):
        assert abs(np.corrcoef(first, scales[1].ravel())[0, 1]) < 5 / np.sqrt(size)
    np.testing.assert_array_equal(dropped.w, params.w)
    np.testing.assert_array_equal(dropped.b, params.b)


def test_noise_is_constant_to_differentiation() -> None:
    params, xs = _problem(rj.GRU(SIZE))

    def loss(rate: jax.Array) -> jax.Array:
        return sum(rj.unroll(make(rate), params, xs, key=KEY, implementation="scan")[0].sum() for _, make in NOISY)

    assert float(jax.jit(jax.grad(loss))(0.4)) == 0


def test_learned_initial_state_is_zero_at_first_and_broadcast() -> None:
    cell = rj.LearnedInitialState(rj.LSTM(SIZE))
    params = cell.init(KEY, IN)
    assert all(leaf.shape == (SIZE,) and not leaf.any() for leaf in params.state)
    params = _random_like(1, params)
    for leaf, own in zip(cell.initial_state(params, (2, 5), jnp.float64), params.state, strict=True):
        np.testing.assert_array_equal(leaf, np.broadcast_to(own, (2, 5, SIZE)))


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    return x


clipped.defvjp(lambda x: (x, None), lambda _, d: (jnp.clip(d, -1, 1),))


def clipped_above_zero(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x.sum() > 0, clipped, jnp.tanh, x)


def test_a_branch_without_forward_mode_is_the_cells_own() -> None:
    cell = rj.Elman(SIZE, activation=clipped_above_zero)
    params, xs = _problem(cell)
    with pytest.raises(TypeError, match=r"Elman.* itself has a hand-formed reverse mode"):
        jax.jvp(lambda p: rj.unroll(cell, p, xs, implementation="fused")[0], (params,), (params,))
    with pytest.raises(ValueError, match="the step of Elman has no forward mode"):
        rj.unroll(cell, params, xs, implementation="newton")


@pytest.mark.slow
def test_a_learned_state_of_an_slstm_has_a_norm() -> None:
    """Its stabiliser is so low at first that nothing is left of the state, and still has a square in float32."""
    cell, tune = rj.LearnedInitialState(rj.SLSTM(SIZE)), rj.training.optimizer(1e-2, clip_adaptive=0.1)
    params = cell.init(KEY, IN, jnp.float32)
    loss = lambda params: (rj.unroll(cell, params, jnp.ones((STEPS, ROWS, IN), jnp.float32))[0] ** 2).sum()  # noqa: E731
    with jax.numpy_dtype_promotion("standard"):  # Optax promotes
        updates, _ = tune.update(jax.grad(loss)(params), tune.init(params), params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(updates))


def test_a_learned_matrix_is_not_rounded_to_the_compute_dtype() -> None:
    """1.003 is 1 in bfloat16."""
    cell = rj.LearnedInitialState(rj.GLA(4, heads=2, rank=2, compute_dtype="bfloat16"))
    params = cell.init(jax.random.key(0), 3, jnp.float32)
    params = params._replace(state=jax.tree.map(lambda leaf: jnp.full_like(leaf, 1.003), params.state))
    _, state = rj.unroll(cell, params, jnp.ones((0, 2, 3), jnp.bfloat16))
    assert state.s.dtype == jnp.float32
    np.testing.assert_array_equal(state.s, np.float32(1.003))


@pytest.mark.parametrize("implementation", ["scan", "fused"])
def test_learned_initial_state_gets_the_gradient_of_every_start(implementation: str) -> None:
    cell = rj.LearnedInitialState(rj.LSTM(SIZE))
    params, xs = _problem(cell)
    reset = jnp.zeros((STEPS, ROWS), bool).at[3, 1].set(True)
    options = {"implementation": implementation}

    def learned(params: Any) -> jax.Array:
        return jnp.sum(rj.unroll(cell, params, xs, reset=reset, **options)[0] ** 2)

    def given(starts: Any) -> jax.Array:
        first, restarted = starts
        whole = rj.unroll(cell.cell, params.cell, xs, first, **options)[0]
        piece = rj.unroll(cell.cell, params.cell, xs[3:, 1], restarted, **options)[0]
        return jnp.sum(whole[:, 0] ** 2) + jnp.sum(whole[:3, 1] ** 2) + jnp.sum(piece**2)

    starts = (cell.initial_state(params, (ROWS,), jnp.float64), params.state)
    at_first, at_reset = jax.jit(jax.grad(given))(starts)
    wanted = jax.tree.map(lambda rows, row: rows.sum(0) + row, at_first, at_reset)
    _close(jax.jit(jax.grad(learned))(params).state, wanted)


NESTED = [
    rj.Zoneout(rj.RecurrentDropout(rj.LearnedInitialState(rj.LSTM(SIZE)), rate=0.3), rate=0.2, cell_rate=0.4),
    rj.WeightDrop(rj.RecurrentDropout(rj.Zoneout(rj.GRU(SIZE)), rate=0.3, per_step=True), rate=0.4),
]


@pytest.mark.parametrize("cell", NESTED, ids=lambda cell: type(cell).__name__)
def test_nested_wrappers_draw_the_same_on_the_fast_path(cell: rj.Cell) -> None:
    assert cell.capability == "gated"
    params, xs = _problem(cell)
    mask = jnp.asarray(np.random.default_rng(4).random((STEPS, ROWS)) < 0.8)
    assert "→ fused" in rj.explain(cell, params, xs, key=KEY)

    def run(implementation: str, remat: int | None) -> Any:
        def loss(cell: Any, params: Any, xs: Any) -> jax.Array:
            ys, state = rj.unroll(cell, params, xs, mask=mask, key=KEY, implementation=implementation, remat=remat)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((ys, state)))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(cell, params, xs)

    reference = run("scan", None)
    _close(run("fused", None), reference)
    _close(run("fused", 4), reference)


class ScaleParams(NamedTuple):
    w: jax.Array


@rj.struct
class Scale(rj.Cell):
    """A cell without recurrent weights."""

    hidden_size: int

    def init(self, key: jax.Array, in_size: int, dtype: Any = jnp.float32) -> ScaleParams:
        return ScaleParams(jnp.ones((in_size, self.hidden_size), dtype))

    def initial_state(self, params: ScaleParams, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Any:
        return rj.cells.ElmanState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: ScaleParams, x: jax.Array, noise: Any = None) -> jax.Array:
        return x @ params.w

    def step(self, params: ScaleParams, state: Any, z: jax.Array) -> Any:
        return rj.cells.ElmanState(0.5 * state.h + z)


@pytest.mark.parametrize("inner", [Scale(SIZE), rj.ResetBeforeGRU(SIZE), rj.ProjectionLSTM(SIZE, proj_size=2)])
def test_wrappers_of_plain_cells_are_plain(inner: rj.Cell) -> None:
    cell = rj.Zoneout(rj.LearnedInitialState(inner))
    params, xs = _problem(cell)
    assert cell.capability == "plain"
    assert cell.out_size(IN) == inner.out_size(IN)
    ys, _ = rj.unroll(cell, params, xs, key=KEY)
    assert ys.shape == (STEPS, ROWS, inner.out_size(IN))


def test_wrappers_of_convolutions() -> None:
    cell = rj.Zoneout(rj.LearnedInitialState(rj.WeightDrop(rj.ConvLSTM(2, (3, 2)))))
    assert cell.event_ndim == 3
    params = _random_like(1, jax.eval_shape(lambda: cell.init(KEY, IN)))
    assert params.state.h.shape == (3, 2, 2)
    ys, state = rj.unroll(cell, params, jnp.zeros((STEPS, ROWS, 3, 2, IN)), key=KEY)
    assert ys.shape == (STEPS, ROWS, 3, 2, 2)
    assert state.c.shape == (ROWS, 3, 2, 2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: rj.Zoneout(4), TypeError, "`cell` must be a cell"),
        (lambda: rj.LearnedInitialState(rj.LSTM), TypeError, "`cell` must be a cell"),
        (lambda: rj.Zoneout(rj.GRU(4), rate=1.2), ValueError, "`rate` must lie in"),
        (lambda: rj.Zoneout(rj.GRU(4), cell_rate="high"), TypeError, "`cell_rate` must be a number"),
        (lambda: rj.RecurrentDropout(rj.GRU(4), rate=1), ValueError, "`rate` must be below 1"),
        (lambda: rj.RecurrentDropout(rj.GRU(4), per_step=1), TypeError, "`per_step` must be True or False"),
        (lambda: rj.RecurrentDropout(rj.ResetBeforeGRU(4)), TypeError, "gated cell .* use `WeightDrop`, or `Zoneout`"),
        (lambda: rj.RecurrentDropout(rj.Zoneout(rj.IndRNN(4))), TypeError, r"must be a gated cell .*\): use `Zoneout`"),
        (lambda: rj.RecurrentDropout(rj.ConvLSTM(2, (3,))), TypeError, "gated cell .* use `WeightDrop`, or `Zoneout`"),
        (lambda: rj.RecurrentDropout(rj.LTC(4)), TypeError, r"must be a gated cell .*\): use `Zoneout`"),
        (lambda: rj.RecurrentDropout(rj.MLSTM(4, heads=2)), TypeError, "gated cell .* use `Dropout` between layers"),
        (lambda: rj.WeightDrop(rj.GRU(4), rate=-0.1), ValueError, "`rate` must lie in"),
        (lambda: rj.WeightDrop(Scale(4)).init(KEY, IN), TypeError, "must have matrices `u`"),
    ],
)
def test_bad_wrappers_are_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("implementation", ["scan", "fused"])
@pytest.mark.parametrize("by", ["value", "norm"])
@pytest.mark.parametrize(
    "inner", [rj.Elman(3), rj.LSTM(3), rj.Zoneout(rj.GRU(3), rate=0.2)], ids=["elman", "lstm", "zoneout"]
)
def test_gradient_clip_bounds_what_flows_back(inner: rj.Cell, by: str, implementation: str) -> None:
    """Against back-propagation written as a loop over steps, each differentiated alone, with NumPy's clip between."""
    bound, steps = 0.3, 6
    cell = rj.GradientClip(inner, bound=bound, by=by)  # type: ignore[arg-type]
    params = jax.tree.map(lambda leaf: 2 * leaf, cell.init(jax.random.key(0), 2, jnp.float64))
    xs = jax.random.normal(jax.random.key(1), (steps, 2, 2), jnp.float64)
    start = cell.initial_state(params, (2,), jnp.float64)

    def loss(params: Any, xs: Any, state: Any) -> Any:
        return 3 * rj.unroll(cell, params, xs, state, implementation=implementation)[0].sum()

    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, xs, start)

    def one(params: Any, x: Any, state: Any) -> Any:
        return inner.step(params, state, jax.tree.map(lambda leaf: leaf[0], inner.project(params, x[None])))

    states = [start]
    for x in xs:
        states.append(one(params, x, states[-1]))
    d_state = jax.tree.map(jnp.zeros_like, start)
    d_params, d_xs, clipped = jax.tree.map(jnp.zeros_like, params), [], 0
    for t in reversed(range(steps)):
        d_state = d_state._replace(h=d_state.h + 3)
        before = d_state
        if by == "value":
            d_state = jax.tree.map(lambda leaf: np.clip(leaf, -bound, bound), d_state)
        else:
            norms = [np.maximum(np.linalg.norm(leaf, axis=-1, keepdims=True), bound) for leaf in d_state]
            d_state = type(d_state)(*(leaf * (bound / norm) for leaf, norm in zip(d_state, norms, strict=True)))
        clipped += any(not np.allclose(a, b) for a, b in zip(before, d_state, strict=True))
        _, pull = jax.vjp(one, params, xs[t], states[t])
        more, d_x, d_state = pull(jax.tree.map(jnp.asarray, d_state))
        d_params = jax.tree.map(jnp.add, d_params, more)
        d_xs.insert(0, d_x)
    assert clipped == steps
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves((d_params, jnp.stack(d_xs), d_state)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


ATTENTION = rj.BahdanauAttention(rj.GRU(4), rj.AdditiveScore(4), memory_size=2)
UNITWISE = [
    rj.Elman,
    rj.LeakyElman,
    rj.LSTM,
    rj.PeepholeLSTM,
    rj.CoupledLSTM,
    rj.GRU,
    rj.ResetBeforeGRU,
    rj.MGU,
    rj.IndRNN,
    rj.LinearElman,
    rj.MinGRU,
    rj.MinLSTM,
    rj.QRNN,
    rj.CoRNN,
    rj.SLSTM,
    lambda size: rj.LearnedInitialState(rj.LSTM(size)),
]


@pytest.mark.parametrize("make", UNITWISE, ids=lambda make: type(make(1)).__name__)
def test_active_units_are_a_smaller_cell(make: Callable[[int], rj.Cell]) -> None:
    """Three of five units are a cell of three with the weights that have a gradient, and are as many as it has."""
    big, small = rj.ActiveUnits(make(5), units=3), make(3)
    params, _ = _problem(big)
    _, xs = _problem(small)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(rj.unroll(big, p, xs)[0] ** 2)))(params)
    like = jax.eval_shape(lambda: small.init(KEY, IN, jnp.float64))
    cut = jax.tree.map(lambda leaf, grad, own: leaf[grad != 0].reshape(own.shape), params, grads, like)
    for implementation in ("scan", "fused") if big.capability == "gated" else ("scan",):
        ys, _ = rj.unroll(big, params, xs, implementation=implementation)
        _close(ys[..., :3], rj.unroll(small, cut, xs, implementation="scan")[0])
        np.testing.assert_array_equal(ys[..., 3:], 0)


@pytest.mark.parametrize("make", [rj.LSTM, rj.GRU, rj.ResetBeforeGRU, rj.CoRNN], ids=lambda make: make.__name__)
def test_active_units_start_from_no_others(make: Callable[[int], rj.Cell]) -> None:
    """From a state with five entries, and behind a boundary from five that are learned, they are a smaller cell too."""
    big, small = (rj.LearnedInitialState(cell) for cell in (rj.ActiveUnits(make(5), units=3), make(3)))
    params, xs = _problem(big)
    state = _random_like(3, big.initial_state(params, (ROWS,), jnp.float64))
    reset = jnp.zeros((STEPS, ROWS), bool).at[3].set(True)

    def pull(cell: rj.Cell, implementation: str, arrays: Any) -> Any:
        def loss(arrays: Any) -> Any:
            ys, last = rj.unroll(cell, arrays[0], xs, arrays[1], reset=reset, implementation=implementation)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((ys, last)))

        return jax.jit(jax.value_and_grad(loss))(arrays)

    own = jax.eval_shape(lambda: small.init(KEY, IN, jnp.float64))
    like = own, jax.eval_shape(lambda params: small.initial_state(params, (ROWS,)), own)

    def cut(tree: Any, grads: Any) -> Any:
        return jax.tree.map(lambda leaf, grad, own: leaf[grad != 0].reshape(own.shape), tree, grads, like)

    for implementation in ("scan", "fused") if big.capability == "gated" else ("scan",):
        value, grads = pull(big, implementation, (params, state))
        _close((value, cut(grads, grads)), pull(small, "scan", cut((params, state), grads)))


@pytest.mark.parametrize("units", [0.5, 2.5, jnp.array([2.0, 0.5]), np.float32(1.2)], ids=repr)
def test_active_units_are_whole(units: Any) -> None:
    with pytest.raises(ValueError, match="`units` must be a whole number"):
        rj.ActiveUnits(rj.LSTM(4), units=units)


def test_unitwise_cells_are_all_tested() -> None:
    cells = {type(make(2)) for make in UNITWISE}
    assert {cls for cls in vars(rj).values() if isinstance(cls, type) and vars(cls).get("unitwise") is True} <= cells


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rj.Zoneout(rj.SLSTM(4)), "one whose state can be held array by array"),
        (lambda: rj.Zoneout(rj.LearnedInitialState(rj.MLSTM(4))), "one whose state can be held array by array"),
        (lambda: rj.ActiveUnits(rj.LayerNormLSTM(4), units=3), "units meet in its recurrent product alone"),
        (
            lambda: rj.ActiveUnits(rj.ProjectionLSTM(4, 2), units=3),
            "units meet in its recurrent product alone",
        ),
        (lambda: rj.ActiveUnits(rj.LEM(4), units=3), "units meet in its recurrent product alone"),
        (lambda: rj.ActiveUnits(rj.LTC(4), units=3), "units meet in its recurrent product alone"),
        (lambda: rj.ActiveUnits(rj.MLSTM(4, heads=2), units=3), "units meet in its recurrent product alone"),
        (lambda: rj.WeightDrop(rj.LTC(4)).init(KEY, 3), "matrices `u` that multiply its state"),
        (lambda: rj.WeightDrop(rj.MinGRU(4)).init(KEY, 3), "matrices `u` that multiply its state"),
        (lambda: rj.WeightDrop(rj.IndRNN(4)).init(KEY, 3), "matrices `u` .* got IndRNN.* use `Zoneout`"),
        (lambda: rj.WeightDrop(rj.Zoneout(rj.LinearElman(4))).init(KEY, 3), "matrices `u` .* got LinearElman"),
        (lambda: rj.WeightDrop(rj.MLSTM(4, heads=2)).init(KEY, 3), "matrices `u` .* use `Dropout` between layers"),
        (lambda: rj.WeightDrop(ATTENTION), "put `WeightDrop` inside, around the recurrent cell"),
        (lambda: rj.RecurrentDropout(ATTENTION), "put `RecurrentDropout` inside, around the recurrent cell"),
        (lambda: rj.Zoneout(ATTENTION), r"on the `context` of a call; got Bah.*: put `Zoneout` inside"),
        (lambda: rj.Zoneout(rj.GradientClip(ATTENTION)), "put `Zoneout` inside, around the recurrent cell"),
        (lambda: rj.Zoneout(rj.PointerGenerator(ATTENTION, 5)), "put `Zoneout` inside, around the recurrent cell"),
        (lambda: rj.LearnedInitialState(ATTENTION), "put `LearnedInitialState` inside, around the recurrent cell"),
    ],
)
def test_cells_that_a_wrapper_would_make_another_network(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_a_norm_beyond_the_range_of_squares_is_clipped() -> None:
    cell = rj.GradientClip(rj.Elman(2, activation="identity"), bound=1.0, by="norm")
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, 2))._replace(w=jnp.eye(2))
    state = cell.initial_state(params, (1,))
    for scale in (3e-30, 3e25):
        huge = jnp.array([[3.0, -4.0]]) * scale
        _, pull = jax.vjp(lambda xs: rj.unroll(cell, params, xs, state)[0], jnp.zeros((1, 1, 2)))
        want = huge if scale < 1 else jnp.array([[0.6, -0.8]])
        np.testing.assert_allclose(pull(huge[None])[0][0], want, rtol=1e-6)


def test_zoneout_of_a_state_of_any_form() -> None:
    """The state of an LSTM as a dictionary is zoned out as its NamedTuple is."""

    @rj.struct
    class Loose(rj.Wrapper):
        def initial_state(self, params: Any, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Any:
            return super().initial_state(params, batch_shape, dtype)._asdict()

        def step(self, params: Any, state: Any, z: Any, noise: Any = None) -> Any:
            return self.cell.step(params, type(self.cell.initial_state(params))(**state), z)._asdict()

        def emit(self, state: Any) -> Any:
            return state["h"]

    inner = rj.LSTM(SIZE)
    params, xs = _problem(inner)
    loose, known = (rj.Zoneout(cell, rate=0.3, cell_rate=0.6) for cell in (Loose(inner), inner))
    _close(rj.unroll(loose, params, xs)[0], rj.unroll(known, params, xs)[0])
    states = loose.noise(KEY, STEPS, (ROWS,))[1]
    assert jax.tree.map(jnp.shape, states) == {"c": (STEPS, ROWS, SIZE), "h": (STEPS, ROWS, SIZE)}
    held, _ = rj.unroll(rj.Zoneout(Loose(inner), rate=1.0), params, xs, key=KEY)
    _close(held, jnp.zeros_like(held))
