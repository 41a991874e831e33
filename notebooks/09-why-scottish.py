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
# # Which letters made it say "Scottish"?
#
# A network reads surnames letter by letter and names their language, as in [the notebook on names](02-names.ipynb). Of
# some it says "Scottish". Which letters made it say so? There are several ways to divide an answer among the letters,
# and they need not agree. So we also ask how one can tell whether a division is right.

# %%
import os
import unicodedata
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from IPython.display import HTML, display

import rnnjax as rj
from rnnjax import diagnostics

plt.rcParams |= {"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

# %% tags=["size"]
FULL = True  # the tests run a small version
HIDDEN, EPOCHS = (64, 14) if FULL else (32, 3)
EVERY, SHOWN = (1, 60) if FULL else (4, 20)  # of so many names one is used; how many are explained

# %% [markdown]
# ## 1. The reader
#
# Every pair of name and language counts once, and all languages of a name are on the same side of the split.

# %%
files = sorted(Path(os.environ["RNNJAX_DATA"], "names_by_language").glob("*.txt"))
languages = [path.stem for path in files if path.stem != "SOURCE"]
pairs = sorted(
    {
        (unicodedata.normalize("NFC", line.strip()), languages.index(path.stem))
        for path in files
        if path.stem in languages
        for line in path.read_text(encoding="utf-8").splitlines()
    }
)[::EVERY]
strings = sorted({name for name, _ in pairs})
tested = dict(zip(strings, np.random.default_rng(0).random(len(strings)) < 0.3, strict=True))
train, test = ([pair for pair in pairs if tested[pair[0]] == part] for part in (False, True))
alphabet = {letter: i for i, letter in enumerate(sorted({c for name, _ in train for c in name}), start=1)}
LONGEST = max(map(len, strings)) + 3  # three letters more, for what we shall put in front
SCOTTISH = languages.index("Scottish")


def encode(names):
    """Letters (N, T) and lengths (N)."""
    letters = np.zeros((len(names), LONGEST), np.int32)
    for row, name in zip(letters, names, strict=True):
        row[: len(name)] = [alphabet.get(letter, 0) for letter in name]
    return letters, np.array([len(name) for name in names], np.int32)


model = rj.Stack(
    [
        rj.Embedding(len(alphabet) + 1, 32),
        rj.Dropout(0.3),
        rj.Bidirectional(rj.Stack([rj.RNN(rj.GRU(HIDDEN)), rj.Last()])),
        rj.Dropout(0.5),
        rj.Dense(len(languages)),
    ]
)
labels = np.array([label for _, label in train])
x, lengths = encode([name for name, _ in train])
fall = optax.cosine_decay_schedule(1.0, EPOCHS * -(-len(train) // 128))
fitted = rj.training.fit(
    model,
    (x, labels, lengths),
    optimizer=rj.training.optimizer(0.005, clip_norm=1.0, weight_decay=0.1, schedule=fall),
    epochs=EPOCHS,
    batch_size=128,
    progress=False,
)
counts = np.bincount(labels, minlength=len(languages))
names = np.array(sorted({name for name, _ in test}))
xs, ns = encode(names)
scores = rj.training.predict(fitted, xs, lengths=ns) - np.log(counts)
y_test = np.array([label for _, label in test])
guess = dict(zip(names, scores.argmax(-1), strict=True))
hits = np.array([guess[name] == label for name, label in test])
print(f"{len(train):,} names to train on, {counts[SCOTTISH]} of them Scottish; {len(names):,} others to test")
print("mean over the languages of the share of test names that is recognised: ", end="")
print(f"{np.mean([hits[y_test == k].mean() for k in range(len(languages)) if np.any(y_test == k)]):.0%}")

# %% [markdown]
# As there, the logarithm of each language's number of names is taken from its score, so that all languages have the
# same chance. What we explain is one number: the **log-odds** of Scottish against all others,
#
# $$f = s_{\text{Scottish}} - \log \sum_{k \neq \text{Scottish}} e^{s_k}.$$
#
# Above 0 the network thinks Scottish more likely than all others together. It *says* Scottish where no other language
# is more likely, which takes less. Those are the names that we explain, the ones with the highest $f$ first:


# %%
def log_odds(scores):
    """Of Scottish against all others, (…)."""
    scores = scores - jnp.log(jnp.asarray(counts, scores.dtype))
    others = jnp.delete(scores, SCOTTISH, axis=-1, assume_unique_indices=True)
    return scores[..., SCOTTISH] - jax.nn.logsumexp(others, axis=-1)


@jax.jit
def read(letters, lengths):
    """The log-odds of names, letters (N, T)."""
    return log_odds(model(fitted.params, letters.T, lengths=lengths)[0])


def odds_of(names):
    return np.asarray(read(*encode(names)))


all_odds = odds_of(names)
said = np.array([guess[name] == SCOTTISH for name in names])
said = said if said.any() else all_odds > np.median(all_odds)  # a network that has learnt too little says it of none
chosen = names[said][np.argsort(-all_odds[said])[:SHOWN]]
truth = {name: ", ".join(languages[label] for own, label in test if own == name) for name in chosen}
listed = np.array([any(label == SCOTTISH for own, label in test if own == name) for name in names])
likeness = np.mean(all_odds[listed][:, None] > all_odds[~listed]) if listed.any() else np.nan
mac = {
    language: sum(name.startswith(("Mac", "Mc")) and languages[label] == language for name, label in pairs)
    for language in ("Scottish", "English", "Irish")
}
print(f"{said.sum()} of {len(names):,} test names are called Scottish, {np.sum(all_odds > 0)} of them with f > 0")
print(f"we explain {len(chosen)} of them")
print(f"{listed.sum()} are listed as Scottish; they have higher log-odds than other names in {likeness:.0%} of pairs")
print(f"names with Mac or Mc in the lists: {', '.join(f'{k} {v}' for k, v in mac.items())}\n")
for name, value in zip(chosen[:12], odds_of(chosen[:12]), strict=True):
    print(f"  {name:<14} log-odds {value:+.1f}   listed as {truth[name]}")

# %% [markdown]
# By the lists the network is mostly wrong about these names, and a Scot might still agree with it: the list of English
# names has far more with Mac or Mc than the Scottish one. Since a language counts the same however long its list, the
# network takes them for Scottish, or nearly so. Whether an answer is right and why it was given are two questions;
# here we ask the second.
#
# ## 2. Three ways to divide an answer
#
# - **Gradient times input**: what $f$ would lose without a letter if it were a linear function of the letters' vectors.
# - **Integrated gradients** (Sundararajan and others 2017): the gradients that are met on the straight way from a
#   *baseline* to the name, added up. Our baseline has the mean vector of all letters in every place: a name of the same
#   length of which nothing is known. The contributions add up to $f(\text{name}) - f(\text{baseline})$ exactly, which
#   can be checked.
# - **Occlusion**: the fall of $f$ if a letter's vector is replaced by the mean one, for each letter by itself.
#
# Letters are numbers, by which there is no derivative. `at_embedding` cuts the model behind its embedding, and a
# letter's contribution is the sum over its vector.

# %%
letters, own_lengths = encode(chosen)
vectors, rest = diagnostics.at_embedding(model, fitted.params, jnp.asarray(letters.T))
used = np.bincount(x[np.arange(LONGEST) < lengths[:, None]], minlength=len(alphabet) + 1) / lengths.sum()
mean_vector = jnp.asarray(used, jnp.float32) @ fitted.params[0].w


def f(vectors):
    return log_odds(rest(vectors, lengths=jnp.asarray(own_lengths)))


@jax.jit
def divided(vectors):
    integrated = diagnostics.integrated_gradients(f, vectors, mean_vector, nodes=64)
    steps = diagnostics.gradient_times_input(f, vectors), integrated.values
    hidden = diagnostics.occlusion(f, vectors, mean_vector)
    return [step.sum(-1).T for step in steps] + [hidden.T], integrated.difference


found, difference = divided(vectors)
inside = np.arange(LONGEST) < own_lengths[:, None]
by_gradient, integrated, occluded = (np.where(inside, np.asarray(own), 0) for own in found)
incomplete = float(abs(integrated.sum(1) - difference).max())
print(f"integrated gradients: |sum of the contributions − difference of f| is at most {incomplete:.1e}")


def alike(a, b):
    """The mean over names of the correlation between two divisions."""
    return np.mean([np.corrcoef(a[i, :n], b[i, :n])[0, 1] for i, n in enumerate(own_lengths) if n > 2])


print(f"correlation of integrated gradients with occlusion         {alike(integrated, occluded):.2f}")
print(f"correlation of integrated gradients with gradient × input  {alike(integrated, by_gradient):.2f}")

# %% [markdown]
# The letters in their colours, by integrated gradients: orange speaks for Scottish, purple and underlined against it.
# Point at a letter for its number.

# %%
rows = [
    f"<tr><td style='font-size: 140%'>{diagnostics.plots.text_html(name, integrated[i, : len(name)])}</td>"
    f"<td>&nbsp;{float(odds_of([name])[0]):+.1f}</td><td>&nbsp;{truth[name]}</td></tr>"
    for i, name in enumerate(chosen[:16])
]
display(HTML(f"<table><tr><th>name</th><th>log-odds</th><th>listed as</th></tr>{''.join(rows)}</table>"))

# %% [markdown]
# ## 3. Is it true?
#
# A division that looks sensible may be wrong. If it is right, then taking away the letter with the largest
# contribution must hurt most. So we take one letter out of each name, close the gap, and read the name again: the
# letter that a method puts first, the one it puts last, or any letter. The last is the mean over all letters.


# %%
def without(name, place):
    return name[:place] + name[place + 1 :]


before = odds_of(chosen)
falls = [
    value - odds_of([without(name, place) for place in range(len(name))])
    for name, value in zip(chosen, before, strict=True)
]
most = np.mean([own.max() for own in falls])
chance = np.mean([own.mean() for own in falls])
print("fall of the log-odds when a letter is taken out, mean over the names")
print(f"{'any letter':<28} {chance:5.2f}")
print(f"{'the best choice':<28} {most:5.2f}\n")
dropped = {}
for title, own in (("gradient × input", by_gradient), ("integrated gradients", integrated), ("occlusion", occluded)):
    first, last = (
        np.mean([fall[pick(own[i, : fall.size])] for i, fall in enumerate(falls)]) for pick in (np.argmax, np.argmin)
    )
    dropped[title] = first
    print(f"{title:<28} {first:5.2f} for its first letter, {last:5.2f} for its last")

# %% [markdown]
# ## 4. Which letters are they?
#
# Contributions of the same two letters, next to each other, in all names that we explained:

# %%
pieces = {}
for i, name in enumerate(chosen):
    for start in range(len(name) - 1):
        piece = name[start : start + 2]
        pieces.setdefault(piece, []).append(integrated[i, start : start + 2].sum())
totals = sorted(pieces.items(), key=lambda item: -sum(item[1]))
print("pairs of letters by the sum of their contributions")
for piece, values in totals[:8]:
    print(f"  {piece}   in {len(values):>2} names, mean {np.mean(values):+.2f}")


def share_of(where):
    """In how many names `where(name)` is a slice of letters, and the mean share of what speaks for Scottish there."""
    shares = []
    for i, name in enumerate(chosen):
        part = where(name)
        if part is not None:
            speaks = np.maximum(integrated[i, : len(name)], 0)
            shares.append(speaks[part].sum() / speaks.sum())
    return len(shares), np.mean(shares) if shares else np.nan


def in_front(name):
    return next((slice(0, len(front)) for front in ("Mac", "Mc") if name.startswith(front)), None)


shares = {
    "begin with Mac or Mc": share_of(in_front),
    "end in -son": share_of(lambda name: slice(-3, None) if name.endswith("son") else None),
}
print()
for what, (count, share) in shares.items():
    print(f"{count} of {len(chosen)} names {what}; these letters have {share:.0%} of what speaks for Scottish there")
top = [piece for piece, _ in totals[:6]]
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.bar(top, [sum(pieces[piece]) for piece in top], color="#0072B2")
axes.set(ylabel="sum of contributions to f", xlabel="pair of letters")
plt.show()

# %% [markdown]
# If that is why, the network must be open to persuasion. We put "Mac" and "Mc" in front of the test names of other
# languages, or "son" behind them, and ask again; for comparison, what other languages have in those places:

# %%
foreign = [name for name in names if all(label != SCOTTISH for own, label in test if own == name)]
FRONTS, ENDS = ("Mac", "Mc", "Van", "De", "Al", "San"), ("son", "ova", "ini", "ez", "ler", "aki")
foreign = [name for name in foreign if not name.startswith(FRONTS) and not name.endswith(ENDS)][:: 1 if FULL else 5]
plain, moved = odds_of(foreign), {}
for piece in (*FRONTS, *ENDS):
    changed = odds_of([piece + name.lower() if piece in FRONTS else name + piece for name in foreign])
    moved[piece] = float((changed - plain).mean())
    print(f"{piece + '-' if piece in FRONTS else '-' + piece:<5} moves the log-odds by {moved[piece]:+.2f} on average")

# %% [markdown]
# ## The answer
#
# - **The letters are Mc and Mac in front, and -son at the end.** Where they stand they have most of what speaks for
#   Scottish, and put before or behind other names they move the answer the same way, and farther than other pieces do.
# - **The three methods agree by and large**, and the two that leave the neighbourhood of the name, integrated gradients
#   and occlusion, more than the gradient alone.
# - **That a division adds up says little about whether it is true.** Taking letters out says more: the letter that
#   integrated gradients or occlusion puts first costs about twice as much as any letter. The best choice costs more
#   still, because a letter taken out also moves the others together, which none of the methods asks about.

# %%
best = max(dropped, key=dropped.get)
print(f"completeness {incomplete:.1e}; one letter out: {chance:.2f} any, {dropped['integrated gradients']:.2f} by")
print(f"integrated gradients, {dropped['occlusion']:.2f} by occlusion, {most:.2f} at best; the best method is {best}")
front, end = (max(moved[piece] for piece in others) for others in (FRONTS[2:], ENDS[1:]))
print(f"Mac- {moved['Mac']:+.2f}, other pieces in front {front:+.2f} at most")
print(f"-son {moved['son']:+.2f}, other pieces at the end {end:+.2f} at most")
assert incomplete < 1e-2
if FULL:
    assert dropped["integrated gradients"] > 1.5 * chance
    assert dropped["occlusion"] > 1.5 * chance
    assert min(share for _, share in shares.values()) > 0.5
    assert moved["Mac"] > front + 0.5
    assert moved["son"] > end
