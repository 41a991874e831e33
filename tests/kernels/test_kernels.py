"""The native kernels: every instruction set, awkward sizes, bad numbers, threads, `vmap`, and life without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax._unroll import kernels
from rnnjax._unroll.kernels import Loaded

pytestmark = pytest.mark.skipif(not kernels.load().variants, reason=kernels.load().reason or "")

CELLS = {
    "elman": rj.Elman,
    "relu": partial(rj.Elman, activation="relu"),
    "lstm": rj.LSTM,
    "gru": rj.GRU,
}
# rows, inputs, units: no multiple of a tile, and one of them all
SIZES = [
    *((3, 7, 17), (13, 16, 64)),
    *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((1, 1, 1), (7, 3, 129), (17, 129, 3))),
]


BEST = next(iter(kernels.load().variants), None)
"""The instruction set that this machine's users have; the others are tested with --all."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name != BEST else []) for name in ("avx512", "avx2", "portable")
    ]
)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An instruction set, in the place of the best one."""
    variants = kernels.load().variants
    if request.param not in variants:
        pytest.skip(f"this machine has {', '.join(variants)}")
    monkeypatch.setattr(kernels, "variant", lambda: variants[request.param])
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


def trial(make: Any, rows: int, inputs: int, units: int, dtype: Any, steps: int = 5) -> tuple[Any, ...]:
    """A cell, parameters, inputs, a state and cotangents, drawn at random."""
    rng, cell = np.random.default_rng(units), make(units)

    def draw(leaf: Any, scale: float = 1.0) -> Any:
        return jnp.asarray(scale * rng.normal(size=leaf.shape), dtype)

    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs))
    params = jax.tree.map(partial(draw, scale=1 / np.sqrt(inputs + units)), params)
    state = jax.tree.map(draw, jax.eval_shape(lambda: cell.initial_state(params, (rows,))))
    xs = draw(jax.ShapeDtypeStruct((steps, rows, inputs), dtype))
    return cell, params, xs, state, draw(jax.ShapeDtypeStruct((steps, rows, units), dtype))


@partial(jax.jit, static_argnames=("implementation", "reverse", "remat"))
def pull(cell: Any, params: Any, xs: Any, state: Any, d_ys: Any, **options: Any) -> Any:
    """Values and gradients; the cotangent of the last state is the first one."""
    out, back = jax.vjp(lambda *arrays: rj.unroll(cell, *arrays, **options), params, xs, state)
    return out, back((d_ys, state))


def close(got: Any, want: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_every_instruction_set_has_the_values_and_gradients_of_scan(
    variant: str, name: str, sizes: tuple[int, int, int]
) -> None:
    """In float32 in all ways; in float64, which the laws are in, at sizes that they do not have."""
    rng = np.random.default_rng(0)
    flags = {"mask": rng.random((5, sizes[0])) < 0.7, "reset": rng.random((5, sizes[0])) < 0.3}
    wide, narrow = (trial(CELLS[name], *sizes, dtype) for dtype in (jnp.float64, jnp.float32))
    for options in ({**flags, "reverse": True}, {**flags, "remat": 2}, {}):
        want = pull(*wide, implementation="scan", **{**options, "remat": None})
        close(pull(*narrow, implementation="cpu", **options), want, 3e-5)
        if "reverse" in options:
            close(pull(*wide, implementation="cpu", **options), want, 1e-11)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        *((name, 9) for name in CELLS),
        ("gru", 1),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in CELLS if name != "gru"),
    ],
)
def test_a_state_of_zeros_saves_products_and_changes_nothing(variant: str, name: str, rows: int) -> None:
    """Whether the gradient of the state is asked for or not; with some rows of zeros alone nothing is saved."""
    cell, params, xs, state, d_ys = trial(CELLS[name], rows, 3, 21, jnp.float64)
    zeros = jax.tree.map(jnp.zeros_like, state)
    some = jax.tree.map(lambda leaf: leaf.at[: rows // 2].set(0), state)
    mask = jnp.ones((5, rows), bool).at[0, 0].set(False)

    @partial(jax.jit, static_argnums=2)
    def by_params(params: Any, state: Any, implementation: str, **flags: Any) -> Any:
        def loss(params: Any) -> Any:
            ys, last = rj.unroll(cell, params, xs, state, implementation=implementation, **flags)
            return (ys * d_ys).sum() + (last.h**2).sum()

        return jax.value_and_grad(loss)(params)

    for start in (zeros, some):
        close(
            pull(cell, params, xs, start, d_ys, implementation="cpu"),
            pull(cell, params, xs, start, d_ys, implementation="scan"),
            1e-11,
        )
        for flags in ({}, {"mask": mask}, {"reset": ~mask}):
            close(by_params(params, start, "cpu", **flags), by_params(params, start, "scan", **flags), 1e-11)
    text = by_params.lower(params, zeros, "cpu").as_text()
    assert "wants_state = false" in text
    assert "wants_state = true" in pull.lower(cell, params, xs, state, d_ys, implementation="cpu").as_text()


def test_a_learned_state_behind_a_reset_at_the_first_step_has_its_gradient(variant: str) -> None:
    """Also where none is asked for of the state that is carried in, which the reset ends."""
    cell = rj.LearnedInitialState(rj.GRU(21))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.3 * rng.normal(size=leaf.shape), jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    )
    xs, carried = rng.normal(size=(5, 9, 3)), rj.cells.GRUState(rng.normal(size=(9, 21)))
    reset = np.zeros((5, 9), bool)
    reset[0, 2:] = True

    @partial(jax.jit, static_argnums=1)
    def slopes(params: Any, implementation: str) -> Any:
        def loss(params: Any) -> Any:
            return (rj.unroll(cell, params, xs, carried, reset=reset, implementation=implementation)[0] ** 2).sum()

        return jax.grad(loss)(params)

    got, want = slopes(params, "cpu"), slopes(params, "scan")
    close(got, want, 1e-11)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(got))


@pytest.mark.parametrize(
    "sizes",
    [(7, 19, 33), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((1, 1, 1), (16, 8, 16)))],
    ids=str,
)
@pytest.mark.parametrize("name", CELLS)
def test_a_single_step_of_few_rows_reads_the_weights_as_they_lie(
    variant: str, name: str, sizes: tuple[int, int, int]
) -> None:
    step = jax.jit(rj.unroll, static_argnames="implementation")
    for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 3e-6)):
        rows = trial(CELLS[name], *sizes, dtype, steps=1)
        assert "→ cpu" in rj.explain(*rows[:4])
        close(step(*rows[:4], implementation="cpu"), step(*rows[:4], implementation="scan"), tolerance)
    close(pull(*rows, implementation="cpu"), pull(*rows, implementation="scan"), tolerance)


def test_a_single_step_of_several_models() -> None:
    cell, params, xs, state, _ = trial(rj.GRU, 3, 5, 18, jnp.float64, steps=1)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)

    def steps(implementation: str) -> Any:
        step = partial(rj.unroll, cell, implementation=implementation)
        return jax.vmap(step, (0, None, None))(several, xs, state)

    close(steps("cpu"), steps("scan"), 1e-12)


def test_a_single_step_of_one_row_leaves_what_is_infinite_in_its_place(variant: str) -> None:
    """Of 3 units a vector has room for more, which must not be filled up with inf · 0."""
    cell, params, xs, state, _ = trial(rj.GRU, 1, 2, 3, jnp.float32, steps=1)
    params = jax.tree.map(jnp.abs, params)
    for arrays in ((xs.at[0, 0, 0].set(jnp.inf), state), (xs, state._replace(h=state.h.at[0, 0].set(-jnp.inf)))):
        got, want = (rj.unroll(cell, params, *arrays, implementation=how) for how in ("cpu", "scan"))
        close(got, want, 3e-6)


def test_more_rows_or_marks_are_no_single_step_of_the_kernels() -> None:
    """But for so little work that one thread does it, and so much that packing is little beside it."""
    cell, params, xs, state, _ = trial(rj.LSTM, 17, 3, 70, jnp.float32, steps=1)
    assert "a single step has no loop to speed up, but for at most 16 rows" in rj.explain(cell, params, xs, state)
    assert "→ cpu" in rj.explain(cell, params, xs[:, :16])
    marks = {"reset": jnp.zeros((1, 16), bool)}
    assert "→ scan" in rj.explain(cell, params, xs[:, :16], **marks)
    assert "→ cpu" in rj.explain(cell, params, xs[:, :2], lengths=jnp.ones(2, int))
    assert "→ cpu" in rj.explain(cell, params, jnp.ones((1, 250, 3)))


def test_weights_are_packed_for_enough_rows_and_steps() -> None:
    cell, params, xs, _, _ = trial(rj.LSTM, 2, 3, 170, jnp.float32, steps=64)
    assert "→ cpu" in rj.explain(cell, params, xs)
    assert "B · T = 126 is below 128: packing 118,320 weights takes longer" in rj.explain(cell, params, xs[:63])


def test_blocks_of_steps_cover_a_long_sequence(variant: str) -> None:
    rows = trial(rj.LSTM, 4, 5, 24, jnp.float64, steps=700)
    for remat in (None, "sqrt", 640):
        close(pull(*rows, implementation="cpu", remat=remat), pull(*rows, implementation="scan"), 1e-10)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_two_threads_share_the_steps_of_one_row(name: str) -> None:
    for steps, options in ((401, {}), (200, {"remat": 7, "reverse": True})):
        rows = trial(CELLS[name], 1, 5, 113, jnp.float64, steps=steps)
        want = pull(*rows, implementation="scan", **{**options, "remat": None})
        for _ in range(3):
            close(pull(*rows, implementation="cpu", **options), want, 1e-9)


def test_tanh_has_a_relative_error_below_a_millionth(variant: str) -> None:
    # one input, one unit, no recurrence: the output is tanh of the input
    cell, params = rj.Elman(1), rj.Elman(1).init(jax.random.key(0), 1)
    params = params._replace(w=jnp.ones((1, 1)), u=jnp.zeros((1, 1)), b=jnp.zeros(1))
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-15)):
        x = np.concatenate([np.linspace(-20, 20, 100_001), np.geomspace(1e-30, 1, 10_000)]).astype(dtype)
        own = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        ys, _ = rj.unroll(cell, own, jnp.asarray(x)[None, :, None], implementation="cpu")
        ys, exact = np.asarray(ys, np.float64).ravel(), np.tanh(x.astype(np.float64))
        assert (np.abs(ys - exact) <= tolerance * np.abs(exact)).all()
        assert np.abs(ys).max() <= 1
        assert (np.abs(ys[np.abs(x) > 20 - 1e-3]) == 1).all()


def test_sigmoid_has_an_absolute_error_below_rounding(variant: str) -> None:
    # a GRU whose candidate is 1 and whose state is 0: the output is 1 - σ of the update gate
    cell, params = rj.GRU(1), rj.GRU(1).init(jax.random.key(0), 1)
    params = jax.tree.map(jnp.zeros_like, params)._replace(
        w=jnp.array([[0.0, 1.0, 0.0]]), b=jnp.array([0.0, 0.0, 40.0])
    )
    for dtype, tolerance in ((np.float32, 3e-7), (np.float64, 3e-16)):
        x = np.linspace(-40, 40, 100_001).astype(dtype)
        own = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        ys, _ = rj.unroll(cell, own, jnp.asarray(x)[None, :, None], implementation="cpu")
        exact = 1 / (1 + np.exp(x.astype(np.float64)))
        np.testing.assert_allclose(np.asarray(ys, np.float64).ravel(), exact, rtol=0, atol=tolerance)


def test_gates_that_are_shut_hold_for_ever(variant: str) -> None:
    cell = rj.LSTM(4)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    params = params._replace(b=jnp.repeat(jnp.array([-40, 40, 0, 0], jnp.float32), 4))
    start = cell.initial_state(params, (1,))._replace(c=jnp.full((1, 4), 0.7, jnp.float32))
    _, last = rj.unroll(cell, params, jnp.ones((20_000, 1, 1), jnp.float32), start, implementation="cpu")
    np.testing.assert_array_equal(last.c, start.c)


@pytest.mark.parametrize("shared", [False, True])
def test_more_models_than_workers(shared: bool) -> None:
    models = 21
    cell, params, xs, state, d_ys = trial(rj.GRU, 5, 3, 18, jnp.float64)

    def several(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.stack([factor * leaf for factor in np.linspace(0.5, 1.5, models)]), tree)

    def run(implementation: str) -> Any:
        one = partial(pull, cell, implementation=implementation)
        if shared:
            return jax.vmap(one, (None, 0, None, 0))(params, several(xs), state, several(d_ys))
        return jax.vmap(one, (0, None, None, None))(several(params), xs, state, d_ys)

    close(run("cpu"), run("scan"), 1e-11)


@pytest.mark.parametrize("name", CELLS)
def test_nan_and_infinity_stay_in_their_row(variant: str, name: str) -> None:
    cell, params, xs, state, d_ys = trial(CELLS[name], 7, 3, 17, jnp.float32)
    bad = xs.at[2, 1, 0].set(jnp.nan).at[2, 4, 0].set(jnp.inf)
    got, clean = (pull(cell, params, x, state, d_ys, implementation="cpu") for x in (bad, xs))
    others = np.array([0, 2, 3, 5, 6])

    def good_rows(out: Any) -> Any:
        """Outputs and the gradient of xs, (T, B, …), and last state and the gradient of the first, (B, H)."""
        (ys, last), (_, d_xs, d_state) = out
        return ys[:, others], d_xs[:, others], jax.tree.map(lambda leaf: leaf[others], (last, d_state))

    jax.tree.map(np.testing.assert_array_equal, good_rows(got), good_rows(clean))
    assert np.isnan(got[0][0][2:, 1]).any(-1).all()
    # every nan and infinity at its place, in outputs, last state and all gradients
    close(got, pull(cell, params, bad, state, d_ys, implementation="fused"), 3e-5)


@pytest.mark.parametrize("name", CELLS)
def test_a_weight_that_is_not_finite_shows_where_a_state_meets_it(variant: str, name: str) -> None:
    """From the first step on, or, behind a state of zeros, from the second."""
    cell, params, xs, state, d_ys = trial(CELLS[name], 7, 3, 17, jnp.float32)
    bad = params._replace(u=params.u.at[2, -1].set(jnp.nan))
    got, want = (pull(cell, bad, xs, state, d_ys, implementation=how) for how in ("cpu", "fused"))
    close(got, want, 3e-5)
    zeros = jax.tree.map(jnp.zeros_like, state)
    (ys, _), _ = pull(cell, bad, xs, zeros, d_ys, implementation="cpu")
    (clean, _), _ = pull(cell, params, xs, zeros, d_ys, implementation="cpu")
    np.testing.assert_array_equal(ys[0], clean[0])
    (want, _), _ = pull(cell, bad, xs[1:], zeros._replace(h=ys[0]), d_ys[1:], implementation="fused")
    np.testing.assert_array_equal(np.isnan(ys[1:]), np.isnan(want))
    assert np.isnan(ys[1]).any()


@pytest.mark.parametrize("name", ["lstm", "gru", "elman"])
@pytest.mark.parametrize("axes", ["params", "data", "both", "twice"])
@pytest.mark.parametrize("remat", [None, 2])
def test_vmap_is_a_loop(name: str, axes: str, remat: Any) -> None:
    models, rows = 3, [trial(CELLS[name], 4, 3, 18, jnp.float64)]
    cell, params, xs, state, d_ys = rows[0]

    def several(tree: Any) -> Any:
        factors = jnp.linspace(0.5, 1.5, models)
        return jax.tree.map(lambda leaf: jnp.stack([factor * leaf for factor in factors]), tree)

    def run(implementation: str) -> Any:
        one = partial(pull, cell, implementation=implementation, remat=remat if implementation == "cpu" else None)
        if axes == "params":
            return jax.vmap(one, (0, None, None, None))(several(params), xs, state, d_ys)
        if axes == "data":
            return jax.vmap(one, (None, 0, None, 0))(params, several(xs), state, several(d_ys))
        if axes == "both":
            return jax.vmap(one)(*map(several, (params, xs, state, d_ys)))
        inner = jax.vmap(one, (None, 0, 0, 0))
        return jax.vmap(inner, (0, None, None, None))(several(params), *map(several, (xs, state, d_ys)))

    close(run("cpu"), run("scan"), 1e-11)


def test_vmap_of_nothing() -> None:
    cell = rj.GRU(3)
    params = cell.init(jax.random.key(0), 2)

    def ys(xs: Any) -> Any:
        return rj.unroll(cell, params, xs, implementation="cpu")[0]

    assert jax.vmap(ys)(jnp.ones((0, 5, 2))).shape == (0, 5, 3)
    assert jax.vmap(jax.grad(lambda xs: ys(xs).sum()))(jnp.ones((0, 5, 4, 2))).shape == (0, 5, 4, 2)


def test_the_gradient_of_vmapped_rows_is_the_batch_s() -> None:
    cell, params, xs, state, _ = trial(rj.GRU, 6, 3, 18, jnp.float64)

    def loss(params: Any, mapped: bool) -> Any:
        run = partial(rj.unroll, cell, params, implementation="cpu")
        ys, _ = jax.vmap(run, (1, 0), 1)(xs, state) if mapped else run(xs, state)
        return (ys**2).sum()

    close(jax.grad(loss)(params, True), jax.grad(loss)(params, False), 1e-11)


def test_equal_calls_have_equal_bits_whoever_calls() -> None:
    rows = trial(rj.LSTM, 33, 20, 70, jnp.float32, steps=20)
    first = jax.block_until_ready(pull(*rows, implementation="cpu"))
    with ThreadPoolExecutor(8) as pool:
        every = list(pool.map(lambda _: jax.block_until_ready(pull(*rows, implementation="cpu")), range(64)))
    for again in every:
        jax.tree.map(np.testing.assert_array_equal, again, first)


def test_both_directions_at_once() -> None:
    layer = rj.Bidirectional(rj.LSTM(33))
    params, xs = layer.init(jax.random.key(0), 8), jax.random.normal(jax.random.key(1), (30, 32, 8), jnp.float32)
    run = jax.jit(jax.grad(lambda params: (layer(params, xs)[0] ** 2).sum()))
    first = run(params)
    for _ in range(20):
        jax.tree.map(np.testing.assert_array_equal, run(params), first)


def test_elsewhere_it_is_fused() -> None:
    cell, params, xs, _, _ = trial(rj.LSTM, 3, 4, 5, jnp.float32)
    run = jax.jit(jax.grad(lambda p: (rj.unroll(cell, p, xs, implementation="cpu")[0] ** 2).sum())).trace(params)
    assert "rnnjax_cpu_backward" in run.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "rnnjax_cpu" not in run.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("models", [1, 3])
def test_what_runs_elsewhere_has_the_kernel_s_values(backward: bool, models: int, monkeypatch: Any) -> None:
    from rnnjax._unroll import cpu

    cell, params, xs, state, d_ys = trial(rj.GRU, 4, 3, 18, jnp.float64)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * models), params) if models > 1 else params

    def run() -> Any:
        jax.clear_caches()
        one = partial(pull, cell, implementation="cpu") if backward else partial(rj.unroll, cell, implementation="cpu")
        arrays = (xs, state, d_ys)[: 3 if backward else 2]
        return jax.vmap(one, (0, *[None] * len(arrays)))(several, *arrays) if models > 1 else one(params, *arrays)

    want = run()
    monkeypatch.setattr(cpu.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    close(run(), want, 1e-11)


def test_without_a_library_everything_runs_and_explain_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    cell, params, xs, _, _ = trial(rj.LSTM, 3, 4, 5, jnp.float32)
    monkeypatch.setattr(kernels, "_LIBRARY", tmp_path / "none.so")
    kernels.load.cache_clear()
    jax.clear_caches()  # an earlier test may have traced the same call, which would not ask for the library again
    try:
        said = rj.explain(cell, params, xs)
        assert "cpu          cannot run it: it was installed without the native kernels" in said
        assert "→ fused" in said
        assert rj.unroll(cell, params, xs)[0].shape == (5, 3, 5)
        with pytest.raises(ValueError, match="`implementation='cpu'` cannot run this call: it was installed without"):
            rj.unroll(cell, params, xs, implementation="cpu")

        (tmp_path / "none.so").write_bytes(b"not a library")
        kernels.load.cache_clear()
        assert "cannot run it: its native kernels do not load: " in rj.explain(cell, params, xs)
    finally:
        monkeypatch.undo()
        kernels.load.cache_clear()
        jax.clear_caches()
    assert kernels.load() == Loaded(kernels.load().variants, None)


def test_other_options_have_no_kernel() -> None:
    xs = jnp.ones((4, 2, 3))
    for cell in (rj.LSTM(4, activation="relu"), rj.GRU(4, gate_activation="hard_sigmoid"), rj.Elman(4, "softsign")):
        params = cell.init(jax.random.key(0), 3)
        assert "with these options names no kernel" in rj.explain(cell, params, xs)


def test_a_subclass_that_changes_the_update_has_no_kernel() -> None:
    @rj.struct
    class Changed(rj.LSTM):
        def update(self, *args: Any) -> Any:
            return super().update(*args)._replace(h=args[1].h)

    cell, xs = Changed(4), jnp.ones((4, 2, 3))
    params = cell.init(jax.random.key(0), 3)
    assert "names no kernel" in rj.explain(cell, params, xs)
    assert not np.asarray(rj.unroll(cell, params, xs)[0]).any()


def test_the_leaves_of_a_cell_stay_differentiable() -> None:
    cell, params, xs, _, _ = trial(rj.LSTM, 3, 4, 5, jnp.float32)
    grads = jax.grad(lambda bias: rj.unroll(dataclasses.replace(cell, forget_bias=bias), params, xs)[0].sum())(1.0)
    assert grads == 0
