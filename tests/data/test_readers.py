"""Readers on small files with every defect: what is said about it, and that the rest is used."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
import tarfile
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from rnnjax import data
from rnnjax.data import Place, Problem, Reading


def told(reading: Reading) -> list[tuple[str, int | None]]:
    """File name and line of each problem."""
    return [(Path(problem.place.path).name, problem.place.line) for problem in reading.problems]


PAIRS = (
    "\ufeffone\tuno\r\ntwo\tdos\tCC BY\r\n\r\nthree\r\n\tcuatro\r\nfünf\tcinco\u2028\r\n".encode() + b"se\xe9s\tsix\n"
)


def test_pairs_with_every_defect(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(PAIRS)
    reading = data.read_pairs(path)
    assert reading.items == [("one", "uno"), ("two", "dos"), ("fünf", "cinco")]
    assert [place.line for place in reading.places] == [1, 2, 6]
    assert {problem.place.line: problem.message for problem in reading.problems} == {
        3: "left out: an empty line",
        4: "left out: 1 cell between '\\t', and column 1 (from 0) is needed",
        5: "left out: column 0 (from 0) is empty",
        7: "left out: not utf-8 (byte 0xe9 at column 3); pass another `encoding` if the file has one",
    }
    assert str(reading.problems[0]) == f"{path}:3: left out: an empty line"
    assert data.read_pairs(path, columns=(1, 0)).items[0] == ("uno", "one")
    assert data.read_pairs(path, encoding="latin-1").items[-1] == ("seés", "six")


ROWS = [('a "quoted" word', "two\nlines"), ('"', "tab\there"), ("plain, text", "x"), ("", "nothing left of it")]


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("csv", ","), ("csv", ";")])
def test_rows_as_spreadsheets_write_them(tmp_path: Path, suffix: str, delimiter: str) -> None:
    with (tmp_path / f"pairs.{suffix}").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)  # Excel's dialect
        writer.writerows([("id", "source", "target"), *((i, *row) for i, row in enumerate(ROWS))])
    read = partial(data.read_pairs, tmp_path, delimiter=delimiter, quoted=True)
    for columns in (("source", "target"), (1, 2), ("source", 2)):
        reading = read(columns=columns, header=True)
        assert reading.items == ROWS[:3]
        assert [place.line for place in reading.places] == [2, 4, 5]
        assert [
            (line, problem.message) for (_, line), problem in zip(told(reading), reading.problems, strict=True)
        ] == [(6, "left out: column 1 (from 0) is empty")]
    assert read(columns=("target", "source")).items == [pair[::-1] for pair in ROWS[:3]]  # a name needs a header
    with pytest.raises(
        ValueError, match=rf"pairs.{suffix}: left out: no column 'text'; it has 'id', 'source', 'target'"
    ):
        read(columns=("source", "text"))


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"\xe9t\xe9,b", r"not utf-8 \(byte 0xe9 at column 1\); pass another `encoding`"),
        (b"a\0,b", "holds NUL"),
        (b'"a,b', "unexpected end of data"),
    ],
)
def test_the_line_behind_a_header_that_cannot_be_read_is_no_header(tmp_path: Path, first: bytes, reason: str) -> None:
    lines, read = first + b"\none,uno\ntwo,dos\n", partial(data.read_pairs, delimiter=",", header=True, quoted=True)
    (tmp_path / "a.csv").write_bytes(lines)
    with pytest.raises(ValueError, match=rf"a.csv: left out: its header, line 1, cannot be read: {reason}"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\n" + lines)
    (tmp_path / "b.csv").write_text("\na,b\nsix,seis\n")
    reading = read(tmp_path)
    assert reading.items == [("six", "seis")]
    assert re.search(f"its header, line 2, cannot be read: {reason}", reading.problems[1].message)
    assert told(reading) == [("a.csv", 1), ("a.csv", None), ("b.csv", 1)]
    assert data.read_pairs(tmp_path / "a.csv", delimiter=",", quoted=True).items[-2:] == [
        ("one", "uno"),
        ("two", "dos"),
    ]


def test_a_quote_that_is_not_closed_costs_its_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_bytes(
        b'"one\tuno\n"two"\tdos\n5" disk\tdisco\nbad\t\xff\nfour\t"cuatro"s\nsix\tseis\n'
    )
    reading = data.read_pairs(tmp_path / "pairs.tsv", quoted=True)
    assert reading.items == [("two", "dos"), ('5" disk', "disco"), ("six", "seis")]
    assert [line for _, line in told(reading)] == [1, 4, 5]
    plain = data.read_pairs(tmp_path / "pairs.tsv")
    assert plain.items[:2] == [('"one', "uno"), ('"two"', "dos")]  # quotes are text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": (0, -1)}, r"`columns` must be two numbers from 0 or names, such as \(0, 1\); got \(0, -1\)"),
        ({"columns": "ab"}, "got 'ab'"),
        ({"columns": (0, 1, 2)}, "two numbers"),
        ({"delimiter": "||"}, "`delimiter` must be one character, .* got '||'"),
    ],
)
def test_columns_and_delimiters_that_are_none(tmp_path: Path, options: dict, message: str) -> None:
    (tmp_path / "pairs.tsv").write_text("one\tuno\n")
    with pytest.raises(ValueError, match=message.replace("||", r"\|\|")):
        data.read_pairs(tmp_path / "pairs.tsv", **options)


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes("one\tñu\n".encode("utf-16"))
    assert data.read_pairs(path, encoding="utf-16").items == [("one", "ñu")]
    with pytest.raises(ValueError, match=r'pairs\.tsv: left out: it begins as UTF-16 does; pass `encoding="utf-16"`'):
        data.read_pairs(path)
    path.write_bytes("one\tñu\n".encode("utf-32"))
    with pytest.raises(ValueError, match=r'it begins as UTF-32 does; pass `encoding="utf-32"`'):
        data.read_pairs(path)
    assert data.read_pairs(path, encoding="utf-32").items == [("one", "ñu")]
    for name in ("utf-8-sig", "U8", "utf_8"):  # one bad line is one bad line
        path.write_bytes(b"\xef\xbb\xbfone\tuno\ntwo\td\xe9s\nthree\ttres\n")
        reading = data.read_pairs(path, encoding=name)
        assert reading.items == [("one", "uno"), ("three", "tres")]
        assert [problem.place.line for problem in reading.problems] == [2]
    for codec in ("utf-16-le", "utf-16-be", "utf-32-be"):  # nothing at the front tells
        path.write_bytes("one\tñu\ntwo\tdos\n".encode(codec))
        with pytest.raises(ValueError, match=r"pairs\.tsv(:1)?: left out: .*(NUL|not utf-8)"):
            data.read_pairs(path)
    path.write_bytes("one\tñu\n".encode("utf-16") + b"x")
    with pytest.raises(ValueError, match=r"pairs\.tsv: left out: not utf-16 \(truncated data, byte 16\)"):
        data.read_pairs(path, encoding="utf-16")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_end_of_a_line(tmp_path: Path, end: str) -> None:
    path = tmp_path / "pairs.tsv"
    for last in ("", end):
        path.write_text(f"one\tuno{end}two\tdos{last}", newline="")
        assert data.read_pairs(path).items == [("one", "uno"), ("two", "dos")]
        assert data.read_documents(path).items[0].text == "one\tuno\ntwo\tdos" + "\n" * bool(last)


def test_broken_archives_are_named_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    packed = gzip.compress(b"two\tdos\n" * 100)
    (folder / "cut.tsv.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "none.tsv.gz").write_bytes(b"two\tdos\n")
    (folder / "whole.tsv.gz").write_bytes(gzip.compress(b"one\tuno\n"))
    reading = data.read_pairs(folder)
    assert reading.items == [("one", "uno")]
    assert told(reading) == [("cut.tsv.gz", None), ("none.tsv.gz", None)]
    assert all(problem.message.startswith("left out: it cannot be read (") for problem in reading.problems)

    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "seen\tvisto\n" * 100)
        archive.writestr("b.txt", "one\tuno\n")
    raw = bytearray(path.read_bytes())
    raw[37] ^= 0xFF  # within the packed bytes of the first member, behind its header of 35
    path.write_bytes(raw)
    reading = data.read_pairs(path)
    assert reading.items == [("one", "uno")]
    assert told(reading) == [("a.txt", None)]
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"all\.zip: left out: no zip file that can be read"):
        data.read_pairs(path)
    with pytest.raises(FileNotFoundError):
        data.read_pairs(tmp_path / "nowhere.zip")


def test_archives_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    notes = ("README.txt", "_about.txt", "SOURCE.txt", "Licence.TXT", "license-mit.txt", ".hidden.txt")
    names = ["A.TXT", "b.tsv", "licensed_words.txt", "source.txt", "target.txt"]
    for name in (*notes, *names, "c.json"):
        (folder / name).write_text(f"{name}\tx\n")
    assert [first for first, _ in data.read_pairs(folder)] == names
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"inner/{path.name}")
    reading = data.read_pairs(tmp_path / "all.zip")
    assert [first for first, _ in reading] == names
    assert str(reading.places[1]) == f"{tmp_path / 'all.zip'}/inner/b.tsv:1"
    (tmp_path / "d.tsv.gz").write_bytes(gzip.compress(b"one\tuno\n"))
    assert data.read_pairs(tmp_path / "d.tsv.gz").items == [("one", "uno")]
    assert data.read_documents(tmp_path / "d.tsv.gz").items[0].name == "d"


def test_a_folder_is_read_as_deep_as_a_zip_file(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    names = ["b/1.txt", "b/c/2.txt", "z.txt", ".git/3.txt", "b/.4.txt", "b/_5.txt"]
    for name in reversed(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\tx\n")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    for path in (folder, tmp_path / "all.zip"):
        reading = data.read_pairs(path)
        assert [first for first, _ in reading] == names[:3]
        assert [str(place) for place in reading.places] == [f"{path}/{name}:1" for name in names[:3]]


def test_a_reading_is_a_sequence() -> None:
    places = [Place("a.txt", line) for line in (1, 3, 4)]
    reading = Reading(["one", "two", "three"], places, [Problem(Place("a.txt", 2), "left out: an empty line")])
    assert isinstance(reading, Sequence)
    assert (reading[0], reading[-1], reading.index("two"), "four" in reading) == ("one", "three", 1, False)
    assert [*reversed(reading)] == ["three", "two", "one"]
    assert reading[::2] == Reading(["one", "three"], [places[0], places[2]], reading.problems)
    with pytest.raises(IndexError):
        reading[3]
    assert sorted(word for part in data.split(reading, (0.5, 0.5)) for word in part) == ["one", "three", "two"]


def test_nothing_to_use_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("one\n")
    with pytest.raises(ValueError, match=r"nothing in .*pairs\.tsv can be used; the first problem is .*:1: left out"):
        data.read_pairs(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"can be used$"):
        data.read_lines(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pairs.csv").write_text("one,two\n")
    with pytest.raises(ValueError, match=r"left out: there is no \.tsv or \.txt file in it"):
        data.read_pairs(folder)
    with pytest.raises(ValueError, match=r"left out: there is no \.wav file in it"):
        data.read_wavs(folder, 8000)
    with zipfile.ZipFile(folder / "reviews.zip", "w") as archive:
        archive.writestr("rt-polarity.neg", "dull\n")
    with pytest.raises(ValueError, match=r"no \.neg or \.pos file in it; read .*folder/reviews\.zip by its own path"):
        data.read_sentence_polarity(folder)
    assert list(data.read_sentence_polarity(folder / "reviews.zip")) == [("dull", "negative")]
    data.write_wav(folder / "a.wav", [0.0] * 9, 8000)
    with pytest.raises(ValueError, match=r"the first problem is .*a\.wav: left out: the name must be"):
        data.read_fsdd(folder, 4000)
    with pytest.raises(FileNotFoundError):
        data.read_lines(tmp_path / "other.txt")


def test_checks_leave_out_and_tell(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("ab\n\nba\nax\n")
    vocabulary = data.Vocabulary.characters(["ab"])
    reading = data.read_lines(path).check(vocabulary.complaint)
    assert reading.items == ["ab", "ba"]
    assert [place.line for place in reading.places] == [1, 3]
    assert told(reading) == [("lines.txt", 2), ("lines.txt", 4)]
    assert reading.problems[1].message == "left out: character 2, 'x', is not in the vocabulary"
    assert reading.report(1) == f"2 items, 2 left out, 0 mended\n  {path}:2: left out: an empty line\n  and 1 more"
    assert len(reading) == 2
    with pytest.raises(ValueError, match="nothing in the data can be used"):
        reading.check(lambda item: "no")


def test_a_report_begins_with_what_was_left_out() -> None:
    """Whatever was mended before; and tells once what was mended alike. Holes are neither."""
    mends = [Problem(Place(f"{n}.wav"), what) for n in range(1200) for what in ("2 channels", "44100 a second")]
    lost = [Problem(Place(name), "left out: cut off") for name in ("x.wav", "y.wav")]
    reading = Reading([1], [Place("0.wav")], [*mends, *lost, Problem(Place("z.wav"), "too loud")])
    assert reading.report().split("\n") == [
        "1 items, 2 left out, 2,401 mended",
        "  x.wav: left out: cut off",
        "  y.wav: left out: cut off",
        "  0.wav: 2 channels, and 1,199 more like it",
        "  0.wav: 44100 a second, and 1,199 more like it",
        "  z.wav: too loud",
    ]
    assert reading.report(3).split("\n")[-2:] == ["  0.wav: 2 channels, and 1,199 more like it", "  and 1,201 more"]
    holes = [Problem(Place("a.csv", n), what) for n in range(1000) for what in ("NaN: '?' in it", "NaT: '' in it")]
    assert Reading([1], [Place("a.csv")], [mends[0], *holes, lost[0]]).report().split("\n") == [
        "1 items, 1 left out, 2,000 holes, 1 mended",
        "  x.wav: left out: cut off",
        "  a.csv:0: NaN: '?' in it, and 999 more like it",
        "  a.csv:0: NaT: '' in it, and 999 more like it",
        "  0.wav: 2 channels",
    ]


@pytest.mark.parametrize("packed", ["tar", "tar.gz", "tgz", "bz2", "xz", "gzip"])
def test_what_must_be_unpacked_first_is_no_text(tmp_path: Path, packed: str) -> None:
    """In an encoding that can read every byte, too."""
    (tmp_path / "rt-polarity.pos").write_text("so good\n" * 99)
    path, ends = tmp_path / f"all.pos.{packed}", {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz"}
    if packed in ends:
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            with tarfile.open(path, ends[packed], format=form) as archive:  # type: ignore[call-overload]
                archive.add(tmp_path / "rt-polarity.pos", "rt-polarity.pos")
            with pytest.raises(ValueError, match=r"left out: it is a (tar|gzip) file: unpack it first"):
                data.read_sentence_polarity(path, encoding="latin-1")
        return
    path.write_bytes({"bz2": bz2.compress, "xz": lzma.compress, "gzip": gzip.compress}[packed](b"so good\n" * 99))
    kind = "bzip2" if packed == "bz2" else packed
    for read in (data.read_sentence_polarity, data.read_lines, data.read_pairs):
        with pytest.raises(ValueError, match=f"{path.name}: left out: it is a {kind} file: unpack it first"):
            read(path, encoding="latin-1")


def test_a_text_that_mentions_an_archive_is_a_text(tmp_path: Path) -> None:
    """Spanish has "gustar", which can stand where a tar file has its mark."""
    path = tmp_path / "a.txt"
    for text in ("x" * 256 + "gustar  mucho", "x" * 257 + "ustar y ver", "BZh9 and more"):
        path.write_text(text)
        assert data.read_lines(path).items == [text]


def test_sentences_without_a_label_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "reviews.txt").write_text("so good\n")
    with pytest.raises(ValueError, match=r"reviews\.txt: left out: its name must have `\.neg` or `\.pos`"):
        data.read_sentence_polarity(tmp_path / "reviews.txt")
    (tmp_path / "RT.POS").write_text("so good\n")
    assert data.read_sentence_polarity(tmp_path / "RT.POS").items == [("so good", "positive")]


@pytest.mark.parametrize("nothing", ["null", '""', '" \\n"', "[]", '["", " "]', "[[], null]", "NaN", "{}", '{"a": ""}'])
def test_a_field_with_nothing_in_it(tmp_path: Path, nothing: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": {nothing}}}\n{{"a": ["", "x"]}}\n{{"a": 0}}\n{{"a": false}}\n')
    reading = data.read_json_lines(path, ("a",))
    assert reading.items == [(["", "x"],), (0,), (False,)]
    assert [problem.message for problem in reading.problems] == ['left out: the object has nothing in "a"']


def test_half_a_surrogate_pair_is_left_out(tmp_path: Path) -> None:
    """JSON can write it, and no encoding can."""
    said = [{"data": [{"text": text}]} for text in ("go \ud83d", "go \U0001f355", "stop")]
    (tmp_path / "train_A.json").write_text('{"A": [\n' + ",\n".join(map(json.dumps, said)) + "]}")
    (tmp_path / "train_B.json").write_text(json.dumps({"\ud83d": said[2:]}))
    queries = data.read_snips(tmp_path)
    assert [query.words for query in queries] == [("go", "\U0001f355"), ("stop",)]
    assert told(queries) == [("train_A.json", 2), ("train_B.json", None)]
    path = tmp_path / "camrest.json"
    path.write_text(json.dumps([{"dialogue_id": n, "dial": [turn("Hi", text)]} for n, text in enumerate("a\udc80b")]))
    dialogues = data.read_camrest(path)
    assert [dialogue.number for dialogue in dialogues] == [0, 2]
    for problem in [*queries.problems, *dialogues.problems]:
        assert problem.message == "left out: half of a surrogate pair, which is no character"


def test_json_lines_with_every_defect(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = ['{"a": "x", "b": ["y"]}', "{", "[1]", '{"a": "x"}', "", '{"a": "x", "b": []}', '{"b": 0, "a": "z"}']
    path.write_text("\n".join(lines))
    reading = data.read_json_lines(path, ("a", "b"))
    assert reading.items == [("x", ["y"]), ("z", 0)]
    with pytest.raises(TypeError, match=r"`fields` must be a sequence of names, such as \('a',\); got the string 'a'"):
        data.read_json_lines(path, "a")
    assert [line for _, line in told(reading)] == [2, 3, 4, 5, 6]
    assert 'nothing in "b"' in reading.problems[2].message
    assert "no object" in reading.problems[1].message


def test_json_that_python_cannot_read_is_left_out(tmp_path: Path) -> None:
    deep = '{"a": ' + "[" * 600 + "]" * 600 + "}"
    lines = ["[" * 200_000, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud83d"}', deep, '{"a": "\\ud83c\\udf55"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    reading = data.read_json_lines(tmp_path / "rows.jsonl", ("a",))
    assert reading.items == [("\U0001f355",)]
    assert [line for _, line in told(reading)] == [1, 2, 3, 4]
    assert "surrogate" in reading.problems[2].message
    for line in lines[:2]:
        (tmp_path / "train_A.json").write_text(line)
        (tmp_path / "train_B.json").write_text(json.dumps({"B": [{"data": [{"text": "go"}]}]}))
        reading = data.read_snips(tmp_path)
        assert [query.words for query in reading] == [("go",)]
        assert told(reading) == [("train_A.json", None)]
        (tmp_path / "train_A.json").write_text('{"A": [{"data": [{"text": "stop"}]},\n' + line + "]}")
        reading = data.read_snips(tmp_path)
        assert [query.words for query in reading] == [("stop",), ("go",)]
        assert told(reading) == [("train_A.json", 2)]


def test_documents_and_labels(tmp_path: Path) -> None:
    (tmp_path / "French.txt").write_bytes("Dubois\n Lef\u00e8vre \n\n".encode())
    (tmp_path / "Czech.txt").write_bytes(b"Dvo\xf8\xe1k\nNov\xc3\xa1k\n")
    (tmp_path / "SOURCE.txt").write_text("where from")
    names = data.read_names(tmp_path)
    assert names.items == [("Novák", "Czech"), ("Dubois", "French"), ("Lefèvre", "French")]
    assert told(names) == [("Czech.txt", 1), ("French.txt", 3)]
    documents = data.read_documents(tmp_path)
    assert documents.items == [("Czech", "Novák\n"), ("French", "Dubois\n Lefèvre \n\n")]
    assert documents.places[0] == Place(str(tmp_path / "Czech.txt"))
    folder = tmp_path / "all.negative.and.positive"
    folder.mkdir()
    (folder / "rt-polarity.neg").write_text("bad . \nworse .\n")
    (folder / "rt-polarity.pos").write_text("good .\n")
    polarity = data.read_sentence_polarity(folder)
    assert polarity.items == [("bad .", "negative"), ("worse .", "negative"), ("good .", "positive")]
    (folder / "rt-polarity.pos").write_bytes(b"clich\xe9 , but good .\n")
    assert told(data.read_sentence_polarity(folder)) == [("rt-polarity.pos", 1)]
    assert data.read_sentence_polarity(folder, encoding="latin-1").items[-1] == ("clich\u00e9 , but good .", "positive")


QUERIES = {
    "GetWeather": [
        {"data": [{"text": "Rain in "}, {"text": "São Paulo", "entity": "city"}, {"text": "?"}]},
        {"data": [{"word": "no"}]},
        {"data": []},
        {"data": [{"text": "now", "entity": "time"}, {"text": " "}]},
    ]
}


def test_snips_with_every_defect(tmp_path: Path) -> None:
    (tmp_path / "train_GetWeather_full.json").write_text(json.dumps(QUERIES, ensure_ascii=False, indent=1), "latin-1")
    (tmp_path / "train_Broken_full.json").write_text('{"a":\n[}')
    (tmp_path / "train_List_full.json").write_text("[]")
    (tmp_path / "validate_GetWeather.json").write_text(json.dumps(QUERIES))
    reading = data.read_snips(tmp_path)
    assert reading.items == [
        ("GetWeather", ("Rain", "in", "São", "Paulo", "?"), ("O", "O", "B-city", "I-city", "O")),
        ("GetWeather", ("now",), ("B-time",)),
    ]
    assert told(reading) == [
        ("train_Broken_full.json", 2),
        ("train_GetWeather_full.json", 9),
        ("train_GetWeather_full.json", 17),
        ("train_GetWeather_full.json", 24),
        ("train_List_full.json", None),
    ]
    assert reading.problems[1].message.startswith("read as latin-1")
    assert [place.line for place in reading.places] == [3, 27]
    assert len(data.read_snips(tmp_path, "validate")) == 2
    (tmp_path / "validate_GetWeather.json").unlink()
    with pytest.raises(ValueError, match=r"left out: there is no \.json file in it whose name begins with `validate_`"):
        data.read_snips(tmp_path, "validate")
    with pytest.raises(ValueError, match='"train" or "validate"'):
        data.read_snips(tmp_path, "test")  # type: ignore[arg-type]


@pytest.mark.parametrize("zipped", [False, True])
def test_snips_counts_no_query_twice(zipped: bool, tmp_path: Path) -> None:
    """The published set has a folder for each intent, which holds some of its queries in a second file."""
    folder = tmp_path / "2017-06-custom-intent-engines" / "GetWeather"
    folder.mkdir(parents=True)
    names = [folder / name for name in ("train_GetWeather.json", "train_GetWeather_full.json")]
    for name in names:
        name.write_text(json.dumps(QUERIES))
    archive = tmp_path / "snips.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.write(name, f"GetWeather/{name.name}")
    reading = data.read_snips(archive if zipped else tmp_path)
    assert len(reading) == 2
    assert ("train_GetWeather.json", None) in told(reading)


def test_snips_joins_surrogates(tmp_path: Path) -> None:
    raw = json.dumps({"A": [{"data": [{"text": "é \U0001f355"}]}]}, ensure_ascii=False).encode()
    (tmp_path / "train_A.json").write_bytes(raw.replace(b"\xf0\x9f\x8d\x95", b"\xed\xa0\xbc\xed\xbd\x95"))
    reading = data.read_snips(tmp_path)
    assert reading.items[0].words == ("é", "\U0001f355")
    assert not reading.problems


def turn(user: str, system: str, *acts: tuple) -> dict:
    slu = [{"act": act, "slots": [list(slot)]} for act, slot in acts]
    return {"usr": {"transcript": user, "slu": slu}, "sys": {"sent": system}}


def test_camrest_with_every_defect(tmp_path: Path) -> None:
    first = turn("Cheap?", "Yes.", ("inform", ("price", "cheap")), ("request", ("slot", "area")))
    dialogues = [{"dialogue_id": 4, "dial": [first, turn("Bye", "Bye")]}, {"dial": []}, {"dialogue_id": 5, "dial": []}]
    path = tmp_path / "dialogues.json"
    path.write_text("####\n# Notice #\n" + json.dumps(dialogues))
    reading = data.read_camrest(path)
    assert reading.items == [(4, (("Cheap?", "Yes.", (("price", "cheap"),), ("area",)), ("Bye", "Bye", (), ())))]
    assert told(reading) == [("dialogues.json", 3), ("dialogues.json", 3)]
    path.write_text("# one\n# two\n[{,}]")
    with pytest.raises(ValueError, match=r"dialogues\.json:3: left out: not JSON"):
        data.read_camrest(path)
    path.write_bytes(b"# one\n[\xff]")
    with pytest.raises(ValueError, match=r"dialogues\.json:2: left out: the file is not UTF-8"):
        data.read_camrest(path)


def test_a_bad_byte_costs_camrest_one_dialogue(tmp_path: Path) -> None:
    """Places are the lines of the file, comments and all."""
    dialogues = [{"dialogue_id": i, "dial": [turn("Caf\u00e9?", "Yes."), turn(f"bye {i}", "Bye")]} for i in range(4)]
    raw = ("# Notice \u00e9 #\n" + json.dumps(dialogues, ensure_ascii=False, indent=1)).encode()
    starts = [number for number, line in enumerate(raw.split(b"\n"), 1) if line == b" {"]
    path = tmp_path / "dialogues.json"
    path.write_bytes(raw.replace(b"bye 2", b"bye \xe9"))
    reading = data.read_camrest(path)
    assert [dialogue.number for dialogue in reading] == [0, 1, 3]
    assert reading.items[0].turns[0].user == "Caf\u00e9?"
    assert [place.line for place in reading.places] == [starts[0], starts[1], starts[3]]
    (bad,) = [number for number, line in enumerate(raw.split(b"\n"), 1) if b"bye 2" in line]
    assert told(reading) == [("dialogues.json", bad)]
    assert reading.problems[0].message == "left out: the file is not UTF-8 here"


@pytest.mark.parametrize(
    ("old", "new", "kept", "message"),
    [
        (b'"dialogue_id": 2', b'\xff"dialogue_id": 2', [0, 1], "the file is not UTF-8 here, so that what follows"),
        (b'"dialogue_id": 2', b'dialogue_id": 2', [0, 1], "not JSON here \\(Expecting property name .*, column 3\\)"),
        (b"]$", b"", [0, 1, 2, 3], r"not JSON here \(\] must come next, column 1\)"),
        (b"]$", b"] more", [0, 1, 2, 3], r"not JSON here \(\] must come next, column 1\)"),
    ],
)
def test_json_is_used_up_to_where_it_breaks(tmp_path: Path, old: bytes, new: bytes, kept: list, message: str) -> None:
    dialogues = [{"dialogue_id": i, "dial": [turn("Hi", "Hi")]} for i in range(4)]
    raw = json.dumps(dialogues, indent=1).encode() + b"$"
    path = tmp_path / "dialogues.json"
    path.write_bytes(raw.replace(old, new).rstrip(b"$"))
    reading = data.read_camrest(path)
    assert [dialogue.number for dialogue in reading] == kept
    (problem,) = reading.problems
    assert re.match(f"left out: {message}", problem.message)
    lines = raw.split(b"\n")
    (line,) = [number for number, text in enumerate(lines, 1) if old in text]
    assert problem.place.line == line


def test_problems_read_as_places() -> None:
    assert str(Problem(Place("a.txt", 3), "odd")) == "a.txt:3: odd"
    assert str(Problem(Place("a.wav"), "odd")) == "a.wav: odd"
