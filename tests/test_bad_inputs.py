"""What is refused: one table of calls, with the error's type and words of its message in order, " .. " between them.

Every row is called twice: eagerly, and under `jax.eval_shape`, where nothing can run before the refusal. Inputs that
look odd and have a meaning stand at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import NATIVE

import rnnjax as rj
from rnnjax import cells

T, B, I, H = 6, 3, 2, 4  # noqa: E741
GRU, LSTM, PLAIN, CONV = rj.GRU(H), rj.LSTM(H), rj.ResetBeforeGRU(H), rj.ConvLSTM(2, (5,))
XS = np.random.default_rng(0).standard_normal((T, B, I))

Row = tuple[Callable[[], Any], type[Exception], str]
each_implementation = pytest.mark.parametrize("implementation", NATIVE)


def params_of(cell: rj.Cell, in_size: int = I) -> Any:
    # also inside `eval_shape` parameters are numbers, as they are in an eager call
    with jax.ensure_compile_time_eval():
        return cell.init(jax.random.key(0), in_size, jnp.float64)


def call(cell: Any = GRU, *, params: Callable[[Any], Any] = lambda p: p, xs: Any = XS, **options: Any) -> Any:
    """A call of `unroll`, with the parameters that a GRU has unless it is another cell with inputs of its own."""
    own = cell if cell in (PLAIN, CONV) else GRU
    return lambda: rj.unroll(cell, params(params_of(own)), xs, **options)


def init(cell: Any, *args: Any, key: Any = ...) -> Callable[[], Any]:
    return lambda: cell.init(jax.random.key(0) if key is ... else key, *args)


def zeros(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.zeros(shape, dtype)


def ints(*shape: int) -> np.ndarray:
    return zeros(*shape, dtype=np.int64)


def bools(*shape: int) -> np.ndarray:
    return zeros(*shape, dtype=bool)


INPUTS: list[Row] = [
    (call(xs=zeros()), ValueError, "`xs` must be (T, *B, I), at least 2 axes; got shape ()"),
    (call(xs=zeros(T)), ValueError, "at least 2 axes; got shape (6,) .. a time axis of length 1: `x[None]`"),
    (call(xs=zeros(T, B, 5)), ValueError, "(5, 12) .. 5 features; got (2, 12) .. `xs` has shape (6, 3, 5)"),
    (call(xs=zeros(T, B, 0)), ValueError, "`xs` must have at least one feature, on its last axis; got shape (6, 3, 0)"),
    (call(xs=ints(T, B, I)), TypeError, "floating point; got int64(6, 3, 2). Cast it .. rnnjax.Embedding"),
    (call(xs=bools(T, B, I)), TypeError, "floating point; got bool(6, 3, 2). Cast it"),
    (call(xs=np.array([[None]])), TypeError, "floating point; got object(1, 1)"),
    (call(xs=zeros(T, B, I, dtype=np.complex64)), TypeError, "floating point; got complex64(6, 3, 2)"),
    (call(xs=[[[1.0]]]), TypeError, "`xs` must be an array (T, *B, I) .. got list with float inside: convert"),
    (call(xs=[zeros(B, I)] * T), TypeError, "got a list of 6 arrays: join time steps with `jnp.stack`"),
    (call(xs=1.0), TypeError, "`xs` must be an array (T, *B, I) .. got float: convert it with `jnp.asarray`"),
    (call(xs="abc"), TypeError, "`xs` must be an array (T, *B, I) .. got str: convert it"),
    (call(xs=None), TypeError, "`xs` must be an array (T, *B, I) or a pytree of them; got None"),
    (call(xs=(XS,)), TypeError, "`xs` must be what GRU(hidden_size=4) reads, one array .. got tuple of (6, 3, 2)"),
    (call(xs={"x": XS}), TypeError, "`xs` must be what GRU(hidden_size=4) reads, one array .. got dict of (6, 3, 2)"),
    (call(xs=(XS, zeros(T, 4, 1))), ValueError, "all lead with (T, *B) = (6, 3) .. got shape (6, 4, 1)"),
    (call(CONV, xs=zeros(5, I)), ValueError, "(T, *B, *S, I), at least 3 axes; got shape (5, 2)"),
    (call(CONV, xs=zeros(T, 4, I)), ValueError, "*S = (5,), the cell's `spatial_shape`; got shape (6, 4, 2)"),
]

PARAMETERS: list[Row] = [
    (call(rj.GRU), TypeError, "`cell` must be a cell; got <class .. make an instance, such as `rnnjax.LSTM(128)`"),
    (call(None), TypeError, "`cell` must be a cell; got None"),
    (call(rj.RNN(GRU)), TypeError, "`cell` must be a cell; got RNN(GRU(hidden_size=4))"),
    (lambda: rj.unroll(GRU, XS, params_of(GRU)), ValueError, "the leaves of `xs` must all lead with (T, *B)"),
    (call(LSTM), TypeError, "`cell.init(key, 2)` returns .. LSTMParams(w=(2, 16), .. got GRUParams("),
    (call(params=lambda p: params_of(rj.GRU(5))), ValueError, "`params.w` must be (2, 12) .. got (2, 15)"),
    (call(params=lambda p: p._replace(b_n=zeros(5))), ValueError, "`params.b_n` must be (4,) .. got (5,)"),
    (call(params=tuple), TypeError, "`params` must be .. GRUParams(w=(2, 12), .. b_n=(4,)); got tuple"),
    (call(params=lambda p: p._asdict()), TypeError, "`params` must be what `cell.init(key, 2)` .. got dict"),
    (call(params=lambda p: p._replace(b=None)), TypeError, "`params` must be .. got GRUParams( .. b=NoneType"),
    (call(params=lambda p: p._replace(b=1.0)), TypeError, "`params.b` must be an array (12,); got 1.0: convert"),
    (call(params=lambda p: p._replace(b=ints(12))), TypeError, "`params.b` .. got int64(12,): cast it with"),
    (
        call(params=lambda p: p._replace(b=zeros(12, dtype=complex))),
        TypeError,
        "`params.b` .. floating point; got complex128(12,)",
    ),
    (lambda: rj.Dense(H)((), XS), TypeError, "`layer.init(key, 2)` returns for Dense(size=4), DenseParams( .. got "),
    (lambda: rj.CausalConv(3)((), XS), TypeError, "`layer.init(key, 2)` returns for CausalConv( .. got tuple"),
]

STATES: list[Row] = [
    (call(state=cells.GRUState(zeros(1, H))), ValueError, "(3, 4) for batch shape (3,); got (1, 4). .. broadcast"),
    (call(state=cells.GRUState(zeros(H))), ValueError, "got (4,). .. use `cell.initial_state(params, batch_shape)`"),
    (call(state=zeros(B, H)), TypeError, "`state` must be GRUState(h=(3, 4)), as `cell.initial_state` makes it"),
    (call(state=(zeros(B, H),)), TypeError, "`state` must be GRUState(h=(3, 4)) .. got tuple"),
    (call(state=cells.LSTMState(zeros(B, H), zeros(B, H))), TypeError, "must be GRUState( .. got LSTMState("),
    (call(state=cells.GRUState(None)), TypeError, "`state` must be GRUState( .. got GRUState(h=NoneType)"),
    (call(state=cells.GRUState(ints(B, H))), TypeError, "`state.h` .. got int64(3, 4): cast it"),
    (call(state=cells.GRUState(1j * zeros(B, H))), TypeError, "`state.h` must be floating point; got complex128"),
    (lambda: GRU.initial_state(params_of(GRU), 3), TypeError, "`batch_shape` must be a tuple of sizes, .. got 3"),
    (call(state=cells.GRUState(0.0)), TypeError, "`state.h` must be an array (3, 4); got 0.0: convert it"),
]

LENGTHS: list[Row] = [
    (call(lengths=np.array([-1, 2, 3])), ValueError, "`lengths` must lie in 0…T = 6; got values from -1 to 3"),
    (call(lengths=np.array([1, 2, 7])), ValueError, "got values from 1 to 7: pad `xs` .. or cut them"),
    (call(lengths=ints(2)), ValueError, "`lengths` must be (*B) = (3,), one number for each .. got shape (2,)"),
    (call(lengths=ints(T)), ValueError, "`lengths` must be (*B) = (3,) .. got shape (6,). Time is axis 0: transpose"),
    (call(lengths=ints(B, 1)), ValueError, "`lengths` must be (*B) = (3,) .. got shape (3, 1)"),
    (
        call(lengths=np.int32(3)),
        ValueError,
        "`lengths` must be (*B) = (3,), one number .. got shape (). Flags for every step",
    ),
    (call(lengths=zeros(B)), TypeError, "integer array (*B) = (3,); got float64(3,): cast it with `.astype("),
    (call(lengths=bools(B)), TypeError, "integer array (*B) = (3,); got bool(3,): pass it as `mask`"),
    (call(lengths=[1, 2, 3]), TypeError, "integer array (*B) = (3,); got list: convert it with `jnp.asarray`"),
    (call(lengths=3), TypeError, "integer array (*B) = (3,); got int: convert it"),
]

FLAGS: list[Row] = [
    row
    for name in ("mask", "reset")
    for row in [
        (call(**{name: bools(B, T)}), ValueError, "= (6, 3) .. got (3, 6). Time is axis 0: transpose"),
        (call(**{name: bools(T)}), ValueError, f"`{name}` must be (T, *B) = (6, 3) to match .. got (6,)"),
        (call(**{name: bools(T, 1)}), ValueError, f"`{name}` must be (T, *B) = (6, 3) .. got (6, 1)"),
        (call(**{name: bools(T, B, 1)}), ValueError, f"`{name}` .. = (6, 3) .. got (6, 3, 1)"),
        (call(**{name: zeros(T, B)}), TypeError, f"got float64(6, 3): compare with zero, `{name} != 0`"),
        (call(**{name: ints(T, B)}), TypeError, f"`{name}` must be a boolean array .. got int64(6, 3)"),
        (call(**{name: [[True]]}), TypeError, f"`{name}` must be a boolean array .. got list: convert it"),
        (
            lambda name=name: rj.Activate("tanh")((), zeros(T, B, 5, I), **{name: bools(T, B)}),
            ValueError,
            f"`{name}` .. = (6, 3, 5) .. got (6, 3). Features of several axes, .. need `event_ndim` in the layer",
        ),
    ]
]

OPTIONS: list[Row] = [
    (call(key=0), TypeError, "`key` must be a JAX random key; got int: make one with `jax.random.key(0)`"),
    (call(key="dropout"), TypeError, "`key` must be a JAX random key; got str: make one"),
    (call(key=zeros(2)), TypeError, "`key` must be a JAX random key; got float64(2,)"),
    (call(key=zeros(3, dtype=np.uint32)), TypeError, "must be a JAX random key; got uint32(3,): make one"),
    (lambda: call(key=jax.random.split(jax.random.key(0)))(), ValueError, "must be one key, .. shape (2,): use one"),
    (call(reverse="no"), TypeError, "`reverse` must be True or False; got 'no'"),
    (call(reverse=np.ones(2)), TypeError, "`reverse` must be True or False; got array([1., 1.])"),
    (call(remat="all"), ValueError, '`remat` must be None, "state", "sqrt" or a chunk length .. got \'all\''),
    (call(remat=0), ValueError, "a chunk length of at least 1 step; got 0"),
    (call(remat=-4), ValueError, "a chunk length of at least 1 step; got -4"),
    (call(remat=True), ValueError, "a chunk length of at least 1 step; got True"),
    (call(remat=2.0), ValueError, "a chunk length of at least 1 step; got 2.0"),
    (call(remat=np.arange(2)), ValueError, "a chunk length of at least 1 step; got array"),
    (call(implementation="cudnnn"), ValueError, "`implementation` must be None, one of .. got 'cudnnn'"),
    (call(implementation=["scan"]), ValueError, "`implementation` must be None, one of .. got ['scan']"),
    (call(PLAIN, implementation="fused"), ValueError, "cannot run this call: ResetBeforeGRU is not a gated cell"),
    (call(xs=XS[:0], implementation="fused"), ValueError, "no time steps. `implementation=None` chooses one"),
    (lambda: rj.explain(GRU, params_of(GRU), XS, mask=bools(B, T)), ValueError, "(T, *B) = (6, 3) .. got (3, 6)"),
]

CONSTRUCTORS: list[Row] = [
    (lambda: rj.GRU(-1), ValueError, "`hidden_size` must be at least 1; got -1"),
    (lambda: rj.LSTM(0), ValueError, "`hidden_size` must be at least 1; got 0"),
    (lambda: rj.Elman(True), TypeError, "`hidden_size` must be a positive integer; got True of type bool"),
    (lambda: rj.GRU(4.0), TypeError, "`hidden_size` must be a positive integer; got 4.0 of type float"),
    (lambda: rj.GRU("4"), TypeError, "`hidden_size` must be a positive integer; got '4' of type str"),
    (lambda: rj.GRU(None), TypeError, "`hidden_size` must be a positive integer; got None"),
    (lambda: rj.GRU(ints(1)), TypeError, "`hidden_size` must be a positive integer; got array([0])"),
    (lambda: rj.ProjectionLSTM(H, 0), ValueError, "`proj_size` must be at least 1; got 0"),
    (lambda: rj.ConvLSTM(2, 5), TypeError, "`spatial_shape` must be a tuple of 1 to 3 sizes .. got 5"),
    (lambda: rj.ConvLSTM(2, (5, 0)), ValueError, "`spatial_shape[1]` must be at least 1; got 0"),
    (lambda: rj.ConvLSTM(2, (5,), (3, 3)), ValueError, "`kernel_size` .. one for each of the 1 axes"),
    (lambda: rj.LSTM(H, "tanhh"), ValueError, "unknown activation 'tanhh'; choose one of .. tanh, or pass"),
    (lambda: rj.GRU(H, gate_activation=3), TypeError, "a name or a function of one array; got 3"),
    (lambda: rj.Elman(H, activation=None), TypeError, "a name or a function of one array; got None"),
    (lambda: rj.GRU(H, compute_dtype=int), TypeError, "`compute_dtype` must be a floating-point dtype .. got <class"),
    (lambda: rj.GRU(H, compute_dtype="foo"), TypeError, "`compute_dtype` must be a floating-point .. got 'foo'"),
    (lambda: rj.GRU(H, compute_dtype="complex64"), TypeError, "`compute_dtype` must be .. got 'complex64'"),
    (lambda: rj.Elman(H, recurrent_init="ortho"), ValueError, "'orthogonal', 'identity'; got 'ortho'"),
    (lambda: rj.LSTM(H, forget_bias="1"), TypeError, "`forget_bias` must be a number, .. got '1'"),
    (lambda: rj.LSTM(H, max_time=8.5), TypeError, "`max_time` must be a positive integer; got 8.5 of type float"),
    (lambda: rj.LSTM(H, max_time=2), ValueError, "`max_time` must be at least 3 time steps .. got 2"),
    (lambda: rj.LSTM(H, forget_bias=[1.0]), TypeError, "`forget_bias` must be a number, or an array .. got [1.0]"),
    (lambda: rj.LeakyElman(H, leak=[0.5]), TypeError, "`leak` must be a number in [0, 1], or an array .. got [0.5]"),
    (lambda: rj.LeakyElman(H, leak=np.full(H, 3.0)), ValueError, "`leak` must lie in [0, 1]; got [3. 3. 3. 3.]"),
    (lambda: rj.Zoneout(LSTM, rate=np.full(H, 2.0)), ValueError, "`rate` must lie in [0, 1]; got [2. 2. 2. 2.]"),
    (lambda: rj.RecurrentDropout(LSTM, rate=np.float32(1)), ValueError, "`rate` must be below 1, or nothing"),
    (lambda: rj.LeakyElman(H, leak=2.0), ValueError, "`leak` must lie in [0, 1]; got 2.0"),
    (lambda: rj.Zoneout(LSTM, rate=1.5), ValueError, "`rate` must lie in [0, 1]; got 1.5"),
    (lambda: rj.Zoneout(LSTM, rate=-0.1), ValueError, "`rate` must lie in [0, 1]; got -0.1"),
    (lambda: rj.Zoneout(LSTM, rate=math.nan), ValueError, "`rate` must lie in [0, 1]; got nan"),
    (lambda: rj.Zoneout(LSTM, rate="0.5"), TypeError, "`rate` must be a number in [0, 1], or .. got '0.5'"),
    (lambda: rj.WeightDrop(LSTM, rate=True), TypeError, "`rate` must be a number in [0, 1], or .. got True"),
    (lambda: rj.RecurrentDropout(LSTM, rate=1.0), ValueError, "`rate` must be below 1, or nothing .. got 1.0"),
    (lambda: rj.Dropout(1.5), ValueError, "`rate` must lie in [0, 1]; got 1.5"),
    (lambda: rj.VariationalDropout(-1), ValueError, "`rate` must lie in [0, 1]; got -1"),
    (lambda: rj.Zoneout(rj.LSTM), TypeError, "`cell` must be a cell, such as `rnnjax.LSTM(128)`; got <class"),
    (lambda: rj.RNN(rj.GRU), TypeError, "`cell` must be a cell, such as `rnnjax.LSTM(128)`; got <class"),
    (lambda: rj.RNN(GRU, remat="all"), ValueError, "`remat` must be None"),
    (lambda: rj.RNN(GRU, implementation="all"), ValueError, "`implementation` must be None, one of"),
    (lambda: rj.Stack([]), ValueError, "`layers` must hold at least one layer; got none"),
    (lambda: rj.Stack([GRU, rj.GRU]), TypeError, "`layers[1]` must be a layer or a cell .. `GRU(8)`"),
    (lambda: rj.Bidirectional(GRU, merge="cat"), ValueError, "`merge` must be one of 'concat', .. got 'cat'"),
    (
        lambda: rj.Elman(H, activation=np.tanh),
        TypeError,
        "must be a function of one JAX array; <ufunc 'tanh'> stops at",
    ),
    (lambda: rj.Elman(H, activation=jnp.sum), TypeError, "an activation must keep the shape of its array"),
    (lambda: rj.CoRNN(H, step_size=np.float64(0)), ValueError, "`step_size` must be above 0; got 0.0"),
    (lambda: rj.GLA(H, temperature=np.float32(-1)), ValueError, "`temperature` must be above 0; got -1.0"),
    (
        lambda: rj.LEM(H, step_size=np.array([1.0, 0.0, 1.0, 1.0])),
        ValueError,
        "`step_size` must be above 0; got [1. 0.",
    ),
    (lambda: rj.GradientClip(LSTM, bound=np.float32(0)), ValueError, "`bound` must be above 0; got 0.0"),
    (lambda: rj.GradientClip(LSTM, bound=np.nan), ValueError, "`bound` must be above 0; got nan"),
    (lambda: rj.ActiveUnits(LSTM, units=np.int64(128)), ValueError, "`units` must be at most the cell's 4; got 128"),
    (lambda: rj.ActiveUnits(LSTM, units=np.int64(0)), ValueError, "`units` must be above 0; got 0"),
    (lambda: rj.ActiveUnits(LSTM, units=5), ValueError, "`units` must be at most the cell's 4; got 5"),
    (lambda: rj.Dense(0), ValueError, "`size` must be at least 1; got 0"),
    (lambda: rj.Dense(3, use_bias="no"), TypeError, "`use_bias` must be True or False; got 'no'"),
    (lambda: rj.RNN(GRU, reverse="no"), TypeError, "`reverse` must be True or False; got 'no'"),
]

INIT: list[Row] = [
    row
    for cell in (GRU, LSTM, PLAIN, CONV, rj.Elman(H), rj.Zoneout(GRU), rj.RNN(GRU), rj.Dense(H))
    for row in [
        (init(cell, 0), ValueError, "`in_size` must be at least 1; got 0"),
        (init(cell, -1), ValueError, "`in_size` must be at least 1; got -1"),
        (init(cell, 2.0), TypeError, "`in_size` must be a positive integer; got 2.0 of type float"),
        (init(cell, True), TypeError, "`in_size` must be a positive integer; got True of type bool"),
        (init(cell, (T, B, I)), TypeError, "`in_size` must be a positive integer; got (6, 3, 2)"),
        (init(cell, I, key=0), TypeError, "`key` must be a JAX random key; got int: make one with"),
        (init(cell, I, key=None), TypeError, "`key` must be a JAX random key; got NoneType: make one"),
        (init(cell, I, jnp.int32), TypeError, "`dtype` must be a floating-point dtype .. got <class"),
        (init(cell, I, "foo"), TypeError, "`dtype` must be a floating-point dtype .. got 'foo'"),
        (init(cell, I, "complex64"), TypeError, "`dtype` must be a floating-point dtype .. got 'complex64'"),
    ]
] + [
    (
        init(rj.LSTM(H, forget_bias=zeros(3)), I),
        ValueError,
        "`forget_bias` must be one number or .. (4,); got shape (3,)",
    ),
    (
        init(rj.GRU(H, update_bias=zeros(1)), I),
        ValueError,
        "`update_bias` must be one number or .. (4,); got shape (1,)",
    ),
    (init(rj.Embedding(9, H), key=0), TypeError, "`key` must be a JAX random key; got int: make one with"),
    (init(rj.Embedding(9, H), None, "int8"), TypeError, "`dtype` must be a floating-point dtype .. got 'int8'"),
]

DT = np.ones((T, B))
DT[4, 1] = -0.5
S5 = rj.S5(H)


def timed(**options: Any) -> Callable[[], Any]:
    return lambda: rj.unroll(S5, params_of(S5), (XS, DT), **options)


ELAPSED: list[Row] = [
    (timed(), ValueError, "elapsed times `dt` must be 0 or more .. got -0.5: sort the steps by time, or mask"),
    (timed(lengths=np.array([1, 5, 1])), ValueError, "elapsed times `dt` must be 0 or more"),
    (timed(mask=~bools(T, B)), ValueError, "elapsed times `dt` must be 0 or more"),
]

TABLES = {
    "xs": INPUTS,
    "params": PARAMETERS,
    "state": STATES,
    "lengths": LENGTHS,
    "flags": FLAGS,
    "options": OPTIONS,
    "elapsed": ELAPSED,
    "constructors": CONSTRUCTORS,
    "init": INIT,
}
ROWS = [pytest.param(*row, id=f"{table}{i}") for table, rows in TABLES.items() for i, row in enumerate(rows)]


@pytest.mark.parametrize(("run", "error", "words"), ROWS)
def test_refused(run: Callable[[], Any], error: type[Exception], words: str) -> None:
    pattern = ".*".join(map(re.escape, words.split(" .. ")))
    with pytest.raises(error, match=pattern) as caught:
        run()
    assert type(caught.value) is error
    with pytest.raises(error, match=pattern):
        jax.eval_shape(run)


class Undecorated(rj.LSTM):
    """An LSTM without `rnnjax.struct`."""


@rj.struct
class AsksForValues(rj.LSTM):
    """An LSTM whose `init` reads a number and draws with NumPy, which it cannot where it is only traced."""

    tau: float = rj.node(default=2.0)

    def init(self, key: Any, in_size: int, dtype: Any = jnp.float32) -> Any:
        rng = np.random.default_rng(int(jax.random.key_data(key)[-1]))
        params = super().init(key, in_size, dtype)
        return params._replace(b=jnp.asarray(rng.normal(size=params.b.shape), dtype) if self.tau > 1 else params.b)


def test_a_class_without_struct_is_told() -> None:
    with pytest.raises(TypeError, match=r"`Undecorated` must be decorated with `rnnjax\.struct`"):
        rj.unroll(Undecorated(H), params_of(LSTM), XS)


def test_init_may_ask_for_values() -> None:
    cell = AsksForValues(H)
    params = cell.init(jax.random.key(3), I)
    got = rj.unroll(cell, params, XS)[0]
    np.testing.assert_array_equal(got, rj.unroll(rj.LSTM(H), params, XS)[0])


def test_features_are_found_in_any_order() -> None:
    """A dictionary's leaves come in the order of their names: here elapsed times before inputs."""

    @rj.struct
    class Timed(rj.GRU):
        def project(self, params: Any, x: Any, noise: Any = None) -> Any:
            return super().project(params, x["x"] * x["dt"][..., None])

    cell = Timed(H)
    params = cell.init(jax.random.key(0), I)
    dt = jnp.linspace(0.5, 2.0, T * B, dtype=XS.dtype).reshape(T, B)
    got = rj.unroll(cell, params, {"x": XS, "dt": dt}, lengths=jnp.full(B, T))[0]
    np.testing.assert_allclose(got, rj.unroll(rj.GRU(H), params, XS * dt[..., None])[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"must all lead with \(T, \*B\)"):
        rj.unroll(cell, params, {"x": XS, "dt": dt[:-1]})


@pytest.mark.parametrize("name", ["mask", "reset", "lengths"])
def test_refused_in_traced_calls_too(name: str) -> None:
    wrong = {"mask": bools(B, T), "reset": zeros(T, B), "lengths": zeros(B)}[name]
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
        jax.jit(lambda value: rj.unroll(GRU, params_of(GRU), XS, **{name: value}))(wrong)


@each_implementation
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint32])
def test_lengths_of_any_integer_dtype(dtype: Any, implementation: str) -> None:
    lengths = np.array([0, 6, 3], dtype)
    ys, _ = rj.unroll(GRU, params_of(GRU), XS, lengths=lengths, implementation=implementation)
    np.testing.assert_array_equal((np.asarray(ys) != 0).any(-1), np.arange(T)[:, None] < lengths)


def test_traced_lengths_act_as_if_cut() -> None:
    run = jax.jit(lambda lengths: rj.unroll(GRU, params_of(GRU), XS, lengths=lengths))
    jax.tree.map(np.testing.assert_array_equal, run(np.array([-2, 9, 3])), run(np.array([0, T, 3])))


def test_concrete_lengths_are_checked_inside_jit() -> None:
    fitting, too_long = jnp.array([1, 2, T]), jnp.array([1, 2, T + 1])
    run = lambda lengths: jax.eval_shape(lambda xs: rj.unroll(GRU, params_of(GRU), xs, lengths=lengths), XS)  # noqa: E731
    run(fitting)
    with pytest.raises(ValueError, match="got values from 1 to 7"):
        run(too_long)


@pytest.mark.parametrize("remat", [None, "state", "sqrt", 2])
@pytest.mark.parametrize("implementation", ["scan", None])
def test_no_time_steps(implementation: str | None, remat: Any) -> None:
    state = cells.GRUState(jnp.ones((B, H)))
    options = {"lengths": np.zeros(B, int), "remat": remat, "implementation": implementation}
    loss = lambda p, s: rj.unroll(GRU, p, XS[:0], s, **options)[1].h.sum()  # noqa: E731
    ys, last = rj.unroll(GRU, params_of(GRU), XS[:0], state, **options)
    assert ys.shape == (0, B, H)
    np.testing.assert_array_equal(last.h, state.h)
    d_params, d_state = jax.grad(loss, argnums=(0, 1))(params_of(GRU), state)
    assert not any(leaf.any() for leaf in d_params)
    np.testing.assert_array_equal(d_state.h, 1)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
@each_implementation
def test_no_rows(shape: tuple[int, ...], implementation: str) -> None:
    options = {"lengths": np.zeros(shape, int), "implementation": implementation}
    run = lambda p: rj.unroll(GRU, p, zeros(T, *shape, I), **options)  # noqa: E731
    ys, last = run(params_of(GRU))
    assert (ys.shape, last.h.shape) == ((T, *shape, H), (*shape, H))
    assert not any(leaf.any() for leaf in jax.grad(lambda p: run(p)[0].sum())(params_of(GRU)))


@each_implementation
def test_no_batch_axis(implementation: str) -> None:
    ys, last = rj.unroll(GRU, params_of(GRU), XS[:, 0], lengths=np.int32(4), implementation=implementation)
    wanted, wanted_last = rj.unroll(GRU, params_of(GRU), XS[:, :1], lengths=np.array([4]))
    np.testing.assert_allclose(ys, wanted[:, 0], atol=1e-12)
    np.testing.assert_allclose(last.h, wanted_last.h[0], atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@each_implementation
def test_garbage_at_valid_steps_stays_in_its_row(value: float, implementation: str) -> None:
    broken = XS.copy()
    broken[2, 1] = value
    run = lambda xs: rj.unroll(LSTM, params_of(LSTM), xs, implementation=implementation)  # noqa: E731
    ys, last = run(broken)
    wanted, wanted_last = run(XS)
    np.testing.assert_array_equal(ys[:, [0, 2]], wanted[:, [0, 2]])
    np.testing.assert_array_equal(ys[:2], wanted[:2])
    np.testing.assert_array_equal(last.h[::2], wanted_last.h[::2])
    if np.isnan(value):
        assert np.isnan(ys[2:, 1]).all()


@pytest.mark.parametrize("remat", [None, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "cell", [rj.MLSTM(H), rj.GLA(H, rank=2), rj.DeltaNet(H), rj.GatedDeltaNet(H), rj.LRU(H)], ids=repr
)
def test_garbage_reaches_no_step_before_it_in_a_chunk(cell: rj.Cell, value: float, remat: Any) -> None:
    params, broken = params_of(cell), XS.copy()
    broken[2, 1] = value
    run = jax.jit(lambda xs: rj.unroll(cell, params, xs, implementation="chunked", remat=remat))
    (ys, last), (wanted, wanted_last) = run(broken), run(XS)
    np.testing.assert_array_equal(ys[:, [0, 2]], wanted[:, [0, 2]])
    np.testing.assert_array_equal(ys[:2], wanted[:2])
    assert not np.isfinite(ys[2:, 1]).all(-1).any()
    for leaf, want in zip(last, wanted_last, strict=True):
        np.testing.assert_array_equal(leaf[::2], want[::2])


def test_times_below_zero_where_nothing_is_read() -> None:
    at = {"lengths": np.array([6, 4, 6])}, {"mask": DT >= 0}
    for options in at:
        timed(**options)()
    jax.eval_shape(lambda dt: rj.unroll(S5, params_of(S5), (XS, dt)), DT)


@pytest.mark.parametrize(
    ("xs", "params", "compute", "ys", "state"),
    [
        ("float32", "float32", None, "float32", "float32"),
        ("float64", "float32", None, "float64", "float64"),
        ("float16", "float32", None, "float32", "float32"),
        ("bfloat16", "float32", None, "float32", "float32"),
        ("float32", "bfloat16", None, "float32", "float32"),
        ("bfloat16", "bfloat16", None, "bfloat16", "float32"),
        ("float16", "bfloat16", None, "float32", "float32"),
        ("float32", "float32", "bfloat16", "bfloat16", "float32"),
        ("float64", "float64", "float16", "float16", "float32"),
        ("bfloat16", "float32", "float64", "float64", "float64"),
    ],
)
@each_implementation
def test_floating_dtypes(xs: str, params: str, compute: Any, ys: str, state: str, implementation: str) -> None:
    cell = rj.GRU(H, compute_dtype=compute)
    own = cell.init(jax.random.key(0), I, jnp.dtype(params))
    start = cells.GRUState(jnp.zeros((B, H), jnp.bfloat16))
    got = rj.unroll(cell, own, jnp.asarray(XS, jnp.dtype(xs)), start, implementation=implementation)
    assert (got[0].dtype, got[1].h.dtype) == (jnp.dtype(ys), jnp.dtype(state))


def test_numpy_arguments_are_arrays() -> None:
    params = jax.tree.map(np.asarray, params_of(GRU))
    wanted = rj.unroll(GRU, params_of(GRU), jnp.asarray(XS), mask=jnp.ones((T, B), bool))
    jax.tree.map(np.testing.assert_array_equal, rj.unroll(GRU, params, XS, mask=np.ones((T, B), bool)), wanted)
