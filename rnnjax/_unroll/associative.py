"""`associative`: associative cells, all time steps at once by a parallel scan over their transitions."""

from __future__ import annotations

from typing import Any

from .._types import State, default_platform
from . import chunked, transitions
from .call import Call
from .transitions import supports as supports

name = "associative"
reads_out = True


def prefer(call: Call) -> str | None:
    """Why another implementation is faster, or None."""
    if call.steps == 1:
        return "a single step has no loop to speed up"
    if default_platform() == "cpu":
        return "on a CPU a loop over chunks in the cache is faster and stores less"
    return None


def run(call: Call) -> tuple[Any, State]:
    """Outputs (T, *B, O) and the last state. With `remat`, at once means within each chunk."""
    length = call.steps if call.remat is None else chunked.length(call)
    return transitions.in_pieces(call, "parallel", length)
