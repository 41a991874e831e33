"""What holds for every layer: direction, causality, masks, and a layer written by someone else."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descriptors import LAYERS, SLOW_LAYERS

import rnnjax as rj

KEY = jax.random.key(23)
F64 = jnp.float64
T, B, I = 5, 4, 3  # noqa: E741
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_LAYERS else []) for name in LAYERS]
)


def features(name):
    return I if LAYERS[name].event_ndim else None


def inputs(name):
    rng = np.random.default_rng(0)
    return rng.standard_normal((T, B, I)) if LAYERS[name].event_ndim else rng.integers(0, 9, (T, B))


def parameters(name):
    return LAYERS[name].init(KEY, features(name), F64)


def test_every_layer_has_a_row():
    public = {name for name, item in vars(rj).items() if isinstance(item, type) and issubclass(item, rj.Layer)}
    assert public - {"Layer", "Stateless", "Pooling"} == {type(layer).__name__ for layer in LAYERS.values()}


@each
def test_reversed_is_flip_layer_flip(close, name):
    layer, xs, params = LAYERS[name], inputs(name), parameters(name)
    mask = np.random.default_rng(1).random((T, B)) < 0.7
    mask[:, 1] = False
    ys, state = layer.reversed()(params, xs, mask=mask)
    wanted, wanted_state = layer(params, xs[::-1], mask=mask[::-1])
    close(ys, wanted[::-1] if layer.keeps_time else wanted)
    close(state, wanted_state)
    assert layer.reversed().reversed() == layer


@each
def test_causal_layers_stream_and_others_refuse(close, name):
    layer, xs, params = LAYERS[name], inputs(name), parameters(name)
    state = layer.initial_state(params, (B,), F64)
    if not layer.causal:
        with pytest.raises(ValueError, match=r"is not causal: it reads the whole sequence at once and cannot continue"):
            layer(params, xs, state)
        return
    head, state = layer(params, xs[:2], state)
    tail, state = layer(params, xs[2:], state)
    ys, last = layer(params, xs)
    close(jnp.concatenate([head, tail]), ys)
    close(state, last)


def test_which_layers_are_causal():
    drops_time = {name for name, layer in LAYERS.items() if not layer.keeps_time}
    assert drops_time == {"first", "last", "mean", "max", "attention_pooling", "pooled"}
    backwards = {"reverse", "reverse_conv", "bidirectional", "stack"}
    assert {name for name, layer in LAYERS.items() if not layer.causal} == drops_time | backwards


@each
def test_masked_steps_are_zero_and_never_matter(close, name):
    layer, xs, params = LAYERS[name], inputs(name), parameters(name)
    lengths = np.array([5, 0, 3, 1])
    valid = np.arange(T)[:, None] < lengths
    ys, state = layer(params, xs, lengths=lengths, key=KEY)
    spoilt = np.where(valid[..., None], xs, np.nan) if layer.event_ndim else np.where(valid, xs, -7)
    close(layer(params, spoilt, lengths=lengths, key=KEY), (ys, state))
    if layer.keeps_time:
        assert not np.any(np.asarray(ys)[~valid])
    assert np.asarray(ys).shape[-1] == layer.out_size(features(name))


@each
def test_hashes_and_compares_by_value(name):
    layer = LAYERS[name]
    leaves, structure = jax.tree.flatten(layer)
    again = jax.tree.unflatten(structure, leaves)
    assert again == layer
    assert hash(again) == hash(layer)


@each
def test_checks_the_flags(name):
    layer, xs, params = LAYERS[name], inputs(name), parameters(name)
    with pytest.raises(ValueError, match=r"`mask` must be \(T, \*B\) = \(5, 4\)"):
        layer(params, xs, mask=np.ones((4, 5), bool))
    with pytest.raises(TypeError, match=r"`reset` must be a boolean array"):
        layer(params, xs, reset=np.ones((5, 4), int))
    with pytest.raises(TypeError, match=r"`lengths` must be an integer array"):
        layer(params, xs, lengths=np.ones(4))
    with pytest.raises(ValueError, match=r"`lengths` must lie in 0…T = 5; got values from -1 to 2"):
        layer(params, xs, lengths=np.array([1, -1, 2, 0]))


@rj.struct
class Witness(rj.Stateless):
    """It remembers with what key and context it was called, and returns its inputs."""

    seen: ClassVar[list] = []

    def apply(self, params, x, valid, key):
        return x

    def __call__(self, params, xs, state=None, *, key=None, context=None, **cover):
        self.seen.append((key, context))
        return super().__call__(params, xs, state, key=key, context=context, **cover)


COMPOSED = {
    rj.Stack: lambda part: rj.Stack([part, part]),
    rj.Bidirectional: lambda part: rj.Bidirectional(part),
    rj.Gate: lambda part: rj.Gate(part, part),
    rj.Residual: lambda part: rj.Residual(part),
    rj.Block: lambda part: rj.Block(part),
}


def test_every_layer_made_of_given_layers_is_composed_here():
    def given(layer):
        parts = jax.tree.leaves(list(vars(layer).values()), is_leaf=lambda part: isinstance(part, rj.Layer))
        return any(isinstance(part, rj.Layer) for part in parts)

    assert {type(layer) for layer in LAYERS.values() if given(layer)} == set(COMPOSED)


@pytest.mark.parametrize("kind", COMPOSED, ids=lambda kind: kind.__name__)
def test_each_part_has_a_key_of_its_own_and_the_context(kind):
    layer, xs, context = COMPOSED[kind](Witness()), np.ones((2, 1, I)), object()
    params = layer.init(KEY, I, F64)

    def seen(**options):
        Witness.seen.clear()
        layer(params, xs, **options)
        return zip(*Witness.seen, strict=True)

    keys, contexts = seen(key=KEY, context=context)
    assert all(one is context for one in contexts)
    assert len(keys) == (2 if kind in (rj.Stack, rj.Bidirectional, rj.Gate) else 1)
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
    for nothing in seen():
        assert set(nothing) == {None}


@rj.struct
class Scale(rj.Stateless):
    """y = factor · x, the shortest layer that someone else may write."""

    factor: float = rj.node(default=2.0)

    def apply(self, params, x, valid, key):
        return self.factor * x


def test_a_layer_from_outside(close, draw):
    xs = draw(3, 2, 2)
    model = rj.Stack([Scale(), rj.Residual(Scale(3.0))])
    ys, state = model(model.init(KEY, 2), xs, lengths=np.array([3, 1]))
    close(ys, np.where((np.arange(3)[:, None] < [3, 1])[..., None], 8 * xs, 0))
    assert state == ((), ())
    close(jax.grad(lambda layer: layer((), xs)[0].sum())(Scale()).factor, xs.sum())
