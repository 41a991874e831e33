"""Summaries: pairs in numbers, what the network makes of them, how it writes and copies, and what it is judged by."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

PATH = Path(__file__).parents[2] / "examples" / "summarisation.py"
KNOWN = ("the", "a", "of", "reads", "writes", "file", "name", "text")
V = 4 + len(KNOWN)


@pytest.fixture(scope="module")
def summarisation():
    spec = importlib.util.spec_from_file_location("summarisation", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def vocabulary():
    """Ids 0 … 3 are special, the words follow."""
    return rj.data.Vocabulary(KNOWN, "word")


@pytest.fixture(scope="module")
def args(summarisation):
    return summarisation.arguments().parse_args(["--hidden", "6", "--own-words", "3", "--words", "9"])


@pytest.fixture(scope="module")
def network(summarisation, vocabulary, args):
    return summarisation.Network.of(vocabulary, args)


@pytest.fixture(scope="module")
def params(network):
    """Random weights, large enough that words differ in probability."""
    return jax.tree.map(lambda leaf: 3 * leaf, jax.jit(network.init)(jax.random.key(4)))


@pytest.fixture(scope="module")
def coded(summarisation, vocabulary, args):
    pairs = [
        ("Reads zip the zap of file zip zop", "Reads a zap of the zip"),
        ("A name", "the text"),
        ("the text of zup", "Writes zup zip"),
    ]
    return summarisation.code([summarisation.Pair(*pair) for pair in pairs], vocabulary, args)


def gated(params, bias):
    """The same, but sure to write (positive) or to copy (negative)."""
    pointer = params.decoder[1]
    return params._replace(decoder=(params.decoder[0], pointer._replace(b_p=jnp.full_like(pointer.b_p, bias))))


def test_words_of_a_row_are_numbered_from_the_vocabulary_on(coded, vocabulary):
    def known(*words):
        return [vocabulary.encode(word).item() for word in words]

    assert coded.own == [["zip", "zap", "zop"], [], ["zup"]]
    first = [*known("reads"), V, *known("the"), V + 1, *known("of", "file"), V, V + 2]
    assert coded.pairs.sources[0].tolist() == first
    assert coded.pairs.source_lengths.tolist() == [8, 2, 4]
    assert coded.pairs.targets[0].tolist() == [*known("reads", "a"), V + 1, *known("of", "the"), V, vocabulary.end]
    # zup is the third row's own, zip is nobody's there
    assert coded.pairs.targets[2, :4].tolist() == [*known("writes"), V, vocabulary.unknown, vocabulary.end]
    assert coded.pairs.inputs[2, :3].tolist() == [vocabulary.start, *known("writes"), V]


def test_texts_and_their_own_words_are_cut(summarisation, vocabulary):
    args = summarisation.arguments().parse_args(["--own-words", "2", "--words", "4"])
    pair = summarisation.Pair("zip zap the zop zup", " ".join(["zap zop zup"] * 20))
    coded = summarisation.code([pair], vocabulary, args)
    assert coded.own == [["zip", "zap"]]
    assert coded.pairs.sources.tolist() == [[V, V + 1, 4, vocabulary.unknown]]
    assert coded.pairs.targets.shape == (1, summarisation.LONGEST)
    assert coded.pairs.targets[0, :3].tolist() == [V + 1, vocabulary.unknown, vocabulary.unknown]


def test_what_is_coded_can_be_spelled(summarisation, coded, vocabulary):
    rows = zip(coded.pairs.targets, coded.own, strict=True)
    assert [" ".join(summarisation.spell(*row, vocabulary)) for row in rows] == [
        "reads a zap of the zip",
        "the text",
        "writes zup \ufffd",
    ]


def test_pieces_spell_every_word(summarisation):
    pytest.importorskip("tokenizers", reason="pieces need tokenizers, of the extra `text`")
    args = summarisation.arguments().parse_args(["--unit", "piece", "--vocabulary", "280"])
    pair = summarisation.Pair("Reads a file. " * 5, "ReadsFile ξ")
    vocabulary = summarisation.make_vocabulary([pair], args)
    coded = summarisation.code([pair], vocabulary, args)
    assert coded.own == [[]]
    assert coded.pairs.sources.max() < len(vocabulary) <= 280
    assert vocabulary.decode(coded.pairs.targets[0]) == "readsfile ξ"
    assert summarisation.Network.of(vocabulary, args).decoder.layers[1].cell.extra == 0


def test_the_vocabulary_has_the_most_frequent_words(summarisation):
    args = summarisation.arguments().parse_args(["--vocabulary", "6"])
    pairs = [summarisation.Pair("The file, the text", "the FILE"), summarisation.Pair("a text", "file")]
    assert summarisation.make_vocabulary(pairs, args).symbols == ("file", "the")


def test_probabilities_are_those_of_the_vocabulary_and_of_the_rows_own_words(network, params, coded):
    outputs = network.apply(params, coded.pairs.batch()[0], lengths=jnp.asarray(coded.pairs.source_lengths))
    p = np.exp(outputs["log_p"])
    assert p.shape == (3, coded.pairs.inputs.shape[1], V + 3)
    np.testing.assert_allclose(p.sum(-1)[:, :3], 1, rtol=1e-5)
    assert (p[0, :, V:] > 0).all()
    assert (p[1, :3, V:] == 0).all()
    assert (p[2, :4, V] > 0).all()
    assert (p[2, :4, V + 1 :] == 0).all()


def test_a_row_does_not_see_what_fills_it_up(summarisation, network, params, coded):
    def run(pairs):
        return network.apply(params, pairs.batch()[0], lengths=jnp.asarray(pairs.source_lengths))

    rows = coded.pairs
    alone = rj.data.Pairs(*(array[2:] for array in rows))
    s, u = rows.source_lengths[2], rows.target_lengths[2]
    alone = alone._replace(sources=alone.sources[:, :s], inputs=alone.inputs[:, :u], targets=alone.targets[:, :u])
    together, by_itself = run(rows), run(alone)
    np.testing.assert_allclose(together["log_p"][2, :u], by_itself["log_p"][0], rtol=1e-5)
    np.testing.assert_allclose(together["overlap"][2], by_itself["overlap"][0], rtol=1e-5)


def test_own_words_look_like_unknown_ones(network, params, vocabulary):
    found = network.embed(params, jnp.array([5, V, V + 2, vocabulary.unknown]))
    np.testing.assert_array_equal(found, params.embedding.w[jnp.array([5, 3, 3, 3])])


def test_dropout_is_for_training(network, params, coded):
    inputs, _, lengths = coded.pairs.batch()
    run = partial(network.apply, params, inputs, lengths=jnp.asarray(lengths))
    first, second, plain = (run(key=key)["log_p"] for key in (jax.random.key(0), jax.random.key(1), None))
    assert not np.allclose(first[1, :3], second[1, :3])
    np.testing.assert_array_equal(plain, run()["log_p"])


def test_the_loss_is_nats_a_word_and_the_coverage_loss(summarisation):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 7)).astype(np.float32)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels, lengths, weights = rng.integers(0, 7, (3, 4)), np.array([4, 1, 2]), np.array([1, 1, 0], np.float32)
    outputs = {"log_p": jnp.asarray(log_p), "overlap": jnp.array([0.5, 2.0, 9.0], jnp.float32)}
    targets = {"labels": jnp.asarray(labels), "lengths": jnp.asarray(lengths)}
    nats = [-log_p[row, t, labels[row, t]] for row in range(3) for t in range(lengths[row])]
    assert float(summarisation.nats(outputs, targets)) == pytest.approx(np.mean(nats), rel=1e-5)
    whole = np.mean(nats) + summarisation.COVERAGE * 11.5 / 7
    assert float(summarisation.loss(outputs, targets)) == pytest.approx(whole, rel=1e-5)
    part = np.mean(nats[:5]) + summarisation.COVERAGE * 2.5 / 5
    assert float(summarisation.loss(outputs, targets, mask=jnp.asarray(weights))) == pytest.approx(part, rel=1e-5)


def greedy(network, params, coded, row, length):
    """One word after another, each the most probable one that is allowed, without the search or its state."""
    special, words = network.vocabulary, []
    source = coded.pairs.sources[row : row + 1, : coded.pairs.source_lengths[row]]
    apply = jax.jit(network.apply)
    while len(words) < length and special.end not in words:
        heads = np.full((1, length), special.pad)
        heads[0, : len(words) + 1] = [special.start, *words]
        inputs = {"source": jnp.asarray(source), "target": jnp.asarray(heads)}
        log_p = np.array(apply(params, inputs, lengths=jnp.array([source.shape[1]]))["log_p"][0, len(words)])
        log_p[[special.pad, special.start, special.unknown]] = -np.inf
        if len(words) < 3:
            log_p[special.end] = -np.inf
        triples = {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
        log_p[[word for word in range(len(log_p)) if (*words[-2:], word) in triples]] = -np.inf
        words.append(int(log_p.argmax()))
    return words


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.slow
def test_one_beam_takes_the_likeliest_word_each_time(summarisation, network, params, coded, monkeypatch, eager):
    monkeypatch.setattr(summarisation, "LONGEST", 8)
    if eager:  # to end
        pointer = gated(params, 50.0).decoder[1]
        params = params._replace(decoder=((), pointer._replace(b=pointer.b.at[network.vocabulary.end].set(99))))
    lengths = jnp.asarray(coded.pairs.source_lengths)
    found = network.search(params, jnp.asarray(coded.pairs.sources), lengths=lengths, beams=1, alpha=0.0, beta=0.0)
    assert found.shape == (3, 8)
    for row in (1,) if eager else (0, 2):
        words = greedy(network, params, coded, row, 8)
        assert found[row].tolist() == words + [network.vocabulary.pad] * (8 - len(words))
        assert not eager or len(words) == 4  # three words and the end


@pytest.mark.slow
def test_the_coverage_penalty_keeps_from_reading_again(summarisation, network, params, coded, monkeypatch):
    monkeypatch.setattr(summarisation, "LONGEST", 6)
    sources, lengths = jnp.asarray(coded.pairs.sources), jnp.asarray(coded.pairs.source_lengths)

    def overlap(beta):
        found = network.search(params, sources, lengths=lengths, beams=6, alpha=0.0, beta=beta)
        heads = jnp.concatenate([jnp.full((3, 1), network.vocabulary.start), found[:, :-1]], 1)
        return np.asarray(network.apply(params, {"source": sources, "target": heads}, lengths=lengths)["overlap"])

    free, bound = overlap(0.0), overlap(100.0)
    assert (bound <= free + 1e-5).all()
    assert (bound < free - 0.01).any()


@pytest.mark.parametrize(("bias", "share"), [(-50.0, 1), (50.0, 0)])
def test_what_was_copied_is_known(network, params, coded, bias, share):
    pairs = coded.pairs
    inputs = {"source": jnp.asarray(pairs.sources), "target": jnp.asarray(pairs.inputs)}
    inputs["word"] = jnp.asarray(pairs.targets)
    looked = network.look(gated(params, bias), inputs, lengths=jnp.asarray(pairs.source_lengths))
    copied = np.asarray(looked["copied"])[0]
    # "reads a zap of the zip": all but "a" are in the text, and zap and zip can only be copied
    np.testing.assert_allclose(copied[[0, 3, 4]], share, atol=1e-5)
    np.testing.assert_allclose(copied[[2, 5]], 1)
    np.testing.assert_allclose(copied[1], 0, atol=1e-5)
    alignment = np.asarray(looked["alignment"])
    assert alignment.shape == (3, 7, 8)
    np.testing.assert_allclose(alignment.sum(-1), 1, rtol=1e-5)
    assert (alignment[1, :, 2:] == 0).all()


def test_the_share_is_that_of_the_mixture(network, params, coded):
    pairs = coded.pairs
    sources, lengths = jnp.asarray(pairs.sources), jnp.asarray(pairs.source_lengths)
    inputs = {"source": sources, "target": jnp.asarray(pairs.inputs), "word": jnp.asarray(pairs.targets)}
    looked = network.look(params, inputs, lengths=lengths)
    log_p = network.apply(params, inputs, lengths=lengths)["log_p"]
    for t in (0, 3, 4):  # words of the vocabulary that the first text has once
        word = int(pairs.targets[0, t])
        attended = float(looked["alignment"][0, t, pairs.sources[0].tolist().index(word)])
        share, p = float(looked["copied"][0, t]), float(jnp.exp(log_p[0, t, word]))
        copying = share * p / attended  # 1 − p_gen, the same for every word of a step
        other = int(pairs.sources[0, 1])  # zip, which is there twice and can only be copied
        twice = sum(float(looked["alignment"][0, t, s]) for s in (1, 6))
        assert copying == pytest.approx(float(jnp.exp(log_p[0, t, other])) / twice, rel=1e-3)


def test_rouge_by_hand(summarisation):
    pytest.importorskip("rouge_score", reason="ROUGE needs rouge-score, of the extra `examples`")
    found = summarisation.rouge(["the cat sat", "no"], ["The cat ran fast", "No!"])
    # 2 of 3 and 2 of 4 words, 1 of 2 and 1 of 3 pairs of words; the second summary is right, and has no pair
    assert found["rouge1"] == pytest.approx((4 / 7 + 1) / 2)
    assert found["rouge2"] == pytest.approx((2 / 5 + 0) / 2)
    assert found["rougeL"] == pytest.approx((4 / 7 + 1) / 2)


@pytest.mark.parametrize("text", ["Привет, мир!", "Καλημέρα, κόσμε", "नमस्ते दुनिया", "天气好。"])
def test_rouge_in_other_scripts(summarisation, text):
    """Of as many words as are the same: each has two, the Chinese three signs."""
    pytest.importorskip("rouge_score", reason="ROUGE needs rouge-score, of the extra `examples`")
    assert summarisation.rouge([text.upper()], [text]) == pytest.approx({"rouge1": 1, "rouge2": 1, "rougeL": 1})
    first = "天" if text[0] == "天" else rj.data.words(text)[0]
    share = 2 / 4 if text[0] == "天" else 2 / 3
    assert summarisation.rouge([first], [text]) == pytest.approx({"rouge1": share, "rouge2": 0, "rougeL": share})


def test_rouge_of_english_is_the_packages(summarisation):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="ROUGE needs rouge-score, of the extra `examples`")
    score = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score
    for texts in (
        ("It doesn't read file_names -- it's reading 3.5 of them.", "reads the file_name's 3 names; x86_64 (Read)!"),
        ("The company’s files aren’t read: “It’s ours”", "the company files' owner's; it isn't the companies’ file"),
    ):
        expected = {name: one.fmeasure for name, one in score(*texts).items()}
        assert summarisation.rouge(texts[1:], texts[:1]) == expected


def test_a_missing_package_is_named(summarisation, monkeypatch):
    """Before anything is read or trained."""
    monkeypatch.setattr(sys, "argv", ["summarisation.py"])
    for package in ("matplotlib", "rouge_score"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=r"needs matplotlib and rouge_score: pip install 'rnnjax\[examples\]'"):
        summarisation.main()


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One thing. Another.", "One thing."),
        ("Is it? Yes", "Is it?"),
        ("version 1.5 only", "version 1.5 only"),
        ("今天好。我们去！", "今天好。"),
        ("真的？！好", "真的？！"),
        ("यह है। वह है।", "यह है।"),
        ("", ""),
    ],
)
def test_the_first_sentence_leads(summarisation, text, first):
    assert summarisation.lead(text) == first


@pytest.fixture
def lines(tmp_path):
    """Forty texts with two headlines each, and a line that is none."""
    path = tmp_path / "news.jsonl"
    titles = ("Reads item{}", "File of item{}")
    rows = [
        {
            "body": ["The file.", f"It reads item{i} twice."],
            "title": [title.format(i), "worse"] if i % 2 else title.format(i),
        }
        for title in titles
        for i in range(40)
    ]
    path.write_text("\n".join(["no JSON", *map(json.dumps, rows)]), encoding="utf-8")
    return path


def test_json_lines_are_read_and_split_by_text(summarisation, lines, capsys):
    args = summarisation.arguments().parse_args(["--data", str(lines), "--fields", "body", "title"])
    parts = summarisation.load(args)
    assert "80 items, 1 left out, 0 mended" in capsys.readouterr().out
    texts = [{pair.text for pair in part} for part in parts]
    assert [len(part) for part in texts] == [32, 4, 4]
    assert len(set.union(*texts)) == 40
    pairs = [pair for part in parts for pair in part]
    assert len(pairs) == 80
    for i in (7, 8):
        assert (f"The file. It reads item{i} twice.", f"Reads item{i}") in [pair[:2] for pair in pairs]


def test_fields_without_a_text_are_left_out(summarisation, tmp_path, capsys):
    """Blank sentences of a list are, and so is an item of which no sentence is left, or no summary."""
    rows = [{"source": ["", f"Text {n}.", " "], "target": [None, "", f"title {n}", "worse"]} for n in range(10)]
    rows += [{"source": "Text", "target": ["", 3, {"a": "b"}]}, {"source": [["Text"]], "target": "title"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parts = summarisation.load(summarisation.arguments().parse_args(["--data", str(path)]))
    found = sorted(pair[:2] for part in parts for pair in part)
    assert found == [(f"Text {n}.", f"title {n}") for n in range(10)]
    out = capsys.readouterr().out
    assert "10 items, 2 left out, 0 mended" in out
    assert "rows.jsonl:11: left out: a field without a text" in out


def test_files_that_are_the_parts_are_not_dealt_anew(summarisation, tmp_path, capsys):
    texts = {name: [f"{name} text {i}" for i in range(n)] for name, n in (("train", 9), ("validation", 3), ("test", 2))}
    for name, own in texts.items():
        rows = [json.dumps({"source": text, "target": "the same"}) for text in own]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    args = summarisation.arguments().parse_args(["--data", str(tmp_path), "--seed", "3"])
    assert [[pair.text for pair in part] for part in summarisation.load(args)] == [*texts.values()]
    assert "dealt" not in capsys.readouterr().out
    # the same in other names, a part in two files, and a file of no part
    (tmp_path / "train.jsonl").rename(tmp_path / "train-00000-of-00002.jsonl")
    for name in ("train-00001-of-00002", "notes"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"source": name, "target": "more"}), encoding="utf-8")
    for name in ("dev", "val", "valid"):
        next(iter([*tmp_path.glob("*v*.jsonl")])).rename(tmp_path / f"{name}.jsonl")
        parts = [[pair.text for pair in part] for part in summarisation.load(args)]
        assert parts == [[*texts["train"], "train-00001-of-00002"], texts["validation"], texts["test"]]
        assert re.search(r"names are those of no part:\n  \S+notes.jsonl\n", capsys.readouterr().out)
    (tmp_path / "valid.jsonl").unlink()
    with pytest.raises(
        SystemExit, match="nothing is named dev or val or valid or validation: name files for all three"
    ):
        summarisation.load(args)


@pytest.mark.parametrize("name", ["train.jsonl", "xsum-test.jsonl"])
def test_one_file_is_dealt_whatever_its_name(summarisation, lines, tmp_path, capsys, name):
    args = ["--fields", "body", "title", "--data"]
    path = lines.rename(tmp_path / name)
    for data in (path, tmp_path):  # itself, or as the only one of a folder
        parts = summarisation.load(summarisation.arguments().parse_args([*args, str(data)]))
        assert [len({pair.text for pair in part}) for part in parts] == [32, 4, 4]
        assert "dealt at random: there are no files for each of train" in capsys.readouterr().out
    (tmp_path / "dev.jsonl").write_text("no JSON", encoding="utf-8")  # a part, of which nothing can be used
    with pytest.raises(SystemExit, match="nothing is named"):
        summarisation.load(summarisation.arguments().parse_args([*args, str(tmp_path)]))


@pytest.mark.slow
def test_scitldr_is_read_in_its_parts(summarisation, data_path):
    folder = data_path("scitldr_a")
    parts = summarisation.load(summarisation.arguments().parse_args(["--data", str(folder)]))
    assert [len(part) for part in parts] == [1992, 619, 618]
    assert {Path(pair.place.rsplit(":", 1)[0]).name for pair in parts[2]} == {"test.jsonl"}


def test_too_few_pairs_are_refused(summarisation, tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text('{"source": "a b", "target": "a"}\n')
    with pytest.raises(SystemExit, match="has 1 pairs: too few"):
        summarisation.load(summarisation.arguments().parse_args(["--data", str(path)]))


@pytest.mark.slow
def test_packages_are_held_out(summarisation):
    train, validation, test = summarisation.load(summarisation.arguments().parse_args(["--smoke"]))
    assert min(map(len, (train, validation, test))) > 50
    assert not {pair.text for pair in train} & {pair.text for pair in test}
    assert not set(summarisation.TRAIN + summarisation.VALIDATION) & set(summarisation.TEST)


def test_the_seed_is_that_of_the_order(summarisation, coded, args, monkeypatch):
    """Three pairs in batches of one have six orders, in each epoch."""
    monkeypatch.setattr(rj.training, "fit", lambda model, batches, **_: batches)
    network = SimpleNamespace(init=lambda key: key, apply=None)

    def order(seed):
        options = argparse.Namespace(**{**vars(args), "seed": seed, "batch": 1})
        batches = summarisation.train(network, coded, coded, options)
        return [int(lengths[0]) for epoch in range(4) for _, _, lengths, _ in batches(epoch)]

    assert sorted(order(0)) == sorted(coded.pairs.source_lengths.tolist() * 4)
    assert order(0) == order(0)
    assert order(0) != order(1)


@pytest.mark.slow
def test_it_learns_to_copy_words_that_it_has_never_seen(summarisation, vocabulary):
    rng = np.random.default_rng(0)

    def pair(i):
        words = [*rng.choice(["the", "a", "of", "text"], 5), "name", f"zip{i}"]
        return summarisation.Pair(" ".join([*words, *rng.choice(["the", "a", "of"], 3)]), f"reads zip{i} file")

    flags = ["--hidden", "24", "--epochs", "12", "--learning-rate", "0.01", "--dropout", "0", "--own-words", "2"]
    args = summarisation.arguments().parse_args([*flags, "--smoke"])
    data, held_out = (
        summarisation.code([pair(i) for i in numbers], vocabulary, args) for numbers in (range(400), range(400, 440))
    )
    network = summarisation.Network.of(vocabulary, args)
    fitted = summarisation.train(network, data, held_out, args)
    search = partial(network.search, beams=3, alpha=0.6, beta=1.0)
    lengths = held_out.pairs.source_lengths
    ids = rj.training.predict((fitted.params, search), held_out.pairs.sources, lengths=lengths)
    spelled = [summarisation.spell(*row, vocabulary) for row in zip(ids, held_out.own, strict=True)]
    right = [words == ["reads", f"zip{400 + i}", "file"] for i, words in enumerate(spelled)]
    assert np.mean(right) > 0.9


@pytest.mark.slow
def test_the_script_trains_summarises_and_draws(summarisation, lines, monkeypatch, capsys, tmp_path):
    for package in ("matplotlib", "rouge_score"):
        pytest.importorskip(package, reason=f"this needs {package}, of the extra `examples`")
    arguments = ["--smoke", "--data", str(lines), "--fields", "body", "title", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["summarisation.py", *arguments])
    summarisation.main()
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("model   ") for line in out) == 8
    assert "people  File of item" in "\n".join(out)
    figures = {line.split()[1]: float(line.split()[2]) for line in out if line.startswith("figure: ")}
    assert len(figures) == 2
    rouge = next(line for line in out if line.startswith("rougeL: "))
    model, first = (float(word.strip(",")) for word in (rouge.split()[1], rouge.split()[3]))
    assert figures["summaries_rouge_l"] == pytest.approx(model, abs=1e-3)
    assert figures["summaries_rouge_l_over_lead1"] == pytest.approx(model - first, abs=2e-3)
    assert (tmp_path / "summarisation.png").read_bytes().startswith(b"\x89PNG")
