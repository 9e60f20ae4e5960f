"""What may stand in the place of BatchNorm, where the loss of one example has to exist.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/norms.py

A perceptron with a normalisation behind each of its two hidden layers learns the digits of
scikit-learn, of whose labels four in ten are wrong. Nothing is tuned: a learning rate of 1e-3, no
weight decay, 1,000 steps of 64 examples. Runs that have been measured are not measured again.
Writes ``results/norms``.
"""

import dataclasses
import functools
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from missing import measure_missing

import snrgate
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.training.results import Key, Result, Results

EXAMPLES, BATCH, STEPS, SIZES, RATE = 1200, 64, 1000, (64, 128, 128, 10), 1e-3
GATE = functools.partial(snrgate.adamw, RATE, weight_decay=0.0, dataset_size=EXAMPLES)
ROWS = {
    "BatchNorm": ("batch", "AdamW"),
    "BatchNorm, streaming noise": ("batch", "streaming"),
    "BatchNorm, its statistics as numbers": ("numbers", "exact"),
    "BatchNorm of single examples (wrong)": ("single", "exact"),
    "LayerNorm": ("layer", "AdamW"),
    "LayerNorm, exact noise": ("layer", "exact"),
    "no normalisation": ("none", "AdamW"),
    "no normalisation, exact noise": ("none", "exact"),
}
"""The normalisation and the optimizer of every row."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Normalisations and gates."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the split, the wrong labels, the weights and the batches."""
    out: Path = Path("results/norms")
    """Folder of the results."""


def start(key: jax.Array) -> list[dict[str, jax.Array]]:
    """The parameters of all layers."""
    keys = jax.random.split(key, len(SIZES) - 1)
    return [
        {
            "kernel": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5,
            "bias": jnp.zeros(n),
            "scale": jnp.ones(n),
        }
        for k, m, n in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def forward(params: Any, x: jax.Array, norm: str, given: Any = None) -> tuple[jax.Array, list[Any]]:
    """The logits of a batch, and the statistics that its layers were normalised by.

    Args:
        params: of all layers.
        x: the batch, of shape (b, 64).
        norm: which mean and variance are taken: over the "batch", over the "layer", or "none".
        given: statistics to take in their place.
    """
    seen = []
    for i, layer in enumerate(params[:-1]):
        x = x @ layer["kernel"]
        if norm != "none":
            axis = 1 if norm == "layer" else 0
            own = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
            mean, var = own if given is None else given[i]
            seen.append((mean, var))
            x = (x - mean) / jnp.sqrt(var + 1e-5) * layer["scale"]
        x = jax.nn.relu(x + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"], seen


def loss_of(params: Any, batch: Any, norm: str, given: Any = None) -> jax.Array:
    """The mean loss of a batch."""
    logits, _ = forward(params, batch[0], norm, given)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def gradient(params: Any, batch: Any, norm: str, exact: bool) -> tuple[Any, dict[str, Any]]:
    """The gradient of a batch, and the extra arguments of the update."""
    if not exact:
        return jax.grad(loss_of)(params, batch, norm), {"sample_size": BATCH}
    given = forward(params, batch[0], "batch")[1] if norm == "numbers" else None

    def of_one(params: Any, example: Any) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[None], example)
        return loss_of(params, one, norm, jax.lax.stop_gradient(given))

    _, moments = snrgate.value_and_moments(of_one)(params, batch)
    return moments.mean, moments.extra_args()


@functools.partial(jax.jit, static_argnums=(0, 1))
def trained(norm: str, how: str, params: Any, data: Any, key: jax.Array) -> Any:
    """The parameters and the mean gate after training."""
    tx = optax.with_extra_args_support(optax.adamw(RATE, weight_decay=0.0))
    if how != "AdamW":
        tx = GATE(noise=how)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        at = jax.random.permutation(key, EXAMPLES)[:BATCH]
        batch = jax.tree.map(lambda leaf: leaf[at], data)
        grads, extra = gradient(params, batch, norm, how == "exact")
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    carry, _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, STEPS))
    return carry[0], optax.tree.get(carry[1], "gate_fraction", jnp.ones(()))


def measured(key: Key) -> Result:
    """Accuracy on held-out digits, and the gate fraction, of a row at its last step."""
    train, (pixels, labels) = Digits(wrong=0.4).data(key.seed)
    data = tuple(map(jnp.asarray, train))
    norm, how = ROWS[key.name]
    keys = jax.random.split(jax.random.key(key.seed))
    params, gate = trained(norm, how, start(keys[0]), data, keys[1])
    # BatchNorm takes the statistics of all training examples when it is evaluated.
    by_batch = norm in ("batch", "numbers", "single")
    given = forward(params, data[0], "batch")[1] if by_batch else None
    logits, _ = forward(params, jnp.asarray(pixels), norm, given)
    right = jnp.mean(logits.argmax(-1) == labels)
    return {"accuracy": float(right), "gate_fraction": float(gate)}


def page(found: dict[Key, Result]) -> str:
    """The table of the results."""
    lines = [
        "# Normalisation and the gate",
        "",
        "`python benchmarks/norms.py`. Accuracy on held-out digits with right labels, at the last",
        "step; median (range), and the number of seeds. AdamW where no noise is named.",
        "",
        "| layer | accuracy | gate fraction | seeds |",
        "|:--|:--|--:|--:|",
    ]
    for name, (_, how) in ROWS.items():
        runs = [result for key, result in found.items() if key.name == name]
        if runs:
            right = [run["accuracy"] for run in runs]
            gate = statistics.median(run["gate_fraction"] for run in runs)
            shown = f"{statistics.median(right):.3f} ({min(right):.3f} to {max(right):.3f})"
            fraction = "" if how == "AdamW" else f"{gate:.3f}"
            lines.append(f"| {name} | {shown} | {fraction} | {len(runs)} |")
    return "\n".join(lines) + "\n"


def main(study: Study) -> None:
    """Measure what is missing, and write the page."""
    wanted = [Key("digits-40", name, seed) for seed in study.seeds for name in ROWS]
    found = measure_missing(Results(study.out / "runs.jsonl"), wanted, measured)
    (study.out / "README.md").write_text(page(found))


if __name__ == "__main__":
    main(tyro.cli(Study))
