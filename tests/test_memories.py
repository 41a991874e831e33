"""Matrix memories beyond the laws: hard numbers, long sequences, memory, and what they refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax._cell import Marks

CELLS = (rj.MLSTM(6, heads=2), rj.GLA(6, heads=2, rank=2), rj.DeltaNet(6, heads=2), rj.GatedDeltaNet(6, heads=2))


@rj.struct
class Forgets(rj.MLSTM):
    """Its step is no longer its chunk."""

    def step(self, params: Any, state: Any, z: Any, noise: Any = None) -> Any:
        return jax.tree.map(lambda leaf: 0.5 * leaf, super().step(params, state, z))


def draw(cell: rj.Cell, steps: int, rows: int, dtype: Any = jnp.float64) -> tuple[Any, jax.Array]:
    params = cell.init(jax.random.key(0), 5, dtype)
    drawn = [0.5 * jax.random.normal(jax.random.key(i), leaf.shape, dtype) for i, leaf in enumerate(params)]
    params = jax.tree.map(jnp.add, params, type(params)(*drawn))
    return params, jax.random.normal(jax.random.key(9), (steps, rows, 5), dtype)


@partial(jax.jit, static_argnames=("cell", "form", "remat"))
def pull(cell: rj.Cell, params: Any, xs: Any, form: str | None, remat: Any = None) -> Any:
    """Gradients, outputs and state."""

    def loss(params: Any, xs: Any) -> Any:
        ys, state = rj.unroll(cell, params, xs, implementation=form, remat=remat)
        return jnp.mean(ys**2) + sum(jnp.mean(leaf) for leaf in state), (ys, state)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, xs)


def close(got: Any, want: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(float(jnp.abs(b).max()), 1e-30)
        np.testing.assert_allclose(np.asarray(a, float) / scale, b / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("form", ["chunked", "scan"])
@pytest.mark.parametrize("i", [-80.0, 0.0, 80.0, 1e4])
@pytest.mark.parametrize("f", [-80.0, 80.0])
def test_exponential_gates_give_no_nan(form: str, i: float, f: float) -> None:
    cell = rj.MLSTM(4, heads=2)
    params, xs = draw(cell, 6, 2, jnp.float32)
    params = params._replace(b_gates=jnp.array([i, -i, f, f], jnp.float32))
    # the pre-activations of every other step are the opposite ones
    grads, out = pull(cell, params, xs * jnp.array([1, 200, -1, -200, 3, -3], xs.dtype).reshape(-1, 1, 1), form)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((grads, out)))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [-1e4, -100.0, 80.0, 1e4])
def test_exponential_gates_of_vectors_give_no_nan(bias: float) -> None:
    cell = rj.SLSTM(4, heads=2)
    params, xs = draw(cell, 6, 2, jnp.float32)
    for part in (slice(0, 4), slice(4, 8)):
        given = params._replace(b=params.b.at[part].set(bias))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(pull(cell, given, xs, "scan")))


def test_slstm_reads_nothing_where_nothing_was_written() -> None:
    """A state of zeros, and input gates that stay shut: 0 / 0 is 0, forwards and backwards."""
    cell = rj.SLSTM(4, heads=2)
    params = cell.init(jax.random.key(0), 3, jnp.float32)
    params = params._replace(b=params.b.at[:4].set(-200))
    state = jax.tree.map(jnp.zeros_like, cell.initial_state(params, ()))

    def total(params: Any) -> Any:
        return rj.unroll(cell, params, jnp.ones((5, 3), jnp.float32), state)[0].sum()

    value, gradient = jax.value_and_grad(total)(params)
    assert value == 0
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_long_sequences_in_float32(cell: Any) -> None:
    params, xs = draw(cell, 65_536, 1, jnp.float32)
    grads, out = pull(cell, params, xs, None)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, xs))
    want_grads, want = pull(cell, *wide, "scan", remat="sqrt")
    # mLSTM divides by numbers that may be small; a loop in float32 is further away
    divides = isinstance(cell, rj.MLSTM)
    close(out, want, 2e-4 if divides else 1e-5)
    close(grads, want_grads, 1e-3 if divides else 2e-4)


def test_the_normaliser_of_a_long_loop_is_rounded_as_if_once() -> None:
    """Its value alone, kept at each step, would be off by 2e-6."""
    cell = rj.MLSTM(4, heads=2)
    params, xs = draw(cell, 8192, 2, jnp.float32)
    params = params._replace(b_gates=jnp.array([0, 0, 9, 8], jnp.float32))  # f forgets over thousands of steps

    def normaliser(params: Any, xs: Any) -> Any:
        state = rj.unroll(cell, params, xs, implementation="scan")[1]
        return state.n.astype(jnp.float64).sum(-2) * jnp.exp(state.m.astype(jnp.float64))[..., None]

    close(normaliser(params, xs), normaliser(*jax.tree.map(jnp.float64, (params, xs))), 2e-7)


@pytest.mark.parametrize(("cell", "form"), [(rj.MLSTM(1), "chunked"), (rj.MLSTM(1), "scan"), (rj.SLSTM(1), "scan")])
def test_slow_forgetting_is_not_lost_beside_a_large_input_gate(cell: Any, form: str) -> None:
    """f̃ = 8 forgets 3e-4 a step, which is below the rounding of m, 1e-3 at 1e4. One number is written, then zeros over
    and over: what is read is their mean, weighted by what is left of each, here in closed form."""
    steps, large = 96, 1e4
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1, jnp.float32))
    xs = jnp.zeros((steps, 1, 1), jnp.float32).at[0].set(1)
    if isinstance(cell, rj.MLSTM):  # q = k = 1, v = x and o = ½
        b = jnp.array([1, 1, 0, 0], jnp.float32)
        params = params._replace(w=params.w.at[0, 2].set(1), b=b, b_gates=jnp.array([large, 8], jnp.float32))
        written = 1.0
    else:  # z = tanh x and o = ½
        b = jnp.array([large, 8, 0, 0], jnp.float32)
        params, written = params._replace(w=params.w.at[0, 2].set(1), b=b), np.tanh(1.0)
    decays = (1 / (1 + np.exp(-8.0))) ** np.arange(steps)
    ys, _ = rj.unroll(cell, params, xs, implementation=form)
    np.testing.assert_allclose(ys[:, 0, 0], 0.5 * written * decays / np.cumsum(decays), rtol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_the_backward_pass_keeps_no_matrix_for_a_step(cell: Any) -> None:
    wide: Any = dataclasses.replace(cell, hidden_size=64)
    steps = 1024
    params, xs = jax.eval_shape(lambda: draw(wide, steps, 1, jnp.float32))

    def temporary(form: str) -> float:
        return pull.lower(wide, params, xs, form).compile().memory_analysis().temp_size_in_bytes / (4 * steps * 64)

    # one matrix for a step is 32 outputs, and 16 with half as many features of keys
    assert temporary("scan") > 16
    assert temporary("chunked") < 12


@pytest.mark.slow
@pytest.mark.parametrize("decay", [-50.0, 0.0, 50.0])
def test_memories_may_forget_everything_or_nothing(decay: float) -> None:
    for cell, field in ((CELLS[1], "b"), (CELLS[3], "decay")):
        params, xs = draw(cell, 6, 2, jnp.float32)
        params = params._replace(**{field: jnp.full_like(getattr(params, field), decay)})
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(pull(cell, params, xs, "chunked")))


@pytest.mark.parametrize("form", ["scan", "chunked"])
@pytest.mark.parametrize("gate", [-1e4, 1e4])
def test_an_mlstm_that_asks_for_nothing_reads_nothing(gate: float, form: str) -> None:
    """With a bias of zero, inputs of zero are a query of zero: 0 over a divisor that must not be 0."""
    cell = rj.MLSTM(4)
    params = cell.init(jax.random.key(0), 3)
    params = params._replace(b_gates=jnp.array([gate, 5.0]))
    xs = jnp.ones((3, 1, 3)).at[1:].set(0)

    def total(params: Any) -> Any:
        ys, _ = rj.unroll(cell, params, xs, implementation=form)
        return (ys**2).sum(), ys

    (_, ys), grads = jax.value_and_grad(total, has_aux=True)(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((ys, grads)))
    np.testing.assert_array_equal(ys[1:], 0)


@pytest.mark.parametrize("cell", [CELLS[0], *(pytest.param(c, marks=pytest.mark.slow) for c in CELLS[1:])], ids=repr)
def test_a_state_that_is_lost_ends_at_a_reset(cell: Any) -> None:
    params, xs = draw(cell, 5, 3)
    # row 0 loses it at once, row 1 behind a masked step, row 2 has none to lose
    lost = jax.tree.map(lambda leaf: (leaf + 0.3).at[:2].set(jnp.nan), cell.initial_state(params, (3,), xs.dtype))
    reset = jnp.zeros((5, 3), bool).at[0, 0].set(True).at[1, 1].set(True)
    mask = jnp.ones((5, 3), bool).at[0, 1].set(False)

    def pulled(form: str, lost: Any, xs: Any) -> Any:
        def behind(params: Any, xs: Any, state: Any) -> Any:
            ys, last = rj.unroll(cell, params, xs, state, mask=mask, reset=reset, implementation=form)
            return (ys**2).sum() + sum(leaf.sum() for leaf in last), (ys, last)

        return jax.jit(jax.value_and_grad(behind, argnums=(0, 1, 2), has_aux=True))(params, xs, lost)

    (_, out), grads = pulled("chunked", lost, xs)
    fresh = jax.tree.map(jnp.nan_to_num, lost)
    (_, wanted), wanted_grads = pulled("scan", fresh, xs)
    close((out, grads), (wanted, wanted_grads), 1e-10)
    assert not any(leaf[:2].any() for leaf in grads[2])


@pytest.mark.parametrize("remat", [None, 4])
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_what_is_not_finite_stays_in_its_sequence(cell: Any, remat: Any) -> None:
    params, xs = draw(cell, 10, 2)
    xs = xs.at[3, 0].set(jnp.inf).at[8, 1].set(jnp.nan)
    reset = jnp.zeros((10, 2), bool).at[jnp.array([2, 5]), 0].set(True).at[7, 1].set(True)
    run = partial(rj.unroll, cell, params, xs, reset=reset)
    (ys, state), (wanted, last) = run(implementation="chunked", remat=remat), run(implementation="scan")
    finite = np.ones((10, 2), bool)
    finite[3:5, 0] = finite[8:, 1] = False
    np.testing.assert_array_equal(jnp.isfinite(ys).all(-1), finite)
    np.testing.assert_array_equal(jnp.isfinite(wanted).all(-1), finite)
    close(jnp.where(finite[..., None], ys, 0), jnp.where(finite[..., None], wanted, 0), 1e-10)
    close(jax.tree.map(lambda leaf: leaf[0], state), jax.tree.map(lambda leaf: leaf[0], last), 1e-10)
    assert not any(jnp.isfinite(leaf[1]).all() for leaf in state)


def test_products_that_overflow_stay_in_their_sequence() -> None:
    cell = rj.MLSTM(4)
    params = cell.init(jax.random.key(0), 2, jnp.float32)
    params = params._replace(w=params.w * 100)
    xs = jnp.ones((6, 1, 2), jnp.float32).at[0].set(3e37)
    reset = jnp.zeros((6, 1), bool).at[3].set(True)
    got, wanted = (rj.unroll(cell, params, xs, reset=reset, implementation=form)[0] for form in ("chunked", "scan"))
    assert jnp.isfinite(wanted[3:]).all()
    np.testing.assert_allclose(got[3:], wanted[3:], rtol=1e-4)


@pytest.mark.parametrize("first", [0, 3])
def test_a_loss_that_reads_a_broken_sequence_has_no_finite_gradient(first: int) -> None:
    """Nor a finite value: a guard must see that the step is lost. A loss of what comes behind the reset has both."""
    cell = rj.GLA(4, rank=2)
    params, xs = draw(cell, 6, 1)
    reset = jnp.zeros((6, 1), bool).at[3].set(True)

    def loss(params: Any) -> Any:
        return rj.unroll(cell, params, xs.at[0].set(jnp.nan), reset=reset, implementation="chunked")[0][first:].sum()

    found = jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))
    assert all(bool(jnp.isfinite(leaf).all()) == (first == 3) for leaf in found)


@pytest.mark.parametrize("lost", ["xs", "params"])
def test_a_sequence_of_garbage_has_no_finite_gradient(lost: str) -> None:
    """What is left out where it is not finite is not a constant."""
    cell = rj.DeltaNet(4)
    params, xs = draw(cell, 3, 1)
    if lost == "xs":
        xs = jnp.full_like(xs, jnp.nan)
    else:
        params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    value, grads = jax.jit(
        jax.value_and_grad(lambda *at: rj.unroll(cell, *at, implementation="chunked")[0].sum(), argnums=(0, 1))
    )(params, xs)
    assert not any(bool(jnp.isfinite(leaf).any()) for leaf in jax.tree.leaves((value, grads)))


def test_a_temperature_may_be_an_array() -> None:
    cell = rj.GLA(4, rank=2)
    params, xs = draw(cell, 5, 2)
    both = jnp.array([2.0, 16.0])
    several = jax.vmap(lambda t: rj.unroll(rj.GLA(4, rank=2, temperature=t), params, xs)[0])(both)
    for temperature, ys in zip((2.0, 16.0), several, strict=True):
        close(ys, rj.unroll(rj.GLA(4, rank=2, temperature=temperature), params, xs)[0], 1e-10)
    assert dataclasses.replace(rj.GLA(4, temperature=both[0]), rank=3).rank == 3


def test_the_delta_rule_replaces_what_it_holds() -> None:
    # a strength of 1 and a key of length 1: the last value written under a key is what is read
    cell = rj.DeltaNet(4, key_size=4)
    params = cell.init(jax.random.key(0), 8, jnp.float64)
    eye = jnp.eye(4)
    none = jnp.zeros((4, 4))
    w = jnp.block([[40 * eye, 40 * eye, none], [none, none, eye]])
    xs = jnp.concatenate([jnp.eye(4)[jnp.array([0, 1, 0, 2, 1])], jnp.arange(20.0).reshape(5, 4)], axis=1)
    params = params._replace(w=w, w_beta=jnp.full((8, 1), 1e3).at[4:].set(0))
    ys, _ = rj.unroll(cell, params, xs)
    np.testing.assert_allclose(ys, xs[:, 4:], atol=1e-6)
    asked = jnp.concatenate([xs, jnp.zeros((1, 8)).at[0, 0].set(1)])
    forgetful = params._replace(w_beta=jnp.full((8, 1), -1e3).at[4:].set(0))
    state = rj.unroll(cell, params, xs)[1]
    np.testing.assert_allclose(rj.unroll(cell, forgetful, asked[5:], state)[0][0], xs[2, 4:], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_states_between_long_pieces(cell: Any) -> None:
    params, xs = draw(cell, 197, 2)
    want = pull(cell, params, xs, "scan")
    for remat in (None, 100, 150):
        close(pull(cell, params, xs, "chunked", remat=remat), want, 1e-10)


@pytest.mark.parametrize(
    ("steps", "remat", "lengths"),
    [(70, None, {32, 6}), (288, None, {32}), (50, None, {32, 18}), (1050, 100, {32, 4, 18}), (70, 30, {30, 10})],
)
def test_chunks_are_no_longer_than_32_steps_on_a_cpu(steps: int, remat: Any, lengths: set[int]) -> None:
    """What halves itself pads to a power of two: of 35 steps it would make 64."""
    seen: set[int] = set()

    @rj.struct
    class Watched(rj.GLA):
        def chunk(self, params: Any, state: Any, z: Any, marks: Any) -> Any:
            seen.add(z.q.shape[0])
            return super().chunk(params, state, z, marks)

    cell = Watched(34, rank=2)
    params, xs = jax.eval_shape(lambda: draw(cell, steps, 1))
    jax.eval_shape(lambda params, xs: rj.unroll(cell, params, xs, remat=remat, implementation="chunked"), params, xs)
    assert seen == lengths


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("one", [False, True], ids=["chunk", "step"])
def test_what_is_carried_on_is_exact_on_every_device(cell: Any, one: bool) -> None:
    """Of factors in float32 a GPU's default would keep 11 bits, a TPU's 8."""
    params, xs = draw(cell, 5, 2, jnp.float32)
    z, state = cell.project(params, xs), cell.initial_state(params, (2,))

    def carried(z: Any, state: Any) -> Any:
        if one:
            new = cell.step(params, state, jax.tree.map(lambda leaf: leaf[0], z))
        else:
            new, _ = cell.chunk(params, state, z, Marks(None, None, None))
        return sum(jnp.sin(leaf).sum() for name, leaf in new._asdict().items() if name != "h")

    text = jax.jit(jax.value_and_grad(carried, argnums=(0, 1))).lower(z, state).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    assert products or one


def test_a_chunked_cell_is_run_in_chunks() -> None:
    cell = rj.MLSTM(18, heads=2)
    params, xs = draw(cell, 8, 2)
    said = rj.explain(cell, params, xs)
    assert "→ chunked      chosen, the first that can and would" in said
    assert "associative  cannot run it: the transitions of MLSTM, a chunked cell, are too large" in said


@pytest.mark.parametrize("cell", [Forgets(4), rj.LearnedInitialState(Forgets(4)), rj.Zoneout(rj.GLA(4))], ids=repr)
def test_steps_that_changed_run_one_by_one(cell: Any) -> None:
    params = cell.init(jax.random.key(0), 5)
    assert "→ scan" in rj.explain(cell, params, jnp.ones((8, 2, 5)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rj.MLSTM(6, heads=4), "`heads` must divide `hidden_size`.* got 4 heads for `hidden_size` = 6"),
        (lambda: rj.MLSTM(6, heads=0), "`heads` must be at least 1"),
        (lambda: rj.GLA(6, heads=5), "`heads` must divide `hidden_size`"),
        (lambda: rj.GLA(6, rank=0), "`rank` must be at least 1"),
        (lambda: rj.GLA(6, temperature=0), "`temperature` must be above 0"),
        (lambda: rj.GLA(6, temperature=-1.0), "`temperature` must be above 0"),
        (lambda: rj.DeltaNet(6, key_size=0).keys, "`key_size` must be at least 1"),
    ],
)
def test_bad_hyperparameters_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("keys", "values", "chosen", "lengths"),
    [
        (8, 8, "scan", {16}),
        (8, 9, "chunked", {16}),
        (16, 16, "chunked", {16}),
        (17, 8, "chunked", {32}),
        (1, 64, "chunked", {32}),
    ],
)
@pytest.mark.parametrize("rows", [1, 40])
def test_chunks_are_as_long_as_a_cpu_gains_by(
    keys: int, values: int, chosen: str, lengths: set[int], rows: int
) -> None:
    seen = set()

    @rj.struct
    class Watched(rj.DeltaNet):
        def chunk(self, params: Any, state: Any, z: Any, marks: Any) -> Any:
            seen.add(z.k.shape[0])
            return super().chunk(params, state, z, marks)

    cell = Watched(2 * values, heads=2, key_size=keys)
    params, xs = jax.eval_shape(lambda: draw(cell, 64, rows))
    said = rj.explain(cell, params, xs)
    assert f"→ {chosen}" in said
    assert (f"a memory of {keys} × {values}" in said) == (chosen == "scan")
    jax.eval_shape(lambda params, xs: rj.unroll(cell, params, xs, implementation="chunked"), params, xs)
    assert seen == lengths
