"""Readers of what people say to machines: SNIPS and CamRest676."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple

from ._reading import HALF, Found, PathLike, Place, Problem, Reading, files, halved, read_files
from ._text import words

_SPACE = re.compile(r"[ \t\r\n]*")
_INTENT = re.compile(r'\s*\{\s*("(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")\s*:\s*(?=\[)')
# what "surrogateescape" makes of a byte that is not UTF-8
_BAD_BYTE = re.compile("[\udc80-\udcff]")
_NOT_UTF8 = "the file is not UTF-8 here"


class Query(NamedTuple):
    """A request in words, each with a tag: `B-slot` begins a slot's value, `I-slot` goes on with it, `O` is outside."""

    intent: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


class Turn(NamedTuple):
    """What the user said, what the system answered, and what the user had asked for by then.

    constraints are pairs of slot and value, requests the slots that this turn asks about.
    """

    user: str
    system: str
    constraints: tuple[tuple[str, str], ...]
    requests: tuple[str, ...]


class Dialogue(NamedTuple):
    """A conversation from its first turn to its last."""

    number: int
    turns: tuple[Turn, ...]


def read_snips(folder: PathLike, part: Literal["train", "validate"] = "train") -> Reading[Query]:
    """Requests to an assistant with their intent and the slots in them.

    The SNIPS voice platform's queries (Coucke et al. 2018, arXiv:1805.10190; github.com/sonos/nlu-benchmark, CC0 1.0):
    13,784 of 7 intents in `train`, 700 in `validate`. Words are as `words` splits them, within a slot and without.

    Args:
        folder: a folder or zip file with `train_<Intent>_full.json` and `validate_<Intent>.json`, at any depth, as
            `2017-06-custom-intent-engines` is.
        part: "train" or "validate".

    Returns:
        a `Reading` of queries in the order of the intents' names; the line of a place is the one that the query begins
        on. A query that does not have the form of the set is left out, and so are `train_<Intent>.json` where the whole
        is there, and what follows behind a place that is not JSON. A file that is not UTF-8 is read as latin-1, with a
        problem that says so; pairs of surrogates, which one file holds, are joined, and a query with half of one is
        left out.

    Raises:
        ValueError: for another `part`, and if nothing in the folder can be used.
        OSError: if there is nothing at `folder`.
    """
    if part not in ("train", "validate"):
        raise ValueError(f'`part` must be "train" or "validate"; got {part!r}')

    prefix = f"{part}_"

    @cache
    def names() -> set[str]:
        return {name for name, _ in files(folder, (".json",), prefix)}

    def read(name: str, raw: bytes) -> Iterator[Found[Query]]:
        if name.replace(".json", "_full.json") in names():
            yield Problem(Place(name), "left out: the file that ends in _full.json has its queries and more")
            return
        try:
            text = _joined(raw.decode("utf-8-sig", "surrogatepass"))
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            yield Problem(Place(name, line), "read as latin-1: the file is not UTF-8 here")
            text = raw.decode("latin-1")
        yield from _queries(name, text)

    return read_files(folder, (".json",), read, prefix)


def _joined(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _queries(name: str, text: str) -> Iterator[Found[Query]]:
    head = _INTENT.match(text)
    if head is None:
        yield Problem(Place(name), "left out: the file must hold one object that maps its intent to a list of queries")
        return
    intent = json.loads(head[1])
    if halved(intent):
        yield Problem(Place(name), HALF)
        return
    for one in _entries(name, text, head.end(), "]}"):
        yield one if isinstance(one, Problem) else _query(one[0], intent, one[1])


def _query(place: Place, intent: str, entry: Any) -> Found[Query]:
    said, tags = [], []
    try:
        for part in entry["data"]:
            own = words(part["text"])
            slot = part.get("entity")
            said += own
            tags += ["O"] * len(own) if slot is None else [f"B-{slot}", *[f"I-{slot}"] * (len(own) - 1)][: len(own)]
    except (AttributeError, KeyError, TypeError):
        return Problem(place, 'left out: a query must be {"data": [{"text": …, "entity": …}, …]}')
    if not said:
        return Problem(place, "left out: a query without a word")
    return place, Query(intent, tuple(said), tuple(tags))


def read_camrest(path: PathLike) -> Reading[Dialogue]:
    """Conversations of people who look for a restaurant with a system that finds one.

    CamRest676 (Wen et al. 2017, arXiv:1604.04562; github.com/shawnwun/NNDIAL, Apache-2.0): 676 dialogues, 2,744 turns.
    It is usually split 3 : 1 : 1. Comment lines that begin with `#` stand before the JSON.

    Args:
        path: `CamRest676.json`, gzipped or not.

    Returns:
        a `Reading` of dialogues; the line of a place is the one that the dialogue begins on. A dialogue that does not
        have the form of the set is left out, and so are one with a byte that is not UTF-8, of whose line the problem
        tells, one with half of a surrogate pair, and what follows behind a place that is not JSON.
    """

    def read(name: str, raw: bytes) -> Iterator[Found[Dialogue]]:
        text = raw.decode("utf-8-sig", "surrogateescape")
        # blank, so that lines are those of the file
        plain = "\n".join("" if line.startswith("#") else line for line in text.split("\n"))
        begin = _filled(plain, 0)
        if not plain.startswith("[", begin) and not _BAD_BYTE.match(plain, begin):
            yield Problem(Place(name), "left out: the file must hold a list of dialogues")
            return
        for one in _entries(name, plain, begin, "]"):
            yield one if isinstance(one, Problem) else _dialogue(*one)

    return read_files(path, (".json",), read)


def _dialogue(place: Place, entry: Any) -> Found[Dialogue]:
    try:
        turns = tuple(_turn(turn["usr"], turn["sys"]) for turn in entry["dial"])
        number = int(entry["dialogue_id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return Problem(place, "left out: a dialogue must have a `dialogue_id` and turns with `usr` and `sys` in `dial`")
    return (place, Dialogue(number, turns)) if turns else Problem(place, "left out: a dialogue without a turn")


def _turn(user: Any, system: Any) -> Turn:
    slots = [(act["act"], *slot) for act in user["slu"] for slot in act["slots"]]
    return Turn(
        user["transcript"].strip(),
        system["sent"].strip(),
        tuple((name, value) for act, name, value in slots if act == "inform"),
        tuple(value for act, _, value in slots if act == "request"),
    )


def _entries(name: str, text: str, begin: int, close: str) -> Iterator[Found[Any]]:
    """The entries of the JSON list that begins there and, but for white space, ends the text with `close`.

    Where something is not JSON, what follows cannot be told apart, and the entries before it are used.
    """
    decoder, last, line = json.JSONDecoder(), 0, 1
    at = _filled(text, begin + 1)
    while not text.startswith("]", at):
        line, last = line + text.count("\n", last, at), at
        try:
            entry, end = decoder.raw_decode(text, at)
            half = halved(entry)
        except json.JSONDecodeError as error:
            yield _broken(name, text, error.pos, error.msg)
            return
        except (ValueError, RecursionError) as error:  # a number of very many digits, brackets in very many brackets
            message = f"left out: JSON that Python does not read ({error}), so that what follows cannot be read"
            yield Problem(Place(name, line), message)
            return
        bad = _BAD_BYTE.search(text, at, end)
        if bad is not None:
            yield Problem(Place(name, _line(text, bad.start())), f"left out: {_NOT_UTF8}")
        elif half:
            yield Problem(Place(name, line), HALF)
        else:
            yield Place(name, line), entry
        at = _filled(text, end)
        if not text.startswith(",", at):
            break
        at = _filled(text, at + 1)
    if "".join(text[at:].split()) != close:
        yield _broken(name, text, at, f"{close} must come next")


def _filled(text: str, at: int) -> int:
    """The first place from `at` on that is not white space."""
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _broken(name: str, text: str, at: int, message: str) -> Problem:
    """What is wrong with a file from there on."""
    column = at - text.rfind("\n", 0, at)
    reason = _NOT_UTF8 if _BAD_BYTE.match(text, at) else f"not JSON here ({message}, column {column})"
    return Problem(Place(name, _line(text, at)), f"left out: {reason}, so that what follows cannot be read")
