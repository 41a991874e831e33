"""Learns to write a text, character by character or word by word, and then writes.

    python examples/generation.py [--data FILE] [--unit character|word] [--hidden 128] [--epochs 8] [--smoke]
    python examples/generation.py --checkpoints DIR --interactive [--temperature 0.7] [--top-p 0.9] [--beams 4]

The default text is Python's own documentation, which every Python carries. The first nine tenths are for training, the
last tenth for validation. Training is truncated back-propagation through time. At the end the network writes, drawing
at several temperatures and by beam search, or with `--interactive` goes on from what is typed. A second call with the
same `--checkpoints` finds the trained network there. Axes: V symbols of the vocabulary, N of the text, R streams that
are read side by side, L symbols of a stream.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np
import optax

import rnnjax as rj
from rnnjax.training import streams, tbptt

PARAGRAPH = "¶"  # among words it stands for an empty line, the only white space that they keep
LEAST = 10_000  # characters to learn from


class Text(NamedTuple):
    """A text in numbers: codes (N,) of the symbols of a vocabulary, and its number of characters."""

    vocabulary: rj.data.Vocabulary
    codes: np.ndarray
    characters: int

    def encode(self, written: str) -> np.ndarray:
        """Codes (L,) of the symbols that the text has; others are left out."""
        codes = self.vocabulary.encode(symbols_of(written, self.vocabulary.unit))
        return codes[codes != self.vocabulary.unknown]

    def complaint(self, written: str) -> str | None:
        """What is unknown in a text, or None."""
        return self.vocabulary.complaint(symbols_of(written, self.vocabulary.unit))

    def complain(self, written: str) -> None:
        """Says so where something is left out."""
        if complaint := self.complaint(written):
            print(f"left out of {written!r}: {complaint}")

    def decode(self, codes: np.ndarray) -> str:
        written = self.vocabulary.decode(codes)
        return written if self.vocabulary.unit == "character" else written.replace(f" {PARAGRAPH} ", "\n\n")


def symbols_of(text: str, unit: str) -> list[str]:
    """The characters of a text, or its words, signs and paragraph ends."""
    return list(text) if unit == "character" else rj.data.words(re.sub(r"\n\s*\n", f" {PARAGRAPH} ", text))


def read(
    path: str | None = None, unit: str = "character", size: int | None = None, most: int | None = None, encoding="utf-8"
) -> Text:
    """The text of a file or of the `.txt` files of a folder, by default Python's documentation, up to `most` of it.
    Unknown are characters that come up less than ten times, and words that come up once or are not among the `size`
    most frequent ones."""
    documents = rj.data.python_documentation() if path is None else rj.data.read_documents(path, encoding=encoding)
    if isinstance(documents, rj.data.Reading):
        print(documents.report())
    text = "\n".join(document.text for document in documents)[:most]
    if len(text) < LEAST:
        raise SystemExit(f"{path} has {len(text):,} characters: at least {LEAST:,} are needed to learn from")
    symbols = symbols_of(text, unit)
    known = symbols[: training(len(symbols))]  # what comes up in the validation part alone is unknown
    learn = rj.data.Vocabulary.characters if unit == "character" else rj.data.Vocabulary.words
    limits = {"min_count": 10} if unit == "character" else {"min_count": 2, "max_size": size}
    vocabulary = learn([known], specials=["unknown"], **limits)
    return Text(vocabulary, vocabulary.encode(symbols), len(text))


def training(symbols: int) -> int:
    """How many of the symbols of a text are learned from, its first nine tenths."""
    return symbols * 9 // 10


def split(codes: np.ndarray, rows: int) -> tuple:
    """Inputs and targets (R, L), each target the next symbol; for training and for validation."""
    train, last = np.split(codes, [training(len(codes))])
    return streams((train[:-1], train[1:]), rows), streams((last[:-1], last[1:]), min(rows, 8))


def build(symbols: int, hidden: int, layers: int, dropout: float) -> rj.Stack:
    """The network: symbols (L, R) -> scores of the next one (L, R, V)."""
    layer = [rj.RNN(rj.LSTM(hidden)), rj.Dropout(dropout)]  # (L, R, E), or (L, R, H) of the layer below -> (L, R, H)
    return rj.Stack([rj.Embedding(symbols, min(symbols, hidden)), *(layer * layers), rj.Dense(symbols)])


def recipe(learning_rate: float, updates: int) -> optax.GradientTransformation:
    """Adam, its rate lowered along a cosine, the gradient's norm bounded by 1."""
    schedule = optax.cosine_decay_schedule(1.0, updates, alpha=0.02)
    return rj.training.optimizer(learning_rate, clip_norm=1.0, schedule=schedule)


def train(text: Text, args: argparse.Namespace, **options: Any) -> rj.training.Fitted:
    """Trains on windows of the streams, in which the state is carried on."""
    data, validation = split(text.codes, args.rows)
    updates = args.epochs * -(-data[0].shape[1] // args.window)
    options |= {"metrics": ["perplexity", "accuracy"], "truncate": tbptt(args.window), "restore_best": True}
    options |= {"epochs": args.epochs, "seed": args.seed, "checkpoint_dir": args.checkpoints}
    options |= {"validation": validation, "optimizer": recipe(args.learning_rate, updates)}
    return rj.training.fit(build(len(text.vocabulary), args.hidden, args.layers, args.dropout), data, **options)


def judge(fitted: rj.training.Fitted, text: Text) -> dict[str, float]:
    """Nats and perplexity a symbol of the validation part, read as one stream, and bits a character, of which a symbol
    has as many as in the whole text; words do not tell white space, nor how unknown ones are written."""
    _, (x, y) = split(text.codes, 1)
    nats = rj.training.evaluate(fitted, (x, y), truncate=tbptt(1000))["loss"]
    bits = nats / np.log(2) * len(text.codes) / text.characters
    return {"nats": nats, "perplexity": float(np.exp(nats)), "bits_per_character": float(bits)}


class How(NamedTuple):
    """How to write: by beam search if there are `beams`, else by drawing from what the filters leave."""

    length: int = 300
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat: int | None = None
    beams: int | None = None


class Place(NamedTuple):
    """Where a network is in its text: the state behind all symbols but the last, and the symbols, (N,)."""

    state: Any
    codes: np.ndarray


@jax.jit
def read_on(params: Any, model: rj.Stack, state: Any, codes: jax.Array, length: jax.Array) -> Any:
    """The state behind the first `length` codes (L, 1)."""
    return model(params, codes, state, lengths=length)[1]


@partial(jax.jit, static_argnames=("how", "unknown"))
def continuation(params: Any, model: rj.Stack, begin: tuple, key: jax.Array, how: How, unknown: int) -> Any:
    """The codes (L,) that follow, and how many they are: fewer where nothing is left that may be written. `begin`
    is a state, the symbol to read next, (1,), and all symbols so far, (1, P), or None if these do not count."""
    step, state, last, history = rj.decoding.next_token(model, params), *begin
    options = {"bans": (unknown,), "no_repeat": how.no_repeat, "history": history}
    if how.beams is not None:
        found = rj.decoding.beam_search(step, state, last, how.length, how.beams, **options)
        return found.tokens[0, 0], found.lengths[0, 0]  # of (1, 1, L)
    options |= {"top_k": how.top_k, "top_p": how.top_p, "repetition_penalty": how.repetition_penalty}
    found = rj.decoding.sample(step, state, last, how.length, key, temperature=how.temperature, **options)
    return found.tokens[0], found.lengths[0]  # of (1, L)


class Writer:
    """Writes on from a beginning, and from what it wrote before."""

    def __init__(self, fitted: rj.training.Fitted, text: Text, seed: int = 0) -> None:
        self.params, self.model = fitted.model
        self.text, self.key = text, jax.random.key(seed)
        self.place: Place | None = None

    def write(self, start: str, how: How) -> str:
        """`start` and what follows; where it is empty, what follows on what was written last."""
        codes = self.text.encode(start)
        if len(codes):
            self.place = self._behind(self.model.initial_state(self.params, (1,)), codes)
        elif self.place is None:
            raise ValueError(f"there is no symbol of the text to begin with in {start!r}")
        (self.key, key), (state, codes) = jax.random.split(self.key), self.place
        counts = how.no_repeat or (how.repetition_penalty and how.beams is None)
        begin = state, codes[-1:], rj.data.pad([codes], value=-1, multiple=1024)[0] if counts else None
        found, length = continuation(self.params, self.model, begin, key, how, self.text.vocabulary.unknown)
        written = np.asarray(found)[:length]
        self.place = self._behind(state, np.concatenate([codes, written]), len(codes) - 1)
        joint = " " if start and self.text.vocabulary.unit == "word" else ""
        return start + joint + self.text.decode(written)

    def _behind(self, state: Any, codes: np.ndarray, read: int = 0) -> Place:
        """The place behind codes (N,), of which a state has read so many."""
        seen, length = rj.data.pad([codes[read:-1]], multiple=64)  # (1, L), of few lengths to compile for
        return Place(read_on(self.params, self.model, state, seen.T, length), codes)


def converse(writer: Writer, how: How, lines: Iterable[str]) -> None:
    """Writes on from every line, from its own text after an empty one; `:top_p 0.9` and the like change how."""
    for line in lines:
        setting = re.fullmatch(r":(\w+) ?(.*)", line)
        try:
            if setting is None:
                writer.text.complain(line)
                print(writer.write(line, how), flush=True)
            else:
                name, value = setting.groups()
                how = how._replace(**{name: common.number(name)(value) if value else How._field_defaults.get(name)})
                print(how)
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:  # in a setting, or nothing to begin with
            print(error)


def typed() -> Iterable[str]:
    """The lines that are typed, until the input ends."""
    print("\nA line to go on from; an empty one goes on; `:temperature 0.5` changes a setting; Ctrl-D ends.")
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", "--text", metavar="FILE", help="a text, or a folder or zip file of .txt files")
    parser.add_argument("--encoding", default="utf-8", help="of the text (%(default)s)")
    parser.add_argument("--unit", choices=("character", "word"), default="character")
    numbers = {"vocabulary": (8000, "largest number of words"), "hidden": (128, "units of a layer")}
    numbers |= {"layers": (1, "of LSTM"), "dropout": (0.0, "its rate"), "epochs": (8, "passes over the text")}
    numbers |= {"rows": (32, "streams that are read side by side"), "learning-rate": (4e-3, "of Adam")}
    numbers |= {"window": (64, "steps over which a gradient reaches back"), "seed": (0, "of weights and draws")}
    for name, (number, what) in numbers.items():
        parser.add_argument(f"--{name}", type=common.number(name), default=number, help=f"{what} (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a small part of the text: shows that it runs")
    parser.add_argument("--checkpoints", help="a folder; a run that was interrupted goes on from there")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder for the picture")
    parser.add_argument("--write", metavar="FILE", help="save the figures as JSON")
    parser.add_argument("--start", default="The ", help="what the samples begin with")
    parser.add_argument("--interactive", action="store_true", help="goes on from what is typed")
    whats = {"length": "symbols to write", "temperature": "below 1 the likely symbols become likelier"}
    whats |= {"top_k": "draw from so many of the likeliest", "top_p": "from the likeliest of this joint probability"}
    whats |= {"repetition_penalty": "above 1 a symbol is written less often", "no_repeat": "no run of so many twice"}
    whats["beams"] = "search with so many hypotheses, instead of drawing"
    for name, default in How._field_defaults.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=common.number(name), default=default, help=whats[name])
    return parser


def main() -> None:
    args = arguments().parse_args()
    common.prepare(args.out, args.write, "matplotlib")
    if args.smoke:
        args.hidden, args.epochs, args.length = 32, 1, 40
    try:
        text = read(args.data, args.unit, args.vocabulary, 60_000 if args.smoke else None, args.encoding)
    except (LookupError, OSError, ValueError) as error:  # no such file or encoding, or nothing that can be used
        raise SystemExit(str(error)) from error
    size, unknown = len(text.vocabulary), np.mean(text.codes == text.vocabulary.unknown)
    print(f"{len(text.codes):,} {args.unit}s, {unknown:.1%} of them unknown, {size:,} symbols: {np.log(size):.2f} nats")
    if args.data:
        lines = rj.data.read_lines(args.data, encoding=args.encoding)
        said = ((place, text.complaint(line)) for place, line in zip(lines.places, lines, strict=True))
        for place, complaint in [one for one in said if one[1]][:5]:
            print(f"{place}: {complaint}")
    text.complain(args.start)
    if not len(text.encode(args.start)):
        args.start = text.decode(text.codes[:1])
        print(f"the text has nothing of `--start`: samples begin with {args.start!r}")
    common.claim(args, text.codes)
    fitted = train(text, args)
    found = judge(fitted, text)
    print(f"validation: {found['nats']:.3f} nats a {args.unit}")
    figures = {f"{args.unit}_model_{name}": found[name] for name in ("perplexity", "bits_per_character")}
    writer, how = Writer(fitted, text, args.seed), How(**{name: getattr(args, name) for name in How._fields})
    try:
        if args.write:
            common.write(args.write, figures, command=" ".join(Path(word).name for word in sys.argv))
        if args.interactive:
            converse(writer, how, typed())
        else:
            heats = sorted({0.3, 0.7, 1.0, how.temperature})
            runs = {f"temperature {t}": how._replace(temperature=t, beams=None) for t in heats}
            beams, twice = how.beams or 4, how.no_repeat or (12 if args.unit == "character" else 3)
            runs[f"{beams} beams, no {twice} {args.unit}s twice"] = how._replace(beams=beams, no_repeat=twice)
            for title, one in runs.items():
                print(f"\n--- {title}\n{writer.write(args.start, one)}")
        rj.diagnostics.plots.learning_curve(fitted.history).figure.savefig(args.out / "generation.png", dpi=120)
        print(f"\nsaved {args.out / 'generation.png'}")
    finally:  # whatever becomes of file, samples and picture
        print("\n".join(f"figure: {name} {value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
