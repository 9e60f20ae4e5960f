"""What kernels and records cost: processor time, and the largest that fits into 8 GiB.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false \
        python benchmarks/theory_cost.py

One thread. Times are of the second call of a compiled program. The time at 8 GiB is scaled from
the largest size that was measured, by the operations ``n * n * p``. Writes
``results/theory/cost.md``.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from snrgate import theory
from snrgate.lab.training.folder import RunFolder
from snrgate.models.mlp import MLP
from snrgate.theory.limits import MEMORY


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of kernels and records."""

    examples: tuple[int, ...] = (100, 200)
    """Numbers of examples."""
    width: int = 200
    """Number of units in each of two hidden layers."""
    out: Path = Path("results/theory")
    """Folder of the table."""


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of the second call."""
    jax.block_until_ready(call())
    began = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - began


def main(cost: Cost) -> None:
    """Measure and write."""
    graph, params = nnx.split(MLP((8, cost.width, cost.width, 1), nnx.tanh, rngs=nnx.Rngs(0)))
    p = sum(leaf.size for leaf in jax.tree.leaves(params))

    def f(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)[0]

    rng = np.random.default_rng(0)
    lines, last = [], {}
    for n in cost.examples:
        x = jnp.asarray(rng.normal(size=(n, 8)), jnp.float32)
        y = jnp.sign(x[:, 0])

        def recorded(steps: int, x: Any = x, y: Any = y) -> float:
            began = time.process_time()
            run = theory.record(
                f, lambda u, y: (u - y) ** 2 / 2, optax.sgd(0.1), params, (x, y), x, steps=steps
            )
            jax.block_until_ready(run.record.gramian)
            return time.process_time() - began

        kernel = jax.jit(lambda params, x=x: theory.ntk(f, params, x))
        product = jax.jit(lambda params, v, x=x: theory.ntk_product(f, params, x)(v))
        last = {
            "kernel": seconds(lambda kernel=kernel: kernel(params)),
            "product with a vector": seconds(lambda product=product, y=y: product(params, y)),
            "step of a record": (recorded(12) - recorded(2)) / 10,
        }
        for what, took in last.items():
            lines.append(f"| {what} | {n} | {p:,} | {1000 * took:.1f} ms |")
    numbers = MEMORY // 4
    most = {"kernel": numbers, "step of a record": numbers // 7}
    n = cost.examples[-1]
    lines += [
        f"| {what}, largest in 8 GiB | 1,000 | {size // 1000:,} | "
        f"{last[what] * 1000**2 * (size // 1000) / (n * n * p):.0f} s, scaled |"
        for what, size in most.items()
    ]
    head = [
        "# What kernels and records cost",
        "",
        "`OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python "
        "benchmarks/theory_cost.py`",
        "",
        "Processor time with one thread, float32, one output. A record has as many queries as",
        "examples, and holds about seven matrices of the size of the Jacobian. Beyond 8 GiB both",
        "are refused before memory is taken, and a kernel is put together from blocks before that.",
        "",
        "| what | examples | parameters | time |",
        "|:--|--:|--:|--:|",
    ]
    cost.out.mkdir(parents=True, exist_ok=True)
    RunFolder(cost.out).write("cost.md", ("\n".join(head + lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Cost))
