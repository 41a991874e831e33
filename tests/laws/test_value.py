"""Copies, replacements, pickles and what `repr` says are equal cells with equal hashes; other cells differ."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

import rnnjax as rj
from rnnjax import testing

from . import Subject


def test_value(subject: Subject) -> None:
    testing.value(*subject)


def test_a_cell_that_holds_arrays_has_no_hash() -> None:
    with pytest.raises(TypeError, match=r"LeakyElman holds arrays and cannot be hashed; pass it to `jax\.jit` as"):
        hash(rj.LeakyElman(3, leak=jnp.full(3, 0.5)))
