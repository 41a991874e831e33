"""A run that is killed and started again ends with the same bits; what does not fit is refused by name."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import rnnjax as rj
from rnnjax import training
from rnnjax.training import _checkpoint, _runs, fit

N, T, I, K = 20, 4, 2, 2  # noqa: E741
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, I)).astype(np.float32)
Y = (X.sum((1, 2)) > 0).astype(np.int32)
LAYER = rj.Stack([rj.RNN(rj.GRU(3)), rj.Dropout(0.3), rj.Last(), rj.Dense(K)])
W, LINEAR = np.eye(I, K, dtype=np.float32), jax.jit(lambda params, x: x.mean(1) @ params)
OPTIONS: dict[str, Any] = {"batch_size": 8, "validation_split": 0.3, "progress": False, "restore_best": True}


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Optax mixes dtypes, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def assert_same(got: Any, wanted: Any) -> None:
    assert got.history == wanted.history
    for a, b in zip(
        jax.tree.leaves((got.params, got.state.optimizer)),
        jax.tree.leaves((wanted.params, wanted.state.optimizer)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


class Killed(Exception):
    """Stands for the end of the process."""


def killer(epoch: int) -> Any:
    def stop(event: Any) -> None:
        if event.epoch == epoch:
            raise Killed

    return stop


def test_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = fit(LAYER, (X, Y), epochs=6, **OPTIONS)
    options = OPTIONS | {"checkpoint_dir": tmp_path / "run", "checkpoint_every": 2}
    for epoch in (3, 4):
        with pytest.raises(Killed):
            fit(LAYER, (X, Y), epochs=6, callbacks=[killer(epoch)], **options)
    seen: list[int] = []
    resumed = fit(LAYER, (X, Y), epochs=6, callbacks=[lambda event: seen.append(event.epoch)], **options)
    assert seen == list(range(4, 6))
    assert_same(resumed, whole)
    with pytest.warns(UserWarning, match="after 6 epochs: nothing is trained, .*; `epochs` may be more, or choose"):
        again = fit(LAYER, (X, Y), epochs=6, callbacks=[killer(5)], **options)  # finished: no epoch runs
    assert_same(again, whole)
    assert len([path for path in (tmp_path / "run").iterdir() if path.is_dir()]) <= 2


def test_a_checkpoint_every_so_many_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is taken up is told; after two epochs of three there is nothing yet."""
    options = OPTIONS | {"epochs": 5, "checkpoint_dir": tmp_path, "checkpoint_every": 3}
    seen: list[int] = []
    for end, told in ((1, ""), (3, ""), (4, f"the run in {tmp_path} goes on at epoch 4 of 5\n")):
        with pytest.raises(Killed):
            fit(LAYER, (X, Y), callbacks=[lambda event: seen.append(event.epoch), killer(end)], **options)
        assert capsys.readouterr().err == told
    assert seen == [0, 1, 0, 1, 2, 3, 3, 4]


def test_what_may_change_between_two_parts_of_a_run(tmp_path: Path) -> None:
    options = {"batch_size": 8, "progress": False, "checkpoint_dir": tmp_path / "run", "seed": np.int64(3)}
    fit(LAYER, (X, Y), epochs=2, **options)
    later = fit(LAYER, (X, Y), epochs=3, validation=(X, Y), **options)
    assert np.isnan(later.history["val_loss"][:2]).all()
    assert np.isfinite(later.history["val_loss"][2])
    with pytest.raises(ValueError, match="with metrics = "):
        fit(LAYER, (X, Y), epochs=4, metrics=["accuracy"], **options)
    with pytest.raises(ValueError, match="with loss = "):
        fit(LAYER, (X, Y), epochs=4, loss=lambda outputs, targets, mask=None: outputs.mean(), **options)


def test_more_patience_goes_on(tmp_path: Path) -> None:
    options = OPTIONS | {"checkpoint_dir": tmp_path / "run", "optimizer": optax.sgd(0.0)}  # nothing improves
    assert len(fit(LAYER, (X, Y), epochs=9, patience=2, **options).history["loss"]) == 3
    with pytest.warns(UserWarning, match="after 3 epochs, by its `patience`: .*; `patience` may be more, or choose"):
        assert len(fit(LAYER, (X, Y), epochs=9, patience=2, **options).history["loss"]) == 3
    assert len(fit(LAYER, (X, Y), epochs=9, patience=4, **options).history["loss"]) == 5


def test_a_run_that_a_callback_has_ended_says_so(tmp_path: Path) -> None:
    options = OPTIONS | {"checkpoint_dir": tmp_path, "callbacks": lambda event: True}
    fit(LAYER, (X, Y), epochs=3, **options)
    with pytest.warns(UserWarning, match="had ended, after 1 epochs, by a callback: .* have changed; choose another"):
        fit(LAYER, (X, Y), epochs=3, **options)


@pytest.mark.slow
def test_streams_and_early_stopping_resume(tmp_path: Path) -> None:
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, N, 8)]
    options = {"progress": False, "patience": 1, "epochs": 8, "optimizer": training.optimizer(3.0, algorithm="sgd")}
    whole = fit(LAYER, batches, **options)
    stopped = len(whole.history["loss"])
    assert stopped < 8
    with pytest.raises(Killed):
        fit(LAYER, batches, checkpoint_dir=tmp_path, callbacks=[killer(1)], **options)
    resumed = fit(LAYER, batches, checkpoint_dir=tmp_path, **options)
    assert_same(resumed, whole)
    with pytest.warns(UserWarning, match="had ended"):
        assert_same(fit(LAYER, batches, checkpoint_dir=tmp_path, callbacks=[killer(stopped)], **options), whole)


def test_epochs_of_so_many_steps_resume(tmp_path: Path) -> None:
    """Three batches for ever in epochs of two: what was read before is read again, and left out."""
    options = {"progress": False, "epochs": 4, "steps_per_epoch": 2}

    def batches() -> Iterator[Any]:
        while True:
            yield from [(X[i : i + 8], Y[i : i + 8]) for i in range(0, N, 8)]

    whole = fit(LAYER, batches, **options)
    with pytest.raises(Killed):
        fit(LAYER, batches, checkpoint_dir=tmp_path, callbacks=[killer(2)], **options)
    with pytest.raises(ValueError, match="is of a run with steps_per_epoch = 2, and this run has 3"):
        fit(LAYER, batches, checkpoint_dir=tmp_path, **options | {"steps_per_epoch": 3})
    assert_same(fit(LAYER, batches, checkpoint_dir=tmp_path, **options), whole)


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
import os, signal, test_checkpoint as own
from rnnjax.training import _runs
_runs.LONGEST_BLOCK = 1
blocks = 0
parts = _runs.Blocks.parts
def counted(self, *args):
    global blocks
    for part in parts(self, *args):
        blocks += 1
        if blocks == {block}:
            os.kill(os.getpid(), signal.SIGTERM)
        yield part
_runs.Blocks.parts = counted
own.fit(own.LAYER, (own.X, own.Y), epochs=4, checkpoint_dir={directory!r}, **own.OPTIONS)
print("finished")
"""


@pytest.mark.slow
def test_sigterm_saves_in_the_middle_of_an_epoch_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training._runs, "LONGEST_BLOCK", 1)
    whole = fit(LAYER, (X, Y), epochs=4, **OPTIONS)
    directory = tmp_path / "run"
    for block in (3, 1_000_000):
        code = SCRIPT.format(tests=str(Path(__file__).parent), block=block, directory=str(directory))
        environment = os.environ | {"JAX_ENABLE_X64": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        if block == 3:
            assert done.returncode == -signal.SIGTERM, done.stderr[-2000:]
            # the end of the first epoch, and the middle of the second
            assert sorted(path.name for path in directory.iterdir()) == ["2", "3"]
        else:
            assert "finished" in done.stdout, done.stderr[-2000:]
    with pytest.warns(UserWarning, match="had ended"):
        again = fit(LAYER, (X, Y), epochs=4, checkpoint_dir=directory, **OPTIONS)
    assert_same(again, whole)


class Told:
    """A callback that prints each update, so that another process can kill this one at a known place. A checkpoint is
    written behind the line of an epoch."""

    every = 1

    def __call__(self, event: Any) -> None:
        print(f"epoch {event.epoch}", flush=True)

    def during(self, step: int, params: Any) -> None:
        print(f"step {step}", flush=True)


def train_for_long(directory: Path | None = None) -> Any:
    """More epochs than pass before a kill."""
    return fit(LAYER, (X, Y), epochs=100, callbacks=[Told()], checkpoint_dir=directory, **OPTIONS)


@pytest.mark.slow
def test_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL before the first epoch ends, where the first checkpoint may be under way, and some epochs later."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": paths}
    directory = tmp_path / "run"
    code = f"import pathlib, test_checkpoint as own; own.train_for_long(pathlib.Path({str(directory)!r}))"
    for line in ("step 1\n", "epoch 0\n", "epoch 3\n"):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        while (seen := process.stdout.readline()) and seen != line:
            pass
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert any(path.name.isdigit() for path in directory.iterdir())
    assert_same(train_for_long(directory), train_for_long())
    assert {path.name.isdigit() for path in directory.iterdir()} == {True}  # nothing is left of what was under way


def test_sigterm_that_the_user_handles_ends_the_training(tmp_path: Path) -> None:
    """The process lives on, and so does what `fit` has, up to the epoch before."""
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))

    def end(event: Any) -> None:
        if event.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        options = OPTIONS | {"checkpoint_dir": tmp_path}
        fitted = fit(LAYER, (X, Y), epochs=4, callbacks=end, **options)
        assert caught == [signal.SIGTERM]
        assert len(fitted.history["loss"]) == 2
        assert_same(fit(LAYER, (X, Y), epochs=4, **options), fit(LAYER, (X, Y), epochs=4, **OPTIONS))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_saves_before_it_interrupts(tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    options = OPTIONS | {"checkpoint_dir": tmp_path, "checkpoint_every": 9}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(LAYER, (X, Y), epochs=4, callbacks=interrupt, **options)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    numbers: list[int] = []
    resumed = fit(LAYER, (X, Y), epochs=4, callbacks=lambda event: numbers.append(event.epoch), **options)
    assert numbers == [2, 3]
    assert_same(resumed, fit(LAYER, (X, Y), epochs=4, **OPTIONS))


@contextlib.contextmanager
def handled(number: int, by: Any) -> Iterator[None]:
    """A signal that is handled so."""
    before = signal.signal(number, by)
    try:
        yield
        assert signal.getsignal(number) == by
    finally:
        signal.signal(number, before)


def test_a_signal_that_ends_no_process_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is process 1 of a container, which the kernel does not end."""

    def end(event: Any) -> None:
        if event.epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *to: sent.append(to))
    with handled(signal.SIGTERM, signal.SIG_DFL), pytest.raises(SystemExit) as ended:
        fit(LAYER, (X, Y), epochs=4, callbacks=end, checkpoint_dir=tmp_path, **OPTIONS)
    assert ended.value.code == 143
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    with handled(signal.SIGINT, signal.SIG_IGN):
        callbacks = lambda event: signal.raise_signal(signal.SIGINT)  # noqa: E731
        fitted = fit(LAYER, (X, Y), epochs=2, callbacks=callbacks, checkpoint_dir=tmp_path, **OPTIONS)
    assert len(fitted.history["loss"]) == 2


def test_a_signal_to_a_worker_is_not_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was forked off has the handler too."""
    caught: list[int] = []
    with (
        handled(signal.SIGTERM, lambda number, frame: caught.append(number)),
        _checkpoint.Checkpoints(tmp_path, {}, {}) as saver,
    ):
        monkeypatch.setattr(saver, "_process", os.getppid())
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        assert not saver.stops_within


@pytest.mark.slow
def test_reading_that_fails_after_a_signal_is_where_the_run_stops(tmp_path: Path) -> None:
    """A signal to the whole group ends the workers of a loader as well."""
    whole = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, N, 4)]
    options = {"progress": False, "epochs": 2, "checkpoint_dir": tmp_path}

    def batches(epoch: int) -> Iterator[Any]:
        for count, batch in enumerate(whole):
            if (epoch, count) == (1, 3):
                signal.raise_signal(signal.SIGTERM)
                raise RuntimeError("a worker was killed")
            yield batch

    with handled(signal.SIGTERM, lambda number, frame: None):
        stopped = fit(LAYER, batches, **options)
    assert int(stopped.state.step) == 8
    assert_same(fit(LAYER, whole, **options), fit(LAYER, whole, progress=False, epochs=2))


def test_a_step_that_fails_after_a_signal_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has taken the memory of the state, of which no checkpoint can be made."""
    kept = _runs.Recipe.kept

    def run(state: Any, *others: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        jax.tree.map(lambda leaf: leaf.delete(), state)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_runs.Recipe, "kept", lambda *own: kept(*own)._replace(run=run))
    told = handled(signal.SIGTERM, lambda number, frame: None)
    with told, pytest.raises(RuntimeError, match="out of memory"):
        fit((W, LINEAR), [(X, Y)], progress=False, checkpoint_dir=tmp_path)


@pytest.mark.slow
def test_a_run_that_goes_on_at_the_end_of_an_epoch_tells_of_no_steps(tmp_path: Path) -> None:
    class Within:
        every = 1

        def __call__(self, event: Any) -> None:
            pass

        def during(self, step: int, params: Any) -> None:
            signal.raise_signal(signal.SIGTERM)

    options = {"progress": False, "batch_size": N, "callbacks": Within(), "checkpoint_dir": tmp_path}
    with handled(signal.SIGTERM, lambda number, frame: None):
        stopped = fit((W, LINEAR), (X, Y), **options)
    assert (stopped.history, int(stopped.state.step)) == ({}, 1)
    resumed = fit((W, LINEAR), (X, Y), **options)
    assert (len(resumed.history["loss"]), int(resumed.state.step)) == (1, 1)


@pytest.mark.parametrize("ends", [{}, {"epochs": 9, "callbacks": lambda event: True}], ids=["epochs", "callback"])
def test_a_write_that_fails_at_the_end_keeps_the_model(
    ends: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(_checkpoint.Checkpoints, "save", full)
    options = OPTIONS | {"checkpoint_dir": tmp_path, "log": full}
    with pytest.warns(UserWarning, match="could not be written") as told:
        fitted = fit(LAYER, (X, Y), **options | ends)
    assert [str(warning.message) for warning in told] == [
        f"{what} could not be written (OSError: no space left)"
        for what in ("the values of the last epoch", "the last checkpoint")
    ]
    assert {warning.filename for warning in told} == {__file__}
    assert len(fitted.history["loss"]) == 1
    for part in ({"log": full}, {"checkpoint_dir": tmp_path}):
        with pytest.raises(OSError, match="no space left"):
            fit(LAYER, (X, Y), epochs=2, **OPTIONS | part)


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        raise Killed

    with handled(signal.SIGINT, signal.default_int_handler), pytest.raises(Killed):
        fit(LAYER, (X, Y), callbacks=interrupt, **OPTIONS, checkpoint_dir=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a run that was interrupted."""
    with pytest.raises(Killed):
        fit(LAYER, (X, Y), epochs=4, checkpoint_dir=tmp_path, callbacks=[killer(2)], **OPTIONS)
    return tmp_path


class WithinEpochs:
    """A callback that cuts the compiled loops, which checkpoints count."""

    every = 1

    def __call__(self, event: Any) -> None: ...

    def during(self, step: int, params: Any) -> None: ...


@pytest.mark.slow
def test_what_does_not_fit_is_refused_by_name(run: Path) -> None:
    def go_on(layer: Any = LAYER, **changes: Any) -> Any:
        return fit(layer, (X, Y), epochs=4, checkpoint_dir=run, **(OPTIONS | changes))

    with pytest.raises(ValueError, match="is of a run with batch_size = 8, and this run has 4"):
        go_on(batch_size=4)
    wider = rj.Stack([rj.RNN(rj.GRU(4)), rj.Dropout(0.3), rj.Last(), rj.Dense(K)])
    with pytest.raises(ValueError, match=r"its `state\.params\.0\.w` is float\d\d\(2, 9\), and this run's is"):
        go_on(wider)
    with pytest.raises(ValueError, match="is of a run with monitor = val_loss, and this run has loss"):
        go_on(monitor="loss")
    with pytest.raises(ValueError, match="is of a run with mode = min, and this run has max"):
        go_on(mode="max")
    with pytest.raises(ValueError, match=r"is of a run with min_delta = 0\.0, and this run has 0\.5"):
        go_on(min_delta=np.float32(0.5))
    with pytest.raises(ValueError, match="is of a run with compute_dtype = None, and this run has bfloat16"):
        go_on(compute_dtype=jax.numpy.bfloat16)
    with pytest.raises(ValueError, match="is of a run with restore_best = True, and this run has False"):
        go_on(restore_best=False)
    with pytest.raises(ValueError, match=r"another model or recipe: it has no `state\.optimizer"):
        go_on(optimizer=training.optimizer(0.1, algorithm="adabelief", weight_decay=0.1, schedule=lambda step: 1.0))
    go_on(callbacks=[WithinEpochs()])


def test_loops_of_another_length_do_not_go_on_within_an_epoch(tmp_path: Path) -> None:
    """A checkpoint within an epoch counts its loops; one at its end may go on with others."""

    class Stops(WithinEpochs):
        def during(self, step: int, params: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    options = OPTIONS | {"epochs": 2, "checkpoint_dir": tmp_path}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(LAYER, (X, Y), callbacks=[Stops()], **options)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ValueError, match="is of a run with `every` of its callbacks = 1, and this run has None"):
        fit(LAYER, (X, Y), **options)
    resumed = fit(LAYER, (X, Y), callbacks=[WithinEpochs()], **options)
    assert len(resumed.history["loss"]) == 2


@pytest.mark.parametrize("role", ["loss", pytest.param("metrics", marks=pytest.mark.slow)])
def test_numbers_of_a_measure_are_compared(role: str, tmp_path: Path) -> None:
    huber, targets = training.huber, np.eye(K)[Y]

    def go_on(delta: float, epochs: int) -> Any:
        own = functools.partial(huber, delta=delta)
        measured = {"loss": own} if role == "loss" else {"loss": "huber", "metrics": [("own", own)]}
        options = {"epochs": epochs, "batch_size": 8, "progress": False, "checkpoint_dir": tmp_path}
        return fit(LAYER, (X, targets), **options, **measured)

    go_on(1.0, 1)
    with pytest.raises(ValueError, match=rf"with {role} = .*\(delta=1\.0\).*, and this run has .*\(delta=5\.0\)"):
        go_on(5.0, 2)
    assert len(go_on(1.0, 2).history["loss"]) == 2


def test_what_an_earlier_version_did_not_write_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Earlier(_checkpoint.Checkpoints):
        def __init__(self, directory: Any, described: Any, within: Any) -> None:
            later = ("compute_dtype", "min_delta")
            super().__init__(directory, {name: value for name, value in described.items() if name not in later}, within)

    options = OPTIONS | {"epochs": 4, "checkpoint_dir": tmp_path}
    with monkeypatch.context() as before:
        before.setattr(training._loop, "Checkpoints", Earlier)
        with pytest.raises(Killed):
            fit(LAYER, (X, Y), callbacks=[killer(2)], **options)
    seen: list[int] = []
    fit(LAYER, (X, Y), callbacks=[lambda event: seen.append(event.epoch)], min_delta=0.5, **options)
    assert seen == [2, 3]


# The first read that fails closes Orbax's event loop; the others, still under way, then complain to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_torn_checkpoint_is_named(run: Path) -> None:
    newest = max((path for path in run.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 100 and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"the checkpoint {newest} cannot be read"):
        fit(LAYER, (X, Y), epochs=4, checkpoint_dir=run, **OPTIONS)
    time.sleep(0.5)  # the complaints belong to this test, not to the next


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_array_that_is_torn_is_named(tmp_path: Path) -> None:
    arrays = {"small": np.ones(2), "large": RNG.normal(size=(64, 64))}
    with _checkpoint.Checkpoints(tmp_path, {}, {}) as saver:
        saver.save(3, arrays, within=False)
        file = max((path for path in tmp_path.rglob("d/*")), key=lambda path: path.stat().st_size)
        file.write_bytes(file.read_bytes()[:10_000])
        with pytest.raises(
            ValueError, match=r"3 cannot be read \(its `large` is damaged, .*\): remove it to go on from"
        ):
            saver.load(arrays)
    time.sleep(0.5)


def test_checkpoint_that_could_not_be_read_may_be_whole() -> None:
    """Only what an error calls damaged is to be removed; the first of its errors says so, where they are linked."""
    path = Path("run/3")
    denied = ValueError('PERMISSION_DENIED: Error reading "large/c/0/0"')
    whole = _checkpoint._unreadable(path, denied)
    assert "(ValueError: PERMISSION_DENIED: Error reading" in whole
    assert "may be whole" in whole
    assert "remove" not in whole
    assert "damaged" not in whole
    torn = ValueError('DATA_LOSS: Error reading "large/c/0/0": too short')
    denied.__context__ = torn
    torn.__context__ = denied
    message = _checkpoint._unreadable(path, denied)
    assert "its `large` is damaged, ValueError: DATA_LOSS" in message
    assert message.endswith("remove it to go on from the one before")
    denied.__suppress_context__ = True
    assert _checkpoint._unreadable(path, denied) == whole


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(tmp_path) as other:
        other.save(7, {"a": np.ones(3)})
    with pytest.raises(ValueError, match=r"7 is no checkpoint of `rnnjax\.training\.fit`"):
        fit(LAYER, (X, Y), epochs=4, checkpoint_dir=tmp_path, **OPTIONS)
