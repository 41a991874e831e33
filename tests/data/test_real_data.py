"""The sets of RNNJAX_DATA: how much there is, and what is known to be wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rnnjax import data

DataPath = Callable[[str], Path]


def test_tatoeba(data_path: DataPath) -> None:
    reading = data.read_pairs(data_path("tatoeba_spa_eng/spa-eng.zip"))
    assert len(reading) == 118_121
    assert not reading.problems
    assert reading.items[:2] == [("Go.", "Ve."), ("Go.", "Vete.")]


@pytest.mark.parametrize(("part", "count"), [("train", 1992), ("dev", 619), ("test", 618)])
def test_scitldr(data_path: DataPath, part: str, count: int) -> None:
    reading = data.read_json_lines(data_path(f"scitldr_a/{part}.jsonl"), ("source", "target", "title"))
    assert (len(reading), reading.problems) == (count, [])


def test_texts(data_path: DataPath) -> None:
    path = data_path("tinyshakespeare/input.txt")
    (play,) = data.read_documents(path)
    assert play.text == path.read_text()
    assert len(data.Vocabulary.characters([play.text], specials=())) == 65
    speeches = data.read_documents(data_path("nltk_state_union/state_union.zip"))
    assert len(speeches) == 65
    assert len({problem.place.path for problem in speeches.problems}) == 6
    whole = data.read_documents(data_path("nltk_state_union/state_union.zip"), encoding="latin-1")
    assert (len(whole), whole.problems) == (65, [])


def test_names(data_path: DataPath) -> None:
    counts = Counter(name.label for name in data.read_names(data_path("names_by_language")))
    assert (len(counts), counts.total(), counts["Russian"]) == (18, 20_050, 9384)


def test_sentence_polarity(data_path: DataPath) -> None:
    reading = data.read_sentence_polarity(data_path("nltk_sentence_polarity/sentence_polarity.zip"))
    assert Counter(sentence.label for sentence in reading) == {"negative": 5331, "positive": 5331}


def test_snips(data_path: DataPath) -> None:
    train, validate = (data.read_snips(data_path("snips_nlu"), part) for part in ("train", "validate"))
    assert (len(train), train.problems, len(validate), validate.problems) == (13_784, [], 700, [])
    assert len({query.intent for query in train}) == 7
    assert set(Counter(query.intent for query in validate).values()) == {100}
    slots = {tag[2:] for query in train for tag in query.tags if tag != "O"}
    assert len(slots) == 39
    assert any("Clásicos" in query.words for query in train)
    assert any("\U0001f355" in query.words for query in train)


def test_camrest(data_path: DataPath) -> None:
    reading = data.read_camrest(data_path("camrest676/CamRest676.json.gz"))
    assert (len(reading), sum(len(dialogue.turns) for dialogue in reading), reading.problems) == (676, 2744, [])


def test_fsdd(data_path: DataPath) -> None:
    reading = data.read_fsdd(data_path("fsdd"))
    assert (len(reading), sum(clip.test for clip in reading), reading.problems) == (3000, 300, [])
    assert set(Counter((clip.digit, clip.speaker) for clip in reading).values()) == {50}
    assert len({clip.speaker for clip in reading}) == 6


@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_ett(data_path: DataPath, name: str) -> None:
    path = data_path(f"ett_hourly/{name}.csv")
    reading = data.read_table(path)
    (table,) = reading
    assert (table.name, reading.problems) == (name, [])
    cells = np.loadtxt(path, str, delimiter=",")
    assert table.columns == tuple(cells[0, 1:])
    np.testing.assert_array_equal(table.time, cells[1:, 0].astype("datetime64[us]"))
    np.testing.assert_array_equal(table.values.astype(np.float32), cells[1:, 1:].astype(np.float32))
    assert table.values.shape == (17_420, 7)


def test_forecasting_of_aeon(data_path: DataPath) -> None:
    """Of the consumption in quarters the names and numbers of the lines are left out; Lynx has years for numbers."""
    (airline,) = data.read_table(data_path("aeon_time_series/Airline/Airline.csv"))
    assert (airline.columns, airline.values.shape, airline.values[-1, 0]) == (("Passengers",), (144, 1), 432)
    assert airline.time is not None
    assert airline.time[-1] == np.datetime64("1960-12")
    (lynx,) = data.read_table(data_path("aeon_time_series/Lynx/Lynx.csv"), time="")
    assert (lynx.values.shape, lynx.values[-1, 0]) == ((114, 1), 3396)
    (solar,) = data.read_table(data_path("aeon_time_series/solar/solar.csv"))
    assert (solar.columns, solar.values.shape) == (("solar_gen",), (289, 1))
    quarters = data.read_table(data_path("aeon_time_series/Uschange/Uschange.csv"))
    assert [problem.message for problem in quarters.problems] == [
        "left out: column 1 (from 0), 'Quarter', has no number"
    ]
    assert quarters.items[0].columns == ("", "Consumption", "Income", "Production", "Savings", "Unemployment")
    assert quarters.items[0].time is None
