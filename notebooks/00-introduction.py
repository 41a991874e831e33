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
# # What is a recurrent network, and which cell should you choose?
#
# Text, sound and measurements come one step at a time and in any length. How can one small set of weights read
# them, remember what matters, and *learn* what to remember? And when there are many such networks – Elman, LSTM,
# GRU – which one do you take?
#
# This notebook goes from the formula to an answer. Every number is computed here; the whole takes about a minute on a
# laptop. You need NumPy and an idea of what a gradient is.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import rnnjax as rj
from rnnjax import activations

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
plt.rcParams |= {
    "figure.figsize": (8, 3.2),
    "figure.dpi": 90,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

# %% [markdown]
# ## 1. A network that reads its own last output
#
# At each step $t$ an input $x_t$ arrives, and the network keeps a vector $h_t$, its **state**:
#
# $$h_t = f(x_t\,w + h_{t-1}\,u + b)$$
#
# The weights $w$ say how the input enters, $u$ how the last state does, $b$ is a bias and $f$ a bent function such
# as tanh. The same $w$, $u$, $b$ serve every step, so the number of weights does not depend on the length. This is
# the network of Elman (1990). Many texts write $W x_t + U h_{t-1}$ with columns; here a batch of rows is multiplied
# from the left, `x @ w`.

# %%
T, B, H = 20, 4, 5  # steps, sequences in a batch, units of the state

cell = rj.Elman(hidden_size=H)
params = cell.init(jax.random.key(0), in_size=3)
xs = jax.random.normal(jax.random.key(1), (T, B, 3))  # time comes first, the 3 features last
print(cell)
for name, value in params._asdict().items():
    print(f"  {name} {value.shape}")

# %% [markdown]
# The formula is a loop. In NumPy, line for line:


# %%
def by_hand(params, xs):
    h = np.zeros((B, H))
    hs = []
    for x in xs:
        h = np.tanh(x @ params.w + h @ params.u + params.b)
        hs.append(h)
    return np.stack(hs)  # (T, B, H)


# %% [markdown]
# JAX can compile such a loop, but it would write out every step: the program grows with the sequence.
# `jax.lax.scan` states the step once. A scan takes a function of what is carried along and of one input, and
# returns the next carry and one output.


# %%
def by_loop(params, xs):
    h, hs = jnp.zeros((B, H)), []
    for x in xs:
        h = jnp.tanh(x @ params.w + h @ params.u + params.b)
        hs.append(h)
    return jnp.stack(hs)


def by_scan(params, xs):
    def step(h, x):
        h = jnp.tanh(x @ params.w + h @ params.u + params.b)
        return h, h

    return jax.lax.scan(step, jnp.zeros((B, H)), xs)[1]


for steps in (20, 100):
    longer = jnp.zeros((steps, B, 3))
    loop, scan = (str(jax.make_jaxpr(f)(params, longer)).count("\n") for f in (by_loop, by_scan))
    print(f"{steps:>3} steps: JAX's program of the loop has {loop:>3} lines, that of the scan {scan}")

# %% [markdown]
# `rj.unroll` is that scan for every cell, with masks, resets, streaming and a fast backward pass. All three agree:

# %%
ys, state = rj.unroll(cell, params, xs)
hand = by_hand(jax.tree.map(np.asarray, params), np.asarray(xs))
print("outputs", ys.shape, "  last state", state.h.shape)
print(f"largest difference, scan   to hand-written loop: {abs(by_scan(params, xs) - hand).max():.1e}")
print(f"largest difference, unroll to hand-written loop: {abs(ys - hand).max():.1e}")

# %% [markdown]
# ## 2. The bend: activations and their slopes
#
# Without $f$ the network would be one linear map after another. The usual choices differ in range and, what matters
# more here, in **slope**: learning multiplies one slope for each step that it looks back.

# %%
a = jnp.linspace(-4, 4, 201)
figure, (left, right) = plt.subplots(1, 2)
for name, color, line in (("sigmoid", BLUE, "-"), ("tanh", ORANGE, "--"), ("relu", GREEN, ":")):
    f = activations.activation(name)
    slope = jax.vmap(jax.grad(f))(a)
    left.plot(a, f(a), line, color=color, label=name, lw=2)
    right.plot(a, slope, line, color=color, label=name, lw=2)
    print(f"{name:<8} slope at most {slope.max():.2f}; ten steps back, its product is at most {slope.max() ** 10:.1e}")
left.set(xlabel="input a", ylabel="f(a)", ylim=(-1.2, 2.2), title="activation")
right.set(xlabel="input a", ylabel="slope f′(a)", title="its slope")
left.legend()
plt.show()

# %% [markdown]
# A sigmoid as $f$ would shrink what it passes back at least fourfold with every step; tanh and relu can pass it
# whole. Sigmoids are for *gates*, as we shall see: numbers between 0 and 1 that say how much.
#
# ## 3. What to minimise: losses
#
# For numbers, the mean squared error, $(y - \hat y)^2$ on average, of which the formulas below take half, so that
# its slope is simply $\hat y - y$. For classes, the **cross-entropy** $-\log p_{\text{true}}$: the surprise at what
# came. Squared error on a probability learns badly from gross mistakes, because the sigmoid is flat there; the
# cross-entropy undoes the sigmoid, and its slope is simply $p - 1$ when the true class is "yes".


# %%
def squared_error(score):
    return 0.5 * (jax.nn.sigmoid(score) - 1) ** 2


def cross_entropy(score):
    return optax.sigmoid_binary_cross_entropy(score, jnp.ones_like(score))


scores = jnp.linspace(-6, 6, 121)
figure, (left, right) = plt.subplots(1, 2)
for name, loss, color, line in (
    ("squared error", squared_error, BLUE, "-"),
    ("cross-entropy", cross_entropy, ORANGE, "--"),
):
    left.plot(scores, loss(scores), line, color=color, label=name, lw=2)
    right.plot(scores, jax.vmap(jax.grad(loss))(scores), line, color=color, label=name, lw=2)
    print(f"{name}: slope at score −6, certain and wrong: {jax.grad(loss)(-6.0):.4f}")
left.set(xlabel="score of the true class", ylabel="loss", title="loss")
right.set(xlabel="score of the true class", ylabel="slope of the loss", title="what learning feels")
left.legend()
plt.show()

# %% [markdown]
# ## 4. Learning: backpropagation through time
#
# How does the loss change with $u$, which took part in every step? Write $a_t$ for the bracket in the formula and
# $\delta_t$ for the gradient of the loss by $h_t$. A state matters twice: for the loss of its own step, and through
# the next state. From the last step to the first:
#
# $$\delta_t = \frac{\partial \ell_t}{\partial h_t} + \big(\delta_{t+1} \odot f'(a_{t+1})\big)\,u^{\mathsf T}
# \qquad
# \frac{\partial L}{\partial u} = \sum_t h_{t-1}^{\mathsf T}\,\big(\delta_t \odot f'(a_t)\big)$$
#
# and likewise for $w$ with $x_t$ in place of $h_{t-1}$. For tanh, $f'(a_t) = 1 - h_t^2$. By hand, for a tiny
# network and the loss $L = \sum_t \frac12 \lVert h_t - y_t \rVert^2$, against what JAX derives from the forward
# formula alone:

# %%
tiny = rj.Elman(hidden_size=3)
tiny_params = tiny.init(jax.random.key(2), in_size=2)
tiny_xs = jax.random.normal(jax.random.key(3), (6, 2))  # 6 steps, no batch
targets = jax.random.normal(jax.random.key(4), (6, 3))


def loss(params):
    ys, _ = rj.unroll(tiny, params, tiny_xs)
    return 0.5 * ((ys - targets) ** 2).sum()


def gradient_by_hand(params):
    hs, _ = rj.unroll(tiny, params, tiny_xs)
    before = jnp.concatenate([jnp.zeros((1, 3)), hs[:-1]])
    dw, du, db = jnp.zeros_like(params.w), jnp.zeros_like(params.u), jnp.zeros_like(params.b)
    from_later = jnp.zeros(3)
    for t in reversed(range(6)):
        delta = (hs[t] - targets[t]) + from_later
        da = delta * (1 - hs[t] ** 2)
        dw += jnp.outer(tiny_xs[t], da)
        du += jnp.outer(before[t], da)
        db += da
        from_later = da @ params.u.T
    return dw, du, db


for name, hand, auto in zip("wub", gradient_by_hand(tiny_params), jax.grad(loss)(tiny_params), strict=True):
    print(f"∂L/∂{name} {hand.shape!s:<7} largest difference to jax.grad: {abs(hand - auto).max():.1e}")

# %% [markdown]
# ## 5. Vanishing and exploding gradients
#
# Going back one step multiplies by $u^{\mathsf T}$ and by the slopes, so going back $k$ steps multiplies $k$ times:
#
# $$\frac{\partial h_T}{\partial h_t} = \prod_{k=t+1}^{T} u\,\mathrm{diag} f'(a_k)$$
#
# Its size decides whether a mistake at the end can teach anything about step $t$. We take orthogonal matrices
# scaled by $\rho$, so that every eigenvalue has size $\rho$ (the **spectral radius**), and measure the norm.

# %%
STEPS = 60
wide = rj.Elman(hidden_size=64)
wide_params = wide.init(jax.random.key(5), in_size=8)
quiet = 0.3 * jax.random.normal(jax.random.key(6), (STEPS, 8))


@jax.jit
def jacobian_norms(params):
    """The norm of ∂h_T/∂h_t for T − t = 1, 2, …, STEPS."""
    hs, _ = rj.unroll(wide, params, quiet)

    def back(jacobian, slope):
        jacobian = (params.u * slope) @ jacobian
        return jacobian, jnp.linalg.norm(jacobian, 2)

    return jax.lax.scan(back, jnp.eye(64), 1 - hs[::-1] ** 2)[1]


back = np.arange(1, STEPS + 1)
radii = (0.5, 0.9, 1.0, 1.1, 1.5)
figure, axes = plt.subplots(figsize=(7, 3.6))
print("norm of ∂h_T/∂h_t, 60 steps back")
for radius, color in zip(radii, (PURPLE, BLUE, GREEN, ORANGE, RED), strict=True):
    norms = jacobian_norms(wide_params._replace(u=radius * wide_params.u))
    axes.semilogy(back, norms, color=color, lw=2)
    axes.semilogy(back, radius**back, ":", color=color, lw=1.2)
    axes.annotate(
        f"ρ = {radius}", (STEPS, norms[-1]), xytext=(5, 0), textcoords="offset points", color=color, va="center"
    )
    print(f"  ρ = {radius}: {norms[-1]:.1e}")
axes.set(xlabel="steps back, T − t", ylabel=r"norm of $\partial h_T\,/\,\partial h_t$", ylim=(1e-19, 1e12))
axes.plot([], [], color="grey", lw=2, label="tanh network")
axes.plot([], [], ":", color="grey", lw=1.2, label="$ρ^{T-t}$: without slopes")
axes.legend(loc="lower left")
plt.show()

# %% [markdown]
# The gradient shrinks or grows exponentially, and only near $\rho = 1$ does it survive. Slopes below 1 take their
# share: tanh lies below the dotted line of the linear network. Two remedies follow: against explosion, cut the
# gradient; against vanishing, build a cell whose factor is near 1 by design.
#
# ## 6. Against explosion: clipping
#
# If the gradient is longer than some norm, shorten it to that norm and keep its direction. Here is a network at the
# edge: relu units and recurrent weights 0.95 times the identity, asked for the mean of 50 inputs, trained by plain
# gradient descent. Its first gradient is so long that one step along it carries the weights beyond radius 1, where
# 50 steps of growth follow.

# %%
explosive = rj.Stack([rj.RNN(rj.Elman(32, activation="relu", recurrent_init="identity")), rj.Last(), rj.Dense(1)])
rnn_params, *rest = explosive.init(jax.random.key(7), in_size=1)
explosive_params = (rnn_params._replace(u=0.95 * rnn_params.u), *rest)


def mean_task(params, key):
    xs = jax.random.uniform(key, (50, 32, 1))
    guess, _ = explosive(params, xs)
    return ((guess - xs.mean(0)) ** 2).mean()


def descend(optimizer, steps=200):
    def step(carry, key):
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(mean_task)(params, key)
        change, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, change), opt_state), (loss, optax.global_norm(gradient))

    start = explosive_params, optimizer.init(explosive_params)
    return jax.jit(lambda keys: jax.lax.scan(step, start, keys)[1])(jax.random.split(jax.random.key(8), steps))


figure, (left, right) = plt.subplots(1, 2)
clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.003))
for name, optimizer, color, line in (("as it is", optax.sgd(0.003), RED, "--"), ("clipped to 1", clipped, BLUE, "-")):
    losses, norms = (np.asarray(values) for values in descend(optimizer))
    left.semilogy(losses, line, color=color, label=name)
    right.semilogy(norms, line, color=color, label=name)
    print(f"{name:<13} loss {losses[0]:.0f}, after one step {losses[1]:.1e}, after {len(losses)} {losses[-1]:.1e}")
left.set(xlabel="step", ylabel="loss", title="loss")
right.set(xlabel="step", ylabel="norm of the gradient", title="gradient before clipping")
right.legend()
plt.show()

# %% [markdown]
# ## 7. Against vanishing: gates
#
# The **LSTM** (Hochreiter and Schmidhuber 1997) carries a second state $c_t$ that is not pressed through $u$ and a
# bend at each step but *kept*, in a proportion $f_t$ that the network chooses:
#
# | formula | what it does |
# |---|---|
# | $i_t = \sigma(x_t w_i + h_{t-1} u_i + b_i)$ | how much to write |
# | $f_t = \sigma(x_t w_f + h_{t-1} u_f + b_f)$ | how much to keep |
# | $g_t = \tanh(x_t w_g + h_{t-1} u_g + b_g)$ | what to write |
# | $o_t = \sigma(x_t w_o + h_{t-1} u_o + b_o)$ | how much to show |
# | $c_t = f_t \odot c_{t-1} + i_t \odot g_t$ | keep and write |
# | $h_t = o_t \odot \tanh c_t$ | show |
#
# Going back from $c_t$ to $c_{t-1}$ multiplies by $f_t$. There is a second path: $c_{t-1}$ shows in $h_{t-1}$, which
# enters the gates and the candidate of the next step. What it brings is added to $f_t$. Each formula is one line of
# code:

# %%
sigmoid, tanh = jax.nn.sigmoid, jnp.tanh


def lstm_step(params, h, c, x):
    (w_i, w_f, w_g, w_o), (u_i, u_f, u_g, u_o) = (jnp.split(m, 4, axis=1) for m in (params.w, params.u))
    b_i, b_f, b_g, b_o = jnp.split(params.b, 4)
    i = sigmoid(x @ w_i + h @ u_i + b_i)
    f = sigmoid(x @ w_f + h @ u_f + b_f)
    g = tanh(x @ w_g + h @ u_g + b_g)
    o = sigmoid(x @ w_o + h @ u_o + b_o)
    c = f * c + i * g
    h = o * tanh(c)
    return h, c


lstm = rj.LSTM(H)
lstm_params = lstm.init(jax.random.key(9), 3)
ys, _ = rj.unroll(lstm, lstm_params, xs)
h, c, hs = jnp.zeros((B, H)), jnp.zeros((B, H)), []
for x in xs:
    h, c = lstm_step(lstm_params, h, c, x)
    hs.append(h)
print(f"LSTM: largest difference to rj.LSTM: {abs(jnp.stack(hs) - ys).max():.1e}")

# %% [markdown]
# The **GRU** (Cho and others 2014) does with one state and two gates:
#
# | formula | what it does |
# |---|---|
# | $r_t = \sigma(x_t w_r + h_{t-1} u_r + b_r)$ | how much of the past the candidate sees |
# | $z_t = \sigma(x_t w_z + h_{t-1} u_z + b_z)$ | how much to keep |
# | $n_t = \tanh(x_t w_n + b_n + r_t \odot (h_{t-1} u_n + b'_n))$ | candidate |
# | $h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}$ | keep and write |


# %%
def gru_step(params, h, x):
    (w_r, w_z, w_n), (u_r, u_z, u_n) = (jnp.split(m, 3, axis=1) for m in (params.w, params.u))
    b_r, b_z, b_n = jnp.split(params.b, 3)
    r = sigmoid(x @ w_r + h @ u_r + b_r)
    z = sigmoid(x @ w_z + h @ u_z + b_z)
    n = tanh(x @ w_n + b_n + r * (h @ u_n + params.b_n))
    return (1 - z) * n + z * h


gru = rj.GRU(H)
gru_params = gru.init(jax.random.key(10), 3)
ys, _ = rj.unroll(gru, gru_params, xs)
h, hs = jnp.zeros((B, H)), []
for x in xs:
    h = gru_step(gru_params, h, x)
    hs.append(h)
print(f"GRU: largest difference to rj.GRU: {abs(jnp.stack(hs) - ys).max():.1e}")

# %% [markdown]
# ## 8. Where to start: initialisation
#
# A gate *can* keep; whether it does at the start of learning is up to the initial weights. We send a loss at the
# last step back through each untrained cell and measure the gradient by its state, relative to the last step. A
# cell's three maps suffice: `project` for what depends on inputs alone, then `step` again and again.

# %%
FAR = 100
noise = 0.2 * jax.random.normal(jax.random.key(11), (FAR, 16, 4))  # 16 sequences


@jax.jit
def gradient_by_state(cell, params):
    """log₁₀ of ‖∂loss/∂state‖ 1, 2, …, FAR steps back, relative to that by the last state.

    The gradient is brought back to length 1 at every step, so that it cannot underflow.
    """
    z = cell.project(params, noise)
    start = cell.initial_state(params, (16,))
    last, before = jax.lax.scan(lambda s, z: (cell.step(params, s, z), s), start, z)
    direction = jax.random.normal(jax.random.key(12), last.h.shape)
    d_last = jax.grad(lambda s: (direction * s.h).sum())(last)

    def back(d, step):
        state, z = step
        _, pull = jax.vjp(lambda s: cell.step(params, s, z), state)
        (d,) = pull(jax.tree.map(lambda leaf: leaf / optax.global_norm(d), d))
        return d, jnp.log10(optax.global_norm(d))

    return jnp.cumsum(jax.lax.scan(back, d_last, (before, z), reverse=True)[1][::-1])


def fresh(cell):
    return cell.init(jax.random.key(13), in_size=4)


def gaussian(params):
    """Recurrent weights drawn independently, half as large as orthogonal ones."""
    return params._replace(u=0.5 * jax.random.normal(jax.random.key(14), params.u.shape) / np.sqrt(params.u.shape[0]))


def keeps_more(params):
    """The GRU with its update gate open for the past at first: z near σ(3) = 0.95."""
    size = params.b_n.size
    return params._replace(b=params.b.at[size : 2 * size].set(3.0))


elman, lstm, gru = rj.Elman(32), rj.LSTM(32), rj.GRU(32)
curves = {
    "Elman, orthogonal": (elman, fresh(elman), BLUE, "-"),
    "Elman, Gaussian": (elman, gaussian(fresh(elman)), BLUE, ":"),
    "GRU": (gru, fresh(gru), GREEN, ":"),
    "GRU, update bias 3": (gru, keeps_more(fresh(gru)), GREEN, "-"),
    "LSTM, forget bias 0": (lstm, fresh(rj.LSTM(32, forget_bias=0.0)), ORANGE, ":"),
    "LSTM, forget bias 1": (lstm, fresh(lstm), ORANGE, "--"),
    "LSTM, forget bias 3": (lstm, fresh(rj.LSTM(32, forget_bias=3.0)), ORANGE, "-"),
}
figure, axes = plt.subplots(figsize=(8, 3.8))
print("what is left of the gradient 100 steps back, before any training")
for name, (kind, kind_params, color, line) in curves.items():
    left_over = gradient_by_state(kind, kind_params)
    axes.plot(np.arange(1, FAR + 1), left_over, line, color=color, label=name, lw=2)
    print(f"  {name:<22} 10^{left_over[-1]:.1f}")
axes.set(xlabel="steps back", ylabel="log₁₀ of the gradient, relative", ylim=(-20, 3))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# So the matrix should be orthogonal and the gates should start out keeping. The forget bias of 1 that `rj.LSTM` adds is
# the usual choice; 3 reaches further, here so far that the gradient grows, which is what clipping is for.
#
# The gate alone does not explain these numbers. With a forget bias of 1 it would leave $\sigma(1)^{100} = 10^{-13.6}$,
# and no factor below 1 makes anything grow. The rest comes by the second path, through $h$, the gates and the
# candidate. For small states one step back multiplies by about $f + \frac14 u_g$ in the LSTM, where $i = o = \frac12$;
# with a bias of 3 that can exceed 1. In the GRU with zero biases, $r = z = \frac12$ and the factor is about
# $\frac12 + \frac14 u_n$: with an orthogonal $u_n$ at most $\frac34$, and $0.75^{100} = 10^{-12.5}$.
#
# Gates give the *ability* to remember; the bias decides whether learning can find it.
#
# ## 9. Sequences of different lengths, and sequences that never end
#
# A batch holds sequences of different lengths by padding the short ones. `lengths` says how many steps of each row
# are valid; the rest keeps the state, outputs zero and is never read, so that it may even hold NaN:

# %%
lengths = jnp.array([20, 13, 5, 0])
padded = jnp.where(jnp.arange(T)[:, None, None] < lengths[:, None], xs, jnp.nan)
ys, state = rj.unroll(cell, params, padded, lengths=lengths)
for row, length in enumerate(lengths.tolist()):
    alone, alone_state = rj.unroll(cell, params, xs[:length, row])
    print(
        f"row {row}, {length:>2} steps: same outputs as alone: {np.allclose(ys[:length, row], alone, atol=1e-6)!s:<5}"
        f" same last state: {np.allclose(state.h[row], alone_state.h, atol=1e-6)!s:<5}"
        f" zero afterwards: {bool((ys[length:, row] == 0).all())}"
    )

# %% [markdown]
# A `mask` (T, B) does the same for any set of steps. And since the state is all that a network knows of the past, a
# stream can be read in pieces of any size by handing the state on:

# %%
whole, _ = rj.unroll(cell, params, xs)
state, pieces = None, []
for piece in jnp.split(xs, (3, 10, 11)):
    ys, state = rj.unroll(cell, params, piece, state)
    pieces.append(ys)
print("pieces of", [len(piece) for piece in pieces], "steps")
print(f"largest difference to the whole at once: {abs(jnp.concatenate(pieces) - whole).max():.1e}")

# %% [markdown]
# ## 10. The textbook network, trained
#
# Elman's first experiment: a stream of bits in triples, the third being the exclusive or of the first two. Nothing
# says where a triple begins, and two bits of three cannot be guessed; the network has to predict the next bit at
# every step. It is Elman's cell with a read-out, $y_t = \sigma(h_t w_y + b_y)$:

# %%
model = rj.Stack([rj.RNN(rj.Elman(32)), rj.Dense(1)])  # the sigmoid is in the loss
print(rj.summary(model, in_size=1))


def bits(key, triples, batch):
    """Bits (T, B, 1), T = 3 · triples."""
    first, second = jax.random.bernoulli(key, shape=(2, triples, batch))
    return jnp.stack([first, second, first ^ second], axis=1).reshape(3 * triples, batch, 1).astype(jnp.float32)


def next_bit_loss(params, stream):
    scores, _ = model(params, stream[:-1])
    return optax.sigmoid_binary_cross_entropy(scores, stream[1:])  # (T − 1, B, 1)


optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def learn(carry, key):
    params, opt_state = carry
    stream = bits(key, 10, 32)
    loss, gradient = jax.value_and_grad(lambda p: next_bit_loss(p, stream).mean())(params)
    change, opt_state = optimizer.update(gradient, opt_state)
    return (optax.apply_updates(params, change), opt_state), loss


xor_params = model.init(jax.random.key(15), in_size=1)
start = xor_params, optimizer.init(xor_params)
train = jax.jit(lambda keys: jax.lax.scan(learn, start, keys))
(xor_params, _), losses = train(jax.random.split(jax.random.key(16), 600))

surprise = next_bit_loss(xor_params, bits(jax.random.key(17), 10, 2000)).mean((1, 2))
place = np.arange(1, 30)
figure, (left, right) = plt.subplots(1, 2, width_ratios=(2, 3))
left.plot(losses, color=BLUE)
left.axhline(np.log(2), color="grey", ls=":")
left.axhline(np.log(2) * 2 / 3, color="grey", ls=":")
left.annotate("guessing every bit", (600, np.log(2) + 0.005), ha="right", va="bottom", color="dimgrey")
left.annotate("guessing two of three", (600, np.log(2) * 2 / 3 - 0.015), ha="right", va="top", color="dimgrey")
left.set(xlabel="update", ylabel="loss, nats per bit", ylim=(0.35, 0.8), title="training")
third = place % 3 == 2
right.plot(place, surprise, color="lightgrey", zorder=0)
right.plot(place[~third], surprise[~third], "o", color=BLUE, label="random bit")
right.plot(place[third], surprise[third], "D", color=RED, label="exclusive or")
right.set(xlabel="bit of the stream", ylabel="loss, nats", title="new streams", ylim=(-0.05, 0.95))
right.legend(ncols=2, loc="upper center")
plt.show()
print(f"loss of random bits {surprise[~third].mean():.3f}, and nobody can do better than log 2 = {np.log(2):.3f}")
print(f"loss of the third ones {surprise[third].mean():.3f}")

# %% [markdown]
# It finds the rhythm and the rule by itself, and stays unsure where nobody can be sure.
#
# ## 11. Which cell?
#
# A test of memory: one of four symbols at the first step, then noise for 10, 30 or 60 steps, then say which it
# was. Same width, same optimizer, same number of updates for all; three networks of each kind, trained side by side
# by `jax.vmap`. The lengths differ, the arrays do not, so that each cell compiles once.

# %%
SYMBOLS, UPDATES, NETWORKS = 4, 250, 3
memory_optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))


def memory_batch(key):
    which, how = jax.random.split(key)
    symbols = jax.random.randint(which, (32,), 0, SYMBOLS)
    xs = 0.2 * jax.random.normal(how, (61, 32, SYMBOLS))
    return xs.at[0].set(jax.nn.one_hot(symbols, SYMBOLS)), symbols


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, None, 0))
def remember(model, params, delay, key):
    """The accuracy on the batch of each update."""

    def loss(params, xs, symbols):
        scores, _ = model(params, xs, lengths=jnp.full((32,), delay + 1))
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, symbols)
        return losses.mean(), (scores.argmax(-1) == symbols).mean()

    def update(carry, key):
        params, opt_state = carry
        (_, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(params, *memory_batch(key))
        change, opt_state = memory_optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, change), opt_state), accuracy

    start = params, memory_optimizer.init(params)
    return jax.lax.scan(update, start, jax.random.split(key, UPDATES))[1]


irnn = rj.Elman(32, activation="relu", recurrent_init="identity")
lstm_keeps = rj.LSTM(32, forget_bias=3.0)
contestants = {  # what runs, how its weights are drawn
    "Elman, tanh": (elman, elman.init),
    "Elman, relu, identity": (irnn, irnn.init),
    "GRU": (gru, gru.init),
    "GRU, update bias 3": (gru, lambda key, size: keeps_more(gru.init(key, size))),
    "LSTM, forget bias 1": (lstm, lstm.init),
    "LSTM, forget bias 3": (lstm, lstm_keeps.init),
}
delays = (10, 30, 60)
courses = np.zeros((len(contestants), len(delays), NETWORKS, UPDATES))
keys = jax.random.split(jax.random.key(18), NETWORKS)
for row, (kind, init) in enumerate(contestants.values()):
    model = rj.Stack([rj.RNN(kind), rj.Last(), rj.Dense(SYMBOLS)])
    bodies = jax.vmap(init, in_axes=(0, None))(keys, SYMBOLS)
    heads = jax.vmap(model.layers[-1].init, in_axes=(0, None))(keys, 32)
    for column, delay in enumerate(delays):
        courses[row, column] = remember(model, (bodies, (), heads), delay, keys)

# %%
smooth = np.apply_along_axis(np.convolve, -1, courses, np.ones(20) / 20, "valid")
learned = smooth[..., -1] > 0.95  # over the last 20 updates
first = 20 + (smooth > 0.95).argmax(-1)
figure, axes = plt.subplots(figsize=(7, 3.4))
accuracy = smooth[..., -1].mean(-1)
axes.imshow(accuracy, cmap="cividis", vmin=0.25, vmax=1, aspect="auto")
for (row, column), value in np.ndenumerate(accuracy):
    count = learned[row, column].sum()
    text = f"{count} of {NETWORKS}"
    if count:
        text += f" · {np.median(first[row, column][learned[row, column]]):.0f} updates"
    axes.text(column, row, text, ha="center", va="center", color="black" if value > 0.6 else "white", fontsize=9)
axes.set_xticks(range(len(delays)), delays)
axes.set_yticks(range(len(contestants)), contestants)
axes.set(xlabel="steps to remember", title="networks that learned it · updates they took")
colors = figure.colorbar(axes.images[0], ax=axes, label="mean accuracy at the end", ticks=(0.25, 0.5, 0.75, 1))
colors.outline.set_visible(False)
axes.spines[:].set_visible(False)
axes.tick_params(length=0)
plt.show()

# %% [markdown]
# ## The answer
#
# A recurrent network is one step, applied again and again with the same weights, and a state that it hands to
# itself. It learns by going back through those steps, and each step back is a factor: what it can learn to remember
# depends on whether those factors stay near 1.

# %%
weights = {name: sum(leaf.size for leaf in jax.tree.leaves(fresh(kind))) for name, (kind, _) in contestants.items()}
print(f"{'cell':<22} {'weights':>7}   longest delay that every network learned")
for name, done in zip(contestants, learned.all(-1), strict=True):
    print(
        f"{name:<22} {weights[name]:>7,}   {max((d for d, ok in zip(delays, done, strict=True) if ok), default='none')}"
    )

# %% [markdown]
# Which cell, then?
#
# - **Begin with an LSTM whose forget gate is open**, or a GRU whose update gate is. The LSTM with a bias of 3 learned
#   every delay in the fewest updates. The same cell with a bias of 1 did not learn them all, and the GRU went from
#   failure to success by its update bias alone: the bias mattered more than the choice among the two.
# - **Keep an Elman network beside it**, with orthogonal recurrent weights. It has a third of a GRU's weights and a
#   quarter of an LSTM's, and while what it must remember is simple and little disturbed, it learns fast. It is the
#   baseline that the others must beat.
# - **For long tasks one may say how long**: a gate of $\sigma(b)$ keeps something for about $1 + e^b$ steps, and
#   `rj.LSTM(…, max_time=T)` draws biases for all times up to $T$ (chrono initialisation). It also closes the input
#   gates as far as it opens the forget gates. A large `forget_bias` alone leaves them half open, the cell fills with
#   whatever it reads, and learning can stall: in [the adding problem](05-adding-problem.ipynb) an LSTM with a bias of
#   $\log 100 \approx 4.6$ learns nothing, and the one with `max_time` learns in the fewest updates. A GRU has one
#   gate for both, which `rj.GRU(…, max_time=T)` sets. None of the networks above was told so, and it does not help
#   everywhere: [choosing a cell](../docs/choosing.md#where-to-begin) lists what was measured.
# - **In any case** clip the gradient, and mask what is padding.
#
# One small test is evidence, not proof: change the noise, the width or the learning rate above, and see what holds.
