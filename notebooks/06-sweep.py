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
# # Sixty-four trainings in one compile
#
# A small recurrent network is trained in a second, and compiled in several. Whoever looks for its learning rate and
# its size pays the compiler again for every try. But all these trainings are one program on different numbers, and
# `jax.vmap` maps a program over numbers; `rj.training.sweep` does so with whole trainings. What can it map over, does
# each member end where it would have ended alone, what does it save, and how far can one trust the winner?
#
# The task is that of [the notebook on digits](01-digits.ipynb): scans of 8 × 8 pixels, read row by row by an LSTM.

# %%
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import rnnjax as rj

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
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
EPOCHS = 32 if FULL else 6
RATES = np.logspace(-4, 0, 8 if FULL else 3).tolist()
UNITS = [1, 2, 3, 4, 6, 8, 12, 16] if FULL else [2, 16]
SEEDS = list(range(8 if FULL else 2))
ALONE = [RATES[2], RATES[6], RATES[7]] if FULL else []  # learning rates to train alone as well
CUTS = (4, 8, 16) if FULL else (2,)

# %%
pixels, digits = load_digits(return_X_y=True)
scans = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)  # (N, T, I)
x_train, x_test, y_train, y_test = train_test_split(scans, digits, test_size=0.2, stratify=digits, random_state=0)
SPLIT, BATCH = 0.2, 32  # share of the training digits that is kept for validation; digits of one update
KEPT = len(x_train) - round(SPLIT * len(x_train))
STEPS = EPOCHS * -(-KEPT // BATCH)
print(f"{KEPT} digits to train on, {len(x_train) - KEPT} for validation, {len(x_test)} for the test")
print(f"{STEPS} updates for each network")

# %% [markdown]
# JAX reports every program that it compiles, with its seconds. We note them, for the accounts at the end:

# %%
programs = []


def note(event, seconds, **_):
    if event.endswith("backend_compile_duration"):
        programs.append(seconds)


def timed(function, *args, **options):
    """The result, the seconds that it took, and how many of them in the compiler."""
    before, began = len(programs), time.perf_counter()
    result = function(*args, **options)
    return result, time.perf_counter() - began, sum(programs[before:])


jax.monitoring.register_event_duration_secs_listener(note)

# %% [markdown]
# ## 1. A configuration is a set of numbers
#
# `sweep` takes a function that makes a model and an optimizer from a dictionary of scalars. The function is traced, so
# it may compute with the scalars but not branch on them. It can use them for every number of the optimizer and every
# leaf of a cell or layer: learning rate, clipping norm, weight decay, forget bias, dropout rate. The name "seed" is
# that of the weights and of the order of the data.
#
# A hidden size changes the shapes of arrays, and `vmap` cannot map over shapes. `rj.ActiveUnits` makes it a number: the
# cell has the largest size, and the units after the first `units` stay zero, feed nothing back and get no gradient. A
# network made so differs in two ways from one of that size: its weights are drawn for the large cell, which makes them
# smaller, and it takes the time of the large one.


# %%
def make(config):
    cell = rj.ActiveUnits(rj.LSTM(UNITS[-1]), units=config["units"])
    model = rj.Stack([rj.RNN(cell), rj.Last(), rj.Dense(10)])
    fall = optax.cosine_decay_schedule(1.0, STEPS)
    return model, rj.training.optimizer(config["learning_rate"], clip_norm=1.0, schedule=fall)


options = {"metrics": ["accuracy"], "epochs": EPOCHS, "batch_size": BATCH, "validation_split": SPLIT}
train = x_train, y_train
grid = {"learning_rate": RATES, "units": UNITS}
swept, *sweep_cost = timed(rj.training.sweep, make, grid, train, **options)
lines = str(swept).splitlines()
print("\n".join([*lines[:7], "…".center(len(lines[0])), *lines[-3:]]))
print(f"\n{len(swept.configs)} networks trained in {sweep_cost[0]:.1f} s, compilation included")

# %% [markdown]
# The table is sorted by the validation loss, the best network first. On the grid, with the learning rate from left to
# right and the size from bottom to top:


# %%
def find(swept, **values):
    """The place of the configuration with these values."""
    return next(i for i, config in enumerate(swept.configs) if values.items() <= config.items())


def table_of(swept, measure, **axes):
    """The last values of a measure on a grid of two names, each with its values."""
    (row, rows), (column, columns) = axes.items()
    return np.array([[swept.table[find(swept, **{row: a, column: b})][measure] for b in columns] for a in rows])


accuracy = table_of(swept, "val_accuracy", units=UNITS, learning_rate=RATES)
figure, axes = plt.subplots(figsize=(7.5, 3.8))
axes.imshow(100 * accuracy, cmap="cividis", vmin=10, vmax=100, aspect="auto", origin="lower")
for (row, column), value in np.ndenumerate(100 * accuracy):
    axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
axes.set_xticks(range(len(RATES)), [f"{rate:.2g}" for rate in RATES])
axes.set_yticks(range(len(UNITS)), UNITS)
axes.set(xlabel="learning rate", ylabel="units", title=f"validation accuracy after {EPOCHS} epochs, %")
axes.spines[:].set_visible(False)
axes.tick_params(length=0)
figure.colorbar(axes.images[0], ax=axes).outline.set_visible(False)
plt.show()

# %% [markdown]
# Both ends fail: at the left the networks have hardly moved, at the right they never settle. The best rates lie
# between, and there a larger network is mostly a better one, up to the edge of the grid, beyond which the best size may
# lie. With one or two units no rate helps enough: so few numbers can hardly hold ten digits apart.
#
# Why the left end fails is arithmetic. Adam moves a weight by about the learning rate in each update, and the cosine
# halves the sum:

# %%
best = swept.configs[0]
best_rate, best_units = best["learning_rate"], best["units"]
for rate in (RATES[0], best_rate):
    print(f"learning rate {rate:.2g}: a weight moves by about {rate * STEPS / 2:.2g} at most")

# %% [markdown]
#
# ## 2. How they got there
#
# The history has the curve of every member. Left, all learning rates at the best size; right, all sizes at the best
# learning rate.

# %%
epochs = np.arange(1, EPOCHS + 1)
figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(9, 3.4))
for rate, color in zip(RATES, plt.cm.viridis(np.linspace(0, 0.95, len(RATES))), strict=True):
    curve = swept.history["val_loss"][find(swept, learning_rate=rate, units=best_units)]
    left.semilogy(epochs, curve, color=color, label=f"{rate:.2g}")
for units, color in zip(UNITS, plt.cm.viridis(np.linspace(0, 0.95, len(UNITS))), strict=True):
    curve = swept.history["val_loss"][find(swept, learning_rate=best_rate, units=units)]
    right.semilogy(epochs, curve, color=color, label=units)
left.set(xlabel="epoch", ylabel="validation loss, nats", title=f"{best_units} units")
left.legend(title="learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
right.set(xlabel="epoch", title=f"learning rate {best_rate:.2g}")
right.legend(title="units", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The winner at the end is not the leader at the start: a rate above the best falls faster at first and ends higher.
# Where the cosine has brought the rate to zero all curves are flat, so that the last epochs can be compared.
#
# ## 3. A member is the same training
#
# `fit` with the same model, optimizer and seed draws the same weights and takes the digits in the same order. We train
# some configurations alone and compare the validation loss after every epoch. The arithmetic is the same but for the
# order in which products are summed, so the last bits may differ, and training amplifies differences. To see by how
# much, the best one is trained alone once more, with its learning rate increased by one unit in the last place of
# float32.


# %%
def train_alone(config):
    model, optimizer = make(config)
    return timed(rj.training.fit, model, train, optimizer=optimizer, progress=False, **options)


def largest(params):
    return max(float(abs(leaf).max()) for leaf in jax.tree.leaves(params))


def difference(params, others):
    return largest(jax.tree.map(lambda a, b: a - b, params, others))


places = [0, *(find(swept, learning_rate=rate, units=UNITS[-1]) for rate in ALONE)]
alone, *alone_costs = zip(*(train_alone(swept.configs[place]) for place in places), strict=True)
next_rate = float(np.nextafter(np.float32(best_rate), np.float32(2)))
nudged, *_ = train_alone({**best, "learning_rate": next_rate})


# %%
def apart(curve, other):
    """The relative difference of two curves, not below what float32 can show."""
    return np.maximum(abs(np.array(curve) / np.array(other) - 1), 1e-8)


figure, axes = plt.subplots(figsize=(8.5, 3.4))
print("largest relative difference of the validation loss, member to alone")
for place, fitted, color in zip(places, alone, (BLUE, GREEN, ORANGE, RED), strict=False):
    rate, units = swept.table[place]["learning_rate"], swept.table[place]["units"]
    curve = apart(swept.history["val_loss"][place], fitted.history["val_loss"])
    axes.semilogy(epochs, curve, "o-", ms=3, color=color, label=f"member to alone, rate {rate:.2g}")
    print(f"  rate {rate:<7.2g} {units} units: {curve[:3].max():.0e} in the first 3 epochs, {curve.max():.0e} in all")
control = apart(nudged.history["val_loss"], alone[0].history["val_loss"])
axes.semilogy(epochs, control, "--", color="black", label=f"alone to alone, rate {best_rate:.2g},\nchanged by one bit")
axes.set(xlabel="epoch", ylabel="relative difference of the loss", ylim=(5e-9, 3))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

to_alone, to_nudged = difference(swept.params, alone[0].params), difference(nudged.params, alone[0].params)
print(f"the best network's largest parameter                 {largest(swept.params):.2f}")
print(f"largest difference of a parameter, member to alone   {to_alone:.1e}")
print(f"largest difference after a change by one bit         {to_nudged:.1e}")
assert to_alone < 0.03

# %% [markdown]
# At a small rate a member and the network alone agree to the last bit or two to the end. At the best one they agree as
# well as two networks alone whose rates differ by one bit: the training itself multiplies such a difference more than
# ten thousand times. At the largest rates training is chaotic, and no two programs agree for long: there a loss is one
# draw of many, which one should not believe to the third digit in any case.
#
# ## 4. What it saves
#
# The time of the sweep, against that of one `fit` after another, extrapolated from those above; every `fit` compiles
# anew. The rest is tracing and running.

# %%
count, each = len(swept.configs), np.mean(alone_costs, axis=1)
costs = {f"sweep of {count}": sweep_cost, "one fit": each, f"{count} fits, extrapolated": count * each}
print(f"{'':<24} {'seconds':>8} {'in the compiler':>16} {'the rest':>9}")
for name, (seconds, compiling) in costs.items():
    print(f"{name:<24} {seconds:>8.1f} {compiling:>16.1f} {seconds - compiling:>9.1f}")

# %% [markdown]
# One `fit` spends nearly all its time in the compiler; the sweep goes there once for all. That much could also be had
# by writing a training function that takes the numbers as arguments. The rest says what it brings to compute 64
# networks side by side: the products of one with 16 units are too small to keep a processor busy. Large networks keep
# it busy by themselves. On a CPU `sweep` then computes one after another, unless `group=` says how many side by side,
# and saves the compilation only.
#
# ## 5. Would another seed have won?
#
# One training is one draw of the weights and of the order. The "seed" can be swept like any number: again 64 networks,
# 8 learning rates with 8 seeds, all with the largest size.

# %%
space = {"learning_rate": RATES, "units": UNITS[-1:], "seed": SEEDS}
over_seeds = rj.training.sweep(make, space, train, **options)
losses = table_of(over_seeds, "val_loss", seed=SEEDS, learning_rate=RATES)
by_seed = table_of(over_seeds, "val_accuracy", seed=SEEDS, learning_rate=RATES)
print(f"{'learning rate':<14} {'validation accuracy':>20} {'lowest loss':>15}")
wins = np.bincount(losses.argmin(1), minlength=len(RATES))
for rate, values, won in zip(RATES, by_seed.T, wins, strict=True):
    print(f"{rate:<14.2g} {values.mean():>11.1%} ± {values.std():>6.1%} {won:>5} of {len(SEEDS)} seeds")
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.semilogx(RATES, 100 * by_seed.T, "o", color=BLUE, alpha=0.4)
axes.semilogx(RATES, 100 * by_seed.mean(0), color=BLUE, label=f"mean of {len(SEEDS)} seeds, dots: each")
axes.set(xlabel="learning rate", ylabel="validation accuracy, %", title=f"{UNITS[-1]} units")
axes.legend()
plt.show()

# %% [markdown]
# The line is the mean, the dots are the networks. Two rates share the wins, with means that differ by less than the
# spread of their seeds: the winner of the grid is one of two equals, and another seed may name the other. The rates
# beside them are worse by more than any seed makes up for. So much can a grid with one seed tell: the region, not the
# point.
#
# ## 6. Dropping the worse half
#
# Most of the 64 are hopeless after a few epochs. **Successive halving** (Jamieson and Talwalkar 2016) drops the worse
# half after some epochs and trains on with the rest.

# %%
halved, *halved_cost = timed(rj.training.sweep, make, grid, train, halve_after=CUTS, **options)
figure, axes = plt.subplots(figsize=(7, 3.4))
for curve, row in zip(halved.history["val_loss"][::-1], halved.table[::-1], strict=True):
    kept = row["epochs"] == EPOCHS
    axes.semilogy(epochs, curve, color=BLUE if kept else "silver", lw=1.2 if kept else 0.8)
for cut in CUTS:
    axes.axvline(cut, color="grey", ls=":", lw=1)
axes.set(
    xlabel="epoch", ylabel="validation loss, nats", title="dotted: the worse half is dropped; blue: trained to the end"
)
plt.show()
print(f"{'':<7} {'epochs':>7} {'seconds':>8} {'in the compiler':>16} {'the rest':>9}   best: loss, accuracy, numbers")
for name, found, (seconds, compiling) in (("all", swept, sweep_cost), ("halved", halved, halved_cost)):
    row, total = found.table[0], int(sum(row["epochs"] for row in found.table))
    print(f"{name:<7} {total:>7,} {seconds:>8.1f} {compiling:>16.1f} {seconds - compiling:>9.1f}", end="   ")
    print(f"{row['val_loss']:.3f}, {row['val_accuracy']:.1%}, rate {row['learning_rate']:.2g}, {row['units']} units")
survivors = [tuple(c.values()) for c, row in zip(halved.configs, halved.table, strict=True) if row["epochs"] == EPOCHS]
leaders = [tuple(config.values()) for config in swept.configs[: len(survivors)]]
print(
    f"of the {len(survivors)} survivors, {len(set(survivors) & set(leaders))} are among the first {len(leaders)} of all"
)

# %% [markdown]
# Halving found the same configuration with less than a third of the epochs, summed over all networks. It took half as
# much time again: with fewer networks the arrays have other shapes, so that the program is compiled anew behind each
# cut. That pays where the epochs are what takes long, and here they are not. There is a risk too: at a cut networks are
# judged in mid-course, and one that starts slowly and ends well is dropped. The last line says how little of that
# happened here.
#
# ## The answer
#
# The test digits took no part in choosing.

# %%
scores = rj.training.evaluate(swept.model, (x_test, y_test), metrics=["accuracy"])
print(f"best of {count}: learning rate {best_rate:.2g}, {best_units} units")
print(f"validation accuracy {swept.table[0]['val_accuracy']:.1%}, test accuracy {scores['accuracy']:.1%}")
assert swept.table[0]["val_accuracy"] > (0.95 if FULL else 0.7)
assert scores["accuracy"] > (0.94 if FULL else 0.7)

# %% [markdown]
# - **Every number of the optimizer and every leaf of a cell can be swept**: rates, norms, biases, dropout; also seeds,
#   and with `ActiveUnits` a size. What is fixed when a cell is made, as an `LRU`'s `r_min` or an LSTM's `max_time`, is
#   not.
# - **A member is the training that `fit` would do**, up to rounding, and as reproducible as training at its learning
#   rate is.
# - **It saves the compiler's time first**, and running time where the networks are small.
# - **Spend what it saves on seeds.** The best of 64 has been lucky in part, and its validation accuracy flatters it.
