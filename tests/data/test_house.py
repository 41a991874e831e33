"""The toy house: what is said about it is consistent, and the same for the same seed."""

from __future__ import annotations

import re

import pytest

import rnnjax as rj


def test_tags_mark_the_values():
    queries = rj.data.house_queries(400, seed=1)
    assert {query.intent for query in queries} == {"Switch", "Ask", "Wake"}
    found = {}
    for query in queries:
        assert len(query.words) == len(query.tags)
        for kind, begin, end in rj.data.spans(query.tags):
            assert query.tags[begin] == f"B-{kind}"
            found.setdefault(kind, set()).add(" ".join(query.words[begin:end]))
    assert found["state"] == {"on", "off"}
    assert found.keys() == {"device", "room", "state", "time"}
    assert "old record player" in found["device"]
    assert "room of my sister" in found["room"]
    assert all(re.match(r"at |in |tomorrow ", time) for time in found["time"])


def test_what_lies_between_the_values_says_the_intent():
    said = {}
    for query in rj.data.house_queries(400, seed=2):
        outside = " ".join(word for word, tag in zip(query.words, query.tags, strict=True) if tag == "O")
        said.setdefault(query.intent, set()).add(outside)
    assert said["Wake"] == {"wake me", "set an alarm in the"}
    assert said["Ask"] == {"is the in the ?", "which is ?"}
    assert said["Switch"] == {"turn the in the", "please switch the in the", "turn the"}


def test_every_answer_follows_from_all_turns_so_far():
    dialogues = rj.data.house_dialogues(200, seed=3)
    assert [dialogue.number for dialogue in dialogues] == list(range(200))
    assert {len(dialogue.turns) for dialogue in dialogues} == {2, 3, 4, 5, 6}
    patterns = (
        r"turn (?P<state>on|off) the (?P<device>.+) in the (?P<room>.+)",
        r"and in the (?P<room>.+) \?",
        r"now the (?P<device>.+)",
        r"turn it (?P<state>on|off)",
    )
    for dialogue in dialogues:
        known = {}
        for number, turn in enumerate(dialogue.turns):
            matches = [match for pattern in patterns if (match := re.fullmatch(pattern, turn.user))]
            assert len(matches) == 1
            assert (matches[0].re.pattern == patterns[0]) == (number == 0)
            known |= matches[0].groupdict()
            assert turn.system == f"the {known['device']} in the {known['room']} is {known['state']}"
            assert dict(turn.constraints) == known


@pytest.mark.parametrize("made", [rj.data.house_queries, rj.data.house_dialogues])
def test_a_seed_must_be_chosen(made):
    """As for all sets that are made up: with one by default, parts for training and test would be the same."""
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'seed'"):
        made(3)


def test_a_seed_repeats():
    assert rj.data.house_queries(20, seed=4) == rj.data.house_queries(30, seed=4)[:20]
    assert rj.data.house_queries(20, seed=4) != rj.data.house_queries(20, seed=5)
    assert rj.data.house_dialogues(20, seed=4) == rj.data.house_dialogues(30, seed=4)[:20]
    assert rj.data.house_dialogues(20, seed=4) != rj.data.house_dialogues(20, seed=5)
