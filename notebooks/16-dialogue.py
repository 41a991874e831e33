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
# # Understand a request, remember a conversation
#
# *And in the centre?* means nothing by itself. It does to someone who was asked for cheap Italian food a minute ago.
# How does a network find out what a sentence asks for, what must it keep from one turn of a conversation to the next,
# and how does one hold many conversations at a time without mixing them up?
#
# The parts are those of [examples/dialogue.py](../examples/dialogue.py). You need
# [lengths and streams](00-introduction.ipynb) from the introduction, and attention from
# [the translation](12-translation.ipynb).

# %%
import os
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rnnjax as rj
from rnnjax.training import cross_entropy, perplexity

sys.path.append(str(Path(rj.__file__).parents[1] / "examples"))
import dialogue

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
HIDDEN, EVERY = (128, 1) if FULL else (24, 8)  # of so many conversations one is used
REQUEST_EVERY, REQUEST_EPOCHS, ANSWER_EPOCHS = (2, 6, 16) if FULL else (40, 1, 1)

# %% [markdown]
# ## 1. Requests
#
# SNIPS (Coucke and others 2018, [arXiv:1805.10190](https://arxiv.org/abs/1805.10190), CC0) holds requests to a voice
# assistant. Each has one of seven **intents**, and **slots**: the words that say which song, which city, how many
# people. As tags of words, `B-city` begins the value of a slot, `I-city` goes on with it, and `O` is outside.

# %%
root = Path(os.environ.get("RNNJAX_DATA", "$RNNJAX_DATA"))
for name in ("snips_nlu", "camrest676"):
    if not (root / name).is_dir():
        raise FileNotFoundError(f"no data at {root / name}: RNNJAX_DATA names the folder that holds them")

queries = rj.data.read_snips(root / "snips_nlu", "train").items[::REQUEST_EVERY]
test = rj.data.read_snips(root / "snips_nlu", "validate").items[:: 1 if FULL else 10]
own, validation = rj.data.split(queries, (0.95, 0.05), by=lambda query: query.words, seed=0)
known = rj.data.Vocabulary.words([[word.lower() for word in query.words] for query in own], min_count=2)
intents, tags = {query.intent for query in queries}, {tag for query in queries for tag in query.tags}
lexicon = dialogue.Lexicon(known, sorted(intents), sorted(tags))
print(f"{len(own):,} requests to learn from, {len(test)} for the test, {len(known):,} words known, {len(tags)} tags\n")
for word, tag in zip(queries[3].words, queries[3].tags, strict=True):
    print(f"  {word:<12} {tag}")

# %% [markdown]
# The reader has two ways to know a word: by itself, and by its letters, which a small bidirectional GRU reads. So words
# that it never met, of which there are many among names and titles, are not all alike. A bidirectional LSTM reads the
# sentence. From what it holds at each word a dense layer takes the **tag**, and attention pooling over the sentence the
# **intent**. Both losses are added.


# %%
def recipe(epochs, rows, batch):
    return rj.training.optimizer(optax.cosine_decay_schedule(4e-3, epochs * -(-rows // batch), alpha=0.02), clip_norm=5)


reader = rj.training.fit(
    dialogue.Reader.of(lexicon, HIDDEN, seed=0),
    rj.training.buckets(lexicon.batch(own), 32, count=2 if FULL else 1, seed=0),
    loss=dialogue.joint_loss,
    metrics=[dialogue.tag_accuracy],
    optimizer=recipe(REQUEST_EPOCHS, len(own), 32),
    validation=lexicon.batch(validation),
    epochs=REQUEST_EPOCHS,
    progress=False,
)
found = dialogue.read(lexicon, reader.model, [query.words for query in test])
hits = np.mean([query.intent == intent for query, (intent, _) in zip(test, found, strict=True)])
scores = rj.data.span_scores([query.tags for query in test], [tags for _, tags in found])
for epoch, (loss, share) in enumerate(zip(reader.history["loss"], reader.history["val_tag_accuracy"], strict=True), 1):
    print(f"epoch {epoch}: training loss {loss:.3f}, tags right in validation {share:.1%}")
print(
    f"\ntest: intent {hits:.1%}, slots precision {scores.precision:.3f}, recall {scores.recall:.3f}, F1 {scores.f1:.3f}"
)


# %%
def coloured(rows, colors):
    """Draws sentences, lists of (words, kind or None, note), each stretch on the colour of its kind."""
    _, axes = plt.subplots(figsize=(10, 0.62 * len(rows)))
    for y, (title, pieces) in enumerate(rows):
        axes.text(0, -y, title, family="monospace", fontsize=9, color="dimgrey", va="center")
        x = 22
        for text, kind in pieces:
            if kind is not None:
                box = plt.Rectangle((x - 0.4, -y - 0.28), len(text) + 0.8, 0.56, fc=colors[kind], alpha=0.35, lw=0)
                axes.add_patch(box)
                axes.text(x, -y - 0.46, kind, fontsize=6.5, color="dimgrey", va="center")
            axes.text(x, -y, text, family="monospace", fontsize=9, va="center")
            x += len(text) + 1
    axes.set(xlim=(0, 133), ylim=(0.5 - len(rows), 0.5))
    axes.axis("off")
    plt.show()


def pieces(words, tags):
    """A sentence in stretches: what is outside slots, and each slot."""
    cuts, at = [], 0
    for span in rj.data.spans(tags):
        cuts += [(" ".join(words[at : span.begin]), None)] * (span.begin > at)
        cuts += [(" ".join(words[span.begin : span.end]), span.kind)]
        at = span.end
    return [*cuts, (" ".join(words[at:]), None)]


shown = [i for i, query in enumerate(test) if len(" ".join(query.words)) < 80]
shown = shown[:: max(len(shown) // 9, 1)][:9]
rows = [(found[i][0], pieces(test[i].words, found[i][1])) for i in shown]
kinds = sorted({kind for _, row in rows for _, kind in row if kind})
coloured(rows, dict(zip(kinds, plt.get_cmap("tab20")(np.arange(len(kinds)) % 20), strict=True)))
wrong = [(query, intent) for query, (intent, _) in zip(test, found, strict=True) if query.intent != intent]
for query, intent in wrong[:8]:
    print(f"taken for {intent}, listed as {query.intent}: {' '.join(query.words)}")

# %% [markdown]
# The intent is the easy part: a few words tell it. A slot counts only if its kind and all of its words are right, and
# the network has read half of the requests six times. The example, as wide, reads all of them fourteen times:
# `python examples/dialogue.py --data FOLDER` finds 98.3 % of the intents, and slots with an F1 of 0.924
# (`benchmarks/results/dialogue_snips.json`).
#
# ## 2. Conversations
#
# CamRest676 (Wen and others 2017, [arXiv:1604.04562](https://arxiv.org/abs/1604.04562)) holds 676 conversations of
# people who look for a restaurant in Cambridge with a system that knows some. Three fifths are to learn from.

# %%
conversations = rj.data.read_camrest(root / "camrest676" / "CamRest676.json.gz").items[::EVERY]
own, validation, test = rj.data.split(conversations, (0.6, 0.2, 0.2), seed=0)
sentences = [dialogue.plain(text) for one in own for turn in one.turns for text in turn[:2]]
vocabulary = rj.data.Vocabulary.words(sentences, min_count=2)
data, held, asked = (dialogue.numbered(vocabulary, part) for part in (own, validation, test))
print(f"{len(own)} + {len(validation)} + {len(test)} conversations, {len(vocabulary)} words\n")
for turn in own[0].turns:
    print(f"> {turn.user}\n  {turn.system}")
print("\nusers' turns", data[0]["users"].shape, "(B conversations, K turns, S words)")

# %% [markdown]
# A conversation is a sequence of turns, each of which is a sequence of words. So there are two recurrences. A
# bidirectional GRU reads the words of *one turn*, and its largest values over them are the turn's vector. A second GRU
# reads these vectors, the system's and the user's in turn; *its state is all that is kept of earlier turns*. The
# writer, a GRU with attention to the words of the last two turns, starts from it and writes the answer.
#
# What a turn needs of the past is thus a vector of 128 numbers and the words of the system's last answer, which a
# program can keep for each of its conversations.

# %%
loss = partial(dialogue.over_words, cross_entropy)
measure = ("perplexity", partial(dialogue.over_words, perplexity))
responder = rj.training.fit(
    dialogue.Responder.of(vocabulary, HIDDEN, seed=0),
    rj.training.buckets(data, 16, count=2 if FULL else 1, seed=0),
    loss=loss,
    metrics=[measure],
    optimizer=recipe(ANSWER_EPOCHS, len(own), 16),
    validation=held,
    epochs=ANSWER_EPOCHS,
    restore_best=True,
    progress=False,
)
params, model = responder.model
figure, axes = plt.subplots(figsize=(7, 3))
epochs = range(1, ANSWER_EPOCHS + 1)
axes.plot(epochs, responder.history["perplexity"], "o-", ms=4, color=BLUE, label="training, with dropout")
axes.plot(epochs, responder.history["val_perplexity"], "o-", ms=4, color=ORANGE, label="validation")
axes.set(xlabel="epoch", ylabel="perplexity of a word", yscale="log")
axes.set_yticks([4, 6, 10, 20, 40, 100], [4, 6, 10, 20, 40, 100])
axes.minorticks_off()
axes.legend()
plt.show()

# %% [markdown]
# ## 3. What is the past worth?
#
# The same network with a `reset` before every turn forgets what was said before: the state, and the system's last
# answer too, which the reader and the writer's attention then find empty. What is then its perplexity, turn by turn?


# %%
@jax.jit
def nats_by_turn(params, turns, targets, reset):
    """The sum over conversations of −ln p of the words of each turn (K,), and their number (K,)."""
    scores = jax.nn.log_softmax(model(params, turns, reset=reset))  # (B, K, S, V)
    nats = -jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    given = targets != dialogue.PAD
    return jnp.where(given, nats, 0).sum((0, 2)), given.sum((0, 2))


turns, targets, counts = asked
never, always = np.zeros(targets.shape[:2], bool), np.ones(targets.shape[:2], bool)
figure, axes = plt.subplots(figsize=(6.5, 3))
whole = {}
for name, reset, color in (("with the turns before", never, BLUE), ("reset before each turn", always, RED)):
    nats, number = map(np.asarray, nats_by_turn(params, turns, targets, reset))
    enough = [k for k in range(len(number)) if (counts > k).sum() >= min(10, len(test))]
    axes.plot(np.array(enough) + 1, np.exp(nats / np.maximum(number, 1))[enough], "o-", color=color, label=name)
    whole[name] = float(np.exp(nats.sum() / number.sum()))
    print(f"{name:<23} perplexity {whole[name]:.2f}")
axes.set_xticks(np.array(enough) + 1)
axes.set(xlabel="turn of the conversation", ylabel="perplexity of a word", title="test conversations")
axes.legend()
plt.show()

# %% [markdown]
# In the first turn both are the same, for there is nothing to forget. Behind it, what was said before makes answers
# less surprising. The difference is small in the mean. How much of it is due to the state, and how much to the last
# answer, which the writer sees word by word, is not told apart here.
#
# ## 4. Many conversations in one batch
#
# A server holds many conversations at a time, and they come to it turn by turn. Here are six, as rows of a batch. Each
# call of `answer` reads one turn of each and returns the states for the next call. It writes what a single call for all
# turns writes.

# %%
answer = jax.jit(model.answer)
rows = np.argsort(-np.minimum(counts, 4), kind="stable")[:6]  # six that have four turns
B, K = len(rows), 4
six = {name: ids[rows, :K] for name, ids in turns.items()}
start = model.conversation.initial_state(params.conversation, (B,))


def turn_by_turn(turns, reset):
    """The words of the answers (K, B, S), and the states behind each turn (K, B, H)."""
    state, written, states = start, [], []
    for k in range(reset.shape[1]):
        tokens, state = answer(
            params, {name: ids[:, k : k + 1] for name, ids in turns.items()}, state, reset[:, k : k + 1]
        )
        written.append(np.asarray(tokens[0]))
        states.append(np.asarray(state.h))
    return np.stack(written), np.stack(states)


reset = np.zeros((B, K), bool)
at_once, state_at_once = answer(params, six, start, reset)
written, states = turn_by_turn(six, reset)
print("the same words turn by turn:", np.array_equal(written, at_once))
print(f"largest difference of the states: {np.abs(states[-1] - state_at_once.h).max():.1e}")

# %% [markdown]
# Someone hangs up and another one takes the line: before turn 3, row 2 begins anew. A `reset` (B, K) says so, in the
# midst of a batch that goes on.

# %%
reset[2, 2] = True
_, with_reset = turn_by_turn(six, reset)
apart = np.abs(with_reset - states).max(-1).T  # (B, K)
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.imshow(apart, cmap="Oranges", vmin=0)
for (row, k), value in np.ndenumerate(apart):
    axes.text(k, row, f"{value:.2f}" if value else "0", ha="center", va="center")
axes.set_xticks(range(K), range(1, K + 1))
axes.set(xlabel="turn", ylabel="row", title="change of the states by the reset of row 2 before turn 3")
axes.spines[:].set_visible(False)
axes.tick_params(length=0)
plt.show()
begun = {name: np.repeat(ids[2:3, 2:], B, axis=0) for name, ids in six.items()}  # a conversation of these two turns
_, anew = turn_by_turn(begun, np.array([[True, False]] * B))
print(f"row 2 differs from a conversation that begins there by {np.abs(with_reset[-1, 2] - anew[-1, 2]).max():.1e}")

# %% [markdown]
# Nothing happened to the other rows, not even in the last bit.
#
# ## 5. Answers
#
# The network writes; below is what the system really said. Digits are all 0, because no conversation tells what a
# telephone number is.

# %%
for row in range(2):
    for k in range(K):
        turn = test[rows[row]].turns[k] if k < counts[rows[row]] else None
        if turn is not None:
            print(f"> {turn.user}\n  {vocabulary.decode(written[k, row])}\n     (was: {turn.system})")
    print()

# %% [markdown]
# It greets, asks and thanks as the system does. Names and addresses of restaurants it makes up: no table of restaurants
# is connected to it, and the conversation does not tell.
#
# ## 6. What is in the state?
#
# The conversations come with what users had asked for by each turn. Is it in the state? We take the turns at which a
# price range was *asked for at an earlier turn* and is not named now by the user. A **linear probe**, a logistic
# regression from the state to the price range, learns on the training conversations and is asked about the others. Its
# rival is given the state of the network that forgets, which has not read the system's last answer either; that answer
# may name what was asked for.


# %%
@jax.jit
def state_behind(params, turns, reset):
    """The state of the conversations behind each turn of the user, (B, K, H)."""
    _, (_, attention, *_), _ = model.listen(params, turns, None, reset)
    return attention.cell.h.swapaxes(0, 1)


def remembered(dialogues):
    """Rows, turns and price ranges where a turn does not name the price range, but an earlier one did."""
    for row, one in enumerate(dialogues):
        for k in range(1, len(one.turns)):
            before, now = (dict(one.turns[at].constraints).get("pricerange") for at in (k - 1, k))
            said = any(word in one.turns[k].user.lower() for word in ("cheap", "moderate", "expensive", "price"))
            if before is not None and before == now and not said:
                yield row, k, now


everyone, shares = [*own, *test], {}
row, turn, price = map(np.array, zip(*remembered(everyone), strict=True))
learn, ask = row < len(own), row >= len(own)
inputs, *_ = dialogue.numbered(vocabulary, everyone)
for name, always in (("state", False), ("state, reset before each turn", True)):
    x = np.asarray(state_behind(params, inputs, np.full(inputs["users"].shape[:2], always)))[row, turn]  # (N, H)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(x[learn], price[learn])
    shares[name] = probe.score(x[ask], price[ask])
    print(f"{name:<30} price range right in {shares[name]:.1%} of {ask.sum()} turns")
commonest = max((price[ask] == kind).mean() for kind in set(price))
print(f"{'always the commonest':<30} {commonest:.1%}")

# %% [markdown]
# ## The answer
#
# - **A request is read once for two answers**: attention pooling over its words gives the intent, and what is held at
#   each word gives its tag.
# - **A conversation is a sequence of turns**, and its state one vector. To keep that and the last answer is all that a
#   program has to do, for as many conversations as a batch has rows. A `reset` begins one of them anew and leaves the
#   others as they are, to the last bit.
# - **Measure what the past is worth by taking it away**: the same network, reset before each turn, and a probe of its
#   state cost no training. Say what was taken away: here the state and the last answer, at once. Without both the
#   network is more surprised by answers, and the probe finds the price range no better than the commonest guess does.

# %%
for name, value in (
    ("requests: intent right", hits),
    ("requests: F1 of slots", scores.f1),
    ("answers: perplexity of a word", whole["with the turns before"]),
    ("answers: perplexity, reset before each turn", whole["reset before each turn"]),
):
    print(f"{name:<45} {value:.3f}")
assert hits > (0.97 if FULL else 0.1)
assert scores.f1 > (0.82 if FULL else -1)
assert whole["with the turns before"] < (5.2 if FULL else 1000)
assert np.array_equal(written, at_once)
assert (np.delete(apart, 2, axis=0) == 0).all()
assert apart[2, 2:].min() > 0
