"""Imports point one way, and `import rnnjax` is light."""

from __future__ import annotations

import ast
import importlib.resources
import subprocess
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "rnnjax"

# a room may import from the rooms in earlier rows, and from itself
ROWS = (
    ("_struct", "_types", "_errors"),
    ("activations", "initializers", "_linear", "_products"),
    ("_cell",),
    ("_wrapper",),
    ("cells", "_unroll"),
    ("layers",),
    ("flax", "training", "decoding", "data", "testing"),
    ("diagnostics", "interop"),
    ("__main__",),
)
ROOM_OF = {"_laws": "testing"}
RANK = {room: rank for rank, rooms in enumerate(ROWS) for room in rooms}
LAZY = ("flax", "optax", "matplotlib")


@cache
def modules() -> dict[str, Path]:
    """Dotted names within the package; the package itself is the empty name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    first = module.split(".")[0]
    return ROOM_OF.get(first, first)


def imported(module: str, path: Path) -> set[str]:
    """Modules of the package that this one imports, in functions and under `TYPE_CHECKING` too."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    targets = set()
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.Import):
            names = [alias.name for alias in found.names]
            targets |= {
                name.removeprefix("rnnjax").removeprefix(".") for name in names if name.split(".")[0] == "rnnjax"
            }
        elif isinstance(found, ast.ImportFrom):
            base = (found.module or "").split(".")
            if found.level:
                base = [*package[: len(package) - found.level + 1], *filter(None, base)]
            elif base[0] == "rnnjax":
                base = base[1:]
            else:
                continue
            origin = ".".join(filter(None, base))
            inner = (".".join(filter(None, [origin, alias.name])) for alias in found.names)
            targets |= {name if name in modules() else origin for name in inner}
    return targets


def edges() -> list[tuple[str, str]]:
    found = [(module, target) for module, path in modules().items() if module for target in imported(module, path)]
    return [(module, target) for module, target in found if room(module) != room(target)]


def allowed(module: str, target: str) -> bool:
    if not target:  # the package itself, which only a command finds complete
        return room(module) == "__main__"
    return RANK[room(target)] < RANK[room(module)]


def test_every_module_has_a_room() -> None:
    assert {room(module) for module in modules() if module} <= set(RANK)


def test_imports_point_one_way() -> None:
    assert not [f"rnnjax.{module} imports rnnjax.{target}" for module, target in edges() if not allowed(module, target)]


def test_edges_are_found() -> None:
    found = set(edges())
    assert {("cells.lstm", "_cell"), ("_unroll.check", "_errors"), ("_cell", "_types")} <= found
    assert not allowed("_unroll.scan", "cells.lstm")
    assert not allowed("_cell", "_unroll")
    assert allowed("layers.rnn", "_unroll")
    assert allowed("__main__", "")
    assert not allowed("layers.rnn", "")


def test_import_is_light() -> None:
    code = f"import sys, rnnjax; print([name for name in {LAZY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"


def test_type_checkers_may_read_the_annotations() -> None:
    assert importlib.resources.files("rnnjax").joinpath("py.typed").is_file()
