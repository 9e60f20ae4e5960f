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
# # A wave from noisy measurements
#
# A network learns u(x, t) from the equation u_t + 5 u_x = 0 and 256 noisy measurements of u(x, 0). A batch has
# two kinds of examples: points where the equation has to hold, drawn afresh at every step, and measurements, which
# are few and come back. Each has its own noise, and only the measurements are a finite data set;
# `snrgate.moments.add_groups` puts them together.

# %% tags=["install"]
# On a fresh machine, Colab's too, the package is installed first.
import importlib.util
import subprocess
import sys

PACKAGE = "..[examples]"  # the clone around this notebook; in Colab a wheel of it
if importlib.util.find_spec("snrgate") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", PACKAGE], check=True)

# %%
import matplotlib.pyplot as plt

from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.train import Training, fit

# %% tags=["parameters"]
STEPS = 4000

# %%
TASK = Pinn(measurements=256, noise=0.5)
BATCH, EVERY = 128, max(STEPS // 40, 25)


def train(optimizer):
    settings = Training(TASK, optimizer, steps=STEPS, batch_size=BATCH, eval_every=EVERY)
    task = TASK.make(settings.seed)
    states, rows = zip(*fit(settings, task), strict=True)
    return states[-1].params, rows


runs = {
    "AdamW": AdamW(3e-3),
    "gated": Gated(3e-3),
    "gated, not told how many": Gated(3e-3, finite=False),
}
results = {name: train(optimizer) for name, optimizer in runs.items()}

# %% [markdown]
# ## What came of it
#
# The equation already forbids most of what noise would like to do to the solution, but AdamW is at its best long before it ends.
# Told how few measurements there are, the gate distrusts them so much that it hardly learns. Not told, it loses nothing
# and, on this seed, ends lower than AdamW.

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for name, (_, rows) in results.items():
    axes.plot([row["step"] for row in rows], [row["error"] for row in rows], label=name)
axes.set_xlabel("step")
axes.set_ylabel("relative L2 error")
axes.set_yscale("log")
axes.grid(alpha=0.3)
axes.legend(frameon=False)
plt.show()

# %%
for name, (_, rows) in results.items():
    best = min(rows, key=lambda row: row["error"])
    last = rows[-1]["error"]
    print(f"{name}: {last:.3f} at the last step, {best['error']:.3f} at its best ({best['step']})")
