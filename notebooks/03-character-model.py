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
# # Learn to write, one character at a time
#
# A network that predicts the next character of a text has to learn its spelling, its words and some of its grammar,
# from nothing but the text. And once it can predict, it can write: draw a character from what it predicts, read that as
# the next input, and so on.
#
# The text is Python's own documentation, which every Python carries. Reading it as one sequence would mean to
# back-propagate over hundreds of thousands of steps; this notebook shows how truncated back-propagation avoids that,
# and what it costs. `examples/generation.py --data FILE` does the same with a text of yours.

# %%
import pydoc_data.topics
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import rnnjax as rj
from rnnjax.training import fit, streams, tbptt

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
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
EPOCHS, HIDDEN, WINDOWS = (16, 160, (4, 16, 64)) if FULL else (2, 48, (4, 16))

# %% [markdown]
# ## 1. The text as numbers
#
# Every character becomes its number in the list of symbols. The first nine tenths are for training, the last tenth is
# kept for validation: whole chapters that the network has never read. Characters that are rare in the training part
# share the symbol `~`.

# %%
text = "\n".join(pydoc_data.topics.topics.values())
cut = len(text) * 9 // 10
found, counts = np.unique(list(text[:cut]), return_counts=True)
symbols = "".join(sorted({"~", *found[counts >= 10]}))
number = {symbol: i for i, symbol in enumerate(symbols)}
codes = np.array([number.get(character, number["~"]) for character in text], np.int32)
train, validation = codes[:cut], codes[cut:]
V = len(symbols)
print(f"{len(codes):,} characters, {V} symbols, of which {len(train):,} for training")
print(text[1000:1300])

# %% [markdown]
# How well can one predict without a network? The loss of a prediction is its surprise, $-\ln p$ of the character that
# came, in **nats**; divided by $\ln 2$ it is in **bits**. Simple predictions, with counts from the training part,
# measured on the validation part: all symbols alike, the frequency of each, and the frequency after the character
# before it, or after the two before it.


# %%
def counted(order):
    """The loss of predicting from the `order` characters before, with a tenth of a count added to each."""

    def contexts(part):
        context = sum(part[i : len(part) - order + i].astype(np.int64) * V**i for i in range(order))
        return np.broadcast_to(context, len(part) - order), part[order:]

    table = np.full((V**order, V), 0.1)
    np.add.at(table, contexts(train), 1)
    table /= table.sum(1, keepdims=True)
    return -np.log(table[contexts(validation)]).mean()


baselines = {"all alike": np.log(V)}
for order, name in enumerate(("frequencies", "one character before", "two characters before")):
    baselines[name] = counted(order)
for name, nats in baselines.items():
    print(f"{name:<22} {nats:.3f} nats = {nats / np.log(2):.3f} bits per character")

# %% [markdown]
# ## 2. Streams and windows
#
# One long text is one sequence. To use the machine well, it is cut into 32 **streams** that are read side by side, and
# every stream into **windows** of 64 characters. An update of the weights is made after each window: gradients go back
# to the window's beginning and no further, but the *state* is carried on into the next one. This is **truncated
# back-propagation through time**. The network can therefore use what it read before the window; it only cannot be
# taught directly to keep it.

# %%
ROWS, WINDOW = 32, 64
data = streams((train[:-1], train[1:]), ROWS)  # (R, L) inputs, and targets one character ahead
held_out = streams((validation[:-1], validation[1:]), 8)
print("streams", data[0].shape, "  windows of an epoch", -(-data[0].shape[1] // WINDOW))

figure, axes = plt.subplots(figsize=(8, 1.9))
for row in range(3):
    axes.text(-0.3, -row, f"stream {row + 1}", ha="right", va="center")
    for column in range(3):
        piece = data[0][row, column * 20 : column * 20 + 20]
        shown = "".join(symbols[code] for code in piece).replace("\n", "↵")
        axes.add_patch(plt.Rectangle((column * 2.1, -row - 0.32), 2, 0.64, fc="#EEF4FA", ec=BLUE))
        axes.text(column * 2.1 + 0.06, -row, shown, va="center", family="monospace", fontsize=8)
        if column:
            axes.annotate(
                "", (column * 2.1, -row), (column * 2.1 - 0.1, -row), arrowprops={"arrowstyle": "->", "color": ORANGE}
            )
axes.set(
    xlim=(-1, 6.4), ylim=(-2.6, 0.6), title="three streams in windows of 20 characters; the state goes along the arrows"
)
axes.axis("off")
plt.show()

# %% [markdown]
# ## 3. Training
#
# A vector for each symbol, an LSTM, and scores for the next symbol. `fit` with `truncate=tbptt(64)` does the rest.


# %%
def trained(window, epochs, hidden=HIDDEN):
    model = rj.Stack([rj.Embedding(V, V), rj.RNN(rj.LSTM(hidden)), rj.Dense(V)])
    updates = epochs * -(-data[0].shape[1] // window)
    recipe = rj.training.optimizer(4e-3, clip_norm=1.0, schedule=optax.cosine_decay_schedule(1.0, updates, alpha=0.02))
    return fit(
        model,
        data,
        validation=held_out,
        truncate=tbptt(window),
        optimizer=recipe,
        metrics=["accuracy"],
        epochs=epochs,
        restore_best=True,
        progress=False,
    )


fitted = trained(WINDOW, EPOCHS)
curve = np.array(fitted.history["val_loss"])
best = curve.min()
print(f"{best:.3f} nats = {best / np.log(2):.3f} bits per character, perplexity {np.exp(best):.2f}")

figure, axes = plt.subplots()
epochs = np.arange(1, EPOCHS + 1)
axes.plot(epochs, fitted.history["loss"], "o-", color=BLUE, ms=4, label="training")
axes.plot(epochs, curve, "s-", color=ORANGE, ms=4, label="validation")
for name, nats in list(baselines.items())[2:]:
    axes.axhline(nats, color=GREY, lw=1, ls=":")
    axes.text(EPOCHS, nats + 0.02, name, ha="right", va="bottom", color=GREY)
axes.set(xlabel="epoch", ylabel="nats per character", title="the loss falls below what counting reaches")
axes.legend(loc="upper right", bbox_to_anchor=(0.75, 0.95))
plt.show()

# %% [markdown]
# ## 4. What the window costs
#
# A shorter window teaches less about what lies far back, but it makes more updates from the same text. The same
# network, trained for a few epochs with windows of different lengths:

# %%
short = max(2, EPOCHS // 5)
for window in WINDOWS:
    began = time.perf_counter()
    history = trained(window, short).history
    seconds, updates = time.perf_counter() - began, short * -(-data[0].shape[1] // window)
    print(
        f"window {window:>3}: {updates:>6,} updates, {seconds:>3.0f} s, validation {min(history['val_loss']):.3f} nats"
    )

# %% [markdown]
# While updates are few, their number counts more than their reach: in the same epochs the short windows come further,
# in more time. The long run of section 3, with its long window, needed fewer updates than the shortest window made
# here. The window is a compromise between the reach of the gradient, the number of updates, and the time, because a
# machine works better on long pieces. The state crosses the borders in all cases.
#
# ## 5. What surprises it
#
# The loss is a mean. Character by character, the surprise is high where a word begins and could be anything, and low
# inside of words once they are settled.

# %%
params, model = fitted.model
snippet = validation[2000:2160]


@jax.jit
def surprises(params, codes):
    scores, _ = model(params, codes[:-1, None])  # (L - 1, 1, V)
    return -jnp.take_along_axis(jax.nn.log_softmax(scores[:, 0]), codes[1:, None], 1)[:, 0]


surprise = np.asarray(surprises(params, jnp.asarray(snippet)))
columns = 40
figure, axes = plt.subplots(figsize=(8, 1.9))
for i, (code, nats) in enumerate(zip(snippet[1:], surprise, strict=True)):
    row, column = divmod(i, columns)
    axes.add_patch(plt.Rectangle((column, -row - 0.5), 1, 1, color=plt.cm.Oranges(min(nats / 6, 1))))
    shown, color = symbols[code].replace("\n", "↵"), "white" if nats > 3.5 else "black"
    axes.text(column + 0.5, -row, shown, ha="center", va="center", family="monospace", color=color)
axes.set(xlim=(0, columns), ylim=(-len(surprise) // columns + 0.4, 0.6))
axes.axis("off")
scale = plt.cm.ScalarMappable(plt.Normalize(0, 6), "Oranges")
figure.colorbar(scale, ax=axes, label="surprise, nats", ticks=(0, 2, 4, 6))
plt.show()

# %% [markdown]
# ## 6. Writing
#
# To write, draw a character from the softmax of the scores, and read it as the next input. A **temperature** divides
# the scores before that: below 1 it favours what is likely already, above 1 it evens out. The loop is a scan of the
# same `model` over pieces of one step, with the state passed along.


# %%
@jax.jit
def written(params, start, key, temperature):
    scores, state = model(params, start[:, None])  # reads (L, 1), scores (L, 1, V)

    def step(carry, key):
        scores, state = carry
        code = jax.random.categorical(key, scores / temperature)  # (1,)
        scores, state = model(params, code[None], state)
        return (scores[0], state), code[0]

    return jax.lax.scan(step, (scores[-1], state), jax.random.split(key, 400))[1]


start = "The "
first = jnp.array([number[character] for character in start])
for temperature in (0.3, 0.7, 1.2):
    sample = written(params, first, jax.random.key(1), temperature)
    print(f"--- temperature {temperature}\n{start}{''.join(symbols[code] for code in sample)}\n")

# %% [markdown]
# At a low temperature it repeats its safest phrases; at a high one it invents words. In between it writes lines that
# look like documentation and mean nothing: the network knows how the text is *written*. What it is about would take a
# larger network and far more text.

# %%
assert best < (1.5 if FULL else 2.7), best
assert best < min(baselines.values()) if FULL else best < baselines["frequencies"]
print(f"validation: {best:.3f} nats per character")
