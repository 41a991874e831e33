"""Where the kernels cannot be compiled the package is built without them, and `explain` says why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from packaging import tags

import rnnjax as rj
from rnnjax._unroll import kernels

ROOT = Path(__file__).resolve().parents[1]
SOURCES = Path("rnnjax") / "_unroll" / "kernels"
LIBRARY = SOURCES / "librnnjax_cpu.so"
REASON = SOURCES / "librnnjax_cpu.txt"

pytestmark = pytest.mark.skipif(
    not (ROOT / "hatch_build.py").exists(), reason="the kernels' sources are in the repository only"
)

FAILS = r"""#!/bin/sh
echo 'In file included from handlers.cc:3:' >&2
echo 'xla.h:7:10: fatal error: no such header' >&2
echo 'compilation terminated.' >&2
exit 1
"""
IS_SILENT = "#!/bin/sh\nexit 3\n"
WRITES_NOTHING = """#!/bin/sh
# an empty file of the name behind -o, which is the last word
for target; do :; done
: >"$target"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What a wheel is built from, with a library and a reason of an earlier build."""
    copy = tmp_path / "copy"
    names = shutil.ignore_patterns("__pycache__", "*.npz", "librnnjax_cpu.*")
    shutil.copytree(ROOT / "rnnjax", copy / "rnnjax", ignore=names)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    for name in (LIBRARY, REASON):
        (copy / name).write_text("of an earlier build")
    return copy


def compiler(folder: Path, script: str) -> str:
    """A program in the compiler's place."""
    program = folder / "compiler"
    program.write_text(script)
    program.chmod(0o755)
    return str(program)


def wheel(copy: Path, cxx: str, path: str | None = None) -> tuple[Path, str]:
    """Builds a wheel with a compiler. Returns where it is unpacked, and what the build printed."""
    variables = {**os.environ, "CXX": cxx} | ({} if path is None else {"PATH": path})
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(copy.parent / "wheels")],
        cwd=copy,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy.parent / "wheels").glob("*.whl")
    assert built.name.endswith("-none-any.whl") == (not (copy / LIBRARY).exists())
    site = copy.parent / "site"
    zipfile.ZipFile(built).extractall(site)
    return site, done.stdout + done.stderr


def explained(site: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the package at that place says of its kernels."""
    monkeypatch.setattr(kernels, "_LIBRARY", site / LIBRARY)
    monkeypatch.setattr(kernels, "load", kernels.load.__wrapped__)
    jax.clear_caches()  # an earlier test may have traced the same call, which would not ask for the library again
    cell = rj.LSTM(4)
    said = rj.explain(cell, cell.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))
    monkeypatch.undo()
    jax.clear_caches()
    return said.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cxx", "path", "reason"),
    [
        ("/nonexistent", None, "/nonexistent does not start: [Errno 2] No such file or directory: '/nonexistent'"),
        ("", "", "no C++ compiler was found; c++, g++ and clang++ were tried, CXX names another"),
        (FAILS, None, "{} failed: xla.h:7:10: fatal error: no such header"),
        (IS_SILENT, None, "{} failed: exit status 3"),
    ],
    ids=["does_not_start", "none", "fails", "is_silent"],
)
def test_the_reason_is_in_the_wheel(
    cxx: str, path: str | None, reason: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = compiler(tmp_path, cxx) if cxx.startswith("#!") else cxx
    site, printed = wheel(copy, program, path)
    reason = reason.format(program)
    assert f"rnnjax is built without its kernels for the CPU: {reason}" in printed
    assert ("compilation terminated." in printed) == (cxx == FAILS)
    assert not (site / LIBRARY).exists()
    assert explained(site, monkeypatch) == (
        "  cpu          cannot run it: it was installed without the native kernels, "
        f"because {reason}; once that is mended, install rnnjax again"
    )


def test_no_reason_is_left_where_compiling_works(copy: Path, tmp_path: Path) -> None:
    site, printed = wheel(copy, compiler(tmp_path, WRITES_NOTHING))
    assert "without its kernels" not in printed
    assert (site / LIBRARY).read_bytes() == b""
    assert not (site / REASON).exists()
    assert not (copy / REASON).exists()


def test_an_unknown_platform_is_a_reason(copy: Path) -> None:
    program = "import sys; sys.platform = 'plan9'; import hatch_build; hatch_build.build(hatch_build.Path())"
    done = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, text=True)
    assert done.stderr.endswith("Unavailable: the platform plan9 is unknown\n")


@pytest.mark.parametrize(
    ("system", "machine", "accepts"),
    [
        ("macosx-10.9-universal2", "arm64", tags.mac_platforms((14, 0), "arm64")),
        ("macosx-10.9-universal2", "x86_64", tags.mac_platforms((10, 15), "x86_64")),
        ("macosx-14.0-arm64", "arm64", tags.mac_platforms((14, 0), "arm64")),
        ("linux-x86_64", "x86_64", ["linux_x86_64"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pip_accepts_the_platform(
    system: str, machine: str, accepts: Iterable[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As python.org's Python for macOS names it, which has both architectures, and Homebrew's, which has one."""
    monkeypatch.setattr("sysconfig.get_platform", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build._platform() in list(accepts)
