"""Morse code as sound: speech recognition in small, without any recording."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._errors import check_size

MORSE = {
    "A": ".-",
    "B": "-...",
    "C": "-.-.",
    "D": "-..",
    "E": ".",
    "F": "..-.",
    "G": "--.",
    "H": "....",
    "I": "..",
    "J": ".---",
    "K": "-.-",
    "L": ".-..",
    "M": "--",
    "N": "-.",
    "O": "---",
    "P": ".--.",
    "Q": "--.-",
    "R": ".-.",
    "S": "...",
    "T": "-",
    "U": "..-",
    "V": "...-",
    "W": ".--",
    "X": "-..-",
    "Y": "-.--",
    "Z": "--..",
    "0": "-----",
    "1": ".----",
    "2": "..---",
    "3": "...--",
    "4": "....-",
    "5": ".....",
    "6": "-....",
    "7": "--...",
    "8": "---..",
    "9": "----.",
}
"""The international code (ITU-R M.1677-1) of letters and digits."""

AMPLITUDE, RAMP = 0.5, 0.005


class Keyed(NamedTuple):
    """A waveform, float32 (N,), the text that is keyed in it, and the signal-to-noise ratio in decibels."""

    samples: np.ndarray
    text: str
    snr_db: float


def morse_audio(
    text: str,
    *,
    seed: int | tuple[int, ...] = 0,
    sample_rate: int = 8000,
    pitch: float = 600.0,
    wpm: float = 20.0,
    jitter: float = 0.0,
    drift: float = 0.0,
    snr_db: float | None = None,
) -> np.ndarray:
    """A text keyed in Morse code.

    A dot is 1.2 / wpm seconds; a dash is three of them, the gap within a letter one, between letters three, between
    words seven, and three of silence stand before and after all. Tones rise and fall within 5 ms.

    Args:
        text: letters A–Z of either case, digits, and spaces between words.
        seed: of jitter, drift and noise.
        sample_rate: samples a second.
        pitch: of the tone, hertz, below half the rate.
        wpm: words a minute, a word being 50 dots.
        jitter: each tone and gap is exp(jitter · ε) times as long, ε normal, as a hand keys.
        drift: the pitch swings slowly, by up to this share of itself.
        snr_db: ratio of the power of the whole signal to that of white noise, decibels; None is no noise.

    Returns:
        the waveform, float32 (N,): a tone of amplitude 0.5, and the noise.

    Raises:
        ValueError: for a character that has no code, or for no character, a `pitch` that is not positive or not below
            half the rate with its drift, a `wpm` that is not positive, a `jitter` or `drift` below 0, and a
            `sample_rate` below 1.
        TypeError: for a `sample_rate` that is no integer.

    >>> import rnnjax as rj
    >>> len(rj.data.morse_audio("E", wpm=12)) / 8000  # seven dots of a tenth of a second
    0.7
    """
    check_size("sample_rate", sample_rate)
    if not 0 < pitch * (1 + drift) < sample_rate / 2:
        raise ValueError(f"`pitch` must lie below half of {sample_rate} Hz, with its drift too; got {pitch} Hz")
    if not wpm > 0 or jitter < 0 or drift < 0:
        raise ValueError(f"`wpm` must be positive, `jitter` and `drift` at least 0; got {wpm}, {jitter}, {drift}")
    rng = np.random.default_rng(seed)
    tones, units = _keyed(text)
    seconds = 1.2 / wpm * units * np.exp(jitter * rng.standard_normal(len(units)))
    borders = np.round(np.cumsum(seconds) * sample_rate).astype(int)
    envelope = np.repeat(tones, np.diff(borders, prepend=0)).astype(np.float64)
    ramp = np.hanning(round(RAMP * sample_rate) + 2)[1:-1]
    envelope = np.convolve(envelope, ramp / ramp.sum(), "same") if ramp.size else envelope
    time = np.arange(len(envelope)) / sample_rate
    swing = 1 + drift * np.sin(2 * np.pi * (time / rng.uniform(2, 10) + rng.uniform()))
    phase = 2 * np.pi * np.cumsum(pitch * swing) / sample_rate
    signal = AMPLITUDE * envelope * np.sin(phase)
    if snr_db is not None:
        noise = rng.standard_normal(len(signal))
        signal = signal + noise * np.sqrt(np.sum(signal**2) / np.sum(noise**2) * 10 ** (-snr_db / 10))
    return signal.astype(np.float32)


def _keyed(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each stretch is a tone, and how many dots it is long."""
    words = text.upper().split()
    if not words:
        raise ValueError("`text` must hold a letter or digit; it is empty")
    unknown = next((sign for sign in "".join(words) if sign not in MORSE), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} in {text!r} has no Morse code: letters A–Z, digits and spaces have")
    # each sign ends with the gap of one dot; a letter's end adds two and a word's four
    pattern = "=".join("_".join(MORSE[letter] for letter in word) for word in words)
    stretches: list[tuple[bool, int]] = [(False, 3)]
    for sign in pattern:
        if sign in "_=":
            stretches[-1] = (False, 3 if sign == "_" else 7)
        else:
            stretches += [(True, 1 if sign == "." else 3), (False, 1)]
    stretches[-1] = (False, 3)
    tones, units = zip(*stretches, strict=True)
    return np.array(tones), np.array(units)


def morse_set(
    count: int,
    *,
    seed: int,
    characters: tuple[int, int] = (4, 10),
    sample_rate: int = 8000,
    pitch: tuple[float, float] = (500.0, 900.0),
    wpm: tuple[float, float] = (18.0, 25.0),
    jitter: float = 0.1,
    drift: float = 0.02,
    snr_db: tuple[float, float] = (-5.0, 20.0),
) -> list[Keyed]:
    """Random words keyed at random pitches, speeds and noise levels, uniform within these ranges.

    Waveform n is a function of the arguments and n alone, so that a longer set begins with the shorter one. Letters and
    digits are uniform: a recogniser has no words to guess from.

    Args:
        count: how many.
        seed: of everything.
        characters: the fewest and the most characters of a text, spaces included.
        sample_rate, jitter, drift: as for `morse_audio`.
        pitch, wpm, snr_db: ranges, as for `morse_audio`.

    Returns:
        `count` texts with their waveforms.

    Raises:
        ValueError: for `characters` that are not 1 ≤ fewest ≤ most, a `count` below 1, and as for `morse_audio`.
        TypeError: for a `count` or `sample_rate` that is no integer.
    """
    check_size("count", count)
    if not 1 <= characters[0] <= characters[1]:
        raise ValueError(f"`characters` must be 1 ≤ fewest ≤ most; got {characters}")

    def one(number: int) -> Keyed:
        rng = np.random.default_rng((seed, number))
        text = _random_text(rng, int(rng.integers(characters[0], characters[1] + 1)))
        ratio = float(rng.uniform(*snr_db))
        options = {"pitch": rng.uniform(*pitch), "wpm": rng.uniform(*wpm), "jitter": jitter, "drift": drift}
        own = (seed, number, 1)
        return Keyed(morse_audio(text, seed=own, sample_rate=sample_rate, snr_db=ratio, **options), text, ratio)

    return [one(number) for number in range(count)]


def _random_text(rng: np.random.Generator, length: int) -> str:
    """Letters and digits with spaces between words of one to five, never at an end."""
    signs = list(rng.choice(list(MORSE), length))
    at = int(rng.integers(1, 6))
    while at < length - 1:
        signs[at] = " "
        at += 1 + int(rng.integers(1, 6))
    return "".join(signs)
