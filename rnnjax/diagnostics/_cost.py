"""What a network costs on this machine, and how far back its outputs look."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Params
from ..layers import RNN, Stack
from ..training._batches import Batch, rows_of
from ..training._measure import Measure, is_loss
from ..training._model import adapt
from ._attribution import at_embedding
from ._contenders import Task
from ._flops import flops
from ._gradient_flow import REMEMBERED, kept_share
from ._probe import in_size, opened

ROUNDS, LEAST_SECONDS, DIRECTIONS = 5, 0.02, 16


class Cost(NamedTuple):
    """flops of a forward step of one row; memory in bytes, None where the compiler does not say; programs of the
    forward pass and the gradient of one batch, without arguments."""

    flops: float
    memory: int | None
    forward: Callable[[], Any]
    gradient: Callable[[], Any]


def cost(layer: Stack, params: Params, batch: Batch, loss: Measure) -> Cost:
    """Compiles the forward pass and the gradient of one batch."""
    model = adapt((params, layer), batch.inputs, jax.random.key(0))
    params, batch = jax.device_put((params, batch))

    def total(params: Params, batch: Batch) -> Array:
        outputs, _ = model.apply(params, (), batch, jax.random.key(0), True)
        return is_loss(loss(outputs, batch)).value

    def outputs(params: Params, batch: Batch) -> Any:
        return model.apply(params, (), batch, None, False)[0]

    forward = jax.jit(outputs).lower(params, batch).compile()
    gradient = jax.jit(jax.grad(total)).lower(params, batch).compile()
    analysis = gradient.memory_analysis()
    steps, one = batch.inputs.shape[1], batch.inputs[0]
    counted = by_steps(layer, in_size(layer, one))
    return Cost(
        flops=flops(lambda x: counted(params, x)[0], one) / steps,
        memory=None if analysis is None else analysis.temp_size_in_bytes,
        forward=lambda: forward(params, batch),
        gradient=lambda: gradient(params, batch),
    )


def by_steps(layer: Any, size: Any) -> Any:
    """The same layer for inputs of `size` features, whose operations can be counted: its recurrences run in JAX alone,
    one step after another."""

    def plain(part: Any) -> Any:
        return dataclasses.replace(part, implementation="scan") if isinstance(part, RNN) else part

    return jax.tree.map(plain, opened(layer, size), is_leaf=lambda part: isinstance(part, RNN))


def seconds(programs: Sequence[Callable[[], Any]]) -> list[float]:
    """The least time of a call of each, because whatever else the machine does makes it longer. They take turns."""
    calls = []
    for program in programs:
        jax.block_until_ready(program())
        calls.append(max(1, round(LEAST_SECONDS / max(_seconds(program, 1), 1e-6))))
    rounds = [[_seconds(program, n) for program, n in zip(programs, calls, strict=True)] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _seconds(program: Callable[[], Any], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(program())
    return (time.perf_counter() - began) / calls


def reach(layer: Stack, members: Params, batch: Batch, task: Task) -> np.ndarray:
    """How strongly the last output depends on the input k steps back, relative to the most it does, (T).

    ‖∂y_last/∂x_{last−k}‖, the mean over rows and over the members, leaves (M, …). Of more outputs than a few, the norm
    is estimated in random directions.
    """
    xs, lengths = jnp.swapaxes(batch.inputs, 0, 1), batch.lengths
    size = min(task.outputs, DIRECTIONS)
    directions = jnp.eye(size)
    if size < task.outputs:
        directions = jax.random.normal(jax.random.key(0), (size, task.outputs)) / size**0.5

    def one(params: Params) -> Array:
        if task.vocabulary is None:
            vectors, rest = xs, lambda x, lengths: layer(params, x, lengths=lengths)[0]
        else:
            vectors, rest = at_embedding(layer, params, xs)

        def last(vectors: Array) -> Array:
            ys = rest(vectors, lengths=lengths)
            if not task.each_step:
                return ys
            return ys[-1] if lengths is None else ys[jnp.maximum(lengths, 1) - 1, jnp.arange(rows_of(batch))]

        ys, pull = jax.vjp(last, vectors)

        def squares(direction: Array) -> Array:
            (gradient,) = pull(jnp.broadcast_to(direction[None].astype(ys.dtype), ys.shape))
            return (gradient**2).sum(-1)

        return kept_share(jnp.sqrt(jax.lax.map(squares, directions).sum(0)))

    curve = np.asarray(jax.jit(lambda members: jax.lax.map(one, members).mean(0))(members))
    top = curve.max()
    return curve / top if top > 0 else curve


def farthest(curve: np.ndarray) -> int | None:
    """The most steps back at which at least a hundredth of the strongest influence is left; None of NaN."""
    if not np.isfinite(curve).all():
        return None
    return int(np.flatnonzero(curve >= REMEMBERED).max(initial=0))
