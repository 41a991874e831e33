"""The liquid time-constant network's cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._cell import Cell, with_elapsed
from .._errors import check_size
from .._struct import struct
from .._types import Array, DTypeLike, Key, Noise, Xs, at_least_float32
from ._common import scale, settle


class LTCParams(NamedTuple):
    """w, w_mu, w_sigma, w_e (I, H) of synapses from inputs, u, u_mu, u_sigma, u_e (H, H) of those between units, and
    g, e, c (H)."""

    w: Array
    w_mu: Array
    w_sigma: Array
    w_e: Array
    u: Array
    u_mu: Array
    u_sigma: Array
    u_e: Array
    g: Array
    e: Array
    c: Array


class LTCState(NamedTuple):
    """h (*B, H)."""

    h: Array


class LTCInputs(NamedTuple):
    """Currents and conductances of the synapses from inputs (T, *B, H), and dt (T, *B) or None."""

    current: Array
    conductance: Array
    dt: Array | None


@struct
class LTC(Cell):
    """LTC, leaky units joined by synapses whose conductance depends on the unit in front of them, so that time
    constants are liquid.

    s(w, μ, σ, a)_ij = softplus(w_ij) σ(σ_ij (a_i − μ_ij))       conductance of a synapse from a_i to unit j
    C dh_j/dt = G_j (e_j − h_j) + Σ_i s(w, …, x)_ij (w_e_ij − h_j) + Σ_i s(u, …, h)_ij (u_e_ij − h_j)

    with C = softplus(c), G = softplus(g), in L steps of the time τ = Δt/L each, of which every one is

    h_j ← (C h_j + τ (G e_j + Σ s w_e + Σ s u_e)) / (C + τ (G + Σ s + Σ s))

    ================  ======  =====================================================
    w, u              (·, H)  softplus(w) uniform on [0.001, 1]
    w_mu, u_mu        (·, H)  μ, uniform on [0.3, 0.8]
    w_sigma, u_sigma  (·, H)  σ, uniform on [3, 8]
    w_e, u_e          (·, H)  reversal potentials, 1 or −1
    g, c              (H)     softplus(g) uniform on [0.001, 1], softplus(c) on [0.4, 0.6]
    e                 (H)     potential at rest, uniform on [−0.2, 0.2]
    ================  ======  =====================================================

    Irregular samples: pass `(x, dt)`, with dt (T, *B) ≥ 0 the time since the last step; without it Δt = 1. State:
    `LTCState(h)`, zero at first, in at least float32. The output is h.

    Args:
        hidden_size: H.
        unfolds: L, steps of the solver for one time step.
        compute_dtype: dtype of the parameters and outputs; None takes the promotion of inputs and parameters.

    References:
        Hasani, Lechner, Amini, Rus, Grosu 2020, Liquid time-constant networks, arXiv:2006.04439.

    >>> import jax, jax.numpy as jnp, rnnjax as rj
    >>> cell = rj.LTC(hidden_size=3)
    >>> params = cell.init(jax.random.key(0), in_size=2)
    >>> ys, state = rj.unroll(cell, params, (jnp.ones((5, 7, 2)), jnp.full((5, 7), 0.5)))
    >>> ys.shape, state.h.shape
    ((5, 7, 3), (7, 3))
    """

    hidden_size: int
    unfolds: int = 6
    compute_dtype: DTypeLike | None = None

    elapsed = True

    def __post_init__(self) -> None:
        settle(self)
        check_size("unfolds", self.unfolds)

    def init(self, key: Key, in_size: int, dtype: DTypeLike = jnp.float32) -> LTCParams:
        size, exact = self.hidden_size, at_least_float32(dtype)
        keys = iter(jax.random.split(key, 11))

        def uniform(shape: tuple[int, ...], low: float, high: float) -> Array:
            return jax.random.uniform(next(keys), shape, exact, low, high)

        def positive(shape: tuple[int, ...], low: float, high: float) -> Array:
            return jnp.log(jnp.expm1(uniform(shape, low, high)))

        def synapses(inputs: int) -> tuple[Array, ...]:
            shape = (inputs, size)
            mu, sigma = uniform(shape, 0.3, 0.8), uniform(shape, 3, 8)
            return positive(shape, 0.001, 1), mu, sigma, jax.random.rademacher(next(keys), shape, exact)

        own = positive((size,), 0.001, 1), uniform((size,), -0.2, 0.2), positive((size,), 0.4, 0.6)
        return LTCParams(*(leaf.astype(dtype) for leaf in (*synapses(in_size), *synapses(size), *own)))

    def initial_state(
        self, params: LTCParams, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LTCState:
        return LTCState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project(self, params: LTCParams, x: Xs, noise: Noise = None) -> LTCInputs:
        x, dt = with_elapsed(x)
        x = x.astype(params.c.dtype)
        return LTCInputs(*_synapses(x, params.w, params.w_mu, params.w_sigma, params.w_e), dt)

    def step(self, params: LTCParams, state: LTCState, z: LTCInputs, noise: Noise = None) -> LTCState:
        h = state.h
        tau = jnp.full_like(h, 1 / self.unfolds)
        if z.dt is not None:
            tau = tau * z.dt.astype(h.dtype)[..., None]
        leak, capacity = jax.nn.softplus(params.g), jax.nn.softplus(params.c)
        ones = jnp.ones_like(h)
        for _ in range(self.unfolds):
            current, conductance = _synapses(h, params.u, params.u_mu, params.u_sigma, params.u_e)
            current = scale(ones, leak * params.e) + current + z.current
            conductance = scale(ones, leak) + conductance + z.conductance
            h = (scale(h, capacity) + tau * current) / (scale(ones, capacity) + tau * conductance)
        return LTCState(h)


def _conduct(a: Array, w: Array, mu: Array, sigma: Array, e: Array) -> tuple[Array, Array]:
    """Current into units at potential 0, and conductance, (…, H) each, of the synapses behind a (…, I)."""
    shape = (*a.shape, w.shape[-1])
    w, mu, sigma, e = (jnp.broadcast_to(part.astype(a.dtype), shape) for part in (w, mu, sigma, e))
    conductance = jax.nn.softplus(w) * jax.nn.sigmoid(sigma * (a[..., None] - mu))
    return (conductance * e).sum(-2), conductance.sum(-2)


# the derivative forms the conductances again: they are (*B, I, H) for each of the solver's steps
_synapses: Callable[..., tuple[Array, Array]] = jax.checkpoint(_conduct, prevent_cse=False)
