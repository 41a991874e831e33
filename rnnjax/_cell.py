"""What a cell is: three maps and nothing about time.

    z   = project(params, x)          all time steps at once
    s_t = step(params, s_{t-1}, z_t)  the only sequential part
    y   = readout(params, s, x)       all time steps at once

`rnnjax.unroll` runs them; masks, resets, direction, gradients of the loop, chunks and kernels are its business.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from ._errors import check_key, check_size, floating
from ._linear import Affine, Numbers, plus, times
from ._struct import node, struct
from ._types import Array, Bias, DTypeLike, Gates, Key, Noise, Params, State, Xs, Z, at_least_float32, explicit_spec

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


def takes_chunks(cell: Any) -> bool:
    """Whether `step` and `emit` are what `chunk` says: no subclass has changed them since."""
    in_step = cell.capability == "chunked" and all(_in_step(cell, "chunk", method) for method in ("step", "emit"))
    return in_step and (not isinstance(cell, Wrapper) or takes_chunks(cell.cell))


def acts(cell: Any) -> bool:
    """Whether `step` is what `combine` and `act` say: no subclass has changed it since."""
    in_step = cell.capability == "associative" and _in_step(cell, "act", "step")
    return in_step and (not isinstance(cell, Wrapper) or acts(cell.cell))


def diagonal(cell: Any) -> Numbers | None:
    """An associative cell's `diagonal`, or None where a subclass has changed `combine` or `act` since."""
    in_step = all(_in_step(cell, "diagonal", method) for method in ("combine", "act"))
    return cell.diagonal() if in_step else None


def input_weights(cell: Any, params: Params) -> tuple[Array, Bias] | None:
    """A gated cell's `input_weights`, or None where a subclass has changed `project` since."""
    return cell.input_weights(params) if _in_step(cell, "input_weights", "project") else None


def update_vjp(cell: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """A gated cell's `update_vjp`, or None where a subclass has changed `update` since."""
    return cell.update_vjp() if _in_step(cell, "update_vjp", "update") else None


def kernel(cell: Any) -> Kernel | None:
    """A cell's `kernel`, or None where it has none or a subclass has changed what the kernel stands for since."""
    stands_for = ("step", "update", "update_vjp", "recurrent", "hidden", "emit", "project", "input_weights")
    known = cell.capability == "gated" and all(_in_step(cell, "kernel", method) for method in stands_for)
    return cell.kernel() if known else None


def reads_out(cell: Cell) -> bool:
    """Whether a cell's outputs are more than what it emits."""
    if isinstance(cell, Wrapper):
        return type(cell).readout is not Wrapper.readout or reads_out(cell.cell)
    return type(cell).readout is not Cell.readout


def _in_step(cell: Any, shortcut: str, method: str) -> bool:
    """Whether no class redefines the method after the class that defines its shortcut."""
    own = next(base for base in type(cell).__mro__ if shortcut in vars(base) or method in vars(base))
    return shortcut in vars(own)


@struct
class Wrapper(Cell):
    """A cell around another one, with the same capability, so that it keeps the inner cell's fast paths. Only around an
    associative or chunked cell a `finish` makes it a plain one: its steps no longer compose. Around a gated one a
    `finish` or a `feed` leaves it without the native `kernel`, which knows neither.

    A subclass overrides the hooks `unwrap`, `rewrap`, `draw`, `feed`, `finish` and, where it must, single methods.
    """

    cell: Any = node()

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise TypeError(f"`cell` must be a cell, such as `rnnjax.LSTM(128)`; got {self.cell!r}")

    def unwrap(self, params: Params) -> Params:
        """The inner cell's parameters."""
        return params

    def rewrap(self, params: Params, inner: Params) -> Params:
        """These parameters with new ones of the inner cell."""
        return inner

    def draw(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike) -> Noise:
        """The wrapper's own noise."""
        return None

    def feed(self, hidden: Array, noise: Noise) -> Array:
        """What is fed back, given what the inner cell would feed back; `noise` is the wrapper's own."""
        return hidden

    def finish(self, params: Params, old: State, new: State, noise: Noise) -> State:
        """The state that follows `old`, given the inner cell's `new`; `noise` is the wrapper's own."""
        return new

    @property
    def capability(self) -> Capability:  # type: ignore[override]
        if self.cell.capability == "gated":
            return "gated" if _in_step(self, "update", "step") else "plain"
        return "plain" if type(self).finish is not Wrapper.finish else self.cell.capability

    @property
    def hidden_size(self) -> int:  # type: ignore[override]
        return self.cell.hidden_size

    @property
    def event_ndim(self) -> int:  # type: ignore[override]
        return self.cell.event_ndim

    @property
    def compute_dtype(self) -> DTypeLike | None:  # type: ignore[override]
        return self.cell.compute_dtype

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return self.cell.elapsed

    @property
    def unitwise(self) -> bool:  # type: ignore[override]
        return self.cell.unitwise

    @property
    def scaled(self) -> bool:  # type: ignore[override]
        return self.cell.scaled

    @property
    def contextual(self) -> bool:  # type: ignore[override]
        return self.cell.contextual

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return self.cell.init(key, in_size, dtype)

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(self.unwrap(params), batch_shape, dtype)

    def out_size(self, in_size: int) -> int:
        return self.cell.out_size(in_size)

    def prepare(self, params: Params, *, key: Key | None = None, context: Any = None) -> Params:
        return self.rewrap(params, self.cell.prepare(self.unwrap(params), key=key, context=context))

    def check_context(self, context: Any) -> None:
        self.cell.check_context(context)

    def noise(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Noise:
        inner_key, own_key = split_key(key)
        inner = self.cell.noise(inner_key, steps, batch_shape, dtype)
        own = self.draw(own_key, steps, batch_shape, dtype)
        return None if inner is None and own is None else (inner, own)

    def project(self, params: Params, x: Xs, noise: Noise = None) -> Z:
        return self.cell.project(self.unwrap(params), x, *_inner(noise))

    def step(self, params: Params, state: State, z: Z, noise: Noise = None) -> State:
        if self.cell.capability == "gated":
            return GatedCell.step(self, params, state, z, noise)  # type: ignore[arg-type]
        new = self.cell.step(self.unwrap(params), state, z, *_inner(noise))
        return self.finish(params, state, new, _own(noise))

    def combine(self, first: Z, then: Z) -> Z:
        return self.cell.combine(first, then)

    def act(self, z: Z, state: State) -> State:
        return self.cell.act(z, state)

    def diagonal(self) -> Numbers | None:
        return diagonal(self.cell)

    def chunk(self, params: Params, state: State, z: Z, marks: Marks) -> tuple[State, Any]:
        return self.cell.chunk(self.unwrap(params), state, z, marks)

    def emit(self, state: State) -> Any:
        return self.cell.emit(state)

    def readout(self, params: Params, emitted: Any, x: Xs) -> Array:
        return self.cell.readout(self.unwrap(params), emitted, x)

    def input_weights(self, params: Params) -> tuple[Array, Bias] | None:
        return input_weights(self.cell, self.unwrap(params))

    def recurrent(self, params: Params) -> tuple[Array, Bias]:
        return self.cell.recurrent(self.unwrap(params))

    def hidden(self, state: State, noise: Noise = None) -> Array:
        return self.feed(self.cell.hidden(state, *_inner(noise)), _own(noise))

    def update(self, params: Params, state: State, gx: Gates, gh: Gates, noise: Noise = None) -> State:
        new = self.cell.update(self.unwrap(params), state, gx, gh, *_inner(noise))
        return self.finish(params, state, new, _own(noise))

    def update_vjp(self) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
        changes = type(self).finish is not Wrapper.finish
        return None if changes else update_vjp(self.cell)

    def kernel(self) -> Kernel | None:
        changes = type(self).finish is not Wrapper.finish or type(self).feed is not Wrapper.feed
        return None if changes else kernel(self.cell)


def _inner(noise: Noise) -> tuple[Noise, ...]:
    return () if noise is None or noise[0] is None else (noise[0],)


def _own(noise: Noise) -> Noise:
    return None if noise is None else noise[1]


def split_key(key: Key | None) -> tuple[Key | None, Key | None]:
    """Two keys from one, or twice None."""
    return (None, None) if key is None else tuple(jax.random.split(key))


def default_platform() -> str:
    """The platform that a program runs on by default: that of `jax.default_device`, or else of JAX's first backend."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def dot(x: Array, w: Array) -> Array:
    """x (…, I) times w (I, O) in the dtype of w, accumulated and returned in at least float32."""
    leading = x.shape[:-1]
    # Over several axes XLA copies the cotangents, transposed, for the gradient of w. Axes that may be divided over
    # devices stay apart.
    joined = len(leading) > 1 and jax.device_count() == 1 and explicit_spec(x) is None
    rows = x.reshape(math.prod(leading), x.shape[-1]) if joined else x
    accumulator = at_least_float32(w.dtype)
    product = lax.dot_general(
        rows.astype(w.dtype), w, (((rows.ndim - 1,), (0,)), ((), ())), preferred_element_type=accumulator
    )
    return product.reshape(*leading, w.shape[1]) if joined else product


def affine(x: Array, w: Array, b: Array | None) -> Array:
    """x (…, I) times w (I, O) plus b (O), as `dot`; None is no bias."""
    return dot(x, w) if b is None else add_bias(dot(x, w), b)


def add_bias(x: Array, b: Array) -> Array:
    """x (…, O) + b (O), written so that it holds when rank promotion is an error."""
    return x + jnp.broadcast_to(b.astype(x.dtype), x.shape)


def with_elapsed(xs: Xs, event_ndim: int = 1) -> tuple[Array, Array | None]:
    """Inputs (…, I), or integer ids (…) with `event_ndim` 0, and the elapsed times (…) beside them or None."""
    if not isinstance(xs, tuple):
        return xs, None
    if len(xs) != 2 or xs[1].shape != xs[0].shape[: xs[0].ndim - event_ndim]:
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(xs))
        x = "x (T, *B, I)" if event_ndim else "ids x (T, *B)"
        raise TypeError(f"inputs must be {x}, or (x, dt) with elapsed times dt (T, *B); got shapes {shapes}")
    return xs


def split_gates(x: Array, gates: int) -> Gates:
    """x (…, G·H) as one array (…, H) per gate."""
    return tuple(jnp.split(x, gates, axis=-1))


def split_bias(b: Bias, gates: int) -> tuple[Array | None, ...]:
    """The bias of each gate: None is none for any, an array (G·H) has a part for each, a tuple says it itself."""
    if b is None:
        return (None,) * gates
    return b if isinstance(b, tuple) else split_gates(b, gates)


def recurrent_gates(hidden: Array, u: Array, biases: tuple[Array | None, ...]) -> Gates:
    """hidden (*B, H) times u (H, G·H), one product for all gates, plus the bias of each, as one array per gate."""
    products = split_gates(dot(hidden, u), len(biases))
    return tuple(a if b is None else add_bias(a, b) for a, b in zip(products, biases, strict=True))


def input_gates(w: Array, b: Bias, gates: int) -> Callable[[Array], Gates]:
    """The map from x (T, *B, I) to x w + b as one array per gate, with its weights cut up once for all calls.

    One product a gate: XLA:CPU reads such arrays in the loop at twice the speed of slices of one. There a bias is one
    more row of w, because adding it is one more pass over memory; elsewhere the addition fuses with what reads it.
    """
    as_row = False
    if b is not None and not isinstance(b, tuple) and b.dtype == w.dtype and default_platform() == "cpu":
        as_row, w, b = True, jnp.concatenate([w, b[None]], axis=0), None
    parts, biases = split_gates(w, gates), split_bias(b, gates)

    def project(x: Array) -> Gates:
        if as_row:
            x = jnp.concatenate([x.astype(w.dtype), jnp.ones_like(x[..., :1], w.dtype)], axis=-1)
        return tuple(affine(x, part, bias) for part, bias in zip(parts, biases, strict=True))

    return project


def project_gates(x: Array, w: Array, b: Bias, gates: int) -> Gates:
    """x (T, *B, I) times w (I, G·H) plus b, as one array per gate."""
    return input_gates(w, b, gates)(x)
