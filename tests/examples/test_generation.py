"""Language models of characters and words: the text in numbers, what a model is judged by, and how it writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

PATH = Path(__file__).parents[2] / "examples" / "generation.py"
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def generation():
    spec = importlib.util.spec_from_file_location("generation", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One word,\nand another.\n\nA paragraph ends.\n" * 300 + "ξξξ zebra\n", encoding="utf-8")
    return path


@pytest.fixture
def letters(generation):
    """Twice eight letters in turn; unknown is 0, a is 1."""
    vocabulary = rj.data.Vocabulary(tuple(LETTERS), "character", ("unknown",))
    return generation.Text(vocabulary, vocabulary.encode(LETTERS * 4), 4 * len(LETTERS))


def bigrams(table):
    """A trained model whose scores of the next symbol are the row of the last one."""
    size = len(table)
    model = rj.Stack([rj.Embedding(size, size), rj.Dense(size)])
    params = model.init(jax.random.key(0), size)
    params = (params[0]._replace(w=jnp.asarray(table)), params[1]._replace(w=jnp.eye(size), b=jnp.zeros(size)))
    return rj.training.Fitted((params, model), params, {}, None)


@pytest.fixture
def alphabet(letters):
    """Knows which letter follows, the second most likely is the one after that; likes the unknown one most."""
    size = len(letters.vocabulary)
    ranks = (np.arange(1, size)[None] - np.arange(size)[:, None] - 1) % len(LETTERS)
    return bigrams(np.concatenate([np.full((size, 1), 30.0), 22.0 - 3.0 * ranks], axis=1).astype(np.float32))


@pytest.fixture(scope="module")
def recurrent():
    """A random network whose state lives on by itself, so that all that was read counts."""
    model = rj.Stack([rj.Embedding(9, 8), rj.RNN(rj.Elman(24)), rj.Dense(9)])
    embedding, cell, dense = jax.jit(model.init, static_argnums=1)(jax.random.key(1), 9)
    params = (embedding, cell._replace(u=1.5 * cell.u), dense._replace(w=3 * dense.w))
    return rj.training.Fitted((params, model), params, {}, None)


def test_rare_characters_are_unknown_and_the_others_come_back(generation, file, capsys):
    text = generation.read(str(file))
    assert capsys.readouterr().out == "1 items, 0 left out, 0 mended\n"
    whole = file.read_text(encoding="utf-8")
    assert text.characters == len(text.codes) == len(whole)
    assert text.decode(text.codes) == "".join("\ufffd" if letter in "ξzb" else letter for letter in whole)
    assert text.decode(text.encode("a ξwz.")) == "a w."


def test_words_keep_paragraphs_and_no_other_space(generation, file):
    text = generation.read(str(file), "word", 8)
    assert text.vocabulary.symbols[0] == "."
    assert len(text.vocabulary) == 8
    whole = generation.read(str(file), "word")
    assert whole.decode(whole.codes[:12]) == "One word , and another .\n\nA paragraph ends . One"
    assert "zebra" not in whole.vocabulary
    assert whole.characters == len(file.read_text(encoding="utf-8"))


def test_what_the_validation_part_alone_has_is_unknown(generation, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("known words. " * 1000 + "later " * 100)
    assert "later" not in generation.read(str(path), "word").vocabulary
    path.write_text("known words. " * 1000 + "\u00e9" * 100)
    assert "\u00e9" not in generation.read(str(path)).vocabulary


def test_a_text_can_be_cut_and_may_not_be_too_short(generation, file):
    assert generation.read(str(file), most=12_000).characters == 12_000
    with pytest.raises(SystemExit, match="has 900 characters: at least 10,000"):
        generation.read(str(file), most=900)


def test_targets_are_the_next_symbols_and_the_end_is_held_out(generation):
    codes = np.random.default_rng(0).integers(0, 50, 1003)
    (x, y), (x_last, y_last) = generation.split(codes, 7)
    assert x.shape == y.shape == (7, 901 // 7)
    np.testing.assert_array_equal(x.ravel(), codes[: x.size])
    np.testing.assert_array_equal(y.ravel(), codes[1 : x.size + 1])
    np.testing.assert_array_equal(x_last.ravel(), codes[902:][: x_last.size])
    np.testing.assert_array_equal(y_last[:, :-1], x_last[:, 1:])


def test_the_network_carries_its_state_on(generation):
    model = generation.build(9, 6, 2, 0.5)
    params = model.init(jax.random.key(0), 9)
    codes = jax.random.randint(jax.random.key(1), (7, 2), 0, 9)
    whole, _ = model(params, codes)
    first, state = model(params, codes[:3])
    rest, _ = model(params, codes[3:], state)
    assert whole.shape == (7, 2, 9)
    np.testing.assert_allclose(whole, jnp.concatenate([first, rest]), atol=1e-6)


def test_a_model_is_judged_by_its_surprise(generation):
    rng = np.random.default_rng(0)
    table, codes = rng.normal(size=(5, 5)).astype(np.float32), rng.integers(0, 5, 400).astype(np.int32)
    vocabulary = rj.data.Vocabulary(tuple("abcd"), "character", ("unknown",))
    found = generation.judge(bigrams(table), generation.Text(vocabulary, codes, 1000))
    log_p = table - np.log(np.exp(table).sum(1, keepdims=True))
    nats = -log_p[codes[360:-1], codes[361:]].mean()
    assert found["nats"] == pytest.approx(nats, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats), rel=1e-5)
    assert found["bits_per_character"] == pytest.approx(nats / np.log(2) * 0.4, rel=1e-5)


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}, {"beams": 3}])
def test_the_likeliest_letters_are_written_in_turn(generation, letters, alphabet, how):
    writer = generation.Writer(alphabet, letters)
    how = generation.How(**{"length": 10, "temperature": 1.0} | how)
    assert writer.write("xca", how) == "xcabcdefghabc"
    assert writer.write("", how) == "defghabcde"


@pytest.mark.parametrize(
    ("how", "start", "parts"),
    [
        ({}, "ba", ["bcdef", "gha"]),
        ({"no_repeat": 1}, "ba", ["cdefg", "h"]),  # behind which nothing is left
        ({"no_repeat": 2}, "aba", ["cdefg", "had"]),
        ({"no_repeat": 2, "beams": 1}, "aba", ["cdefg", "had"]),
        ({"repetition_penalty": 2.0}, "ba", ["cdefg", "hab"]),
        ({"repetition_penalty": 2.0, "beams": 1}, "ba", ["bcdef", "gha"]),
    ],
    ids=str,
)
def test_what_was_read_and_written_is_avoided_where_that_is_asked_for(generation, letters, alphabet, how, start, parts):
    """The next letter has score 22, the one after that 19; a penalty makes 11 of 22 and 9.5 of 19."""
    writer = generation.Writer(alphabet, letters)
    assert writer.write(start, generation.How(length=5, temperature=0.0, **how)) == start + parts[0]
    assert writer.write("", generation.How(length=3, temperature=0.0, **how)) == parts[1]


def test_draws_follow_the_seed_and_the_temperature(generation, letters, recurrent):
    def written(seed, temperature):
        how = generation.How(length=30, temperature=temperature)
        return generation.Writer(recurrent, letters, seed).write("ab", how)

    assert written(0, 1.0) == written(0, 1.0)
    assert written(0, 1.0) != written(1, 1.0)
    assert written(0, 0.0) == written(1, 0.0)


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"beams": 1}])
@pytest.mark.slow
def test_writing_goes_on_where_it_stopped(generation, letters, recurrent, how):
    writer = generation.Writer(recurrent, letters)
    parts = [writer.write(start, generation.How(length=length, **how)) for start, length in (("cab", 5), ("", 9))]
    params, model = recurrent.model
    codes = letters.encode("cab")
    for _ in range(14):
        scores, _ = model(params, jnp.asarray(codes)[:, None])  # all of it, anew
        codes = np.append(codes, 1 + int(scores[-1, 0, 1:].argmax()))  # without the unknown one
    assert "".join(parts) == letters.decode(codes)
    assert writer.write("cab", generation.How(length=5, **how)) == parts[0]


def test_words_are_set_apart_from_the_start(generation):
    vocabulary = rj.data.Vocabulary(("a", "b", "c"), "word", ("unknown",))
    fitted = bigrams(np.array([[0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9], [0, 9, 0, 0]], np.float32))
    writer = generation.Writer(fitted, generation.Text(vocabulary, np.zeros(1, np.int32), 1))
    assert writer.write("say a", generation.How(length=3, beams=2)) == "say a b c a"
    assert writer.write("", generation.How(length=2, beams=2)) == "b c"


def test_a_conversation_goes_on_from_lines_and_changes_settings(generation, letters, alphabet, capsys):
    writer, how = generation.Writer(alphabet, letters), generation.How(length=3, temperature=0.0)
    lines = ["", "xyz", "a-", "", ":length 2", "g", ":length", ":tempo 3", ":top_k many", ":length 1", "b", ":top_p 0"]
    generation.converse(writer, how, lines)
    found = capsys.readouterr().out.splitlines()
    assert "begin with in ''" in found[0]
    assert found[1] == "left out of 'xyz': character 1, 'x', is not in the vocabulary"
    assert "begin with in 'xyz'" in found[2]
    assert found[3] == "left out of 'a-': character 2, '-', is not in the vocabulary"
    assert found[4:6] == ["a-bcd", "efg"]
    assert "length=2" in found[6]
    assert found[7] == "gha"
    assert "length=300" in found[8]
    assert "tempo" in found[9]
    assert "many" in found[10]
    assert found[12:] == ["bc", "must be in (0, 1]; got 0"]


def test_typing_ends_with_the_input(generation, monkeypatch):
    answers = iter(["a", ""])

    def answer(prompt):
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    assert list(generation.typed()) == ["a", ""]


@pytest.mark.slow
def test_the_script_learns_writes_and_draws(generation, file, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    arguments = ["--smoke", "--unit", "word", "--data", str(file), "--out", str(tmp_path), "--start", "A"]
    arguments += ["--temperature", "0.5"]
    monkeypatch.setattr(sys, "argv", ["generation.py", *arguments])
    generation.main()
    out = capsys.readouterr().out
    samples = [part.splitlines() for part in out.split("\n--- ")[1:]]
    assert [sample[0] for sample in samples] == [
        "temperature 0.3",
        "temperature 0.5",
        "temperature 0.7",
        "temperature 1.0",
        "4 beams, no 3 words twice",
    ]
    assert all(sample[1].startswith("A ") for sample in samples)
    figures = {line.split()[1]: float(line.split()[2]) for line in out.splitlines() if line.startswith("figure: ")}
    assert [*figures] == ["word_model_perplexity", "word_model_bits_per_character"]
    assert 1 < figures["word_model_perplexity"] < 12  # of 13 symbols
    assert (tmp_path / "generation.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_package_is_named_before_anything_is_read(generation, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["generation.py"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="needs matplotlib: pip install"):
        generation.main()


@pytest.mark.slow
def test_checkpoints_hold_a_trained_network(generation, file, monkeypatch, capsys, tmp_path):
    """A second call makes no step: it finds the parameters, the history and what they write."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    options = {"data": file, "out": tmp_path, "checkpoints": tmp_path / "kept", "hidden": 8, "epochs": 2, "length": 5}
    arguments = ["generation.py", "--start", "One"]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    monkeypatch.setattr(sys, "argv", arguments)
    fits, fit = [], rj.training.fit

    def watched(*args, **kwargs):
        steps = []
        fitted = fit(*args, **kwargs, callbacks=[lambda report: steps.append(report)])
        fits.append((fitted, len(steps)))
        return fitted

    monkeypatch.setattr(rj.training, "fit", watched)
    generation.main()
    first = capsys.readouterr().out
    with pytest.warns(UserWarning, match="had ended, after 2 epochs"):
        generation.main()
    second = capsys.readouterr().out
    (trained, epochs), (found, none) = fits
    assert (epochs, none) == (2, 0)
    assert found.history == trained.history
    jax.tree.map(np.testing.assert_array_equal, found.params, trained.params)
    assert first.split("\nvalidation: ")[1] == second.split("\nvalidation: ")[1]


def test_a_start_that_the_text_does_not_have_is_replaced(generation, tmp_path, monkeypatch, capsys, recurrent):
    path = tmp_path / "text.txt"
    path.write_text("klmnopqr" * 2000)
    monkeypatch.setattr(sys, "argv", ["generation.py", "--data", str(path), "--length", "3", "--out", str(tmp_path)])
    monkeypatch.setattr(generation, "train", lambda text, args: recurrent)
    monkeypatch.setattr(generation, "judge", lambda *_: {"nats": 1.0, "perplexity": 1.0, "bits_per_character": 1.0})
    monkeypatch.setattr(rj.diagnostics.plots, "learning_curve", MagicMock())
    generation.main()
    out = capsys.readouterr().out
    assert "the text has nothing of `--start`: samples begin with 'k'" in out
    assert all(part.splitlines()[1].startswith("k") for part in out.split("\n--- ")[1:])
