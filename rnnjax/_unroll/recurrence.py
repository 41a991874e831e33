"""s_t = a_t ⊙ s_{t-1} + b_t for all steps, one after another or all at once, with one derivative for both.

The derivative is the same recurrence backwards, of g_t = ∂L/∂s_t summed over everything behind step t:

    g_{t-1} = ∂L/∂y_{t-1} + ā_t ⊙ g_t    ∂L/∂b_t = g_t    ∂L/∂a_t = g_t ⊙ s̄_{t-1}

so that only a and the states are kept, where JAX's own derivative of a parallel scan keeps every level of its tree.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from .._linear import Affine, Numbers, Parts, conjugate, plus, times
from .._types import Array
from .lift import flip, shift, where

Form: TypeAlias = Literal["loop", "parallel"]


class Plan(NamedTuple):
    """The static part of a recurrence."""

    numbers: Numbers
    form: Form
    reverse: bool


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def states(plan: Plan, z: Affine, start: Parts, cut: Array | None) -> Parts:
    """The states (T, *B, …) after every step. Where `cut` (T, *B) is True, s_t = b_t, whatever was before."""
    if plan.form == "parallel":
        return _flipped(plan.reverse, partial(_parallel, plan.numbers), z, start, cut)

    def body(s: Parts, inputs: tuple[Affine, Array | None]) -> tuple[Parts, Parts]:
        (a, b), cut_t = inputs
        s = where(cut_t, b, plus(times(plan.numbers, a, s), b))
        return s, s

    return lax.scan(body, start, (z, cut), reverse=plan.reverse)[1]


def _parallel(numbers: Numbers, z: Affine, start: Parts | None, cut: Array | None) -> Parts:
    """Running forwards; no `start` is zero."""
    if start is not None:
        z = _entered(numbers, z, start, cut)

    def compose(first: Any, then: Any) -> Any:
        (f, f_cut), (g, g_cut) = first, then
        b = where(g_cut, g.b, plus(_carried(numbers, g.a, f.b), g.b))
        return Affine(times(numbers, g.a, f.a), b), None if g_cut is None else f_cut | g_cut

    return lax.associative_scan(compose, (z, cut))[0].b


def _carried(numbers: Numbers, a: Parts, b: Parts) -> Parts:
    """a ⊙ b, and of real numbers zero where b is and a is infinite, as a product of many a may be. Where a is finite,
    the derivative by b stays a. On a CPU that takes no time; of complex numbers, which grow in no cell here, it would
    take a tenth more."""
    if numbers == "real":
        a = tuple(jnp.where((own == 0) & jnp.isinf(one), 0, one) for one, own in zip(a, b, strict=True))
    return times(numbers, a, b)


def _entered(numbers: Numbers, z: Affine, start: Parts, cut: Array | None) -> Affine:
    """With the start in the first b: multiplied with all of a product of a, which may overflow, zero would be NaN."""
    a, b = jax.tree.map(lambda leaf: leaf[0], z)
    first = where(None if cut is None else cut[0], b, plus(times(numbers, a, start), b))
    return z._replace(b=jax.tree.map(lambda one, leaf: jnp.concatenate([one[None], leaf[1:]]), first, z.b))


def _flipped(reverse: bool, run: Any, z: Affine, start: Parts | None, cut: Array | None) -> Parts:
    return flip(run(flip(z, reverse), start, flip(cut, reverse)), reverse)


def _states_fwd(plan: Plan, z: Affine, start: Parts, cut: Array | None) -> tuple[Parts, Any]:
    out: Any = states(plan, z, start, cut)
    return out, (z.a, start, cut, out)


def _states_bwd(plan: Plan, saved: Any, d_out: Parts) -> Any:
    a, start, cut, out = saved
    adjoint = conjugate(plan.numbers, a)
    g = (_adjoint_loop if plan.form == "loop" else _adjoint_parallel)(plan, adjoint, d_out, cut)
    before = where(cut, _zeros(out), shift(out, plan.reverse, first=start))
    d_a = times(plan.numbers, g, conjugate(plan.numbers, before))
    first = -1 if plan.reverse else 0
    d_start = jax.tree.map(lambda leaf: leaf[first], times(plan.numbers, adjoint, g))
    d_start = where(None if cut is None else cut[first], _zeros(d_start), d_start)
    return Affine(d_a, g), d_start, None


states.defvjp(_states_fwd, _states_bwd)


def _adjoint_loop(plan: Plan, adjoint: Parts, d_out: Parts, cut: Array | None) -> Parts:
    def body(carry: Parts, inputs: Any) -> tuple[Parts, Parts]:
        a, d, cut_t = inputs
        g = plus(d, carry)
        return where(cut_t, _zeros(g), times(plan.numbers, a, g)), g

    zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), d_out)
    return lax.scan(body, zero, (adjoint, d_out, cut), reverse=not plan.reverse)[1]


def _adjoint_parallel(plan: Plan, adjoint: Parts, d_out: Parts, cut: Array | None) -> Parts:
    """What multiplies g_t on its way to step t − 1 stands at t: it moves there by one step."""
    back = not plan.reverse
    a, cut = shift((adjoint, cut), back)
    return _flipped(back, partial(_parallel, plan.numbers), Affine(a, d_out), None, cut)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)
