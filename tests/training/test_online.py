"""Online learning: exact where it says so, as the papers write it elsewhere, and in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj
from rnnjax.training import online

B, I = 2, 3  # noqa: E741


def loss(y: Any, target: Any) -> Any:
    return jnp.sum((y - target) ** 2)


def masked_loss(y: Any, target: Any, mask: Any) -> Any:
    """Padding counts by its output of zero and a target of zero."""
    return loss(y, jnp.where(mask[:, None], target, 0))


def problem(cell: rj.Cell, steps: int, dtype: Any = jnp.float64, features: int = I) -> tuple[Any, Any, Any]:
    params = cell.init(jax.random.key(0), features, dtype)
    xs = jax.random.normal(jax.random.key(1), (steps, B, features), dtype)
    return params, xs, jax.random.normal(jax.random.key(2), (steps, B, cell.out_size(features)), dtype)


def through_time(cell: rj.Cell, params: Any, xs: Any, targets: Any, **flags: Any) -> tuple[Any, Any]:
    def whole(params: Any) -> Any:
        return loss(rj.unroll(cell, params, xs, implementation="scan", **flags)[0], targets)

    return jax.jit(jax.value_and_grad(whole))(params)


def agree(got: Any, want: Any, tolerance: float = 1e-10) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


EXACT = [
    (online.DenseRTRL(), rj.GRU(3)),
    (online.DenseRTRL(), rj.LSTM(3)),
    (online.DenseRTRL(), rj.LearnedInitialState(rj.ResetBeforeGRU(3))),
    *(
        (online.RTRL(), cell)
        for cell in (
            rj.MinGRU(3),
            rj.MinLSTM(3),
            rj.LinearElman(3),
            rj.S5(3),
            rj.QRNN(3),
            rj.SRU(3),
            rj.RGLRU(3),
            rj.HGRN(3),
        )
    ),
    (online.RTRL(), rj.IndRNN(3, activation="tanh")),
    (online.RTRL(), rj.LearnedInitialState(rj.LRU(3))),
    (online.SnAp1(), rj.IndRNN(3, activation="tanh")),
    (online.SnAp1(), rj.LRU(3)),
    (online.EProp(), rj.IndRNN(3, activation="tanh")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "cell"), EXACT)
def test_exact_methods_are_back_propagation(method: Any, cell: rj.Cell) -> None:
    params, xs, targets = problem(cell, 30)
    reset = jax.random.bernoulli(jax.random.key(3), 0.1, xs.shape[:2])
    run = jax.jit(online.online_gradient(method, cell, loss))
    first = run(params, None, xs[:11], targets[:11], reset=reset[:11])
    then = run(params, first.carry, xs[11:], targets[11:], reset=reset[11:])
    agree(jax.tree.map(jnp.add, first[:2], then[:2]), through_time(cell, params, xs, targets, reset=reset))
    agree(then.carry.state, jax.jit(partial(rj.unroll, cell))(params, xs, reset=reset)[1])


@pytest.mark.parametrize(
    ("method", "cell"), [(online.DenseRTRL(), rj.LSTM(3)), (online.RTRL(), rj.MinGRU(3))], ids=["dense", "rows"]
)
def test_masked_steps_are_passed_over(method: Any, cell: rj.Cell) -> None:
    params, xs, targets = problem(cell, 12)
    flags = {"mask": jax.random.bernoulli(jax.random.key(3), 0.6, xs.shape[:2]), "lengths": jnp.array([12, 7])}
    flags["reset"] = jax.random.bernoulli(jax.random.key(4), 0.2, xs.shape[:2])
    valid = flags["mask"] & (jnp.arange(12)[:, None] < flags["lengths"][None])
    spoilt = [jnp.where(valid[..., None], leaf, jnp.nan) for leaf in (xs, targets)]
    found = jax.jit(online.online_gradient(method, cell, masked_loss))(params, None, *spoilt, **flags)
    agree(found[:2], through_time(cell, params, xs, jnp.where(valid[..., None], targets, 0), **flags))
    agree(found.carry.state, jax.jit(partial(rj.unroll, cell))(params, xs, **flags)[1])


@pytest.mark.slow
def test_padding_trains_no_head() -> None:
    """Rows of 6 and 3 steps in a piece of 8: a mean over rows, by a head with a bias, counts what is there."""
    cell, lengths = rj.MinGRU(3), np.array([6, 3])
    params, xs, targets = problem(cell, 8)
    head = {"w": jnp.eye(3), "b": jnp.asarray(0.7)}

    def mean(y: Any, target: Any, head: Any, mask: Any) -> Any:
        error = jnp.where(mask[:, None], y @ head["w"] + head["b"] - target, 0)
        return (error**2).sum() / mask.sum(dtype=y.dtype)

    def whole(params: Any, head: Any) -> Any:
        total = 0
        for t in range(6):
            rows = np.flatnonzero(t < lengths)
            y = rj.unroll(cell, params, xs[: t + 1, rows], implementation="scan")[0][-1]
            total += ((y @ head["w"] + head["b"] - targets[t, rows]) ** 2).sum() / len(rows)
        return total

    padding = np.arange(8)[:, None, None] >= lengths[:, None]
    found = jax.jit(online.online_gradient(online.RTRL(), cell, mean))(
        params, None, xs, jnp.where(padding, jnp.nan, targets), head=head, lengths=jnp.asarray(lengths)
    )
    value, (grads, of_head) = jax.value_and_grad(whole, argnums=(0, 1))(params, head)
    agree((found.loss, found.grads, found.head), (value, grads, of_head))


@pytest.mark.slow
def test_the_cosine_leaves_padding_out() -> None:
    cell, lengths = rj.MinGRU(3), jnp.array([4, 2])
    params, xs, targets = problem(cell, 6)
    padding = jnp.arange(6)[:, None, None] >= lengths[None, :, None]

    def mean(y: Any, target: Any, mask: Any) -> Any:
        return jnp.where(mask[:, None], (y - target) ** 2, 0).sum() / mask.sum(dtype=y.dtype)

    spoilt = jnp.where(padding, jnp.nan, targets)
    cosine = online.gradient_cosine(online.RTRL(), cell, mean, params, xs, spoilt, lengths=lengths)
    np.testing.assert_allclose(cosine, 1, atol=1e-12)


@rj.struct
class Mixing(rj.GRU):
    """Its units see the mean of all, beside the recurrent product."""

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = super().update(params, state, gx, gh, noise)
        return new._replace(h=new.h + 0.5 * jnp.broadcast_to(state.h.mean(-1, keepdims=True), new.h.shape))


@rj.struct
class MixingHidden(rj.GRU):
    """They meet in what is fed back."""

    def hidden(self, state: Any, noise: Any = None) -> Any:
        return state.h - jnp.broadcast_to(state.h.mean(-1, keepdims=True), state.h.shape)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Mixing, MixingHidden])
def test_snap1_of_an_update_that_mixes_units(make: Any) -> None:
    """Two steps by hand: what the first one's parameters did goes on by the diagonal of the step's Jacobian."""
    cell = make(3)
    params, xs, targets = problem(cell, 2)
    xs, targets = xs[:, :1], targets[:, :1].at[0].set(0)

    def step(params: Any, h: Any, x: Any) -> Any:
        return rj.unroll(cell, params, x[None], rj.cells.GRUState(h), implementation="scan")[0][0]

    def last(y: Any, target: Any) -> Any:
        return jnp.where((target == 0).all(), 0, loss(y, target))

    zero = jnp.zeros((1, 3))
    first = step(params, zero, xs[0])
    diagonal = jnp.diagonal(jax.jacobian(lambda h: step(params, h, xs[1]))(first)[0, :, 0])
    d_h = jax.grad(loss)(step(params, first, xs[1]), targets[1])
    (direct,) = jax.vjp(lambda p: step(p, first, xs[1]), params)[1](d_h)
    (before,) = jax.vjp(lambda p: step(p, zero, xs[0]), params)[1](d_h * diagonal[None])
    found = jax.jit(online.online_gradient(online.SnAp1(), cell, last))(params, None, xs, targets)
    agree(found.grads, jax.tree.map(jnp.add, direct, before))
    with pytest.raises(ValueError, match=r"EProp leaves out .* of a gated cell with an elementwise `update`"):
        online.online_gradient(online.EProp(), cell, last)(params, None, xs, targets)


@pytest.mark.slow
def test_an_lru_remembers_a_thousand_steps() -> None:
    cell = rj.LRU(4, r_min=0.9, r_max=0.999)
    params, xs, targets = problem(cell, 1000)
    found = jax.jit(online.online_gradient(online.RTRL(), cell, loss))(params, None, xs, targets)
    agree(found[:2], through_time(cell, params, xs, targets))


@pytest.mark.slow
def test_memory_does_not_grow_with_time() -> None:
    cell = rj.LRU(8)
    run = jax.jit(online.online_gradient(online.RTRL(), cell, loss))

    def temporary(steps: int) -> int:
        params, xs, targets = jax.eval_shape(lambda: problem(cell, steps, jnp.float32))
        return run.lower(params, None, xs, targets).compile().memory_analysis().temp_size_in_bytes

    assert temporary(2000) <= temporary(20) + 64


def snap1_elman(x: Any, target: Any, *, w: Any, u: Any, b: Any) -> dict[str, Any]:
    """Each weight's influence on its own unit j: m' = φ'(a_j) (u_jj m + what it multiplies)."""
    grads = {name: np.zeros_like(value) for name, value in {"w": w, "u": u, "b": b}.items()}
    for row in range(x.shape[1]):
        h, m = np.zeros(len(b)), {name: np.zeros_like(value) for name, value in grads.items()}
        for x_t, target_t in zip(x[:, row], target[:, row], strict=True):
            new = np.tanh(x_t @ w + h @ u + b)
            slope = 1 - new**2
            entering = {"w": x_t[:, None], "u": h[:, None], "b": 1.0}
            m = {name: slope * (np.diag(u) * m[name] + entering[name]) for name in m}
            h = new
            for name in grads:
                grads[name] += 2 * (h - target_t) * m[name]
    return grads


def test_snap1_is_its_equation() -> None:
    cell = rj.Elman(3)
    params, xs, targets = problem(cell, 8)
    found = jax.jit(online.online_gradient(online.SnAp1(), cell, loss))(params, None, xs, targets).grads
    want = snap1_elman(np.asarray(xs), np.asarray(targets), **jax.tree.map(np.asarray, params)._asdict())
    agree(found._asdict(), want)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [rj.CoRNN(3), rj.LTC(3, unfolds=1), rj.GRU(3)], ids=repr)
def test_snap1_keeps_the_blocks_of_the_jacobian(cell: rj.Cell) -> None:
    """Against whole Jacobians, all entries of which between two units are set to zero."""
    params, xs, targets = problem(cell, 6)
    found = jax.jit(online.online_gradient(online.SnAp1(), cell, loss))(params, None, xs, targets).grads
    fresh = cell.initial_state(params, (), jnp.float64)
    flat, unravel = jax.flatten_util.ravel_pytree(fresh)
    flat_params, unravel_params = jax.flatten_util.ravel_pytree(params)
    units = np.arange(flat.size) % cell.hidden_size
    own = units[:, None] == units

    def step(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        y, new = rj.unroll(cell, unravel_params(params), x[None], unravel(state), implementation="scan")
        return jax.flatten_util.ravel_pytree(new)[0], y[0]

    @jax.jit
    def moment(params: Any, state: Any, x: Any, target: Any) -> Any:
        new, y = step(params, state, x)
        (by_params, by_state), _ = jax.jacrev(step, argnums=(0, 1))(params, state, x)
        signal = jax.grad(lambda new: loss(read(new, y), target))(new)
        return new, by_params, by_state, signal

    def read(new: Any, y: Any) -> Any:
        """The output, which in these cells is the first array of the state."""
        return jax.tree.leaves(unravel(new))[0].reshape(y.shape)

    want = np.zeros(flat_params.size)
    for row in range(B):
        state, influence = flat, np.zeros((flat.size, flat_params.size))
        for x, target in zip(xs[:, row], targets[:, row], strict=True):
            state, direct, jacobian, signal = moment(flat_params, state, x, target)
            influence = np.where(own, jacobian, 0) @ influence + direct
            want += signal @ influence
    agree(jax.flatten_util.ravel_pytree(found)[0], want)


@pytest.mark.parametrize("method", [online.SnAp1(), online.EProp()], ids=repr)
@pytest.mark.slow
def test_traces_of_gated_cells_need_no_jacobian(method: Any) -> None:
    """Beside the trace, memory grows with the units by less than one matrix (N, N) does."""

    def temporary(units: int) -> int:
        params, xs, targets = jax.eval_shape(lambda: problem(rj.GRU(units), 4, jnp.float32))
        run = jax.jit(online.online_gradient(method, rj.GRU(units), loss))
        return run.lower(params, None, xs, targets).compile().memory_analysis().temp_size_in_bytes

    assert 0 < temporary(64) - temporary(32) < 4 * (64**2 - 32**2)


def test_sums_of_a_stream_do_not_stall_in_bfloat16() -> None:
    """256 + 1 is 256 in bfloat16."""
    cell = rj.LinearElman(2)
    params, xs, targets = problem(cell, 1000, jnp.bfloat16)
    params = params._replace(u=jnp.zeros_like(params.u))
    for method in (online.RTRL(), online.DenseRTRL(), online.SnAp1(), online.EProp()):
        run = online.online_gradient(method, cell, lambda y, target, head: jnp.sum(y) / B + jnp.sum(head))
        found = jax.jit(run)(params, None, xs, targets, head=jnp.zeros(2, jnp.bfloat16))
        for leaf in (found.grads.b, found.head):
            assert leaf.dtype == jnp.bfloat16
            np.testing.assert_array_equal(leaf, [1000, 1000])


def eprop_lstm(x: Any, target: Any, *, w: Any, u: Any, b: Any) -> dict[str, Any]:
    """Bellec et al. 2020: eligibility vectors of the cell state, traces of the output, times the learning signal."""

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + np.exp(-a))

    size = u.shape[0]
    grads = {name: np.zeros_like(value) for name, value in {"w": w, "u": u, "b": b}.items()}
    for row in range(x.shape[1]):
        h, c = np.zeros(size), np.zeros(size)
        vectors = {name: [np.zeros_like(np.split(value, 4, -1)[0]) for _ in "ifg"] for name, value in grads.items()}
        for x_t, target_t in zip(x[:, row], target[:, row], strict=True):
            i, f, g, o = np.split(x_t @ w + h @ u + b, 4)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            of_gates = [g * i * (1 - i), c * f * (1 - f), i * (1 - g**2)]
            presynaptic = {"w": x_t[:, None], "u": h[:, None], "b": 1.0}
            c = f * c + i * g
            h = o * np.tanh(c)
            signal = 2 * (h - target_t)
            for name in grads:
                vectors[name] = [f * e + d * presynaptic[name] for e, d in zip(vectors[name], of_gates, strict=True)]
                traces = [o * (1 - np.tanh(c) ** 2) * e for e in vectors[name]]
                traces.append(np.tanh(c) * o * (1 - o) * presynaptic[name] + 0 * traces[0])
                grads[name] += np.concatenate([signal * trace for trace in traces], -1)
    return grads


def test_eprop_is_its_equation() -> None:
    cell = rj.LSTM(3)
    params, xs, targets = problem(cell, 8)
    found = jax.jit(online.online_gradient(online.EProp(), cell, loss))(params, None, xs, targets).grads
    want = eprop_lstm(np.asarray(xs), np.asarray(targets), **jax.tree.map(np.asarray, params)._asdict())
    agree(found._asdict(), want)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [rj.Elman(2), rj.LearnedInitialState(rj.Elman(2))], ids=repr)
def test_uoro_is_right_in_the_mean(cell: rj.Cell) -> None:
    params, xs, targets = problem(cell, 6)
    run = online.online_gradient(online.UORO(), cell, loss)
    keys = jax.random.split(jax.random.key(5), 4000)
    drawn = jax.jit(jax.vmap(lambda key: run(params, None, xs, targets, key=key).grads))(keys)
    exact = through_time(cell, params, xs, targets)[1]
    for samples, want in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
        error = np.std(samples, axis=0) / np.sqrt(len(keys))
        assert (np.abs(np.mean(samples, axis=0) - want) < 4.5 * error).all()
        assert (error > 0).all()
        assert (error < 0.1 * np.abs(want).max()).all()


def test_uoro_draws_no_noise_for_what_is_nothing() -> None:
    """Parameters that move no state yet, and a state that forgets all: then one sign squared is all that is left."""
    params, xs, targets = problem(rj.LRU(3), 5)
    run = jax.jit(online.online_gradient(online.UORO(), rj.LRU(3), loss))
    found = run(params, None, jnp.zeros_like(xs), targets, key=jax.random.key(2))
    assert not any(leaf.any() for leaf in jax.tree.leaves(found.carry.trace))
    forgets = rj.IndRNN(1, activation="tanh")
    params, xs, targets = problem(forgets, 5)
    params = params._replace(u=jnp.zeros_like(params.u))
    found = jax.jit(online.online_gradient(online.UORO(), forgets, loss))(
        params, None, xs, targets, key=jax.random.key(2)
    )
    agree(found[:2], through_time(forgets, params, xs, targets))


@pytest.mark.slow
def test_a_head_is_learnt_with_the_cell() -> None:
    """Over two pieces, with the gradient of back-propagation through all of it."""
    cell = rj.LRU(3)
    params, xs, _ = problem(cell, 8)
    targets = jax.random.normal(jax.random.key(4), (*xs.shape[:2], 1), xs.dtype)
    head = {"w": jax.random.normal(jax.random.key(3), (xs.shape[-1], 1), xs.dtype), "b": jnp.ones((), xs.dtype)}

    def loss_of(y: Any, target: Any, head: Any) -> Any:
        return ((y @ head["w"] + head["b"] - target) ** 2).sum()

    def whole(params: Any, head: Any) -> Any:
        return loss_of(rj.unroll(cell, params, xs)[0], targets, head)

    run = jax.jit(online.online_gradient(online.RTRL(), cell, loss_of))
    first = run(params, None, xs[:5], targets[:5], head=head)
    second = run(params, first.carry, xs[5:], targets[5:], head=head)
    wanted = jax.grad(whole, argnums=(0, 1))(params, head)
    agree(jax.tree.map(jnp.add, (first.grads, first.head), (second.grads, second.head)), wanted)


@pytest.mark.slow
def test_uoro_in_pieces_with_one_key_is_the_whole() -> None:
    cell = rj.GRU(3)
    params, xs, targets = problem(cell, 6)
    run = jax.jit(online.online_gradient(online.UORO(), cell, loss))
    key = jax.random.key(2)
    whole = run(params, None, xs, targets, key=key)
    grads, carry = jax.tree.map(jnp.zeros_like, params), None
    for t in range(6):
        piece = run(params, carry, xs[t : t + 1], targets[t : t + 1], key=key)
        grads, carry = jax.tree.map(jnp.add, grads, piece.grads), piece.carry
    agree(grads, whole.grads)
    assert carry.steps == 6


@pytest.mark.slow
def test_cosines_rank_the_methods() -> None:
    cell = rj.GRU(3)
    params, xs, targets = problem(cell, 12)
    cosine = {
        type(method): float(online.gradient_cosine(method, cell, loss, params, xs, targets))
        for method in (online.DenseRTRL(), online.SnAp1())
    }
    np.testing.assert_allclose(cosine[online.DenseRTRL], 1, atol=1e-12)
    assert 0.5 < cosine[online.SnAp1] < 1 - 1e-6


def run(method: Any, cell: rj.Cell, make_loss: Any = loss, **options: Any) -> Callable[[], Any]:
    def call() -> Any:
        params, xs, targets = problem(cell, 4)
        return online.online_gradient(method, cell, make_loss)(params, None, xs, targets, **options)

    return call


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (run(online.RTRL(), rj.GRU(3)), ValueError, "RTRL is exact where units do not see each other's states"),
        (run(online.SnAp1(), rj.ResetBeforeGRU(3)), ValueError, "parameters each reach one unit in one step"),
        (run(online.SnAp1(), rj.LayerNormGRU(3)), ValueError, "parameters each reach one unit in one step"),
        (run(online.SnAp1(), rj.SLSTM(4, heads=2)), ValueError, "parameters each reach one unit in one step"),
        (run(online.EProp(), rj.ProjectionLSTM(4, 2)), ValueError, "one number a unit"),
        (run(online.EProp(), rj.CoRNN(3)), ValueError, "EProp leaves out what passes through the recurrent product"),
        (run(online.UORO(), rj.GRU(3)), ValueError, "UORO draws random signs: pass `key`"),
        (run(online.UORO, rj.GRU(3)), TypeError, "`method` must be one of"),
        (run(online.DenseRTRL(), rj.GRU(3), lambda y, t: y - t), ValueError, "`loss` must return one number"),
        (run(online.RTRL(), rj.MinGRU(3), lengths=jnp.array([4, 2])), TypeError, "`loss` must take a keyword `mask`"),
    ],
)
def test_bad_calls_are_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "method", [online.RTRL(), online.DenseRTRL(), online.SnAp1(), online.UORO(), online.EProp()], ids=repr
)
def test_a_clip_of_what_flows_back_is_refused(method: Any) -> None:
    for cell in (rj.GradientClip(rj.GRU(3)), rj.LearnedInitialState(rj.Zoneout(rj.GradientClip(rj.IndRNN(3))))):
        with pytest.raises(ValueError, match=r"must be without `GradientClip`.*: take the cell inside it"):
            online.online_gradient(method, cell, loss)


@pytest.mark.parametrize("layer", [rj.Stack([rj.RNN(rj.LRU(3)), rj.RNN(rj.LRU(3))]), rj.Block(rj.LRU(3))], ids=repr)
def test_a_layer_is_no_cell(layer: Any) -> None:
    with pytest.raises(TypeError, match=r"must be one cell.*, a layer: take the cell in it, and what follows"):
        online.online_gradient(online.RTRL(), layer, loss)


def test_targets_must_have_as_many_steps() -> None:
    cell = rj.GRU(3)
    params, xs, targets = problem(cell, 4)
    with pytest.raises(ValueError, match=r"`targets` must lead with T = 4, as `xs` does; got \(3, 2, 3\)"):
        online.online_gradient(online.DenseRTRL(), cell, loss)(params, None, xs, targets[:3])


def test_a_carry_must_be_that_of_the_piece_before() -> None:
    cell = rj.GRU(3)
    params, xs, targets = problem(cell, 4)
    run = online.online_gradient(online.SnAp1(), cell, loss)
    carry = run(params, None, xs, targets).carry
    with pytest.raises(TypeError, match="`carry` must be the `carry` of the piece before, an OnlineCarry; got tuple"):
        run(params, tuple(carry), xs, targets)
    with pytest.raises(TypeError, match="must come from the same method and cell"):
        run(params, carry._replace(trace=()), xs, targets)
    with pytest.raises(ValueError, match=r"a leaf must be .*\(1, 3\).*; got .*\(2, 3\)"):
        run(params, carry, xs[:, :1], targets[:, :1])


def test_the_cosine_of_nothing_is_zero() -> None:
    cell = rj.Elman(3)
    params, xs, targets = problem(cell, 4)
    assert online.gradient_cosine(online.SnAp1(), cell, lambda y, target: 0 * jnp.sum(y), params, xs, targets) == 0
