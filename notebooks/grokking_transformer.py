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
# # Grokking: a rule learned long after the answers
#
# A small transformer learns division modulo 97 from a part of the table. First it knows the training answers by
# heart, and only later the rule. That is hard for a gate on population risk: while answers are learned by heart, nothing in
# one example's gradient agrees with another's, so a gate that knows how few answers there are takes it for noise.

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

from snrgate.lab.study.peers import FloorGated, FreshGated
from snrgate.lab.tasks.division import Division
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.train import Training, fit

# %% tags=["parameters"]
STEPS = 2000


# %%
def train(task, optimizer):
    settings = Training(
        task,
        optimizer,
        steps=STEPS,
        batch_size=512,
        eval_every=max(STEPS // 40, 25),
        until=0.95,  # then the rule is known
        seed=100,  # the one that the study tunes on
    )
    return [row for _, row in fit(settings, task.make(settings.seed))]


def show(history):
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


def say(history):
    for name, rows in history.items():
        seen = ("accuracy", "train_accuracy", "wrong_learned")
        held_out, known, wrong = (f"{rows[-1][key]:.3f}" for key in seen)
        print(
            f"{name}: held out {held_out}, training questions answered rightly {known}, "
            f"wrong answers learned {wrong}"
        )


# %% [markdown]
# ## A quarter of the table, all answers right
#
# Learning rate and weight decay are those that the study chose for AdamW, in the last run those that it chose for that gate. Of the
# three gated runs one is told how many answers there are, one that every answer is new (`dataset_size=math.inf`), and one never
# shuts (`floor`): its decay stays outside the gate, and its noise is averaged over no more steps than the momentum (`noise_decay`).

# %%
task = Division(train_fraction=0.25)
clean = {
    "AdamW": train(task, AdamW(1e-2, 2.0, b2=0.98)),
    "gated, told the size": train(task, Gated(1e-2, 2.0, b2=0.98)),
    "gated, told that all is new": train(task, FreshGated(1e-2, 2.0, b2=0.98)),
    "gated, with a floor": train(task, FloorGated(1e-2, 1.0, b2=0.98)),
}

# %% [markdown]
# Dashed: the training questions. Solid: those never seen.

# %%
show(clean)
say(clean)

# %% [markdown]
# AdamW knows the answers by heart, and then the rule. The gated run that knows how few there are learns a part of them and then
# stands still: nothing that is left in the gradient of one example agrees with that of another, and the weight decay, which
# would lead to the rule in the end, is gated with it. Told that all is new, the gate lets through whatever batches agree on, and
# finds the rule too, later; so does the one that never shuts. Other seeds differ much, and AdamW's too
# ([the study](../docs/study.md)).

# %% [markdown]
# ## Half the table, 30 % of the answers wrong
#
# The gate with the floor again. AdamW and the gate have each the learning rate and weight decay that were best for it.

# %%
task = Division(train_fraction=0.5, wrong=0.3)
wrong = {
    "AdamW": train(task, AdamW(2e-3, 5.0, b2=0.98)),
    "gated, with a floor": train(task, FloorGated(5e-3, 2.0, b2=0.98)),
}

# %%
show(wrong)
say(wrong)

# %% [markdown]
# On this seed both learn few of the wrong answers: AdamW by sheer weight decay, which also holds the rule down, the gate by slowing down what
# has no signal and letting through what has. Neither is smooth: at these learning rates single steps throw the network back, and
# over five fresh seeds neither is ahead at the last step ([the study](../docs/study.md)).
