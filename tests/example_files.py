"""Examples as modules, for tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

# what an example needs of the extra `examples`
NEEDED = {
    "dialogue": ("matplotlib", "sacrebleu"),
    "generation": ("matplotlib",),
    "sentiment": ("matplotlib", "sklearn"),
    "speech": ("matplotlib", "jiwer"),
    "summarisation": ("matplotlib", "rouge_score"),
    "translation": ("matplotlib", "babel", "sacrebleu"),
}


def loaded(name: str) -> Any:
    """The module of an example; skips the test where it lacks a package."""
    for package in NEEDED[name]:
        pytest.importorskip(package, reason=f"the example needs {package}, of the extra `examples`")
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
