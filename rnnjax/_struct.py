"""Frozen dataclasses that are pytrees: the form of every cell and layer.

A field declared with `node` is a leaf or a subtree, so that `vmap` and `grad` reach it; every other field is static and
takes part in the tree's structure. Rebuilding an instance from its leaves skips `__init__`, because transformations put
axis numbers, tracers and placeholders where numbers stood and none of these should meet a validator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer

T = TypeVar("T")


def node(default: Any = dataclasses.MISSING) -> Any:
    """Declares a field that is a leaf or a subtree of the pytree."""
    return dataclasses.field(default=default, metadata={"node": True})


@dataclass_transform(frozen_default=True, field_specifiers=(node,))
def struct(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and a pytree that prints, compares, hashes and pickles by its fields."""
    cls = dataclasses.dataclass(eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    nodes = tuple(f.name for f in fields if f.metadata.get("node"))
    statics = tuple(f.name for f in fields if not f.metadata.get("node"))

    def flatten_with_keys(obj: T) -> tuple[Iterable[tuple[Any, Any]], Hashable]:
        children = [(jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in nodes]
        return children, tuple(getattr(obj, name) for name in statics)

    def flatten(obj: T) -> tuple[Iterable[Any], Hashable]:
        return [getattr(obj, name) for name in nodes], tuple(getattr(obj, name) for name in statics)

    def unflatten(aux: Any, children: Iterable[Any]) -> T:
        obj = object.__new__(cls)
        for name, value in zip(nodes + statics, (*children, *aux), strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    # `dataclass(frozen=True)` compiles both anew for every class, which an import of many classes feels
    cls.__setattr__ = _set_once  # type: ignore[method-assign, assignment]
    cls.__delattr__ = _keep  # type: ignore[method-assign, assignment]
    cls.__repr__ = _repr  # type: ignore[method-assign]
    cls.__eq__ = _eq  # type: ignore[method-assign]
    cls.__hash__ = _hash  # type: ignore[method-assign]
    return cls


def set_field(obj: Any, name: str, value: Any) -> None:
    """Replaces a field from `__post_init__`, the one place where a frozen instance is not finished yet."""
    object.__setattr__(obj, name, value)


def _set_once(self: Any, name: str, value: Any) -> None:
    if name in vars(self) or name not in self.__dataclass_fields__:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def _keep(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self: Any) -> str:
    shown = [
        _show(f.name, getattr(self, f.name), first=i == 0)
        for i, f in enumerate(dataclasses.fields(self))
        if f.default is dataclasses.MISSING or not _same(getattr(self, f.name), f.default)
    ]
    return f"{type(self).__name__}({', '.join(shown)})"


def _show(name: str, value: Any, *, first: bool) -> str:
    bare = first and (dataclasses.is_dataclass(value) or isinstance(value, tuple))
    text = getattr(value, "__name__", None) if callable(value) and not dataclasses.is_dataclass(value) else None
    return (text or repr(value)) if bare else f"{name}={text or repr(value)}"


def _eq(self: Any, other: Any) -> bool:
    if type(self) is not type(other):
        return False
    mine, mine_def = jax.tree.flatten(self)
    theirs, theirs_def = jax.tree.flatten(other)
    return mine_def == theirs_def and all(map(_same, mine, theirs))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    if isinstance(a, (np.ndarray, jax.Array)) or isinstance(b, (np.ndarray, jax.Array)):
        return np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b))
    return type(a) is type(b) and a == b


def _hash(self: Any) -> int:
    leaves, structure = jax.tree.flatten(self)
    try:
        return hash((structure, *leaves))
    except TypeError as error:
        raise TypeError(
            f"{type(self).__name__} holds arrays and cannot be hashed; pass it to `jax.jit` as an argument, "
            "not through `static_argnums`"
        ) from error
