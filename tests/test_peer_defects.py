"""What other recurrent-network libraries were seen to get wrong, or cannot do, and must hold here.

The first line of each docstring says what the other library does; versions are those of autumn 2026.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import GATED, NATIVE
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax as rj
from rnnjax import cells
from rnnjax.layers import BidirectionalParams

T, B, I, H = 6, 3, 2, 4  # noqa: E741
BASIC = {"elman": rj.Elman(H), "lstm": rj.LSTM(H), "gru": rj.GRU(H)}
LENGTHS = np.array([4, 0, 6])

each_cell = pytest.mark.parametrize("cell", BASIC.values(), ids=BASIC)
each_implementation = pytest.mark.parametrize("implementation", NATIVE)
# the loop of the native kernels is in no program of JAX's
each_loop = pytest.mark.parametrize("implementation", GATED)


def normal(seed: int, *shape: int, dtype: Any = np.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def random_params(cell: rj.Cell, seed: int = 0) -> Any:
    """Parameters without a zero among them, so that no bias or gate can go missing unseen."""
    params = cell.init(jax.random.key(seed), I, jnp.float64)
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [leaf + 0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def random_state(cell: rj.Cell, params: Any, *batch: int) -> Any:
    return jax.tree.map(lambda leaf: normal(9, *leaf.shape), cell.initial_state(params, batch, jnp.float64))


def assert_trees_close(got: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, wanted)


def assert_finite(tree: Any) -> None:
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, also those of inner jaxprs."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from equations(value)


def is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def loop_bodies(jaxpr: Any) -> list[list[Any]]:
    """The equations of each innermost loop."""
    bodies = [list(equations(e.params["jaxpr"])) for e in equations(jaxpr) if e.primitive.name == "scan"]
    return [body for body in bodies if all(e.primitive.name != "scan" for e in body)]


def count(body: list[Any], primitive: str) -> int:
    return sum(equation.primitive.name == primitive for equation in body)


def products_in_compiled_loops(run: Callable[..., Any], *args: Any) -> list[int]:
    """Products in the body of each loop of the compiled program, with those of the computations that it calls."""
    text = jax.jit(run).lower(*args).compile().as_text()
    blocks = {match[1]: match[0] for match in re.finditer(r"^(?:ENTRY )?%(\S+) .*?^\}", text, re.MULTILINE | re.DOTALL)}

    def products(name: str) -> int:
        called = re.findall(r"(?:calls|to_apply)=%([\w.-]+)", blocks[name])
        return blocks[name].count(" dot(") + sum(map(products, called))

    return [products(name) for name in re.findall(r"body=%([\w.-]+)", text)]


@each_cell
@each_implementation
def test_bfloat16_compute(cell: rj.Cell, implementation: str) -> None:
    """Flax's SimpleCell(dtype=bfloat16) raises TypeError, its LSTM and GRU return float32 outputs."""
    cell = type(cell)(H, compute_dtype=jnp.bfloat16)
    params = cell.init(jax.random.key(0), I)
    ys, state = rj.unroll(cell, params, normal(0, T, B, I, dtype=np.float32), implementation=implementation)
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_bfloat16_reaches_every_layer() -> None:
    """Flax's recurrent layers hand float32 to the next layer, which then runs in float32."""
    cells = [cell(H, compute_dtype=jnp.bfloat16) for cell in (rj.Elman, rj.LSTM, rj.GRU)]
    layer = rj.Stack([rj.RNN(cell, implementation="fused") for cell in cells])
    params = layer.init(jax.random.key(0), I)
    jaxpr = jax.make_jaxpr(lambda p, x: layer(p, x)[0])(params, normal(0, T, B, I, dtype=np.float32))
    dots = [equation for equation in equations(jaxpr) if equation.primitive.name == "dot_general"]
    assert len(dots) >= 6
    assert {var.aval.dtype for equation in dots for var in equation.invars} == {jnp.dtype("bfloat16")}
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["LSTM", "GRU", "Elman", "MGU", "PeepholeLSTM", "CoupledLSTM", "ResetBeforeGRU"])
def test_bfloat16_parameters(name: str) -> None:
    """Flax's orthogonal initialiser raises NotImplementedError for param_dtype=bfloat16."""
    params = getattr(rj, name)(H).init(jax.random.key(0), I, jnp.bfloat16)
    assert {leaf.dtype for leaf in params} == {jnp.dtype("bfloat16")}
    blocks = np.asarray(params.u, np.float32).reshape(H, -1, H)
    for gate in range(blocks.shape[1]):
        np.testing.assert_allclose(blocks[:, gate] @ blocks[:, gate].T, np.eye(H), atol=0.03)


@each_implementation
def test_cell_state_counts_past_bfloat16(implementation: str) -> None:
    """A state accumulated in bfloat16 stops at 256: the sum of 4096 ones in a bfloat16 scan is 256."""
    steps = 600
    zeros, open_gates = jnp.zeros((1, 4), jnp.float32), jnp.array([40, 40, 40, 0], jnp.float32)
    params = cells.LSTMParams(w=zeros, u=zeros, b=open_gates)
    cell = rj.LSTM(1, compute_dtype=jnp.bfloat16)
    _, state = rj.unroll(cell, params, jnp.zeros((steps, 1), jnp.float32), implementation=implementation)
    np.testing.assert_allclose(state.c, steps, rtol=1e-5)


@each_implementation
def test_gradients_add_up_in_float32(implementation: str) -> None:
    """Weight gradients that accumulate over time in bfloat16 lose all but the first few hundred steps."""
    cell, steps = BASIC["gru"], 600
    xs = 0.5 + 0.5 * normal(0, steps, 2, I, dtype=np.float32)

    def gradient(dtype: Any) -> Any:
        low = type(cell)(H, compute_dtype=dtype)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_params(cell))
        loss = lambda p: rj.unroll(low, p, xs, implementation=implementation)[0].astype(jnp.float32).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    low, exact = gradient(jnp.bfloat16), gradient(jnp.float32)
    for a, b in zip(low, exact, strict=True):
        assert a.dtype == jnp.float32
        assert np.abs(np.asarray(a - b)).max() / np.abs(np.asarray(b)).max() < 0.05


def test_gru_has_a_recurrent_bias_of_the_candidate() -> None:
    """Flax's nnx.GRUCell has no b_hn, so that weights of PyTorch and cuDNN do not fit."""
    cell, xs = BASIC["gru"], normal(0, T, B, I)
    gradient = jax.jit(jax.grad(lambda p: (rj.unroll(cell, p, xs)[0] ** 2).sum()))(random_params(cell))
    assert gradient.b_n.shape == (H,)
    assert float(jnp.abs(gradient.b_n - gradient.b[2 * H :]).min()) > 1e-4


@pytest.mark.parametrize(
    "name", ["LSTM", "GRU", "MGU", "PeepholeLSTM", "CoupledLSTM", "ResetBeforeGRU", "LayerNormLSTM"]
)
def test_each_gate_is_orthogonal(name: str) -> None:
    """Flax's nnx.OptimizedLSTMCell and nnx.GRUCell draw one orthogonal (H, 4H): its blocks are not orthogonal."""
    u = getattr(rj, name)(H).init(jax.random.key(0), I, jnp.float64).u
    for block in jnp.split(u, u.shape[1] // H, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-12)


@each_cell
@each_implementation
def test_length_zero_returns_the_initial_state(cell: rj.Cell, implementation: str) -> None:
    """Flax's RNN indexes the carries with length − 1: length 0 returns the state behind all padding."""
    params = random_params(cell)
    state = random_state(cell, params, B)
    run = partial(rj.unroll, cell, params, normal(0, T, B, I), lengths=LENGTHS, implementation=implementation)
    ys, last = run(state)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[1], last), jax.tree.map(lambda leaf: leaf[1], state), 0)
    np.testing.assert_array_equal(ys[:, 1], 0)
    _, last = run()
    assert_trees_close([leaf[1] for leaf in last], [jnp.zeros(H)] * len(last), 0)


@each_cell
@each_implementation
def test_two_batch_axes_with_lengths_and_state(cell: rj.Cell, implementation: str) -> None:
    """Flax's RNN raises ValueError for two batch axes with seq_lengths and return_carry."""
    params = random_params(cell)
    xs, lengths = normal(0, T, 2, B, I), np.array([LENGTHS, LENGTHS[::-1]])
    state = random_state(cell, params, 2, B)
    run = partial(rj.unroll, implementation=implementation)
    ys, last = run(cell, params, xs, state, lengths=lengths)
    flat = jax.tree.map(lambda leaf: leaf.reshape(2 * B, H), state)
    wanted, wanted_last = run(cell, params, xs.reshape(T, 2 * B, I), flat, lengths=lengths.reshape(-1))
    assert_trees_close(ys.reshape(T, 2 * B, H), wanted)
    assert_trees_close(jax.tree.map(lambda leaf: leaf.reshape(2 * B, H), last), wanted_last)


@pytest.mark.parametrize(("reverse", "remat"), [(False, None), (True, None), (True, "state"), (False, 2)])
@each_implementation
def test_masks_zero_outputs(implementation: str, reverse: bool, remat: Any) -> None:
    """Keras ignores zero_output_for_mask with unroll=True; Flax's RNN does not zero padded outputs at all."""
    cell = BASIC["lstm"]
    mask = np.random.default_rng(0).random((T, B)) < 0.5
    ys, _ = rj.unroll(
        cell,
        random_params(cell),
        normal(0, T, B, I),
        mask=mask,
        reverse=reverse,
        remat=remat,
        implementation=implementation,
    )
    np.testing.assert_array_equal((ys != 0).all(-1), mask)
    np.testing.assert_array_equal((ys == 0).all(-1), ~mask)


@each_cell
@each_implementation
def test_garbage_at_masked_steps_harms_nothing(cell: rj.Cell, implementation: str) -> None:
    """In Flax and Keras, NaN in padding makes every weight gradient NaN although the loss is finite."""
    params = random_params(cell)
    state = random_state(cell, params, B)
    mask = np.random.default_rng(0).random((T, B)) < 0.7
    valid = mask & (np.arange(T)[:, None] < LENGTHS)
    clean = normal(0, T, B, I)

    @jax.jit
    def run(xs: jax.Array) -> Any:
        def loss(params: Any, xs: jax.Array, state: Any) -> Any:
            ys, last = rj.unroll(cell, params, xs, state, lengths=LENGTHS, mask=mask, implementation=implementation)
            return (ys**2).sum() + last.h.sum()

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(params, xs, state)

    garbage = jnp.where(np.arange(I) == 0, jnp.nan, jnp.inf)
    got = run(jnp.where(valid[..., None], clean, jnp.broadcast_to(garbage, clean.shape)))
    assert_finite(got)
    assert_trees_close(got, run(clean), 0)
    np.testing.assert_array_equal(got[1][1][~valid], 0)


@each_loop
def test_lengths_store_no_history_of_states(implementation: str) -> None:
    """Flax's RNN stacks the carry of all steps to pick the last valid one: T times the memory."""
    cell = BASIC["lstm"]
    jaxpr = jax.make_jaxpr(lambda p, x, n: rj.unroll(cell, p, x, lengths=n, implementation=implementation))(
        random_params(cell), normal(0, T, B, I), LENGTHS
    )
    (loop,) = [equation for equation in equations(jaxpr) if equation.primitive.name == "scan"]
    stacked = [var.aval.shape for var in loop.outvars if var.aval.shape[:1] == (T,)]
    assert stacked == [(T, B, H)]


@each_cell
@each_implementation
def test_reset_acts_at_once_and_stops_gradients(cell: rj.Cell, implementation: str) -> None:
    """PufferLib's minGRU reset one step late, so that gradients crossed episodes."""
    params, reset = random_params(cell), np.zeros((T, B), bool)
    reset[3] = True

    def loss(xs: jax.Array) -> jax.Array:
        ys, _ = rj.unroll(cell, params, xs, reset=reset, implementation=implementation)
        return (ys[3:] ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(normal(0, T, B, I))
    np.testing.assert_array_equal(gradient[:3], 0)
    assert float(jnp.abs(gradient[3:]).min()) > 0


@each_cell
@each_implementation
def test_reverse_keeps_the_order_of_the_inputs(cell: rj.Cell, implementation: str) -> None:
    """Keras's go_backwards returns outputs in processing order on one path and in input order on another."""
    params, xs = random_params(cell), normal(0, T, B, I)
    times = np.arange(T)[:, None]
    backwards = np.where(times < LENGTHS, LENGTHS - 1 - times, times)[..., None]
    flip = partial(jnp.take_along_axis, indices=backwards, axis=0)
    wanted, wanted_last = rj.unroll(cell, params, flip(xs), lengths=LENGTHS, implementation="scan")

    ys, last = rj.unroll(cell, params, xs, lengths=LENGTHS, reverse=True, implementation=implementation)
    assert_trees_close((ys, last), (flip(wanted), wanted_last))
    layer = rj.RNN(cell, reverse=True, implementation=implementation)
    assert_trees_close(layer(params, xs, lengths=LENGTHS), (ys, last), 0)
    both = rj.Bidirectional(rj.RNN(cell, implementation=implementation))
    pair = BidirectionalParams(params, params)
    assert_trees_close(both(pair, xs, lengths=LENGTHS)[0][..., H:], ys, 0)


@each_cell
@each_loop
def test_one_product_in_the_loop(cell: rj.Cell, implementation: str) -> None:
    """Flax projects the inputs inside the loop, with 6 products a step for its GRU, and concatenates kernels there."""
    run = lambda p, x: rj.unroll(cell, p, x, implementation=implementation)  # noqa: E731
    (body,) = loop_bodies(jax.make_jaxpr(run)(random_params(cell), normal(0, T, B, I)))
    assert count(body, "dot_general") == 1
    assert count(body, "concatenate") == 0
    (dot,) = [equation for equation in body if equation.primitive.name == "dot_general"]
    gates = {"Elman": 1, "LSTM": 4, "GRU": 3}[type(cell).__name__]
    assert [var.aval.shape for var in dot.invars] == [(B, H), (H, gates * H)]


@each_cell
def test_one_product_in_the_reverse_loop(cell: rj.Cell) -> None:
    """A differentiated scan carries the gradient of the recurrent weights through every step of the reverse loop."""
    loss = lambda p, x: rj.unroll(cell, p, x, implementation="fused")[0].sum()  # noqa: E731
    forward, backward = loop_bodies(jax.make_jaxpr(jax.grad(loss))(random_params(cell), normal(0, T, B, I)))
    assert (count(forward, "dot_general"), count(backward, "dot_general")) == (1, 1)


@each_cell
@each_loop
def test_one_product_in_the_compiled_loop(cell: rj.Cell, implementation: str) -> None:
    """XLA does not merge the products of Flax's cells: what the loop runs is what the cell writes."""
    run = lambda p, x: rj.unroll(cell, p, x, implementation=implementation)  # noqa: E731
    assert products_in_compiled_loops(run, random_params(cell), normal(0, T, B, I)) == [1]


def test_products_in_compiled_loops_are_counted() -> None:
    """Two in each step of a loop that projects the inputs as it goes."""

    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(x @ params.w + h @ params.u)
        return h, h

    params = random_params(BASIC["elman"])
    run = lambda xs: jax.lax.scan(step, jnp.zeros((B, H)), xs)  # noqa: E731
    assert products_in_compiled_loops(run, normal(0, T, B, I)) == [2]


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
@each_implementation
def test_program_does_not_grow_with_time(implementation: str, gradient: bool) -> None:
    """Keras's TimeDistributed is a Python loop over time: 28 equations for 5 steps, 253 for 50."""
    layer = rj.Stack([rj.RNN(rj.GRU(H), implementation=implementation), rj.Dense(2)])
    params = layer.init(jax.random.key(0), I, jnp.float64)
    run = lambda p, x: layer(p, x)[0].sum()  # noqa: E731

    def size(steps: int) -> int:
        xs = jax.ShapeDtypeStruct((steps, B, I), jnp.float64)
        return len(list(equations(jax.make_jaxpr(jax.grad(run) if gradient else run)(params, xs))))

    assert size(5) == size(50)
    assert size(10_000) == size(100_000) < size(50) + 40


@each_implementation
def test_nothing_leaves_the_device(implementation: str) -> None:
    """jax.experimental.rnn copies seq_lengths to the host and waits, on every call, and fails to trace on a CPU."""
    cell = BASIC["lstm"]

    @jax.jit
    def loss(params: Any, xs: jax.Array, lengths: jax.Array) -> jax.Array:
        return rj.unroll(cell, params, xs, lengths=lengths, implementation=implementation)[0].sum()

    args = random_params(cell), normal(0, T, B, I), jnp.asarray(LENGTHS)
    names = {equation.primitive.name for equation in equations(jax.make_jaxpr(jax.grad(loss))(*args))}
    assert not [name for name in names if "callback" in name or "device_put" in name]
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(loss(*args))


@each_implementation
def test_vmap_over_weights(implementation: str) -> None:
    """torch.func.vmap over LSTM, GRU and RNN raises RuntimeError; jax.experimental.rnn has no batching rule."""
    cell = BASIC["lstm"]
    xs, models = normal(0, T, B, I), [random_params(cell, seed) for seed in range(3)]

    def loss(params: Any) -> jax.Array:
        return (rj.unroll(cell, params, xs, lengths=LENGTHS, implementation=implementation)[0] ** 2).sum()

    gradient = jax.value_and_grad(loss)
    got = jax.jit(jax.vmap(gradient))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *models))
    for i, params in enumerate(models):
        assert_trees_close(jax.tree.map(lambda leaf, i=i: leaf[i], got), jax.jit(gradient)(params))


@pytest.mark.parametrize(("cell", "remat"), [(BASIC["gru"], None), (BASIC["lstm"], "sqrt")], ids=["gru", "lstm-sqrt"])
def test_forward_mode(cell: rj.Cell, remat: Any) -> None:
    """jax.experimental.rnn has no forward mode, nor has Equinox's checkpointed scan."""
    params, xs = random_params(cell), normal(0, T, B, I)
    run = lambda p: (rj.unroll(cell, p, xs, remat=remat, implementation="scan")[0] ** 2).sum()  # noqa: E731
    tangent = random_params(cell, 5)
    _, got = jax.jit(lambda: jax.jvp(run, (params,), (tangent,)))()
    pairs = jax.tree.map(lambda a, b: (a * b).sum(), jax.jit(jax.grad(run))(params), tangent)
    np.testing.assert_allclose(got, sum(pairs), rtol=1e-10)


@pytest.mark.parametrize("implementation", [*NATIVE[1:], None])
def test_forward_mode_error_names_scan(implementation: str | None) -> None:
    """JAX says "can't apply forward-mode autodiff to a custom_vjp function" and not what to do instead."""
    cell, xs = BASIC["gru"], normal(0, T, B, I)
    params = random_params(cell)
    run = lambda p: rj.unroll(cell, p, xs, implementation=implementation)[0]  # noqa: E731
    for transform in (lambda p: jax.jvp(run, (p,), (p,)), jax.jacfwd(run)):
        with pytest.raises(TypeError, match='implementation="scan"'):
            transform(params)


def test_forward_mode_error_names_no_way_that_has_none() -> None:
    """Neither has the step of a cell whose gradient is that of no function."""
    cell, xs = rj.GradientClip(BASIC["gru"]), normal(0, T, B, I)
    params = random_params(cell)
    with pytest.raises(TypeError, match=r"GradientClip.*, also with `implementation=.scan.`, no forward mode .*; take"):
        jax.jvp(lambda p: rj.unroll(cell, p, xs)[0], (params,), (params,))


def test_second_derivatives() -> None:
    """PyTorch's cuDNN layers have no double backward, so neither Hessians nor gradient penalties."""
    cell = BASIC["gru"]
    params, xs = random_params(cell), normal(0, 3, B, I)

    def loss(implementation: str, u: jax.Array) -> jax.Array:
        return (rj.unroll(cell, params._replace(u=u), xs, implementation=implementation)[0] ** 2).sum()

    hessian = jax.jit(jax.hessian(partial(loss, "scan")))(params.u).reshape(params.u.size, -1)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-10)
    v, gradient = normal(3, *params.u.shape), jax.jit(jax.grad(partial(loss, "fused")))
    product = jax.jit(jax.grad(lambda u: (gradient(u) * v).sum()))(params.u)
    np.testing.assert_allclose(product.reshape(-1), hessian @ v.reshape(-1), atol=1e-10)
    step = 1e-5
    ahead, behind = gradient(params.u + step * v), gradient(params.u - step * v)
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), atol=1e-6)


@each_implementation
def test_closes_over_arrays_under_jit(implementation: str) -> None:
    """Flax's nnx.RNN keeps a random stream by default, and closing over it in jax.jit raises TraceContextError."""
    cell, xs = BASIC["lstm"], normal(0, T, B, I)
    params, lengths = random_params(cell), jnp.asarray(LENGTHS)
    mask, reset = jnp.ones((T, B), bool), jnp.zeros((T, B), bool)
    run = lambda: rj.unroll(  # noqa: E731
        cell, params, xs, lengths=lengths, mask=mask, reset=reset, implementation=implementation
    )
    assert_trees_close(jax.jit(run)(), run())


def test_constants_reach_the_cell() -> None:
    """Keras's documentation mentions `constants` for cells, and RNN.call takes no such argument."""

    @rj.struct
    class Biased(rj.Wrapper):
        def prepare(self, params: Any, *, key: Any = None, context: Any = None) -> Any:
            return params._replace(b=params.b + context)

    params, xs, shift = random_params(BASIC["elman"]), normal(0, T, B, I), normal(1, H)
    got, _ = rj.unroll(Biased(BASIC["elman"]), params, xs, context=shift)
    wanted, _ = rj.unroll(BASIC["elman"], params._replace(b=params.b + shift), xs)
    assert_trees_close(got, wanted)


def on_mesh(axis_type: AxisType, run: Callable[..., Any], *args: Any) -> Any:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        return jax.jit(run)(*_placed(mesh, args))


def in_shard_map(run: Callable[..., Any], *args: Any) -> Any:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        inner = partial(run, total=lambda x: jax.lax.psum(x, "data"))
        return jax.jit(jax.shard_map(inner, in_specs=_SPECS, out_specs=_OUT_SPECS))(*_placed(mesh, args))


_SPECS = (P(), P(None, "data"), P("data"))
_OUT_SPECS = ((P(), (P(), P(None, "data"))), (P(None, "data"), P("data")))


def _placed(mesh: Any, args: tuple[Any, ...]) -> list[Any]:
    return [jax.device_put(arg, NamedSharding(mesh, spec)) for arg, spec in zip(args, _SPECS, strict=True)]


PLACES = {
    "explicit_mesh": partial(on_mesh, AxisType.Explicit),
    "automatic_mesh": partial(on_mesh, AxisType.Auto),
    "shard_map": in_shard_map,
}
SHARDED = {
    "scan": (rj.GRU(H), {"implementation": "scan"}),
    "fused": (rj.LSTM(H), {"implementation": "fused", "remat": 4}),
    "fused_generic": (rj.PeepholeLSTM(H), {"implementation": "fused"}),
    "noise_and_state": (rj.Zoneout(rj.GRU(H)), {"key": 0, "state": cells.GRUState(np.ones((8, H)))}),
    "convolution": (rj.ConvLSTM(2, (3,)), {}),
}
INCOMPARABLE = ("noise_and_state", "shard_map")
"""Each shard draws its own noise."""


def sharded(cell: rj.Cell, options: dict[str, Any]) -> Callable[..., Any]:
    """A function of parameters, inputs and lengths that returns loss, gradients, outputs and last state."""
    if "key" in options:
        options = options | {"key": jax.random.key(options["key"])}

    def run(params: Any, xs: jax.Array, lengths: jax.Array, total: Callable[..., Any] = lambda x: x) -> Any:
        def loss(params: Any, xs: jax.Array) -> Any:
            ys, last = rj.unroll(cell, params, xs, lengths=lengths, **options)
            return total((ys**2).sum() + last.h.sum()), (ys, last)

        (value, outputs), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)
        return (value, gradients), outputs

    return run


LAYERS = {
    "dense": rj.Dense(3),
    "residual": rj.Residual(rj.GRU(I)),
    "mean": rj.Mean(),
    "last": rj.Last(),
    "max": rj.Max(),
    "dropout": rj.Dropout(0.5),
    "bidirectional": rj.Bidirectional(rj.LSTM(3)),
    "layer_norm": rj.LayerNorm(),
    "causal_conv": rj.CausalConv(3),
    "block": rj.Block(rj.LRU(4)),
    "attention_pooling": rj.AttentionPooling(3),
    "embedding": rj.Embedding(5, 3),
}


def layer_differs(name: str) -> str:
    """A layer on an explicit mesh, with lengths, whose outputs must have the sharding of the batch; or ""."""
    layer, lengths = LAYERS[name], jnp.arange(8) % (T + 1)
    xs = jnp.arange(8 * T).reshape(T, 8) % 5 if name == "embedding" else normal(0, T, 8, I)
    params = layer.init(jax.random.key(0), None if name == "embedding" else I)
    run = lambda xs: layer(params, xs, lengths=lengths, key=jax.random.key(1))[0]  # noqa: E731
    wanted, mesh = run(xs), jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    try:
        with jax.set_mesh(mesh):
            got = jax.jit(run)(jax.device_put(xs, NamedSharding(mesh, P(None, "data"))))
        assert "data" in got.sharding.spec
        assert_trees_close(np.asarray(got), wanted)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:2000]
    return ""


def divided_weights() -> list[str]:
    """What is wrong with outputs and gradients where weights are divided over an explicit mesh, along any axis."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    params, xs = BASIC["lstm"].init(jax.random.key(0), 8, jnp.float64), normal(0, T, 8, 8)
    cases = {}
    for name, axes in (("w", (None, "model")), ("w", ("model", None)), ("u", (None, "model")), ("b", ("model",))):
        specs = jax.tree.map(lambda leaf: P(*(None,) * leaf.ndim), params)._replace(**{name: P(*axes)})
        for implementation in ("scan", "fused"):
            run = partial(rj.unroll, BASIC["lstm"], implementation=implementation)
            cases[f"{name} {axes} {implementation}"] = run, params, specs, xs
    model, ids = rj.Stack([rj.Embedding(16, 8), rj.Dense(8)]), jnp.arange(8 * T).reshape(T, 8) % 16
    params = model.init(jax.random.key(0), None, jnp.float64)
    specs = jax.tree.map(lambda leaf: P(*(None,) * (leaf.ndim - 1), "data"), params)
    cases["embedding and dense"] = model, params, specs, ids
    wrong = []
    for case, (run, params, specs, xs) in cases.items():

        def loss(params: Any, xs: jax.Array, run: Callable[..., Any] = run) -> Any:
            ys, _ = run(params, xs)
            return (ys**2).sum(), ys

        wanted = jax.grad(loss, has_aux=True)(params, xs)
        try:
            with jax.set_mesh(mesh):
                own = jax.tree.map(jax.device_put, params, specs)
                got = jax.jit(jax.grad(loss, has_aux=True))(own, jax.device_put(xs, P(None, "data")))
            assert "data" in got[1].sharding.spec
            assert jax.tree.map(lambda leaf: leaf.sharding.spec, got[0]) == specs
            assert_trees_close(jax.tree.map(np.asarray, got), wanted)
        except Exception as error:
            wrong.append(f"{case}: {type(error).__name__}: {error}"[:500])
    return wrong


def collectives() -> list[str]:
    """Of the default implementation's forward pass, whose batch is sharded and whose weights are not."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    args = random_params(BASIC["lstm"]), normal(0, T, 8, I)
    placed = [
        jax.device_put(arg, NamedSharding(mesh, spec)) for arg, spec in zip(args, (P(), P(None, "data")), strict=True)
    ]
    text = jax.jit(lambda p, x: rj.unroll(BASIC["lstm"], p, x)).lower(*placed).compile().as_text()
    return [name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in text]


def mesh_program() -> None:
    """Prints for every case and place "same", or how it differs from the same call on one device."""
    report: dict[str, Any] = {"layers": {name: layer_differs(name) for name in LAYERS}, "collectives": collectives()}
    report["divided"] = divided_weights()
    for name, (cell, options) in SHARDED.items():
        run = sharded(cell, options)
        event = (3,) if name == "convolution" else ()
        args = random_params(cell), normal(0, T, 8, *event, I), jnp.arange(8) % (T + 1)
        wanted = jax.jit(run)(*args)
        for place in (place for place in PLACES if (name, place) != INCOMPARABLE):
            try:
                assert_trees_close(jax.tree.map(np.asarray, PLACES[place](run, *args)), wanted)
                report[f"{name}-{place}"] = "same"
            except Exception as error:
                report[f"{name}-{place}"] = f"{type(error).__name__}: {error}"[:2000]
    print(json.dumps(report | {"time": refusal(P("data")), "features": refusal(P(None, None, "data"))}))


def refusal(spec: P) -> str:
    """The message of the error for inputs that are sharded along time or features."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    xs = jax.device_put(normal(0, 8, B, 8), NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        try:
            rj.unroll(BASIC["gru"], BASIC["gru"].init(jax.random.key(0), 8), xs)
        except ValueError as error:
            return str(error)
    return "accepted"


@pytest.fixture(scope="module")
def mesh_report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with eight devices found; of several workers the first one starts it, and the others wait."""
    at_work = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if at_work else tmp_path_factory.mktemp("mesh")
    found = shared / "mesh_report.json"
    try:
        (shared / "mesh_report.begun").touch(exist_ok=False)
    except FileExistsError:
        deadline = time.monotonic() + 600
        while not found.exists():
            assert time.monotonic() < deadline, "the worker that started the process has not written its report"
            time.sleep(0.1)
    else:
        variables = {
            "JAX_NUM_CPU_DEVICES": "8",
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, __file__]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
        (shared / "mesh_report.new").write_text(done.stdout if done.returncode == 0 else json.dumps(done.stderr))
        (shared / "mesh_report.new").replace(found)
    report = json.loads(found.read_text())
    assert isinstance(report, dict), report
    return report


@pytest.mark.parametrize(
    ("case", "place"), [pair for pair in itertools.product(SHARDED, PLACES) if pair != INCOMPARABLE]
)
@pytest.mark.slow
def test_sharded_batch(case: str, place: str, mesh_report: dict[str, Any]) -> None:
    """Flax's RNN fails to trace on an explicit mesh: its zero carry does not have the sharding of the inputs."""
    assert mesh_report[f"{case}-{place}"] == "same"


VARYING = {
    "key": (rj.Zoneout(rj.GRU(H)), lambda: jax.random.key(1), "fused"),
    "lengths": (BASIC["gru"], lambda: jnp.asarray(LENGTHS), "scan"),
    "reset": (BASIC["lstm"], lambda: jnp.arange(T * B).reshape(T, B) % 4 == 0, "cpu"),
    "mask": (BASIC["gru"], lambda: jnp.arange(T * B).reshape(T, B) % 4 != 0, "newton"),
    "context": (rj.BahdanauAttention(BASIC["gru"], rj.DotScore(), H), lambda: normal(2, 5, B, H), None),
}


@pytest.mark.parametrize("name", VARYING)
def test_what_varies_in_shard_map(name: str) -> None:
    """Flax's RNN fails to trace in `shard_map` because its zero carry is the same on all devices, as no state is whose
    inputs differ. Here it may be any argument that differs."""
    cell, make, implementation = VARYING[name]
    if implementation == "cpu" and "cpu" not in NATIVE:
        pytest.skip("the kernels are not there")
    params, xs, argument = random_params(cell), normal(0, T, B, I), make()

    def run(argument: Any) -> Any:
        return rj.unroll(cell, params, xs, implementation=implementation, **{name: argument})

    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    each = jax.shard_map(
        lambda arguments: jax.tree.map(lambda leaf: leaf[None], run(arguments[0])),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], each(argument[None])), run(argument))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.slow
def test_sharded_layers(name: str, mesh_report: dict[str, Any]) -> None:
    assert mesh_report["layers"][name] == ""


@pytest.mark.slow
def test_weights_that_are_divided_in_storage(mesh_report: dict[str, Any]) -> None:
    assert mesh_report["divided"] == []


@pytest.mark.slow
def test_a_sharded_batch_stays_where_it_is(mesh_report: dict[str, Any]) -> None:
    """XLA gathers the arguments of a call into native code."""
    assert mesh_report["collectives"] == []


@pytest.mark.slow
def test_other_shardings_are_refused(mesh_report: dict[str, Any]) -> None:
    """JAX's message says "0th dimension of all xs should be replicated", without naming an argument or a way out."""
    assert "`xs` must not be sharded along features, its axis 2; got P(None, None, 'data')" in mesh_report["features"]
    assert "`xs` must not be sharded along time, its axis 0; got P('data', None, None)" in mesh_report["time"]
    assert "`jax.sharding.reshard`" in mesh_report["time"]


if __name__ == "__main__":
    mesh_program()
