"""The NNX modules under NNX's and JAX's transformations, their options and their messages."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.errors import TraceContextError
from jax.sharding import AxisType, PartitionSpec

import rnnjax as rj
from rnnjax.flax import _shared
from rnnjax.flax import linen as rlinen
from rnnjax.flax import nnx as rnnx

B, T, F, H = 3, 4, 2, 3  # F features of the inputs
X = np.random.default_rng(0).standard_normal((B, T, F)).astype(np.float32)


def lstm(**options: Any) -> rnnx.LSTM:
    return rnnx.LSTM(F, H, rngs=nnx.Rngs(0), **options)


def loss(module: Any, x: Any = X) -> jax.Array:
    return jnp.sum(jnp.sin(module(x)))


def close(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


def arrays(state: Any) -> Any:
    return nnx.to_pure_dict(nnx.state(state, nnx.Param))


def test_gradients_in_every_form() -> None:
    module = lstm()
    wanted = arrays(nnx.grad(loss)(module))
    graph, state = nnx.split(module)
    close(arrays(jax.grad(loss)(module)), wanted)
    close(nnx.to_pure_dict(jax.grad(lambda state: loss(nnx.merge(graph, state)))(state)), wanted)
    close(arrays(nnx.jit(nnx.value_and_grad(loss))(module)[1]), wanted)
    close(arrays(jax.jit(jax.grad(loss))(module)), wanted)


def test_closed_over_by_plain_jax() -> None:
    """In training mode: a module without noise keeps no stream that a trace could not advance."""
    module = lstm()
    assert module.rngs is None
    assert not nnx.state(module, nnx.RngState)
    close(jax.jit(lambda x: module(x))(X), module(X))
    close(jax.grad(lambda x: loss(module, x))(X), nnx.grad(loss, argnums=1)(module, X))
    close(jax.vmap(lambda x: module(x))(X), module(X))


def test_sequential_and_training() -> None:
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        rnnx.GRU(F, H, bidirectional=True, return_sequences=False, rngs=rngs), nnx.Linear(2 * H, 1, rngs=rngs)
    )
    optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer) -> jax.Array:
        value, gradient = nnx.value_and_grad(lambda model: jnp.mean(jnp.square(model(X) - 1)))(model)
        optimizer.update(model, gradient)
        return value

    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.1 * losses[0]


def test_ensemble() -> None:
    """Members made over split streams are as if made one by one; also with dropout, whose stream is split too."""

    def make(rngs: nnx.Rngs) -> rnnx.Elman:
        return rnnx.Elman(F, H, num_layers=2, dropout=0.5, rngs=rngs)

    members = nnx.split_rngs(splits=3)(nnx.vmap(make))(nnx.Rngs(0))
    assert members.weights["layer_0"]["w"].shape == (3, F, H)
    assert members.rngs.key.shape == (3,)
    graph, state = nnx.split(members)
    alone = [nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(3)]
    members.eval()
    wanted = jnp.stack([module(X, deterministic=True) for module in alone])
    close(nnx.vmap(lambda module: module(X))(members), wanted)
    close(jax.vmap(lambda module: module(X))(members), wanted)
    members.train()
    noisy = nnx.vmap(lambda module: module(X))(members)
    assert not np.allclose(noisy[0], noisy[1])
    assert members.rngs.count[...].tolist() == [1, 1, 1]


def test_dropout_and_modes() -> None:
    module = rnnx.Elman(F, H, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    plain = module(X, deterministic=True)
    first, second = module(X), module(X)
    assert not np.allclose(first, second)
    close(nnx.view(module, deterministic=True)(X), plain)
    module.eval()
    close(module(X), plain)
    close(jax.jit(lambda x: module(x))(X), plain)
    assert not np.allclose(module(X, deterministic=False), plain)
    module.train()
    assert not np.allclose(nnx.jit(lambda module: module(X))(module), nnx.jit(lambda module: module(X))(module))
    with pytest.raises(TraceContextError):
        jax.jit(lambda x: module(x))(X)

    key = jax.random.key(5)
    wanted, _ = module.functional(module.params, X.swapaxes(0, 1), key=key)
    close(jax.jit(lambda x: module(x, rngs=key))(X), jnp.swapaxes(wanted, 0, 1))
    stream = nnx.Rngs(dropout=7)
    close(module(X, rngs=nnx.Rngs(7)), module(X, rngs=stream.dropout))


def test_dropout_is_between_layers() -> None:
    layer, drop = rj.Bidirectional(rj.Elman(H)), rj.Dropout(0.5)
    options = {"bidirectional": True, "dropout": 0.5}
    assert rnnx.Elman(F, H, 3, rngs=nnx.Rngs(0), **options).functional == rj.Stack([layer, drop, layer, drop, layer])
    with pytest.warns(UserWarning, match="`dropout` lies between layers, and there is one"):
        assert rnnx.Elman(F, H, rngs=nnx.Rngs(0), **options).functional == rj.Stack([layer])


def test_streams_are_kept_for_noise_only() -> None:
    def kept(layer: Any) -> bool:
        return rnnx.Layer(layer, F, rngs=nnx.Rngs(0)).rngs is not None

    assert kept(rj.WeightDrop(rj.Elman(H)))
    assert kept(rj.Stack([rj.Elman(H), rj.VariationalDropout(0.1)]))
    assert not kept(rj.Bidirectional(rj.Stack([rj.Elman(H), rj.Last()])))
    assert not kept(rj.Block(rj.Dense(F)))
    assert kept(rj.Block(rj.Dense(F), dropout=jnp.float32(0)))  # which may change
    assert rnnx.Layer(rj.Stack([rj.Elman(H)]), F, rngs=nnx.Rngs(0)).rngs is None
    assert rnnx.LSTM(F, H, 2, dropout=0.5, rngs=nnx.Rngs(params=0)).rngs is None
    with pytest.raises(ValueError, match="no random stream"):
        rnnx.LSTM(F, H, 2, dropout=0.5, rngs=nnx.Rngs(params=0))(X)


def test_names_do_not_depend_on_what_has_no_parameters() -> None:
    def names(module: nnx.Module) -> set[tuple[Any, ...]]:
        return {path for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))}

    wanted = {
        ("weights", f"layer_{i}", direction, array)
        for i in range(2)
        for direction in ("forward", "backward")
        for array in "wub"
    }
    assert names(lstm(num_layers=2, bidirectional=True)) == wanted
    assert names(lstm(num_layers=2, bidirectional=True, dropout=0.1, return_sequences=False)) == wanted
    assert names(rnnx.RNN(rj.Elman(H), F, rngs=nnx.Rngs(0))) == {("weights", array) for array in "wub"}


def test_round_trip_of_parameters() -> None:
    module = lstm(num_layers=2)
    params = module.params
    assert jax.tree.structure(params) == jax.tree.structure(module.functional.init(jax.random.key(0), F))
    again = rnnx.LSTM(F, H, 2, params=params)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, params))
    with pytest.raises(
        ValueError, match=r"layer_0\.w` must have shape \(5, 12\) for inputs of 5 features; got \(2, 12\)"
    ):
        rnnx.LSTM(5, H, 2, params=params)
    with pytest.raises(ValueError, match=r"names layer_0\.b, .*; got layer_0\.b"):
        rnnx.LSTM(F, H, 1, params=params)


@pytest.mark.parametrize(
    ("dropout", "given"),
    [
        (0.0, lambda first, second: (first, (), second)),
        (0.5, lambda first, second: (first, second)),
        (0.5, lambda first, second: [first, second]),
        (0.5, lambda first, second: {"layer_0": first, "layer_1": second}),
    ],
)
def test_parameters_of_layers_with_dropout_on_one_side(dropout: float, given: Callable[..., Any]) -> None:
    """Dropout has no arrays, so that parameters with and without an entry for it fit modules with and without it."""
    first, second = lstm(num_layers=2).params
    module = rnnx.LSTM(F, H, 2, dropout=dropout, params=given(first, second))
    module.eval()
    ys, _ = rj.unroll(rj.LSTM(H), first, X.swapaxes(0, 1))
    ys, _ = rj.unroll(rj.LSTM(H), second, ys)
    close(module(X), jnp.swapaxes(ys, 0, 1))
    assert jax.tree.structure(module.params) == jax.tree.structure(module.functional.init(jax.random.key(0), F))


def test_save_and_restore() -> None:
    module = lstm(num_layers=2, dropout=0.5)
    saved = jax.tree.map(np.asarray, arrays(module))
    shapes = nnx.eval_shape(lambda: rnnx.LSTM(F, H, 2, deterministic=True, rngs=nnx.Rngs(1)))
    graph, state = nnx.split(shapes)
    nnx.replace_by_pure_dict(state, saved)
    close(nnx.merge(graph, state)(X), module(X, deterministic=True))
    other = rnnx.LSTM(F, H, 2, rngs=nnx.Rngs(1))
    nnx.update(other, nnx.state(module, nnx.Param))
    close(other(X), module(X, deterministic=True))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), nnx.clone(module)):
        close(twin(X, deterministic=True), module(X, deterministic=True))
    assert "layer_1" in repr(module)


def test_bridge_to_linen() -> None:
    model = nnx.bridge.ToLinen(rnnx.LSTM, args=(F, H), kwargs={"num_layers": 2})
    ys, variables = model.init_with_output(jax.random.key(0), X)
    close(rlinen.LSTM(H, 2).apply({"params": variables["params"]}, X), ys)


def test_sharding() -> None:
    sharding = {"w": (None, "model"), "b": PartitionSpec("model")}
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        module = lstm(sharding=sharding)
        assert module.weights["layer_0"]["w"].get_value().sharding.spec == PartitionSpec(None, "model")
    specs = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(module, nnx.Param)))["weights"]["layer_0"]
    assert specs["w"] == PartitionSpec(None, "model")
    assert specs["b"] == PartitionSpec("model")
    assert not specs["u"]
    with nnx.use_eager_sharding(False):
        close(lstm(sharding=sharding)(X), lstm()(X))
        with pytest.raises(ValueError, match=r"must name arrays among layer_0\.b, .*; got 'kernel'"):
            lstm(sharding={"kernel": (None, "model")})
        with pytest.raises(
            ValueError, match=r"one mesh axis, or None, for each of the 2 axes of \(2, 12\); got \('model',\)"
        ):
            lstm(sharding={"w": ("model",)})


def test_a_rate_of_zero_from_numpy() -> None:
    """It is kept as an array, which may become any number."""
    rates = [rnnx.Layer(rj.Block(rj.Dense(F), dropout=rate), F, rngs=nnx.Rngs(0)) for rate in (np.float64(0), 0)]
    close(*(module(X) for module in rates))


def test_rates_share_a_look_for_noise() -> None:
    looks = []
    for rate in (0.1, 0.2, 0.3):
        assert rnnx.Layer(rj.Dropout(rate), 7, rngs=nnx.Rngs(0)).rngs is not None
        looks.append(_shared._draws_noise.cache_info().currsize)
    assert len(set(looks)) == 1


def test_the_longest_name_says_the_sharding() -> None:
    layer = rj.Stack([rj.Embedding(5, F), rj.Bidirectional(rj.Elman(H)), rj.Dense(2)])
    sharding = {"w": ("a", None), "backward.w": ("b", None), "layer_0.w": (None, "c"), "layer_1.backward.b": ("d",)}
    with nnx.use_eager_sharding(False):
        module = rnnx.Layer(layer, None, sharding=sharding, rngs=nnx.Rngs(0))
    specs = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(module, nnx.Param)))["weights"]
    assert specs["layer_0"]["w"] == PartitionSpec(None, "c")
    assert specs["layer_1"]["forward"]["w"] == specs["layer_2"]["w"] == PartitionSpec("a", None)
    assert specs["layer_1"]["backward"]["w"] == PartitionSpec("b", None)
    assert specs["layer_1"]["backward"]["b"] == PartitionSpec("d")
    assert not specs["layer_1"]["forward"]["b"]
    nested = rj.Stack([rj.Block(rj.LRU(8), conv=4), rj.Dense(5)])  # has "layer_0.layer_1.w" too
    with nnx.use_eager_sharding(False):
        module = rnnx.Layer(nested, F, sharding={"layer_1.w": ("a", None)}, rngs=nnx.Rngs(0))
    specs = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(module, nnx.Param)))["weights"]
    assert specs["layer_1"]["w"] == PartitionSpec("a", None)
    assert not specs["layer_0"]["layer_1"]["w"]
    with pytest.raises(ValueError, match=r"got 'ackward\.w'"):
        rnnx.Layer(layer, None, sharding={"ackward.w": ("a", None)}, rngs=nnx.Rngs(0))


def test_explicit_mesh() -> None:
    """A batch that is sharded in its type."""
    module = lstm(num_layers=2, bidirectional=True)
    wanted = module(X)
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))):
        x = jax.device_put(jnp.asarray(X), PartitionSpec("data"))
        ys = jax.jit(lambda x: module(x))(x)
        assert jax.typeof(ys).sharding.spec[0] == "data"
    close(ys, wanted)


def test_one_explicit_mesh_after_another() -> None:
    for steps, name in ((4, "a"), (5, "b")):
        with jax.set_mesh(jax.make_mesh((1,), (name,), axis_types=(AxisType.Explicit,))):
            module = rnnx.GRU(F, H, dropout=0.1, num_layers=2, rngs=nnx.Rngs(0))
            assert module(jnp.ones((B, steps, F))).shape == (B, steps, H)


@pytest.mark.parametrize("kind", [rnnx.LSTM, rnnx.GRU, rnnx.Elman], ids=lambda kind: kind.__name__)
def test_bfloat16(kind: type[rnnx.Recurrent]) -> None:
    module = kind(F, H, param_dtype=jnp.bfloat16, compute_dtype="bfloat16", rngs=nnx.Rngs(0))
    ys, state = module.unroll(X)
    assert ys.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    gradient = nnx.grad(lambda module: jnp.sum(module(X).astype(jnp.float32)))(module)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


def test_layouts() -> None:
    """Any number of batch axes, none among them, and time-major, all say the same."""
    module = lstm(bidirectional=True)
    major = rnnx.LSTM(F, H, bidirectional=True, time_major=True, params=module.params)
    x = np.stack([X, -X])
    lengths, mask = np.array([[4, 2, 0], [1, 3, 4]]), np.arange(T) % 3 != 1
    masks = np.broadcast_to(mask, (2, B, T))
    ys = module(x, lengths=lengths, mask=masks)
    assert ys.shape == (2, B, T, 2 * H)
    close(module(x[1], lengths=lengths[1], mask=masks[1]), ys[1])
    close(module(x[1, 1], lengths=lengths[1, 1], mask=mask), ys[1, 1])
    moved = major(np.moveaxis(x, 2, 0), lengths=lengths, mask=np.moveaxis(masks, 2, 0))
    close(jnp.moveaxis(moved, 0, 2), ys)
    assert module(x[:, :0]).shape == (2, 0, T, 2 * H)
    assert module(x[:, :, :0]).shape == (2, B, 0, 2 * H)


def test_last_outputs() -> None:
    """Of a layer that runs backwards the first valid one, zeros where there is none."""
    full = rnnx.RNN(rj.GRU(H), F, reverse=True, rngs=nnx.Rngs(0))
    last = rnnx.RNN(rj.GRU(H), F, reverse=True, return_sequences=False, params=full.params)
    mask = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    ys, ends = full(X, mask=mask), last(X, mask=mask)
    close(ends, jnp.stack([ys[0, 1], jnp.zeros_like(ys[0, 0]), ys[2, 0]]))


def test_streaming_and_initial_state() -> None:
    module = rnnx.Layer(rj.LearnedInitialState(rj.LSTM(H)), F, rngs=nnx.Rngs(0))
    whole, last = module.unroll(X)
    state, pieces = module.initial_state((B,)), []
    for x in np.split(X, 2, axis=1):
        ys, state = module.unroll(x, state)
        pieces.append(ys)
    close((jnp.concatenate(pieces, axis=1), state), (whole, last))


def test_numbers_given_as_arrays() -> None:
    """They are variables, so that gradients and ensembles reach them, but not parameters."""
    params = rnnx.RNN(rj.LeakyElman(H), F, rngs=nnx.Rngs(0)).params

    def make(leak: Any) -> rnnx.RNN:
        return rnnx.RNN(rj.LeakyElman(H, leak=leak), F, params=params)

    module = make(jnp.float32(0.3))
    close(module(X), make(0.3)(X))
    assert not nnx.state(make(0.3), rnnx.Hyper)
    assert isinstance(module.functional.cell.leak, jax.Array)
    gradient = nnx.grad(loss, argnums=nnx.DiffState(0, rnnx.Hyper))(module)
    (slope,) = jax.tree.leaves(gradient)
    close(slope, jax.grad(lambda leak: loss(make(leak)))(jnp.float32(0.3)))
    leaks = jnp.array([0.3, 0.6])
    members = nnx.vmap(make)(leaks)
    close(nnx.vmap(lambda module: module(X))(members), jnp.stack([make(0.3)(X), make(0.6)(X)]))


def test_two_numbers_never_share_a_name() -> None:
    """`cell.cell_rate` and `cell.cell.rate` would both be `cell_cell_rate`."""
    inner = rj.RecurrentDropout(rj.LSTM(H), jnp.float32(0))
    cell = rj.Zoneout(inner, jnp.float32(0.05), cell_rate=jnp.float32(0.9))
    module = rnnx.RNN(cell, F, rngs=nnx.Rngs(0))
    for twin in (module, nnx.merge(*nnx.split(module)), pickle.loads(pickle.dumps(module))):
        assert sorted(twin.hyper) == ["cell.cell.rate", "cell.cell_rate", "cell_rate"]
        assert twin.functional.cell == cell
    # whatever has a name of its own keeps it, so that what was saved under it can be restored
    module = rnnx.RNN(rj.Zoneout(rj.LSTM(H), 0.05, cell_rate=jnp.float32(0.9)), F, rngs=nnx.Rngs(0))
    assert sorted(module.hyper) == ["cell_cell_rate"]


class Empty(NamedTuple):
    """No arrays."""


class Summed(NamedTuple):
    h: jax.Array


@rj.struct
class Elapsed(rj.Cell):
    """h_t = h_{t-1} + dt_t Σ x_t, for inputs that are pairs (x, dt)."""

    hidden_size: int = 1

    def init(self, key: Any, in_size: int, dtype: Any = jnp.float32) -> Empty:
        return Empty()

    def initial_state(self, params: Any, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Summed:
        return Summed(jnp.zeros((*batch_shape, 1), dtype))

    def project(self, params: Any, x: Any, noise: Any = None) -> jax.Array:
        return jnp.sum(x[0], axis=-1, keepdims=True) * x[1]

    def step(self, params: Any, state: Summed, z: jax.Array) -> Summed:
        return Summed(state.h + z)


def test_pairs_as_inputs() -> None:
    """Only a call can tell whether noise is drawn; here it is not, and nothing is advanced."""
    module = rnnx.RNN(Elapsed(), F, rngs=nnx.Rngs(0))
    x = (jnp.ones((B, T, F)), jnp.full((B, T, 1), 0.5))
    close(jax.jit(lambda x: module(x))(x)[..., 0], jnp.broadcast_to(jnp.arange(1.0, T + 1), (B, T)))
    assert rlinen.RNN(Elapsed()).apply({"params": {"weights": {}}}, x).shape == (B, T, 1)


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lstm(num_layers=0), ValueError, "`num_layers` must be at least 1; got 0"),
    (lambda: lstm(num_layers=1.5), TypeError, "`num_layers` must be a positive integer"),
    (lambda: lstm(dropout=1.5), ValueError, "`dropout` must lie in"),
    (lambda: lstm(dropout=1), ValueError, "`dropout` must be below 1"),
    (lambda: lstm(bidirectional="yes"), TypeError, "`bidirectional` must be True or False; got 'yes'"),
    (lambda: lstm(time_major=None), TypeError, "`time_major` must be True or False"),
    (lambda: lstm(param_dtype=int), TypeError, "`param_dtype` must be a floating-point dtype"),
    (lambda: lstm(compute_dtype=int), TypeError, "`compute_dtype` must be a floating-point dtype"),
    (lambda: rnnx.LSTM(0, H, rngs=nnx.Rngs(0)), ValueError, "`in_features` must be at least 1"),
    (lambda: rnnx.LSTM(F, 0, rngs=nnx.Rngs(0)), ValueError, "`hidden_size` must be at least 1"),
    (lambda: rnnx.LSTM(F, H), ValueError, "`rngs` must be given"),
    (lambda: rnnx.LSTM(F, H, rngs=jax.random.key(0)), TypeError, "`rngs` must be an nnx.Rngs"),
    (lambda: rnnx.Layer(rj.LSTM, F, rngs=nnx.Rngs(0)), TypeError, "make an instance"),
    (lambda: rnnx.RNN(rj.RNN(rj.LSTM(H)), F, rngs=nnx.Rngs(0)), TypeError, "`cell` must be a cell"),
    (lambda: lstm()(X[0, 0]), ValueError, r"`x` must be \(\*B, T, I\), at least 2 axes; got shape \(2,\)"),
    (lambda: lstm()(X.tolist()), TypeError, r"`x` must be an array \(\*B, T, I\); got float"),
    (lambda: lstm()(X[..., :1]), ValueError, r"in_features = 2 on its last axis; got 1, in shape \(3, 4, 1\)"),
    (lambda: lstm()(X.astype(int)), TypeError, "must be floating point"),
    (lambda: lstm()(X, lengths=np.array([1.0, 2.0, 3.0])), TypeError, "`lengths` must be an integer array"),
    (lambda: lstm()(X, lengths=[1, 2, 3]), TypeError, "`lengths` must be an integer array .* got list"),
    (lambda: lstm()(X, lengths=np.ones(3, bool)), TypeError, r"got bool\(3,\): pass it as `mask`"),
    (lambda: lstm()(X, lengths=np.array([1, 2])), ValueError, r"`lengths` must be \(\*B\) = \(3,\).*batch-major"),
    (lambda: lstm()(X, lengths=np.array([1, 2, 5])), ValueError, "must lie in 0…T = 4"),
    (lambda: lstm()(X, mask=np.ones((T, B), bool)), ValueError, r"`mask` must be \(\*B, T\) = \(3, 4\).*batch-major"),
    (lambda: lstm()(X, reset=np.ones((B, T))), TypeError, "`reset` must be a boolean array .* compare with zero"),
    (lambda: lstm()(X, reset=[[True]]), TypeError, "`reset` must be a boolean array .* got list: convert it with"),
    (lambda: lstm(time_major=True)(X, mask=np.ones((T, B), bool)), ValueError, r"must be \(T, \*B\) = \(3, 4\)"),
    (lambda: lstm(num_layers=2)(X, lstm().initial_state((B,))), ValueError, "`state` must have 2 entries"),
    (lambda: lstm()(X, lstm().initial_state((1,))), ValueError, "States are never broadcast"),
    (lambda: lstm(num_layers=2, dropout=0.1)(X, rngs="dropout"), TypeError, "`key` must be a JAX random key"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_a_table_of_the_module() -> None:
    module = rnnx.LSTM(3, 4, num_layers=2, rngs=nnx.Rngs(0))
    assert "float32[2,5,4]" in nnx.tabulate(
        module, jnp.ones((2, 5, 3), jnp.float32), console_kwargs={"no_color": True, "force_terminal": False}
    )
