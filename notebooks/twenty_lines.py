# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/#upload=true) Colab asks for this file: upload it.

# %% [markdown]
# # The gate in twenty lines
#
# A training loop as one finds it in any JAX tutorial, real digits of which two in five carry a wrong
# label, and no clean validation set to stop by. We put the gate in and look what changes.

# %% tags=["install"]
# On a fresh machine, Colab's too, the package is installed first.
import importlib.util
import subprocess
import sys

PACKAGE = "..[examples]"  # the clone around this notebook; in Colab a wheel of it
if importlib.util.find_spec("snrgate") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", PACKAGE], check=True)

# %% [markdown]
# ## Somebody else's training loop
#
# 1,797 handwritten digits (scikit-learn's, 8 x 8 pixels). 40 % of the training labels are replaced by
# random ones. The test labels are clean, and only looked at for the plots.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

# %% tags=["parameters"]
STEPS = 4000
SEED = 0

# %%
images, labels = load_digits(return_X_y=True)
rng = np.random.default_rng(SEED)
order = rng.permutation(len(images))
images = jnp.asarray(images[order] / 16, jnp.float32)
labels = jnp.asarray(labels[order])
train_x, test_x = images[:1200], images[1200:]
train_y, test_y = labels[:1200], labels[1200:]
wrong = jnp.asarray(rng.random(1200) < 0.4)
train_y = jnp.where(wrong, jnp.asarray(rng.integers(0, 10, 1200)), train_y)
print(f"{np.mean(train_y != labels[:1200]):.0%} of the training labels are wrong")


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.List([nnx.Linear(64, 256, rngs=rngs), nnx.Linear(256, 256, rngs=rngs)])
        self.out = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


graph, start = nnx.split(Classifier(nnx.Rngs(SEED)))


def loss_fn(params, example):
    x, y = example
    logits = nnx.merge(graph, params)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


@jax.jit
def accuracy(params):
    return jnp.mean(nnx.merge(graph, params)(test_x).argmax(-1) == test_y)


def batches():
    shuffle = np.random.default_rng(SEED)
    for _ in range(STEPS):
        i = shuffle.choice(1200, 128, replace=False)
        yield train_x[i], train_y[i]


# %%
def train_plain(tx):
    def mean_loss(params, batch):
        return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, batch))

    @jax.jit
    def step(params, state, batch):
        grads = jax.grad(mean_loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state, history = start, tx.init(start), []
    for i, batch in enumerate(batches(), start=1):
        params, state = step(params, state, batch)
        if i % 50 == 0:
            history.append((i, float(accuracy(params))))
    return np.array(history)


adamw = train_plain(optax.adamw(1e-3))

# %% [markdown]
# ## The same loop with the gate
#
# Three lines change: the optimizer, the gradient function (which takes the loss of *one* example), and
# what is passed to `update`.

# %%
import snrgate


def train_gated(tx):
    grad_fn = snrgate.value_and_moments(loss_fn, block="unit")

    @jax.jit
    def step(params, state, batch):
        _, moments = grad_fn(params, batch)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state

    params, state, history = start, tx.init(start), []
    for i, batch in enumerate(batches(), start=1):
        params, state = step(params, state, batch)
        if i % 50 == 0:
            fraction = optax.tree.get(state, "gate_fraction")
            history.append((i, float(accuracy(params)), float(fraction)))
    return np.array(history)


gated = train_gated(snrgate.adamw(1e-3, dataset_size=len(train_x)))

# %% [markdown]
# ## What changed

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
left.plot(adamw[:, 0], adamw[:, 1], label="AdamW")
left.plot(gated[:, 0], gated[:, 1], label="gated AdamW")
left.set(xlabel="step", ylabel="accuracy on clean test labels")
left.legend()
right.plot(gated[:, 0], gated[:, 2], color="C1")
right.set(xlabel="step", ylabel="gate fraction", ylim=(0, 1))
plt.show()

for name, history in (("AdamW", adamw), ("gated AdamW", gated)):
    best = history[:, 1].argmax()
    print(
        f"{name:12s} last step {history[-1, 1]:.3f}, "
        f"best {history[best, 1]:.3f} at step {history[best, 0]:.0f} (needs the clean labels)"
    )

# %% [markdown]
# AdamW is best early, then learns the wrong labels by heart; without clean labels nobody knows when to
# stop it. The gated run shuts itself as the batch's gradients stop agreeing. One seed and one setting
# here, AdamW at the same learning rate and not tuned for it: a demonstration, not a benchmark.
