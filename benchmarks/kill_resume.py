"""Kills a training run with SIGKILL at a random moment, starts it again, and compares the bits of the result.

    python benchmarks/kill_resume.py [--quick] [--write]

A round trains a GRU with dropout in a process of its own, which is killed between its first epoch and its usual end,
and once more to the end from the checkpoints that are left. It counts if parameters and history have the bits of a run
that was never interrupted, and if nothing is left in the directory but the checkpoints that are kept.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEPT = 2


def worker(directory: str) -> None:
    """Trains to the end, and prints a digest of the result."""
    import hashlib

    import jax
    import numpy as np

    import rnnjax as rj

    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 20, 4)).astype(np.float32)
    y = (x.sum((1, 2)) > 0).astype(np.int32)
    layer = rj.Stack([rj.RNN(rj.GRU(32)), rj.Dropout(0.2), rj.Last(), rj.Dense(2)])
    fitted = rj.training.fit(
        layer,
        (x, y),
        epochs=25,
        validation_split=0.2,
        checkpoint_dir=directory,
        restore_best=True,
        progress=False,
        callbacks=[lambda epoch: print(f"epoch {epoch.epoch}", flush=True)],
    )
    digest = hashlib.sha256(json.dumps(fitted.history).encode())
    for leaf in jax.tree.leaves((fitted.params, fitted.state.optimizer)):
        digest.update(np.asarray(leaf).tobytes())
    print(f"digest {digest.hexdigest()}")


def start(directory: Path) -> subprocess.Popen[str]:
    """A process that trains."""
    command = [sys.executable, __file__, "--worker", str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def trains(process: subprocess.Popen[str]) -> None:
    """Returns after the first epoch, before its checkpoint is written."""
    while process.stdout and (line := process.stdout.readline()) and not line.startswith("epoch "):
        pass


def finish(process: subprocess.Popen[str]) -> str:
    """What the process printed about its result."""
    out, _ = process.communicate()
    lines = [line for line in out.splitlines() if line.startswith("digest ")]
    if process.returncode or len(lines) != 1:
        raise RuntimeError(f"a run ended with {process.returncode}: {out}")
    return lines[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five kills instead of fifty")
    parser.add_argument("--write", action="store_true", help="save the figure under benchmarks/results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--write keeps the figure of a whole run; leave out --quick")
    if args.worker:
        worker(args.worker)
        return
    rounds, rng, exact, middle = 5 if args.quick else 50, random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as root:
        process = start(Path(root) / "whole")
        trains(process)
        began = time.perf_counter()
        wanted = finish(process)
        seconds = time.perf_counter() - began
        done = 0
        while done < rounds:
            directory = Path(tempfile.mkdtemp(dir=root))  # a new one also after a run that ended before it was killed
            process = start(directory)
            trains(process)
            time.sleep(rng.uniform(0, seconds))
            process.kill()
            if process.wait() == 0:
                continue  # it had ended by itself
            done += 1
            middle += any(path.name.isdigit() for path in directory.glob("*"))
            same = finish(start(directory)) == wanted
            left = list(directory.iterdir())
            exact += same and len(left) <= KEPT and all(path.name.isdigit() for path in left)
            print(f"kill {done}: {'exact' if same else 'DIFFERENT'}, {len(left)} left", flush=True)
    print(f"{middle} of {rounds} kills came after a checkpoint; the epochs of a run take {seconds:.1f} s")
    print(f"figure: kill_resume {exact}")
    if args.write:
        from core import RESULTS, machine

        data = {"machine": machine(), "figures": {"kill_resume": exact}, "rounds": rounds}
        (RESULTS / "kill_resume.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
