"""Attention as its papers write it: one row and one step at a time, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax as rj

Q, M, A = 4, 3, 6
SCORES = {
    "additive": rj.AdditiveScore(A),
    "coverage": rj.CoverageScore(A),
    "location": rj.LocationScore(A, filters=2, width=3),
    "even_location": rj.LocationScore(A, filters=2, width=4),
    "general": rj.GeneralScore(),
    "multi_head": rj.MultiHeadScore(A, heads=2),
}


class Row(NamedTuple):
    """The results for one row: ys (T, O), alignments (T, S) and of each head (T, N, S), coverage (S), overlap and the
    inner state."""

    ys: np.ndarray
    alignments: np.ndarray
    heads: np.ndarray
    coverage: np.ndarray
    overlap: float
    state: Any


def random_like(seed: int, tree: Any, scale: float = 0.7) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape, scale=scale), tree)


def parameters(cell: Any, in_size: int = 2) -> Any:
    return random_like(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), in_size, jnp.float64)))


def softmax(scores: np.ndarray) -> np.ndarray:
    exp = np.exp(scores - scores.max())
    return exp / exp.sum()


def additive(p: Any, q: np.ndarray, m: np.ndarray, more: np.ndarray) -> np.ndarray:
    return np.array([np.dot(p.v, np.tanh(p.w_q.T @ q + p.w_k.T @ m[s] + more[s] + p.b)) for s in range(len(m))])


def location(p: Any, alignment: np.ndarray) -> np.ndarray:
    """f_s of all steps; α is zero outside of the memory."""
    width = len(p.f)
    left = (width - 1) // 2
    seen = np.zeros((len(alignment), p.f.shape[1]))
    for s in range(len(alignment)):
        for r in range(width):
            if 0 <= s + r - left < len(alignment):
                seen[s] += alignment[s + r - left] * p.f[r]
    return seen @ p.u


def read(score: Any, p: Any, q: np.ndarray, m: np.ndarray, alignment: np.ndarray, coverage: np.ndarray) -> Any:
    """Alignments (N, S) and context of a query q (Q) and the valid steps m (S, M) of a memory."""
    if isinstance(score, rj.MultiHeadScore):
        size, aligned, contexts = A // score.heads, [], []
        for head in range(score.heads):
            cut = slice(head * size, (head + 1) * size)
            scores = [q @ p.w_q[:, cut] @ (step @ p.w_k[:, cut]) / np.sqrt(size) for step in m]
            aligned.append(softmax(np.array(scores)))
            contexts.append(sum(w * (step @ p.w_v[:, cut]) for w, step in zip(aligned[-1], m, strict=True)))
        return np.array(aligned), np.concatenate(contexts) @ p.w_o
    if isinstance(score, rj.DotScore):
        scores = m @ q
    elif isinstance(score, rj.ScaledDotScore):
        scores = m @ q / np.sqrt(len(q))
    elif isinstance(score, rj.GeneralScore):
        scores = m @ p.w @ q
    elif isinstance(score, rj.AdditiveScore):
        scores = additive(p, q, m, np.zeros((len(m), A)))
    elif isinstance(score, rj.CoverageScore):
        scores = additive(p.additive, q, m, np.outer(coverage, p.w_c))
    else:
        scores = additive(p.additive, q, m, location(p, alignment))
    weights = softmax(scores)
    return weights[None], weights @ m


Run = Callable[[Any, np.ndarray, Any], tuple[np.ndarray, Any]]


def by_hand(cell: Any, params: Any, xs: np.ndarray, m: np.ndarray, inner: Any) -> Row:
    """One row: inputs xs (T, I), the valid steps m (S, M) of its memory, and the inner cell's first state."""
    alignment = coverage = np.zeros(len(m))
    overlap, ys, alignments, heads, fed = 0.0, [], [], [], np.zeros(getattr(cell, "size", 0))

    def look(state: Any) -> tuple[np.ndarray, np.ndarray]:
        if not len(m):
            return np.zeros((cell.score.heads or 1, 0)), np.zeros(M)
        return read(cell.score, params.score, np.asarray(state.h), m, alignment, coverage)

    def advance(state: Any, x: np.ndarray) -> Any:
        return rj.unroll(cell.cell, params.cell, jnp.asarray(x)[None], state)[1]

    for x in xs:
        if isinstance(cell, rj.BahdanauAttention):
            own, context = look(inner)
            inner = advance(inner, np.concatenate([x, context]))
            y = np.concatenate([np.asarray(inner.h), context])
        else:
            inner = advance(inner, np.concatenate([x, fed]) if cell.input_feeding else x)
            own, context = look(inner)
            y = fed = np.tanh(np.concatenate([context, np.asarray(inner.h)]) @ params.w)
        new = own.mean(0)
        overlap += np.minimum(new, coverage).sum()
        alignment, coverage = new, coverage + new
        ys.append(y)
        alignments.append(alignment)
        heads.append(own)
    return Row(np.array(ys), np.array(alignments), np.array(heads), coverage, overlap, inner)
