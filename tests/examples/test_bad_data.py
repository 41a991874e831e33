"""What cannot be used ends an example with a sentence; `--encoding` reads a file, and unknown symbols are named."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from example_files import NEEDED, loaded

import rnnjax as rj

# a text for each example that takes an encoding, and what is wrong with it once it is read
TEXTS = {
    "generation": ("short", "has 5 characters: at least 10,000 are needed"),
    "sentiment": ("so good", "must have sentences of two labels; it has positive"),
    "speech": ("missing.wav\tsaid", "left out: .*missing.wav"),
    "summarisation": ('{"source": "a b", "target": "a"}', "has 1 pairs: too few"),
    "translation": ("one\tuno", "has 1 pairs of at most 10 words: too few"),
}

QUERY = '{"data": [{"text": "wake me"}]}'
TURN = '{"usr": {"transcript": "a", "slu": []}, "sys": {"sent": "b"}}'
# flags, files in a folder, and what is said of so few, for each example whose sets are folders or have no encoding
FEW = {
    "requests": (
        ["dialogue"],
        {"train_A_full.json": f'{{"A": [{QUERY}]}}', "validate_A.json": f'{{"A": [{QUERY}]}}'},
        "has 1 items: 20 different are needed",
    ),
    "one request many times": (
        ["dialogue"],
        {
            "train_A_full.json": f'{{"A": [{", ".join([QUERY] * 40)}]}}',
            "validate_A.json": f'{{"A": [{QUERY}]}}',
        },
        "has 40 items: 20 different are needed",
    ),
    "conversations": (
        ["dialogue", "respond"],
        {"camrest.json": f'[{{"dialogue_id": 1, "dial": [{TURN}]}}]'},
        "has 1 items: 5 different are needed",
    ),
    "sentences": (["sentiment"], {"a.neg": "so bad", "a.pos": "so good"}, "has 2 sentences: too few"),
    "digits": (
        ["speech"],
        {"0_ann_0.wav": "", "1_ann_7.wav": ""},
        r"has \[1, 0, 1\] clips .*: too few; speakers: \['ann'",
    ),
}


class Enough(Exception):
    """Raised where the training would begin."""


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs an example with these flags; what its functions are replaced by comes last."""

    def run(name, *flags, **replaced):
        example = loaded(name)
        for function, other in replaced.items():
            monkeypatch.setattr(example, function, other)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--out", "out/file", *flags])
        example.main()

    def no_training(*_, **__):
        raise Enough

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rj.training, "fit", no_training)
    return run


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_in_another_encoding_is_read_if_that_is_said(run, name):
    text, wrong = TEXTS[name]
    Path("file.txt").write_bytes(text.encode("utf-16"))
    data = ["--data", "file.txt"]
    with pytest.raises(SystemExit, match=re.escape('begins as UTF-16 does; pass `encoding="utf-16"`')):
        run(name, *data)
    with pytest.raises(SystemExit, match="unknown encoding: nonsense"):
        run(name, *data, "--encoding", "nonsense")
    with pytest.raises(SystemExit, match=wrong):
        run(name, *data, "--encoding", "utf-16")


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_ends_with_a_sentence(run, name):
    with pytest.raises(SystemExit, match=r"No such file or directory: '.*nowhere"):
        run(name, "--data", "nowhere")


@pytest.mark.parametrize("case", FEW)
def test_too_little_to_learn_from_ends_with_a_sentence(run, case):
    (name, *flags), files, wrong = FEW[case]
    Path("few").mkdir()
    for file, text in files.items():
        if file.endswith(".wav"):
            rj.data.write_wav(Path("few", file), [0.1] * 4000, 8000)
        else:
            Path("few", file).write_text(text)
    with pytest.raises(SystemExit, match=f"few {wrong}"):
        run(name, *flags, "--data", "few")


TABLE, FOLDER = ["--data", "table.tsv"], ["--data", "."]
# flags that would have no effect, and what is said of the first
UNUSED = {
    "speech": [
        (["--hold-out", "alice"], "--hold-out is not for morse"),
        (["--hold-out", "alice", *TABLE], "--hold-out is not for recordings"),
        (["--count", "9", *TABLE], "--count is not for recordings"),
        (["--tests", "9", *TABLE], "--tests is not for recordings"),
        (["--encoding", "latin-1"], "--encoding is not for morse"),
        (["--encoding", "latin-1", *FOLDER], "--encoding is not for digits"),
    ],
    "translation": [
        ([f"--{name}", *values], f"--{name} needs `--data`")
        for name, *values in (
            ("columns", "1", "0"),
            ("vocabulary", "word"),
            ("size", "9"),
            ("most-words", "9"),
            ("encoding", "latin-1"),
        )
    ],
    "summarisation": [
        (["--fields", "a", "b"], "--fields needs `--data`"),
        (["--encoding", "latin-1"], "--encoding needs `--data`"),
        (["--own-words", "9", "--unit", "piece"], "--own-words needs `--unit word`"),
    ],
    "sentiment": [(["--encoding", "latin-1"], "--encoding needs `--data`")],
}


@pytest.mark.parametrize("name", UNUSED)
def test_flags_without_effect_are_refused(run, capsys, name):
    for flags, said in UNUSED[name]:
        with pytest.raises(SystemExit) as error:
            run(name, *flags)
        assert error.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["translation"], ["dialogue"], ["dialogue", "respond"]], ids=" ".join)
def test_no_epoch_is_refused_before_anything_is_read(monkeypatch, capsys, tmp_path, flags):
    monkeypatch.chdir(tmp_path)
    for epochs in ("0", "-1"):
        monkeypatch.setattr(sys, "argv", [*flags, "--epochs", epochs, "--data", "nowhere", "--out", "out/file"])
        with pytest.raises(SystemExit) as error:
            loaded(flags[0]).main()
        assert error.value.code == 2
        assert "--epochs must be at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "flags"), [("translation", []), ("dialogue", []), ("dialogue", ["respond"])])
def test_epochs_are_those_of_the_flag(run, name, flags):
    seen = []

    def stopped(*given, **_):
        seen.extend(one.epochs for one in given if hasattr(one, "epochs"))
        raise Enough

    own = {"train": stopped, "dates": lambda *_: loaded(name).dates(20, 0)} if name == "translation" else {}
    if name == "dialogue":
        own = {"understand": stopped, "respond": stopped}
    with pytest.raises(Enough):
        run(name, *flags, "--epochs", "1", **own)
    assert seen == [1]


def test_a_smoke_run_takes_few_of_many_recordings(run):
    """Of 130 recordings the first hundred are dealt."""
    for number in range(130):
        rj.data.write_wav(f"{number}.wav", [0.1] * 8000, 8000)
    Path("table.tsv").write_text("\n".join(f"{number}.wav\tabc{number:03}" for number in range(130)))
    tasks = []

    def stopped(task, args):
        tasks.append(task)
        raise Enough

    for flags, count in ((["--smoke"], 100), ([], 130)):
        with pytest.raises(Enough):
            run("speech", "--data", "table.tsv", *flags, train=stopped)
        task = tasks.pop()
        assert len(task.training(0)) + len(task.validation) + len(task.tests["test"]) == count


def test_a_text_is_also_named_by_its_other_flag(run):
    with pytest.raises(SystemExit, match=r"No such file or directory: '.*nowhere"):
        run("generation", "--text", "nowhere")


def test_unknown_characters_of_a_text_are_named(run, capsys):
    Path("text.txt").write_text("some words\n\n" * 1000 + "an ξ\n" + "some words\n" * 50, encoding="utf-8")
    with pytest.raises(Enough):
        run("generation", "--data", "text.txt")
    assert "text.txt:2001: character 1, 'a', is not in the vocabulary\n" in capsys.readouterr().out
    Path("text.txt").write_text("some words\n\n" * 1000 + "new ones\nsome words\n" * 50, encoding="utf-8")
    with pytest.raises(Enough):
        run("generation", "--data", "text.txt", "--unit", "word")
    named = re.findall(r"text.txt:(\d+): word 1, 'new', is not in the vocabulary", capsys.readouterr().out)
    assert named == [str(line) for line in range(2001, 2011, 2)]  # five of fifty, all in the validation part


@pytest.mark.slow
def test_unknown_words_of_a_translation_are_named(run, capsys):
    lines = [f"the word{number}\tel {number}" for number in range(200)]
    Path("pairs.tsv").write_text("\n".join(["no tab", *lines]), encoding="utf-8")
    with pytest.raises(Enough):
        run("translation", "--data", "pairs.tsv", "--vocabulary", "word")
    named = re.findall(
        r"pairs.tsv:(\d+): in the test word 2, 'word(\d+)', is not in the vocab", capsys.readouterr().out
    )
    assert len(named) == 5
    assert all(int(line) == int(number) + 2 for line, number in named)


@pytest.mark.slow
def test_unknown_words_of_a_summary_are_named(run, capsys):
    texts = {"train": ["some news"] * 8, "dev": ["some news"], "test": ["some news", "news again"]}
    Path("news").mkdir()
    for part, summaries in texts.items():
        rows = [json.dumps({"source": ["News.", f"It is {part}."], "target": summary}) for summary in summaries]
        Path("news", f"{part}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(Enough):
        run("summarisation", "--data", "news")
    out = capsys.readouterr().out
    assert "8 + 1 + 2 pairs" in out
    assert re.findall(r"(\S+): unknown: '(.+)'", out) == [(str(Path("news", "test.jsonl:2")), "again")]


def test_unknown_words_of_reviews_are_named(run, capsys):
    for name in ("neg", "pos"):
        lines = [f"so {name} n{number}" for number in range(100)]
        Path(f"rt-polarity.{name}").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(Enough):
        run("sentiment", "--data", ".")
    out = capsys.readouterr().out
    named = re.findall(r"rt-polarity.(?:neg|pos):(\d+): word 3, 'n(\d+)', is not in the vocabulary", out)
    assert len(named) == 5
    assert all(int(line) == int(number) + 1 for line, number in named)
    assert "20 of 20 test sentences have unknown words" in out


@pytest.mark.slow
def test_unknown_words_of_requests_are_named(run, monkeypatch, capsys):
    Path("snips").mkdir()
    for part, said in (
        ("train", ["wake me" + " wake" * n for n in range(20)] * 2),
        ("validate", ["wake me", "wake him"]),
    ):
        file = Path("snips", f"{part}_Wake{'_full' * (part == 'train')}.json")
        rows = ",\n".join(json.dumps({"data": [{"text": text}]}) for text in said)
        file.write_text('{"Wake": [\n' + rows + "]}", encoding="utf-8")
    monkeypatch.setattr(rj.diagnostics.plots, "learning_curve", MagicMock())
    fitted = SimpleNamespace(model=None, history={})
    found = [("Wake", ["O", "O"])] * 2
    run(
        "dialogue",
        "--data",
        "snips",
        train=lambda *_, **__: fitted,
        read=lambda lexicon, model, said: found[: len(said)],
    )
    out = capsys.readouterr().out
    assert "40 items, 0 problems\n2 items, 0 problems\n" in out
    assert re.search(
        r"1 of 2 have words that are unknown\n  \S+:3: word 2, 'him', is not in the vocabulary\nfigure", out
    )
