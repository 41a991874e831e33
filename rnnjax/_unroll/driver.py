"""`unroll`: a cell over time. Everything about time that is the same for every cell and implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._types import Array, Key, Params, State, Xs, split_key
from .._wrapper import reads_out
from . import check, cpu, jacobians, table
from .call import Call, Dtypes, Flow, Remat, accumulators, features, split_noise
from .lift import along, valid_steps, zero_where_masked
from .newton import Newton, NewtonReport
from .place import Placement, whole


def unroll(
    cell: Cell,
    params: Params,
    xs: Xs,
    state: State | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
    context: Any = None,
    remat: Remat = None,
    implementation: str | Newton | None = None,
) -> tuple[Array, State]:
    """Runs a cell over a sequence and returns outputs and last state.

    Streaming is the same call on the next piece of `xs` with the returned state passed in.

    Args:
        cell: a cell, such as `rnnjax.LSTM(128)`.
        params: its parameters, from `cell.init(key, in_size)`.
        xs: inputs (T, *B, I), floating point, or a pytree whose leaves lead with (T, *B). T and B may be 0, and there
            may be any number of batch axes. The parameters' `in_size` is the last axis of the leaf with the most axes;
            of several such it may be that of any, or their sum.
        state: the state before the first step; None is `cell.initial_state`. Its dtype is cast to the state's.
        lengths: valid steps of each row, integers (*B) in 0…T. Concrete lengths outside raise; traced ones act as if
            cut to 0…T.
        mask: True where a step is valid, booleans (T, *B). A step that is not valid keeps the state, outputs zero and
            its input is never read. With `lengths` as well, both must hold.
        reset: True at a boundary between t − 1 and t, booleans (T, *B), in either direction and on masked steps too.
            Behind it the state is `cell.initial_state`, not the `state` that was passed. With `reverse`, `reset[0]` has
            no effect: its boundary lies before the sequence.
        reverse: run from the last step to the first. Outputs stay in the order of the inputs, and with `lengths` each
            row reverses its own valid part.
        key: for cells that draw noise; None is evaluation, without any.
        context: handed to `cell.prepare`, such as an attention memory.
        remat: what the backward pass stores. None stores what makes it fastest, mostly every gate; "state" only
            outputs and a few states; an integer the state every so many steps; "sqrt" every √T steps. Where T is
            a symbol, each is None.
        implementation: None takes the first that can run the call and is expected to be fast, which benchmarks on a
            CPU have shown; a name, or a `rnnjax.Newton`, runs that one or raises with the reason. `explain` prints the
            choice.

    Returns:
        ys (T, *B, O) in the compute dtype, zero at masked steps, and the state after the last step, in at least
        float32.

    Raises:
        ValueError: for shapes that do not fit, lengths out of range, an unknown `implementation` or `remat`.
        TypeError: for integer inputs, a mask that is not boolean, something that is not a cell or a key; and for
            forward mode (`jvp`, `jacfwd`, `hessian`) of a fast implementation, where JAX says "can't apply forward-mode
            autodiff (jvp) to a custom_vjp function": `implementation="scan"` has both modes, unless the cell itself
            has but one, as a `rnnjax.GradientClip`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    >>> ys, state = rj.unroll(cell, params, xs, lengths=jnp.array([6, 2]))
    >>> bool((ys[2:, 1] == 0).all()), bool((ys[1, 1] == state.h[1]).all())
    (True, True)
    """
    check.arguments(cell, params, xs, state, lengths, mask, reset, key, context, remat, implementation, reverse)
    arrays = cell, params, xs, state, lengths, mask, reset, key, context
    run = partial(_execute, reverse=bool(reverse), remat=remat)
    with _one_mode(implementation, cell, lambda: jax.make_jaxpr(partial(run, implementation="scan"))(*arrays)):
        return run(*arrays, implementation=implementation)


@contextmanager
def _one_mode(
    implementation: Any, cell: Cell | None = None, by_scan: Callable[[], Any] | None = None
) -> Iterator[None]:
    """Says what to do about forward mode where JAX says that there is none. `by_scan` is the call's program with
    `scan`, which has forward mode unless the cell itself has none; None where it is known to have."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error) or implementation == "scan":
            raise
        if by_scan is not None and jacobians.calls("custom_vjp_call", by_scan()):
            raise TypeError(
                f'{cell!r} itself has a hand-formed reverse mode and, also with `implementation="scan"`, no forward '
                "mode (`jvp`, `jacfwd`); take `vjp` or `jacrev`"
            ) from error
        raise TypeError(
            "the fast implementations have a hand-formed reverse mode and no forward mode (`jvp`, `jacfwd`); pass "
            '`implementation="scan"`, which has both'
        ) from error


def climb(
    cells: Sequence[Cell], params: Sequence[Params], x: Array, states: Sequence[State | None]
) -> tuple[Array, list[State]] | None:
    """A single step x (1, *B, I) of the first of these cells, each on top of the one before, in one native call: the
    outputs of the last of them, and their states, as many as there are. None where it is not more than one."""
    arrays = tuple(cells), tuple(params), x, tuple(states)
    counts = []
    jax.eval_shape(lambda *arrays: counts.append(len(_climbing(*arrays))), *arrays)
    count = counts[0]
    if count < 2:
        return None
    with _one_mode(None):
        return _climb(arrays[0][:count], arrays[1][:count], x, arrays[3][:count])


@partial(jax.jit, inline=True)
def _climb(*arrays: Any) -> tuple[Array, list[State]]:
    return cpu.climb(_climbing(*arrays))


def _climbing(cells: Sequence[Cell], params: Sequence[Params], x: Array, states: Sequence[State | None]) -> list[Call]:
    """The calls of the first cells that can be one native call. But for the first, inputs are stand-ins."""
    calls = []
    for cell, own, state in zip(cells, params, states, strict=True):
        check.arguments(cell, own, x, state)
        call = _call(cell, own, x, state)
        alike = call.dtypes.compute == call.dtypes.state and (not calls or call.dtypes == calls[0].dtypes)
        if not (alike and table.choose(call, None) is cpu and cpu.as_they_lie(call)) or reads_out(cell):
            break
        calls.append(call)
        x = jnp.zeros_like(x, shape=(*x.shape[:-1], cell.out_size(x.shape[-1])), dtype=call.dtypes.compute)
    return calls


def explain(
    cell: Cell,
    params: Params,
    xs: Xs,
    state: State | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
    context: Any = None,
    remat: Remat = None,
    implementation: str | Newton | None = None,
) -> str:
    """Says which implementation `unroll` chooses, which it does not, and why. Nothing is run.

    Args:
        cell, params, xs, state, lengths, mask, reset, reverse, key, context, remat, implementation: as for `unroll`.

    Returns:
        one line for each implementation, in the order in which they are tried.

    Raises:
        ValueError, TypeError: as `unroll`, also where the named `implementation` cannot run the call.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.MGU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> print(rj.explain(cell, params, jnp.ones((6, 2, 3))))
      cpu          cannot run it: MGU with these options names no kernel
    → fused        chosen, the first that can and would
      chunked      cannot run it: MGU is not an associative cell: its steps do not compose
      associative  cannot run it: MGU is not an associative cell: its steps do not compose
      scan         can run it; 'fused' was taken before it
      newton       can run it, but only by name: no benchmark has shown its iterations to be faster than a loop
    """
    check.arguments(cell, params, xs, state, lengths, mask, reset, key, context, remat, implementation, reverse)
    lines = []

    def describe(*arrays: Any) -> None:
        call = _call(*arrays, reverse=bool(reverse), remat=remat)
        lines.append(table.explanation(call, implementation))

    jax.eval_shape(describe, cell, params, xs, state, lengths, mask, reset, key, context)
    return lines[0]


def newton_report(
    cell: Cell,
    params: Params,
    xs: Xs,
    state: State | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
    context: Any = None,
    remat: Remat = None,
    implementation: Newton | None = None,
) -> NewtonReport:
    """Runs Newton's iterations for the same arguments as `unroll`, and says what they came to.

    Args:
        implementation: a `rnnjax.Newton`; None is one with its defaults. The other arguments are those of `unroll`.

    Returns:
        `NewtonReport(converged, iterations, residual, correction)`, arrays of shape (), also within `jax.jit`.

    Raises:
        ValueError, TypeError: as `unroll`, and ValueError where Newton's method cannot run the call.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> xs = jax.random.normal(jax.random.key(1), (1000, 2, 3))
    >>> report = rj.newton_report(cell, params, xs)
    >>> bool(report.converged), int(report.iterations) < 15
    (True, True)
    """
    newton = Newton() if implementation is None else implementation
    if not isinstance(newton, Newton):
        raise TypeError(f"`implementation` must be a `rnnjax.Newton` or None; got {newton!r}")
    check.arguments(cell, params, xs, state, lengths, mask, reset, key, context, remat, newton, reverse)
    arrays = cell, params, xs, state, lengths, mask, reset, key, context
    return _report(*arrays, reverse=bool(reverse), remat=remat, newton=newton)


@partial(jax.jit, static_argnames=("reverse", "remat", "newton"), inline=True)
def _report(*arrays: Any, reverse: bool, remat: Remat, newton: Newton) -> NewtonReport:
    call = _call(*arrays, reverse=reverse, remat=remat)
    table.choose(call, newton)
    return newton.solve(call)[2]


@partial(jax.jit, static_argnames=("reverse", "remat", "implementation"), inline=True)
def _execute(*arrays: Any, reverse: bool, remat: Remat, implementation: str | Newton | None) -> tuple[Array, State]:
    call = _call(*arrays, reverse=reverse, remat=remat)
    chosen = table.choose(call, implementation)
    ys, state = chosen.run(call)
    if not chosen.reads_out:
        ys = call.cell.readout(call.dtypes.cast(call.params), ys, call.flow.xs)
        ys = jax.tree.map(lambda y: y.astype(call.dtypes.compute), ys)
    return zero_where_masked(call.flow.mask, ys), state


def _call(
    cell: Cell,
    params: Params,
    xs: Xs,
    state: State | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    key: Key | None = None,
    context: Any = None,
    *,
    reverse: bool = False,
    remat: Remat = None,
) -> Call:
    # within `jax.disable_jit` they are still what they were passed as
    cell, params, xs, state, lengths, mask, reset, key, context = jax.tree.map(
        jnp.asarray, (cell, params, xs, state, lengths, mask, reset, key, context)
    )
    steps, batch_shape = check.sizes(cell, xs)
    dtypes = Dtypes.of(cell.compute_dtype, features(xs, 1 + len(batch_shape)), params)
    others = params, cell, state, lengths, mask, reset, key, context
    place = Placement.of(jax.tree.leaves(xs)[0], 1 + len(batch_shape), xs, *others)
    cell, params, xs = accumulators(place.vary(cell)), place.vary(whole(params)), place.vary(xs)
    mask, reset = place.along_time(valid_steps(lengths, mask, steps)), place.along_time(reset)
    xs = zero_where_masked(mask, dtypes.inputs(xs, 1 + len(batch_shape)))

    prepare_key, noise_key = split_key(key)
    params = accumulators(cell.prepare(params, key=prepare_key, context=context))
    noise = None if noise_key is None else cell.noise(noise_key, steps, batch_shape, dtypes.state)
    flow_noise, constant_noise = split_noise(place.along_time(jax.lax.stop_gradient(noise)), steps)

    # not in the compute dtype, to which a learned state that is a matrix would be cast
    start = cell.initial_state(params, batch_shape, dtypes.state)
    start = place.state(jax.tree.map(lambda leaf: leaf.astype(dtypes.state), start))
    if state is not None:
        state = place.state(jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), state, start))
    return Call(
        cell=cell,
        params=params,
        flow=Flow(xs, flow_noise, mask, along(reset, reverse)),
        state=start if state is None else state,
        boundary=None if reset is None else start,
        constant_noise=constant_noise,
        steps=steps,
        batch_shape=batch_shape,
        dtypes=dtypes,
        reverse=reverse,
        remat=remat,
    )
