"""Packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any


def required(package: str, extra: str) -> Any:
    """The package; ImportError that names the extra where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs the package `{package}`: pip install 'rnnjax[{extra}]'") from error
