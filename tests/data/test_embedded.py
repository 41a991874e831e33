"""Sets that need no download: Morse code, dates, docstrings, documentation."""

from __future__ import annotations

import datetime
import itertools
import re
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from rnnjax import data
from rnnjax.data import _dates


def stretches(samples: np.ndarray, unit: int) -> list[tuple[bool, float]]:
    """Tones and gaps of a clean waveform with their lengths in dots."""
    size = unit // 10
    loud = np.abs(samples[: len(samples) // size * size]).reshape(-1, size).max(1) > 0.25
    return [(on, len(list(run)) * size / unit) for on, run in groupby(loud)]


def test_morse_can_be_read_by_its_lengths() -> None:
    text = "SOS 73 QX"
    unit = int(1.2 / 20 * 8000)
    read, word = [""], data.MORSE
    for on, length in stretches(data.morse_audio(text, wpm=20), unit)[1:-1]:
        if on:
            read[-1] += {1: ".", 3: "-"}[round(length)]
        elif round(length) > 1:
            read += [" ", ""] if round(length) == 7 else [""]
    letters = {code: letter for letter, code in word.items()}
    assert "".join(letters.get(code, code) for code in read) == text


def test_morse_table_is_complete() -> None:
    assert len(set(data.MORSE.values())) == len(data.MORSE) == 36
    assert {data.MORSE[letter] for letter in "EISH5"} == {"." * n for n in range(1, 6)}
    assert {data.MORSE[letter] for letter in "TMO0"} == {"-" * n for n in (1, 2, 3, 5)}


def test_morse_pitch_noise_and_hand() -> None:
    clean = data.morse_audio("PARIS", pitch=700, wpm=12)
    # PARIS with its space is 50 dots; the last gap is 3 here, and 3 come first
    assert len(clean) == (50 - 7 + 3 + 3) * 800
    peak = np.abs(np.fft.rfft(clean)).argmax() * 8000 / len(clean)
    assert abs(peak - 700) < 1
    noisy = data.morse_audio("PARIS", pitch=700, wpm=12, snr_db=-5.0)
    ratio = 10 * np.log10((clean.astype(float) ** 2).sum() / ((noisy - clean).astype(float) ** 2).sum())
    assert abs(ratio + 5) < 0.01
    shaky = [len(data.morse_audio("PARIS", wpm=12, jitter=0.2, seed=seed)) / len(clean) for seed in range(30)]
    assert 0.02 < np.std(shaky) < 0.08
    assert 0.95 < np.mean(shaky) < 1.08
    long = data.morse_audio("0" * 12, pitch=600, wpm=12, drift=0.1)
    spectrum = np.abs(np.fft.rfft(long)) ** 2
    hertz = np.arange(len(spectrum)) * 8000 / len(long)
    spread = np.sqrt(np.average((hertz - 600) ** 2, weights=spectrum))
    assert 20 < spread < 60


def test_morse_set_is_a_function_of_its_seed() -> None:
    many, few = data.morse_set(40, seed=1), data.morse_set(3, seed=1)
    for a, b in zip(many, few, strict=False):
        assert a.text == b.text
        np.testing.assert_array_equal(a.samples, b.samples)
    assert many[0].text != data.morse_set(1, seed=2)[0].text
    texts = [keyed.text for keyed in many]
    assert {len(text) for text in texts} == set(range(4, 11))
    assert all(text == " ".join(text.split()) and set(text) <= {*data.MORSE, " "} for text in texts)
    assert max(len(word) for text in texts for word in text.split()) <= 6
    assert -5 <= min(keyed.snr_db for keyed in many) < 0 < 15 < max(keyed.snr_db for keyed in many) <= 20
    assert all(keyed.samples.dtype == np.float32 for keyed in many)


@pytest.mark.parametrize(("options", "message"), [
    ({"text": "A%"}, "'%' in 'A%' has no Morse code"),
    ({"text": " "}, "it is empty"),
    ({"text": "A", "pitch": 4000}, "half of 8000"),
    ({"text": "A", "wpm": 0}, "`wpm` must be positive"),
])  # fmt: skip
def test_bad_morse(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.morse_audio(**options)


@pytest.fixture(scope="module")
def dates() -> tuple[list[data.DatePair], list[data.DatePair]]:
    pytest.importorskip("babel")
    return data.date_pairs(600, seed=0), data.date_pairs(300, seed=1, held_out=True)


def test_dates_are_what_babel_writes(dates: tuple) -> None:
    from babel.dates import format_date

    for pair in [*dates[0], *dates[1]]:
        written = format_date(datetime.date.fromisoformat(pair.iso), pair.format, locale=pair.locale)
        assert written.replace("\u202f", " ").replace("\xa0", " ").replace("\u200f", "") == pair.text
    assert {pair.format for pair in dates[0]} == {"short", "medium", "long", "full"}
    assert len({pair.locale for pair in dates[0]}) > 25


def test_held_out_forms_are_new_and_can_be_known(dates: tuple) -> None:
    learnt, held = ({(pair.locale, pair.format) for pair in part} for part in dates)
    assert len(held) > 15
    assert not learnt & held
    everything, kept = _dates._forms(_dates.LOCALES, 0.2, 0)
    assert len(everything) + len(kept) == 4 * len(_dates.LOCALES)
    assert not {form.probes for form in everything} & {form.probes for form in kept}
    known = set().union(*(form.words for form in everything))
    assert all(form.words <= known for form in kept)
    assert {"年", "月", "日"} <= known
    assert _dates.Form("ja", "full").words == {"年", "月", "日"}
    assert "May" in _dates.Form("en", "medium").words


def test_no_string_has_two_readings() -> None:
    """Against every date of two years in every form, zeros in front of numbers or not."""
    pytest.importorskip("babel")
    locales, years = ("en", "en_GB", "es", "de", "hr", "cs", "sv", "ko"), (2003, 2004)
    learnt, held = _dates._forms(locales, 0.2, 0)
    days = [datetime.date(2003, 1, 1) + datetime.timedelta(n) for n in range(731)]
    meanings: dict[str, set[datetime.date]] = {}
    for form in [*learnt, *held]:
        for day in days:
            meanings.setdefault(_dates.without_zeros(form.write(day)), set()).add(day)
    ambiguous = {text for text, dates in meanings.items() if len(dates) > 1}
    assert any("/" in text for text in ambiguous)
    assert any("listopad" in text for text in meanings)
    got = data.date_pairs(800, seed=3, locales=locales, years=years)
    got += data.date_pairs(200, seed=3, locales=locales, years=years, held_out=True)
    assert not [pair for pair in got if _dates.without_zeros(pair.text) in ambiguous]
    for day in days[::40]:
        for form in [*learnt, *held]:
            text = form.write(day)
            readings = _dates._readings(text, [*learnt, *held], years, marks=True)
            assert readings == meanings[_dates.without_zeros(text)]


def test_no_held_out_string_has_two_readings_by_its_words_and_numbers() -> None:
    """Against every date of two years in every form, as the words and numbers in their order."""
    pytest.importorskip("babel")
    locales, years = ("en", "en_GB", "es", "de", "hr", "cs", "sv", "ko"), (2003, 2004)
    learnt, held = _dates._forms(locales, 0.4, 1)

    def words(text: str) -> tuple[str | int, ...]:
        return tuple(int(word) if word.isdigit() else word for word in re.findall(r"\w+", text))

    meanings: dict[tuple[str | int, ...], set[datetime.date]] = {}
    for form in [*learnt, *held]:
        for day in (datetime.date(2003, 1, 1) + datetime.timedelta(n) for n in range(731)):
            meanings.setdefault(words(form.write(day)), set()).add(day)
    got = data.date_pairs(300, seed=3, locales=locales, years=years, share=0.4, split_seed=1, held_out=True)
    assert {len(meanings[words(pair.text)]) for pair in got} == {1}
    numbers = [words(pair.text) for pair in got if not re.search(r"[^\W\d]", pair.text)]
    assert len(numbers) > 20
    assert len({key for key in meanings if len(meanings[key]) > 1}) > 100


def test_words_are_varied_where_their_order_means_nothing() -> None:
    rng = np.random.default_rng(0)
    found = [data.vary_date("May 12, 2001", rng).split() for _ in range(200)]
    words = {"May", "12,", "2001"}
    assert {tuple(word for word in one if word in words) for one in found} == set(itertools.permutations(words))
    more = [(at, word) for one in found for at, word in enumerate(one) if word not in words]
    assert 70 < len(more) < 130
    assert {at for at, _ in more} == {0, 1, 2, 3}
    assert all(3 <= len(word) < 10 and set(word) <= set("May") for _, word in more)
    mixed = [data.vary_date("May 12, 2001", rng, ["June", "Friday", "мая"]).split() for _ in range(200)]
    new = {word for one in mixed for word in one} - words
    assert new
    assert all(word[0] in "JF" and word[-1] in "ey" and word not in ("June", "Friday") for word in new)
    lone = [data.vary_date("May 12, 2001", rng, ["мая"]).split() for _ in range(20)]
    assert {letter for one in lone for word in one if word not in words for letter in word} == set("May")
    for text in ("3 thg 1, 1958", "2 мая 03", "3/4/05", "30. 5. 7.", "昭和 1 2 3"):
        assert {data.vary_date(text, rng) for _ in range(9)} == {text}


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%Y-%m-%d", "%d.%m.%y", "%m/%d/%y"])
def test_numbers_are_varied_where_they_tell_what_they_are(form: str) -> None:
    """Against every way to take three numbers for a year, a month and a day."""
    rng = np.random.default_rng(0)
    orders = {True: 0, False: 0}
    for n in range(0, 36_000, 61):
        text = (datetime.date(1950, 1, 1) + datetime.timedelta(n)).strftime(form)
        written = re.findall("[0-9]+", text)
        varied = [data.vary_date(text, rng) for _ in range(4)]
        numbers, *found = ([number.lstrip("0") or "0" for number in re.findall("[0-9]+", t)] for t in (text, *varied))
        assert all(sorted(other) == sorted(numbers) for other in found)
        told = len(set().union(*map(_dates_of, itertools.permutations(written)))) == 1
        assert told or all(other == numbers for other in found)
        assert told or "%Y" in form or set(varied) == {text}
        if any(int(number) > 31 for number in numbers):
            orders[told] += any(other != numbers for other in found)
    assert orders[True] > 100
    assert orders[False] == 0


def _dates_of(numbers: tuple[str, ...]) -> set[datetime.date]:
    year, month, day = map(int, numbers)
    if len(numbers[0]) < 4:
        year += 1900 if year >= 50 else 2000
    try:
        return {datetime.date(year, month, day)} if max(len(n) for n in numbers[1:]) < 3 else set()
    except ValueError:
        return set()


def test_dates_are_a_function_of_their_seed(dates: tuple) -> None:
    assert data.date_pairs(5, seed=0) == dates[0][:5]
    assert data.date_pairs(5, seed=1) != dates[0][:5]


def test_bad_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("babel")
    with pytest.raises(ValueError, match="'xx_YY'"):
        data.date_pairs(1, seed=0, locales=("xx_YY",))
    with pytest.raises(ValueError, match="at most a hundred"):
        data.date_pairs(1, seed=0, years=(1900, 2049))
    with pytest.raises(ValueError, match="leaves none"):
        data.date_pairs(1, seed=0, locales=("en",), share=0.0, held_out=True)
    monkeypatch.setitem(sys.modules, "babel.core", None)
    with pytest.raises(ImportError, match=r"pip install 'rnnjax\[examples\]'"):
        data.date_pairs(1, seed=0)


SOURCE = '''"""One module that says something.

It goes on about the matter
  at some length here.

Heading
-------
>>> code()
3

The end of it.
"""

if True:
    class Thing:
        """Too short."""

        async def method(self):
            """The method does one thing
            in two lines.

            A body of some words, enough to count.
            """

def other():
    """Another with the same body.

    A body of some words, enough to count.
    """
'''


def test_docstrings_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package_of_words"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never run')")
    (package / "module.py").write_text(SOURCE)
    (package / "tests" / "test_module.py").write_text(SOURCE)
    (package / "broken.py").write_text("x = 1\ndef (:\n")
    (package / "latin.py").write_bytes(b'"""S\xe9"""\n')
    monkeypatch.syspath_prepend(tmp_path)
    reading = data.docstring_pairs(["some_package_of_words", "not_there"], body_words=(4, 50), summary_words=(3, 9))
    body = "It goes on about the matter at some length here. Heading The end of it."
    assert reading.items == [
        (body, "One module that says something.", "some_package_of_words", "module"),
        ("A body of some words, enough to count.", "The method does one thing in two lines.", *reading.items[1][2:]),
    ]
    assert (reading.items[1].name, reading.places[1].line) == ("method", 18)
    problems = {Path(problem.place.path).name: problem for problem in reading.problems}
    assert set(problems) == {"broken.py", "latin.py", "not_there"}
    assert problems["broken.py"].place.line == 2
    assert problems["not_there"].message == "left out: not installed"
    with pytest.raises(ValueError, match=r"`packages` must be top-level names; got 'jax\.numpy'"):
        data.docstring_pairs(["jax.numpy"])


def test_docstrings_of_optax() -> None:
    reading = data.docstring_pairs(["optax"])
    assert len(reading) > 100
    assert len({pair.body for pair in reading}) == len(reading)
    assert all(10 <= len(pair.body.split()) <= 200 and 3 <= len(pair.summary.split()) <= 25 for pair in reading)


def test_documentation_of_python() -> None:
    topics = data.python_documentation()
    assert sum(len(topic.text) for topic in topics) > 400_000
    assert "booleans" in {topic.name for topic in topics}
