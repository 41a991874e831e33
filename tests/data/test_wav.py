"""Wav files of every kind, written byte by byte, and what becomes of those that are not as expected."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from rnnjax import data


def riff(samples: bytes, *, bits: int, tag: int = 1, channels: int = 1, rate: int = 8000, extra: bytes = b"") -> bytes:
    """A wav file."""
    size = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * size, size, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def packed(numbers: list[int], size: int) -> bytes:
    return b"".join(number.to_bytes(size, "little", signed=True) for number in numbers)


EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
KINDS = {
    "pcm8": (riff(bytes([0, 128, 255, 64]), bits=8), [-1, 0, 127 / 128, -0.5]),
    "pcm16": (riff(packed([-32768, 0, 16384, 1], 2), bits=16), [-1, 0, 0.5, 1 / 32768]),
    "pcm24": (riff(packed([-(2**23), 0, 2**22, 1], 3), bits=24), [-1, 0, 0.5, 2.0**-23]),
    "pcm32": (riff(packed([-(2**31), 0, 2**30, 2**8], 4), bits=32), [-1, 0, 0.5, 2.0**-23]),
    "float32": (riff(np.array([-1, 0, 0.5, 0.25], "<f4").tobytes(), bits=32, tag=3), [-1, 0, 0.5, 0.25]),
    "float64": (riff(np.array([-1, 0, 0.5, 0.25], "<f8").tobytes(), bits=64, tag=3), [-1, 0, 0.5, 0.25]),
    "extensible": (riff(packed([-32768, 0, 16384], 2), bits=16, tag=0xFFFE, extra=EXTENSIBLE), [-1, 0, 0.5]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_numbers(kind: str, tmp_path: Path) -> None:
    raw, expected = KINDS[kind]
    path = tmp_path / "a.wav"
    path.write_bytes(raw)
    sound = data.read_wav(path)
    assert sound.samples.dtype == np.float32
    np.testing.assert_array_equal(sound.samples, np.array(expected, np.float32))
    assert sound.rate == 8000
    assert not sound.problems


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(packed([16384, 0, -16384, -8192], 2), bits=16, channels=2))
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([0.25, -0.375]))
    assert [str(problem) for problem in sound.problems] == [f"{path}: 2 channels: their mean is used"]


def test_another_rate_is_resampled(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    time = np.arange(4000)
    data.write_wav(path, 0.5 * np.sin(2 * np.pi * 440 / 16000 * time), 16000)
    sound = data.read_wav(path, 11025)
    assert sound.rate == 11025
    assert len(sound.samples) == np.ceil(4000 * 11025 / 16000)
    wave = 0.5 * np.sin(2 * np.pi * 440 / 11025 * np.arange(len(sound.samples)))
    np.testing.assert_allclose(sound.samples[100:-100], wave[100:-100], atol=0.01)
    assert [str(problem) for problem in sound.problems] == [f"{path}: 16000 samples a second: resampled to 11025"]


def test_written_files_are_read_again(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 50) / 32768
    data.write_wav(tmp_path / "a.wav", samples, 16000)
    np.testing.assert_array_equal(data.read_wav(tmp_path / "a.wav", 16000).samples, samples.astype(np.float32))
    data.write_wav(tmp_path / "b.wav", np.array([2.0, -2.0]), 8000)
    np.testing.assert_array_equal(data.read_wav(tmp_path / "b.wav").samples, np.float32([32767 / 32768, -1]))
    with pytest.raises(ValueError, match="one channel"):
        data.write_wav(tmp_path / "c.wav", np.ones((3, 2)), 8000)
    with pytest.raises(TypeError, match="floating point; got int16: divide PCM of 16 bits by 32768"):
        data.write_wav(tmp_path / "c.wav", np.ones(3, np.int16), 8000)
    with pytest.raises(ValueError, match="finite"):
        data.write_wav(tmp_path / "c.wav", np.array([0.0, np.nan]), 8000)


def test_files_that_end_too_early(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(packed([100, 200, 300, 400], 2), bits=16)[:-4])
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([100, 200]) / 32768)
    assert "cut short" in sound.problems[0].message


def test_sizes_that_the_recorder_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    whole = riff(packed([100, 200, 300, 400], 2), bits=16)
    size = whole.index(b"data") + 4
    path.write_bytes(whole[:4] + bytes(4) + whole[8:size] + bytes(4) + whole[size + 4 :])
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([100, 200, 300, 400]) / 32768)
    assert "cut short" in sound.problems[0].message


def test_sizes_of_the_first_block_alone(tmp_path: Path) -> None:
    """A recorder that wrote sizes once and was killed: what they count is read, and the rest is told of."""
    path = tmp_path / "a.wav"
    path.write_bytes(riff(packed([100, 200], 2), bits=16) + packed([300, 400, 500, 600, 700], 2))
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([100, 200]) / 32768)
    assert [problem.message for problem in sound.problems] == [
        "goes on behind its samples, as its header counts them: 10 bytes are not used"
    ]


@pytest.mark.parametrize("riff_size", [8, 36], ids=str)
def test_samples_that_no_size_counts(riff_size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    whole = riff(packed([100, 200, 300, 400], 2), bits=16)
    size = whole.index(b"data") + 4
    path.write_bytes(whole[:4] + struct.pack("<I", riff_size) + whole[8:size] + bytes(4) + whole[size + 4 :])
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([100, 200, 300, 400]) / 32768)
    assert "cut short" in sound.problems[0].message


@pytest.mark.parametrize("pad", [b"", b"\0"], ids=["no pad", "pad"])
def test_samples_that_end_within_a_frame(pad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(packed([100, 200], 2) + b"x", bits=16) + pad)
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([100, 200]) / 32768)
    assert [problem.message for problem in sound.problems] == ["ends within a frame: that part is not used"]


@pytest.mark.parametrize("pad", [b"", b"\0"], ids=["no pad", "pad"])
def test_chunks_behind_the_samples(pad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(packed([100, 200], 2), bits=16) + b"LIST" + struct.pack("<I", 3) + b"abc" + pad)
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([100, 200]) / 32768)
    assert not sound.problems


@pytest.mark.parametrize(("channels", "size"), [(1, 2), (2, 2), (1, 3), (2, 3), (3, 4)])
def test_files_that_end_within_a_sample(channels: int, size: int, tmp_path: Path) -> None:
    path, numbers = tmp_path / "a.wav", [256 * number for number in range(1, 12 * channels + 1)]
    whole = riff(packed(numbers, size), bits=8 * size, channels=channels)
    for missing in range(1, 2 * channels * size):
        path.write_bytes(whole[:-missing])
        sound = data.read_wav(path)
        frames = 12 - -(-missing // (channels * size))
        expected = np.reshape(numbers[: frames * channels], (frames, channels)).mean(1) / 2.0 ** (8 * size - 1)
        np.testing.assert_allclose(sound.samples, expected, rtol=1e-6)
        assert "cut short" in sound.problems[0].message


def test_numbers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(np.array([np.nan, 0.5, np.inf], "<f4").tobytes(), bits=32, tag=3))
    sound = data.read_wav(path)
    np.testing.assert_array_equal(sound.samples, np.float32([0, 0.5, 0]))
    assert "not finite" in sound.problems[0].message
    path.write_bytes(riff(np.array([1e39, 0.5, -1e300], "<f8").tobytes(), bits=64, tag=3))
    np.testing.assert_array_equal(data.read_wav(path).samples, np.float32([0, 0.5, 0]))


@pytest.mark.parametrize("raw", [b"", b"no sound at all", riff(b"", bits=16), riff(b"abcd", bits=16, tag=85)])
def test_files_that_are_no_sound(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.wav"):
        data.read_wav(path)
    with pytest.raises(FileNotFoundError):
        data.read_wav(tmp_path / "b.wav")


def test_a_folder_uses_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("3_ann_7", "4_bob_12", "note"):
        data.write_wav(tmp_path / f"{name}.wav", rng.uniform(-1, 1, 80), 8000)
    data.write_wav(tmp_path / "5_ann_0.wav", rng.uniform(-1, 1, 80), 16000)
    (tmp_path / "6_ann_1.wav").write_bytes(b"broken")
    reading = data.read_fsdd(tmp_path)
    assert [(clip.digit, clip.speaker, clip.index, clip.test) for clip in reading] == [
        (3, "ann", 7, False), (4, "bob", 12, False), (5, "ann", 0, True)
    ]  # fmt: skip
    assert [len(clip.samples) for clip in reading] == [80, 80, 40]
    told = {Path(problem.place.path).name: problem.message for problem in reading.problems}
    assert set(told) == {"note.wav", "5_ann_0.wav", "6_ann_1.wav"}
    assert told["5_ann_0.wav"].endswith("resampled to 8000")
    assert told["note.wav"].startswith("left out: the name must be")
    assert "6_ann_1.wav is no wav file" in told["6_ann_1.wav"]


def test_transcripts_and_what_is_too_short_for_them(tmp_path: Path) -> None:
    for name, samples, rate in (("a", 80, 8000), ("b", 160, 16000), ("c", 30, 8000)):
        data.write_wav(tmp_path / f"{name}.wav", np.full(samples, 0.5), rate)
    table = tmp_path / "table.tsv"
    table.write_text("a.wav\tone\nb.wav\ttwo\nd.wav\tthree\nc.wav\tsee\n\n")
    reading = data.read_transcribed(table, 8000)
    assert [(len(one.samples), one.text) for one in reading] == [(80, "one"), (80, "two"), (30, "see")]
    assert {problem.place.line for problem in reading.problems} == {2, 3, 5}
    long_enough = reading.check(lambda one: data.ctc_complaint(len(one.samples) // 10, [*map(ord, one.text)]))
    assert [one.text for one in long_enough] == ["one", "two"]
    assert str(long_enough.problems[-1]) == f"{table}:4: left out: 3 frames are too few for its 3 labels, which need 4"
    assert data.ctc_complaint(0, []) is None
    assert data.ctc_complaint(4, [1, 1, 2]) is None


def test_tables_of_published_recordings(tmp_path: Path) -> None:
    """LJ Speech names files without their ending, Common Voice compressed ones of which the wav files were made."""
    for name, samples in (("wavs/LJ001-0001", 80), ("wavs/LJ001-0002", 40), ("clips/common_voice_en_1", 20)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data.write_wav(tmp_path / f"{name}.wav", np.full(samples, 0.5), 8000)
    (tmp_path / "metadata.csv").write_text(
        'LJ001-0001|Dr. "X|Doctor "X\nLJ001-0002|in 1 part|in one part\nLJ001-0003|no|no\n', encoding="utf-8"
    )
    table = tmp_path / "metadata.csv"
    reading = data.read_transcribed(table, 8000, columns=(0, 2), delimiter="|", folder="wavs")
    assert [(len(one.samples), one.text) for one in reading] == [(80, 'Doctor "X'), (40, "in one part")]
    assert [problem.place.line for problem in reading.problems] == [3]
    table = tmp_path / "validated.tsv"
    table.write_text("client_id\tpath\tsentence_id\tsentence\n9f\tcommon_voice_en_1.mp3\t7\tHello.\n", encoding="utf-8")
    reading = data.read_transcribed(table, 8000, columns=("path", "sentence"), folder="clips")
    assert [(len(one.samples), one.text, str(at)) for one, at in zip(reading, reading.places, strict=True)] == [
        (20, "Hello.", f"{table}:2")
    ]


def test_the_wav_file_that_a_table_means(tmp_path: Path) -> None:
    """Beside a compressed original, and by names in which a dot is no ending."""
    sizes = {"clip.wav": 10, "rec.wav": 20, "rec.1.wav": 30, "b.mp3.wav": 40, "b.wav": 50, "loud.WAV": 60, "sound": 70}
    for name, samples in sizes.items():
        data.write_wav(tmp_path / name, np.full(samples, 0.5), 8000)
    for name in ("clip", "alone"):
        (tmp_path / f"{name}.mp3").write_bytes(b"ID3\4")
    names = [
        "clip.mp3",
        "clip.wav",
        "rec.1",
        "rec",
        "b.mp3",
        "b",
        "loud.WAV",
        "sound",
        "alone.mp3",
        "rec.2",
        "none.wav",
    ]
    (tmp_path / "table.tsv").write_text("".join(f"{name}\t{name}\n" for name in names))
    reading = data.read_transcribed(tmp_path / "table.tsv", 8000)
    found = {one.text: len(one.samples) for one in reading}
    assert found == dict(zip(names[:8], (10, 10, 30, 20, 40, 50, 60, 70), strict=True))
    assert [problem.place.line for problem in reading.problems] == [9, 10, 11]
    for problem, name in zip(reading.problems, names[8:], strict=True):
        assert name in problem.message
        assert f"{name}.wav" not in problem.message


def test_digits_are_joined_with_pauses() -> None:
    clips = [data.Clip(np.full(10 + n, n + 1, np.float32), n % 10, "ab"[n % 2], n) for n in range(40)]
    spoken = data.digit_strings(clips, 60, seed=3, shortest=2, longest=4, gap=5)
    lengths = {len(one.text.split()) for one in spoken}
    assert lengths == {2, 3, 4}
    names = {
        "zero": 0,
        "one": 1,
        "two": 2,
        "three": 3,
        "four": 4,
        "five": 5,
        "six": 6,
        "seven": 7,
        "eight": 8,
        "nine": 9,
    }
    gaps = set()
    for one in spoken:
        edges = np.flatnonzero(np.diff(one.samples, prepend=0, append=0))
        values = [one.samples[at] for at in edges[:-1]]
        used = [clips[int(value) - 1] for value in values if value]
        assert [clip.digit for clip in used] == [names[word] for word in one.text.split()]
        assert len({clip.speaker for clip in used}) == 1
        gaps.add(len(one.samples) - sum(len(clip.samples) for clip in used))
    assert 0 in gaps
    assert max(gaps) <= 15
    assert {clip for one in spoken for clip in one.text.split()} == set(names)
    again = data.digit_strings(clips, 5, seed=3, shortest=2, longest=4, gap=5)
    assert [one.text for one in again] == [one.text for one in spoken[:5]]
    with pytest.raises(ValueError, match="at least one clip"):
        data.digit_strings([], 1, seed=0)
    with pytest.raises(ValueError, match="`gap` must be at least 0 samples; got -1"):
        data.digit_strings(clips, 1, seed=0, gap=-1)
    with pytest.raises(ValueError, match="`longest` must be at least"):
        data.digit_strings(clips, 1, seed=0, longest=2)
