"""Associative cells beyond the laws: cells of other kinds than diagonal, hard numbers, long sequences, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import rnnjax as rj
from rnnjax import initializers, testing
from rnnjax._unroll import chunked, driver

FORMS = ("chunked", "associative")


class DenseParams(NamedTuple):
    w: jax.Array
    v: jax.Array


class DenseState(NamedTuple):
    h: jax.Array


@rj.struct
class Dense(rj.AssociativeCell):
    """h_t = h_{t-1} A(x_t) + x_t w: transitions that no diagonal has."""

    hidden_size: int
    compute_dtype: Any = None

    def init(self, key: Any, in_size: int, dtype: Any = jnp.float32) -> DenseParams:
        size = self.hidden_size
        w = jax.random.normal(key, (in_size, size + size * size), dtype)
        return DenseParams(w[:, :size], w[:, size:] / size)

    def initial_state(self, params: Any, batch_shape: Any = (), dtype: Any = jnp.float32) -> DenseState:
        return DenseState(jnp.full((*batch_shape, self.hidden_size), 0.3, dtype))

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        matrix = jnp.tanh(x @ params.v)
        return matrix.reshape(*x.shape[:-1], self.hidden_size, self.hidden_size), x @ params.w

    def combine(self, first: Any, then: Any) -> Any:
        return first[0] @ then[0], jnp.einsum("...i,...ij->...j", first[1], then[0]) + then[1]

    def act(self, z: Any, state: Any) -> Any:
        return DenseState(jnp.einsum("...i,...ij->...j", state.h, z[0]) + z[1])


@rj.struct
class Saturates(rj.MinGRU):
    """Its step is no longer its transition."""

    def step(self, params: Any, state: Any, z: Any, noise: Any = None) -> Any:
        return jax.tree.map(jnp.tanh, super().step(params, state, z))


@rj.struct
class Doubles(rj.MinGRU):
    """s ↦ a ⊙ s + 2 b: its transitions compose as before, but it is no longer the recurrence that they were."""

    def act(self, z: Any, state: Any) -> Any:
        return super().act(z._replace(b=jax.tree.map(lambda leaf: 2 * leaf, z.b)), state)


def draw(cell: rj.Cell, steps: int, rows: int, features: int, dtype: Any = jnp.float64) -> tuple[Any, jax.Array]:
    params = cell.init(jax.random.key(0), features, dtype)
    return params, jax.random.normal(jax.random.key(1), (steps, rows, features), dtype)


@pytest.mark.parametrize("form", FORMS)
def test_transitions_of_any_kind(form: str) -> None:
    laws = ["composition", "steps_in_a_loop", "mask_with_reset", "derivatives"]
    testing.check_cell(Dense(3), 2, laws=laws, implementations=[form])


@pytest.mark.parametrize("form", FORMS)
def test_a_state_that_is_lost_ends_at_a_reset(form: str) -> None:
    cell = rj.LRU(3)
    params, xs = draw(cell, 5, 2, 3)
    lost = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), cell.initial_state(params, (2,), xs.dtype))
    reset = jnp.zeros((5, 2), bool).at[0, 0].set(True)

    def behind(params: Any, xs: Any, state: Any) -> Any:
        ys, last = rj.unroll(cell, params, xs, state, reset=reset, implementation=form)
        return (ys**2).sum() + (last.re * last.im).sum()

    loss, grads = jax.jit(jax.value_and_grad(behind, argnums=(0, 1, 2)))(params, xs, lost)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((loss, grads)))
    assert not any(leaf[0].any() for leaf in jax.tree.leaves(grads[2]))


def grows() -> tuple[rj.Cell, Any, jax.Array]:
    """1.1⁴⁰⁹⁶ is no float32."""
    cell = rj.LinearElman(2)
    params = cell.init(jax.random.key(0), 2, jnp.float32)._replace(u=jnp.full(2, 1.1), w=jnp.eye(2))
    return cell, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), jnp.zeros((4096, 2), jnp.float32)


def test_nothing_stays_nothing_where_products_overflow() -> None:
    (cell, params, xs), late = grows(), 4086
    ys, _ = rj.unroll(cell, params, xs.at[late].set(1), implementation="associative")
    times = np.arange(4096)[:, None] - late
    np.testing.assert_allclose(ys, np.where(times < 0, 0, 1.1 ** np.maximum(times, 0)) * np.ones(2), rtol=1e-5)


def test_nothing_stays_nothing_where_products_of_a_derivative_overflow() -> None:
    (cell, params, xs), early = grows(), 10
    pull = jax.jit(jax.grad(lambda xs: rj.unroll(cell, params, xs, implementation="associative")[0][early].sum()))
    found = pull(xs)
    times = early - np.arange(4096)[:, None]
    np.testing.assert_allclose(found, np.where(times < 0, 0, 1.1 ** np.maximum(times, 0)) * np.ones(2), rtol=1e-5)


def test_second_derivatives_where_first_ones_are_zero() -> None:
    """Behind a head of zeros every cotangent is zero, and what it changes with is not."""
    cell = rj.MinGRU(3)
    params, xs = draw(cell, 6, 1, 2)

    def mixed(form: str) -> Any:
        def loss(params: Any, head: Any) -> Any:
            return ((rj.unroll(cell, params, xs, implementation=form)[0] @ head - 1) ** 2).sum()

        return jax.jit(jax.jacrev(lambda head: jax.grad(loss)(params, head).w))(jnp.zeros((3, 1)))

    np.testing.assert_allclose(mixed("associative"), mixed("scan"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", [rj.MinGRU(3), rj.MinLSTM(3), rj.RGLRU(3)], ids=repr)
@pytest.mark.parametrize("size", [-1e4, 0.0, 1e4])
def test_gates_may_be_shut_or_wide_open(cell: Any, size: float) -> None:
    params, xs = draw(cell, 4, 2, 3, jnp.float32)
    params = params._replace(b=jnp.full_like(params.b, size))
    loss, grads = jax.jit(jax.value_and_grad(lambda p: jnp.sum(rj.unroll(cell, p, xs)[0])))(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((loss, grads)))


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (Saturates(3), "Saturates is not an associative cell"),
        (rj.LearnedInitialState(Saturates(3)), "LearnedInitialState is not an associative cell"),
        (rj.Zoneout(rj.MinGRU(3)), "Zoneout is not an associative cell"),
        (rj.ActiveUnits(rj.MinGRU(3), units=2), "ActiveUnits is not an associative cell"),
    ],
    ids=str,
)
def test_steps_that_changed_run_one_by_one(cell: Any, why: str) -> None:
    params, xs = draw(cell, 5, 2, 3)
    said = rj.explain(cell, params, xs)
    assert said.count(why) == len(FORMS)
    assert "→ scan" in said


@pytest.mark.parametrize("form", FORMS)
def test_a_subclass_with_another_action_keeps_it(form: str) -> None:
    params, xs = draw(Doubles(3), 5, 2, 3)
    got = rj.unroll(Doubles(3), params, xs, implementation=form)[0]
    np.testing.assert_allclose(got, 2 * rj.unroll(rj.MinGRU(3), params, xs, implementation="scan")[0], atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_eigenvalues_follow_the_inputs_onto_a_mesh(form: str) -> None:
    cell = rj.LRU(3)
    params, xs = draw(cell, 4, 2, 3)
    mask = np.arange(4)[:, None] < np.array([4, 2])
    want = rj.unroll(cell, params, xs, mask=mask, implementation="scan")[0]
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))):
        placed = jax.device_put(xs, PartitionSpec(None, "data"))
        ys = jax.jit(lambda params, xs: rj.unroll(cell, params, xs, mask=mask, implementation=form)[0])(params, placed)
        assert ys.sharding.spec == PartitionSpec(None, "data", None)
    np.testing.assert_allclose(ys, want, atol=1e-12)


def test_the_backward_pass_keeps_no_states() -> None:
    cell, steps, rows, size = rj.LRU(32), 2048, 8, 32
    params, xs = jax.eval_shape(lambda: draw(cell, steps, rows, size, jnp.float32))

    def temporary(remat: Any) -> float:
        def loss(params: Any, xs: Any) -> Any:
            return jnp.sum(rj.unroll(cell, params, xs, remat=remat, implementation="chunked")[0] ** 2)

        memory = jax.jit(jax.grad(loss)).lower(params, xs).compile().memory_analysis()
        return memory.temp_size_in_bytes / (4 * steps * rows * size)

    assert temporary(steps) > 10
    assert temporary(64) < 4


def test_chunks_fit_the_cache_whatever_the_sizes() -> None:
    def length(steps: int, rows: int, size: int, remat: Any = None) -> int:
        cell, found = rj.MinGRU(size), []
        params, xs = jax.eval_shape(lambda: draw(cell, steps, rows, size, jnp.float32))

        def look(cell: Any, params: Any, xs: Any) -> None:
            call = driver._call(cell, params, xs, remat=remat)
            found.append(chunked.length(call))

        jax.eval_shape(look, cell, params, xs)
        return found[0]

    assert length(4096, 8, 256) == 64
    assert length(4096, 512, 1024) == 8
    assert length(50, 2, 4) == 50
    assert length(4096, 8, 256, "sqrt") == 64
    assert length(4096, 8, 256, 100) == 100


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "cell",
    [
        rj.MinGRU(8),
        rj.MinLSTM(8),
        rj.LinearElman(8),
        rj.LRU(8, r_min=0.99, r_max=0.9999),
        rj.RGLRU(8),
        rj.S5(8),
        rj.QRNN(8),
        rj.SRU(8),
        rj.HGRN(8, lower_bound=0.9),
    ],
    ids=repr,
)
def test_long_sequences_in_float32(cell: Any, form: str) -> None:
    params, xs = draw(cell, 65_536, 2, 8, jnp.float32)

    def pull(params: Any, xs: Any, form: str) -> Any:
        def loss(params: Any) -> Any:
            ys, state = rj.unroll(cell, params, xs, implementation=form)
            return jnp.mean(ys**2), (ys, state)

        return jax.grad(loss, has_aux=True)(params)

    got = jax.jit(pull, static_argnums=2)(params, xs, form)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, xs))
    want = jax.jit(pull, static_argnums=2)(*wide, "scan")
    # one rounding of |λ| = 0.9999, whatever the form, moves what it sums up by 2⁻²⁴ / (1 − |λ|) = 6e-4
    tolerance = 2e-3 if isinstance(cell, rj.LRU) else 2e-4
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(np.asarray(a, float) / scale, b / scale, rtol=0, atol=tolerance)


def test_ring_is_a_ring() -> None:
    nu, theta = initializers.ring(jax.random.key(0), 20_000, 0.5, 0.9, np.pi / 5, jnp.float64)
    eigenvalues = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    radius, phase = np.abs(eigenvalues), np.angle(eigenvalues)
    assert 0.5 <= radius.min() < 0.51
    assert 0.89 < radius.max() <= 0.9
    # as many in every part of the area as the area has
    inside = (radius < np.sqrt((0.5**2 + 0.9**2) / 2)).mean()
    np.testing.assert_allclose(inside, 0.5, atol=0.02)
    np.testing.assert_allclose([phase.min(), phase.max(), phase.mean()], [0, np.pi / 5, np.pi / 10], atol=0.01)


def test_hippo_is_its_matrix() -> None:
    size = 5
    phases, vectors = initializers.hippo(size)
    matrix = np.zeros((2 * size, 2 * size))
    for n in range(2 * size):
        for k in range(2 * size):
            matrix[n, k] = -0.5 if n == k else np.sign(k - n) * np.sqrt((n + 0.5) * (k + 0.5))
    np.testing.assert_allclose(matrix @ vectors, vectors * (-0.5 + 1j * phases), atol=1e-12)
    assert (phases > 0).all()
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(size), atol=1e-12)


def test_s5_is_a_real_system_in_another_basis() -> None:
    cell = rj.S5(3)
    params = jax.device_get(cell.init(jax.random.key(0), 4, jnp.float64))
    _, vectors = initializers.hippo(3)
    both = np.concatenate([vectors, vectors.conj()], axis=1)
    w, c = (part[..., : part.shape[-1] // 2] + 1j * part[..., part.shape[-1] // 2 :] for part in (params.w, params.c))
    real_in = np.concatenate([w, w.conj()], axis=1) @ both.T
    real_out = both.conj() @ np.concatenate([c, c.conj()], axis=0)
    np.testing.assert_allclose(real_in.imag, 0, atol=1e-12)
    np.testing.assert_allclose(real_out.imag, 0, atol=1e-12)
    np.testing.assert_allclose(np.exp(params.decay), 0.5, rtol=1e-12)
    assert (np.log(0.001) <= params.log_step).all()
    assert (params.log_step <= np.log(0.1)).all()


def test_states_of_an_lru_have_the_variance_of_inputs() -> None:
    cell = rj.LRU(200, r_min=0.5, r_max=0.95)
    params, xs = draw(cell, 400, 1, 50)
    state = rj.unroll(cell, params, xs)[1]
    np.testing.assert_allclose(np.mean(state.re**2 + state.im**2), 1, rtol=0.3)


def test_decays_of_an_rg_lru() -> None:
    decay = rj.RGLRU(300).init(jax.random.key(0), 300).decay
    slowest = np.asarray(jax.nn.sigmoid(decay.astype(jnp.float64))) ** 8
    np.testing.assert_allclose([slowest.min(), slowest.max(), slowest.mean()], [0.9, 0.999, 0.9495], atol=5e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rj.LRU(3, r_min=0.9, r_max=0.8), "`r_min` < `r_max` ≤ 1; got 0.9 and 0.8"),
        (lambda: rj.LRU(3, r_max=1.1), "`r_min` < `r_max` ≤ 1"),
        (lambda: rj.LRU(3, max_phase=0), "`max_phase` must be above 0"),
        (lambda: rj.S5(3, discretization="euler"), "`discretization` must be one of"),
        (lambda: rj.S5(3, min_step=0), "`min_step` must be above 0"),
        (lambda: rj.S5(3, min_step=1), "`min_step` must be at most `max_step`; got 1 and 0.1"),
        (lambda: rj.SRU(3).init(jax.random.key(0), 4), "`in_size` must be `hidden_size` = 3"),
        (lambda: rj.MinGRU(0), "`hidden_size` must be at least 1"),
        (lambda: rj.RGLRU(3).init(jax.random.key(0), 4), "`in_size` must be `hidden_size` = 3"),
    ],
)
def test_bad_hyperparameters_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
