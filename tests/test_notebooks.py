"""Each notebook is its percent script, and runs from top to bottom."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
MAX_BYTES = 700_000
DATA = {
    "02-names": ["names_by_language"],
    "04-forecasting": ["ett_hourly"],
    "09-why-scottish": ["names_by_language"],
    "16-dialogue": ["snips_nlu", "camrest676"],
    "17-sentiment": ["nltk_sentence_polarity"],
}

pytestmark = pytest.mark.slow
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_every_notebook_has_its_script():
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in SCRIPTS]
    assert NOTEBOOKS


@by_name
def test_notebook_and_script_agree(path):
    notebook, script = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]


@by_name
def test_outputs_are_there_and_small(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < MAX_BYTES


@by_name
# the kernel's own libraries warn of things that no notebook can mend
@pytest.mark.filterwarnings("ignore:::jupyter_client", "ignore:::zmq", "ignore:::traitlets")
def test_notebook_runs_from_top_to_bottom(path, monkeypatch, tmp_path, data_path):
    for name in DATA.get(path.stem, ()):
        data_path(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if root := os.environ.get("RNNJAX_DATA"):
        monkeypatch.setenv("RNNJAX_DATA", str(Path(root).resolve()))
    notebook = jupytext.read(path.with_suffix(".py"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if "size" in cell.metadata.get("tags", ()):
            assert cell.source.count("FULL = True") == 1
            cell.source = cell.source.replace("FULL = True", "FULL = False")
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
