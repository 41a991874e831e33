"""Parameters of other libraries: Flax's modules beside ours, whole models, and what is refused.

The numbers of PyTorch, Keras and ONNX are compared in tests/goldens, whose arrays `rnnjax.interop` brings here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import rnnjax as rj
from rnnjax.interop import from_flax, from_keras, from_onnx, from_torch

B, T, I, H = 3, 5, 2, 4  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, I))


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Flax mixes dtypes, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


def torch_tensors(gates: int, inputs: int, suffix: str) -> dict[str, np.ndarray]:
    return arrays(
        **{
            f"weight_ih_{suffix}": (gates * H, inputs),
            f"weight_hh_{suffix}": (gates * H, H),
            f"bias_ih_{suffix}": (gates * H,),
            f"bias_hh_{suffix}": (gates * H,),
        }
    )


def drawn(tree: Any) -> Any:
    """The tree with normal numbers for its arrays, so that no bias is zero."""
    return jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), tree)


LINEN = {
    "SimpleCell": (nn.SimpleCell(H, param_dtype=float), rj.Elman(H)),
    "LSTMCell": (nn.LSTMCell(H, param_dtype=float), rj.LSTM(H)),
    "OptimizedLSTMCell": (nn.OptimizedLSTMCell(H, param_dtype=float), rj.LSTM(H)),
    "GRUCell": (nn.GRUCell(H, param_dtype=float), rj.GRU(H)),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name: str) -> None:
    theirs, cell = LINEN[name]
    module = nn.RNN(theirs)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), X))
    compare(cell, variables, lambda variables: module.apply(variables, X))
    same(from_flax(cell, variables["params"]["cell"]), from_flax(cell, variables))


def same(got: Any, want: Any) -> None:
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, other)


def compare(cell: rj.Cell, variables: Any, theirs: Callable[[Any], Any]) -> None:
    """Outputs, and the gradients of all that Flax has."""

    def ours(variables: Any) -> jax.Array:
        return jnp.swapaxes(rj.unroll(cell, from_flax(cell, variables), jnp.swapaxes(X, 0, 1))[0], 0, 1)

    @jax.jit
    def differentiate(variables: Any) -> Any:
        (ys, pull), (wanted, pull_theirs) = (jax.vjp(f, variables) for f in (ours, theirs))
        return (ys, *pull(jnp.sin(wanted))), (wanted, *pull_theirs(jnp.sin(wanted)))

    got, want = differentiate(variables)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-12)


NNX = {
    "SimpleCell": (nnx.SimpleCell, rj.Elman(H)),
    "LSTMCell": (nnx.LSTMCell, rj.LSTM(H)),
    "OptimizedLSTMCell": (nnx.OptimizedLSTMCell, rj.LSTM(H)),
    "GRUCell": (nnx.GRUCell, rj.GRU(H)),
}


@pytest.mark.parametrize("name", NNX)
def test_nnx(name: str) -> None:
    kind, cell = NNX[name]
    module = nnx.RNN(kind(I, H, dtype=float, param_dtype=float, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    nnx.update(module, drawn(nnx.state(module, nnx.Param)))
    graph, state, rest = nnx.split(module, nnx.Param, ...)
    compare(cell, state, lambda state: nnx.merge(graph, state, rest, copy=True)(X))
    same(from_flax(cell, nnx.to_pure_dict(state)), from_flax(cell, state))


def test_flax_dense_and_embedding() -> None:
    module = nn.Dense(3)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), X))
    np.testing.assert_allclose(
        rj.Dense(3)(from_flax(rj.Dense(3), variables), X)[0], module.apply(variables, X), rtol=1e-12
    )
    state = nnx.state(nnx.Embed(7, 3, rngs=nnx.Rngs(0)), nnx.Param)
    np.testing.assert_array_equal(from_flax(rj.Embedding(7, 3), state).w, jax.tree.leaves(state)[0])


def test_flax_conv_lstm() -> None:
    """Its gates are i, g, f, o, and 1 is added to f at every step; a kernel of even size is padded alike."""
    module, cell = nn.RNN(nn.ConvLSTMCell(2, (3, 2), param_dtype=float)), rj.ConvLSTM(2, (4, 3), (3, 2))
    images = RNG.normal(size=(B, T, 4, 3, I))
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), images))
    ys, _ = rj.unroll(cell, from_flax(cell, variables), jnp.swapaxes(images, 0, 1))
    np.testing.assert_allclose(jnp.swapaxes(ys, 0, 1), module.apply(variables, images), rtol=1e-10, atol=1e-12)


def test_layer_norm() -> None:
    """Each library has an ε of its own."""
    scale, bias = RNG.normal(size=(2, I))
    centred = X - X.mean(-1, keepdims=True)

    def check(params: Any, epsilon: float, bias: Any = bias) -> None:
        wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias
        np.testing.assert_allclose(rj.LayerNorm(epsilon)(params, X)[0], wanted, rtol=1e-10, atol=1e-12)

    (_, params) = from_keras(rj.Stack([rj.Last(), rj.LayerNorm(1e-3)]), [scale, bias])
    check(params, 1e-3)
    check(from_torch(rj.LayerNorm(1e-5), {"norm.weight": scale, "norm.bias": bias}, "norm."), 1e-5)
    check(from_torch(rj.LayerNorm(1e-5), {"weight": scale}), 1e-5, 0)
    check(from_flax(rj.LayerNorm(), {"params": {"scale": scale, "bias": bias}}), 1e-6)
    theirs = nn.LayerNorm(param_dtype=float)
    variables = drawn(jax.eval_shape(theirs.init, jax.random.key(0), X))
    ys, _ = rj.LayerNorm()(from_flax(rj.LayerNorm(), variables), X)
    np.testing.assert_allclose(ys, theirs.apply(variables, X), rtol=1e-8, atol=1e-10)


def test_a_whole_keras_model() -> None:
    """Embedding, Bidirectional(LSTM), Dropout, GRU, Dense: each layer takes its own of the flat list of arrays."""
    model = rj.Stack(
        [rj.Embedding(7, I), rj.Bidirectional(rj.LSTM(H)), rj.Dropout(0.5), rj.GRU(H), rj.Last(), rj.Dense(3)]
    )
    shapes = [(7, I), *2 * [(I, 4 * H), (H, 4 * H), (4 * H,)], (2 * H, 3 * H), (H, 3 * H), (2, 3 * H), (H, 3), (3,)]
    weights = [RNG.normal(size=shape) for shape in shapes]
    params = from_keras(model, weights)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, model.init(jax.random.key(0)))
    np.testing.assert_array_equal(params[0].w, weights[0])
    np.testing.assert_array_equal(params[1].forward.u, weights[2])
    np.testing.assert_array_equal(params[1].backward.u, weights[5])
    z, r, n = np.split(weights[8], 3, axis=1)
    np.testing.assert_array_equal(params[3].u, np.concatenate([r, z, n], axis=1))
    np.testing.assert_array_equal(params[3].b_n, weights[9][1, 2 * H :])
    np.testing.assert_array_equal(params[5].b, weights[11])


def test_part_of_a_torch_model() -> None:
    """Tensors of one prefix are read; dropout between layers takes none, and no bias is one of zeros."""
    lstm = {**torch_tensors(4, I, "l0"), **torch_tensors(4, H, "l1")}
    head = arrays(weight=(3, H), bias=(3,))
    model = {f"encoder.{name}": array for name, array in lstm.items()} | {
        f"head.{name}": array for name, array in head.items()
    }
    first, none, second = from_torch(rj.Stack([rj.LSTM(H), rj.Dropout(0.5), rj.LSTM(H)]), model, "encoder.")
    assert none == ()
    np.testing.assert_array_equal(first.w, lstm["weight_ih_l0"].T)
    np.testing.assert_array_equal(second.u, lstm["weight_hh_l1"].T)
    np.testing.assert_array_equal(second.b, lstm["bias_ih_l1"] + lstm["bias_hh_l1"])
    dense = from_torch(rj.Dense(3), model, "head.")
    np.testing.assert_array_equal(dense.w, head["weight"].T)
    np.testing.assert_array_equal(dense.b, head["bias"])
    np.testing.assert_array_equal(from_torch(rj.Embedding(3, H), model, "head.").w, head["weight"])
    bare = {name: array for name, array in torch_tensors(3, I, "l0").items() if name.startswith("weight")}
    plain = from_torch(rj.GRU(H), bare)
    assert not plain.b.any()
    assert not plain.b_n.any()
    assert plain.b.shape == (3 * H,)


def test_dtypes_stay() -> None:
    tensors = {name: array.astype(np.float16) for name, array in torch_tensors(1, I, "l0").items()}
    assert {leaf.dtype for leaf in from_torch(rj.Elman(H), tensors)} == {np.dtype(np.float16)}


ONE = torch_tensors(1, I, "l0")
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another cell": (lambda: from_torch(rj.MGU(H), ONE), TypeError, "PyTorch fit Elman, LSTM, .*; got MGU"),
    "no cell": (lambda: from_torch("LSTM", ONE), TypeError, "`layer` must be a layer or a cell"),
    "a subclass": (lambda: from_keras(rj.Zoneout(rj.LSTM(H)), []), TypeError, "Keras fit .*; got Zoneout"),
    "missing": (
        lambda: from_torch(rj.Elman(H), {k: v for k, v in ONE.items() if k != "bias_hh_l0"}),
        ValueError,
        "there is no 'bias_hh_l0' among 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0'",
    ),
    "wrong prefix": (
        lambda: from_torch(rj.Elman(H), ONE, "rnn."),
        ValueError,
        "no name is 'rnn.' and then one such as 'weight_ih_l0', or .* among 'bias_hh_l0', .*: give as `prefix` what",
    ),
    "too many layers": (
        lambda: from_torch(rj.Elman(H), {**ONE, **torch_tensors(1, H, "l1")}),
        ValueError,
        "no place for 'bias_hh_l1', 'bias_ih_l1'",
    ),
    "both directions": (
        lambda: from_torch(rj.Elman(H), {**ONE, **torch_tensors(1, I, "l0_reverse")}),
        ValueError,
        "no place for 'bias_hh_l0_reverse'",
    ),
    "a cell by itself in both directions": (
        lambda: from_torch(rj.Bidirectional(rj.Elman(H)), {k.removesuffix("_l0"): v for k, v in ONE.items()}),
        ValueError,
        "there is no 'weight_ih_reverse' among no arrays at all",
    ),
    "one bias is shorter": (
        lambda: from_torch(rj.Elman(H), ONE | arrays(bias_hh_l0=(1,))),
        ValueError,
        r"two biases of one shape \(G·H,\); got \(4,\) and \(1,\)",
    ),
    "a projection": (
        lambda: from_torch(rj.LSTM(H), torch_tensors(4, I, "l0") | arrays(weight_hr_l0=(3, H))),
        ValueError,
        "no place for 'weight_hr_l0'",
    ),
    "a bias of PyTorch too many": (
        lambda: from_torch(rj.Dense(3, use_bias=False), arrays(weight=(3, H), bias=(3,))),
        ValueError,
        "Dense.* has no place for 'bias': leave `use_bias=False` out",
    ),
    "a bias of Flax too many": (
        lambda: from_flax(rj.Dense(3, use_bias=False), arrays(kernel=(H, 3), bias=(3,))),
        ValueError,
        "Dense.* has no place for 'bias'",
    ),
    "another size": (
        lambda: from_torch(rj.Elman(H + 1), ONE),
        ValueError,
        r"shapes \[\(2, 5\), .*these give \[\(2, 4\)",
    ),
    "another cell's": (lambda: from_torch(rj.LSTM(H), ONE), ValueError, r"shapes \[\(2, 16\), .*these give \[\(2, 4\)"),
    "too few arrays": (lambda: from_keras(rj.Dense(3), [np.ones((2, 3))]), ValueError, "too few arrays: none is left"),
    "too many arrays": (
        lambda: from_keras(rj.Dense(3), [np.ones((2, 3)), np.ones(3), np.ones(3)]),
        ValueError,
        "`arrays` must be the 2 of .*; got 3",
    ),
    "reset before": (
        lambda: from_keras(rj.GRU(H), [np.ones(s) for s in ((I, 3 * H), (H, 3 * H), (3 * H,))]),
        ValueError,
        "`reset_after=False`",
    ),
    "a layer that Keras alone has": (
        lambda: from_keras(
            rj.Stack([rj.Elman(H), rj.Last(), rj.Dense(2)]),  # and BatchNormalization in between
            [np.ones(s) for s in ((I, H), (H, H), (H,), (H,), (H,), (H,), (H,), (H, 2), (2,))],
        ),
        ValueError,
        r"Dense.* has arrays of shapes .*; these give \[\(4,\), \(4,\)\]: of another layer",
    ),
    "biases of three kinds": (
        lambda: from_keras(rj.GRU(H), [np.ones(s) for s in ((I, 3 * H), (H, 3 * H), (3, 3 * H))]),
        ValueError,
        r"\(2, 3H\); got \(3, 12\)",
    ),
    "a number": (
        lambda: from_keras(rj.GRU(H), [np.ones(s) for s in ((), (H, 3 * H), (2, 3 * H))]),
        ValueError,
        r"arrays of 3 gates are needed; got shape \(\)",
    ),
    "a norm of another size": (
        lambda: from_torch(rj.LayerNorm(), arrays(weight=(3,), bias=(4,))),
        ValueError,
        r"shapes \[\(3,\), \(3,\)\]; these give \[\(3,\), \(4,\)\]",
    ),
    "a norm of the root mean square": (
        lambda: from_torch(rj.RMSNorm(), ONE),
        TypeError,
        "PyTorch fit Elman, .*, Stack, Dense, Embedding, LayerNorm; got RMSNorm",
    ),
    "a part that PyTorch does not have": (
        lambda: from_torch(rj.Stack([rj.Elman(H), rj.MGU(H)]), torch_tensors(1, I, "l0")),
        TypeError,
        r"fit Elman, LSTM, ProjectionLSTM, GRU, Bidirectional; got MGU\(.*\)$",
    ),
    "several modules of PyTorch": (
        lambda: from_torch(rj.Stack([rj.Elman(H), rj.Dense(3)]), ONE),
        TypeError,
        r"fit Elman, LSTM, ProjectionLSTM, GRU, Bidirectional; got Dense\(size=3\) as a part .* by its own prefix",
    ),
    "layers within a direction": (
        lambda: from_torch(rj.Bidirectional(rj.Stack([rj.Elman(H)])), ONE),
        TypeError,
        r"fit Elman, LSTM, ProjectionLSTM, GRU; got Stack\(.* as a part .* by its own prefix",
    ),
    "no gate": (lambda: from_flax(rj.LSTM(H), {"ii": {"kernel": X[0]}}), ValueError, "there is no 'if' among 'ii'"),
    "no peepholes": (
        lambda: from_onnx(rj.PeepholeLSTM(H), arrays(W=(1, 4 * H, I), R=(1, 4 * H, H), B=(1, 8 * H))),
        ValueError,
        "there is no 'P' among 'B', 'R', 'W'",
    ),
    "peepholes": (
        lambda: from_onnx(rj.LSTM(H), arrays(W=(1, 4 * H, I), R=(1, 4 * H, H), P=(1, 3 * H))),
        ValueError,
        "LSTM.* has no place for the peepholes 'P': .* `PeepholeLSTM`",
    ),
    "both directions of ONNX": (
        lambda: from_onnx(rj.LSTM(H), arrays(W=(2, 4 * H, I), R=(2, 4 * H, H))),
        ValueError,
        r"'W' must lead with the 1 of .*; got shape \(2, 16, 2\): an operator of both is `Bidirectional`",
    ),
    "one direction of ONNX": (
        lambda: from_onnx(rj.Bidirectional(rj.LSTM(H)), arrays(W=(2, 4 * H, I), R=(1, 4 * H, H))),
        ValueError,
        r"'R' must lead with the 2 of .*; got shape \(1, 16, 4\)",
    ),
    "layers of ONNX": (
        lambda: from_onnx(rj.Stack([rj.LSTM(H)]), arrays(W=(1, 4 * H, I), R=(1, 4 * H, H))),
        TypeError,
        "ONNX fit Elman, .*, ResetBeforeGRU, Bidirectional; got Stack",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_refused(name: str) -> None:
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_second_direction_of_onnx() -> None:
    both = arrays(W=(2, 3 * H, I), R=(2, 3 * H, H), B=(2, 6 * H))
    params = from_onnx(rj.Bidirectional(rj.GRU(H)), both).backward

    def gates(array: Any) -> tuple[Any, ...]:
        return tuple(np.split(array.T, 3, axis=-1))

    (z, r, n), (u_z, u_r, u_n) = gates(both["W"][1]), gates(both["R"][1])
    (b_z, b_r, b_n), (c_z, c_r, c_n) = map(gates, np.split(both["B"][1], 2))
    np.testing.assert_array_equal(params.w, np.concatenate([r, z, n], axis=1))
    np.testing.assert_array_equal(params.u, np.concatenate([u_r, u_z, u_n], axis=1))
    np.testing.assert_array_equal(params.b, np.concatenate([b_r + c_r, b_z + c_z, b_n]))
    np.testing.assert_array_equal(params.b_n, c_n)
