"""Every cell's equations in NumPy and float64, transcribed from the papers: one gate a line, one step at a time.

Nothing here comes from `rnnjax`. Each function takes inputs x (T, B, I), the parameters and the state by the names of
the cell's fields, and returns the outputs (T, B, O) and the last state as a dictionary. Gates are cut out by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy import ndarray as Array

State = dict[str, Array]
Activation = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def elman(x: Array, *, w: Array, u: Array, b: Array, h: Array, phi: Activation = np.tanh) -> tuple[Array, State]:
    ys = []
    for x_t in x:
        h = phi(x_t @ w + h @ u + b)
        ys.append(h)
    return np.stack(ys), {"h": h}


def leaky_elman(
    x: Array, *, w: Array, u: Array, b: Array, h: Array, leak: float | Array, phi: Activation = np.tanh
) -> tuple[Array, State]:
    ys = []
    for x_t in x:
        h = (1 - leak) * h + leak * phi(x_t @ w + h @ u + b)
        ys.append(h)
    return np.stack(ys), {"h": h}


def lstm(x: Array, *, w: Array, u: Array, b: Array, h: Array, c: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        i = sigmoid(x_t @ w[:, 0 * n : 1 * n] + h @ u[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        f = sigmoid(x_t @ w[:, 1 * n : 2 * n] + h @ u[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        g = np.tanh(x_t @ w[:, 2 * n : 3 * n] + h @ u[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        o = sigmoid(x_t @ w[:, 3 * n : 4 * n] + h @ u[:, 3 * n : 4 * n] + b[3 * n : 4 * n])
        c = f * c + i * g
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c}


def peephole_lstm(x: Array, *, w: Array, u: Array, b: Array, p: Array, h: Array, c: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    p_i, p_f, p_o = p[:n], p[n : 2 * n], p[2 * n :]
    ys = []
    for x_t in x:
        i = sigmoid(x_t @ w[:, 0 * n : 1 * n] + h @ u[:, 0 * n : 1 * n] + p_i * c + b[0 * n : 1 * n])
        f = sigmoid(x_t @ w[:, 1 * n : 2 * n] + h @ u[:, 1 * n : 2 * n] + p_f * c + b[1 * n : 2 * n])
        g = np.tanh(x_t @ w[:, 2 * n : 3 * n] + h @ u[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        c = f * c + i * g
        o = sigmoid(x_t @ w[:, 3 * n : 4 * n] + h @ u[:, 3 * n : 4 * n] + p_o * c + b[3 * n : 4 * n])
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c}


def projection_lstm(x: Array, *, w: Array, u: Array, b: Array, w_p: Array, h: Array, c: Array) -> tuple[Array, State]:
    n = c.shape[-1]
    ys = []
    for x_t in x:
        i = sigmoid(x_t @ w[:, 0 * n : 1 * n] + h @ u[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        f = sigmoid(x_t @ w[:, 1 * n : 2 * n] + h @ u[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        g = np.tanh(x_t @ w[:, 2 * n : 3 * n] + h @ u[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        o = sigmoid(x_t @ w[:, 3 * n : 4 * n] + h @ u[:, 3 * n : 4 * n] + b[3 * n : 4 * n])
        c = f * c + i * g
        h = (o * np.tanh(c)) @ w_p
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c}


def coupled_lstm(x: Array, *, w: Array, u: Array, b: Array, h: Array, c: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        f = sigmoid(x_t @ w[:, 0 * n : 1 * n] + h @ u[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        i = 1 - f
        g = np.tanh(x_t @ w[:, 1 * n : 2 * n] + h @ u[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        o = sigmoid(x_t @ w[:, 2 * n : 3 * n] + h @ u[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        c = f * c + i * g
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c}


def layer_norm(z: Array, eps: float) -> Array:
    mean = z.mean(-1, keepdims=True)
    variance = ((z - mean) ** 2).mean(-1, keepdims=True)
    return (z - mean) / np.sqrt(variance + eps)


def layer_norm_lstm(
    x: Array,
    *,
    w: Array,
    u: Array,
    b: Array,
    gain_x: Array,
    gain_h: Array,
    gain_c: Array,
    b_c: Array,
    h: Array,
    c: Array,
    eps: float,
) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        a = gain_h * layer_norm(h @ u, eps) + gain_x * layer_norm(x_t @ w, eps) + b
        i = sigmoid(a[:, 0 * n : 1 * n])
        f = sigmoid(a[:, 1 * n : 2 * n])
        g = np.tanh(a[:, 2 * n : 3 * n])
        o = sigmoid(a[:, 3 * n : 4 * n])
        c = f * c + i * g
        h = o * np.tanh(gain_c * layer_norm(c, eps) + b_c)
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c}


def gru(x: Array, *, w: Array, u: Array, b: Array, b_n: Array, h: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        reset = sigmoid(x_t @ w[:, 0 * n : 1 * n] + h @ u[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        keep = sigmoid(x_t @ w[:, 1 * n : 2 * n] + h @ u[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        recurrent = h @ u[:, 2 * n : 3 * n] + b_n
        candidate = np.tanh(x_t @ w[:, 2 * n : 3 * n] + b[2 * n : 3 * n] + reset * recurrent)
        h = (1 - keep) * candidate + keep * h
        ys.append(h)
    return np.stack(ys), {"h": h}


def reset_before_gru(x: Array, *, w: Array, u: Array, b: Array, h: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        reset = sigmoid(x_t @ w[:, 0 * n : 1 * n] + h @ u[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        keep = sigmoid(x_t @ w[:, 1 * n : 2 * n] + h @ u[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        candidate = np.tanh(x_t @ w[:, 2 * n : 3 * n] + (reset * h) @ u[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        h = (1 - keep) * candidate + keep * h
        ys.append(h)
    return np.stack(ys), {"h": h}


def layer_norm_gru(
    x: Array, *, w: Array, u: Array, b: Array, b_n: Array, gain_x: Array, gain_h: Array, h: Array, eps: float
) -> tuple[Array, State]:
    """The paper's z is 1 − `keep`."""
    n = h.shape[-1]
    ys = []
    for x_t in x:
        gates = gain_h[: 2 * n] * layer_norm(h @ u[:, : 2 * n], eps)
        gates = gates + gain_x[: 2 * n] * layer_norm(x_t @ w[:, : 2 * n], eps) + b[: 2 * n]
        reset = sigmoid(gates[:, :n])
        keep = sigmoid(gates[:, n:])
        recurrent = gain_h[2 * n :] * layer_norm(h @ u[:, 2 * n :], eps) + b_n
        candidate = np.tanh(gain_x[2 * n :] * layer_norm(x_t @ w[:, 2 * n :], eps) + b[2 * n :] + reset * recurrent)
        h = (1 - keep) * candidate + keep * h
        ys.append(h)
    return np.stack(ys), {"h": h}


def mgu(x: Array, *, w: Array, u: Array, b: Array, b_n: Array, h: Array) -> tuple[Array, State]:
    """With the gate after the recurrent product, where the paper has (f ⊙ h) u."""
    n = h.shape[-1]
    ys = []
    for x_t in x:
        f = sigmoid(x_t @ w[:, :n] + h @ u[:, :n] + b[:n])
        candidate = np.tanh(x_t @ w[:, n:] + b[n:] + f * (h @ u[:, n:] + b_n))
        h = (1 - f) * h + f * candidate
        ys.append(h)
    return np.stack(ys), {"h": h}


def ind_rnn(x: Array, *, w: Array, u: Array, b: Array, h: Array, phi: Activation = relu) -> tuple[Array, State]:
    ys = []
    for x_t in x:
        h = phi(x_t @ w + u * h + b)
        ys.append(h)
    return np.stack(ys), {"h": h}


def convolve(x: Array, w: Array) -> Array:
    """x (B, *S, I) and w (*K, I, O): every place sums its neighbourhood, with zeros beyond the edge.

    Odd kernels are centred; an even one reaches one place further behind than before.
    """
    kernel, spatial = w.shape[:-2], x.shape[1:-1]
    y = np.zeros((*x.shape[:-1], w.shape[-1]))
    for place in product(*map(range, spatial)):
        for offset in product(*map(range, kernel)):
            source = tuple(p + o - (k - 1) // 2 for p, o, k in zip(place, offset, kernel, strict=True))
            if all(0 <= s < size for s, size in zip(source, spatial, strict=True)):
                y[(slice(None), *place)] += x[(slice(None), *source)] @ w[offset]
    return y


def conv_lstm(x: Array, *, w: Array, u: Array, b: Array, h: Array, c: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        i = sigmoid(convolve(x_t, w[..., 0 * n : 1 * n]) + convolve(h, u[..., 0 * n : 1 * n]) + b[0 * n : 1 * n])
        f = sigmoid(convolve(x_t, w[..., 1 * n : 2 * n]) + convolve(h, u[..., 1 * n : 2 * n]) + b[1 * n : 2 * n])
        g = np.tanh(convolve(x_t, w[..., 2 * n : 3 * n]) + convolve(h, u[..., 2 * n : 3 * n]) + b[2 * n : 3 * n])
        o = sigmoid(convolve(x_t, w[..., 3 * n : 4 * n]) + convolve(h, u[..., 3 * n : 4 * n]) + b[3 * n : 4 * n])
        c = f * c + i * g
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c}


def positive(x: Array) -> Array:
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru(x: Array, *, w: Array, b: Array, h: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        z = sigmoid(x_t @ w[:, :n] + b[:n])
        candidate = positive(x_t @ w[:, n:] + b[n:])
        h = (1 - z) * h + z * candidate
        ys.append(h)
    return np.stack(ys), {"h": h}


def min_lstm(x: Array, *, w: Array, b: Array, h: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        f = sigmoid(x_t @ w[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        i = sigmoid(x_t @ w[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        candidate = positive(x_t @ w[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        h = f / (f + i) * h + i / (f + i) * candidate
        ys.append(h)
    return np.stack(ys), {"h": h}


def linear_elman(x: Array, *, w: Array, u: Array, b: Array, h: Array) -> tuple[Array, State]:
    ys = []
    for x_t in x:
        h = h @ np.diag(u) + x_t @ w + b
        ys.append(h)
    return np.stack(ys), {"h": h}


def lru(
    x: Array, *, nu: Array, theta: Array, gamma: Array, w: Array, c: Array, d: Array, re: Array, im: Array
) -> tuple[Array, State]:
    n, features = re.shape[-1], x.shape[-1]
    eigenvalues = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    w, c = w[:, :n] + 1j * w[:, n:], c[:, :features] + 1j * c[:, features:]
    s = re + 1j * im
    ys = []
    for x_t in x:
        s = eigenvalues * s + np.exp(gamma) * (x_t @ w)
        ys.append((s @ c).real + d * x_t)
    return np.stack(ys), {"re": s.real, "im": s.imag}


def rg_lru(x: Array, *, w: Array, b: Array, decay: Array, h: Array) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        r = sigmoid(x_t @ w[:, :n] + b[:n])
        i = sigmoid(x_t @ w[:, n:] + b[n:])
        a = sigmoid(decay) ** (8 * r)
        h = a * h + np.sqrt(1 - a**2) * (i * x_t)
        ys.append(h)
    return np.stack(ys), {"h": h}


def qrnn(x: Array, *, w: Array, b: Array, c: Array, phi: Activation = np.tanh) -> tuple[Array, State]:
    n = c.shape[-1]
    ys = []
    for x_t in x:
        z = phi(x_t @ w[:, 0 * n : 1 * n] + b[0 * n : 1 * n])
        f = sigmoid(x_t @ w[:, 1 * n : 2 * n] + b[1 * n : 2 * n])
        o = sigmoid(x_t @ w[:, 2 * n : 3 * n] + b[2 * n : 3 * n])
        c = f * c + (1 - f) * z
        ys.append(o * c)
    return np.stack(ys), {"c": c}


def sru(x: Array, *, w: Array, b: Array, c: Array, phi: Activation = np.tanh) -> tuple[Array, State]:
    n = c.shape[-1]
    ys = []
    for x_t in x:
        f = sigmoid(x_t @ w[:, 1 * n : 2 * n] + b[:n])
        r = sigmoid(x_t @ w[:, 2 * n : 3 * n] + b[n:])
        c = f * c + (1 - f) * (x_t @ w[:, :n])
        ys.append(r * phi(c) + (1 - r) * x_t)
    return np.stack(ys), {"c": c}


def s5(
    x: Array,
    *,
    decay: Array,
    phase: Array,
    log_step: Array,
    w: Array,
    c: Array,
    d: Array,
    re: Array,
    im: Array,
    discretization: str,
    dt: Array | None = None,
) -> tuple[Array, State]:
    n, features = re.shape[-1], x.shape[-1]
    eigenvalues = -np.exp(decay) + 1j * phase
    w, c = w[:, :n] + 1j * w[:, n:], c[:, :features] + 1j * c[:, features:]
    s = re + 1j * im
    ys = []
    for t, x_t in enumerate(x):
        step = np.exp(log_step) * (1.0 if dt is None else dt[t][:, None])
        if discretization == "zoh":
            a = np.exp(eigenvalues * step)
            scale = (a - 1) / eigenvalues
        else:
            a = (1 + eigenvalues * step / 2) / (1 - eigenvalues * step / 2)
            scale = step / (1 - eigenvalues * step / 2)
        s = a * s + scale * (x_t @ w)
        ys.append(2 * (s @ c).real + d * x_t)
    return np.stack(ys), {"re": s.real, "im": s.imag}


def hgrn(
    x: Array, *, w: Array, b: Array, theta: Array, re: Array, im: Array, lower_bound: Array
) -> tuple[Array, State]:
    n = re.shape[-1]
    s = re + 1j * im
    ys = []
    for x_t in x:
        parts = x_t @ w + b
        candidate = silu(parts[:, :n]) + 1j * silu(parts[:, n : 2 * n])
        f = lower_bound + (1 - lower_bound) * sigmoid(parts[:, 2 * n : 3 * n])
        s = f * np.exp(1j * theta) * s + (1 - f) * candidate
        ys.append(sigmoid(parts[:, 3 * n :]) * np.concatenate([s.real, s.imag], axis=1))
    return np.stack(ys), {"re": s.real, "im": s.imag}


def co_rnn(
    x: Array,
    *,
    w: Array,
    u: Array,
    b: Array,
    h: Array,
    v: Array,
    step_size: Array,
    frequency: Array,
    damping: Array,
) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        force = np.tanh(h @ u[:n] + v @ u[n:] + x_t @ w + b)
        v = v + step_size * (force - frequency * h - damping * v)
        h = h + step_size * v
        ys.append(h)
    return np.stack(ys), {"h": h, "v": v}


def lem(
    x: Array, *, w: Array, u: Array, u_h: Array, b: Array, h: Array, z: Array, step_size: Array
) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for x_t in x:
        from_x, from_h = x_t @ w + b, h @ u
        fast = step_size * sigmoid(from_h[:, :n] + from_x[:, :n])
        slow = step_size * sigmoid(from_h[:, n : 2 * n] + from_x[:, n : 2 * n])
        z = (1 - fast) * z + fast * np.tanh(from_h[:, 2 * n :] + from_x[:, 2 * n : 3 * n])
        h = (1 - slow) * h + slow * np.tanh(z @ u_h + from_x[:, 3 * n :])
        ys.append(h)
    return np.stack(ys), {"h": h, "z": z}


def cfc(
    x: Array, *, w: Array, u: Array, b: Array, v: Array, c: Array, h: Array, dt: Array | None = None
) -> tuple[Array, State]:
    n = h.shape[-1]
    ys = []
    for t, x_t in enumerate(x):
        elapsed = 1.0 if dt is None else dt[t][:, None]
        heads = 1.7159 * np.tanh(0.666 * (np.concatenate([x_t, h], axis=1) @ np.concatenate([w, u]) + b)) @ v + c
        ff1, ff2 = np.tanh(heads[:, :n]), np.tanh(heads[:, n : 2 * n])
        t_interp = sigmoid(heads[:, 2 * n : 3 * n] * elapsed + heads[:, 3 * n :])
        h = ff1 * (1 - t_interp) + t_interp * ff2
        ys.append(h)
    return np.stack(ys), {"h": h}


def ltc(
    x: Array,
    *,
    w: Array,
    w_mu: Array,
    w_sigma: Array,
    w_e: Array,
    u: Array,
    u_mu: Array,
    u_sigma: Array,
    u_e: Array,
    g: Array,
    e: Array,
    c: Array,
    h: Array,
    unfolds: int,
    dt: Array | None = None,
) -> tuple[Array, State]:
    """One unit at a time, with the fused solver of the paper: C/τ stands where the elapsed time enters."""
    softplus = lambda a: np.log1p(np.exp(a))  # noqa: E731
    ys = []
    for t, x_t in enumerate(x):
        for _ in range(unfolds):
            new = np.empty_like(h)
            for r, j in product(*map(range, h.shape)):
                tau = (1.0 if dt is None else dt[t, r]) / unfolds
                from_x = softplus(w[:, j]) * sigmoid(w_sigma[:, j] * (x_t[r] - w_mu[:, j]))
                from_h = softplus(u[:, j]) * sigmoid(u_sigma[:, j] * (h[r] - u_mu[:, j]))
                rate = softplus(c[j]) / tau
                above = rate * h[r, j] + softplus(g[j]) * e[j] + from_x @ w_e[:, j] + from_h @ u_e[:, j]
                new[r, j] = above / (rate + softplus(g[j]) + from_x.sum() + from_h.sum())
            h = new
        ys.append(h)
    return np.stack(ys), {"h": h}


def slstm(
    x: Array, *, w: Array, u: Array, b: Array, h: Array, c: Array, n: Array, m: Array, heads: int
) -> tuple[Array, State]:
    """Without a stabiliser, which only scales c and n."""
    size = h.shape[-1]
    d = size // heads
    full = np.zeros((size, 4, size))
    for a in range(heads):
        full[a * d : (a + 1) * d, :, a * d : (a + 1) * d] = u[a].reshape(d, 4, d)
    c, n = c * np.exp(m), n * np.exp(m)
    ys = []
    for x_t in x:
        i, f, z, o = np.split(x_t @ w + h @ full.reshape(size, 4 * size) + b, 4, axis=1)
        m = np.maximum(np.log(sigmoid(f)) + m, i)
        c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
        n = sigmoid(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        ys.append(h)
    return np.stack(ys), {"h": h, "c": c / np.exp(m), "n": n / np.exp(m), "m": m}


def mlstm(
    x: Array,
    *,
    w: Array,
    b: Array,
    w_gates: Array,
    b_gates: Array,
    h: Array,
    c: Array,
    n: Array,
    m: Array,
    heads: int,
) -> tuple[Array, State]:
    """In the paper's orientation, C (value, key); without a stabiliser, which only scales C and n, a sum of two."""
    rows, size = h.shape
    d = size // heads
    h, c, n, m = h.copy(), c.copy(), n.copy(), m.copy()
    memory = {(r, a): c[r, a].T * np.exp(m[r, a]) for r in range(rows) for a in range(heads)}
    norm = {(r, a): n[r, a].sum(0) * np.exp(m[r, a]) for r in range(rows) for a in range(heads)}
    ys = []
    for x_t in x:
        inputs, gates = x_t @ w + b, x_t @ w_gates + b_gates
        o = sigmoid(inputs[:, 3 * size :])
        for r, a in memory:
            q, k, v = (inputs[r, part * size + a * d : part * size + (a + 1) * d] for part in range(3))
            k = k / np.sqrt(d)
            i, f = np.exp(gates[r, a]), sigmoid(gates[r, heads + a])
            memory[r, a] = f * memory[r, a] + i * np.outer(v, k)
            norm[r, a] = f * norm[r, a] + i * k
            h[r, a * d : (a + 1) * d] = memory[r, a] @ q / max(abs(norm[r, a] @ q), 1)
            m[r, a] = max(np.log(f) + m[r, a], gates[r, a])
        ys.append(o * h)
    for r, a in memory:
        c[r, a], n[r, a] = memory[r, a].T / np.exp(m[r, a]), [norm[r, a] / np.exp(m[r, a]), np.zeros(d)]
    return np.stack(ys), {"h": h, "c": c, "n": n, "m": m}


def gla(
    x: Array,
    *,
    w: Array,
    w_down: Array,
    w_up: Array,
    b: Array,
    h: Array,
    s: Array,
    heads: int,
    temperature: float,
) -> tuple[Array, State]:
    h, s = h.copy(), s.copy()
    rows, (_, _, n_k, n_v) = len(h), s.shape
    ys = []
    for x_t in x:
        inputs, a = x_t @ w, sigmoid(x_t @ w_down @ w_up + b) ** (1 / temperature)
        for r, i in product(range(rows), range(heads)):
            q = inputs[r, i * n_k : (i + 1) * n_k] / np.sqrt(n_k)
            k = inputs[r, (heads + i) * n_k : (heads + i + 1) * n_k]
            v = inputs[r, 2 * heads * n_k + i * n_v : 2 * heads * n_k + (i + 1) * n_v]
            s[r, i] = np.diag(a[r, i * n_k : (i + 1) * n_k]) @ s[r, i] + np.outer(k, v)
            h[r, i * n_v : (i + 1) * n_v] = s[r, i].T @ q
        ys.append(h.copy())
    return np.stack(ys), {"h": h, "s": s}


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def unit(x: Array) -> Array:
    return x / np.sqrt(x @ x + 1e-6)


def delta_net(x: Array, *, w: Array, w_beta: Array, h: Array, s: Array, heads: int) -> tuple[Array, State]:
    h, s = h.copy(), s.copy()
    rows, (_, _, n_k, n_v) = len(h), s.shape
    ys = []
    for x_t in x:
        inputs, beta = x_t @ w, sigmoid(x_t @ w_beta)
        for r, i in product(range(rows), range(heads)):
            q = unit(silu(inputs[r, i * n_k : (i + 1) * n_k]))
            k = unit(silu(inputs[r, (heads + i) * n_k : (heads + i + 1) * n_k]))
            v = inputs[r, 2 * heads * n_k + i * n_v : 2 * heads * n_k + (i + 1) * n_v]
            s[r, i] = (np.eye(n_k) - beta[r, i] * np.outer(k, k)) @ s[r, i] + beta[r, i] * np.outer(k, v)
            h[r, i * n_v : (i + 1) * n_v] = s[r, i].T @ q
        ys.append(h.copy())
    return np.stack(ys), {"h": h, "s": s}


def gated_delta_net(
    x: Array, *, w: Array, w_gates: Array, b: Array, decay: Array, h: Array, s: Array, heads: int
) -> tuple[Array, State]:
    h, s = h.copy(), s.copy()
    rows, (_, _, n_k, n_v) = len(h), s.shape
    ys = []
    for x_t in x:
        inputs, gates = silu(x_t @ w), x_t @ w_gates
        a = np.exp(-np.exp(decay) * np.log1p(np.exp(gates[:, :heads] + b)))
        beta = sigmoid(gates[:, heads:])
        for r, i in product(range(rows), range(heads)):
            q = unit(inputs[r, i * n_k : (i + 1) * n_k])
            k = unit(inputs[r, (heads + i) * n_k : (heads + i + 1) * n_k])
            v = inputs[r, 2 * heads * n_k + i * n_v : 2 * heads * n_k + (i + 1) * n_v]
            s[r, i] = a[r, i] * (np.eye(n_k) - beta[r, i] * np.outer(k, k)) @ s[r, i] + beta[r, i] * np.outer(k, v)
            h[r, i * n_v : (i + 1) * n_v] = s[r, i].T @ q
        ys.append(h.copy())
    return np.stack(ys), {"h": h, "s": s}
