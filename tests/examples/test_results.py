"""What an example found is not lost: folders are made before the training, figures come last, whatever else fails."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from example_files import NEEDED, loaded

import rnnjax as rj

FLAGS = [(name, flag) for name in NEEDED for flag in ("--out", "--write")]


def no_picture(*_):
    raise RuntimeError("no picture")


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_a_folder_that_cannot_be_made_is_named_before_the_training(name, flag, monkeypatch, tmp_path):
    def trained(*_, **__):
        pytest.fail("this was trained in vain")

    example = loaded(name)
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(rj.training, "fit", trained)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke", flag, "file/deep/found"])
    with pytest.raises(NotADirectoryError, match="file/deep"):
        example.main()


# Each puts something small for data and training, and `picture` for what draws; it returns the figures that follow.


def dialogue(example, monkeypatch, picture):
    example.understand = lambda args: ({"intent": 0.25, "slot_f1": 0.5}, {"loss": [1.0]}, None, None)
    monkeypatch.setattr(rj.diagnostics.plots, "learning_curve", picture)
    return {"house_intent": 0.25, "house_slot_f1": 0.5}


def generation(example, monkeypatch, picture):
    vocabulary = rj.data.Vocabulary(tuple("The "), "character", ("unknown",))
    example.read = lambda *_: example.Text(vocabulary, vocabulary.encode("The "), 4)
    example.train = lambda *_: SimpleNamespace(history={})
    example.judge = lambda *_: {"nats": 1.5, "perplexity": 4.5, "bits_per_character": 2.25}
    example.Writer = lambda *_: SimpleNamespace(write=lambda start, how: start)
    monkeypatch.setattr(rj.diagnostics.plots, "learning_curve", picture)
    return {"character_model_perplexity": 4.5, "character_model_bits_per_character": 2.25}


def sentiment(example, monkeypatch, picture):
    four = example.Sentences([["one", "word"]] * 4, np.array([0, 1, 1, 0]))
    example.load = lambda *_: example.Data(four, four, four, ("python", "scipy"))
    example.train = lambda *_: SimpleNamespace(model=(None, None), history={"loss": [1.0]})
    example.judge = lambda *_: (np.eye(2)[[0, 1, 1, 1]], np.full((4, 2), 0.5))  # the last is wrong
    example.bag_of_words = lambda data: 0.5
    monkeypatch.setattr(rj.diagnostics.plots, "learning_curve", picture)
    return {"docstrings_accuracy": 0.75, "docstrings_bag_of_words": 0.5}


def speech(example, monkeypatch, picture):
    said = [rj.data.Utterance(np.zeros(1), text) for text in ("abcd", "abcdef")]
    example.morse = lambda args: example.Task("morse_cer_5db", None, lambda epoch: said, [], {"5 dB": said})
    example.train = lambda *_: None
    example.transcribe = lambda recogniser, utterances, beams=8: [one.text[1:] for one in utterances]
    example.draw = picture
    return {"morse_cer_5db": 0.2}  # two of ten characters


def summarisation(example, monkeypatch, picture):
    def predict(model, inputs, **_):
        """A summary of the text's first word; what the picture needs is not to be had."""
        return picture() if isinstance(inputs, dict) else inputs[:, :1]

    pairs = [example.Pair("Reads files. It is long.", "Reads files")] * 3
    example.load = lambda args: [pairs] * 3
    example.show = picture
    example.train = lambda *_: SimpleNamespace(params=None)
    monkeypatch.setattr(rj.training, "predict", predict)
    # of one word in two, precision 1 and recall 1/2; the first sentence has both
    return {"summaries_rouge_l": 2 / 3, "summaries_rouge_l_over_lead1": -1 / 3}


def translation(example, monkeypatch, picture):
    pairs = [("a", "b")] * 4
    vocabulary = rj.data.Vocabulary.characters(["ab"])
    example.dates = lambda *_: example.Task(pairs, pairs, pairs, vocabulary, vocabulary)
    example.train = lambda *_, **__: SimpleNamespace(params={}, history={"val_loss": [1.0]})
    example.translate = lambda *_: ["b", "b", "a", "b"]
    example.draw = picture
    return {"dates_exact": 0.75}


@pytest.mark.parametrize(("flags", "name", "errors"), [([], "", 0.2), (["--streaming"], "_streaming", 0.4)])
def test_a_stream_is_judged_by_the_best_path(flags, name, errors, monkeypatch, capsys, tmp_path):
    example = loaded("speech")
    speech(example, monkeypatch, MagicMock())
    # a beam misses one character of five, the best path two
    example.transcribe = lambda recogniser, said, beams=8: [one.text[1 if beams else 2 :] for one in said]
    example.Stream = lambda *_: SimpleNamespace(feed=lambda *_, **__: "")
    monkeypatch.setattr(sys, "argv", ["speech.py", "--smoke", *flags, "--out", str(tmp_path)])
    example.main()
    assert capsys.readouterr().out.splitlines()[-1] == f"figure: morse_cer_5db{name} {errors:.4f}"


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("small", [dialogue, generation, sentiment, speech, summarisation, translation])
def test_figures_come_last_whatever_becomes_of_the_picture(small, fails, monkeypatch, capsys, tmp_path):
    name = small.__name__
    example = loaded(name)
    expected = small(example, monkeypatch, no_picture if fails else MagicMock())
    monkeypatch.chdir(tmp_path)
    write = "new/figures/found.json"
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke", "--out", "new/pictures/found", "--write", write])
    with pytest.raises(RuntimeError, match="no picture") if fails else nullcontext():
        example.main()
    assert Path("new/pictures").is_dir()
    last = [line.split() for line in capsys.readouterr().out.splitlines()[-len(expected) :]]
    assert [word for word, *_ in last] == ["figure:"] * len(expected)
    assert {figure: float(value) for _, figure, value in last} == pytest.approx(expected, abs=1e-4)
    written = json.loads(Path(write).read_text(encoding="utf-8"))["figures"]
    assert {figure: written[figure] for figure in expected} == pytest.approx(expected, abs=1e-4)
