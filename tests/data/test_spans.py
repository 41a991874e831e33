"""Spans of tags, held to regular expressions over whole sequences, and counts made by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

import rnnjax as rj

TAGS = ("O", "B-x", "I-x", "B-y-z", "I-y-z")


def by_expression(tags):
    """The same spans: a letter for each tag, x and y for kinds, upper case where one begins by its tag."""
    text = "".join({"O": "o", "B-x": "X", "I-x": "x", "B-y-z": "Y", "I-y-z": "y"}[tag] for tag in tags)
    kinds = {"x": "x", "y": "y-z"}
    return [(kinds[m[0][0].lower()], m.start(), m.end()) for m in re.finditer(r"[Xx]x*|[Yy]y*", text)]


def test_spans_are_those_of_an_expression():
    rng = np.random.default_rng(0)
    for length in rng.integers(0, 12, 300):
        tags = [TAGS[i] for i in rng.integers(0, len(TAGS), length)]
        assert [tuple(span) for span in rj.data.spans(tags)] == by_expression(tags)


@pytest.mark.parametrize("tag", ["", "x", "B-", "I", "E-x", "b-x", "O-x"])
def test_other_tags_are_refused(tag):
    with pytest.raises(ValueError, match='"B-kind"'):
        rj.data.spans(["O", tag])


def test_scores_count_exact_spans_over_all_rows():
    actual = [["B-x", "I-x", "O", "B-x"], ["B-y", "O"], ["O"]]
    predicted = [["B-x", "I-x", "I-x", "B-x"], ["B-x", "B-x"], ["B-y"]]
    # right is one of five; three were to be found
    scores = rj.data.span_scores(actual, predicted)
    assert scores == pytest.approx((1 / 5, 1 / 3, 2 / 8))


def test_scores_of_nothing_are_zero():
    assert rj.data.span_scores([["O"]], [["O"]]) == (0, 0, 0)
    assert rj.data.span_scores([], []) == (0, 0, 0)


def test_rows_must_match():
    with pytest.raises(ValueError, match="row 1"):
        rj.data.span_scores([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="2 and 1 rows"):
        rj.data.span_scores([["O"], ["O"]], [["O"]])
