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
# # Sum a text up in one line
#
# The first line of a good docstring says what the rest explains. Can a network write that line, given the rest? Which
# of its words does it copy, which does it find by itself, and is it better than what costs nothing: the first sentence
# of the text?
#
# The parts are those of [examples/summarisation.py](../examples/summarisation.py). You need attention and beams from
# [the translation](12-translation.ipynb).

# %%
import sys
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import rnnjax as rj

sys.path.append(str(Path(rj.__file__).parents[1] / "examples"))
import summarisation

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
GROUPS = (
    (("jax", "scipy", "sklearn", "python"), ("nltk",), ("flax", "optax"))
    if FULL
    else (("optax",), ("absl",), ("flax",))
)
args = summarisation.arguments().parse_args([])  # what the example takes where nothing else is said
args.words, args.hidden, args.epochs, args.vocabulary = (50, 96, 3, 2500) if FULL else (20, 16, 1, 500)
MOST = None if FULL else 48  # pairs of each part

# %% [markdown]
# ## 1. Docstrings
#
# Every installed package carries texts with summaries that people wrote. `docstring_pairs` parses the files and splits
# each docstring into its first line and the rest. Whole packages are held out, one to choose the network's state by and
# two for the test, because a package repeats itself.

# %%
reading = rj.data.docstring_pairs([package for group in GROUPS for package in group])
train, validation, test = (
    [summarisation.Pair(item.body, item.summary) for item in reading if item.package in group][:MOST]
    for group in GROUPS
)
print(f"{len(train):,} + {len(validation):,} + {len(test):,} pairs\n")
for pair in train[5 :: len(train) // 3][:3]:
    print(f"summary  {pair.summary}\ntext     {pair.text[:230]} …\n")

# %% [markdown]
# ## 2. Words that no vocabulary has
#
# Such texts are full of names, `stop_gradient` or `eigvals_banded`, that come up in no other one. The vocabulary holds
# the most frequent words. A word that it lacks gets a number *of its own row*: V for the first such word of a text,
# V + 1 for the second, and so on, and where the summary has it too, it has that number there.

# %%
vocabulary = summarisation.make_vocabulary(train, args)
data, held, asked = (summarisation.code(part, vocabulary, args) for part in (train, validation, test))
V = len(vocabulary)
copied_only = np.mean([number >= V for row in data.pairs.targets for number in row if number > vocabulary.unknown])
unknown = np.mean([number == vocabulary.unknown for row in data.pairs.targets for number in row if number])
print(f"{V:,} words; of the words of summaries {copied_only:.1%} are in the text alone, {unknown:.1%} nowhere\n")
row = max(range(len(test)), key=lambda i: (asked.pairs.targets[i] >= V).sum())
words = summarisation.spell(asked.pairs.targets[row], asked.own[row], vocabulary)
print(" ".join(words))
print(" ".join(f"V+{n - V}" if n >= V else str(n) for n in asked.pairs.targets[row][: len(words)]))

# %% [markdown]
# ## 3. Write or copy
#
# The network is that of the translation with two additions (See and others 2017,
# [arXiv:1704.04368](https://arxiv.org/abs/1704.04368)). At each step a gate $p_t$ decides between *writing* a word of
# the vocabulary and *copying* one from where the attention $\alpha_{ts}$ looks:
#
# $$P_t(w) = p_t\, P_\text{vocabulary}(w) + (1 - p_t) \sum_{s:\, w_s = w} \alpha_{ts}$$
#
# And the attention sees the **coverage** $\sum_{u < t} \alpha_{us}$, how much of each place was read already. Reading
# a place again costs something, in training and in the search, so that the network does not say things twice.

# %%
network = summarisation.Network.of(vocabulary, args)
print(rj.summary(network.encoder, args.hidden), "\n")
print(rj.summary(network.decoder, args.hidden))

# %%
updates = args.epochs * -(-len(train) // args.batch)
fitted = rj.training.fit(
    (jax.jit(network.init)(jax.random.key(0)), network.apply),
    rj.data.pair_buckets(data.pairs, args.batch, count=2 if FULL else 1),
    validation=rj.data.pair_buckets(held.pairs, args.batch, count=1, seed=None),
    loss=summarisation.loss,
    metrics=[("nats", summarisation.nats)],
    optimizer=rj.training.optimizer(
        2e-3, clip_norm=1.0, schedule=optax.cosine_decay_schedule(1.0, updates, alpha=0.05)
    ),
    epochs=args.epochs,
    monitor="val_nats",
    mode="min",
    restore_best=True,
    progress=False,
)
params = fitted.params
figure, axes = plt.subplots(figsize=(6, 3))
epochs = range(1, args.epochs + 1)
axes.plot(epochs, fitted.history["nats"], "o-", ms=4, color=BLUE, label="training packages, with dropout")
axes.plot(epochs, fitted.history["val_nats"], "o-", ms=4, color=ORANGE, label="a package held out")
axes.axhline(np.log(V), color=GREY, ls=":", lw=1)
axes.text(args.epochs, np.log(V), "all words alike", color=GREY, ha="right", va="top")
axes.set(xlabel="epoch", ylabel="nats a word")
axes.set_xticks(epochs)
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## 4. Better than the first sentence?
#
# ROUGE counts what a summary has in common with that of the people: single words, pairs of words, and the longest
# common subsequence (ROUGE-L). *Lead-1*, the first sentence of the text, is what a summary must beat.

# %%
references = [pair.summary for pair in test]
sources, lengths = asked.pairs.sources, asked.pairs.source_lengths


def summarise(beams):
    """Numbers (N, U) of the summaries of the test, and their words."""
    search = partial(network.search, beams=beams, alpha=args.alpha, beta=args.beta)
    ids = rj.training.predict((params, search), sources, lengths=lengths, batch_size=32)
    return ids, [summarisation.spell(*one, vocabulary) for one in zip(ids, asked.own, strict=True)]


ids, summaries = summarise(args.beams)
scores = {
    "first sentence": summarisation.rouge([summarisation.lead(pair.text) for pair in test], references),
    "network": summarisation.rouge([" ".join(words) for words in summaries], references),
}
print(f"{'':<15} {'ROUGE-1':>8} {'ROUGE-2':>8} {'ROUGE-L':>8} {'words':>6}")
counts = (np.mean([len(summarisation.lead(pair.text).split()) for pair in test]), np.mean([len(w) for w in summaries]))
for (name, found), count in zip(scores.items(), counts, strict=True):
    print(f"{name:<15} " + " ".join(f"{value:>8.3f}" for value in found.values()) + f" {count:>6.1f}")

# %% [markdown]
# ## 5. What it writes, and what it copies
#
# Words in brackets came by copying: more than half of their probability did.

# %%
heads = np.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=vocabulary.start)  # each word behind those before it
inputs = {"source": sources, "target": heads, "word": ids}
looked = rj.training.predict((params, network.look), inputs, lengths=lengths, batch_size=32)
for i in range(3, len(test), len(test) // 8):
    pairs = zip(summaries[i], looked["copied"][i], strict=False)
    print(f"text     {test[i].text[:150]} …\npeople   {test[i].summary}")
    print("network ", " ".join(f"[{word}]" if share > 0.5 else word for word, share in pairs), "\n")

# %%
known = [(ids[i, t] < V, looked["copied"][i, t]) for i, words in enumerate(summaries) for t in range(len(words))]
figure, axes = plt.subplots(figsize=(7, 2.8))
bins = np.linspace(0, 1, 21)
for inside, label, color in ((True, "in the vocabulary", BLUE), (False, "in the text alone", RED)):
    axes.hist([float(share) for own, share in known if own == inside], bins, color=color, alpha=0.7, label=label)
axes.set(
    xlabel="share of the word's probability that is copying",
    ylabel="words",
    title="words of the summaries",
    yscale="log",
)
axes.legend(loc="upper center")
plt.show()

# %% [markdown]
# ## 6. Where it looks
#
# Rows are words of a summary, columns those of the text. The bars on the right say how far each word is copied.

# %%
length = np.array([len(words) for words in summaries])
fits = [i for i in range(len(test)) if lengths[i] <= 45 and 5 <= length[i] <= 14] or [0]
fits.sort(key=lambda i: looked["copied"][i, : length[i]].mean())
i = fits[len(fits) * 4 // 5]  # one that copies more than most
text = summarisation.spell(sources[i, : lengths[i]], asked.own[i], vocabulary)
figure, (axes, bars) = plt.subplots(1, 2, figsize=(10, 1.6 + 0.24 * length[i]), width_ratios=(9, 1), sharey=True)
axes.imshow(looked["alignment"][i, : length[i], : len(text)], cmap="Blues", aspect="auto", vmin=0, vmax=1)
axes.set_xticks(range(len(text)), text, rotation=90, fontsize=8, parse_math=False)
axes.set_yticks(range(length[i]), summaries[i], fontsize=9, parse_math=False)
axes.tick_params(length=0)
bars.barh(range(length[i]), looked["copied"][i, : length[i]], color=ORANGE)
bars.set(xlim=(0, 1), xlabel="copied")
bars.tick_params(length=0)
plt.show()
print("people: ", test[i].summary)

# %% [markdown]
# In the summaries above the verb in front, *of* and the full stop are written; the nouns, and nearly all articles too,
# are copied from where the attention looks. So a summary is about its text even where the network understands little of
# it.
#
# ## The answer
#
# - **In half as many words**, it has about as much in common with what people wrote as the first sentence has: more by
#   ROUGE-L, less by single words and pairs. It learned for a few minutes only, and by what it writes one can tell: the
#   sentences are well-formed and of the right kind, and often say nothing. Always print what a score was given for.
# - **It copies about half of its words**, most nouns and articles among them, and everything that the vocabulary lacks.
#   That is how a network with 2,500 words can speak of functions that it never met.
# - **The package held out** gained little from the second and third reading of the others. Here more packages would
#   help more than more epochs.

# %%
print(f"ROUGE-L {scores['network']['rougeL']:.3f}, of the first sentence {scores['first sentence']['rougeL']:.3f}")
assert scores["network"]["rougeL"] > (scores["first sentence"]["rougeL"] if FULL else 0)
assert all(share > 0.99 for own, share in known if not own)  # what the vocabulary lacks can only be copied
