"""What every law needs: random numbers for a cell, a run with its gradients, and a loop of `step` to compare with."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._cell import Cell
from .._types import Array, Key, Noise, Params, State, Xs
from .._unroll import unroll

Shape = int | tuple[int, ...]
"""The shape of one input."""
STEPS = 6
ROWS = 3
_O, _X = True, False
# a whole row; holes and a tail; a head and a hole
_MASK = np.array([[_O, _O, _X], [_O, _X, _X], [_O, _O, _O], [_O, _X, _O], [_O, _O, _X], [_O, _X, _O]])
# on valid and on masked steps, at both ends, and twice in a row
_RESET = np.array([[_X, _O, _X], [_X, _X, _O], [_X, _X, _X], [_O, _O, _X], [_O, _X, _O], [_X, _X, _O]])


class Outcome(NamedTuple):
    """ys (T, *B, O) and the last state."""

    ys: Array
    state: State


class Gradients(NamedTuple):
    """Cotangents; None for leaves without one, such as integers."""

    cell: Any
    params: Params
    xs: Xs
    state: State


class Pulled(NamedTuple):
    """A run and its gradients."""

    out: Outcome
    grads: Gradients


@dataclasses.dataclass(frozen=True)
class Trial:
    """One call of `unroll` on random numbers in float64, and the cotangents to pull back through it.

    Parameters are drawn around their initial values, because biases of zero hide mistakes; the state is one that the
    cell reaches. Trials of equal shapes and options share one compilation, so most laws ask for the same one.
    """

    cell: Cell
    params: Params
    xs: Xs
    state: State | None
    cotangents: Outcome
    implementation: str | None
    mask: Array | None = None
    reset: Array | None = None
    lengths: Array | None = None
    key: Key | None = None
    reverse: bool = False
    remat: Any = None

    @classmethod
    def of(
        cls,
        cell: Cell,
        event_shape: Shape,
        implementation: str | None,
        *,
        steps: int = STEPS,
        batch_shape: tuple[int, ...] = (ROWS,),
    ) -> Trial:
        event_shape = event_shape if isinstance(event_shape, tuple) else (event_shape,)
        rng = np.random.default_rng(7)
        cell = jax.tree.map(_exact, computing(cell, None))
        params = _near(rng, jax.device_get(_init(cell, event_shape[-1])))
        xs = rng.normal(size=(steps, *batch_shape, *event_shape))
        state = start(cell, params, batch_shape)
        for _ in range(2):
            state = one_step(cell, params, state, rng.normal(size=(*batch_shape, *event_shape)))[1]
        ys = jax.eval_shape(partial(unroll, implementation="scan"), cell, params, xs)[0]
        cotangents = Outcome(*jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), (ys, state)))
        return cls(cell, params, xs, state, cotangents, implementation)

    def but(self, **changes: Any) -> Trial:
        """The same trial with other values for the named fields."""
        return dataclasses.replace(self, **changes)

    def flagged(self, mask: Any = None, reset: Any = None) -> Trial:
        """With a mask and resets as arrays, by default all valid and none."""
        shape = (self.steps, *self.batch_shape)
        mask = np.ones(shape, bool) if mask is None else mask
        reset = np.zeros(shape, bool) if reset is None else reset
        return self.but(mask=mask, reset=reset)

    def patterned(self) -> Trial:
        """With a mask and resets in every combination that matters."""
        shape = (self.steps, *self.batch_shape)
        if shape == _MASK.shape:
            return self.flagged(_MASK, _RESET)
        rng = np.random.default_rng(11)
        return self.flagged(rng.random(shape) < 0.7, rng.random(shape) < 0.2)

    @property
    def steps(self) -> int:
        return self.cotangents.ys.shape[0]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        leaf = jax.tree.leaves(self.xs)[0]
        return leaf.shape[1 : leaf.ndim - self.cell.event_ndim]

    def between(self, first: int, last: int) -> Trial:
        """These steps of it."""
        cut = partial(jax.tree.map, lambda leaf: leaf[first:last])
        return self.but(
            xs=cut(self.xs),
            mask=cut(self.mask),
            reset=cut(self.reset),
            cotangents=self.cotangents._replace(ys=cut(self.cotangents.ys)),
        )

    def row(self, index: int) -> Trial:
        """One index of the first batch axis."""
        over_time, at_once = (partial(jax.tree.map, f) for f in (lambda leaf: leaf[:, index], lambda leaf: leaf[index]))
        return self.but(
            xs=over_time(self.xs),
            mask=over_time(self.mask),
            reset=over_time(self.reset),
            lengths=at_once(self.lengths),
            state=at_once(self.state),
            cotangents=Outcome(over_time(self.cotangents.ys), at_once(self.cotangents.state)),
        )

    def only_row(self, index: int) -> Trial:
        """With cotangents for one index of the first batch axis alone, so that gradients are that row's."""
        keep = np.arange(self.batch_shape[0]) == index
        none = jax.tree.map(np.zeros_like, self.cotangents)
        ys = choose(np.broadcast_to(keep, (self.steps, *keep.shape)), self.cotangents.ys, none.ys)
        return self.but(cotangents=Outcome(ys, choose(keep, self.cotangents.state, none.state)))

    def _options(self) -> dict[str, Any]:
        return {"mask": self.mask, "reset": self.reset, "lengths": self.lengths, "key": self.key}

    def _statics(self) -> dict[str, Any]:
        return {"reverse": self.reverse, "remat": self.remat, "implementation": self.implementation}

    def call(self) -> Outcome:
        """Values, by `unroll` itself."""
        arrays = self.cell, self.params, self.xs, self.state
        return Outcome(*unroll(*arrays, **self._options(), **self._statics()))

    def run(self) -> Outcome:
        """Values in NumPy, compiled."""
        arrays = self.cell, self.params, self.xs, self.state
        return jax.device_get(_run(*arrays, self._options(), **self._statics()))

    def pull(self, *only: str) -> Pulled:
        """Values and gradients in NumPy, compiled; those of the named fields of `Gradients`, or of all."""
        return jax.device_get(self.traced_pull(*only))

    def traced_pull(self, *only: str) -> Pulled:
        """Values and gradients, within transformations too."""
        inputs = Gradients(self.cell, self.params, self.xs, self.state)
        return _pull(inputs, self.cotangents, self._options(), only=only or Gradients._fields, **self._statics())


@partial(jax.jit, static_argnames="in_size")
def _init(cell: Any, in_size: int) -> Params:
    return cell.init(jax.random.key(1), in_size, jnp.float64)


@partial(jax.jit, static_argnames=("reverse", "remat", "implementation"))
def _run(cell: Any, params: Any, xs: Any, state: Any, options: Any, **statics: Any) -> Outcome:
    return Outcome(*unroll(cell, params, xs, state, **options, **statics))


@partial(jax.jit, static_argnames=("only", "reverse", "remat", "implementation"))
def _pull(inputs: Gradients, cotangents: Any, options: Any, *, only: tuple[str, ...], **statics: Any) -> Pulled:
    def f(wanted: dict[str, Any]) -> Outcome:
        return Outcome(*unroll(*inputs._replace(**wanted), **options, **statics))

    out, back = jax.vjp(f, {name: getattr(inputs, name) for name in only})
    (grads,) = jax.tree.map(lambda leaf: None if leaf.dtype == jax.dtypes.float0 else leaf, back(cotangents))
    return Pulled(out, Gradients(**{name: grads.get(name) for name in Gradients._fields}))


def loop(trial: Trial) -> Outcome:
    """What `unroll` should return: `step` in a Python loop, with masks and resets chosen by NumPy."""
    cell, params = trial.cell, trial.params
    prepare_key, noise_key = (None, None) if trial.key is None else jax.random.split(trial.key)
    params = cell.prepare(params, key=prepare_key)
    noise = None if noise_key is None else cell.noise(noise_key, trial.steps, trial.batch_shape, jnp.float64)
    initial = cell.initial_state(params, trial.batch_shape, jnp.float64)
    state = initial if trial.state is None else trial.state
    ys: list[Any] = [None] * trial.steps
    for t in reversed(range(trial.steps)) if trial.reverse else range(trial.steps):
        boundary = t + 1 if trial.reverse else t
        if trial.reset is not None and boundary < trial.steps:
            state = choose(trial.reset[boundary], initial, state)
        x = jax.tree.map(lambda leaf, t=t: leaf[t], trial.xs)
        y, new = one_step(cell, params, state, x, _noise_at(noise, t, trial.steps), prepared=True)
        if trial.mask is not None:
            y = choose(trial.mask[t], y, np.zeros_like(y))
            new = choose(trial.mask[t], new, state)
        ys[t], state = y, new
    return Outcome(np.stack(ys), state)


def _noise_at(noise: Noise, t: int, steps: int) -> Noise:
    return jax.tree.map(lambda leaf: leaf[t : t + 1] if leaf.shape[0] == steps else leaf[:1], noise)


def one_step(
    cell: Any, params: Params, state: State, x: Xs, noise: Noise = None, *, prepared: bool = False
) -> tuple[Any, State]:
    """Output and state after one input (*B, I) in NumPy, straight from the cell's methods."""
    return jax.device_get(_one_step(cell, params, state, x, noise, prepared=prepared))


@partial(jax.jit, static_argnames="prepared")
def _one_step(cell: Any, params: Params, state: State, x: Xs, noise: Noise, *, prepared: bool) -> tuple[Array, State]:
    params = params if prepared else cell.prepare(params)
    x = jax.tree.map(lambda leaf: leaf[None], x)
    in_project, in_step = ((), ()) if noise is None else ((noise,), (jax.tree.map(lambda leaf: leaf[0], noise),))
    z = jax.tree.map(lambda leaf: leaf[0], cell.project(params, x, *in_project))
    state = cell.step(params, state, z, *in_step)
    return cell.readout(params, jax.tree.map(lambda leaf: leaf[None], cell.emit(state)), x)[0], state


@partial(jax.jit, static_argnames="batch_shape")
def initial_state(cell: Cell, params: Params, batch_shape: tuple[int, ...]) -> State:
    """The cell's initial state in float64."""
    return cell.initial_state(cell.prepare(params), batch_shape, jnp.float64)


def start(cell: Cell, params: Params, batch_shape: tuple[int, ...]) -> State:
    """The cell's initial state in NumPy."""
    return jax.device_get(initial_state(cell, params, batch_shape))


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """Leaf by leaf in NumPy, `condition` over the leading axes."""
    return jax.tree.map(lambda a, b: np.where(spread(condition, a), a, b), then, otherwise)


def spread(condition: Any, leaf: Any) -> np.ndarray:
    """`condition` over the leading axes of `leaf`."""
    condition = np.asarray(condition)
    return np.broadcast_to(condition.reshape(condition.shape + (1,) * (leaf.ndim - condition.ndim)), leaf.shape)


def computing(cell: Any, dtype: Any) -> Any:
    """The cell with another `compute_dtype`, on a wrapper that of the cell within; None where it has no such field."""
    names = {field.name for field in dataclasses.fields(cell)}
    if "compute_dtype" in names:
        return dataclasses.replace(cell, compute_dtype=dtype)
    if "cell" in names:
        inner = computing(cell.cell, dtype)
        return None if inner is None else dataclasses.replace(cell, cell=inner)
    return cell if dtype is None else None


def _exact(leaf: Any) -> Any:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float64) if np.issubdtype(leaf.dtype, np.floating) else leaf


def _near(rng: np.random.Generator, tree: Any) -> Any:
    def shift(leaf: Array) -> Array:
        drawn = 0.3 * rng.normal(size=leaf.shape)
        return leaf + drawn if np.issubdtype(leaf.dtype, np.floating) else leaf

    return jax.tree.map(shift, tree)


def agree(what: str, got: Any, want: Any, tolerance: float = 1e-10) -> None:
    """Raises AssertionError unless the trees agree in structure, shapes and values, absolutely and relatively."""
    mine, theirs = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (got, want))
    if [path for path, _ in mine] != [path for path, _ in theirs]:
        raise AssertionError(f"{what}: {jax.tree.structure(got)} is not {jax.tree.structure(want)}")
    for (path, a), (_, b) in zip(mine, theirs, strict=True):
        a, b, name = (np.asarray(a, float), np.asarray(b, float), what + jax.tree_util.keystr(path))
        if a.shape != b.shape:
            raise AssertionError(f"{name}: shape {a.shape}, not {b.shape}")
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance):
            worst = np.unravel_index(np.argmax(np.where(np.isfinite(a - b), np.abs(a - b), np.inf)), a.shape)
            at = f" at {tuple(map(int, worst))}" if worst else ""
            raise AssertionError(f"{name}: {a[worst]}, not {b[worst]}{at}")


def require(condition: Any, what: str) -> None:
    """Raises AssertionError with `what` unless the condition holds."""
    if not condition:
        raise AssertionError(what)
