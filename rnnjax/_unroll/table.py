"""The implementations in order of preference, and the choice among them."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from .._types import State
from . import associative, chunked, cpu, fused, scan
from .call import Call
from .newton import Newton


class Implementation(Protocol):
    """A module of this package, or an object, that runs a call. Where it `reads_out`, its `run` returns outputs,
    elsewhere what `emit` selects of every state."""

    name: str
    reads_out: bool

    def supports(self, call: Call) -> str | None: ...

    def prefer(self, call: Call) -> str | None: ...

    def run(self, call: Call) -> tuple[Any, State]: ...


Name: TypeAlias = str | Newton | None

TABLE: tuple[Implementation, ...] = (cpu, fused, chunked, associative, scan, Newton())


def names() -> tuple[str, ...]:
    """The names that `implementation=` takes."""
    return tuple(entry.name for entry in TABLE)


def check_name(name: Name) -> None:
    """Raises ValueError for a name that is not in the table."""
    if not (name is None or isinstance(name, Newton) or name in names()):
        raise ValueError(
            f"`implementation` must be None, one of {', '.join(map(repr, names()))} or a `rnnjax.Newton`; got {name!r}"
        )


def choose(call: Call, name: Name) -> Implementation:
    """The implementation of that name, or for None the first that can and would run the call.

    Raises:
        ValueError: if the named implementation cannot run it, with the reason.
    """
    if name is None:
        return next(entry for entry in TABLE if _cannot(entry, call) is None and entry.prefer(call) is None)
    entry = name if isinstance(name, Newton) else next(entry for entry in TABLE if entry.name == name)
    reason = _cannot(entry, call)
    if reason is not None:
        raise ValueError(f"`implementation={name!r}` cannot run this call: {reason}. `implementation=None` chooses one")
    return entry


def _cannot(entry: Implementation, call: Call) -> str | None:
    """Why it cannot run the call, or None. Plans are made of numbers: of symbolic sizes, as `jax.export` has them, only
    the reference makes none."""
    if entry is not scan and not all(isinstance(size, int) for size in (call.steps, *call.batch_shape)):
        return "sizes are symbolic"
    return entry.supports(call)


def explanation(call: Call, name: Name) -> str:
    """One line for each implementation: chosen or not, and why."""
    chosen = choose(call, name)
    lines = []
    for entry in TABLE:
        if entry.name == chosen.name:
            entry = chosen
        cannot = _cannot(entry, call)
        would_not = entry.prefer(call) if cannot is None else None
        if cannot is not None:
            verdict = f"cannot run it: {cannot}"
        elif entry is chosen:
            verdict = "chosen" + (" by name" if name is not None else ", the first that can and would")
        elif would_not is not None:
            verdict = f"can run it, but {would_not}"
        else:
            verdict = f"can run it; {chosen.name!r} was taken " + ("by name" if name is not None else "before it")
        lines.append(f"{'→' if entry is chosen else ' '} {entry.name:<12} {verdict}")
    return "\n".join(lines)
