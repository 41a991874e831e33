"""Attention around every cell of the table: it runs, or it is refused with a message that says why."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import CELLS, Descriptor

import rnnjax as rj

from .attended import parameters

T, B, S, M, O = 4, 2, 5, 2, 2  # noqa: E741
INNER = [descriptor for descriptor in CELLS if descriptor.memory_size is None]
READS_OUT = (rj.LRU, rj.S5, rj.QRNN, rj.SRU, rj.HGRN, rj.MLSTM)
# one output before the first step, which nothing reads: a query comes after the step
UNREAD = ("luong-learned_initial_gla", "[0].cell.state.h")


def innermost(cell: Any) -> rj.Cell:
    return innermost(cell.cell) if isinstance(cell, rj.Wrapper) else cell


REFUSED = [one for one in INNER if isinstance(innermost(one.cell), (*READS_OUT, rj.ConvLSTM))]


def bahdanau(inner: rj.Cell) -> rj.Attention:
    return rj.BahdanauAttention(inner, rj.AdditiveScore(4), M)


def luong(inner: rj.Cell) -> rj.Attention:
    return rj.LuongAttention(inner, rj.AdditiveScore(4), M, O)


def cases() -> list[Any]:
    """Fast rows in one wiring, all in both with --all."""
    found = []
    for wire in (bahdanau, luong):
        for one in INNER:
            if one not in REFUSED:
                marks = [pytest.mark.slow] if one.slow or wire is luong else []
                found.append(pytest.param(wire, one, id=f"{wire.__name__}-{one.name}", marks=marks))
    return found


@pytest.mark.parametrize(("wire", "descriptor"), cases())
def test_a_cell_reads_what_it_is_wired_to(close: Any, draw: Any, wire: Any, descriptor: Descriptor) -> None:
    """The inner cell by itself, with what was read or put out as more inputs, comes to the same state; and every
    parameter, input and memory has a gradient."""
    cell = wire(descriptor.cell)
    in_size = 1 if descriptor.name == "rg_lru" else 3  # it takes as many inputs as it has units, those read among them
    params, xs, values = parameters(cell, in_size), draw(T, B, in_size), draw(S, B, M)
    weight = draw(T, B, cell.out_size(in_size))

    @jax.jit
    def run(params: Any, xs: Any, values: Any) -> Any:
        def loss(params: Any, xs: Any, values: Any) -> Any:
            ys, state = rj.unroll(cell, params, xs, context=values)
            return (weight * ys).sum(), (ys, state)

        (_, (ys, state)), slopes = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, values)
        more = ys[..., -M:] if wire is bahdanau else jnp.concatenate([jnp.zeros((1, B, O)), ys[:-1]])
        return ys, state, slopes, rj.unroll(cell.cell, params.cell, jnp.concatenate([xs, more], -1))[1]

    ys, state, slopes, inner = run(params, xs, values)
    assert ys.shape == (T, B, cell.query_size + M if wire is bahdanau else O)
    close(state.cell, inner)
    for path, slope in jax.tree_util.tree_flatten_with_path(slopes)[0]:
        name = jax.tree_util.keystr(path)
        assert np.isfinite(slope).all(), name
        assert slope.any() or (f"{wire.__name__}-{descriptor.name}", name) == UNREAD, name


@pytest.mark.parametrize("wire", [bahdanau, luong])
@pytest.mark.parametrize("descriptor", REFUSED, ids=lambda one: one.name)
def test_other_cells_are_refused(wire: Any, descriptor: Descriptor) -> None:
    images = isinstance(descriptor.cell, rj.ConvLSTM)
    why = r"must be a cell with inputs \(\*B, I\)" if images else "must emit its outputs"
    with pytest.raises(TypeError, match=f"`cell` {why}.*{type(descriptor.cell).__name__}"):
        wire(descriptor.cell)
