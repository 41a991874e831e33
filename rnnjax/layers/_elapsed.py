"""In which direction of time a layer reads elapsed times."""

from __future__ import annotations

from typing import Any

from .._types import Array
from ._layer import Layer


def check_one_direction(layer: Layer, x: Array) -> None:
    """Raises ValueError if, of the layers within, some read the times beside x forwards and others backwards."""
    if len(_read_forwards(layer, x.shape[-1] if layer.event_ndim else None)) == 2:
        raise ValueError(
            f"elapsed times (T, *B) cannot be read in both directions, as by {layer!r}: backwards, the time since the "
            "last step is that of the step behind. Call its parts, those that run backwards on "
            "`(x, jnp.roll(dt, -1, axis=0))`"
        )


def _read_forwards(layer: Layer, in_size: Any) -> set[bool]:
    """True and False as there are layers within that read elapsed times and run forwards, or backwards."""
    if not layer.elapsed:
        return set()
    parts = layer.parts(in_size)
    return set().union(*(_read_forwards(part, size) for _, part, size in parts)) if parts else {layer.causal}
