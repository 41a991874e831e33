"""Shortcuts of gated cells (`input_weights`, `update_vjp`) say how a map was made; a changed map loses its shortcut."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

T, B, I, H = 6, 2, 3, 4  # noqa: E741


@rj.struct
class DoubledInput(rj.LSTM):
    """An LSTM that reads its inputs twice as large."""

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, 2 * x)


@rj.struct
class HalfStep(rj.GRU):
    """A GRU that goes half of the way."""

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = super().update(params, state, gx, gh)
        return new._replace(h=(new.h + state.h) / 2)


@rj.struct
class DoublingWrapper(rj.Wrapper):
    """The inner cell with its inputs twice as large."""

    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, 2 * x)


@rj.struct
class ClippedStep(rj.LSTM):
    """An LSTM whose cell state stays small."""

    def step(self, params: Any, state: Any, z: Any, noise: Any = None) -> Any:
        new = super().step(params, state, z)
        return new._replace(c=jnp.clip(new.c, -0.1, 0.1))


@rj.struct
class SlowStep(rj.Wrapper):
    """The inner cell, which goes half of the way."""

    def step(self, params: Any, state: Any, z: Any, noise: Any = None) -> Any:
        return jax.tree.map(lambda old, new: (old + new) / 2, state, super().step(params, state, z))


@rj.struct
class TwoBiases(rj.GRU):
    """A GRU with a recurrent bias for every gate."""

    def recurrent(self, params: Any) -> Any:
        ones = jnp.ones_like(params.b_n)
        return params.u, (ones, 2 * ones, params.b_n)


@rj.struct
class OneBias(rj.LSTM):
    """An LSTM with a recurrent bias."""

    def recurrent(self, params: Any) -> Any:
        return params.u, params.b / 2


@rj.struct
class SquashedOutput(rj.LSTM):
    """An LSTM whose output is no part of its state."""

    def emit(self, state: Any) -> Any:
        return jnp.tanh(3 * state.c)


@rj.struct
class SquashedFeedback(rj.LSTM):
    """An LSTM that feeds back what is no linear function of its state."""

    def hidden(self, state: Any, noise: Any = None) -> Any:
        return jnp.tanh(3 * state.h)


@rj.struct
class ScaledFeedback(rj.LSTM):
    """An LSTM that feeds back more than it puts out."""

    def hidden(self, state: Any, noise: Any = None) -> Any:
        return 2 * state.h


@rj.struct
class LearnedOutput(rj.LSTM):
    """An LSTM whose output has a factor that may be learned."""

    scale: float = rj.node(default=2.0)

    def emit(self, state: Any) -> Any:
        return self.scale * state.h


@rj.struct
class LearnedFeedback(rj.Elman):
    """A plain network that feeds back more than its state, by a number that may be learned."""

    shift: float = rj.node(default=0.5)

    def hidden(self, state: Any, noise: Any = None) -> Any:
        return state.h + self.shift


@rj.struct
class FixedOutput(rj.LSTM):
    """An LSTM whose output has a factor with no gradient."""

    scale: float = rj.node(default=2.0)

    def emit(self, state: Any) -> Any:
        return jax.lax.stop_gradient(self.scale) * state.h


CHANGED = [DoubledInput(H), HalfStep(H), DoublingWrapper(rj.LSTM(H)), DoublingWrapper(rj.GRU(H))]


def gradients(cell: rj.Cell, implementation: str) -> Any:
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float64)

    def loss(params: Any, xs: Any) -> Any:
        ys, state = rj.unroll(cell, params, xs, implementation=implementation)
        return (ys**2).sum() + state.h.sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, xs)


@pytest.mark.parametrize("cell", CHANGED, ids=lambda cell: type(cell).__name__)
def test_changed_map_is_differentiated(cell: rj.Cell) -> None:
    pairs = zip(*(jax.tree.leaves(gradients(cell, name)) for name in ("fused", "scan")), strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def written_out(cell: Any, params: Any, xs: Any, state: Any = None) -> Any:
    """The cell's own maps, step after step."""
    state = cell.initial_state(params, (B,), xs.dtype) if state is None else state
    ys = []
    for x in xs:
        (z,) = (jax.tree.map(lambda leaf: leaf[0], cell.project(params, x[None])),)
        state = cell.step(params, state, z)
        ys.append(cell.emit(state))
    return jnp.stack(ys), state


STEPS = [
    ClippedStep(H),
    SlowStep(rj.GRU(H)),
    rj.LearnedInitialState(ClippedStep(H)),
    TwoBiases(H),
    OneBias(H),
    rj.LearnedInitialState(TwoBiases(H)),
    SquashedOutput(H),
    SquashedFeedback(H),
    rj.LearnedInitialState(SquashedFeedback(H)),
    ScaledFeedback(H),
    LearnedOutput(H),
    rj.LearnedInitialState(LearnedFeedback(H)),
]


@pytest.mark.parametrize("cell", STEPS, ids=lambda cell: repr(cell).replace("hidden_size=", ""))
def test_changed_step_is_what_runs(cell: Any) -> None:
    """Whichever implementation is chosen: values and gradients are those of the cell's own step."""
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float64)

    def loss(run: Any) -> Any:
        def total(cell: Any, params: Any, xs: Any) -> Any:
            ys, state = run(cell, params, xs)
            return (ys**2).sum() + sum(leaf.sum() for leaf in jax.tree.leaves(state))

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(cell, params, xs)

    wanted = loss(written_out)
    got = loss(rj.unroll)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_wrapped_step_is_the_inner_one() -> None:
    """A wrapper with nothing of its own runs the step of its inner cell, and not the update that it was made of."""
    inner = ClippedStep(H)
    cell = rj.LearnedInitialState(inner)
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float64)
    wanted, _ = written_out(inner, params.cell, xs)
    for implementation in (None, "scan"):
        np.testing.assert_allclose(rj.unroll(cell, params, xs, implementation=implementation)[0], wanted, atol=1e-12)
    with pytest.raises(TypeError, match="gated cell"):
        rj.RecurrentDropout(inner)


def test_changed_methods_are_named() -> None:
    params, xs = rj.LSTM(H).init(jax.random.key(0), I), jnp.ones((T, B, I))
    with pytest.raises(ValueError, match="`hidden` of SquashedFeedback is not linear"):
        rj.unroll(SquashedFeedback(H), params, xs, implementation="fused")
    with pytest.raises(ValueError, match="ClippedStep is not a gated cell"):
        rj.unroll(ClippedStep(H), params, xs, implementation="fused")
    assert "→ fused" in rj.explain(ScaledFeedback(H), params, xs)
    with pytest.raises(ValueError, match="`emit` of LearnedOutput reads numbers of the cell that have a gradient"):
        rj.unroll(LearnedOutput(H), params, xs, implementation="fused")
    plain = rj.Elman(H).init(jax.random.key(0), I)
    with pytest.raises(ValueError, match="`hidden` of LearnedFeedback reads numbers of the cell"):
        rj.unroll(LearnedFeedback(H), plain, xs, implementation="fused")
    assert "→ fused" in rj.explain(FixedOutput(H), params, xs)


class Chosen(NamedTuple):
    """The inner cell's parameters, and which units move: booleans (H)."""

    inner: Any
    units: Any


@rj.struct
class MovingUnits(rj.Wrapper):
    """The inner cell, of which the units move that the context names."""

    def unwrap(self, params: Any) -> Any:
        return params.inner if isinstance(params, Chosen) else params

    def prepare(self, params: Any, *, key: Any = None, context: Any = None) -> Chosen:
        return Chosen(params, context)

    def finish(self, params: Any, old: Any, new: Any, noise: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(jnp.broadcast_to(params.units, a.shape), b, a), old, new)


@pytest.mark.parametrize(
    "cell",
    [
        rj.LeakyElman(H, leak=jnp.array([0, 1, 1, 0])),
        rj.GradientClip(rj.PeepholeLSTM(H), bound=np.int64(1)),
        MovingUnits(rj.GRU(H)),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_integers_and_flags_have_no_gradient(cell: Any) -> None:
    params = cell.init(jax.random.key(0), I, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, I), jnp.float64)

    def gradients(implementation: str) -> Any:
        def loss(cell: Any, params: Any, xs: Any) -> Any:
            units = jnp.array([True, False, True, True])
            return (rj.unroll(cell, params, xs, context=units, implementation=implementation)[0] ** 2).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), allow_int=True))(cell, params, xs)

    for a, b in zip(*(jax.tree.leaves(gradients(name)) for name in ("fused", "scan")), strict=True):
        assert a.dtype == b.dtype
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_inputs_are_doubled() -> None:
    plain, params = rj.LSTM(H), rj.LSTM(H).init(jax.random.key(0), I)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    expected, _ = rj.unroll(plain, params, 2 * xs)
    for cell in (DoubledInput(H), DoublingWrapper(plain)):
        np.testing.assert_allclose(rj.unroll(cell, params, xs)[0], expected, atol=1e-6)


def test_neither_shortcut_nor_map_is_an_error() -> None:
    @rj.struct
    class Unfinished(rj.LSTM):
        def input_weights(self, params: Any) -> None:
            return None

    params = rj.LSTM(H).init(jax.random.key(0), I)
    with pytest.raises(NotImplementedError, match="`input_weights` or `project`"):
        rj.unroll(Unfinished(H), params, jnp.ones((T, B, I)))
