"""The translation example: its parts by value, and that it runs from end to end."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

pytest.importorskip("babel", reason="dates are written by babel, of the extra `examples`")
pytest.importorskip("sacrebleu", reason="BLEU is sacrebleu's, of the extra `examples`")

PATH = Path(__file__).parents[2] / "examples" / "translation.py"


@pytest.fixture(scope="module")
def translation():
    spec = importlib.util.spec_from_file_location("translation", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def untrained(translation):
    """A task of few dates, and what training it would return with the parameters still as drawn, but with scores far
    enough apart that no two are nearly equal."""
    task = translation.dates(120, seed=3)
    model = translation.build(len(task.source), len(task.target), translation.SMOKE)
    params = model.init(jax.random.key(1))
    *below, dense = params["decoder"]
    params["decoder"] = (*below, dense._replace(w=dense.w * 10))
    return task, rj.training.Fitted((params, model), params, {}, None)


def reference_bleu(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    """BLEU of Papineni et al. 2002 from its formula, without smoothing."""
    logs = 0.0
    for n in range(1, 5):
        hits = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            grams, wanted = (
                Counter(tuple(row[i : i + n]) for i in range(len(row) - n + 1)) for row in (hypothesis, reference)
            )
            hits += sum(min(count, wanted[gram]) for gram, count in grams.items())
            total += sum(grams.values())
        logs += math.log(hits / total) / 4
    ours, theirs = (sum(map(len, rows)) for rows in (hypotheses, references))
    return 100 * math.exp(logs + min(0, 1 - theirs / ours))


def test_bleu_is_that_of_the_formula(translation):
    hypotheses = ["the the cat sat on the mat", "he has been there before , they say .", "no"]
    references = ["the cat sat on the red mat today", "He had been there before, they say.", "No."]
    split = [["the", "cat", "sat", "on", "the", "red", "mat", "today"]]
    split += [["he", "had", "been", "there", "before", ",", "they", "say", "."], ["no", "."]]
    wanted = reference_bleu([text.split() for text in hypotheses], split)
    assert 40 < wanted < 70
    assert translation.bleu(hypotheses, references) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("file", "columns", "name"),
    [
        ("of/spa-eng.zip", (1, 0), "spa_eng"),
        ("spa-eng.zip", [0, 1], "eng_spa"),
        ("spa-eng.tsv", (2, 0), "spa_eng_2_0"),
        ("pairs.txt", (0, 1), "pairs_0_1"),
    ],
)
def test_figures_are_named_by_what_is_translated_to_what(translation, file, columns, name):
    assert translation.named(file, columns) == name


@pytest.mark.parametrize(("package", "flags"), [("matplotlib", []), ("sacrebleu", ["--data", "pairs.tsv"])])
def test_a_missing_package_is_named_before_anything_is_read(translation, monkeypatch, package, flags):
    monkeypatch.setattr(sys, "argv", ["translation.py", *flags])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=f"needs {package}: pip install"):
        translation.main()


def test_exact_counts_equal_texts(translation):
    assert translation.exact(["a b", "a", "A", ""], ["a b", "ab", "a", ""]) == 0.5


def numbers(text: str) -> list[int]:
    return sorted(map(int, re.findall("[0-9]+", text)))


def test_dates_are_tested_in_forms_that_training_lacks(translation):
    task = translation.dates(200, seed=1)
    assert [len(part) for part in task[:3]] == [800, 100, 100]
    train, held = (rj.data.date_pairs(200, seed=3), rj.data.date_pairs(100, seed=5, held_out=True))
    assert [pair[1] for pair in task.train] == [pair.iso for pair in 4 * train]
    changed = [(text, pair.text) for (text, _), pair in zip(task.train, 4 * train, strict=True) if text != pair.text]
    assert 300 < len(changed) < 500
    assert all(numbers(ours) == numbers(theirs) for ours, theirs in changed)
    assert task.test == [(pair.text, pair.iso) for pair in held]
    assert not {pair[:1] + pair[2:] for pair in train} & {pair[:1] + pair[2:] for pair in held}
    assert not {(pair.locale, pair.format) for pair in train} & {(pair.locale, pair.format) for pair in held}
    assert task.validation != task.train[:100]


@pytest.fixture
def file(tmp_path):
    """Sentences of 60 numbers, each in two ways, with bad lines between them."""
    lines = [f"Number {i} is {'odd' if i % 2 else 'even'}.\t¿El {i} es {word}?" for i in range(60) for word in "ab"]
    lines[5:5] = ["", "no tab", "too many words " * 4 + "\tcorto"]
    path = tmp_path / "eng-num.tsv"
    path.write_bytes("\n".join(lines).encode() + b"\nbad\t\xff\n")
    return path


@pytest.mark.parametrize("columns", [(0, 1), (1, 0)])
def test_no_sentence_is_in_two_parts(translation, file, capsys, columns):
    task = translation.sentences(str(file), columns, 10, "word", 1000, seed=0)
    said = capsys.readouterr().out
    assert "121 items, 3 left out, 0 mended" in said
    for place in (f"{file}:6: left out", f"{file}:7: left out", f"{file}:124: left out: not utf-8"):
        assert place in said
    pairs = [pair for part in task[:3] for pair in part]
    english = columns.index(0)
    assert len(pairs) == 120
    assert {pair[english] for pair in pairs} == {f"number {i} is {'odd' if i % 2 else 'even'}." for i in range(60)}
    for side in (0, 1):
        train, validation, test = ({pair[side] for pair in part} for part in task[:3])
        assert not train & validation
        assert not train & test
    assert not {pair[english] for pair in task.validation} & {pair[english] for pair in task.test}
    assert set(task[3 + english].symbols) > {"number", "is", "odd", "even", "."}
    assert "no" not in task[3 + english]


def test_training_keeps_no_pair_whose_other_side_is_held_out(translation, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(f"one {i} x\tuno {i // 2} y" for i in range(200)))
    task = translation.sentences(str(path), (0, 1), 10, "word", 1000, seed=0)
    held = {pair[1] for pair in [*task.validation, *task.test]}
    assert len(held) > 5
    assert not held & {pair[1] for pair in task.train}
    assert len(task.train) < 200 - len(task.validation) - len(task.test)


def test_too_few_pairs_are_an_error_that_says_so(translation, tmp_path):
    path = tmp_path / "few.tsv"
    path.write_text("a\tb\nc\td\n")
    with pytest.raises(SystemExit, match="has 2 pairs of at most 10 words"):
        translation.sentences(str(path), (0, 1), 10, "word", 1000, seed=0)


@pytest.mark.parametrize("vocabulary", ["word", "bpe"])
def test_a_part_padded_is_read_back(translation, file, vocabulary):
    if vocabulary == "bpe":
        pytest.importorskip("tokenizers", reason="byte pairs need the extra `text`")
    task = translation.sentences(str(file), (0, 1), 10, vocabulary, 320, seed=0)
    arrays = translation.padded(task, task.train[:7])
    spaced = (lambda text: " ".join(rj.data.words(text))) if vocabulary == "word" else str
    for at, pair in enumerate(task.train[:7]):
        assert task.source.decode(arrays.sources[at]) == spaced(pair[0])
        assert task.target.decode(arrays.targets[at]) == spaced(pair[1])
    np.testing.assert_array_equal(arrays.inputs[:, 0], 1)
    np.testing.assert_array_equal(
        arrays.inputs[:, 1:][arrays.targets[:, :-1] != 2], arrays.targets[:, :-1][arrays.targets[:, :-1] != 2]
    )


def test_loss_is_the_mean_over_valid_steps_and_rows(translation):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, (3, 4))
    lengths, weights = np.array([4, 2, 3]), np.array([1.0, 1.0, 0.0])
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    wanted = -np.mean([log_p[b, t, labels[b, t]] for b in (0, 1) for t in range(lengths[b])])
    targets = {"labels": jnp.asarray(labels), "lengths": jnp.asarray(lengths)}
    found = translation.loss(jnp.asarray(scores), targets, mask=jnp.asarray(weights))
    assert float(found.value) == pytest.approx(wanted)


def test_greedy_translation_is_what_teacher_forcing_scores_highest(translation, untrained):
    task, fitted = untrained
    params, model = fitted.model
    texts = [pair[0] for pair in task.test[:9]]
    found = translation.translate(fitted, task, texts, beams=1, batch=4)
    assert len(found) == 9
    assert len(set(found)) > 3
    arrays = translation.padded(task, list(zip(texts, found, strict=True)))
    inputs = {"source": jnp.asarray(arrays.sources), "target": jnp.asarray(arrays.inputs)}
    scores = np.array(jax.jit(model)(params, inputs, lengths=jnp.asarray(arrays.source_lengths)))  # (B, T, V)
    scores[..., [0, 1, 3]] = -np.inf  # pad, start and unknown are no output
    longest = max(len(pair[1]) for pair in task.train) + 1
    for row, best, length in zip(arrays.targets, scores.argmax(-1), arrays.target_lengths, strict=True):
        valid = min(length, longest)  # one that ran to the end has no end token
        np.testing.assert_array_equal(best[:valid], row[:valid])


def test_translation_does_not_depend_on_the_batch(translation, untrained):
    task, fitted = untrained
    texts = [pair[0] for pair in task.test[:7]]
    together = translation.translate(fitted, task, texts, beams=3, batch=7)
    assert translation.translate(fitted, task, texts[::-1], beams=3, batch=5)[::-1] == together
    assert translation.translate(fitted, task, [min(texts, key=len)], beams=3, batch=2) == [
        together[texts.index(min(texts, key=len))]
    ]


def test_beams_find_translations_that_are_at_least_as_probable(translation, untrained):
    task, fitted = untrained
    params, model = fitted.model
    texts = [pair[0] for pair in task.test[:6]]

    def score(hypotheses):
        arrays = translation.padded(task, list(zip(texts, hypotheses, strict=True)))
        inputs = {"source": jnp.asarray(arrays.sources), "target": jnp.asarray(arrays.inputs)}
        scores = jax.nn.log_softmax(model(params, inputs, lengths=jnp.asarray(arrays.source_lengths)))
        own = np.take_along_axis(np.asarray(scores), arrays.targets[..., None], 2)[..., 0]
        own *= np.arange(own.shape[1]) < np.minimum(arrays.target_lengths, 11)[:, None]
        return own.sum(1) / ((5 + np.minimum(arrays.target_lengths, 11)) / 6) ** 0.6

    narrow, wide = (translation.translate(fitted, task, texts, beams=beams, batch=6) for beams in (1, 15))
    assert narrow != wide
    assert (score(wide) >= score(narrow) - 1e-5).sum() >= 5


@pytest.mark.slow
def test_the_twin_of_the_benchmark_computes_the_same(translation, untrained, monkeypatch):
    pytest.importorskip("torch", reason="the twin is PyTorch's, of the extra `peers`")
    monkeypatch.setattr(sys, "path", [str(PATH.parents[1] / "benchmarks"), *sys.path])
    benchmark = importlib.import_module("translation_torch")
    task, fitted = untrained
    params, model = fitted.model
    twin = benchmark.Twin(len(task.source), len(task.target), translation.SMOKE).load(params).eval()
    batches = rj.data.pair_buckets(translation.padded(task, task.train[:120]), 32, count=2, seed=None)

    def loss(params, batch):
        inputs, targets, lengths, weights = jax.tree.map(jnp.asarray, batch)
        total = translation.loss(model(params, inputs, lengths=lengths), targets, mask=weights, smoothing=0.1)
        return total.value, total.count

    seen = 0
    for batch in batches():
        (ours, count), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
        twin.zero_grad()
        total, steps = benchmark.loss_of(twin, batch, 0.1)
        (total / steps).backward()
        seen += steps
        assert int(count) == steps
        assert float(total.detach()) / steps == pytest.approx(float(ours), rel=1e-4)
        attention = gradient["decoder"][2]
        for ours, theirs in (
            (gradient["encoder"][0].w, twin.read.weight.grad),
            (gradient["encoder"][2].backward.b_n, twin.encoder.bias_hh_l0_reverse.grad[32:]),
            (attention.cell.w.T, twin.cell.weight_ih.grad),
            (attention.score.w_q.T, twin.query.weight.grad),
            (attention.score.w_k.T, twin.key.weight.grad),
            (attention.score.b, twin.key.bias.grad),
            (attention.score.v[None], twin.score.weight.grad),
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(np.abs(ours).max()))
    assert seen == 120 * 11


@pytest.mark.slow
def test_training_learns(translation, file):
    task = translation.sentences(str(file), (0, 1), 10, "word", 1000, seed=0)
    recipe = translation.SMOKE._replace(epochs=6)
    first, second = (translation.train(task, recipe, seed=2, progress=False) for _ in range(2))
    losses = first.history["val_loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert first.history == second.history


def test_dollars_of_a_piece_are_no_formula(translation, monkeypatch, tmp_path):
    """Matplotlib would refuse this one."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    pieces = SimpleNamespace(encode=lambda text: np.full(2, 5), tokens=lambda row: [r"$\frac$"] * 2)
    fitted = SimpleNamespace(
        model=({"decoder": ()}, SimpleNamespace(encode=lambda params, sources, lengths: (), decoder=()))
    )
    monkeypatch.setattr(rj, "alignments", lambda decoder, params, inputs, context: jnp.ones((3, 1, 2)))
    translation.draw(tmp_path / "drawn.png", fitted, translation.Task([], [], [], pieces, pieces), [("a", "b")])
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_script_runs_on_dates_and_draws(translation, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    monkeypatch.setattr(sys, "argv", ["translation.py", "--smoke", "--out", str(tmp_path / "new")])
    translation.main()
    (figure,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("figure: "))
    assert figure.split()[1] == "dates_exact"
    assert 0 <= float(figure.split()[2]) <= 1
    assert (tmp_path / "new" / "translation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_script_runs_on_a_file(translation, file, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    flags = ["--columns", "1", "0", "--smoke", "--beams", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["translation.py", "--data", str(file), *flags])
    translation.main()
    assert "\nfigure: eng_num_bleu " in capsys.readouterr().out


@pytest.mark.parametrize("vocabulary", ["word", "bpe"])
def test_a_perfect_translation_scores_100(translation, monkeypatch, capsys, tmp_path, vocabulary):
    """In words a translation has spaces around every sign, and its reference has none."""
    pytest.importorskip("tokenizers", reason="byte pairs need the extra `text`")
    (tmp_path / "pairs.tsv").write_text(
        "\n".join(f"Is {i} well-known?\t¿Es «{i}» bien-conocido?" for i in range(60)), encoding="utf-8"
    )

    def perfect(fitted, task, texts, beams):
        target = dict(task.test)
        return [" ".join(rj.data.words(target[text])) if vocabulary == "word" else target[text] for text in texts]

    monkeypatch.setattr(translation, "translate", perfect)
    monkeypatch.setattr(translation, "train", lambda *_, **__: SimpleNamespace(params={}, history={"val_loss": [1.0]}))
    monkeypatch.setattr(translation, "draw", lambda *_: None)
    flags = ["--vocabulary", vocabulary, "--size", "300", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["translation.py", "--data", str(tmp_path / "pairs.tsv"), *flags])
    translation.main()
    out = capsys.readouterr().out
    assert "\nfigure: pairs_0_1_bleu 100.0000" in out
    assert "pairs_0_1_exact 1" in out


@pytest.mark.slow
def test_tatoeba_is_read_without_a_problem(translation, data_path, capsys):
    path = data_path("tatoeba_spa_eng") / "spa-eng.zip"
    task = translation.sentences(str(path), (1, 0), 10, "word", 10_000, seed=0)
    assert "118,121 items, 0 left out, 0 mended" in capsys.readouterr().out
    assert len(task.train) > 90_000
    assert 2_000 < len(task.test) < 5_000
