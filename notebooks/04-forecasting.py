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
# # Forecast the oil temperature
#
# The oil of a power transformer warms with the load and the weather, and if it gets too hot, the transformer ages. From
# the past week, what will its temperature be in each of the next 24 hours?
#
# The first answer to any such question is "what it is now", and it is hard to beat. A recurrent network that is fed the
# series as it stands does so in some months and fails in others. This notebook finds out why, mends it step by step on
# a validation set, and looks at the test set once. You need NumPy, and the [introduction](00-introduction.ipynb).

# %%
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.linear_model import Ridge

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
HIDDEN, EPOCHS, STREAM_EPOCHS = (32, 12, 40) if FULL else (16, 8, 10)
SEEDS = (1, 2) if FULL else (1,)
TRAIN_EVERY, OTHERS_EVERY = (1, 1) if FULL else (5, 5)  # hours from one forecast to the next

# %% [markdown]
# ## 1. Two years of a transformer
#
# ETTh1 (Zhou and others 2021, [arXiv:2012.07436](https://arxiv.org/abs/2012.07436), licence CC BY-ND 4.0) has one row
# an hour: six loads of a transformer, useful (UFL) and useless (ULL) at high, middle and low voltage, and the oil
# temperature OT in °C. The usual convention takes 12 months to train, 4 to validate and 4 to test, of 30 days each, and
# leaves the rest. All columns are standardised by the mean and standard deviation of the *training* months: the others
# are the future.

# %%
path = Path(os.environ.get("RNNJAX_DATA", "$RNNJAX_DATA")) / "ett_hourly" / "ETTh1.csv"
if not path.is_file():
    raise FileNotFoundError(
        f"no data at {path}: get ETT-small/ETTh1.csv from https://github.com/zhouhaoyi/ETDataset, put it into a folder "
        "ett_hourly, and let the environment variable RNNJAX_DATA name the folder around that one"
    )
(table,) = rj.data.read_table(path)
columns, time, series = table.columns, table.time.astype("datetime64[h]"), table.values.astype(np.float32)
assert (np.diff(time) == np.timedelta64(1, "h")).all()  # no hour is missing

MONTH, OT = 30 * 24, columns.index("OT")
parts = {
    "training": slice(0, 12 * MONTH),
    "validation": slice(12 * MONTH, 16 * MONTH),
    "test": slice(16 * MONTH, 20 * MONTH),
}
mean, deviation = series[parts["training"]].mean(0), series[parts["training"]].std(0)
z = (series - mean) / deviation  # (N, 7)
degrees = deviation[OT]
print(f"{len(series):,} hours of {', '.join(columns)}; one standard deviation of OT is {degrees:.2f} °C\n")

temperature = series[:, OT]
in_a_day = temperature[24:] - temperature[:-24]
print("OT, °C                    mean  deviation   least   most    change in 24 hours: mean  deviation")
figure, axes = plt.subplots(figsize=(8, 2.8))
for (name, part), color in zip(parts.items(), (BLUE, ORANGE, RED), strict=True):
    level, change = temperature[part], in_a_day[part]
    print(
        f"{name:<10} {time[part][0].astype('datetime64[D]')}  {level.mean():>6.1f} {level.std():>10.1f} "
        f"{level.min():>7.1f} {level.max():>6.1f} {change.mean():>25.2f} {change.std():>10.1f}"
    )
    axes.plot(time[part], level, color=color, lw=0.5)
    middle = time[(part.start + part.stop) // 2]
    axes.annotate(name, (middle, 47), color=color, ha="center", va="bottom")
axes.set(ylabel="oil temperature, °C", ylim=(-6, 53))
plt.show()

# %% [markdown]
# The picture is the problem. The level drifts with the season: the test months lie at the low end of what the training
# months saw, and they swing less. What carries over from one part to another is not the level, but how the temperature
# *changes*: in the mean by next to nothing.
#
# ## 2. The question, and the answers that cost nothing
#
# At every hour $t$ of a part, all seven columns are known up to and including $t$, and so is the calendar. Wanted are
# the 24 values $\text{OT}_{t+1}, \dots, \text{OT}_{t+24}$, all at once. The past is the last 168 hours, one week;
# the 24 hours ahead must lie inside the part, the past may reach into the part before. Errors are averaged over
# all $t$ and all 24 hours: mean squared error (MSE) and mean absolute error (MAE) of the standardised values, and
# the same in °C.

# %%
PAST, AHEAD = 168, 24
turn = 2 * np.pi * np.stack([time.astype(int) % 24 / 24, time.astype("datetime64[D]").astype(int) % 7 / 7])
calendar = np.concatenate([np.sin(turn), np.cos(turn)]).T.astype(np.float32)  # hour and weekday, (N, 4)


def windows(part, every):
    """The past as a dictionary of (B, 168, …), and the OT of the 24 hours ahead, (B, 24)."""
    start = np.arange(max(part.start, PAST), part.stop - AHEAD + 1, every)  # the first hour ahead
    past = start[:, None] + np.arange(-PAST, 0)
    return {"values": z[past], "calendar": calendar[past]}, z[start[:, None] + np.arange(AHEAD), OT]


training = windows(parts["training"], TRAIN_EVERY)
validation = windows(parts["validation"], OTHERS_EVERY)
print({name: array.shape for name, array in training[0].items()}, "→", training[1].shape)


def persistence(past):
    return np.repeat(past["values"][:, -1:, OT], AHEAD, axis=1)


def yesterday(past):
    return past["values"][:, -24:, OT]


def show(name, forecast, actual):
    error = forecast - actual
    mse, mae = (error**2).mean(), abs(error).mean()
    print(f"{name:<34} {mse:.4f}  {mae:.4f}   {degrees * mse**0.5:>6.2f}  {degrees * mae:.2f}")


HEADER = f"{'':<34} {'MSE':<6}  {'MAE':<6}   RMSE and MAE, °C"
print("\nvalidation\n" + HEADER)
show("persistence: the last value", persistence(validation[0]), validation[1])
show("seasonal: the same hour yesterday", yesterday(validation[0]), validation[1])

# %% [markdown]
# A third opponent costs a second: a linear map of the past 168 temperatures and the calendar to the 24 ahead, with a
# ridge penalty chosen on the validation months. It reads temperatures relative to the last one and predicts the change
# from it. It does not get the scale of the window, as some networks below do. A fairer one would: divide what it reads
# by the window's standard deviation, and multiply its forecast by it. That is not tried here.


# %%
def features(past):
    relative = past["values"][:, :, OT] - past["values"][:, -1:, OT]
    return np.concatenate([relative, past["calendar"][:, -1]], axis=1)


def fit_ridge(penalty):
    return Ridge(penalty).fit(features(training[0]), training[1] - persistence(training[0]))


def linear(ridge, past):
    return persistence(past) + ridge.predict(features(past))


ridges = {penalty: fit_ridge(penalty) for penalty in (1.0, 10.0, 100.0, 1000.0, 10000.0)}
losses = {penalty: ((linear(r, validation[0]) - validation[1]) ** 2).mean() for penalty, r in ridges.items()}
penalty = min(losses, key=losses.get)
ridge = ridges[penalty]
print("validation\n" + HEADER)
show(f"linear, ridge penalty {penalty:g}", linear(ridge, validation[0]), validation[1])

# %% [markdown]
# ## 3. A network that may see the level, and one that may not
#
# One network, a GRU that reads the past and a linear head of 24 outputs for its last state, can be put to work in
# several ways. Let $x$ be the window of standardised values, $x_t$ its last row, $s$ the standard deviation of each
# column within the window, and $g$ the network:
#
# | | the network reads | forecast |
# |---|---|---|
# | level | $x$ | $g(x)$ |
# | change | $x$ | $x_t + g(x)$ |
# | relative | $x - x_t$ | $x_t + g(x - x_t)$ |
# | relative, scaled | $(x - x_t)/s$ | $x_t + s\,g\big((x - x_t)/s\big)$ |
#
# *Level* must learn to reproduce the last value, for all levels, also those that it has hardly seen. *Change* gets
# it for free: a network that outputs zero is the persistence forecast, and what is left to learn has the same
# distribution in all parts. It still reads levels, and may do anything at a level that is new. *Relative* cannot: by
# construction a window that lies 5 °C lower has the same forecast 5 °C lower. *Scaled* does the same for the size of
# the swings, which shrinks from part to part. These are the tricks of NLinear (Zeng and others 2022,
# [arXiv:2205.13504](https://arxiv.org/abs/2205.13504)) and of reversible instance normalisation (Kim and others 2022).
#
# A fourth question is what a *step* is. Hour by hour, the network must carry the shape of a day through 24 steps to use
# it. Cut into days that end at the present hour, the week is 7 steps of 24 values, each of which lies at the same hour
# of the day as one of the outputs.


# %%
def forecaster(network, form, days, used):
    """A function of parameters and of the past, as `fit` takes it, and the features of a step."""

    def forecast(params, past, *, key=None):
        x = past["values"]  # (B, 168, 7)
        last, calendar = x[:, -1:], past["calendar"]
        scale = jnp.ones_like(last)
        if form == "relative, scaled":
            scale = jnp.sqrt(x.var(1, keepdims=True) + 0.05**2)  # a sensor that is stuck has no deviation
        steps = ((x - last) / scale if form.startswith("relative") else x)[:, :, used]
        if days:
            steps, calendar = steps.reshape(len(x), PAST // 24, -1), calendar[:, 23::24]
        steps = jnp.concatenate([steps, calendar], axis=-1)
        outputs, _ = network(params, steps.swapaxes(0, 1), key=key)  # time comes first; (B, 24)
        return outputs if form == "level" else last[:, 0, OT:] + scale[:, 0, OT:] * outputs

    return forecast, (24 if days else 1) * len(used) + calendar.shape[1]


network = rj.Stack([rj.RNN(rj.GRU(HIDDEN)), rj.Last(), rj.Dropout(0.3), rj.Dense(AHEAD)])
updates = EPOCHS * len(training[1]) // 64
recipe = rj.training.optimizer(1e-3, clip_norm=1.0, schedule=optax.cosine_decay_schedule(1.0, updates))


def train(form, days, used, seed=0):
    apply, size = forecaster(network, form, days, used)
    return rj.training.fit(
        (network.init(jax.random.key(seed), size), apply),
        training,
        loss="mean_squared_error",
        metrics=["mean_absolute_error"],
        optimizer=recipe,
        epochs=EPOCHS,
        batch_size=64,
        seed=seed,
        validation=validation,
        patience=4,
        restore_best=True,
        progress=False,
    )


# %% [markdown]
# `fit` takes the pair of parameters and function; the inputs may be any pytree, here a dictionary. After every epoch it
# measures the validation months, stops after 4 epochs without improvement, and returns the parameters of the best one.
# Every row of the table changes one thing.

# %%
everything, alone = list(range(len(columns))), [OT]
variants = {
    "hours, level": ("level", False, everything),
    "hours, change": ("change", False, everything),
    "hours, relative": ("relative", False, everything),
    "hours, relative, scaled": ("relative, scaled", False, everything),
    "days, relative, scaled": ("relative, scaled", True, everything),
    "days, relative, scaled, OT alone": ("relative, scaled", True, alone),
}
tried = {name: train(*what) for name, what in variants.items() if FULL or name in ("hours, level", list(variants)[-1])}
print("validation\n" + HEADER)
for name, fitted in tried.items():
    show(name, rj.training.predict(fitted, validation[0]), validation[1])
show("persistence", persistence(validation[0]), validation[1])
show("linear", linear(ridge, validation[0]), validation[1])

figure, axes = plt.subplots(figsize=(8, 3.4))
styles = ((RED, "-"), (ORANGE, "-"), (SKY, "-"), (BLUE, "-"), (GREEN, "--"), (GREEN, "-"))
for (name, fitted), (color, line) in zip(tried.items(), styles, strict=False):
    curve = fitted.history["val_loss"]
    best = int(np.argmin(curve))
    axes.plot(np.arange(1, len(curve) + 1), curve, line, color=color, label=name)
    axes.plot(best + 1, curve[best], "o", color=color)
free = ((persistence(validation[0]) - validation[1]) ** 2).mean()
axes.axhline(free, color="grey", ls=":", label="persistence")
axes.set(xlabel="epoch", ylabel="validation MSE, standardised", ylim=(0.045, 0.125))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The curves show the validation loss after every epoch, the dots the parameters that were kept.

# %% [markdown]
# ## 4. The choice
#
# The validation months choose among the networks. Two more of the chosen kind, from other initial weights and other
# orders of the data, say how much of the difference could be luck. The linear map does better there than any of them:

# %%
losses = {name: ((rj.training.predict(f, validation[0]) - validation[1]) ** 2).mean() for name, f in tried.items()}
chosen = min(losses, key=losses.get)
again = [min(train(*variants[chosen], seed=seed).history["val_loss"]) for seed in SEEDS]
print(f"chosen: {chosen}; validation MSE {losses[chosen]:.4f}, of other seeds {np.round(again, 4)}")
print(f"linear: {((linear(ridge, validation[0]) - validation[1]) ** 2).mean():.4f}")

# %% [markdown]
# ## 5. The test months, once

# %%
past, actual = windows(parts["test"], OTHERS_EVERY)
forecasts = {
    "persistence": persistence(past),
    "same hour yesterday": yesterday(past),
    "linear": linear(ridge, past),
    "network": rj.training.predict(tried[chosen], past),
}
print(f"test, {len(actual):,} forecasts of {AHEAD} hours\n" + HEADER)
for name, forecast in forecasts.items():
    show(name, forecast, actual)
print("\nfor comparison, the others of the table; they had no part in the choice")
for name in tried:
    if name != chosen:
        show(name, rj.training.predict(tried[name], past), actual)
squared = {name: (forecast - actual) ** 2 for name, forecast in forecasts.items()}
absolute = {name: abs(forecast - actual) for name, forecast in forecasts.items()}
print("\nthe network's error, relative to that of      MSE     MAE")
for name in list(forecasts)[:-1]:
    in_mse, in_mae = (errors["network"].mean() / errors[name].mean() - 1 for errors in (squared, absolute))
    print(f"{name:<42} {in_mse:>+7.1%} {in_mae:>+7.1%}")

# %% [markdown]
# The validation months showed little of what happens here. There, the network that is fed levels beat persistence; in
# the test months, which lie at the lower end of the levels that it was trained on, it fails. Scaling seemed to be of no
# use; here the network of hourly steps needs it to be clearly better than persistence. What cannot drift by
# construction depends less on which months one happens to validate with.
#
# The linear map, which was ahead, is behind. But the 5.4 % in squared error are of one network, with seed 0: those with
# the other two seeds were measured on the validation months alone. And the linear map had no scale. Scale alone takes a
# sixth off the squared error of the hourly network here. So these numbers do not say that a recurrent network beats a
# linear map on equal terms. To find that out, scale the linear map too, and test all seeds.

# %%
styles = {"persistence": ("grey", ":"), "same hour yesterday": (PURPLE, "-."), "linear": (ORANGE, "--")}
styles["network"] = (BLUE, "-")
hours = np.arange(1, AHEAD + 1)
figure, axes = plt.subplots(figsize=(7, 3.4))
for name, (color, line) in styles.items():
    axes.plot(hours, degrees * absolute[name].mean(0), line, color=color, lw=2, label=name)
axes.set(xlabel="hours ahead", ylabel="mean absolute error, °C", xticks=range(0, 25, 6), ylim=(0, None))
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# The error against the horizon. Persistence is hard to beat one hour ahead and gets worse for most of the day;
# "yesterday" is equally bad at all horizons and meets it at 24 hours, where the two are the same forecast.


# %%
def celsius(values):
    return values * degrees + mean[OT]


figure, grid = plt.subplots(2, 3, figsize=(10, 5.2), sharex=True)
for axes, row in zip(grid.flat, 50 + np.arange(6) * (len(actual) // 6), strict=True):
    before, now = past["values"][row, -48:, OT], past["values"][row, -1, OT]
    axes.plot(np.arange(-47, 1), celsius(before), color="black", lw=1)
    axes.plot(np.arange(25), celsius(np.append(now, actual[row])), color="black", lw=2, label="what came")
    for name in ("persistence", "linear", "network"):
        color, line = styles[name]
        axes.plot(hours, celsius(forecasts[name][row]), line, color=color, lw=2, label=name)
    axes.axvline(0, color="lightgrey", lw=1, zorder=0)
    moment = time[parts["test"].start + row * OTHERS_EVERY - 1]
    axes.set(title=f"{moment}:00".replace("T", ", "), xticks=range(-48, 25, 24))
figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
figure.supxlabel("hours from now")
figure.supylabel("oil temperature, °C")
plt.show()

# %% [markdown]
# Six forecasts, evenly spaced over the test months and not picked: the past two days (thin black), what came (thick),
# and what was forecast. The network follows the daily wave around the last value; what the past week does not hold,
# such as a change of the weather, it cannot know.
#
# Where does it win, and where not? We sort the windows by how far the temperature really moved from its last value
# within the 24 hours, into four groups of one size:

# %%
moved = degrees * squared["persistence"].mean(1) ** 0.5
groups = np.array_split(np.argsort(moved), 4)
print("the temperature moved by    MAE of network   of persistence   windows in which the network is better")
for group in groups:
    ours, theirs = (degrees * absolute[name][group].mean() for name in ("network", "persistence"))
    better = (squared["network"][group].mean(1) < squared["persistence"][group].mean(1)).mean()
    low, high = moved[group].min(), moved[group].max()
    print(f"{low:>6.1f} to {high:>4.1f} °C {ours:>19.2f} °C {theirs:>13.2f} °C {better:>22.0%}")
better = (squared["network"].mean(1) < squared["persistence"].mean(1)).mean()
first = degrees * absolute["network"][:, 0].mean(), degrees * absolute["persistence"][:, 0].mean()
print(f"all: the network is better in {better:.0%} of the windows")
print(f"one hour ahead: MAE of the network {first[0]:.2f} °C, of persistence {first[1]:.2f} °C")

# %% [markdown]
# When nothing happens, persistence is right and every other forecast is a risk: there the network loses. It wins where
# something happens, and those windows weigh more.
#
# ## 6. One long series: truncated back-propagation
#
# With windows, every hour is read again for each of the 168 forecasts that it comes before. A network that keeps its
# state reads it once: it goes along the series, forecasts at every hour, and hands its state on. Training by
# **truncated back-propagation through time** cuts the series into windows, carries the state from one to the next, and
# stops the gradient there: `truncate=tbptt(72, overlap=24)` updates the weights every 48 hours, from a gradient that
# reaches back 24 to 72 hours. `streams` lays the training months as 8 streams side by side, so that an update has more
# than one row.
#
# With a state that never ends there is no window to be relative to. The network reads the temperature's change in the
# last hour, which has no level, and the calendar; targets are again the changes from the last value.

# %%
hourly = np.diff(z[:, OT], prepend=z[0, OT])[:, None]
inputs = np.concatenate([hourly / hourly[parts["training"]].std(), calendar], axis=1)  # (N, 5)
ahead = np.arange(len(z))[:, None] + hours
changes = z[np.minimum(ahead, len(z) - 1), OT] - z[:, OT:]  # (N, 24)
typical = changes[parts["training"]].std(0)  # of each horizon: the first hour shall matter as much as the last


def stream(part, rows):
    whole = slice(part.start, part.stop - AHEAD)  # the hours ahead lie inside the part
    return rj.training.streams((inputs[whole], changes[whole] / typical), rows)


carried = rj.Stack([rj.RNN(rj.GRU(HIDDEN)), rj.Dropout(0.3), rj.Dense(AHEAD)])  # no Last: an output at every hour
cut = rj.training.tbptt(72, overlap=24)
updates = STREAM_EPOCHS * (12 * MONTH // 8 // cut.stride)
streamed = rj.training.fit(
    carried,
    stream(parts["training"], 8),
    loss="mean_squared_error",
    optimizer=rj.training.optimizer(3e-3, clip_norm=1.0, schedule=optax.cosine_decay_schedule(1.0, updates)),
    epochs=STREAM_EPOCHS,
    truncate=cut,
    validation=stream(parts["validation"], 1),
    restore_best=True,
    progress=False,
)
print(f"best of {STREAM_EPOCHS} epochs: {1 + int(np.argmin(streamed.history['val_loss']))}")

# %% [markdown]
# For the test the network reads the whole series from its first hour, once, and the state arrives in the test months
# as it would in use. One hour ahead and all 24, on the same hours as before:

# %%
outputs, state = carried(streamed.params, inputs[:, None])  # one row, (N, 1, 24)
now = np.arange(parts["test"].start, parts["test"].stop - AHEAD + 1, OTHERS_EVERY) - 1  # the last known hour
stream_forecast = z[now, OT:] + np.asarray(outputs)[now, 0] * typical
print(f"{'test':<22} one hour ahead: MSE   MAE      24 hours: MSE   MAE")
for name, forecast in (forecasts | {"carried state": stream_forecast}).items():
    error = forecast - actual
    print(
        f"{name:<22} {(error[:, 0] ** 2).mean():>20.5f} {abs(error[:, 0]).mean():>7.4f} "
        f"{(error**2).mean():>12.4f} {abs(error).mean():>8.4f}"
    )

# %% [markdown]
# One hour ahead, none of them gains much on persistence. Over the day, the carried state gets less than the window did:
# nothing brings its inputs to the scale of the season. But its epoch reads the months once and not 168 times, and its
# memory has no edge: that is the way for series that are long and steady.
#
# ## The answer
#
# Subtract what drifts. A network that forecasts the change from the last value, from inputs relative to it, on the
# scale of its own window, carries over to months that are colder and calmer than most of those it was trained on. A
# step should be what repeats itself, here a day. And no result on a series means anything without the persistence
# forecast beside it.

# %%
in_mse, in_mae = (errors["network"].mean() / errors["persistence"].mean() for errors in (squared, absolute))
print(f"test: {1 - in_mse:.1%} less squared error than persistence, {1 - in_mae:.1%} less absolute error")
assert in_mse < (0.85 if FULL else 1.0), "the network does not beat the last value"
assert in_mae < (0.95 if FULL else 1.0), "the network does not beat the last value"
