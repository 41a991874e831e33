"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

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


@pytest.mark.slow
@pytest.mark.skipif(not kernels.load().variants, reason=kernels.load().reason or "")
@pytest.mark.parametrize(
    ("variant", "late"),
    # the threads of a pair wait for each other in the same way whatever the instruction set
    [("avx512", False), ("avx2", False), ("portable", True)],
    ids=["avx512", "avx2", "portable_late"],
)
def test_no_kernel_leaves_its_memory(variant: str, late: bool, tmp_path: Path) -> None:
    if variant not in kernels.load().variants:
        pytest.skip(f"this machine has {', '.join(kernels.load().variants)}")
    build = recipe()
    # without any patience, the second thread of a pair is always late
    patience = ["-DRNNJAX_PATIENCE=-1000000"] if late else []
    sanitizers = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    objects = []
    for source in (ROOT / build.SOURCES / "variant.cc", Path(__file__).with_name("sanitize.cc")):
        objects.append(str(tmp_path / f"{source.stem}.o"))
        flags = [*build.FLAGS, *build.variant_flags(variant), *sanitizers, *patience, "-I", str(ROOT / build.SOURCES)]
        subprocess.run([*build.compiler(), *flags, "-c", str(source), "-o", objects[-1]], check=True)
    program = tmp_path / "sanitize"
    subprocess.run([*build.compiler(), *sanitizers, *objects, "-pthread", "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout == "0 failures\n"
