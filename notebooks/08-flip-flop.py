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
# # What a network does to hold three bits
#
# Three wires carry pulses of +1 and −1, most of the time nothing. For each wire a network must say the sign of the last
# pulse on it, however long ago that was. A memory of three bits has eight contents. A trained network does the task
# with some dozens of real numbers, none of which is a bit. Where in them are the eight contents, what holds them, and
# how does a pulse change one bit and leave the other two alone?
#
# The task and the method are those of Sussillo and Barak (2013,
# [doi:10.1162/NECO_a_00409](https://doi.org/10.1162/NECO_a_00409)).

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import rnnjax as rj
from rnnjax import diagnostics

plt.rcParams |= {"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

# %% tags=["size"]
FULL = True  # the tests run a small version
HIDDEN, UPDATES = (48, 1500) if FULL else (16, 60)
STARTS, SETTLE = (384, 100) if FULL else (32, 20)  # where the search begins; steps after a pulse
BITS, STEPS, ROWS = 3, 60, 32

# %% [markdown]
# ## 1. The task
#
# At the first step every wire has a pulse, so that there is something to hold; after that a pulse comes with
# probability 0.1.


# %%
def flip_flop(key, rows, steps):
    """Pulses, and the sign of the last pulse on each wire, both (T, B, 3)."""
    key_when, key_sign = jax.random.split(key)
    pulses = jax.random.bernoulli(key_when, 0.1, (steps, rows, BITS)).at[0].set(True)
    pulses = jnp.where(pulses, jax.random.rademacher(key_sign, (steps, rows, BITS), jnp.float32), 0)
    _, held = jax.lax.scan(lambda held, pulse: (jnp.where(pulse != 0, pulse, held),) * 2, pulses[0], pulses)
    return pulses, held


cell = rj.GRU(HIDDEN)
model = rj.Stack([cell, rj.Dense(BITS)])
recipe = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, UPDATES)))


def loss(params, key):
    pulses, held = flip_flop(key, ROWS, STEPS)
    return jnp.mean((model(params, pulses)[0] - held) ** 2)


@jax.jit
def trained(key):
    params = model.init(key, BITS)

    def update(carry, key):
        params, inner = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        change, inner = recipe.update(gradient, inner, params)
        return (optax.apply_updates(params, change), inner), value

    keys = jax.random.split(jax.random.fold_in(key, 1), UPDATES)
    (params, _), losses = jax.lax.scan(update, (params, recipe.init(params)), keys)
    return params, losses


params, losses = trained(jax.random.key(0))
pulses, held = flip_flop(jax.random.key(2), 64, 200)
said = np.asarray(jax.jit(model)(params, pulses)[0])
right = float((np.sign(said) == held).mean())
print(f"mean squared error of the last 50 of {UPDATES:,} updates: {losses[-50:].mean():.1e}")
print(
    f"signs that are right, in sequences of {len(pulses)} steps, {len(pulses) / STEPS:.1f} times as long: {right:.3%}"
)
figure, panels = plt.subplots(BITS, 1, sharex=True, figsize=(8, 3.6), layout="constrained")
for wire, axes in enumerate(panels):
    axes.vlines(np.arange(120), 0, pulses[:120, 0, wire], color="#D55E00", lw=2, label="pulse")
    axes.plot(held[:120, 0, wire], color="0.6", lw=4, label="last sign")
    axes.plot(said[:120, 0, wire], color="#0072B2", lw=1.4, label="the network")
    axes.set(ylabel=f"wire {wire + 1}", yticks=(-1, 0, 1), ylim=(-1.3, 1.3))
panels[-1].set(xlabel="step")
panels[0].legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## 2. Where it would stay for ever
#
# Between pulses the input is zero, and the network applies one map over and over: $h_t = F(h_{t-1})$. What it holds
# must be where this map stays, $F(h) = h$. `fixed_points` looks for such points from many states that the network
# visits, with some noise, by lowering the speed $\frac12 |F(h) - h|^2$. At each point it finds the eigenvalues of
# $\partial F / \partial h$: if all are inside the unit circle, every state nearby is drawn to the point. It is
# **stable**. Each eigenvalue outside is a direction in which states move away.

# %%
starts = diagnostics.sample_states(cell, params[0], pulses, STARTS, jax.random.key(3), noise=0.3)
quiet = jnp.zeros(BITS, jnp.float32)
found = diagnostics.fixed_points(cell, params[0], quiet, starts)
leaving = np.asarray((abs(found.eigenvalues) > 1).sum(1))
readout = np.asarray(model.layers[1](params[1], found.state.h)[0])
print(f"{STARTS} starts end at {found.q.size} fixed points")
for count in np.unique(leaving):
    print(f"  {np.sum(leaving == count):>2} with {count} directions that lead away")
stable = np.asarray(found.stable)
print("\nthe stable ones, as the network reads them:")
for row in readout[stable][np.lexsort(np.sign(readout[stable]).T)]:
    print("  " + "  ".join(f"{value:+.2f}" for value in row))
signs = {tuple(row) for row in np.sign(readout[stable]).astype(int)}
print(f"{len(signs)} different triples of signs")

# %% [markdown]
# The eight contents are eight points, and each is read as one of the eight triples of signs. The other points lie
# between them. If the bits were stored apart from each other, each by a system with two stable points and an unstable
# one between, there would be $3^3 = 27$ points: one for every choice of "+", "−" or "between" on each wire. As many
# directions would lead away as there are wires "between": none at 8 points, one at 12, two at 6, three at 1. This is
# the picture of a cube: corners, edges, faces and centre. Counted, with the outputs nearer to 0 than to ±1 taken as
# "between":

# %%
between = (abs(readout) < 0.5).sum(1)
names = ("corners", "edges", "faces", "centre")
print(f"{'':<9} {'in a cube':>9} {'found':>6} {'directions that lead away':>26}")
for count, (name, expected) in enumerate(zip(names, (8, 12, 6, 1), strict=True)):
    own = leaving[between == count]
    print(f"{name:<9} {expected:>9} {own.size:>6} {', '.join(str(n) for n in np.unique(own)) or '–':>26}")

# %% [markdown]
# The corners are all there, and most of the edges. Faces and centre are mostly missing: the network need not be a
# perfect cube, and since it never visits states between contents of several wires at once, the search hardly begins
# there.
#
# On the first two principal components of the states, grey lines are the paths that the network takes under pulses. To
# the right, the three largest eigenvalues at each point.

# %%
path = diagnostics.states(cell, params[0], pulses[:, :8]).h
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
diagnostics.plots.phase_portrait(path, found.state.h, found.stable, left)
eigenvalues = {"stable": found.eigenvalues[stable, :BITS], "unstable": found.eigenvalues[~stable, :BITS]}
diagnostics.plots.spectrum({name: values for name, values in eigenvalues.items() if values.size}, right_panel)
right_panel.set(xlim=(0.5, 1.4), ylim=(-0.45, 0.45))
plt.show()

# %% [markdown]
# ## 3. The memory as a machine
#
# Eight contents and six pulses, +1 or −1 on one of three wires, make 48 cases. In each we put the network at a stable
# point, give it the pulse for one step, and then nothing. Where does it settle? The right answer is the point whose
# triple has this wire's sign changed to that of the pulse, and the others as they were.

# %%
points = found.state.h[stable]
corners = np.sign(readout[stable])
pulse_of = [(wire, sign) for wire in range(BITS) for sign in (1, -1)]
kicks = np.zeros((len(pulse_of), BITS), np.float32)
for kick, (wire, sign) in zip(kicks, pulse_of, strict=True):
    kick[wire] = sign


@jax.jit
def settled(kicks):
    """Where the network is after each pulse (P, 3) from each stable point: states (P, K, H)."""

    def one(kick):
        xs = jnp.zeros((SETTLE, len(points), BITS)).at[0].set(kick)
        return rj.unroll(cell, params[0], xs, type(found.state)(points))[1].h

    return jax.vmap(one)(kicks)


after = np.asarray(settled(kicks))
distance = np.linalg.norm(after[:, :, None] - np.asarray(points), axis=-1)
arrived = distance.argmin(-1)
correct = 0
for number, (wire, sign) in enumerate(pulse_of):
    wanted = corners.copy()
    wanted[:, wire] = sign
    correct += int((corners[arrived[number]] == wanted).all(-1).sum())
apart = np.linalg.norm(np.asarray(points)[:, None] - np.asarray(points), axis=-1)
closest = apart[~np.eye(len(points), dtype=bool)].min() if len(points) > 1 else np.nan
print(f"{correct} of {arrived.size} pulses lead where they should")
print(f"largest distance from a stable point {SETTLE} steps after a pulse: {distance.min(-1).max():.1e}")
print(f"smallest distance between two stable points: {closest:.2f}")

# %% [markdown]
# ## 4. How strong must a pulse be?
#
# A point draws back whatever is moved too little, so that a weak pulse should do nothing: that is what makes a memory
# of real numbers digital. We give pulses of all strengths to the wires on which they ask for a change, and count those
# that changed it.

# %%
strengths = np.linspace(0, 1.2, 25, dtype=np.float32)
flips = []
for strength in strengths:
    after = np.asarray(settled(strength * kicks))
    arrived = np.linalg.norm(after[:, :, None] - np.asarray(points), axis=-1).argmin(-1)
    changed = [corners[arrived[n], wire] == sign for n, (wire, sign) in enumerate(pulse_of)]
    asked = [corners[:, wire] != sign for wire, sign in pulse_of]
    flips.append(np.array(changed)[np.array(asked)].mean() if np.any(asked) else np.nan)
threshold = float(strengths[np.argmax(np.array(flips) >= 0.5)])
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(strengths, 100 * np.array(flips), "o-", ms=4, color="#0072B2")
axes.set(xlabel="strength of the pulse", ylabel="bits that change, %")
axes.grid(alpha=0.3)
plt.show()
print(f"half of the bits change at a strength of {threshold:.2f}; the network was trained with 1 and 0 alone")

# %% [markdown]
# ## The answer
#
# - **The contents are points where the dynamics stand still**: eight stable fixed points, one for each triple of bits.
# - **What holds them is contraction**: all eigenvalues there are inside the unit circle, so that small disturbances
#   fade; and weak pulses are ignored.
# - **Between them are saddles**: the directions that lead away from a saddle are the ways from one content to another,
#   and a pulse pushes the state over one.
# - So the trained network is a machine with eight states, and we have its whole table of transitions.

# %%
print(f"stable points {stable.sum()}, triples {len(signs)}, transitions {correct} of 48, right {right:.2%}")
slowest = float(abs(found.eigenvalues[stable]).max()) if stable.any() else np.nan
print(f"largest eigenvalue at a stable point {slowest:.3f}; flips at {threshold:.2f}")
if FULL:
    assert stable.sum() == len(signs) == 8
    assert correct == 48
    assert np.median(leaving[between == 1]) == 1
    assert 0.1 < threshold < 1
    assert right > 0.999
