"""How much of a loss's gradient reaches each state of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._types import Array, Key, Params, State, Xs
from .._unroll.lift import valid_steps
from ..layers import Layer
from ..layers.rnn import as_layer
from ._probe import in_size, leading, opened, probed, sites, zero_perturbations

VANISHED, EXPLODED, REMEMBERED = 1e-3, 1e3, 1e-2
"""The share of the gradient below which it has vanished, above which it has exploded, and that a memory must keep."""


class GradientFlow(NamedTuple):
    """The gradient of a loss by the states of each recurrent layer; the names are the layers' places in the model.

    loss: the loss.
    norms: ‖∂loss/∂s_t‖ over all arrays of the state, (T, *B).
    gradients: ∂loss/∂s_t, states with leaves (T, *B, …).
    reverse: whether the layer runs from the last step to the first.
    mask: which steps are valid, (T, *B), or None where all are.
    """

    loss: Array
    norms: dict[str, Array]
    gradients: dict[str, State]
    reverse: dict[str, Array]
    mask: Array | None = None


def gradient_flow(
    model: Layer | Cell,
    params: Params,
    xs: Xs,
    loss: Callable[[Any], Array],
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    key: Key | None = None,
    context: Any = None,
) -> GradientFlow:
    """The gradient of a loss by every state of every recurrent layer, in one backward pass.

    s_t = step(s_{t-1}, x_t) + ε_t,    ∂loss/∂s_t = ∂loss/∂ε_t at ε = 0

    It is the whole derivative, through all later steps and layers. At masked steps it is zero. To see how far back a
    model can learn from, let the loss read the last output alone: every step that the loss reads adds a gradient of its
    own. It is pure: `jax.jit` and `jax.vmap` apply.

    Args:
        model: a cell or a layer; every `rnnjax.RNN` in it is measured.
        params: its parameters.
        xs: inputs (T, *B, I).
        loss: a function of the model's outputs that returns a scalar.
        lengths, mask, reset, key, context: as for `rnnjax.unroll`.

    Returns:
        a `GradientFlow`. In a stack layers are named "0", "1.forward" or the like; one that is alone is "rnn".

    Raises:
        TypeError: if `model` is neither a cell nor a layer.
        ValueError: if it has no recurrent layer, or the loss is no scalar.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> model = rj.Stack([rj.Elman(4), rj.Elman(3)])
    >>> params = model.init(jax.random.key(0), in_size=2)
    >>> flow = rj.diagnostics.gradient_flow(model, params, jnp.ones((6, 5, 2)), lambda ys: jnp.sum(ys[-1] ** 2))
    >>> {name: norms.shape for name, norms in flow.norms.items()}
    {'0': (6, 5), '1': (6, 5)}
    """
    layer = as_layer("model", model)
    size, lead = in_size(layer, xs), leading(layer, xs)
    whole = opened(layer, size)
    found = sites(whole, size)
    if not found:
        raise ValueError(f"`model` must have at least one recurrent layer, `rnnjax.RNN`; got {layer!r}")

    def total(epsilons: dict[str, State]) -> Array:
        ys, _ = probed(whole, epsilons)(params, xs, lengths=lengths, mask=mask, reset=reset, key=key, context=context)
        value = loss(ys)
        if jnp.shape(value) != ():
            raise ValueError(f"`loss` must return a scalar; got an array of shape {jnp.shape(value)}")
        return value

    value, gradients = jax.value_and_grad(total)(zero_perturbations(found, params, lead, context))
    norms = {name: _norms(gradient, len(lead)) for name, gradient in gradients.items()}
    reverse = {name: jnp.asarray(site.reverse) for name, site in found.items()}
    valid = valid_steps(lengths, mask, lead[0])
    return GradientFlow(value, norms, gradients, reverse, valid)


def _norms(gradient: State, lead: int) -> Array:
    """(T, *B), so many axes, scaled by the largest number so that squares of tiny gradients do not become zero."""
    leaves = [leaf.reshape(*leaf.shape[:lead], math.prod(leaf.shape[lead:])) for leaf in jax.tree.leaves(gradient)]
    every = jnp.concatenate(leaves, axis=-1)
    top = jnp.abs(every).max(-1)
    scale = jnp.where(top > 0, top, 1)
    return scale * jnp.sqrt(((every / scale[..., None]) ** 2).sum(-1))


def kept_share(norms: Array, reverse: bool | Array = False, mask: Array | None = None) -> Array:
    """The share of the gradient that is left k valid steps back, k = 0 … T − 1, on average over the rows.

    share_k = mean_b ‖∂loss/∂s_{last−k}‖ / mean_b ‖∂loss/∂s_last‖

    Args:
        norms: (T, *B), from `gradient_flow`. In each row, `last` is the last step with a gradient; rows without any are
            not counted.
        reverse: whether the layer runs from the last step to the first, so that `last` is the first with a gradient.
        mask: which steps are valid, (T, *B); None takes all. The others are not counted.

    Returns:
        (T), 1 at k = 0; zeros where no step has a gradient. A k that only some rows reach is averaged over those, and
        one that none reaches is 0; `steps_back` says how many are reached.

    Raises:
        ValueError: if `norms` is a scalar, or `mask` has another shape.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> rj.diagnostics.kept_share(jnp.array([0.25, 0.5, 1.0, 0.0])).tolist()
    [1.0, 0.5, 0.25, 0.0]
    """
    rows, valid, first = _backwards(norms, reverse, mask)
    steps = rows.shape[0]
    index = jnp.arange(steps)[:, None] + first[None]
    inside = index < valid[None]
    back = jnp.where(inside, jnp.take_along_axis(rows, jnp.minimum(index, steps - 1), axis=0), 0)
    count = inside.sum(1)
    mean = back.sum(1) / jnp.where(count > 0, count, 1).astype(back.dtype)
    return jnp.where(mean[:1] != 0, mean / jnp.where(mean[:1] != 0, mean[:1], 1), 0)


def steps_back(norms: Array, reverse: bool | Array = False, mask: Array | None = None) -> Array:
    """The largest k of `kept_share` that some row reaches: valid steps before the last one with a gradient, ().

    Args:
        norms, reverse, mask: as for `kept_share`.

    Returns:
        0 … T − 1, and −1 where no valid step has a gradient.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> int(rj.diagnostics.steps_back(jnp.array([0.25, 0.5, 1.0, 0.0])))
    2
    """
    _, valid, first = _backwards(norms, reverse, mask)
    return jnp.max(valid - first, initial=0) - 1


def _backwards(norms: Array, reverse: bool | Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """Norms (T, N) in the order in which the gradient passes, masked steps at the end; how many are valid, 0 in a row
    without any gradient, and how many have no gradient before the first that has, both (N)."""
    if jnp.ndim(norms) == 0:
        raise ValueError("`norms` must be (T, *B); got a scalar")
    if mask is not None and mask.shape != norms.shape:
        raise ValueError(f"`mask` must have the shape of `norms`, {norms.shape}; got {mask.shape}")
    steps = norms.shape[0]

    def backwards(array: Array) -> Array:
        rows = array.reshape(steps, math.prod(array.shape[1:]))
        return jnp.where(reverse, rows, jnp.flip(rows, 0))

    rows = backwards(norms)
    count = jnp.full(rows.shape[1:], steps)
    if mask is not None:
        valid = backwards(mask)
        rows = jnp.take_along_axis(jnp.where(valid, rows, 0), jnp.argsort(~valid, axis=0, stable=True), axis=0)
        count = valid.sum(0)
    first = jnp.argmax(rows != 0, axis=0) if steps else jnp.zeros_like(count)
    return rows, jnp.where((rows != 0).any(0), count, 0), first


def horizon(share: Array, kept: float = REMEMBERED) -> Array:
    """How many steps back at least this share of the gradient is left all the way: 0 … T − 1, and −1 where there is no
    gradient or it is NaN.

    Args:
        share: (T), from `kept_share`.
        kept: the share that still counts.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> int(rj.diagnostics.horizon(jnp.array([1.0, 0.1, 0.02, 0.004, 0.5])))
    2
    """
    return jnp.cumprod(share >= kept).sum() - 1


def verdict(flow: GradientFlow) -> str:
    """What the gradient does on its way back, one line a layer, and what to try. Needs concrete arrays.

    It has vanished where less than 1e-3 of it is left at the first step, and exploded where it has grown more than a
    thousandfold; it is cut where nothing at all is left a step behind more than 1e-3. The gradient horizon is the steps
    back over which at least one hundredth is left.

    >>> import jax.numpy as jnp, rnnjax as rj
    >>> norms = {"rnn": 0.5 ** jnp.arange(50.0)[::-1]}
    >>> said = rj.diagnostics.verdict(rj.diagnostics.GradientFlow(0.0, norms, {}, {"rnn": False}))
    >>> print(said.split(". ")[0])
    rnn: vanishes: 2e-15 of the gradient is left 49 steps back; gradient horizon about 6 steps
    """
    return "\n".join(f"{name}: {_line(norms, flow.reverse[name], flow.mask)}" for name, norms in flow.norms.items())


def _line(norms: Array, reverse: Any, mask: Array | None) -> str:
    if not np.all(np.isfinite(np.asarray(norms))):
        return (
            "is not finite: some gradient is inf or NaN. Look for such numbers in inputs, parameters and loss; where "
            "they are sound, clip the gradient inside the recurrence with `rnnjax.GradientClip`"
        )
    share = np.asarray(kept_share(norms, reverse, mask))[: int(steps_back(norms, reverse, mask)) + 1]
    if share.size == 0 or share[0] == 0:
        return "has no gradient: the loss does not depend on this layer's states"
    if share.max() > EXPLODED:
        worst = int(share.argmax())
        return (
            f"explodes: {share[worst]:.0e} times the gradient {worst} steps back. Try clipping "
            "(`rnnjax.training.optimizer(clip_norm=1.0)`, `rnnjax.GradientClip`), orthogonal recurrent weights, or a "
            "lower learning rate"
        )
    cut = np.flatnonzero((share[1:] == 0) & (share[:-1] > VANISHED))
    if cut.size:
        steps = "one step" if cut[0] == 0 else f"{cut[0] + 1} steps"
        return (
            f"is cut: no gradient at all is left {steps} back. Either a `reset` stands there, or the derivative of the "
            "step is zero, as that of the activation `jnp.sign`; `jax.custom_jvp` gives it another"
        )
    back, reached = share.size - 1, int(horizon(jnp.asarray(share)))
    reach = f"gradient horizon {'about' if reached < back else 'at least'} {reached} steps"
    if share[-1] < VANISHED:
        return (
            f"vanishes: {share[-1]:.0e} of the gradient is left {back} steps back; {reach}. Try "
            "`rnnjax.LSTM(…, forget_bias=3)` or `rnnjax.GRU(…, update_bias=3)`, an LSTM with `max_time`, the identity "
            'as recurrent weights (`rnnjax.Elman(…, activation="relu", recurrent_init="identity")`), or shorter paths, '
            "with pooling or `rnnjax.Residual`"
        )
    return f"flows: {share[-1]:.2g} of the gradient is left {back} steps back; {reach}"
