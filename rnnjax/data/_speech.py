"""Readers of recordings, and clips of digits joined into strings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._errors import check_size
from ._pairs import read_pairs
from ._reading import Found, PathLike, Place, Problem, Reading, collected
from ._wav import read_wav

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLIP = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<index>[0-9]+)")


class Recording(NamedTuple):
    """A waveform, float32 (N,), and the name of its file without the ending."""

    name: str
    samples: np.ndarray


class Clip(NamedTuple):
    """One spoken digit: the waveform, float32 (N,), the digit 0…9, who said it, and which of their clips it is."""

    samples: np.ndarray
    digit: int
    speaker: str
    index: int

    @property
    def test(self) -> bool:
        """Whether it belongs to the official test set, which has the indices 0 to 4."""
        return self.index < 5


class Utterance(NamedTuple):
    """A waveform, float32 (N,), and the words that are said in it."""

    samples: np.ndarray
    text: str


def read_wavs(folder: PathLike, rate: int) -> Reading[Recording]:
    """The wav files of a folder, sorted by name, at one rate.

    Args:
        folder: the folder.
        rate: samples a second; a file at another rate is resampled, and one with several channels becomes their mean,
            with a problem that says so. A file that cannot be read is left out.
    """
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() == ".wav")

    def found() -> Iterator[Found[Recording]]:
        for path in paths:
            try:
                sound = read_wav(path, rate)
            except (OSError, ValueError) as error:
                yield Problem(Place(str(path)), f"left out: {error}")
            else:
                yield from sound.problems
                yield Place(str(path)), Recording(path.stem, sound.samples)

        if not paths:
            yield Problem(Place(str(folder)), "left out: there is no .wav file in it")

    return collected(folder, found())


def read_transcribed(
    table: PathLike,
    rate: int,
    *,
    columns: tuple[int | str, int | str] = (0, 1),
    delimiter: str = "\t",
    header: bool = False,
    quoted: bool = False,
    folder: PathLike = ".",
    encoding: str = "utf-8",
) -> Reading[Utterance]:
    """Recordings with what is said in them.

    Two sets in this form are LJ Speech (keithito.com/LJ-Speech-Dataset, public domain), `columns=(0, 2)`,
    `delimiter="|"`, `folder="wavs"`, and a language of Common Voice (commonvoice.mozilla.org, CC0) once its clips have
    been made wav files, `columns=("path", "sentence")`, `folder="clips"`.

    Args:
        table: lines of cells, by default tab-separated: a wav file and its transcript.
        rate: samples a second, as for `read_wavs`.
        columns, delimiter, header, quoted, encoding: of the table, as for `read_pairs`.
        folder: where its files are, seen from the folder of the table. A table may name them without the ending `.wav`,
            or by that of a compressed original: for `a.mp3`, `a.mp3.wav` is taken, or else `a.wav`, or else itself. A
            number behind a dot, as in `a.1`, is no ending.

    Returns:
        a `Reading` whose places are lines of the table. A line whose file cannot be read is left out.

    Raises:
        ValueError: as `read_pairs`.
    """
    lines = read_pairs(table, columns=columns, delimiter=delimiter, header=header, quoted=quoted, encoding=encoding)

    def found() -> Iterator[Found[Utterance]]:
        yield from lines.problems
        for place, (name, text) in zip(lines.places, lines.items, strict=True):
            try:
                sound = read_wav(_wav_file(Path(table).parent / folder / name), rate)
            except (OSError, ValueError) as error:
                yield Problem(place, f"left out: {error}")
            else:
                yield from (Problem(place, problem.message) for problem in sound.problems)
                yield place, Utterance(sound.samples, text)

    return collected(table, found())


def _wav_file(path: Path) -> Path:
    """The file that a table means by a path; the path itself if there is none."""
    named = [path] if path.suffix.lower() == ".wav" else []
    ended = [] if path.suffix[1:].isdigit() else [path.with_suffix(".wav")]
    found = [*named, path.with_name(f"{path.name}.wav"), *ended]
    return next((one for one in found if one.is_file()), path)


def ctc_complaint(frames: int, labels: Sequence[int]) -> str | None:
    """What `Reading.check` says of an utterance that is too short for its transcript; None if it is long enough.

    Connectionist temporal classification needs a frame for each label, and one more between equal neighbours.

    Args:
        frames: steps that the network's output has.
        labels: numbers of the transcript.

    >>> import rnnjax as rj
    >>> rj.data.ctc_complaint(5, [3, 3, 7, 3, 3])
    '5 frames are too few for its 5 labels, which need 7'
    """
    needed = len(labels) + sum(a == b for a, b in pairwise(labels))
    return f"{frames} frames are too few for its {len(labels)} labels, which need {needed}" if frames < needed else None


def read_fsdd(folder: PathLike, rate: int = 8000) -> Reading[Clip]:
    """The free spoken digit data set: 3,000 clips of ten digits by six speakers, 8 kHz.

    github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0. The official test clips are those of index 0 to 4
    (`clip.test`); another fair split holds out one speaker.

    Args:
        folder: `recordings`, or the folder that holds it. Files are named `digit_speaker_index.wav`; one with another
            name is left out.
        rate: samples a second, as for `read_wavs`.
    """
    inner = Path(folder) / "recordings"
    reading = read_wavs(inner if inner.is_dir() else folder, rate)

    def found() -> Iterator[Found[Clip]]:
        yield from reading.problems
        for place, (name, samples) in zip(reading.places, reading.items, strict=True):
            match = CLIP.fullmatch(name)
            if match is None:
                yield Problem(place, "left out: the name must be `digit_speaker_index.wav`")
            else:
                yield place, Clip(samples, int(match["digit"]), match["speaker"], int(match["index"]))

    return collected(folder, found())


def digit_strings(
    clips: Sequence[Clip],
    count: int,
    *,
    seed: int,
    shortest: int = 3,
    longest: int = 7,
    gap: int = 800,
) -> list[Utterance]:
    """Clips of one speaker each, joined into strings of digits: spliced, not spoken in one breath.

    Utterance n is a function of `clips`, `seed` and n alone: each of its clips is drawn from all those of one speaker.

    Args:
        clips: what is joined; split them into training and test clips first.
        count: how many strings.
        seed: of the speakers, digits and pauses.
        shortest, longest: digits of a string.
        gap: the longest silence between two clips, in samples; each is drawn from 0…gap.

    Returns:
        `count` utterances whose text is the names of the digits, such as "four zero nine".

    Raises:
        ValueError: for no clip, a `count` or `shortest` below 1, a `longest` below `shortest`, and a `gap` below 0.
        TypeError: for a `count` or `shortest` that is no integer.
    """
    check_size("count", count)
    check_size("shortest", shortest)
    if longest < shortest:
        raise ValueError(f"`longest` must be at least `shortest`, {shortest}; got {longest}")
    if gap < 0:
        raise ValueError(f"`gap` must be at least 0 samples; got {gap}")
    if not clips:
        raise ValueError("`clips` must hold at least one clip; got none")
    speakers = sorted({clip.speaker for clip in clips})
    of_speaker = {speaker: [clip for clip in clips if clip.speaker == speaker] for speaker in speakers}

    def utterance(number: int) -> Utterance:
        rng = np.random.default_rng((seed, number))
        own = of_speaker[speakers[rng.integers(len(speakers))]]
        chosen = [own[at] for at in rng.integers(len(own), size=rng.integers(shortest, longest + 1))]
        parts = [chosen[0].samples]
        for clip in chosen[1:]:
            parts += [np.zeros(rng.integers(gap + 1), np.float32), clip.samples]
        return Utterance(np.concatenate(parts), " ".join(DIGITS[clip.digit] for clip in chosen))

    return [utterance(number) for number in range(count)]
