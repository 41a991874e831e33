"""Tells what kind of sentence one is, and which of its words say so.

    python examples/sentiment.py [--data PATH] [--epochs 12] [--smoke] [--checkpoints DIR] [--out DIR] [--write FILE]

With `--data` the sentences are of film reviews, positive or negative: the sentence polarity data. Without, they are the
first lines of docstrings, and the question is whose they are, Python's own or SciPy's; both are installed anyway. A
bidirectional GRU reads a sentence, attention weighs what it says at each word, and a page shows these weights. A
logistic regression on the words that a sentence has, in any order, stands beside it. Axes: B sentences, T words.
"""

import argparse
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np

import rnnjax as rj
from rnnjax.data import Labelled, Vocabulary, words

try:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
except ImportError as error:
    raise SystemExit("this example needs scikit-learn: pip install 'rnnjax[examples]'") from error

COLOURS = ("230, 159, 0", "0, 114, 178")  # of the two classes: orange and blue, which everyone can tell apart
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.8 sans-serif; max-width: 52em; margin: 2em auto; padding: 0 1em; color: #222 }}
p {{ margin: .5em 0 }} small {{ color: #666; margin-right: .5em }} span {{ padding: .15em .1em; border-radius: .2em }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


class Sentences(NamedTuple):
    """Words of each sentence, as they are written, its class 0 or 1, (B), and its file and line."""

    words: list[list[str]]
    labels: np.ndarray
    places: Sequence[Any] = ()


class Data(NamedTuple):
    """The sentences to learn from, to choose the epoch by, and to test on; the names of the two classes."""

    train: Sentences
    validation: Sentences
    test: Sentences
    names: tuple[str, str]


def load(path: str | None, seed: int, every: int = 1, encoding: str = "utf-8") -> Data:
    """Eight tenths, a tenth and a tenth of the sentences, split by their text: none is in two parts."""
    if path is None:
        reading = rj.data.docstring_pairs(["python", "scipy"], body_words=(1, 400))
        items = [Labelled(one.summary, one.package) for one in reading]
    else:
        reading = rj.data.read_sentence_polarity(path, encoding=encoding)
        items = reading.items
    print(reading.report())
    labels = sorted({item.label for item in items})
    if len(labels) != 2:
        raise SystemExit(f"{path} must have sentences of two labels; it has {', '.join(labels)}")
    first, second = labels
    parts, placed = [], [*zip(items, reading.places, strict=True)]
    for part in rj.data.split(placed, (0.8, 0.1, 0.1), by=lambda pair: pair[0].text.lower(), seed=seed):
        part = [(item, place) for item, place in part[::every] if words(item.text)]
        positive = np.array([item.label == second for item, _ in part], np.int32)
        parts.append(Sentences([words(item.text) for item, _ in part], positive, [place for _, place in part]))
    train, validation, test = parts
    if not all(part.words for part in parts) or len({*train.labels.tolist()}) < 2:
        raise SystemExit(f"{path} has {len(items)} sentences: too few for training, validation and test")
    return Data(train, validation, test, (first, second))


def lowered(sentences: Sentences) -> list[list[str]]:
    return [[word.lower() for word in row] for row in sentences.words]


def numbered(vocabulary: Vocabulary, sentences: Sentences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `fit` takes: ids (B, T), classes (B) and lengths (B)."""
    ids, lengths = rj.data.pad([vocabulary.encode(row) for row in lowered(sentences)])
    return ids, sentences.labels, lengths


def build(vocabulary: Vocabulary, hidden: int) -> rj.Stack:
    """The network: ids (T, B) -> scores of the two classes (B, 2)."""
    return rj.Stack(
        [
            rj.Embedding(len(vocabulary), hidden),  # (T, B) -> (T, B, H)
            rj.Dropout(0.5),
            # beside what was read around a word there stays the word itself, or the weights would not tell of words
            rj.Residual(rj.Bidirectional(rj.GRU(hidden // 2))),  # -> (T, B, H)
            rj.AttentionPooling(hidden),  # -> (B, H)
            rj.Dropout(0.5),
            rj.Dense(2),  # -> (B, 2)
        ]
    )


def train(vocabulary: Vocabulary, data: Data, args: argparse.Namespace, hidden: int = 128) -> rj.training.Fitted:
    """The training, with the parameters of the epoch that was best on the validation part."""
    return rj.training.fit(
        build(vocabulary, hidden),
        rj.training.buckets(numbered(vocabulary, data.train), 32, count=3, seed=args.seed),
        validation=numbered(vocabulary, data.validation),
        optimizer=rj.training.optimizer(1e-3, clip_norm=1.0, weight_decay=0.01),
        metrics=["accuracy"],
        monitor="val_accuracy",
        epochs=args.epochs,
        seed=args.seed,
        restore_best=True,
        checkpoint_dir=args.checkpoints,
    )


@jax.jit
def judge(model: Any, params: Any, ids: Any, lengths: Any) -> tuple[Any, Any]:
    """Probabilities of the classes (B, 2), and the weight of each word (B, T), for ids (B, T)."""
    *below, pooling, _, dense = model.layers
    encoded, _ = rj.Stack(below)(params[:-3], ids.T, lengths=lengths)  # (T, B, H)
    weights = pooling.weights(params[-3], encoded, lengths=lengths)  # (T, B)
    pooled, _ = pooling(params[-3], encoded, lengths=lengths)
    scores, _ = dense(params[-1], pooled)
    return jax.nn.softmax(scores), weights.T


def bag_of_words(data: Data) -> float:
    """The test accuracy of a logistic regression on which words are there, its penalty chosen by the validation."""
    counter = CountVectorizer(analyzer=lambda row: row, binary=True, min_df=2)
    x = counter.fit_transform(lowered(data.train))
    rest = [(counter.transform(lowered(part)), part.labels) for part in (data.validation, data.test)]
    found = [LogisticRegression(C=c, max_iter=1000).fit(x, data.train.labels) for c in (0.03, 0.1, 0.3, 1.0, 3.0)]
    best = max(found, key=lambda model: model.score(*rest[0]))
    return float(best.score(*rest[1]))


def highlighted(row: list[str], weights: np.ndarray, guess: int) -> str:
    """A sentence in HTML: the colour of a word is that of the guess, the stronger the more the word weighs."""
    strength = weights / max(weights.max(), 1e-9)
    style = "background: rgba({}, {:.2f})"
    return " ".join(
        f'<span style="{style.format(COLOURS[guess], s)}" title="{weight:.1%}">{html.escape(word)}</span>'
        for word, s, weight in zip(row, strength, weights, strict=True)
    )


def page(title: str, sentences: Sentences, names: tuple[str, str], chances: np.ndarray, weights: np.ndarray) -> str:
    """The sentences that the network is most certain of, rightly and wrongly, and those that it is least certain of."""
    guesses, certainty = chances.argmax(-1), chances.max(-1)
    order, right = np.argsort(-certainty, kind="stable"), guesses == sentences.labels
    groups = {f"Rightly taken for {name}": order[(right & (guesses == c))[order]][:12] for c, name in enumerate(names)}
    groups |= {
        f"Wrongly taken for {name}": order[(~right & (guesses == c))[order]][:12] for c, name in enumerate(names)
    }
    body = [
        "<p>Colour: what the network takes a sentence for. Strength: how much the word weighs in this sentence.</p>"
    ]
    for heading, rows in (groups | {"Least certain": order[::-1][:12]}).items():
        body.append(f"<h2>{html.escape(heading)}</h2>")
        for i in rows:
            shown = highlighted(sentences.words[i], weights[i, : len(sentences.words[i])], guesses[i])
            body.append(f"<p><small>{certainty[i]:.0%}</small>{shown}</p>")
    return PAGE.format(title=html.escape(title), body="\n".join(body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="sentence_polarity.zip or its folder; by default docstrings of two packages")
    parser.add_argument("--encoding", default="utf-8", help="of the reviews (%(default)s)")
    parser.add_argument("--epochs", type=common.number("epochs"), default=12)
    parser.add_argument("--seed", type=common.number("seed"), default=0, help="of split, weights and order")
    parser.add_argument("--checkpoints", help="a folder: an interrupted run of the same data and flags goes on there")
    parser.add_argument("--smoke", action="store_true", help="one epoch on little data: shows that it runs")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder for sentiment.html and sentiment.png")
    parser.add_argument("--write", metavar="FILE", help="save the figures as JSON")
    args = parser.parse_args()
    if args.data is None and args.encoding != parser.get_default("encoding"):
        parser.error("--encoding needs `--data`: it is for the reviews")
    common.prepare(args.out, args.write, "matplotlib")
    args.epochs = 1 if args.smoke else args.epochs
    try:
        data = load(args.data, args.seed, 20 if args.smoke else 1, args.encoding)
    except (LookupError, OSError, ValueError) as error:  # no such file or encoding, or nothing that can be used
        raise SystemExit(str(error)) from error
    vocabulary = Vocabulary.words(lowered(data.train), min_count=2)
    rows = zip(data.test.places, map(vocabulary.complaint, lowered(data.test)), strict=False)
    unknown = [f"{place}: {complaint}" for place, complaint in rows if complaint]
    print(f"{len(unknown)} of {len(data.test.words)} test sentences have unknown words", *unknown[:5], sep="\n  ")
    common.claim(args, data.train.words, data.test.words)
    fitted = train(vocabulary, data, args)
    params, model = fitted.model
    ids, labels, lengths = numbered(vocabulary, data.test)
    chances, weights = map(np.asarray, judge(model, params, ids, lengths))
    accuracy, baseline = float((chances.argmax(-1) == labels).mean()), bag_of_words(data)
    question = " or ".join(data.names)
    name = "docstrings" if args.data is None else "polarity"
    figures = {f"{name}_accuracy": round(accuracy, 4), f"{name}_bag_of_words": round(baseline, 4)}
    try:
        if args.write:
            common.write(args.write, figures, epochs=args.epochs, seed=args.seed)
        for row, label, chance, weight in zip(data.test.words[:6], labels, chances, weights, strict=False):
            heaviest = ", ".join(row[i] for i in np.argsort(-weight[: len(row)])[:3])
            print(" ".join(row))
            print(f"  {data.names[chance.argmax()]} {chance.max():.0%} ({data.names[label]}) by {heaviest}")
        rj.diagnostics.plots.learning_curve(fitted.history).figure.savefig(args.out / "sentiment.png", dpi=150)
        shown = page(f"{question}?", data.test, data.names, chances, weights)
        (args.out / "sentiment.html").write_text(shown, encoding="utf-8")
        print(f"saved sentiment.png and sentiment.html in {args.out}")
    finally:  # whatever becomes of file, picture and page
        print(f"{len(labels)} sentences, {question}: accuracy {accuracy:.1%}, bag of words {baseline:.1%}")
        print(*(f"figure: {key} {value}" for key, value in figures.items()), sep="\n")


if __name__ == "__main__":
    main()
