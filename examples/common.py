"""What the examples share: ranges of flags, packages, folders, and which data the checkpoints of a folder are of."""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

# of flags that take a number: its type, what it must hold, and that in words; the others count something
RANGES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "seed": (int, lambda number: number >= 0, "at least 0"),
    "own-words": (int, lambda number: number >= 0, "at least 0"),
    "temperature": (float, lambda number: number >= 0, "at least 0"),
    "beta": (float, lambda number: number >= 0, "at least 0"),
    "alpha": (float, lambda number: True, "finite"),
    "learning-rate": (float, lambda number: number > 0, "above 0"),
    "repetition-penalty": (float, lambda number: number > 0, "above 0"),
    "dropout": (float, lambda number: 0 <= number < 1, "in [0, 1)"),
    "top-p": (float, lambda number: 0 < number <= 1, "in (0, 1]"),
}
COUNT = (int, lambda number: number >= 1, "at least 1")


def number(flag: str) -> Callable[[str], Any]:
    """What argparse takes as the `type` of a flag, by its name: it refuses numbers before anything is done."""
    kind, holds, wanted = RANGES.get(flag.replace("_", "-"), COUNT)

    def parsed(text: str) -> Any:
        value = kind(text)
        if not (math.isfinite(value) and holds(value)):
            raise argparse.ArgumentTypeError(f"must be {wanted}; got {text}")
        return value

    parsed.__name__ = kind.__name__  # which argparse names where the text is no number
    return parsed


def prepare(out: Path, write: str | None, *packages: str) -> None:
    """Ends the program where a package is missing, and makes the folders for its results."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise SystemExit(f"this example needs {' and '.join(missing)}: pip install 'rnnjax[examples]'")
    for folder in (out, Path(write or "").parent):
        folder.mkdir(parents=True, exist_ok=True)  # before the training, or its results could be lost


def write(file: str, figures: dict[str, float], **more: Any) -> None:
    """Saves the figures and what they came from as JSON."""
    found = {"machine": f"{jax.devices()[0].device_kind}, jax {jax.__version__}", "figures": figures}
    Path(file).write_text(json.dumps(found | more, indent=1) + "\n")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that figures depend on; of `--data` the name alone, no folder of this machine."""
    own = {name: value for name, value in vars(args).items() if name not in ("checkpoints", "out", "write")}
    return own | {"data": args.data and Path(args.data).name}


def claim(args: argparse.Namespace, *data: Any) -> None:
    """Keeps in the folder of checkpoints which data they are of, and ends the program where they are of others: `fit`
    knows epochs, seed and sizes of a run, but not its data, and would go on with what has seen the test."""
    if args.checkpoints is None:
        return
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        digest.update(leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf).encode())
    own = {"data": digest.hexdigest(), "flags": " ".join(sys.argv[1:])}
    file = Path(args.checkpoints, "data.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {"data": None, "flags": "that nobody has noted"}
    if file.exists():
        kept = json.loads(file.read_text())
    if any(one.name.isdigit() for one in file.parent.iterdir()) and kept["data"] != own["data"]:
        raise SystemExit(
            f"the checkpoints in {args.checkpoints} are of other data, of a run with the flags {kept['flags']}: give "
            "these, or another folder as `--checkpoints`"
        )
    if kept["data"] != own["data"]:
        file.write_text(json.dumps(own, indent=1) + "\n")
