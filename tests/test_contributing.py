"""The cell that CONTRIBUTING adds in three steps works: the steps are taken in a copy, and laws run over it there."""

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
EQUATION = """
import jax, jax.numpy as jnp, numpy as np, rnnjax as rj
cell = rj.Antisymmetric(4, epsilon=0.3, gamma=0.1)
params = cell.init(jax.random.key(0), 3)
xs = np.asarray(jax.random.normal(jax.random.key(1), (6, 3)))
w, u, b = map(np.asarray, params)
matrix = u - u.T - 0.1 * np.eye(4)
h, hs = np.zeros(4), []
for x in xs:
    h = h + 0.3 * np.tanh(x @ w + h @ matrix + b)
    hs.append(h)
np.testing.assert_allclose(rj.unroll(cell, params, jnp.asarray(xs))[0], hs, atol=1e-5)
np.testing.assert_allclose(np.linalg.eigvals(matrix).real, -0.1, atol=1e-5)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests with the three steps taken."""
    copy = tmp_path_factory.mktemp("contributing")
    for folder in ("rnnjax", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "goldens"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    steps = TITLED.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(steps) == 3
    for (name, code), apply in zip(steps, (add_file, add_export, add_row), strict=True):
        apply(copy / name, code)
    return copy


def add_file(path: Path, code: str) -> None:
    assert not path.exists()
    path.write_text(code, encoding="utf-8")


def add_export(path: Path, line: str) -> None:
    insert_after(r"^from \.cells import .*\n(?!from \.cells)", path, line)


def add_row(path: Path, row: str) -> None:
    insert_after(r"^CELLS: .* = \(\n", path, row)


def insert_after(pattern: str, path: Path, line: str) -> None:
    assert line.count("\n") == 1
    text = path.read_text(encoding="utf-8")
    found = list(re.finditer(pattern, text, re.MULTILINE))
    assert len(found) == 1
    path.write_text(text[: found[0].end()] + line + text[found[0].end() :], encoding="utf-8")


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


def test_equation_of_the_new_cell(copy: Path) -> None:
    (copy / "equation.py").write_text(EQUATION, encoding="utf-8")
    run(copy, "equation")


def test_new_file_is_formatted(copy: Path) -> None:
    run(copy, "ruff", "format", "--check", "rnnjax/cells", "rnnjax/__init__.py")
    run(copy, "ruff", "check", "rnnjax/cells/antisymmetric.py", "rnnjax/__init__.py")
