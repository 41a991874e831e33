"""How the kernels are compiled. Where they cannot be, or are not those of the sources, `explain` says why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest
from packaging import tags
from packaging.requirements import Requirement

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


def recipe() -> ModuleType:
    """The package's own build."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Lets the package find its library at that place."""

    def take(site: Path) -> None:
        monkeypatch.setattr(kernels, "_LIBRARY", site / LIBRARY)
        monkeypatch.setattr(kernels, "load", kernels.load.__wrapped__)
        jax.clear_caches()  # an earlier test may have traced the same call, which would not ask for the library again

    yield take
    monkeypatch.undo()
    jax.clear_caches()


CELL, XS = rj.LSTM(4), jnp.ones((5, 2, 3))
PARAMS = CELL.init(jax.random.key(0), 3)


def explained() -> str:
    """What the package says of its kernels."""
    return rj.explain(CELL, PARAMS, XS).splitlines()[0]


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
    cxx: str, path: str | None, reason: str, copy: Path, tmp_path: Path, take: Callable[[Path], None]
) -> None:
    program = compiler(tmp_path, cxx) if cxx.startswith("#!") else cxx
    site, printed = wheel(copy, program, path)
    reason = reason.format(program)
    assert f"rnnjax is built without its kernels for the CPU: {reason}" in printed
    assert ("compilation terminated." in printed) == (cxx == FAILS)
    assert not (site / LIBRARY).exists()
    take(site)
    assert explained() == (
        "  cpu          cannot run it: it was installed without the native kernels, "
        f"because {reason}; once that is mended, install rnnjax again"
    )


def test_no_reason_is_left_where_compiling_works(copy: Path, tmp_path: Path) -> None:
    site, printed = wheel(copy, compiler(tmp_path, WRITES_NOTHING))
    assert "without its kernels" not in printed
    assert (site / LIBRARY).read_bytes() == b""
    assert not (site / REASON).exists()
    assert not (copy / REASON).exists()


@pytest.mark.skipif(not kernels._LIBRARY.exists(), reason="the kernels are not compiled")
def test_the_library_is_that_of_the_sources() -> None:
    assert kernels.load().reason is None


needs_kernels = pytest.mark.skipif(not kernels.load().variants, reason=kernels.load().reason or "")


@needs_kernels
@pytest.mark.parametrize(
    "changed", [pytest.param(True, id="changed", marks=pytest.mark.slow), pytest.param(False, id="nameless")]
)
def test_a_library_of_other_sources_is_not_taken(changed: bool, tmp_path: Path, take: Callable[[Path], None]) -> None:
    shutil.copytree(ROOT / SOURCES, tmp_path / SOURCES)
    if changed:
        header = tmp_path / SOURCES / "crew.h"
        header.write_text(header.read_text(encoding="utf-8") + "// a comment\n", encoding="utf-8")
    else:  # as one that was compiled before libraries knew their sources
        library = str(tmp_path / LIBRARY)
        subprocess.run([*recipe().compiler(), "-shared", "-x", "c++", os.devnull, "-o", library], check=True)

    def program() -> str:
        return str(jax.make_jaxpr(partial(rj.unroll, CELL))(PARAMS, XS))

    assert "rnnjax_cpu_forward" in program()
    take(tmp_path)
    assert "rnnjax_cpu_forward" not in program()
    assert explained() == (
        "  cpu          cannot run it: its native kernels were compiled from other sources than those beside them; "
        "run `python hatch_build.py` in the repository, or install rnnjax again"
    )


@needs_kernels
def test_a_library_without_sources_is_taken(
    tmp_path: Path, take: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SOURCES).mkdir(parents=True)
    shutil.copy(ROOT / LIBRARY, tmp_path / SOURCES)
    monkeypatch.setattr("jax.ffi.register_ffi_target", lambda *_, **__: None)  # XLA takes a name once
    take(tmp_path)
    assert kernels.load().variants


def test_an_unknown_platform_is_a_reason(copy: Path) -> None:
    program = "import sys; sys.platform = 'plan9'; import hatch_build; hatch_build.build(hatch_build.Path())"
    done = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, text=True)
    assert done.stderr.endswith("Unavailable: the platform plan9 is unknown\n")


MACS = [
    ("macosx-10.9-universal2", "arm64", None, "11.0", tags.mac_platforms((14, 0), "arm64")),
    ("macosx-10.9-universal2", "x86_64", None, "10.9", tags.mac_platforms((10, 15), "x86_64")),
    ("macosx-14.0-arm64", "arm64", None, "14.0", tags.mac_platforms((14, 0), "arm64")),
    ("macosx-10.13-universal2", "x86_64", "10.15", "10.15", tags.mac_platforms((10, 15), "x86_64")),
    ("macosx-10.13-universal2", "arm64", "10.15", "11.0", tags.mac_platforms((11, 0), "arm64")),
    ("macosx-10.13-universal2", "arm64", "12", "12.0", tags.mac_platforms((12, 0), "arm64")),
    ("macosx-10.13-universal2", "x86_64", "13.3", "13.0", tags.mac_platforms((14, 0), "x86_64")),
]
"""As python.org's Python for macOS names the platform, which has both architectures, and Homebrew's, which has one; and
what MACOSX_DEPLOYMENT_TARGET says. The oldest macOS, and what pip accepts."""


@pytest.mark.parametrize(
    ("system", "machine", "target", "oldest", "accepts"),
    [*MACS, ("linux-x86_64", "x86_64", "12.0", None, ["linux_x86_64"])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pip_accepts_the_platform_and_the_library_runs_on_it(
    system: str,
    machine: str,
    target: str | None,
    oldest: str | None,
    accepts: Iterable[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(system, machine, target, monkeypatch)
    assert recipe()._platform() in list(accepts)
    assert recipe().platform_flags() == ([] if oldest is None else [f"-mmacosx-version-min={oldest}"])


def on(system: str, machine: str, target: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_platform", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.delenv("MACOSX_DEPLOYMENT_TARGET", raising=False)
    if target is not None:
        monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", target)


def test_the_compiler_is_told_the_platform(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("macosx-10.9-universal2", "arm64", None, monkeypatch)
    said = tmp_path / "said"
    monkeypatch.setenv("CXX", compiler(tmp_path, WRITES_NOTHING + f'echo "$@" >> {said}\n'))
    recipe().build(copy)
    commands = said.read_text().splitlines()
    assert len(commands) == 3  # what XLA calls, the portable kernels, and the library of both
    assert all(" -mmacosx-version-min=11.0 " in command for command in commands)


def test_every_python_has_headers_to_build_with() -> None:
    """jaxlib 0.10 has wheels for Python 3.11 to 3.14, and 0.11 is the first for 3.15."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [Requirement(line) for line in project["build-system"]["requires"] if line.startswith("jaxlib")]
    for minor in range(11, 17):
        python = {"python_version": f"3.{minor}"}
        (jaxlib,) = [one for one in needed if one.marker is None or one.marker.evaluate(python)]
        allowed = [
            version for version in ("0.9.2", "0.10.0", "0.10.2", "0.11.1", "0.12.0") if version in jaxlib.specifier
        ]
        assert allowed == (["0.10.0", "0.10.2"] if minor < 15 else ["0.10.0", "0.10.2", "0.11.1", "0.12.0"])
