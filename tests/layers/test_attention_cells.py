"""Attention around every cell of the table: it runs, or it is refused with a message that says why."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import CELLS, Descriptor, Remembering

import rnnjax as rj
from rnnjax.testing import check_cell

from .attended import A, parameters, read

T, B, S, M, O = 4, 2, 5, 2, 2  # noqa: E741
INNER = [descriptor for descriptor in CELLS if descriptor.memory_size is None]
IMAGES = [descriptor for descriptor in INNER if isinstance(descriptor.cell, rj.ConvLSTM)]
UNREAD = (
    # outputs before the first step, of which a query after the step reads nothing
    ("luong-learned_initial_gla", "[0].cell.state.h"),
    ("luong-learned_initial_mlstm", "[0].cell.state.h"),
    # part of a divisor that, of these numbers, stays at its lower bound
    ("bahdanau-learned_initial_mlstm", "[0].cell.state.n"),
)
# these take as many inputs as they have units, those read among them
AS_MANY = ("rg_lru", "sru")


def bahdanau(inner: rj.Cell) -> rj.Attention:
    return rj.BahdanauAttention(inner, rj.AdditiveScore(A), M)


def luong(inner: rj.Cell) -> rj.Attention:
    return rj.LuongAttention(inner, rj.AdditiveScore(A), M, O)


both = pytest.mark.parametrize("wire", [bahdanau, luong])


@jax.jit
def run(cell: Any, params: Any, xs: Any, state: Any = None, **options: Any) -> Any:
    return rj.unroll(cell, params, xs, state, **options)


def cases() -> list[Any]:
    """Fast rows in one wiring, all in both with --all."""
    found = []
    for wire in (bahdanau, luong):
        for one in INNER:
            if one not in IMAGES:
                marks = [pytest.mark.slow] if one.slow or wire is luong else []
                found.append(pytest.param(wire, one, id=f"{wire.__name__}-{one.name}", marks=marks))
    return found


@pytest.mark.parametrize(("wire", "descriptor"), cases())
def test_a_cell_reads_what_it_is_wired_to(close: Any, draw: Any, wire: Any, descriptor: Descriptor) -> None:
    """The inner cell by itself, with what was read or put out as more inputs, comes to the same state and outputs; and
    every parameter, input and memory has a gradient."""
    cell = wire(descriptor.cell)
    in_size = 1 if descriptor.name in AS_MANY else 3
    params, xs, values = parameters(cell, in_size), draw(T, B, in_size), draw(S, B, M)
    weight = draw(T, B, cell.out_size(in_size))

    @jax.jit
    def run(params: Any, xs: Any, values: Any) -> Any:
        def loss(params: Any, xs: Any, values: Any) -> Any:
            ys, state = rj.unroll(cell, params, xs, context=values)
            return (weight * ys).sum(), (ys, state)

        (_, (ys, state)), slopes = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, values)
        more = ys[..., -M:] if wire is bahdanau else jnp.concatenate([jnp.zeros((1, B, O)), ys[:-1]])
        return ys, state, slopes, rj.unroll(cell.cell, params.cell, jnp.concatenate([xs, more], -1))

    ys, state, slopes, (inner_ys, inner) = run(params, xs, values)
    close(state.cell, inner)
    if wire is bahdanau:
        close(ys[..., :-M], inner_ys)
    else:
        joined = np.concatenate([state.attention.context, inner_ys[-1]], -1)
        close(ys[-1], np.tanh(joined @ params.w))
    for path, slope in jax.tree_util.tree_flatten_with_path(slopes)[0]:
        name = jax.tree_util.keystr(path)
        assert np.isfinite(slope).all(), name
        assert slope.any() or (f"{wire.__name__}-{descriptor.name}", name) in UNREAD, name


@both
@pytest.mark.parametrize("inner", [rj.LRU(3), rj.MLSTM(4, heads=2)], ids=["lru", "mlstm"])
def test_the_query_is_what_a_cell_emits(close: Any, draw: Any, wire: Any, inner: rj.Cell) -> None:
    """A complex state is its real and its imaginary parts; before the output gate or the skip of the inputs."""
    cell = wire(inner)
    params, xs, values = parameters(cell, 3), draw(T, B, 3), draw(S, B, M)
    _, before = run(cell, params, xs[:-1], context=values)
    _, after = run(cell, params, xs[-1:], before, context=values)
    state = before.cell if wire is bahdanau else after.cell
    queries = np.concatenate(state, -1) if isinstance(inner, rj.LRU) else np.asarray(state.h)
    assert queries.shape == (B, cell.query_size)
    for row in range(B):
        wanted, context = read(cell.score, params.score, queries[row], values[:, row], np.zeros(S), np.zeros(S))
        close(after.attention.alignment[row], wanted[0])
        close(after.attention.context[row], context)


LAWFUL = {
    "bahdanau_lru": bahdanau(rj.LRU(3)),
    "luong_mlstm": luong(rj.MLSTM(4, heads=2)),
    "pointer_hgrn": rj.PointerGenerator(luong(rj.HGRN(2)), vocabulary=3, extra=1),
}


@pytest.mark.parametrize("name", LAWFUL)
@pytest.mark.parametrize(
    "laws", [("mask_with_reset",), pytest.param(None, marks=pytest.mark.slow)], ids=["quick", "all"]
)
def test_laws(name: str, laws: tuple[str, ...] | None) -> None:
    """Of cells whose outputs are made of what they emit and of their inputs."""
    check_cell(Remembering(LAWFUL[name], M), 3, laws=laws)


@pytest.mark.parametrize(
    "cell",
    [bahdanau(rj.S5(3)), luong(rj.CfC(4, backbone_size=5)), rj.PointerGenerator(luong(rj.S5(3)), 4)],
    ids=["bahdanau_s5", "luong_cfc", "pointer_s5"],
)
def test_elapsed_times_go_to_the_inner_cell(close: Any, draw: Any, cell: Any) -> None:
    params, xs, dt = parameters(cell, 3), draw(T, B, 3), np.abs(draw(T, B)) + 0.1
    source = rj.Source(draw(S, B, M), ids=np.arange(S * B).reshape(S, B) % 4)
    close(run(cell, params, (xs, np.ones((T, B))), context=source), run(cell, params, xs, context=source))
    ys, state = run(cell, params, (xs, dt), context=source)
    attention, own = (cell.cell, params.cell) if isinstance(cell, rj.PointerGenerator) else (cell, params)
    if isinstance(attention, rj.BahdanauAttention):
        more = ys[..., -M:]
    else:
        outputs, _ = run(attention, own, (xs, dt), context=source)
        more = np.concatenate([np.zeros((1, B, O)), outputs[:-1]])
    _, inner = run(attention.cell, own.cell, (np.concatenate([xs, more], -1), dt))
    close(state.cell, inner)
    layer = rj.Stack([rj.Activate("identity"), cell])
    close(layer(((), params), (jnp.asarray(xs), jnp.asarray(dt)), context=source)[0], ys)
    with pytest.raises(TypeError, match=r"or \(x, dt\) with elapsed times dt \(T, \*B\)"):
        rj.unroll(cell, params, (xs, xs), context=source)


@both
@pytest.mark.parametrize("descriptor", IMAGES, ids=lambda one: one.name)
def test_cells_that_read_images_are_refused(wire: Any, descriptor: Descriptor) -> None:
    with pytest.raises(TypeError, match=r"`cell` must be a cell with inputs \(\*B, I\).*ConvLSTM"):
        wire(descriptor.cell)
