"""What cannot be used ends an example with a sentence; `--encoding` reads a file, and unknown symbols are named."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
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
    file = "file.pos" if name == "sentiment" else "file.txt"
    Path(file).write_bytes(text.encode("utf-16"))
    data = ["--data", file]
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


# numbers that a flag does not take, and what it takes
RANGES = {
    "at least 1": {
        "dialogue": ["--epochs 0"],
        "dialogue respond": ["--epochs 0"],
        "generation": [
            "--epochs -1",
            "--beams 0",
            "--top-k 0",
            "--length 0",
            "--no-repeat -1",
            "--window 0",
            "--rows 0",
        ],
        "sentiment": ["--epochs 0"],
        "speech": ["--epochs 0", "--count 0", "--tests 0", "--layers 0"],
        "summarisation": ["--epochs 0", "--beams 0", "--batch 0", "--words 0"],
        "translation": ["--epochs 0", "--epochs -1", "--beams 0", "--size 0", "--most-words 0"],
    },
    "at least 0": {
        "generation": ["--temperature -1", "--temperature nan", "--temperature inf", "--seed -1"],
        "summarisation": ["--beta -1", "--own-words -1"],
    },
    "above 0": {"generation": ["--repetition-penalty 0"], "speech": ["--learning-rate 0"]},
    "in (0, 1]": {"generation": ["--top-p 0", "--top-p 1.1"]},
    "in [0, 1)": {"generation": ["--dropout 1"], "summarisation": ["--dropout -0.1"]},
    "finite": {"summarisation": ["--alpha nan"]},
}


@pytest.mark.parametrize(("wanted", "name"), [(wanted, name) for wanted in RANGES for name in RANGES[wanted]])
def test_numbers_out_of_range_are_refused_before_anything_is_done(monkeypatch, capsys, tmp_path, wanted, name):
    monkeypatch.chdir(tmp_path)
    example = loaded(name.split()[0])
    for flag, number in map(str.split, RANGES[wanted][name]):
        command = [*name.split(), f"{flag}={number}", "--data", "nowhere", "--out", "out/file"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as error:
            example.main()
        assert error.value.code == 2
        assert f"argument {flag}: must be {wanted}; got {number}\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_quickstart_needs_an_epoch(monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="its data come with scikit-learn, of the extra `examples`")
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--epochs", "0"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "quickstart.py"), run_name="__main__")
    assert "--epochs must be at least 1" in capsys.readouterr().err


def test_ends_of_ranges_are_taken():
    parsed = loaded("generation").arguments().parse_args(["--temperature=0", "--top-p=1", "--dropout=0", "--seed=0"])
    assert (parsed.temperature, parsed.top_p, parsed.dropout, parsed.seed) == (0.0, 1.0, 0.0, 0)
    assert loaded("summarisation").arguments().parse_args(["--own-words", "0", "--alpha", "-1"]).own_words == 0


def test_checkpoints_of_other_data_are_refused(tmp_path, monkeypatch):
    """Whatever flags they came by; a folder without a checkpoint is anyone's."""
    claim, folder = loaded("speech").common.claim, tmp_path / "kept"
    data = {"train": ["one", "two"], "test": [np.arange(3.0)]}
    others = [data | {"test": [np.arange(4.0)]}, data | {"train": ["two", "one"]}]
    claim(SimpleNamespace(checkpoints=None), data)
    args = SimpleNamespace(checkpoints=str(folder))
    for one in (*others, data):
        monkeypatch.setattr("sys.argv", ["speech.py", "--data", "digits"])
        claim(args, one)
    (folder / "1").mkdir()
    monkeypatch.setattr("sys.argv", ["speech.py", "--hold-out", "theo"])
    claim(args, data)
    for one in others:
        with pytest.raises(SystemExit, match="are of other data, of a run with the flags --data digits: give these"):
            claim(args, one)
    (folder / "data.json").unlink()
    with pytest.raises(SystemExit, match="of a run with the flags that nobody has noted"):
        claim(args, data)


def pairs_of_words():
    Path("pairs.tsv").write_text("\n".join(f"the word{n}\tel {n}" for n in range(200)), encoding="utf-8")


def reviews():
    for name in ("neg", "pos"):
        Path(f"rt-polarity.{name}").write_text("\n".join(f"so {name} n{n}" for n in range(100)), encoding="utf-8")


def news():
    rows = (json.dumps({"source": f"News {n}. More.", "target": f"news {n}", "title": "news"}) for n in range(40))
    Path("rows.jsonl").write_text("\n".join(rows), encoding="utf-8")


def long_text():
    Path("text.txt").write_text("some words\n" * 1100, encoding="utf-8")


def spoken():
    for number in range(40):
        rj.data.write_wav(f"{number % 10}_{('ann', 'bob')[number % 2]}_{number // 4}.wav", [0.1] * 8000, 8000)


# flags that make the data and others that make other data of the same file
CLAIMED = {
    "generation": (long_text, ["--data", "text.txt"], ["--unit", "word"]),
    "sentiment": (reviews, ["--data", "."], ["--seed", "1"]),
    "speech": (spoken, ["--data", "."], ["--hold-out", "bob"]),
    "summarisation": (news, ["--data", "rows.jsonl"], ["--fields", "source", "title"]),
    "translation": (pairs_of_words, ["--data", "pairs.tsv", "--vocabulary", "word"], ["--columns", "1", "0"]),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("generation", "sentiment") else pytest.mark.slow) for name in CLAIMED],
)
def test_a_network_of_other_data_is_not_taken_up(run, name):
    """The second call would train nothing and judge what has learnt from the test."""
    make, flags, others = CLAIMED[name]
    make()
    flags = [*flags, "--checkpoints", "kept"]
    with pytest.raises(Enough):
        run(name, *flags)
    Path("kept", "1").mkdir()
    with pytest.raises(Enough):
        run(name, *flags)
    with pytest.raises(SystemExit, match=r"kept are of other data, of a run with the flags .*: give these, or"):
        run(name, *flags, *others)


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
    reviews()
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
    assert "40 items, 0 left out, 0 mended\n2 items, 0 left out, 0 mended\n" in out
    assert re.search(
        r"1 of 2 have words that are unknown\n  \S+:3: word 2, 'him', is not in the vocabulary\nfigure", out
    )
