"""What the gate would cost on many devices: a plan on paper, from figures of compiled programs.

    python benchmarks/plan.py

State and communication are counted on the abstract parameters of each model; operations are those
of a compiled small model, a parameter and an example. Writes ``results/devices/plan.md``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from workloads import gpt

import snrgate
from snrgate.models.transformer import Transformer

OUT = Path(__file__).parents[1] / "results" / "devices" / "plan.md"
DEVICES = (256, 4096)
LENGTH = 2048  # tokens of an example
COMPILED = (64, 128)  # tokens of those that are compiled
CUT = 16  # devices of a tensor-parallel group
ADAMW = "AdamW"
OPTIMIZERS = {
    ADAMW: optax.adamw(1e-3),
    "gated, a unit": snrgate.adamw(1e-3, block="unit"),
    "gated, a parameter": snrgate.adamw(1e-3, block="parameter"),
}
BLOCKS = {"gated, a unit": "unit", "gated, a parameter": "parameter"}


class Model(NamedTuple):
    """A transformer that is not built."""

    width: int
    depth: int

    def params(self) -> Any:
        """Shapes and dtypes of its parameters, float32."""

        def make() -> Transformer:
            return Transformer(
                32_000, LENGTH, width=self.width, depth=self.depth, heads=16, rngs=nnx.Rngs(0)
            )

        return nnx.state(nnx.eval_shape(make), nnx.Param)


MODELS = {"1 B": Model(2048, 18), "70 B": Model(8192, 86)}


def bytes_of(tree: Any) -> int:
    """The size of arrays, abstract or not."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def state_bytes(params: Any) -> dict[str, int]:
    """The size of each optimizer's state."""
    return {name: bytes_of(jax.eval_shape(tx.init, params)) for name, tx in OPTIMIZERS.items()}


def moment_bytes(params: Any) -> dict[str, int]:
    """The size of what is reduced over devices: the gradient, and the second moment beside it."""
    gradient = bytes_of(params)
    noise = {
        name: bytes_of(optax.tree.get(jax.eval_shape(OPTIMIZERS[name].init, params), "noise"))
        for name in BLOCKS
    }
    return {ADAMW: gradient, **{name: gradient + size for name, size in noise.items()}}


def operations(length: int) -> dict[str, float]:
    """Operations of a small compiled model, an example and a parameter, by what is computed.

    Four examples are one turn of every loop over examples, so that XLA counts all of them.
    """
    work = gpt(batch_size=4, length=length)
    numbers = sum(x.size for x in jax.tree.leaves(work.params))

    def mean_loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(jax.vmap(work.loss, (None, 0))(params, batch))

    programs = {ADAMW: jax.grad(mean_loss)} | {
        name: snrgate.value_and_moments(work.loss, block=block) for name, block in BLOCKS.items()
    }
    return {
        name: jax.jit(f).lower(work.params, work.batch).compile().cost_analysis()["flops"]
        / (4 * numbers)
        for name, f in programs.items()
    }


def update_operations() -> dict[str, float]:
    """Operations of each optimizer's update, a parameter and step."""
    params = {"kernel": jnp.zeros((1024, 1024))}
    found = {}
    for name, tx in OPTIMIZERS.items():
        extra = {}
        if name in BLOCKS:
            noise = optax.tree.get(tx.init(params), "noise")
            extra = {"sum_sq_diff_grads": noise, "sample_size": jnp.float32(2)}
        update = jax.jit(tx.update).lower(params, tx.init(params), params, **extra).compile()
        found[name] = update.cost_analysis()["flops"] / params["kernel"].size
    return found


def narrow_noise(steps: int = 2000) -> tuple[float, float]:
    """A running average of noise around 1 in bfloat16: its error, and how far it scatters anyway.

    Returns:
        Root mean square over 1,000 averages: of the difference between bfloat16 and float32, and
        of the difference between float32 and 1.
    """
    noises = jax.random.chisquare(jax.random.key(0), 8, shape=(steps, 1000)) / 8

    def average(dtype: Any) -> jax.Array:
        def step(s: jax.Array, n: jax.Array) -> tuple[jax.Array, None]:
            return (0.99 * s.astype(jnp.float32) + 0.01 * n).astype(dtype), None

        return jax.lax.scan(step, jnp.ones(1000, dtype), noises)[0].astype(jnp.float32)

    wide, narrow = average(jnp.float32), average(jnp.bfloat16)
    return tuple(float(jnp.sqrt(jnp.mean(jnp.square(x)))) for x in (narrow - wide, wide - 1))


TEXT = """\
# The gate on many devices, on paper

    python benchmarks/plan.py

In float32. *State* of the optimizer on a device, sharded over all of them. *Sent* by a device in a
step: a ring all-reduce of the gradient and of what the gate adds. *Held* on a device that has the
whole model: parameters, gradient and second moments of the batch; and the same with every kernel
cut over {cut} tensor-parallel devices.

| model | devices | step | state, MB | sent, GB | held, GB | held when cut, GB |
|:--|--:|:--|--:|--:|--:|--:|
{table}

| operations a parameter | {steps} |
|:--|--:|--:|--:|
| gradient or moments, an example of {short} tokens | {at_short} |
| the same, {long} tokens | {at_long} |
| update, once a step | {update} |

On a straight line through the two lengths, the moments of {length:,} tokens cost {share} of the
gradient's operations more (a unit, a parameter).

A running average of a noise around 1 in bfloat16 instead of float32, `noise_decay=0.99`: off by
{error:.3f} (root mean square), where the average itself scatters by {scatter:.3f}.
"""


def main() -> None:
    """Count, and write the page."""
    lines = []
    for name, model in MODELS.items():
        params = model.params()
        states, moments = state_bytes(params), moment_bytes(params)
        for devices in DEVICES:
            for step in OPTIMIZERS:
                sent = 2 * (devices - 1) / devices * moments[step]
                held = bytes_of(params) + moments[step]
                lines.append(
                    f"| {name} | {devices:,} | {step} | {states[step] / devices / 1e6:,.1f} "
                    f"| {sent / 1e9:,.2f} | {held / 1e9:,.1f} | {held / CUT / 1e9:,.1f} |"
                )
    short, long = (operations(length) for length in COMPILED)

    def at(step: str, length: int) -> float:
        slope = (long[step] - short[step]) / (COMPILED[1] - COMPILED[0])
        return short[step] + slope * (length - COMPILED[0])

    def cells(values: dict[str, float]) -> str:
        return " | ".join(f"{values[name]:,.0f}" for name in OPTIMIZERS)

    error, scatter = narrow_noise()
    text = TEXT.format(
        table="\n".join(lines),
        cut=CUT,
        steps=" | ".join(OPTIMIZERS),
        short=COMPILED[0],
        long=COMPILED[1],
        length=LENGTH,
        at_short=cells(short),
        at_long=cells(long),
        update=cells(update_operations()),
        share=" and ".join(f"{at(n, LENGTH) / at(ADAMW, LENGTH) - 1:.1%}" for n in BLOCKS),
        error=error,
        scatter=scatter,
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
