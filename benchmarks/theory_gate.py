"""Does the gate find the signal channel? What it lets through there, and of the reservoir.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false \
        python benchmarks/theory_gate.py

The channel is that of a recorded run of Adam on the same labels: the top of its Gramian, split at
the effective rank. Along a gated run every step of the gate is set beside the step that the same
Adam would take with all gates open. Both are seen as changes of the training outputs. The share
that is let through is the part of the open step, along itself, that the gated step keeps. Writes
``gate.md`` and ``gate.json`` into ``results/theory``.
"""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.flatten_util import ravel_pytree

import snrgate
from snrgate import theory
from snrgate.lab.training.folder import RunFolder
from snrgate.models.mlp import MLP
from snrgate.theory.ntk import flat_model, rows

GATES: dict[str, dict[str, Any]] = {
    "units": {"block": "unit"},
    "units, nothing fitted": {"block": "unit", "fitted": 0.0},
    "kernels": {"block": "kronecker"},
}


COLUMNS = (
    "channel",
    "beyond",
    "lower half",
    "channel, shuffled",
    "beyond, shuffled",
    "right labels",
    "wrong labels",
    "gate fraction",
)


@dataclasses.dataclass(frozen=True)
class Study:
    """What gates let through of channel and reservoir."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the data, the weights and the batches."""
    examples: int = 100
    """Number of training examples."""
    features: int = 8
    """Number of inputs."""
    width: int = 32
    """Number of units in each of two hidden layers."""
    learning_rate: float = 3e-3
    """Learning rate of Adam."""
    batch_size: int = 25
    """Number of examples in a batch."""
    steps: tuple[int, ...] = (100,)
    """Numbers of steps after which one looks back."""
    out: Path = Path("results/theory")
    """Folder of the results."""


def task(study: Study, seed: int, wrong: float) -> tuple[Any, ...]:
    """Inputs, labels, which labels are wrong, the model and its first parameters."""
    rng = np.random.default_rng(seed)
    teacher = rng.normal(size=study.features)
    x = rng.normal(size=(study.examples, study.features)).astype(np.float32)
    clean = np.sign(np.sin(x @ teacher / 2) + 0.3 * x[:, 0])
    flipped = rng.random(study.examples) < wrong
    y = np.where(flipped, -clean, clean).astype(np.float32)
    sizes = (study.features, study.width, study.width, 1)
    graph, params = nnx.split(MLP(sizes, nnx.tanh, rngs=nnx.Rngs(params=seed)))

    def f(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)[0]

    return jnp.asarray(x), jnp.asarray(y), flipped, f, params


def squared(u: jax.Array, y: jax.Array) -> jax.Array:
    """The loss of one example."""
    return jnp.square(u - y) / 2


def channel(study: Study, seed: int, wrong: float, steps: int) -> theory.Split:
    """The split of a recorded run of Adam, in float64."""
    with jax.enable_x64(True):
        x, y, _, f, params = task(study, seed, wrong)
        x, y, params = jax.tree.map(lambda a: a.astype(jnp.float64), (x, y, params))
        run = theory.record(
            f,
            squared,
            optax.adam(study.learning_rate),
            params,
            (x, y),
            x[:1],
            steps=steps,
            batch_size=study.batch_size,
            key=jax.random.key(seed),
            nodes=2,
        )
        parts = theory.split(run.record.gramian)
        return jax.tree.map(lambda a: np.asarray(a, np.float32), parts)


def passing(study: Study, name: str) -> Callable[..., Any]:
    """A compiled run of one gate: the products of its steps with the open ones, and its gates."""
    adam = optax.scale_by_adam()
    tx = snrgate.snr_gate(adam, dataset_size=study.examples, **GATES[name])
    *_, f, params = task(study, 0, 0.0)
    block = GATES[name]["block"]
    grad_fn = snrgate.value_and_moments(lambda p, e: squared(f(p, e[0]), e[1]), block=block)
    g = flat_model(f, params)

    @jax.jit
    def run(params: Any, x: jax.Array, y: jax.Array, views: Any, keys: jax.Array) -> Any:
        def shares(kept: jax.Array, whole: jax.Array) -> jax.Array:
            seen = [(view @ kept, view @ whole) for view in views]
            return jnp.stack([jnp.stack([jnp.vdot(a, b), jnp.vdot(b, b)]) for a, b in seen])

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            params, state = carry
            at = jax.random.randint(key, (study.batch_size,), 0, study.examples)
            _, moments = grad_fn(params, (x[at], y[at]))
            updates, new = tx.update(moments.mean, state, params, **moments.extra_args())
            plain, _ = adam.update(moments.mean, state.inner_state, params)
            other = jax.random.fold_in(key, 1)
            wrongly = jax.tree.map(lambda u, p: misplaced(other, u, p), updates, plain)
            jac = rows(g, ravel_pytree(params)[0], x)
            moved = [jac @ ravel_pytree(u)[0] for u in (updates, plain, wrongly)]
            shown = jnp.stack([shares(moved[0], moved[1]), shares(moved[2], moved[1])])
            after = optax.apply_updates(params, optax.tree.scale(-study.learning_rate, updates))
            return (after, new), (shown, optax.tree.get(new, "gate_fraction"))

        shown, fraction = jax.lax.scan(step, (params, tx.init(params)), keys)[1]
        return jnp.sum(shown, axis=0), jnp.mean(fraction)

    return run


def passed(
    study: Study,
    run: Callable[..., Any],
    seed: int,
    wrong: float,
    parts: theory.Split,
    steps: int,
) -> dict[str, float]:
    """The shares that one gate lets through, over a whole run."""
    x, y, flipped, _, params = task(study, seed, wrong)
    rank = int(np.ceil(theory.effective_rank(jnp.asarray(parts.values))))
    basis, every = parts.vectors.T, np.eye(study.examples, dtype=np.float32)
    # All of one shape, so that the program is compiled once.
    order = np.arange(study.examples)[:, None]
    views = {
        "channel": basis * (order < rank),
        "beyond": basis * (order >= rank),
        "lower half": basis * (order >= study.examples // 2),
        "right labels": every * ~flipped[:, None],
        "wrong labels": every * flipped[:, None],
    }
    keys = jax.random.split(jax.random.key(seed), steps)
    totals, fraction = run(params, x, y, [jnp.asarray(v) for v in views.values()], keys)
    found = {"gate fraction": float(fraction), "rank": rank}
    for total, who in zip(np.asarray(totals), ("", ", shuffled"), strict=True):
        for name, (product, length) in zip(views, total, strict=True):
            found[f"{name}{who}"] = float(product / length) if length > 0 else float("nan")
    return found


def misplaced(key: jax.Array, update: jax.Array, plain: jax.Array) -> jax.Array:
    """The open update with the gates of its units in another order."""
    gates = jnp.where(plain == 0, 0, update / jnp.where(plain == 0, 1, plain))
    return jax.random.permutation(key, gates, axis=-1) * plain


def page(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """The table of medians."""
    lines = [
        "# Does the gate find the signal channel?",
        "",
        "`OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python "
        "benchmarks/theory_gate.py`",
        "",
        "Share of the open step that the gate lets through, median of seeds (lowest to highest).",
        "Plain Adam lets everything through. The channel has as many directions as the effective",
        "rank of the Gramian. Shuffled is the same gate with its units in another order at",
        "every step, which a gate of kernels does not have.",
        "",
        f"| labels | gate | {' | '.join(COLUMNS)} |",
        "|:--|:--|" + "--:|" * len(COLUMNS),
    ]
    for labels, gates in found.items():
        for name, runs in gates.items():
            cells = []
            for column in COLUMNS:
                values = [run[column] for run in runs]
                unknown = np.isnan(values).any() or (name == "kernels" and "shuffled" in column)
                told = f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
                cells.append("-" if unknown else told)
            lines.append(f"| {labels} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(study: Study) -> None:
    """Measure everything, and write the table."""
    found: dict[str, Any] = {}
    runs = {name: passing(study, name) for name in GATES}
    for steps in study.steps:
        for labels, wrong in (("clean", 0.0), ("20 % wrong", 0.2)):
            row = f"{labels}, {steps} steps"
            found[row] = {name: [] for name in GATES}
            for seed in study.seeds:
                parts = channel(study, seed, wrong, steps)
                for name, run in runs.items():
                    found[row][name].append(passed(study, run, seed, wrong, parts, steps))
                    print(row, seed, name, found[row][name][-1], flush=True)
    study.out.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(study.out)
    folder.write("gate.md", page(found).encode())
    folder.write_json("gate.json", found)
    print(page(found))


if __name__ == "__main__":
    main(tyro.cli(Study))
