"""The cell that CONTRIBUTING adds in four steps works: the steps are taken in a copy, and tests run over it there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TITLED = re.compile(r'^```python title="(.+?)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LAWS = (
    "value",
    "steps_in_a_loop",
    "derivatives",
    "same_as_scan",
    "chunks",
    "masked_tail",
    "masked_hole",
    "reset_splits",
    "padding",
    "direction",
    "leaves",
    "traces",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests with the four steps taken."""
    copy = tmp_path_factory.mktemp("contributing")
    for folder in ("rnnjax", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "goldens"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    steps = TITLED.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    apply_each = (add_file, add_exports, add_export, add_row, add_transcription, add_reference)
    for (name, code), apply in zip(steps, apply_each, strict=True):
        apply(copy / name, code)
    return copy


def add_file(path: Path, code: str) -> None:
    assert not path.exists()
    path.write_text(code, encoding="utf-8")


def add_exports(path: Path, lines: str) -> None:
    insert_after(r"^from \.active_units import .*\n", path, lines)


def add_export(path: Path, line: str) -> None:
    insert_after(r"^from \.cells import ActiveUnits .*\n", path, line)


def add_row(path: Path, row: str) -> None:
    insert_after(r"^CELLS: .* = \(\n", path, row)


def add_transcription(path: Path, code: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n\n" + code, encoding="utf-8")


def add_reference(path: Path, line: str) -> None:
    insert_after(r"^REFERENCES: .* = \{\n", path, line)


def insert_after(pattern: str, path: Path, lines: str) -> None:
    text = path.read_text(encoding="utf-8")
    found = list(re.finditer(pattern, text, re.MULTILINE))
    assert len(found) == 1
    path.write_text(text[: found[0].end()] + lines + text[found[0].end() :], encoding="utf-8")


def run(copy: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_laws_hold_for_the_new_cell(copy: Path) -> None:
    laws = [f"tests/laws/test_{name}.py" for name in LAWS]
    output = run(
        copy, "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "antisymmetric", *laws, "rnnjax/cells"
    )
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) > 2 * len(LAWS), output


@pytest.mark.slow
def test_equation_of_the_new_cell(copy: Path) -> None:
    output = run(
        copy,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "antisymmetric or transcription",
        "tests/test_equations.py",
    )
    assert "3 passed" in output, "the cell in `scan` and `fused`, and that every cell has a transcription"


def test_new_code_is_formatted(copy: Path) -> None:
    package = ("rnnjax/cells/antisymmetric.py", "rnnjax/cells/__init__.py", "rnnjax/__init__.py")
    changed = (*package, "tests/references.py", "tests/test_equations.py")
    run(copy, "ruff", "format", "--check", *changed)
    run(copy, "ruff", "check", *changed)
