"""Laws about gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_jvp, check_vjp

from .._cell import Cell
from .trial import Gradients, Outcome, Shape, Trial, agree, require

_STEP = 1e-6


def same_as_scan(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Every implementation and every `remat` has the values and gradients of `scan` without it."""
    trial = Trial.of(cell, event_shape, implementation)
    flagged = trial.patterned()
    cases = [flagged.but(remat="sqrt"), flagged.but(remat="state", reverse=True), flagged.but(remat=4, reverse=True)]
    if implementation != "scan":
        # so long that an implementation cuts time into chunks, with a shorter one, on its own account
        long = Trial.of(cell, event_shape, implementation, steps=197).patterned().but(reverse=True)
        cases += [flagged, long, long.but(remat="state")]
    for case in cases:
        _compare(case)


def same_as_scan_in_all_combinations(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """As `same_as_scan`, for every combination of `remat`, mask, resets and direction; slow."""
    trial = Trial.of(cell, event_shape, implementation)
    flagged = trial.patterned()
    for case in (trial, flagged.but(reset=None), flagged.but(mask=None), flagged):
        for remat in (None, "state", 4):
            for reverse in (False, True):
                _compare(case.but(remat=remat, reverse=reverse))


def _compare(case: Trial) -> None:
    what = f"reverse={case.reverse} remat={case.remat!r} mask={case.mask is not None} reset={case.reset is not None}"
    agree(what, case.pull(), case.but(implementation="scan", remat=None).pull())


def parameters_alone(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """The gradient of the parameters, asked for alone as in training, is that part of the gradient of all."""
    if implementation != "cpu":  # the kernels alone compute less where less is asked for
        return
    trial = Trial.of(cell, event_shape, implementation).patterned()
    for case in (trial, trial.but(remat=4, reverse=True)):
        agree(f"reverse={case.reverse}", case.pull("params").grads.params, case.pull().grads.params)


def derivatives(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """Reverse mode is right by finite differences; so is forward mode, or it says which implementation has it."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    for directed in (trial, trial.but(reverse=True)):
        check_reverse_mode(directed, _inputs(directed))

    def call(*leaves: Any) -> Outcome:
        return _with(trial, leaves).call()

    try:
        check_jvp(call, lambda leaves, tangents: jax.jvp(call, leaves, tangents), _floats(_inputs(trial)), eps=_STEP)
    except TypeError as error:
        # with `scan` only a cell whose own rule has no forward mode may fail
        hint = "custom_vjp function" if implementation == "scan" else 'implementation="scan"'
        require(hint in str(error), f"forward mode fails without {hint!r} in the message: {error}")


def check_reverse_mode(trial: Trial, inputs: Gradients) -> None:
    """Raises AssertionError unless the gradients of the inputs, those that are not None, are right by finite
    differences."""
    held = {name: None for name, value in inputs._asdict().items() if value is None}

    def f(*leaves: Any) -> Outcome:
        return _with(trial, leaves, inputs).run()

    def f_vjp(*leaves: Any) -> tuple[Outcome, Any]:
        case = _with(trial, leaves, inputs)

        def pull(cotangents: Outcome) -> tuple[Any, ...]:
            return _floats(case.but(cotangents=cotangents).pull().grads._replace(**held))

        return case.pull().out, pull

    check_vjp(f, f_vjp, _floats(inputs), eps=_STEP)


def second_derivatives(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """The gradient has a gradient, which is right by finite differences; slow."""
    trial = Trial.of(cell, event_shape, implementation, steps=3, batch_shape=(2,)).patterned()
    at, rng = _floats(_inputs(trial)), np.random.default_rng(3)
    along = tuple(_direction(rng, leaf) for leaf in at)

    def value(leaves: Any) -> Any:
        return _dot(jax.tree.leaves(_with(trial, leaves).call()), jax.tree.leaves(trial.cotangents))

    gradient = jax.jit(jax.grad(value))
    curvature = jax.jit(jax.grad(lambda leaves: _dot(gradient(leaves), along)))
    up, down = (gradient(tuple(a + step * b for a, b in zip(at, along, strict=True))) for step in (_STEP, -_STEP))
    differences = tuple((a - b) / (2 * _STEP) for a, b in zip(up, down, strict=True))
    got, want = (
        tuple(np.stack([np.real(leaf), np.imag(leaf)]) for leaf in one) for one in (curvature(at), differences)
    )
    agree("second derivatives", got, want, tolerance=1e-6)


def _direction(rng: np.random.Generator, leaf: Any) -> Any:
    drawn = rng.normal(size=leaf.shape)
    return drawn + 1j * rng.normal(size=leaf.shape) if np.iscomplexobj(leaf) else drawn


def _dot(a: Any, b: Any) -> Any:
    """The change along b of what has the gradient a."""
    return sum(jnp.sum(one * other).real for one, other in zip(a, b, strict=True))


def _inputs(trial: Trial) -> Gradients:
    return Gradients(trial.cell, trial.params, trial.xs, trial.state)


def _floats(tree: Any) -> tuple[Any, ...]:
    return tuple(leaf for leaf in jax.tree.leaves(tree) if np.issubdtype(leaf.dtype, np.inexact))


def _with(trial: Trial, floats: Any, inputs: Gradients | None = None) -> Trial:
    """The trial with other numbers for the inputs, by default all; those that are None stay."""
    leaves, structure = jax.tree.flatten(_inputs(trial) if inputs is None else inputs)
    floats = iter(floats)
    leaves = [next(floats) if np.issubdtype(leaf.dtype, np.inexact) else leaf for leaf in leaves]
    changes = jax.tree.unflatten(structure, leaves)._asdict()
    return trial.but(**{name: value for name, value in changes.items() if value is not None})


def leaves(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """The gradient of each of the cell's numbers is right by finite differences, and `vmap` runs over each of them."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    grads = dict(jax.tree_util.tree_flatten_with_path(trial.pull().grads.cell)[0])
    numbers, structure = jax.tree_util.tree_flatten_with_path(trial.cell)
    for at, (path, number) in enumerate(numbers):
        if not np.issubdtype(number.dtype, np.inexact):
            continue

        def changed(value: Any, at: int = at) -> Any:
            return jax.tree.unflatten(structure, [value if i == at else leaf for i, (_, leaf) in enumerate(numbers)])

        name = jax.tree_util.keystr(path)
        up, down = (_loss(trial.but(cell=changed(number + step))) for step in (_STEP, -_STEP))
        agree(f"gradient of {name}", grads[path].sum(), (up - down) / (2 * _STEP), tolerance=1e-6)

        values = np.stack([number, 0.9 * number])
        axes = jax.tree.unflatten(structure, [0 if i == at else None for i in range(len(numbers))])
        mapped = jax.vmap(lambda cell: trial.but(cell=cell).call(), in_axes=(axes,))(changed(values))
        each = [trial.but(cell=changed(value)).run() for value in values]
        agree(f"vmap over {name}", mapped, jax.tree.map(lambda *rows: np.stack(rows), *each))


def _loss(trial: Trial) -> Any:
    pairs = zip(jax.tree.leaves(trial.run()), jax.tree.leaves(trial.cotangents), strict=True)
    return sum(np.vdot(a, b) for a, b in pairs)


def lowering(cell: Cell, event_shape: Shape, implementation: str) -> None:
    """The gradient lowers for accelerators, in float32."""
    trial = Trial.of(cell, event_shape, implementation).patterned()
    narrow = jax.tree.map(lambda leaf: leaf.astype(np.float32), _inputs(trial)._replace(cell=None))

    def loss(params: Any, xs: Any, state: Any) -> Any:
        ys, _ = trial.but(cell=cell, params=params, xs=xs, state=state).call()
        return (ys * ys).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(narrow.params, narrow.xs, narrow.state)
    for platform in ("cuda", "tpu"):
        require(traced.lower(lowering_platforms=(platform,)).as_text(), f"nothing to run on {platform}")
