"""What the moments cost where a step is small, and how long their programs compile.

    OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/small.py

Ratios to ``jax.value_and_grad`` of the mean loss. Compiling is all that precedes the first result:
the trace, the lowering and the compilation; a median of interleaved runs without a cache. Steps are
the fastest of many interleaved calls, which other work on the machine disturbs least. Writes
``results/moments/small.md``.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import workloads
from flax import nnx

import snrgate
from snrgate.models.mlp import MLP

OUT = Path(__file__).parents[1] / "results" / "moments" / "small.md"
BLOCKS = ("unit", "parameter")
COMPILED, ROUNDS, CALLS = 5, 300, 5


def mlp(batch_size: int = 32, sizes: tuple[int, ...] = (64, 256, 256, 10)) -> workloads.Workload:
    """A classifier of digits."""
    return _classifier(MLP(sizes, nnx.relu, rngs=nnx.Rngs(params=0)), (batch_size, sizes[0]))


def cnn(batch_size: int = 32) -> workloads.Workload:
    """Two convolutions with group normalisation, and a dense layer."""

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
            self.second = nnx.Conv(16, 32, (3, 3), rngs=rngs)
            self.norm = nnx.GroupNorm(32, num_groups=8, rngs=rngs)
            self.head = nnx.Linear(32 * 4 * 4, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.avg_pool(nnx.relu(self.first(x))[None], (2, 2), (2, 2))[0]
            return self.head(nnx.relu(self.norm(self.second(x))).reshape(-1))

    return _classifier(Net(nnx.Rngs(params=0)), (batch_size, 8, 8, 1))


def _classifier(model: nnx.Module, shape: tuple[int, ...]) -> workloads.Workload:
    graph, params = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal(shape), jnp.float32)

    def loss(params: Any, example: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(example[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, example[1])

    return workloads.Workload(params, (images, jnp.asarray(rng.integers(0, 10, shape[0]))), loss)


def functions(work: workloads.Workload) -> list[Callable[..., Any]]:
    """The plain gradient, and the moments of both blocks."""

    def mean(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(jax.vmap(work.loss, (None, 0))(params, batch))

    return [
        jax.value_and_grad(mean),
        *(snrgate.value_and_moments(work.loss, block=block) for block in BLOCKS),
    ]


def compiling(work: workloads.Workload) -> list[float]:
    """Seconds of a plain gradient until its first result, and the ratios of both moments."""
    seconds = []
    for _ in range(COMPILED):
        one = []
        for function in functions(work):
            jax.clear_caches()
            began = time.perf_counter()
            jax.jit(function).lower(work.params, work.batch).compile()
            one.append(time.perf_counter() - began)
        seconds.append(one)
    plain, *moments = np.array(seconds).T
    return [float(np.median(plain)), *(float(np.median(m / plain)) for m in moments)]


def stepping(work: workloads.Workload) -> list[float]:
    """Microseconds of a plain gradient, and the ratios of both moments and of whole steps."""
    plain, *moments = functions(work)
    adamw = optax.adamw(1e-3)

    def plain_step(params: Any, state: Any, batch: Any) -> Any:
        _, gradient = plain(params, batch)
        updates, state = adamw.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def gated_step(grad_fn: Any, tx: Any, params: Any, state: Any, batch: Any) -> Any:
        _, found = grad_fn(params, batch)
        updates, state = tx.update(found.mean, state, params, **found.extra_args())
        return optax.apply_updates(params, updates), state

    gates = [snrgate.adamw(1e-3, block=block, dataset_size=1000) for block in BLOCKS]
    calls = [(jax.jit(f), (work.params, work.batch)) for f in (plain, *moments)]
    calls.append((jax.jit(plain_step), (work.params, adamw.init(work.params), work.batch)))
    for grad_fn, tx in zip(moments, gates, strict=True):
        step = jax.jit(lambda p, s, b, f=grad_fn, tx=tx: gated_step(f, tx, p, s, b))
        calls.append((step, (work.params, tx.init(work.params), work.batch)))
    fastest = [np.inf] * len(calls)
    for _ in range(ROUNDS):
        for i, (call, args) in enumerate(calls):
            began = time.perf_counter()
            for _ in range(CALLS):
                done = call(*args)
            jax.block_until_ready(done)
            fastest[i] = min(fastest[i], (time.perf_counter() - began) / CALLS)
    gradient, *of_moments, step, of_unit, of_parameter = fastest
    ratios = [t / gradient for t in of_moments] + [of_unit / step, of_parameter / step]
    return [gradient * 1e6, *map(float, ratios)]


def main() -> None:
    """Measure all cases and write the tables."""
    layers = mlp(32, (32,) * 97)
    cases = {
        "MLP of 3 layers": mlp(),
        "CNN of 3 layers": cnn(),
        "transformer of 12 layers": workloads.gpt(4, 32, 64, 12),
        "MLP of 96 layers, unrolled": layers,
    }
    lines = [
        "\n## Small steps, and compiling\n",
        "    OPENBLAS_NUM_THREADS=1 taskset -c 0 python benchmarks/small.py\n",
        "All ratios are to `jax.value_and_grad` of the mean loss, or to a step of AdamW with it,",
        "on one core. Compiling is all that precedes the first result.\n",
        "| until the first result | plain, s | a unit | a parameter |",
        "|:--|--:|--:|--:|",
    ]
    for name, work in cases.items():
        lines.append(f"| {name} | {' | '.join(f'{x:.2f}' for x in compiling(work))} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "| batch of 32 | plain, µs | moments, a unit | a parameter | step, a unit | a parameter |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, work in {"MLP, 64-256-256-10": mlp(), "CNN, 8 x 8 pixels": cnn()}.items():
        micros, *ratios = stepping(work)
        lines.append(f"| {name} | {micros:.0f} | {' | '.join(f'{x:.2f}' for x in ratios)} |")
        print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
