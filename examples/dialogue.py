"""Understands requests, and answers in conversations whose state is carried on from turn to turn.

    python examples/dialogue.py [understand | respond] [--data PATH] [--epochs N] [--smoke] [--chat]

`understand` finds the intent and the slots of a request: those of SNIPS, a folder. `respond` writes the system's turns
of conversations: those of CamRest676, a file. Without `--data` they learn a made-up house, which shows that the code
works. Axes: B rows, T words of a request, C bytes of a word, K turns of a conversation, S words of a turn, V words.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax as rj
from rnnjax.data import Vocabulary, pad, words
from rnnjax.training import accuracy, cross_entropy, perplexity

PAD, START, END, UNKNOWN = range(4)  # the first ids of every vocabulary
BYTES, LONGEST = 16, 40  # of a word, and words of a turn: what is longer is cut


class Lexicon(NamedTuple):
    """What `understand` knows. A word that came up once is not known: the network learns to go by its letters."""

    words: Vocabulary
    intents: list[str]
    tags: list[str]

    def inputs(self, said: list) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Ids of words (B, T), their bytes (B, T, C), and lengths (B)."""
        ids, lengths = pad([self.words.encode([word.lower() for word in row]) for row in said])
        spelt = [pad([[*word.encode()[:BYTES]] for word in row], length=BYTES)[0] for row in said]
        return {"words": ids, "letters": pad(spelt)[0]}, lengths

    def batch(self, queries: list) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """What `fit` takes: inputs, intents (B) and tags (B, T), lengths (B)."""
        inputs, lengths = self.inputs([query.words for query in queries])
        intents = np.array([self.intents.index(query.intent) for query in queries], np.int32)
        tags, _ = pad([[self.tags.index(tag) for tag in query.tags] for query in queries])
        return inputs, {"intents": intents, "tags": tags}, lengths


def draw(layers: Any, sizes: tuple, seed: int) -> tuple[Any, Any]:
    """Parameters of layers, as a tuple with the same names, and the layers."""
    keys = jax.random.split(jax.random.key(seed), len(layers))
    return type(layers)(*(layer.init(key, size) for layer, key, size in zip(layers, keys, sizes, strict=True))), layers


class Reader(NamedTuple):
    """The network of `understand`; `of` draws its parameters too, and returns both."""

    words: Any  # (T, B) -> (T, B, E)
    letters: Any  # (C, T, B) -> (T, B, F), every word a row
    encoder: Any  # (T, B, E + F) -> (T, B, 2H)
    intents: Any  # -> (B, N)
    tags: Any  # -> (T, B, L)

    @classmethod
    def of(cls, lexicon: Lexicon, hidden: int, seed: int) -> tuple["Reader", "Reader"]:
        letters = rj.Stack([rj.Embedding(256, 24), rj.Bidirectional(rj.GRU(32)), rj.Max()])
        encoder = rj.Stack([rj.Dropout(0.4), rj.Bidirectional(rj.LSTM(hidden)), rj.Dropout(0.4)])
        intents = rj.Stack([rj.AttentionPooling(hidden), rj.Dense(len(lexicon.intents))])
        layers = cls(rj.Embedding(len(lexicon.words), hidden), letters, encoder, intents, rj.Dense(len(lexicon.tags)))
        return draw(layers, (None, None, hidden + 64, 2 * hidden, 2 * hidden), seed)

    def __call__(self, params: "Reader", inputs: dict, *, lengths: Any, key: Any = None) -> tuple[Any, Any]:
        """Scores of intents (B, N) and of a tag for each word (B, T, L)."""
        letters = inputs["letters"].transpose(2, 1, 0)  # (B, T, C) -> (C, T, B)
        spelt, _ = self.letters(params.letters, letters, lengths=(letters != PAD).sum(0))
        x = jnp.concatenate([self.words(params.words, inputs["words"].T)[0], spelt], axis=-1)  # (T, B, E + F)
        encoded, _ = self.encoder(params.encoder, x, lengths=lengths, key=key)
        intents, _ = self.intents(params.intents, encoded, lengths=lengths)
        return intents, self.tags(params.tags, encoded)[0].swapaxes(0, 1)


def joint_loss(outputs: Any, targets: Any, *, mask: Any = None, lengths: Any = None) -> Any:
    tags = cross_entropy(outputs[1], targets["tags"], mask=mask, lengths=lengths, time_major=False)
    return cross_entropy(outputs[0], targets["intents"], mask=mask).value + tags.value


def tag_accuracy(outputs: Any, targets: Any, *, mask: Any = None, lengths: Any = None) -> Any:
    return accuracy(outputs[1], targets["tags"], mask=mask, lengths=lengths, time_major=False)


def read(lexicon: Lexicon, model: Any, said: list) -> list[tuple[str, list[str]]]:
    """The intent of each request and the tags of its words."""
    inputs, lengths = lexicon.inputs(said)
    intents, tags = rj.training.predict(model, inputs, lengths=lengths)  # (B, N) and (B, T, L)
    found = [[lexicon.tags[tag] for tag in row[:n]] for row, n in zip(tags.argmax(-1), lengths, strict=True)]
    return [(lexicon.intents[intent], row) for intent, row in zip(intents.argmax(-1), found, strict=True)]


class Responder(NamedTuple):
    """The network of `respond`: what it keeps of a conversation is the state of a cell, which reads a vector a turn."""

    encoder: Any  # (S, *B) -> (S, *B, H)
    conversation: Any  # turns of both (2K, B, H) -> (2K, B, H)
    decoder: Any  # (S, *B) -> (S, *B, V)

    @classmethod
    def of(cls, vocabulary: Vocabulary, hidden: int, seed: int) -> tuple["Responder", "Responder"]:
        embedding = rj.Embedding(len(vocabulary), hidden)
        encoder = rj.Stack([embedding, rj.Dropout(0.3), rj.Bidirectional(rj.GRU(hidden // 2)), rj.Dropout(0.3)])
        attention = rj.BahdanauAttention(rj.GRU(hidden), rj.AdditiveScore(hidden), memory_size=hidden)
        decoder = rj.Stack([embedding, attention, rj.Dropout(0.3), rj.Dense(len(vocabulary))])
        return draw(cls(encoder, rj.RNN(rj.GRU(hidden)), decoder), (None, hidden, None), seed)

    def listen(self, params: Any, turns: dict, state: Any, reset: Any, key: Any = None) -> tuple[rj.Source, Any, Any]:
        """Reads K turns, of the system and then of users (B, K, S): memories of both (2S, K, B, H), decoder's states
        before answers (K, B, …), and the conversations' state (B, H). A reset (B, K) begins that of a row anew."""
        if reset is not None:
            turns = turns | {"before": jnp.where(reset[..., None], PAD, turns["before"])}
            reset = jnp.stack([reset.T, jnp.zeros_like(reset.T)], 1).reshape(-1, len(reset))  # (2K, B)
        ids = jnp.stack([turns["before"], turns["users"]], 2).transpose(3, 1, 2, 0)  # (B, K, 2, S) -> (S, K, 2, B)
        lengths = (ids != PAD).sum(0)
        encoded, _ = self.encoder(params.encoder, ids, lengths=lengths, key=key)
        heard = rj.Max()((), encoded, lengths=lengths)[0].reshape(-1, *encoded.shape[-2:])  # (K, 2, B, H) -> (2K, B, H)
        hidden, state = self.conversation(params.conversation, heard, state, reset=reset)
        values, mask = (jnp.concatenate([part[:, :, 0], part[:, :, 1]]) for part in (encoded, ids != PAD))  # (2S, K, B)
        hidden, memory = hidden[1::2], rj.Source(values, mask=mask)  # behind what users say, (K, B, H)
        _, (none, attention, *rest) = self.decoder(params.decoder, ids[:0, :, 1], context=memory)
        return memory, (none, attention._replace(cell=attention.cell._replace(h=hidden)), *rest), state

    def __call__(self, params: Any, turns: dict, *, lengths: Any = None, reset: Any = None, key: Any = None) -> Any:
        """Scores (B, K, S, V) of the words of answers. Turns behind `lengths` reach none before them: no mask."""
        memory, first, _ = self.listen(params, turns, None, reset, key)
        ids = turns["answers"].transpose(2, 1, 0)  # (B, K, S) -> (S, K, B)
        return self.decoder(params.decoder, ids, first, context=memory, key=key)[0].transpose(2, 1, 0, 3)

    def answer(self, params: Any, turns: dict, state: Any = None, reset: Any = None) -> tuple[Any, Any]:
        """Answers to K turns (K, B, S), and the conversations' state (B, H) behind these, for the next call."""
        memory, first, state = self.listen(params, turns, state, reset)
        step = rj.decoding.next_token(self.decoder, params.decoder, memory)
        start, bans = jnp.full(memory.values.shape[1:-1], START), (PAD, START, UNKNOWN)
        return rj.decoding.greedy(step, first, start, LONGEST, end=END, bans=bans).tokens, state


def plain(text: str) -> list[str]:
    """The words of a turn in lower case. Digits become 0: what a telephone number is, no conversation tells."""
    return re.sub(r"\d", "0", " ".join(words(text.lower()))).split()


def numbered(vocabulary: Vocabulary, dialogues: list) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What `fit` takes: what users say, what the system said before, answers (B, K, S); answers; numbers of turns."""

    def ids(side: str, **marks: bool) -> np.ndarray:
        turns = [[vocabulary.encode(plain(getattr(t, side)), **marks)[:LONGEST] for t in d.turns] for d in dialogues]
        return pad([pad(rows, length=LONGEST)[0] for rows in turns])[0]

    answers = ids("system", start=True)
    before = np.pad(answers[:, :-1], ((0, 0), (1, 0), (0, 0))) * (answers[..., :1] != PAD)  # none behind the last turn
    turns = np.array([len(dialogue.turns) for dialogue in dialogues])
    return {"users": ids("user"), "before": before, "answers": answers}, ids("system", end=True), turns


def over_words(measure: Callable, scores: Any, targets: Any, *, mask: Any = None) -> Any:
    """A loss or metric over the words of all answers."""
    return measure(scores, targets, mask=jnp.where(targets != PAD, 1.0 if mask is None else mask[:, None, None], 0.0))


def baselines(own: list, learnt: np.ndarray, asked: list, targets: np.ndarray) -> tuple[float, list[str]]:
    """The perplexity by the frequency of words, and for each turn that is asked the answer to the one most alike."""
    share = np.bincount(learnt[learnt != PAD], minlength=targets.max() + 1) + 1.0
    known = [(set(plain(turn.user)), " ".join(plain(turn.system))) for dialogue in own for turn in dialogue.turns]
    nearest = [max(known, key=lambda pair: len(pair[0] & new) / max(len(pair[0] | new), 1))[1] for new in asked]
    return float(np.exp(-np.log(share / share.sum())[targets[targets != PAD]].mean())), nearest


def train(model: Any, data: tuple, held: tuple, args: argparse.Namespace, **options: Any) -> rj.training.Fitted:
    """Trains, and keeps the parameters of the best epoch."""
    batches = rj.training.buckets(data, args.batch, count=1 if args.smoke else 3, seed=args.seed)
    rate = optax.cosine_decay_schedule(2e-3, args.epochs * -(-len(data[2]) // args.batch), alpha=0.02)
    options |= {"optimizer": rj.training.optimizer(rate, clip_norm=5.0), "checkpoint_dir": args.checkpoints}
    options |= {"epochs": args.epochs, "seed": args.seed, "restore_best": True, "validation": held}
    return rj.training.fit(model, batches, **options)


def understand(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, list[float]], Callable, Callable]:
    """Figures on the test requests, the history, a function that reads a request, and one that complains of words."""
    house = rj.data.split(rj.data.house_queries(3000, seed=0), (0.8, 0.2), by=lambda query: query.words)
    queries, test = (part[:: args.every] for part in args.readings or house)
    own, validation = rj.data.split(queries, (0.95, 0.05), by=lambda query: query.words, seed=args.seed)
    known = Vocabulary.words([[word.lower() for word in query.words] for query in own], min_count=2)
    lexicon = Lexicon(known, sorted({q.intent for q in queries}), sorted({tag for q in queries for tag in q.tags}))
    aim = {"loss": joint_loss, "metrics": [tag_accuracy], "monitor": "val_tag_accuracy", "mode": "max"}
    fitted = train(Reader.of(lexicon, 128, args.seed), lexicon.batch(own), lexicon.batch(validation), args, **aim)
    found = read(lexicon, fitted.model, [query.words for query in test])
    scores = rj.data.span_scores([query.tags for query in test], [tags for _, tags in found])

    def reply(text: str) -> str:
        ((intent, tags),) = read(lexicon, fitted.model, [said := words(text) or ["?"]])
        return " | ".join([intent, *(f"{s.kind}: {' '.join(said[s.begin : s.end])}" for s in rj.data.spans(tags))])

    for query in test[:: len(test) // 4 + 1]:
        print(f"> {' '.join(query.words)}\n  {reply(' '.join(query.words))}")
    hits = float(np.mean([query.intent == intent for query, (intent, _) in zip(test, found, strict=True)]))
    figures = {"intent": hits, "slot_f1": scores.f1}
    return figures, fitted.history, reply, lambda one: known.complaint([word.lower() for word in one.words])


def respond(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, list[float]], Callable, Callable]:
    """The same of conversations: the first function goes on with one, and the empty text begins another."""
    from sacrebleu import corpus_bleu

    dialogues = args.readings[0] if args.readings else rj.data.house_dialogues(1500, seed=0)
    own, validation, test = rj.data.split(dialogues[:: args.every], (0.6, 0.2, 0.2), seed=args.seed)
    vocabulary = Vocabulary.words([plain(text) for d in own for turn in d.turns for text in turn[:2]], min_count=2)
    data, held, asked = (numbered(vocabulary, part) for part in (own, validation, test))
    loss, measure = partial(over_words, cross_entropy), ("perplexity", partial(over_words, perplexity))
    fitted = train(Responder.of(vocabulary, 128, args.seed), data, held, args, loss=loss, metrics=[measure])
    evaluate = partial(rj.training.evaluate, fitted, loss=loss, metrics=[measure], batch_size=16)
    both = asked, (*asked, None, np.ones(asked[1].shape[:2], bool))  # in the second a reset comes before every turn
    whole, forgetful = (evaluate(part)["perplexity"] for part in both)
    answer = partial(jax.jit(fitted.model[1].answer), fitted.params)
    tokens = np.swapaxes(answer(asked[0])[0], 0, 1)  # (K, B, S) -> (B, K, S)
    answers = [vocabulary.decode(row) for rows, n in zip(tokens, asked[2], strict=True) for row in rows[:n]]
    turns = [turn for dialogue in test for turn in dialogue.turns]
    frequency, nearest = baselines(own, data[1], [set(plain(turn.user)) for turn in turns], asked[1])
    true = [[" ".join(plain(turn.system)) for turn in turns]]
    bleu, copied = (corpus_bleu(a, true, tokenize="none", force=True).score for a in (answers, nearest))
    print(f"perplexity {whole:.2f}; {forgetful:.2f} without the turns before; {frequency:.2f} by frequency of words")
    print(f"BLEU {bleu:.1f}; {copied:.1f} of the answers that training has to the turns most alike")
    for turn, text in zip(turns[:8], answers, strict=False):
        print(f"> {turn.user}\n  {text}\n  (was: {turn.system})")
    state, said = None, None

    def reply(text: str) -> str:
        nonlocal state, said
        if not text:
            said = None
            return "--- a new conversation"
        before = [] if said is None else vocabulary.encode(said, start=True)
        rows = [np.array(ids, np.int32)[:LONGEST] for ids in (before, vocabulary.encode(plain(text)))]
        before, user = pad(rows, length=LONGEST)[0][:, None, None]  # (2, S) -> (B, K, S) = (1, 1, S) each
        tokens, state = answer({"before": before, "users": user}, state, np.array([[said is None]]))
        return (said := vocabulary.decode(tokens[0, 0]))

    figures = {"perplexity": whole, "bleu": bleu}
    return figures, fitted.history, reply, lambda one: vocabulary.complaint(plain(" ".join(t.user for t in one.turns)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("understand", "respond"), default="understand")
    parser.add_argument("--data", help="the folder of SNIPS, or the file of CamRest676; by default a toy world")
    parser.add_argument("--epochs", type=common.number("epochs"), help="by default 14 to understand, 30 to respond")
    parser.add_argument("--seed", type=common.number("seed"), default=0)
    parser.add_argument("--checkpoints", help="a folder: an interrupted run of the same data and flags goes on there")
    parser.add_argument("--smoke", action="store_true", help="one epoch on little data: shows that it runs")
    parser.add_argument("--chat", action="store_true", help="answer what is typed, at the end")
    parser.add_argument("--out", type=Path, default=Path("dialogue.png"), help="a file for the picture of the loss")
    parser.add_argument("--write", metavar="FILE", help="save the figures as JSON")
    args = parser.parse_args()
    common.prepare(args.out.parent, args.write, "matplotlib", "sacrebleu")
    snips, camrest = [partial(rj.data.read_snips, part=part) for part in ("train", "validate")], [rj.data.read_camrest]
    both = {"understand": (understand, snips, "snips", 32, 14, 20), "respond": (respond, camrest, "camrest", 16, 30, 5)}
    task, readers, name, args.batch, epochs, least = both[args.task]
    args.epochs, args.every = (1, 20) if args.smoke else (args.epochs or epochs, 1)
    try:
        args.readings = [read(args.data) for read in readers if args.data]
    except (OSError, ValueError) as error:  # no such file, or nothing that can be used
        raise SystemExit(str(error)) from error
    print(args.task, *(reading.report() for reading in args.readings), sep="\n")
    if args.readings and len({getattr(one, "words", one) for one in args.readings[0][:: args.every]}) < least:
        raise SystemExit(f"{args.data} has {len(args.readings[0])} items: {least * args.every} different are needed")
    common.claim(args, args.task, args.every, args.readings)
    found, history, reply, complaint = task(args)
    for reading in args.readings[-1:]:
        said = [f"{at}: {complaint(one)}" for at, one in zip(reading.places, reading, strict=True) if complaint(one)]
        print(f"{len(said)} of {len(reading)} have words that are unknown", *said[:5], sep="\n  ")
    figures = {f"{name if args.data else 'house'}_{key}": round(value, 4) for key, value in found.items()}
    print(*(f"figure: {key} {value}" for key, value in figures.items()), sep="\n")
    if args.write:
        common.write(args.write, figures, task=args.task, epochs=args.epochs, seed=args.seed)
    rj.diagnostics.plots.learning_curve(history).figure.savefig(args.out, dpi=150)
    if args.chat:
        print("say something; an empty line begins a new conversation, Ctrl-D ends", end="\n> ", flush=True)
        for text in sys.stdin:
            print(reply(text.strip()), end="\n> ", flush=True)


if __name__ == "__main__":
    main()
