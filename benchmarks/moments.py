"""What the moments cost: one training step with each way of having them, against plain AdamW.

    python benchmarks/moments.py

Times are medians of calls interleaved in random order, as ratios to the plain step of the same
round, with their quartiles; memory and FLOPs are those of the compiled step (a loop's body counts
once there). Writes one JSON file a workload into ``results/moments`` and the table
``results/moments/README.md``.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from optax.experimental import aggregating
from peers import backpack_times, jax_privacy_moments
from workloads import WORKLOADS, Workload

import snrgate


@dataclasses.dataclass(frozen=True)
class Study:
    """Cost of a training step."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """Which models."""
    seconds: float = 15.0
    """Time to spend on the calls of each half of one workload."""
    microbatch: int = 32
    """Examples at once, where it is microbatched."""
    out: Path = Path("results/moments")
    """Folder of the results."""


PLAIN = "AdamW"
Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Rows = dict[str, dict[str, float]]
"""Measurements by variant."""


def _plain(tx: optax.GradientTransformation, loss: Callable[..., Any]) -> Step:
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    return step


def _exact(tx: optax.GradientTransformation, loss: Callable[..., Any], **how: Any) -> Step:
    grad_fn = snrgate.value_and_moments(loss, **how)

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        _, moments = grad_fn(params, batch)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state

    return step


def _mean_only(tx: optax.GradientTransformation, loss: Callable[..., Any]) -> Step:
    """The factored transform with the second moment left out by the compiler."""
    grad_fn = snrgate.value_and_moments(loss, method="factored", block="parameter")

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grad_fn(params, batch)[1].mean, state, params)
        return optax.apply_updates(params, updates), state

    return step


def _aggregating(loss: Callable[..., Any]) -> tuple[optax.GradientTransformation, Step]:
    tx = aggregating.process(
        optax.identity(),
        aggregating.get_per_element_mean_and_sum_sq_diff_grads(),
        snrgate.adamw(1e-3, block="parameter"),
        aggregator_has_aux=True,
    )

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        grads = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return tx, step


def _jax_privacy(tx: optax.GradientTransformation, sums: Callable[..., Any]) -> Step:
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        size = jax.tree.leaves(batch)[0].shape[0]
        total, squares = sums(params, batch)
        mean = jax.tree.map(lambda s: s / size, total)
        spread = jax.tree.map(lambda q, m: q - size * m**2, squares, mean)
        updates, state = tx.update(
            mean, state, params, sum_sq_diff_grads=spread, sample_size=jnp.asarray(float(size))
        )
        return optax.apply_updates(params, updates), state

    return step


def variants(work: Workload, microbatch: int) -> dict[str, tuple[Any, Step]]:
    """Every way of making a step: the optimizer and the step."""
    plain = optax.adamw(1e-3)
    unit = snrgate.adamw(1e-3, block="unit")
    single = snrgate.adamw(1e-3, block="parameter")
    streaming = snrgate.adamw(1e-3, block="unit", noise="streaming")

    def mapped(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(jax.vmap(work.loss, (None, 0))(params, batch))

    mean = work.batched_loss or mapped
    number = {"block": "parameter"}
    micro = {"method": "vmap", "microbatch_size": microbatch, **number}
    by_jax_privacy = jax_privacy_moments(work.loss)
    peers = {}
    if by_jax_privacy is not None:
        peers["gated, exact by jax_privacy"] = (single, _jax_privacy(single, by_jax_privacy))
    return {
        PLAIN: (plain, _plain(plain, mean)),
        "AdamW, the transform without second moments": (plain, _mean_only(plain, work.loss)),
        "gated, streaming": (streaming, _plain(streaming, mean)),
        "gated, exact a unit": (unit, _exact(unit, work.loss, block="unit")),
        "gated, exact a parameter": (single, _exact(single, work.loss, **number)),
        "gated, exact by vmap": (single, _exact(single, work.loss, method="vmap", **number)),
        "gated, exact by vmap, microbatched": (single, _exact(single, work.loss, **micro)),
        "gated, exact by optax aggregating": _aggregating(work.loss),
        **peers,
    }


def measure(work: Workload, calls: dict[str, tuple[Any, Step]], seconds: float) -> Rows:
    """Compile and time some variants, the first of them being what the others are compared with.

    Args:
        work: the model.
        calls: as :func:`variants` gives them.
        seconds: time to spend on the calls.
    """
    rows: Rows = {}
    compiled = {}
    for label, (tx, step) in calls.items():
        state = tx.init(work.params)
        lowered = jax.jit(step).lower(work.params, state, work.batch)
        began = time.perf_counter()
        ready = lowered.compile()
        rows[label] = {
            "compile_seconds": time.perf_counter() - began,
            "flops": ready.cost_analysis()["flops"],
            "temp_bytes": ready.memory_analysis().temp_size_in_bytes,
        }
        compiled[label] = (ready, state)
        jax.block_until_ready(ready(work.params, state, work.batch))
    plain = next(iter(calls))
    times: dict[str, list[float]] = {label: [] for label in calls}
    began, order = time.perf_counter(), np.random.default_rng(0)
    while time.perf_counter() - began < seconds or len(times[plain]) < 5:
        for label in order.permutation(list(calls)):
            ready, state = compiled[label]
            start = time.perf_counter()
            jax.block_until_ready(ready(work.params, state, work.batch))
            times[label].append(time.perf_counter() - start)
    for label, row in rows.items():
        row |= _summary(times[label], times[plain])
        row["memory"] = row["temp_bytes"] / rows[plain]["temp_bytes"]
        row["work"] = row["flops"] / rows[plain]["flops"]
    return rows


def _summary(times: list[float], plain: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(np.array(times) / np.array(plain), [0.25, 0.5, 0.75])
    return {
        "milliseconds": 1e3 * float(np.median(times)),
        "time": middle,
        "time_low": low,
        "time_high": high,
    }


def _backpack(work: Workload, seconds: float) -> Rows:
    """BackPACK on the same network, as ratios to PyTorch's own AdamW."""
    kernels = [x for x in jax.tree.leaves(work.params) if x.ndim == 2]
    sizes = (kernels[0].shape[0], *(x.shape[1] for x in kernels))
    times = backpack_times(sizes, len(jax.tree.leaves(work.batch)[0]), seconds)
    if times is None:
        return {}
    plain = next(iter(times.values()))
    return {label: _summary(values, plain) for label, values in times.items()}


def _row(label: str, row: dict[str, float], plain: dict[str, float]) -> str:
    cells = [
        label,
        f"{row['milliseconds']:.1f}",
        f"{row['time']:.2f} ({row['time_low']:.2f} to {row['time_high']:.2f})",
        *("", "", ""),
    ]
    if "flops" in row:  # compiled by XLA
        slower = row["compile_seconds"] / plain["compile_seconds"]
        cells[3:] = f"{row['memory']:.2f}", f"{row['work']:.3f}", f"{slower:.2f}"
    return f"| {' | '.join(cells)} |"


def table(results: dict[str, Rows]) -> str:
    """All workloads as Markdown."""
    lines = []
    for name, rows in results.items():
        lines += [
            f"\n## {name}\n",
            "| step | ms | time (quartiles) | temp memory | FLOPs | compile |",
            "|:--|--:|--:|--:|--:|--:|",
        ]
        lines += [_row(label, row, rows[PLAIN]) for label, row in rows.items()]
    return "\n".join(lines) + "\n"


def main(study: Study) -> None:
    """Measure what is asked for, and write the table of all that has been measured."""
    study.out.mkdir(parents=True, exist_ok=True)
    for name in study.workloads:
        work = WORKLOADS[name]()
        every = variants(work, study.microbatch)
        # Gigabytes of per-example gradients would disturb what is measured beside them.
        by_gradients = ("vmap", "optax", "jax_privacy")
        heavy = {k: v for k, v in every.items() if k == PLAIN or any(n in k for n in by_gradients)}
        light = {k: v for k, v in every.items() if k == PLAIN or k not in heavy}
        # The first to compile the plain step is the one that pays for it.
        rows = measure(work, light, study.seconds)
        rows = measure(work, heavy, study.seconds) | rows
        rows = {label: rows[label] for label in every}
        if name == "coordinate":
            rows |= _backpack(work, study.seconds)
        (study.out / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    results = {p.stem: json.loads(p.read_text()) for p in sorted(study.out.glob("*.json"))}
    text = (
        "# What the moments cost\n\n    python benchmarks/moments.py\n\n"
        "The tables show one training step, as a ratio to plain AdamW, with "
        f"jax {jax.__version__} on CPU. BackPACK\n"
        "is compared with AdamW of PyTorch, and only where no parameter is used twice.\n"
    )
    text += table(results)
    for name in ("kernels.md", "small.md"):  # of benchmarks/kernels.py and benchmarks/small.py
        part = study.out / name
        text += part.read_text() if part.exists() else ""
    (study.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Study))
