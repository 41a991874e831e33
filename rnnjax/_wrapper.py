"""A cell around another one, and what of a cell still holds where a subclass or a wrapper has changed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ._cell import Capability, Cell, GatedCell, Kernel, Marks
from ._linear import Numbers
from ._struct import node, struct
from ._types import Array, Bias, DTypeLike, Gates, Key, Noise, Params, State, Xs, Z, split_key


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
