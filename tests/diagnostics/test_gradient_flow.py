"""Gradients by states against finite differences of the equations in NumPy, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jax import Array

import rnnjax as rj
from rnnjax.diagnostics import GradientFlow, gradient_flow, horizon, kept_share, steps_back, verdict

T, B, I, H = 6, 3, 2, 4  # noqa: E741
CELLS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "elman": (rj.Elman(H), references.elman),
    "gru": (rj.GRU(H), references.gru),
    "lstm": (rj.LSTM(H), references.lstm),
}


def random_params(model: Any, in_size: int, seed: int) -> Any:
    """Parameters of a scale that leaves no part of a gradient small, float64."""
    shapes = model.init(jax.random.key(0), in_size, jnp.float64)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.standard_normal(leaf.shape)), shapes)


def numpy_run(name: str, params: Any, x: np.ndarray, bump: Callable[[int, dict[str, Any]], None]) -> np.ndarray:
    """Outputs (T, B, H) of the reference, step by step; `bump` may change the state behind each step."""
    weights = {field: np.asarray(value) for field, value in params._asdict().items()}
    state = {field: np.zeros((x.shape[1], H)) for field in (("h", "c") if name == "lstm" else ("h",))}
    ys = []
    for t in range(len(x)):
        _, state = CELLS[name][1](x[t : t + 1], **weights, **state)
        bump(t, state)
        ys.append(state["h"])
    return np.stack(ys)


def differences(run: Callable[..., float], shapes: dict[str, tuple[int, ...]], step: float = 1e-6) -> dict[str, Any]:
    """Central differences of `run(bump)` by every number of every state."""
    found = {field: np.zeros(shape) for field, shape in shapes.items()}
    for field, out in found.items():
        for index in np.ndindex(*out.shape):

            def bump(sign: float, index: tuple[int, ...] = index, field: str = field) -> Callable[..., None]:
                def change(t: int, state: dict[str, Any]) -> None:
                    if t == index[0]:
                        state[field] = state[field].copy()
                        state[field][index[1:]] += sign * step

                return change

            out[index] = (run(bump(1)) - run(bump(-1))) / (2 * step)
    return found


@pytest.mark.parametrize("name", CELLS)
def test_against_finite_differences(name: str) -> None:
    cell = CELLS[name][0]
    params, rng = random_params(cell, I, 1), np.random.default_rng(2)
    x, weight = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))

    def run(bump: Callable[..., None]) -> float:
        return float((weight * numpy_run(name, params, x, bump) ** 2).sum())

    flow = jax.jit(lambda p, x: gradient_flow(cell, p, x, lambda ys: (weight * ys**2).sum()))(params, jnp.asarray(x))
    shapes = dict.fromkeys(flow.gradients["rnn"]._fields, (T, B, H))
    wanted = differences(run, shapes)
    for field, value in wanted.items():
        np.testing.assert_allclose(getattr(flow.gradients["rnn"], field), value, rtol=0, atol=1e-6)
    norms = np.sqrt(sum((value**2).sum(-1) for value in wanted.values()))
    np.testing.assert_allclose(flow.norms["rnn"], norms, rtol=1e-6)
    np.testing.assert_allclose(flow.loss, run(lambda t, state: None), rtol=1e-12)


def test_lower_layer_of_a_stack() -> None:
    """The gradient passes through the upper layer and a residual."""
    model = rj.Stack([rj.GRU(H), rj.Residual(rj.Elman(H)), rj.Last(), rj.Dense(1)])
    params, x = random_params(model, I, 3), np.random.default_rng(4).standard_normal((T, B, I))
    flow = jax.jit(lambda p, x: gradient_flow(model, p, x, lambda ys: (ys**2).sum()))(params, jnp.asarray(x))
    assert list(flow.norms) == ["0", "1.layer"]

    def run(bump: Callable[..., None]) -> float:
        below = numpy_run("gru", params[0], x, bump)
        top = below + numpy_run("elman", params[1], below, lambda t, state: None)
        return float(((top[-1] @ np.asarray(params[3].w) + np.asarray(params[3].b)) ** 2).sum())

    wanted = differences(run, {"h": (T, B, H)})["h"]
    np.testing.assert_allclose(flow.gradients["0"].h, wanted, rtol=0, atol=1e-6)


def test_both_directions() -> None:
    """The backward layer of a pair is another one, with the states of its own direction in the order of the inputs."""
    model = rj.Stack([rj.Bidirectional(rj.Elman(H))])
    params, x = random_params(model, I, 5), np.random.default_rng(6).standard_normal((T, B, I))
    weight = np.random.default_rng(7).standard_normal((T, B, 2 * H))
    flow = jax.jit(lambda p, x: gradient_flow(model, p, x, lambda ys: (weight * ys**2).sum()))(params, jnp.asarray(x))
    assert {name: bool(turned) for name, turned in flow.reverse.items()} == {"0.forward": False, "0.backward": True}

    def run(bump: Callable[..., None]) -> float:
        ys = numpy_run("elman", params[0].backward, x[::-1], bump)[::-1]
        return float((weight[..., H:] * ys**2).sum())

    wanted = differences(run, {"h": (T, B, H)})["h"][::-1]
    np.testing.assert_allclose(flow.gradients["0.backward"].h, wanted, rtol=0, atol=1e-6)


def test_lengths_equal_shorter_rows() -> None:
    cell, lengths = rj.GRU(H), np.array([6, 3, 3])
    params, x = random_params(cell, I, 8), jnp.asarray(np.random.default_rng(9).standard_normal((T, B, I)))
    x = x.at[3:, 1].set(jnp.nan)
    loss = lambda ys: (ys**2).sum()  # noqa: E731
    tool = jax.jit(lambda x, lengths: gradient_flow(cell, params, x, loss, lengths=lengths))
    flow = tool(x, jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        own = tool(x[:length, row], None)
        np.testing.assert_allclose(flow.norms["rnn"][:length, row], own.norms["rnn"], rtol=1e-12)
        assert not np.any(flow.norms["rnn"][length:, row])


def test_reset_cuts_the_flow() -> None:
    cell = rj.LSTM(H)
    params, x = random_params(cell, I, 10), jnp.asarray(np.random.default_rng(11).standard_normal((T, I)))
    reset = jnp.arange(T) == 4
    flow = gradient_flow(cell, params, x, lambda ys: ys[-1].sum(), reset=reset)
    assert (np.asarray(flow.norms["rnn"]) > 0).tolist() == [False] * 4 + [True] * 2
    assert verdict(flow).startswith("rnn: is cut: no gradient at all is left 2 steps back")


def test_noise_is_that_of_the_model() -> None:
    """The loss is the one that the model has with the same key, dropout and all."""
    model = rj.Stack([rj.Zoneout(rj.LSTM(H), rate=0.4), rj.VariationalDropout(0.3), rj.RNN(rj.GRU(H), reverse=True)])
    params, x = random_params(model, I, 12), jnp.ones((T, B, I))
    loss, key = lambda ys: (ys**2).sum(), jax.random.key(13)
    flow = jax.jit(lambda key: gradient_flow(model, params, x, loss, key=key))(key)
    np.testing.assert_allclose(flow.loss, loss(model(params, x, key=key)[0]), rtol=1e-12)
    assert [bool(turned) for turned in flow.reverse.values()] == [False, True]


def test_dtypes_and_vmap() -> None:
    cell = rj.GRU(H, compute_dtype="bfloat16")
    params, x = cell.init(jax.random.key(0), I), jnp.ones((2, T, B, I), jnp.float32)
    tool = jax.jit(lambda x: gradient_flow(cell, params, x, lambda ys: ys.astype(jnp.float32).sum()).norms["rnn"])
    norms = jax.jit(jax.vmap(tool))(x)
    assert (norms.shape, norms.dtype) == ((2, T, B), jnp.float32)
    np.testing.assert_array_equal(norms[0], tool(x[0]))


def test_spatial_states() -> None:
    cell = rj.ConvLSTM(3, spatial_shape=(4,), kernel_size=3)
    params, x = random_params(cell, I, 14), jnp.ones((T, B, 4, I))
    flow = gradient_flow(cell, params, x, lambda ys: (ys[-1] ** 2).sum())
    assert flow.norms["rnn"].shape == (T, B)
    squares = sum((np.asarray(leaf) ** 2).sum((2, 3)) for leaf in flow.gradients["rnn"])
    np.testing.assert_allclose(flow.norms["rnn"], np.sqrt(squares), rtol=1e-12)


def test_tiny_gradients_are_not_lost() -> None:
    """In float32 their squares would be zero."""
    cell = rj.Elman(2, activation="identity")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_params(cell, 1, 0))
    params = params._replace(u=0.1 * jnp.eye(2, dtype=jnp.float32))
    norms = gradient_flow(cell, params, jnp.ones((31, 1), jnp.float32), lambda ys: ys[-1].sum()).norms["rnn"]
    np.testing.assert_allclose(norms[0], 2**0.5 * 1e-30, rtol=1e-4)


def test_errors() -> None:
    cell = rj.GRU(H)
    params, x = cell.init(jax.random.key(0), I), jnp.ones((T, B, I))
    with pytest.raises(ValueError, match="`loss` must return a scalar; got an array of shape"):
        gradient_flow(cell, params, x, lambda ys: ys.sum(0))
    with pytest.raises(ValueError, match="at least one recurrent layer"):
        gradient_flow(rj.Dense(3), rj.Dense(3).init(jax.random.key(0), I), x, jnp.sum)
    with pytest.raises(TypeError, match="a layer or a cell"):
        gradient_flow("GRU", params, x, jnp.sum)  # type: ignore[arg-type]


@pytest.mark.parametrize("reverse", [False, True])
def test_kept_share(reverse: bool) -> None:
    """Row by row, counted back from the last step that has a gradient."""
    rows = [[8.0, 4.0, 2.0, 1.0], [3.0, 3.0], [5.0]]
    norms = np.zeros((5, len(rows)))
    for column, row in enumerate(rows):
        norms[: len(row), column] = row[::-1]
    norms = norms[::-1] if reverse else norms
    wanted = np.array([16 / 3, 3.5, 2.0, 1.0, 0.0]) / (16 / 3)
    np.testing.assert_allclose(kept_share(jnp.asarray(norms), reverse), wanted)
    assert not np.any(kept_share(jnp.zeros((3, 2))))
    assert kept_share(jnp.zeros((3, 0))).tolist() == [0, 0, 0]
    assert int(steps_back(jnp.asarray(norms), reverse)) == 3
    assert int(steps_back(jnp.zeros((0, 2)))) == int(steps_back(jnp.zeros((3, 2)))) == -1


@pytest.mark.parametrize("reverse", [False, True])
def test_kept_share_counts_valid_steps(reverse: bool) -> None:
    """Masked steps before, among and behind the valid ones change nothing."""
    norms = np.array([[0.0, 2.0, 0.0, 4.0, 8.0, 0.0], [1.0, 0.0, 3.0, 0.0, 0.0, 0.0]]).T
    mask = np.array([[0, 1, 0, 1, 1, 0], [1, 0, 1, 0, 0, 0]], bool).T
    if reverse:
        norms, mask = norms[::-1], mask[::-1]
    norms, mask = jnp.asarray(norms), jnp.asarray(mask)
    wanted = np.array([5.5, 2.5, 2, 0, 0, 0]) / 5.5
    np.testing.assert_allclose(kept_share(norms, reverse, mask), wanted)
    assert int(steps_back(norms, reverse, mask)) == 2
    with pytest.raises(ValueError, match="shape of `norms`"):
        kept_share(norms, reverse, mask[0])
    with pytest.raises(ValueError, match="got a scalar"):
        kept_share(jnp.ones(()))


def test_horizon() -> None:
    share = jnp.asarray(0.8 ** np.arange(40.0))
    assert int(horizon(share)) == int(np.floor(np.log(0.01) / np.log(0.8)))
    assert int(horizon(jnp.ones(9))) == 8
    assert int(horizon(jnp.zeros(9))) == -1
    assert int(horizon(jnp.full(9, jnp.nan))) == -1


def flow_of(norms: Any) -> GradientFlow:
    return GradientFlow(jnp.zeros(()), {"rnn": jnp.asarray(norms)}, {}, {"rnn": jnp.asarray(False)})


@pytest.mark.parametrize(
    ("norms", "says"),
    [
        (
            0.6 ** np.arange(50.0)[::-1],
            "rnn: vanishes: 1e-11 of the gradient is left 49 steps back; gradient horizon about 9",
        ),
        (2.0 ** np.arange(30.0)[::-1], "rnn: explodes: 5e+08 times the gradient 29 steps back"),
        (
            0.99 ** np.arange(30.0)[::-1],
            "rnn: flows: 0.75 of the gradient is left 29 steps back; gradient horizon at least 29",
        ),
        ([0.0, 0.0, 0.0, 0.25, 0.5, 1.0], "rnn: is cut: no gradient at all is left 3 steps back. Either a `reset`"),
        ([0.0, 0.0, 1e-4, 1.0], "rnn: vanishes: 0e+00 of the gradient is left 3 steps back"),
        ([1.0, np.nan, 1.0], "rnn: is not finite"),
        (np.zeros(4), "rnn: has no gradient"),
        (
            np.pad(np.ones((50, 1)), ((0, 50), (0, 7))),
            "rnn: flows: 1 of the gradient is left 49 steps back; gradient horizon at least 49",
        ),
    ],
    ids=["vanishes", "explodes", "flows", "cut", "vanishes to zero", "nan", "none", "one row of eight"],
)
def test_verdict(norms: Any, says: str) -> None:
    assert verdict(flow_of(norms)).startswith(says)


def test_verdict_of_networks() -> None:
    """Recurrent weights that shrink or stretch everything are found out, and each layer has its line."""
    model = rj.Stack([rj.Elman(3, activation="identity"), rj.Last()])
    params, x = random_params(model, I, 15), jnp.ones((40, B, I))
    tool = jax.jit(lambda params: gradient_flow(model, params, x, lambda ys: ys.sum()))
    for scale, says in ((0.5, "vanishes"), (1.0, "flows"), (2.0, "explodes")):
        own = params[0]._replace(u=scale * jnp.eye(3)), ()
        assert verdict(tool(own)).startswith(f"0: {says}")


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_does_not_vanish(reverse: bool) -> None:
    """A rotation keeps the whole gradient, however long the padding of every row is, and wherever it lies."""
    layer = rj.RNN(rj.Elman(2, activation="identity"), reverse=reverse)
    params = random_params(layer, I, 17)
    params = params._replace(u=jnp.array([[0.6, 0.8], [-0.8, 0.6]]))
    lengths = jnp.array([6, 5, 4])
    late = jnp.arange(12)[:, None] >= 12 - lengths[None]
    for options, first, last in (({"lengths": lengths}, 0 * lengths, lengths - 1), ({"mask": late}, 12 - lengths, 11)):
        end = first if reverse else last
        loss = lambda ys, end=end: ys[end, jnp.arange(3)].sum()  # noqa: E731
        flow = gradient_flow(layer, params, jnp.ones((12, 3, I)), loss, **options)
        assert verdict(flow) == "rnn: flows: 1 of the gradient is left 5 steps back; gradient horizon at least 5 steps"


def test_a_step_without_a_derivative_is_cut() -> None:
    cell = rj.Elman(H, activation=jnp.sign)
    flow = gradient_flow(cell, random_params(cell, I, 18), jnp.ones((T, B, I)), lambda ys: ys[-1].sum())
    assert verdict(flow).startswith("rnn: is cut: no gradient at all is left one step back")


def test_advice_against_vanishing_is_what_was_measured() -> None:
    """docs/choosing.md: gates that begin open first; `max_time` for an LSTM alone."""
    advice = verdict(flow_of(0.6 ** np.arange(50.0)[::-1])).split(". ")[1]
    assert advice.startswith("Try `rnnjax.LSTM(…, forget_bias=3)` or `rnnjax.GRU(…, update_bias=3)`, an LSTM with `max")
    rj.LSTM(3, forget_bias=3)
    rj.GRU(3, update_bias=3)


@pytest.mark.slow
def test_monitor(tmp_path: Any) -> None:
    """Readings are those of `gradient_flow` at the parameters of that step, batch-major, at the steps asked for."""
    rng = np.random.default_rng(16)
    x, y, lengths = (
        rng.standard_normal((24, T, I)).astype("float32"),
        rng.integers(0, 2, 24),
        rng.integers(1, T + 1, 24),
    )
    model = rj.Stack([rj.RNN(rj.GRU(H)), rj.Last(), rj.Dense(2)])
    monitor = rj.diagnostics.gradient_monitor(
        model, (x, y, lengths), every=6, rows=10, log=rj.training.csv_logger(tmp_path / "flow.csv")
    )
    kept: list[Any] = []
    fitted = rj.training.fit(
        model,
        (x, y, lengths),
        batch_size=6,
        epochs=4,
        callbacks=[monitor, lambda event: kept.append(jax.tree.map(jnp.copy, event.state.params))],
        progress=False,
    )
    assert isinstance(fitted, rj.training.Fitted)
    assert [reading.step for reading in monitor.readings] == [4, 12]
    within = rj.diagnostics.gradient_monitor(model, (x, y, lengths), every=3)
    rj.training.fit(model, (x, y, lengths), batch_size=2, epochs=2, callbacks=[within], progress=False)
    assert [reading.step for reading in within.readings] == [3, 6, 9, 12, 15, 18, 21, 24]

    def loss(logits: Array) -> Array:
        log_p = jax.nn.log_softmax(logits)
        return -log_p[jnp.arange(10), y[:10]].mean()

    xs = jnp.asarray(x[:10].swapaxes(0, 1))
    for reading, epoch in zip(monitor.readings, (0, 2), strict=True):
        flow = gradient_flow(model, kept[epoch], xs, loss, lengths=jnp.asarray(lengths[:10]))
        longest = int(lengths[:10].max())
        np.testing.assert_allclose(reading.share["0"], kept_share(flow.norms["0"])[:longest], rtol=1e-4)
    lines = (tmp_path / "flow.csv").read_text().splitlines()
    assert lines[0] == "step,gradient_left/0,gradient_horizon/0"
    assert len(lines) == 3
    with pytest.raises(TypeError, match="layer of rnnjax"):
        rj.diagnostics.gradient_monitor(lambda x: x, (x, y))  # type: ignore[arg-type]


def test_monitor_of_packed_sequences() -> None:
    """Behind a reset in the middle rows are sequences of their own: nothing reaches over it."""
    rng, model = np.random.default_rng(17), rj.Stack([rj.RNN(rj.GRU(H)), rj.Dense(2)])
    x, y = rng.standard_normal((6, T, I)).astype("float32"), rng.integers(0, 2, (6, T))
    last = np.tile((np.arange(T) == T - 1).astype("float32"), (6, 1))  # which the loss reads alone
    params, middle = model.init(jax.random.key(0), I), T // 2
    reset = np.zeros((6, T), bool)
    reset[:, middle] = True
    batch, logged = rj.training.Batch(x, y, None, last, reset), []
    packed = rj.diagnostics.gradient_monitor(model, batch, log=lambda step, values: logged.append(values))
    alone = rj.diagnostics.gradient_monitor(model, (x[:, middle:], y[:, middle:], None, last[:, middle:]))
    for monitor in (packed, alone):
        monitor.during(1, params)
    share, wanted = (monitor.readings[0].share["0"] for monitor in (packed, alone))
    assert share.shape == (T,)
    np.testing.assert_allclose(share[: T - middle], wanted, rtol=1e-5)
    assert not share[T - middle :].any()
    assert packed.readings[0].horizon == alone.readings[0].horizon
    packed.during(2, jax.tree.map(jnp.zeros_like, params))
    assert packed.readings[1].share["0"].shape == (0,)
    assert logged[1] == {"gradient_left/0": 0, "gradient_horizon/0": -1}


ODD = {
    "matrix memory": (rj.MLSTM(H, heads=2), I, None),
    "as many features": (rj.SRU(H), H, None),
    "attention": (rj.BahdanauAttention(rj.GRU(H), rj.AdditiveScore(3), 2), I, jnp.ones((5, B, 2))),
}


@pytest.mark.parametrize("name", ODD)
def test_the_gradient_is_that_of_the_rest_of_the_sequence(name: str) -> None:
    """By a state that is passed in behind step 2."""
    cell, size, context = ODD[name]
    params, x = random_params(cell, size, 8), jnp.asarray(np.random.default_rng(9).standard_normal((T, B, size)))

    def wanted(params: Any, x: Any) -> Any:
        _, state = rj.unroll(cell, params, x[:3], context=context)
        return jax.grad(lambda state: (rj.unroll(cell, params, x[3:], state, context=context)[0][-1] ** 2).sum())(state)

    flow = jax.jit(lambda p, x: gradient_flow(cell, p, x, lambda ys: (ys[-1] ** 2).sum(), context=context))(params, x)
    assert flow.norms["rnn"].shape == (T, B)
    want = jax.jit(wanted)(params, x)
    for got, leaf in zip(jax.tree.leaves(flow.gradients["rnn"]), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got[2], leaf, rtol=1e-10, atol=1e-12)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(want))


def test_elapsed_times_reach_every_layer() -> None:
    model = rj.Stack([rj.S5(3), rj.Residual(rj.S5(3))])
    params, x = random_params(model, I, 10), jnp.asarray(np.random.default_rng(11).standard_normal((T, B, I)))
    xs = x, jnp.full((T, B), 3.0)
    flow = gradient_flow(model, params, xs, lambda ys: (ys**2).sum())
    assert list(flow.norms) == ["0", "1.layer"]
    np.testing.assert_allclose(flow.loss, (model(params, xs)[0] ** 2).sum(), rtol=1e-12)


@pytest.mark.slow
def test_blocks_are_measured_in_their_direction() -> None:
    """A model that runs backwards, read at the first step, is the same on the sequence turned round."""
    flows = []
    x = jnp.asarray(np.random.default_rng(12).standard_normal((T, B, H)))
    for reverse in (False, True):
        model = rj.Stack([rj.Block(rj.Elman(H), reverse=reverse), rj.MinGRUBlock(reverse=reverse)])
        params = random_params(model, H, 13)
        loss = lambda ys, reverse=reverse: (ys[0 if reverse else -1] ** 2).sum()  # noqa: E731
        flows.append(gradient_flow(model, params, x[::-1] if reverse else x, loss))
    forwards, backwards = flows
    assert len(forwards.norms) == 2
    assert forwards.norms.keys() == backwards.norms.keys()
    for name, norms in forwards.norms.items():
        assert (bool(forwards.reverse[name]), bool(backwards.reverse[name])) == (False, True)
        np.testing.assert_allclose(backwards.norms[name][::-1], norms, rtol=1e-9, atol=1e-12)
    assert verdict(forwards) == verdict(backwards)
