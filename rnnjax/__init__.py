"""Recurrent neural networks in JAX: pure cells, one driver for time, layers that compose."""

from typing import Any

from ._cell import AssociativeCell as AssociativeCell
from ._cell import Cell as Cell
from ._cell import ChunkedCell as ChunkedCell
from ._cell import DiagonalCell as DiagonalCell
from ._cell import GatedCell as GatedCell
from ._cell import Marks as Marks
from ._linear import Affine as Affine
from ._struct import node as node
from ._struct import struct as struct
from ._unroll import Newton as Newton
from ._unroll import NewtonReport as NewtonReport
from ._unroll import explain as explain
from ._unroll import newton_report as newton_report
from ._unroll import unroll as unroll
from ._wrapper import Wrapper as Wrapper
from .cells import GLA as GLA
from .cells import GRU as GRU
from .cells import HGRN as HGRN
from .cells import LEM as LEM
from .cells import LRU as LRU
from .cells import LSTM as LSTM
from .cells import LTC as LTC
from .cells import MGU as MGU
from .cells import MLSTM as MLSTM
from .cells import QRNN as QRNN
from .cells import RGLRU as RGLRU
from .cells import S5 as S5
from .cells import SLSTM as SLSTM
from .cells import SRU as SRU
from .cells import ActiveUnits as ActiveUnits
from .cells import CfC as CfC
from .cells import ConvLSTM as ConvLSTM
from .cells import CoRNN as CoRNN
from .cells import CoupledLSTM as CoupledLSTM
from .cells import DeltaNet as DeltaNet
from .cells import Elman as Elman
from .cells import GatedDeltaNet as GatedDeltaNet
from .cells import GradientClip as GradientClip
from .cells import IndRNN as IndRNN
from .cells import LayerNormGRU as LayerNormGRU
from .cells import LayerNormLSTM as LayerNormLSTM
from .cells import LeakyElman as LeakyElman
from .cells import LearnedInitialState as LearnedInitialState
from .cells import LinearElman as LinearElman
from .cells import MinGRU as MinGRU
from .cells import MinLSTM as MinLSTM
from .cells import PeepholeLSTM as PeepholeLSTM
from .cells import ProjectionLSTM as ProjectionLSTM
from .cells import RecurrentDropout as RecurrentDropout
from .cells import ResetBeforeGRU as ResetBeforeGRU
from .cells import WeightDrop as WeightDrop
from .cells import Zoneout as Zoneout
from .layers import RNN as RNN
from .layers import Activate as Activate
from .layers import AdditiveScore as AdditiveScore
from .layers import AttentionPooling as AttentionPooling
from .layers import BahdanauAttention as BahdanauAttention
from .layers import Bidirectional as Bidirectional
from .layers import Block as Block
from .layers import CausalConv as CausalConv
from .layers import CoverageScore as CoverageScore
from .layers import Dense as Dense
from .layers import DotScore as DotScore
from .layers import Dropout as Dropout
from .layers import Embedding as Embedding
from .layers import First as First
from .layers import Gate as Gate
from .layers import GeneralScore as GeneralScore
from .layers import GriffinBlock as GriffinBlock
from .layers import Last as Last
from .layers import Layer as Layer
from .layers import LayerNorm as LayerNorm
from .layers import LocationScore as LocationScore
from .layers import LuongAttention as LuongAttention
from .layers import Max as Max
from .layers import Mean as Mean
from .layers import Memory as Memory
from .layers import MinGRUBlock as MinGRUBlock
from .layers import MLSTMBlock as MLSTMBlock
from .layers import MultiHeadScore as MultiHeadScore
from .layers import PointerGenerator as PointerGenerator
from .layers import Pooling as Pooling
from .layers import Residual as Residual
from .layers import RMSNorm as RMSNorm
from .layers import ScaledDotScore as ScaledDotScore
from .layers import SLSTMBlock as SLSTMBlock
from .layers import Source as Source
from .layers import Stack as Stack
from .layers import Start as Start
from .layers import Stateless as Stateless
from .layers import VariationalDropout as VariationalDropout
from .layers import alignments as alignments
from .layers import stepper as stepper
from .layers import summary as summary

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Rooms that the core does without are imported where they are first used."""
    if name in ("data", "decoding", "diagnostics", "flax", "interop", "testing", "training"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
