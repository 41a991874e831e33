"""Reads scanned digits row by row: an Elman network, then the same one with GRU and LSTM cells.

    python examples/quickstart.py [--epochs 10] [--seed 0] [--figure quickstart.png]

A scan is a sequence of 8 rows of 8 pixels. Two recurrent layers read it from top to bottom, and what the second one
holds after the last row says which digit it was. Axes: N scans, S batches of an epoch, B scans of a batch, T rows, I
pixels of a row.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import rnnjax as rj


class Data(NamedTuple):
    """Scans (N, T=8, I=8), float32 in 0…1, and digits (N,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Result(NamedTuple):
    """What `train` returns; history holds the loss of every batch and the accuracy on each epoch's batches."""

    params: tuple
    history: dict[str, list[float]]
    test_accuracy: float
    seconds: float


def load_data(seed: int = 0) -> Data:
    """The 1,797 scans that come with scikit-learn; of each digit a fifth, drawn with `seed`, is kept for the test."""
    pixels, digits = load_digits(return_X_y=True)  # (1797, 64) in 0…16
    scans = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    split = train_test_split(scans, digits.astype(np.int32), test_size=0.2, stratify=digits, random_state=seed)
    x_train, x_test, y_train, y_test = split
    return Data(x_train, y_train, x_test, y_test)  # 1437 and 360 scans


def build(cell: Callable[..., rj.Cell]) -> rj.Stack:
    """The network with that kind of cell: rows (T, B, 8) -> scores (B, 10)."""
    return rj.Stack(
        [
            rj.RNN(cell(hidden_size=128)),  # (T, B, 8) -> (T, B, 128)
            rj.RNN(cell(hidden_size=64)),  # -> (T, B, 64)
            rj.Last(),  # -> (B, 64)
            rj.Dense(10),  # -> (B, 10)
        ]
    )


def recipe(steps: int) -> optax.GradientTransformation:
    """Adam. Clipped gradients keep one bad batch from undoing many; the rate falls to zero, so that the result does not
    hang on the last few batches."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-3, steps)))


@partial(jax.jit, static_argnames=("in_size", "steps"))
def start(model, key, in_size, steps):
    params = model.init(key, in_size)
    return params, recipe(steps).init(params)


def shuffle(x, y, batch, rng):
    """The scans in random order, as batches (S, T, B, I), digits (S, B) and weights (S, B).

    The last batch is filled up with scans of weight zero, so that none is left out and all batches have one shape.
    """
    order, missing = rng.permutation(len(x)), -len(x) % batch
    rows = np.pad(order, (0, missing)).reshape(-1, batch)  # (S, B)
    weight = np.pad(np.ones(len(x), np.float32), (0, missing)).reshape(-1, batch)  # (S, B)
    return x[rows].swapaxes(1, 2), y[rows], weight  # time leads within a batch


@partial(jax.jit, static_argnames="steps")
def epoch(model, params, opt_state, batches, steps):
    """One pass over the batches, as one compiled loop. A model is a pytree and so an ordinary argument."""

    def loss_and_hits(params, xs, digits, weight):
        scores, _ = model(params, xs)  # (T, B, I) -> (B, 10)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, digits)  # (B,)
        hits = weight * (scores.argmax(-1) == digits).astype(weight.dtype)  # (B,)
        return (weight * losses).sum() / weight.sum(), hits.sum()

    def update(carry, batch):
        params, opt_state = carry
        (loss, hits), gradient = jax.value_and_grad(loss_and_hits, has_aux=True)(params, *batch)
        change, opt_state = recipe(steps).update(gradient, opt_state, params)
        return (optax.apply_updates(params, change), opt_state), (loss, hits)

    (params, opt_state), (losses, hits) = jax.lax.scan(update, (params, opt_state), batches)
    return params, opt_state, losses, hits.sum()


@jax.jit
def predict(model, params, xs):
    """The digit of each scan: (T, B, I) -> (B,)."""
    scores, _ = model(params, xs)
    return scores.argmax(-1)


def train(model, data: Data, *, epochs: int = 10, batch: int = 32, seed: int = 0, progress: bool = True) -> Result:
    """Trains the model and tests it once, at the end. The seconds are those of the training, with its compilation."""
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    steps = epochs * -(-len(data.x_train) // batch)
    params, opt_state = start(model, jax.random.key(seed), data.x_train.shape[-1], steps)
    history = {"loss": [], "accuracy": []}
    with tqdm(total=epochs, disable=not progress, desc=type(model.layers[0].cell).__name__, unit="epoch") as bar:
        for _ in range(epochs):
            batches = shuffle(data.x_train, data.y_train, batch, rng)
            params, opt_state, losses, hits = epoch(model, params, opt_state, batches, steps)
            history["loss"] += losses.tolist()
            history["accuracy"].append(float(hits) / len(data.x_train))
            bar.set_postfix(loss=f"{losses.mean():.3f}", accuracy=f"{history['accuracy'][-1]:.1%}")
            bar.update()
    seconds = time.perf_counter() - began
    test_accuracy = (np.asarray(predict(model, params, data.x_test.swapaxes(0, 1))) == data.y_test).mean()
    return Result(params, history, float(test_accuracy), seconds)


def draw(path: str, results: dict[str, Result], data: Data, guesses: np.ndarray, epochs: int) -> None:
    """Saves the loss curves and the first test digits under what the first network takes them for."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(5, 4))[0]
    axes = left.subplots()
    for (name, result), color in zip(results.items(), ("#0072B2", "#E69F00", "#009E73"), strict=True):
        means = np.reshape(result.history["loss"], (epochs, -1)).mean(1)
        axes.plot(np.arange(1, epochs + 1), means, "o-", color=color, ms=4, label=name)
    axes.set(xlabel="epoch", ylabel="training loss, nats per scan", yscale="log", title="Training")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)

    right.suptitle(f"Test scans as read by {next(iter(results))}")
    for i, scan_axes in enumerate(right.subplots(4, 6).flat):
        scan_axes.imshow(data.x_test[i], cmap="gray_r")
        correct = guesses[i] == data.y_test[i]
        title = f"{guesses[i]}" if correct else f"{guesses[i]}, is {data.y_test[i]}"
        scan_axes.set_title(title, fontsize=10, color="black" if correct else "#D55E00")
        scan_axes.axis("off")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the split, the initial weights and the order of scans")
    parser.add_argument("--figure", default="quickstart.png", help="where to save the figure")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error("--epochs must be at least 1")
    Path(args.figure).parent.mkdir(parents=True, exist_ok=True)  # before the training, or it could be lost

    data, results = load_data(args.seed), {}
    for cell in (rj.Elman, rj.GRU, rj.LSTM):
        results[cell.__name__] = train(build(cell), data, epochs=args.epochs, seed=args.seed)

    print(f"\n{'cell':<6} {'parameters':>10} {'seconds':>8} {'test accuracy':>14}")
    for name, result in results.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(result.params))
        print(f"{name:<6} {count:>10,} {result.seconds:>8.1f} {result.test_accuracy:>14.1%}")

    guesses = predict(build(rj.Elman), results["Elman"].params, data.x_test.swapaxes(0, 1))
    draw(args.figure, results, data, np.asarray(guesses), args.epochs)
    print(f"\nsaved {args.figure}")


if __name__ == "__main__":
    main()
