"""Truncated back-propagation through time: long sequences in windows, with the state carried from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_size
from .._types import Key, split_key
from ._batches import Batch, weighed
from ._model import Model, Streamed, every_step


class TBPTT(NamedTuple):
    """How a long sequence is cut: gradients reach back over `window` steps, and each window takes up `overlap` steps of
    the one before again. Made by `tbptt`."""

    window: int
    overlap: int

    @property
    def stride(self) -> int:
        """Steps from one window to the next, whose loss it counts."""
        return self.window - self.overlap


def tbptt(window: int, overlap: int = 0) -> TBPTT:
    """Truncated back-propagation through time, for `fit`, `evaluate` and `predict` on long streams.

    Every `window - overlap` steps the parameters are updated, from a gradient that reaches back over at least `overlap`
    and at most `window` steps; the state is carried on, the gradient is not. Every step's loss counts once. A window as
    long as the sequence is the whole back-propagation. A learned initial state is trained by the first window, and by
    those in which `reset` begins a sequence. Noise is drawn anew for every window, and with an `overlap` once more
    within it, for its last `overlap` steps: masks that are one for a sequence, as of
    `RecurrentDropout`, change there.

    Args:
        window: steps of a window.
        overlap: steps that a window shares with the one before, fewer than `window`.

    Returns:
        a `TBPTT`, the `truncate` of `fit`, `evaluate` and `predict`.

    Raises:
        ValueError: for a `window` below 1, and an `overlap` that is negative or not below `window`.
        TypeError: for one that is no integer.

    References:
        Williams, Peng 1990, An efficient gradient-based algorithm for on-line training of recurrent network
        trajectories, doi:10.1162/neco.1990.2.4.490.

    >>> from rnnjax.training import tbptt
    >>> tbptt(100, overlap=20).stride
    80
    """
    check_size("window", window)
    if overlap:
        check_size("overlap", overlap)
    if overlap >= window:
        raise ValueError(f"`overlap` must be smaller than `window`, {window}; got {overlap}")
    return TBPTT(int(window), int(overlap))


def check_truncate(truncate: Any) -> None:
    """Raises TypeError unless it is None or what `tbptt` makes."""
    if truncate is not None and not isinstance(truncate, TBPTT):
        raise TypeError(
            f"`truncate` must be made by `tbptt`, such as `rnnjax.training.tbptt(50, overlap=10)`; got {truncate!r}"
        )


def streams(sequence: Any, rows: int) -> Any:
    """One long sequence (N, …) as `rows` streams (rows, N // rows, …) that lie one after another in it.

    Args:
        sequence: an array (N, …), or a pytree of them. What N is more than a multiple of `rows` is cut off at the end.
        rows: how many streams.

    Raises:
        ValueError: if the sequence has fewer steps than rows, or `rows` is below 1.
        TypeError: if `rows` is no integer.
    """
    check_size("rows", rows)
    steps = len(jax.tree.leaves(sequence)[0]) // rows
    if not steps:
        raise ValueError(
            f"`sequence` must have at least {rows} steps, one a row; got {len(jax.tree.leaves(sequence)[0])}"
        )
    return jax.tree.map(lambda leaf: leaf[: rows * steps].reshape(rows, steps, *leaf.shape[1:]), sequence)


class Windows(NamedTuple):
    """Streams that are padded to whole windows: `overlap` steps before, and what the last one lacks after."""

    batch: Batch
    mask: Any
    count: int
    cut: TBPTT

    @classmethod
    def of(cls, batch: Batch, cut: TBPTT) -> Windows:
        """Pads inputs (B, L, …) and targets (B, L, …); lengths and weights become a mask and weights of steps, None
        where all count."""
        shapes = {np.shape(leaf)[:2] for leaf in jax.tree.leaves((batch.inputs, batch.targets, batch.reset))}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(
                "`truncate` needs inputs, targets and resets, where there are any, for every step, (B, L, …) with the "
                f"same B and L; got {', '.join(map(str, sorted(shapes)))}"
            )
        ((rows, steps),) = shapes
        count = -(-steps // cut.stride)
        before, after = cut.overlap, count * cut.stride - steps
        lengths = np.full(rows, steps) if batch.lengths is None else np.asarray(batch.lengths)
        inside = np.arange(steps) < lengths[:, None]
        weights = None
        if batch.weights is not None or after or not inside.all():
            weights = np.asarray(weighed(batch).weights, np.float32)
            weights = inside * (weights if weights.ndim == 2 else weights[:, None])  # of steps or of rows

        def pad(leaf: Any) -> Any:
            return jnp.pad(leaf, [(0, 0), (before, after), *[(0, 0)] * (np.ndim(leaf) - 2)])

        padded = Batch(
            jax.tree.map(pad, batch.inputs),
            jax.tree.map(pad, batch.targets),
            None,
            None if weights is None else pad(weights),
            None if batch.reset is None else pad(batch.reset),
        )
        return cls(padded, pad(inside), count, cut)

    def at(self, data: tuple[Batch, Any], index: Any) -> Batch:
        """The window of that number, from batch and mask, as the batch that `windowed` takes: the inputs carry the mask
        and whether the row begins, (B); targets and weights are those of the steps whose loss counts."""
        (batch, mask), cut = data, self.cut

        def part(leaf: Any, skipped: int) -> Any:
            return jax.lax.dynamic_slice_in_dim(leaf, index * cut.stride + skipped, cut.window - skipped, 1)

        inputs, mask, reset = jax.tree.map(lambda leaf: part(leaf, 0), (batch.inputs, mask, batch.reset))
        targets, weights = jax.tree.map(lambda leaf: part(leaf, cut.overlap), (batch.targets, batch.weights))
        begins = jnp.full(mask.shape[:1], index == 0)
        return Batch((inputs, mask, begins), targets, None, weights, reset)


def windowed(model: Model, cut: TBPTT) -> Model:
    """The model on one window: its other state is (rest, the state before the window), its inputs are those of
    `Windows.at`. Before the first window the state is formed anew, so that its gradient reaches the parameters.

    The state that the next window starts from is the one after `stride` steps, without its gradient; outputs are those
    of the last `stride` steps, whose loss has not been counted yet.
    """

    def apply(params: Any, rest: Any, batch: Batch, key: Key, train: bool) -> tuple[Any, Any]:
        rest, state = rest
        inputs, mask, begins = batch.inputs

        def initial() -> Any:
            formed = model.initial_state(params, rest, inputs)
            return jax.tree.map(lambda new, old: new.astype(old.dtype), formed, state)

        # other windows form none, whose gradient could be zero times infinity
        state = jax.lax.cond(begins.any(), initial, lambda: state)
        whole = Streamed(inputs, mask, batch.reset, state)
        if not cut.overlap:
            outputs, state, rest = model.stream(params, rest, whole, key, train)
            return outputs, (rest, jax.lax.stop_gradient(state))
        first_key, then_key = split_key(key)
        marks = whole._replace(state=None)
        first = jax.tree.map(lambda leaf: leaf[:, : cut.stride], marks)._replace(state=state)
        head, middle, rest = model.stream(params, rest, first, first_key, train)
        then = jax.tree.map(lambda leaf: leaf[:, cut.stride :], marks)._replace(state=middle)
        tail, _, rest = model.stream(params, rest, then, then_key, train)
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1)[:, -cut.stride :], head, tail)
        return outputs, (rest, jax.lax.stop_gradient(middle))

    def publish(params: Any, rest: Any) -> Any:
        return model.publish(params, rest[0])

    return model._replace(rest=(model.rest, None), apply=apply, publish=publish, kept=False)


def outputs_of_windows(model: Model, cut: TBPTT) -> Callable[..., Any]:
    """A function from parameters, other state and a batch to the outputs (B, L, …) of all its windows, compiled."""
    apply = windowed(model, cut).apply

    @jax.jit
    def run(params: Any, rest: Any, windows: tuple[Batch, Any]) -> Any:
        batch, mask = windows
        own = Windows(batch, mask, (mask.shape[1] - cut.overlap) // cut.stride, cut)

        def body(rest: Any, index: Any) -> tuple[Any, Any]:
            outputs, rest = apply(params, rest, own.at(windows, index), None, False)
            return rest, outputs

        state = begin(model, params, (rest, None), batch.inputs)
        # by two lengths, one of which an axis of features may have too
        check(_one_step(model, params, rest, batch.inputs, state[1])[0], 1)
        _, outputs = jax.lax.scan(body, state, jnp.arange(own.count))
        check(jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], outputs)), cut.stride)
        return jax.tree.map(joined, outputs)

    def check(outputs: Any, steps: int) -> None:
        if not every_step(outputs, steps):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(outputs))
            raise ValueError(
                f"`truncate` needs a model with an output for every step, (B, L, …); got {shapes} for {steps} of them"
            )

    def joined(leaf: Any) -> Any:
        count, rows, steps, *features = leaf.shape
        return jnp.moveaxis(leaf, 0, 1).reshape(rows, count * steps, *features)

    def outputs(params: Any, rest: Any, batch: Batch) -> Any:
        windows, steps = Windows.of(batch, cut), jax.tree.leaves(batch.inputs)[0].shape[1]
        return jax.tree.map(lambda leaf: leaf[:, :steps], run(params, rest, (windows.batch, windows.mask)))

    return outputs


def begin(model: Model, params: Any, rest: Any, inputs: Any) -> tuple[Any, Any]:
    """The other state before the first window of these rows: each starts from the initial state, in the dtypes that a
    step leaves it in."""
    state = model.initial_state(params, rest[0], inputs)
    _, after = _one_step(model, params, rest[0], inputs, state)
    return rest[0], jax.tree.map(lambda leaf, then: leaf.astype(then.dtype), state, after)


def _one_step(model: Model, params: Any, rest: Any, inputs: Any, state: Any) -> tuple[Any, Any]:
    """Shapes and dtypes of the outputs of a single step of these inputs, and of the state behind it."""
    one = jax.tree.map(lambda leaf: leaf[:, :1], inputs)
    mask = jnp.ones(jax.tree.leaves(one)[0].shape[:2], bool)
    return jax.eval_shape(lambda: model.stream(params, rest, Streamed(one, mask, None, state), None, False)[:2])
