"""The estimated population risk beside the true one, and as a rule when to stop.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false \
        python benchmarks/theory_risk.py

Digits with wrong labels and the diabetes table are learned by AdamW and by the gate, with the
monitor of the population risk. The true risk is the loss on test examples whose labels are as
noisy as those of the training set. A second run of each kind keeps a tenth of the training
examples back, as one does today. Runs that are measured already are kept in ``runs.jsonl``. Writes
``results/theory/risk/README.md`` and ``curves.png``.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import theory_rules
import tyro
from flax import nnx

import snrgate
from snrgate import theory
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.tasks.table import Table
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.results import Key, Results
from snrgate.models.mlp import MLP

TASKS: dict[str, Any] = {
    "digits-0": Digits(wrong=0.0),
    "digits-20": Digits(wrong=0.2),
    "digits-40": Digits(wrong=0.4),
    "table": Table(),
}
OPTIMIZERS = ("AdamW", "gate")


@dataclasses.dataclass(frozen=True)
class Study:
    """The risk of runs on a few tasks."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of the tasks."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the data, the weights and the batches."""
    steps: int = 1200
    """Number of training steps."""
    eval_every: int = 20
    """Number of steps between two evaluations."""
    learning_rate: float = 1e-3
    """Learning rate of both optimizers, without weight decay."""
    width: int = 64
    """Number of units in each of two hidden layers."""
    out: Path = Path("results/theory/risk")
    """Folder of the results."""


class Posed(NamedTuple):
    """A task in arrays. The test targets are as noisy as those of the training set."""

    train: tuple[Any, Any]
    test: tuple[Any, Any]
    clean: Any
    outputs: int
    batch_size: int


def posed(name: str, seed: int) -> Posed:
    """The data of a task."""
    task = TASKS[name]
    train, (x, clean) = task.data(seed)
    noisy = clean.copy()
    if name == "table":
        return Posed(train, (x, noisy), clean, 1, 32)
    rng = np.random.default_rng(seed + 1000)
    swapped = rng.random(len(noisy)) < task.wrong
    noisy[swapped] = (noisy[swapped] + rng.integers(1, 10, swapped.sum())) % 10
    return Posed(train, (x, noisy), clean, 10, 128)


class Trainer(NamedTuple):
    """The compiled functions of one optimizer on data of one shape."""

    start: Callable[..., Any]
    stretch: Callable[..., Any]
    evaluate: Callable[..., Any]


def trainer(study: Study, optimizer: str, features: int, outputs: int, n: int, b: int) -> Trainer:
    """The steps and evaluations, compiled once for all seeds."""
    sizes = (features, study.width, study.width, outputs)
    graph = nnx.split(MLP(sizes, nnx.relu, rngs=nnx.Rngs(params=0)))[0]

    def predict(params: Any, x: jax.Array) -> jax.Array:
        out = nnx.merge(graph, params)(x)
        return out if outputs > 1 else out[0]

    def loss_fn(params: Any, example: Any) -> jax.Array:
        x, y = example
        out = predict(params, x)
        if outputs == 1:
            return jnp.square(out - y)
        return optax.softmax_cross_entropy_with_integer_labels(out, y)

    rate = optax.linear_schedule(study.learning_rate / 10, study.learning_rate, 9)
    tx = {
        "AdamW": lambda: optax.adamw(rate, weight_decay=0.0),
        "gate": lambda: snrgate.adamw(rate, weight_decay=0.0, dataset_size=n),
    }[optimizer]()
    watched = theory.monitored(tx, dataset_size=n)
    grad_fn = snrgate.value_and_moments(loss_fn, block="parameter")

    def mean_loss(params: Any, data: Any) -> jax.Array:
        return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, data))

    def step(carry: Any, key: jax.Array, data: Any) -> tuple[Any, Any]:
        params, state = carry
        places = jax.random.choice(key, n, (b,), replace=False)
        batch = jax.tree.map(lambda leaf: leaf[places], data)
        loss, moments = grad_fn(params, batch)
        updates, state = watched.update(
            moments.mean, state, params, value=loss, **moments.extra_args()
        )
        disparity = jnp.sqrt(2 * optax.tree.sum(moments.noise))
        shown = loss, ratio(moments), disparity
        return (optax.apply_updates(params, updates), state), shown

    @jax.jit
    def stretch(carry: Any, keys: jax.Array, data: Any) -> tuple[Any, Any]:
        carry, shown = jax.lax.scan(lambda c, k: step(c, k, data), carry, keys)
        return carry, jax.tree.map(jnp.mean, shown)

    @jax.jit
    def evaluate(carry: Any, data: Any, test: Any, clean: jax.Array) -> dict[str, jax.Array]:
        params, state = carry
        outputs_of = jax.vmap(predict, (None, 0))
        seen, told = outputs_of(params, test[0]), outputs_of(params, data[0])
        right = jnp.square(seen - clean) if outputs == 1 else seen.argmax(-1) == clean
        risk = theory.population_risk(state)
        _, whole = grad_fn(params, data)
        return {
            "true": mean_loss(params, test),
            "training": mean_loss(params, data),
            "risk": risk.population,
            "gap": risk.gap,
            "change": risk.change,
            "band": risk.band,
            "score": jnp.mean(right.astype(jnp.float32)),
            "gradstop": ratio(whole),
            "answers": told if outputs == 1 else told.argmax(-1),
        }

    def start(seed: int) -> Any:
        params = nnx.split(MLP(sizes, nnx.relu, rngs=nnx.Rngs(params=seed)))[1]
        return params, watched.init(params)

    return Trainer(start, stretch, evaluate)


def ratio(moments: snrgate.Moments) -> jax.Array:
    """The mean of squared gradient over noise, over the parameters that have any."""
    pairs = zip(jax.tree.leaves(moments.mean), jax.tree.leaves(moments.noise), strict=True)
    ratios = [
        (jnp.where(s > 0, jnp.square(m) / jnp.where(s > 0, s, 1), 0), s > 0) for m, s in pairs
    ]
    total = sum(jnp.sum(r) for r, _ in ratios)
    return total / jnp.maximum(sum(jnp.sum(on) for _, on in ratios), 1)


def one_run(study: Study, at: Trainer, problem: Posed, seed: int, kept: float) -> dict[str, Any]:
    """Train once, and keep the curves. A share of the training examples is held out."""
    x, y = (np.asarray(a) for a in problem.train)
    n = int(len(x) * kept)
    data, held = (x[:n], y[:n]), (x[n:], y[n:]) if kept < 1 else problem.test
    carry, rows, last = at.start(seed), [], None
    stream = jax.random.key(seed)
    for stop in range(study.eval_every, study.steps + 1, study.eval_every):
        keys = jax.random.split(jax.random.fold_in(stream, stop), study.eval_every)
        carry, (loss, evidence, disparity) = at.stretch(carry, keys, data)
        row = at.evaluate(carry, data, problem.test, problem.clean)
        answers = np.asarray(row.pop("answers"))
        row |= {"loss": loss, "evidence": evidence, "disparity": disparity}
        if kept < 1:
            row["held"] = at.evaluate(carry, data, held, held[1])["true"]
        row["changed"] = 0.0 if last is None else np.mean(answers != last)
        rows.append({"step": stop} | {k: round(float(v), 6) for k, v in row.items()})
        last = answers
    return {"rows": rows}


def measure(study: Study) -> dict[Key, Any]:
    """All runs, each measured once."""
    results = Results(study.out / "runs.jsonl")
    there = results.read()
    settings = {k: v for k, v in dataclasses.asdict(study).items() if k not in ("out", "tasks")}
    settings = {
        k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if k != "seeds"
    }
    found = {}
    for name in study.tasks:
        for optimizer in OPTIMIZERS:
            for part, kept in (("whole", 1.0), ("held-out", 0.9)):
                made = None
                for seed in study.seeds:
                    key = Key(part, f"{name}/{optimizer}", seed)
                    if there.get(key, {}).get("settings") != settings:
                        problem = posed(name, seed)
                        n, features = problem.train[0].shape
                        made = made or trainer(
                            study,
                            optimizer,
                            features,
                            problem.outputs,
                            int(n * kept),
                            problem.batch_size,
                        )
                        began = time.perf_counter()
                        there[key] = one_run(study, made, problem, seed, kept)
                        there[key] |= {"settings": settings}
                        results.update({key: there[key]})
                        print(key, f"{time.perf_counter() - began:.0f} s", flush=True)
                    found[key] = there[key]
    return found


def main(study: Study) -> None:
    """Measure, and write the page and the picture."""
    found = measure(study)
    folder = RunFolder(study.out)
    runs = {key: result["rows"] for key, result in found.items()}
    folder.write("README.md", theory_rules.page(runs, statistics.median).encode())
    folder.write("curves.png", theory_rules.picture(runs))


if __name__ == "__main__":
    main(tyro.cli(Study))
