"""The laws of a cell as a test: for the cells of this package and for yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from ._cell import Cell
from ._laws.arrays import batch as batch
from ._laws.arrays import dtypes as dtypes
from ._laws.gradients import derivatives as derivatives
from ._laws.gradients import leaves as leaves
from ._laws.gradients import lowering as lowering
from ._laws.gradients import parameters_alone as parameters_alone
from ._laws.gradients import same_as_scan as same_as_scan
from ._laws.gradients import same_as_scan_in_all_combinations as same_as_scan_in_all_combinations
from ._laws.gradients import second_derivatives as second_derivatives
from ._laws.masks import mask_with_reset as mask_with_reset
from ._laws.masks import masked_hole as masked_hole
from ._laws.masks import masked_tail as masked_tail
from ._laws.masks import no_valid_step as no_valid_step
from ._laws.masks import padding as padding
from ._laws.masks import reset_splits as reset_splits
from ._laws.noise import noise as noise
from ._laws.objects import leaks as leaks
from ._laws.objects import traces as traces
from ._laws.objects import value as value
from ._laws.time import causality as causality
from ._laws.time import chunks as chunks
from ._laws.time import direction as direction
from ._laws.time import nothing_to_do as nothing_to_do
from ._laws.time import steps_in_a_loop as steps_in_a_loop
from ._laws.transitions import composition as composition
from ._laws.trial import Shape
from ._laws.trial import Trial as Trial
from ._unroll import explain
from ._unroll.table import check_name, names

Law = Callable[[Cell, Shape, str], None]

LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        value,
        composition,
        steps_in_a_loop,
        derivatives,
        same_as_scan,
        parameters_alone,
        chunks,
        batch,
        masked_tail,
        masked_hole,
        reset_splits,
        mask_with_reset,
        padding,
        no_valid_step,
        direction,
        causality,
        nothing_to_do,
        dtypes,
        leaves,
        noise,
        traces,
        leaks,
        lowering,
    )
}
"""What `check_cell` runs by default, from the first to look at to the last."""

SLOW_LAWS: dict[str, Law] = {law.__name__: law for law in (same_as_scan_in_all_combinations, second_derivatives)}
"""Laws to run by name: many combinations, long compilations."""


def check_cell(
    cell: Cell,
    event_shape: Shape,
    *,
    laws: Iterable[str] | None = None,
    implementations: Iterable[str] | None = None,
) -> None:
    """Holds a cell to the laws, on random numbers in float64, whatever the default precision is.

    Tiny sizes are enough and keep it short: most of the time, tens of seconds for a gated cell, goes into compilation.

    Args:
        cell: a cell with `hidden_size` 3 to 5, say.
        event_shape: the shape of one input: I, or (*S, I) for a convolutional cell.
        laws: names from `LAWS` or `SLOW_LAWS`; None takes all of `LAWS`.
        implementations: names that `unroll` takes; None takes all that can run the cell, but "newton", which is never
            chosen by itself and compiles longest.

    Raises:
        AssertionError: for the first law that does not hold or cannot be checked, with its name, its statement and what
            came instead.
        ValueError: for an unknown law or implementation, for none of them, and for inputs that the cell does not take.
        TypeError: for what is no cell, or one whose class is not decorated with `rnnjax.struct`.

    >>> import rnnjax as rj
    >>> from rnnjax.testing import check_cell
    >>> check_cell(rj.Elman(hidden_size=3), 2, laws=["value", "masked_hole"])
    """
    known = LAWS | SLOW_LAWS
    laws = tuple(LAWS) if laws is None else tuple(laws)
    if unknown := [name for name in laws if name not in known]:
        raise ValueError(f"unknown laws {unknown}; choose from {', '.join(known)}")
    implementations = None if implementations is None else tuple(implementations)
    for name in implementations or ():
        check_name(name)
    if not laws or implementations == ():
        raise ValueError("there is nothing to check: `laws` and `implementations` must name at least one, or be None")
    with jax.enable_x64(True):
        _check_taken(cell, event_shape)
        if implementations is None:
            implementations = [name for name in names() if name != "newton" and _supported(cell, event_shape, name)]
        for implementation in implementations:
            for name in laws:
                _check(known[name], cell, event_shape, implementation)


def _check_taken(cell: Cell, event_shape: Shape) -> None:
    """Raises what `unroll` would for such a cell and such inputs, before any law speaks of it."""
    event_shape = event_shape if isinstance(event_shape, tuple) else (event_shape,)
    params = cell.init(jax.random.key(0), event_shape[-1]) if isinstance(cell, Cell) else None
    explain(cell, params, jnp.zeros((1, *event_shape)))


def _check(law: Law, cell: Cell, event_shape: Shape, implementation: str) -> None:
    statement = law.__doc__ or "without a statement"
    where = f"{cell!r} with implementation={implementation!r}, law {law.__name__!r}: {statement}"
    try:
        law(cell, event_shape, implementation)
    except Exception as error:
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{where}\n{what}") from error


def _supported(cell: Cell, event_shape: Shape, implementation: str) -> bool:
    trial = Trial.of(cell, event_shape, implementation)
    try:
        explain(trial.cell, trial.params, trial.xs, implementation=implementation)
    except ValueError:
        return False
    return True
