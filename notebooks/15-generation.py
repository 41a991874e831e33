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
# # Write with a language model
#
# A language model gives a probability to each next symbol. That is not a text yet: something has to *choose*. Is the
# likeliest text the best one? What do temperature, top-k, top-p and beam search do? And is it better to go by
# characters or by words, and how does one compare the two?
#
# How such a network learns is in [the character model](03-character-model.ipynb), which you need. The parts here are
# those of [examples/generation.py](../examples/generation.py).

# %%
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rnnjax as rj
from rnnjax.training import tbptt

sys.path.append(str(Path(rj.__file__).parents[1] / "examples"))
import generation

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
HIDDEN, MOST, ROWS = (128, None, 64) if FULL else (24, 60_000, 4)
EPOCHS = {"character": 8, "word": 6} if FULL else {"character": 1, "word": 1}

# %% [markdown]
# ## 1. One text, two alphabets
#
# Python's own documentation, which every Python carries, once as characters and once as words. The first nine tenths
# are for training. Characters are few and steps are many; with words it is the other way round, and those that come up
# only once are *unknown* to the model.

# %%
texts = {unit: generation.read(unit=unit, size=4000, most=MOST) for unit in ("character", "word")}
for unit, text in texts.items():
    unknown = np.mean(text.codes == text.vocabulary.unknown)
    print(f"{unit + 's':<11} {len(text.codes):>8,} of {len(text.vocabulary):>5,} different ones, {unknown:.1%} unknown")
    print(" ", [text.vocabulary.decode(text.codes[i : i + 1]) for i in range(1000, 1012)])

# %% [markdown]
# ## 2. Two models, one measure
#
# Both are an embedding, an LSTM and scores, trained on windows of 64 symbols in 32 streams. **Perplexity**, $e$ to the
# mean loss, is how many equally likely symbols would be as hard to choose from. It cannot compare the two models, whose
# symbols are different things. **Bits per character** can: the bits of the whole text, divided by its characters.


# %%
def train(text, epochs, dropout, learning_rate):
    data, validation = generation.split(text.codes, 32)
    return rj.training.fit(
        generation.build(len(text.vocabulary), HIDDEN, 1, dropout),
        data,
        validation=validation,
        optimizer=generation.recipe(learning_rate, epochs * -(-data[0].shape[1] // 64)),
        truncate=tbptt(64),
        epochs=epochs,
        restore_best=True,
        progress=False,
    )


models = {
    "character": train(texts["character"], EPOCHS["character"], 0.0, 4e-3),
    "word": train(texts["word"], EPOCHS["word"], 0.3, 4e-3),
}
figure, axes = plt.subplots(figsize=(7, 3.2))
found = {}
for (unit, fitted), color in zip(models.items(), (BLUE, ORANGE), strict=True):
    text = texts[unit]
    bits = len(text.codes) / text.characters / np.log(2)
    epochs = range(1, EPOCHS[unit] + 1)
    axes.plot(epochs, bits * np.array(fitted.history["loss"]), ":", color=color, label=f"{unit}s, training")
    axes.plot(
        epochs, bits * np.array(fitted.history["val_loss"]), "o-", ms=4, color=color, label=f"{unit}s, validation"
    )
    found[unit] = generation.judge(fitted, text)
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found[unit].items())
    weights = sum(leaf.size for leaf in jax.tree.leaves(fitted.params))
    print(f"{unit + 's':<11} {weights:,} parameters; validation: {shown}")
axes.set(xlabel="epoch", ylabel="bits per character")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# By that measure words are far ahead: they need not learn to spell. But a part of it is a present. The words come
# without white space, so nobody has to predict indents and ends of lines, and what is unknown counts as one symbol that
# is easy to guess. A model of characters has to write everything, and can write words that it never saw.
#
# ## 3. What may come next
#
# After a few words of Python's documentation, these are the words that the model thinks of, and what is left of them
# by three filters. A **temperature** $\tau$ divides the scores: it sharpens below 1 and flattens above. **Top-k** keeps
# the $k$ likeliest. **Top-p** (Holtzman and others 2020, [arXiv:1904.09751](https://arxiv.org/abs/1904.09751)) keeps
# the fewest that together have the probability $p$: few where the model is sure, many where it is not.

# %%
text, (params, model) = texts["word"], models["word"].model


@jax.jit
def next_scores(params, codes):
    """Scores of the word behind codes (L,)."""
    return model(params, codes[:, None])[0][-1, 0]


filters = {
    "as it is": lambda scores: scores,
    "temperature 0.5": partial(rj.decoding.temperature, value=0.5),
    "top 5": partial(rj.decoding.top_k, k=5),
    "top-p 0.5": partial(rj.decoding.top_p, p=0.5),
}
figure, grid = plt.subplots(1, 2, figsize=(9, 4.6))
for axes, start in zip(grid, ("The value of the", "may be used to"), strict=True):
    scores = next_scores(params, text.encode(start))
    order = np.argsort(-scores)[:12]
    for at, (name, choose) in enumerate(filters.items()):
        chances = np.asarray(jax.nn.softmax(choose(scores)))
        kept = (chances > 0).sum()
        label = name if kept == len(scores) else f"{name}: {kept} left"
        axes.barh(
            np.arange(12) + 0.2 * at - 0.3,
            100 * chances[order],
            0.2,
            label=label,
            color=(GREY, BLUE, GREEN, ORANGE)[at],
        )
    axes.set_yticks(range(12), text.vocabulary.tokens(order), parse_math=False)
    axes.set(title=f"{start} …", xlabel="%")
    axes.invert_yaxis()
    axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## 4. Samples
#
# The same beginning, continued by both models.

# %%
writers = {unit: generation.Writer(models[unit], texts[unit]) for unit in texts}
for unit, name, options in (
    ("character", "temperature 0.3", {"temperature": 0.3}),
    ("character", "temperature 1", {"temperature": 1.0}),
    ("word", "temperature 1", {"temperature": 1.0}),
    ("word", "temperature 1, top-p 0.8", {"temperature": 1.0, "top_p": 0.8}),
    ("word", "8 beams", {"beams": 8}),
):
    how = generation.How(length=240 if unit == "character" else 50, **options)
    print(f"--- {unit}s, {name}\n{writers[unit].write('The', how)}\n")

# %% [markdown]
# ## 5. The likeliest text is not the best
#
# Beam search finds texts that are far more probable than anything that is drawn, and repeats itself. Is that a fault of
# the search? Below, many texts are written in every way, and for each word of them the surprise is recorded, $-\ln p$
# under the model without filters, beside that of the words that people wrote. And we count how many of their four-word
# sequences are different ones.

# %%
LENGTH = 60 if FULL else 12
cut = len(text.codes) * 9 // 10
places = np.linspace(cut, len(text.codes) - LENGTH - 20, ROWS).astype(int)
prompts = np.stack([text.codes[i : i + 20] for i in places], axis=1)  # (L, R)
people = np.stack([text.codes[i + 20 : i + 20 + LENGTH] for i in places])  # (R, L)
bans = (text.vocabulary.unknown,)


@partial(jax.jit, static_argnames=("beams", "top_p"))
def write(params, prompts, key, temperature=None, top_p=None, beams=None):
    """Continuations (R, L) of prompts (P, R)."""
    step = rj.decoding.next_token(model, params)
    _, state = model(params, prompts[:-1])
    if beams is not None:
        return rj.decoding.beam_search(step, state, prompts[-1], LENGTH, beams, bans=bans).tokens[:, 0]
    options = {"temperature": temperature, "top_p": top_p, "bans": bans}
    return rj.decoding.sample(step, state, prompts[-1], LENGTH, key, **options).tokens


@jax.jit
def surprises(params, prompts, codes):
    """−ln p of each word (R, L) behind prompts (P, R)."""
    scores, _ = model(params, jnp.concatenate([prompts, codes.T])[:-1])
    scores = jax.nn.log_softmax(scores[len(prompts) - 1 :])  # (L, R, V)
    return -jnp.take_along_axis(scores, codes.T[..., None], axis=-1)[..., 0].T


def different(codes):
    """Of the sequences of four in the rows (R, L), the share that are different ones, mean over rows."""
    pieces = np.lib.stride_tricks.sliding_window_view(codes, 4, axis=1)  # (R, L - 3, 4)
    return np.mean([len(np.unique(row, axis=0)) / len(row) for row in pieces])


ways = {f"temperature {t}": {"temperature": t} for t in (0.3, 0.5, 0.7, 1.0, 1.3)}
ways |= {"temperature 1, top-p 0.8": {"temperature": 1.0, "top_p": 0.8}, "8 beams": {"beams": 8}}
rows = {"people": people} | {
    name: np.asarray(write(params, prompts, jax.random.key(2), **options)) for name, options in ways.items()
}
nats = {name: np.asarray(surprises(params, prompts, codes)) for name, codes in rows.items()}
print(f"{'':<26} {'nats a word':>11} {'different':>10}")
for name, codes in rows.items():
    print(f"{name:<26} {nats[name].mean():>11.2f} {different(codes):>10.1%}")
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
row = int(np.argsort(nats["people"].mean(1))[ROWS // 2])
for name, color in (("people", "black"), ("temperature 1.0", BLUE), ("8 beams", RED)):
    left.plot(np.arange(1, LENGTH + 1), nats[name].mean(0), color=color, label=name)
left.set(xlabel="word of the continuation", ylabel="surprise, nats", ylim=(0, None))
left.legend()
drawn = [f"temperature {t}" for t in (0.3, 0.5, 0.7, 1.0, 1.3)]
right.plot([nats[name].mean() for name in drawn], [100 * different(rows[name]) for name in drawn], "o-", color=BLUE)
for name in drawn:
    right.annotate(
        name.split()[1], (nats[name].mean(), 100 * different(rows[name])), (4, -11), textcoords="offset points"
    )
for name, color, marker in (("people", "black", "*"), ("8 beams", RED, "s"), ("temperature 1, top-p 0.8", ORANGE, "^")):
    right.plot(nats[name].mean(), 100 * different(rows[name]), marker, color=color, ms=9, label=name)
right.plot([], [], "o-", color=BLUE, label="temperatures")
right.set(xlabel="surprise, nats a word", ylabel="different sequences of 4, %")
right.legend()
plt.show()
for name in ("people", "temperature 1.0", "8 beams"):
    print(f"--- {name}: … {text.decode(prompts[:, row])} | {text.decode(rows[name][row])}\n")

# %% [markdown]
# It is no fault of the search: it did what it was asked, and found something far likelier than what people write. A
# text in which nothing surprises says nothing. People choose words with about the surprise that the model's own draws
# have, and repeat themselves about as often. That is what it means that the model is well
# calibrated, and why drawing at temperature 1 looks right from afar. From near, each draw from the long tail of
# unlikely words is a stumble, and the text goes on from there. Temperatures below 1 and top-p cut the tail, and pay
# with repetition.
#
# ## The answer
#
# - **The likeliest text is not the best one.** Search where there is one right answer, as in
#   [translation](12-translation.ipynb); draw where there are many.
# - **Temperature, top-k and top-p** trade surprise against repetition. Top-p keeps few words in one place and hundreds
#   in another. A search can be forbidden to repeat, by `no_repeat`, which cures the symptom.
# - **Characters or words**: compare by bits per character, and look at what each alphabet leaves out. Perplexities of
#   different alphabets say nothing about each other.

# %%
for unit, values in found.items():
    print(
        f"{unit + 's':<11} {values['perplexity']:.2f} perplexity, {values['bits_per_character']:.3f} bits per character"
    )
assert found["character"]["bits_per_character"] < (1.95 if FULL else 6.6)
assert found["word"]["perplexity"] < (25 if FULL else 2000)
assert nats["8 beams"].mean() < nats["temperature 1.0"].mean()
