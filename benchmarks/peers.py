"""Peers of benchmarks/speed.py: layers and single steps of other libraries, in the fastest forms known to us.

Those that are not installed are left out; benchmarks are not run without Flax.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

GATES = {"LSTM": 4, "GRU": 3, "Elman": 1}

Shape = tuple[int, int, int, int]  # B, T, I, H
Run = Callable[[], Any]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def jax_layers(name: str, shape: Shape, xs: Any) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Functions (params, xs) -> ys and their arguments; all but Keras's are time-major."""
    batch, _, inputs, hidden = shape
    kinds = {"LSTM": linen.OptimizedLSTMCell, "GRU": linen.GRUCell, "Elman": linen.SimpleCell}
    module = linen.RNN(kinds[name](hidden), time_major=True)
    found: dict[str, Any] = {"flax linen": (module.apply, (module.init(jax.random.key(0), xs), xs))}

    own = {"LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell, "Elman": nnx.SimpleCell}
    graph, leaves, rest = nnx.split(
        nnx.RNN(own[name](inputs, hidden, rngs=nnx.Rngs(0)), time_major=True, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    zeros = jnp.zeros((batch, hidden))
    carry = (zeros, zeros) if name == "LSTM" else zeros
    found["flax nnx"] = (lambda p, xs: nnx.merge(graph, p, rest)(xs, initial_carry=carry), (leaves, xs))

    if installed("equinox") and name != "Elman":
        found["equinox"] = (equinox_layer, (equinox_cell(name, inputs, hidden), xs))
    if installed("keras"):
        found["keras"] = keras_layer(name, shape, xs)
    return found


def equinox_cell(name: str, inputs: int, hidden: int) -> Any:
    import equinox

    return {"LSTM": equinox.nn.LSTMCell, "GRU": equinox.nn.GRUCell}[name](inputs, hidden, key=jax.random.key(0))


def equinox_layer(cell: Any, xs: Any) -> Any:
    """Equinox has cells and no layer: a scan of the cell mapped over the batch."""
    zeros = jnp.zeros((xs.shape[1], cell.hidden_size))
    lstm = type(cell).__name__ == "LSTMCell"

    def step(state: Any, x: Any) -> Any:
        state = jax.vmap(cell)(x, state)
        return state, state[0] if lstm else state

    return jax.lax.scan(step, (zeros, zeros) if lstm else zeros, xs)[1]


def keras_layer(name: str, shape: Shape, xs: Any) -> Any:
    """The layer's stateless call, batch-major as it must be."""
    import keras

    batch, steps, inputs, hidden = shape
    kind = {"LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU, "Elman": keras.layers.SimpleRNN}[name]
    layer = kind(hidden, return_sequences=True)
    layer.build((batch, steps, inputs))
    values = [variable.value for variable in layer.trainable_variables]
    rest = [variable.value for variable in layer.non_trainable_variables]
    return lambda p, xs: layer.stateless_call(p, rest, xs)[0], (values, xs.swapaxes(0, 1))


def torch_runs(name: str, shape: Shape) -> tuple[Run, Run]:
    """Forward, and forward with gradients, of PyTorch's layer."""
    import torch

    batch, steps, inputs, hidden = shape
    layer = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "Elman": torch.nn.RNN}[name](inputs, hidden)
    xs = torch.randn(steps, batch, inputs, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            layer(xs)

    def backward() -> None:
        layer.zero_grad(set_to_none=True)
        xs.grad = None
        (layer(xs)[0] ** 2).sum().backward()

    return forward, backward


def onnx_run(name: str, shape: Shape) -> Run:
    """The forward pass of ONNX Runtime's operator."""
    from onnx import helper

    batch, steps, inputs, hidden = shape
    options: dict[str, Any] = {"hidden_size": hidden} | ({"linear_before_reset": 1} if name == "GRU" else {})
    node = helper.make_node({"Elman": "RNN"}.get(name, name), ["X", "W", "R", "B"], ["Y"], **options)
    weights = dict(zip("WRB", onnx_weights(name, inputs, hidden), strict=True))
    sizes = {"X": (steps, batch, inputs)}, {"Y": (steps, 1, batch, hidden)}
    session = onnx_session([node], *sizes, weights, threads=len(os.sched_getaffinity(0)))
    xs = np.random.default_rng(0).normal(size=(steps, batch, inputs)).astype("f")
    return lambda: session.run(None, {"X": xs})


def onnx_weights(name: str, inputs: int, hidden: int) -> list[np.ndarray]:
    """W, R and B of the operator."""
    rng, columns = np.random.default_rng(0), GATES[name] * hidden
    return [
        rng.normal(0, 0.1, size).astype("f") for size in ((1, columns, inputs), (1, columns, hidden), (1, 2 * columns))
    ]


def onnx_session(
    nodes: list[Any],
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int, ...]],
    weights: dict[str, np.ndarray],
    threads: int,
) -> Any:
    """ONNX Runtime's session of a graph, which is given by its nodes, the shapes of what goes in and out, and weights
    that are constants."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def ends(shapes: dict[str, tuple[int, ...]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    arrays = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "layers", ends(inputs), ends(outputs), arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # between calls, not within one
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def streams(size: int, layers: int, steps: int) -> dict[str, Run]:
    """Calls that make so many single steps of so many LSTMs at B 1, waiting for each output."""
    runs = {"flax": flax_stream(size, layers, steps)}
    if installed("equinox"):
        runs["equinox"] = equinox_stream(size, layers, steps)
    if installed("torch"):
        runs["torch"] = torch_stream(size, layers, steps)
    if installed("onnx") and installed("onnxruntime"):
        runs["onnxruntime"] = onnx_stream(size, layers, steps)
    return runs


def jax_stream(step: Callable[[Any, Any], Any], x: Any, state: Any, steps: int) -> Run:
    """Steps of `y, state = step(x, state)`, which may use its state up."""

    def run() -> None:
        own = jax.tree.map(jnp.copy, state)
        for _ in range(steps):
            y, own = step(x, own)
            jax.block_until_ready(y)

    return run


def chain(cells: list[Callable[[Any, Any], Any]]) -> Callable[[Any, Any], Any]:
    """The compiled step of cells (state, x) -> (state, y), one on top of the other, as `rnnjax.stepper` compiles its
    own: weights are constants, and the state is used up."""

    @partial(jax.jit, donate_argnums=1)
    def step(y: Any, state: Any) -> Any:
        after = []
        for cell, own in zip(cells, state, strict=True):
            own, y = cell(own, y)
            after.append(own)
        return y, after

    return step


def flax_stream(size: int, layers: int, steps: int) -> Run:
    cell, zeros = linen.OptimizedLSTMCell(size), jnp.zeros((1, size))
    weights = [cell.init(jax.random.key(i), (zeros, zeros), zeros) for i in range(layers)]
    step = chain([partial(cell.apply, own) for own in weights])
    return jax_stream(step, jnp.ones((1, size)), [(zeros, zeros)] * layers, steps)


def equinox_stream(size: int, layers: int, steps: int) -> Run:
    def applied(cell: Any) -> Callable[[Any, Any], Any]:
        def apply(state: Any, x: Any) -> Any:
            state = cell(x, state)
            return state, state[0]

        return apply

    zeros = jnp.zeros(size)
    step = chain([applied(equinox_cell("LSTM", size, size)) for _ in range(layers)])
    return jax_stream(step, jnp.ones(size), [(zeros, zeros)] * layers, steps)


def torch_stream(size: int, layers: int, steps: int) -> Run:
    import torch

    cells = [torch.nn.LSTMCell(size, size) for _ in range(layers)]
    x, zeros = torch.ones(1, size), torch.zeros(1, size)

    @torch.inference_mode()
    def run() -> None:
        state = [(zeros, zeros)] * layers
        for _ in range(steps):
            y = x
            for i, cell in enumerate(cells):
                state[i] = cell(y, state[i])
                y = state[i][0]

    return run


def onnx_stream(size: int, layers: int, steps: int) -> Run:
    """All layers in one graph: an operator's last h (1, B, H) is the next one's only input (T, B, H)."""
    from onnx import helper

    nodes, weights = [], {}
    for i in range(layers):
        own = [f"{key}{i}" for key in "WRB"]
        weights |= dict(zip(own, onnx_weights("LSTM", size, size), strict=True))
        x = f"next_h{i - 1}" if i else "x"
        inputs = [x, *own, "", f"h{i}", f"c{i}"]
        nodes.append(helper.make_node("LSTM", inputs, ["", f"next_h{i}", f"next_c{i}"], hidden_size=size))
    names, shape = [f"{key}{i}" for i in range(layers) for key in "hc"], (1, 1, size)
    sizes = dict.fromkeys(["x", *names], shape), {f"next_{name}": shape for name in names}
    session = onnx_session(nodes, *sizes, weights, threads=1)  # a row is too little for two
    x, zeros = np.ones(shape, "f"), np.zeros(shape, "f")

    def run() -> None:
        state = [zeros] * len(names)
        for _ in range(steps):
            state = session.run(None, {"x": x} | dict(zip(names, state, strict=True)))

    return run
