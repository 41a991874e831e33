"""A toy world of requests and conversations, made up: a house whose devices do as they are told."""

from __future__ import annotations

import random
import re

from .._errors import check_size
from ._dialogue import Dialogue, Query, Turn
from ._text import words

THINGS = {
    "device": [
        "lamp",
        "radio",
        "fan",
        "coffee machine",
        "heating",
        "television",
        "garden hose",
        "old record player",
        "blue lamp",
    ],
    "room": [
        "kitchen",
        "bathroom",
        "living room",
        "garage",
        "attic",
        "guest room",
        "hall",
        "cellar",
        "room of my sister",
    ],
    "state": ["on", "off"],
    "time": ["at seven", "at half past nine", "in ten minutes", "tomorrow at noon", "in two hours", "at midnight"],
}
REQUESTS = {
    "Switch": (
        "turn {state} the {device} in the {room}",
        "please switch the {device} in the {room} {state} {time}",
        "{time} turn {state} the {device}",
    ),
    "Ask": ("is the {device} in the {room} {state} ?", "which {device} is {state} {time} ?"),
    "Wake": ("wake me {time}", "set an alarm in the {room} {time}"),
}
OPENING = "turn {state} the {device} in the {room}"
FOLLOW_UPS = {"room": "and in the {room} ?", "device": "now the {device}", "state": "turn it {state}"}
ANSWER = "the {device} in the {room} is {state}"


def house_queries(count: int, *, seed: int) -> list[Query]:
    """Made-up requests to a house, with their intent and slots, for trying things out without data.

    Three intents and four slots, whose values have up to four words. Some requests come several times: split by their
    words, so that none is both learnt and tested.

    Args:
        count: how many.
        seed: of the draws.

    Returns:
        `count` queries.

    Raises:
        ValueError: for a `count` below 1.
        TypeError: for a `count` that is no integer.

    >>> import rnnjax as rj
    >>> rj.data.house_queries(1, seed=6)[0].words
    ('wake', 'me', 'tomorrow', 'at', 'noon')
    """
    check_size("count", count)
    rng = random.Random(seed)
    return [_query(rng) for _ in range(count)]


def _query(rng: random.Random) -> Query:
    intent = rng.choice(list(REQUESTS))
    said: list[str] = []
    tags: list[str] = []
    for part in re.split(r"[{}]", rng.choice(REQUESTS[intent])):
        own = words(rng.choice(THINGS[part]) if part in THINGS else part)
        said += own
        tags += [f"{'I' if i else 'B'}-{part}" if part in THINGS else "O" for i in range(len(own))]
    return Query(intent, tuple(said), tuple(tags))


def house_dialogues(count: int, *, seed: int) -> list[Dialogue]:
    """Made-up conversations with a house of two to six turns, for trying things out without data.

    The first turn names a device, a room and a state, each later one names one of them anew, and the answer names
    all three: nobody who forgets the turns before can give it.

    Args:
        count: how many.
        seed: of the draws.

    Returns:
        `count` dialogues, numbered from 0. The constraints of a turn are the room, device and state that it is about;
        it has no requests.

    Raises:
        ValueError: for a `count` below 1.
        TypeError: for a `count` that is no integer.

    >>> import rnnjax as rj
    >>> for turn in rj.data.house_dialogues(1, seed=6)[0].turns:
    ...     print(turn.user, "->", turn.system)
    turn off the old record player in the bathroom -> the old record player in the bathroom is off
    and in the living room ? -> the old record player in the living room is off
    """
    check_size("count", count)
    rng = random.Random(seed)
    return [_dialogue(rng, number) for number in range(count)]


def _dialogue(rng: random.Random, number: int) -> Dialogue:
    known = {slot: rng.choice(THINGS[slot]) for slot in FOLLOW_UPS}
    said, turns = OPENING, []
    for _ in range(rng.randint(2, 6)):
        turns.append(Turn(said.format(**known), ANSWER.format(**known), tuple(known.items()), ()))
        slot = rng.choice(list(FOLLOW_UPS))
        known[slot], said = rng.choice(THINGS[slot]), FOLLOW_UPS[slot]
    return Dialogue(number, tuple(turns))
