"""What is installed, what it runs on and where to read on: `python -m rnnjax`."""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import jax.numpy as jnp

import rnnjax as rj

from ._unroll import kernels

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# one for each implementation that is chosen on a CPU where all of them can run
CELLS = (rj.LSTM(8), rj.MGU(8), rj.MinGRU(8), rj.IndRNN(8))
SOURCE = Path(__file__).resolve().parents[1]


def report(source: Path = SOURCE) -> str:
    """Everything that the command prints; `source` is the folder that has the examples and the documentation."""
    parts = (
        ("versions", versions()),
        ("devices", devices()),
        ("native kernels", native()),
        ("implementations", implementations()),
        ("examples", titles(source / "examples", "*.py")),
        ("documentation", titles(source / "docs", "*.md")),
    )
    return "\n\n".join("\n".join([name, *(f"  {line}" for line in lines)]) for name, lines in parts)


def versions() -> Iterator[str]:
    yield f"{'rnnjax':<8} {rj.__version__}"
    yield f"{'python':<8} {platform.python_version()}"
    for package in PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        yield f"{package:<8} {found}"


def devices() -> Iterator[str]:
    for device in jax.devices():
        yield f"{device.platform}:{device.id}  {device.device_kind}"


def native() -> Iterator[str]:
    """The instruction sets for which there is native code, or why there is none."""
    variants, reason = kernels.load()
    yield reason or f"{', '.join(variants)}: the first is used"


def implementations() -> Iterator[str]:
    """What runs a cell here, and why: one that has a kernel, a gated one that has none, one that runs in parallel over
    time, and one that is none of these."""
    for cell in CELLS:
        params = cell.init(jax.random.key(0), 4)
        yield f"{cell!r}"
        yield from (f"  {line}" for line in rj.explain(cell, params, jnp.ones((16, 2, 4))).splitlines())


def titles(folder: Path, pattern: str) -> Iterator[str]:
    """The folder and its files, each with its first line; or where they are if they are not beside the package."""
    # beside an installed package are others, which may have folders of these names
    of_source = (folder.parent / "rnnjax").is_dir() and (folder.parent / "pyproject.toml").is_file()
    if not (of_source and folder.is_dir()):
        yield f"not beside this installation: in the folder `{folder.name}` of the source"
        return
    yield str(folder)
    for path in sorted(folder.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        title = ast.get_docstring(ast.parse(text)) if path.suffix == ".py" else text.lstrip("# ")
        yield f"  {path.name:<20} {(title or '').partition(chr(10))[0]}"


if __name__ == "__main__":
    print(report())
