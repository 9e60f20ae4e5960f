"""What the moments cost where a gradient is no plain product: look-ups, kernels of parameters.

    python benchmarks/kernels.py

Ratios to ``jax.value_and_grad`` of the mean loss: medians of interleaved calls, and the temporary
memory of the compiled functions. Writes ``results/moments/kernels.md``.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import snrgate

OUT = Path(__file__).parents[1] / "results" / "moments" / "kernels.md"
WIDTH, BATCH, ROWS, CALLS = 256, 512, 20_000, 9
NUMBERS = np.random.default_rng(0)
Case = tuple[Callable[..., jax.Array], Any, jax.Array]


def _draw(*shape: int) -> jax.Array:
    return jnp.asarray(NUMBERS.normal(size=shape) / 16, jnp.float32)


def _layers(kernel: Callable[[Any], jax.Array], **shapes: tuple[int, ...]) -> Case:
    """Three layers, each with a kernel made of parameters of these shapes."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for layer in params:
            x = jnp.tanh(x @ kernel(layer))
        return jnp.sum(x**2)

    params = [{name: _draw(*shape) for name, shape in shapes.items()} for _ in range(3)]
    return loss, params, 16 * _draw(BATCH, WIDTH)


def _table(loss: Callable[..., jax.Array]) -> Case:
    return loss, _draw(ROWS, 32), jnp.asarray(NUMBERS.integers(0, ROWS, (128, 8)))


def _transposed(stride: int, size: int, channels: int, outputs: int) -> Case:
    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        out = jax.lax.conv_transpose(x[None], kernel, (stride, stride), "SAME")
        return jnp.sum(jnp.tanh(out) ** 2)

    return loss, _draw(4, 4, channels, outputs), _draw(32, size, size, channels)


def _groups(groups: int, channels: int, outputs: int) -> Case:
    """A convolution of so many groups, each of so many channels."""
    numbers = ("NHWC", "HWIO", "NHWC")

    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        out = jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        return jnp.sum(jnp.tanh(out) ** 2)

    return loss, _draw(3, 3, channels, groups * outputs), _draw(32, 16, 16, groups * channels)


def cases() -> dict[str, Case]:
    """The loss of one example, its parameters and a batch, by name."""
    n = WIDTH
    mask = np.tri(n, dtype=np.float32)
    square, rank = (n, n), 8
    return {
        "`table[i]`": _table(lambda t, e: jnp.sum(jnp.tanh(t[e[0]]) ** 2)),
        "`vmap(table[i])`": _table(
            lambda t, e: jnp.sum(jnp.tanh(jax.vmap(lambda i: t[i])(e)) ** 2)
        ),
        "`dot(table[i], table[j])`": _table(lambda t, e: jnp.dot(t[e[0]], t[e[1]])),
        "`v`": _layers(lambda p: p["v"], v=square),
        "`g * v`": _layers(lambda p: (1 + p["g"]) * p["v"], v=square, g=(n,)),
        "`g * v / norm(v)`": _layers(
            lambda p: (1 + p["g"]) * p["v"] / jnp.linalg.norm(p["v"], axis=0), v=square, g=(n,)
        ),
        "`mask * v`": _layers(lambda p: mask * p["v"], v=square),
        "`w + a @ b`": _layers(
            lambda p: p["w"] + p["a"] @ p["b"], w=square, a=(n, rank), b=(rank, n)
        ),
        "`(v + v.T) / 2`": _layers(lambda p: (p["v"] + p["v"].T) / 2, v=square),
        "transposed convolution, stride 4, 32 to 3": _transposed(4, 7, 32, 3),
        "transposed convolution, stride 4, 32 to 1": _transposed(4, 7, 32, 1),
        "depthwise convolution, 64 channels": _groups(64, 1, 1),
        "depthwise convolution, 32 channels to 64": _groups(32, 1, 2),
        "convolution of 8 groups, 64 channels": _groups(8, 8, 8),
    }


def measure(loss: Callable[..., jax.Array], params: Any, batch: jax.Array) -> list[float]:
    """Time and memory with sums a unit, then a parameter, as ratios to a plain gradient."""

    def mean(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    functions = [jax.value_and_grad(mean)]
    functions += [snrgate.value_and_moments(loss, block=b) for b in ("unit", "parameter")]
    compiled = [jax.jit(f).lower(params, batch).compile() for f in functions]
    times: list[list[float]] = [[] for _ in compiled]
    for call in range(-1, CALLS):  # the first is not counted
        for ready, seconds in zip(compiled, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(ready(params, batch))
            if call >= 0:
                seconds.append(time.perf_counter() - began)
    memory = [ready.memory_analysis() for ready in compiled]
    held = [m.temp_size_in_bytes + m.output_size_in_bytes for m in memory]
    ratios = []
    for seconds, size in zip(times[1:], held[1:], strict=True):
        ratios += [float(np.median(np.array(seconds) / np.array(times[0]))), size / held[0]]
    return ratios


def main() -> None:
    """Measure all cases and write the table."""
    lines = [
        "\n## Look-ups and kernels of parameters\n",
        "    python benchmarks/kernels.py\n",
        "The table shows loss and moments, as ratios to `jax.value_and_grad` of the mean loss. The",
        "memory is that of temporaries and outputs. The kernels are those of three layers of width",
        "256 at a batch of 512; the look-up table has 20,000 rows.\n",
        "| kernel or look-up | time, a unit | memory | time, a parameter | memory |",
        "|:--|--:|--:|--:|--:|",
    ]
    for name, case in cases().items():
        lines.append(f"| {name} | {' | '.join(f'{x:.2f}' for x in measure(*case))} |")
        print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
