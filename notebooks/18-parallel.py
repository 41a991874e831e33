# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From Elman to LRU to Newton
#
# A recurrent network takes one step after another, and a device with ten thousand arithmetic units waits. *Which
# recurrences run in parallel over time, what does it cost, and what else does one gain or lose?* And can a network be
# trained to remember over 10,000 steps?
#
# You need the forward formula from the [introduction](00-introduction.ipynb) and what
# [vanishing gradients](07-vanishing-gradients.ipynb) are. Times below are those of the machine that ran this notebook;
# their ratios and slopes matter.

# %%
import time
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import rnnjax as rj
from rnnjax import diagnostics

BLUE, RED, GREEN, PURPLE, ORANGE, SKY, _ = diagnostics.plots.COLOURS
plt.rcParams |= {
    "figure.figsize": (8, 3.2),
    "figure.dpi": 90,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

# %% tags=["size"]
FULL = True  # the tests run a small version
LENGTHS, REPEATS = ((256, 1024, 4096, 16384), 5) if FULL else ((64, 128), 1)
LONG, CHAOS = (10_000, 1_000) if FULL else (300, 60)
GAINS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0) if FULL else (0.5, 3.0)
RECALL, UPDATES, ROWS = (10_000, 250, 16) if FULL else (50, 100, 16)

# %% [markdown]
# ## 1. Two steps in one
#
# Elman's network is $h_t = \tanh(x_t w + h_{t-1} u + b)$. Two of its steps, one after another, are
# $\tanh(\dots + \tanh(\dots + h u)\, u)$: a new kind of function, larger than the first, and with every step more so.
# There is nothing to do but to compute $h_{t-1}$ first.
#
# Leave the tanh out of the loop and multiply element by element, $h_t = a_t \odot h_{t-1} + b_t$, where $a_t$ and $b_t$
# come from $x_t$ alone. Then two steps are a step of the same kind:
#
# $$ a_2 \odot (a_1 \odot h + b_1) + b_2 = (a_2 \odot a_1) \odot h + (a_2 \odot b_1 + b_2). $$
#
# That is all that it takes. `combine` is associative, so steps may be joined in any order: pairs first, all at the same
# time, then pairs of pairs. A cell says so by two methods, `combine` and `act`, here those of the LRU (Orvieto and
# others 2023, [arXiv:2303.06349](https://arxiv.org/abs/2303.06349)), whose $a$ is complex and does not depend on $x_t$.

# %%
cell = rj.LRU(4)
params = cell.init(jax.random.key(0), 3)
xs = jax.random.normal(jax.random.key(1), (6, 1, 3))  # (T, B, I)
steps = cell.project(params, xs)  # a and b of every step, which depend on the inputs alone


def pick(t):
    return jax.tree.map(lambda leaf: leaf[t], steps)


def span(first, last):
    """The steps from `first` up to `last`, as one."""
    joined = pick(first)
    for t in range(first + 1, last):
        joined = cell.combine(joined, pick(t))
    return joined


start = cell.initial_state(params, (1,))
in_a_row = cell.act(span(0, 6), start)
by_halves = cell.act(cell.combine(span(0, 3), span(3, 6)), start)
_, looped = rj.unroll(cell, params, xs, implementation="scan")
for name, state in (("six steps in a row", in_a_row), ("two halves, joined", by_halves), ("the loop", looped)):
    print(f"{name:<20} {np.asarray(state.re[0]).round(6)}")

# %% [markdown]
# Once steps are things that can be joined, there is a choice of how to go through time. `rj.explain` says which one is
# taken and why.

# %%
cell = rj.LRU(32)
params = cell.init(jax.random.key(0), 8)
print(rj.explain(cell, params, jnp.ones((4096, 4, 8))))

# %% [markdown]
# ## 2. What it costs
#
# `scan` takes one step after another. `associative` joins all steps in a tree, in about $2 \log_2 T$ rounds instead
# of $T$, with about twice the arithmetic and every intermediate joint in memory. `chunked` goes from one piece of time
# to the next: products with weights take a whole piece at once, and the recurrence inside it is a tree on a GPU or TPU
# and a loop of elementwise steps on a CPU.
#
# The forward pass and all gradients, 4 rows, 64 units:


# %%
def gradient(cell, implementation):
    @jax.jit
    def run(params, xs):
        def loss(params, xs):
            ys, _ = rj.unroll(cell, params, xs, implementation=implementation)
            return (ys * ys).sum()

        return jax.grad(loss, argnums=(0, 1))(params, xs)

    return run


def seconds(run, *args):
    jax.block_until_ready(run(*args))
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run(*args))
        taken.append(time.perf_counter() - began)
    return np.median(taken)


CONTESTS = (
    ("Elman, scan", rj.Elman(64), "scan", ORANGE),
    ("Elman, as chosen", rj.Elman(64), None, "black"),
    ("GRU, scan", rj.GRU(64), "scan", RED),
    ("LRU, scan", rj.LRU(64), "scan", SKY),
    ("LRU, associative", rj.LRU(64), "associative", PURPLE),
    ("LRU, chunked", rj.LRU(64), "chunked", BLUE),
    ("minGRU, chunked", rj.MinGRU(64), "chunked", GREEN),
)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
cost, size, looks = {}, {}, ("o-", "+-", "s--", "v-.", "^:", "D-", "x--")
for (name, cell, implementation, color), look in zip(CONTESTS, looks, strict=True):
    params, run = cell.init(jax.random.key(0), 16), gradient(cell, implementation)
    taken, bytes_ = [], []
    for T in LENGTHS:
        xs = jax.random.normal(jax.random.key(1), (T, 4, 16))
        taken.append(1e3 * seconds(run, params, xs))
        bytes_.append(run.lower(params, xs).compile().memory_analysis().temp_size_in_bytes / 1e6)
    cost[name], size[name] = taken[-1], bytes_[-1]
    left.loglog(LENGTHS, taken, look, ms=4, color=color, label=name)
    right.loglog(LENGTHS, bytes_, look, ms=4, color=color, label=name)
left.set(xlabel="steps", ylabel="milliseconds", title="forward pass and gradients")
right.set(xlabel="steps", ylabel="megabytes", title="memory beside parameters and results")
right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
for axes in (left, right):
    axes.set_xticks(LENGTHS, [f"{T:,}" for T in LENGTHS])
    axes.minorticks_off()
plt.show()
print(f"{'T = ' + format(LENGTHS[-1], ','):<18} {'ms':>8} {'MB':>8}")
for name in cost:
    print(f"{name:<18} {cost[name]:8.1f} {size[name]:8.1f}")

# %% [markdown]
# All times rise in proportion to the steps, for the arithmetic has to be done, and a CPU with a few cores has no idle
# units that a tree could put to work. `scan`, too, forms its products with weights over all steps in front of the loop.
# What `chunked` gains over it *here* is that a piece of time stays in the cache, that the backward pass forms the piece
# again instead of loading what was stored, and that the derivative of the recurrence is written by hand, where JAX's
# own of a loop stores more. Elman's network as it is chosen, by native code for the whole sequence, is faster still: on
# a CPU a linear cell is taken for what it remembers, not for its speed. On a GPU or TPU the loop's curve is the same
# straight line, because each step waits for the one before, while the tree's stays flat until the device is full.
# `implementation=None` takes `chunked` on a CPU. In `benchmarks/parallel.py` it was the fastest of these three over
# 4,096 steps and more, while over 1,024 and fewer `scan` sometimes was. Elsewhere it takes `associative`, which has not
# been measured.
#
# ## 3. Newton: any cell at once
#
# Must the tanh go, then? Write all steps as one system of equations for all states,
# $s_t - f(s_{t-1}, x_t) = 0$ for $t = 1 \dots T$, and solve it as Newton did. Guess all states; around the guess each
# step is linear, $f(s) \approx f(\hat s) + J (s - \hat s)$; the linear recurrence is solved in parallel, as in section
# 1; its solution is the next guess (DEER: Lim and others 2024, [arXiv:2309.12252](https://arxiv.org/abs/2309.12252)).

# %%
cell = rj.GRU(16)
params = cell.init(jax.random.key(0), 4)
xs = jax.random.normal(jax.random.key(1), (LONG, 1, 4))
residuals = []
for most in range(1, 8):
    report = rj.newton_report(cell, params, xs, implementation=rj.Newton(max_iterations=most))
    residuals.append(float(report.residual))
    print(f"after {int(report.iterations)} iterations: residual {residuals[-1]:.0e}")
    if report.converged:
        break
looped, _ = rj.unroll(cell, params, xs, implementation="scan")
solved, _ = rj.unroll(cell, params, xs, implementation="newton")
print(f"{LONG:,} steps of a GRU in {int(report.iterations)} iterations, off by {np.abs(solved - looped).max():.0e}")

# %% [markdown]
# Each iteration about squares the error. On what does their number depend? Elman's network with its recurrent matrix
# multiplied by a gain, up to and beyond chaos; beside it the largest Lyapunov exponent, the rate at which two nearby
# states drift apart:

# %%
cell = rj.Elman(16)
params = cell.init(jax.random.key(0), 4)
xs = 0.1 * jax.random.normal(jax.random.key(1), (CHAOS, 1, 4))
counts, exponents, solved_by_newton = [], [], []
report_of = jax.jit(partial(rj.newton_report, cell, implementation=rj.Newton(max_iterations=CHAOS)))
exponent_of = jax.jit(partial(diagnostics.lyapunov_exponents, cell, count=1, warmup=CHAOS // 5))
for gain in GAINS:
    driven = params._replace(u=gain * params.u)
    report = report_of(driven, xs)
    counts.append(int(report.iterations))
    solved_by_newton.append(bool(report.converged))
    exponents.append(float(exponent_of(driven, xs).exponents[0, 0]))
    outcome = "solved" if report.converged else f"residual {float(report.residual):.0e}: given up, the loop runs"
    print(f"gain {gain:.1f}: exponent {exponents[-1]:+.3f} a step, {counts[-1]:4} iterations, {outcome}")
figure, axes = plt.subplots(figsize=(6, 3))
outcomes = list(zip(exponents, counts, solved_by_newton, strict=True))
axes.plot(*zip(*[(x, y) for x, y, solved in outcomes if solved], strict=True), "o-", color=BLUE, label="solved")
lost = [x for x, _, solved in outcomes if not solved]
axes.plot(lost, np.zeros(len(lost)), "x", color=RED, label="given up, the loop runs")
axes.axvline(0, color="grey", lw=1)
axes.set(xlabel="largest Lyapunov exponent, a step", ylabel="Newton iterations", ylim=(-0.5, None))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Well below zero, where the network forgets how it began, errors of the guess fade along time too, and a handful of
# iterations does. From about zero on they grow from step to step: the linear recurrence of a wrong guess runs off to
# numbers that no float holds, the search is given up, and the result is that of the loop. So what runs in parallel is
# what is *predictable*; a network in which a small change of an early input decides about the end does not (Gonzalez
# and others 2025, [arXiv:2508.16817](https://arxiv.org/abs/2508.16817)).
#
# ## 4. Ten thousand steps
#
# One of four symbols is shown at the first step, on four wires. Then there is noise on a fifth, for 10,000 steps, and
# behind the last one the network must say which symbol it was. Of a gradient that shrinks by a thousandth a step,
# $0.999^{10\,000} = 5 \cdot 10^{-5}$ arrives.
#
# A linear cell is told how long its memory shall be by where its eigenvalues lie at first: the LRU's `r_min` and
# `r_max`. Its `max_phase` is small here as well, so that a state turns less than twice in 10,000 steps. The GRU has
# `max_time`, chrono initialisation (Tallec, Ollivier 2018), for its gates. All have 32 units, the same recipe with one
# learning rate, one seed, and the same batches.


# %%
def batch(seed):
    """Inputs (T, B, 5), a symbol and then noise on another wire, and the symbols (B)."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, 4, ROWS)
    inputs = np.zeros((RECALL, ROWS, 5), np.float32)
    inputs[0, :, :4] = np.eye(4)[symbols]
    inputs[1:, :, 4] = rng.normal(0, 0.1, (RECALL - 1, ROWS))
    return inputs, symbols


def network(cell):
    return rj.Stack([rj.RNN(cell), rj.Last(), rj.Dense(4)])


def learn(cell):
    """Training loss of every update, the accuracy on a batch that was not seen, and the seconds."""
    model = network(cell)
    params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), 5)
    recipe = rj.training.optimizer(optax.cosine_decay_schedule(1e-2, UPDATES), clip_norm=1.0)
    opt_state = recipe.init(params)

    @jax.jit
    def update(params, opt_state, inputs, symbols):
        def loss(params):
            return rj.training.cross_entropy(model(params, inputs)[0], symbols).value

        value, gradient = jax.value_and_grad(loss)(params)
        change, opt_state = recipe.update(gradient, opt_state, params)
        return optax.apply_updates(params, change), opt_state, value

    losses, began = [], time.perf_counter()
    for seed in range(UPDATES):
        params, opt_state, value = update(params, opt_state, *batch(seed))
        losses.append(float(value))
    spent = time.perf_counter() - began
    right = []
    for seed in range(10**6, 10**6 + 4):
        inputs, symbols = batch(seed)
        right.append(np.asarray(model(params, inputs)[0].argmax(-1) == symbols).mean())
    return losses, np.mean(right), spent


THIN = 1 - 1 / RECALL
RUNNERS = (
    ("Elman", rj.Elman(32), ORANGE),
    ("GRU", rj.GRU(32), RED),
    ("GRU, chrono", rj.GRU(32, max_time=RECALL), PURPLE),
    ("LRU as it comes", rj.LRU(32), SKY),
    ("LRU, |λ| near 1", rj.LRU(32, r_min=THIN, r_max=1 - 0.1 / RECALL, max_phase=10 / RECALL), BLUE),
)
figure, axes = plt.subplots(figsize=(8, 3.2))
scores = {}
for name, cell, color in RUNNERS:
    losses, scores[name], spent = learn(cell)
    axes.plot(losses, color=color, label=name)
    print(f"{name:<18} right {scores[name]:6.1%}   {UPDATES} updates in {spent:.0f} s")
axes.axhline(np.log(4), color="grey", lw=1, ls="--")
axes.annotate("guessing", (0, np.log(4)), xytext=(0, 4), textcoords="offset points", fontsize=8)
axes.set(xlabel="update", ylabel="loss", title=f"{RECALL:,} steps between the symbol and the answer")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# One cell learns the task, the LRU that is told the time. The same cell as it comes is no better than a guess, which is
# right in 25 %. Neither is the GRU, nor the GRU that is told the time: being told was not enough for it. Elman's
# network, told nothing, comes to 58 %. The two LRUs differ in radii and in `max_phase`, and which of the two matters is
# not tried here. Nor are other rates and seeds, with which the others may do better.
#
# ## The answer
#
# - **A recurrence runs in parallel if two of its steps are one of the same kind.** Linear ones are. The price is twice
#   the arithmetic and the memory of a tree, or nothing of the kind in chunks; on a CPU the gain is the cache.
# - **Any other network runs in parallel by Newton's method as far as it forgets**: a few iterations where the largest
#   Lyapunov exponent is well below zero, none that helps where it is above.
# - **For the linear cell the start decided.** Over 10,000 steps the LRU whose eigenvalues are told so, by radius and by
#   phase, learns in 250 updates what the same cell as it comes does not. A GRU that is told so by `max_time` does not
#   learn it either. This is one rate and one seed. On this CPU the LRU takes three times the time of Elman's network.

# %%
print(f"Newton on {LONG:,} steps of a GRU: residual {residuals[-1]:.0e} after {len(residuals)} iterations")
print(f"recall over {RECALL:,} steps: LRU near 1 {scores['LRU, |λ| near 1']:.0%}, Elman {scores['Elman']:.0%}")
np.testing.assert_allclose(in_a_row.re, by_halves.re, rtol=1e-5)
assert residuals[-1] < 1e-4
assert exponents[0] < 0 < exponents[-1]
assert solved_by_newton[0]
if FULL:
    assert all(solved == (x < 0) for x, solved in zip(exponents, solved_by_newton, strict=True) if abs(x) > 0.03)
assert scores["LRU, |λ| near 1"] > 0.9
assert scores["Elman"] < (0.75 if FULL else 1.1)
