"""Data-parallel training is that of one device, on both kinds of mesh and in several processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import rnnjax as rj
from rnnjax.training import fit, tbptt

N, T, I, K = 27, 5, 2, 2  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype(np.float32)
Y = (X.sum((1, 2)) > 0).astype(np.int32)
LENGTHS = RNG.integers(1, T + 1, N)
LAYER = rj.Stack([rj.RNN(rj.GRU(3)), rj.Last(), rj.Dense(K)])
LONG = RNG.normal(size=(8, 21, I)).astype(np.float32)
SIGNS = (np.cumsum(LONG[..., 0], 1) > 0).astype(np.int32)
TAGGER = rj.Stack([rj.RNN(rj.LSTM(3)), rj.Dense(K)])
OPTIONS: dict[str, Any] = {"optimizer": optax.adam(0.05), "progress": False, "epochs": 2}
ROWS = OPTIONS | {"batch_size": 8, "metrics": ["accuracy"], "validation": (X, Y, LENGTHS)}
STREAMS = OPTIONS | {"truncate": tbptt(6, 2), "validation": (LONG, SIGNS)}


def batches(size: int = 7, part: slice = slice(None)) -> Any:
    """A function that makes batches, or that part of each."""

    def make() -> Any:
        for i in range(0, N, size):
            rows = np.arange(i, min(i + size, N))[part]
            yield X[rows], Y[rows], LENGTHS[rows]

    return make


def mesh(kind: Any = jax.sharding.AxisType.Auto, shape: tuple[int, ...] = (1,)) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, tuple("abc"[: len(shape)]), axis_types=(kind,) * len(shape))


def numbers(fitted: Any) -> list[Any]:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves((fitted.params, fitted.history))]


def assert_same(got: Any, wanted: Any) -> None:
    for a, b in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def check_all_kinds() -> None:
    """On eight devices."""
    explicit = mesh(jax.sharding.AxisType.Explicit, (4, 2))
    alone = fit(LAYER, (X, Y, LENGTHS), **ROWS)
    assert_same(fit(LAYER, (X, Y, LENGTHS), mesh=mesh(shape=(8,)), **ROWS), alone)
    assert_same(fit(LAYER, (X, Y, LENGTHS), mesh=explicit, **ROWS), alone)
    with jax.set_mesh(explicit):
        assert_same(fit(LAYER, (X, Y, LENGTHS), mesh=explicit, **ROWS), alone)
    ragged = ROWS | {"validation": batches()}
    assert_same(fit(LAYER, batches(), mesh=explicit, **ragged), fit(LAYER, batches(), **ragged))
    assert_same(fit(TAGGER, (LONG, SIGNS), mesh=explicit, **STREAMS), fit(TAGGER, (LONG, SIGNS), **STREAMS))
    clipped = rj.Stack([rj.RNN(rj.GradientClip(rj.GRU(3), 0.01)), rj.Last(), rj.Dense(K)])
    data = X, Y, LENGTHS, RNG.uniform(size=N)
    found = fit(clipped, data, mesh=explicit, accumulate=2, **ROWS | {"batch_size": 16})
    assert_same(found, fit(clipped, data, **ROWS | {"batch_size": 16}))


def check_another_number_of_devices(directory: str) -> None:
    """On eight devices: a run that stopped on all of them goes on on one."""
    fit(TAGGER, (LONG, SIGNS), mesh=mesh(shape=(8,)), checkpoint_dir=directory, **STREAMS | {"epochs": 1})
    assert_same(fit(TAGGER, (LONG, SIGNS), checkpoint_dir=directory, **STREAMS), fit(TAGGER, (LONG, SIGNS), **STREAMS))


def check_what_cannot_be_dealt() -> None:
    """On eight devices."""
    eight = mesh(shape=(8,))
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of the mesh's 8 devices; got 20"):
        fit(LAYER, (X, Y), batch_size=20, mesh=eight)
    with pytest.raises(ValueError, match="`B` must be a multiple of the mesh's 8 devices; got 3"):
        fit(TAGGER, (LONG[:3], SIGNS[:3]), truncate=tbptt(6), mesh=eight)
    with pytest.raises(ValueError, match="`B of validation` must be a multiple of the mesh's 8 devices; got 3"):
        fit(TAGGER, (LONG, SIGNS), truncate=tbptt(6), mesh=eight, validation=(LONG[:3], SIGNS[:3]))
    with pytest.raises(ValueError, match="`accumulate` must divide the rows of a batch on one device, 1; got 2"):
        fit(LAYER, (X, Y), batch_size=8, accumulate=2, mesh=eight)


def check_rows_of_iterables_and_validation() -> None:
    """On eight devices: rows that divide get no weights; on six: rows of a validation that do not divide."""

    def own(outputs: Any, targets: Any) -> Any:
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()

    def whole() -> Any:
        return iter([(X[:8], Y[:8]), (X[8:24], Y[8:24])])

    assert_same(fit(LAYER, whole, loss=own, mesh=mesh(shape=(8,)), **OPTIONS), fit(LAYER, whole, loss=own, **OPTIONS))
    six = jax.sharding.Mesh(np.array(jax.devices()[:6]), ("a",))
    options = OPTIONS | {"validation": (np.tile(X, (2, 1, 1)), np.tile(Y, 2), np.tile(LENGTHS, 2))}
    assert_same(fit(LAYER, batches(12), mesh=six, **options), fit(LAYER, batches(12), **options))


def check_noise_and_statistics() -> None:
    """On eight devices: noise differs between rows, and running means are those of all rows."""
    from flax import linen as nn

    def noise(params: Any, x: Any, key: Any) -> Any:
        drawn = 0.0 if key is None else jax.random.normal(key)
        return params * x[:, 0, :1] + drawn

    def mean(outputs: Any, targets: Any) -> Any:
        return outputs.mean()

    options = OPTIONS | {"epochs": 1, "batch_size": 8, "loss": "mean_squared_error", "metrics": [("mean", mean)]}
    zeros, ones = np.zeros((8, 1), np.float32), np.ones((8, 1, 1), np.float32)
    logs = fit((jax.numpy.zeros(()), noise), (ones, zeros), mesh=mesh(shape=(8,)), **options).history
    assert logs["loss"][0] - logs["mean"][0] ** 2 > 0.05

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x[:, 0]))

    model = Normed()
    variables = model.init(jax.random.key(0), ones, False)
    options = OPTIONS | {"epochs": 1, "batch_size": 8, "loss": "mean_squared_error", "shuffle": False}
    x = np.arange(8, dtype=np.float32)[:, None, None]
    (trained, _), *_ = fit((variables, model), (x, zeros), mesh=mesh(shape=(8,)), **options)
    np.testing.assert_allclose(trained["batch_stats"]["BatchNorm_0"]["mean"], 0.5 * x.mean(), rtol=1e-6)


def check_noise_of_nnx() -> None:
    """On eight devices with one row each, all alike: were their masks alike, an entry's gradient would be 0 or 2."""
    from flax import nnx

    class Dropped(nnx.Module):
        def __init__(self) -> None:
            self.w, self.drop = nnx.Param(jax.numpy.zeros(64)), nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return self.drop(x[:, 0] * self.w[...])

    def total(outputs: Any, targets: Any) -> Any:
        return outputs.sum(-1).mean()

    model, ones = Dropped(), np.ones((8, 1, 64), np.float32)
    options = {"optimizer": optax.sgd(1.0), "loss": total, "batch_size": 8, "progress": False, "shuffle": False}
    steps = []
    for _ in range(2):
        before = np.array(model.w[...])
        fit(model, (ones, np.zeros(8, np.float32)), mesh=mesh(shape=(8,)), **options)
        steps.append(before - np.asarray(model.w[...]))
    for step in steps:
        assert set(np.round(4 * step, 5)) <= set(range(9))
        assert ((step > 0) & (step < 2)).mean() > 0.9
    assert (steps[0] != steps[1]).any()


def check_as_one_of_two(process: int, port: int, directory: str) -> None:
    """In each of two processes with two devices; prints what came out."""
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, process, coordinator_bind_address=address)
    whole, part = mesh(shape=(4,)), slice(4 * process, 4 * process + 4)
    found = [numbers(fit(LAYER, (X, Y, LENGTHS), mesh=whole, **ROWS))]
    ragged = ROWS | {"validation": batches(8, part)}
    found.append(numbers(fit(LAYER, batches(8, part), mesh=whole, **ragged)))
    fit(TAGGER, (LONG, SIGNS), mesh=whole, checkpoint_dir=directory, **STREAMS | {"epochs": 1})
    found.append(numbers(fit(TAGGER, (LONG, SIGNS), mesh=whole, checkpoint_dir=directory, **STREAMS)))
    print("found", json.dumps(found))


def check_told_in_one_of_two(process: int, port: int, directory: str) -> None:
    """SIGTERM comes to the second process alone."""
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, process, coordinator_bind_address=address)

    def tell(event: Any) -> None:
        if process == 1 and event.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    fit(LAYER, (X, Y), mesh=mesh(shape=(4,)), checkpoint_dir=directory, callbacks=[tell], **ROWS | {"epochs": 50})


def in_process(code: str, devices: int) -> subprocess.Popen[str]:
    """A process that runs a function of this file on that many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    return started(f"import test_parallel as own; own.{code}", environment)


def started(code: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def outputs(*processes: subprocess.Popen[str], seconds: float = 300) -> list[str]:
    """What they print; where one fails, or they do not end in time, the others, which would wait for it, are killed."""
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(len(processes)) as pool:  # one that prints into a full pipe would wait until it is read
        reading = [pool.submit(process.communicate) for process in processes]
        try:
            while None in (codes := [process.poll() for process in processes]) and not any(codes):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.2)
        finally:
            for process in processes:
                process.kill()
    found = [(code, *own.result()) for code, own in zip(codes, reading, strict=True)]
    failed = [f"{code}: {errors[-3000:]}" for code, _, errors in found if code]
    failed += [f"no end within {seconds} s: {errors[-3000:]}" for code, _, errors in found if code is None]
    assert not failed, failed[0]
    return [out for _, out, _ in found]


def test_a_process_that_is_killed_has_failed() -> None:
    """By the system, where memory runs out; not one that was killed because another has failed."""
    waiting, killed = started("import time; time.sleep(60)"), started("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(AssertionError, match="-9: "):
        outputs(waiting, killed)
    assert waiting.returncode == -signal.SIGKILL


def test_a_process_that_does_not_end_has_failed() -> None:
    """But not one that prints more than a pipe holds."""
    assert len(outputs(started("print('x' * 10**6)"))[0]) == 10**6 + 1
    with pytest.raises(AssertionError, match=r"no end within 0\.5 s: "):
        outputs(started("import time; time.sleep(60)"), seconds=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        check_all_kinds,
        check_what_cannot_be_dealt,
        check_rows_of_iterables_and_validation,
        check_noise_and_statistics,
        check_noise_of_nnx,
    ],
)
def test_eight_devices_train_as_one(check: Any) -> None:
    outputs(in_process(f"{check.__name__}()", 8))


@pytest.mark.slow
def test_checkpoints_fit_any_number_of_devices(tmp_path: Path) -> None:
    outputs(in_process(f"check_another_number_of_devices({str(tmp_path)!r})", 8))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    port = free_port()
    both = [in_process(f"check_as_one_of_two({i}, {port}, {str(tmp_path)!r})", 2) for i in range(2)]
    lines = [line for out in outputs(*both) for line in out.splitlines() if line.startswith("found ")]
    first, second = (json.loads(line.removeprefix("found ")) for line in lines)
    assert first == second
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        alone = [
            fit(LAYER, (X, Y, LENGTHS), **ROWS),
            fit(LAYER, batches(8), **ROWS | {"validation": batches(8)}),
            fit(TAGGER, (LONG, SIGNS), **STREAMS),
        ]
    for got, fitted in zip(first, alone, strict=True):
        for a, b in zip(got, numbers(fitted), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_all_processes_stop_where_one_is_told_to(tmp_path: Path) -> None:
    port = free_port()
    both = [in_process(f"check_told_in_one_of_two({i}, {port}, {str(tmp_path)!r})", 2) for i in range(2)]
    try:
        codes = [process.wait(timeout=240) for process in both]
    finally:
        errors = [process.kill() or process.communicate()[1][-3000:] for process in both]
    assert codes == [-signal.SIGTERM] * 2, errors
    assert max(int(path.name) for path in tmp_path.iterdir()) == 2 * 4  # two epochs of four steps


@pytest.mark.slow
def test_a_mesh_of_one_device() -> None:
    with jax.numpy_dtype_promotion("standard"):
        assert_same(fit(LAYER, (X, Y, LENGTHS), mesh=mesh(), **ROWS), fit(LAYER, (X, Y, LENGTHS), **ROWS))


def test_what_is_no_mesh_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`mesh` must be a `jax.sharding.Mesh`, such as .*; got 8"):
        fit(LAYER, (X, Y), mesh=8)  # type: ignore[arg-type]
