"""The quickstart trains: quickly in a few epochs, well in ten, and the same for the same seed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import rnnjax as rj

pytest.importorskip("sklearn", reason="the quickstart's data come with scikit-learn, of the extra `examples`")

PATH = Path(__file__).parents[1] / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # optax relies on implicit promotion
    with jax.numpy_dtype_promotion("standard"):
        yield module


def test_split_is_stratified_and_complete(quickstart):
    data = quickstart.load_data(seed=3)
    assert data.x_train.shape == (1437, 8, 8)
    assert data.x_test.shape == (360, 8, 8)
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    shares = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    np.testing.assert_allclose(shares, 0.2, atol=0.005)


def test_every_scan_is_seen_once_an_epoch(quickstart):
    x, y = np.arange(11, dtype=np.float32).reshape(11, 1, 1), np.arange(11)
    xs, digits, weight = quickstart.shuffle(x, y, 4, np.random.default_rng(0))
    assert xs.shape == (3, 1, 4, 1)
    np.testing.assert_array_equal(xs[:, 0, :, 0], digits)
    np.testing.assert_array_equal(np.sort(digits[weight == 1]), y)


def test_two_epochs_learn_and_repeat(quickstart):
    data, model = quickstart.load_data(), quickstart.build(rj.Elman)
    first, second = (quickstart.train(model, data, epochs=2, progress=False) for _ in range(2))
    losses = np.reshape(first.history["loss"], (2, 45))
    assert losses[1].mean() < losses[0].mean() / 2
    assert first.test_accuracy > 0.8
    assert first.history == second.history
    assert first.test_accuracy == second.test_accuracy
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "bound"), [(rj.Elman, 0.95), (rj.GRU, 0.90), (rj.LSTM, 0.83)])
def test_ten_epochs_reach_the_accuracy(quickstart, cell, bound):
    result = quickstart.train(quickstart.build(cell), quickstart.load_data(), progress=False)
    assert result.test_accuracy >= bound


@pytest.mark.slow
def test_the_script_prints_a_table_and_saves_a_figure(quickstart, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib, of the extra `examples`")
    path = tmp_path / "new" / "quickstart.png"
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--epochs", "1", "--figure", str(path)])
    quickstart.main()
    assert {"Elman", "GRU", "LSTM"} <= set(capsys.readouterr().out.split())
    assert path.read_bytes().startswith(b"\x89PNG")
