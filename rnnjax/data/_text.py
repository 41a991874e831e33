"""Words of a text, and parts of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text, apostrophes within them, and each other sign on its own.

    >>> import rnnjax as rj
    >>> rj.data.words("Don't go, José!")
    ["Don't", 'go', ',', 'José', '!']
    """
    return WORD.findall(text)


def split(
    items: Sequence[T], shares: Sequence[float], *, by: Callable[[T], Hashable] | None = None, seed: int = 0
) -> list[list[T]]:
    """Deals items at random into parts of about these shares; what has the same `by` stays in one part.

    Args:
        items: what is dealt; each part keeps their order.
        shares: of the groups, at least 0; they add up to 1.
        by: the group of an item, such as its source sentence, so that no part knows what another is tested on.
            None makes each item a group.
        seed: of the order in which groups are dealt.

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
    ranks = np.random.default_rng(seed).permutation(len(groups))
    part_of = {
        group: int(np.searchsorted(borders, rank, side="right")) for group, rank in zip(groups, ranks, strict=True)
    }
    parts: list[list[T]] = [[] for _ in shares]
    for name, item in zip(names, items, strict=True):
        parts[part_of[name]].append(item)
    return parts
