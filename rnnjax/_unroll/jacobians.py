"""How a step's new state depends on the old one, for all steps at once: the whole matrix or blocks of its diagonal.

The blocks are those of the units: a state of P arrays with M units each has M blocks of P × P numbers, which are all
there is where a step is elementwise. They then take P directional derivatives instead of one for every number of the
state. So they do in a gated cell whose `update` and `hidden` are elementwise: the recurrent product is replaced by its
diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from .._products import recurrent_gates, split_bias
from .._types import Array, Noise, Params, State, Z
from .call import Call, at_step, merge_noise, some
from .place import vary_alike

Form: TypeAlias = Literal["dense", "block", "diagonal"]

_SMALL = 64
_ELEMENTWISE = frozenset[str]().union(
    {"add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp", "floor", "ceil", "round"},
    {"pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"},
    {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "logistic", "erf", "erfc"},
    {"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "is_finite", "select_n"},
    {"convert_element_type", "reduce_precision", "copy", "stop_gradient", "custom_jvp_call", "jit"},
)


class Parts(NamedTuple):
    """Sizes of a state's arrays without their batch axes, in their order."""

    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, state: State, batch_ndim: int) -> Parts:
        return cls(tuple(leaf.shape[batch_ndim:] for leaf in jax.tree.leaves(state)))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(math.prod, self.shapes))

    @property
    def units(self) -> int | None:
        """M, where all arrays have the same number of units."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None


def flatten(parts: Parts, state: State) -> Array:
    """Leaves (…, *B, *shape) as one array (…, *B, N)."""
    leaves = jax.tree.leaves(state)
    rows = [
        leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], size)
        for leaf, shape, size in zip(leaves, parts.shapes, parts.sizes, strict=True)
    ]
    return jnp.concatenate(rows, -1)


def unflatten(parts: Parts, like: State, flat: Array) -> State:
    """Undoes `flatten`."""
    structure = jax.tree.structure(like)
    ends = [sum(parts.sizes[: i + 1]) for i in range(len(parts.sizes) - 1)]
    leaves = jnp.split(flat, ends, axis=-1)
    shaped = [leaf.reshape(*leaf.shape[:-1], *shape) for leaf, shape in zip(leaves, parts.shapes, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def in_blocks(parts: Parts, form: Form, flat: Array) -> Array:
    """(…, N) as blocks (…, G, K)."""
    if form == "dense":
        return flat[..., None, :]
    if form == "diagonal":
        return flat[..., None]
    return jnp.swapaxes(flat.reshape(*flat.shape[:-1], len(parts.sizes), flat.shape[-1] // len(parts.sizes)), -1, -2)


def from_blocks(form: Form, blocks: Array) -> Array:
    """Undoes `in_blocks`."""
    if form == "block":
        blocks = jnp.swapaxes(blocks, -1, -2)
    return blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * blocks.shape[-1])


class Plan(NamedTuple):
    """A form of Jacobian, whether that is all there is, and whether whole arrays are probed for it or single units."""

    form: Form
    exact: bool
    probes: Literal["arrays", "units"]
    parts: Parts


def plan(call: Call, form: Form | None) -> Plan:
    """For None the smallest form that is exact; where none is, dense up to N = 64 and the units' blocks above.

    Raises:
        ValueError: for "block" where a state's arrays differ in size.
    """
    parts = Parts.of(call.state, len(call.batch_shape))
    size = sum(parts.sizes)
    if form == "block" and parts.units is None:
        sizes = ", ".join(map(str, parts.sizes))
        raise ValueError(
            f"`jacobian='block'` needs a state whose arrays have as many units each; those of {call.cell!r} have "
            f"{sizes}: take 'dense' or 'diagonal'"
        )
    first = first_step(call)
    alone = steps_alone(call.cell, *first)
    blocks: Form = "diagonal" if len(parts.sizes) == 1 or parts.units is None else "block"
    if form is None and alone and (blocks == "block" or len(parts.sizes) == 1):
        form = blocks
    if form is None:
        form = "dense" if size <= _SMALL else blocks
    exact = form == "dense" or (alone and (form == "block" or len(parts.sizes) == 1))
    return Plan(form, exact, "arrays" if alone or updates_alone(call.cell, *first) else "units", parts)


def first_step(call: Call) -> tuple[Params, State, Z, Noise]:
    """What `step` receives at first, without masks and resets."""
    first = jax.tree.map(lambda leaf: leaf[:1], call.flow)
    noise = at_step(merge_noise(first.noise, call.constant_noise))
    return call.dtypes.cast(call.params), call.state, at_step(call.project(first)), noise


def steps_alone(cell: Any, params: Params, state: State, z: Z, noise: Noise = None) -> bool:
    """Whether each unit's next state depends on its own alone."""
    return elementwise(lambda state: cell.step(params, state, z, *some(noise)), state)


def updates_alone(cell: Any, params: Params, state: State, z: Z, noise: Noise = None) -> bool:
    """Whether that holds but for a gated cell's recurrent product."""
    if cell.capability != "gated":
        return False
    inside = elementwise(lambda read: cell.update(params, read[0], z, read[1], *some(noise)), (state, z))
    return inside and elementwise(lambda state: cell.hidden(state, *some(noise)), state)


def forward_mode(call: Call) -> bool:
    """Whether the step can be differentiated forwards."""
    params, state, z, noise = first_step(call)
    return not calls("custom_vjp_call", jax.make_jaxpr(lambda s: call.cell.step(params, s, z, *some(noise)))(state))


def calls(name: str, jaxpr: Any) -> bool:
    """Whether the primitive is in a program, or in one that it calls."""
    values = jax.tree.leaves([eqn.params for eqn in jaxpr.eqns])  # the branches of `cond` are a tuple
    inner = [value for value in values if hasattr(value, "eqns")]
    return any(eqn.primitive.name == name for eqn in jaxpr.eqns) or any(calls(name, one) for one in inner)


def elementwise(f: Callable[..., Any], arrays: Any) -> bool:
    """Whether `f` combines entries of its arrays, of equal shape, with others in the same place only."""
    leaves = jax.tree.leaves(arrays)
    if len({leaf.shape for leaf in leaves}) != 1:
        return False
    return _in_place(jax.make_jaxpr(f)(arrays).jaxpr, [True] * len(leaves))


def _in_place(jaxpr: Any, depends: list[bool]) -> bool:
    moved = {id(var) for var, own in zip(jaxpr.invars, depends, strict=True) if own}
    for eqn in jaxpr.eqns:
        inside = [id(var) in moved for var in eqn.invars]
        if not any(inside):
            continue
        name = eqn.primitive.name
        alike = name == "broadcast_in_dim" and eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape
        if not (alike or name in _ELEMENTWISE):
            return False
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if inner is not None and not _in_place(inner.jaxpr, inside):
            return False
        moved.update(id(var) for var in eqn.outvars)
    return True


def decoupled(cell: Any, own: bool = True) -> Callable[..., State]:
    """A gated cell's `step` with the same values, whose derivative knows no more of the recurrent product than what
    each unit gives to itself, or without `own` nothing."""

    def take(params: Params, state: State, z: Z, noise: Noise = None) -> State:
        u, b = cell.recurrent(params)
        hidden = cell.hidden(state, *some(noise))
        fixed = lax.stop_gradient(hidden)
        gh = recurrent_gates(fixed, u, split_bias(b, len(z)))
        if own:
            diagonals = [jnp.diagonal(part).astype(hidden.dtype) for part in jnp.split(u, len(z), axis=-1)]
            change = [(hidden - fixed) * jnp.broadcast_to(part, hidden.shape) for part in diagonals]
            gh = tuple(map(jnp.add, gh, change))
        return cell.update(params, state, z, gh, *some(noise))

    return take


def blocks(plan: Plan, push: Callable[[Array], Array], like: Array) -> Array:
    """The Jacobian's blocks (T, *B, G, K, K), from a map of tangents (T, *B, N) of old states to those of new ones."""
    if plan.form == "dense":
        columns = jax.vmap(lambda row: push(_everywhere(row, like)))(jnp.eye(like.shape[-1], dtype=like.dtype))
        return jnp.moveaxis(columns, 0, -1)[..., None, :, :]
    return (_of_arrays if plan.probes == "arrays" else _of_units)(plan, push, like)


def _of_arrays(plan: Plan, push: Callable[[Array], Array], like: Array) -> Array:
    starts = [sum(plan.parts.sizes[:i]) for i in range(len(plan.parts.sizes))]
    at = jnp.arange(like.shape[-1])
    found = []
    for start, size in zip(starts, plan.parts.sizes, strict=True):
        row = ((at >= start) & (at < start + size)).astype(like.dtype)
        new = push(_everywhere(row, like))
        found.append(new[..., start : start + size] if plan.form == "diagonal" else in_blocks(plan.parts, "block", new))
    return jnp.concatenate(found, -1)[..., None, None] if plan.form == "diagonal" else jnp.stack(found, -1)


def _of_units(plan: Plan, push: Callable[[Array], Array], like: Array) -> Array:
    """One unit after another, because all at once are as large as the dense matrix."""

    def probe(i: Array) -> Array:
        new = push(_everywhere((jnp.arange(like.shape[-1]) == i).astype(like.dtype), like))
        if plan.form == "diagonal":
            return lax.dynamic_index_in_dim(new, i, -1, keepdims=False)
        unit = i % jnp.asarray(plan.parts.units, i.dtype)
        return lax.dynamic_index_in_dim(in_blocks(plan.parts, "block", new), unit, -2, keepdims=False)

    found = lax.map(probe, jnp.arange(like.shape[-1]))
    if plan.form == "diagonal":
        return jnp.moveaxis(found, 0, -1)[..., None, None]
    by_part = found.reshape(
        len(plan.parts.sizes), found.shape[0] // len(plan.parts.sizes), *found.shape[1:]
    )  # (P', M, T, *B, P)
    return jnp.moveaxis(by_part, (0, 1), (-1, -3))


def _everywhere(row: Array, like: Array) -> Array:
    return vary_alike([jnp.broadcast_to(row, like.shape), like])[0]
