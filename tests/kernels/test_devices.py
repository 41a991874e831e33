"""The native kernels on eight devices of one CPU: at once from threads, on a mesh, and in `shard_map`."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax as rj
from rnnjax._unroll import kernels

STEPS, ROWS, INPUTS, UNITS = 20, 16, 24, 70
"""Enough work for each device to ask for several threads."""


@pytest.mark.slow
@pytest.mark.skipif(not kernels.load().variants, reason=kernels.load().reason or "")
def test_eight_devices_have_the_values_of_fused() -> None:
    variables = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    # kernels that wait for each other would never end
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "threads\nmesh\nshard_map\n"


def problem(cell: Any) -> tuple[Any, Any, Any]:
    """Parameters, inputs and lengths, drawn at random."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), INPUTS, np.float64))
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape), shapes)
    return params, rng.normal(size=(STEPS, ROWS, INPUTS)), rng.integers(0, STEPS + 1, ROWS)


def gradients(cell: Any, implementation: str, total: Any, params: Any, xs: Any, lengths: Any) -> Any:
    """Loss, gradients, outputs and last state."""

    def loss(params: Any, xs: Any) -> Any:
        ys, last = rj.unroll(cell, params, xs, lengths=lengths, implementation=implementation)
        return total((ys**2).sum() + last.h.sum()), (ys, last)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)


def close(got: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), got, wanted)


def itself(x: Any) -> Any:
    return x


def in_threads(cell: Any, wanted: Any, arrays: Any) -> None:
    """Every device from a thread of its own, several times at once."""
    run = jax.jit(partial(gradients, cell, "cpu", itself))

    def on(device: Any) -> Any:
        placed = jax.device_put(arrays, device)
        results = [run(*placed) for _ in range(20)]
        assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(results))
        return jax.block_until_ready(results)

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(on, jax.devices()):
            for result in results:
                close(result, wanted)


def on_a_mesh(cell: Any, wanted: Any, arrays: Any) -> None:
    """A batch that is divided among the devices, of which the compiler knows alone."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P(), P(None, "data"), P("data"))
    placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, specs, strict=True)]
    close(jax.jit(partial(gradients, cell, "cpu", itself))(*placed), wanted)


def in_shard_map(cell: Any, wanted: Any, arrays: Any) -> None:
    """Every device runs the kernels on its own rows."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(
        partial(gradients, cell, "cpu", partial(jax.lax.psum, axis_name="data")),
        mesh=mesh,
        in_specs=(P(), P(None, "data"), P("data")),
        out_specs=((P(), (P(None, "data"), P("data"))), (P(), P(None, "data"))),
    )
    lowered = jax.jit(run).lower(*arrays)
    assert "rnnjax_cpu_backward" in lowered.as_text()
    for _ in range(5):
        close(lowered.compile()(*arrays), wanted)


def main() -> None:
    """Prints what was the same as on one device, of an LSTM and a GRU."""
    assert jax.device_count() == 8
    for name, check in {"threads": in_threads, "mesh": on_a_mesh, "shard_map": in_shard_map}.items():
        for cell in (rj.LSTM(UNITS), rj.GRU(UNITS)):
            arrays = problem(cell)
            check(cell, jax.jit(partial(gradients, cell, "fused", itself))(*arrays), arrays)
        print(name)


if __name__ == "__main__":
    main()
