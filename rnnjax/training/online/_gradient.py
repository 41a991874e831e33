"""A gradient over a stream without back-propagation through time, and how far it points the same way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..._cell import Cell
from ..._errors import check_key, describe
from ..._types import Array, Key, Params, State, Xs, at_least_float32
from ..._unroll import check, unroll
from ..._unroll.call import Dtypes, features
from ..._unroll.jacobians import Parts, flatten, unflatten
from ..._unroll.lift import hold, valid_steps, where, zero_where_masked
from ...cells import GradientClip
from ...layers import Layer
from .._model import accepted
from ._row import Method, Row, add, zeros_like

Loss = Callable[..., Array]


class OnlineCarry(NamedTuple):
    """What goes on from one piece of a stream to the next: the cell's state, the trace of its past that the method
    keeps for each row, leaves (*B, …), and how many steps there were, which noise depends on."""

    state: State
    trace: Any
    steps: Array


class OnlineGradient(NamedTuple):
    """The sum of the losses of all steps, its gradient by the parameters, what to pass in with the next piece, and the
    gradient by the parameters of a head, if there is one."""

    loss: Array
    grads: Params
    carry: OnlineCarry
    head: Any = None


def online_gradient(method: Method, cell: Cell, loss: Loss) -> Callable[..., OnlineGradient]:
    """The gradient of a stream's loss, step by step, in memory that does not grow with the number of steps.

    Where back-propagation stores every state and runs back, this carries what the state owes to the parameters along
    with it. The gradient over a piece of a stream, with `carry` passed on, includes all of the stream's past: `RTRL`
    and `DenseRTRL` cut nothing off, the other methods leave out what they say.

    Args:
        method: `RTRL()`, `DenseRTRL()`, `SnAp1()`, `UORO()` or `EProp()`.
        cell: one cell, not a layer. It runs without noise.
        loss: a function of the outputs (*B, O) and the targets of one step, which returns their loss, shape (). Where
            there is a head, its parameters are the third argument. With `lengths` or `mask` it must take a keyword
            `mask`, booleans (*B): the rows that are False are padding, with outputs of zero, and are its to leave out.

    Returns:
        A function (params, carry, xs, targets, *, head=None, lengths=None, mask=None, reset=None, key=None) that
        returns an `OnlineGradient`.

            params: of the cell.
            carry: None at the start of a stream, then that of the piece before.
            xs: (T, *B, I), floating point, or a pytree of such.
            targets: a pytree whose leaves lead with T.
            head: parameters of what `loss` makes of the outputs before it compares them, in any tree.
            lengths, mask: integers (*B), the valid steps of each row in this piece, and booleans (T, *B). At the other
                steps the state and its past stay as they are. A step that is valid in no row counts for nothing.
            reset: booleans (T, *B). True begins a new sequence before that step, with the initial state and no past.
            key: for `UORO`, which draws signs; the same one for all pieces will do.

        It can be compiled by `jax.jit`.

    Raises:
        TypeError: if `cell` is no cell, or `method` none of these. The function that is returned raises it for a
            `carry` from another method or cell, for inputs, parameters, flags, lengths or a key of another kind, and
            for a `loss` without `mask` where steps do not count.
        ValueError: for a cell with a `GradientClip`. The function that is returned raises it where the method does not
            fit the cell or lacks a key, for shapes, lengths or a `carry` that do not fit, and for a `loss` that returns
            more than one number.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> from rnnjax.training import online
    >>> cell = rj.LRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (20, 2, 3))
    >>> def loss(y, target):
    ...     return jnp.sum((y - target) ** 2)
    >>> found = online.online_gradient(online.RTRL(), cell, loss)(params, None, xs, jnp.zeros_like(xs))
    >>> whole = jax.grad(lambda params: jnp.sum(rj.unroll(cell, params, xs)[0] ** 2))(params)
    >>> all(bool(jnp.allclose(a, b, rtol=1e-3, atol=1e-3)) for a, b in zip(found.grads, whole))
    True
    """
    _check_cell(cell)
    if not hasattr(method, "advance") or isinstance(method, type):
        raise TypeError(f"`method` must be one of `rnnjax.training.online`, such as `RTRL()`; got {method!r}")

    def run(
        params: Params,
        carry: OnlineCarry | None,
        xs: Xs,
        targets: Any,
        *,
        head: Any = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
    ) -> OnlineGradient:
        check.inputs(xs)
        steps, batch_shape = check.sizes(cell, xs)
        check.parameters(cell, params, xs)
        check.check_structure(cell, params, xs, None)
        check.check_lengths(lengths, steps, batch_shape)
        check.check_flags("mask", mask, steps, batch_shape, xs)
        check.check_flags("reset", reset, steps, batch_shape, xs)
        _check_key(method, key)
        _check_targets(targets, steps)
        dtypes = Dtypes.of(cell.compute_dtype, features(xs, 1 + len(batch_shape)), params)
        # sums and traces over a whole stream are kept as the state is
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtypes.state), params)
        row = Row.of(cell, exact, dtypes)
        method.check(row, jax.tree.leaves(xs)[0].shape[-1])
        mask = valid_steps(lengths, mask, steps)
        _check_mask(loss, mask)
        xs = zero_where_masked(mask, dtypes.inputs(xs, 1 + len(batch_shape)))
        found = _run(method, row, loss, exact, head, carry, xs, targets, mask, reset, key, steps, batch_shape)
        return found._replace(grads=_cast_like(found.grads, params), head=_cast_like(found.head, head))

    return run


def _run(
    method: Method,
    row: Row,
    loss: Loss,
    params: Params,
    head: Any,
    carry: OnlineCarry | None,
    xs: Xs,
    targets: Any,
    mask: Array | None,
    reset: Array | None,
    key: Key | None,
    steps: int,
    batch_shape: tuple[int, ...],
) -> OnlineGradient:
    parts = Parts.of(row.like, 0)

    def rows(f: Callable[..., Any], *axes: int | None) -> Callable[..., Any]:
        for _ in batch_shape:
            f = jax.vmap(f, in_axes=axes)
        return f

    def start(key: Key | None) -> Any:
        return row.start(params), method.start(row, params, key)

    if key is None:
        fresh = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)), start(None))
    else:
        first_key, key = jax.random.split(key)
        fresh = rows(start, 0)(_keys(first_key, batch_shape))
    first = fresh if carry is None else _settled(parts, carry, fresh)
    count = jnp.zeros((), jnp.int32) if carry is None else carry.steps
    advance = rows(partial(method.advance, row), None, 0, 0, 0, None if key is None else 0)
    gradient = rows(partial(method.gradient, row), None, 0, 0)

    def of_moment(params: Params, state: Array, head: Any, x: Xs, target: Any, valid: Array | None) -> Array:
        y = zero_where_masked(valid, rows(row.read, None, 0, 0)(params, state, x))
        value = _told(loss, valid)(y, target, *(() if head is None else (head,)))
        if jnp.shape(value) != ():
            raise ValueError(f"`loss` must return one number for a step; got shape {jnp.shape(value)}: sum it up")
        return value

    def body(running: Any, inputs: Any) -> tuple[Any, None]:
        state, trace, total, grads, d_head = running
        x, target, valid, reset_t, t = inputs
        before = where(reset_t, fresh, (state, trace))
        keys = None if key is None else _keys(jax.random.fold_in(key, t), batch_shape)
        state, trace = hold(valid, advance(params, before[1], before[0], x, keys), before)
        moment = jax.value_and_grad(of_moment, argnums=(0, 1, 2))(params, state, head, x, target, valid)
        # a mean over no row is 0 / 0
        counts = None if valid is None else valid.any()
        value, (direct, d_state, of_head) = zero_where_masked(counts, moment)
        owed = gradient(params, trace, d_state)
        owed = jax.tree.map(lambda leaf: leaf.sum(tuple(range(len(batch_shape)))), owed)
        total = total + value.astype(total.dtype)
        return (state, trace, total, add(grads, add(direct, owed)), add(d_head, _cast_like(of_head, d_head))), None

    sums = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, at_least_float32(jnp.result_type(leaf))), head)
    begin = (*first, jnp.zeros((), row.dtypes.state), zeros_like(params), sums)
    times = count + jnp.arange(steps, dtype=jnp.int32)
    (state, trace, total, grads, d_head), _ = lax.scan(body, begin, (xs, targets, mask, reset, times))
    carry = OnlineCarry(unflatten(parts, row.like, state), trace, count + steps)
    return OnlineGradient(total, grads, carry, d_head)


def _cast_like(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda leaf, own: leaf.astype(jnp.result_type(own)), tree, like)


def _settled(parts: Parts, carry: Any, fresh: Any) -> Any:
    """State and trace of the piece before; raises unless they are such as this piece begins with."""
    if not isinstance(carry, OnlineCarry):
        raise TypeError(f"`carry` must be the `carry` of the piece before, an OnlineCarry; got {type(carry).__name__}")
    given = flatten(parts, carry.state), carry.trace
    if jax.tree.structure(given) != jax.tree.structure(fresh):
        raise TypeError("`carry` must come from the same method and cell; its structure is another one")
    for leaf, own in zip(jax.tree.leaves(given), jax.tree.leaves(fresh), strict=True):
        if (leaf.shape, leaf.dtype) != (own.shape, own.dtype):
            raise ValueError(
                f"`carry` must come from the same method, cell, batch and dtypes: a leaf must be {describe(own)}; got "
                f"{describe(leaf)}"
            )
    return given


def _keys(key: Key, batch_shape: tuple[int, ...]) -> Key:
    return jax.random.split(key, batch_shape) if batch_shape else key


def _check_cell(cell: Any) -> None:
    if isinstance(cell, Layer):
        raise TypeError(
            f"`cell` must be one cell, because an online gradient is of one; got {cell!r}, a layer: take the cell in "
            "it, and what follows the cell into `loss` with its parameters as `head`; layers that recur one above "
            "another are learned by back-propagation, `rnnjax.training.tbptt` over a stream"
        )
    if not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a cell; got {cell!r}")
    parts = jax.tree.leaves(cell, is_leaf=lambda part: isinstance(part, GradientClip))
    if any(isinstance(part, GradientClip) for part in parts):
        raise ValueError(
            "`cell` must be without `GradientClip`, which clips what flows back through time, where these methods let "
            f"nothing flow; got {cell!r}: take the cell inside it, and clip `grads` instead"
        )


def _check_key(method: Method, key: Any) -> None:
    if key is not None:
        check_key("key", key)
    elif method.random:
        raise ValueError(f"{type(method).__name__} draws random signs: pass `key`, such as `jax.random.key(0)`")


def _check_mask(loss: Loss, mask: Array | None) -> None:
    if mask is not None and not accepted(loss).takes("mask"):
        raise TypeError(
            "`loss` must take a keyword `mask`, booleans (*B), because by `lengths` or `mask` some rows do not count "
            "at some steps: let it leave out those that are False"
        )


def _told(loss: Loss, valid: Array | None) -> Loss:
    """The loss of a step, told which rows (*B) are valid."""
    return loss if valid is None else partial(loss, mask=valid)


def _check_targets(targets: Any, steps: int) -> None:
    for leaf in jax.tree.leaves(targets):
        if jnp.ndim(leaf) == 0 or leaf.shape[0] != steps:
            raise ValueError(f"the leaves of `targets` must lead with T = {steps}, as `xs` does; got {jnp.shape(leaf)}")


def gradient_cosine(
    method: Method,
    cell: Cell,
    loss: Loss,
    params: Params,
    xs: Xs,
    targets: Any,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    key: Key | None = None,
) -> Array:
    """The cosine of the angle between a method's gradient and that of back-propagation through all time, shape ().

    Memory is that of back-propagation, so that it is a tool for samples of a stream.

    Args:
        method, cell, loss: as for `online_gradient`, without a head.
        params, xs, targets, lengths, mask, reset, key: as for the function that `online_gradient` returns, from the
            start of a stream.

    Returns:
        −1 … 1 but for rounding: 1 is the same direction, 0 where one of them is zero.

    Raises:
        ValueError, TypeError: as for `online_gradient` and the function that it returns.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> from rnnjax.training import online
    >>> cell = rj.GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (20, 2, 3))
    >>> ys = jnp.zeros((20, 2, 4))
    >>> def loss(y, target):
    ...     return jnp.sum((y - target) ** 2)
    >>> bool(online.gradient_cosine(online.SnAp1(), cell, loss, params, xs, ys) > 0.9)
    True
    """
    flags = {"lengths": lengths, "mask": mask, "reset": reset}
    found = online_gradient(method, cell, loss)(params, None, xs, targets, **flags, key=key).grads
    ys, pull = jax.vjp(lambda params: unroll(cell, params, xs, **flags)[0], params)
    valid = valid_steps(lengths, mask, len(ys))
    d_ys = jax.vmap(lambda y, target, valid: jax.grad(_told(loss, valid))(y, target))(ys, targets, valid)
    (want,) = pull(zero_where_masked(valid, d_ys))
    size = jnp.sqrt(_dot(found, found)) * jnp.sqrt(_dot(want, want))
    return jnp.where(size > 0, _dot(found, want) / jnp.where(size > 0, size, 1), 0)


def _dot(a: Any, b: Any) -> Array:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    products = [jnp.vdot(x, y, precision="highest") for x, y in pairs]
    return sum(products[1:], products[0])
