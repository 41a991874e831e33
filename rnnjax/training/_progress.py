"""The progress bar of `fit`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm import TqdmWarning


class Bar:
    """One bar for the whole training, counted in epochs, with the latest values beside it. Notebooks show a widget."""

    def __init__(self, epochs: int, shown: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)  # without ipywidgets the bar is text, in notebooks too
            from tqdm.auto import tqdm

        self._bar = tqdm(total=epochs, disable=not shown, unit="epoch", bar_format=_FORMAT)
        self._done = 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def part(self, epoch: int, share: float) -> None:
        """A share of an epoch is done."""
        self._advance(epoch + share)

    def epoch(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """An epoch is done."""
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in logs.items()}, refresh=False)
        self._advance(epoch + 1)

    def _advance(self, done: float) -> None:
        self._bar.update(done - self._done)
        self._done = done


_FORMAT = "{percentage:3.0f}%|{bar}| {n:.4g}/{total} epochs [{elapsed}<{remaining}{postfix}]"
