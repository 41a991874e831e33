"""What JAX is told about devices and compilation holds here too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import NATIVE

import rnnjax as rj
from rnnjax._unroll import table

XS = jax.random.normal(jax.random.key(1), (4, 2, 3), jnp.float64)
MODELS = {
    "lstm": rj.RNN(rj.LSTM(4)),
    "gru": rj.RNN(rj.GRU(4), implementation="scan"),
    "zoneout": rj.RNN(rj.Zoneout(rj.LSTM(4), 0.3)),
    "stack": rj.Stack([rj.GRU(4), rj.Dropout(0.5), rj.Residual(rj.LSTM(4)), rj.LayerNorm(), rj.Dense(2)]),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_models_run_without_compilation(model: rj.layers.Layer) -> None:
    """With `jax.disable_jit`, under which steps can be debugged, NumPy's arrays and Python's numbers stay so."""
    params, key = model.init(jax.random.key(0), 3, jnp.float64), jax.random.key(2)
    mask = np.arange(4)[:, None] < np.array([2, 4])
    wanted = jax.jit(model)(params, XS, mask=mask, key=key)
    with jax.disable_jit():
        got = model(params, np.asarray(XS), mask=mask, key=key)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), got, wanted)


def test_a_print_in_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    class Verbose(rj.LSTM):
        def step(self, params: Any, state: Any, z: Any, noise: Any = None) -> Any:
            print(float(state.h.sum()))
            return super().step(params, state, z, noise)

    cell = rj.struct(Verbose)(4)
    with jax.disable_jit():
        ys, _ = rj.unroll(cell, cell.init(jax.random.key(0), 3, jnp.float64), XS)
    np.testing.assert_allclose([float(line) for line in capsys.readouterr().out.split()], [0, *ys[:-1].sum((1, 2))])


def chosen(cell: rj.Cell) -> str:
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    line = next(line for line in rj.explain(cell, params, jnp.ones((500, 2, 3))).splitlines() if line[0] == "→")
    return line.split()[1]


@pytest.mark.skipif("cpu" not in NATIVE, reason="the kernels are not there")
@pytest.mark.parametrize("device", [lambda: jax.devices("cpu")[0], lambda: "cpu"], ids=["device", "name"])
def test_the_choice_is_that_for_the_default_device(device: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, calls that `jax.default_device` sends to the CPU have the implementations of a CPU."""
    cells = rj.GRU(5), rj.LRU(5), rj.MLSTM(4, heads=1)
    here = [chosen(cell) for cell in cells]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = [chosen(cell) for cell in cells]
    assert here == ["cpu", "chunked", "scan"]
    assert there == ["fused", "associative", "chunked"]
    with jax.default_device(device()):
        assert [chosen(cell) for cell in cells] == here


def test_another_default_device_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, choices = rj.LRU(7), []
    params = cell.init(jax.random.key(0), 3, jnp.float64)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    choose = table.choose

    def remembered(call: Any, name: Any) -> Any:
        choices.append(choose(call, name))
        return choices[-1]

    monkeypatch.setattr(table, "choose", remembered)
    run = jax.jit(lambda xs: rj.unroll(cell, params, xs)[0])
    for _ in range(2):
        run(XS)
        with jax.default_device(jax.devices("cpu")[0]):
            run(XS)
    assert [entry.name for entry in choices] == ["associative", "chunked"]
