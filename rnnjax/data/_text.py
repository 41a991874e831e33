"""Words of a text, and parts of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def words(text: str) -> list[str]:
    """The words of a text, apostrophes and combining marks within them, and each other sign on its own.

    >>> import rnnjax as rj
    >>> rj.data.words("Don't go, José!")
    ["Don't", 'go', ',', 'José', '!']
    """
    return _word().findall(text)


@cache
def _word() -> re.Pattern[str]:
    """A word or a sign. Python's letters lack the marks that stand on them, which vowels of Indic scripts are, and the
    joiners that shape them."""
    places = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    marks = "".join(chr(place) for place in places if unicodedata.category(chr(place)) in ("Mn", "Mc"))
    marks = "\u200c\u200d" + re.escape(marks)
    return re.compile(rf"\w[\w{marks}]*(?:['’]\w[\w{marks}]*)*|[^\w\s][{marks}]*")


def split(
    items: Sequence[T], shares: Sequence[float], *, by: Callable[[T], Hashable] | None = None, seed: int = 0
) -> list[list[T]]:
    """Deals items at random into parts of about these shares; what has the same `by` stays in one part.

    Args:
        items: what is dealt.
        shares: of the groups, at least 0; they add up to 1.
        by: the group of an item, such as its source sentence, so that no part knows what another is tested on.
            None makes each item a group.
        seed: of the order in which groups are dealt.

    Returns:
        a list for each share, which keeps the order of the items.

    Raises:
        ValueError: for no share, one below 0, and shares that do not add up to 1.

    >>> import rnnjax as rj
    >>> pairs = [("go", "ve"), ("run", "corre"), ("go", "vaya"), ("stop", "para")]
    >>> [len(part) for part in rj.data.split(pairs, (2 / 3, 1 / 3), by=lambda pair: pair[0], seed=1)]
    [3, 1]
    """
    if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"`shares` must be at least 0 and add up to 1; got {tuple(shares)}")
    names = list(range(len(items))) if by is None else [by(item) for item in items]
    groups = list(dict.fromkeys(names))
    borders = np.round(np.cumsum(shares) * len(groups)).astype(int)
    borders[-1] = len(groups)  # whatever the shares' last digits say
    ranks = np.random.default_rng(seed).permutation(len(groups))
    part_of = {
        group: int(np.searchsorted(borders, rank, side="right")) for group, rank in zip(groups, ranks, strict=True)
    }
    parts: list[list[T]] = [[] for _ in shares]
    for name, item in zip(names, items, strict=True):
        parts[part_of[name]].append(item)
    return parts
