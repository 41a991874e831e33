"""The dialogue example: what it makes of texts, and conversations that stay apart from one another."""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import rnnjax as rj

pytest.importorskip("sacrebleu", reason="the example scores with sacrebleu, of the extra `examples`")

PATH = Path(__file__).parents[2] / "examples" / "dialogue.py"
LONGEST, VOCABULARY = 5, 11


@pytest.fixture(scope="module")
def dialogue():
    spec = importlib.util.spec_from_file_location("dialogue", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.LONGEST = LONGEST
    # optax relies on implicit promotion
    with jax.numpy_dtype_promotion("standard"):
        yield module


@pytest.fixture(scope="module")
def lexicon(dialogue):
    known = rj.data.Vocabulary.words(["wake me at seven"])
    return dialogue.Lexicon(known, ["Ask", "Wake"], ["B-time", "I-time", "O"])


def test_requests_become_numbers(dialogue, lexicon):
    queries = [
        rj.data.Query("Wake", ("Wake", "me", "at", "seven"), ("O", "O", "B-time", "I-time")),
        rj.data.Query("Ask", ("x" * 20, "é"), ("O", "B-time")),
    ]
    inputs, targets, lengths = lexicon.batch(queries)
    numbers = [lexicon.words.symbols.index(word) + 4 for word in ("wake", "me", "at", "seven")]
    np.testing.assert_array_equal(inputs["words"], [numbers, [dialogue.UNKNOWN] * 2 + [0] * 2])
    assert inputs["letters"].shape == (2, 4, 16)
    np.testing.assert_array_equal(inputs["letters"][0, 0], [*b"Wake"] + [0] * 12)
    np.testing.assert_array_equal(inputs["letters"][1, :2], [[ord("x")] * 16, [0xC3, 0xA9] + [0] * 14])
    np.testing.assert_array_equal(targets["intents"], [1, 0])
    np.testing.assert_array_equal(targets["tags"], [[2, 2, 0, 1], [2, 0, 0, 0]])
    np.testing.assert_array_equal(lengths, [4, 2])


def test_no_request_is_in_training_and_validation(dialogue, monkeypatch):
    """By the letters of their words. Some of the made-up requests come several times."""
    seen = []

    class Enough(Exception):
        pass

    def stopped(model, data, held, args, **_):
        seen.extend([data, held])
        raise Enough

    monkeypatch.setattr(dialogue, "train", stopped)
    monkeypatch.setattr(dialogue.Reader, "of", lambda *_: None)
    with pytest.raises(Enough):
        dialogue.understand(argparse.Namespace(readings=[], every=1, seed=0))
    said = [[bytes(row.astype(np.uint8)).rstrip(b"\0") for row in inputs["letters"]] for inputs, _, _ in seen]
    assert len(said[0]) > len({*said[0]})
    assert len(said[1]) > 30
    assert not {*said[0]} & {*said[1]}


@pytest.mark.slow
def test_a_request_is_read_the_same_beside_a_longer_one(dialogue, lexicon):
    params, network = dialogue.Reader.of(lexicon, 6, seed=0)
    run = jax.jit(network.__call__)
    (one, one_length), (both, lengths) = (lexicon.inputs(said) for said in ([["wake"]], [["wake"], ["me"] * 3]))
    alone, beside = run(params, one, lengths=one_length), run(params, both, lengths=lengths)
    assert alone[0].shape == (1, 2)
    assert beside[1].shape == (2, 3, 3)
    np.testing.assert_allclose(alone[0][0], beside[0][0], rtol=1e-5)
    np.testing.assert_allclose(alone[1][0, 0], beside[1][0, 0], rtol=1e-5)
    # what fills up the letters is not read
    short = run(params, one | {"letters": one["letters"][..., :4]}, lengths=one_length)
    np.testing.assert_allclose(short[1], alone[1], rtol=1e-5)
    # letters are: two unknown words differ
    spelt, lengths = lexicon.inputs([["ab"], ["ba"]])
    scores = run(params, spelt, lengths=lengths)[1]
    assert abs(scores[0] - scores[1]).max() > 1e-4


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_the_joint_loss_adds_both_means(dialogue):
    rng = np.random.default_rng(0)
    intents, tags = rng.normal(size=(3, 2)), rng.normal(size=(3, 4, 5))
    targets = {"intents": np.array([0, 1, 1]), "tags": rng.integers(0, 5, (3, 4))}
    lengths, mask = np.array([4, 1, 2]), np.array([1.0, 1.0, 0.0])
    intent = -np.mean([log_softmax(intents)[i, targets["intents"][i]] for i in (0, 1)])
    places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    tag = -np.mean([log_softmax(tags)[i, t, targets["tags"][i, t]] for i, t in places])
    found = dialogue.joint_loss((intents, tags), targets, mask=mask, lengths=lengths)
    np.testing.assert_allclose(found, intent + tag)
    hits = np.mean([tags[i, t].argmax() == targets["tags"][i, t] for i, t in places])
    accuracy = dialogue.tag_accuracy((intents, tags), targets, mask=mask, lengths=lengths)
    np.testing.assert_allclose(accuracy.value, hits)


def test_conversations_become_numbers(dialogue):
    turns = (("Hi, 01223 x", "a b"), ("b " * 9, "c c c c c c c"))
    one = rj.data.Dialogue(0, tuple(rj.data.Turn(user, system, (), ()) for user, system in turns))
    other = rj.data.Dialogue(1, (rj.data.Turn("a", "b", (), ()),))
    assert dialogue.plain("Hi, 01223 x") == ["hi", ",", "00000", "x"]
    vocabulary = rj.data.Vocabulary(("hi", ",", "00000", "a", "b", "c"), "word")
    hi, comma, zeros, a, b, c = range(4, 10)
    inputs, targets, lengths = dialogue.numbered(vocabulary, [one, other])
    np.testing.assert_array_equal(inputs["users"][0], [[hi, comma, zeros, 3, 0], [b] * 5])
    np.testing.assert_array_equal(inputs["answers"][0], [[1, a, b, 0, 0], [1, c, c, c, c]])
    np.testing.assert_array_equal(targets[0], [[a, b, 2, 0, 0], [c] * 5])
    np.testing.assert_array_equal(inputs["before"][0], [[0] * 5, [1, a, b, 0, 0]])
    np.testing.assert_array_equal(inputs["users"][1], [[a, 0, 0, 0, 0], [0] * 5])
    assert not inputs["before"][1].any()  # behind the last turn there is padding
    np.testing.assert_array_equal(targets[1], [[b, 2, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(lengths, [2, 1])


def test_only_words_count(dialogue):
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(2, 2, 3, 4)), np.array([[[3, 2, 0], [1, 0, 0]], [[2, 0, 0], [3, 3, 0]]])
    logs = log_softmax(scores)
    wanted = {0: [logs[0, 0, 0, 3], logs[0, 0, 1, 2], logs[0, 1, 0, 1]]}
    wanted[1] = [logs[1, 0, 0, 2], logs[1, 1, 0, 3], logs[1, 1, 1, 3]]
    both = dialogue.over_words(rj.training.cross_entropy, scores, targets)
    np.testing.assert_allclose(both.value, -np.mean(wanted[0] + wanted[1]))
    first = dialogue.over_words(rj.training.cross_entropy, scores, targets, mask=np.array([1.0, 0.0]))
    np.testing.assert_allclose(first.value, -np.mean(wanted[0]))


def test_baselines_count_and_copy(dialogue):
    turns = (("where is it", "there"), ("and the phone number", "000"), ("bye", "bye bye"))
    own = [rj.data.Dialogue(0, tuple(rj.data.Turn(user, system, (), ()) for user, system in turns))]
    learnt, targets = np.array([[4, 4, 5, 2, 0, 0]]), np.array([[4, 2], [5, 0]])
    asked = [{"their", "phone", "number"}, {"bye"}, {"where", "are", "it"}]
    perplexity, nearest = dialogue.baselines(own, learnt, asked, targets)
    # counts of ids 0 to 5 with one more each: 1, 1, 2, 1, 3, 2
    assert perplexity == pytest.approx((3 / 10 * 2 / 10 * 2 / 10) ** (-1 / 3))
    assert nearest == ["000", "bye bye", "there"]


@pytest.fixture(scope="module")
def responder(dialogue):
    """Parameters and network, and three conversations of three turns: `before` and `users` (B, K, S)."""
    vocabulary = rj.data.Vocabulary(tuple("abcdefg"), "word")
    params, network = dialogue.Responder.of(vocabulary, 6, seed=1)
    rng = np.random.default_rng(2)
    # large, so that answers differ
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), params)
    turns = {name: rng.integers(4, VOCABULARY, (3, 3, LONGEST)) for name in ("before", "users")}
    turns["users"][0, 1, 2:] = turns["before"][1, 2, 3:] = 0
    turns["before"][:, 0] = 0
    return params, network, jax.jit(network.answer), turns


def at(turns, rows, k):
    return {name: ids[rows, k] for name, ids in turns.items()}


ROWS, NONE = slice(0, 3), np.zeros((3, 1), bool)


@pytest.mark.slow
def test_scores_are_those_of_turns_read_one_after_another(responder, dialogue):
    params, network, _, turns = responder
    answers = np.full((3, 3, LONGEST), 7)
    scores = jax.jit(network.__call__)(params, turns | {"answers": answers})

    def read(ids):
        encoded, _ = network.encoder(params.encoder, ids[ids != dialogue.PAD])
        return encoded, encoded.max(0) if len(encoded) else np.zeros(6, np.float32)

    for row in (0, 1):
        state = network.conversation.initial_state(params.conversation)
        for k in range(3):
            (before, said), (now, heard) = read(turns["before"][row, k]), read(turns["users"][row, k])
            memory = np.concatenate([before, now])
            ys, state = network.conversation(params.conversation, np.stack([said, heard]), state)
            attention = network.decoder.layers[1]
            own = params.decoder[1].cell
            x = np.concatenate([params.decoder[0].w[7], read_by(attention.cell, params.decoder[1], ys[1], memory)])
            hidden, _ = rj.unroll(attention.cell.cell, own, x[None], type(state)(ys[1]))
            joined = np.concatenate([hidden[0], x[6:]])
            first = joined @ np.asarray(params.decoder[3].w) + np.asarray(params.decoder[3].b)
            np.testing.assert_allclose(scores[row, k, 0], first, rtol=1e-3, atol=1e-4)


def read_by(cell, params, hidden, memory):
    """Additive attention of a state (H) on a memory (S, H)."""
    score, memory = jax.tree.map(np.asarray, params.score), np.asarray(memory)
    energy = np.tanh(memory @ score.w_k + np.asarray(hidden) @ score.w_q + score.b) @ score.v
    weights = np.exp(energy) / np.exp(energy).sum()
    return weights @ memory


def test_turn_by_turn_is_all_at_once(responder):
    params, _, answer, turns = responder
    whole, last = answer(params, turns)
    state, parts = None, []
    for k in range(3):
        part, state = answer(params, at(turns, ROWS, slice(k, k + 1)), state)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, last)
    assert len({tuple(row) for row in whole.reshape(-1, LONGEST).tolist()}) > 3


def test_a_reset_row_begins_anew_and_no_other_notices(responder):
    params, _, answer, turns = responder
    _, state = answer(params, at(turns, ROWS, slice(0, 1)))
    second = at(turns, ROWS, slice(1, 2))
    reset = np.array([[False], [True], [False]])
    plain, plain_state = answer(params, second, state, NONE)
    tokens, after = answer(params, second, state, reset)
    fresh = {"users": second["users"], "before": np.zeros_like(second["before"])}
    new, new_state = answer(params, fresh, None, NONE)
    for row, expected, expected_state in ((0, plain, plain_state), (1, new, new_state), (2, plain, plain_state)):
        np.testing.assert_array_equal(tokens[:, row], expected[:, row])
        np.testing.assert_allclose(after.h[row], expected_state.h[row], rtol=1e-6)
    assert abs(plain_state.h[1] - new_state.h[1]).max() > 1e-3
    assert (plain[:, 1] != new[:, 1]).any()


def test_answers_are_what_the_scores_of_training_prefer(responder, dialogue):
    params, network, answer, turns = responder
    tokens = np.swapaxes(answer(params, turns)[0], 0, 1)  # (B, K, S)
    answers = np.concatenate([np.full((3, 3, 1), dialogue.START), tokens[..., :-1]], axis=-1)
    answers[answers == dialogue.END] = dialogue.PAD
    scores = np.array(jax.jit(network.__call__)(params, turns | {"answers": answers}))
    scores[..., [dialogue.PAD, dialogue.START, dialogue.UNKNOWN]] = -np.inf
    words = tokens != dialogue.PAD
    assert words.sum() > 20
    np.testing.assert_array_equal(scores.argmax(-1)[words], tokens[words])


def test_resets_everywhere_make_each_turn_a_conversation(responder, dialogue):
    params, network, _, turns = responder
    run = jax.jit(network.__call__)
    turns = turns | {"answers": turns["users"]}
    forgetful = run(params, turns, reset=np.ones((3, 3), bool))
    alone = {name: ids.reshape(9, 1, LONGEST) for name, ids in turns.items()}
    alone["before"] = np.zeros_like(alone["before"])
    np.testing.assert_allclose(forgetful.reshape(9, 1, LONGEST, -1), run(params, alone), rtol=1e-4, atol=1e-5)
    assert abs(forgetful - run(params, turns)).max() > 1e-3


def run_main(dialogue, monkeypatch, folder, *arguments, said=""):
    monkeypatch.setattr(sys, "argv", ["dialogue.py", "--out", str(folder / "loss.png"), *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    dialogue.main()


def test_a_missing_package_is_named_before_anything_is_read(dialogue, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(SystemExit, match=r"needs sacrebleu: pip install 'rnnjax\[examples\]'"):
        run_main(dialogue, monkeypatch, tmp_path)


@pytest.mark.slow
def test_the_example_runs_and_talks(dialogue, monkeypatch, capsys, tmp_path):
    dialogues = rj.data.house_dialogues(30, seed=0)
    monkeypatch.setattr(rj.data, "house_dialogues", lambda count, seed: dialogues * 20)
    monkeypatch.setattr(dialogue, "LONGEST", 12)
    file = tmp_path / "figures.json"
    said = "turn on the lamp in the hall\n\nnow the fan\n"
    run_main(dialogue, monkeypatch, tmp_path, "respond", "--smoke", "--chat", "--write", str(file), said=said)
    out = capsys.readouterr().out
    assert "--- a new conversation" in out
    assert '"house_bleu"' in file.read_text()
    assert (tmp_path / "loss.png").stat().st_size > 5000
    figures = {line.split()[1]: float(line.split()[2]) for line in out.splitlines() if line.startswith("figure:")}
    assert figures.keys() == {"house_perplexity", "house_bleu"}
    assert 1 < figures["house_perplexity"] < 40


@pytest.mark.slow
def test_the_house_is_understood(dialogue, monkeypatch, capsys, tmp_path):
    run_main(
        dialogue,
        monkeypatch,
        tmp_path,
        "understand",
        "--epochs",
        "4",
        "--chat",
        said="set an alarm in the cellar at noon\n",
    )
    out = capsys.readouterr().out
    figures = {line.split()[1]: float(line.split()[2]) for line in out.splitlines() if line.startswith("figure:")}
    assert figures["house_intent"] > 0.99
    assert figures["house_slot_f1"] > 0.95
    assert "Wake | room: cellar" in out


@pytest.mark.slow
def test_snips_and_camrest_run(dialogue, monkeypatch, capsys, data_path, tmp_path):
    run_main(dialogue, monkeypatch, tmp_path, "understand", "--smoke", "--data", str(data_path("snips_nlu")))
    run_main(
        dialogue,
        monkeypatch,
        tmp_path,
        "respond",
        "--smoke",
        "--data",
        str(data_path("camrest676") / "CamRest676.json.gz"),
    )
    assert {"snips_intent", "snips_slot_f1", "camrest_perplexity", "camrest_bleu"} <= set(
        capsys.readouterr().out.split()
    )
