"""The linen modules under linen's and JAX's transformations, their options and their messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.errors import ScopeCollectionNotFound
from jax.sharding import PartitionSpec

import rnnjax as rj
from rnnjax.flax import linen as rlinen

B, T, F, H = 3, 4, 2, 3  # F features of the inputs
X = np.random.default_rng(0).standard_normal((B, T, F)).astype(np.float32)


def close(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


def start(module: nn.Module, x: Any = X) -> Any:
    return module.init(jax.random.key(0), x)


def test_features_are_those_of_the_inputs() -> None:
    variables = start(rlinen.LSTM(H, 2, bidirectional=True))
    shapes = jax.tree.map(jnp.shape, variables["params"]["weights"])
    first = {"w": (F, 4 * H), "u": (H, 4 * H), "b": (4 * H,)}
    second = {**first, "w": (2 * H, 4 * H)}
    assert shapes == {
        "layer_0": {"forward": first, "backward": first},
        "layer_1": {"forward": second, "backward": second},
    }
    assert jax.tree.map(jnp.shape, start(rlinen.RNN(rj.LSTM(H)))["params"]["weights"]) == first
    dropped = rlinen.LSTM(H, 2, bidirectional=True, dropout=0.1, deterministic=True, return_sequences=False)
    assert jax.tree.map(jnp.shape, start(dropped)) == jax.tree.map(jnp.shape, variables)


def test_inside_other_modules() -> None:
    """In `setup`, in a compact method, and in `Sequential`, with the gradient under `jit`."""

    class Tagger(nn.Module):
        def setup(self) -> None:
            self.encoder = rlinen.GRU(H, bidirectional=True)

        @nn.compact
        def __call__(self, x: Any) -> jax.Array:
            return nn.Dense(2)(rlinen.Elman(H, name="top")(self.encoder(x)))

    variables = start(Tagger())
    assert set(variables["params"]) == {"encoder", "top", "Dense_0"}
    gradient = jax.jit(jax.grad(lambda variables: jnp.sum(Tagger().apply(variables, X))))(variables)
    assert jax.tree.structure(gradient) == jax.tree.structure(variables)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["params"]["encoder"]))

    model = nn.Sequential([rlinen.Elman(H), nn.Dense(2)])
    assert model.apply(start(model), X).shape == (B, T, 2)


def test_ensemble() -> None:
    members = nn.vmap(rlinen.Elman, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2)
    variables = start(members(H))
    assert variables["params"]["weights"]["layer_0"]["w"].shape == (2, F, H)
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i], variables) for i in range(2)]
    assert not np.allclose(*(own["params"]["weights"]["layer_0"]["w"] for own in alone))
    close(members(H).apply(variables, X), jnp.stack([rlinen.Elman(H).apply(own, X) for own in alone]))


def test_remat_and_jit() -> None:
    variables = start(rlinen.Elman(H))
    wanted = rlinen.Elman(H).apply(variables, X)
    for transform in (nn.remat, nn.jit):
        close(transform(rlinen.Elman)(H).apply(variables, X), wanted)


def test_arguments_by_position_under_lifted_transformations() -> None:
    """Keywords do not get through: `vmap` drops them, and `remat` makes tracers of them."""
    x, lengths = np.stack([X, -X]), np.array([[4, 0, 2], [1, 3, 4]])
    each = nn.vmap(rlinen.Elman, in_axes=(0, None, 0), variable_axes={"params": None}, split_rngs={"params": False})(H)
    variables = each.init(jax.random.key(0), x, None, lengths)
    ys = each.apply(variables, x, None, lengths)
    own = jax.tree.map(np.asarray, rlinen.Elman(H).to_params(variables)[0])
    for row in np.ndindex(2, B):
        end = lengths[row]
        h = np.zeros(H)
        for t in range(T):
            h = np.tanh(x[row][t] @ own.w + h @ own.u + own.b)
            np.testing.assert_allclose(ys[row][t], h if t < end else 0, rtol=2e-5, atol=2e-6)


def test_remat_of_a_module_with_dropout() -> None:
    rest = X, None, None, None, None, None
    module = nn.remat(rlinen.Elman, static_argnums=7)(H, 2, dropout=0.5)
    variables = module.init(jax.random.key(0), *rest, True)
    quiet = module.apply(variables, *rest, True)
    close(quiet, rlinen.Elman(H, 2).apply(variables, X))
    assert not np.allclose(quiet, module.apply(variables, *rest, False, rngs={"dropout": jax.random.key(1)}))
    with pytest.raises(TypeError, match=r"`deterministic` must be known .*; got .*Tracer.* `static_argnums=7`"):
        nn.remat(rlinen.Elman)(H, 2).apply(variables, X, deterministic=True)


def test_dropout() -> None:
    module = rlinen.Elman(H, 2, dropout=0.5)
    with pytest.raises(ValueError, match="this module draws noise: give `deterministic`"):
        start(module)
    variables = module.init(jax.random.key(0), X, deterministic=True)
    plain = module.apply(variables, X, deterministic=True)
    close(module.apply(variables, X, deterministic=jnp.asarray(True)), plain)

    def noisy(seed: int) -> jax.Array:
        return module.apply(variables, X, deterministic=False, rngs={"dropout": jax.random.key(seed)})

    close(noisy(1), noisy(1))
    assert not np.allclose(noisy(1), noisy(2))
    assert not np.allclose(noisy(1), plain)
    close(rlinen.Elman(H, 2, dropout=0.5, deterministic=True).apply(variables, X), plain)
    close(rlinen.Elman(H, 2).apply(variables, X), plain)


def test_round_trip_of_parameters() -> None:
    module = rlinen.GRU(H, 2)
    params = module.functional.init(jax.random.key(0), F)
    variables = module.to_variables(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, module.to_params(variables), params))
    residual = rlinen.Layer(rj.Residual(rj.GRU(H)))
    own = residual.functional.init(jax.random.key(0), H)
    assert jax.tree.all(jax.tree.map(np.array_equal, residual.to_params(residual.to_variables(own), H), own))
    with pytest.raises(ValueError, match=r"names layer_0\.b, .*; got layer_0\.b"):
        rlinen.GRU(H, 1).to_params(variables)


def test_initial_state_needs_parameters() -> None:
    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            rnn = rlinen.GRU(H)
            return rnn.unroll(x, rnn.initial_state(x.shape[:1]))[0]

    with pytest.raises(ValueError, match="reads this module's parameters, which its first call makes"):
        Decoder().init(jax.random.key(0), X)


def test_streaming_and_initial_state() -> None:
    module = rlinen.Layer(rj.LearnedInitialState(rj.Elman(H)))
    variables = start(module)
    whole, last = module.apply(variables, X, method="unroll")
    state, pieces = module.apply(variables, (B,), method="initial_state"), []
    for x in np.split(X, 2, axis=1):
        ys, state = module.apply(variables, x, state, method="unroll")
        pieces.append(ys)
    close((jnp.concatenate(pieces, axis=1), state), (whole, last))


def test_bridge_to_nnx() -> None:
    module = nnx.bridge.ToNNX(rlinen.Elman(H, 2), rngs=nnx.Rngs(0)).lazy_init(X)
    weights = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    close(module(X), rlinen.Elman(H, 2).apply({"params": weights}, X))


def test_sharding() -> None:
    module = rlinen.LSTM(H, sharding={"w": (None, "model"), "b": ("model",)})
    variables = start(module)
    specs = nn.get_partition_spec(variables)["params"]["weights"]["layer_0"]
    assert specs == {"w": PartitionSpec(None, "model"), "u": PartitionSpec(), "b": PartitionSpec("model")}
    plain = nn.unbox(variables)
    close(module.apply(variables, X), rlinen.LSTM(H).apply(plain, X))
    assert jax.tree.structure(module.to_variables(module.to_params(variables))) == jax.tree.structure(variables)
    with pytest.raises(
        ValueError, match=r"among layer_0\.b, layer_0\.u, layer_0\.w, by the whole name or its end; got 'k"
    ):
        start(rlinen.LSTM(H, sharding={"kernel": (None, "model")}))


def test_bfloat16() -> None:
    module = rlinen.GRU(H, param_dtype=jnp.bfloat16, compute_dtype="bfloat16")
    variables = start(module)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}
    ys, state = module.apply(variables, X, method="unroll")
    assert ys.dtype == jnp.bfloat16
    assert state[0].h.dtype == jnp.float32


def test_shown_and_compared() -> None:
    module = rlinen.LSTM(H, 2)
    assert module == rlinen.LSTM(H, num_layers=2)
    assert hash(module) == hash(rlinen.LSTM(H, 2))
    assert module.clone(num_layers=3).functional == rlinen.LSTM(H, 3).functional
    table = module.tabulate(jax.random.key(0), X, console_kwargs={"width": 120, "force_terminal": False})
    assert "layer_1" in table


def test_a_state_for_inputs_of_some_features() -> None:
    state = RESIDUAL.apply(start(RESIDUAL), (B,), in_features=F, method="initial_state")
    assert jax.tree.map(jnp.shape, state) == rj.GRU(F).initial_state(None, (B,))._replace(h=(B, F))


RESIDUAL = rlinen.Layer(rj.Residual(rj.GRU(F)))
ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: rlinen.LSTM(H, 0), ValueError, "`num_layers` must be at least 1; got 0"),
    (lambda: rlinen.LSTM(H, dropout=1.5), ValueError, "`dropout` must lie in"),
    (lambda: rlinen.LSTM(0), ValueError, "`hidden_size` must be at least 1"),
    (lambda: rlinen.LSTM(H, bidirectional="yes"), TypeError, "`bidirectional` must be True or False"),
    (lambda: rlinen.LSTM(H, return_sequences=1), TypeError, "`return_sequences` must be True or False"),
    (lambda: rlinen.LSTM(H, time_major=None), TypeError, "`time_major` must be True or False"),
    (lambda: rlinen.LSTM(H, deterministic=1), TypeError, "`deterministic` must be True or False"),
    (lambda: rlinen.LSTM(H, param_dtype=int), TypeError, "`param_dtype` must be a floating-point dtype"),
    (lambda: rlinen.Elman(H, recurrent_init="zeros"), ValueError, "`recurrent_init` must be one of"),
    (lambda: rlinen.Layer(rj.LSTM), TypeError, "make an instance"),
    (lambda: rlinen.RNN(rj.RNN(rj.LSTM(H))), TypeError, "`cell` must be a cell"),
    (lambda: start(rlinen.Elman(H), X[0, 0]), ValueError, r"`x` must be \(\*B, T, I\), at least 2 axes"),
    (lambda: start(rlinen.Elman(H), X.astype(int)), TypeError, "must be floating point"),
    (lambda: rlinen.Elman(H).apply({}, X), ScopeCollectionNotFound, "params"),
    (
        lambda: RESIDUAL.apply(start(RESIDUAL), (B,), method="initial_state"),
        ValueError,
        "without the features of its inputs: pass `in_features`",
    ),
    (
        lambda: rlinen.Elman(H).apply(start(rlinen.Elman(H)), X[..., :1]),
        ValueError,
        r"`weights\.layer_0\.w` must have shape \(1, 3\) for inputs of 1 features; got \(2, 3\)",
    ),
    (
        lambda: rlinen.Elman(H).apply(start(rlinen.Elman(H)), X, mask=np.ones((T, B), bool)),
        ValueError,
        r"`mask` must be \(\*B, T\) = \(3, 4\).*batch-major",
    ),
    (
        lambda: rlinen.Elman(H).apply(start(rlinen.Elman(H)), X, lengths=np.ones(B)),
        TypeError,
        "`lengths` must be an integer array",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
