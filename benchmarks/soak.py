"""A long run holds at its end what it held at its beginning: memory, arrays, programs.

    python benchmarks/soak.py

Takes 200,000 steps of a tiny network in each of two ways and writes ``results/soak/README.md``.
Fails where anything has grown.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import snrgate
from snrgate.lab.tasks.task import Task, of_data
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training, fit

OUT = Path(__file__).parents[1] / "results" / "soak" / "README.md"
STEPS = 200_000
POINTS = 10
SLACK = 8.0
"""MiB that the process may grow by: its allocator keeps what it has freed."""

traces = 0
compiled = 0


def _count(event: str, duration: float, **_: object) -> None:
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


class Snapshot(NamedTuple):
    """What a process holds after some steps."""

    steps: int
    rss: float
    arrays: int
    programs: int
    traces: int


def snapshot(steps: int) -> Snapshot:
    """Resident memory in MiB, live arrays, programs compiled and traces of the loss so far."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rss = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Snapshot(steps, rss, len(jax.live_arrays()), compiled, traces)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A plane to fit with four hidden units."""

    def make(self, seed: int) -> Task:
        """The task; its loss counts how often it is traced."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((64, 3)).astype(np.float32)
        y = x.sum(1)

        def predict(params, x):
            return jnp.tanh(x @ params["in"]) @ params["out"]

        def loss(params, example):
            global traces
            traces += 1
            return jnp.square(predict(params, example[0]) - example[1])

        @jax.jit
        def evaluate(params):
            return {"error": jnp.mean(jnp.square(predict(params, x) - y))}

        params = {"in": jnp.full((3, 4), 0.1), "out": jnp.full(4, 0.1)}
        return Task(params, (of_data(loss, (x, y)),), evaluate, "error", higher_is_better=False)


def trained(steps: int) -> Iterator[int]:
    """The package's trainer, evaluating every ten steps."""
    settings = Training(Tiny(), Gated(), steps=steps, batch_size=8, eval_every=10)
    for _, row in fit(settings, settings.task.make(0)):
        yield row["step"]


def by_hand(steps: int) -> Iterator[int]:
    """A step of one's own, called from Python."""
    task = Tiny().make(0)
    (group,) = task.groups
    tx = snrgate.adamw(1e-3, block="unit", dataset_size=group.dataset_size)
    grad_fn = snrgate.value_and_moments(group.loss, block="unit")

    @jax.jit
    def step(params, state, batch):
        loss, moments = grad_fn(params, batch)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state, loss

    params, state = task.params, tx.init(task.params)
    batches = [group.sample(jax.random.key(i), 8) for i in range(16)]
    for i, batch in zip(range(steps), itertools.cycle(batches), strict=False):
        params, state, _ = step(params, state, batch)
        yield i + 1


WAYS = {"`fit`, an evaluation every ten steps": trained, "a jitted step, called": by_hand}


def soak(steps: int) -> dict[str, list[Snapshot]]:
    """Look at the process at ten points of a long run.

    Args:
        steps: of each way, a multiple of 100.

    Raises:
        RuntimeError: something has grown since the first point.
    """
    jax.monitoring.register_event_duration_secs_listener(_count)
    seen = {}
    for name, way in WAYS.items():
        points = [snapshot(i) for i in way(steps) if i % (steps // POINTS) == 0]
        first, last = points[0], points[-1]
        if any(point[2:] != first[2:] for point in points) or last.rss > first.rss + SLACK:
            raise RuntimeError(f"{name} has grown from {first} to {last}")
        seen[name] = points
    return seen


def as_markdown(seen: dict[str, list[Snapshot]]) -> str:
    """A table for each way."""
    steps = next(iter(seen.values()))[-1].steps
    lines = [
        "# A long run",
        "",
        "    python benchmarks/soak.py",
        "",
        f"What the process holds during {steps:,} steps of a tiny gated network: resident memory,",
        "live arrays, programs compiled and traces of the loss since the process began.",
        f"jax {jax.__version__}, {jax.default_backend().upper()}.",
    ]
    for name, points in seen.items():
        lines += ["", f"{name[0].upper()}{name[1:]}:", ""]
        lines += ["| steps | MiB | arrays | programs | traces |", "|--:|--:|--:|--:|--:|"]
        lines += [
            f"| {p.steps:,} | {p.rss:.1f} | {p.arrays} | {p.programs} | {p.traces} |"
            for p in points
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = as_markdown(soak(STEPS))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text)
    print(text)
