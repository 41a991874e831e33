"""`fused`: gated cells, with the input projection in chunks of time and a hand-formed backward pass.

The reverse loop differentiates `update` alone and carries dh through uᵀ. The weight gradients are single products per
chunk, so neither the projected inputs nor their cotangents ever exist for the whole sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from .._cell import GatedCell
from .._products import dot, input_gates, project_gates, recurrent_gates, split_bias, split_gates
from .._types import Array, Bias, Gates, Noise, Params, State, explicit_spec
from .._wrapper import Wrapper, input_weights, update_vjp
from . import chunks
from .call import Call, Dtypes, Flow, at_step, merge_noise, some
from .chunks import Chunks
from .lift import hold, shift, where
from .theta import Theta, linear

name = "fused"
reads_out = False

_CHUNK_BYTES = 3 << 20
_LEAST_ROWS = 128


def supports(call: Call) -> str | None:
    """Why the call cannot run here, or None."""
    if call.cell.capability != "gated":
        return f"{type(call.cell).__name__} is not a gated cell: its step is more than one product and an update"
    if call.steps == 0:
        return "there are no time steps"
    reasons = (_not_linear(call, method) for method in ("emit", "hidden"))
    return next((reason for reason in reasons if reason is not None), None)


def _not_linear(call: Call, method: str) -> str | None:
    """Why the method's derivative by the state is not the same everywhere, or not the only one that it has; or None."""
    if _is_default(call.cell, method):
        return None
    rest = some(merge_noise(at_step(call.flow.noise), at_step(call.constant_noise))) if method == "hidden" else ()
    leaves, structure = jax.tree.flatten(call.cell)
    floats = {i: leaf for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)}

    def run(floats: dict[int, Array], state: State) -> Any:
        cell = jax.tree.unflatten(structure, [floats.get(i, leaf) for i, leaf in enumerate(leaves)])
        return getattr(cell, method)(state, *rest)

    def squares(floats: dict[int, Array]) -> Any:
        """Their derivative is the same everywhere only where it is zero."""
        return jax.tree.map(jnp.square, run(floats, call.state))

    name = f"`{method}` of {type(call.cell).__name__}"
    if not linear(partial(run, floats), call.state):
        return f"{name} is not linear, and its derivative is taken once for all states"
    if not linear(squares, floats):
        return f"{name} reads numbers of the cell that have a gradient, and its derivative is taken by the state alone"
    return None


def _is_default(cell: Any, method: str) -> bool:
    """Whether the method is that of all gated cells, also within wrappers."""
    while isinstance(cell, Wrapper):
        if getattr(type(cell), method) is not getattr(Wrapper, method) or type(cell).feed is not Wrapper.feed:
            return False
        cell = cell.cell
    return getattr(type(cell), method) is getattr(GatedCell, method)


def prefer(call: Call) -> str | None:
    """Why another implementation is faster, or None."""
    return "a single step has no loop to speed up" if call.steps == 1 else None


def run(call: Call) -> tuple[Any, State]:
    """Emitted values (T, *B, …) and the last state."""
    return _unroll(_plan(call), call.cell, call.params, call.flow, call.state, call.boundary, call.constant_noise)


class _Plan(NamedTuple):
    """The static part: chunk lengths, what the forward pass keeps for the backward pass, direction, dtypes.

    length: steps in a chunk where a gradient is asked for; its products and their cotangents count as memory.
    forward_length: steps in a chunk where none is; longer, because products of more rows are faster.
    keep: "residuals" of every update; "hidden" states, from which a chunk's products are formed again all at once; or
    "nothing" but the states between chunks.
    """

    length: int
    forward_length: int
    keep: Literal["residuals", "hidden", "nothing"]
    reverse: bool
    dtypes: Dtypes


def _plan(call: Call) -> _Plan:
    gx = jax.eval_shape(lambda p, x, n: call.cell.project(p, x, *some(n)), call.params, call.flow.xs, _noise(call))
    bytes_a_step = sum(leaf.size * leaf.dtype.itemsize for leaf in gx) // call.steps
    rows = max(1, math.prod(call.batch_shape))

    def fitting(share: int) -> int:
        """A length whose products stay in the cache and are at most a share of the sequence, unless that is short."""
        fits = max(_CHUNK_BYTES // max(1, bytes_a_step), 8)
        return chunks.even_length(call.steps, min(fits, max(call.steps // share, -(-256 // rows), 32)))

    keep: Literal["residuals", "hidden", "nothing"] = "residuals"
    if call.remat is None:
        length = fitting(16)
    elif call.remat == "state":
        keep = "hidden"
        length = chunks.even_length(call.steps, max(call.steps // 64, -(-_LEAST_ROWS // rows)))
    else:
        keep = "nothing"
        length = chunks.length(call.steps, call.remat)
    return _Plan(length, fitting(4), keep, call.reverse, call.dtypes)


def _noise(call: Call) -> Noise:
    return merge_noise(call.flow.noise, call.constant_noise)


class _Fixed(NamedTuple):
    """What does not change along time."""

    cell: Any
    params: Params
    boundary: State | None
    constant_noise: Noise


class _Maps(NamedTuple):
    """The maps of a cell with its weights cast and cut up once, before any loop."""

    params: Params
    u: Array
    biases: tuple[Array | None, ...]
    project: Callable[[Any, Noise], Gates]
    noise: Noise

    @classmethod
    def of(cls, plan: _Plan, fixed: _Fixed) -> _Maps:
        cell, params = fixed.cell, plan.dtypes.cast(fixed.params)
        u, b = cell.recurrent(params)
        gates = u.shape[-1] // cell.hidden_size
        plain = input_weights(cell, params)
        gates_of = None if plain is None else input_gates(*plain, gates)

        def project(xs: Any, noise: Noise) -> Gates:
            return cell.project(params, xs, *some(noise)) if gates_of is None else gates_of(xs)

        return cls(params, u, split_bias(b, gates), project, at_step(fixed.constant_noise))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(
    plan: _Plan, cell: Any, params: Params, flow: Flow, state: State, boundary: State | None, constant_noise: Noise
) -> tuple[Any, State]:
    plan = plan._replace(length=plan.forward_length)
    (emitted, state), _ = _forward(plan, _Fixed(cell, params, boundary, constant_noise), flow, state, keep=None)
    return emitted, state


def _forward(plan: _Plan, fixed: _Fixed, flow: Flow, state: State, keep: str | None) -> tuple[Any, Any]:
    steps = jax.tree.leaves(flow.xs)[0].shape[0]
    parts = chunks.split(flow, steps, plan.length, plan.reverse)
    maps = _Maps.of(plan, fixed)

    def chunk(state: State, flow: Flow) -> tuple[State, Any]:
        new, emitted, kept = _forward_chunk(plan, fixed, maps, flow, state, keep)
        return new, (emitted, None if keep is None else (state, kept))

    state, outs = chunks.scan(chunk, state, parts, plan.reverse)
    emitted = Chunks(*(None if part is None else part[0] for part in outs))
    saved = Chunks(*(None if part is None else part[1] for part in outs))
    return (chunks.join(emitted, plan.reverse), state), saved


class _Kept(NamedTuple):
    """What the forward pass stores for every step. `hidden` is None where the emitted values are the hidden states."""

    residuals: Any
    hidden: Array | None


def _forward_chunk(
    plan: _Plan, fixed: _Fixed, maps: _Maps, flow: Flow, state: State, keep: str | None
) -> tuple[State, Any, _Kept | None]:
    cell = fixed.cell
    gx = maps.project(flow.xs, merge_noise(flow.noise, fixed.constant_noise))

    def body(state: State, inputs: Any) -> tuple[State, Any]:
        gx_t, noise_t, mask_t, reset_t = inputs
        noise_t = merge_noise(noise_t, maps.noise)
        old = where(reset_t, fixed.boundary, state)
        hidden = cell.hidden(old, *some(noise_t))
        gh = recurrent_gates(hidden, maps.u, maps.biases)
        new, residuals = _update(cell, maps.params, old, gx_t, gh, noise_t)
        state = hold(mask_t, new, old)
        emitted = cell.emit(state)
        if keep != "residuals":
            residuals = None
        shared = reset_t is None and _same_leaf(hidden, old, emitted, state)
        stored = None if keep in (None, "nothing") else _Kept(residuals, None if shared else hidden)
        return state, (emitted, stored)

    state, (emitted, kept) = lax.scan(body, state, (gx, flow.noise, flow.mask, flow.reset), reverse=plan.reverse)
    return state, emitted, kept


def _same_leaf(hidden: Array, old: State, emitted: Any, new: State) -> bool:
    """Whether the value emitted at a step is the very array that is fed back at the next one."""
    places = [a is hidden and b is emitted for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
    return any(places)


def _update(cell: Any, params: Params, old: State, gx: Gates, gh: Gates, noise: Noise) -> tuple[State, Any]:
    """The new state, and the residuals of the hand-formed derivative, or the old state where there is none."""
    pair = update_vjp(cell)
    if pair is None:
        new, residuals = cell.update(params, old, gx, gh, *some(noise)), old
    else:
        new, residuals = pair[0](old, gx, gh)
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old), residuals


def _unroll_fwd(
    plan: _Plan, cell: Any, params: Params, flow: Flow, state: State, boundary: State | None, constant_noise: Noise
) -> tuple[Any, Any]:
    fixed = _Fixed(cell, params, boundary, constant_noise)
    (emitted, last), saved = _forward(plan, fixed, flow, state, plan.keep)
    needs_emitted = plan.keep != "nothing"
    return (emitted, last), (fixed, flow, saved, emitted if needs_emitted else None)


def _unroll_bwd(plan: _Plan, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    fixed, flow, kept, emitted = saved
    d_emitted, d_state = cotangents
    steps = jax.tree.leaves(flow.xs)[0].shape[0]
    along = chunks.split((flow, emitted, d_emitted), steps, plan.length, plan.reverse)
    parts = Chunks(*(None if part is None else (*part, own) for part, own in zip(along, kept, strict=True)))

    wide = Dtypes(plan.dtypes.state, plan.dtypes.state)
    weights, pull_weights = jax.vjp(lambda cell, params: _weights(cell, wide.cast(params)), fixed.cell, fixed.params)
    narrow, maps = _weights(fixed.cell, plan.dtypes.cast(fixed.params)), _Maps.of(plan, fixed)
    theta = Theta.of(fixed.cell, fixed.params, plan.dtypes, flow, fixed.constant_noise, d_state)
    totals = _Totals(
        weights=jax.tree.map(jnp.zeros_like, weights),
        project=[jnp.zeros_like(leaf) for leaf in theta.project],
        update=[jnp.zeros_like(leaf) for leaf in theta.update],
        boundary=jax.tree.map(jnp.zeros_like, fixed.boundary),
    )
    step = partial(_backward_chunk, plan, fixed, maps, narrow, theta)
    (d_state, totals), d_xs = chunks.scan(step, (d_state, totals), parts, plan.reverse, undo=True)

    d_cell, d_params = theta.gradients(pull_weights(totals.weights), totals.project, totals.update)
    d_flow = Flow(chunks.join(d_xs, plan.reverse), None, None, None)
    return d_cell, d_params, d_flow, d_state, totals.boundary, None


_unroll.defvjp(_unroll_fwd, _unroll_bwd)


class _Weights(NamedTuple):
    """The weights and biases of the two products; None for the input's where `project` is more than a product."""

    recurrent: tuple[Array, Bias]
    input: tuple[Array, Bias] | None


def _weights(cell: Any, params: Params) -> _Weights:
    return _Weights(cell.recurrent(params), input_weights(cell, params))


class _Totals(NamedTuple):
    """Sums over time: cotangents of the weights, of the leaves that `project` (where it is more than a product) and
    `update` read, and of the boundary.
    """

    weights: _Weights
    project: list[Array]
    update: list[Array]
    boundary: State | None


def _backward_chunk(
    plan: _Plan, fixed: _Fixed, maps: _Maps, weights: _Weights, theta: Theta, carry: Any, part: Any
) -> tuple[Any, Any]:
    d_state, totals = carry
    flow, emitted, d_emitted, (start, kept) = part
    cell, hand_formed = fixed.cell, update_vjp(fixed.cell)
    if plan.keep == "nothing":
        _, emitted, kept = _forward_chunk(plan, fixed, maps, flow, start, "residuals")
    hidden = kept.hidden
    if hidden is None:
        hidden = shift(emitted, plan.reverse, first=cell.hidden(start))

    noise = merge_noise(flow.noise, fixed.constant_noise)
    pull_project: Any = None
    if weights.input is None:
        project = partial(theta.run_project, noise=noise)
        gx, pull_project = jax.vjp(project, theta.project, flow.xs)
    else:
        gx = maps.project(flow.xs, noise)
    gh = project_gates(hidden, maps.u, maps.biases, len(gx))
    residuals = _replay(plan, fixed, maps, flow, start, gx, gh) if plan.keep == "hidden" else kept.residuals
    inputs = _Reverse(d_emitted, residuals, None, None, flow.noise, flow.mask, flow.reset)
    if hand_formed is None:
        inputs = inputs._replace(gx=gx, gh=gh)
    body = partial(_backward_step, fixed, theta, jnp.swapaxes(maps.u, -1, -2), hand_formed)
    (d_state, d_update, d_boundary), (dgh, apart) = lax.scan(
        body, (d_state, totals.update, totals.boundary), inputs, reverse=not plan.reverse
    )
    dgx = _join_gates(dgh, apart)
    if weights.input is None:
        d_input, (d_project, d_xs) = None, pull_project(split_gates(dgx, len(gx)))
    else:
        d_input, d_project = _of_weights(flow.xs, dgx, *weights.input), []
        d_xs = dot(dgx, jnp.swapaxes(weights.input[0], -1, -2)).astype(flow.xs.dtype)
    totals = _Totals(
        weights=_add(totals.weights, _Weights(_of_weights(hidden, dgh, *weights.recurrent), d_input)),
        project=_add(totals.project, d_project),
        update=d_update,
        boundary=d_boundary,
    )
    return (d_state, totals), d_xs


def _join_gates(dgh: Array, apart: tuple[Array | None, ...]) -> Array:
    """The cotangents of gx, packed like those of gh: they are the same where `apart` has None."""
    if all(gate is None for gate in apart):
        return dgh
    return jnp.concatenate(
        [h if x is None else x for x, h in zip(apart, split_gates(dgh, len(apart)), strict=True)], -1
    )


def _of_weights(rows: Array, cotangents: Array, w: Array, b: Bias) -> tuple[Array, Bias]:
    """The cotangents of w and b in `rows @ w + b`."""

    def total(a: Array) -> Array:
        return a.sum(tuple(range(a.ndim - 1)))

    d_w = _over_rows(rows, cotangents, w)
    if not isinstance(b, tuple):
        return d_w, None if b is None else total(cotangents)
    parts = zip(b, split_gates(cotangents, len(b)), strict=True)
    return d_w, tuple(None if one is None else total(part) for one, part in parts)


class _Reverse(NamedTuple):
    """What one step of the reverse loop reads."""

    d_emitted: Any
    residuals: Any
    gx: Gates | None
    gh: Gates | None
    noise: Noise
    mask: Array | None
    reset: Array | None


def _backward_step(
    fixed: _Fixed, theta: Theta, ut: Array, hand_formed: Any, carry: Any, inputs: _Reverse
) -> tuple[Any, Any]:
    cell = fixed.cell
    d_state, d_update, d_boundary = carry
    noise = merge_noise(inputs.noise, at_step(fixed.constant_noise))
    zeros = jax.tree.map(jnp.zeros_like, d_state)
    d_state = _add(d_state, jax.vjp(cell.emit, zeros)[1](inputs.d_emitted)[0])
    d_new = d_state if inputs.mask is None else where(inputs.mask, d_state, zeros)
    if hand_formed is not None:
        d_old, dgx, dgh = hand_formed[1](inputs.residuals, d_new)
    else:
        update = partial(theta.run_update, noise=noise)
        _, pull = jax.vjp(update, theta.update, inputs.residuals, inputs.gx, inputs.gh)
        d_theta, d_old, dgx, dgh = pull(d_new)
        d_update = [a + b for a, b in zip(d_update, d_theta, strict=True)]
    packed = jnp.concatenate(dgh, axis=-1)
    dh = dot(packed, ut)
    d_old = _add(d_old, jax.vjp(lambda s: cell.hidden(s, *some(noise)), zeros)[1](dh)[0])
    if inputs.mask is not None:
        d_old = _add(d_old, where(inputs.mask, zeros, d_state))
    if inputs.reset is not None:
        d_boundary = _add(d_boundary, where(inputs.reset, d_old, zeros))
        d_old = where(inputs.reset, zeros, d_old)
    apart = tuple(None if x is h else x for x, h in zip(dgx, dgh, strict=True))
    return (d_old, d_update, d_boundary), (packed, apart)


def _replay(plan: _Plan, fixed: _Fixed, maps: _Maps, flow: Flow, start: State, gx: Gates, gh: Gates) -> Any:
    """The residuals of a chunk whose products are known: a loop without any product."""

    def body(state: State, inputs: Any) -> tuple[State, Any]:
        gx_t, gh_t, noise_t, mask_t, reset_t = inputs
        old = where(reset_t, fixed.boundary, state)
        new, residuals = _update(fixed.cell, maps.params, old, gx_t, gh_t, merge_noise(noise_t, maps.noise))
        return hold(mask_t, new, old), residuals

    return lax.scan(body, start, (gx, gh, flow.noise, flow.mask, flow.reset), reverse=plan.reverse)[1]


def _over_rows(a: Array, b: Array, u: Array) -> Array:
    """Σ aᵀ b over all leading axes, multiplied in the dtype of u and accumulated in that of b, placed like u."""
    rows = tuple(range(a.ndim - 1))
    return lax.dot_general(
        a.astype(u.dtype),
        b.astype(u.dtype),
        ((rows, rows), ((), ())),
        preferred_element_type=b.dtype,
        out_sharding=None if explicit_spec(b) is None else explicit_spec(u) or PartitionSpec(None, None),
    )


def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)
