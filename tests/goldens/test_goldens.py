"""The numbers of PyTorch, Keras and ONNX's reference evaluator, forward and in every gradient.

Each case runs in the layout of the library that computed it: the conversion to our layout is part of the function that
is differentiated, so the gradients compare in that layout too. `generate.py` says what the files hold.
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
from rnnjax import cells
from rnnjax.layers import BidirectionalParams

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


def reorder(blocks: Array, order: tuple[int, ...]) -> Array:
    """Gate blocks along the last axis, in another order."""
    split = jnp.split(blocks, len(order), axis=-1)
    return jnp.concatenate([split[i] for i in order], axis=-1)


def fold(b_input: Array, b_recurrent: Array) -> tuple[Array, Array]:
    """The biases b and b_n of a GRU in the order r, z, n, from one for the inputs and one for the state."""
    gates, candidate = jnp.split(b_recurrent, [2 * len(b_recurrent) // 3])
    return b_input + jnp.pad(gates, (0, len(candidate))), candidate


# PyTorch: (kH, I), transposed; LSTM i, f, g, o and GRU r, z, n, as here; two biases


def torch_weights(a: Arrays, suffix: str) -> tuple[Array, ...]:
    w, u, b, b_h = (a[f"{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return w.T, u.T, b, b_h


def torch_elman(a: Arrays, suffix: str = "l0") -> cells.ElmanParams:
    w, u, b, b_h = torch_weights(a, suffix)
    return cells.ElmanParams(w, u, b + b_h)


def torch_lstm(a: Arrays, suffix: str = "l0") -> cells.LSTMParams:
    w, u, b, b_h = torch_weights(a, suffix)
    return cells.LSTMParams(w, u, b + b_h)


def torch_projection(a: Arrays) -> cells.ProjectionLSTMParams:
    return cells.ProjectionLSTMParams(*torch_lstm(a), a["weight_hr_l0"].T)


def torch_gru(a: Arrays, suffix: str = "l0") -> cells.GRUParams:
    w, u, b, b_h = torch_weights(a, suffix)
    return cells.GRUParams(w, u, *fold(b, b_h))


def torch_state(cell: rj.Cell, a: Arrays, index: int) -> Any:
    state = type(cell.initial_state(None))
    return state(*(a[f"{name}0"][index] for name in state._fields))


def torch_states(states: list[Any]) -> Arrays:
    return {f"{name}_n": jnp.stack([getattr(state, name) for state in states]) for name in states[0]._fields}


def torch_layer(cell: rj.Cell, params: Callable[[Arrays], Any]) -> Run:
    def run(implementation: str, a: Arrays) -> Arrays:
        start = torch_state(cell, a, 0)
        ys, last = rj.unroll(cell, params(a), a["x"], start, lengths=a.get("lengths"), implementation=implementation)
        return {"y": ys, **torch_states([last])}

    return run


def torch_stack(cell: rj.Cell, params: Callable[[Arrays, str], Any]) -> Run:
    """Two layers in both directions that start from given states."""

    def run(implementation: str, a: Arrays) -> Arrays:
        xs, states = a["x"], []
        for layer in range(2):
            both = []
            for reverse in (False, True):
                own = params(a, f"l{layer}_reverse" if reverse else f"l{layer}")
                start = torch_state(cell, a, len(states))
                ys, last = rj.unroll(cell, own, xs, start, reverse=reverse, implementation=implementation)
                both.append(ys)
                states.append(last)
            xs = jnp.concatenate(both, axis=-1)
        return {"y": xs, **torch_states(states)}

    return run


def torch_packed_stack(implementation: str, a: Arrays) -> Arrays:
    layer = rj.Bidirectional(rj.RNN(rj.GRU(H), implementation=implementation))
    params = tuple(BidirectionalParams(torch_gru(a, f"l{i}"), torch_gru(a, f"l{i}_reverse")) for i in range(2))
    ys, states = rj.Stack([layer, layer])(params, a["x"], lengths=a["lengths"])
    return {"y": ys, **torch_states([state for both in states for state in both])}


# Keras: (I, kH); LSTM i, f, c, o as here, GRU z, r, h; one bias, or (2, 3H) for the GRU that resets after the product


def keras_weights(a: Arrays) -> tuple[Array, Array, Array]:
    return a["kernel"], a["recurrent_kernel"], a["bias"]


def keras_elman(a: Arrays) -> cells.ElmanParams:
    return cells.ElmanParams(*keras_weights(a))


def keras_lstm(a: Arrays) -> cells.LSTMParams:
    return cells.LSTMParams(*keras_weights(a))


def keras_conv_lstm(a: Arrays) -> cells.ConvLSTMParams:
    return cells.ConvLSTMParams(*keras_weights(a))


def keras_gru(a: Arrays) -> cells.GRUParams:
    w, u, b = (reorder(array, (1, 0, 2)) for array in keras_weights(a))
    return cells.GRUParams(w, u, *fold(b[0], b[1]))


def keras_reset_before(a: Arrays) -> cells.ResetBeforeGRUParams:
    return cells.ResetBeforeGRUParams(*(reorder(array, (1, 0, 2)) for array in keras_weights(a)))


def keras_layer(cell: rj.Cell, params: Callable[[Arrays], Any]) -> Run:
    def run(implementation: str, a: Arrays) -> Arrays:
        state = type(cell.initial_state(None))
        start = state(*(a[f"{name}0"] for name in state._fields))
        mask = a["mask"].T if "mask" in a else None
        xs = jnp.swapaxes(a["x"], 0, 1)
        ys, last = rj.unroll(cell, params(a), xs, start, mask=mask, implementation=implementation)
        return {"y": jnp.swapaxes(ys, 0, 1), **{f"{name}_n": getattr(last, name) for name in state._fields}}

    return run


# ONNX: (D, kH, I), transposed; LSTM i, o, f, c with peepholes i, o, f, GRU z, r, h; B = [Wb; Rb]


def onnx_weights(a: Arrays, order: tuple[int, ...]) -> tuple[Array, ...]:
    arrays = (a["W"][0].T, a["R"][0].T, *jnp.split(a["B"][0], 2))
    return tuple(reorder(array, order) for array in arrays)


def onnx_elman(a: Arrays) -> cells.ElmanParams:
    w, u, b, b_h = onnx_weights(a, (0,))
    return cells.ElmanParams(w, u, b + b_h)


def onnx_peephole(a: Arrays) -> cells.PeepholeLSTMParams:
    w, u, b, b_h = onnx_weights(a, (0, 2, 3, 1))
    return cells.PeepholeLSTMParams(w, u, b + b_h, reorder(a["P"][0], (0, 2, 1)))


def onnx_gru(a: Arrays) -> cells.GRUParams:
    w, u, b, b_h = onnx_weights(a, (1, 0, 2))
    return cells.GRUParams(w, u, *fold(b, b_h))


def onnx_reset_before(a: Arrays) -> cells.ResetBeforeGRUParams:
    w, u, b, b_h = onnx_weights(a, (1, 0, 2))
    return cells.ResetBeforeGRUParams(w, u, b + b_h)


def onnx_layer(cell: rj.Cell, params: Callable[[Arrays], Any]) -> Run:
    def run(implementation: str, a: Arrays) -> Arrays:
        state = type(cell.initial_state(None))
        start = state(*(a[f"initial_{name}"][0] for name in state._fields))
        ys, last = rj.unroll(cell, params(a), a["X"], start, implementation=implementation)
        return {"Y": ys[:, None], **{f"Y_{name}": getattr(last, name)[None] for name in state._fields}}

    return run


def table(entries: dict[str, tuple[rj.Cell, Run]]) -> list[Any]:
    """Every case in every implementation that its cell must have."""
    rows = []
    for name, (cell, run) in entries.items():
        names = next(row.implementations for row in CELLS if type(row.cell) is type(cell))
        rows += [pytest.param(*name.split("/"), which, run, id=f"{name}-{which}") for which in names]
    return rows


def using(layer: Callable[..., Run], cell: rj.Cell, params: Callable[..., Any]) -> tuple[rj.Cell, Run]:
    return cell, layer(cell, params)


WITH_GRADIENTS = table(
    {
        "torch_cells/rnn_tanh": using(torch_layer, rj.Elman(H), torch_elman),
        "torch_cells/rnn_relu": using(torch_layer, rj.Elman(H, activation="relu"), torch_elman),
        "torch_cells/lstm": using(torch_layer, rj.LSTM(H), torch_lstm),
        "torch_cells/lstm_projection": using(torch_layer, rj.ProjectionLSTM(H, 3), torch_projection),
        "torch_cells/gru": using(torch_layer, rj.GRU(H), torch_gru),
        "torch_stack/lstm": using(torch_stack, rj.LSTM(H), torch_lstm),
        "torch_packed/lstm": using(torch_layer, rj.LSTM(H), torch_lstm),
        "torch_packed/gru_stack": (rj.GRU(H), torch_packed_stack),
        "keras_cells/simple_rnn": using(keras_layer, rj.Elman(H), keras_elman),
        "keras_cells/lstm": using(keras_layer, rj.LSTM(H), keras_lstm),
        "keras_cells/gru_reset_after": using(keras_layer, rj.GRU(H), keras_gru),
        "keras_cells/gru_reset_before": using(keras_layer, rj.ResetBeforeGRU(H), keras_reset_before),
        "keras_cells/lstm_mask": using(keras_layer, rj.LSTM(H), keras_lstm),
        "keras_cells/gru_mask": using(keras_layer, rj.GRU(H), keras_gru),
        "keras_conv/conv_lstm_1d": using(keras_layer, rj.ConvLSTM(2, (5,)), keras_conv_lstm),
        "keras_conv/conv_lstm_2d": using(keras_layer, rj.ConvLSTM(2, (4, 5)), keras_conv_lstm),
    }
)
VALUES_ONLY = table(
    {
        "onnx/rnn": using(onnx_layer, rj.Elman(H), onnx_elman),
        "onnx/lstm_peephole": using(onnx_layer, rj.PeepholeLSTM(H), onnx_peephole),
        "onnx/gru_reset_before": using(onnx_layer, rj.ResetBeforeGRU(H), onnx_reset_before),
        "onnx/gru_reset_after": using(onnx_layer, rj.GRU(H), onnx_gru),
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
