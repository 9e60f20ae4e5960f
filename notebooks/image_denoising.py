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
# # A photo from its noisy pixels
#
# A coordinate network (position in, colour out) is fitted to a photo with noise on every pixel. There is
# nothing clean to validate on. AdamW is at its best after about a hundred steps and then learns the noise; the gated
# run is simply left to run.

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

from snrgate.lab.tasks.denoise import Denoise, make_task, noisy_photo
from snrgate.lab.tasks.photo import Photo, radial_power
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.train import Training, fit

# %% tags=["parameters"]
STEPS = 1000

# %%
TASK = Photo("astronaut", noise=0.2)
BATCH, EVERY = 1024, max(STEPS // 50, 20)


def train(optimizer):
    settings = Training(TASK, optimizer, steps=STEPS, batch_size=BATCH, eval_every=EVERY)
    task = TASK.make(settings.seed)
    states, rows = zip(*fit(settings, task), strict=True)
    return states[-1].params, rows


runs = {"AdamW": AdamW(3e-3), "gated AdamW": Gated(3e-3)}
results = {name: train(optimizer) for name, optimizer in runs.items()}

# %%
photo = noisy_photo(Denoise(image="astronaut", noise=0.2))
predict = make_task(Denoise(image="astronaut", noise=0.2), photo).predict
panels = {"clean, never seen": photo.clean, "noisy": photo.noisy}
for name, (params, rows) in results.items():
    panels[f"{name}, last step\n{rows[-1]['psnr']:.2f} dB"] = np.asarray(predict(params))
figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2), layout="constrained")
for a, (title, pixels) in zip(axes, panels.items(), strict=True):
    a.imshow(np.clip(pixels, 0, 1))
    a.set_title(title, fontsize=10)
    a.axis("off")
plt.show()

# %% [markdown]
# ## On the way
#
# Left the distance from the clean photo, which nobody has in earnest; right the power of what is wrong with the
# picture at high frequencies, where the noise is.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for name, (_, rows) in results.items():
    steps = [row["step"] for row in rows]
    axes[0].plot(steps, [row["psnr"] for row in rows], label=name)
    axes[1].plot(steps, [row["high_frequency"] for row in rows])
axes[0].set_ylabel("PSNR (dB)")
axes[1].set_ylabel("high-frequency power of the error")
axes[1].set_yscale("log")
for a in axes:
    a.set_xlabel("step")
    a.set_xscale("log")
    a.grid(alpha=0.3)
figure.legend(loc="outside upper center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# ## Where the error lies
#
# The spectrum of the last step's error. The noise is white: its power is the same at every frequency. A network that has
# learned it by heart has an error of that size at most of them, and AdamW, here, a larger one at the lowest; one that
# has not errs where the picture has detail.

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
pictures = {"the noisy photo": photo.noisy}
pictures |= {name: np.asarray(predict(params)) for name, (params, _) in results.items()}
for name, pixels in pictures.items():
    axes.plot(*radial_power(pixels - photo.clean), label=name)
axes.set_xlabel("frequency (periods a pixel)")
axes.set_ylabel("mean power of the error")
axes.set_yscale("log")
axes.grid(alpha=0.3)
axes.legend(frameon=False)
plt.show()
