"""What a gated training step costs: whole runs of the study's tasks, beside plain AdamW.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/gate.py

One thread, so that processor time is what the work takes. Every task is trained by AdamW, by the
gate with units, by the gate with kernels and by SOAP behind it. Stretches of 100 steps are timed in
turns, after the first 100. Times are medians, as ratios to AdamW's of the same round. Memory is
that of the compiled stretch, and of the state of the optimizer. Writes ``results/gate/README.md``.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro

from snrgate.lab.study.rows import ROWS
from snrgate.lab.training.loop import init, make_stretch
from snrgate.lab.training.optimizers import AdamW, Gated, Soap

OPTIMIZERS: dict[str, AdamW] = {
    "AdamW": AdamW(),
    "units": Gated(),
    "kernels": Gated(block="kronecker", fitted=0.0),
    "soap": Soap(),
}
STEPS = 100


@dataclasses.dataclass(frozen=True)
class Study:
    """Cost of gated training steps."""

    rows: tuple[str, ...] = (
        "digits-40",
        "table",
        "lorenz-40",
        "camera-20",
        "advection",
        "language",
    )
    """Rows of the study whose tasks are trained."""
    rounds: int = 5
    """Number of times that each optimizer trains a stretch."""
    out: Path = Path("results/gate")
    """Folder of the results."""


def measured(row: str, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds, bytes of the compiled stretch and numbers in the state, for each optimizer."""
    training = ROWS[row].base
    runs: dict[str, Any] = {}
    for name, optimizer in OPTIMIZERS.items():
        task = training.task.make(0)
        built = optimizer.build(task)
        make = functools.partial(make_stretch, batch_size=training.batch_size, seed=0)
        stretch: Callable[..., Any] = make(built.gradients, built.tx, task.groups)
        state = init(task.params, built.tx)
        compiled = stretch.lower(state, length=STEPS).compile()
        state, _ = jax.block_until_ready(compiled(state))
        numbers = sum(x.size for x in jax.tree.leaves(state.opt_state))
        runs[name] = [compiled, state, numbers, []]
    for _ in range(rounds):
        for run in runs.values():
            began = time.process_time()
            run[1], _ = jax.block_until_ready(run[0](run[1]))
            run[3].append(time.process_time() - began)
    plain = runs["AdamW"][3]
    parameters = sum(x.size for x in jax.tree.leaves(runs["AdamW"][1].params))
    return {
        name: {
            "time": statistics.median(t / p for t, p in zip(times, plain, strict=True)),
            "temporary": compiled.memory_analysis().temp_size_in_bytes / 2**20,
            "state": numbers / parameters,
        }
        for name, (compiled, _, numbers, times) in runs.items()
    }


def main(study: Study) -> None:
    """Measure all rows and write the table."""
    lines = [
        "# What a gated training step costs",
        "",
        "`python benchmarks/gate.py` with one thread. Processor time of whole training steps as a",
        "ratio to AdamW's (median of rounds in turns, after the first 100 steps), temporary memory",
        "of the compiled stretch in MiB, and numbers in the state of the optimizer a parameter.",
        "",
        "| row | optimizer | time | memory | state |",
        "|:--|:--|--:|--:|--:|",
    ]
    for row in study.rows:
        for name, values in measured(row, study.rounds).items():
            numbers = f"{values['time']:.2f} | {values['temporary']:.1f} | {values['state']:.1f}"
            lines.append(f"| {row} | {name} | {numbers} |")
            print(lines[-1], flush=True)
    study.out.mkdir(parents=True, exist_ok=True)
    (study.out / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Study))
