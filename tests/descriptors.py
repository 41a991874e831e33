"""Every cell once. The laws in `tests/laws` run over this table; a new cell adds one row.

Sizes are small and unequal, so that a swapped axis cannot pass, and every compilation is short.
"""

from __future__ import annotations

from dataclasses import dataclass

import rnnjax as rj

GATED = ("scan", "fused")
PLAIN = ("scan",)


@dataclass(frozen=True)
class Descriptor:
    """A cell under test.

    event_shape is the shape of one input, (I,) or (*S, I). live_leaves are the cell's fields that change the outputs,
    so that their gradients must not vanish. implementations is the row of the committed matrix: exactly these must run.
    """

    name: str
    cell: rj.Cell
    event_shape: tuple[int, ...] = (3,)
    live_leaves: tuple[str, ...] = ()
    implementations: tuple[str, ...] = GATED

    @property
    def in_size(self) -> int:
        return self.event_shape[-1]


CELLS: tuple[Descriptor, ...] = (
    Descriptor("elman", rj.Elman(4)),
    Descriptor("elman_relu_identity", rj.Elman(4, activation="relu", recurrent_init="identity")),
    Descriptor("lstm", rj.LSTM(4)),
    Descriptor("gru", rj.GRU(4)),
)
