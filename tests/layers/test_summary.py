"""The table of a model."""

from __future__ import annotations

import pytest

import rnnjax as rj


def test_table_of_a_nested_model():
    model = rj.Stack(
        [
            rj.Embedding(10, 4),
            rj.Bidirectional(rj.GRU(4)),
            rj.Residual(rj.Stack([rj.LSTM(8), rj.Dropout(0.5)])),
            rj.Mean(),
            rj.Dense(3, use_bias=False),
        ]
    )
    assert rj.summary(model, None).splitlines() == [
        "layer                                               out  parameters                               count",
        "Stack                                               3",
        "  0 Embedding(vocabulary=10, size=4)                4    w (10, 4)                                   40",
        "  1 Bidirectional                                   8",
        "    forward RNN(GRU(hidden_size=4))                 4    w (4, 12), u (4, 12), b (12,), b_n (4,)    112",
        "    backward RNN(GRU(hidden_size=4), reverse=True)  4    w (4, 12), u (4, 12), b (12,), b_n (4,)    112",
        "  2 Residual                                        8",
        "    layer Stack                                     8",
        "      0 RNN(LSTM(hidden_size=8))                    8    w (8, 32), u (8, 32), b (32,)              544",
        "      1 Dropout(rate=0.5)                           8                                                 0",
        "  3 Mean()                                          8                                                 0",
        "  4 Dense(size=3, use_bias=False)                   3    w (8, 3)                                    24",
        "total                                                                                               832",
    ]


def test_makes_no_arrays():
    """A recurrent matrix of 10¹² numbers would not fit anywhere."""
    table = rj.summary(rj.Elman(1_000_000), in_size=1)
    assert table.splitlines()[-1].split() == ["total", "1,000,002,000,000"]


def test_refuses_what_is_not_a_model():
    with pytest.raises(TypeError, match=r"`model` must be a layer or a cell; got 3"):
        rj.summary(3, 2)
