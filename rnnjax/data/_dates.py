"""Dates as people write them in many languages, and what they mean: translation in small, without any text."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from .._errors import check_rate, check_size
from ._extras import required

LOCALES = (
    *("ar", "cs", "da", "de", "el", "en", "en_GB", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it"),
    *("ja", "ko", "lt", "nb", "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh"),
)
FORMATS = ("short", "medium", "long", "full")
FIELD = re.compile(r"%\((\w+)\)s")
ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
LETTERS = re.compile(r"[^\W\d_]+")
MARKS = re.compile(r"[\s.,/-]+")
MONTHS = tuple(datetime.date(2001, month, 1) for month in range(1, 13))
WEEK = tuple(datetime.date(2001, 1, day) for day in range(1, 8))


class DatePair(NamedTuple):
    """A date in the words of a locale, and in ISO 8601; the locale and the format that wrote it."""

    text: str
    iso: str
    locale: str
    format: str


@dataclass(frozen=True)
class Form:
    """One way to write a date: a format of a locale."""

    locale: str
    format: str

    def write(self, date: datetime.date) -> str:
        text = required("babel.dates", "examples").format_date(date, self.format, locale=self.locale)
        return plain(text)

    @cached_property
    def probes(self) -> tuple[str, ...]:
        """What it writes for dates that tell any two forms apart."""
        return tuple(self.write(datetime.date(1987 + month, month, 2 * month)) for month in range(1, 13))

    @cached_property
    def words(self) -> frozenset[str]:
        """What one has to know to find the month: its names, or if it is in digits the words beside the numbers."""
        own = [field for field in FIELD.findall(self._template) if field in ("MMM", "MMMM", "LLL", "LLLL")]
        names = frozenset(self._field(field, month) for field in own for month in MONTHS)
        return names or frozenset(LETTERS.findall(" ".join(FIELD.split(self._template)[::2])))

    @cached_property
    def _template(self) -> str:
        return required("babel.dates", "examples").get_date_format(self.format, self.locale).format

    def _field(self, field: str, date: datetime.date) -> str:
        return required("babel.dates", "examples").format_date(date, field, locale=self.locale)

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Everything that the form may write, with groups for the parts of the date: with its marks, and without."""
        return self._pattern(plain), self._pattern(without_marks)

    def _pattern(self, seen: Callable[[str], str]) -> re.Pattern[str]:
        parts = FIELD.split(seen(self._template))
        return re.compile("".join(re.escape(p) if at % 2 == 0 else self._group(p, seen) for at, p in enumerate(parts)))

    def _group(self, field: str, seen: Callable[[str], str]) -> str:
        if set(field) == {"y"} or set(field) == {"d"}:
            return f"(?P<{field[0]}>[0-9]+)"
        if field in ("M", "MM", "L", "LL"):
            return "(?P<m>[0-9]+)"
        if field[0] in "ML":
            names = [re.escape(seen(self._field(field, month))) for month in MONTHS]
            return f"(?:{'|'.join(f'(?P<m{at}>{name})' for at, name in enumerate(names, 1))})"
        return "(?:" + "|".join(sorted({re.escape(seen(self._field(field, day))) for day in WEEK})) + ")"

    def read(self, text: str, years: tuple[int, int], *, marks: bool = True) -> set[datetime.date]:
        """Every date within these years that the form writes like this, but for zeros in front of numbers, and without
        `marks` also but for what stands between the words and numbers."""
        seen = plain if marks else without_marks
        match = self._patterns[not marks].fullmatch(seen(text))
        if match is None:
            return set()
        groups = match.groupdict()
        month = groups.get("m") or next(name[1:] for name in groups if name[0] == "m" and groups[name])
        year, day = int(groups["y"]), int(groups["d"])
        found = set()
        for candidate in [year] if len(groups["y"]) > 2 else range(years[0], years[1] + 1):
            if (candidate == year or candidate % 100 == year) and years[0] <= candidate <= years[1]:
                try:
                    date = datetime.date(candidate, int(month), day)
                except ValueError:
                    continue
                if without_zeros(seen(self.write(date))) == without_zeros(seen(text)):
                    found.add(date)
        return found


def plain(text: str) -> str:
    """What a reader sees: babel puts spaces that do not break into some dates, and marks of direction."""
    return text.replace("\u202f", " ").replace("\u00a0", " ").replace("\u200f", "")


def without_marks(text: str) -> str:
    return MARKS.sub(" ", text).strip()


def without_zeros(text: str) -> str:
    return ZEROS.sub("", text)


@lru_cache(maxsize=8)
def _forms(locales: tuple[str, ...], share: float, split_seed: int) -> tuple[list[Form], list[Form]]:
    """The forms to learn from, and those held out.

    Forms that write alike stay together, and a form is held out only if each of its names of months, or each of its
    words where months are in digits, is left in another one, so that it can be known.
    """
    alike: dict[tuple[str, ...], list[Form]] = {}
    for locale in locales:
        for format_ in FORMATS:
            form = Form(locale, format_)
            alike.setdefault(form.probes, []).append(form)
    groups = list(alike.values())
    wanted = round(share * len(groups))
    held: list[int] = []
    for number in np.random.default_rng(split_seed).permutation(len(groups)).tolist():
        rest = [group for at, group in enumerate(groups) if at != number and at not in held]
        known = frozenset[str]().union(*(group[0].words for group in rest))
        if len(held) < wanted and groups[number][0].words <= known:
            held.append(number)
    learnt = [form for at, group in enumerate(groups) if at not in held for form in group]
    return learnt, [form for at in sorted(held) for form in groups[at]]


def date_pairs(
    count: int,
    *,
    seed: int,
    held_out: bool = False,
    locales: Sequence[str] = LOCALES,
    share: float = 0.2,
    split_seed: int = 0,
    years: tuple[int, int] = (1950, 2049),
) -> list[DatePair]:
    """Random dates, written in a random locale and format by `babel`, beside their ISO 8601 form.

    A string that means another date in any locale and format here, such as 3/4/05, is never among them; a zero in front
    of a number makes no difference. Neither does punctuation in the held-out forms: who has not seen a form cannot know
    that its points and strokes belong to it alone, so 25. 06. 1979. is among them and 02. 06. 1979. is not. Pair n is
    a function of the other arguments and n alone. Needs `babel`: `pip install 'rnnjax[examples]'`.

    Args:
        count: how many.
        seed: of dates, locales and formats; take different ones for training and for the held-out forms too.
        held_out: whether to write in the locale–format pairs that are held out, or in all others. Pairs that write
            alike are on the same side, and the month names of a held-out pair, or the words where months are in digits,
            occur in another.
        locales: names that `babel` knows.
        share: of the locale–format pairs that is held out, at most.
        split_seed: of which are held out.
        years: the first and the last year, at most a hundred years.

    Returns:
        `count` pairs.

    Raises:
        ValueError: for a `count` below 1, a `share` outside [0, 1) or that leaves no form to write in, years without
            four digits, in the wrong order or more than a hundred, and a locale that `babel` does not know.
        TypeError: for a `count` that is no integer, a `share` that is no number, and locales that are one string or
            none.
        ImportError: if `babel` is not installed.

    >>> import rnnjax as rj
    >>> pairs = rj.data.date_pairs(3, seed=0, locales=("en", "de"))
    >>> {len(pair.iso) for pair in pairs}, {pair.locale for pair in pairs} <= {"en", "de"}
    ({10}, True)
    """
    check_size("count", count)
    check_rate("share", share)
    if not 1000 <= years[0] <= years[1] <= 9999 or years[1] - years[0] > 99:
        raise ValueError(f"`years` must be a first and a last year with four digits, at most a hundred; got {years}")
    _check_locales(locales)
    learnt, held = _forms(tuple(locales), float(share), split_seed)
    forms = held if held_out else learnt
    if not forms:
        raise ValueError(f"a `share` of {share} of the forms of {len(locales)} locales leaves none; take more locales")
    first, last = datetime.date(years[0], 1, 1).toordinal(), datetime.date(years[1], 12, 31).toordinal()

    def pair(number: int) -> DatePair:
        rng = np.random.default_rng((seed, number))
        while True:
            form = forms[rng.integers(len(forms))]
            # other dates first, or forms that are often ambiguous would be rare
            for _ in range(50):
                date = datetime.date.fromordinal(int(rng.integers(first, last + 1)))
                text = form.write(date)
                if _readings(text, [*learnt, *held], years, marks=not held_out) == {date}:
                    return DatePair(text, date.isoformat(), form.locale, form.format)

    return [pair(number) for number in range(count)]


def vary_date(text: str, rng: np.random.Generator, words: Sequence[str] = ()) -> str:
    """A date with its words in another order or with other marks between its numbers, where it means the same.

    Augmentation for `date_pairs`: what learns from it goes by words and numbers, and not by places and points, which
    other ways to write do not share. A word that means nothing joins half of those with a name for the month, as the
    name of a day that is not known.

    Args:
        text: a date.
        rng: what chooses.
        words: of other dates. A new word begins as one of them and ends as another, in the script of the text; where
            there are none it is made of the letters of the text.

    Returns:
        the date written anew, or the text as it is where its order or its marks say what it means.

    >>> rng = np.random.default_rng(5)
    >>> vary_date("May 12, 2001", rng), vary_date("25.06.1979", rng), vary_date("3/4/05", rng)
    ('12, 2001 May', '1979 6 25', '3/4/05')
    """
    numbers = re.findall(r"[0-9]+", text)
    if sorted(map(len, numbers)) in ([1, 4], [2, 4]):  # the month has a name, the year cannot be mistaken
        parts = rng.permutation(text.split()).tolist()
        if rng.random() < 0.5:
            parts.insert(rng.integers(len(parts) + 1), _nonsense(text, rng, words))
        return " ".join(parts)
    if len(numbers) != 3 or re.search(r"[^\W0-9]", text):
        return text
    small = sorted(int(number) for number in numbers if int(number) <= 31)
    told = len(small) == 2 and (small[1] > 12 or small[0] == small[1])  # which is day, month and year, in any order
    if not told and max(map(len, numbers)) < 4:
        return text
    order = list(rng.permutation(numbers) if told else numbers)
    if rng.random() < 0.5:
        order = [without_zeros(number) for number in order]
    return rng.choice([".", ". ", "/", "-", " "]).join(order) + rng.choice(["", "."])


def _nonsense(text: str, rng: np.random.Generator, words: Sequence[str]) -> str:
    """A word that is none of these, in the script of a text."""
    letters = [letter for letter in text if letter.isalpha()]
    for _ in range(50 if words else 0):
        first, last = (words[int(at)] for at in rng.integers(len(words), size=2))
        if _script(first) == _script(last) == _script(letters[0]):
            word = first[: int(rng.integers(1, max(len(first), 2)))] + last[int(rng.integers(len(last))) :]
            if word not in words:
                return word
    return "".join(rng.choice(letters, rng.integers(3, 10)))


@lru_cache(maxsize=4096)
def _script(word: str) -> str:
    """The first word of the name that Unicode gives its first letter, such as LATIN."""
    return next((unicodedata.name(letter, "").split(" ")[0] for letter in word if letter.isalpha()), "")


def _readings(text: str, forms: Sequence[Form], years: tuple[int, int], *, marks: bool) -> set[datetime.date]:
    return set().union(*(form.read(text, years, marks=marks) for form in forms))


def _check_locales(locales: Sequence[str]) -> None:
    core: Any = required("babel.core", "examples")
    if isinstance(locales, str) or not locales:
        raise TypeError(f'`locales` must be several names, such as ("en", "de"); got {locales!r}')
    for name in locales:
        try:
            core.Locale.parse(name)
        except (ValueError, core.UnknownLocaleError) as error:
            raise ValueError(f"`locales` must be names that babel knows; got {name!r}") from error
