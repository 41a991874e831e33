"""Checkpoints of a training run, written by Orbax: what is in one, what must fit, and stopping when told to."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from .._errors import describe

FORMAT = 1
KEPT = 2
"""How many checkpoints stay on the disk."""


class Checkpoints:
    """The checkpoints of one run in one directory, as flat dictionaries of named arrays.

    `described` says what the run depends on beside the arrays, and `within` what a place within an epoch depends on
    besides; a checkpoint that says otherwise is refused. While the object is entered, SIGTERM and a first SIGINT, as
    Ctrl-C sends it, are noted instead of ending the process, but where they are ignored, and in processes forked off.
    """

    def __init__(
        self, directory: str | os.PathLike[str], described: Mapping[str, Any], within: Mapping[str, Any]
    ) -> None:
        from orbax.checkpoint import v1 as ocp

        self.directory = Path(directory).resolve()
        self.described, self.within = {"format": FORMAT, **described}, dict(within)
        self._process, self._told = os.getpid(), None
        self._before: dict[int, Any] = {}
        self.directory.mkdir(parents=True, exist_ok=True)
        self._open = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:  # as Ctrl-C is in the background of a shell
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        """Closes the directory, and hands the signals back."""
        self._open.close()
        for number, before in self._before.items():
            if before is not None:
                signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of a loader, which ends as it would have
            signal.signal(number, self._before[number] or signal.SIG_DFL)
            signal.raise_signal(number)
            return
        if number == signal.SIGINT:
            if self._told == number:
                raise KeyboardInterrupt
            print("a checkpoint is written when the loop that runs is over; Ctrl-C again stops now", file=sys.stderr)
        self._told = number

    @property
    def stops_within(self) -> bool:
        """Whether to stop within an epoch: told to, and alone. Several processes would not stop at one place."""
        return self._told is not None and jax.process_count() == 1

    def stops_after(self) -> bool:
        """Whether to stop after an epoch: some process was told. All must ask."""
        told = self._told is not None
        return told if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(told)).any())

    def stop(self) -> None:
        """Ends as the signal would have, a SIGINT by KeyboardInterrupt; returns where the caller's own handler does."""
        self._close()
        number = self._told or signal.SIGTERM
        os.kill(os.getpid(), number)
        if not callable(self._before.get(number, signal.getsignal(number))):  # as for process 1 of a container
            raise SystemExit(128 + number)

    def save(self, step: int, tree: Any, within: bool) -> None:
        """Writes a checkpoint, of a place within an epoch or of its end; the oldest is removed. What is on the disk is
        whole at every moment."""
        leaves = {name: _whole(_raw(leaf)) for name, leaf in named(tree).items() if jnp.size(leaf)}
        described = self.described | self.within if within else self.described
        self._open.save(step, leaves, overwrite=True, custom_metadata=described)

    def load(self, template: Any) -> dict[str, Any] | None:
        """The arrays of the newest checkpoint by name, or None without one.

        Raises:
            ValueError: if it cannot be read, is of another run, or does not have the names, shapes and dtypes of the
                template's leaves. Names under `history` may be any.
        """
        newest = self._open.latest
        if newest is None:
            return None
        path = self.directory / str(newest.step)
        try:
            metadata = self._open.metadata(newest.step)
            found, described = metadata.metadata, metadata.custom_metadata
        except Exception as error:
            raise ValueError(_unreadable(path, error)) from error
        if not isinstance(described, Mapping) or "format" not in described:
            raise ValueError(f"{path} is no checkpoint of `rnnjax.training.fit`: choose another `checkpoint_dir`")
        if not isinstance(found, Mapping):
            raise ValueError(_unreadable(path, OSError("its arrays are damaged or missing")))
        for name, value in (self.described | self.within).items():
            if name in described and described[name] != value:
                raise ValueError(
                    f"the checkpoint {path} is of a run with {name} = {described.get(name)}, and this run has {value}: "
                    "go on with the same, or choose another `checkpoint_dir`"
                )
        wanted = {name: leaf for name, leaf in named(template).items() if jnp.size(leaf)}
        _compare(path, wanted, found)
        try:
            return dict(self._open.load(newest.step))
        except Exception as error:
            raise ValueError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: BaseException) -> str:
    error = _origin(error)
    said = f"{type(error).__name__}: {error}"
    if not re.search(DAMAGE, said, re.IGNORECASE):
        return f"the checkpoint {path} cannot be read ({said}): it may be whole, so see to it that it can be read"
    torn = re.search(r'"([^"/]+)/(c/|zarr)', said)  # the file within TensorStore's database that it names
    name = f"its `{torn[1]}` is damaged, " if torn else ""
    return f"the checkpoint {path} cannot be read ({name}{said}): remove it to go on from the one before"


DAMAGE = r"DATA_LOSS|OUT_OF_RANGE|out of range|checksum|CRC-?32|decod|damaged"
"""What the text of an error says of a file that was read, and is not whole; of one that could not be read, as where
access to it is denied, it says something else."""


def _origin(error: BaseException) -> BaseException:
    """The error that the others on the way have arisen from."""
    seen = {id(error)}
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None or id(before) in seen:
            return error
        seen.add(id(before))
        error = before


def _compare(path: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    other = f"the checkpoint {path} is of another model or recipe:"
    for name, leaf in wanted.items():
        own = leaf if isinstance(leaf, np.ndarray) else jax.eval_shape(_raw, leaf)
        if name not in found:
            raise ValueError(f"{other} it has no `{name}`, which this run has")
        if tuple(found[name].shape) != own.shape or found[name].dtype != own.dtype:
            raise ValueError(f"{other} its `{name}` is {describe(found[name])}, and this run's is {describe(own)}")
    for name in found:
        if name not in wanted and not name.startswith("history"):
            raise ValueError(f"{other} it has `{name}`, which this run has not")


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `state.params.0.w`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def filled(template: Any, arrays: Mapping[str, Any]) -> Any:
    """The template with its leaves taken from named arrays; those without entries are kept."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    values = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        values.append(_cooked(arrays[name], leaf) if name in arrays else leaf)
    return jax.tree.unflatten(structure, values)


def _raw(leaf: Any) -> Any:
    """A key as its numbers, and everything else as it is."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _whole(leaf: Any) -> np.ndarray:
    """An array on the host, also one whose rows are divided over the devices of several processes."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _cooked(array: Any, like: Any) -> Any:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return np.asarray(array) if isinstance(like, np.ndarray) else jnp.asarray(array)
