"""`chunked`: associative and chunked cells, one chunk of time after another.

Within a chunk an associative cell runs a plain loop or all steps at once, a chunked one its own `chunk`. Products,
recurrence and readout of a chunk are formed together while it is in the cache, and again in the backward pass: over the
whole sequence only inputs and outputs exist. On a CPU the inner loop is the faster one.
"""

from __future__ import annotations

import math
from typing import Any

import jax

from .._types import State, default_platform
from .._wrapper import takes_chunks
from . import chunks, memories, transitions
from .call import Call, merge_noise, some

name = "chunked"
reads_out = True

_CHUNK_BYTES = 1 << 20
_LEAST_ROWS = 256
_SMALL_MEMORY = 8
"""Rows and columns of a matrix memory up to which a CPU reads and writes it faster than it forms a chunk's products."""
_MEDIUM_MEMORY = 16
"""Those up to which longer chunks cost a CPU more products than they save it of the memory."""


def supports(call: Call) -> str | None:
    """Why the call's steps cannot be taken together, or None."""
    if not takes_chunks(call.cell):
        return transitions.supports(call)
    return "there are no time steps" if call.steps == 0 else None


def prefer(call: Call) -> str | None:
    """Why another implementation is faster, or None."""
    if call.steps == 1:
        return "a single step has no loop to speed up"
    if takes_chunks(call.cell):
        rows, columns = _memory(call)
        if max(rows, columns) > _SMALL_MEMORY or default_platform() != "cpu":
            return None
        return f"a memory of {rows} × {columns} is read and written faster than the products of a chunk are formed"
    if default_platform() != "cpu":
        return f"the default device is a {default_platform()}, which has room for all steps at once"
    return None


def run(call: Call) -> tuple[Any, State]:
    """Outputs (T, *B, O) and the last state."""
    if takes_chunks(call.cell):
        kept = length(call)
        return memories.run(call, min(kept, _memory_steps(call)), kept)
    return transitions.in_pieces(call, "loop" if default_platform() == "cpu" else "parallel", length(call))


def length(call: Call) -> int:
    """Steps in a chunk: what `remat` says, or as many as stay in the cache and give products enough rows."""
    if call.remat not in (None, "state"):
        return chunks.length(call.steps, call.remat)
    if takes_chunks(call.cell):
        return _memory_steps(call)
    noise = merge_noise(call.flow.noise, call.constant_noise)
    z = jax.eval_shape(lambda p, x, n: call.cell.project(p, x, *some(n)), call.params, call.flow.xs, noise)
    bytes_a_step = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(z)) // call.steps
    rows = max(1, math.prod(call.batch_shape))
    return chunks.even_length(call.steps, max(_CHUNK_BYTES // max(1, bytes_a_step), -(-_LEAST_ROWS // rows), 8))


def _memory_steps(call: Call) -> int:
    """Steps in a chunk of a matrix memory: a power of two, to which cells pad what they halve; an even length that is
    none is slower than a shorter last chunk."""
    if default_platform() != "cpu":
        return 64
    return 32 if max(_memory(call)) > _MEDIUM_MEMORY else 16


def _memory(call: Call) -> tuple[int, int]:
    """Rows and columns of a matrix memory, which of the arrays of a state has the most axes and numbers."""
    memory = max(jax.tree.leaves(call.state), key=lambda leaf: (leaf.ndim, leaf.size))
    rows, columns = memory.shape[-2:]
    return rows, columns
