"""`python -m rnnjax` says what is there, and why something is not."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import flax
import jax
import jaxlib
import numpy as np
import optax
import pytest

import rnnjax as rj
from rnnjax import __main__ as command
from rnnjax._unroll import kernels

ROOT = Path(__file__).resolve().parents[1]


def section(text: str, name: str) -> list[str]:
    """The lines below a heading, up to the next."""
    return next(part.splitlines()[1:] for part in text.split("\n\n") if part.splitlines()[0] == name)


def chosen(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines if "→" in line]


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "load", lambda: kernels.Loaded({}, "they are on holiday"))


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "rnnjax"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert section(done.stdout, "versions")[0].split() == ["rnnjax", rj.__version__]
    assert section(done.stdout, "documentation")[0].strip() == str(ROOT / "docs")
    assert not done.stderr


def test_versions_are_those_that_are_imported():
    found = dict(line.split() for line in command.versions())
    assert found.pop("python") == platform.python_version()
    assert found == {module.__name__: module.__version__ for module in (rj, jax, jaxlib, flax, optax, np)}


def test_a_package_that_is_missing_is_no_error(monkeypatch):
    monkeypatch.setattr(command, "PACKAGES", ("jax", "no-such-package"))
    assert list(command.versions())[-1].split(maxsplit=1) == ["no-such-package", "not installed"]


def test_all_devices_are_listed():
    lines = list(command.devices())
    assert [line.split()[0] for line in lines] == [f"{one.platform}:{one.id}" for one in jax.devices()]


@pytest.mark.skipif(bool(kernels.load().reason) or jax.default_backend() != "cpu", reason="no native kernels here")
def test_each_implementation_is_chosen_by_a_cell():
    assert chosen(list(command.implementations())) == ["cpu", "fused", "chunked", "scan"]
    assert set(next(command.native()).split(":")[0].split(", ")) == set(kernels.load().variants)


def test_it_says_why_there_are_no_kernels(without_kernels):
    lines = list(command.implementations())
    assert chosen(lines) == ["fused", "fused", "chunked", "scan"]
    assert lines[1].split(maxsplit=1) == ["cpu", "cannot run it: they are on holiday"]
    assert list(command.native()) == ["they are on holiday"]


def test_files_are_listed_with_their_first_lines(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# About b\n\nMore.\n")
    (tmp_path / "docs" / "a.md").write_text("# A\n")
    (tmp_path / "docs" / "note.txt").write_text("no documentation")
    (tmp_path / "examples").mkdir()
    (tmp_path / "rnnjax").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "examples" / "one.py").write_text('"""Does one thing.\n\nAt length.\n"""\nx = 1\n')
    (tmp_path / "examples" / "two.py").write_text("x = 2\n")
    text = command.report(tmp_path)
    folder, *files = section(text, "documentation")
    assert folder.strip() == str(tmp_path / "docs")
    assert [line.split(maxsplit=1) for line in files] == [["a.md", "A"], ["b.md", "About b"]]
    assert [line.split(maxsplit=1) for line in section(text, "examples")[1:]] == [
        ["one.py", "Does one thing."],
        ["two.py"],
    ]


@pytest.mark.parametrize("source", [False, True])
def test_an_installation_without_the_folders_says_so(tmp_path, source):
    if source:
        (tmp_path / "rnnjax").mkdir()
        (tmp_path / "pyproject.toml").touch()
    text = command.report(tmp_path)
    for name in ("examples", "docs"):
        assert f"not beside this installation: in the folder `{name}` of the source" in text


def test_folders_of_other_packages_are_not_taken_for_ours(tmp_path):
    for folder in ("rnnjax", "examples", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "examples" / "foreign.py").write_text("print 'Python 2'\n")
    text = command.report(tmp_path)
    assert "foreign" not in text
    assert "not beside this installation" in text


def test_every_example_and_document_has_a_title():
    for folder, pattern in (("examples", "*.py"), ("docs", "*.md")):
        lines = list(command.titles(ROOT / folder, pattern))[1:]
        assert len(lines) == len(list((ROOT / folder).glob(pattern)))
        assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
