"""Ids that an embedding has no vector of are reported by everything that reads them, and padding is not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import rnnjax as rj
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx
from rnnjax.training import Batch, _checks, _measure, _positions, evaluate, fit

N, T, K, V = 6, 4, 2, 7
RNG = np.random.default_rng(0)
IDS, LABELS = RNG.permutation(np.arange(N * T) % V).reshape(N, T), RNG.integers(0, K, N)
LAYER = rj.Stack([rj.Stack([rj.Embedding(V, 2)]), rj.Last(), rj.Dense(K)])
PARAMS = LAYER.init(jax.random.key(0))


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


def spoilt(value: int) -> np.ndarray:
    ids = IDS.copy()
    ids[3, -1] = value
    return ids


def linen_module() -> Any:
    module = rlinen.Layer(LAYER)
    return module.bind({}).to_variables(PARAMS), module


MODELS: dict[str, Callable[[], Any]] = {
    "layer": lambda: (PARAMS, LAYER),
    "nnx": lambda: rnnx.Layer(LAYER, None, rngs=nnx.Rngs(0)),
    "linen": linen_module,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("value", [-1, V])
def test_ids_outside_the_vocabulary_are_refused(kind: str, value: int) -> None:
    message = rf"inputs must be ids in 0 … 6, .*; got values from {min(value, 0)} to {max(value, 6)}"
    model, bad, good = MODELS[kind](), (spoilt(value), LABELS), (IDS, LABELS)
    with pytest.raises(ValueError, match=message):
        fit(model, bad, progress=False)
    with pytest.raises(ValueError, match=message):
        fit(model, good, validation=bad, progress=False)
    with pytest.raises(ValueError, match=message):
        evaluate(model, bad)


def test_later_batches_are_checked() -> None:
    with pytest.raises(ValueError, match="got values from 0 to 7"):
        evaluate((PARAMS, LAYER), [(IDS, LABELS), (spoilt(V), LABELS)])


def test_targets_are_checked_once_for_several_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(_positions, "check_single", lambda name, *of: calls.append(name))
    targets = np.eye(K, dtype=np.float32)[LABELS]
    used = _measure.measures("binary_cross_entropy", ["accuracy", "f1", "macro_accuracy"])
    _checks.check_targets(used, jax.ShapeDtypeStruct((N, K), np.float32), Batch(IDS, targets))
    assert calls == ["targets"]


def test_ids_behind_the_lengths_are_not_read() -> None:
    lengths = np.where(np.arange(N) == 3, T - 1, T)
    (embedding,), _, dense = PARAMS
    w, b, table = (np.asarray(leaf, np.float64) for leaf in (dense.w, dense.b, embedding.w))
    logits = table[IDS[np.arange(N), lengths - 1]] @ w + b
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = evaluate((PARAMS, LAYER), (spoilt(-1), LABELS, lengths))["loss"]
    np.testing.assert_allclose(found, -log_p[np.arange(N), LABELS].mean(), rtol=1e-5)
