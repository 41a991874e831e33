"""A small decoder that is known twice, as a step in JAX and as a loop in NumPy, and rules for 5 rows and 7 tokens."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax._types import Array

END = 3
HISTORY = np.array([[4, 1, -1, 1], [5, 2, 4, -1], [-1, -1, -1, -1], [2, 6, 2, 2], [-1, 6, 3, 6]])
PREFIX = np.array([[0, 2], [-1, 6], [4, -1], [-1, -1], [END, 0]])
RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "end": {"end": END},
    "min_length": {"end": END, "min_length": 6},
    "bans": {"bans": (0, 5)},
    "unigrams": {"no_repeat": 1},
    "bigrams": {"no_repeat": 2, "end": END},
    "trigrams": {"no_repeat": 3, "bans": (2, 4, 6)},
    "unigrams_of_history": {"no_repeat": 1, "history": HISTORY},
    "bigrams_of_history": {"no_repeat": 2, "history": HISTORY, "end": END},
    "prefix": {"prefix": PREFIX, "end": END, "min_length": 1, "bans": (6,), "no_repeat": 2},
}


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class Toy:
    """h' = tanh(e[token] + h u), logits = h' w; its state is a tree with a leaf of integers, which counts the steps."""

    def __init__(self, vocabulary: int, rows: int, seed: int = 0, scale: float = 3.0) -> None:
        draw = np.random.default_rng(seed)
        self.e = draw.normal(size=(vocabulary, 6))
        self.u = draw.normal(size=(6, 6))
        self.w = draw.normal(size=(6, vocabulary)) * scale
        self.h = draw.normal(size=(rows, 6))
        self.start = draw.integers(0, vocabulary, rows)

    def step(self, carry: Any, tokens: Array) -> tuple[Array, Any]:
        dtype = carry["h"].dtype
        h = jnp.tanh(jnp.asarray(self.e, dtype)[tokens] + carry["h"] @ jnp.asarray(self.u, dtype))
        return h @ jnp.asarray(self.w, dtype), {"h": h, "count": carry["count"] + 1}

    def carry(self, dtype: Any = jnp.float64) -> Any:
        return {"h": jnp.asarray(self.h, dtype), "count": jnp.zeros(len(self.h), jnp.int32)}

    def logits(self, row: int, tokens: Any) -> np.ndarray:
        """The logits of each token and of the one behind the last, (n + 1, V)."""
        h, found = self.h[row], []
        for token in (self.start[row], *tokens):
            h = np.tanh(self.e[token] + h @ self.u)
            found.append(h @ self.w)
        return np.array(found)

    def hidden(self, row: int, tokens: Any) -> np.ndarray:
        """The state that has read the start and these tokens."""
        h = self.h[row]
        for token in (self.start[row], *tokens):
            h = np.tanh(self.e[token] + h @ self.u)
        return h

    def log_prob(self, row: int, tokens: Any) -> float:
        return sum(log_softmax(x)[token] for x, token in zip(self.logits(row, tokens), tokens, strict=False))


def forbidden(
    tokens: list[int],
    row: int,
    *,
    end: Any = None,
    min_length: int = 0,
    bans: Any = (),
    no_repeat: Any = None,
    history: Any = None,
    prefix: Any = None,
) -> set[int]:
    """What must not follow these tokens."""
    t = len(tokens)
    if prefix is not None and t < prefix.shape[1] and prefix[row, t] >= 0:
        return set(range(7)) - {int(prefix[row, t])}
    found = set(bans) | ({end} if t < min_length else set())
    if no_repeat is not None:
        known = [token for token in ([] if history is None else history[row]) if token >= 0] + tokens
        grams = {tuple(known[i : i + no_repeat]) for i in range(len(known) - no_repeat + 1)}
        found |= {token for token in range(7) if tuple([*known, token][-no_repeat:]) in grams}
    return found
