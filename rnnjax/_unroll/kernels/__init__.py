"""The native kernels: finding, loading and registering their library, and the calls that it offers."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax

from .fingerprint import fingerprint

_LIBRARY = Path(__file__).parent / "librnnjax_cpu.so"
_TARGETS = {
    "rnnjax_forward": "rnnjax_cpu_forward",
    "rnnjax_backward": "rnnjax_cpu_backward",
    "rnnjax_climb": "rnnjax_cpu_climb",
}


class Loaded(NamedTuple):
    """The library's instruction sets that this machine has, best first, by their numbers; or why there are none."""

    variants: dict[str, int]
    reason: str | None


@cache
def load() -> Loaded:
    """Registers the kernels with XLA, once."""
    if not _LIBRARY.exists():
        return Loaded({}, f"it was installed without the native kernels{_because()}")
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        if _stale(library):
            return Loaded(
                {},
                "its native kernels were compiled from other sources than those beside them; "
                "run `python hatch_build.py` in the repository, or install rnnjax again",
            )
        for symbol, name in _TARGETS.items():
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        return Loaded({}, f"its native kernels do not load: {error}")
    library.rnnjax_variant.restype = ctypes.c_char_p
    library.rnnjax_variant.argtypes = [ctypes.c_int64]
    variants, index = {}, 0
    while (name := library.rnnjax_variant(index)) is not None:
        if name:
            variants[name.decode()] = index
        index += 1
    return Loaded(variants, None)


def _stale(library: ctypes.CDLL) -> bool:
    """Whether the sources have changed since, where they lie beside the library, as in a checkout."""
    found = fingerprint(_LIBRARY.parent)
    if found is None:
        return False
    if not hasattr(library, "rnnjax_fingerprint"):  # of a version before there was one
        return True
    library.rnnjax_fingerprint.restype = ctypes.c_char_p
    return library.rnnjax_fingerprint() != found.encode()


def _because() -> str:
    """What the build wrote in the library's place, and what to do."""
    reason = _LIBRARY.with_suffix(".txt")
    if not reason.exists():
        return "; with a C++ compiler, install rnnjax again"
    return f", because {reason.read_text(encoding='utf-8')}; once that is mended, install rnnjax again"


def variant() -> int:
    """The number of the instruction set to use: the best."""
    return next(iter(load().variants.values()))
