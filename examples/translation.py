"""Translates: a bidirectional GRU reads the source, a GRU with attention writes the translation.

    python examples/translation.py [--data spa-eng.zip --columns 1 0] [--epochs N] [--smoke]

The default data are dates as 32 locales write them, to ISO 8601, tested on ways that the training never showed. Axes:
B pairs of a batch, S steps of the source, T of the target, V symbols, E features of an embedding, H units.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax as rj

Texts = list[tuple[str, str]]
PAD, START, END, UNKNOWN = range(4)  # the special ids, first in every vocabulary


class Task(NamedTuple):
    """Pairs (source, target) to learn from, to judge the training by and for the figure, and the two vocabularies."""

    train: Texts
    validation: Texts
    test: Texts
    source: Any
    target: Any


class Recipe(NamedTuple):
    """How large the network is, and how it is trained."""

    embedding: int
    hidden: int
    score: int  # units of an additive score; 0 takes the product of state and memory, for few symbols
    dropout: float
    smoothing: float
    batch: int
    learning_rate: float
    epochs: int
    buckets: int


DATES = Recipe(64, 96, 0, dropout=0.1, smoothing=0.0, batch=128, learning_rate=4e-3, epochs=4, buckets=3)
SENTENCES = Recipe(256, 256, 256, dropout=0.2, smoothing=0.1, batch=128, learning_rate=2e-3, epochs=12, buckets=10)
SMOKE = Recipe(16, 16, 16, dropout=0.1, smoothing=0.0, batch=32, learning_rate=1e-2, epochs=1, buckets=1)


def dates(count: int, seed: int, split_seed: int = 0) -> Task:
    """Dates, `count` of them for training, each four times, most times varied: in another order, with other marks, with
    a word that means nothing. The test is in locale–format pairs that no other part has."""
    written = partial(rj.data.date_pairs, split_seed=split_seed)
    few, rng, held = max(count // 20, 100), np.random.default_rng(seed), partial(written, held_out=True)
    parts = written(count, seed=3 * seed), written(few, seed=3 * seed + 1), held(few, seed=3 * seed + 2)
    train, validation, test = ([(pair.text, pair.iso) for pair in part] for part in parts)
    words = sorted({word for text, _ in train for word in text.split() if not any(map(str.isdigit, word))})
    train = [(rj.data.vary_date(text, rng, words) if rng.random() < 0.7 else text, iso) for text, iso in 4 * train]
    return Task(train, validation, test, *map(rj.data.Vocabulary.characters, zip(*train, strict=True)))


def sentences(
    path: str, columns: tuple[int, int], most_words: int, vocabulary: str, size: int, seed: int, encoding: str = "utf-8"
) -> Task:
    """Pairs of a file, lower-cased, of at most so many words. Parts are dealt by distinct sentences of column 0, and
    training keeps no pair one side of which is in another part."""
    reading = rj.data.read_pairs(path, columns=columns, encoding=encoding)
    print(f"{path}: {reading.report()}")
    pairs = [(source.lower(), target.lower()) for source, target in reading]
    places = dict(zip(pairs, reading.places, strict=True))
    pairs = [pair for pair in pairs if max(len(text.split()) for text in pair) <= most_words]
    turned = columns[0] > columns[1]  # whether column 0 is the target
    train, validation, test = rj.data.split(pairs, (0.94, 0.03, 0.03), by=lambda pair: pair[turned], seed=seed)
    sources, targets = ({pair[side] for pair in [*validation, *test]} for side in (0, 1))
    train = [pair for pair in train if pair[0] not in sources and pair[1] not in targets]
    if not (train and validation and test):
        raise SystemExit(f"{path} has {len(pairs)} pairs of at most {most_words} words: too few to learn from")
    texts = zip(*train, strict=True)
    if vocabulary == "bpe":
        return Task(train, validation, test, *(rj.data.BytePairs.train(side, size) for side in texts))
    learn = partial(rj.data.Vocabulary.words, min_count=2, max_size=size)
    task = Task(train, validation, test, *(learn(map(rj.data.words, side)) for side in texts))
    said = ((places[pair], task.source.complaint(rj.data.words(pair[0]))) for pair in test)
    for place, complaint in [one for one in said if one[1]][:5]:
        print(f"{place}: in the test {complaint}")
    return task


def spelled(vocabulary: Any, text: str) -> str:
    """A text as `vocabulary.decode` would write it: words and marks with spaces between them."""
    return " ".join(rj.data.words(text)) if getattr(vocabulary, "unit", "") == "word" else text


def encode(vocabulary: Any, text: str) -> np.ndarray:
    """The numbers of a text, (S)."""
    return vocabulary.encode(spelled(vocabulary, text))


def padded(task: Task, part: Texts) -> rj.data.Pairs:
    """A part as arrays (B, S) and (B, T)."""
    sources, targets = ([encode(words, pair[side]) for pair in part] for side, words in enumerate(task[3:]))
    return rj.data.pad_pairs(sources, targets, start=START, end=END)


@rj.struct
class Translator:
    """An encoder, which reads ids, and a decoder, which reads ids and what the encoder made of the source."""

    encoder: Any = rj.node()
    decoder: Any = rj.node()

    def init(self, key):
        keys = jax.random.split(key)
        return {"encoder": self.encoder.init(keys[0], None), "decoder": self.decoder.init(keys[1], None)}

    def encode(self, params, sources, lengths, key=None):
        """What the decoder attends to: ids (S, B) -> vectors (S, B, 2H)."""
        encoded, _ = self.encoder(params["encoder"], sources, lengths=lengths, key=key)
        return rj.Source(encoded, lengths=lengths)

    def __call__(self, params, inputs, *, lengths, key=None):
        """Scores of each next symbol, given those before it: {"source": (B, S), "target": (B, T)} -> (B, T, V)."""
        keys = (None, None) if key is None else jax.random.split(key)
        memory = self.encode(params, inputs["source"].T, lengths, keys[0])
        return self.decoder(params["decoder"], inputs["target"].T, key=keys[1], context=memory)[0].swapaxes(0, 1)


def build(sources: int, targets: int, recipe: Recipe) -> Translator:
    """The network for vocabularies of so many symbols."""
    embedding, hidden, units, drop = *recipe[:3], rj.Dropout(recipe.dropout)
    score = rj.AdditiveScore(units) if units else rj.GeneralScore()
    attention = rj.LuongAttention(rj.GRU(hidden), score, memory_size=2 * hidden, size=hidden)
    # (S, B) -> (S, B, E) -> (S, B, 2H), and (T, B) -> (T, B, E) -> (T, B, H) -> (T, B, V)
    encoder = [rj.Embedding(sources, embedding), drop, rj.Bidirectional(rj.GRU(hidden)), drop]
    decoder = [rj.Embedding(targets, embedding), drop, rj.RNN(attention), drop, rj.Dense(targets)]
    return Translator(rj.Stack(encoder), rj.Stack(decoder))


def loss(outputs, targets, *, mask=None, smoothing=0.0):
    """Cross-entropy over the valid steps of the targets {"labels": (B, T), "lengths": (B)}."""
    return rj.training.cross_entropy(outputs, **targets, mask=mask, time_major=False, label_smoothing=smoothing)


def train(task: Task, recipe: Recipe, seed: int, **options: Any) -> rj.training.Fitted:
    """Trains with teacher forcing; the rate rises over a twentieth of the steps and falls to zero along a cosine."""
    pairs, validation = padded(task, task.train), padded(task, task.validation)
    batches = rj.data.pair_buckets(pairs, recipe.batch, count=recipe.buckets, seed=seed)
    steps = recipe.epochs * sum(1 for _ in batches())
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 20, steps)
    model = build(len(task.source), len(task.target), recipe)
    options |= {"epochs": recipe.epochs, "seed": seed, "loss": partial(loss, smoothing=recipe.smoothing)}
    return rj.training.fit(
        (model.init(jax.random.key(seed)), model),
        batches,
        optimizer=rj.training.optimizer(recipe.learning_rate, clip_norm=1.0, schedule=schedule),
        validation=rj.data.pair_buckets(validation, recipe.batch, count=1, seed=None),
        **options,
    )


@partial(jax.jit, static_argnames=("length", "beams"))
def search(model, params, sources, lengths, length, beams):
    """The most probable translations that are found, (S, B) -> (B, L); with one beam greedily."""
    step = rj.decoding.next_token(model.decoder, params["decoder"], model.encode(params, sources, lengths))
    starts, rules = jnp.full(sources.shape[1:], START), {"end": END, "bans": (PAD, START, UNKNOWN)}
    carry = step.initial_state(starts.shape)
    if beams == 1:
        return rj.decoding.greedy(step, carry, starts, length, **rules).tokens
    found = rj.decoding.beam_search(step, carry, starts, length, beams, length_penalty=rj.decoding.GNMT(0.6), **rules)
    return found.tokens[:, 0]  # (B, 1, L) -> (B, L)


def translate(fitted: rj.training.Fitted, task: Task, texts: Sequence[str], beams: int, batch: int = 128) -> list[str]:
    """Translations of texts, no longer than the longest of the training, in batches of one shape."""
    params, model = fitted.model
    length = max(len(encode(task.target, target)) for _, target in task.train) + 1
    rows, lengths = rj.data.pad([encode(task.source, text) for text in texts])  # (N, S), (N)
    batches = np.resize(np.arange(len(rows)), -(-len(rows) // batch) * batch).reshape(-1, batch)  # of one shape
    found = [search(model, params, rows[part].T, lengths[part], length, beams) for part in batches]
    return [task.target.decode(row) for row in np.concatenate(found)[: len(texts)]]


def exact(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of hypotheses that are their reference."""
    return sum(map(str.__eq__, hypotheses, references)) / len(references)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU in 0…100 (Papineni et al. 2002) of texts spelled alike, lower-cased and split as by mteval-v13a."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=True, tokenize="13a").corpus_score(list(hypotheses), [list(references)]).score


def draw(path: Path, fitted: rj.training.Fitted, task: Task, pairs: Texts) -> None:
    """Saves where each symbol of a translation (rows) looked in its source (columns)."""
    from matplotlib.figure import Figure

    (params, model), arrays = fitted.model, padded(task, pairs)
    memory, inputs = model.encode(params, arrays.sources.T, arrays.source_lengths), jnp.asarray(arrays.inputs.T)
    looked = jax.jit(rj.alignments)(model.decoder, params["decoder"], inputs, context=memory)  # (T, B, S)
    figure = Figure(figsize=(4.5 * len(pairs), 5), layout="constrained")
    for at, axes in enumerate(figure.subplots(1, len(pairs), squeeze=False)[0]):
        columns, rows = task.source.tokens(arrays.sources[at]), task.target.tokens(arrays.targets[at])
        axes.imshow(looked[: len(rows) + 1, at, : len(columns)], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=90 * (max(map(len, columns)) > 1), parse_math=False)
        axes.set_yticks(range(len(rows) + 1), [*rows, "end"], parse_math=False)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
    figure.savefig(path, dpi=150)


def named(data: str, columns: Sequence[int]) -> str:
    """What figures are called: source and target where, as in `spa-eng.zip`, column 0 is what the name has last."""
    parts = Path(data).name.split(".")[0].split("-")
    pair = len(parts) == 2 and sorted(columns) == [0, 1]
    return "_".join([parts[1 - column] for column in columns] if pair else [*parts, *map(str, columns)])


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a file with tabs between its columns, or a zip file of such; default: dates")
    parser.add_argument("--encoding", default="utf-8", help="of the file (%(default)s)")
    parser.add_argument("--columns", type=int, nargs=2, default=(0, 1), help="of source and target, counted from 0")
    parser.add_argument("--vocabulary", choices=("word", "bpe"), default="bpe", help="what sentences are split into")
    numbers = {"most-words": (10, "pairs with a longer side are left out"), "size": (4000, "of a vocabulary, at most")}
    numbers |= {"epochs": (None, "how often the pairs are read"), "beams": (4, "hypotheses of a search; 1 is greedy")}
    for name, (number, what) in (numbers | {"seed": (0, "of the data, the weights and the order of pairs")}).items():
        parser.add_argument(f"--{name}", type=common.number(name), default=number, help=what)
    parser.add_argument("--smoke", action="store_true", help="a tiny network and few pairs: shows that it runs")
    parser.add_argument("--checkpoints", help="a folder from which an interrupted run goes on")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder for the picture")
    parser.add_argument("--write", metavar="FILE", help="save the figures as JSON")
    return parser


def main() -> None:
    args = (parser := arguments()).parse_args()
    of_file = {name: getattr(args, name) for name in ("columns", "most_words", "vocabulary", "size", "encoding")}
    if args.data is None and (given := [name for name in of_file if of_file[name] != parser.get_default(name)]):
        parser.error(f"--{given[0].replace('_', '-')} needs `--data`: it is for the sentences of a file")
    common.prepare(args.out, args.write, "matplotlib", "sacrebleu" if args.data else "babel")
    began, recipe = time.perf_counter(), SMOKE if args.smoke else SENTENCES if args.data else DATES
    try:
        count = 1000 if args.smoke else 24_000
        task = sentences(args.data, **of_file, seed=args.seed) if args.data else dates(count, args.seed)
    except (LookupError, OSError, ValueError) as error:  # no such file or encoding, or nothing that can be used
        raise SystemExit(str(error)) from error
    if args.smoke:
        task = task._replace(train=task.train[:1000], validation=task.validation[:99], test=task.test[:99])
    recipe = recipe if args.epochs is None else recipe._replace(epochs=args.epochs)
    print("pairs and symbols:", ", ".join(f"{name} {len(part):,}" for name, part in task._asdict().items()))
    ids = np.concatenate([encode(task.source, source) for source, _ in task.test])
    print(f"unknown: {np.sum(ids == UNKNOWN):,} of {len(ids):,} symbols of the test's sources")
    common.claim(args, task.train, task.validation, task.test)
    fitted = train(task, recipe, args.seed, checkpoint_dir=args.checkpoints)
    weights, last = sum(leaf.size for leaf in jax.tree.leaves(fitted.params)), fitted.history["val_loss"][-1]
    print(f"{weights:,} parameters; validation loss {last:.4f}")
    sources, expected = [source for source, _ in task.test], [spelled(task.target, target) for _, target in task.test]
    hypotheses = translate(fitted, task, sources, args.beams)
    name = named(args.data, args.columns) if args.data else "dates"
    figures = {f"{name}_bleu": bleu(hypotheses, expected)} if args.data else {}
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time()}
    figures |= {f"{name}_exact": exact(hypotheses, expected), **spent}
    try:
        if args.write:
            common.write(args.write, figures, recipe=recipe._asdict(), options=common.options(args))
        for source, hypothesis, target in [*zip(sources, hypotheses, expected, strict=True)][:: len(sources) // 8 + 1]:
            print(f"  {source}  →  {hypothesis}" + ("" if hypothesis == target else f"  (expected: {target})"))
        # what the picture's font has: letters that are neither joined nor written from right to left
        if pairs := [pair for pair in zip(sources, hypotheses, strict=True) if max("".join(pair)) < "\u0590"]:
            pairs, some = sorted(pairs, key=lambda pair: len(pair[0])), len(pairs) // 4
            draw(args.out / "translation.png", fitted, task, pairs[some :: some + 1])
            print(f"saved {args.out / 'translation.png'}")
    finally:  # whatever becomes of file and picture
        print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        print(f"figure: {next(iter(figures))} {next(iter(figures.values())):.4f}")


if __name__ == "__main__":
    main()
