"""Batches: what one holds, how arrays are cut into them, and how any iterator is read."""

from __future__ import annotations

import inspect
import itertools
import numbers
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from .._errors import check_size, describe
from .._types import featured
from ._positions import check_lengths


class Batch(NamedTuple):
    """Rows of data. Every leaf leads with the rows (B, …); time, where there is any, is the second axis.

    inputs and targets may be pytrees; lengths (B) are valid steps of the inputs, as `fit` says of several;
    weights (B), or (B, T) of single steps, say how much a row counts, 0 for the rows that fill up a batch; reset (B, T)
    is True where a new sequence begins. A plain tuple (inputs, targets), (inputs, targets, lengths), … is taken for
    one, but two tuples (inputs, targets) of arrays could also be two batches.
    """

    inputs: Any
    targets: Any
    lengths: Any = None
    weights: Any = None
    reset: Any = None


def as_batch(data: Any) -> Batch:
    """The `Batch` of a tuple, its leaves as arrays; ValueError or TypeError if it is none."""
    if isinstance(data, Mapping):
        raise TypeError(_named(data))
    if not isinstance(data, (tuple, list)) or not 2 <= len(data) <= 5:
        kind = f"a tuple of {len(data)}" if isinstance(data, (tuple, list)) else type(data).__name__
        raise TypeError(
            f"a batch must be (inputs, targets), with `lengths`, `weights` and `reset` after them or not; got {kind}"
        )
    batch = jax.tree.map(_array, Batch(*data))
    rows = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(rows) != 1 or () in rows:
        shapes = ", ".join(
            f"{name} {[describe(leaf) for leaf in jax.tree.leaves(value)]}"
            for name, value in zip(batch._fields, batch, strict=True)
            if value is not None
        )
        raise ValueError(f"all arrays of a batch must have the same number of rows, their first axis; got {shapes}")
    if batch.lengths is not None and not np.issubdtype(np.asarray(batch.lengths).dtype, np.integer):
        raise TypeError(f"`lengths` must be integers (B); got {describe(batch.lengths)}")
    if batch.lengths is not None:
        steps = [np.shape(leaf)[1] for leaf in jax.tree.leaves(batch.inputs) if np.ndim(leaf) > 1]
        check_lengths(batch.lengths, max(steps, default=0))
    if batch.weights is not None:
        _check_weights(batch.weights)
    return batch


def as_inputs(data: Any) -> Batch:
    """The `Batch` of inputs alone, or of a tuple or list as `as_batch` takes it, but without its targets and weights;
    (inputs,) is one too. ValueError or TypeError if it is none."""
    parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    if not 1 <= len(parts) <= 5:
        raise TypeError(
            "a batch must be inputs, or (inputs, targets) with `lengths`, `weights` and `reset` after them or not; "
            f"got a tuple of {len(parts)}"
        )
    return as_batch(Batch(parts[0], None, *parts[2:])._replace(weights=None))


def _named(data: Mapping[Any, Any]) -> str:
    keys = ", ".join(map(repr, data))
    return f"a batch must be (inputs, targets); got a dictionary of {keys}: map it to such a tuple first"


def _check_weights(weights: Any) -> None:
    if np.ndim(weights) > 2:
        raise ValueError(f"`weights` must be (B), one a row, or (B, T), one a step; got {describe(weights)}")
    found = np.asarray(weights)
    if found.size and not (found.min() >= 0 and np.isfinite(found).all()):
        raise ValueError(f"`weights` must be finite and not negative; got values from {found.min()} to {found.max()}")


def _array(leaf: Any) -> Any:
    if isinstance(leaf, (jax.Array, np.ndarray)):
        return leaf
    array = np.asarray(leaf)
    if array.ndim == 0 or array.dtype == object:
        raise TypeError(
            f"a batch must hold arrays that lead with the rows; got a {type(leaf).__name__}: make an array of lists "
            "with `np.array`, and pad rows to one length"
        )
    return array


def rows_of(batch: Batch) -> int:
    """B."""
    return jax.tree.leaves(batch.inputs)[0].shape[0]


def sequences(inputs: Any) -> list[Any]:
    """The inputs that have steps of their own: ids (B, T), and the arrays with the most axes or more than two. Other
    numbers (B, …) are elapsed times of these steps, or features of a row."""
    leaves = [leaf for leaf in jax.tree.leaves(inputs) if leaf.ndim > 1]
    least = min(max((leaf.ndim for leaf in leaves), default=0), 3)
    return [leaf for leaf in leaves if leaf.ndim >= least or jax.numpy.issubdtype(leaf.dtype, np.integer)]


def take(batch: Batch, rows: Any) -> Batch:
    """These rows of a batch."""
    return jax.tree.map(lambda leaf: leaf[rows], batch)


def split_rows(batch: Batch, share: float) -> tuple[Batch, Batch]:
    """The first rows, and the last `share` of them."""
    if not 0 < share < 1:
        raise ValueError(f"`validation_split` must lie in (0, 1); got {share}")
    cut = rows_of(batch) - round(rows_of(batch) * share)
    if not 0 < cut < rows_of(batch):
        raise ValueError(
            f"`validation_split` must leave rows on both sides; {share} of {rows_of(batch)} rows are "
            f"{rows_of(batch) - cut}"
        )
    return take(batch, slice(None, cut)), take(batch, slice(cut, None))


def check_seed(seed: Any) -> None:
    """Raises unless `seed` is an integer from 0 on, of which NumPy makes an order."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"`seed` must be an integer; got {seed!r}")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative; got {seed}")


def buckets(data: Any, batch_size: int, *, count: int = 4, seed: int | None = 0) -> Callable[..., Iterator[Batch]]:
    """Batches of rows of about the same length, for `fit`: short rows are not padded to the longest of all.

    The rows are dealt into `count` buckets of about equal size by their lengths, and time is cut off behind the longest
    row of a bucket, so that a program is compiled for each bucket and no more. Arrays whose second axis is that of the
    inputs are cut along with them. Inputs that are several sequences must share their steps: behind the lengths each is
    padding, one number. `rnnjax.data.pair_buckets` is for a source and a target, which have lengths of their own.

    Args:
        data: arrays (inputs, targets, lengths, …) with T as the second axis of the inputs.
        batch_size: rows of a batch; the last one of a bucket is filled up with rows at weight 0.
        count: how many buckets.
        seed: of the order of rows and batches, anew for every epoch; None keeps the order of the lengths.

    Returns:
        a function of the epoch, whose batches `fit` reads.

    Raises:
        ValueError: for data without lengths, arrays that differ in their number of rows, inputs that are several
            sequences and do not share their steps, lengths that are negative or beyond the steps, weights that are
            negative, not finite or of more than two axes, a `batch_size` or `count` below 1, and a negative `seed`.
        TypeError: for data that are no tuple of two to five parts, a part that is no array with rows, lengths that are
            not integers, and a `batch_size` or `count` that is no integer.

    >>> import numpy as np, rnnjax as rj
    >>> x, y, lengths = np.ones((6, 9, 2)), np.arange(6), np.array([2, 9, 3, 2, 8, 3])
    >>> batches = rj.training.buckets((x, y, lengths), batch_size=2, count=2, seed=None)
    >>> [batch.inputs.shape for batch in batches(epoch=0)]
    [(2, 3, 2), (2, 3, 2), (2, 9, 2)]
    """
    check_size("batch_size", batch_size)
    check_size("count", count)
    if seed is not None:
        check_seed(seed)
    batch = as_batch(data)
    if batch.lengths is None:
        raise ValueError("buckets need the lengths of the rows: pass (inputs, targets, lengths)")
    batch = weighed(batch)
    lengths = np.asarray(batch.lengths)
    steps = featured(batch.inputs).shape[1]
    features = featured(batch.inputs).ndim > 2  # beside which integers (N, K) may be of a row
    _check_shared([a for a in sequences(batch.inputs) if not features or a.ndim > 2 or a.shape[1] == steps], lengths)
    order = np.argsort(lengths, kind="stable")
    borders = sorted({int(lengths[part[-1]]) for part in np.array_split(order, count) if len(part)})
    groups = np.searchsorted(borders, lengths)

    def cut(leaf: Any, longest: int) -> Any:
        return leaf[:, :longest] if np.ndim(leaf) > 1 and leaf.shape[1] == steps else leaf

    def epoch_of(epoch: int = 0) -> Iterator[Batch]:
        rng = None if seed is None else np.random.default_rng((seed, epoch))
        parts = []
        for number, longest in enumerate(borders):
            rows = order[groups[order] == number]
            rows = rows if rng is None else rng.permutation(rows)
            parts += [(rows[i : i + batch_size], max(longest, 1)) for i in range(0, len(rows), batch_size)]
        for at in range(len(parts)) if rng is None else rng.permutation(len(parts)):
            rows, longest = parts[at]
            chosen = take(batch, rows)
            yield fill_up(jax.tree.map(lambda leaf, longest=longest: cut(leaf, longest), chosen), batch_size)

    return epoch_of


def _check_shared(found: list[Any], lengths: np.ndarray) -> None:
    """Raises ValueError for several sequences (N, T, …), unless all are padding behind these lengths."""
    if len(found) < 2:
        return
    instead = "`rnnjax.data.pair_buckets` is for a source and a target, which have lengths of their own"
    steps = [leaf.shape[1] for leaf in found]
    if len(set(steps)) > 1:
        raise ValueError(
            f"buckets know one axis of time, and inputs have {', '.join(map(str, steps))} steps: {instead}"
        )
    behind = np.arange(steps[0]) >= lengths[:, None]
    for leaf in found:
        padding = np.asarray(leaf)[behind]
        if padding.size and not np.array_equal(padding, np.broadcast_to(padding.flat[0], padding.shape), True):
            raise ValueError(
                f"inputs that are several sequences must be padding, one number, behind `lengths`; {describe(leaf)} is "
                f"not: buckets would cut it off. Fill it up with zeros; {instead}"
            )


class Cut(NamedTuple):
    """How the rows of an epoch are cut: batches of B rows, in blocks of S batches that are one compiled loop each.

    The last batch is filled up with row 0 at weight 0, the last block with batches of such rows.
    """

    rows: int
    batch_size: int
    steps: int
    block: int

    @classmethod
    def of(cls, rows: int, batch_size: int, longest: int, exactly: int | None = None) -> Cut:
        """Blocks of one length, at most `longest` batches, which divides the epoch if some length near it does; with
        `exactly` of so many, where that is less."""
        steps = -(-rows // batch_size)
        if exactly is not None and exactly < min(longest, steps):
            return cls(rows, batch_size, steps, exactly)
        count = -(-steps // longest)
        count = next((n for n in range(count, 2 * count) if steps % n == 0), count)
        return cls(rows, batch_size, steps, -(-steps // count))

    @property
    def skips(self) -> bool:
        """Whether there are batches without any row."""
        return self.steps % self.block != 0

    @property
    def whole(self) -> bool:
        """Whether no batch with any row lacks one."""
        return self.rows % self.batch_size == 0

    @property
    def weights(self) -> np.ndarray | None:
        """Weights (N, S, B) of the rows of N blocks, or None where none is missing."""
        count = -(-self.steps // self.block) * self.block * self.batch_size
        return None if count == self.rows else self._filled(np.ones(self.rows), np.float32)

    def order(self, seed: int | None, epoch: int) -> np.ndarray:
        """Rows (N, S, B) of N blocks, shuffled if there is a seed."""
        indices = np.arange(self.rows) if seed is None else np.random.default_rng((seed, epoch)).permutation(self.rows)
        return self._filled(indices, np.int32)

    def _filled(self, values: np.ndarray, dtype: Any) -> np.ndarray:
        """One value of each row as blocks (N, S, B), zeros behind them."""
        filled = np.zeros((-(-self.steps // self.block), self.block, self.batch_size), dtype)
        filled.reshape(-1)[: self.rows] = values
        return filled


def gather(arrays: Batch, rows: Any, weights: Any) -> Batch:
    """These rows as a batch, with these weights where there are any."""
    batch = take(arrays, rows)
    if weights is None:
        return batch
    if batch.weights is not None:
        weights = batch.weights * weights.reshape(weights.shape + (1,) * (batch.weights.ndim - 1))
    return batch._replace(weights=weights)


def weighed(batch: Batch) -> Batch:
    """The batch with weights, which are 1 where it has none."""
    return batch if batch.weights is not None else batch._replace(weights=np.ones(rows_of(batch), np.float32))


def fill_up(batch: Batch, rows: int) -> Batch:
    """The batch with that many rows: repetitions of its first one, or zeros where it has none, at weight 0."""
    missing = rows - rows_of(batch)
    if missing <= 0:
        return batch
    if not rows_of(batch):
        zeros = jax.tree.map(lambda leaf: np.zeros((rows, *leaf.shape[1:]), leaf.dtype), batch)
        return zeros._replace(weights=np.zeros(rows, np.float32))
    weights = np.asarray(weighed(batch).weights)
    more = np.zeros(rows, np.int32)
    more[: rows_of(batch)] = np.arange(rows_of(batch))
    return take(batch, more)._replace(weights=np.pad(weights, [(0, missing)] + [(0, 0)] * (weights.ndim - 1)))


def is_arrays(data: Any) -> bool:
    """Whether `data` is one batch that holds all rows, and no iterable of batches: a tuple of which some part is an
    array, so that inputs may be a tuple of their own. TypeError for a pair of tuples, which may be either."""
    if isinstance(data, Batch) or not isinstance(data, tuple):
        return isinstance(data, Batch)
    if not 2 <= len(data) <= 5 or isinstance(data[0], (list, Batch)):
        return False
    if all(isinstance(part, (tuple, list)) for part in data):
        if len(data) == 2:
            raise TypeError(
                "two tuples may be one batch or two: pass `rnnjax.training.Batch(inputs, targets)` for several "
                "inputs and targets, and a list of batches"
            )
        return False
    return True


def is_iterable(inputs: Any) -> bool:
    """Whether `inputs` are an iterable of batches, or a function that returns one, and no arrays: a list, or what is
    neither an array nor a pytree, as a generator or a loader."""
    leaf = jax.tree_util.all_leaves([inputs]) and not hasattr(inputs, "__array__")
    return leaf or isinstance(inputs, list)


class Stream:
    """An iterable of batches, or a function that returns one, read anew for every epoch.

    A function that has a parameter `epoch` is given its number, so that an order can follow from it. With `steps` an
    epoch has so many batches: it begins where the one before has stopped, and what ends within it is read anew. With
    `weighted` all batches have weights, and one that is smaller than those before is filled up, so that it needs no
    program of its own. `reads` makes a batch of each item.
    """

    def __init__(
        self,
        source: Any,
        steps: int | None = None,
        weighted: bool = False,
        reads: Callable[[Any], Batch] = as_batch,
    ) -> None:
        if isinstance(source, Mapping):
            raise TypeError(_named(source))
        if not callable(source) and not isinstance(source, Iterable):
            raise TypeError(
                "data must be a tuple of arrays (inputs, targets), an iterable of such batches, or a function that "
                f"returns one; got {type(source).__name__}"
            )
        if callable(source):
            needed = [own for own in inspect.signature(source).parameters.values() if own.default is own.empty]
            other = [own.name for own in needed if own.kind not in (own.VAR_POSITIONAL, own.VAR_KEYWORD)]
            if set(other) - {"epoch"}:
                raise TypeError(
                    "a function that returns batches must take no arguments, or one called `epoch`; got "
                    f"{', '.join(f'`{name}`' for name in other)}"
                )
        self._source: Any = source
        self.steps, self._weighted, self._reads = steps, weighted, reads
        self._rows, self._passes = 0, 0
        self._going: Iterator[Batch] | None = None

    def read(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, but for the first ones that are done. With `steps`, epochs must be read in turn."""
        if self.steps is None:
            self._rows = 0
            return itertools.islice(self._pass(epoch), done, None)
        if self._going is None:
            whole = itertools.chain.from_iterable(map(self._pass, itertools.count()))
            self._going = itertools.islice(whole, epoch * self.steps + done, None)
        return itertools.islice(self._going, self.steps - done)

    def _pass(self, number: int) -> Iterator[Batch]:
        """All batches."""
        count = 0
        source: Any = self._source
        if callable(source):
            source = source(epoch=number) if "epoch" in inspect.signature(source).parameters else source()
        for data in source:
            batch = self._reads(data)
            self._rows, count = max(self._rows, rows_of(batch)), count + 1
            yield weighed(fill_up(batch, self._rows)) if self._weighted else batch
        if not count:
            again = " any more: a generator can be read once, so pass a function that makes one" if self._passes else ""
            raise ValueError(f"the data hold no batch{again}")
        self._passes += 1


def first_of(source: Any, weighted: bool = False) -> tuple[Batch, Any]:
    """The first batch of an iterable, as a `Stream` reads it, and an iterable that still has it."""
    batches = Stream(source, weighted=weighted).read(0)
    first = next(batches)
    return first, _Begun(first, batches, source) if isinstance(source, Iterator) else source


def check_repeats(name: str, source: Any, epochs: int) -> None:
    """Raises ValueError for an iterator of Python that can be read once, where there are several epochs."""
    if epochs > 1 and isinstance(source, (Generator, enumerate, filter, map, zip)):
        raise ValueError(
            f"`{name}` is read in each of the {epochs} epochs, and a {type(source).__name__} can be read once, so pass "
            "a function that makes one"
        )


class _Begun:
    """An iterator of which the first batch was taken. A first pass still has it; later ones begin the iterator anew,
    as those of a class that starts again in `__iter__` do."""

    def __init__(self, first: Batch, others: Iterator[Batch], source: Iterator[Any]) -> None:
        self._passes: Iterator[Any] = iter([itertools.chain([first], others)])
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        return iter(next(self._passes, self._source))
