"""Permuted pixel-by-pixel MNIST: a digit from its 784 pixels, one at a time, in an order drawn at random once.

    python benchmarks/psmnist.py [--quick] [--checkpoints FOLDER] [--write]

The images are those of the folder `mnist` in the folder of `RNNJAX_DATA`. The network is a dense layer, residual blocks
around an LRU, the mean over time and a dense layer; its last 5,000 training images are for validation, and the test
images are read once, at the end. `psmnist_accuracy` is the share of them that is right. The goal is 0.90 after 90
minutes on 2 cores with at most 150,000 weights. With `--checkpoints` a run that was stopped goes on where it was.

For comparison, from Bai, Kolter, Koltun 2018, arXiv:1803.01271, with 70,000 weights: LSTM 0.857, GRU 0.873, TCN 0.972;
from Rusch, Mishra 2021, arXiv:2010.00951, trained for longer: LSTM 0.929, GRU 0.941, coRNN 0.966.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import jax
import numpy as np
import optax
from core import RESULTS, machine, parsed

import rnnjax as rj
from rnnjax.training import accuracy

WIDTH, STATES, BLOCKS = 64, 64, 2
EPOCHS, BATCH, RATE, DROPOUT = 5, 64, 4e-3, 0.1
VALIDATION = 5_000
GOAL, MOST_WEIGHTS = 0.90, 150_000


def mnist(part: str, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as sequences of pixels (N, 784, 1) in this order, and digits (N,), of the part "train" or "t10k"."""
    folder = Path(os.environ.get("RNNJAX_DATA", "$RNNJAX_DATA")) / "mnist"
    if not folder.is_dir():
        raise SystemExit(f"no images at {folder}: RNNJAX_DATA must name the folder that holds mnist/")
    pixels = rj.data.read_idx(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, order.size)
    digits = rj.data.read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int32)
    return (pixels[:, order, None] / np.float32(255) - np.float32(0.13)) / np.float32(0.31), digits


def network() -> rj.Stack:
    block = rj.Block(rj.LRU(STATES, r_min=0.9, r_max=0.999, max_phase=0.3), dropout=DROPOUT)
    return rj.Stack([rj.Dense(WIDTH), *[block] * BLOCKS, rj.Mean(), rj.Dense(10)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one epoch of every hundredth image: shows that it runs")
    parser.add_argument("--checkpoints", metavar="FOLDER", help="save after every epoch, and go on from there")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the pixels, the weights and the batches")
    parser.add_argument("--write", action="store_true", help=f"save to {RESULTS.name}/psmnist.json")
    options = parsed(parser)
    epochs, every = (1, 100) if options.quick else (options.epochs, 1)
    shapes = jax.eval_shape(lambda key: network().init(key, in_size=1), jax.random.key(0))
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    print(f"{weights:,} weights of at most {MOST_WEIGHTS:,}; goal {GOAL}")
    if weights > MOST_WEIGHTS:
        raise SystemExit("the network is larger than the figure allows")

    order = np.random.default_rng(options.seed).permutation(784)
    x, y = mnist("train", order)
    held = x[-VALIDATION::every], y[-VALIDATION::every]
    own = x[:-VALIDATION:every], y[:-VALIDATION:every]
    steps = epochs * -(-len(own[0]) // BATCH)

    def after(epoch: rj.training.Epoch) -> None:
        print(
            f"epoch {epoch.epoch}: {epoch.seconds:.0f} seconds, validation {epoch.logs['val_accuracy']:.2%}", flush=True
        )

    fitted = rj.training.fit(
        network(),
        own,
        metrics=[accuracy],
        optimizer=rj.training.optimizer(
            optax.warmup_cosine_decay_schedule(0, RATE, steps // 20, steps), clip_norm=1.0, weight_decay=1e-2
        ),
        validation=held,
        epochs=epochs,
        batch_size=BATCH,
        seed=options.seed,
        callbacks=[after],
        checkpoint_dir=options.checkpoints,
        progress=False,
    )
    found = rj.training.evaluate(fitted.model, mnist("t10k", order), metrics=[accuracy])
    name = "psmnist_quick_accuracy" if options.quick else "psmnist_accuracy"
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        kept = {
            "machine": machine(),
            "figures": {name: found["accuracy"]},
            "weights": weights,
            "history": fitted.history,
        }
        (RESULTS / "psmnist.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(f"figure: {name} {found['accuracy']:.4f}")


if __name__ == "__main__":
    main()
