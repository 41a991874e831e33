"""Symbols and their numbers: characters or words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._errors import check_size
from ._reading import PathLike

SPECIALS = ("pad", "start", "end", "unknown")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Specials:
    """The numbers of special ids, which come first; `specials` names them in order."""

    specials: tuple[str, ...]

    @property
    def pad(self) -> int:
        """Fills up rows; as the only special it serves CTC as the blank."""
        return self._special("pad")

    @property
    def start(self) -> int:
        """Comes before the first symbol, for decoders."""
        return self._special("start")

    @property
    def end(self) -> int:
        """Comes after the last symbol."""
        return self._special("end")

    @property
    def unknown(self) -> int:
        """Stands for a symbol that the vocabulary does not have."""
        return self._special("unknown")

    def _special(self, name: str) -> int:
        if name not in self.specials:
            raise ValueError(f'this vocabulary has no "{name}"; its specials are {self.specials}')
        return self.specials.index(name)

    def _framed(self, ids: list[int], start: bool, end: bool) -> np.ndarray:
        before, after = [self.start] if start else [], [self.end] if end else []
        return np.array([*before, *ids, *after], np.int32)

    def _content(self, ids: Any) -> list[int]:
        """The ids up to `end`, without `start` and `pad`."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise TypeError(f"`ids` must be one row of integers; got {ids.dtype}{ids.shape}: decode row by row")
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):  # type: ignore[arg-type]
            raise ValueError(f"`ids` must lie in 0…{len(self) - 1}; got {ids.min()}…{ids.max()}")  # type: ignore[arg-type]
        content = ids.tolist()
        if "end" in self.specials and self.end in content:
            content = content[: content.index(self.end)]
        dropped = [self.specials.index(name) for name in ("pad", "start") if name in self.specials]
        return [number for number in content if number not in dropped]


@dataclass(frozen=True)
class Vocabulary(Specials):
    """Characters or words with their numbers: first the special ids, then the symbols, the most frequent first.

    Special ids have no spelling, so that no text can contain one. `decode(encode(text))` is the text again wherever
    every symbol is known; of words, where one space stands between them, as after `" ".join(words(text))`.

    Args:
        symbols: the symbols in order, without the special ids.
        unit: "character" or "word": what a text is split into.
        specials: names of the special ids 0, 1, …, from pad, start, end and unknown. Without `unknown`, `encode`
            raises at a symbol that it does not know. For CTC, `("pad",)` leaves no class without a use: pad is
            the blank.

    >>> import rnnjax as rj
    >>> vocabulary = rj.data.Vocabulary.characters(["abba", "cab"])
    >>> vocabulary.encode("cab", end=True).tolist()
    [6, 4, 5, 2]
    >>> vocabulary.decode([1, 6, 4, 5, 2, 0, 0])
    'cab'
    """

    symbols: tuple[str, ...]
    unit: Literal["character", "word"]
    specials: tuple[str, ...] = SPECIALS

    def __post_init__(self) -> None:
        if self.unit not in ("character", "word"):
            raise ValueError(f'`unit` must be "character" or "word"; got {self.unit!r}')
        for name in ("symbols", "specials"):
            values = getattr(self, name)
            if isinstance(values, str) or not all(isinstance(value, str) for value in values):
                raise TypeError(f"`{name}` must be a sequence of strings; got {values!r:.80}")
            object.__setattr__(self, name, tuple(values))
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"`{name}` must differ from one another; {twice[0]!r} is there twice")
        if set(self.specials) - set(SPECIALS):
            raise ValueError(f"`specials` must be some of {SPECIALS}; got {self.specials}")
        wrong = [symbol for symbol in self.symbols if self._split(symbol) != [symbol]]
        if wrong:
            raise ValueError(f"every symbol must be one {self.unit}; got {wrong[0]!r}")

    @classmethod
    def characters(
        cls,
        texts: Iterable[str],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        specials: Sequence[str] = SPECIALS,
    ) -> Vocabulary:
        """The characters of texts.

        Args:
            texts: strings.
            min_count: leaves out what is rarer.
            max_size: the most entries, special ids included, which are kept in any case.
            specials: as for `Vocabulary`.
        """
        return cls._built(texts, "character", min_count, max_size, tuple(specials))

    @classmethod
    def words(
        cls,
        texts: Iterable[str | Sequence[str]],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        specials: Sequence[str] = SPECIALS,
    ) -> Vocabulary:
        """The words of texts: strings, split at white space, or lists of words; arguments as for `characters`."""
        return cls._built(texts, "word", min_count, max_size, tuple(specials))

    @classmethod
    def _built(
        cls, texts: Any, unit: Any, min_count: int, max_size: int | None, specials: tuple[str, ...]
    ) -> Vocabulary:
        if isinstance(texts, str):
            raise TypeError("`texts` must be several texts; got one string: pass [text]")
        check_size("min_count", min_count)
        empty = cls((), unit, specials)
        counts = Counter(symbol for text in texts for symbol in empty._split(text))
        ranked = sorted((symbol for symbol in counts if counts[symbol] >= min_count), key=lambda s: (-counts[s], s))
        if max_size is not None:
            check_size("max_size", max_size)
            ranked = ranked[: max(max_size - len(specials), 0)]
        return cls(tuple(ranked), unit, specials)

    def __len__(self) -> int:
        return len(self.specials) + len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._numbers

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, len(self.specials))}

    def _split(self, text: str | Sequence[str]) -> list[str]:
        if isinstance(text, str):
            return list(text) if self.unit == "character" else text.split()
        symbols = list(text)
        for number, symbol in enumerate(symbols):
            if not isinstance(symbol, str):
                raise TypeError(f"a text must be a string or a list of {self.unit}s; entry {number} is {symbol!r:.80}")
            if self._split(symbol) != [symbol]:
                raise ValueError(
                    f"a text that is a list must have one {self.unit} in each entry; entry {number} is {symbol!r:.80}: "
                    "encode text by text"
                )
        return symbols

    def encode(self, text: str | Sequence[str], *, start: bool = False, end: bool = False) -> np.ndarray:
        """The numbers of a text, int32 (T), with `start` before and `end` after it where asked for.

        Args:
            text: a string, or a list of its symbols.
            start, end: whether the ids of these stand around it.

        Raises:
            ValueError: for a symbol that is not there, if there is no `unknown`, and for an entry of a list that is not
                one symbol, such as a text of several.
            TypeError: for an entry that is no string.
        """
        if "unknown" not in self.specials:
            message = self.complaint(text)
            if message is not None:
                raise ValueError(f"{message}, and it has no id for unknown ones")
            return self._framed([self._numbers[symbol] for symbol in self._split(text)], start, end)
        return self._framed([self._numbers.get(symbol, self.unknown) for symbol in self._split(text)], start, end)

    def tokens(self, ids: Any) -> list[str]:
        """The symbols of one row of numbers, up to `end`, without `start` and `pad`; an unknown one is U+FFFD."""
        first = len(self.specials)
        return [REPLACEMENT if number < first else self.symbols[number - first] for number in self._content(ids)]

    def decode(self, ids: Any) -> str:
        """The text of one row of numbers; what `tokens` gives, joined."""
        return ("" if self.unit == "character" else " ").join(self.tokens(ids))

    def complaint(self, text: str | Sequence[str]) -> str | None:
        """What `Reading.check` says of a text with an unknown symbol; None if all are known."""
        for position, symbol in enumerate(self._split(text), 1):
            if symbol not in self._numbers:
                return f"{self.unit} {position}, {symbol!r}, is not in the vocabulary"
        return None

    def save(self, path: PathLike) -> None:
        """Writes a JSON file that `load` reads."""
        fields = {"unit": self.unit, "specials": self.specials, "symbols": self.symbols}
        write_json(path, "vocabulary", fields)

    @classmethod
    def load(cls, path: PathLike) -> Vocabulary:
        """Reads what `save` wrote; ValueError, naming the file, if it is something else."""
        fields = read_json(path, "vocabulary", {"unit": str, "specials": list, "symbols": list})
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no vocabulary: {error}") from error


def write_json(path: PathLike, kind: str, fields: dict[str, Any]) -> None:
    """Writes fields under a heading that says what they are."""
    Path(path).write_text(json.dumps({"rnnjax": kind, "version": 1, **fields}), encoding="utf-8")


def read_json(path: PathLike, kind: str, types: dict[str, type]) -> dict[str, Any]:
    """The fields of a file of this kind; ValueError, naming the file, if it is no such file."""
    try:
        found = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} holds no {kind}: it is not JSON ({error})") from error
    if not isinstance(found, dict) or found.get("rnnjax") != kind:
        raise ValueError(f'{path} holds no {kind}: its entry "rnnjax" does not say so')
    if found.get("version") != 1:
        raise ValueError(f"{path} is a {kind} of version {found.get('version')!r}; this release reads version 1")
    for name, type_ in types.items():
        if not isinstance(found.get(name), type_):
            raise ValueError(f'{path} holds no {kind}: its entry "{name}" must be a {type_.__name__}')
    return {name: found[name] for name in types}
