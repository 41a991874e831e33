"""Activations by name: each against NumPy, and every cell that takes two of them against its transcription with both.

The transcriptions in `references.py` write σ and tanh; here other functions stand in their places. Gradients are those
of finite differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from descriptors import NATIVE

import rnnjax as rj
from rnnjax import activations

Function = Callable[[Any], Any]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


NAMED: dict[str, Function] = {
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.minimum(np.maximum(x / 6 + 0.5, 0), 1),
    "tanh": np.tanh,
    "hard_tanh": lambda x: np.minimum(np.maximum(x, -1), 1),
    "relu": lambda x: np.where(x > 0, x, 0),
    "identity": lambda x: x,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * np.vectorize(NormalDist().cdf)(x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "softplus": lambda x: np.log(1 + np.exp(x)),
}
CELLS: dict[type, tuple[Callable[..., Any], dict[str, Any]]] = {
    rj.LSTM: (references.lstm, {}),
    rj.GRU: (references.gru, {}),
    rj.MGU: (references.mgu, {}),
    rj.CoupledLSTM: (references.coupled_lstm, {}),
    rj.PeepholeLSTM: (references.peephole_lstm, {}),
    rj.ProjectionLSTM: (references.projection_lstm, {}),
    rj.ResetBeforeGRU: (references.reset_before_gru, {}),
    rj.LayerNormLSTM: (references.layer_norm_lstm, {"eps": 1e-5}),
    rj.LayerNormGRU: (references.layer_norm_gru, {"eps": 1e-5}),
    rj.ConvLSTM: (references.conv_lstm, {}),
}
HAND_FORMED = (rj.LSTM, rj.GRU, rj.MGU, rj.CoupledLSTM)
"""Their derivatives are formed from outputs where both activations have derivatives that are."""
FROM_OUTPUTS = (("sigmoid", "tanh"), ("sigmoid", "relu"), ("tanh", "identity"), ("relu", "sigmoid"))
GENERIC = (("hard_sigmoid", "softsign"), ("softplus", "hard_tanh"))


@contextmanager
def in_the_place_of_sigmoid_and_tanh(gate: Function, phi: Function) -> Iterator[None]:
    """Within it the transcriptions compute with these functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "sigmoid", gate)
        patch.setattr(references, "np", SimpleNamespace(**{**vars(np), "tanh": phi}))
        yield


def problem(cell: Any) -> tuple[Any, Any, Any]:
    """Parameters, inputs and a state, drawn at random."""
    event = (3, 2) if isinstance(cell, rj.ConvLSTM) else (2,)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 2, jnp.float64))
    state = jax.eval_shape(lambda params: cell.initial_state(params, (2,), jnp.float64), params)
    rng = np.random.default_rng(5)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape), (params, jax.ShapeDtypeStruct((3, 2, *event), float), state)
    )


def transcribed(cell: Any, names: tuple[str, str], params: Any, xs: Any, state: Any) -> list[Any]:
    """Outputs, and the last state in the order of its fields."""
    reference, options = CELLS[type(cell)]
    with in_the_place_of_sigmoid_and_tanh(*(NAMED[name] for name in names)):
        ys, last = reference(xs, **params._asdict(), **state._asdict(), **options)
    return [ys, *(last[name] for name in state._fields)]


def make(kind: type, names: tuple[str, str]) -> Any:
    sizes = {rj.ProjectionLSTM: (3, 2), rj.ConvLSTM: (2, (3,))}.get(kind, (3,))
    return kind(*sizes, gate_activation=names[0], activation=names[1])


def close(got: Any, wanted: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def differences(function: Callable[..., float], arrays: list[Any], step: float = 1e-5) -> list[Any]:
    """The gradient of a function of NumPy arrays, number by number."""
    gradients = [np.zeros_like(array) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            ahead = function(*arrays)
            array[index] = value - step
            gradient[index] = (ahead - function(*arrays)) / (2 * step)
            array[index] = value
    return gradients


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_the_function_of_that_name(name: str) -> None:
    x = np.concatenate([np.linspace(-8, 8, 1000), [-0.0, 0.0]])
    np.testing.assert_allclose(activations.activation(name)(jnp.asarray(x)), NAMED[name](x), rtol=1e-12, atol=1e-14)
    x, step = x[np.abs(x) > 1e-3], 1e-5
    slopes = (NAMED[name](x + step) - NAMED[name](x - step)) / (2 * step)
    smooth = np.abs(NAMED[name](x + step) - 2 * NAMED[name](x) + NAMED[name](x - step)) < 1e-7
    assert smooth.sum() > 0.99 * x.size
    gradient = jax.grad(lambda x: activations.activation(name)(x).sum())(jnp.asarray(x))
    np.testing.assert_allclose(gradient[smooth], slopes[smooth], rtol=1e-7, atol=1e-7)
    from_output = activations.derivative_from_output(name)
    if from_output is not None:
        np.testing.assert_allclose(from_output(jnp.asarray(NAMED[name](x))), slopes, rtol=1e-7, atol=1e-7)


def test_every_name_is_compared() -> None:
    assert set(activations._NAMED) == set(NAMED)
    assert {name for pair in FROM_OUTPUTS for name in pair} == set(activations._FROM_OUTPUT)


@pytest.mark.parametrize("names", [("hard_sigmoid", "softsign"), ("silu", "gelu")], ids="-".join)
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_a_cell_computes_with_the_activations_that_it_names(kind: type, names: tuple[str, str]) -> None:
    cell = make(kind, names)
    arrays = problem(cell)
    ys, last = rj.unroll(cell, *arrays, implementation="scan")
    close([ys, *last], transcribed(cell, names, *arrays), 1e-12)


CASES = [
    *((kind, names, "fused") for kind in HAND_FORMED for names in (*FROM_OUTPUTS, GENERIC[0])),
    *((rj.PeepholeLSTM, names, "fused") for names in GENERIC),
    *((kind, ("relu", "sigmoid"), "scan") for kind in (rj.LSTM, rj.GRU)),
    *((kind, FROM_OUTPUTS[0], "cpu") for kind in (rj.LSTM, rj.GRU) if "cpu" in NATIVE),
]


@pytest.mark.parametrize(
    ("kind", "names", "implementation"),
    [pytest.param(*case, id=f"{case[0].__name__}-{'-'.join(case[1])}-{case[2]}") for case in CASES],
)
def test_gradients_are_finite_differences_of_the_transcription(
    kind: type, names: tuple[str, str], implementation: str
) -> None:
    cell = make(kind, names)
    assert kind not in HAND_FORMED or (cell.update_vjp() is None) == (names in GENERIC)
    arrays = problem(cell)
    leaves, structure = jax.tree.flatten(arrays)
    weights = np.random.default_rng(6).normal(size=(3, *arrays[2][0].shape))

    def total(ys: Any, last: Any) -> Any:
        """Every output and last state has a weight of its own."""
        return (ys * weights).sum() + sum((leaf * own).sum() for leaf, own in zip(last, weights, strict=False))

    def by_hand(*leaves: Any) -> float:
        ys, *last = transcribed(cell, names, *jax.tree.unflatten(structure, leaves))
        return total(ys, last)

    @jax.jit
    def run(arrays: Any) -> Any:
        return jax.value_and_grad(lambda arrays: total(*rj.unroll(cell, *arrays, implementation=implementation)))(
            arrays
        )

    value, gradients = run(arrays)
    np.testing.assert_allclose(value, by_hand(*leaves), rtol=1e-12)
    close(gradients, differences(by_hand, leaves), 1e-6)
