"""The numbers of PyTorch, Keras and ONNX's reference evaluator, forward and in every gradient.

Each case runs in the layout of the library that computed it: the conversion to our layout, by `rnnjax.interop`, is part
of the function that is differentiated, so the gradients compare in that layout too. `generate.py` says what the files
hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import CELLS
from jax import Array

import rnnjax as rj

Arrays = dict[str, Array]
Run = Callable[[str, Arrays], Arrays]
"""Takes the name of an implementation and the arrays that go in, and returns those that come out."""

H = 4
CONSTANTS = ("lengths", "mask")
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


@cache
def load(file: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / f"{file}.npz") as archive:
        return dict(archive)


def arrays_of(file: str, case: str) -> dict[str, np.ndarray]:
    return {key.split("/")[1]: value for key, value in load(file).items() if key.split("/")[0] == case}


# PyTorch


def torch_state(cell: rj.Cell, a: Arrays, index: int) -> Any:
    state = type(cell.initial_state(None))
    return state(*(a[f"{name}0"][index] for name in state._fields))


def torch_states(states: list[Any]) -> Arrays:
    return {f"{name}_n": jnp.stack([getattr(state, name) for state in states]) for name in states[0]._fields}


def torch_layer(cell: rj.Cell) -> Run:
    def run(implementation: str, a: Arrays) -> Arrays:
        start, params = torch_state(cell, a, 0), rj.interop.from_torch(cell, a)
        ys, last = rj.unroll(cell, params, a["x"], start, lengths=a.get("lengths"), implementation=implementation)
        return {"y": ys, **torch_states([last])}

    return run


def torch_stack(cell: rj.Cell) -> Run:
    """Two layers in both directions that start from given states."""

    def run(implementation: str, a: Arrays) -> Arrays:
        xs, states = a["x"], []
        for both in rj.interop.from_torch(rj.Stack([rj.Bidirectional(cell)] * 2), a):
            outputs = []
            for own, reverse in zip(both, (False, True), strict=True):
                start = torch_state(cell, a, len(states))
                ys, last = rj.unroll(cell, own, xs, start, reverse=reverse, implementation=implementation)
                outputs.append(ys)
                states.append(last)
            xs = jnp.concatenate(outputs, axis=-1)
        return {"y": xs, **torch_states(states)}

    return run


def torch_packed_stack(implementation: str, a: Arrays) -> Arrays:
    stack = rj.Stack([rj.Bidirectional(rj.RNN(rj.GRU(H), implementation=implementation))] * 2)
    ys, states = stack(rj.interop.from_torch(stack, a), a["x"], lengths=a["lengths"])
    return {"y": ys, **torch_states([state for both in states for state in both])}


# Keras


def keras_layer(cell: rj.Cell) -> Run:
    def run(implementation: str, a: Arrays) -> Arrays:
        state = type(cell.initial_state(None))
        start = state(*(a[f"{name}0"] for name in state._fields))
        params = rj.interop.from_keras(cell, [a["kernel"], a["recurrent_kernel"], a["bias"]])
        mask = a["mask"].T if "mask" in a else None
        xs = jnp.swapaxes(a["x"], 0, 1)
        ys, last = rj.unroll(cell, params, xs, start, mask=mask, implementation=implementation)
        return {"y": jnp.swapaxes(ys, 0, 1), **{f"{name}_n": getattr(last, name) for name in state._fields}}

    return run


# ONNX


def onnx_layer(cell: rj.Cell) -> Run:
    def run(implementation: str, a: Arrays) -> Arrays:
        state = type(cell.initial_state(None))
        start = state(*(a[f"initial_{name}"][0] for name in state._fields))
        ys, last = rj.unroll(cell, rj.interop.from_onnx(cell, a), a["X"], start, implementation=implementation)
        return {"Y": ys[:, None], **{f"Y_{name}": getattr(last, name)[None] for name in state._fields}}

    return run


def onnx_both(implementation: str, a: Arrays) -> Arrays:
    layer = rj.Bidirectional(rj.RNN(rj.LSTM(H), implementation=implementation))
    start = rj.layers.BidirectionalState(*map(rj.cells.LSTMState, a["initial_h"], a["initial_c"]))
    ys, last = layer(rj.interop.from_onnx(layer, a), a["X"], rj.Start(start))
    ends = {f"Y_{name}": jnp.stack([getattr(state, name) for state in last]) for name in ("h", "c")}
    return {"Y": jnp.stack(jnp.split(ys, 2, axis=-1), axis=1), **ends}


def table(entries: dict[str, tuple[rj.Cell, Run]]) -> list[Any]:
    """Every case in every implementation that its cell must have."""
    rows = []
    for name, (cell, run) in entries.items():
        names = next(row.implementations for row in CELLS if type(row.cell) is type(cell))
        rows += [pytest.param(*name.split("/"), which, run, id=f"{name}-{which}") for which in names]
    return rows


def using(layer: Callable[[rj.Cell], Run], cell: rj.Cell) -> tuple[rj.Cell, Run]:
    return cell, layer(cell)


WITH_GRADIENTS = table(
    {
        "torch_cells/rnn_tanh": using(torch_layer, rj.Elman(H)),
        "torch_cells/rnn_relu": using(torch_layer, rj.Elman(H, activation="relu")),
        "torch_cells/lstm": using(torch_layer, rj.LSTM(H)),
        "torch_cells/lstm_projection": using(torch_layer, rj.ProjectionLSTM(H, 3)),
        "torch_cells/gru": using(torch_layer, rj.GRU(H)),
        "torch_cells/rnn_cell": using(torch_layer, rj.Elman(H)),
        "torch_cells/lstm_cell": using(torch_layer, rj.LSTM(H)),
        "torch_cells/gru_cell": using(torch_layer, rj.GRU(H)),
        "torch_stack/lstm": using(torch_stack, rj.LSTM(H)),
        "torch_packed/lstm": using(torch_layer, rj.LSTM(H)),
        "torch_packed/gru_stack": (rj.GRU(H), torch_packed_stack),
        "keras_cells/simple_rnn": using(keras_layer, rj.Elman(H)),
        "keras_cells/lstm": using(keras_layer, rj.LSTM(H)),
        "keras_cells/gru_reset_after": using(keras_layer, rj.GRU(H)),
        "keras_cells/gru_reset_before": using(keras_layer, rj.ResetBeforeGRU(H)),
        "keras_cells/lstm_mask": using(keras_layer, rj.LSTM(H)),
        "keras_cells/gru_mask": using(keras_layer, rj.GRU(H)),
        "keras_conv/conv_lstm_1d": using(keras_layer, rj.ConvLSTM(2, (5,))),
        "keras_conv/conv_lstm_2d": using(keras_layer, rj.ConvLSTM(2, (4, 5))),
        "keras_conv/conv_lstm_3d": using(keras_layer, rj.ConvLSTM(2, (2, 4, 3))),
    }
)
VALUES_ONLY = table(
    {
        "onnx/rnn": using(onnx_layer, rj.Elman(H)),
        "onnx/lstm_peephole": using(onnx_layer, rj.PeepholeLSTM(H)),
        "onnx/gru_reset_before": using(onnx_layer, rj.ResetBeforeGRU(H)),
        "onnx/gru_reset_after": using(onnx_layer, rj.GRU(H)),
        "onnx/lstm": using(onnx_layer, rj.LSTM(H)),
        "onnx/lstm_both": (rj.LSTM(H), onnx_both),
        "onnx/rnn_without_bias": using(onnx_layer, rj.Elman(H)),
    }
)


@pytest.mark.parametrize(("file", "case", "implementation", "run"), WITH_GRADIENTS)
def test_values_and_gradients(file: str, case: str, implementation: str, run: Run) -> None:
    arrays = arrays_of(file, case)
    constants = {key: jnp.asarray(arrays.pop(key)) for key in CONSTANTS if key in arrays}
    outs = [key for key in arrays if key == "y" or key.endswith("_n")]
    ins = {key: jnp.asarray(value[0]) for key, value in arrays.items() if key not in outs}

    cotangents = {key: jnp.asarray(arrays[key][1]) for key in outs}

    @jax.jit
    def differentiate(ins: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        got, pull = jax.vjp(lambda ins: run(implementation, ins | constants), ins)
        return got, pull(cotangents)[0]

    got, gradients = differentiate(ins, cotangents)
    assert sorted(got) == sorted(outs)
    for key in outs:
        np.testing.assert_allclose(got[key], arrays[key][0], **TOLERANCE, err_msg=key)
    for key in ins:
        np.testing.assert_allclose(gradients[key], arrays[key][1], **TOLERANCE, err_msg=f"gradient of {key}")


@pytest.mark.parametrize(("file", "case", "implementation", "run"), VALUES_ONLY)
def test_values(file: str, case: str, implementation: str, run: Run) -> None:
    arrays = arrays_of(file, case)
    got = run(implementation, {key: jnp.asarray(value) for key, value in arrays.items() if not key.startswith("Y")})
    assert sorted(got) == sorted(key for key in arrays if key.startswith("Y"))
    for key, value in got.items():
        np.testing.assert_allclose(value, arrays[key], **TOLERANCE, err_msg=key)


def test_every_stored_case_is_compared() -> None:
    stored = {
        f"{path.stem}/{key.split('/')[0]}" for path in Path(__file__).parent.glob("*.npz") for key in load(path.stem)
    }
    assert stored == {"/".join(row.values[:2]) for row in WITH_GRADIENTS + VALUES_ONLY}
