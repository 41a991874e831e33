"""`newton`: any cell, all time steps at once, by Newton's method on the whole sequence of states.

With S = (s_0, …, s_{T-1}) and F(S)_t = step(s_{t-1}, z_t), the states are the root of r = F(S) − S. One iteration is

    Δ_t = J_t Δ_{t-1} + r_t    J_t = ∂step/∂s_{t-1}    S ← S + Δ

by a parallel scan. The gradient is one such recurrence backwards, at the solution: g_t = ∂L/∂s_t + J_{t+1}ᵀ g_{t+1}.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._errors import check_size
from .._types import Array, Noise, Params, State, Z
from . import blocks, chunks, jacobians, scan
from .call import Call, Dtypes, Flow, at_step
from .jacobians import Form, flatten, from_blocks, in_blocks, unflatten
from .lift import flip, shift
from .place import vary_alike

# by the bytes of a number in the compute dtype
_TOLERANCES = {2: 1e-2, 4: 1e-5, 8: 1e-12}


class NewtonReport(NamedTuple):
    """What the iterations came to. With `remat`, of the piece of time that took the most.

    converged: whether the states came to the tolerance; where they did not, the result is that of `scan`.
    iterations: linear recurrences that were solved.
    residual: the largest |step(s_{t-1}) − s_t| / max(1, |s_t|) when they ended; not a number where they diverged.
    correction: what states are off by, relative to max(1, |s_t|): the largest last change and, where changes shrink
        slowly, those still to come, told by how they shrink. It is a bound with a whole Jacobian, and an estimate with
        others. It may be T times the residual: slow units add residuals up. With a whole Jacobian and no damping it
        does not count once every step is met to rounding.
    """

    converged: Array
    iterations: Array
    residual: Array
    correction: Array


@dataclass(frozen=True)
class Newton:
    """Newton's method over time, as `implementation`; `"newton"` is that with these defaults.

    It pays where a device is far from busy with one step: then T steps in a few iterations are faster than T steps in a
    row. Whether they converge depends on the cell and its weights: contractive ones take a few iterations whatever T
    is, chaotic ones as many as there are steps. After `max_iterations`, or when a number is not finite, the loop of
    `scan` runs instead, and the result is its own; `rnnjax.newton_report` tells. Products within a step are formed with
    JAX's precision "highest", in either case: from factors rounded as accelerators do by default no step would be met
    to the tolerance. Memory grows with T · B · N² for a dense Jacobian, N numbers in the state of one row, and with
    T · B · N for the others; `remat` bounds T.

    Args:
        jacobian: "dense" is Newton's own, quadratic near the solution (DEER). "diagonal" keeps what each number of the
            state gives to itself, and "block" what the numbers of each unit, such as h and c of an LSTM, give to each
            other: cheaper iterations, and more of them (quasi-DEER). None takes the blocks or the diagonal where the
            cell's steps have no more than that, dense up to N = 64, and the blocks above.
        damping: 0, or the weight of |Δ|² in the least-squares problem that each iteration then solves, as in
            Levenberg's and Marquardt's method (ELK): steadier where plain iterations overshoot, and slower. It is
            multiplied with the largest residual, where that is below 1, and is 0 where that is below the tolerance, so
            that the end is as fast and as sure as without.
        tolerance: what states may be off by, relative to max(1, |s_t|); None takes 1e-12, 1e-5 or 1e-2 where products
            are in float64, float32 or a shorter format. With a whole Jacobian and no damping it is also enough that
            every step is met to rounding: the loop itself is not closer.
        max_iterations: how many before the loop runs instead.

    Raises:
        ValueError: for an unknown `jacobian`, or numbers below 0, 0 and 1 in turn.

    References:
        Lim, Zhu, Selfridge, Kasim 2024, Parallelizing non-linear sequential models over the sequence length,
        arXiv:2309.12252.
        Gonzalez, Warrington, Smith, Linderman 2024, Towards scalable and stable parallelization of nonlinear RNNs,
        arXiv:2407.19115.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (100, 2, 3))
    >>> ys, state = rj.unroll(cell, params, xs, implementation=rj.Newton(jacobian="diagonal"))
    >>> bool(jnp.allclose(ys, rj.unroll(cell, params, xs, implementation="scan")[0], atol=1e-4))
    True
    """

    jacobian: Form | None = None
    damping: float = 0.0
    tolerance: float | None = None
    max_iterations: int = 50

    name = "newton"
    reads_out = False

    def __post_init__(self) -> None:
        if self.jacobian not in (None, "dense", "block", "diagonal"):
            raise ValueError(f"`jacobian` must be None, 'dense', 'block' or 'diagonal'; got {self.jacobian!r}")
        _check_number("damping", self.damping)
        if self.tolerance is not None:
            _check_number("tolerance", self.tolerance)
        check_size("max_iterations", self.max_iterations)

    def supports(self, call: Call) -> str | None:
        """Why the call cannot run here, or None."""
        if call.steps == 0:
            return "there are no time steps"
        if not jax.tree.leaves(call.state):
            return f"{type(call.cell).__name__} has no state to solve for"
        if not jacobians.forward_mode(call):
            return f"the step of {type(call.cell).__name__} has no forward mode, of which Jacobians are made"
        try:
            jacobians.plan(call, self.jacobian)
        except ValueError as error:
            return str(error)
        return None

    def prefer(self, call: Call) -> str | None:
        """It is never chosen by itself."""
        return "only by name: no benchmark has shown its iterations to be faster than a loop"

    def run(self, call: Call) -> tuple[Any, State]:
        """Emitted values (T, *B, …) and the last state."""
        return self.solve(call)[:2]

    def solve(self, call: Call) -> tuple[Any, State, NewtonReport]:
        """As `run`, with the report. With `remat`, each chunk of time is solved by itself, after the one before it."""
        plan = _Plan(self, jacobians.plan(call, self.jacobian), call.dtypes, call.reverse)

        def piece(state: State, flow: Flow) -> tuple[State, Any]:
            states, report = _piece(plan, call, state, flow)
            last = jax.tree.map(lambda leaf: leaf[0 if call.reverse else -1], states)
            return last, (call.cell.emit(states), jax.tree.map(jnp.atleast_1d, report))

        length = call.steps if call.remat is None else chunks.length(call.steps, call.remat)
        state, (emitted, each) = chunks.in_pieces(piece, call.state, call.flow, call.steps, length, call.reverse)
        worst = _largest(each.residual), _largest(each.correction)
        return emitted, state, NewtonReport(each.converged.all(), each.iterations.max(), *worst)


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number; got {value!r} of type {type(value).__name__}")
    if not value >= 0:  # type: ignore[operator]
        raise ValueError(f"`{name}` must be at least 0; got {value}")


class _Plan(NamedTuple):
    """The static part."""

    newton: Newton
    jacobian: jacobians.Plan
    dtypes: Dtypes
    reverse: bool

    @property
    def tolerance(self) -> float:
        given = self.newton.tolerance
        return _TOLERANCES[jnp.dtype(self.dtypes.compute).itemsize] if given is None else float(given)


class _Weights(NamedTuple):
    """What a sequence of states depends on, and is differentiated by."""

    cell: Any
    params: Params
    z: Z
    start: State
    boundary: State | None


class _Along(NamedTuple):
    """What else a step reads: noise, mask and reset of every step, and the noise that all share."""

    noise: Noise
    mask: Array | None
    reset: Array | None
    constant: Noise


def _piece(plan: _Plan, call: Call, state: State, flow: Flow) -> tuple[State, NewtonReport]:
    """The states (T, *B, …) after every step of a piece of time."""
    z = flip(call.project(flow), call.reverse)
    weights = _Weights(call.cell, call.params, z, state, call.boundary)
    own, mask, reset = flip((flow.noise, flow.mask, flow.reset), call.reverse)
    out: Any = _states(plan, weights, _Along(own, mask, reset, at_step(call.constant_noise)))
    flat, report = out
    return flip(unflatten(plan.jacobian.parts, state, flat), call.reverse), report


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _states(plan: _Plan, weights: _Weights, along: _Along) -> tuple[Array, NewtonReport]:
    """The states (T, *B, N), running forwards."""
    start = flatten(plan.jacobian.parts, weights.start)
    steps = jax.tree.leaves(weights.z)[0].shape[0]
    guess = jnp.broadcast_to(start[None], (steps, *start.shape))

    def residual(states: Array) -> Array:
        return _advance(plan, weights, along, shift(states, first=start)) - states

    def correction(states: Array, rest: Array, worst: Array) -> Array:
        a = _jacobian(plan, weights, along, shift(states, first=start))
        rest = in_blocks(plan.jacobian.parts, plan.jacobian.form, rest)
        if not plan.newton.damping:
            return from_blocks(plan.jacobian.form, blocks.solve(a, rest))
        # the last corrections tell what is left only where nothing holds them back
        held = jnp.where(worst > plan.tolerance, jnp.minimum(1, worst), 0)
        moved = blocks.solve_damped(a, rest, plan.newton.damping * held)
        return from_blocks(plan.jacobian.form, moved)

    def size(states: Array) -> Array:
        return jnp.maximum(1, jnp.abs(states))

    rate = "fast" if plan.jacobian.exact and not plan.newton.damping else "slow"
    states, report = _refine(plan, residual, correction, size, guess, rate)
    return _unless(report.converged, partial(_loop, plan, weights, along), states), report


def _advance(plan: _Plan, weights: _Weights, along: _Along, old: Array, take: Any = None) -> Array:
    """The new states (T, *B, N) of all steps, given their old ones."""
    inputs = (weights.z, along.noise, along.mask, along.reset)
    return jax.vmap(partial(_one, plan, weights, along.constant, take or weights.cell.step))(old, inputs)


def _one(plan: _Plan, weights: _Weights, constant: Noise, take: Any, old: Array, inputs: Any) -> Array:
    parts, params = plan.jacobian.parts, plan.dtypes.cast(weights.params)
    state = unflatten(parts, weights.start, old)
    # what accelerators round factors to by default is coarser than the tolerance
    with jax.default_matmul_precision("highest"):
        return flatten(parts, scan.step(take, params, weights.boundary, constant, state, inputs))


def _jacobian(plan: _Plan, weights: _Weights, along: _Along, old: Array) -> Array:
    """J_t in blocks (T, *B, G, K, K). The first one would only be multiplied by zero, and is zero."""
    own = plan.jacobian
    coupled = weights.cell.capability == "gated" and own.probes == "arrays" and not own.exact
    take = jacobians.decoupled(weights.cell) if coupled else None
    push = jax.linearize(lambda old: _advance(plan, weights, along, old, take), old)[1]
    return jacobians.blocks(own, push, old).at[0].set(0)


def _refine(
    plan: _Plan,
    residual: Callable[[Array], Array],
    correction: Callable[[Array, Array, Array], Array],
    size: Callable[[Array], Array],
    guess: Array,
    rate: Literal["at once", "fast", "slow"],
) -> tuple[Array, NewtonReport]:
    """x ← x + correction(x, r, e) with r = residual(x) and e the largest |r| / size(x).

    What x is off by is told by the correction, which carries residuals on along time, not by the residual of a step.
    `rate` says what is still to come behind one. "at once": nothing, the problem is linear and the Jacobian whole.
    "fast", of a whole Jacobian: no more than the last one; where that no longer shrinks while every step is met to
    rounding, it is rounding itself. "slow": they shrink by a factor ρ, and ρ / (1 − ρ) times the last one is to come;
    they may have just begun, because a slow unit meets every step long before it is where it belongs.
    """
    infinite, rounding = jnp.asarray(jnp.inf, guess.dtype), 8 * jnp.finfo(guess.dtype).eps

    def relative(x: Array, values: Array) -> Array:
        return _largest(jnp.abs(values) / size(x))

    def settled(now: _Iterate) -> Array:
        stands = (rate == "fast") & (now.moved >= now.before / 2) & (now.moved <= len(guess) * rounding)
        rounded = stands & (now.residual <= rounding)
        enough = (now.error <= plan.tolerance) | rounded | (rate == "at once")
        return (now.count > 0) & (now.residual <= plan.tolerance) & enough

    def unfinished(now: _Iterate) -> Array:
        return ~settled(now) & jnp.isfinite(now.residual) & (now.count < plan.newton.max_iterations)

    def iterate(now: _Iterate) -> _Iterate:
        change = correction(now.x, now.rest, now.residual)
        x = now.x + change
        rest, moved = residual(x), relative(x, change)
        shrinks = jnp.clip(moved / now.moved, 0, 1 - jnp.finfo(x.dtype).eps)
        to_come = jnp.where(now.count > 0, jnp.maximum(1, shrinks / (1 - shrinks)), infinite)
        # where every step was met exactly, there was nothing to shrink
        error = jnp.where(now.residual == 0, 0, moved * to_come) if rate == "slow" else moved
        return _Iterate(x, rest, relative(x, rest), moved, now.moved, error, now.count + 1)

    rest = residual(guess)
    first = [guess, rest, relative(guess, rest), infinite, infinite, infinite, jnp.int32(0)]
    last = lax.while_loop(unfinished, iterate, _Iterate(*vary_alike(first)))
    return last.x, NewtonReport(settled(last), last.count, last.residual, last.error)


class _Iterate(NamedTuple):
    """Where the iterations are: x, what it leaves and the largest of that, sizes of the last two corrections, what x is
    off by, and how many there were."""

    x: Array
    rest: Array
    residual: Array
    moved: Array
    before: Array
    error: Array
    count: Array


def _largest(errors: Array) -> Array:
    """NaN if any error is NaN or infinite. XLA:CPU's maximum of many numbers drops those that are NaN."""
    return jnp.where(jnp.isfinite(errors).all(), jnp.max(errors, initial=0), jnp.nan)


def _unless(done: Array, run: Callable[[], Array], value: Array) -> Array:
    """`value`, or what `run` returns. A `cond` would run it always under `vmap`."""

    def instead(carry: Any) -> tuple[Array, Array]:
        return ~carry[0], run()

    return lax.while_loop(lambda carry: ~carry[0], instead, (done, value))[1]


def _loop(plan: _Plan, weights: _Weights, along: _Along) -> Array:
    """The states one after another, as `scan` has them."""

    def body(old: Array, inputs: Any) -> tuple[Array, Array]:
        new = _one(plan, weights, along.constant, weights.cell.step, old, inputs)
        return new, new

    start = flatten(plan.jacobian.parts, weights.start)
    return lax.scan(body, start, (weights.z, along.noise, along.mask, along.reset))[1]


def _states_fwd(plan: _Plan, weights: _Weights, along: _Along) -> tuple[Any, Any]:
    out: Any = _states(plan, weights, along)
    return out, (weights, along, *out)


def _states_bwd(plan: _Plan, saved: Any, cotangents: Any) -> Any:
    weights, along, states, report = saved
    old = shift(states, first=flatten(plan.jacobian.parts, weights.start))
    pull = jax.vjp(lambda weights, old: _advance(plan, weights, along, old), weights, old)[1]

    def matvec(g: Array) -> Array:
        return g - shift(pull(g)[1], reverse=True)

    g = lax.custom_linear_solve(
        matvec,
        cotangents[0],
        solve=lambda _, d: _adjoint(plan, weights, along, old, report.converged, matvec, d),
        transpose_solve=lambda _, b: _tangent_loop(plan, weights, along, old, b),
    )
    d_weights, d_old = pull(g)
    first = unflatten(plan.jacobian.parts, weights.start, d_old[0])
    d_start = jax.tree.map(lambda a, b: a + b, d_weights.start, first)
    return d_weights._replace(start=d_start), None


_states.defvjp(_states_fwd, _states_bwd)


def _adjoint(
    plan: _Plan, weights: _Weights, along: _Along, old: Array, converged: Array, matvec: Any, d: Array
) -> Array:
    """g_t = d_t + J_{t+1}ᵀ g_{t+1}, by one parallel scan where the Jacobian is whole, by several where it is not, and
    step by step where the states were found so or the scans do not converge."""
    parts, form = plan.jacobian.parts, plan.jacobian.form

    def size(g: Array) -> Array:
        largest = jnp.maximum(jnp.abs(g).max(initial=0), jnp.abs(d).max(initial=jnp.finfo(d.dtype).tiny))
        return jnp.broadcast_to(largest, g.shape)

    def scans() -> tuple[Array, Array]:
        a = _jacobian(plan, weights, along, old)

        def correction(g: Array, rest: Array, worst: Array) -> Array:
            return from_blocks(form, blocks.solve_transposed(a, in_blocks(parts, form, rest)))

        rate = "at once" if plan.jacobian.exact else "slow"
        g, report = _refine(plan, lambda g: d - matvec(g), correction, size, jnp.zeros_like(d), rate)
        return g, report.converged

    g, done = lax.cond(converged, scans, lambda: (jnp.zeros_like(d), converged))
    return _unless(done, partial(_adjoint_loop, plan, weights, along, old, d), g)


def _adjoint_loop(plan: _Plan, weights: _Weights, along: _Along, old: Array, d: Array) -> Array:
    one = partial(_one, plan, weights, along.constant, weights.cell.step)

    def body(carry: Array, part: Any) -> tuple[Array, Array]:
        d_t, old_t, inputs = part
        g = d_t + carry
        return jax.vjp(lambda old: one(old, inputs), old_t)[1](g)[0], g

    inputs = (weights.z, along.noise, along.mask, along.reset)
    return lax.scan(body, jnp.zeros_like(d[0]), (d, old, inputs), reverse=True)[1]


def _tangent_loop(plan: _Plan, weights: _Weights, along: _Along, old: Array, b: Array) -> Array:
    """x_t = J_t x_{t-1} + b_t, which only derivatives of the gradient need."""
    one = partial(_one, plan, weights, along.constant, weights.cell.step)

    def body(carry: Array, part: Any) -> tuple[Array, Array]:
        b_t, old_t, inputs = part
        x = jax.jvp(lambda old: one(old, inputs), (old_t,), (carry,))[1] + b_t
        return x, x

    inputs = (weights.z, along.noise, along.mask, along.reset)
    return lax.scan(body, jnp.zeros_like(b[0]), (b, old, inputs))[1]
