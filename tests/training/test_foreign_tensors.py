"""Batches of another library's tensors, in the place of PyTorch's, which need not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from rnnjax import training

N, B, F, EPOCHS, RATE = 10, 4, 3, 3, 0.1
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, F)).astype(np.float32)
Y = RNG.normal(size=(N, 1)).astype(np.float32)


class Tensor:
    """As much of a `torch.Tensor` as a loader's user sees: a dtype that is not NumPy's, rows to walk over, and arrays
    by the protocol alone."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self.shape, self.ndim, self.dtype = tuple(rows.shape), rows.ndim, f"tensor.{rows.dtype}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._rows, dtype)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tensor]:
        return map(Tensor, self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self._rows[index])


class Loader:
    """As `torch.utils.data.DataLoader`: lists of the two tensors of a batch, anew for every `iter`, the last small."""

    def __iter__(self) -> Iterator[list[Tensor]]:
        for first in range(0, N, B):
            yield [Tensor(X[first : first + B]), Tensor(Y[first : first + B])]

    def __len__(self) -> int:
        return -(-N // B)


def test_loaders_of_other_tensors_are_iterables_of_batches() -> None:
    """Linear regression, whose steps are written out in NumPy."""
    w, losses = np.zeros((F, 1)), []
    for _ in range(EPOCHS):
        total = 0.0
        for first in range(0, N, B):
            x, y = X[first : first + B].astype(float), Y[first : first + B]
            error = x @ w - y
            total += (error**2).sum()
            w = w - RATE * 2 * x.T @ error / len(x)
        losses.append(total / N)

    model = jnp.zeros((F, 1), jnp.float32), lambda w, x: x @ w
    options: dict[str, Any] = {"loss": "mean_squared_error", "optimizer": optax.sgd(RATE), "progress": False}
    fitted = training.fit(model, Loader(), epochs=EPOCHS, **options)
    np.testing.assert_allclose(fitted.params, w, rtol=1e-5)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(training.predict(fitted, Loader()), X @ w, rtol=1e-5, atol=1e-6)
