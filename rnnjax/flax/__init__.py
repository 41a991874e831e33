"""Flax modules that own the parameters of functional layers and call them.

`rnnjax.flax.nnx` and `rnnjax.flax.linen` hold the same modules for the two interfaces of Flax:

    from rnnjax.flax import nnx as rnnx, linen as rlinen

=====================  ============================================================================
LSTM, GRU, Elman       stacks with `num_layers`, `bidirectional` and `dropout` between layers
RNN                    any cell, in either direction
Layer                  any functional layer: `rnnjax.Stack`, `rnnjax.Bidirectional`, your own
=====================  ============================================================================

They are batch-major, x (*B, T, I), unless `time_major=True`. Calling one returns outputs alone, so that it fits into
`Sequential`; `unroll` returns outputs and the last state. Parameters have the same names in both interfaces, and
outputs and gradients are those of the functional form.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Either interface is imported where it is first used."""
    if name in ("linen", "nnx"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
