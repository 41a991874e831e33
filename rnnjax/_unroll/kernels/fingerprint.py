"""By what the library and its sources are known to belong together. The build loads this file alone: it has no JAX."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(folder: Path) -> str | None:
    """A hash of the kernels' sources in that folder; None where there are none, as in a wheel."""
    sources = sorted(path for path in folder.iterdir() if path.suffix in (".h", ".cc"))
    if not sources:
        return None
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()
