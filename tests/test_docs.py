"""The documents hold: their Python runs, the table of precision is true, and the README's tables come from the code."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from descriptors import NATIVE

import rnnjax as rj

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# the package under test, wherever it is
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(rj.__file__).parents[1])}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(path: Path, tmp_path: Path) -> None:
    """The blocks of a document are one program, in a process of its own without the tests' settings. A block with a
    title is a file, and no part of it."""
    text = path.read_text(encoding="utf-8")
    program = ""
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        program += "\n" * (line - program.count("\n")) + block[1]
    (tmp_path / path.name).write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", path.name]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def table_rows(page: str) -> list[tuple[str, ...]]:
    """The rows of all tables of a page, heads among them, each as long as the head of its table."""
    rows: list[tuple[str, ...]] = []
    columns = 0
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        row = tuple(cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|"))
        columns = columns or len(row)
        assert len(row) == columns, f"docs/{page}: {len(row)} cells in a table of {columns} columns: {line}"
        rows.append(row)
    return rows


def precision_rows() -> list[tuple[str, ...]]:
    return table_rows("precision.md")[2:]


@pytest.mark.parametrize("implementation", NATIVE)
@pytest.mark.parametrize("row", precision_rows(), ids="-".join)
def test_precision_table(row: tuple[str, ...], implementation: str) -> None:
    xs_dtype, params_dtype, compute, ys_dtype, state_dtype = row
    cell = rj.LSTM(3, compute_dtype=None if compute == "None" else compute)

    def loss(params: object) -> tuple[jax.Array, tuple[jax.Array, object]]:
        ys, state = rj.unroll(cell, params, jnp.ones((4, 2), xs_dtype), implementation=implementation)
        return ys.astype("float32").sum(), (ys, state)

    with jax.enable_x64("float64" in row):
        params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 2, dtype=params_dtype))
        if ys_dtype == "TypeError":
            with pytest.raises(TypeError, match="floating point"):
                jax.eval_shape(loss, params)
            return
        gradient, (ys, state) = jax.eval_shape(jax.grad(loss, has_aux=True), params)
    assert ys.dtype == ys_dtype
    assert {leaf.dtype.name for leaf in state} == {state_dtype}
    assert {leaf.dtype.name for leaf in gradient} == {params_dtype}


def test_precision_table_has_every_dtype() -> None:
    assert len(precision_rows()) >= 12
    assert {row[0] for row in precision_rows()} >= {"float32", "bfloat16", "float16", "float64", "int32"}


@pytest.mark.slow
def test_readme_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "tools" / "readme.py"))["main"]
    assert main(["--check"]) == 0, capsys.readouterr().out


OPTIONS: dict[str, dict[str, Any]] = {
    "ProjectionLSTM": {"proj_size": 3},
    "ConvLSTM": {"spatial_shape": (5, 4), "kernel_size": (3, 2)},
    "CfC": {"backbone_size": 7},
    "SLSTM": {"heads": 2},
    "MLSTM": {"heads": 2},
    "GLA": {"heads": 2, "key_size": 3, "rank": 4},
    "DeltaNet": {"heads": 2, "key_size": 3},
    "GatedDeltaNet": {"heads": 2, "key_size": 3},
}
"""Those of cells whose parameters depend on more than I and H, as `LETTERS` says."""
LETTERS = {"I": 6, "H": 8, "P": 3, "K": 6, "M": 7, "N": 2, "R": 4}


def choosing_rows() -> list[tuple[str, ...]]:
    return [row for row in table_rows("choosing.md") if row[0].startswith("`")]


@pytest.mark.parametrize("row", [row for row in choosing_rows() if len(row) == 5], ids=lambda row: row[0].strip("`"))
def test_costs_in_the_table_of_cells(row: tuple[str, ...]) -> None:
    name, _, numbers, over_time, _ = row
    name = name.strip("`")
    cell = getattr(rj, name)(LETTERS["H"], **OPTIONS.get(name, {}))
    in_size = LETTERS["H"] if name in ("SRU", "RGLRU") else LETTERS["I"]
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_size))
    letters = LETTERS | {"D": 4 if name == "SLSTM" else 3}
    assert eval(numbers.replace("·", "*"), letters) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert over_time == ("at once" if cell.capability in ("associative", "chunked") else "one by one")


def test_every_cell_has_a_row_that_says_why() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "readme.py"))
    named = [name for row in choosing_rows() for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(cls.__name__ for cls in tool["exported"]())
    assert not [row[0] for row in choosing_rows() if not re.search(r"measured|papers?: ", row[-1])]


def test_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name}" not in text]


def test_readme_sets_up_in_two_commands() -> None:
    """`.ci/run` takes the first block of shell commands and runs its lines word for word."""
    block = re.search(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert block is not None
    commands = block[1].splitlines()
    assert len(commands) == 2
    assert "pip install -e" in commands[0]
    assert "examples/quickstart.py" in commands[0]
    assert "pytest" in commands[1]
