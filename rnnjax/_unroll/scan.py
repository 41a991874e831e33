"""`scan`: the reference. `lax.scan` of the cell's `step`, differentiated by JAX; every transformation works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from .._types import Noise, Params, State
from . import chunks
from .call import Call, Flow, at_step, merge_noise, some
from .lift import hold, where

name = "scan"
reads_out = False


def supports(call: Call) -> str | None:
    """It runs everything."""
    return None


def prefer(call: Call) -> str | None:
    """Whatever reaches it takes it."""
    return None


def run(call: Call) -> tuple[Any, State]:
    """Emitted values (T, *B, …) and the last state."""
    # of a number of steps that is a symbol, as `jax.export` has it, there are no chunks
    if call.remat is None or not isinstance(call.steps, int):
        state, emitted = _run_chunk(call, call.state, call.flow)
        return emitted, state
    step = jax.checkpoint(lambda state, flow: _run_chunk(call, state, flow), prevent_cse=False)
    parts = chunks.split(call.flow, call.steps, chunks.length(call.steps, call.remat), call.reverse)
    state, emitted = chunks.scan(step, call.state, parts, call.reverse)
    return chunks.join(emitted, call.reverse), state


def _run_chunk(call: Call, state: State, flow: Flow) -> tuple[State, Any]:
    cell, constant = call.cell, at_step(call.constant_noise)
    z = call.project(flow)

    def body(state: State, inputs: Any) -> tuple[State, Any]:
        state = step(cell.step, call.dtypes.cast(call.params), call.boundary, constant, state, inputs)
        return state, cell.emit(state)

    return lax.scan(body, state, (z, flow.noise, flow.mask, flow.reset), reverse=call.reverse)


def step(
    take: Callable[..., State], params: Params, boundary: State | None, constant: Noise, state: State, inputs: Any
) -> State:
    """The state after a step with its mask and reset. `take` is the cell's `step`, `constant` the noise that all steps
    share, and `inputs` are z, noise, mask and reset of this one."""
    z_t, noise_t, mask_t, reset_t = inputs
    old = where(reset_t, boundary, state)
    new = take(params, old, z_t, *some(merge_noise(noise_t, constant)))
    new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)
    return hold(mask_t, new, old)
