"""The recogniser of speech piece by piece: what is made of files and sound, the stream, and one small run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax as rj

PATH = Path(__file__).parents[2] / "examples" / "speech.py"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LETTERS = rj.data.Vocabulary(("a", "b"), "character", ("pad",))


@pytest.fixture(scope="module")
def speech():
    spec = importlib.util.spec_from_file_location("speech", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(speech, *given):
    return speech.arguments().parse_args(list(given))


def spelled(number):
    """A number in a's and b's, its binary digits 1 and 0."""
    return f"{number:b}".replace("1", "a").replace("0", "b")


def noises(count, seed=0):
    """Utterances of noise, up to three seconds, whose text is their number in a's and b's."""
    rng = np.random.default_rng(seed)
    texts = [spelled(number + 1) for number in range(count)]
    lengths = rng.integers(2000, 24000, count)
    return [
        rj.data.Utterance(rng.normal(size=length).astype(np.float32), text)
        for length, text in zip(lengths, texts, strict=True)
    ]


def task_of(speech, utterances, augment=True):
    return speech.Task("cer", LETTERS, lambda epoch: utterances, utterances, {"all": utterances}, augment)


# --- features


def by_numpy(samples):
    """Frames of 256 samples, one each 160, through a Hann window and the mel filters; three of them are a step."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    frames = [samples[at : at + 256] * window for at in range(0, len(samples) - 255, 160)]
    power = np.abs(np.fft.rfft(frames)) ** 2 @ rj.data.mel_filters(8000, 256, 40)
    x = (np.log(np.maximum(power, 1e-6)) + 6) / 3
    return np.stack([np.concatenate(x[at : at + 3]) for at in range(0, len(x) - 2, 3)])


def test_features_are_scaled_log_mel_bands(speech):
    rng = np.random.default_rng(1)
    audio, samples = rng.normal(size=(3, 2000)), np.array([2000, 1111, 255])
    x, steps = speech.features(speech.SPEECH, audio, samples)
    assert steps.tolist() == [3, 2, 0]  # of 11, 6 and no frames
    for row, count, own in zip(x, steps, audio, strict=True):
        np.testing.assert_allclose(row[:count], by_numpy(own)[:count], rtol=1e-10, atol=1e-10)


def test_a_key_varies_speed_noise_and_masks(speech):
    time = np.arange(16000) / 8000
    audio = np.tile(np.sin(2 * np.pi * 1000 * time), (12, 1)).astype(np.float32)
    samples = np.full(12, 16000)
    x, steps = map(np.asarray, speech.features(speech.SPEECH, audio, samples, jax.random.key(3)))
    again, _ = speech.features(speech.SPEECH, audio, samples, jax.random.key(3))
    other, _ = speech.features(speech.SPEECH, audio, samples, jax.random.key(4))
    np.testing.assert_array_equal(x, again)
    assert not np.array_equal(x, other)
    x, frames = x.reshape(12, -1, 40), 3 * steps
    # a speed of thousandths is also where the tone of 1000 Hz is then heard
    counts = {(1 + (-(-16000 * 1000 // speed) - 256) // 160) // 3 * 3: speed for speed in (900, 1000, 1100)}
    assert set(frames.tolist()) == set(counts)
    centres = rj.data.mel_to_hz(np.linspace(0, rj.data.hz_to_mel(4000), 42))[1:-1]
    levels, blotted = set(), 0
    for row, count in zip(x, frames, strict=True):
        row = row[:count]
        masked = (row == 0).all(1)
        blotted += masked.sum() + (row == 0).all(0).sum()
        loud = row[~masked].mean(0)
        if (row != 0).all(0)[loud.argmax()]:
            assert abs(centres[loud.argmax()] - counts[count]) < 60
        levels.add(round(float(np.median(row[~masked])), 3))
    assert blotted > 12
    assert len(levels) > 10  # each row has noise of its own
    assert max(levels) - min(levels) > 0.5


# --- batches


@pytest.mark.parametrize("seed", [None, 5])
def test_every_utterance_is_once_among_the_batches(speech, seed):
    utterances = noises(70)
    rng = None if seed is None else np.random.default_rng(seed)
    parts = list(speech.batched(utterances, rng))
    assert sorted(np.concatenate([rows for rows, _, _ in parts]).tolist()) == list(range(70))
    assert sorted(len(rows) for rows, _, _ in parts) == [6, 32, 32]
    for rows, audio, samples in parts:
        assert audio.shape[1] % 16000 == 0
        assert audio.shape[1] - max(samples) < 16000
        for row, own, count in zip(rows, audio, samples, strict=True):
            np.testing.assert_array_equal(own[:count], utterances[row].samples)
            assert not own[count:].any()
    lengths = [np.array([len(utterances[row].samples) for row in rows]) for rows, _, _ in parts]
    if seed is None:
        assert np.all(np.diff(np.concatenate(lengths)) >= 0)
    spread = np.concatenate([of - of.mean() for of in lengths]).std()
    assert spread < np.concatenate(lengths).std() / 2


@pytest.mark.slow
def test_variation_follows_from_seed_epoch_and_batch(speech):
    (one,) = noises(1)
    task = task_of(speech, [one] * 33)

    def first_rows(epoch, seed):
        return [np.asarray(x[0]) for x, _, _ in speech.batches(task, task.training(epoch), epoch, seed)]

    drawn = [row for epoch, seed in [(0, 1), (1, 1), (0, 2)] for row in first_rows(epoch, seed)]
    assert len({row.tobytes() for row in drawn}) == 6
    jax.tree.map(np.testing.assert_array_equal, first_rows(1, 1), drawn[2:4])
    plain = first_rows(0, None)
    np.testing.assert_array_equal(*plain)
    assert plain[0].shape[0] < drawn[0].shape[0]  # what is said slower needs room


def test_what_is_not_to_be_varied_is_only_put_in_another_order(speech):
    utterances = noises(40)
    task = task_of(speech, utterances, augment=False)
    drawn, again, later, other = (
        list(speech.batches(task, utterances, epoch, seed)) for epoch, seed in [(3, 7), (3, 7), (4, 7), (3, 8)]
    )
    order = [[LETTERS.decode(row[row >= 0]) for _, labels, _ in one for row in labels] for one in (drawn, later, other)]
    assert sorted(order[0]) == sorted(order[1]) == sorted(order[2]) == sorted(one.text for one in utterances)
    assert len(set(map(tuple, order))) == 3
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    for x, labels, frames in drawn:
        for row, own, count in zip(np.asarray(x), labels, np.asarray(frames), strict=True):
            text = LETTERS.decode(own[own >= 0])
            (samples,) = (utterance.samples for utterance in utterances if utterance.text == text)
            np.testing.assert_allclose(row[:count], by_numpy(samples)[:count], atol=2e-4)
            assert count == (1 + (len(samples) - 256) // 160) // 3


# --- tasks


def test_morse_sets_do_not_meet(speech):
    args = arguments(speech, "--count", "6", "--tests", "5", "--seed", "3")
    task = speech.morse(args)
    sets = [task.training(15), task.training(16), task.training(29), task.validation, *task.tests.values()]
    assert [len(one) for one in sets] == [6, 6, 6, 5, 5, 5, 5, 5, 5]
    texts = [keyed.text for one in sets for keyed in one]
    assert len(set(texts)) == len(texts)
    assert [keyed.text for keyed in task.training(15)] == [keyed.text for keyed in sets[0]]
    assert list(task.tests) == ["5 dB", "-5 dB", "0 dB", "10 dB", "20 dB"]
    for name, one in task.tests.items():
        assert {f"{keyed.snr_db:g} dB" for keyed in one} == {name}
    assert all(task.vocabulary.complaint(text) is None for text in texts)


@pytest.mark.slow
def test_morse_begins_short_and_clear(speech):
    task = speech.morse(arguments(speech, "--count", "40"))
    first, last = (task.training(epoch) for epoch in (0, 29))
    assert {len(keyed.text) for keyed in first} == {1}
    assert min(keyed.snr_db for keyed in first) > 10
    assert {len(keyed.text) for keyed in last} == set(range(4, 11))
    assert -5 <= min(keyed.snr_db for keyed in last) < 0
    assert not task.augment


def clips(folder):
    """Clips of all digits by three speakers, with the indices 0 to 9; the value of all samples tells which it is."""
    values = {}
    for number, (speaker, index) in enumerate((s, i) for s in ("ann", "bob", "eve") for i in range(10)):
        for digit in range(10):
            value = (1 + 10 * number + digit) / 1000
            rj.data.write_wav(folder / f"{digit}_{speaker}_{index}.wav", np.full(900, value), 8000)
            values[round(value * 1000)] = (digit, speaker, index)
    return values


def heard_in(utterances, values):
    """The speaker and index of every clip, once it has been seen that the words are those of the clips."""
    found = set()
    for utterance in utterances:
        numbers = np.round(utterance.samples * 1000).astype(int)
        starts = np.flatnonzero((numbers != 0) & (np.diff(numbers, prepend=0) != 0))
        pieces = [values[numbers[at]] for at in starts]
        if len(utterance.text.split()) == len(pieces):  # the same clip twice without a gap looks like one
            assert [WORDS[digit] for digit, _, _ in pieces] == utterance.text.split()
        found |= {(speaker, index) for _, speaker, index in pieces}
    return found


def test_digits_of_training_validation_and_test_do_not_meet(speech, tmp_path, capsys):
    values = clips(tmp_path)
    (tmp_path / "noise.wav").write_bytes(b"nothing")
    rj.data.write_wav(tmp_path / "3_ann_7.wav", np.full(500, 0.9), 8000)  # 2 frames at the highest speed, and 3 a step
    args = ["--data", str(tmp_path), "--count", "60", "--tests", "60"]
    task = speech.digits(arguments(speech, *args))
    out = capsys.readouterr().out
    assert "299 items, 2 left out, 0 mended" in out
    assert "noise.wav: left out" in out
    assert "3_ann_7.wav: left out: 0 frames are too few for its 1 labels, which need 1" in out
    sets = [task.training(0) + task.training(1), task.validation, *task.tests.values()]
    indices = [range(7, 10), range(5, 7), range(5)]
    for one, own in zip(sets, indices, strict=True):
        assert heard_in(one, values) == {(speaker, index) for speaker in ("ann", "bob", "eve") for index in own}
    assert [u.text for u in task.training(0)] != [u.text for u in task.training(1)]
    assert task.figure == "digits_wer"
    assert len(task.vocabulary) == 11

    task = speech.digits(arguments(speech, *args, "--hold-out", "bob"))
    assert {speaker for speaker, _ in heard_in(task.training(0), values)} == {"ann", "eve"}
    assert {speaker for speaker, _ in heard_in(task.validation, values)} == {"ann", "eve"}
    assert heard_in(task.tests["bob"], values) == {("bob", index) for index in range(10)}
    assert task.figure == "digits_wer_new_speaker"
    with pytest.raises(SystemExit, match="'ann', 'bob', 'eve'"):
        speech.digits(arguments(speech, *args, "--hold-out", "tom"))


def test_recordings_that_cannot_be_used_are_named(speech, tmp_path, capsys):
    rng = np.random.default_rng(2)
    lines = []
    for number in range(30):
        rj.data.write_wav(tmp_path / f"{number}.wav", rng.uniform(-1, 1, 3000), 8000)
        lines.append(f"{number}.wav\tab{number}")
    lines[3] = "3.wav\t" + "ab" * 20  # 5 steps at the highest speed
    lines[5] = "nowhere.wav\tab"
    lines[7] = ""
    table = tmp_path / "said.tsv"
    table.write_text("\n".join(lines), encoding="utf-8")
    task = speech.recordings(arguments(speech, "--data", str(table)))
    out = capsys.readouterr().out
    assert "27 items, 3 left out, 0 mended" in out
    assert "said.tsv:4: left out: 5 frames are too few for its 40 labels" in out
    assert all(f"said.tsv:{line}" in out for line in (6, 8))
    parts = [task.training(0), task.validation, task.tests["test"]]
    texts = [utterance.text for part in parts for utterance in part]
    assert sorted(texts) == sorted(f"ab{number}" for number in range(30) if number not in (3, 5, 7))
    assert [len(part) for part in parts] == [22, 2, 3]
    table.write_text("\n".join(lines[:9]), encoding="utf-8")
    with pytest.raises(SystemExit, match="at least 8, 1 and 1 are needed"):
        speech.recordings(arguments(speech, "--data", str(table)))


def test_transcripts_fit_at_the_highest_speed(speech, tmp_path, capsys):
    """5 steps of three frames of 32 ms, one each 20 ms, said at 1.1 of their speed; and 6 said as they are."""
    lines = [f"{number}.wav\t{spelled(number + 1)}" for number in range(18)]
    needed = {5: 256 + 160 * 14, 6: 256 + 160 * 17}
    lengths = {0: needed[5], 1: -(-needed[5] * 11 // 10), 2: needed[6]}
    for number in range(18):
        rj.data.write_wav(tmp_path / f"{number}.wav", np.zeros(lengths.get(number, 8000)), 8000)
    for number, text in ((0, "ababa"), (1, "ababa"), (2, "ababab")):
        lines[number] = f"{number}.wav\t{text}"
    table = tmp_path / "said.tsv"
    table.write_text("\n".join(lines), encoding="utf-8")
    speech.recordings(arguments(speech, "--data", str(table)))
    out = capsys.readouterr().out
    assert "16 items, 2 left out, 0 mended" in out
    assert "said.tsv:1: left out: 4 frames are too few for its 5 labels" in out
    assert "said.tsv:3: left out: 5 frames are too few for its 6 labels" in out


def test_characters_that_training_lacks_are_named(speech, tmp_path, capsys):
    """Every other recording has a character of its own, which is unknown where it is in validation or test."""
    own = "".join(map(chr, range(0x3B1, 0x3B1 + 40)))
    lines = [f"{number}.wav\t{spelled(number) if number % 2 else 'ab' + own[number]}" for number in range(40)]
    for number in range(40):
        rj.data.write_wav(tmp_path / f"{number}.wav", np.zeros(8000), 8000)
    table = tmp_path / "said.tsv"
    table.write_text("\n".join(lines), encoding="utf-8")
    task = speech.recordings(arguments(speech, "--data", str(table), "--seed", "1"))
    out = capsys.readouterr().out
    train, validation, test = task.training(0), task.validation, task.tests["test"]
    assert len(train) == 32
    assert task.vocabulary.symbols == tuple("ab") + tuple(sorted({c for one in train for c in one.text} - {*"ab"}))
    assert {*"".join(one.text for one in (*validation, *test))} == {*"ab"}
    left = 8 - len(validation) - len(test)
    assert left > 1
    assert f"{40 - left} items, {left} left out, 0 mended" in out
    named = re.findall(r"said.tsv:(\d+): left out: character 3, '(.)', is not in the vocabulary", out)
    assert len(named) == left
    assert {own[int(line) - 1] for line, _ in named} == {symbol for _, symbol in named}
    assert not {symbol for _, symbol in named} & {*task.vocabulary.symbols}


def test_no_sentence_is_in_two_parts_whoever_says_it(speech, tmp_path):
    """Twelve sentences by three speakers, who are told apart by how loud they are."""
    lines = []
    for number in range(36):
        rj.data.write_wav(tmp_path / f"{number}.wav", np.full(8000, (1 + number // 12) / 4), 8000)
        lines.append(f"{number}.wav\t{spelled(8 + number % 12)}")
    table = tmp_path / "said.tsv"
    table.write_text("\n".join(lines), encoding="utf-8")
    task = speech.recordings(arguments(speech, "--data", str(table)))
    parts = [task.training(0), task.validation, task.tests["test"]]
    assert [len(part) for part in parts] == [30, 3, 3]
    texts = [{one.text for one in part} for part in parts]
    assert [len(one) for one in texts] == [10, 1, 1]
    assert len(set.union(*texts)) == 12
    for part in parts:
        assert {round(float(one.samples[0]), 2) for one in part} == {0.25, 0.5, 0.75}


# --- recognition


def tones(text, rng):
    """An utterance of an 800 Hz tone for each a and a 2000 Hz tone for each b, with silence around each."""
    parts = [np.zeros(1200)]
    for letter in text:
        length = int(rng.integers(600, 1500))
        parts += [np.sin(2 * np.pi * {"a": 800, "b": 2000}[letter] / 8000 * np.arange(length)), np.zeros(1200)]
    return rj.data.Utterance(np.concatenate(parts).astype(np.float32), text)


def tone_reader(speech):
    """A network without memory that hears those tones: each label's score is how loud its band is."""
    centres = rj.data.mel_to_hz(np.linspace(0, rj.data.hz_to_mel(4000), 42))[1:-1]
    model = rj.Stack([rj.Dense(3)])
    (params,) = model.init(jax.random.key(0), 120)
    w = np.zeros((40, 3), np.float32)
    w[np.abs(centres - 800).argmin(), 1] = w[np.abs(centres - 2000).argmin(), 2] = 20
    params = params._replace(w=jnp.asarray(np.tile(w, (3, 1)) / 3), b=jnp.asarray([10, 0, 0], jnp.float32))
    return speech.Recogniser((params,), model, speech.SPEECH, LETTERS)


@pytest.mark.parametrize("beams", [None, 8])
def test_transcripts_come_in_the_order_of_the_utterances(speech, beams):
    rng = np.random.default_rng(4)
    texts = ["".join(rng.choice(["a", "b"], rng.integers(1, 12))) for _ in range(40)]
    utterances = [tones(text, rng) for text in texts]
    assert speech.transcribe(tone_reader(speech), utterances, beams) == texts


def test_tones_are_heard_as_they_come(speech):
    rng = np.random.default_rng(5)
    live, utterance = speech.Stream(tone_reader(speech), block=3), tones("aabba", rng)
    seen = [live.feed(part) for part in np.array_split(utterance.samples, 60)]
    seen.append(live.feed(np.zeros(0, np.float32), end=True))
    assert list(dict.fromkeys(seen)) == ["", "a", "aa", "aab", "aabb", "aabba"]


@pytest.fixture(scope="module")
def unidirectional(speech):
    """Two layers that read forwards, in float64, with weights large enough to say something, and their scores."""
    vocabulary = rj.data.Vocabulary(tuple("abcd"), "character", ("pad",))
    model = speech.build(len(vocabulary), 7, 2, streaming=True)
    params = model.init(jax.random.key(6), 120, jnp.float64)
    return speech.Recogniser(jax.tree.map(lambda leaf: 3 * leaf, params), model, speech.SPEECH, vocabulary)


def pieces(samples, rng):
    """Samples cut at random, with pieces of none and of one among them."""
    cuts = np.sort(rng.integers(0, len(samples) + 1, 25))
    return np.split(samples, np.sort([*cuts, cuts[3], cuts[9], min(cuts[9] + 1, len(samples))]))


@pytest.mark.parametrize("length", [256 + 160 * 41, 256 + 160 * 47, 9000, 575, 415, 255, 0])
def test_a_stream_equals_the_whole(speech, unidirectional, length):
    rng = np.random.default_rng((7, length))
    samples = rng.normal(size=length) * np.repeat(rng.uniform(0, 1, length // 500 + 1), 500)[:length]
    audio, _ = rj.data.pad([samples], length=9000)
    whole, steps, _ = speech.listen(*unidirectional[:3], audio, np.array([length]))
    whole = np.asarray(whole)[: int(steps[0]), 0]
    assert len(whole) == max(0, 1 + (length - 256) // 160) // 3

    found = []
    for _ in range(3):
        live = speech.Stream(unidirectional)
        for part in pieces(samples, rng):
            live.feed(part)
        text = live.feed(samples[:0], end=True)
        found.append((np.concatenate([np.zeros((0, 5)), *live.log_probs]), text))
    for log_probs, text in found:
        np.testing.assert_array_equal(log_probs, found[0][0])  # the same bits, however the sound was cut
        np.testing.assert_allclose(log_probs, whole, rtol=0, atol=1e-12)
        assert text == speech.transcribe(unidirectional, [rj.data.Utterance(samples, "")], None)[0]
    assert length < 1000 or len(set(found[0][1])) > 1


def test_a_network_that_reads_both_ways_cannot_stream(speech):
    model = speech.build(3, 4, 1, streaming=False)
    live = speech.Stream(speech.Recogniser(model.init(jax.random.key(0), 120), model, speech.SPEECH, LETTERS))
    with pytest.raises(ValueError, match="not causal"):
        live.feed(np.zeros(8000, np.float32))


# --- the whole


@pytest.mark.slow
def test_dollars_of_a_transcript_are_no_formula(speech, monkeypatch, tmp_path):
    """Matplotlib would refuse this one."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    monkeypatch.setattr(speech, "listen", lambda *_: (np.log([[[0.8, 0.1, 0.1]], [[0.1, 0.8, 0.1]]]), None, None))
    monkeypatch.setattr(speech, "transcribe", lambda *_: [r"$\frac$"])
    front = (lambda audio, samples: (np.ones((1, 6, 4)), None),)
    recogniser = speech.Recogniser(None, None, front, LETTERS)
    speech.draw(tmp_path / "drawn.png", recogniser, rj.data.Utterance(np.ones(900), "from $5 to $6"))
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_smoke_run(speech, monkeypatch, capsys, tmp_path):
    pytest.importorskip("jiwer", reason="jiwer counts the errors; it is of the extra `examples`")
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib, of the extra `examples`")
    flags = ["--smoke", "--streaming", "--layers", "1", "--out", str(tmp_path), "--write", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["speech.py", *flags])
    speech.main()
    out = capsys.readouterr().out
    assert "\nfigure: morse_cer_5db_streaming " in out
    assert "after 2 s: " in out
    assert (tmp_path / "speech.png").read_bytes().startswith(b"\x89PNG")
    assert '"morse_cer_5db_streaming"' in (tmp_path / "found.json").read_text()
