"""One compiled time step, for streams."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._errors import describe, is_array
from .._types import Array, DTypeLike, Params, State, Xs
from .._unroll import check
from ._layer import Layer
from .rnn import as_layer

_SMALL = 4096
"""Numbers of a row's leaf up to which to copy it takes less time than to hand it over."""


@dataclass(frozen=True)
class _Form:
    """The state of a model: its structure, and the shape of each leaf without batch axes."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, state: State) -> _Form:
        """That of a state without batch axes."""
        leaves, structure = jax.tree.flatten(state)
        return cls(structure, tuple(tuple(leaf.shape) for leaf in leaves))

    def together(self, state: State) -> Packed:
        """The leaves of one shape and dtype side by side, behind the batch axes, if they are small."""
        leaves = jax.tree.leaves(state)
        kinds = [
            (shape, leaf.dtype) if math.prod(shape) <= _SMALL else i
            for i, (leaf, shape) in enumerate(zip(leaves, self.shapes, strict=True))
        ]
        groups = tuple(tuple(i for i, own in enumerate(kinds) if own == kind) for kind in dict.fromkeys(kinds))

        def joined(group: tuple[int, ...]) -> Array:
            if len(group) == 1:
                return leaves[group[0]]
            return jnp.stack([leaves[i] for i in group], axis=-1 - len(self.shapes[group[0]]))

        return Packed(map(joined, groups), _Layout(self, groups))


@dataclass(frozen=True)
class _Layout:
    """Where the leaves of a state lie in the arrays of a `Packed`."""

    form: _Form
    groups: tuple[tuple[int, ...], ...]

    def apart(self, packed: Packed) -> State:
        """Undoes `together`."""
        leaves = {}
        for group, array in zip(self.groups, packed.arrays, strict=True):
            axis = array.ndim - 1 - len(self.form.shapes[group[0]])
            for place, i in enumerate(group):
                leaves[i] = array if len(group) == 1 else jax.lax.index_in_dim(array, place, axis, keepdims=False)
        return jax.tree.unflatten(self.form.structure, [leaves[i] for i in range(len(leaves))])


class Packed:
    """A model's state between the steps of a stepper, as few arrays: to hand one over takes JAX a microsecond, as long
    as the step of a small layer.

    It is a pytree whose leaves lead with the batch axes. `unpack()` is the model's own state.
    """

    __slots__ = ("_layout", "arrays")

    def __init__(self, arrays: Iterable[Array], layout: _Layout) -> None:
        self.arrays = tuple(arrays)
        self._layout = layout

    def unpack(self) -> State:
        """The model's own state, as `unroll` takes it. The packed one is still there."""
        return _apart(self)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the state of a stepper has no {name!r}; `state.unpack()` is the model's own state")

    def __repr__(self) -> str:
        return f"Packed({', '.join(map(describe, self.arrays))})"


jax.tree_util.register_pytree_node(
    Packed,
    lambda packed: (packed.arrays, packed._layout),
    lambda layout, arrays: Packed(arrays, layout),
)
_apart = jax.jit(lambda packed: packed._layout.apart(packed))


class Stepper:
    """What `stepper` returns: `y, state = step(x, state)`."""

    def __init__(self, layer: Layer, params: Params) -> None:
        self._layer, self._params = layer, params
        form = self._form = _Form.of(jax.eval_shape(lambda: layer.initial_state(params)))

        # the state first: JAX gives donated memory to the first results of its shape, and its memory is the next one's
        def run(state: Packed, x: Xs, mask: Array | None = None, reset: Array | None = None) -> tuple[Packed, Array]:
            if state._layout.form != form:  # at compilation alone
                raise TypeError(_expected(form, state._layout.form.structure))
            before = state._layout.apart(state)
            xs = jax.tree.map(lambda leaf: leaf[None], x)
            for name, flags in (("mask", mask), ("reset", reset)):
                if flags is not None:
                    check.check_flags(name, flags, None, check.sizes(layer, xs)[1], x)
            mask, reset = jax.tree.map(lambda leaf: leaf[None], (mask, reset))
            ys, after = layer(params, xs, before, mask=mask, reset=reset)
            shapes, wanted = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (after, before))
            if shapes != wanted or jax.tree.structure(after) != form.structure:
                raise TypeError(f"{layer!r} returned another state than it was given: {after}, behind {before}")
            return form.together(after), ys[0]

        self._run = jax.jit(run, donate_argnums=0)
        self._pack = jax.jit(form.together)

    def __call__(
        self, x: Xs, state: Packed | State, mask: Array | None = None, reset: Array | None = None
    ) -> tuple[Array, Packed]:
        """The output (*B, O) of one input (*B, I), and the next state. A state that comes packed, from `initial_state`
        or the step before, is used up: its memory becomes the next one's, and JAX refuses to read it again. The model's
        own state, as `unroll` returns it, is copied.

        `mask` and `reset`, booleans (*B) as `rnnjax.unroll` takes them, act on rows: where `mask` is False the state is
        kept and the output zero, and where `reset` is True the row begins anew, before x is read.

        Raises:
            TypeError: for another state than a step's or the model's own, and flags that are no booleans.
            ValueError: for inputs, a state or flags of another shape.
        """
        if type(state) is not Packed:
            state = self.pack(state)
        state, y = self._run(state, x) if mask is None and reset is None else self._run(state, x, mask, reset)
        return y, state

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike | None = None) -> Packed:
        """The state before the first step, by default in the dtype of the parameters, and at least in float32."""
        if dtype is None:
            dtype = reduce(np.promote_types, (a.dtype for a in jax.tree.leaves(self._params)), np.dtype(np.float32))
        return self._pack(self._layer.initial_state(self._params, batch_shape, dtype))

    def pack(self, state: State) -> Packed:
        """The model's own state as a step takes it, copied.

        Raises:
            TypeError: if it has another structure, or other leaves than floating point arrays.
            ValueError: if a leaf has another shape than the batch axes of the first one ask for.
        """
        form = self._form
        if jax.tree.structure(state) != form.structure:
            raise TypeError(_expected(form, jax.tree.structure(state)))
        batch_shape = None
        for (path, leaf), shape in zip(jax.tree_util.tree_flatten_with_path(state)[0], form.shapes, strict=True):
            name = f"`state{jax.tree_util.keystr(path)}`"
            if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(f"{name} must be a floating point array; got {describe(leaf)}")
            batch_shape = leaf.shape[: leaf.ndim - len(shape)] if batch_shape is None else batch_shape
            if leaf.shape != (*batch_shape, *shape):
                raise ValueError(f"{name} must be {(*batch_shape, *shape)}; got {leaf.shape}")
        return self._pack(state)

    def __repr__(self) -> str:
        return f"stepper({self._layer!r})"


def _expected(form: _Form, got: Any) -> str:
    return f"`step(x, state)`: `state` must be what a step returned, or {form.structure}; got {got}"


def stepper(model: Cell | Layer, params: Params) -> Stepper:
    """Compiles a single time step, for inputs that come one at a time.

    The parameters become constants of the program, which so has less to be handed at each step; new parameters need a
    new stepper. It is compiled at the first call with each batch shape. For several steps at once `unroll` is faster.

    Args:
        model: a cell, or a causal layer. An attention cell, whose state depends on what it reads, needs the layer and
            its `context` at each step instead: `rnnjax.decoding.next_token` makes such a step.
        params: its parameters.

    Returns:
        a `Stepper`: `y, state = step(x, state)` with one input x (*B, I) and its output y (*B, O), also with `mask=`
        and `reset=` (*B) for rows that wait or begin anew. The state that is passed in is used up, and
        `step.initial_state(batch_shape)` is the first. It is packed into few arrays that lead with the batch axes:
        `state.unpack()` is the model's own, to read or to go on with in `unroll`, whose states a step takes too.

    Raises:
        TypeError: if `model` is neither a cell nor a layer.
        ValueError: if it needs the whole sequence at once, or a `context`.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> step = rj.stepper(cell, params)
    >>> state = step.initial_state(batch_shape=(2,))
    >>> for _ in range(3):
    ...     y, state = step(jnp.ones((2, 3)), state)
    >>> y.shape
    (2, 4)
    >>> state.unpack().h.shape
    (2, 4)
    """
    layer = as_layer("model", model)
    if not layer.causal:
        raise ValueError(
            f"{layer!r} is not causal: it reads the whole sequence at once and cannot run step by step. Call it with "
            "all steps"
        )
    if _reads_context(layer):
        raise ValueError(
            f"{layer!r} reads a `context`, which a stepper has not. Call it step by step with `context=`, or take "
            "`rnnjax.decoding.next_token(layer, params, context=…)`"
        )
    return Stepper(layer, params)


def _reads_context(part: Any) -> bool:
    """Whether a cell in it has a state that depends on a context."""
    if isinstance(part, Cell):
        return part.contextual
    parts = vars(part).values() if isinstance(part, Layer) else part if isinstance(part, tuple) else ()
    return any(map(_reads_context, parts))
