"""Sums texts up in a line: a network that reads a text, attends to it, and writes or copies word by word.

    python examples/summarisation.py [--data FILE] [--unit word|piece] [--epochs 12] [--smoke]

By default the texts are the docstrings of installed packages without their first lines, and the summaries are those
lines. Whole packages are held out: one to choose the network's state by, two for the test. `--data` reads JSON lines
instead. ROUGE is given beside that of the text's first sentence. Axes: B texts, S words of a text, U of a summary, V of
the vocabulary, X more words that a text may have of its own, K beams.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax as rj
from rnnjax.decoding import GNMT, beam_search

TRAIN, VALIDATION, TEST = (
    ("jax", "numpy", "scipy", "sklearn", "matplotlib", "python", "pip"),
    ("nltk",),
    ("flax", "optax"),
)
COVERAGE = 0.5  # nats that reading what was read before costs in training
LONGEST = 24  # words of a summary, the end among them; one in twenty is longer and is cut


class Pair(NamedTuple):
    """A text and the line that sums it up."""

    text: str
    summary: str


class Coded(NamedTuple):
    """Pairs in numbers: those from V on are words of each row's own, which `own` spells."""

    pairs: rj.data.Pairs
    own: list[list[str]]


class Params(NamedTuple):
    embedding: Any
    encoder: Any
    decoder: Any


class Network(NamedTuple):
    """One embedding, an encoder, a decoder that attends, writes and copies, and the vocabulary's special ids."""

    embedding: rj.Embedding
    encoder: rj.Stack
    decoder: rj.Stack
    unknown: int
    start: int
    end: int
    pad: int

    @classmethod
    def of(cls, vocabulary: Any, args: argparse.Namespace) -> Network:
        size, hidden = len(vocabulary), args.hidden
        score = rj.CoverageScore(hidden)
        attention = rj.LuongAttention(rj.GRU(2 * hidden), score, memory_size=2 * hidden, size=hidden)
        extra = args.own_words if args.unit == "word" else 0
        return cls(
            embedding=rj.Embedding(size, hidden),  # (T, B) -> (T, B, E)
            encoder=rj.Stack(
                [rj.Dropout(args.dropout), rj.Bidirectional(rj.GRU(hidden)), rj.Dropout(args.dropout)]
            ),  # (S, B, E) -> (S, B, 2 H)
            decoder=rj.Stack(
                [rj.Dropout(args.dropout), rj.PointerGenerator(attention, size, extra)]
            ),  # (U, B, E) -> (U, B, V + X)
            unknown=vocabulary.unknown,
            start=vocabulary.start,
            end=vocabulary.end,
            pad=vocabulary.pad,
        )

    def init(self, key: Any) -> Params:
        keys = jax.random.split(key, 3)
        size = self.embedding.size
        embedding = self.embedding.init(keys[0])
        return Params(embedding, self.encoder.init(keys[1], size), self.decoder.init(keys[2], size))

    def embed(self, params: Params, ids: jax.Array) -> jax.Array:
        """Vectors (…, E) of ids (…): words of a row's own have none and look like any unknown one."""
        known = jnp.where(ids < self.embedding.vocabulary, ids, self.unknown)
        return self.embedding(params.embedding, known)[0]

    def read(self, params: Params, sources: jax.Array, lengths: jax.Array, key: Any = None) -> rj.Source:
        """What the encoder makes of texts (S, B), and their words, which can be copied."""
        encoded, _ = self.encoder(params.encoder, self.embed(params, sources), lengths=lengths, key=key)
        return rj.Source(encoded, lengths=lengths, ids=sources)

    def apply(self, params: Params, inputs: dict, *, lengths: jax.Array, key: Any = None) -> dict:
        """log P (B, U, V + X) of every next word, given the summary's words before it, and each row's coverage loss."""
        read_key, write_key = (None, None) if key is None else jax.random.split(key)
        source = self.read(params, inputs["source"].T, lengths, read_key)  # (B, S) -> (S, B)
        heads = inputs["target"].T  # (B, U) -> (U, B)
        xs, given = self.embed(params, heads), heads != self.pad
        log_p, state = self.decoder(params.decoder, xs, mask=given, key=write_key, context=source)
        return {"log_p": log_p.swapaxes(0, 1), "overlap": state[-1].attention.overlap}

    def search(
        self, params: Params, sources: jax.Array, *, lengths: jax.Array, beams: int, alpha: float, beta: float
    ) -> jax.Array:
        """The best summary of each text (B, S), ids (B, U). A hypothesis pays for reading a place again."""
        cell, own = self.decoder.layers[-1].cell, params.decoder[-1]
        memory = cell.remember(own, self.read(params, sources.T, lengths))
        start = jnp.full(sources.shape[:1], self.start)
        _, carry = self.decoder(params.decoder, self.embed(params, start[None][:0]), context=memory)

        def step(carry: Any, words: jax.Array) -> tuple[jax.Array, Any]:
            log_p, carry = self.decoder(params.decoder, self.embed(params, words[None]), carry, context=memory)
            return log_p[0], carry  # (B, K, V + X)

        found = beam_search(
            step,
            carry,
            start,
            LONGEST,
            beams,
            end=self.end,
            length_penalty=GNMT(alpha),
            penalty=lambda carry: -beta * carry[-1].attention.overlap,
            min_length=3,
            bans=(self.pad, self.start, self.unknown),
            no_repeat=3,
            pad=self.pad,
        )
        return found.tokens[:, 0]

    def look(self, params: Params, inputs: dict, *, lengths: jax.Array) -> dict:
        """How each word of a summary (B, U) came about: the share of its probability that is copying (B, U), and the
        alignment with the text (B, U, S)."""
        source, heads = self.read(params, inputs["source"].T, lengths), inputs["target"].T
        xs, words = self.embed(params, heads), inputs["word"].T[..., None]
        log_p, _ = self.decoder(params.decoder, xs, context=source)
        # where all words of the text are fill, none of its words can be copied
        blank = rj.Source(source.values, lengths=lengths, ids=jnp.full_like(source.ids, self.pad))
        written, _ = self.decoder(params.decoder, xs, context=blank)
        log_share = jnp.take_along_axis(written, words, -1) - jnp.take_along_axis(log_p, words, -1)
        alignment = rj.alignments(self.decoder, params.decoder, xs, context=source)  # (U, B, S)
        return {"copied": 1 - jnp.exp(log_share[..., 0]).T, "alignment": alignment.swapaxes(0, 1)}


def lead(text: str) -> str:
    """The first sentence of a text: what a summary must beat."""
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def load(args: argparse.Namespace) -> list[list[Pair]]:
    """Pairs for training, for validation and for the test."""
    if args.data is not None:
        reading = rj.data.read_json_lines(args.data, args.fields)
        print(reading.report())
        flat = [[" ".join(part) if isinstance(part, list) else str(part) for part in item] for item in reading]
        return rj.data.split([Pair(*item) for item in flat], (0.8, 0.1, 0.1), by=lambda pair: pair.text, seed=args.seed)
    groups = (("optax",), ("absl",), ("flax",)) if args.smoke else (TRAIN, VALIDATION, TEST)
    reading = rj.data.docstring_pairs([package for group in groups for package in group])
    print(reading.report())
    return [[Pair(item.body, item.summary) for item in reading if item.package in group] for group in groups]


def make_vocabulary(pairs: Sequence[Pair], args: argparse.Namespace) -> Any:
    """The most frequent words, or pieces of words, of texts and summaries."""
    texts = [text.lower() for pair in pairs for text in pair]
    if args.unit == "piece":
        return rj.data.BytePairs.train(texts, args.vocabulary)
    return rj.data.Vocabulary.words(map(rj.data.words, texts), max_size=args.vocabulary)


def code(pairs: Sequence[Pair], vocabulary: Any, args: argparse.Namespace) -> Coded:
    """Pairs in numbers. Words of a text that the vocabulary lacks are numbered from V on, anew for every text, and so
    are these words in its summary; pieces can spell everything."""
    sources, targets, names = [], [], []
    for pair in pairs:
        text, summary = ((rj.data.words if args.unit == "word" else str)(part.lower()) for part in pair)
        unknown = [] if args.unit == "piece" else [word for word in text[: args.words] if word not in vocabulary]
        own = list(dict.fromkeys(unknown))[: args.own_words]
        number = {word: len(vocabulary) + i for i, word in enumerate(own)}
        for part, rows, longest in ((text, sources, args.words), (summary, targets, LONGEST - 1)):
            ids = vocabulary.encode(part)[:longest]
            rows.append([number.get(word, code) for word, code in zip(part, ids)] if number else ids)
        names.append(own)
    return Coded(rj.data.pad_pairs(sources, targets, start=vocabulary.start, end=vocabulary.end), names)


def spell(ids: np.ndarray, own: list[str], vocabulary: Any) -> list[str]:
    """The words of a summary (U), up to its end."""
    size, stop = len(vocabulary), [*np.flatnonzero(ids == vocabulary.end), len(ids)][0]
    return [own[code - size] if code >= size else vocabulary.tokens([code])[0] for code in ids[:stop]]


def loss(outputs: dict, targets: dict, *, mask: jax.Array | None = None) -> rj.training.Mean:
    """Nats a word, and what it costs to read again what was read before."""
    words = nats(outputs, targets, mask=mask)
    overlap = outputs["overlap"] if mask is None else mask * outputs["overlap"]
    return rj.training.Mean(words.total + COVERAGE * overlap.sum(), words.count)


def nats(outputs: dict, targets: dict, *, mask: jax.Array | None = None) -> rj.training.Mean:
    """−log P of the summaries' words, (B, U), over those that are there."""
    log_p = jnp.take_along_axis(outputs["log_p"], targets["labels"][..., None], -1)[..., 0]
    there = jnp.arange(log_p.shape[1])[None] < targets["lengths"][:, None]
    counts = there.astype(log_p.dtype) if mask is None else there * mask[:, None].astype(log_p.dtype)
    return rj.training.Mean(-jnp.where(counts > 0, log_p * counts, 0).sum(), counts.sum())


def train(network: Network, data: Coded, validation: Coded, args: argparse.Namespace) -> rj.training.Fitted:
    batches = [
        rj.data.pair_buckets(coded.pairs, args.batch, seed=seed) for coded, seed in ((data, 0), (validation, None))
    ]
    updates = args.epochs * sum(1 for _ in batches[0](0))
    schedule = optax.cosine_decay_schedule(1.0, updates, alpha=0.05)
    return rj.training.fit(
        (jax.jit(network.init)(jax.random.key(args.seed)), network.apply),
        batches[0],
        validation=batches[1],
        loss=loss,
        metrics=[("nats", nats)],
        optimizer=rj.training.optimizer(args.learning_rate, clip_norm=1.0, schedule=schedule),
        epochs=args.epochs,
        seed=args.seed,
        monitor="val_nats",
        restore_best=True,
        checkpoint_dir=args.checkpoints,
    )
