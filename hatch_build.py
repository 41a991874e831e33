"""Compiles the kernels for the CPU where a C++ compiler is at hand. Without one the package has all but them."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, outside of a build
    BuildHookInterface = object  # type: ignore[assignment, misc]

SOURCES = Path("rnnjax") / "_unroll" / "kernels"
LIBRARY = SOURCES / "librnnjax_cpu.so"
REASON = LIBRARY.with_suffix(".txt")
"""Why there is no library, for `explain` to say."""
# -O2, not -O3, which takes the loads of the products' inner loop apart again
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi"]
VARIANTS = {
    "avx512": (64, ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"]),
    "avx2": (32, ["-mavx2", "-mfma"]),
    "portable": (16, []),
}


class KernelsHook(BuildHookInterface):  # pyright: ignore[reportGeneralTypeIssues]
    """Adds the library to the wheel, whose tag then names the platform; any Python can load it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            build(root)
        except Unavailable as reason:
            (root / LIBRARY).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # sources that cannot be written to
                (root / REASON).write_text(str(reason), encoding="utf-8")
                build_data["force_include"][str(root / REASON)] = str(REASON)
            details = "\n".join([str(reason), *getattr(reason, "__notes__", [])])
            self.app.display_warning(f"rnnjax is built without its kernels for the CPU: {details}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"
        build_data["force_include"][str(root / LIBRARY)] = str(LIBRARY)


class Unavailable(Exception):
    """Why the kernels cannot be compiled here, in one line; the compiler's own words are a note."""


def compiler() -> list[str]:
    """The command of the C++ compiler, as `CXX="ccache g++"` may say it in several words.

    Raises:
        Unavailable: if there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or [program for program in map(shutil.which, ("c++", "g++", "clang++")) if program][:1]
    if not found:
        raise Unavailable("no C++ compiler was found; c++, g++ and clang++ were tried, CXX names another")
    return found


def variants() -> tuple[str, ...]:
    """The instruction sets that the kernels are compiled for on this kind of machine."""
    return tuple(VARIANTS) if _x86() else ("portable",)


def variant_flags(name: str) -> list[str]:
    """The compiler's flags for one of them."""
    width, flags = VARIANTS[name]
    return [f"-DRNNJAX_VARIANT={name}", f"-DRNNJAX_VECTOR_BYTES={width}", *flags]


def platform_flags() -> list[str]:
    """The compiler's flags that make true what the wheel's tag promises: the oldest macOS that it runs on."""
    oldest = _oldest_macos()
    return [] if oldest is None else [f"-mmacosx-version-min={oldest}"]


def build(root: Path, extra: tuple[str, ...] = ()) -> None:
    """Compiles the library into the source tree, all variants side by side.

    Raises:
        Unavailable: without a compiler, without XLA's headers, on an unknown platform, or if compiling fails.
    """
    if sys.platform not in ("linux", "darwin"):
        raise Unavailable(f"the platform {sys.platform} is unknown")
    program = compiler()
    try:
        import jaxlib
    except ImportError as error:
        raise Unavailable("jaxlib, whose headers are needed, is not there") from error
    headers = Path(jaxlib.__file__).parent / "include"
    fingerprint = runpy.run_path(str(root / SOURCES / "fingerprint.py"))["fingerprint"](root / SOURCES)
    defines = [f'-DRNNJAX_FINGERPRINT="{fingerprint}"', *(["-DRNNJAX_X86"] if _x86() else [])]
    jobs = {"handlers": [*defines, "-isystem", str(headers), "handlers.cc"]}
    jobs |= {name: [*variant_flags(name), "variant.cc"] for name in variants()}

    extra = (*platform_flags(), *extra)
    with TemporaryDirectory() as objects, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile_one(name: str) -> str:
            target = str(Path(objects) / f"{name}.o")
            _run([*program, *FLAGS, *extra, "-c", *jobs[name], "-o", target], root / SOURCES)
            return target

        targets = list(pool.map(compile_one, jobs))
        # under another name first: a library that is loaded must not change
        fresh = root / LIBRARY.with_suffix(".new")
        _run([*program, "-shared", *extra, *targets, "-o", str(fresh)], root)
        fresh.replace(root / LIBRARY)
        (root / REASON).unlink(missing_ok=True)


def _platform() -> str:
    """The platform as a wheel's tag has it. macOS names two architectures where Python has both, and the kernels have
    one."""
    name = sysconfig.get_platform().replace("universal2", platform.machine())
    return re.sub(r"^macosx-[\d.]+", f"macosx-{_oldest_macos()}", name).replace("-", "_").replace(".", "_")


def _oldest_macos() -> str | None:
    """The oldest macOS that the library runs on: Python's own, or what MACOSX_DEPLOYMENT_TARGET says. arm64 begins at
    11.0, and from there on tags have no minor versions. None on other platforms."""
    python = re.match(r"macosx-([\d.]+)", sysconfig.get_platform())
    if python is None:
        return None
    named = os.environ.get("MACOSX_DEPLOYMENT_TARGET") or python[1]
    major, minor = [*map(int, named.split(".")), 0][:2]
    if platform.machine() == "arm64":
        major = max(major, 11)
    return f"{major}.{minor if major == 10 else 0}"


def _x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _run(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(f"{command[0]} does not start: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        failure = Unavailable(f"{command[0]} failed: {next((line for line in lines if 'error' in line), lines[-1])}")
        failure.add_note(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        raise failure


if __name__ == "__main__":
    build(Path(__file__).parent, tuple(sys.argv[1:]))
