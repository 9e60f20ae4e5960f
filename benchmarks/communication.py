"""What a step sends between devices: the collectives of the compiled program.

    python benchmarks/communication.py

One training step on eight devices, with the gate and without. Writes the table
``results/devices/communication.md``.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from workloads import WORKLOADS, Workload

import snrgate

OUT = Path(__file__).parents[1] / "results" / "devices" / "communication.md"
DEVICES = 8
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Step = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


class Collective(NamedTuple):
    """One operation between devices: what it is, and the arrays it makes."""

    kind: str
    shapes: list[tuple[int, ...]]
    bytes: int


def collectives(program: str) -> list[Collective]:
    """The collectives in a compiled program; those in a loop's body are listed once.

    Args:
        program: ``jax.jit(f).lower(...).compile().as_text()``.
    """
    found = []
    for types, kind in re.findall(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", program):
        arrays = [
            (dtype, tuple(map(int, filter(None, sizes.split(",")))))
            for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", types)
        ]
        size = sum(BYTES[dtype] * math.prod(shape) for dtype, shape in arrays)
        found.append(Collective(kind, [shape for _, shape in arrays], size))
    return found


def of_step(step: Step, tx: optax.GradientTransformation, work: Workload, axis: AxisType) -> Any:
    """The collectives of one step of data-parallel training."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(axis,))
    params = jax.device_put(work.params, NamedSharding(mesh, P()))
    batch = jax.device_put(work.batch, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        state = jax.device_put(tx.init(work.params), NamedSharding(mesh, P()))
        return collectives(jax.jit(step).lower(params, state, batch).compile().as_text())


def plain(work: Workload, tx: optax.GradientTransformation) -> Step:
    """AdamW on the mean gradient."""

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(jax.vmap(work.loss, (None, 0))(params, batch))

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def gated(work: Workload, tx: optax.GradientTransformation, block: str) -> Step:
    """The same behind the gate, with exact noise."""
    grad_fn = snrgate.value_and_moments(work.loss, block=block)

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, moments = grad_fn(params, batch)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state, value

    return step


def rows(work: Workload) -> dict[str, list[Collective]]:
    """The collectives of every kind of step."""
    adamw = optax.adamw(1e-3)
    unit, parameter = (snrgate.adamw(1e-3, block=b) for b in ("unit", "parameter"))
    by_unit, by_parameter = gated(work, unit, "unit"), gated(work, parameter, "parameter")
    return {
        "AdamW": of_step(plain(work, adamw), adamw, work, AxisType.Auto),
        "gated, a unit": of_step(by_unit, unit, work, AxisType.Explicit),
        "gated, a parameter": of_step(by_parameter, parameter, work, AxisType.Explicit),
        "gated, a unit, Auto mesh": of_step(by_unit, unit, work, AxisType.Auto),
    }


TEXT = """\
# What a step sends

    python benchmarks/communication.py

The collectives in the compiled program of one training step on {devices} devices, the batch spread
over them, the parameters whole on each. Bytes are those of the arrays that travel, for each
parameter of the model (a gradient in float32 is 4); what stands in a loop's body counts once. AdamW
reduces the gradients of the PINN's two uses of a kernel one by one. jax {version}, CPU.

| model | parameters | step | all-reduces | bytes | other collectives | bytes |
|:--|--:|:--|--:|--:|--:|--:|
"""


def main() -> None:
    """Compile every step, and write the table."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    lines = []
    for name, make in WORKLOADS.items():
        work = make()
        numbers = sum(x.size for x in jax.tree.leaves(work.params))
        found = rows(work)
        for label, every in found.items():
            reduces = [c for c in every if c.kind == "all-reduce"]
            others = [c for c in every if c.kind != "all-reduce"]
            lines.append(
                f"| {name} | {numbers:,} | {label} | {len(reduces)} "
                f"| {sum(c.bytes for c in reduces) / numbers:.2f} "
                f"| {len(others)} | {sum(c.bytes for c in others) / numbers:.2f} |"
            )
            print(lines[-1], flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(TEXT.format(devices=DEVICES, version=jax.__version__) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
