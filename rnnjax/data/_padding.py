"""Ragged sequences as arrays, batch-major as `rnnjax.training.fit` takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._errors import check_size


class Pairs(NamedTuple):
    """Padded pairs for an encoder and a decoder with teacher forcing.

    sources (N, S) and inputs and targets (N, U) are integers, source_lengths and target_lengths (N). The decoder reads
    `inputs`, the target behind `start`, and learns `targets`, the target before `end`.
    """

    sources: np.ndarray
    source_lengths: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    target_lengths: np.ndarray

    def batch(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """What `fit` takes, (inputs, targets, lengths): {"source": sources, "target": inputs}, {"labels": targets,
        "lengths": target_lengths} and source_lengths. A loss is `lambda outputs, targets, mask: cross_entropy(outputs,
        **targets, mask=mask, time_major=False)`."""
        inputs = {"source": self.sources, "target": self.inputs}
        return inputs, {"labels": self.targets, "lengths": self.target_lengths}, self.source_lengths


def pad(
    sequences: Sequence[Any], *, value: float = 0, length: int | None = None, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of any lengths as one array, filled up behind their ends.

    Args:
        sequences: N arrays or lists (T_n) or (T_n, …), equal in all axes but the first. Arrays keep their dtype, lists
            become int32 or float32.
        value: what fills up.
        length: T; None takes the longest sequence.
        multiple: rounds the T of the longest sequence up to a multiple, so that fewer shapes are compiled.

    Returns:
        the array (N, T, …) and the lengths T_n, int32 (N).

    Raises:
        ValueError: for no sequence, for one longer than `length`, and for trailing axes or dtypes that do not fit.

    >>> import rnnjax as rj
    >>> array, lengths = rj.data.pad([[5, 6, 7], [8]])
    >>> array.tolist(), lengths.tolist()
    ([[5, 6, 7], [8, 0, 0]], [3, 1])
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise ValueError("`sequences` must hold at least one sequence; got none")
    check_size("multiple", multiple)
    bare = [number for number, array in enumerate(arrays) if array.ndim == 0 or array.dtype == object]
    if bare:
        raise TypeError(f"`sequences` must be arrays or lists of numbers; number {bare[0]} is no such thing")
    # an empty list says nothing about its dtype
    filled = [array for array in arrays if array.size] or arrays
    trailing = {array.shape[1:] for array in filled}
    if len(trailing) > 1:
        raise ValueError(f"`sequences` must agree in all axes but time, the first; got {sorted(trailing)}")
    lengths = np.array([len(array) for array in arrays], np.int32)
    longest = int(lengths.max())
    if length is not None and longest > length:
        raise ValueError(f"`length` is {length}, and sequence {int(lengths.argmax())} has {longest} steps: cut it")
    steps = -(-longest // multiple) * multiple if length is None else length
    out = np.full((len(arrays), steps, *trailing.pop()), value, _dtype(sequences, filled))
    for row, array in zip(out, arrays, strict=True):
        if array.size:
            row[: len(array)] = array
    return out, lengths


def _dtype(sequences: Sequence[Any], arrays: Sequence[np.ndarray]) -> np.dtype:
    """That of the arrays; of Python's numbers int32 or float32."""
    dtype = np.result_type(*arrays)
    if any(hasattr(sequence, "dtype") for sequence in sequences):
        return dtype
    return np.dtype({"i": np.int32, "f": np.float32}.get(dtype.kind, dtype))


def pad_pairs(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, start: int, end: int, value: int = 0
) -> Pairs:
    """Pairs for an encoder and a decoder with teacher forcing.

    Args:
        sources: N rows of ids, as `vocabulary.encode` gives them.
        targets: N rows of ids without `start` and `end`, which are added here.
        start, end: ids of the target's vocabulary.
        value: the id that fills up.

    >>> import rnnjax as rj
    >>> pairs = rj.data.pad_pairs([[7, 8], [9]], [[4], [5, 6]], start=1, end=2)
    >>> pairs.inputs.tolist(), pairs.targets.tolist()
    ([[1, 4, 0], [1, 5, 6]], [[4, 2, 0], [5, 6, 2]])
    """
    if len(sources) != len(targets):
        raise ValueError(f"there must be one target for each source; got {len(sources)} and {len(targets)}")
    rows, row_lengths = pad([np.asarray(row, np.int32) for row in sources], value=value)
    heads, lengths = pad([np.array([start, *row], np.int32) for row in targets], value=value)
    tails, _ = pad([np.array([*row, end], np.int32) for row in targets], value=value)
    return Pairs(rows, row_lengths, heads, tails, lengths)


def pair_buckets(
    pairs: Pairs, batch_size: int, *, count: int = 4, seed: int | None = 0
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Batches of pairs of about the same lengths, for `fit`: both axes of time are cut to the longest row of a bucket.

    `rnnjax.training.buckets` knows one axis of time; here there are two. Rows are dealt by length into `count` buckets
    of about equal size, so that so many programs are compiled.

    Args:
        pairs: all pairs, as `pad_pairs` makes them.
        batch_size: rows of a batch; the last one of a bucket is filled up with rows at weight 0.
        count: how many buckets.
        seed: of the order of rows and batches, anew for every epoch; None keeps the order of the lengths.

    Returns:
        a function of the epoch that yields what `pairs.batch()` has, and the weights of the rows.

    >>> import rnnjax as rj
    >>> pairs = rj.data.pad_pairs([[5], [5] * 9, [6]], [[7] * 8, [7], []], start=1, end=2)
    >>> for inputs, _, _, weights in rj.data.pair_buckets(pairs, 2, count=2, seed=None)():
    ...     print(inputs["source"].shape, inputs["target"].shape, weights)
    (2, 1) (2, 9) [1. 1.]
    (2, 9) (2, 2) [1. 0.]
    """
    check_size("batch_size", batch_size)
    check_size("count", count)
    order = np.lexsort((pairs.target_lengths, pairs.source_lengths))
    groups = [group for group in np.array_split(order, count) if len(group)]

    def batch_of(group: np.ndarray, rows: np.ndarray) -> tuple[Any, ...]:
        weights = np.zeros(batch_size, np.float32)
        weights[: len(rows)] = 1
        rows = np.concatenate([rows, np.full(batch_size - len(rows), rows[0])])
        s, u = max(pairs.source_lengths[group].max(), 1), pairs.target_lengths[group].max()
        part = Pairs(*(array[rows] for array in pairs))
        part = part._replace(sources=part.sources[:, :s], inputs=part.inputs[:, :u], targets=part.targets[:, :u])
        return *part.batch(), weights

    def epoch_of(epoch: int = 0) -> Iterator[tuple[Any, ...]]:
        rng = None if seed is None else np.random.default_rng((seed, epoch))
        parts = []
        for group in groups:
            rows = group if rng is None else rng.permutation(group)
            parts += [(group, rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
        for at in range(len(parts)) if rng is None else rng.permutation(len(parts)):
            yield batch_of(*parts[at])

    return epoch_of
