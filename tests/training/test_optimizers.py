"""Recipes of optimizers: the order of the chain, what decays, and what a gradient that is not finite does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnnjax as rj
from rnnjax.flax import nnx as rnnx
from rnnjax.training import optimizer, skip_if_nonfinite, skipped_steps
from rnnjax.training.optimizers import ALGORITHMS, check_accumulation, recurrent


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Optax mixes dtypes, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


CELL = rj.LSTM(3)
PARAMS = CELL.init(jax.random.key(0), 2)
GRADIENT = jax.tree.map(lambda leaf: jnp.arange(1.0, leaf.size + 1, dtype=leaf.dtype).reshape(leaf.shape), PARAMS)
NORM = np.sqrt(sum(float((np.asarray(leaf) ** 2).sum()) for leaf in GRADIENT))


def change(recipe: optax.GradientTransformation, gradient: Any = GRADIENT, params: Any = PARAMS) -> Any:
    return recipe.update(gradient, recipe.init(params), params)[0]


def close(got: Any, wanted: Any, tolerance: float = 1e-6) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance)


def test_clips_the_gradient_and_then_decays_the_weights() -> None:
    """Decay that was clipped with the gradient would be 1 / NORM of itself."""
    got = change(optimizer(0.1, algorithm="sgd", clip_norm=1.0, weight_decay=0.5))
    close(got.w, -0.1 * (GRADIENT.w / NORM + 0.5 * PARAMS.w))
    close(got.u, -0.1 * (GRADIENT.u / NORM + 0.5 * PARAMS.u))
    close(got.b, -0.1 * GRADIENT.b / NORM)


def test_clips_before_adam_rescales() -> None:
    """Adam's first step is the sign of the gradient: it must see the clipped one."""
    recipe = optimizer(0.1, clip_value=2.0)
    state = recipe.init(PARAMS)
    _, state = recipe.update(GRADIENT, state, PARAMS)
    (moments,) = (node for node in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(node))
    close(moments.mu, jax.tree.map(lambda leaf: 0.1 * np.minimum(leaf, 2), GRADIENT))


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def test_clippings() -> None:
    by_value = change(optimizer(1.0, algorithm="sgd", clip_value=5.0))
    close(by_value, jax.tree.map(lambda leaf: -np.clip(leaf, -5, 5), GRADIENT))
    by_block = change(optimizer(1.0, algorithm="sgd", clip_block_rms=0.5))
    close(by_block, jax.tree.map(lambda leaf: -leaf * 0.5 / np.sqrt(np.mean(np.square(leaf))), GRADIENT))


def drawn(shapes: Any) -> Any:
    """Normal numbers of these shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def initial(layer: Any, in_size: int) -> Any:
    """Parameters of these shapes, drawn anew."""
    return drawn(jax.eval_shape(lambda: layer.init(jax.random.key(0), in_size)))


def module(make: Callable[[], nnx.Module]) -> nnx.State:
    """The same of a module."""
    return drawn(nnx.state(nnx.eval_shape(make), nnx.Param))


def attention() -> nnx.Module:
    """Kernels (I, N, D) and biases (N, D) of queries, keys and values, (N, D, O) and (O) behind."""
    return nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))


UNITS: dict[str, tuple[Callable[[], Any], dict[str, tuple[int, ...]]]] = {
    "a matrix": (lambda: initial(rj.LSTM(3), 2), {"w": (0,), "u": (0,), "b": (0,)}),
    "one input": (lambda: initial(rj.LSTM(3), 1), {"w": (0,)}),
    "one head": (lambda: initial(rj.SLSTM(4), 2), {"u": (1,)}),
    "heads": (lambda: initial(rj.SLSTM(4, heads=2), 2), {"u": (1,)}),
    "blocks": (lambda: initial(rj.MLSTMBlock(heads=2, conv=2), 4)[1].layer[2], {"w": (2,)}),
    "kernels": (lambda: initial(rj.ConvLSTM(2, (5,)), 3), {"w": (0, 1), "u": (0, 1)}),
    "kernels of images": (lambda: initial(rj.ConvLSTM(2, (5, 4)), 3), {"w": (0, 1, 2), "u": (0, 1, 2)}),
    "a module": (lambda: module(lambda: rnnx.RNN(rj.ConvLSTM(2, (5,)), 3, rngs=nnx.Rngs(0))), {"w": (0, 1)}),
    "attention": (
        lambda: module(attention),
        {"query.kernel": (0,), "query.bias": (0, 1), "out.kernel": (0, 1), "out.bias": (0,)},
    ),
    "no bias": (lambda: drawn({"kernel": jnp.ones((3, 2, 4))}), {"kernel": (0, 1)}),
}
"""Parameters, and for some of their arrays the axes over which the weights of one unit lie."""


def named(tree: Any) -> dict[str, np.ndarray]:
    """The leaves by the names of the fields that lead to them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path, _ in leaves]
    return {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def test_adaptive_clipping_is_unit_by_unit() -> None:
    """Every unit by hand: the norm of its gradient is at most so much of that of its weights."""
    params = {case: make() for case, (make, _) in UNITS.items()}
    gradient = jax.tree.map(lambda leaf: 0.3 * leaf[::-1] ** 2, params)
    recipe = optimizer(1.0, algorithm="sgd", clip_adaptive=0.2)
    got = jax.jit(lambda gradient, params: change(recipe, gradient, params))(gradient, params)
    for case, (_, units) in UNITS.items():
        new, old, own = (named(tree[case]) for tree in (got, gradient, params))
        for end, inputs in units.items():
            (name,) = {name for name in own if f".{name}".endswith(f".{end}")}
            outside = [axis for axis in range(own[name].ndim) if axis not in inputs]
            for place in np.ndindex(*(own[name].shape[axis] for axis in outside)):
                at: Any = [slice(None)] * own[name].ndim
                for axis, index in zip(outside, place, strict=True):
                    at[axis] = index
                at = tuple(at)
                norm, most = np.linalg.norm(old[name][at]), 0.2 * np.linalg.norm(own[name][at])
                wanted = -old[name][at] * min(1, most / norm)
                np.testing.assert_allclose(new[name][at], wanted, rtol=1e-5, err_msg=f"{case}: {name}")


def test_recurrent_weights_decay_apart() -> None:
    zero = jax.tree.map(jnp.zeros_like, GRADIENT)
    got = change(optimizer(1.0, algorithm="sgd", weight_decay=0.5, recurrent_decay=0.25), zero)
    close(got, PARAMS._replace(w=-0.5 * PARAMS.w, u=-0.25 * PARAMS.u, b=0 * PARAMS.b))


@pytest.mark.parametrize(
    ("cell", "names"),
    [(rj.LEM(3), {"u", "u_h"}), (rj.IndRNN(3), {"u"}), (rj.LinearElman(3), {"u"}), (CELL, {"u"})],
)
def test_recurrent_weights_of_other_cells(cell: rj.Cell, names: set[str]) -> None:
    params = cell.init(jax.random.key(0), 2)
    zero = jax.tree.map(jnp.zeros_like, params)
    got = change(optimizer(1.0, algorithm="sgd", recurrent_decay=0.25), zero, params)
    for name, leaf in got._asdict().items():
        np.testing.assert_allclose(leaf, (-0.25 if name in names else 0) * getattr(params, name), rtol=1e-6)


def test_recurrent_decay_without_recurrent_weights_is_refused() -> None:
    """As of Flax's own cells, whose arrays are called otherwise."""
    params = {"hn": {"kernel": jnp.ones((3, 3))}, "in": {"kernel": jnp.ones((2, 3))}}
    with pytest.raises(ValueError, match="`recurrent_decay` is for arrays named `u` or `u_h`, and the parameters have"):
        optimizer(0.1, recurrent_decay=0.25).init(params)
    optimizer(0.1, recurrent_decay=0.0, weight_decay=0.1).init(params)


def test_groups_of_parameters_may_have_no_recurrent_weights() -> None:
    """One recipe for two groups, of which the second has but the readout."""
    params = {"cell": PARAMS, "readout": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}
    recipe = optimizer(1.0, algorithm="sgd", weight_decay=0.5, recurrent_decay=0.25)
    groups = optax.partition({"a": recipe, "b": recipe}, {"cell": "a", "readout": "b"})
    got = change(groups, jax.tree.map(jnp.zeros_like, params), params)
    close(got["cell"].u, -0.25 * PARAMS.u)
    close(got["readout"], {"w": jnp.full((3, 2), -0.5), "b": jnp.zeros(2)})


@pytest.mark.slow
def test_filters_of_a_score_are_not_recurrent() -> None:
    """`LocationScore.u` maps filters of the alignment on the units of the score, at every step anew."""
    cell = rj.BahdanauAttention(rj.GRU(3), rj.LocationScore(2, filters=2, width=3), memory_size=2)
    params = cell.init(jax.random.key(0), 2)
    zero = jax.tree.map(jnp.zeros_like, params)
    got = change(optimizer(1.0, algorithm="sgd", weight_decay=0.5, recurrent_decay=0.25), zero, params)
    close(got.cell.u, -0.25 * params.cell.u)
    close(got.score.u, -0.5 * params.score.u)
    module = rnnx.RNN(cell, 2, rngs=rnnx.nnx.Rngs(0))
    leaves, _ = jax.tree_util.tree_flatten_with_path(recurrent(rnnx.nnx.state(module, rnnx.nnx.Param)))
    chosen = [jax.tree_util.keystr(path, simple=True, separator=".") for path, own in leaves if own]
    assert len(chosen) == 1
    assert "cell.u" in chosen[0]


@pytest.mark.parametrize(
    "decay",
    [pytest.param({"weight_decay": 0.5}, marks=pytest.mark.slow), {"weight_decay": 0.5, "recurrent_decay": 0.25}],
    ids=repr,
)
def test_synapses_do_not_decay(decay: dict[str, float]) -> None:
    """Zero is no rest for them: softplus(0) is an open synapse. Weights beside the cell decay."""
    params = {
        "ltc": rj.LTC(3).init(jax.random.key(0), 2),
        "gru": PARAMS,
        "dense": rj.Dense(2).init(jax.random.key(1), 3),
    }
    got = change(optimizer(1.0, algorithm="sgd", **decay), jax.tree.map(jnp.zeros_like, params), params)
    for leaf in got["ltc"]:
        np.testing.assert_array_equal(leaf, 0)
    close((got["dense"].w, got["gru"].w), (-0.5 * params["dense"].w, -0.5 * PARAMS.w))
    close(got["gru"].u, -decay.get("recurrent_decay", 0.5) * PARAMS.u)


def test_biases_of_two_axes_do_not_decay() -> None:
    """Those of Flax's attention are (heads, features)."""
    params = module(attention)
    zero = jax.tree.map(np.zeros_like, params)
    got, own = named(change(optimizer(1.0, algorithm="sgd", weight_decay=0.5), zero, params)), named(params)
    for part in ("query", "key", "value", "out"):
        close(got[f"{part}.kernel"], -0.5 * own[f"{part}.kernel"])
        assert not got[f"{part}.bias"].any()


def _adam(m: Any, v: Any, g: Any, t: int) -> tuple[Any, Any, Any]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v


def _adabelief(m: Any, v: Any, g: Any, t: int) -> tuple[Any, Any, Any]:
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * (g - m) ** 2 + 1e-16
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-16), m, v


def _rmsprop(m: Any, v: Any, g: Any, t: int) -> tuple[Any, Any, Any]:
    v = 0.9 * v + 0.1 * g**2
    return g / np.sqrt(v + 1e-8), m, v


EQUATIONS: dict[str, Callable[..., tuple[Any, Any, Any]]] = {
    "adam": _adam,
    "adabelief": _adabelief,
    "lion": lambda m, v, g, t: (np.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g, v),
    "momentum": lambda m, v, g, t: (0.9 * m + g, 0.9 * m + g, v),
    "rmsprop": _rmsprop,
    "sgd": lambda m, v, g, t: (g, m, v),
}
"""From two moments, the gradient and the number of the step to the direction and both moments, as in the papers."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_by_hand(name: str) -> None:
    """Two steps, of which the second turns some of the gradient round."""
    gradients = np.array([[0.5, -2.0, 1e-3, 0.1], [-1.0, 0.1, 0.3, -0.02]])
    recipe = optimizer(0.1, algorithm=name)

    @jax.jit
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = recipe.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.ones(4, jnp.float32)
    state = recipe.init(params)
    wanted, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(gradients, 1):
        params, state = step(params, state, jnp.asarray(gradient, jnp.float32))
        direction, m, v = EQUATIONS[name](m, v, gradient, t)
        wanted = wanted - 0.1 * direction
        np.testing.assert_allclose(params, wanted, rtol=1e-5)


def test_schedule_multiplies() -> None:
    recipe = optimizer(0.5, algorithm="sgd", schedule=optax.linear_schedule(1.0, 0.0, 4))
    state, rates = recipe.init(PARAMS), []
    for _ in range(5):
        updates, state = recipe.update(GRADIENT, state, PARAMS)
        rates.append(float(-updates.b[0]))
    np.testing.assert_allclose(rates, [0.5, 0.375, 0.25, 0.125, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("algorithm", ["adam", "momentum"])
def test_nonfinite_gradient_touches_nothing(bad: float, algorithm: str) -> None:
    """1e30 is finite and its square is not: Adam's second moment would be infinite for good."""
    recipe = optimizer(0.1, algorithm=algorithm, clip_norm=1.0, weight_decay=0.1)
    params, state = PARAMS, recipe.init(PARAMS)
    update = jax.jit(recipe.update)
    for gradient in (GRADIENT, GRADIENT._replace(b=GRADIENT.b.at[3].set(bad)), GRADIENT):
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    wanted, clean = PARAMS, recipe.init(PARAMS)
    for _ in range(2):
        updates, clean = update(GRADIENT, clean, wanted)
        wanted = optax.apply_updates(wanted, updates)
    close(params, wanted, 1e-6)
    close(state.inner, clean.inner, 1e-6)
    assert (skipped_steps(state), skipped_steps(clean)) == (1, 0)


def test_bare_transformation_is_guarded_and_others_count_nothing() -> None:
    guarded = skip_if_nonfinite(optax.sgd(1.0))
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, GRADIENT)
    updates, state = guarded.update(nan, guarded.init(PARAMS))
    close(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    assert skipped_steps(state) == 1
    assert skipped_steps(optax.adam(1.0).init(PARAMS)) == 0


def test_groups_are_left_out_together() -> None:
    """A step in which one of two groups is not finite moves neither, and is one step."""
    params = {"cell": PARAMS, "readout": {"w": jnp.ones((3, 2))}}
    recipe = optimizer(1.0, algorithm="sgd", skip_nonfinite=False)
    groups = skip_if_nonfinite(optax.partition({"a": recipe, "b": recipe}, {"cell": "a", "readout": "b"}))
    gradient = {"cell": GRADIENT, "readout": {"w": jnp.full((3, 2), jnp.nan)}}
    updates, state = groups.update(gradient, groups.init(params), params)
    close(updates, jax.tree.map(jnp.zeros_like, params))
    nothing = jax.tree.map(lambda leaf: leaf * jnp.nan, gradient)
    assert skipped_steps(groups.update(nothing, state, params)[1]) == 2


@pytest.mark.slow
def test_sums_of_gradients_are_guarded_from_without() -> None:
    """One that is not finite is left out of the sum: of the two others, the mean."""
    within = optimizer(1.0, algorithm="sgd", skip_nonfinite=False)
    guarded = skip_if_nonfinite(optax.MultiSteps(within, 2))
    params, changes = jnp.ones(2), []
    state = guarded.init(params)
    for slope in (1.0, np.nan, 3.0):
        updates, state = guarded.update(jnp.array([slope, 1.0]), state, params)
        changes.append(updates)
    close(changes, [np.zeros(2), np.zeros(2), np.array([-2.0, -1.0])])


def test_sums_of_gradients_without_a_guard_are_told() -> None:
    sums = optax.MultiSteps(optimizer(1.0), 2)
    with pytest.warns(UserWarning, match="`optax.MultiSteps` adds a gradient that is not finite to its sum"):
        check_accumulation(optax.chain(sums.gradient_transformation()).init(PARAMS))
    for guarded in (
        skip_if_nonfinite(sums),
        optax.apply_if_finite(sums.gradient_transformation(), 3),
        optax.MultiSteps(optimizer(1.0), 2, should_skip_update_fn=optax.skip_not_finite),
        optax.MultiSteps(optimizer(1.0, skip_nonfinite=False), 2),
    ):
        check_accumulation(guarded.init(PARAMS))


def test_numbers_may_be_mapped_over() -> None:
    rates, norms = jnp.array([0.1, 1.0], jnp.float32), jnp.array([1.0, 1e9], jnp.float32)
    got = jax.vmap(lambda rate, norm: change(optimizer(rate, algorithm="sgd", clip_norm=norm)))(rates, norms)
    close(got.b[0], -0.1 * GRADIENT.b / NORM)
    close(got.b[1], -1.0 * GRADIENT.b)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be positive; got 0.0"),
        ({"learning_rate": None}, TypeError, "`learning_rate` must be a number; got None"),
        ({"weight_decay": None}, TypeError, "`weight_decay` must be a number; got None"),
        ({"clip_norm": 0}, ValueError, "`clip_norm` must be positive; got 0"),
        ({"clip_value": -1}, ValueError, "`clip_value` must be positive; got -1"),
        ({"weight_decay": -1}, ValueError, "`weight_decay` must be zero or positive"),
        ({"clip_norm": "1"}, TypeError, "`clip_norm` must be a number; got '1'"),
        ({"algorithm": "adamw"}, ValueError, "`algorithm` must be one of adam, .* got 'adamw'"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimizer(**arguments)


def test_adaptive_clipping_needs_parameters() -> None:
    recipe = optimizer(clip_adaptive=0.1)
    with pytest.raises(ValueError, match="`clip_adaptive` compares with the parameters: pass them to `update` as the"):
        recipe.update(GRADIENT, recipe.init(PARAMS))


def test_an_algorithm_that_takes_the_step_itself_is_refused() -> None:
    rising = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)  # the first step is of length zero
    for algorithm in (optax.adam(1e-3), optax.sgd(1.0), optax.adamw(1e-2), optax.adam(rising)):
        with pytest.raises(ValueError, match="must leave the step to `learning_rate`"):
            optimizer(0.1, algorithm=algorithm)
    for algorithm in (optax.scale_by_adam(), optax.scale_by_lion(), optax.identity(), optax.scale_by_rss()):
        optimizer(0.1, algorithm=algorithm)
