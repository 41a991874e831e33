"""What a cell does over time: its states, its gates, and which of them have stopped moving."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._errors import check_size, check_unit_interval
from .._struct import set_field
from .._types import Array, Params, State, Xs
from .._wrapper import Wrapper
from ..activations import activation
from ._flat import flat_cell, flatten, unflatten

_NAMES: dict[str, tuple[str, ...]] = {
    "LSTM": ("i", "f", "o"),
    "PeepholeLSTM": ("i", "f", "o"),
    "ProjectionLSTM": ("i", "f", "o"),
    "LayerNormLSTM": ("i", "f", "o"),
    "CoupledLSTM": ("f", "o"),
    "ConvLSTM": ("f", "i", "o"),
    "GRU": ("r", "z"),
    "ResetBeforeGRU": ("r", "z"),
    "LayerNormGRU": ("r", "z"),
    "MGU": ("f",),
}
"""The gates in the order in which the cell's step calls its gate activation."""


@jax.jit
def states(cell: Cell, params: Params, xs: Xs, state: State | None = None) -> State:
    """All states of a cell over a sequence: s_1 … s_T, every array of the state and not the output alone.

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`. There is no mask: pass rows of one length.

    Returns:
        a state whose leaves are (T, *B, …).

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> rj.diagnostics.states(cell, params, jnp.ones((6, 2, 3))).c.shape
    (6, 2, 4)
    """
    flat = flat_cell(cell, params, xs, state)

    def body(s: Array, z: Any) -> tuple[Array, Array]:
        s = jax.vmap(flat.step)(s, z)
        return s, s

    _, visited = jax.lax.scan(body, flat.start, flat.z)
    return flat.state(visited, (visited.shape[0], *flat.batch_shape))


@jax.jit
def gates(cell: Cell, params: Params, xs: Xs, state: State | None = None) -> dict[str, Array]:
    """The gates of a cell over a sequence, after their activation.

    Whatever the cell's step passes through its `gate_activation` is a gate; candidates are not. They have the names of
    the cell's equations, and those of a cell that the library does not know are "gate 0", "gate 1", ….

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`. There is no mask: pass rows of one length.

    Returns:
        arrays (T, *B, H) by name.

    Raises:
        TypeError: for a cell without a `gate_activation`: it has no gates, such as `Elman`, or computes them by other
            means, such as `SLSTM`, `MinGRU` and the other cells that run in parallel over time.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> found = rj.diagnostics.gates(cell, params, jnp.ones((6, 2, 3)))
    >>> {name: values.shape for name, values in found.items()}
    {'r': (6, 2, 4), 'z': (6, 2, 4)}
    """
    if not hasattr(_innermost(cell), "gate_activation"):
        raise TypeError(
            f"`cell` must pass its gates through a field `gate_activation`, as GRU and LSTM do; got {cell!r}: trace "
            "its `states` instead"
        )
    heard: list[Array] = []
    flat = flat_cell(_listening(cell, heard), params, xs, state)

    def one(s: Array, z: Any) -> tuple[Array, tuple[Array, ...]]:
        heard.clear()
        return flat.step(s, z), tuple(heard)

    def body(s: Array, z: Any) -> tuple[Array, tuple[Array, ...]]:
        return jax.vmap(one)(s, z)

    _, found = jax.lax.scan(body, flat.start, flat.z)
    heard.clear()
    own = _NAMES.get(type(_innermost(cell)).__name__, ())
    names = own if len(own) == len(found) else tuple(f"gate {i}" for i in range(len(found)))
    shaped = [gate.reshape(gate.shape[0], *flat.batch_shape, *gate.shape[2:]) for gate in found]
    return dict(zip(names, shaped, strict=True))


def _innermost(cell: Any) -> Any:
    return _innermost(cell.cell) if isinstance(cell, Wrapper) else cell


def _listening(cell: Any, heard: list[Array]) -> Any:
    """The same cell, whose gate activation also puts what it returns into `heard`."""
    if isinstance(cell, Wrapper):
        return _replaced(cell, "cell", _listening(cell.cell, heard))
    plain = activation(cell.gate_activation)

    def listen(x: Array) -> Array:
        heard.append(plain(x))
        return heard[-1]

    return _replaced(cell, "gate_activation", listen)


def _replaced(cell: Any, name: str, value: Any) -> Any:
    """A copy with another field, which no constructor checks."""
    cell = copy.copy(cell)
    set_field(cell, name, value)
    return cell


class Saturation(NamedTuple):
    """Shares in [0, 1] for every unit, (H): of steps and rows where a gate is nearly closed, and nearly open; NaN for a
    unit whose gate is NaN somewhere."""

    closed: Array
    open: Array


def saturation(values: dict[str, Array], low: float = 0.1, high: float = 0.9) -> dict[str, Saturation]:
    """How often each gate of each unit is nearly closed or nearly open, where little gradient passes through it.

    Args:
        values: gates in [0, 1] by name, (T, *B, H), from `gates`.
        low: below it a gate counts as closed.
        high: above it a gate counts as open.

    Returns:
        a `Saturation` by name of the gate, `closed` and `open`, (H) each.

    Raises:
        ValueError: if the bounds are not within [0, 1] and in this order, or there is neither a step nor a row.

    References:
        Karpathy, Johnson, Fei-Fei 2015, Visualizing and understanding recurrent networks, arXiv:1506.02078.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> found = rj.diagnostics.saturation({"f": jnp.array([[0.05, 0.5], [0.95, 0.5]])})["f"]
    >>> found.closed.tolist(), found.open.tolist()
    ([0.5, 0.0], [0.5, 0.0])
    """
    check_unit_interval("low", low)
    check_unit_interval("high", high)
    if low > high:
        raise ValueError(f"`low` must be at most `high`, or a gate is closed and open at once; got {low} and {high}")
    return {name: Saturation(_share(gate, gate < low), _share(gate, gate > high)) for name, gate in values.items()}


def dead_units(values: Array, tolerance: float = 1e-6) -> Array:
    """Units that never move: True where a unit's values differ by at most `tolerance` over all steps and rows.

    Args:
        values: (T, *B, H), such as outputs or `states(…).h`.
        tolerance: the largest range of a dead unit.

    Returns:
        booleans (H). A unit that is NaN somewhere is not dead.

    Raises:
        ValueError: if there is neither a step nor a row.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.diagnostics.dead_units(jnp.array([[0.0, 0.0], [0.0, 1.0]])).tolist()
    [True, False]
    """
    axes = _all_but_last(values)
    still = values.max(axes) - values.min(axes) <= tolerance
    return still & ~jnp.isnan(values).any(axes)  # XLA:CPU's maximum of many numbers drops those that are NaN


def _share(values: Array, flags: Array) -> Array:
    axes = _all_but_last(values)
    return jnp.where(jnp.isnan(values).any(axes), jnp.nan, flags.mean(axes))


def _all_but_last(values: Array) -> tuple[int, ...]:
    if values.ndim < 2 or values.size == 0:
        raise ValueError(f"values must be (T, *B, H) with at least one step and row; got shape {tuple(values.shape)}")
    return tuple(range(values.ndim - 1))


def sample_states(
    cell: Cell, params: Params, xs: Xs, count: int, key: Array, *, noise: float = 0.0, state: State | None = None
) -> State:
    """States that a cell visits, drawn at random over steps and rows: where `fixed_points` begins to search.

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`.
        count: how many, drawn with replacement.
        key: of the draws.
        noise: standard deviation of Gaussian noise that is added to every number.

    Returns:
        a state with leaves (count, …).

    Raises:
        ValueError: if no state is visited, `count` is not positive, or `noise` is negative.

    References:
        Golub, Sussillo 2018, FixedPointFinder, doi:10.21105/joss.01003.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> rj.diagnostics.sample_states(cell, params, xs, 10, jax.random.key(2), noise=0.1).h.shape
    (10, 4)
    """
    check_size("count", count)
    if not noise >= 0:
        raise ValueError(f"`noise` must be a standard deviation, at least 0; got {noise}")
    visited, shapes = states(cell, params, xs, state), flat_cell(cell, params, xs, state).shapes
    rows = jax.tree.leaves(visited)[0].size // jax.tree.leaves(shapes)[0].size
    if not rows:
        raise ValueError("`xs` must have at least one step and one row, or no state is visited")
    flat = flatten(visited, rows)
    key_rows, key_noise = jax.random.split(key)
    flat = flat[jax.random.randint(key_rows, (count,), 0, rows)]
    return unflatten(flat + noise * jax.random.normal(key_noise, flat.shape, flat.dtype), shapes)
