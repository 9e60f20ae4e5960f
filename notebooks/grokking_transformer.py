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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/#upload=true)
# opens Colab's upload page: give it this file.

# %% [markdown]
# # Grokking: a rule learned long after the answers
#
# A small transformer learns division modulo 97 from a quarter of the table. First it knows the training
# answers by heart, and much later it knows the rule. That is the opposite of what a gate on population risk
# is for: while answers are learned by heart, nothing in one example's gradient agrees with another's. This
# notebook shows what the gate does there, with the settings that AdamW likes best.

# %% tags=["install"]
# On a fresh machine, Colab's too, the package is installed first.
import importlib.util
import subprocess
import sys

PACKAGE = "snrgate[examples]"  # or a wheel of your clone (pip wheel .), uploaded beside this file
if importlib.util.find_spec("snrgate") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", PACKAGE], check=True)

# %%
import matplotlib.pyplot as plt

from snrgate.tasks.division import Division
from snrgate.training.optimizers import AdamW, Gated
from snrgate.training.train import Training, fit

# %% tags=["parameters"]
STEPS = 1500

# %%
TASK = Division(train_fraction=0.25)
BATCH, EVERY = 512, max(STEPS // 20, 25)
RATE, DECAY = 2e-2, 1.0  # the best of those tried for AdamW


def train(optimizer):
    settings = Training(TASK, optimizer, steps=STEPS, batch_size=BATCH, eval_every=EVERY)
    task = TASK.make(settings.seed)
    states, rows = zip(*fit(settings, task), strict=True)
    return states[-1].params, rows


runs = {
    "AdamW": AdamW(RATE, DECAY, b2=0.98),
    "gated, told the data set's size": Gated(RATE, DECAY, b2=0.98),
    "gated, as if every batch were fresh": Gated(RATE, DECAY, b2=0.98, finite=False),
}
history = {name: train(optimizer)[1] for name, optimizer in runs.items()}

# %% [markdown]
# ## What came of it
#
# Dashed: the training answers. Solid: those never seen.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, rows in history.items():
    steps = [row["step"] for row in rows]
    (line,) = axes[0].plot(steps, [row["accuracy"] for row in rows], label=name)
    axes[0].plot(steps, [row["train_accuracy"] for row in rows], "--", color=line.get_color())
    axes[1].plot(steps, [row.get("gate_fraction", 1) for row in rows], color=line.get_color())
axes[0].set_ylabel("accuracy")
axes[1].set_ylabel("gate fraction")
axes[1].set_yscale("log")
for a in axes:
    a.set_xlabel("step")
    a.grid(alpha=0.3)
figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
plt.show()

# %%
for name, rows in history.items():
    last = rows[-1]
    print(f"{name}: {last['accuracy']:.3f} held out, {last['train_accuracy']:.3f} in training")

# %% [markdown]
# The gated runs know the training answers by heart long before AdamW does, and then stand still: nothing that is
# left in the gradient of one example agrees with that of another, so the gate takes it for noise, and the weight
# decay, which would lead to the rule in the end, is gated with it. AdamW, which knows neither, gets there. If what you
# train has to be learned by heart before it is understood, do not use the gate.
