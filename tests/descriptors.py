"""Every cell once. The laws in `tests/laws` run over this table; a new cell adds one row.

Sizes are small and unequal, so that a swapped axis cannot pass, and every compilation is short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import rnnjax as rj
from rnnjax._unroll import kernels

GATED = ("scan", "fused")
# the package may have been installed where nothing could compile its kernels
NATIVE = (*GATED, "cpu") if kernels.load().variants else GATED
PLAIN = ("scan",)
ASSOCIATIVE = ("chunked", "associative", "scan")
CHUNKED = ("chunked", "scan")


@rj.struct
class Remembering(rj.Wrapper):
    """A cell with a memory of its own, which takes the place of the context: 3 vectors, the same for all rows. They are
    a number times fixed ones, so that laws about a cell's leaves are about the memory."""

    memory_size: int = 2
    gain: float = rj.node(default=1.0)

    def prepare(self, params: Any, *, key: Any = None, context: Any = None) -> Any:
        values = np.random.default_rng(13).normal(size=(3, self.memory_size)) * self.gain
        source = rj.Source(values, mask=np.array([True, True, False]), ids=np.array([3, 1, 1]))
        return super().prepare(params, key=key, context=source)


@dataclass(frozen=True)
class Descriptor:
    """A cell under test.

    event_shape is the shape of one input, (I,) or (*S, I). live_leaves are the cell's numbers, "cell.rate" one of the
    cell in a wrapper, that change the outputs without a key, so that their gradients must not vanish. implementations
    is the row of the committed matrix: exactly these must run.
    memory_size is the features of the memory that a cell with attention reads.
    The laws of a slow row run with --all: another row holds what it shares with it.
    newton says whether Newton's method must run it as well.
    """

    name: str
    cell: rj.Cell
    event_shape: tuple[int, ...] = (3,)
    live_leaves: tuple[str, ...] = ()
    implementations: tuple[str, ...] = GATED
    memory_size: int | None = None
    slow: bool = False
    newton: bool = True

    @property
    def matrix(self) -> tuple[str, ...]:
        """All implementations that must run."""
        return (*self.implementations, *(("newton",) if self.newton else ()))

    @property
    def subject(self) -> rj.Cell:
        """What runs without a context."""
        return self.cell if self.memory_size is None else Remembering(self.cell, self.memory_size)

    @property
    def in_size(self) -> int:
        return self.event_shape[-1]


CELLS: tuple[Descriptor, ...] = (
    Descriptor("elman", rj.Elman(4), implementations=NATIVE),
    Descriptor(
        "elman_relu_identity",
        rj.Elman(4, activation="relu", recurrent_init="identity"),
        implementations=NATIVE,
        slow=True,
    ),
    Descriptor("lstm", rj.LSTM(4), implementations=NATIVE),
    Descriptor("gru", rj.GRU(4), implementations=NATIVE),
    Descriptor("leaky_elman", rj.LeakyElman(4, leak=0.3), live_leaves=("leak",)),
    Descriptor("peephole_lstm", rj.PeepholeLSTM(4), slow=True),
    Descriptor("projection_lstm", rj.ProjectionLSTM(5, proj_size=4), implementations=PLAIN, slow=True),
    Descriptor("coupled_lstm", rj.CoupledLSTM(4), slow=True),
    Descriptor("layer_norm_lstm", rj.LayerNormLSTM(4), slow=True),
    Descriptor("layer_norm_gru", rj.LayerNormGRU(4), slow=True),
    Descriptor("reset_before_gru", rj.ResetBeforeGRU(4), implementations=PLAIN, slow=True),
    Descriptor("mgu", rj.MGU(4)),
    # with relu a unit at rest sees none of its past, and there is no other path
    Descriptor("ind_rnn", rj.IndRNN(4, activation="tanh", max_time=8), implementations=PLAIN),
    Descriptor(
        "conv_lstm_1d", rj.ConvLSTM(3, (5,), kernel_size=2), event_shape=(5, 2), implementations=PLAIN, slow=True
    ),
    Descriptor("conv_lstm_2d", rj.ConvLSTM(2, (4, 3)), event_shape=(4, 3, 2), implementations=PLAIN),
    Descriptor(
        "conv_lstm_3d",
        rj.ConvLSTM(2, (2, 3, 4), kernel_size=(1, 2, 3)),
        event_shape=(2, 3, 4, 1),
        implementations=PLAIN,
        slow=True,
    ),
    Descriptor("min_gru", rj.MinGRU(4), implementations=ASSOCIATIVE),
    Descriptor("min_lstm", rj.MinLSTM(4), implementations=ASSOCIATIVE, slow=True),
    Descriptor("linear_elman", rj.LinearElman(4), implementations=ASSOCIATIVE, slow=True),
    Descriptor("lru", rj.LRU(4), implementations=ASSOCIATIVE, slow=True),
    Descriptor("s5", rj.S5(4), implementations=ASSOCIATIVE, slow=True),
    Descriptor("s5_bilinear", rj.S5(4, discretization="bilinear"), implementations=ASSOCIATIVE, slow=True),
    Descriptor("qrnn", rj.QRNN(4), implementations=ASSOCIATIVE, slow=True),
    Descriptor("sru", rj.SRU(3), implementations=ASSOCIATIVE, slow=True),
    Descriptor("rg_lru", rj.RGLRU(3), implementations=ASSOCIATIVE, slow=True),
    Descriptor(
        "hgrn", rj.HGRN(3, lower_bound=0.3), live_leaves=("lower_bound",), implementations=ASSOCIATIVE, slow=True
    ),
    Descriptor(
        "co_rnn",
        rj.CoRNN(4, step_size=0.3),
        live_leaves=("step_size", "frequency", "damping"),
        implementations=PLAIN,
        slow=True,
    ),
    Descriptor("lem", rj.LEM(4, step_size=0.8), live_leaves=("step_size",), implementations=PLAIN, slow=True),
    Descriptor("cfc", rj.CfC(4, backbone_size=5), implementations=PLAIN, slow=True),
    Descriptor("ltc", rj.LTC(4, unfolds=2), implementations=PLAIN, slow=True),
    Descriptor("slstm", rj.SLSTM(4, heads=2), implementations=PLAIN, slow=True),
    Descriptor("mlstm", rj.MLSTM(4, heads=2), implementations=CHUNKED, slow=True),
    Descriptor(
        "gla",
        rj.GLA(4, heads=2, key_size=3, rank=2),
        live_leaves=("temperature",),
        implementations=CHUNKED,
        slow=True,
    ),
    Descriptor("delta_net", rj.DeltaNet(4, heads=2, key_size=3), implementations=CHUNKED, slow=True),
    Descriptor("gated_delta_net", rj.GatedDeltaNet(4, heads=2), implementations=CHUNKED, slow=True),
    Descriptor(
        "learned_initial_gla",
        rj.LearnedInitialState(rj.GLA(4, rank=2)),
        live_leaves=("cell.temperature",),
        implementations=CHUNKED,
        slow=True,
    ),
    Descriptor("learned_initial_mlstm", rj.LearnedInitialState(rj.MLSTM(2)), implementations=CHUNKED, slow=True),
    Descriptor("learned_initial_state", rj.LearnedInitialState(rj.LSTM(4)), implementations=NATIVE),
    Descriptor("learned_initial_lru", rj.LearnedInitialState(rj.LRU(4)), implementations=ASSOCIATIVE, slow=True),
    Descriptor(
        "zoneout", rj.Zoneout(rj.LSTM(4), rate=0.2, cell_rate=0.4), live_leaves=("rate", "cell_rate"), slow=True
    ),
    Descriptor("recurrent_dropout", rj.RecurrentDropout(rj.GRU(4), rate=0.3), slow=True),
    Descriptor("active_units", rj.ActiveUnits(rj.LSTM(4), units=3), slow=True),
    Descriptor("gradient_clip", rj.GradientClip(rj.LSTM(4), bound=1e3), newton=False, slow=True),
    Descriptor("weight_drop", rj.WeightDrop(rj.LSTM(4), rate=0.3), implementations=NATIVE, slow=True),
    Descriptor("nested", rj.Zoneout(rj.RecurrentDropout(rj.LearnedInitialState(rj.LSTM(4)))), live_leaves=("rate",)),
    Descriptor(
        "bahdanau_attention",
        rj.BahdanauAttention(rj.GRU(4), rj.LocationScore(3, filters=2, width=3), memory_size=2),
        live_leaves=("gain",),
        implementations=PLAIN,
        memory_size=2,
    ),
    Descriptor(
        "luong_attention",
        rj.LuongAttention(rj.LayerNormGRU(4), rj.MultiHeadScore(4, heads=2), memory_size=2, size=3),
        live_leaves=("gain",),
        implementations=PLAIN,
        memory_size=2,
        slow=True,
    ),
    Descriptor(
        "pointer_generator",
        rj.PointerGenerator(
            rj.LuongAttention(rj.LSTM(4), rj.CoverageScore(3), memory_size=2, size=3), vocabulary=3, extra=1
        ),
        live_leaves=("gain",),
        implementations=PLAIN,
        memory_size=2,
        slow=True,
    ),
)

# inputs have 3 features, or are ids below 9
LAYERS: dict[str, rj.Layer] = {
    "rnn": rj.RNN(rj.GRU(4)),
    "reverse": rj.RNN(rj.LSTM(4), reverse=True),
    "bidirectional": rj.Bidirectional(rj.GRU(2), rj.Elman(3)),
    "residual": rj.Residual(rj.Elman(3)),
    "gate": rj.Gate(rj.Elman(2), rj.Dense(2, activation="sigmoid")),
    "causal_stack": rj.Stack([rj.GRU(4), rj.Residual(rj.Elman(4)), rj.Dense(2)]),
    "stack": rj.Stack([rj.LSTM(4), rj.Bidirectional(rj.Elman(2), merge="product"), rj.Dense(2, activation="sigmoid")]),
    "pooled": rj.Stack([rj.Bidirectional(rj.GRU(2)), rj.Mean(), rj.Dense(2)]),
    "causal_conv": rj.CausalConv(3),
    "reverse_conv": rj.CausalConv(2, reverse=True),
    "block": rj.Block(rj.LRU(2), conv=2),
    "griffin_block": rj.GriffinBlock(conv=2, perceptron_expansion=1),
    "min_gru_block": rj.MinGRUBlock(conv=2, perceptron_expansion=1),
    "mlstm_block": rj.MLSTMBlock(heads=2, conv=2, projection=3),
    "slstm_block": rj.SLSTMBlock(heads=3, conv=2),
    "dense": rj.Dense(2, activation="sigmoid"),
    "activate": rj.Activate("sigmoid"),
    "layer_norm": rj.LayerNorm(),
    "rms_norm": rj.RMSNorm(),
    "dropout": rj.Dropout(0.5),
    "variational_dropout": rj.VariationalDropout(0.5),
    "embedding": rj.Embedding(9, 2),
    "first": rj.First(),
    "last": rj.Last(),
    "mean": rj.Mean(),
    "max": rj.Max(),
    "attention_pooling": rj.AttentionPooling(2),
}
SLOW_LAYERS = ("causal_conv", "reverse_conv", "block", "griffin_block", "min_gru_block", "mlstm_block", "slstm_block")
"""Their tests run with --all."""
