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
# # Find the wrong labels of a file
#
# From a file with a label for each row to a decision: which rows does a person look at, how far down
# the list, and what is gained by correcting them?

# %% tags=["install"]
# On a fresh machine, Colab's too, the package is installed first.
import importlib.util
import subprocess
import sys

PACKAGE = "..[examples]"  # the clone around this notebook; in Colab a wheel of it
if importlib.util.find_spec("snrgate") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", PACKAGE], check=True)

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

import snrgate
from snrgate.estimators import GatedClassifier

# %% tags=["parameters"]
STEPS = 1000
SEED = 0

# %% [markdown]
# ## A file
#
# 1,797 handwritten digits. We replace a fifth of the labels and write the file as somebody would
# send it to us. From here on we do not look at `wrong`, except to see how well it went.

# %%
pixels, true = load_digits(return_X_y=True)
rng = np.random.default_rng(SEED)
train, test = np.split(rng.permutation(len(true)), [1200])
wrong = rng.random(len(train)) < 0.2
given = np.where(wrong, (true[train] + rng.integers(1, 10, len(train))) % 10, true[train])
folder = TemporaryDirectory()
path = Path(folder.name) / "digits.csv"
table = pd.DataFrame(pixels[train].astype(int)).add_prefix("pixel")
table.assign(digit=given).to_csv(path, index=False)
print(path.read_text().splitlines()[0][:60], "...")

# %% [markdown]
# ## One command
#
# The same as `snrgate audit digits.csv --label digit --out ranked.csv` in a terminal.

# %%
from snrgate.lab.cli import main

out = Path(folder.name) / "ranked.csv"
command = f"audit {path} --label digit --out {out} --steps {STEPS} --seed {SEED}"
assert main(command.split()) == 0
ranked = pd.read_csv(out)
ranked[["rank", "row", "quality", "given", "suggested"]].head(10)

# %% [markdown]
# ## Look at the first twenty

# %%
fig, axes = plt.subplots(2, 10, figsize=(10, 2.6), layout="constrained")
for ax, line in zip(axes.flat, ranked.head(20).itertuples(), strict=True):
    ax.imshow(pixels[train][line.row - 1].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{line.given} → {line.suggested}", fontsize=9)
    ax.set_axis_off()
plt.show()

# %% [markdown]
# ## How far down the list?
#
# Go down in portions of fifty, and stop where fewer than one in five is wrong. A person sees this
# while looking; here `wrong` tells us.

# %%
is_wrong = wrong[ranked["row"] - 1]
portions = is_wrong[: len(is_wrong) // 50 * 50].reshape(-1, 50).mean(1)
stop = int(np.argmax(portions < 0.2)) if (portions < 0.2).any() else len(portions)
print("wrong in each portion of fifty:", *(f"{share:.2f}" for share in portions[: stop + 1]))
print(f"{50 * stop} rows looked at, {is_wrong[: 50 * stop].sum()} of {wrong.sum()} found")
guess = (ranked["given"] != ranked["suggested"]).sum()
print(f"the network itself would give another label to {guess} rows")

# %% [markdown]
# ## What is gained
#
# We correct what we have looked at, and train again. The test digits were never touched.

# %%
corrected = given.copy()
looked_at = ranked["row"].to_numpy()[: 50 * stop] - 1
corrected[looked_at] = true[train][looked_at]
for name, labels in (("given", given), ("corrected", corrected)):
    model = GatedClassifier(steps=STEPS, random_state=SEED).fit(pixels[train], labels)
    print(f"{name:9s} labels: accuracy {model.score(pixels[test], true[test]):.3f} on clean digits")

# %% [markdown]
# ## The same from Python
#
# `label_quality` takes the probabilities (or, with `logits=True`, the logits) of any gated run.

# %%
model = GatedClassifier(steps=STEPS, random_state=SEED).fit(pixels[train], given)
found = snrgate.label_quality(model.predict_proba(pixels[train]), given)
k = int(wrong.sum())
print(f"of the {k} most suspicious labels, {wrong[found.ranked[:k]].mean():.2f} are wrong")

# %% [markdown]
# The labels here are wrong at random, one data set and one seed: a demonstration. `docs/labels.md`
# has five draws of several tables, beside cleanlab with cross-validation.
