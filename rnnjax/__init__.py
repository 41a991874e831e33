"""Recurrent neural networks in JAX: pure cells, one driver for time, layers that compose."""

from ._cell import Cell as Cell
from ._cell import GatedCell as GatedCell
from ._cell import Wrapper as Wrapper
from ._struct import node as node
from ._struct import struct as struct
from ._unroll import explain as explain
from ._unroll import unroll as unroll
from .cells import GRU as GRU
from .cells import LSTM as LSTM
from .cells import Elman as Elman

__version__ = "0.1.0"
