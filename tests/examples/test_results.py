"""What an example found is not lost: folders are made before the training, figures are out before the picture."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rnnjax as rj

FOLDER = Path(__file__).parents[2] / "examples"
# what an example needs of the extra `examples`, beside matplotlib
NEEDED = {
    "dialogue": "sacrebleu",
    "generation": "matplotlib",
    "sentiment": "sklearn",
    "speech": "jiwer",
    "summarisation": "rouge_score",
    "translation": "babel",
}
FLAGS = [(name, flag) for name in NEEDED for flag in ("--out", "--write") if (name, flag) != ("generation", "--write")]


def loaded(name):
    for package in ("matplotlib", NEEDED[name]):
        pytest.importorskip(package, reason=f"the example needs {package}, of the extra `examples`")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


# Each puts something small for data and training, and makes the picture fail; it returns the figures that follow.


def dialogue(example, monkeypatch):
    example.understand = lambda args: ({"intent": 0.25, "slot_f1": 0.5}, {"loss": [1.0]}, None)
    monkeypatch.setattr(rj.diagnostics.plots, "learning_curve", no_picture)
    return {"house_intent": 0.25, "house_slot_f1": 0.5}


def generation(example, monkeypatch):
    vocabulary = rj.data.Vocabulary(tuple("The "), "character", ("unknown",))
    example.read = lambda *_: example.Text(vocabulary, vocabulary.encode("The "), 4)
    example.train = lambda *_: SimpleNamespace(history={})
    example.judge = lambda *_: {"nats": 1.5, "perplexity": 4.5, "bits_per_character": 2.25}
    example.Writer = lambda *_: SimpleNamespace(write=lambda start, how: start)
    example.draw = no_picture
    return {"character_model_perplexity": 4.5, "character_model_bits_per_character": 2.25}


def sentiment(example, monkeypatch):
    four = example.Sentences([["one", "word"]] * 4, np.array([0, 1, 1, 0]))
    example.load = lambda *_: example.Data(four, four, four, ("python", "scipy"))
    example.train = lambda *_: (None, None)
    example.judge = lambda *_: (np.eye(2)[[0, 1, 1, 1]], np.full((4, 2), 0.5))  # the last is wrong
    example.bag_of_words = lambda data: 0.5
    example.page = no_picture
    return {"docstrings_accuracy": 0.75, "docstrings_bag_of_words": 0.5}


def speech(example, monkeypatch):
    said = [rj.data.Utterance(np.zeros(1), text) for text in ("abcd", "abcdef")]
    example.morse = lambda args: example.Task("morse_cer_5db", None, None, [], {"5 dB": said})
    example.train = lambda *_: None
    example.transcribe = lambda recogniser, utterances, beams=8: [one.text[1:] for one in utterances]
    example.draw = no_picture
    return {"morse_cer_5db": 0.2}  # two of ten characters


def summarisation(example, monkeypatch):
    def predict(model, inputs, **_):
        """A summary of the text's first word; what the picture needs is not to be had."""
        return no_picture() if isinstance(inputs, dict) else inputs[:, :1]

    pairs = [example.Pair("Reads files. It is long.", "Reads files")] * 3
    example.load = lambda args: [pairs] * 3
    example.train = lambda *_: SimpleNamespace(params=None)
    monkeypatch.setattr(rj.training, "predict", predict)
    # of one word in two, precision 1 and recall 1/2; the first sentence has both
    return {"summaries_rouge_l": 2 / 3, "summaries_rouge_l_over_lead1": -1 / 3}


def translation(example, monkeypatch):
    pairs = [("a", "b")] * 4
    vocabulary = rj.data.Vocabulary.characters(["ab"])
    example.dates = lambda *_: example.Task(pairs, pairs, pairs, vocabulary, vocabulary)
    example.train = lambda *_, **__: SimpleNamespace(params={}, history={"val_loss": [1.0]})
    example.translate = lambda *_: ["b", "b", "a", "b"]
    example.draw = no_picture
    return {"dates_exact": 0.75}


@pytest.mark.parametrize("small", [dialogue, generation, sentiment, speech, summarisation, translation])
def test_figures_are_out_before_the_picture(small, monkeypatch, capsys, tmp_path):
    name = small.__name__
    example = loaded(name)
    expected = small(example, monkeypatch)
    monkeypatch.chdir(tmp_path)
    write = [] if name == "generation" else ["--write", "new/figures/found.json"]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke", "--out", "new/pictures/found", *write])
    with pytest.raises(RuntimeError, match="no picture"):
        example.main()
    assert Path("new/pictures").is_dir()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("figure: ")]
    assert {figure: float(value) for _, figure, value in lines} == pytest.approx(expected, abs=1e-4)
    if write:
        written = json.loads(Path(write[1]).read_text(encoding="utf-8"))["figures"]
        assert {figure: written[figure] for figure in expected} == pytest.approx(expected, abs=1e-4)
