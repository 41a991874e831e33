"""`cpu`: native code for the whole sequence, for the cells that name a kernel.

One call runs every time step: the weights are packed once, the gates are fused into the products, and threads take
blocks of rows through the whole sequence without waiting for each other. A single step of a few rows, as in a stream,
reads the weights as they lie, and that of layers on top of each other is one call. Its derivative is one more call.
Where the program is lowered for another platform, for derivatives of the derivative, and for that of a single step,
`fused` takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from .._cell import Kernel
from .._types import Array, Params, State, default_platform, explicit_spec
from .._wrapper import kernel
from . import fused, kernels, scan
from .call import Call, Dtypes, Flow
from .place import result_like, vary_alike

name = "cpu"
reads_out = False

# Which sizes are worth a call is read off benchmarks/results/choice.md, to which tests/test_choice.py holds the rule.
_FEW_ROWS = 16
"""Rows up to which a step alone reads its weights as they lie: `kMostRows` of step.h."""
_LITTLE, _MUCH = 300_000, 5_000_000
"""Multiplications below which a call stays on one thread, `kWorthThreads` of variant.cc, and is so faster than XLA; and
from which a step alone makes up for packing its weights."""
_LARGE, _ENOUGH = 100_000, 128
"""From so many weights on it takes so many rows and steps, B · T, to make up for packing them."""

_CELLS = ("elman_tanh", "elman_relu", "lstm", "gru")


def supports(call: Call) -> str | None:
    """Why the call cannot run here, or None."""
    if kernel(call.cell) is None:
        return f"{type(call.cell).__name__} with these options names no kernel"
    reason = kernels.load().reason
    if reason is not None:
        return reason
    if call.flow.noise is not None or jax.tree.leaves(call.constant_noise):
        return "the kernels draw no noise"
    if any(explicit_spec(leaf) is not None for leaf in jax.tree.leaves((call.flow.xs, call.params, call.state))):
        return "arrays are sharded explicitly"
    return None


def prefer(call: Call) -> str | None:
    """Why another implementation is faster, or None."""
    if default_platform() != "cpu":
        return f"the default device is a {default_platform()}"
    if jax.device_count("cpu") > 1:
        return f"XLA would gather for it what is sharded over the {jax.device_count('cpu')} devices"
    rows, weights = math.prod(call.batch_shape), sum(leaf.size for leaf in jax.tree.leaves(call.params))
    if call.steps != 1:
        if weights < _LARGE or rows * call.steps >= _ENOUGH:
            return None
        return f"B · T = {rows * call.steps} is below {_ENOUGH}: packing {weights:,} weights takes longer than it saves"
    if as_they_lie(call) or not _LITTLE <= rows * weights < _MUCH:
        return None
    return (
        f"a single step has no loop to speed up, but for at most {_FEW_ROWS} rows without marks, or fewer than "
        f"{_LITTLE:,} multiplications or {_MUCH:,} and more"
    )


def run(call: Call) -> tuple[Any, State]:
    """Hidden states (T, *B, H) and the last state."""
    plan, inputs, flags = _prepared(call)
    out: Any = _unroll(plan, inputs, flags)
    return _in_shape(call, *out)


def as_they_lie(call: Call) -> bool:
    """Whether the call is a single step that reads its weights as they lie."""
    rows, unmarked = math.prod(call.batch_shape), call.flow.mask is None and call.flow.reset is None
    return call.steps == 1 and rows <= _FEW_ROWS and unmarked


def climb(calls: list[Call]) -> tuple[Any, list[State]]:
    """What `run` returns for the last of these calls, and the states of all. Each is `as_they_lie`, and reads not its
    own inputs, but for the first, but what the one below returns, in the same dtype."""
    plans, layers, _ = zip(*map(_prepared, calls), strict=True)
    layers = (layers[0], *(own._replace(xs=None) for own in layers[1:]))
    out: Any = _climb(plans, layers)
    ys, states = out
    shaped = [_in_shape(call, ys, state) for call, state in zip(calls, states, strict=True)]
    return shaped[-1][0], [state for _, state in shaped]


def _prepared(call: Call) -> tuple[_Plan, _Inputs, _Flags]:
    """A call as the functions below take it: with one batch axis, in the dtype of the state."""
    cell: Any = call.cell
    spec, params = kernel(cell), call.dtypes.cast(call.params)
    (w, b), (u, b_u) = cell.input_weights(params), cell.recurrent(params)
    arrays = spec.params(*((w, u, b) if b_u is None else (w, u, b, b_u[2])))
    plan = _Plan(spec, kernels.variant(), call.reverse, _every(call))
    rows, steps = math.prod(call.batch_shape), call.steps

    def flat(tree: Any, *lead: int, features: bool = True) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, rows, *leaf.shape[leaf.ndim - features :]), tree)

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(call.dtypes.state), tree)

    inputs = _Inputs(wide(arrays), flat(wide(call.flow.xs), steps), flat(call.state), flat(call.boundary))
    return plan, inputs, flat(_Flags(call.flow.mask, call.flow.reset), steps, features=False)


def _in_shape(call: Call, ys: Array, state: State) -> tuple[Array, State]:
    """Results with the batch axes of the call."""
    shape = (*call.batch_shape, call.cell.hidden_size)
    ys = ys.reshape(call.steps, *call.batch_shape, ys.shape[-1])
    return ys, jax.tree.map(lambda leaf: leaf.reshape(shape), state)


def _every(call: Call) -> int:
    """Steps between the states that are kept, 0 where every step's gates are."""
    if call.remat is None or call.steps == 0:
        return 0
    return max(1, math.isqrt(call.steps)) if isinstance(call.remat, str) else min(call.remat, call.steps)


class _Plan(NamedTuple):
    """The static part of a call. `wants_dx`: the gradient of xs is asked for, a sixth of the work or more;
    `wants_state`: that of the first state, a product of the first step; without, they are zero."""

    spec: Kernel
    variant: int
    reverse: bool
    every: int
    wants_dx: bool = True
    wants_state: bool = True


class _Inputs(NamedTuple):
    """What has a gradient: parameters, xs (T, B, I), the first state, and the state behind resets."""

    params: Params
    xs: Array
    state: State
    boundary: State | None


class _Flags(NamedTuple):
    """Booleans (T, B), or None."""

    mask: Array | None
    reset: Array | None


# Three functions with derivatives of their own: the call; the call that also returns what its derivative needs; and
# the derivative. The derivatives of the last two are those of `fused`, which JAX can differentiate on.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(plan: _Plan, inputs: _Inputs, flags: _Flags) -> tuple[Array, State]:
    return _forward(plan, inputs, flags, keeps=False)[:2]


def _unroll_fwd(plan: _Plan, inputs: Any, flags: Any) -> tuple[tuple[Array, State], Any]:
    # here JAX wraps each array with whether its gradient is asked for, and below it marks cotangents that are zero
    state = any(
        leaf.perturbed for leaf in jax.tree.leaves(inputs.state, is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    )
    plan = plan._replace(wants_dx=inputs.xs.perturbed, wants_state=state)
    inputs, flags = jax.tree.map(lambda leaf: leaf.value, (inputs, flags))
    if inputs.xs.shape[0] == 1:  # to pack the weights for it would take longer than all else
        return jax.vjp(lambda inputs: _fused(plan, inputs, flags), inputs)
    out: Any = _keeping(plan, inputs, flags)
    ys, state, kept = out
    return (ys, state), (_Static(plan), inputs, flags, ys, kept)


def _unroll_bwd(_: _Plan, saved: Any, cotangents: Any) -> Any:
    filled = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf, cotangents
    )
    if not isinstance(saved, tuple):  # the derivative of a single step
        return saved(filled)[0], None
    static, *arrays = saved
    return _pull(static.plan, *arrays, filled), None


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    """A plan among arrays."""

    plan: _Plan


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keeping(plan: _Plan, inputs: _Inputs, flags: _Flags) -> tuple[Array, State, tuple[Array, ...]]:
    return _forward(plan, inputs, flags, keeps=True)


def _keeping_fwd(plan: _Plan, inputs: _Inputs, flags: _Flags) -> Any:
    return _forward(plan, inputs, flags, keeps=True), (inputs, flags)


def _keeping_bwd(plan: _Plan, saved: Any, cotangents: Any) -> Any:
    # the cotangent of what is kept is zero: `_pull` says so
    inputs, flags = saved
    return _by_fused(plan, inputs, flags, cotangents[:2]), None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pull(plan: _Plan, inputs: _Inputs, flags: _Flags, ys: Array, kept: tuple[Array, ...], cotangents: Any) -> _Inputs:
    return _backward(plan, inputs, flags, ys, kept, cotangents)


def _pull_fwd(plan: _Plan, *arrays: Any) -> Any:
    return _backward(plan, *arrays), arrays


def _pull_bwd(plan: _Plan, saved: Any, d_pulled: Any) -> Any:
    inputs, flags, ys, kept, cotangents = saved
    _, pull = jax.vjp(lambda inputs, cotangents: _by_fused(plan, inputs, flags, cotangents), inputs, cotangents)
    d_inputs, d_cotangents = pull(d_pulled)
    return d_inputs, None, *jax.tree.map(jnp.zeros_like, (ys, kept)), d_cotangents


_unroll.defvjp(_unroll_fwd, _unroll_bwd, symbolic_zeros=True)
_keeping.defvjp(_keeping_fwd, _keeping_bwd)
_pull.defvjp(_pull_fwd, _pull_bwd)


def _fused(plan: _Plan, inputs: _Inputs, flags: _Flags) -> tuple[Array, State]:
    """The same by `fused`."""
    call = Call(
        cell=plan.spec.cell,
        params=inputs.params,
        flow=Flow(inputs.xs, None, *flags),
        state=inputs.state,
        boundary=inputs.boundary,
        constant_noise=None,
        steps=inputs.xs.shape[0],
        batch_shape=inputs.xs.shape[1:2],
        dtypes=Dtypes(inputs.xs.dtype, inputs.xs.dtype),
        reverse=plan.reverse,
        remat=plan.every or None,
    )
    return (fused if call.steps else scan).run(call)


def _by_fused(plan: _Plan, inputs: _Inputs, flags: _Flags, cotangents: Any) -> _Inputs:
    return jax.vjp(lambda inputs: _fused(plan, inputs, flags), inputs)[1](cotangents)[0]


# A single step up through layers: one call, whose derivatives and `vmap` are those of its layers one by one.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _climb(plans: tuple[_Plan, ...], layers: tuple[Any, ...]) -> tuple[Array, list[State]]:
    return _climbed(plans)(layers)


def _climb_fwd(plans: tuple[_Plan, ...], layers: tuple[Any, ...]) -> Any:
    return jax.vjp(partial(_one_by_one, plans), layers)


def _climb_bwd(_: tuple[_Plan, ...], pull: Any, cotangents: Any) -> Any:
    return pull(cotangents)


_climb.defvjp(_climb_fwd, _climb_bwd)


def _one_by_one(plans: tuple[_Plan, ...], layers: tuple[Any, ...]) -> tuple[Array, list[State]]:
    xs, states = layers[0].xs, []
    for plan, own in zip(plans, layers, strict=True):
        out: Any = _unroll(plan, own._replace(xs=xs), _Flags(None, None))
        xs, state = out
        states.append(state)
    return xs, states


@cache
def _climbed(plans: tuple[_Plan, ...]) -> Callable[..., Any]:
    call = custom_vmap(partial(_native_climb, plans))

    def more(_: int, batched: list[Any], layers: Any) -> Any:
        axes = jax.tree.map(lambda own: 0 if own else None, batched[0])
        out = jax.vmap(partial(_one_by_one, plans), (axes,))(layers)
        return out, jax.tree.map(lambda _: True, out)

    call.def_vmap(more)
    return call


def _native_climb(plans: tuple[_Plan, ...], layers: tuple[Any, ...]) -> tuple[Array, list[State]]:
    leaves, structure = jax.tree.flatten(layers)

    def native(*leaves: Array) -> tuple[Array, list[State]]:
        layers = jax.tree.unflatten(structure, leaves)
        operands, results, aliases = [layers[0].xs[0]], [], {}
        for own in layers:
            operands += own.params
            for leaf in own.state:  # a state may be written where the one before it lies: no copies of what is donated
                aliases[len(operands)] = len(results)
                operands.append(leaf)
                results.append(result_like(leaf, leaf.shape))
        results.append(result_like(operands[0], layers[-1].state[0].shape))
        call: Any = jax.ffi.ffi_call("rnnjax_cpu_climb", results, input_output_aliases=aliases)
        *after, ys = call(
            *operands,
            variant=np.int64(plans[0].variant),
            cells=np.array([_CELLS.index(plan.spec.name) for plan in plans], np.int64),
            hidden=np.array([own.state[0].shape[-1] for own in layers], np.int64),
        )
        rest = iter(after)
        states = [type(own.state)(*(next(rest) for _ in own.state)) for own in layers]
        return ys[None], states

    def elsewhere(*leaves: Array) -> tuple[Array, list[State]]:
        return _one_by_one(plans, jax.tree.unflatten(structure, leaves))

    return lax.platform_dependent(*vary_alike(leaves), cpu=native, default=elsewhere)


# Below, an array leads with an axis of models: N of them, or 1 where it is the same for all.


class _Form(NamedTuple):
    """The static part of a kernel's call: which call, and what its operands are."""

    plan: _Plan
    backward: bool
    keeps: bool
    masked: bool
    resets: bool

    @property
    def states(self) -> int:
        """Arrays in a state."""
        return 2 if self.plan.spec.name == "lstm" else 1

    @property
    def weights(self) -> int:
        """Arrays in the parameters."""
        return 4 if self.plan.spec.name == "gru" else 3

    def operands(self, inputs: _Inputs, flags: _Flags) -> list[Array]:
        """What both calls read, in the kernels' order."""
        boundary = inputs.boundary or ()
        return [inputs.xs, *inputs.params, *inputs.state, *(f for f in flags if f is not None), *boundary]

    def inputs(self, operands: tuple[Array, ...]) -> tuple[_Inputs, _Flags, tuple[Array, ...]]:
        """Undoes `operands`; the last is what comes behind them."""
        rest = iter(operands)

        def take(count: int) -> list[Array]:
            return [next(rest) for _ in range(count)]

        (xs,), params, state = take(1), take(self.weights), take(self.states)
        flags = _Flags(next(rest) if self.masked else None, next(rest) if self.resets else None)
        boundary = self.state(take(self.states)) if self.resets else None
        return _Inputs(self.plan.spec.params(*params), xs, self.state(state), boundary), flags, tuple(rest)

    def gradients(self, xs: Array, results: list[Array]) -> _Inputs:
        """What the backward call returns, in the order of the operands: flags have none, xs only where it is wanted."""
        d_xs, *rest = results if self.plan.wants_dx else [jnp.zeros_like(xs), *results]
        params, rest = self.plan.spec.params(*rest[: self.weights]), rest[self.weights :]
        state, boundary = self.state(rest[: self.states]), rest[self.states :]
        return _Inputs(params, d_xs, state, self.state(boundary) if self.resets else None)

    def state(self, arrays: Any) -> State:
        """A state of the cell."""
        return _state_type(self.plan.spec)(*arrays)

    def kept(self, steps: int, rows: int, hidden: int) -> tuple[int, int, int] | None:
        """The shape of what the forward pass keeps, or None where that is nothing."""
        arrays = {"lstm": 5, "gru": 4}.get(self.plan.spec.name, 0)
        if self.keeps and self.plan.every == 0 and arrays:
            return steps, rows, arrays * hidden
        if self.keeps and self.plan.every and self.states == 2:
            return -(-steps // self.plan.every), rows, hidden
        return None

    def results(self, operands: list[Any]) -> list[tuple[int, ...]]:
        """Shapes of the results, without the models' axis."""
        (steps, rows, _), hidden = operands[0].shape[1:], operands[2].shape[1]
        states = [(rows, hidden)] * self.states
        if self.backward:
            first = 0 if self.plan.wants_dx else 1
            like = [operand.shape[1:] for operand in operands[first : 1 + self.weights]]
            return [*like, *states, *(states if self.resets else [])]
        kept = self.kept(steps, rows, hidden)
        return [(steps, rows, hidden), *states, *([] if kept is None else [(math.prod(kept),)])]


@cache
def _state_type(spec: Kernel) -> Any:
    return type(jax.eval_shape(lambda: spec.cell.initial_state(None)))


def _forward(plan: _Plan, inputs: _Inputs, flags: _Flags, *, keeps: bool) -> tuple[Array, State, tuple[Array, ...]]:
    """ys, the last state, and what the backward pass needs besides."""
    form = _Form(plan, False, keeps, flags.mask is not None, flags.reset is not None)
    ys, *rest = _call(form, form.operands(inputs, flags))
    return ys, form.state(rest[: form.states]), tuple(rest[form.states :])


def _backward(
    plan: _Plan, inputs: _Inputs, flags: _Flags, ys: Array, kept: tuple[Array, ...], cotangents: Any
) -> _Inputs:
    form = _Form(plan, True, True, flags.mask is not None, flags.reset is not None)
    d_ys, d_state = cotangents
    out = _call(form, [*form.operands(inputs, flags), ys, *kept, d_ys, *d_state])
    return form.gradients(inputs.xs, out)


def _call(form: _Form, operands: list[Array]) -> list[Array]:
    """One model."""
    return [leaf[0] for leaf in _mapped(form)(*(leaf[None] for leaf in operands))]


@cache
def _mapped(form: _Form) -> Callable[..., Any]:
    """The call for any number of models, which `vmap` makes more of."""
    call = custom_vmap(partial(_on_models, form))
    call.def_vmap(partial(_more, form))
    return call


def _on_models(form: _Form, *operands: Array) -> list[Array]:
    arrays = vary_alike(list(operands))
    models = max(leaf.shape[0] for leaf in arrays)

    def native(*arrays: Array) -> list[Array]:
        results = [result_like(arrays[0], (models, *shape)) for shape in form.results(list(arrays))]
        call: Any = jax.ffi.ffi_call("rnnjax_cpu_backward" if form.backward else "rnnjax_cpu_forward", results)
        return call(
            *arrays,
            variant=np.int64(form.plan.variant),
            cell=np.int64(_CELLS.index(form.plan.spec.name)),
            models=np.int64(models),
            keeps=form.keeps,
            every=np.int64(form.plan.every),
            reverse=form.plan.reverse,
            masked=form.masked,
            resets=form.resets,
            wants_dx=form.plan.wants_dx,
            wants_state=form.plan.wants_state,
        )

    def elsewhere(*arrays: Array) -> list[Array]:
        axes = tuple(0 if leaf.shape[0] == models else None for leaf in arrays)
        each = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(arrays, axes, strict=True)]
        return jax.vmap(partial(_one_elsewhere, form), axes)(*each)

    return [*lax.platform_dependent(*arrays, cpu=native, default=elsewhere)]


def _one_elsewhere(form: _Form, *operands: Array) -> list[Array]:
    """What the kernel returns, by `fused`. It keeps nothing: its derivative starts anew."""
    inputs, flags, rest = form.inputs(operands)
    if form.backward:
        d_ys, *d_state = rest[len(rest) - 1 - form.states :]
        pulled = _by_fused(form.plan, inputs, flags, (d_ys, form.state(d_state)))
        return form.operands(pulled, _Flags(None, None))[0 if form.plan.wants_dx else 1 :]
    ys, state = _fused(form.plan, inputs, flags)
    kept = form.results([leaf[None] for leaf in operands])[1 + form.states :]
    return [ys, *state, *(jnp.zeros_like(ys, shape=shape) for shape in kept)]


def _more(form: _Form, size: int, batched: list[bool], *operands: Array) -> tuple[list[Array], list[bool]]:
    """`vmap`: weights that differ are more models; where they are the same, data are more rows of a batch."""
    if size == 0:
        one = [jax.ShapeDtypeStruct(a.shape[own:], a.dtype) for a, own in zip(operands, batched, strict=True)]
        models: Any = max(leaf.shape[0] for leaf in one)
        out = [jnp.zeros((0, models, *shape), operands[0].dtype) for shape in form.results(one)]
    elif form.backward or any(batched[1 : 1 + form.weights]):
        out = _more_models(form, size, batched, operands)
    else:
        out = _more_rows(form, size, batched, operands)
    return out, [True] * len(out)


def _more_models(form: _Form, size: int, batched: list[bool], operands: tuple[Array, ...]) -> list[Array]:
    models = max(leaf.shape[1] if own else leaf.shape[0] for leaf, own in zip(operands, batched, strict=True))

    def join(leaf: Array, own: bool) -> Array:
        if not own and leaf.shape[0] == 1:
            return leaf
        shape = leaf.shape[2:] if own else leaf.shape[1:]
        return jnp.broadcast_to(leaf, (size, models, *shape)).reshape(size * models, *shape)

    out = _mapped(form)(*map(join, operands, batched))
    return [leaf.reshape(size, models, *leaf.shape[1:]) for leaf in out]


def _more_rows(form: _Form, size: int, batched: list[bool], operands: tuple[Array, ...]) -> list[Array]:
    shared = slice(1, 1 + form.weights)
    rows = operands[0].shape[-2]

    def join(leaf: Array, own: bool, axis: int) -> Array:
        leaf = leaf if own else jnp.broadcast_to(leaf, (size, *leaf.shape))
        leaf = jnp.moveaxis(leaf, 0, axis)
        return leaf.reshape(*leaf.shape[:axis], size * rows, *leaf.shape[axis + 2 :])

    def part(leaf: Array, axis: int) -> Array:
        return jnp.moveaxis(leaf.reshape(*leaf.shape[:axis], size, rows, *leaf.shape[axis + 1 :]), axis, 0)

    # rows are the second axis of what runs along time, and the first of states
    axes = [2, *[0] * form.weights, *[1] * form.states, *[2] * (form.masked + form.resets), *[1] * form.states]
    joined = [
        leaf if index in range(*shared.indices(len(operands))) else join(leaf, own, axis)
        for index, (leaf, own, axis) in enumerate(zip(operands, batched, axes, strict=False))
    ]
    ys, *rest = _mapped(form)(*joined)
    state, kept = rest[: form.states], rest[form.states :]
    shape = form.kept(ys.shape[1], size * rows, ys.shape[-1])
    apart = [] if shape is None else [part(leaf.reshape(leaf.shape[0], *shape), 2) for leaf in kept]
    return [part(ys, 2), *(part(leaf, 1) for leaf in state), *(a.reshape(size, a.shape[1], -1) for a in apart)]
