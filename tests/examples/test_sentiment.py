"""The sentiment example: parts that share no text, weights that are those of the network, a page that is right."""

from __future__ import annotations

import html.parser
import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import rnnjax as rj

pytest.importorskip("sklearn", reason="the example's baseline comes with scikit-learn, of the extra `examples`")

PATH = Path(__file__).parents[2] / "examples" / "sentiment.py"


@pytest.fixture(scope="module")
def sentiment():
    spec = importlib.util.spec_from_file_location("sentiment", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # optax relies on implicit promotion
    with jax.numpy_dtype_promotion("standard"):
        yield module


@pytest.fixture
def folder(tmp_path):
    """Reviews whose class is told by one word of each."""
    rng = np.random.default_rng(0)
    for name, words in (("neg", ("bad", "dull")), ("pos", ("good", "fine"))):
        lines = []
        for number in range(100):
            row = [f"w{i}" for i in rng.integers(0, 6, rng.integers(3, 7))] + [f"n{number}"]
            row.insert(rng.integers(0, len(row)), words[number % 2])
            lines.append(" ".join(row))
        (tmp_path / f"rt-polarity.{name}").write_text(
            "\n".join([*lines, "", *(f"Same text {i}" for i in range(10))]) + "\n"
        )
    return tmp_path


def test_no_text_is_in_two_parts(sentiment, folder, capsys):
    data = sentiment.load(str(folder), seed=3)
    assert " items, 2 left out, 0 mended" in capsys.readouterr().out
    assert data.names == ("negative", "positive")
    parts = [{" ".join(row).lower() for row in part.words} for part in data[:3]]
    assert [len(part.words) for part in data[:3]] == pytest.approx([176, 22, 22], abs=5)
    assert sum(map(len, parts)) == len(set().union(*parts)) == 210
    for part in data[:3]:
        for row, place in zip(part.words, part.places, strict=True):
            assert Path(place.path).read_text().splitlines()[place.line - 1] == " ".join(row)
        for row, label in zip(part.words, part.labels, strict=True):
            if row[0] != "Same":
                assert label == bool({"good", "fine"} & set(row))


def test_sentences_become_numbers(sentiment):
    vocabulary = rj.data.Vocabulary(("a", "b"), "word")
    part = sentiment.Sentences([["A", "c"], ["b", "B", "a"]], np.array([1, 0]))
    ids, labels, lengths = sentiment.numbered(vocabulary, part)
    np.testing.assert_array_equal(ids, [[4, 3, 0], [5, 5, 4]])
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_array_equal(lengths, [2, 3])


def test_weights_are_those_that_the_network_pools_with(sentiment):
    vocabulary = rj.data.Vocabulary(tuple("abcdefg"), "word")
    model = sentiment.build(vocabulary, 6)
    params = model.init(jax.random.key(1), None)
    ids, lengths = np.random.default_rng(0).integers(4, 11, (3, 6)), np.array([6, 2, 4])
    chances, weights = sentiment.judge(model, params, ids, lengths)
    scores = np.asarray(model(params, ids.T, lengths=lengths)[0])
    np.testing.assert_allclose(chances, np.exp(scores) / np.exp(scores).sum(1, keepdims=True), rtol=1e-5)
    embedded, _ = model.layers[0](params[0], ids.T)
    around, _ = model.layers[2].layer(params[2], embedded, lengths=lengths)
    encoded = np.where(np.arange(6)[:, None, None] < lengths[:, None], embedded + around, 0)
    w, b, v = map(np.asarray, params[3])
    energy = np.tanh(encoded @ w + b) @ v  # (T, B)
    for row, length in enumerate(lengths):
        expected = np.exp(energy[:length, row]) / np.exp(energy[:length, row]).sum()
        np.testing.assert_allclose(weights[row, :length], expected, rtol=1e-5)
        np.testing.assert_array_equal(weights[row, length:], 0)


def test_the_bag_of_words_finds_the_words(sentiment, folder):
    assert sentiment.bag_of_words(sentiment.load(str(folder), seed=0)) > 0.8


class Reader(html.parser.HTMLParser):
    """The words of a page with their styles and titles, its headings, and whether all tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.headings, self.styles = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)
        if tag == "span":
            self.styles.append(dict(attributes))
        if tag == "p":
            self.words.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "span":
            self.words[-1].append(text)
        if self.open and self.open[-1] in ("h1", "h2", "title"):
            self.headings.append(text)


def test_the_page_shows_words_by_weight(sentiment):
    words = [["plain"], ["other", '"quoted"'], ["<b>", "&amp;", "x"], ["lone"]]
    sentences = sentiment.Sentences(words, np.array([0, 0, 1, 1]))
    chances = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.05, 0.95]])
    weights = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.3, 0.2], [1, 0, 0]])
    read = Reader(sentiment.page("a < b?", sentences, ("no", "yes"), chances, weights))
    assert read.open == []
    right, wrong = ["Rightly taken for no", "Rightly taken for yes"], ["Wrongly taken for no", "Wrongly taken for yes"]
    assert read.headings == ["a < b?"] * 2 + right + wrong + ["Least certain"]
    plain, other, markup, lone = words
    assert read.words == [[], plain, lone, markup, other, other, plain, markup, lone]
    assert [style["title"] for style in read.styles[2:5]] == ["50.0%", "30.0%", "20.0%"]
    blue = "background: rgba(0, 114, 178, {})"
    assert [style["style"] for style in read.styles[2:5]] == [blue.format(s) for s in ("1.00", "0.60", "0.40")]
    assert read.styles[0]["style"] == "background: rgba(230, 159, 0, 1.00)"


@pytest.mark.slow
def test_the_example_learns_and_draws(sentiment, folder, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    out = tmp_path / "pages"
    figures = tmp_path / "figures.json"
    arguments = ["--data", str(folder), "--epochs", "8", "--out", str(out), "--write", str(figures)]
    monkeypatch.setattr(sys, "argv", ["sentiment.py", *arguments])
    sentiment.main()
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[1]: float(line.split()[2]) for line in lines if line.startswith("figure: ")}
    assert found.keys() == {"polarity_accuracy", "polarity_bag_of_words"}
    assert found["polarity_accuracy"] > 0.8
    assert '"polarity_accuracy"' in figures.read_text()
    assert (out / "sentiment.png").read_bytes().startswith(b"\x89PNG")
    read = Reader((out / "sentiment.html").read_text(encoding="utf-8"))
    assert read.styles
    assert any("dull" in row for row in read.words)


@pytest.mark.slow
def test_the_docstrings_run(sentiment, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["sentiment.py", "--smoke", "--out", str(tmp_path)])
    sentiment.main()
    assert "python or scipy" in capsys.readouterr().out
