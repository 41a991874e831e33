"""Influences of parameters on their own unit: exact for elementwise cells, SnAp-1 and e-prop for others.

A parameter whose last axis has n · H entries belongs to unit i mod H, as gates lie on the last axis. A unit has P
numbers in the state, such as h and c of an LSTM, and a parameter influences these P alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._types import Array, Key, Params, State, Xs, Z
from ..._unroll.call import Dtypes
from ..._unroll.jacobians import decoupled, steps_alone, updates_alone
from ._row import Row, Take

_SINGLE = Dtypes(jnp.dtype("float32"), jnp.dtype("float32"))


class _Units:
    """What the three methods share. Traces have leaves (P, *leaf.shape)."""

    random = False

    def take(self, row: Row, params: Params, old: Array, x: Xs) -> tuple[Take, bool]:
        """A step of the cell, and whether its derivative by the old state lies within units."""
        return row.cell.step, True

    def check(self, row: Row, in_size: int) -> None:
        units = row.parts.units
        if units is None or any(len(shape) != 1 for shape in row.parts.shapes):
            raise ValueError(
                f"{type(self).__name__} needs a state of one or more arrays (*B, H), one number a unit; that of "
                f"{row.cell!r} has {', '.join(map(str, row.parts.shapes))} in each row: take `DenseRTRL` or `UORO`"
            )
        if not _on_their_own_unit(row, in_size):
            raise ValueError(
                f"{type(self).__name__} needs a cell whose parameters each reach one unit in one step; those of "
                f"{row.cell!r} reach several: take `DenseRTRL` or `UORO`"
            )

    def start(self, row: Row, params: Params, key: Key | None) -> Params:
        pull = jax.vjp(row.start, params)[1]
        return jax.vmap(lambda part: pull(part)[0])(_parts(row))

    def advance(
        self, row: Row, params: Params, trace: Params, old: Array, x: Xs, key: Key | None
    ) -> tuple[Array, Params]:
        take, alone = self.take(row, params, old, x)
        new, pull = jax.vjp(lambda params: row.step(params, old, x), params)
        direct = jax.vmap(lambda part: pull(part)[0])(_parts(row))
        push = jax.linearize(lambda old: row.step(params, old, x, take), old)[1]
        parts, units = len(row.parts.sizes), row.parts.sizes[0]
        if alone:
            blocks = jax.vmap(push)(_parts(row)).reshape(parts, parts, units)  # (from, to, H)
        else:
            jacobian = jax.vmap(push)(jnp.eye(parts * units, dtype=old.dtype))
            blocks = jnp.diagonal(jacobian.reshape(parts, units, parts, units), axis1=1, axis2=3)

        def carry(m: Array, d: Array) -> Array:
            if not _divides(units, m.shape[1:]):
                return d
            return d + sum(_by_unit(blocks[i], m[i]) for i in range(parts))

        return new, jax.tree.map(carry, trace, direct)

    def gradient(self, row: Row, params: Params, trace: Params, d_state: Array) -> Params:
        by_part = d_state.reshape(len(row.parts.sizes), -1)

        def gather(m: Array) -> Array:
            if not _divides(by_part.shape[-1], m.shape[1:]):
                return jnp.zeros_like(m[0])
            owed = [_by_unit(d[None], m[i])[0] for i, d in enumerate(by_part)]
            return sum(owed[1:], owed[0])

        return jax.tree.map(gather, trace)


def _parts(row: Row) -> Array:
    """(P, N): ones in one array of the state after another."""
    return jnp.repeat(jnp.eye(len(row.parts.sizes), dtype=row.dtypes.state), row.parts.sizes[0], axis=-1)


def _divides(units: int, shape: tuple[int, ...]) -> bool:
    return len(shape) > 0 and shape[-1] % units == 0


def _by_unit(factor: Array, leaf: Array) -> Array:
    """factor (P, H) times leaf (…, n·H), each entry with that of its unit: (P, …, n·H)."""
    factor = jnp.tile(factor, leaf.shape[-1] // factor.shape[-1])
    factor = factor.reshape(factor.shape[0], *(1,) * (leaf.ndim - 1), factor.shape[-1])
    return factor * leaf[None]


def _on_their_own_unit(row: Row, in_size: int) -> bool:
    """Whether an array's entries reach the units that their places on its last axis say, tried with random numbers."""
    leaves, structure = jax.tree.flatten(row.cell)
    return _tried(structure, tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves), in_size)


@lru_cache(maxsize=256)
def _tried(structure: Any, leaves: tuple[Any, ...], in_size: int) -> bool:
    rng = np.random.default_rng(0)
    cell = jax.tree.unflatten(structure, [rng.uniform(0.1, 0.9, shape).astype(dtype) for shape, dtype in leaves])

    def influence(params: Params, x: Array, start: Array, cotangents: Array) -> Any:
        row = Row.of(cell, params, _SINGLE)
        return [jax.vjp(lambda params: row.step(params, start, x), params)[1](one)[0] for one in cotangents]

    with jax.ensure_compile_time_eval():
        shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_size))
        row = Row.of(cell, shapes, _SINGLE)
        units, parts = row.parts.sizes[0], len(row.parts.sizes)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
        x, start = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (in_size, units * parts))
        weights = jnp.asarray(np.tile(rng.uniform(1, 2, units), parts), jnp.float32)
        plain, weighted = jax.jit(influence)(params, x, start, jnp.stack([jnp.ones_like(weights), weights]))
        pairs = zip(jax.tree.leaves(plain), jax.tree.leaves(weighted), strict=True)
        return all(_scaled(np.asarray(a), np.asarray(b), np.asarray(weights[:units])) for a, b in pairs)


def _scaled(plain: np.ndarray, weighted: np.ndarray, weights: np.ndarray) -> bool:
    """Whether each entry's derivative grew with the weight of its unit."""
    if not _divides(len(weights), plain.shape):
        return not plain.any() and not weighted.any()
    expected = plain * np.tile(weights, plain.shape[-1] // len(weights))
    return np.allclose(weighted, expected, rtol=1e-3, atol=1e-4 * np.abs(plain).max(initial=0))


@dataclass(frozen=True)
class RTRL(_Units):
    """Real-time recurrent learning of cells whose units do not see each other: the exact gradient, from as many
    numbers as there are parameters, P times for P numbers in a unit's state.

    m_t = j_t m_{t-1} + ∂s_t/∂θ    ∂L_t/∂θ = ∂L_t/∂s_t m_t

    with j_t (P, P) of the unit that θ belongs to. It is for LRU, S5, RG-LRU, minGRU, minLSTM, QRNN, SRU, HGRN, the
    linear Elman network and IndRNN. `DenseRTRL` is exact for all cells.

    References:
        Mozer 1989, A focused backpropagation algorithm for temporal pattern recognition, Complex Systems 3.
        Zucchet, Meier, Schug, Mujika, Sacramento 2023, Online learning of long-range dependencies, arXiv:2305.15947.
    """

    def check(self, row: Row, in_size: int) -> None:
        super().check(row, in_size)
        if not _as_made(steps_alone, row, in_size):
            raise ValueError(
                f"RTRL is exact where units do not see each other's states, and those of {row.cell!r} do: take "
                "`DenseRTRL`, or `SnAp1`, which leaves that out"
            )


Judge = Callable[[Any, Params, State, Z], bool]


def _as_made(judge: Judge, row: Row, in_size: int) -> bool:
    """`_judged` with the parameters that the cell itself makes."""
    params = jax.eval_shape(lambda: row.cell.init(jax.random.key(0), in_size))
    old = jax.ShapeDtypeStruct((sum(row.parts.sizes),), row.dtypes.state)
    return _judged(judge, row, params, old, jax.ShapeDtypeStruct((in_size,), row.dtypes.compute))


def _judged(judge: Judge, row: Row, params: Params, old: Any, x: Any) -> bool:
    """What is said of the cell's step where it would be taken."""
    found: list[bool] = []

    def look(params: Params, old: Array, x: Xs) -> None:
        params = row.dtypes.cast(row.cell.prepare(params))
        z = jax.tree.map(lambda leaf: leaf[0], row.cell.project(params, jax.tree.map(lambda leaf: leaf[None], x)))
        found.append(judge(row.cell, params, row.unflatten(old), z))

    jax.eval_shape(look, params, old, x)
    return found[0]


@dataclass(frozen=True)
class SnAp1(_Units):
    """Sparse n-step approximation of real-time recurrent learning, n = 1: influences on a parameter's own unit are kept
    and those that reach it through other units left out.

    m_t = j_t m_{t-1} + ∂s_t/∂θ, with j_t the diagonal of J_t, or its blocks (P, P)

    The recurrent weights count in j_t with their diagonal. Where units do not see each other, it is `RTRL`. Of a gated
    cell with an elementwise update j_t comes from that; of any other whose units see each other from the whole of J_t,
    (N, N).

    References:
        Menick, Elsen, Evci, Osindero, Simonyan, Graves 2021, A practical sparse approximation for real time recurrent
        learning, arXiv:2006.07232.
    """

    def take(self, row: Row, params: Params, old: Array, x: Xs) -> tuple[Take, bool]:
        if _judged(updates_alone, row, params, old, x):
            return decoupled(row.cell), True
        return row.cell.step, _judged(steps_alone, row, params, old, x)


@dataclass(frozen=True)
class EProp(_Units):
    """E-prop: eligibility traces, which remember what a unit's parameters did to its state, times the learning signal
    ∂L_t/∂s_t of the moment. Nothing passes through a gated cell's recurrent product, not even from a unit to itself.

    ε_t = d_t ε_{t-1} + ∂s_t/∂θ, with d_t = ∂s_t/∂s_{t-1} while the recurrent product h_{t-1} u stays as it is

    It is for gated cells with an elementwise update, whose recurrent product is known, and for elementwise cells, which
    have none: of an IndRNN or an LRU it is `RTRL`, because what a unit gives to itself is all there is. In an LSTM d_t
    is the forget gate, in a leaky Elman network 1 − α. The signal is the true derivative of the moment's loss,
    symmetric e-prop in the paper; a loss with other weights backwards makes it the random one.

    References:
        Bellec, Scherr, Subramoney, Hajek, Salaj, Legenstein, Maass 2020, A solution to the learning dilemma for
        recurrent networks of spiking neurons, doi:10.1038/s41467-020-17236-y.
    """

    def check(self, row: Row, in_size: int) -> None:
        super().check(row, in_size)
        if not _as_made(updates_alone, row, in_size) and not _as_made(steps_alone, row, in_size):
            raise ValueError(
                "EProp leaves out what passes through the recurrent product of a gated cell with an elementwise "
                f"`update`; {row.cell!r} is none: take `SnAp1`, `DenseRTRL` or `UORO`"
            )

    def take(self, row: Row, params: Params, old: Array, x: Xs) -> tuple[Take, bool]:
        gated = row.cell.capability == "gated"
        return (decoupled(row.cell, own=False) if gated else row.cell.step), True
