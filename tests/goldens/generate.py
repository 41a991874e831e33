"""Regenerates the golden values that `test_goldens.py` compares with. The tests themselves need NumPy alone.

    KERAS_BACKEND=jax python tests/goldens/generate.py

needs PyTorch, Keras 3 and ONNX. Every weight, input, initial state and cotangent is random, because constant weights
are blind to swapped gates. Everything is float64 and stays in the layout of the library that computed it.

Entries are named "case/array". In the files of PyTorch and Keras an entry stacks two arrays: of a weight, an input or
an initial state the value and its gradient, of an output or a last state the value and the cotangent it was pulled back
with. ONNX's evaluator has no gradients, so its entries are values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
T, B, I, H = 5, 3, 2, 4  # noqa: E741
LENGTHS = np.array([3, 5, 1, 4])

Arrays = dict[str, np.ndarray]


def draws(seed: int) -> Callable[..., np.ndarray]:
    """A function from a shape to normal numbers, of a scale that leaves the gates unsaturated. They are rounded to
    multiples of 1/128, which compress."""
    rng = np.random.default_rng(seed)
    return lambda *shape: np.round(90 * rng.standard_normal(shape)) / 128


def save(name: str, cases: dict[str, Arrays]) -> None:
    """Writes one file."""
    path = HERE / f"{name}.npz"
    np.savez_compressed(
        path, **{f"{case}/{key}": value for case, arrays in cases.items() for key, value in arrays.items()}
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB, {', '.join(cases)}")


def pair(value: Any, dual: Any) -> np.ndarray:
    return np.stack([np.asarray(value, np.float64), np.asarray(dual, np.float64)])


def torch_case(
    kind: str, seed: int, *, batch: int = B, lengths: np.ndarray | None = None, zero_state: bool = False, **options: Any
) -> Arrays:
    """A module of `torch.nn` with every array that goes in or comes out, time-major."""
    import torch

    draw, lstm = draws(seed), kind == "LSTM"
    module = getattr(torch.nn, kind)(I, H, **options).double()
    for weight in module.parameters():
        weight.data = torch.tensor(draw(*weight.shape))
    directions = module.num_layers * (2 if module.bidirectional else 1)
    x = torch.tensor(draw(T, batch, I), requires_grad=True)
    sizes = {} if zero_state else {"h0": module.proj_size or H, "c0": H} if lstm else {"h0": H}
    start = {key: torch.tensor(draw(directions, batch, size), requires_grad=True) for key, size in sizes.items()}

    xs = x
    if lengths is not None:
        xs = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, last = module(xs, None if zero_state else tuple(start.values()) if lstm else start["h0"])
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)
    outs = {"y": y, **(dict(zip(("h_n", "c_n"), last, strict=True)) if lstm else {"h_n": last})}

    arrays = torch_pairs({**dict(module.named_parameters()), "x": x, **start}, outs, draw)
    return arrays if lengths is None else {**arrays, "lengths": lengths}


def torch_cell_case(kind: str, seed: int) -> Arrays:
    """A cell of `torch.nn` in a loop, with the arrays of `torch_case`."""
    import torch

    draw, lstm = draws(seed), kind == "LSTMCell"
    cell = getattr(torch.nn, kind)(I, H).double()
    for weight in cell.parameters():
        weight.data = torch.tensor(draw(*weight.shape))
    x = torch.tensor(draw(T, B, I), requires_grad=True)
    start = {key: torch.tensor(draw(1, B, H), requires_grad=True) for key in (("h0", "c0") if lstm else ("h0",))}

    state, ys = tuple(value[0] for value in start.values()), []
    for x_t in x:
        new = cell(x_t, state if lstm else state[0])
        state = new if lstm else (new,)
        ys.append(state[0])
    outs = {"y": torch.stack(ys), **{f"{key[0]}_n": last[None] for key, last in zip(start, state, strict=True)}}
    return torch_pairs({**dict(cell.named_parameters()), "x": x, **start}, outs, draw)


def torch_pairs(ins: dict[str, Any], outs: dict[str, Any], draw: Callable[..., np.ndarray]) -> Arrays:
    """Inputs with their gradients and outputs with the cotangents that were pulled back."""
    import torch

    cotangents = {key: torch.tensor(draw(*value.shape)) for key, value in outs.items()}
    torch.autograd.backward(tuple(outs.values()), tuple(cotangents.values()))
    arrays = {key: pair(value.detach(), value.grad) for key, value in ins.items()}
    return arrays | {key: pair(value.detach(), cotangents[key]) for key, value in outs.items()}


def keras_case(
    kind: str, seed: int, shape: Iterable[int], state_shapes: list[tuple[int, ...]], *, mask: Any = None, **options: Any
) -> Arrays:
    """A Keras layer with every array that goes in or comes out, batch-major. `shape` is that of the inputs."""
    import jax
    import keras

    draw = draws(seed)
    # Keras's own tanh rounds to float32
    options = {"activation": jax.numpy.tanh, "dtype": "float64", **options}
    layer = getattr(keras.layers, kind)(return_sequences=True, return_state=True, **options)
    x = draw(*shape)
    layer(x)
    weights = [draw(*weight.shape) for weight in layer.trainable_variables]
    fixed = [weight.value for weight in layer.non_trainable_variables]
    start = [draw(*state_shape) for state_shape in state_shapes]

    def run(weights: Any, x: Any, start: Any) -> list[Any]:
        return layer.stateless_call(weights, fixed, x, initial_state=start, mask=mask, training=False)[0]

    outs, pull = jax.vjp(run, weights, x, start)
    cotangents = [draw(*out.shape) for out in outs]
    d_weights, d_x, d_start = pull(type(outs)(cotangents))
    names = [weight.name for weight in layer.trainable_variables]
    arrays = {name: pair(*both) for name, *both in zip(names, weights, d_weights, strict=True)}
    arrays["x"] = pair(x, d_x)
    states = ("h", "c")[: len(start)]
    arrays |= {f"{name}0": pair(*both) for name, *both in zip(states, start, d_start, strict=True)}
    outputs = ("y", *(f"{name}_n" for name in states))
    arrays |= {name: pair(*both) for name, *both in zip(outputs, outs, cotangents, strict=True)}
    return arrays if mask is None else {**arrays, "mask": np.asarray(mask)}


def onnx_case(
    op: str,
    gates: int,
    seed: int,
    *,
    bias: bool = True,
    peepholes: bool = False,
    directions: int = 1,
    **attributes: Any,
) -> Arrays:
    """An ONNX operator run by the reference evaluator, layout 0: time-major. The evaluator ignores `sequence_lens`,
    `clip` and, for LSTM and GRU, `activations`, so no case has them."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    draw = draws(seed)
    ins = {
        "X": draw(T, B, I),
        "W": draw(directions, gates * H, I),
        "R": draw(directions, gates * H, H),
        "B": draw(directions, 2 * gates * H) if bias else None,
        "sequence_lens": None,
        "initial_h": draw(directions, B, H),
    }
    outs = ["Y", "Y_h"]
    if op == "LSTM":
        ins |= {"initial_c": draw(directions, B, H), "P": draw(directions, 3 * H) if peepholes else None}
        outs.append("Y_c")
    if directions == 2:
        attributes["direction"] = "bidirectional"
    given = {key: value for key, value in ins.items() if value is not None}
    helper, double = onnx.helper, onnx.TensorProto.DOUBLE
    node = helper.make_node(op, [key if key in given else "" for key in ins], outs, hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info(key, double, value.shape) for key, value in given.items()],
        [helper.make_tensor_value_info(key, double, None) for key in outs],
    )
    results = ReferenceEvaluator(helper.make_model(graph)).run(None, given)
    return {**given, **dict(zip(outs, results, strict=True))}


def main() -> None:
    """Writes every file."""
    import jax

    jax.config.update("jax_enable_x64", True)
    save(
        "torch_cells",
        {
            "rnn_tanh": torch_case("RNN", 0, nonlinearity="tanh"),
            "rnn_relu": torch_case("RNN", 1, nonlinearity="relu"),
            "lstm": torch_case("LSTM", 2),
            "lstm_projection": torch_case("LSTM", 3, proj_size=3),
            "gru": torch_case("GRU", 4),
            "rnn_cell": torch_cell_case("RNNCell", 5),
            "lstm_cell": torch_cell_case("LSTMCell", 6),
            "gru_cell": torch_cell_case("GRUCell", 7),
        },
    )
    both = {"num_layers": 2, "bidirectional": True}
    ragged = {"batch": len(LENGTHS), "lengths": LENGTHS}
    save("torch_stack", {"lstm": torch_case("LSTM", 10, **both)})
    save(
        "torch_packed",
        {
            "lstm": torch_case("LSTM", 20, **ragged),
            "gru_stack": torch_case("GRU", 21, **both, **ragged, zero_state=True),
        },
    )

    row, mask = (B, T, I), np.array([[0, 0, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], bool)
    one, two = [(B, H)], [(B, H), (B, H)]
    ragged = {"mask": mask, "zero_output_for_mask": True}
    save(
        "keras_cells",
        {
            "simple_rnn": keras_case("SimpleRNN", 30, row, one, units=H),
            "lstm": keras_case("LSTM", 31, row, two, units=H),
            "gru_reset_after": keras_case("GRU", 32, row, one, units=H, reset_after=True),
            "gru_reset_before": keras_case("GRU", 33, row, one, units=H, reset_after=False),
            "lstm_mask": keras_case("LSTM", 34, row, two, units=H, **ragged),
            "gru_mask": keras_case("GRU", 35, row, one, units=H, **ragged),
        },
    )
    conv = {"filters": 2, "kernel_size": 3, "padding": "same"}
    save(
        "keras_conv",
        {
            "conv_lstm_1d": keras_case("ConvLSTM1D", 40, (2, 3, 5, 3), [(2, 5, 2)] * 2, **conv),
            "conv_lstm_2d": keras_case("ConvLSTM2D", 41, (2, 3, 4, 5, 1), [(2, 4, 5, 2)] * 2, **conv),
            "conv_lstm_3d": keras_case("ConvLSTM3D", 42, (2, 3, 2, 4, 3, 1), [(2, 2, 4, 3, 2)] * 2, **conv),
        },
    )
    save(
        "onnx",
        {
            "rnn": onnx_case("RNN", 1, 50),
            "lstm_peephole": onnx_case("LSTM", 4, 51, peepholes=True),
            "gru_reset_before": onnx_case("GRU", 3, 52, linear_before_reset=0),
            "gru_reset_after": onnx_case("GRU", 3, 53, linear_before_reset=1),
            "lstm": onnx_case("LSTM", 4, 54),
            "lstm_both": onnx_case("LSTM", 4, 55, directions=2),
            "rnn_without_bias": onnx_case("RNN", 1, 56, bias=False),
        },
    )


if __name__ == "__main__":
    main()
