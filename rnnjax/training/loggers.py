"""Functions of the step and the values of an epoch, that write them to a file as they come."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

Log = Callable[[int, Mapping[str, float]], None]


def csv_logger(path: str | os.PathLike[str]) -> Log:
    """Appends a row of comma-separated values for every epoch, under a header.

    Raises:
        ValueError: at a value that the header of an existing file, or of the first epoch, does not name.
    """
    path = Path(path)

    def log(step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **values}
        header = list(row)
        if path.exists() and path.stat().st_size:
            with path.open(newline="", encoding="utf-8") as file:
                header = next(csv.reader(file))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        unknown = [name for name in row if name not in header]
        if unknown:
            raise ValueError(
                f"{path} has the columns {', '.join(header)}; {', '.join(unknown)} came later: log to another file, or "
                "use `jsonl_logger`"
            )
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)

    return log


def tensorboard_logger(directory: str | os.PathLike[str]) -> Log:
    """Adds a point for every value and epoch to the curves that TensorBoard shows of a directory, within a second.

    Needs tensorboardX: `pip install 'rnnjax[tensorboard]'`.
    """
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(os.fspath(directory), flush_secs=1)

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log


def jsonl_logger(path: str | os.PathLike[str]) -> Log:
    """Appends a line of JSON for every epoch. What is not a finite number is written as null."""
    path = Path(path)

    def log(step: int, values: Mapping[str, float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        finite = {name: value if abs(value) < float("inf") else None for name, value in values.items()}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")

    return log
