"""The kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from rnnjax._unroll import kernels

ROOT = Path(__file__).resolve().parents[2]


def recipe() -> ModuleType:
    """The package's own build, which knows compiler and flags."""
    path = ROOT / "hatch_build.py"
    if not path.exists():
        pytest.skip("the kernels' sources are in the repository only")
    spec = importlib.util.spec_from_file_location("hatch_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_compiler_may_be_several_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache 'my g++' -pthread")
    assert recipe().compiler() == ["ccache", "my g++", "-pthread"]
    monkeypatch.setenv("CXX", "")
    assert len(recipe().compiler()) == 1
    monkeypatch.setenv("PATH", "")
    with pytest.raises(recipe().Unavailable.__base__, match=r"no C\+\+ compiler was found; .* CXX names another"):
        recipe().compiler()


LATE = "-DRNNJAX_PATIENCE=-1000000"
"""Without any patience, the second thread of a pair is always late."""


def run(main: str, variant: str, flags: list[str], folder: Path) -> None:
    """Compiles a program of this folder with the kernels of one instruction set; it must find nothing."""
    if variant not in kernels.load().variants:
        pytest.skip(f"this machine has {', '.join(kernels.load().variants)}")
    build = recipe()
    objects = []
    for source in (ROOT / build.SOURCES / "variant.cc", Path(__file__).with_name(main)):
        objects.append(str(folder / f"{source.stem}.o"))
        common = [*build.FLAGS, *build.variant_flags(variant), "-O1", *flags, "-I", str(ROOT / build.SOURCES)]
        subprocess.run([*build.compiler(), *common, "-c", str(source), "-o", objects[-1]], check=True)
    program = folder / "program"
    subprocess.run([*build.compiler(), *flags, *objects, "-pthread", "-o", str(program)], check=True)
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout == "0 failures\n"


needs_kernels = pytest.mark.skipif(not kernels.load().variants, reason=kernels.load().reason or "")


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize(
    ("variant", "patience"),
    # the threads of a pair wait for each other in the same way whatever the instruction set
    [("avx512", []), ("avx2", []), ("portable", [LATE])],
    ids=["avx512", "avx2", "portable_late"],
)
def test_no_kernel_leaves_its_memory(variant: str, patience: list[str], tmp_path: Path) -> None:
    run("sanitize.cc", variant, ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", *patience], tmp_path)


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("patience", [[], [LATE]], ids=["in_time", "late"])
def test_threads_do_not_race(patience: list[str], tmp_path: Path) -> None:
    run("threads.cc", "portable", ["-fsanitize=thread", *patience], tmp_path)
