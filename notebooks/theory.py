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
# # Where the signal goes
#
# A network learns from labels of which a fifth are wrong. We record what training does to its outputs,
# look which directions of the labels reach the test predictions, and ask a run for its population
# risk. Small versions of figures 1, 2, 6, 7, 8 of Litman & Guo, arXiv 2605.01172; the large ones are
# made by `benchmarks/theory_learning.py` and `benchmarks/theory_closed.py`.

# %% tags=["install"]
# On a fresh machine, Colab's too, the package is installed first.
import importlib.util
import subprocess
import sys

PACKAGE = "..[examples]"  # the clone around this notebook; in Colab a wheel of it
if importlib.util.find_spec("snrgate") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", PACKAGE], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import snrgate
from snrgate import theory

# %% tags=["parameters"]
STEPS = 200
SEED = 0

# %% [markdown]
# ## A small network, and labels of which a fifth are wrong

# %%
jax.config.update("jax_enable_x64", True)  # the identities hold to rounding
rng = np.random.default_rng(SEED)
x, queries = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
truth, seen_truth = np.sign(x[:, 0] + 0.3), np.sign(queries[:, 0] + 0.3)
labels = np.where(rng.random(40) < 0.2, -truth, truth)
params = {
    "first": jnp.asarray(rng.normal(size=(4, 24)) / 2),
    "bias": jnp.zeros(24),
    "last": jnp.asarray(rng.normal(size=24) / 24),
}


def f(params, x):
    return jnp.tanh(x @ params["first"] + params["bias"]) @ params["last"]


def loss(output, label):
    return (output - label) ** 2 / 2


run = theory.record(f, loss, optax.sgd(0.1), params, (x, labels), queries, steps=STEPS)
record = run.record
print(f"the kernel moved by {float(record.drift):.1f} times its norm")

# %% [markdown]
# The record has the linear maps from the gradient at the start to all that training did. Nothing is
# frozen: the first two identities hold to rounding although the kernel moves.

# %%
g = record.gradient
lost = run.losses[0] - jnp.mean(jax.vmap(lambda a, b: loss(f(run.params, a), b))(x, labels))
moved = theory.outputs(f, run.params, queries) - theory.outputs(f, params, queries)
print(f"loss:    {float(lost):.12f} is g W g = {float(g @ record.dissipation @ g):.12f}")
print(f"queries: off by {float(jnp.abs(moved + record.test @ g).max()):.1e}")

# %% [markdown]
# ## Channel and reservoir, and the four cells of the test error (figures 1 and 6)
#
# The channel is the top of the Gramian. The longer one trains, the more of the output space belongs to
# it: once the wrong labels are learned by heart, everything does.

# %%
parts = theory.split(record.gramian)
missing = truth - theory.outputs(f, params, x)
missing_at_queries = seen_truth - theory.outputs(f, params, queries)
cells = theory.four_cells(
    record,
    parts,
    clean_gradient=-missing / len(x),
    missing=missing,
    missing_at_queries=missing_at_queries,
)
sizes = {n: float(jnp.sqrt(jnp.mean(v**2))) for n, v in cells._asdict().items()}

fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
left.barh([n.replace("_", " in the ") for n in sizes], list(sizes.values()), color="0.4")
left.set(xlabel="root mean square over the queries", title="the four cells")
middle.plot(parts.values / parts.values[0], "k", label="Gramian")
rank = float(theory.effective_rank(parts.values))
middle.axvline(rank, color="0.6", linestyle=":", label=f"effective rank {rank:.1f}")
middle.set(xlabel="order", ylabel="share of the largest eigenvalue", yscale="log")
middle.legend(frameon=False)
predicted = theory.predictor(record.training, record.test) @ (-record.training @ g)
right.plot(moved, predicted, "k.")
right.set(xlabel="change at the queries", ylabel="predicted from training (figure 2)")
plt.show()
print(f"correlation {float(jnp.corrcoef(moved, predicted)[0, 1]):.3f}")

# %% [markdown]
# ## Double descent (figure 7) and learning in time (figure 8), measured beside the closed forms

# %%
n, d, repeats = 20, 60, 100
many = rng.normal(size=(repeats, n, d))
beta = rng.choice([-1, 1], size=(repeats, d)) / np.sqrt(d)
y = np.einsum("rnd,rd->rn", many, beta) + 0.5 * rng.normal(size=(repeats, n))
ranks, risks = np.arange(1, d, 2), []
for r in ranks:
    fitted = np.einsum("rdn,rn->rd", np.linalg.pinv(many[:, :, :r]), y)
    wrong = np.concatenate([fitted, np.zeros((repeats, d - r))], axis=1) - beta
    risks.append(np.mean(np.sum(wrong**2, axis=1)) + 0.25)
below, above = ranks[ranks <= n - 2], ranks[ranks >= n + 2]
exact = np.concatenate(
    [
        (1.25 - below / d) * (1 + below / (n - below - 1)),
        above / d * (1 - n / above) + (1.25 - above / d) * (1 + n / (above - n - 1)),
    ]
)

flow = theory.gradient_flow(
    lambda w, x: x @ w, loss, jnp.zeros(4), (x, labels), queries, time=5.0, steps=60
)
directions, sigma, _ = np.linalg.svd(x, full_matrices=False)
fitted = directions.T @ (x @ np.asarray(flow.params)) / (directions.T @ labels)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(np.concatenate([below, above]), exact, color="0.6", linewidth=3, label="closed form")
left.plot(ranks, risks, "k.", label="measured")
left.set(xlabel="rank", ylabel="risk", yscale="log")
left.legend(frameon=False)
right.plot(sigma, 1 - np.exp(-5 * sigma**2 / len(x)), color="0.6", linewidth=3)
right.plot(sigma, fitted, "ko")
right.set(xlabel="singular value of the mode", ylabel="share fitted at time 5")
plt.show()

# %% [markdown]
# ## Drift and diffusion of minibatch SGD
#
# Along the mean gradient the distance grows like the number of steps, across it like its root.

# %%
walk = theory.random_walks(
    lambda params, example: loss(f(params, example[0]), example[1]),
    params,
    (x, labels),
    learning_rate=1e-4,
    batch_size=4,
    steps=100,
    runs=30,
    key=jax.random.key(SEED),
)
for name in ("coherent", "idiosyncratic"):
    print(f"{name:14s} slope {float(theory.slope(getattr(walk, name), first=5)):.2f}")

# %% [markdown]
# ## The population risk of this run, without validation data
#
# One line around the optimizer, and the loss of the batch as `value`.

# %%
tx = theory.monitored(optax.adam(3e-3), dataset_size=len(x))
grad_fn = snrgate.value_and_moments(
    lambda params, e: loss(f(params, e[0]), e[1]), block="parameter"
)
data = jnp.asarray(x), jnp.asarray(labels)
fresh = rng.normal(size=(2000, 4))
fresh_truth = np.sign(fresh[:, 0] + 0.3)
fresh_labels = np.where(rng.random(2000) < 0.2, -fresh_truth, fresh_truth)


@jax.jit
def step(params, state, key):
    at = jax.random.choice(key, len(x), (20,), replace=False)
    value, moments = grad_fn(params, (data[0][at], data[1][at]))
    updates, state = tx.update(moments.mean, state, params, value=value, **moments.extra_args())
    return optax.apply_updates(params, updates), state


@jax.jit
def true_risk(params):
    return jnp.mean(jax.vmap(lambda a, b: loss(f(params, a), b))(fresh, fresh_labels))


now, state, history = params, tx.init(params), []
for i in range(STEPS):
    now, state = step(now, state, jax.random.fold_in(jax.random.key(SEED), i))
    if i % 10 == 9:
        risk = theory.population_risk(state)
        history.append((i + 1, risk.training, risk.population, true_risk(now)))
history = np.array(history)

fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
for column, style, name in ((1, ":", "training"), (2, "-", "estimated"), (3, "--", "true")):
    ax.plot(history[:, 0], history[:, column], style, color="black", label=f"{name} risk")
ax.set(xlabel="step", ylabel="loss")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The estimate knows early that the gap opens. After some passes over 40 examples it is too large: it
# does not know that what has been fitted is fitted (the page on the theory has numbers).
