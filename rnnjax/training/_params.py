"""Parameters in a safetensors file: names, shapes and dtypes in a header, then the bytes; nothing in it can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._checkpoint import named

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The names of dtypes in the file, and everywhere else."""


def save_params(path: str | os.PathLike[str], params: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a tree of arrays to a safetensors file, which other libraries read as well.

    An array is named by its path in the tree, such as `0.w`. The file appears whole or not at all: another one of that
    name is replaced when everything is written.

    Args:
        path: the file, usually named `*.safetensors`; its directory is made.
        params: arrays in any pytree: parameters of a cell or layer, variables of linen, or an `nnx.state`.
        metadata: texts that are kept in the header.

    Raises:
        TypeError: for a leaf that is no array of numbers, such as a random key; nothing is written.
        ValueError: for two leaves of the same name.

    References:
        https://huggingface.co/docs/safetensors
    """
    from safetensors.numpy import save_file

    arrays = {}
    for name, leaf in named(params).items():
        kind = _kind(leaf)
        if kind not in DTYPES.values():
            raise TypeError(f"`params` must hold arrays of numbers; got {kind} at `{name}`")
        # the format takes the bytes as they lie
        arrays[name] = np.asarray(leaf, order="C")
    if len(arrays) != len(jax.tree.leaves(params)):
        raise ValueError("`params` has leaves whose paths read the same, such as the keys 1 and '1' of one dictionary")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(arrays, unfinished, metadata=None if metadata is None else dict(metadata))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_params(path: str | os.PathLike[str], like: Any) -> Any:
    """Reads parameters from a safetensors file into the tree of others.

    Args:
        path: the file, written by `save_params` or by another library under the same names.
        like: the tree to fill: parameters, or their shapes from `jax.eval_shape(lambda: layer.init(key, in_size))`.

    Returns:
        a tree like `like`, with the arrays of the file.

    Raises:
        ValueError: for a file that is damaged, or whose names, shapes or dtypes are others. This is found in its
            header, before any array is made.

    >>> import jax, tempfile, rnnjax as rj
    >>> params = rj.GRU(3).init(jax.random.key(0), 2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     rj.training.save_params(f"{directory}/gru.safetensors", params)
    ...     again = rj.training.load_params(f"{directory}/gru.safetensors", params)
    >>> bool((again.w == params.w).all())
    True
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            _compare(Path(path), named(like), {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
            arrays = {name: file.get_tensor(name) for name in named(like)}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    leaves, structure = jax.tree.flatten(like)
    found = [
        array if isinstance(leaf, np.ndarray) else jnp.asarray(array)
        for leaf, array in zip(leaves, arrays.values(), strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def _kind(leaf: Any) -> str:
    """The name of a leaf's dtype, or of its type where it has none."""
    dtype = getattr(leaf, "dtype", None)
    return type(leaf).__name__ if dtype is None else getattr(dtype, "name", str(dtype))


def _compare(path: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{path} lacks `{'`, `'.join(missing)}`; it has {', '.join(sorted(found)) or 'nothing'}")
    if unknown := [name for name in sorted(found) if name not in wanted]:
        raise ValueError(f"{path} has `{'`, `'.join(unknown)}`, for which `like` has no place: {', '.join(wanted)}")
    for name, leaf in wanted.items():
        dtype = DTYPES.get(found[name].get_dtype(), found[name].get_dtype())
        shape = tuple(found[name].get_shape())
        if (dtype, shape) != (_kind(leaf), tuple(leaf.shape)):
            raise ValueError(
                f"`{name}` must be {_kind(leaf)}{list(leaf.shape)}, as in `like`; {path} has {dtype}{list(shape)}"
            )
