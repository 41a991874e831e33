"""What each input contributed to an output, by gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import check_key, check_size, describe
from .._types import Array, Key, Params, Xs
from ..layers import Embedding, Stack

Function = Callable[[Any], Array]


class Attribution(NamedTuple):
    """values: contributions in the shape of the inputs.
    difference: what they should add up to in each row, f(x) − f(baseline).
    """

    values: Any
    difference: Array


def saliency(f: Function, xs: Xs, *, rows: Sequence[int] | None = None) -> Xs:
    """The gradient of an output by the inputs, ∂f/∂x.

    Here and in all attributions f is a function of the inputs that returns one number for each row, or a scalar; no row
    may depend on another. They are pure: `jax.jit` and `jax.vmap` apply.

    Args:
        f: a function (inputs) -> (*rows), such as the logit of a class.
        xs: the inputs, an array or a pytree of floating-point arrays.
        rows: the axes of the inputs that are rows, in the order in which f returns them, such as (0,) for batch-major
            ones; None takes those of (T, *B, I), all but the first and the last. Of several arrays one must have them.

    Returns:
        gradients in the shape of `xs`.

    Raises:
        TypeError, ValueError: if inputs are not floating-point numbers, `rows` are no distinct axes of them, or f
            returns anything but a number for each row, or a scalar.

    References:
        Simonyan, Vedaldi, Zisserman 2014, Deep inside convolutional networks, arXiv:1312.6034.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.diagnostics.saliency(lambda xs: (xs**2).sum(0), jnp.array([[1.0, 2.0], [3.0, 4.0]]), rows=(1,)).tolist()
    [[2.0, 4.0], [6.0, 8.0]]
    """
    _check_inputs(xs)
    return jax.grad(lambda xs: outputs_of(f, xs, rows).sum())(xs)


def gradient_times_input(f: Function, xs: Xs, *, rows: Sequence[int] | None = None) -> Xs:
    """Gradient times input, x ⊙ ∂f/∂x: what f would lose without each number if it were linear.

    Args:
        f, xs, rows: as for `saliency`, which says what is refused.

    Returns:
        products in the shape of `xs`.

    References:
        Shrikumar, Greenside, Shcherbina, Kundaje 2016, Not just a black box, arXiv:1605.01713.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.diagnostics.gradient_times_input(lambda xs: (xs**2).sum(0), jnp.array([1.0, 3.0])).tolist()
    [2.0, 18.0]
    """
    return jax.tree.map(jnp.multiply, xs, saliency(f, xs, rows=rows))


def integrated_gradients(
    f: Function, xs: Xs, baseline: Any = 0.0, *, nodes: int = 64, rows: Sequence[int] | None = None
) -> Attribution:
    """Integrated gradients: the gradient collected on the straight way from a baseline to the inputs.

    (x − b) ⊙ ∫₀¹ ∂f(b + α (x − b))/∂x dα

    The contributions of a row add up to f(x) − f(b), up to the error of the integral. It is taken at the nodes of
    Gauss and Legendre, one after another, so that memory does not grow with their number; for smooth f 64 are more than
    enough, for a network of rectifiers take more.

    Args:
        f, xs, rows: as for `saliency`.
        baseline: b, a number, or arrays that broadcast against `xs`.
        nodes: at how many points the gradient is formed.

    Returns:
        an `Attribution`.

    Raises:
        TypeError, ValueError: as `saliency`, and if `baseline` does not fit the inputs.

    References:
        Sundararajan, Taly, Yan 2017, Axiomatic attribution for deep networks, arXiv:1703.01365.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> found = rj.diagnostics.integrated_gradients(lambda xs: xs[0] * xs[1] ** 2, jnp.array([3.0, 2.0]))
    >>> [round(float(v), 4) for v in found.values], float(found.difference)
    ([4.0, 8.0], 12.0)
    """
    check_size("nodes", nodes)
    baseline = like(baseline, xs)
    where, weight = np.polynomial.legendre.leggauss(nodes)
    dtype = jax.tree.leaves(xs)[0].dtype
    alphas, weights = jnp.asarray((where + 1) / 2, dtype), jnp.asarray(weight / 2, dtype)

    def body(total: Xs, node: tuple[Array, Array]) -> tuple[Xs, None]:
        gradient = saliency(f, _between(baseline, xs, node[0]), rows=rows)
        return jax.tree.map(lambda t, g: t + node[1].astype(g.dtype) * g, total, gradient), None

    total, _ = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, xs), (alphas, weights))
    values = jax.tree.map(lambda x, b, t: (x - b) * t, xs, baseline, total)
    return Attribution(values, outputs_of(f, xs, rows) - outputs_of(f, baseline, rows))


def smooth_grad(
    f: Function,
    xs: Xs,
    key: Key,
    *,
    deviation: float | Array,
    samples: int = 50,
    rows: Sequence[int] | None = None,
) -> Xs:
    """SmoothGrad: the mean gradient around the inputs, with less of the noise of a single one.

    E_ε ∂f(x + ε)/∂x,    ε ~ N(0, deviation²)

    Args:
        f, xs, rows: as for `saliency`.
        key: of the noise.
        deviation: the noise's standard deviation, in the units of `xs`. The paper takes a tenth or two of the range of
            the inputs.
        samples: how many gradients are averaged, one after another.

    Returns:
        gradients in the shape of `xs`.

    Raises:
        TypeError, ValueError: as `saliency`, and if `key` is no key or `samples` not positive.

    References:
        Smilkov, Thorat, Kim, Viégas, Wattenberg 2017, SmoothGrad: removing noise by adding noise, arXiv:1706.03825.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> smooth = rj.diagnostics.smooth_grad(lambda x: jnp.abs(x), jnp.zeros(()), jax.random.key(0), deviation=1.0)
    >>> bool(abs(smooth) < 0.5)
    True
    """
    check_size("samples", samples)
    check_key("key", key)

    def one(key: Key) -> Xs:
        return saliency(f, _noisy(key, xs, deviation), rows=rows)

    return _average(one, jax.random.split(key, samples))


def expected_gradients(
    f: Function, xs: Xs, background: Xs, key: Key, *, samples: int = 256, rows: Sequence[int] | None = None
) -> Attribution:
    """Expected gradients: integrated gradients from baselines drawn out of a background set.

    E_{b ~ background, α ~ U(0, 1)} (x − b) ⊙ ∂f(b + α (x − b))/∂x

    The contributions of a row add up to f(x) − E_b f(b) on average over the draws: a sampled estimate, whose error
    falls with the square root of the samples. α is stratified.

    Args:
        f, xs, rows: as for `saliency`.
        background: N baselines, each in the shape of `xs`, leaves (N, …).
        key: of the draws.
        samples: how many gradients are averaged, one after another.

    Returns:
        an `Attribution`; its difference is taken from the mean over the whole background.

    Raises:
        TypeError, ValueError: as `smooth_grad`, and if `background` does not fit the inputs.

    References:
        Erion, Janizek, Sturmfels, Lundberg, Lee 2021, Improving performance of deep learning models with axiomatic
        attribution priors and expected gradients, arXiv:1906.10670.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> f, key = lambda xs: 2 * xs[0] + xs[1], jax.random.key(0)
    >>> found = rj.diagnostics.expected_gradients(f, jnp.array([1.0, 1.0]), jnp.zeros((3, 2)), key)
    >>> [round(float(v), 4) for v in found.values], float(found.difference)
    ([2.0, 1.0], 3.0)
    """
    check_size("samples", samples)
    check_key("key", key)
    _check_inputs(xs)
    if jax.tree.structure(xs) != jax.tree.structure(background):
        raise TypeError(f"`background` must have the structure of `xs`, {describe(xs)}; got {describe(background)}")
    count = np.shape(jax.tree.leaves(background)[0])[:1]
    for leaf, own in zip(jax.tree.leaves(xs), jax.tree.leaves(background), strict=True):
        if np.shape(own) != (*count, *np.shape(leaf)) or count == (0,):
            wanted = ", ".join(map(str, ("N", *np.shape(leaf))))
            raise ValueError(
                f"`background` must hold N ≥ 1 baselines in the shape of `xs`, ({wanted}), the same N in all arrays; "
                f"got {np.shape(own)}"
            )
    key_drawn, key_alphas = jax.random.split(key)
    drawn = jax.random.randint(key_drawn, (samples,), 0, count[0])
    dtype = jax.tree.leaves(xs)[0].dtype
    alphas = (jnp.arange(samples, dtype=dtype) + jax.random.uniform(key_alphas, (samples,), dtype)) / samples

    def one(draw: tuple[Array, Array]) -> Xs:
        baseline = jax.tree.map(lambda leaf: leaf[draw[0]], background)
        gradient = saliency(f, _between(baseline, xs, draw[1]), rows=rows)
        return jax.tree.map(lambda x, b, g: (x - b) * g, xs, baseline, gradient)

    mean = jax.lax.map(lambda b: outputs_of(f, b, rows), background).mean(0)
    return Attribution(_average(one, (drawn, alphas)), outputs_of(f, xs, rows) - mean)


def at_embedding(model: Stack, params: Params, ids: Array) -> tuple[Array, Callable[..., Array]]:
    """Splits a model of tokens behind its embedding, where attributions by gradients can be taken.

    Args:
        model: a `Stack` whose first layer is an `Embedding`.
        params: its parameters.
        ids: integers (T, *B).

    Returns:
        the vectors (T, *B, E) and a function of vectors, and by keyword of `lengths` and `mask`, that returns the
        model's outputs. A token's contribution is the sum over E.

    Raises:
        TypeError: for another model.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> model = rj.Stack([rj.Embedding(10, 4), rj.GRU(3), rj.Last(), rj.Dense(2)])
    >>> params = model.init(jax.random.key(0), None)
    >>> vectors, rest = rj.diagnostics.at_embedding(model, params, jnp.array([[1], [2], [3]]))
    >>> found = rj.diagnostics.integrated_gradients(lambda v: rest(v)[:, 1], vectors)
    >>> found.values.sum(-1).shape
    (3, 1)
    """
    if not isinstance(model, Stack) or not isinstance(model.layers[0], Embedding) or len(model.layers) < 2:
        raise TypeError(f"`model` must be a `rnnjax.Stack` of an `Embedding` and what follows it; got {model!r}")
    vectors, _ = model.layers[0](params[0], ids)
    tail = Stack(model.layers[1:])

    def rest(vectors: Array, *, lengths: Array | None = None, mask: Array | None = None) -> Array:
        return tail(params[1:], vectors, lengths=lengths, mask=mask)[0]

    return vectors, rest


def _check_inputs(xs: Xs) -> None:
    for leaf in jax.tree.leaves(xs):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"`xs` must be floating-point arrays, by which one can differentiate; got {describe(leaf)}. For tokens "
                "take the output of the embedding: `at_embedding`"
            )


def outputs_of(f: Function, xs: Xs, rows: Sequence[int] | None, time: int = 0) -> Array:
    """f(xs), which must have the shape of the rows of some array, or of a scalar."""
    leaves = jax.tree.leaves(xs)
    inputs = ", ".join(str(leaf.shape) for leaf in leaves)
    if not (rows is None or (isinstance(rows, Sequence) and all(isinstance(axis, Integral) for axis in rows))):
        raise TypeError(f"`rows` must be None or a sequence of axes of `xs`, such as (0,); got {rows!r}")
    shapes = _row_shapes(leaves, rows, time)
    if not shapes:
        raise ValueError(f"`rows` must be distinct axes of `xs`, of shape {inputs}; got {rows!r}")
    outputs = f(xs)
    if not hasattr(outputs, "dtype") or not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise TypeError(f"`f` must return one floating-point number for each row; got {describe(outputs)}")
    if outputs.shape not in ((), *shapes):
        raise ValueError(
            f"`f` must return one number for each row, {' or '.join(dict.fromkeys(map(str, shapes)))}, of inputs "
            f"{inputs}; got shape {outputs.shape}: choose one, such as the logit of a class by `[:, k]`, or say by "
            "`rows` which axes of the inputs are rows, such as `rows=(0,)` for batch-major ones"
        )
    return outputs


def _row_shapes(leaves: list[Array], rows: Sequence[int] | None, time: int) -> list[tuple[int, ...]]:
    """Of each array that has these axes, each of them once, the sizes of its rows."""
    shapes = []
    for leaf in leaves:
        axes = range(leaf.ndim)
        own = [axis for axis in axes[:-1] if axis != axes[time]] if rows is None else rows
        inside = all(-leaf.ndim <= axis < leaf.ndim for axis in own)
        if inside and len({axis % leaf.ndim for axis in own}) == len(own):
            shapes.append(tuple(leaf.shape[axis] for axis in own))
    return shapes


def like(baseline: Any, xs: Xs) -> Xs:
    """A baseline in the structure and the shapes of the inputs."""
    _check_inputs(xs)
    if jax.tree.structure(baseline) != jax.tree.structure(xs):
        if jnp.ndim(baseline) != 0:
            raise TypeError(f"`baseline` must be one number, or have the structure of `xs`; got {describe(baseline)}")
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, baseline), xs)

    def spread(own: Any, leaf: Array) -> Array:
        own = jnp.asarray(own, leaf.dtype)
        fits = (a in (1, b) for a, b in zip(own.shape[::-1], leaf.shape[::-1], strict=False))
        if own.ndim > leaf.ndim or not all(fits):
            raise ValueError(f"`baseline` must broadcast against `xs` {leaf.shape}; got {own.shape}")
        return jnp.broadcast_to(own, leaf.shape)

    return jax.tree.map(spread, baseline, xs)


def _between(baseline: Xs, xs: Xs, alpha: Array) -> Xs:
    return jax.tree.map(lambda b, x: b + alpha.astype(x.dtype) * (x - b), baseline, xs)


def _noisy(key: Key, xs: Xs, deviation: float | Array) -> Xs:
    leaves, structure = jax.tree.flatten(xs)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + jnp.asarray(deviation, leaf.dtype) * jax.random.normal(own, leaf.shape, leaf.dtype)
        for own, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def _average(one: Callable[[Any], Xs], draws: Any) -> Xs:
    """The mean of a function over draws, leaves (N, …), one after another."""
    count = jax.tree.leaves(draws)[0].shape[0]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, _first(draws)))
    total, _ = jax.lax.scan(lambda t, d: (jax.tree.map(jnp.add, t, one(d)), None), zeros, draws)
    return jax.tree.map(lambda t: t / count, total)


def _first(draws: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], draws)
