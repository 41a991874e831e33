"""Newton's method beyond the laws: its recurrences, forms of Jacobian, report and fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax._unroll import blocks, driver, jacobians

T, B, I = 40, 3, 2  # noqa: E741


def problem(cell: rj.Cell, steps: int = T, gain: float = 1.0) -> tuple[Any, jax.Array]:
    params = cell.init(jax.random.key(0), I, jnp.float64)
    params = params._replace(u=gain * params.u) if hasattr(params, "u") else params
    return params, jax.random.normal(jax.random.key(1), (steps, B, I), jnp.float64)


def flags() -> dict[str, Any]:
    """Holes, tails and resets, also where they meet."""
    rng = np.random.default_rng(0)
    return {"mask": rng.random((T, B)) < 0.8, "reset": rng.random((T, B)) < 0.1, "lengths": np.array([T, 25, 0])}


@partial(jax.jit, static_argnames=("implementation", "reverse", "remat"))
def pull(cell: Any, params: Any, xs: Any, state: Any, options: Any, **statics: Any) -> Any:
    """Values and gradients of a loss on every output and on the last state."""

    def loss(cell: Any, params: Any, xs: Any, state: Any) -> Any:
        ys, last = rj.unroll(cell, params, xs, state, **options, **statics)
        return jnp.sum(ys**2) + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(cell, params, xs, state)


def agree(got: Any, want: Any, tolerance: float = 1e-10) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def random_system(size: int, groups: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(size)
    return rng.normal(size=(7, groups, size, size)), rng.normal(size=(7, groups, size))


@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 6))])
def test_recurrences_are_linear_systems(size: int) -> None:
    a, b = random_system(size)
    a[0] = 0
    solved, back, damped = (jax.jit(f) for f in (blocks.solve, blocks.solve_transposed, blocks.solve_damped))
    for group in range(a.shape[1]):
        whole = np.eye(7 * size)
        for t in range(1, 7):
            whole[t * size : (t + 1) * size, (t - 1) * size : t * size] = -a[t, group]
        rest = b[:, group].reshape(-1)
        least = np.linalg.solve(whole.T @ whole + 0.3 * np.eye(7 * size), whole.T @ rest)
        cases = (
            (solved(a, b), np.linalg.solve(whole, rest)),
            (back(a, b), np.linalg.solve(whole.T, rest)),
            (damped(a, b, 0.3), least),
        )
        for got, want in cases:
            np.testing.assert_allclose(got[:, group].reshape(-1), want, atol=1e-10)


CASES = [
    (rj.GRU(3), rj.Newton(), True),
    (rj.LRU(3, max_phase=0.3), rj.Newton(jacobian="diagonal"), False),
    (rj.LearnedInitialState(rj.HGRN(3)), rj.Newton(jacobian="diagonal"), True),
    (rj.Zoneout(rj.LRU(3, max_phase=0.3)), rj.Newton(jacobian="diagonal"), False),
    (rj.LSTM(3), rj.Newton(jacobian="block"), False),
    *((rj.GRU(3), rj.Newton(jacobian=form), True) for form in ("diagonal", "block")),
    (rj.LSTM(3), rj.Newton(jacobian="diagonal"), True),
    (rj.LSTM(3), rj.Newton(damping=0.1), False),
    (rj.IndRNN(3, activation="tanh"), rj.Newton(damping=0.1), False),
    (rj.ResetBeforeGRU(3), rj.Newton(jacobian="diagonal"), False),
    (rj.PeepholeLSTM(3), rj.Newton(jacobian="block"), False),
    (rj.LayerNormLSTM(3), rj.Newton(jacobian="block"), True),
]


@pytest.mark.parametrize(
    ("cell", "newton", "reverse"), [*CASES[:2], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[2:])]
)
def test_masks_and_resets_in_either_direction(cell: rj.Cell, newton: rj.Newton, reverse: bool) -> None:
    params, xs = problem(cell)
    state = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_state(params, (B,), jnp.float64))
    run = partial(pull, cell, params, xs, state, flags(), reverse=reverse)
    agree(run(implementation=newton), run(implementation="scan"))


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "newton", "reverse"), CASES)
def test_masks_and_resets_leave_it_convergent(cell: rj.Cell, newton: rj.Newton, reverse: bool) -> None:
    params, xs = problem(cell)
    report = rj.newton_report(cell, params, xs, **flags(), reverse=reverse, implementation=newton)
    assert report.converged
    assert report.residual < 1e-12


def equations(jaxpr: Any, skip: str = "") -> Iterator[Any]:
    """Those of a jaxpr and of all in it, but in primitives of one name."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in [] if eqn.primitive.name == skip else jax.tree.leaves(list(eqn.params.values())):
            if hasattr(value, "eqns"):
                yield from equations(value, skip)


def gradient_of(cell: rj.Cell, features: int) -> Any:
    params, xs = cell.init(jax.random.key(0), features), jnp.ones((T, B, features), jnp.float32)
    return jax.make_jaxpr(jax.grad(lambda params: rj.unroll(cell, params, xs, implementation="newton")[0].sum()))(
        params
    )


def test_products_in_a_step_are_exact_on_accelerators() -> None:
    """Of factors a GPU's default would keep 11 bits, a TPU's 8: no step is met to 1e-5 by such."""
    features = 7
    products = [eqn for eqn in equations(gradient_of(rj.GRU(3), features)) if eqn.primitive.name == "dot_general"]
    highest = [eqn for eqn in products if str(eqn.params["precision"]).count("HIGHEST") == 2]
    rest = [eqn for eqn in products if eqn not in highest]
    assert len(highest) > 4
    for eqn in rest:  # those with inputs, to which a CPU adds the bias as a row
        sizes = {size for var in (*eqn.invars, *eqn.outvars) for size in var.aval.shape}
        assert sizes & {features, features + 1}


def test_no_jacobian_is_formed_for_states_of_the_loop() -> None:
    found = [eqn for eqn in equations(gradient_of(rj.GRU(3), I)) if eqn.primitive.name == "custom_linear_solve"]
    solve = found[0].params["jaxprs"].solve
    shapes, behind = (
        {out.aval.shape for eqn in equations(solve, skip) for out in eqn.outvars} for skip in ("", "cond")
    )
    assert (T, B, 1, 3, 3) in shapes - behind


def test_chaos_ends_in_the_loop_and_says_so() -> None:
    cell, newton = rj.Elman(4), rj.Newton(max_iterations=8)
    params, xs = problem(cell, gain=4.0)
    report = rj.newton_report(cell, params, xs, implementation=newton)
    assert not report.converged
    assert report.iterations == 8
    assert report.residual > 0.1
    got, want = (pull(cell, params, xs, None, {}, implementation=which) for which in (newton, "scan"))
    np.testing.assert_array_equal(got[0][1][0], want[0][1][0])
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max())


@pytest.mark.slow
def test_numbers_that_overflow_end_in_the_loop() -> None:
    cell = rj.Elman(4, activation="relu")
    params, xs = problem(cell, steps=2000, gain=3.0)
    assert not rj.newton_report(cell, params, xs).converged
    got, want = (pull(cell, params, xs, None, {}, implementation=which)[0][1][0] for which in ("newton", "scan"))
    # whether ∞ − ∞ or ∞ comes of the overflow depends on the order of a sum, which is the compiler's
    overflow = np.argmin(np.isfinite(want).all((1, 2)))
    assert 100 < overflow < len(want)
    np.testing.assert_allclose(got[:overflow], want[:overflow], rtol=1e-9)
    assert not np.isfinite(got[overflow]).all()


def test_a_diverged_search_is_no_result() -> None:
    """So long and wide that XLA:CPU's vectorised maximum, which drops NaN, once called it converged."""
    cell = rj.Elman(16)
    params, xs = problem(cell, steps=1000, gain=3.0)
    params, xs = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, xs))
    report = rj.newton_report(cell, params, xs)
    assert not report.converged
    assert np.isnan(report.residual)
    got, want = (rj.unroll(cell, params, xs, implementation=which)[0] for which in ("newton", "scan"))
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_iterations_do_not_grow_with_time() -> None:
    cell = rj.GRU(8)
    for newton, most in ((rj.Newton(), 8), (rj.Newton(jacobian="diagonal"), 30)):
        params, xs = problem(cell, steps=3000)
        report = rj.newton_report(cell, params, xs, implementation=newton)
        assert report.converged
        assert report.iterations <= most


@pytest.mark.slow
def test_pieces_of_time_are_solved_one_after_another() -> None:
    cell = rj.Elman(4)
    params, xs = problem(cell, gain=4.0)
    whole, pieces = (
        rj.newton_report(cell, params, xs, remat=remat, implementation=rj.Newton(max_iterations=9))
        for remat in (None, 7)
    )
    assert not whole.converged
    assert pieces.converged
    assert pieces.iterations <= 8  # 7 end at the last step of a piece whatever the cell is, and one more sees it
    run = partial(pull, cell, params, xs, None, {})
    got, want = run(implementation="newton", remat=7), run(implementation="scan")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())


@rj.struct
class Centred(rj.GRU):
    """Its units meet in what is fed back."""

    def hidden(self, state: Any, noise: Any = None) -> Any:
        return state.h - jnp.broadcast_to(state.h.mean(-1, keepdims=True), state.h.shape)


def planned(cell: rj.Cell, form: Any = None) -> jacobians.Plan:
    found: list[jacobians.Plan] = []

    def look(cell: Any, params: Any, xs: Any) -> None:
        found.append(jacobians.plan(driver._call(cell, params, xs), form))

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    jax.eval_shape(look, cell, params, jax.ShapeDtypeStruct((T, B, I), jnp.float32))
    return found[0]


@pytest.mark.parametrize(
    ("cell", "form", "exact", "probes"),
    [
        (rj.IndRNN(70), "diagonal", True, "arrays"),
        (rj.LRU(70), "block", True, "arrays"),
        (rj.Zoneout(rj.IndRNN(70)), "diagonal", True, "arrays"),
        (rj.LSTM(32), "dense", True, "arrays"),
        (rj.LSTM(33), "block", False, "arrays"),
        (rj.GRU(65), "diagonal", False, "arrays"),
        (rj.LayerNormGRU(65), "diagonal", False, "units"),
        (rj.ResetBeforeGRU(65), "diagonal", False, "units"),
        (Centred(65), "diagonal", False, "units"),
        (rj.ProjectionLSTM(60, proj_size=5), "diagonal", False, "units"),
    ],
    ids=repr,
)
def test_jacobians_fit_the_cell(cell: rj.Cell, form: str, exact: bool, probes: str) -> None:
    assert planned(cell)[:3] == (form, exact, probes)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [rj.LSTM(3), rj.GRU(3), rj.PeepholeLSTM(3), rj.LayerNormLSTM(3), Centred(3)], ids=repr)
@pytest.mark.parametrize("form", ["dense", "block", "diagonal"])
def test_blocks_are_those_of_the_jacobian(cell: Any, form: str) -> None:
    params, xs = problem(cell, steps=5)
    state = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_state(params, (), jnp.float64))
    plan = planned(cell, form)
    z = cell.project(params, xs[:, 0])
    take = jacobians.decoupled(cell) if plan.probes == "arrays" and not plan.exact else cell.step

    def step(take: Any, flat: Any, z: Any) -> Any:
        return jacobians.flatten(plan.parts, take(params, jacobians.unflatten(plan.parts, state, flat), z))

    old = jnp.stack([jacobians.flatten(plan.parts, state)] * 5)
    push = jax.linearize(lambda old: jax.vmap(partial(step, take))(old, z), old)[1]
    found = jacobians.blocks(plan, push, old)
    for t in range(5):
        whole = np.asarray(jax.jacfwd(partial(step, cell.step))(old[t], jax.tree.map(lambda leaf, t=t: leaf[t], z)))
        units, parts = cell.hidden_size, len(plan.parts.sizes)
        for g in range(found.shape[1]):
            at = {"dense": slice(None), "diagonal": [g], "block": [g + units * p for p in range(parts)]}[form]
            np.testing.assert_allclose(found[t, g], whole[at][:, at], atol=1e-12)


def test_it_is_chosen_by_name_alone() -> None:
    cell = rj.ResetBeforeGRU(3)
    params, xs = problem(cell)
    assert "newton       can run it, but only by name" in rj.explain(cell, params, xs)
    newton = rj.Newton(jacobian="diagonal")
    assert "→ newton       chosen by name" in rj.explain(cell, params, xs, implementation=newton)
    layer = rj.RNN(cell, implementation=newton)
    assert layer == rj.RNN(cell, implementation=rj.Newton(jacobian="diagonal"))
    assert jax.eval_shape(layer, params, xs)[0].shape == (T, B, 3)


def called(cell: rj.Cell, newton: Any) -> Callable[[], Any]:
    params, xs = problem(cell)
    return lambda: rj.newton_report(cell, params, xs, implementation=newton)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: rj.Newton(jacobian="full"),
            ValueError,
            "`jacobian` must be None, 'dense', 'block' or 'diagonal'; got",
        ),
        (lambda: rj.Newton(damping=-1), ValueError, "`damping` must be at least 0; got -1"),
        (lambda: rj.Newton(tolerance="small"), TypeError, "`tolerance` must be a number; got 'small' of type str"),
        (lambda: rj.Newton(max_iterations=0), ValueError, "`max_iterations` must be at least 1; got 0"),
        (lambda: rj.Newton(max_iterations=2.5), TypeError, "`max_iterations` must be a positive integer; got 2.5"),
        (called(rj.GRU(3), "newton"), TypeError, "`implementation` must be a `rnnjax.Newton` or None; got 'newton'"),
        (called(rj.ProjectionLSTM(4, 2), rj.Newton("block")), ValueError, "have 2, 4: take 'dense' or 'diagonal'"),
        (called(rj.GradientClip(rj.GRU(3)), None), ValueError, "the step of GradientClip has no forward mode"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("cell", "steps", "dtype", "tolerance"),
    [
        (rj.LeakyElman(8, leak=0.005), 1000, jnp.bfloat16, 2e-2),
        (rj.LeakyElman(8, leak=5e-6), 20_000, jnp.float32, 1e-4),
        (rj.CoRNN(8, step_size=1e-3), 3000, jnp.float32, 1e-5),
    ],
    ids=["leaky-bfloat16", "leaky-float32", "co_rnn-float32"],
)
@pytest.mark.slow
def test_slow_units_are_solved_for(cell: rj.Cell, steps: int, dtype: Any, tolerance: float) -> None:
    """Where a unit hardly moves in a step, every step of a wrong answer is nearly right."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), cell.init(jax.random.key(0), 3, jnp.float32))
    xs = jnp.ones((steps, 1, 3), dtype)
    states = [rj.unroll(cell, params, xs, implementation=name)[1] for name in ("newton", "scan")]
    for got, wanted in zip(*map(jax.tree.leaves, states), strict=True):
        assert abs(wanted).max() > 0.02
        np.testing.assert_allclose(got, wanted, atol=tolerance)
    report = rj.newton_report(cell, params, xs)
    assert report.converged
    assert 1 <= report.iterations < 6


@pytest.mark.parametrize(
    ("newton", "gain", "size", "converges"),
    [
        (rj.Newton("diagonal"), 1, 1e-3, True),
        pytest.param(rj.Newton("diagonal", damping=1e3, tolerance=1e-2), 1, 1, True, marks=pytest.mark.slow),
        (rj.Newton("diagonal", tolerance=1e-2), 2, 1e-5, False),
    ],
    ids=["quasi", "damped", "growing"],
)
def test_small_corrections_need_not_be_the_last(newton: rj.Newton, gain: int, size: float, converges: bool) -> None:
    """Of what a slow unit is off by, a step shows a hundredth; damping holds corrections back; and they may grow."""
    cell = rj.LeakyElman(8, leak=0.01)
    params = cell.init(jax.random.key(0), 3, jnp.float32)
    params = params._replace(u=gain * params.u)
    xs = size * jax.random.normal(jax.random.key(1), (2000, 1, 3), jnp.float32)
    ys, _ = rj.unroll(cell, params, xs, implementation=newton)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, xs))
    wanted, _ = rj.unroll(cell, *wide, implementation="scan")
    np.testing.assert_allclose(ys, wanted, rtol=0, atol=newton.tolerance or 1e-5)
    report = rj.newton_report(cell, params, xs, implementation=newton)
    assert report.converged == converges
    if converges:
        assert np.abs(np.asarray(ys) - np.asarray(wanted)).max() < 1.1 * float(report.correction) + 1e-7


def test_slow_units_have_gradients() -> None:
    cell = rj.LeakyElman(8, leak=0.005)
    params = cell.init(jax.random.key(0), 3, jnp.float32)
    xs = jnp.ones((600, 1, 3), jnp.float32)

    def gradient(dtype: Any, implementation: str) -> Any:
        def loss(params: Any) -> Any:
            low = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
            return (
                rj.unroll(cell, low, xs.astype(dtype), implementation=implementation)[0].astype(jnp.float32) ** 2
            ).sum()

        return jax.jit(jax.grad(loss))(params)

    for got, wanted in zip(gradient(jnp.bfloat16, "newton"), gradient(jnp.float32, "scan"), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0.1, atol=0.02 * float(abs(wanted).max()))


@pytest.mark.parametrize("newton", [rj.Newton(), rj.Newton("diagonal"), rj.Newton(damping=0.1)], ids=repr)
def test_a_guess_that_is_right_is_enough(newton: rj.Newton) -> None:
    """With inputs, a state and biases of zero a GRU stays where it is."""
    params, xs = problem(rj.GRU(3))
    report = rj.newton_report(rj.GRU(3), params, jnp.zeros_like(xs), implementation=newton)
    assert report.converged
    assert (report.iterations, report.residual, report.correction) == (1, 0, 0)


def test_states_are_off_by_no_more_than_the_correction() -> None:
    """Of a whole Jacobian, when iterations have only begun to converge."""
    cell, newton = rj.Elman(8), rj.Newton(tolerance=0.3)
    params, xs = problem(cell, steps=1000, gain=0.9)
    report = rj.newton_report(cell, params, xs, implementation=newton)
    found, wanted = (rj.unroll(cell, params, xs, implementation=which)[0] for which in (newton, "scan"))
    off = (np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max()
    assert report.converged
    assert 1e-3 < off < report.correction + 1e-12
