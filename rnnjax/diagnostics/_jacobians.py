"""Jacobians of a cell's step, norms of their products, and spectra of recurrent weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._types import Array, Params, State, Xs, at_least_float32
from ._flat import exact, flat_cell


@jax.jit
def step_jacobians(cell: Cell, params: Params, xs: Xs, state: State | None = None) -> Array:
    """∂s_t/∂s_{t-1} at every step, where s holds all arrays of the state, one after another.

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`. There is no mask: pass rows of one length.

    Returns:
        (T, *B, S, S), S the numbers of one state: H for a GRU, 2H for an LSTM, whose h comes before its c.

    Raises:
        TypeError: if the step has no forward derivative.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=4, activation="identity")
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> jacobians = rj.diagnostics.step_jacobians(cell, params, jnp.ones((6, 2, 3), jnp.float32))
    >>> jacobians.shape, bool(jnp.allclose(jacobians[4, 1], params.u.T))
    ((6, 2, 4, 4), True)
    """
    flat = flat_cell(cell, params, xs, state, differentiate=True)

    def body(s: Array, z: Any) -> tuple[Array, Array]:
        return jax.vmap(flat.step)(s, z), jax.vmap(flat.jacobian)(s, z)

    _, jacobians = jax.lax.scan(body, flat.start, flat.z)
    return jacobians.reshape(jacobians.shape[0], *flat.batch_shape, *jacobians.shape[2:])


class JacobianNorms(NamedTuple):
    """Logarithms of spectral norms, (T, *B): how much a step, and all steps after it, can stretch a change of state.

    step: log ‖∂s_t/∂s_{t-1}‖₂.
    product: log ‖∂s_T/∂s_{t-1}‖₂, the product of the Jacobians of steps t … T.
    """

    step: Array
    product: Array


@jax.jit
def jacobian_norms(cell: Cell, params: Params, xs: Xs, state: State | None = None) -> JacobianNorms:
    """Norms of the step's Jacobians and of their products back from the last step.

    The products are rescaled at every step and their scales added up as logarithms, so that no number of steps makes
    them zero or infinite. The logarithm of a Jacobian that is zero is −inf.

    Args:
        cell, params, xs, state: as for `rnnjax.unroll`. There is no mask: pass rows of one length.

    References:
        Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent neural networks, arXiv:1211.5063.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.Elman(hidden_size=4, activation="identity")
    >>> params = cell.init(jax.random.key(0), in_size=3)
    >>> params = params._replace(u=0.5 * jnp.eye(4))
    >>> norms = rj.diagnostics.jacobian_norms(cell, params, jnp.ones((3, 3)))
    >>> [round(float(x), 3) for x in jnp.exp(norms.product)]
    [0.125, 0.25, 0.5]
    """
    jacobians = step_jacobians(cell, params, xs, state)
    steps, size = jacobians.shape[0], jacobians.shape[-1]
    flat = jacobians.reshape(steps, -1, size, size)

    @exact
    def body(carry: tuple[Array, Array], jacobian: Array) -> tuple[tuple[Array, Array], Array]:
        product, log_scale = carry
        product = product @ jacobian
        norm = _spectral_norm(product)
        scale = jnp.where((norm > 0) & jnp.isfinite(norm), norm, 1)
        return (product / scale[:, None, None], log_scale + jnp.log(scale)), log_scale + jnp.log(norm)

    rows = flat.shape[1]
    start = jnp.broadcast_to(jnp.eye(size, dtype=flat.dtype), (rows, size, size)), jnp.zeros((rows,), flat.dtype)
    _, product = jax.lax.scan(body, start, flat, reverse=True)
    lead = jacobians.shape[:-2]
    return JacobianNorms(jnp.log(_spectral_norm(flat)).reshape(lead), product.reshape(lead))


def _spectral_norm(matrices: Array) -> Array:
    return jnp.linalg.svd(matrices, compute_uv=False)[..., 0]


class RecurrentSpectrum(NamedTuple):
    """Of the recurrent matrix (H, H) of each gate: singular values in falling order (G, H), eigenvalues, complex
    (G, H), and the largest modulus of them, the spectral radius (G)."""

    singular_values: Array
    eigenvalues: Array
    radius: Array


@jax.jit
def recurrent_spectrum(cell: Cell, params: Params) -> RecurrentSpectrum:
    """Singular values and eigenvalues of a gated cell's recurrent weights, gate by gate.

    Args:
        cell: a gated cell, whose gates stand in its docstring's order.
        params: its parameters.

    Raises:
        TypeError: for a cell without one recurrent matrix; `step_jacobians` says the same of any cell.

    >>> import jax, rnnjax as rj
    >>> cell = rj.GRU(hidden_size=4)
    >>> spectrum = rj.diagnostics.recurrent_spectrum(cell, cell.init(jax.random.key(0), in_size=3))
    >>> spectrum.singular_values.shape, [round(float(r), 4) for r in spectrum.radius]
    ((3, 4), [1.0, 1.0, 1.0])
    """
    if not isinstance(cell, Cell) or cell.capability != "gated":
        raise TypeError(
            f"`cell` must be a gated cell, which has one recurrent matrix; got {cell!r}. Take the eigenvalues of "
            "`step_jacobians` instead"
        )
    u, _ = cell.recurrent(cell.prepare(params))  # type: ignore[attr-defined]
    u = u.astype(at_least_float32(u.dtype))
    blocks = jnp.stack(jnp.split(u, u.shape[-1] // u.shape[0], axis=-1))
    eigenvalues = jnp.linalg.eigvals(blocks)
    return RecurrentSpectrum(jnp.linalg.svd(blocks, compute_uv=False), eigenvalues, jnp.abs(eigenvalues).max(-1))
