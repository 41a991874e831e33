"""What each stretch of time contributed to an output, by leaving it out, and each past input to each output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._errors import check_size
from .._types import Array, Xs
from ._attribution import Function, like, outputs_of


def occlusion(
    f: Function,
    xs: Xs,
    baseline: Any = 0.0,
    *,
    window: int = 1,
    stride: int = 1,
    axis: int = 0,
    rows: Sequence[int] | None = None,
) -> Array:
    """How much an output falls when a stretch of time is replaced by a baseline.

    a_t = mean over the windows that contain t of  f(x) − f(x with the window replaced)

    Args:
        f: a function (inputs) -> (*rows).
        xs: inputs, an array or a pytree, all with T steps on the same axis.
        baseline: what stands in, a number, or arrays that broadcast against `xs`.
        window: steps that are replaced together.
        stride: steps from one window to the next. The last window ends with the sequence: it may be shorter, and where
            steps lie between windows, `stride` above `window`, it is nearer to the one before.
        axis: of time, 0 in the functional form and 1 for batch-major models.
        rows: the axes of the inputs that are rows; None takes all but `axis` and the last.

    Returns:
        (T, *rows); 0 at a step that no window contains.

    Raises:
        TypeError, ValueError: as `saliency`, and if `window` is not in 1…T, `stride` not positive or `baseline` does
            not fit.

    References:
        Zeiler, Fergus 2014, Visualizing and understanding convolutional networks, arXiv:1311.2901.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.diagnostics.occlusion(lambda xs: xs.sum(), jnp.array([1.0, 2.0, 4.0])).tolist()
    [1.0, 2.0, 4.0]
    """
    check_size("window", window)
    check_size("stride", stride)
    baseline = like(baseline, xs)
    steps = jax.tree.leaves(xs)[0].shape[axis]
    if window > steps:
        raise ValueError(f"`window` must be at most T = {steps}, the steps of `xs`; got {window}: take a shorter one")
    latest = steps - window if stride > window else steps - 1
    begins = jnp.minimum(jnp.arange(-(-(steps - window) // stride) + 1) * stride, latest)
    times = jnp.arange(steps)
    inside = (times[None] >= begins[:, None]) & (times[None] < begins[:, None] + window)
    whole = outputs_of(f, xs, rows, axis)

    def without(flags: Array) -> Array:
        def replace(x: Array, b: Array) -> Array:
            shape = [1] * x.ndim
            shape[axis] = steps
            return jnp.where(jnp.broadcast_to(flags.reshape(shape), x.shape), b, x)

        return whole - outputs_of(f, jax.tree.map(replace, xs, baseline), rows, axis)

    falls = jax.lax.map(without, inside)
    counts = jnp.maximum(inside.sum(0), 1).astype(falls.dtype)
    return jnp.tensordot(inside.astype(falls.dtype) / counts[None], falls, axes=(0, 0))


def influence(f: Callable[[Array], Array], xs: Array) -> Array:
    """How strongly each output depends on each input: ‖∂y_t/∂x_s‖, the Frobenius norm over the features of both.

    It is exact, and needs T·O backward passes, O of them at a time.

    Args:
        f: a function from inputs (T, *B, I) to outputs (T', *B, O), no row of which depends on another, such as
            `lambda xs: rj.unroll(cell, params, xs)[0]`.
        xs: the inputs, one array.

    Returns:
        (T', T, *B): row t, column s.

    Raises:
        ValueError: if outputs have other rows than the inputs.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=1, activation="identity")
    >>> params = cell.init(jax.random.key(0), in_size=1)._replace(w=jnp.ones((1, 1)), u=jnp.full((1, 1), 0.5))
    >>> rj.diagnostics.influence(lambda xs: rj.unroll(cell, params, xs)[0], jnp.ones((3, 1))).tolist()
    [[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.25, 0.5, 1.0]]
    """

    def size(gradient: Array) -> Array:
        return (gradient**2).sum(-1)

    return jnp.sqrt(_by_output(f, xs, size).sum(-1))


def contributions(f: Callable[[Array], Array], xs: Array) -> Array:
    """What the input of each step adds to each output: gradient times input, Σ_i x_{s,i} ∂y_{t,o}/∂x_{s,i}.

    Of an f that is linear and zero at zero, they add up over s to y_t; of others, as far as f is linear around xs. It
    needs T·O backward passes, O of them at a time.

    Args:
        f, xs: as for `influence`.

    Returns:
        (T', T, *B, O): row t, column s.

    Raises:
        ValueError: if outputs have other rows than the inputs.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=1, activation="identity")
    >>> params = cell.init(jax.random.key(0), in_size=1)._replace(w=jnp.ones((1, 1)), u=jnp.full((1, 1), 0.5))
    >>> xs = jnp.array([[4.0], [3.0]])
    >>> rj.diagnostics.contributions(lambda xs: rj.unroll(cell, params, xs)[0], xs)[..., 0].tolist()
    [[4.0, 0.0], [2.0, 3.0]]
    """
    return _by_output(f, xs, lambda gradient: (xs * gradient).sum(-1))


def _by_output(f: Callable[[Array], Array], xs: Array, reduce: Callable[[Array], Array]) -> Array:
    """`reduce` (T, *B, I) -> (T, *B) of the gradient of every number of every output, (T', T, *B, O)."""
    ys, pull = jax.vjp(f, xs)
    if ys.ndim < 2 or ys.shape[1:-1] != xs.shape[1:-1]:
        raise ValueError(
            f"`f` must map inputs (T, *B, I) = {xs.shape} to outputs (T', *B, O) of the same rows; got {ys.shape}"
        )

    def row(t: Array) -> Array:
        def one(feature: Array) -> Array:
            (gradient,) = pull(jnp.zeros_like(ys).at[t, ..., feature].set(1))
            return reduce(gradient)

        return jax.vmap(one, out_axes=-1)(jnp.arange(ys.shape[-1]))

    return jax.lax.map(row, jnp.arange(ys.shape[0]))
