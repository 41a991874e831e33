"""Learns to write down what is heard: log-mel features, LSTM layers, connectionist temporal classification.

    python examples/speech.py [--data PATH] [--hold-out SPEAKER] [--streaming] [--epochs 30] [--seed 0]

Without data it reads Morse code that is keyed at random, in noise and with a drifting pitch, anew for every epoch.
`--data` takes the folder of the free spoken digits (clips of one digit, joined into strings), or a table in a folder of
wav files, `file<tab>transcript` on each line; training and test can then share speakers, but no transcript. The layers
read in both directions; with `--streaming` in one, and sound is then written down as it comes. Axes: B rows, N samples,
T steps of three frames, F features, V symbols of which 0 is the blank, L labels, K steps of a block.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np
import optax

import rnnjax as rj

RATE, BATCH, SPEEDS = 8000, 32, (0.9, 1.0, 1.1)  # samples a second, rows, and speeds that training varies sound by
STFT = rj.data.STFT(256, 160, center=False)  # frames of 32 ms, one each 20 ms, the first begins with the sound
STACK = 3  # frames that are read together, in one step: the fewer steps, the sooner CTC finds what is where
# log-mel bands, and their mean and deviation; the floor of tones hides most noise, so that all pauses are alike
SPEECH = rj.data.LogMel(rj.data.MelSpectrogram(RATE, STFT, n_mels=40), floor=1e-6), -6.0, 3.0
TONES = rj.data.LogMel(rj.data.MelSpectrogram(RATE, STFT, n_mels=16, fmin=400, fmax=1000), floor=0.3), -0.8, 1.2


class Task(NamedTuple):
    """What is to be learned, from things that have `samples`, float32 (N,), and `text`. figure: the error of the first
    test, of characters if it has "cer" in its name, else of words. training: the utterances of an epoch."""

    figure: str
    vocabulary: rj.data.Vocabulary
    training: Callable[[int], Sequence[Any]]
    validation: Sequence[Any]
    tests: dict[str, Sequence[Any]]
    augment: bool = True  # whether they are varied further, as those with noise already are not
    front: Any = SPEECH  # what is heard of them


class Recogniser(NamedTuple):
    """A network, its parameters and its symbols."""

    params: Any
    model: rj.Stack
    front: Any
    vocabulary: rj.data.Vocabulary


def morse(args: argparse.Namespace) -> Task:
    """Morse code, tested in noise of one level at a time. No two sets have a seed in common."""
    seed = 10_000 * args.seed
    levels = enumerate((5, -5, 0, 10, 20), seed + 1)
    tests = {f"{db} dB": rj.data.morse_set(args.tests, seed=own, snr_db=(db, db)) for own, db in levels}

    def training(epoch: int) -> Sequence[Any]:  # single letters, not noisy, for a quarter; all from a half on
        grown = min(1.0, max(0.0, 4 * epoch / args.epochs - 1))
        ranges = {"characters": (round(1 + 3 * grown), round(1 + 9 * grown)), "snr_db": (10 - 15 * grown, 20.0)}
        return rj.data.morse_set(args.count, seed=seed + 100 + epoch, **ranges)

    symbols = rj.data.Vocabulary((*rj.data.MORSE, " "), "character", ("pad",))
    return Task("morse_cer_5db", symbols, training, rj.data.morse_set(args.tests, seed=seed), tests, False, TONES)


def too_short(one: Any) -> str | None:
    """What is wrong with a recording of fewer steps, at the highest speed, than its labels need; a clip has one."""
    return rj.data.ctc_complaint(STFT.frames(int(len(one.samples) / max(SPEEDS))) // STACK, getattr(one, "text", "1"))


def digits(args: argparse.Namespace) -> Task:
    """Strings of spoken digits, spliced of clips of one speaker: new ones in every epoch, of the same clips. The test
    is made of the clips of index 0 to 4, validation of 5 and 6; or the test is a speaker who is held out."""
    reading, seed, out = rj.data.read_fsdd(args.data, RATE).check(too_short), 10_000 * args.seed, args.hold_out
    print(reading.report())
    test = [clip for clip in reading if (clip.test if out is None else clip.speaker == out)]
    known = [clip for clip in reading if clip.speaker != out and not clip.test]
    check, train = ([clip for clip in known if (clip.index < 7) is early] for early in (True, False))
    counts, speakers = [len(part) for part in (train, check, test)], sorted({clip.speaker for clip in reading})
    if not all(counts):
        raise SystemExit(f"{args.data} has {counts} clips to train, validate and test: too few; speakers: {speakers}")
    figure, strings = "digits_wer" if out is None else "digits_wer_new_speaker", rj.data.digit_strings
    symbols = rj.data.Vocabulary.words(["zero one two three four five six seven eight nine"], specials=("pad",))
    validation = strings(check, args.tests, seed=seed)
    tests = {out or "official clips": strings(test, args.tests, seed=seed + 1)}
    return Task(figure, symbols, lambda epoch: strings(train, args.count, seed=seed + 100 + epoch), validation, tests)


def recordings(args: argparse.Namespace) -> Task:
    """Recordings with transcripts. Those of a tenth of the texts each are for validation and the test, whoever speaks.
    Left out is what is too short at the highest speed, and what has a character that training has not."""
    reading = rj.data.read_transcribed(args.data, RATE, encoding=args.encoding).check(too_short)
    reading = reading[: 100 if args.smoke else None]
    train, *others = rj.data.split(reading.items, (0.8, 0.1, 0.1), by=lambda one: one.text, seed=args.seed)
    symbols = rj.data.Vocabulary.characters([one.text for one in train], specials=("pad",))
    print(reading.check(lambda one: symbols.complaint(one.text)).report())
    validation, test = ([one for one in part if symbols.complaint(one.text) is None] for part in others)
    counts = [len(part) for part in (train, validation, test)]
    if min(counts[0] // 8, *counts[1:]) < 1:
        raise SystemExit(f"{args.data} has {counts} recordings that can be used: at least 8, 1 and 1 are needed")
    return Task("recordings_cer", symbols, lambda epoch: train, validation, {"test": test})


def batched(utterances: Sequence[Any], rng: np.random.Generator | None = None) -> Iterator[tuple[Any, ...]]:
    """Rows of about the same length, as numbers (B,), audio (B, N), in whole steps of 2 s, and samples (B,)."""
    lengths = np.array([len(utterance.samples) for utterance in utterances])
    order = np.argsort(lengths if rng is None else lengths * rng.uniform(0.9, 1.1, len(lengths)), kind="stable")
    groups = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    for at in range(len(groups)) if rng is None else rng.permutation(len(groups)):
        yield groups[at], *rj.data.pad([utterances[i].samples for i in groups[at]], multiple=2 * RATE)


@jax.jit
def features(front: Any, audio: jax.Array, samples: jax.Array, key: jax.Array | None = None) -> Any:
    """What the network is given: (B, N) -> (B, T, F), and the valid steps (B). With a key, each row is said faster or
    slower, in some noise, and spans of time and bands are blotted out."""
    if key is not None:
        key_speed, key_level, key_noise, key_masks = jax.random.split(key, 4)
        audio, samples = rj.data.perturb_speed(key_speed, audio, samples, speeds=SPEEDS)  # -> (B, N / 0.9)
        level = jax.random.uniform(key_level, samples.shape, minval=5, maxval=40)
        audio = rj.data.add_noise(key_noise, audio, level, samples)
    x, frames = front[0](audio, samples)
    x = (x - front[1]) / front[2]
    if key is not None:
        x = rj.data.spec_augment(key_masks, x, frames, time_width=6, time_share=0.1, frequency_width=8)
    x = x[:, : x.shape[1] // STACK * STACK]
    return x.reshape(len(x), -1, STACK * x.shape[-1]), frames // STACK


def batches(task: Task, utterances: Sequence[Any], epoch: int = 0, seed: int | None = None) -> Iterator[Any]:
    """Features (B, T, F), labels (B, L) filled up with −1, and steps (B). Order and variation of batch n of an epoch
    follow from n, the epoch and the seed; without a seed there is neither."""
    rng = None if seed is None else np.random.default_rng((seed, epoch))
    key = jax.random.fold_in(jax.random.key(seed), epoch) if seed is not None and task.augment else None
    for n, (rows, audio, samples) in enumerate(batched(utterances, rng)):
        x, frames = features(task.front, audio, samples, None if key is None else jax.random.fold_in(key, n))
        labels = [task.vocabulary.encode(utterances[row].text) for row in rows]
        yield x, rj.data.pad(labels, value=-1, multiple=8)[0], frames


def build(symbols: int, hidden: int, layers: int, streaming: bool) -> rj.Stack:
    """The network: features (T, B, F) -> scores (T, B, V)."""
    one = rj.LSTM(hidden) if streaming else rj.Bidirectional(rj.LSTM(hidden))  # -> (T, B, H or 2 H)
    return rj.Stack([*[one, rj.Dropout(0.1)] * layers, rj.Dense(symbols)])


def train(task: Task, args: argparse.Namespace) -> Recogniser:
    """Trains, and keeps the parameters of the epoch that was best on the validation part."""
    updates = args.epochs * -(-len(task.training(0)) // BATCH)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, updates // 20, updates)
    model = build(len(task.vocabulary), args.hidden, args.layers, args.streaming)
    options: dict[str, Any] = {"loss": "ctc", "restore_best": True, "epochs": args.epochs, "seed": args.seed}
    options |= {"optimizer": rj.training.optimizer(schedule, clip_norm=1.0), "checkpoint_dir": args.checkpoints}
    options["validation"] = list(batches(task, task.validation))
    fitted = rj.training.fit(model, lambda epoch: batches(task, task.training(epoch), epoch, args.seed), **options)
    return Recogniser(fitted.params, fitted.model[1], task.front, task.vocabulary)


@jax.jit
def listen(params: Any, model: rj.Stack, front: Any, audio: Any, samples: Any, state: Any = None) -> Any:
    """Log-probabilities (T, B, V) and valid steps (B) of audio (B, N), and the state behind it."""
    x, frames = features(front, audio, samples)
    logits, state = model(params, x.swapaxes(0, 1), state, lengths=frames)  # (T, B, F) -> (T, B, V)
    return jax.nn.log_softmax(logits), frames, state


@jax.jit(static_argnames="beams")
def decode(log_probs: jax.Array, frames: jax.Array, beams: int | None) -> tuple[jax.Array, jax.Array]:
    """Labels (B, T) and their number (B) of (T, B, V): by the best path, or by prefixes where there is a beam."""
    if beams is None:
        return rj.decoding.ctc_greedy(log_probs, frames)[:2]
    found = rj.decoding.ctc_prefix_beam(log_probs, frames, beams)
    return found.tokens[:, 0], found.lengths[:, 0]  # (B, 1, T) -> (B, T)


def transcribe(recogniser: Recogniser, utterances: Sequence[Any], beams: int | None = 8) -> list[str]:
    """What is heard in each utterance."""
    (*network, vocabulary), texts = recogniser, [""] * len(utterances)
    for rows, audio, samples in batched(utterances):
        log_probs, frames, _ = listen(*network, audio, samples)
        for row, labels, length in zip(rows, *map(np.asarray, decode(log_probs, frames, beams)), strict=True):
            texts[row] = vocabulary.decode(labels[:length])
    return texts


class Stream:
    """Writes down sound as it comes, in pieces of any length, with a network that reads forwards only. However sound
    is cut, it is read in the same blocks of K steps, each from the state that the last one left."""

    def __init__(self, recogniser: Recogniser, block: int = 3) -> None:
        self.recogniser, self.block = recogniser, block * STACK
        self.sound, self.state = np.zeros(0, np.float32), None  # the sound begins with the next frame
        self.log_probs, self.labels, self.last = [], [], np.zeros(1, np.int32)

    def feed(self, samples: np.ndarray, end: bool = False) -> str:
        """Takes samples (N,); the text so far. At the end the frames are read that make no whole block."""
        *network, vocabulary = self.recogniser
        self.sound, long = np.concatenate([self.sound, samples]), STFT.n_fft + (self.block - 1) * STFT.hop
        while STFT.frames(len(self.sound)) >= (STACK if end else self.block):
            log_probs, frames, self.state = listen(*network, *rj.data.pad([self.sound[:long]], length=long), self.state)
            self.log_probs.append(np.asarray(log_probs)[: int(frames[0]), 0])  # (K, 1, V) -> (K, V)
            found = jax.jit(rj.decoding.ctc_greedy)(log_probs, frames, previous=self.last)
            self.labels += found.tokens[0, : int(found.lengths[0])].tolist()
            self.last, self.sound = found.last, self.sound[self.block * STFT.hop :]
        return vocabulary.decode(np.array(self.labels, np.int32))


def draw(path: Path, recogniser: Recogniser, utterance: Any) -> None:
    """Saves waveform, features and probabilities of the symbols over time; the blank's are grey."""
    from matplotlib.figure import Figure

    audio, samples = utterance.samples[None], np.array([len(utterance.samples)])
    (x, _), (log_probs, *_) = recogniser.front[0](audio, samples), listen(*recogniser[:3], audio, samples)
    p, figure = np.exp(log_probs[:, 0]), Figure(figsize=(12, 6), layout="constrained")  # p is (T, V)
    seconds, best = STACK * STFT.hop / RATE * (np.arange(len(p)) + 0.5), p.argmax(-1)  # (T,) each
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(np.arange(samples[0]) / RATE, audio[0], color="#555555", lw=0.3)
    heard = transcribe(recogniser, [utterance])[0]
    top.set_title(f"said: {utterance.text}    heard: {heard}", parse_math=False)
    top.set_ylabel("sound")
    middle.imshow(x[0].T, aspect="auto", origin="lower", extent=(0, seconds[-1], 0, x.shape[-1]), cmap="magma")
    bottom.plot(seconds, p[:, 0], color="#BBBBBB", lw=1)
    for label in sorted({*best} - {0}):
        (line,) = bottom.plot(seconds, p[:, label], lw=1.5)
        for at in np.flatnonzero((best == label) & (np.diff(best, prepend=0) != 0)):
            name = recogniser.vocabulary.symbols[label - 1].replace(" ", "␣")
            bottom.annotate(name, (seconds[at], 1.03), color=line.get_color(), ha="center")
    middle.set_ylabel("mel band")
    bottom.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.15), xlim=(0, seconds[-1]))
    figure.savefig(path, dpi=130)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder of spoken digits, or a table of wav files and transcripts")
    parser.add_argument("--encoding", default="utf-8", help="of the table (%(default)s)")
    parser.add_argument("--hold-out", metavar="SPEAKER", help="of the digits: who is kept for the test")
    parser.add_argument("--streaming", action="store_true", help="layers that read forwards only, and the best path")
    parser.add_argument("--smoke", action="store_true", help="a tiny run that shows that all of it runs")
    numbers = {"epochs": (30, "passes"), "count": (2048, "utterances of a pass"), "tests": (300, "those of a test")}
    numbers |= {"hidden": (96, "units of a layer"), "layers": (2, "of LSTM"), "learning-rate": (6e-3, "of Adam")}
    for name, (value, what) in (numbers | {"seed": (0, "of data and weights")}).items():
        parser.add_argument(f"--{name}", type=common.number(name), default=value, help=f"{what} (%(default)s)")
    parser.add_argument("--checkpoints", metavar="DIR", help="where to go on from, if the run was interrupted")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to save the picture")
    parser.add_argument("--write", metavar="FILE", help="save the figures as JSON")
    return parser


def main() -> None:
    args = (parser := arguments()).parse_args()
    read = morse if args.data is None else digits if Path(args.data).is_dir() else recordings
    unused = {morse: ["hold_out", "encoding"], digits: ["encoding"], recordings: ["hold_out", "count", "tests"]}
    if given := [name for name in unused[read] if getattr(args, name) != parser.get_default(name)]:
        parser.error(f"--{given[0].replace('_', '-')} is not for {read.__name__}: leave it out, or give other `--data`")
    common.prepare(args.out, args.write, "matplotlib", "jiwer")
    import jiwer

    if args.smoke:
        args.epochs, args.count, args.tests, args.hidden = 1, 64, 8, 8
    try:
        task = read(args)
    except (LookupError, OSError, ValueError) as error:  # no such file or encoding, or nothing that can be used
        raise SystemExit(str(error)) from error
    common.claim(args, [utterance.text for utterance in task.training(0)], task.validation, task.tests)
    began, recogniser = time.perf_counter(), train(task, args)
    minutes, picture, errors = (time.perf_counter() - began) / 60, args.out / "speech.png", {}
    for name, utterances in task.tests.items():
        said = [utterance.text for utterance in utterances]
        for how, beams in {"beam": 8, "best path": None}.items():
            heard = transcribe(recogniser, utterances, beams)
            found = errors[f"{name}, {how}"] = {"cer": jiwer.cer(said, heard), "wer": jiwer.wer(said, heard)}
            print(f"{name}, {how}: errors in characters {found['cer']:.2%}, in words {found['wer']:.2%}")
    (name, first), figure = next(iter(task.tests.items())), task.figure + "_streaming" * args.streaming
    value = errors[f"{name}, {'best path' if args.streaming else 'beam'}"]["cer" if "cer" in figure else "wer"]
    try:
        if args.write:
            command = " ".join(Path(word).name for word in sys.argv)
            common.write(args.write, {figure: value}, command=command, minutes=minutes, errors=errors)
        for utterance, text in zip(first[:5], transcribe(recogniser, first[:5]), strict=True):
            print(f"   said {utterance.text}\n  heard {text}")
        if args.streaming:
            live, sound = Stream(recogniser), first[0].samples
            for at in range(0, len(sound), RATE):
                print(f"  after {at // RATE + 1} s: {live.feed(sound[at:][:RATE], end=at + RATE >= len(sound))}")
        draw(picture, recogniser, first[0])
        print(f"saved {picture}")
    finally:  # whatever becomes of file and picture
        print(f"trained for {minutes:.1f} minutes\nfigure: {figure} {value:.4f}")


if __name__ == "__main__":
    main()
