"""Vocabularies: round trips, special ids, files."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnnjax import data
from rnnjax.data import BytePairs, Vocabulary

TEXTS = ["the cat sat on the mat", "a  café –\n日本 \U0001f355 <pad>"]

steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""The same texts in every run, however slow the machine."""


@pytest.fixture(scope="module")
def pieces() -> BytePairs:
    pytest.importorskip("tokenizers")
    return BytePairs.train(["the cat sat on the mat"] * 5, 280)


@steady
@given(st.text(), st.booleans(), st.booleans())
def test_characters_round_trip(text: str, start: bool, end: bool) -> None:
    vocabulary = Vocabulary.characters([text, "x"])
    ids = vocabulary.encode(text, start=start, end=end)
    assert ids.dtype == np.int32
    assert len(ids) == len(text) + start + end
    assert vocabulary.decode(ids) == text
    assert len(vocabulary) == 4 + len(set(text) | {"x"})


@steady
@given(st.text())
def test_words_round_trip(text: str) -> None:
    spaced = " ".join(data.words(text))
    vocabulary = Vocabulary.words([spaced])
    assert vocabulary.decode(vocabulary.encode(spaced, end=True)) == spaced
    assert vocabulary.tokens(vocabulary.encode(data.words(text))) == data.words(text)


@steady
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_pairs_round_trip(pieces: BytePairs, text: str) -> None:
    assert pieces.decode(pieces.encode(text, start=True, end=True)) == text


@pytest.mark.parametrize(("text", "wanted"), [
    ("हिन्दी में, जी", ["हिन्दी", "में", ",", "जी"]),
    ("Jose\u0301 va", ["Jose\u0301", "va"]),
    ("می\u200cروم.", ["می\u200cروم", "."]),
    ("\u2764\ufe0f!", ["\u2764\ufe0f", "!"]),
])  # fmt: skip
def test_marks_belong_to_their_words(text: str, wanted: list[str]) -> None:
    assert data.words(text) == wanted


def test_shares_that_nearly_add_up() -> None:
    assert sum(map(len, data.split(range(600_000), (0.5, 0.4999991)))) == 600_000


def test_byte_pairs_are_learnt(pieces: BytePairs, tmp_path: Path) -> None:
    ids = pieces.encode("the mat", start=True, end=True)
    assert pieces.tokens(ids) == ["the", " mat"]
    assert (ids[0], ids[-1], pieces.pad) == (pieces.start, pieces.end, 0)
    assert 260 < len(pieces) <= 280
    assert ids.max() < len(pieces)
    pieces.save(tmp_path / "pieces.json")
    again = BytePairs.load(tmp_path / "pieces.json")
    assert again == pieces
    assert hash(again) == hash(pieces)
    assert BytePairs.train(TEXTS, 270) != pieces
    assert pieces != "pieces"
    assert all(piece in pieces for piece in ("the", " mat", "t", " "))
    assert not any(piece in pieces for piece in ("the mat", "é", "\ufffd", "", "pad", 5))
    np.testing.assert_array_equal(again.encode(TEXTS[1]), pieces.encode(TEXTS[1]))
    with pytest.raises(ValueError, match=r"pieces\.json holds no vocabulary"):
        Vocabulary.load(tmp_path / "pieces.json")
    with pytest.raises(ValueError, match="at least 260"):
        BytePairs.train(TEXTS, 259)
    with pytest.raises(TypeError, match=r"`texts` must be several texts; got one string: pass \[text\]"):
        BytePairs.train("the cat", 270)
    (tmp_path / "pieces.json").write_text('{"rnnjax": "byte pairs", "version": 1, "tokenizer": {"model": "none"}}')
    with pytest.raises(ValueError, match=r"pieces\.json holds no byte pairs: "):
        BytePairs.load(tmp_path / "pieces.json")


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'rnnjax\[text\]'"):
        BytePairs.train(TEXTS, 300)


def test_order_and_limits() -> None:
    vocabulary = Vocabulary.words(["b a b", "d a b c"])
    assert vocabulary.symbols == ("b", "a", "c", "d")
    assert vocabulary.encode("a b").tolist() == [5, 4]
    assert Vocabulary.words(["b a b", "d a b c"], min_count=2).symbols == ("b", "a")
    limited = Vocabulary.words([["b", "a", "b"], ["c"]], max_size=6)
    assert len(limited) == 6
    assert limited.symbols == ("b", "a")
    assert "a" in limited
    assert "c" not in limited


def test_unknown_symbols() -> None:
    vocabulary = Vocabulary.characters(["abc"])
    assert vocabulary.encode("aXb").tolist() == [4, vocabulary.unknown, 5]
    assert vocabulary.decode(vocabulary.encode("aXb")) == "a\N{REPLACEMENT CHARACTER}b"
    assert vocabulary.complaint("aXb") == "character 2, 'X', is not in the vocabulary"
    assert vocabulary.complaint("cab") is None
    strict = Vocabulary.characters(["abc"], specials=("pad",))
    assert strict.encode("ab").tolist() == [1, 2]
    assert strict.decode([0, 1, 0, 2]) == "ab"
    with pytest.raises(ValueError, match="character 2, 'X'"):
        strict.encode("aXb")
    with pytest.raises(ValueError, match='has no "end"'):
        strict.encode("ab", end=True)


@pytest.mark.parametrize(("unit", "text", "error", "message"), [
    ("word", ["the cat", "a dog"], ValueError, "one word in each entry; entry 0 is 'the cat': encode text by text"),
    ("word", ["the", ""], ValueError, "one word in each entry; entry 1 is ''"),
    ("word", [["the"], ["cat"]], TypeError, r"a string or a list of words; entry 0 is \['the'\]"),
    ("character", ["a", "bc"], ValueError, "one character in each entry; entry 1 is 'bc': encode text by text"),
    ("character", b"abc", TypeError, "a string or a list of characters; entry 0 is 97"),
])  # fmt: skip
def test_a_list_has_one_symbol_in_each_entry(unit: str, text: object, error: type[Exception], message: str) -> None:
    vocabulary = {"word": Vocabulary.words, "character": Vocabulary.characters}[unit](["the cat ab"])
    for call in (vocabulary.encode, vocabulary.complaint):
        with pytest.raises(error, match=message):
            call(text)  # type: ignore[operator]


def test_decoding_ends_at_end_and_drops_what_is_no_text() -> None:
    vocabulary = Vocabulary.characters(["abc"])
    assert vocabulary.decode([1, 0, 4, 0, 5, 2, 6, 6]) == "ab"
    assert vocabulary.decode([]) == ""
    with pytest.raises(ValueError, match="0…6; got 4…7"):
        vocabulary.decode([4, 7])
    with pytest.raises(TypeError, match="one row of integers"):
        vocabulary.decode([[4, 5]])


@pytest.mark.parametrize("vocabulary", [Vocabulary.characters(TEXTS), Vocabulary.words(TEXTS, specials=("pad", "end"))])
def test_files(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary == pickle.loads(pickle.dumps(vocabulary))


@pytest.mark.parametrize(("change", "message"), [
    ({"rnnjax": "other"}, "does not say so"),
    ({"version": 2}, "version 2; this release reads version 1"),
    ({"symbols": "abc"}, '"symbols" must be a list'),
    ({"symbols": ["a", "a"]}, "'a' is there twice"),
    ({"symbols": ["a", 3]}, "sequence of strings"),
    ({"symbols": ["ab"]}, "every symbol must be one character"),
    ({"unit": "syllable"}, '"character" or "word"'),
    ({"specials": ["pad", "mask"]}, "`specials` must be some of"),
])  # fmt: skip
def test_other_files_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    Vocabulary.characters(["ab"]).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as error:
        Vocabulary.load(path)
    assert str(path) in str(error.value)
    path.write_text("{")
    with pytest.raises(ValueError, match="it is not JSON"):
        Vocabulary.load(path)


def test_one_string_is_not_many() -> None:
    for build in (Vocabulary.characters, Vocabulary.words):
        with pytest.raises(TypeError, match=r"pass \[text\]"):
            build("abc")


def test_words() -> None:
    assert data.words("¿Qué? It's 3.5 o’clock, über_alles") == [
        *("¿", "Qué", "?", "It's", "3", ".", "5", "o’clock", ",", "über_alles")
    ]  # fmt: skip


def test_split_keeps_groups_together() -> None:
    items = [(number % 40, number) for number in range(100)]
    parts = data.split(items, (0.5, 0.25, 0.25), by=lambda item: item[0], seed=3)
    groups = [{item[0] for item in part} for part in parts]
    assert [len(group) for group in groups] == [20, 10, 10]
    assert len(set().union(*groups)) == 40
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert all([item[1] for item in part] == sorted(item[1] for item in part) for part in parts)
    assert parts == data.split(items, (0.5, 0.25, 0.25), by=lambda item: item[0], seed=3)
    assert parts != data.split(items, (0.5, 0.25, 0.25), by=lambda item: item[0], seed=4)
    assert [len(part) for part in data.split(range(10), (0.8, 0.2))] == [8, 2]
    with pytest.raises(ValueError, match="add up to 1"):
        data.split(items, (0.5, 0.4))
