"""The matrix of cells × implementations is the one in `tests/descriptors.py`: nothing appears or vanishes quietly."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from descriptors import CELLS, Descriptor

import rnnjax as rj

NAMES = ("cpu", "fused", "chunked", "associative", "scan", "newton")


def arguments(row: Descriptor) -> tuple[Any, ...]:
    params = jax.eval_shape(lambda: row.subject.init(jax.random.key(0), row.in_size))
    return row.subject, params, jax.ShapeDtypeStruct((5, 2, *row.event_shape), jnp.float32)


def run(row: Descriptor, implementation: str | None) -> Any:
    cell, *arrays = arguments(row)
    return jax.eval_shape(lambda params, xs: rj.unroll(cell, params, xs, implementation=implementation), *arrays)


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
def test_exactly_the_named_implementations_run(row: Descriptor) -> None:
    cannot = dict(re.findall(r"^[→ ] (\w+) +cannot run it: (.+)$", rj.explain(*arguments(row)), re.MULTILINE))
    assert set(row.matrix) | set(cannot) == set(NAMES)
    assert not set(row.matrix) & set(cannot)
    for name in row.matrix:
        run(row, name)
        assert f"→ {name:<12} chosen by name" in rj.explain(*arguments(row), implementation=name)
    for name, reason in cannot.items():
        with pytest.raises(ValueError, match=re.escape(f"`implementation={name!r}` cannot run this call: {reason}")):
            run(row, name)


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
def test_one_implementation_is_chosen(row: Descriptor) -> None:
    chosen = re.findall(r"^→ (\w+) +chosen, the first that can and would$", rj.explain(*arguments(row)), re.MULTILINE)
    assert len(chosen) == 1
    memory = "chunked" in row.implementations and "associative" not in row.implementations
    small = "scan"  # a memory of so few units is left to it
    assert chosen[0] == (small if memory else next(name for name in NAMES if name in row.implementations))
    run(row, None)


def test_unknown_implementations_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"`implementation` must be None, one of 'cpu', .*, 'newton' or a `rnnjax.Newton`; got 'cuda'",
    ):
        run(CELLS[0], "cuda")


def test_rows_are_one_a_cell() -> None:
    assert len({row.name for row in CELLS}) == len(CELLS)
    public = {name for name, item in vars(rj).items() if isinstance(item, type) and issubclass(item, rj.Cell)}
    assert public - {"Cell", "GatedCell", "AssociativeCell", "DiagonalCell", "ChunkedCell", "Wrapper"} == {
        name for row in CELLS for name in within(row.cell)
    }


def within(cell: Any) -> set[str]:
    names = {type(cell).__name__}
    return names | within(cell.cell) if hasattr(cell, "cell") else names
