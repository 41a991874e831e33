"""What the attention cells share: the memory, the inner cell with more inputs, and what has been read."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._cell import Cell, with_elapsed
from ..._errors import check_size, describe, is_array
from ..._products import dot, project_gates, split_gates
from ..._struct import node, struct
from ..._types import Array, Bias, DTypeLike, Key, Noise, Params, State, Xs, Z
from ..._unroll.call import Dtypes
from ..._wrapper import input_weights, reads_out
from ...cells._common import abstract_state
from .memory import Memory, Source, as_source, rows_first
from .score import Attended, Score


class Prepared(NamedTuple):
    """An attention cell's parameters with the memory of one call: what `prepare` makes of them."""

    params: Any
    memory: Memory


@struct
class Attention(Cell):
    """A cell that reads a memory at every step. A subclass writes `init`, `step`, `emit` and what follows from them.

    Parameters are a NamedTuple with the fields cell, the inner cell's, and score; states one with the fields cell and
    attention, an `Attended`. The query is what the inner cell emits of its state, all its arrays in a row: for most
    cells their output.

    Args:
        cell: the inner cell, one whose inputs are vectors. A wrapper such as `Zoneout` belongs inside, around the
            recurrent cell.
        score: how well each step of the memory answers a query.
        memory_size: M, features of the memory.
    """

    cell: Any = node()
    score: Any = node()
    memory_size: int

    contextual = True

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell) or self.cell.event_ndim != 1:
            raise TypeError(f"`cell` must be a cell with inputs (*B, I), such as `rnnjax.GRU(128)`; got {self.cell!r}")
        if not isinstance(self.score, Score):
            raise TypeError(f"`score` must be a score, such as `rnnjax.AdditiveScore(128)`; got {self.score!r}")
        check_size("memory_size", self.memory_size)

    @property
    def hidden_size(self) -> int:  # type: ignore[override]
        return self.cell.hidden_size

    @property
    def compute_dtype(self) -> DTypeLike | None:  # type: ignore[override]
        return self.cell.compute_dtype

    @property
    def elapsed(self) -> bool:  # type: ignore[override]
        return self.cell.elapsed

    @property
    def query_size(self) -> int:
        """Q, features of what the inner cell emits, which is the query."""
        emitted = jax.eval_shape(self.cell.emit, abstract_state(self.cell, ()))
        parts = jax.tree.leaves(emitted)
        if any(part.ndim != 1 for part in parts) or not (is_array(emitted) or reads_out(self.cell)):
            raise TypeError(f"`cell` must emit one array (*B, Q), because it is the query; {self.cell!r} does not")
        return sum(part.shape[0] for part in parts)

    def remember(self, params: Params, source: Array | Source) -> Memory:
        """The memory with everything that depends on it alone, for a loop of calls with a few steps each.

        `context=` takes it in the place of the source. It is computed from these parameters: make a new one when they
        change, and one for each cell.

        Args:
            params: this cell's parameters.
            source: an array (S, *B, M), or a `Source`.

        Raises:
            ValueError, TypeError: for sizes and dtypes that do not fit.
        """
        source = as_source(source)
        if source.values.shape[-1] != self.memory_size:
            raise ValueError(
                f"`context` must be (S, *B, M) with M = {self.memory_size}, the `memory_size` of {self!r}; got shape "
                f"{tuple(source.values.shape)}"
            )
        values, mask, ids = rows_first(source)
        own = Dtypes.of(self.compute_dtype, params).cast(params.score)
        return Memory(self.score.keys(own, values), self.score.values(own, values), mask, ids)

    def prepare(self, params: Params, *, key: Key | None = None, context: Any = None) -> Prepared:
        if isinstance(context, Memory):
            self._check_memory(params, context)
        memory = context if isinstance(context, Memory) else self.remember(params, context)
        inner = self.cell.prepare(params.cell, key=key, context=context)
        return Prepared(params._replace(cell=inner), memory)

    def _check_memory(self, params: Params, memory: Memory) -> None:
        one = jnp.zeros((1, self.memory_size))
        wanted = jax.eval_shape(lambda own: (self.score.keys(own, one), self.score.values(own, one)), params.score)
        for name, want, have in zip(memory._fields, wanted, memory, strict=False):
            if have.ndim < 2 or have.shape[-1] != want.shape[-1] or have.shape[:-1] != memory.values.shape[:-1]:
                raise ValueError(
                    f"`context.{name}` must be (*B, S, {want.shape[-1]}), as `remember` of {self!r} makes it; got "
                    f"{describe(have)} with values {describe(memory.values)}: a memory belongs to the cell that made it"
                )

    def noise(self, key: Key, steps: int, batch_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Noise:
        return self.cell.noise(key, steps, batch_shape, dtype)

    def project(self, params: Prepared, x: Xs, noise: Noise = None) -> Z:
        """The inner cell's, of the inputs alone, where that is a product; else the inputs themselves."""
        if not is_array(x):
            if not self.elapsed:
                raise TypeError(f"`xs` of {type(self).__name__} must be one array (T, *B, I); got {type(x).__name__}")
            return with_elapsed(x)
        weights = self._input_weights(params)
        if weights is None:
            return x
        w, b = weights
        return project_gates(x, w[: x.shape[-1]], b, w.shape[-1] // self.hidden_size)

    def advance(self, params: Prepared, state: State, z: Z, more: Array, noise: Noise) -> State:
        """The inner cell's step with inputs [x; more], given what `project` made of x."""
        own, given = params.params.cell, () if noise is None else (noise,)
        weights = self._input_weights(params)
        if weights is None:
            x = jax.tree.map(lambda leaf: leaf[None], with_more(z, more))
            at_once = jax.tree.map(lambda leaf: leaf[None], given)
            z = jax.tree.map(lambda leaf: leaf[0], self.cell.project(own, x, *at_once))
        else:
            products = split_gates(dot(more, weights[0][weights[0].shape[0] - more.shape[-1] :]), len(z))
            z = tuple(a + b.astype(a.dtype) for a, b in zip(z, products, strict=True))
        return self.cell.step(own, state, z, *given)

    def output(self, params: Prepared, state: State, z: Z, more: Array) -> Array:
        """The inner cell's output (*B, O) of the state that `advance` came to, given the same z and more."""
        emitted = self.cell.emit(state)
        if not reads_out(self.cell):
            return emitted
        emitted, x = jax.tree.map(lambda leaf: leaf[None], (emitted, with_more(z, more)))
        return self.cell.readout(params.params.cell, emitted, x)[0]

    def _input_weights(self, params: Prepared) -> tuple[Array, Bias] | None:
        """Those of the inner cell, or None where a step has a use for the inputs themselves."""
        reads = self.elapsed or reads_out(self.cell)
        return None if reads else input_weights(self.cell, params.params.cell)

    def attend(self, params: Prepared, inner: State, before: Attended) -> Attended:
        """What is read with the query of an inner state."""
        query = joined(self.cell.emit(inner))
        context, alignment, heads = self.score.read(params.params.score, query, params.memory, before)
        alignment = alignment.astype(before.coverage.dtype)
        heads = None if heads is None else heads.astype(alignment.dtype)
        overlap = jnp.sum(jnp.minimum(alignment, before.coverage), axis=-1)
        return Attended(context, alignment, before.coverage + alignment, before.overlap + overlap, heads)

    def nothing_read(self, params: Prepared, batch_shape: tuple[int, ...], dtype: DTypeLike) -> Attended:
        """Before the first step: zeros, as many as the memory has steps."""
        if not isinstance(params, Prepared):
            raise ValueError(
                f"the state of {type(self).__name__} has a weight for every step of the memory, so that it begins with "
                "`cell.initial_state(cell.prepare(params, context=memory), batch_shape)`. Or pass `state=None`: with "
                "`xs[:0]`, a call returns the state before the first step"
            )
        *rows, steps, _ = params.memory.values.shape
        if tuple(rows) != batch_shape[: len(rows)]:
            batch_major = batch_shape[:1] == (steps,)
            mend = " It comes time first, also in the batch-major Flax modules: `jnp.swapaxes(encoded, 0, 1)`"
            raise ValueError(
                f"`context` must be (S, *B, M) whose batch axes are the first ones of `xs`; got *B = {tuple(rows)} for "
                f"inputs with the batch axes {batch_shape}.{mend if batch_major else ''}"
            )
        weights = jnp.zeros((*batch_shape, steps), dtype)
        return Attended(
            context=jnp.zeros((*batch_shape, self.memory_size), dtype),
            alignment=weights,
            coverage=weights,
            overlap=jnp.zeros(batch_shape, dtype),
            heads=None if self.score.heads is None else jnp.zeros((*batch_shape, self.score.heads, steps), dtype),
        )


def joined(emitted: Any) -> Array:
    """What a cell emits as one vector (…, Q)."""
    parts = jax.tree.leaves(emitted)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def with_more(x: Xs, more: Array) -> Xs:
    """Inputs [x; more], with the elapsed times beside x if there are any."""
    x, dt = with_elapsed(x)
    x = jnp.concatenate([x, more.astype(x.dtype)], axis=-1)
    return x if dt is None else (x, dt)
