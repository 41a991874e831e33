"""What every reader returns: the items that could be used, where each came from, and what was wrong with the rest."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

T = TypeVar("T")
PathLike: TypeAlias = str | os.PathLike[str]

# what a data set tells about itself; `source.txt` beside `target.txt` is data
NOTES = re.compile(r"[_.]|(?i:readme|licen[sc]e)\b|SOURCE\b")
# of a file that is broken, encrypted or compressed by a method that Python does not have
UNREADABLE = (OSError, EOFError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile)
LINE_ENDS = r"\r\n|\r|\n"
# how files begin whose bytes are no text or table until they are unpacked
PACKED = {
    "tar": re.compile(rb".{257}ustar(\0|  \0)", re.DOTALL),
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
}
EMPTY = "left out: an empty line"
HALF = "left out: half of a surrogate pair, which is no character"
_SURROGATE = re.compile("[\ud800-\udfff]")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class Place(NamedTuple):
    """A file, a member of a zip file as `archive.zip/member`, and a line of it from 1, or None for the whole file."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


class Problem(NamedTuple):
    """Something that a reader did not expect; the message says what became of the item."""

    place: Place
    message: str

    @property
    def left_out(self) -> bool:
        """Whether the item was left out, and not used with a hole or mended."""
        return self.message.startswith("left out")

    @property
    def hole(self) -> bool:
        """Whether NaN or NaT stands where the file has no number or date."""
        return self.message.startswith(("NaN: ", "NaT: "))

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True)
class Reading(Sequence[T]):
    """What a reader found. Bad input never stops a reader: it uses the rest and names every file and line.

    Only a file that is missing (OSError) and data of which nothing can be used (ValueError) are errors. It is a
    sequence of its items; a slice is the `Reading` of these, with all problems.

    Attributes:
        items: what can be used, in order.
        places: where each item came from.
        problems: what was left out, is a hole, or was mended.

    >>> import tempfile, pathlib, rnnjax as rj
    >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.tsv")
    >>> _ = path.write_text("one\\tuno\\n\\ntwo\\tdos\\n")
    >>> reading = rj.data.read_pairs(path)
    >>> reading.items, reading[-1]
    ([('one', 'uno'), ('two', 'dos')], ('two', 'dos'))
    >>> [(problem.place.line, problem.message) for problem in reading.problems]
    [(2, 'left out: an empty line')]
    """

    items: list[T]
    places: list[Place]
    problems: list[Problem]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Reading[T]: ...

    def __getitem__(self, at: int | slice) -> T | Reading[T]:
        if isinstance(at, slice):
            return Reading(self.items[at], self.places[at], self.problems)
        return self.items[at]

    def check(self, complaint: Callable[[T], str | None]) -> Reading[T]:
        """The reading without the items that something is wrong with, and a problem for each of those.

        Args:
            complaint: returns what is wrong with an item, or None; such as `vocabulary.complaint`.
        """
        found: list[Found[T]] = [*self.problems]
        for place, item in zip(self.places, self.items, strict=True):
            message = complaint(item)
            found.append((place, item) if message is None else Problem(place, f"left out: {message}"))
        return collected("the data", found)

    def report(self, most: int = 5) -> str:
        """How many items there are, how many were left out, how many holes they have if any, and how many were mended;
        and the first problems, for people to read: what was left out, then holes, then what was mended, once for all
        that are alike."""
        left_out = [problem for problem in self.problems if problem.left_out]
        holes = [problem for problem in self.problems if problem.hole]
        mended = [problem for problem in self.problems if not (problem.left_out or problem.hole)]
        alike: dict[str, list[Problem]] = {}
        for problem in [*holes, *mended]:
            alike.setdefault(problem.message, []).append(problem)
        counted = f"{len(holes):,} holes, " * bool(holes)
        lines = [f"{len(self.items):,} items, {len(left_out):,} left out, {counted}{len(mended):,} mended"]
        groups = [*([problem] for problem in left_out), *alike.values()]
        for first, *others in groups[:most]:
            lines.append(f"  {first}" + f", and {len(others):,} more like it" * bool(others))
        more = sum(map(len, groups[most:]))
        return "\n".join([*lines, f"  and {more:,} more"] if more else lines)


Found: TypeAlias = Problem | tuple[Place, T]
"""What a reader yields: an item with its place, or a problem, which is also a tuple."""


def collected(source: object, found: Iterable[Found[T]]) -> Reading[T]:
    """The reading of what a reader yields; ValueError if there is no item, with the first reason."""
    items: list[T] = []
    places: list[Place] = []
    problems: list[Problem] = []
    for one in found:
        if isinstance(one, Problem):
            problems.append(one)
        else:
            places.append(one[0])
            items.append(one[1])
    if not items:
        fatal = next((problem for problem in problems if problem.left_out), None)
        reason = "" if fatal is None else f"; the first problem is {fatal}"
        raise ValueError(f"nothing in {source} can be used{reason}")
    return Reading(items, places, problems)


def read_files(
    path: PathLike, suffixes: tuple[str, ...], read: Callable[[str, bytes], Iterable[Found[T]]], prefix: str = ""
) -> Reading[T]:
    """What `read` finds in the names and contents of `files`; OSError if there is nothing at the path."""

    def found() -> Iterator[Found[T]]:
        name = None
        for name, content in files(path, suffixes, prefix):
            if isinstance(content, bytes):
                yield from read(name, content)
            else:
                yield Problem(Place(name), f"left out: {content}")
        if name is None:
            begins = f" whose name begins with `{prefix}`" if prefix else ""
            packed = "".join(f"; read {zipped} by its own path" for zipped in sorted(Path(path).glob("*.zip"))[:3])
            yield Problem(Place(str(path)), f"left out: there is no {' or '.join(suffixes)} file in it{begins}{packed}")

    return collected(path, found())


def files(path: PathLike, suffixes: tuple[str, ...], prefix: str = "") -> Iterator[tuple[str, bytes | str]]:
    """Names and contents, or what is wrong with them: of one file, or of all with these suffixes, in capitals or not,
    at any depth of a folder or zip file, sorted; each may be gzipped. Left out are names that do not begin with the
    prefix, what tells of the data (README, LICENSE, SOURCE, and names with a first `_` or `.`), and hidden folders."""
    path = Path(path)

    def wanted(name: str) -> bool:
        *folders, own = name.removeprefix("./").split("/")
        fits = own.startswith(prefix) and own.lower().removesuffix(".gz").endswith(suffixes)
        return fits and NOTES.match(own) is None and not any(folder.startswith(".") for folder in folders)

    if path.is_dir():
        names = (inner.relative_to(path).as_posix() for inner in path.rglob("*") if inner.is_file())
        for name in sorted(filter(wanted, names)):
            yield str(path / name), _content(name, (path / name).read_bytes)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(filter(wanted, archive.namelist())):
                yield f"{path}/{name}", _content(name, partial(archive.read, name))
    else:
        raw = path.read_bytes()
        if path.suffix.lower() == ".zip":
            yield str(path), "no zip file that can be read"
        elif path.name.startswith(prefix):
            yield str(path), _content(path.name, lambda: raw)


def _content(name: str, read: Callable[[], bytes]) -> bytes | str:
    """What a file holds, unpacked, or why it cannot be read."""
    try:
        content = gzip.decompress(read()) if name.lower().endswith(".gz") else read()
    except UNREADABLE as error:
        return f"it cannot be read ({error})"
    kind = next((kind for kind, begin in PACKED.items() if begin.match(content)), None)
    return content if kind is None else f"it is a {kind} file: unpack it first"


def lines(name: str, raw: bytes, encoding: str = "utf-8") -> Iterator[Found[str]]:
    """The lines of a file without their ends; a problem for each that is not in this encoding."""
    codec = encoding
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        codec, encoding = "utf-8-sig", "utf-8"
        # the first bytes of UTF-32 are those of UTF-16
        for other, marks in (("utf-32", UTF32_MARKS), ("utf-16", UTF16_MARKS)):
            if raw.startswith(marks):
                yield Problem(Place(name), f'left out: it begins as {other.upper()} does; pass `encoding="{other}"`')
                return
    try:
        decoded: list[str | bytes] = [*re.split(LINE_ENDS, raw.decode(codec))]
    except UnicodeDecodeError as error:
        if "\n".encode(encoding) != b"\n":  # bytes do not say where its lines end
            yield Problem(Place(name), f"left out: not {encoding} ({error.reason}, byte {error.start})")
            return
        decoded = [*re.split(LINE_ENDS.encode(), raw)]
    if not decoded[-1]:
        decoded.pop()
    for number, line in enumerate(decoded, 1):
        place = Place(name, number)
        try:
            text = line.decode(codec if number == 1 else encoding) if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
            yield Problem(place, f"left out: not {encoding} ({byte}); pass another `encoding` if the file has one")
            continue
        if "\0" in text:
            yield Problem(place, f"left out: holds NUL, as UTF-16 read as {encoding} does; pass another `encoding`")
        else:
            yield place, text


def filled_lines(name: str, raw: bytes, encoding: str = "utf-8") -> Iterator[Found[str]]:
    """The lines that hold something; a problem for each other one."""
    for one in lines(name, raw, encoding):
        if isinstance(one, Problem) or one[1].strip():
            yield one
        else:
            yield Problem(one[0], EMPTY)


def halved(value: Any) -> bool:
    """Whether a JSON value holds half of a surrogate pair, which no encoding can write."""
    return _SURROGATE.search(json.dumps(value, ensure_ascii=False)) is not None


def stem(name: str) -> str:
    """The name of a file without its folder and its ending."""
    return Path(name.removesuffix(".gz")).stem
