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
    bare = [number for number, array in enumerate(arrays) if array.ndim == 0 or array.dtype.kind in "OSU"]
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
    dtype = _dtype(sequences, filled)
    with np.errstate(invalid="ignore"):
        if dtype.kind in "biu" and np.asarray(value).astype(dtype) != value:
            raise ValueError(f"`value` must be one that {dtype}, the dtype of the sequences, can hold; got {value!r}")
    out = np.full((len(arrays), steps, *trailing.pop()), value, dtype)
    for row, array in zip(out, arrays, strict=True):
        if array.size:
            row[: len(array)] = array
    return out, lengths


def _dtype(sequences: Sequence[Any], arrays: Sequence[np.ndarray]) -> np.dtype:
    """That of the arrays; of Python's numbers int32 or float32."""
    dtype = np.result_type(*arrays)
    if any(hasattr(sequence, "dtype") for sequence in sequences):
        return dtype
    most = np.iinfo(np.int32)
    for number, array in enumerate(arrays):
        if dtype.kind in "iu" and array.size and not most.min <= array.min() <= array.max() <= most.max:
            raise ValueError(
                f"`sequences` as lists must hold numbers that int32 can; number {number} has "
                f"{array.min()} … {array.max()}: pass arrays of the dtype that you want"
            )
    return np.dtype({"i": np.int32, "u": np.int32, "f": np.float32}.get(dtype.kind, dtype))


def pad_pairs(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, start: int, end: int, value: int = 0
) -> Pairs:
    """Pairs for an encoder and a decoder with teacher forcing.

    Args:
        sources: N rows of ids, as `vocabulary.encode` gives them.
        targets: N rows of ids without `start` and `end`, which are added here.
        start, end: ids of the target's vocabulary.
        value: the id that fills up.

    Returns:
        a `Pairs`.

    Raises:
        ValueError: for different numbers of sources and targets, for no pair, for ids that are negative, and for ids
            and a `value` that int32 cannot hold.
        TypeError: for a row that is not of integers.

    >>> import rnnjax as rj
    >>> pairs = rj.data.pad_pairs([[7, 8], [9]], [[4], [5, 6]], start=1, end=2)
    >>> pairs.inputs.tolist(), pairs.targets.tolist()
    ([[1, 4, 0], [1, 5, 6]], [[4, 2, 0], [5, 6, 2]])
    """
    if len(sources) != len(targets):
        raise ValueError(f"there must be one target for each source; got {len(sources)} and {len(targets)}")
    rows, row_lengths = pad(_ids("sources", sources), value=value)
    ids = _ids("targets", targets)
    heads, lengths = pad([np.array([start, *row], np.int32) for row in ids], value=value)
    tails, _ = pad([np.array([*row, end], np.int32) for row in ids], value=value)
    return Pairs(rows, row_lengths, heads, tails, lengths)


def _ids(name: str, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Rows of ids as int32; TypeError for one that is not of integers, ValueError for numbers that are no ids."""
    arrays = [np.asarray(row) for row in rows]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise TypeError(f"`{name}` must be rows of ids, which are integers; number {number} is {rows[number]!r}")
        if array.size and not 0 <= array.min() <= array.max() <= np.iinfo(np.int32).max:
            raise ValueError(f"`{name}` must hold ids from 0; number {number} has {array.min()} … {array.max()}")
    return [array.astype(np.int32) for array in arrays]


def pair_buckets(
    pairs: Pairs, batch_size: int, *, count: int = 4, seed: int | None = 0
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Batches of pairs of about the same lengths, for `fit`: both axes of time are cut to the longest row of a bucket.

    `rnnjax.training.buckets` knows one axis of time; here there are two. The rows are divided `count - 1` times, each
    time where that leaves the fewest steps of padding, in a bucket and along an axis that are sought anew. So many
    programs are compiled.

    Args:
        pairs: all pairs, as `pad_pairs` makes them.
        batch_size: rows of a batch; the last one of a bucket is filled up with rows at weight 0.
        count: how many buckets, fewer where another one saves nothing.
        seed: of the order of rows and batches, anew for every epoch; None keeps the order of the lengths.

    Returns:
        a function of the epoch that yields what `pairs.batch()` has, and the weights of the rows.

    Raises:
        ValueError: for a `batch_size` or `count` below 1.
        TypeError: for one that is no integer.

    >>> import rnnjax as rj
    >>> pairs = rj.data.pad_pairs([[5], [5] * 9, [6], [6] * 8], [[7], [7] * 8, [7] * 7, []], start=1, end=2)
    >>> for inputs, _, _, weights in rj.data.pair_buckets(pairs, 2, count=2, seed=None)():
    ...     print(inputs["source"].shape, inputs["target"].shape, weights)
    (2, 1) (2, 8) [1. 1.]
    (2, 9) (2, 9) [1. 1.]
    """
    check_size("batch_size", batch_size)
    check_size("count", count)
    lengths = np.stack([pairs.source_lengths, pairs.target_lengths], 1)
    order = np.lexsort(lengths.T[::-1])
    groups = [order[group] for group in _divided(lengths[order], batch_size, count)]

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


def _divided(lengths: np.ndarray, batch_size: int, count: int) -> list[np.ndarray]:
    """Rows of lengths (N, 2) in at most `count` groups, each sorted, whose padded batches have few steps.

    Greedy: of all groups, axes and lengths, the division that saves the most steps comes first.
    """

    def best(group: np.ndarray) -> tuple[int, list[np.ndarray]]:
        """The steps that the best division of a group saves, and its parts."""
        whole = _steps(len(group), lengths[group].max(0).sum(), batch_size)
        saved, parts = 0, [group]
        for axis in (0, 1):
            order = group[np.argsort(lengths[group, axis], kind="stable")]
            ordered = lengths[order]
            cuts = np.flatnonzero(np.diff(ordered[:, axis])) + 1  # where a part may begin
            if not len(cuts):
                continue
            low = np.maximum.accumulate(ordered)[cuts - 1].sum(1)
            high = np.maximum.accumulate(ordered[::-1])[::-1][cuts].sum(1)
            steps = _steps(cuts, low, batch_size) + _steps(len(order) - cuts, high, batch_size)
            at = int(steps.argmin())
            if whole - steps[at] > saved:
                saved, parts = int(whole - steps[at]), [np.sort(order[: cuts[at]]), np.sort(order[cuts[at] :])]
        return saved, parts

    found = [best(np.arange(len(lengths)))] if len(lengths) else []
    while len(found) < count and any(saved for saved, _ in found):
        at = max(range(len(found)), key=lambda number: found[number][0])
        found[at : at + 1] = [best(part) for part in found[at][1]]
    return [np.concatenate(parts) for _, parts in found]


def _steps(rows: Any, longest: Any, batch_size: int) -> Any:
    """Steps of the batches that hold so many rows, with the rows that fill up the last one."""
    return -(-rows // batch_size) * batch_size * longest
