"""What a layer is: a map over a whole sequence, whose parameters and state are passed in and handed back."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._cell import with_elapsed
from .._errors import check_key, is_array
from .._types import Array, DTypeLike, Key, Params, State, Xs
from .._unroll import check, lift
from .._unroll.lift import zero_where_masked
from .._unroll.place import Placement, whole


class Layer(abc.ABC):
    """A map over a whole sequence. Layers made of layers are layers: `Stack`, `Bidirectional` and `Residual` take any.

    A subclass is a frozen dataclass made by `struct`. One without state writes `apply` and inherits from `Stateless`.
    """

    causal: bool = True
    """Whether no output depends on later steps, so that the sequence may come in pieces."""
    keeps_time: bool = True
    """Whether outputs have a time axis; pooling drops it."""
    needs_time: bool = True
    """Whether inputs must have a time axis, so that the layer cannot follow one that drops it."""
    event_ndim: int = 1
    """Trailing axes of one input: 1, after a convolutional cell 1 + its spatial axes, 0 for integer ids."""
    keeps_axes: bool = False
    """Whether outputs have the axes of the inputs, however many: what a layer behind it reads, it may read as well."""
    elapsed: bool = False
    """Whether a cell in it reads elapsed times, so that inputs may be (x, dt)."""

    @abc.abstractmethod
    def init(self, key: Key, in_size: Any, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws parameters for inputs of `in_size` features; () when there are none."""

    @abc.abstractmethod
    def out_size(self, in_size: Any) -> Any:
        """Features of one output."""

    @abc.abstractmethod
    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step; () for a layer without one."""

    @abc.abstractmethod
    def __call__(
        self,
        params: Params,
        xs: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Any, State]:
        """Outputs (T, *B, O) and the state after the last step, with the arguments of `rnnjax.unroll`.

        A causal layer streams: the same call on the next piece of `xs`, with the returned state passed in, continues
        the sequence. Masked steps are never read and output zero. Without a `key` nothing random happens.
        """

    @abc.abstractmethod
    def reversed(self) -> Layer:
        """The same layer running backwards in time: flip, this layer, flip. It takes the same parameters."""

    def parts(self, in_size: Any) -> tuple[tuple[str, Layer, Any], ...]:
        """The layers that this one is made of, as name, layer and the features of its inputs."""
        return ()


class Stateless(Layer):
    """A layer whose outputs depend on inputs alone. A subclass writes `apply`; the defaults are those of a layer
    without parameters that keeps the number of features."""

    gathers: bool = True
    """Whether `apply` gets whole parameters where an explicit mesh divides them; otherwise it gets them as they are."""

    @abc.abstractmethod
    def apply(self, params: Params, x: Array, valid: Array | None, key: Key | None) -> Array:
        """The outputs, given inputs that are zero at masked steps; `valid` (T, *B) is None where all steps are."""

    def check(self, params: Params, x: Array) -> None:
        """Raises unless inputs are floating point and parameters fit them."""
        check.inputs(x)
        if self.needs_time:
            check.sizes(self, x)
        elif x.ndim < self.event_ndim:
            raise ValueError(f"`xs` must end in an axis of features, (…, I); got shape {tuple(x.shape)}")
        check.parameters(self, params, x)

    def init(self, key: Key, in_size: Any, dtype: DTypeLike = jnp.float32) -> Params:
        return ()

    def out_size(self, in_size: Any) -> Any:
        return in_size

    def initial_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return ()

    def reversed(self) -> Layer:
        return self

    def __call__(
        self,
        params: Params,
        xs: Xs,
        state: State | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        key: Key | None = None,
        context: Any = None,
    ) -> tuple[Array, State]:
        state, _ = begin(self, state)
        if state is not None and jax.tree.structure(state) != jax.tree.structure(()):
            raise TypeError(f"`state` must be () or None, because {self!r} has none; got {type(state).__name__}")
        x = one_array(xs)
        self.check(params, x)
        valid = valid_steps(self, x, lengths, mask, reset)
        if key is not None:
            check_key("key", key)
        params = whole(params) if self.gathers else params
        ys = self.apply(params, zero_where_masked(valid, x), valid, key)
        return (zero_where_masked(valid, ys) if self.keeps_time else ys), ()


class Start(NamedTuple):
    """A state to start from, not one to continue from: `layer(params, xs, Start(state))`.

    A layer that is not causal reads the whole sequence at once and takes no `state` of a piece before. What each of its
    cells starts from may be given all the same: that of a reversed one is the state before the last step.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> layer = rj.Bidirectional(rj.GRU(4))
    >>> params = layer.init(jax.random.key(0), in_size=3)
    >>> thought = jnp.ones((2, 4))  # of an encoder, say
    >>> start = layer.initial_state(params, (2,))
    >>> start = start._replace(backward=start.backward._replace(h=thought))
    >>> ys, state = layer(params, jnp.ones((6, 2, 3)), rj.Start(start))
    >>> ys.shape
    (6, 2, 8)
    """

    state: State


def begin(layer: Layer, state: State | None) -> tuple[State | None, Callable[[State], State]]:
    """The state that a layer is called with, and what makes its parts' states of the same kind.

    Raises:
        ValueError: for a layer that cannot continue from one.
        TypeError: for that of a stepper.
    """
    check.check_unpacked(state)
    if isinstance(state, Start):
        return state.state, Start
    if state is not None and not layer.causal:
        raise ValueError(
            f"{layer!r} is not causal: it reads the whole sequence at once and cannot continue from a `state`. Leave "
            "`state` out and pass all steps in one call, or pass what its cells start from as `rnnjax.Start(state)`"
        )
    return state, lambda part: part


def split_elapsed(layer: Layer, xs: Xs) -> tuple[Xs, Array | None]:
    """Inputs, and the elapsed times beside them if there are any and a cell in the layer reads them."""
    return with_elapsed(xs, layer.event_ndim) if layer.elapsed else (xs, None)


def beside(layer: Layer, xs: Xs, dt: Array | None) -> Xs:
    """Inputs of a part: with the elapsed times if it reads them."""
    return (xs, dt) if dt is not None and layer.elapsed else xs


def one_array(xs: Any) -> Array:
    """`xs` as a JAX array; TypeError for a pytree."""
    if not is_array(xs):
        raise TypeError(f"`xs` must be one array (T, *B, I); got {type(xs).__name__}")
    return jnp.asarray(xs)


def valid_steps(
    layer: Layer, xs: Xs, lengths: Array | None, mask: Array | None, reset: Array | None = None
) -> Array | None:
    """Which steps hold, (T, *B), None for all, once lengths, mask and reset are checked as `rnnjax.unroll` does."""
    if lengths is None and mask is None and reset is None:
        return None
    steps, batch_shape = check.sizes(layer, xs)
    check.check_lengths(lengths, steps, batch_shape)
    check.check_flags("mask", mask, steps, batch_shape, xs)
    check.check_flags("reset", reset, steps, batch_shape, xs)
    if reset is not None and not layer.keeps_time:
        raise ValueError(
            f"`reset` marks several sequences in one row, and {layer!r} has one output for each row: pool every "
            "sequence by itself, with `mask`"
        )
    valid = lift.valid_steps(None if lengths is None else jnp.asarray(lengths), mask, steps)
    return Placement.of(jax.tree.leaves(xs)[0], 1 + len(batch_shape)).along_time(valid)


def check_entries(name: str, value: Any, layers: Sequence[Layer]) -> None:
    """Raises unless `value` is a plain tuple with one entry for each layer."""
    if type(value) is not tuple:
        mend = f": pass `tuple({name})`" if isinstance(value, list) else ""
        raise TypeError(f"`{name}` must be a tuple with one entry for each layer; got {type(value).__name__}{mend}")
    if len(value) != len(layers):
        raise ValueError(
            f"`{name}` must have {len(layers)} entries, one for each layer of {', '.join(map(repr, layers))}; got "
            f"{len(value)}"
        )


def fold(key: Key | None, index: int) -> Key | None:
    """The key of part `index`, which does not depend on how many parts follow."""
    return None if key is None else jax.random.fold_in(key, index)
