"""Sums texts up in a line: a network that reads a text, attends to it, and writes or copies word by word.

    python examples/summarisation.py [--data FILE] [--unit word|piece] [--epochs 6] [--smoke]

By default the texts are the docstrings of installed packages without their first lines, and the summaries are those
lines. Whole packages are held out: one to choose the network's state by, two for the test. `--data` reads JSON lines,
of a text or its sentences, and a summary or several, the best first; files named train, dev and test are its parts, and
`train-00000` is one. ROUGE is given beside that of first sentences.
Axes: B texts, S words of a text, U of a summary, V of the vocabulary, X more that a text has of its own, K beams.
"""

import argparse
import re
from collections import namedtuple
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax as rj

TRAIN = ("jax", "numpy", "scipy", "sklearn", "matplotlib", "python", "pip")
VALIDATION, TEST = ("nltk",), ("flax", "optax")
GIVEN = ("train",), ("dev", "val", "valid", "validation"), ("test",)  # words in names of files that are the parts
COVERAGE = 0.5  # nats that it costs in training to read again what was read before
LONGEST = 24  # words of a summary, the end among them; one in twenty is longer and is cut

Pair = namedtuple("Pair", "text summary place", defaults=[""])  # a text, the line that sums it up, and where they are
Coded = namedtuple("Coded", "pairs own")  # pairs in numbers: from V on words of a row's own, which `own` spells
Params = namedtuple("Params", "embedding encoder decoder")


class Network(NamedTuple):
    """One embedding for both sides, an encoder, and a decoder that attends, writes and copies."""

    vocabulary: Any
    embedding: rj.Embedding  # (T, B) -> (T, B, E)
    encoder: rj.Stack  # (S, B, E) -> (S, B, 2 H)
    decoder: rj.Stack  # (U, B, E) -> (U, B, V + X)

    @classmethod
    def of(cls, vocabulary: Any, args: argparse.Namespace) -> "Network":
        size, hidden, drop = len(vocabulary), args.hidden, rj.Dropout(args.dropout)
        cell = rj.LuongAttention(rj.GRU(2 * hidden), rj.CoverageScore(hidden), memory_size=2 * hidden, size=hidden)
        pointer = rj.PointerGenerator(cell, size, args.own_words if args.unit == "word" else 0)
        encoder = rj.Stack([drop, rj.Bidirectional(rj.GRU(hidden)), drop])
        return cls(vocabulary, rj.Embedding(size, hidden), encoder, rj.Stack([drop, pointer]))

    def init(self, key: Any) -> Params:
        keys, size = jax.random.split(key, 3), self.embedding.size
        return Params(self.embedding.init(keys[0]), self.encoder.init(keys[1], size), self.decoder.init(keys[2], size))

    def embed(self, params: Params, ids: jax.Array) -> jax.Array:
        """Vectors (…, E) of ids (…). A word of a row's own has none and looks like any unknown one."""
        known = jnp.where(ids < self.embedding.vocabulary, ids, self.vocabulary.unknown)
        return self.embedding(params.embedding, known)[0]

    def read(self, params: Params, sources: jax.Array, lengths: jax.Array, key: Any = None) -> rj.Source:
        """What the encoder makes of texts (B, S), and their words, which can be copied; time first."""
        ids = sources.T  # (S, B)
        encoded, _ = self.encoder(params.encoder, self.embed(params, ids), lengths=lengths, key=key)
        return rj.Source(encoded, lengths=lengths, ids=ids)

    def apply(self, params: Params, inputs: dict, *, lengths: jax.Array, key: Any = None) -> dict:
        """log P (B, U, V + X) of every next word, given the summary's words before it, and each row's coverage loss."""
        read_key, write_key = (None, None) if key is None else jax.random.split(key)
        source = self.read(params, inputs["source"], lengths, read_key)
        heads = inputs["target"].T  # (U, B)
        xs, given = self.embed(params, heads), heads != self.vocabulary.pad
        log_p, state = self.decoder(params.decoder, xs, mask=given, key=write_key, context=source)
        return {"log_p": log_p.swapaxes(0, 1), "overlap": state[-1].attention.overlap}

    def search(self, params: Params, sources: Any, *, lengths: Any, beams: int, alpha: float, beta: float) -> jax.Array:
        """The best summary of each text (B, S), ids (B, U). A hypothesis pays for reading a place again."""
        special, attend = self.vocabulary, self.decoder.layers[-1].cell
        memory = attend.remember(params.decoder[-1], self.read(params, sources, lengths))
        start = jnp.full(sources.shape[:1], special.start)
        _, carry = self.decoder(params.decoder, self.embed(params, start[None][:0]), context=memory)

        def step(carry: Any, words: jax.Array) -> tuple[jax.Array, Any]:
            log_p, carry = self.decoder(params.decoder, self.embed(params, words[None]), carry, context=memory)
            return log_p[0], carry  # (B, K, V + X)

        options: dict[str, Any] = {"end": special.end, "pad": special.pad, "min_length": 3, "no_repeat": 3}
        options |= {"bans": (special.pad, special.start, special.unknown), "length_penalty": rj.decoding.GNMT(alpha)}
        options["penalty"] = lambda carry: -beta * carry[-1].attention.overlap
        return rj.decoding.beam_search(step, carry, start, LONGEST, beams, **options).tokens[:, 0]

    def look(self, params: Params, inputs: dict, *, lengths: jax.Array) -> dict:
        """How each word of summaries (B, U) came about: the share of its probability that is copying, (B, U), and its
        alignment with the text, (B, U, S)."""
        source, words = self.read(params, inputs["source"], lengths), inputs["word"].T[..., None]
        xs = self.embed(params, inputs["target"].T)
        both, _ = self.decoder(params.decoder, xs, context=source)
        # where a text is fill alone, none of its words can be copied
        blank = rj.Source(source.values, lengths=lengths, ids=jnp.full_like(source.ids, self.vocabulary.pad))
        written, _ = self.decoder(params.decoder, xs, context=blank)
        share = 1 - jnp.exp(jnp.take_along_axis(written, words, -1) - jnp.take_along_axis(both, words, -1))
        alignment = rj.alignments(self.decoder, params.decoder, xs, context=source)  # (U, B, S)
        return {"copied": share[..., 0].T, "alignment": alignment.swapaxes(0, 1)}


def texts(field: Any) -> list[str]:
    """The texts of a field, which is one or a list of some."""
    return [one for one in (field if isinstance(field, list) else [field]) if isinstance(one, str) and one.strip()]


def load(args: argparse.Namespace) -> list[list[Pair]]:
    """Pairs for training, for validation and for the test."""
    if args.data is None:
        groups = (("optax",), ("absl",), ("flax",)) if args.smoke else (TRAIN, VALIDATION, TEST)
        reading = rj.data.docstring_pairs([package for group in groups for package in group])
        found, names = [one[:2] for one in reading], [one.package for one in reading]
    else:
        groups, reading = GIVEN, rj.data.read_json_lines(args.data, args.fields, encoding=args.encoding)
        reading = reading.check(lambda item: None if all(map(texts, item)) else "a field without a text")
        found = [(" ".join(texts(sentences)), texts(summaries)[0]) for sentences, summaries in reading]
        said = [re.findall("[a-z]+", Path(place.path).name.lower()) for place in reading.places]
        names = [next((word for word in words if word in sum(GIVEN, ())), None) for words in said]
    print(reading.report())
    pairs = [Pair(*both, str(place)) for both, place in zip(found, reading.places, strict=True)]
    parts = [[pair for pair, name in zip(pairs, names, strict=True) if name in group] for group in groups]
    files = {place.path for place in [*reading.places, *(problem.place for problem in reading.problems)]}
    if not any(parts) or len(files) == 1:
        print("dealt at random: there are no files for each of train, dev or validation, and test")
        parts = rj.data.split(pairs, (0.8, 0.1, 0.1), by=lambda pair: pair.text, seed=args.seed)
    elif missing := [" or ".join(group) for part, group in zip(parts, groups, strict=True) if not part]:
        raise SystemExit(f"{args.data}: nothing is named {missing[0]}: name files for all three parts, or for none")
    elif others := {place.path for place, name in zip(reading.places, names, strict=True) if name is None}:
        print("left out, because their names are those of no part:", *sorted(others), sep="\n  ")
    if not all(parts):
        raise SystemExit(f"{args.data} has {len(pairs)} pairs: too few for training, validation and test")
    return parts


def make_vocabulary(pairs: Sequence[Pair], args: argparse.Namespace) -> Any:
    """The most frequent words, or pieces of words, of texts and summaries."""
    lowered = [text.lower() for pair in pairs for text in pair[:2]]
    if args.unit == "piece":
        return rj.data.BytePairs.train(lowered, args.vocabulary)
    return rj.data.Vocabulary.words(map(rj.data.words, lowered), max_size=args.vocabulary)


def code(pairs: Sequence[Pair], vocabulary: Any, args: argparse.Namespace) -> Coded:
    """Pairs in numbers. Words of a text that the vocabulary lacks are numbered from V on, anew for every text, and so
    are these words in its summary; pieces can spell everything."""
    sources, targets, names = [], [], []
    for pair in pairs:
        text, summary = ((rj.data.words if args.unit == "word" else str)(part.lower()) for part in pair[:2])
        unknown = [] if args.unit == "piece" else [word for word in text[: args.words] if word not in vocabulary]
        own = list(dict.fromkeys(unknown))[: args.own_words]
        number = {word: len(vocabulary) + i for i, word in enumerate(own)}
        for part, rows, longest in ((text, sources, args.words), (summary, targets, LONGEST - 1)):
            ids = vocabulary.encode(part)[:longest]
            rows.append([number.get(word, code) for word, code in zip(part, ids, strict=False)] if number else ids)
        names.append(own)
    return Coded(rj.data.pad_pairs(sources, targets, start=vocabulary.start, end=vocabulary.end), names)


def spell(ids: np.ndarray, own: list[str], vocabulary: Any) -> list[str]:
    """The words of ids (U), up to the end."""
    size, stop = len(vocabulary), min([*np.flatnonzero(ids == vocabulary.end), len(ids)])
    return [own[code - size] if code >= size else vocabulary.tokens([code])[0] for code in ids[:stop]]


def nats(outputs: dict, targets: dict, *, mask: jax.Array | None = None) -> rj.training.Mean:
    """−log P of the summaries' words; the softmax of log P is P again."""
    return rj.training.cross_entropy(outputs["log_p"], **targets, mask=mask, time_major=False)


def loss(outputs: dict, targets: dict, *, mask: jax.Array | None = None) -> rj.training.Mean:
    """Nats a word, and what it costs to read again what was read before."""
    words = nats(outputs, targets, mask=mask)
    overlap = outputs["overlap"] if mask is None else mask * outputs["overlap"]
    return rj.training.Mean(words.total + COVERAGE * overlap.sum(), words.count)


def train(network: Network, data: Coded, validation: Coded, args: argparse.Namespace) -> rj.training.Fitted:
    count = 1 if args.smoke else 4  # programs, each for texts of about one length
    schedule = optax.cosine_decay_schedule(1.0, args.epochs * -(-len(data.own) // args.batch), alpha=0.05)
    options: dict[str, Any] = {"loss": loss, "metrics": [("nats", nats)], "epochs": args.epochs, "seed": args.seed}
    options |= {"monitor": "val_nats", "mode": "min", "restore_best": True, "checkpoint_dir": args.checkpoints}
    options["optimizer"] = rj.training.optimizer(args.learning_rate, clip_norm=1.0, schedule=schedule)
    options["validation"] = rj.data.pair_buckets(validation.pairs, args.batch, count=count, seed=None)
    batches = rj.data.pair_buckets(data.pairs, args.batch, count=count, seed=args.seed)
    return rj.training.fit((jax.jit(network.init)(jax.random.key(args.seed)), network.apply), batches, **options)


def rouge(summaries: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, of words, without their endings if they are of ASCII letters; a
    sign of Chinese or Japanese is a word."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    names, plain = ("rouge1", "rouge2", "rougeL"), DefaultTokenizer(use_stemmer=True).tokenize

    def tokenize(text: str) -> list[str]:
        found = rj.data.words(re.sub("([\u3040-\u30ff\u3400-\u9fff])", r" \1 ", text.lower().replace("’", "'")))
        return [part for word in found for part in (plain(word) if word.isascii() else [word] * word[0].isalnum())]

    score = RougeScorer(names, tokenizer=SimpleNamespace(tokenize=tokenize)).score
    found = [score(reference, summary) for reference, summary in zip(references, summaries, strict=True)]
    return {name: float(np.mean([one[name].fmeasure for one in found])) for name in names}


def lead(text: str) -> str:
    """The first sentence of a text: what a summary must beat."""
    return re.split(r"(?<=[.!?])\s|(?<=[。！？।])(?![。！？।])", text, maxsplit=1)[0]


def show(looked: dict, pairs: list[Pair], summaries: list[list[str]], text: list[str], path: Path) -> None:
    """Prints some summaries, and saves a picture of what the first attended to."""
    from matplotlib.figure import Figure

    print("\nwords in brackets are copied")
    for pair, words, copied in zip(pairs, summaries, looked["copied"], strict=True):
        marked = " ".join(f"[{word}]" if share > 0.5 else word for word, share in zip(words, copied, strict=False))
        print(f"\ntext    {pair.text[:240]}\nlead-1  {lead(pair.text)[:240]}\npeople  {pair.summary}\nmodel   {marked}")
    figure = Figure(figsize=(2 + 0.2 * len(text), 1.6 + 0.22 * len(summaries[0])), layout="constrained")
    axes, alignment = figure.subplots(), looked["alignment"][0, : len(summaries[0]), : len(text)]  # (U, S)
    axes.imshow(alignment, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    axes.set_xticks(range(len(text)), text, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(summaries[0])), summaries[0], fontsize=9, parse_math=False)
    figure.savefig(path, dpi=120)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a .jsonl file, or a folder or zip file of them")
    parser.add_argument("--encoding", default="utf-8", help="of the files (%(default)s)")
    parser.add_argument("--fields", nargs=2, default=("source", "target"), help="names of the text and its summary")
    parser.add_argument("--unit", choices=("word", "piece"), default="word", help="of the vocabulary: pieces are BPE")
    parser.add_argument("--smoke", action="store_true", help="one epoch on little data: shows that it runs")
    parser.add_argument("--checkpoints", help="a folder; a run that was interrupted goes on from there")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder for the picture")
    parser.add_argument("--write", metavar="FILE", help="save the figures as JSON")
    numbers = {"vocabulary": (3000, "its size"), "words": (70, "that are read of a text"), "hidden": (128, "units")}
    numbers |= {"own-words": (20, "that a text can have beyond the vocabulary"), "dropout": (0.3, "rate of dropout")}
    numbers |= {"epochs": (6, "passes over the pairs"), "batch": (16, "pairs"), "learning-rate": (1.5e-3, "of Adam")}
    numbers |= {"beams": (4, "hypotheses of a search"), "alpha": (0.6, "its penalty of length")}
    numbers |= {"beta": (1.0, "its penalty of coverage"), "seed": (0, "of the weights and the order")}
    for name, (number, what) in numbers.items():
        parser.add_argument(f"--{name}", type=common.number(name), default=number, help=f"{what} (%(default)s)")
    return parser


def main() -> None:
    args = (parser := arguments()).parse_args()
    unused = ["fields", "encoding"] * (args.data is None) + ["own_words"] * (args.unit == "piece")
    if given := [name for name in unused if getattr(args, name) != parser.get_default(name)]:
        parser.error(f"--{given[0].replace('_', '-')} needs `{'--unit word' if given[0] == 'own_words' else '--data'}`")
    common.prepare(args.out, args.write, "matplotlib", "rouge_score")
    if args.smoke:
        args.hidden, args.epochs, args.vocabulary, args.words = 16, 1, 1000, 20
    try:
        parts = [part[: 64 if args.smoke else None] for part in load(args)]
    except (LookupError, OSError, ValueError) as error:  # no such file or encoding, or nothing that can be used
        raise SystemExit(str(error)) from error
    vocabulary = make_vocabulary(parts[0], args)
    data, validation, test = (code(part, vocabulary, args) for part in parts)
    unknown = np.mean(test.pairs.targets[test.pairs.targets != vocabulary.pad] == vocabulary.unknown)
    sizes = " + ".join(str(len(part)) for part in parts)
    print(f"{sizes} pairs, vocabulary of {len(vocabulary):,} {args.unit}s, of test summaries {unknown:.1%} unknown")
    rows = zip(parts[2], test.pairs.targets.tolist(), strict=True)
    for pair, row in [(pair, row) for pair, row in rows if vocabulary.unknown in row][:5]:
        print(f"{pair.place}: unknown: {rj.data.words(pair.summary.lower())[row.index(vocabulary.unknown)]!r}")
    references = [pair.summary for pair in parts[2]]
    first = rouge([lead(pair.text) for pair in parts[2]], references)
    network = Network.of(vocabulary, args)
    common.claim(args, data, validation, test)
    params = train(network, data, validation, args).params
    search = partial(network.search, beams=args.beams, alpha=args.alpha, beta=args.beta)
    sources, lengths = test.pairs[:2]
    ids = rj.training.predict((params, search), sources, lengths=lengths, batch_size=args.batch)  # (N, U)
    spelled, joint = [spell(*row, vocabulary) for row in zip(ids, test.own, strict=True)], " " * (args.unit == "word")
    own, some = rouge([joint.join(words) for words in spelled], references), slice(0, None, -(-len(ids) // 8))
    figures = {"summaries_rouge_l": own["rougeL"], "summaries_rouge_l_over_lead1": own["rougeL"] - first["rougeL"]}
    try:
        if args.write:
            common.write(args.write, figures, options=common.options(args))
        heads = np.pad(ids[some, :-1], ((0, 0), (1, 0)), constant_values=vocabulary.start)  # the words before
        inputs = {"source": sources[some], "target": heads, "word": ids[some]}
        looked = rj.training.predict((params, network.look), inputs, lengths=lengths[some])
        text = spell(sources[0, : lengths[0]], test.own[0], vocabulary)
        show(looked, parts[2][some], spelled[some], text, args.out / "summarisation.png")
    finally:  # whatever becomes of file and picture
        print("", *(f"{name}: {own[name]:.3f}, lead-1 {first[name]:.3f}" for name in own), sep="\n")
        print("\n".join(f"figure: {name} {value:.4f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
