"""Learns to write a text character by character, by truncated back-propagation through time.

    python examples/char_lm.py [--text FILE] [--hidden 128] [--layers 1] [--epochs 8]

The default text is Python's own documentation, which every Python carries. The first nine tenths are for training, the
last tenth for validation. At the end the network writes at three temperatures. Axes: V symbols, N characters, R streams
that are read side by side, L characters of a stream.
"""

import argparse
import pydoc_data.topics
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax as rj
from rnnjax.training import streams


class Text(NamedTuple):
    """A text in numbers: codes (N,) in 0…V − 1, whose symbols are the V characters."""

    symbols: str
    codes: np.ndarray

    def encode(self, characters: str) -> np.ndarray:
        """The codes of characters that the text has; others are left out."""
        return np.array([self.symbols.index(character) for character in characters if character in self.symbols])

    def decode(self, codes: np.ndarray) -> str:
        return "".join(self.symbols[code] for code in codes)


def read(path: str | None = None) -> Text:
    """The text of a file, by default Python's documentation; characters that come up less than ten times become `~`."""
    text = "\n".join(pydoc_data.topics.topics.values()) if path is None else Path(path).read_text(encoding="utf-8")
    if len(text) < 10_000:
        raise SystemExit(f"{path} has {len(text)} characters: at least 10,000 are needed to learn from")
    found, counts = np.unique(list(text), return_counts=True)
    symbols = "".join(sorted({"~", *found[counts >= 10]}))
    numbers = {character: code for code, character in enumerate(symbols)}
    return Text(symbols, np.array([numbers.get(character, numbers["~"]) for character in text], np.int32))


def split(codes: np.ndarray, rows: int) -> tuple:
    """Inputs and targets (R, L), each target the next character; for training and for validation."""
    cut = len(codes) * 9 // 10
    train, last = codes[:cut], codes[cut:]
    return streams((train[:-1], train[1:]), rows), streams((last[:-1], last[1:]), min(rows, 8))


def build(symbols: int, hidden: int, layers: int, dropout: float) -> rj.Stack:
    """The network: characters (L, R) -> scores of the next one (L, R, V)."""
    parts = [rj.Embedding(symbols, min(symbols, hidden))]  # (L, R) -> (L, R, E)
    for _ in range(layers):
        parts += [rj.RNN(rj.LSTM(hidden)), rj.Dropout(dropout)]  # -> (L, R, H)
    return rj.Stack([*parts, rj.Dense(symbols)])  # -> (L, R, V)


def recipe(learning_rate: float, updates: int) -> optax.GradientTransformation:
    """Adam, its rate lowered along a cosine, the gradient's norm bounded by 1."""
    schedule = optax.cosine_decay_schedule(1.0, updates, alpha=0.02)
    return rj.training.optimizer(learning_rate, clip_norm=1.0, schedule=schedule)


def train(text: Text, args: argparse.Namespace, **options) -> rj.training.Fitted:
    """Trains on windows of the streams, in which the state is carried on."""
    data, validation = split(text.codes, args.rows)
    updates = args.epochs * -(-data[0].shape[1] // args.window)
    return rj.training.fit(
        build(len(text.symbols), args.hidden, args.layers, args.dropout),
        data,
        validation=validation,
        optimizer=recipe(args.learning_rate, updates),
        metrics=["bits_per_character", "accuracy"],
        truncate=rj.training.tbptt(args.window),
        epochs=args.epochs,
        seed=args.seed,
        restore_best=True,
        **options,
    )


def write(fitted: rj.training.Fitted, text: Text, start: str, length: int, temperature: float, seed: int = 0) -> str:
    """Goes on from `start`: reads it, draws a character of softmax(scores / temperature), reads that, and so on."""
    params, model = fitted.model
    codes = text.encode(start)
    if not len(codes):
        raise ValueError(f"`start` has no character of the text: {start!r}")

    @jax.jit
    def run(params, codes, key, temperature):
        scores, state = model(params, codes[:, None])  # (L, 1) -> (L, 1, V)

        def step(carry, key):
            scores, state = carry
            code = jax.random.categorical(key, scores / temperature)  # (1, V) -> (1,)
            scores, state = model(params, code[None], state)
            return (scores[0], state), code[0]

        return jax.lax.scan(step, (scores[-1], state), jax.random.split(key, length))[1]

    return start + text.decode(run(params, jnp.asarray(codes), jax.random.key(seed), temperature))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a file in UTF-8; by default Python's documentation")
    parser.add_argument("--hidden", type=int, default=128, help="units of a layer")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=32, help="streams that are read side by side")
    parser.add_argument("--window", type=int, default=64, help="steps over which a gradient reaches back")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="The ", help="what the samples begin with")
    parser.add_argument("--length", type=int, default=300, help="characters of a sample")
    return parser


def main() -> None:
    args = arguments().parse_args()
    text = read(args.text)
    count = len(text.symbols)
    print(f"{len(text.codes):,} characters, {count} symbols: a blind guess costs {np.log2(count):.2f} bits")
    fitted = train(text, args)
    best = min(fitted.history["val_loss"])
    print(f"validation: {best:.3f} nats = {best / np.log(2):.3f} bits per character")
    for temperature in (0.3, 0.7, 1.0):
        print(f"\n--- temperature {temperature}\n{write(fitted, text, args.start, args.length, temperature)}")


if __name__ == "__main__":
    main()
