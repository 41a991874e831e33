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
    wanted = module.apply(variables, X)
    for given in (variables, variables["params"]["cell"]):
        ys, _ = rj.unroll(cell, from_flax(cell, given), jnp.swapaxes(X, 0, 1))
        np.testing.assert_allclose(jnp.swapaxes(ys, 0, 1), wanted, rtol=1e-10, atol=1e-12)


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
    state = nnx.state(module, nnx.Param)
    wanted = module(X)
    for given in (state, nnx.to_pure_dict(state)):
        ys, _ = rj.unroll(cell, from_flax(cell, given), jnp.swapaxes(X, 0, 1))
        np.testing.assert_allclose(jnp.swapaxes(ys, 0, 1), wanted, rtol=1e-10, atol=1e-12)


def test_flax_dense_and_embedding() -> None:
    module = nn.Dense(3)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), X))
    np.testing.assert_allclose(
        rj.Dense(3)(from_flax(rj.Dense(3), variables), X)[0], module.apply(variables, X), rtol=1e-12
    )
    state = nnx.state(nnx.Embed(7, 3, rngs=nnx.Rngs(0)), nnx.Param)
    np.testing.assert_array_equal(from_flax(rj.Embedding(7, 3), state).w, jax.tree.leaves(state)[0])


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
        "no name is 'rnn.' and then one such as 'weight_ih_l0' among 'bias_hh_l0', .*: give as `prefix` what",
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
    "no gate": (lambda: from_flax(rj.LSTM(H), {"ii": {"kernel": X[0]}}), ValueError, "there is no 'if' among 'ii'"),
    "no peepholes": (
        lambda: from_onnx(rj.PeepholeLSTM(H), arrays(W=(1, 4 * H, I), R=(1, 4 * H, H), B=(1, 8 * H))),
        ValueError,
        "there is no 'P' among 'B', 'R', 'W'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_refused(name: str) -> None:
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_second_direction_of_onnx() -> None:
    both = arrays(W=(2, 3 * H, I), R=(2, 3 * H, H), B=(2, 6 * H))
    params = from_onnx(rj.GRU(H), both, direction=1)
    z, r, n = np.split(both["W"][1].T, 3, axis=1)
    np.testing.assert_array_equal(params.w, np.concatenate([r, z, n], axis=1))
