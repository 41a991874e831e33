"""Recurrences as one writes them by hand in plain JAX: functions (params, xs) -> ys of this package's parameters.

A `scan` is the textbook's loop with all products inside, or with those that do not wait for a state outside, over all
steps at once; an `associative_scan` stands between such products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

HEADS = 4


def loop(project: Callable[[Any], Any], step: Callable[[Any, Any], Any], start: Any, xs: Any, inside: bool) -> Any:
    """What `step` emits, given what `project` makes of the inputs: `inside` the loop, or of all of them outside."""
    if inside:
        return lax.scan(lambda state, x: step(state, project(x)), start, xs)[1]
    return lax.scan(step, start, project(xs))[1]


def gates(params: Any, x: Any) -> tuple[Any, Any]:
    """a and b of h ↦ a ⊙ h + b in a minGRU, as its authors write them."""
    z, n = jnp.split(x @ params.w + params.b, 2, axis=-1)
    z, n = jax.nn.sigmoid(z), jnp.where(n >= 0, n + 0.5, jax.nn.sigmoid(n))
    return 1 - z, z * n


def min_gru_scan(params: Any, xs: Any, inside: bool) -> Any:
    """The textbook's loop."""

    def step(h: Any, z: Any) -> Any:
        a, b = z
        h = a * h + b
        return h, h

    return loop(partial(gates, params), step, jnp.zeros((xs.shape[1], params.w.shape[1] // 2)), xs, inside)


def compose(first: Any, then: Any) -> Any:
    """One transition out of two."""
    return then[0] * first[0], then[0] * first[1] + then[1]


def min_gru_associative(params: Any, xs: Any) -> Any:
    """All steps at once."""
    return lax.associative_scan(compose, gates(params, xs))[1]


def eigenvalues(params: Any) -> Any:
    """λ."""
    return jnp.exp(lax.complex(-jnp.exp(params.nu), jnp.exp(params.theta)))


def enter(params: Any, x: Any) -> Any:
    """exp γ ⊙ (x w)."""
    w_re, w_im = jnp.split(params.w * jnp.tile(jnp.exp(params.gamma), 2), 2, axis=-1)
    return lax.complex(x @ w_re, x @ w_im)


def leave(params: Any, s: Any, x: Any) -> Any:
    """Re(s c) + d ⊙ x."""
    c_re, c_im = jnp.split(params.c, 2, axis=-1)
    return s.real @ c_re - s.imag @ c_im + params.d * x


def lru_scan(params: Any, xs: Any) -> Any:
    """The textbook's loop."""
    a = eigenvalues(params)

    def step(s: Any, x: Any) -> Any:
        s = a * s + enter(params, x)
        return s, leave(params, s, x)

    return lax.scan(step, jnp.zeros((xs.shape[1], a.shape[0]), a.dtype), xs)[1]


def lru_states(params: Any, xs: Any, inside: bool) -> Any:
    """The textbook's loop with the readout behind it."""
    a = eigenvalues(params)

    def step(s: Any, b: Any) -> Any:
        s = a * s + b
        return s, s

    start = jnp.zeros((xs.shape[1], a.shape[0]), a.dtype)
    return leave(params, loop(partial(enter, params), step, start, xs, inside), xs)


def lru_associative(params: Any, xs: Any) -> Any:
    """All steps at once."""
    b = enter(params, xs)
    states = lax.associative_scan(compose, (jnp.broadcast_to(eigenvalues(params), b.shape), b))[1]
    return leave(params, states, xs)


def gru_scan(params: Any, xs: Any, inside: bool) -> Any:
    """The textbook's loop of a GRU."""

    def step(h: Any, gx: Any) -> Any:
        x_r, x_z, x_n = jnp.split(gx, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(h @ params.u, 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * (h_n + params.b_n))
        h = (1 - z) * n + z * h
        return h, h

    return loop(lambda x: x @ params.w + params.b, step, jnp.zeros((xs.shape[1], params.u.shape[0])), xs, inside)


def heads(x: Any) -> Any:
    """(…, N·D) as (…, N, D)."""
    return x.reshape(*x.shape[:-1], HEADS, -1)


def mlstm_scan(params: Any, xs: Any, inside: bool) -> Any:
    """The textbook's loop of mLSTM."""

    def project(x: Any) -> Any:
        q, k, v, o = jnp.split(x @ params.w + params.b, 4, axis=-1)
        q, k, v = heads(q), heads(k), heads(v)
        log_i, f = jnp.split(x @ params.w_gates + params.b_gates, 2, axis=-1)
        return q, k / jnp.sqrt(k.shape[-1]), v, jax.nn.sigmoid(o), log_i, jax.nn.log_sigmoid(f)

    def step(state: Any, z: Any) -> Any:
        c, n, m = state
        q, k, v, o, log_i, log_f = z
        new = jnp.maximum(log_f + m, log_i)
        i, f = jnp.exp(log_i - new), jnp.exp(log_f + m - new)
        c = f[..., None, None] * c + i[..., None, None] * k[..., :, None] * v[..., None, :]
        n = f[..., None] * n + i[..., None] * k
        norm = jnp.maximum(jnp.abs((q * n).sum(-1)), jnp.exp(-new))
        h = jnp.einsum("bnd,bnde->bne", q, c) / norm[..., None]
        return (c, n, new), o * h.reshape(o.shape)

    batch, size = xs.shape[1], xs.shape[2] // HEADS
    start = jnp.zeros((batch, HEADS, size, size)), jnp.zeros((batch, HEADS, size)), jnp.zeros((batch, HEADS))
    return loop(project, step, start, xs, inside)


def delta_scan(params: Any, xs: Any, inside: bool) -> Any:
    """The textbook's loop of the gated delta rule."""

    def project(x: Any) -> Any:
        q, k, v = (heads(part) for part in jnp.split(jax.nn.silu(x @ params.w), 3, axis=-1))
        q, k = (part / jnp.sqrt((part * part).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
        a, beta = jnp.split(x @ params.w_gates, 2, axis=-1)
        return q, k, v, jnp.exp(-jnp.exp(params.decay) * jax.nn.softplus(a + params.b)), jax.nn.sigmoid(beta)

    def step(s: Any, z: Any) -> Any:
        q, k, v, a, beta = z
        s = a[..., None, None] * s
        u = beta[..., None] * (v - jnp.einsum("bnd,bnde->bne", k, s))
        s = s + k[..., :, None] * u[..., None, :]
        return s, jnp.einsum("bnd,bnde->bne", q, s).reshape(q.shape[0], -1)

    batch, size = xs.shape[1], xs.shape[2] // HEADS
    return loop(project, step, jnp.zeros((batch, HEADS, size, size)), xs, inside)


def both(recurrence: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The two loops of one recurrence."""
    return {"scan": partial(recurrence, inside=True), "scan, products outside": partial(recurrence, inside=False)}


RIVALS = {
    "mingru": {**both(min_gru_scan), "associative_scan": min_gru_associative},
    "lru": {
        "scan": lru_scan,
        "scan, readout behind": partial(lru_states, inside=True),
        "scan, products outside": partial(lru_states, inside=False),
        "associative_scan": lru_associative,
    },
    "gru": both(gru_scan),
    "mlstm": both(mlstm_scan),
    "gated_delta_net": both(delta_scan),
}
