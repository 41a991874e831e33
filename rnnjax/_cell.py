"""What a cell is: three maps and nothing about time.

    z   = project(params, x)          all time steps at once
    s_t = step(params, s_{t-1}, z_t)  the only sequential part
    y   = readout(params, s, x)       all time steps at once

`rnnjax.unroll` runs them; masks, resets, direction, gradients of the loop, chunks and kernels are its business.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ._errors import check_key, check_size, floating
from ._linear import Affine, Numbers, plus, times
from ._products import project_gates, recurrent_gates, split_bias
from ._types import Array, Bias, DTypeLike, Gates, Key, Noise, Params, State, Xs, Z

Capability = Literal["plain", "gated", "associative", "chunked"]


class Kernel(NamedTuple):
    """The native kernel that knows a gated cell's `update`.

    cell: the cell with default options, which has the same `update`.
    params: the type of its parameters, (w, u, b) and b_n where the recurrent candidate has a bias.
    """

    name: Literal["elman_tanh", "elman_relu", "lstm", "gru"]
    cell: Any
    params: Callable[..., Params]


def _checked(init: Callable[..., Params]) -> Callable[..., Params]:
    """`init` with checks of its key, size and dtype, the same for every cell."""

    @functools.wraps(init)
    def checked(self: Cell, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        check_key("key", key)
        check_size("in_size", in_size)
        return init(self, key, in_size, floating("dtype", dtype))

    return checked


def _with_batch_shape(initial_state: Callable[..., State]) -> Callable[..., State]:
    """`initial_state` with a check of its batch shape, the same for every cell, and every leaf an array of its own:
    who is handed a state may donate it."""

    @functools.wraps(initial_state)
    def checked(self: Cell, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        if not isinstance(batch_shape, (tuple, list)):
            raise TypeError(f"`batch_shape` must be a tuple of sizes, such as (32,) or (); got {batch_shape!r}")
        taken = {id(leaf) for leaf in jax.tree.leaves(params)}

        def own(leaf: Any) -> Any:
            if id(leaf) in taken and not isinstance(leaf, Tracer):
                leaf = jnp.copy(leaf)
            taken.add(id(leaf))
            return leaf

        return jax.tree.map(own, initial_state(self, params, tuple(batch_shape), dtype))

    return checked


class Cell(abc.ABC):
    """One recurrent step. A subclass is a frozen dataclass made by `struct` and writes `init`, `initial_state`,
    `project` and `step`; the other methods have the defaults that most cells want.

    The weight matrices that `project` and `step` receive are in the compute dtype, vectors and states in at least
    float32; `rnnjax.cells.dot` respects both.
    """

    hidden_size: int
    compute_dtype: DTypeLike | None = None
    event_ndim: int = 1
    """Trailing axes of one input: 1, and for a convolutional cell 1 + its spatial axes."""
    capability: Capability = "plain"
    """What the implementations may rely on: "gated" cells have the methods of `GatedCell`, "associative" ones
    those of `AssociativeCell`, "chunked" ones those of `ChunkedCell`."""
    elapsed: bool = False
    """Whether inputs may be (x, dt), with the time (T, *B) since the last one: layers hand it on to such cells."""
    unitwise: bool = False
    """Whether unit i is entry i of the last axis of every array of the state, and a step reads of the other units no
    more than what they were before it: with zeros in its last units such a cell is a smaller one."""
    scaled: bool = False
    """Whether one array of the state says in which units others are, so that none can be held or changed alone."""
    contextual: bool = False
    """Whether its state has a size that the `context` of a call sets, such as that of an attention's memory."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "init" in vars(cls):
            cls.init = _checked(cls.init)  # type: ignore[method-assign]
        if "initial_state" in vars(cls):
            cls.initial_state = _with_batch_shape(cls.initial_state)  # type: ignore[method-assign]

    @abc.abstractmethod
    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws parameters, a NamedTuple of arrays, for inputs of `in_size` features."""

    @abc.abstractmethod
    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, a NamedTuple of arrays `(*batch_shape, …)`."""

    @abc.abstractmethod
    def project(self, params: Params, x: Xs, noise: Noise = None) -> Z:
        """Everything that depends on the inputs alone, for any number of time steps at once: x (T, *B, I)."""

    @abc.abstractmethod
    def step(self, params: Params, state: State, z: Z, noise: Noise = None) -> State:
        """One time step: `z` and `noise` are those of this step, without the time axis. A cell that draws no noise may
        leave out the last parameter: it is passed only when there is noise."""

    def out_size(self, in_size: int) -> int:
        """Features of one output."""
        return self.hidden_size

    def prepare(self, params: Params, *, key: Key | None = None, context: Any = None) -> Params:
        """What happens to the parameters once per unroll: discretisation, weight-drop, a memory's projection."""
        return params

    def check_context(self, context: Any) -> None:  # noqa: B027, most cells have nothing to check
        """Raises for a `context` that does not fit, where that is known before anything runs."""

    def noise(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Noise:
        """All random draws of one call, leaves (T or 1, *B, …), or None. They are drawn before any chunking, and are
        constants to differentiation."""
        return None

    def emit(self, state: State) -> Any:
        """What `readout` needs of one state, a selection of its arrays: only this is stored over time."""
        return state.h

    def readout(self, params: Params, emitted: Any, x: Xs) -> Array:
        """Outputs (T, *B, O) from what was emitted, for all time steps at once."""
        return emitted


class GatedCell(Cell):
    """A cell whose only product in the loop is `hidden(state) @ u + b`; `step` follows from `update`.

    `gx` is what `project` returned and `gh` the recurrent product, both as tuples with one array (*B, H) per gate.
    A subclass writes `init`, `initial_state`, `input_weights` (or `project`), `recurrent` and `update`. One that
    overrides `step` alone is a plain cell, because `update` no longer says what a step is.
    """

    capability: Capability = "gated"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in vars(cls) and not {"update", "capability"} & vars(cls).keys():
            cls.capability = "plain"

    def input_weights(self, params: Params) -> tuple[Array, Bias] | None:
        """The input weights w (I, G·H) and their bias, where `project` is `x @ w + b` and no more; else None."""
        return None

    def project(self, params: Params, x: Xs, noise: Noise = None) -> Gates:
        weights = self.input_weights(params)
        if weights is None:
            raise NotImplementedError(f"{type(self).__name__} must define `input_weights` or `project`")
        w, b = weights
        return project_gates(x, w, b, w.shape[-1] // self.hidden_size)

    @abc.abstractmethod
    def recurrent(self, params: Params) -> tuple[Array, Bias]:
        """The recurrent weights u (H, G·H) and their bias: (G·H), or (H) or None for each gate, or None."""

    @abc.abstractmethod
    def update(self, params: Params, state: State, gx: Gates, gh: Gates, noise: Noise = None) -> State:
        """The next state, without any product of matrices."""

    def hidden(self, state: State, noise: Noise = None) -> Array:
        """What is fed back, (*B, H), linear in the state. A cell whose own leaves are read here runs under `scan`."""
        return state.h

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        """A hand-formed derivative of `update`, or None for the one that JAX forms.

        Returns a pair of functions, for an `update` that reads neither `params` nor leaves of the cell:
            forward(state, gx, gh) -> (new state, residuals)
            backward(residuals, d_new) -> (d_state, d_gx, d_gh); where d_gh[g] is d_gx[g], one object, it is stored once
        """
        return None

    def kernel(self) -> Kernel | None:
        """The native kernel that has this cell's `update`, `hidden` and `emit`, or None."""
        return None

    def step(self, params: Params, state: State, z: Gates, noise: Noise = None) -> State:
        u, b = self.recurrent(params)
        gh = recurrent_gates(self.hidden(state, noise), u, split_bias(b, len(z)))
        return self.update(params, state, z, gh, noise)


class AssociativeCell(Cell):
    """A cell whose transitions compose, so that many steps can be taken at once; `step` follows from `act`.

    `z` of one time step, as `project` returns it, is a transition. They form a monoid that acts on states:

        act(combine(f, g), s) == act(g, act(f, s))    combine(combine(f, g), h) == combine(f, combine(g, h))

    A subclass writes `init`, `initial_state`, `project`, `combine` and `act`. The last two take any leading axes, the
    same for all their arguments, and `emit` selects arrays of a state.
    """

    capability: Capability = "associative"

    @abc.abstractmethod
    def combine(self, first: Z, then: Z) -> Z:
        """The transition that is `first` and `then` in one."""

    @abc.abstractmethod
    def act(self, z: Z, state: State) -> State:
        """The state after the transition."""

    def diagonal(self) -> Numbers | None:
        """The numbers with which `z` is an `Affine` that acts as s ↦ a ⊙ s + b, or None for any other action."""
        return None

    def step(self, params: Params, state: State, z: Z, noise: Noise = None) -> State:
        return self.act(z, state)


class DiagonalCell(AssociativeCell):
    """A diagonal linear recurrence s_t = a_t ⊙ s_{t-1} + b_t, where a and b depend on the inputs alone.

    `project` returns `Affine(a, b)`. All such cells share one scan with a hand-formed derivative. A subclass writes
    `init`, `initial_state` and `project`. With `numbers` "complex" the state is a pair of real and imaginary parts.
    """

    numbers: Numbers = "real"

    def diagonal(self) -> Numbers | None:
        return self.numbers

    def combine(self, first: Affine, then: Affine) -> Affine:
        carried = times(self.numbers, then.a, first.b)
        return Affine(times(self.numbers, then.a, first.a), plus(carried, then.b))

    def act(self, z: Affine, state: State) -> State:
        leaves, structure = jax.tree.flatten(state)
        return jax.tree.unflatten(structure, plus(times(self.numbers, z.a, tuple(leaves)), z.b))


class Marks(NamedTuple):
    """Masks and resets of K steps, booleans (K, *B) or None, and the state behind a reset, which acts before its step.

    A step that is not valid leaves the state as it is; a reset on such a step acts all the same.
    """

    mask: Array | None
    reset: Array | None
    boundary: State | None


class ChunkedCell(Cell):
    """A cell that takes many steps at once without the states between them, such as one with a matrix for a memory.

    A subclass writes `init`, `initial_state`, `project`, `step` and `chunk`, which is `step` for every one of K steps.
    Its states, too large to keep, hold what `readout` needs as one of their arrays.
    """

    capability: Capability = "chunked"

    @abc.abstractmethod
    def chunk(self, params: Params, state: State, z: Z, marks: Marks) -> tuple[State, Any]:
        """The state after K steps, and what `emit` selects of the state after each: z (K, *B, …), emitted (K, *B, …).
        Neither what is emitted at a step that is not valid is read, nor the state of a row where no step is valid
        behind the last reset."""


def with_elapsed(xs: Xs, event_ndim: int = 1) -> tuple[Array, Array | None]:
    """Inputs (…, I), or integer ids (…) with `event_ndim` 0, and the elapsed times (…) beside them or None."""
    if not isinstance(xs, tuple):
        return xs, None
    if len(xs) != 2 or xs[1].shape != xs[0].shape[: xs[0].ndim - event_ndim]:
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(xs))
        x = "x (T, *B, I)" if event_ndim else "ids x (T, *B)"
        raise TypeError(f"inputs must be {x}, or (x, dt) with elapsed times dt (T, *B); got shapes {shapes}")
    return xs
