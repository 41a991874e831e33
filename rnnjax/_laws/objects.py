"""Laws about the cell as a value, and about tracing it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._struct import struct
from .._types import Key, Params
from .._unroll import unroll
from .._wrapper import Wrapper
from .trial import Shape, Trial, computing, require


def value(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Copies, pickles and, unless leaves are arrays, what `repr` says are equal, with equal hashes; others differ."""
    typed = [computing(cell, dtype) for dtype in ("float32", "bfloat16", "float64")]
    others = [other for other in typed if other is not None]
    for kind in (cell, *others):
        _equals_its_copies(kind)
    for one, other in itertools.combinations([computing(cell, None), *others], 2):
        require(one != other, f"{one} equals {other}")

    leaves, structure = jax.tree.flatten(cell)
    for i, leaf in enumerate(leaves):
        other = jax.tree.unflatten(structure, [*leaves[:i], leaf + 1, *leaves[i + 1 :]])
        require(other != cell, f"equal in spite of another leaf: {other}")
    require(cell != object(), "equal to something that is no cell")
    for field in dataclasses.fields(cell):
        try:
            setattr(cell, field.name, getattr(cell, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{field.name} can be assigned: the cell is not frozen")


def _equals_its_copies(cell: Any) -> None:
    leaves, structure = jax.tree.flatten(cell)
    holds_arrays = any(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves)
    copies = {
        "dataclasses.replace": dataclasses.replace(cell),
        "copy.copy": copy.copy(cell),
        "copy.deepcopy": copy.deepcopy(cell),
        "pickle": pickle.loads(pickle.dumps(cell)),
        "jax.tree": jax.tree.unflatten(structure, leaves),
    }
    if not holds_arrays:  # an array prints as no expression, and has no hash
        copies["eval(repr)"] = eval(repr(cell), _names(cell))
    for how, other in copies.items():
        require(other == cell, f"{how} gives {other}, which is not equal")
        require(jax.tree.structure(other) == structure, f"{how} gives another tree structure")
        if not holds_arrays:
            require(hash(other) == hash(cell), f"{how} gives another hash")


def _names(part: Any) -> dict[str, Any]:
    """The names that a cell's `repr` may use: those of its module, and of what stands in its fields."""
    if isinstance(part, tuple):
        inner = part
    elif dataclasses.is_dataclass(part):
        inner = tuple(getattr(part, field.name) for field in dataclasses.fields(part))
    else:
        return {part.__name__: part} if callable(part) else {}
    names = dict(vars(sys.modules[type(part).__module__]))
    for item in inner:
        names |= _names(item)
    return names


_tokens = itertools.count()


@struct
class _Counted(Wrapper):
    """Counts the calls of `prepare` from Python, which happen once in every trace by JAX."""

    token: int = 0
    calls = 0

    def prepare(self, params: Params, *, key: Key | None = None, context: Any = None) -> Params:
        _Counted.calls += 1
        return super().prepare(params, key=key, context=context)


def traces(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Equal cells share one trace, as do cells that differ in leaves alone, second calls have none; also in `jit`."""
    trial = Trial.of(cell, event_shape, implementation)
    scaled = jax.tree.map(lambda leaf: 0.9 * leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf, cell)
    run = partial(unroll, implementation=implementation)
    for call in (run, jax.jit(lambda *arrays: run(*arrays)).trace):
        # a number of its own, or an earlier check of the same cell has left its trace behind
        token, before = next(_tokens), _Counted.calls
        call(_Counted(cell=cell, token=token), trial.params, trial.xs)
        first = _Counted.calls
        require(first > before, "the cell was not traced: the law cannot see anything")
        for other in (cell, pickle.loads(pickle.dumps(cell)), scaled):
            call(_Counted(cell=other, token=token), trial.params, trial.xs.copy())
        require(_Counted.calls == first, f"{_Counted.calls - first} more traces after the first trace")


def leaks(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """No tracer outlives its trace, in the gradient either."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    with jax.checking_leaks():
        jax.eval_shape(lambda params, xs: trial.but(params=params, xs=xs).pull(), trial.params, trial.xs)
