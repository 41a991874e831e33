"""`check_cell` lets good cells pass and names the law that a bad one breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rnnjax as rj
from rnnjax._unroll import kernels
from rnnjax.testing import LAWS, SLOW_LAWS, check_cell


@rj.struct
class WrongDerivative(rj.Elman):
    def update_vjp(self) -> Any:
        def forward(state: Any, gx: Any, gh: Any) -> Any:
            new = self.update(None, state, gx, gh)
            return new, new.h

        def backward(h: Any, d_new: Any) -> Any:
            da = (d_new.h * (1 - h),)
            return jax.tree.map(jnp.zeros_like, d_new), da, da

        return forward, backward


@rj.struct
class DerivativeWithoutOne(rj.Elman):
    """Its derivative is right, but a constant to the next one."""

    def update_vjp(self) -> Any:
        def forward(state: Any, gx: Any, gh: Any) -> Any:
            new = self.update(None, state, gx, gh)
            return new, new.h

        def backward(h: Any, d_new: Any) -> Any:
            da = (d_new.h * (1 - jax.lax.stop_gradient(h) ** 2),)
            return jax.tree.map(jnp.zeros_like, d_new), da, da

        return forward, backward


@rj.struct
class LooksAhead(rj.Elman):
    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, x + jnp.roll(x, -1, axis=0), noise)


@rj.struct
class MixesRows(rj.Elman):
    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = super().update(params, state, gx, gh, noise)
        return new if new.h.ndim == 1 else new._replace(h=new.h - new.h.mean(0, keepdims=True))

    def update_vjp(self) -> None:
        return None


@rj.struct
class KeepsATracer(rj.Elman):
    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        KeepsATracer.seen = x
        return super().project(params, x, noise)


@rj.struct
class OnlyOnCPU(rj.Elman):
    def project(self, params: Any, x: Any, noise: Any = None) -> Any:
        return super().project(params, jax.lax.platform_dependent(x, cpu=jnp.tanh), noise)


@rj.struct
class HidesANumber(rj.Elman):
    """The derivative of its update knows nothing of the number."""

    scale: float = rj.node(default=0.5)

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        return state._replace(h=jnp.tanh(self.scale * (gx[0] + gh[0])))

    def update_vjp(self) -> Any:
        def forward(state: Any, gx: Any, gh: Any) -> Any:
            new = self.update(None, state, gx, gh)
            return new, new.h

        def backward(h: Any, d_new: Any) -> Any:
            da = (d_new.h * self.scale * (1 - h**2),)
            return jax.tree.map(jnp.zeros_like, d_new), da, da

        return forward, backward


@rj.struct
class SharesNoise(rj.Elman):
    def noise(self, key: Any, steps: int, batch_shape: Any, dtype: Any = jnp.float32) -> Any:
        drawn = jax.random.normal(key, (steps, self.hidden_size), dtype)
        drawn = drawn.reshape(steps, *(1,) * len(batch_shape), self.hidden_size)
        return jnp.broadcast_to(drawn, (steps, *batch_shape, self.hidden_size))

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = super().update(params, state, gx, gh)
        return new if noise is None else new._replace(h=new.h + noise)

    def update_vjp(self) -> None:
        return None


@rj.struct
class DropsWithDerivative(rj.WeightDrop):
    """The scale of what it keeps has a derivative in `rate`."""

    def prepare(self, params: Any, *, key: Any = None, context: Any = None) -> Any:
        if key is None:
            return params
        kept = jax.random.bernoulli(key, 0.5, params.u.shape).astype(params.u.dtype)
        return params._replace(u=params.u * kept / jnp.broadcast_to(1 - self.rate, params.u.shape))


@rj.struct
class ForgetsNoise(SharesNoise):
    """Scales with its noise, which the derivative does not."""

    def noise(self, key: Any, steps: int, batch_shape: Any, dtype: Any = jnp.float32) -> Any:
        return jax.random.normal(key, (steps, *batch_shape, self.hidden_size), dtype)

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = rj.Elman.update(self, params, state, gx, gh)
        return new if noise is None else new._replace(h=new.h + jax.lax.stop_gradient(new.h) * noise)


@rj.struct
class RoundsItsState(rj.Elman):
    """To bfloat16, but in float64."""

    def update(self, params: Any, state: Any, gx: Any, gh: Any, noise: Any = None) -> Any:
        new = super().update(params, state, gx, gh, noise)
        return new if new.h.dtype == jnp.float64 else new._replace(h=new.h.astype(jnp.bfloat16).astype(new.h.dtype))

    def update_vjp(self) -> None:
        return None


@rj.struct
class ComposesBackwards(rj.MinGRU):
    def combine(self, first: Any, then: Any) -> Any:
        return super().combine(then, first)


@rj.struct
class ActsOtherwise(rj.MinGRU):
    def act(self, z: Any, state: Any) -> Any:
        return jax.tree.map(jnp.tanh, super().act(z, state))


@pytest.mark.parametrize(
    ("make", "law", "implementation"),
    [
        (WrongDerivative, "derivatives", "fused"),
        (WrongDerivative, "same_as_scan", "fused"),
        (DerivativeWithoutOne, "second_derivatives", "fused"),
        (LooksAhead, "causality", "scan"),
        (LooksAhead, "chunks", "scan"),
        (MixesRows, "batch", "scan"),
        (MixesRows, "mask_with_reset", "scan"),
        # JAX looks through all objects for who holds the tracer
        pytest.param(KeepsATracer, "leaks", "scan", marks=pytest.mark.slow),
        (OnlyOnCPU, "lowering", "scan"),
        (HidesANumber, "leaves", "fused"),
        (SharesNoise, "noise", "scan"),
        (ForgetsNoise, "noise", "scan"),
        (RoundsItsState, "dtypes", "scan"),
        (ComposesBackwards, "composition", "scan"),
        (ActsOtherwise, "composition", "scan"),
        (ComposesBackwards, "steps_in_a_loop", "associative"),
    ],
)
def test_bad_cells_break_their_law(make: Callable[[int], rj.Cell], law: str, implementation: str) -> None:
    with pytest.raises(AssertionError, match=rf"^{make.__name__}\(hidden_size=4.*law '{law}': "):
        check_cell(make(4), 3, laws=[law], implementations=[implementation])


def test_a_draw_with_a_derivative() -> None:
    """Its gradient is that of differences, so that only the statement "constants" is broken."""
    with pytest.raises(AssertionError, match=r"law 'noise': .*\n.*`prepare` draws has a gradient in the cell's rate"):
        check_cell(DropsWithDerivative(rj.Elman(4)), 3, laws=["noise"], implementations=["scan"])


def test_representation_must_be_the_cell() -> None:
    class Anonymous(rj.Elman):
        pass

    with pytest.raises(AssertionError, match="law 'value'"):
        check_cell(rj.struct(Anonymous)(4), 3, laws=["value"], implementations=["scan"])


def test_numbers_of_a_cell_may_be_arrays() -> None:
    """An array prints as no name of the cell's module."""
    check_cell(rj.LeakyElman(3, leak=jnp.full(3, 0.5)), 2, laws=["value"], implementations=["scan"])


@pytest.mark.parametrize("x64", [False, True])
def test_good_cell_passes_whatever_the_precision(x64: bool) -> None:
    with jax.enable_x64(x64):
        laws = ["value", "steps_in_a_loop", "derivatives"]
        check_cell(rj.GRU(3), 2, laws=laws, implementations=["fused"])
        assert jnp.ones(()).dtype == (jnp.float64 if x64 else jnp.float32)


def test_all_implementations_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setitem(LAWS, "chunks", lambda cell, event_shape, implementation: seen.append(implementation))
    check_cell(rj.Elman(3), 2, laws=["chunks"])
    check_cell(rj.ResetBeforeGRU(3), (2,), laws=["chunks"])
    native = ["cpu"] if kernels.load().variants else []
    assert seen == [*native, "fused", "scan", "scan"]


def test_unknown_laws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown laws \['chunk'\]; choose from value, "):
        check_cell(rj.Elman(3), 2, laws=["chunk"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"implementations": ["scna"]}, r"`implementation` must be None, one of 'cpu', .*; got 'scna'"),
        ({"implementations": "scan"}, "`implementation` must be .*; got 's'"),
        ({"implementations": []}, "nothing to check: `laws` and `implementations` must name at least one"),
        ({"laws": ()}, "nothing to check"),
    ],
)
def test_names_that_check_nothing_are_refused(names: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_cell(rj.Elman(3), 2, **({"laws": ["value"]} | names))


class Undecorated(rj.Elman):
    pass


@pytest.mark.parametrize("implementations", [None, ["scan"]])
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Undecorated(3), "`Undecorated` must be decorated with `rnnjax.struct`"),
        (rj.Elman, r"`cell` must be a cell; got .*; make an instance"),
        (rj.Dense(3), "`cell` must be a cell; got Dense"),
    ],
)
def test_what_is_no_cell_is_refused(cell: Any, message: str, implementations: Any) -> None:
    with pytest.raises(TypeError, match=message):
        check_cell(cell, 2, laws=["value"], implementations=implementations)


def test_inputs_that_no_implementation_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`xs` must be \(T, \*B, \*S, I\), at least 3 axes"):
        check_cell(rj.ConvLSTM(2, (4,)), 2, laws=["value"])


def test_every_law_says_what_it_is() -> None:
    for name, law in (LAWS | SLOW_LAWS).items():
        assert law.__name__ == name
        assert law.__doc__
        assert "\n" not in law.__doc__
