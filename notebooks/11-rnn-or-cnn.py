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
# # Recurrent network or convolution?
#
# Bai, Kolter and Koltun (2018, [arXiv:1803.01271](https://arxiv.org/abs/1803.01271)) found that a plain convolutional
# network beats recurrent ones on most of the usual sequence tasks, and advised to start with it. Such a network looks
# at a window of the past; a recurrent one carries a state along. What can each do that the other cannot, and what does
# it cost? Two tasks that are opposites say it more clearly than a dozen benchmarks.

# %%
import itertools
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rnnjax as rj
from rnnjax import diagnostics

plt.rcParams |= {"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

# %% tags=["size"]
FULL = True  # the tests run a small version
BUDGET, STEPS, ROWS, EPOCHS = (3_000, 100, 500, 40) if FULL else (400, 40, 60, 1)
RATES, SEEDS, LEVELS = ([3e-3, 1e-2, 3e-2], 3, (2, 4)) if FULL else ([1e-2], 2, (1, 2))
LENGTHS = [64, 256, 1024] if FULL else [16, 64]
DELAYS = [0, 2, 4, 8, 12, 16, 24, 32, 48]

# %% [markdown]
# ## 1. Three networks
#
# The **temporal convolutional network** (TCN) stacks causal convolutions with kernels of 3 steps, whose taps lie 1, 2,
# 4, 8 … steps apart. With $L$ levels of two convolutions each it sees $1 + 4\,(2^L - 1)$ inputs, and not one more. We
# take one with two levels and one with four, and a GRU, all with at most the same number of parameters.


# %%
def tcn_of(levels):
    """A function of a width, for a TCN with so many levels."""
    return lambda width: diagnostics.ModuleLayer(diagnostics.TCN(width, levels))


SHALLOW, DEEP = (f"TCN, sees {diagnostics.TCN(1, levels).receptive_field}" for levels in LEVELS)
kinds = {"GRU": rj.GRU, SHALLOW: tcn_of(LEVELS[0]), DEEP: tcn_of(LEVELS[1])}
LOOKS = {
    name: {"color": color, "ls": dash, "marker": marker, "ms": 5, "label": name}
    for name, color, dash, marker in zip(
        kinds, diagnostics.plots.COLOURS, diagnostics.plots.DASHES, "osv", strict=False
    )
}
options = {"learning_rates": RATES, "epochs": EPOCHS, "loss": "mean_squared_error"}

# %% [markdown]
# ## 2. A task for windows: what came 8 steps ago?
#
# Inputs are random signs. At every step the network must say the present one and those of 2, 4, 8, … 48 steps ago. All
# of them are equally likely, so that nothing can be guessed.

# %%
rng = np.random.default_rng(0)
signs = rng.choice([-1.0, 1.0], (ROWS, STEPS)).astype(np.float32)
past = np.stack([np.pad(signs, ((0, 0), (delay, 0)))[:, :STEPS] for delay in DELAYS], axis=-1)
recall = diagnostics.compare(kinds, (signs[..., None], past), BUDGET, SEEDS, **options)
print(recall)

# %% [markdown]
# Where the errors come from says why. The mean squared error by delay, on the test rows: 0 is perfect, 1 is that of a
# guess.

# %%
tested = slice(-round(0.2 * ROWS), None)
figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
error_at = {}
for name in kinds:
    said = rj.training.predict(recall.sweeps[name].model, signs[tested, :, None])
    late = slice(max(DELAYS) if FULL else 0, None)  # where all delays lie within the sequence
    error_at[name] = ((said - past[tested])[:, late] ** 2).mean((0, 1))
    axes.plot(DELAYS, error_at[name], **LOOKS[name])
for levels in LEVELS:
    end = diagnostics.TCN(1, levels).receptive_field - 1
    axes.axvline(end, color="0.6", lw=1)
    axes.annotate(f"sees {end + 1}", (end, 1.12), ha="center", color="0.4", fontsize=8, annotation_clip=False)
axes.set(xlabel="delay, steps", ylabel="mean squared error", xlim=(-1, None), ylim=(-0.03, 1.1))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
for name, errors in error_at.items():
    told = "  ".join(f"{delay}: {error:.2f}" for delay, error in zip(DELAYS, errors, strict=True))
    print(f"{name:<14} {told}")

# %% [markdown]
# The grey lines are the ends of the two windows. Inside its window the convolution has every input before it, and
# outside of it nothing: the shallow one falls from perfect to a guess between two points. The GRU has to keep all of
# the last signs in its few dozens of numbers, and to move them on at each step; the older a sign, the less is left.
#
# ## 3. A task for states: what came last?
#
# Now most inputs are zero, and at a few steps there is a sign. The network must hold the last one until the next comes,
# however long that takes.

# %%
pulse = rng.random((ROWS, STEPS)) < 0.02
pulse[:, 0] = True
inputs = np.where(pulse, rng.choice([-1.0, 1.0], pulse.shape), 0.0).astype(np.float32)
since = np.zeros(pulse.shape, int)  # steps since the last pulse
held = np.zeros(pulse.shape, np.float32)
for t in range(STEPS):
    since[:, t] = np.where(pulse[:, t], 0, since[:, t - 1] + 1)
    held[:, t] = np.where(pulse[:, t], inputs[:, t], held[:, t - 1])
latch = diagnostics.compare(kinds, (inputs[..., None], held[..., None]), BUDGET, SEEDS, **options)
print(latch)

# %%
edges = np.array([0, 1, 4, 8, 13, 20, 30, 45, 61, STEPS])
middles = [f"{a}–{b - 1}" if b > a + 1 else f"{a}" for a, b in itertools.pairwise(edges)]
figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
right_after = {}
for name in kinds:
    said = rj.training.predict(latch.sweeps[name].model, inputs[tested, :, None])[..., 0]
    right = np.sign(said) == held[tested]
    within = [(since[tested] >= a) & (since[tested] < b) for a, b in itertools.pairwise(edges)]
    right_after[name] = [right[own].mean() if own.any() else np.nan for own in within]
    axes.plot(middles, 100 * np.array(right_after[name]), **LOOKS[name])
axes.axhline(50, color="0.6", lw=1)
axes.annotate("guessing", (0, 51), color="0.4", fontsize=8)
axes.set(xlabel="steps since the last sign", ylabel="right, %")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
for name, shares in right_after.items():
    print(f"{name:<14} " + "  ".join(f"{m}: {share:.0%}" for m, share in zip(middles, shares, strict=True)))

# %% [markdown]
# One bit is all that must be kept, and the GRU keeps it as long as it must. A convolution is blind as soon as the sign
# has left its window, and then it is right no more often than a coin. A deeper one would only move the edge.
#
# ## 4. What it costs
#
# A convolution can compute all steps at once, a recurrent network must go one after the other. Here is the time of a
# forward pass over one row, by length, on this CPU, and what a stream needs: numbers to keep from one step to the next,
# and operations for a step.


# %%
def seconds(run, repeats=50):
    """The least time of a call, which has been compiled: whatever else the machine does makes it longer."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return min(times)


took = {}
for name in kinds:
    params, layer = recall.sweeps[name].model
    call = jax.jit(lambda params, xs, layer=layer: layer(params, xs)[0])
    for length in LENGTHS:
        xs = jnp.ones((length, 1, 1), jnp.float32)
        took[name, length] = seconds(lambda call=call, params=params, xs=xs: call(params, xs))
width = {row.name: row.width for row in recall.rows}
operations = {row.name: row.flops for row in recall.rows}
# each of the two convolutions of a level keeps 2 d past inputs, of which the very first has one feature
window = {
    name: sum(2 * 2**level * (2 * width[name] if level else width[name] + 1) for level in range(levels))
    for name, levels in zip((SHALLOW, DEEP), LEVELS, strict=True)
}
keeps = {"GRU": width["GRU"]} | window
print(f"{'':<14} {'width':>6} {'keeps':>6} {'FLOPs/step':>11}   µs for a row of " + ", ".join(map(str, LENGTHS)))
for name in kinds:
    times = ", ".join(f"{1e6 * took[name, length]:,.0f}" for length in LENGTHS)
    print(f"{name:<14} {width[name]:>6} {keeps[name]:>6} {operations[name]:>11,.0f}   {times}")

# %% [markdown]
# At one budget the operations are about the same. A convolution may do them in any order, which is what accelerators
# with many units side by side want; this CPU gains nothing by it. In a stream the recurrent network keeps its state and
# the convolution its window, which holds many times as many numbers.
#
# ## The answer
#
# - **A convolution has everything within its window, and nothing beyond.** If what matters lies within a span that you
#   know, take it, as deep as it needs to see that span.
# - **A recurrent network has room for little, and no edge.** If a few things matter, however long ago they were, take
#   that.
# - **Neither is the better sequence model**: of two tasks, at the same number of parameters, each won one.

# %%
inside = [error for delay, error in zip(DELAYS, error_at[SHALLOW], strict=True) if delay <= 12]
outside = [error for delay, error in zip(DELAYS, error_at[SHALLOW], strict=True) if delay > 12]
print(f"recall, TCN that sees 13: error {max(inside):.2f} at most within its window, {min(outside):.2f} outside")
print(f"recall, GRU: error {error_at['GRU'][DELAYS.index(8)]:.2f} at delay 8")
print(f"latch, 61 steps and more: GRU {right_after['GRU'][-1]:.0%}, {DEEP} {right_after[DEEP][-1]:.0%}")
print(f"first in recall: {recall.rows[0].name}; first in the latch: {latch.rows[0].name}")
if FULL:
    assert min(outside) > 0.9 > 0.5 > max(inside)
    assert error_at["GRU"][DELAYS.index(16)] > error_at[DEEP][DELAYS.index(16)] + 0.2
    assert right_after["GRU"][-1] > 0.9 > right_after[DEEP][-1]
    assert latch.rows[0].name == "GRU"
