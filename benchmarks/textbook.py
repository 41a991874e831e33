"""Recurrences as one writes them by hand in plain JAX: functions (params, xs) -> ys of this package's parameters.

A `scan` is the textbook's loop with the products inside; an `associative_scan` stands between products over all steps.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

HEADS = 4


def gates(params: Any, x: Any) -> tuple[Any, Any]:
    """a and b of h ↦ a ⊙ h + b in a minGRU, as its authors write them."""
    z, n = jnp.split(x @ params.w + params.b, 2, axis=-1)
    z, n = jax.nn.sigmoid(z), jnp.where(n >= 0, n + 0.5, jax.nn.sigmoid(n))
    return 1 - z, z * n


def min_gru_scan(params: Any, xs: Any) -> Any:
    """The textbook's loop."""

    def step(h: Any, x: Any) -> Any:
        a, b = gates(params, x)
        h = a * h + b
        return h, h

    return lax.scan(step, jnp.zeros((xs.shape[1], params.w.shape[1] // 2)), xs)[1]


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


def lru_scan(params: Any, xs: Any, inside: bool) -> Any:
    """The textbook's loop, with its readout `inside` or behind it."""
    a = eigenvalues(params)

    def step(s: Any, x: Any) -> Any:
        s = a * s + enter(params, x)
        return s, leave(params, s, x) if inside else s

    out = lax.scan(step, jnp.zeros((xs.shape[1], a.shape[0]), a.dtype), xs)[1]
    return out if inside else leave(params, out, xs)


def lru_associative(params: Any, xs: Any) -> Any:
    """All steps at once."""
    b = enter(params, xs)
    states = lax.associative_scan(compose, (jnp.broadcast_to(eigenvalues(params), b.shape), b))[1]
    return leave(params, states, xs)


def gru_scan(params: Any, xs: Any) -> Any:
    """The textbook's loop of a GRU."""

    def step(h: Any, x: Any) -> Any:
        x_r, x_z, x_n = jnp.split(x @ params.w + params.b, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(h @ params.u, 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * (h_n + params.b_n))
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, jnp.zeros((xs.shape[1], params.u.shape[0])), xs)[1]


def heads(x: Any) -> Any:
    """(B, N·D) as (B, N, D)."""
    return x.reshape(*x.shape[:-1], HEADS, -1)


def mlstm_scan(params: Any, xs: Any) -> Any:
    """The textbook's loop of mLSTM."""

    def step(state: Any, x: Any) -> Any:
        c, n, m = state
        q, k, v, o = jnp.split(x @ params.w + params.b, 4, axis=-1)
        q, k, v = heads(q), heads(k), heads(v)
        k = k / jnp.sqrt(k.shape[-1])
        log_i, f = jnp.split(x @ params.w_gates + params.b_gates, 2, axis=-1)
        log_f = jax.nn.log_sigmoid(f)
        new = jnp.maximum(log_f + m, log_i)
        i, f = jnp.exp(log_i - new), jnp.exp(log_f + m - new)
        c = f[..., None, None] * c + i[..., None, None] * k[..., :, None] * v[..., None, :]
        n = f[..., None] * n + i[..., None] * k
        norm = jnp.maximum(jnp.abs((q * n).sum(-1)), jnp.exp(-new))
        h = jnp.einsum("bnd,bnde->bne", q, c) / norm[..., None]
        return (c, n, new), jax.nn.sigmoid(o) * h.reshape(o.shape)

    batch, size = xs.shape[1], xs.shape[2] // HEADS
    start = jnp.zeros((batch, HEADS, size, size)), jnp.zeros((batch, HEADS, size)), jnp.zeros((batch, HEADS))
    return lax.scan(step, start, xs)[1]


def delta_scan(params: Any, xs: Any) -> Any:
    """The textbook's loop of the gated delta rule."""

    def step(s: Any, x: Any) -> Any:
        q, k, v = (heads(part) for part in jnp.split(jax.nn.silu(x @ params.w), 3, axis=-1))
        q, k = (part / jnp.sqrt((part * part).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
        a, beta = jnp.split(x @ params.w_gates, 2, axis=-1)
        a, beta = jnp.exp(-jnp.exp(params.decay) * jax.nn.softplus(a + params.b)), jax.nn.sigmoid(beta)
        s = a[..., None, None] * s
        u = beta[..., None] * (v - jnp.einsum("bnd,bnde->bne", k, s))
        s = s + k[..., :, None] * u[..., None, :]
        return s, jnp.einsum("bnd,bnde->bne", q, s).reshape(x.shape[0], -1)

    batch, size = xs.shape[1], xs.shape[2] // HEADS
    return lax.scan(step, jnp.zeros((batch, HEADS, size, size)), xs)[1]


RIVALS = {
    "mingru": {"scan": min_gru_scan, "associative_scan": min_gru_associative},
    "lru": {
        "scan": partial(lru_scan, inside=True),
        "scan, readout behind": partial(lru_scan, inside=False),
        "associative_scan": lru_associative,
    },
    "gru": {"scan": gru_scan},
    "mlstm": {"scan": mlstm_scan},
    "gated_delta_net": {"scan": delta_scan},
}
