"""Steps of complex parameters, which the conjugate of JAX's gradient leads down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax.training import fit, tbptt

N, L = 4, 4


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


def parts(z: Any, x: Any, state: Any = None, mask: Any = None) -> Any:
    """The real and the imaginary part for every step, (B, L, 2), and the state, if the steps come in windows."""
    ys = jnp.broadcast_to(jnp.stack([z.real, z.imag]), (*x.shape[:2], 2))
    return ys if mask is None else (ys, jnp.zeros(N))


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"truncate": tbptt(2)}], ids=["whole", "parts", "windows"])
def test_both_parts_of_a_complex_parameter_arrive(options: dict[str, Any]) -> None:
    """Of ½ |z − w|² the gradient is z − w, and each step leaves half of it."""
    begin, end = np.complex64(0.2 - 0.5j), np.ones((N, L, 2), np.float32)
    data = np.zeros((N, L, 1), np.float32), end
    fixed: dict[str, Any] = {"loss": "mean_squared_error", "optimizer": optax.sgd(0.5), "progress": False}
    fitted = fit((jnp.asarray(begin), parts), data, batch_size=N, epochs=4, **fixed, **options)
    steps = 8 if "truncate" in options else 4
    np.testing.assert_allclose(fitted.params, 1 + 1j - 0.5**steps * (1 + 1j - begin), rtol=1e-5)
    assert fitted.params.dtype == np.complex64
