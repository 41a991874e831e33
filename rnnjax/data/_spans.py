"""Spans in tagged sequences, and how well they were found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """What is marked, from `begin` to before `end`."""

    kind: str
    begin: int
    end: int


class SpanScores(NamedTuple):
    """Shares of the predicted spans that are right and of the actual ones that were found, and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of one sequence of tags, in order, as the evaluation of the CoNLL 2000 task reads them.

    `B-kind` begins a span, `I-kind` goes on with one of its kind, and `O` is outside. An `I-kind` that has none to go
    on with begins one.

    Args:
        tags: one for each word.

    Returns:
        a list of `Span`. `begin` is its first word, and `end` the one behind its last, from 0.

    Raises:
        ValueError: for a tag of another form.

    References:
        Tjong Kim Sang, Buchholz 2000, Introduction to the CoNLL-2000 shared task: chunking, arXiv:cs/0009008.

    >>> import rnnjax as rj
    >>> rj.data.spans(["O", "B-city", "I-city", "B-date"])
    [Span(kind='city', begin=1, end=3), Span(kind='date', begin=3, end=4)]
    """
    found: list[Span] = []
    begin, open_kind = 0, None
    for position, tag in enumerate([*tags, "O"]):
        mark, kind = _parts(tag)
        if open_kind is not None and (mark != "I" or kind != open_kind):
            found.append(Span(open_kind, begin, position))
            open_kind = None
        if mark != "O" and open_kind is None:
            begin, open_kind = position, kind
    return found


def span_scores(actual: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> SpanScores:
    """Precision, recall and F1 of exact spans, kind and both ends, over all sequences together.

    Args:
        actual: a sequence of tags for each row, as for `spans`.
        predicted: the same, of the same lengths.

    Returns:
        `SpanScores`; 0 where there is nothing to divide by.

    Raises:
        ValueError: for rows or lengths that differ.

    >>> import rnnjax as rj
    >>> rj.data.span_scores([["B-city", "I-city", "O"]], [["B-city", "I-city", "B-date"]])
    SpanScores(precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    actual, predicted = list(actual), list(predicted)
    lengths = [[len(row) for row in rows] for rows in (actual, predicted)]
    if lengths[0] != lengths[1]:
        row = next((i for i, pair in enumerate(zip(*lengths, strict=False)) if pair[0] != pair[1]), None)
        where = f"{len(actual)} and {len(predicted)} rows" if row is None else f"other lengths in row {row}"
        raise ValueError(f"`actual` and `predicted` must have a tag for the same words; got {where}")
    pairs = [(set(spans(a)), set(spans(p))) for a, p in zip(actual, predicted, strict=True)]
    hits = sum(len(a & p) for a, p in pairs)
    wanted, claimed = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    return SpanScores(_ratio(hits, claimed), _ratio(hits, wanted), _ratio(2 * hits, wanted + claimed))


def _parts(tag: str) -> tuple[str, str]:
    mark, _, kind = tag.partition("-")
    if tag != "O" and (mark not in ("B", "I") or not kind):
        raise ValueError(f'a tag must be "O", "B-kind" or "I-kind"; got {tag!r}')
    return mark, kind


def _ratio(a: int, b: int) -> float:
    return a / b if b else 0.0
