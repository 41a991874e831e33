"""Language models beside a search over labels: what each next label adds to a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array
from .._unroll.lift import where
from ._step import Step, check_carry, check_token, log_normaliser, possible, repeat, settle, start_tokens


class Fusion(NamedTuple):
    """A language model as `ctc_prefix_beam` reads it.

    step: `step(carry, labels) -> (scores, carry)` with labels (*B), scores (*B, W), leaves of the carry (*B, …): what
        each label adds if it comes next. They are taken as they are; W is at least V, and ids from V on are no labels.
    carry: the carry before the first label, leaves (*B, …).
    ahead: the scores of the first label, (*B, W).
    end: the id whose score is added behind the last label, or None.
    """

    step: Step
    carry: Any
    ahead: Array
    end: int | None

    def settle(self, shape: tuple[int, ...], vocabulary: int) -> Fusion:
        """Itself with a carry (*B, K, …) for `shape` (*B, K); raises unless it fits."""
        batch, beams = shape[:-1], shape[-1]
        if self.ahead.shape[:-1] != batch or self.ahead.shape[-1] < vocabulary:
            raise ValueError(
                f"`lm` must score labels (*B, W) with *B = {batch} and W ≥ V = {vocabulary}, as in `logits`; got "
                f"{self.ahead.shape}"
            )
        check_carry(self.carry, batch)
        carry = jax.tree.map(lambda leaf: repeat(jnp.asarray(leaf), len(batch), beams), self.carry)
        carry, width, _ = settle(self.step, carry, jnp.zeros(shape, jnp.int32))
        if width != self.ahead.shape[-1]:
            raise ValueError(f"`lm.step` must score as many labels as `lm.ahead`, {self.ahead.shape[-1]}; got {width}")
        if self.end is not None:
            check_token("lm.end", self.end, width)
        return self._replace(carry=carry)


def character_fusion(
    step: Step,
    carry: Any,
    start: Array,
    *,
    weight: float | Array = 1.0,
    bonus: float | Array = 0.0,
    end: int | None = None,
    blank: int | None = 0,
) -> Fusion:
    """A language model over labels, each of which adds α log P(label | those before) + β.

    Args:
        step: `step(carry, tokens) -> (logits, carry)` with logits (*B, W), as for `sample`. Its ids are those of the
            labels; W may be larger.
        carry: its carry before the first token, leaves (*B, …).
        start: the tokens read first, integers (*B).
        weight: α.
        bonus: β, against the model's liking for few labels.
        end: the model's token for the end, whose α log P is added behind the last label.
        blank: the id whose logit is never read, or None, as where the model gives that id a use of its own.

    Returns:
        a `Fusion`, the `lm` of `ctc_prefix_beam`. A label that the model rules out adds −∞.

    Raises:
        ValueError: for a carry or logits of other batch axes, a step that changes the shapes of its carry, and an `end`
            or `blank` outside 0…W − 1, or both the same.
        TypeError: for a `start` that is no integer array, a leaf of the carry that is no array, a `step` that does not
            return floating-point logits and a carry like its own, and an `end` or `blank` that is no integer.

    References:
        Hannun, Maas, Jurafsky, Ng 2014, First-pass large vocabulary continuous speech recognition using bi-directional
        recurrent DNNs, arXiv:1408.2873.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> after = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 4.0, 0.0]])  # labels take turns
    >>> @jax.jit
    ... def transcribe(logits):
    ...     model = lambda carry, tokens: (after[tokens], carry)
    ...     lm = rj.decoding.character_fusion(model, (), start=jnp.zeros(1, int))
    ...     return rj.decoding.ctc_prefix_beam(logits, beams=8, lm=lm).tokens
    >>> logits = jnp.array([[[0.0, 4.0, 0.0]], [[4.0, 0.0, 0.0]], [[0.0, 4.0, 3.0]]])
    >>> transcribe(logits)[0, 0].tolist(), rj.decoding.ctc_greedy(logits).tokens[0].tolist()
    ([1, 2, 0], [1, 1, 0])
    """
    start = start_tokens(start)
    check_carry(carry, start.shape)
    carry, vocabulary, _ = settle(step, jax.tree.map(jnp.asarray, carry), start)
    for name, token in (("end", end), ("blank", blank)):
        if token is not None:
            check_token(name, token, vocabulary)
    if end is not None and end == blank:
        raise ValueError(
            f"`end` must be another id than `blank`, whose logit is never read; got {end} for both: pass `blank=None`, "
            "with which all logits are"
        )

    def scores(carry: Any, tokens: Array) -> tuple[Array, Any]:
        logits, carry = step(carry, tokens)
        logits = possible(logits)
        if blank is not None:
            logits = logits.at[..., blank].set(-jnp.inf)
        log_probs = logits - log_normaliser(logits)
        added = jnp.where(log_probs > -jnp.inf, weight * log_probs + bonus, -jnp.inf)
        return added if end is None else added.at[..., end].add(-bonus), carry

    ahead, carry = scores(carry, start)
    return Fusion(scores, carry, ahead, end)


class _Word(NamedTuple):
    node: Array  # (*B): where in the trie the letters so far lead
    carry: Any
    scores: Array  # (*B, words): what each word adds


def word_fusion(
    words: Sequence[Sequence[int]],
    step: Step,
    carry: Any,
    start: Array,
    *,
    vocabulary: int,
    space: int,
    weight: float | Array = 1.0,
    bonus: float | Array = 0.0,
) -> Fusion:
    """A language model over the words of a lexicon, each of which adds α log P(word | those before) + β where it ends.

    Only words of the lexicon can be spelt, with one space between two; behind the last there may be one. A word's score
    counts with the space behind it, without one at the end.

    Args:
        words: the labels of each word, none with a space. Word i is the model's token i; () is one that is never spelt.
        step: `step(carry, tokens) -> (logits, carry)` over words, logits (*B, number of words).
        carry: its carry before the first word, leaves (*B, …).
        start: the words read first, integers (*B).
        vocabulary: V, the ids that the labels have.
        space: the label between words.
        weight: α.
        bonus: β.

    Returns:
        a `Fusion`, the `lm` of `ctc_prefix_beam`, with W = V + 1: its `end` is V. A label with which no word goes on
        adds −∞.

    Raises:
        ValueError: if two words are spelt the same, one has a label out of range or a space, or the model has another
            number of words; for a `space` out of range; and for `step`, `carry` and `start` as `character_fusion`.
        TypeError: for a label or `space` that is no integer; and for `step`, `carry` and `start` as `character_fusion`.

    References:
        Hannun, Maas, Jurafsky, Ng 2014, First-pass large vocabulary continuous speech recognition using bi-directional
        recurrent DNNs, arXiv:1408.2873.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> words = [(), (2, 3), (3, 2)]  # labels: 0 blank, 1 space
    >>> after = jnp.zeros((3, 3))
    >>> @jax.jit
    ... def transcribe(logits):
    ...     model = lambda carry, tokens: (after[tokens], carry)
    ...     lm = rj.decoding.word_fusion(words, model, (), jnp.zeros(1, int), vocabulary=4, space=1)
    ...     return rj.decoding.ctc_prefix_beam(logits, beams=32, lm=lm).tokens
    >>> transcribe(4 * jax.nn.one_hot(jnp.array([[2], [2], [0], [2]]), 4))[0, 0].tolist()
    [2, 3, 0, 0]
    """
    children, ends = _trie(words, vocabulary, space)
    start = start_tokens(start)
    check_carry(carry, start.shape)
    carry, count, _ = settle(step, jax.tree.map(jnp.asarray, carry), start)
    if count != len(words):
        raise ValueError(f"`step` must have one logit for each of the {len(words)} words; got {count}")

    def ask(carry: Any, tokens: Array) -> tuple[Array, Any]:
        logits, carry = step(carry, tokens)
        logits = possible(logits)
        log_probs = logits - log_normaliser(logits)
        return jnp.where(log_probs > -jnp.inf, weight * log_probs + bonus, -jnp.inf), carry

    def ahead(node: Array, scores: Array) -> Array:
        word = ends[node]
        own = jnp.take_along_axis(scores, jnp.maximum(word, 0)[..., None], axis=-1)
        spelt = jnp.where(word[..., None] >= 0, own, -jnp.inf)
        letters = jnp.where(children[node] >= 0, 0, -jnp.inf).astype(scores.dtype)
        closing = jnp.where(node[..., None] == 0, 0, spelt)
        return jnp.concatenate([letters[..., :space], spelt, letters[..., space + 1 :], closing], axis=-1)

    def read(state: _Word, tokens: Array) -> tuple[Array, _Word]:
        behind = tokens == space
        scores, carry = ask(state.carry, jnp.maximum(ends[state.node], 0))
        carry, scores = where(behind, (carry, scores), (state.carry, state.scores))
        node = jnp.where(behind, 0, jnp.maximum(children[state.node, tokens], 0))
        return ahead(node, scores), _Word(node, carry, scores)

    scores, carry = ask(carry, start)
    node = jnp.zeros(start.shape, jnp.int32)
    return Fusion(read, _Word(node, carry, scores), ahead(node, scores), end=vocabulary)


def _trie(words: Sequence[Sequence[int]], vocabulary: int, space: int) -> tuple[Array, Array]:
    """Children (nodes, V), −1 for none, and the word that ends at each node, −1 for none; node 0 is the root."""
    check_token("space", space, vocabulary)
    children, ends = [[-1] * vocabulary], [-1]
    for index, word in enumerate(words):
        node = 0
        for label in word:
            check_token(f"words[{index}]", label, vocabulary)
            if label == space:
                raise ValueError(f"`words[{index}]` must not hold the space, {space}; got {tuple(word)}")
            if children[node][label] < 0:
                children[node][label] = len(children)
                children.append([-1] * vocabulary)
                ends.append(-1)
            node = children[node][label]
        if node and ends[node] >= 0:
            raise ValueError(f"`words[{ends[node]}]` and `words[{index}]` are spelt the same, {tuple(word)}")
        if node:
            ends[node] = index
    return jnp.asarray(np.array(children, np.int32)), jnp.asarray(np.array(ends, np.int32))
