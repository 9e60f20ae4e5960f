"""What a twin costs: a step of a run and its twin side by side, beside a step of the run alone.

    OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/twin_cost.py

Medians of interleaved calls on one core, and the compiler's own count of memory: the states, which
are two, and the temporary memory. Writes ``results/twin/cost.md``.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import workloads

import snrgate
from snrgate import risk

OUT = Path(__file__).parents[1] / "results" / "twin" / "cost.md"
CALLS = 25
CASES = {
    "MLP for pixels, batch 1,024": lambda: workloads.coordinate(),
    "PINN, batch 512": lambda: workloads.pinn(),
    "transformer for division, batch 128": lambda: workloads.grokking(128),
    "language model, 4 x 64 tokens": lambda: workloads.gpt(4, 64, 128, 2),
}
GATES = {"AdamW": None, "unit": "unit", "kronecker": "kronecker"}


def ratios(work: workloads.Workload, block: str | None) -> tuple[float, float, float]:
    """Time, state and temporary memory of both, as ratios to those of the run alone."""
    if block is None:
        tx = optax.with_extra_args_support(optax.adamw(1e-3))
    else:
        tx = snrgate.adamw(1e-3, block=block, dataset_size=10_000)
    grad_fn = snrgate.value_and_moments(work.loss, block=block or "unit")

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        if block is None:
            mean = jax.grad(lambda p: jax.vmap(work.loss, (None, 0))(p, batch).mean())(params)
            updates, state = tx.update(mean, state, params)
        else:
            _, moments = grad_fn(params, batch, measure=snrgate.measures_next(state))
            updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state

    alone = work.params, tx.init(work.params)
    both = risk.stacked(alone)
    calls = [
        (jax.jit(step).lower(alone, work.batch).compile(), alone),
        (jax.jit(jax.vmap(step, (0, None))).lower(both, work.batch).compile(), both),
    ]
    seconds = np.empty((CALLS, 2))
    carries = [carry for _, carry in calls]
    for call in range(-2, CALLS):  # the first two are not counted
        for i, (compiled, _) in enumerate(calls):
            began = time.perf_counter()
            carries[i] = jax.block_until_ready(compiled(carries[i], work.batch))
            seconds[max(call, 0), i] = time.perf_counter() - began
    state, temporary = (
        [getattr(compiled.memory_analysis(), name) for compiled, _ in calls]
        for name in ("output_size_in_bytes", "temp_size_in_bytes")
    )
    return (
        float(np.median(seconds[:, 1] / seconds[:, 0])),
        state[1] / state[0],
        temporary[1] / temporary[0],
    )


def main() -> None:
    """Measure all cases and write the table."""
    lines = [
        "# What a twin costs",
        "",
        "    OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/twin_cost.py",
        "",
        "A step of a run and its twin, mapped over both by `jax.vmap`, as ratios to a step of the",
        "run alone, on one core. Targets are those of the run, which costs the same.",
        "",
        "| model | optimizer | time | state | temporary memory |",
        "|:--|:--|--:|--:|--:|",
    ]
    for name, make in CASES.items():
        for gate, block in GATES.items():
            cells = " | ".join(f"{x:.2f}" for x in ratios(make(), block))
            lines.append(f"| {name} | {gate} | {cells} |")
            print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
