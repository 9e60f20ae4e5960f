"""One optimizer on one task: the steps, and the folder that a run leaves behind."""

import dataclasses
import math
import shlex
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils

from snrgate.errors import InputError
from snrgate.tasks.task import Task, require
from snrgate.training.checkpoint import open_checkpoints
from snrgate.training.folder import RunFolder
from snrgate.training.interrupt import Stopped, deferred_interrupts
from snrgate.training.loop import TrainState, init, make_stretch
from snrgate.training.optimizers import Optimizer
from snrgate.training.progress import progress_bar

__all__ = [
    "MOST_IN_A_ROW",
    "Row",
    "TaskSettings",
    "Training",
    "fit",
    "reached",
    "run",
    "start",
    "summary",
]

Row = dict[str, Any]
"""One line of the metrics."""

MOST_IN_A_ROW = 100
"""Batches without a finite gradient after which a run is given up."""


@runtime_checkable
class TaskSettings(Protocol):
    """What a run needs of a task's settings, a frozen dataclass."""

    def make(self, seed: int) -> Task:
        """The task, with the data, the noise and the initial weights of a seed."""
        ...


Learned = TypeVar("Learned", bound=TaskSettings)
Learner = TypeVar("Learner", bound=Optimizer)


@dataclasses.dataclass(frozen=True)
class Training(Generic[Learned, Learner]):
    """One optimizer on one task."""

    task: Learned
    """What is learned."""
    optimizer: Learner
    """By what."""
    steps: int
    """Training steps."""
    batch_size: int
    """Examples a step, of each kind there is."""
    eval_every: int = 100
    """Steps between evaluations."""
    seed: int = 0
    """Of the data, the initial weights and the batches."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, rounded up to an evaluation."""
    until: float | None = None
    """Stop once the task's metric is as good as this."""
    devices: int = 1
    """Devices to split every batch over, of all processes together."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be trained with."""
        require(
            self,
            steps=(self.steps >= 1, "at least 1"),
            batch_size=(self.batch_size >= 2, "at least 2"),
            eval_every=(self.eval_every >= 1, "at least 1"),
            checkpoint_every=(self.checkpoint_every >= 1, "at least 1"),
            devices=(
                self.devices >= 1 and self.batch_size % self.devices == 0,
                f"a divisor of batch_size = {self.batch_size}",
            ),
            seed=(0 <= self.seed < 2**32, "in [0, 2**32)"),
        )


def fit(
    settings: Training, task: Task, state: TrainState | None = None
) -> Iterator[tuple[TrainState, Row]]:
    """Train to the last step, pausing at every evaluation.

    Args:
        settings: of the run.
        task: what ``settings.task`` makes of its seed.
        state: where to go on from, default the start.

    Yields:
        The state and a row of metrics: ``step``, ``loss``, ``gate_fraction`` where there is a
        gate, ``skipped`` where batches have been, and the task's own metrics. The run ends early
        where :func:`reached` says so, and after :data:`MOST_IN_A_ROW` batches in a row without
        a finite gradient, with a loss that is no number.
    """
    tx, gradients = settings.optimizer.build(task)
    mesh = _mesh(settings.devices)
    stretch = make_stretch(
        gradients,
        tx,
        task.groups,
        batch_size=settings.batch_size,
        seed=settings.seed,
        mesh=mesh,
    )
    state = start(settings, task) if state is None else state
    while (step := int(state.step)) < settings.steps:
        length = min(settings.eval_every - step % settings.eval_every, settings.steps - step)
        state, metrics = stretch(state, length=length)
        row: Row = {"step": step + length}
        row |= {k: float(v) for k, v in (metrics | task.evaluate(state.params)).items()}
        if skipped := int(state.skipped):
            row["skipped"] = skipped
        stuck = int(state.in_a_row) >= MOST_IN_A_ROW
        if stuck:
            row["loss"] = math.nan
        yield state, row
        if stuck or reached(settings, task, row):
            return


def start(settings: Training, task: Task) -> TrainState:
    """The state before the first step, on every device."""
    state = init(task.params, settings.optimizer.build(task).tx)
    mesh = _mesh(settings.devices)
    return state if mesh is None else jax.device_put(state, jax.NamedSharding(mesh, jax.P()))


def _mesh(devices: int) -> jax.sharding.Mesh | None:
    """The devices, in a row; ``None`` for one device in one process."""
    there = jax.device_count()
    if devices == there == 1:
        return None
    if devices != there and (devices > there or jax.process_count() > 1):
        raise InputError(
            f"devices = {devices}, but there are {there}; JAX_NUM_CPU_DEVICES={devices} before the "
            "command makes as many of a CPU"
        )
    if devices == 1:
        return None
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def reached(settings: Training, task: Task, row: Row) -> bool:
    """Whether a run has got where it was to stop."""
    if settings.until is None:
        return False
    sign = 1 if task.higher_is_better else -1
    return sign * row[task.metric] >= sign * settings.until


def run(settings: Training, out: Path, command: str, *, resume: bool = False) -> None:
    """Train, leaving everything in a folder, and say what came of it on standard output.

    The folder gets ``config.json``, ``metrics.jsonl``, ``summary.json`` and ``checkpoints``.

    Args:
        settings: of the run.
        out: the folder.
        command: how the run was called, for what to say after an interruption.
        resume: continue the run in that folder, to the same numbers as if it had not stopped.

    Raises:
        InputError: something that was given cannot be used, the folder cannot be written, or the
            loss is no longer a number.
        Stopped: on SIGINT or SIGTERM, with the run saved.
    """
    began = time.perf_counter()
    task = settings.task.make(settings.seed)
    folder = RunFolder(out)
    again = f"continue with: {command} --out {shlex.quote(str(out))} --resume"
    leads = jax.process_index() == 0  # one process writes, all take part in a checkpoint
    try:
        if leads:
            (folder.reopen if resume else folder.start)(settings, _fingerprint(task))
        multihost_utils.sync_global_devices("the folder is there")
        _train(settings, task, folder, again)
        if not leads:
            return
        came_to = summary(task, folder.rows())
        folder.write_json("summary.json", came_to)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, f"interrupted; {again}") from None
    last, best = came_to["last"], came_to["best"]
    print(
        f"{task.metric} {last[task.metric]:.4f} at step {last['step']}, the last; best "
        f"{best[task.metric]:.4f} at step {best['step']}. "
        f"{_skipped(last)}Took {time.perf_counter() - began:.0f} s. Everything is in {out}."
    )


def _train(settings: Training, task: Task, folder: RunFolder, again: str) -> None:
    with (
        open_checkpoints(folder.path / "checkpoints") as checkpoints,
        deferred_interrupts() as interrupted,
    ):
        begun = checkpoints.restore(start(settings, task))
        before = int(begun.step)
        leads = jax.process_index() == 0
        if leads:
            folder.truncate(before)
        with progress_bar(settings.steps, before) as show:
            for state, row in fit(settings, task, begun):
                step = row["step"]
                if int(state.in_a_row) >= MOST_IN_A_ROW:
                    raise InputError(
                        f"{state.in_a_row} batches in a row up to step {step} gave no finite loss "
                        "and gradient; give a smaller learning_rate, or look at the data. The run "
                        f"is kept up to its last checkpoint; {again}"
                    )
                if leads:
                    folder.append([row])
                show(step, f"loss {row['loss']:.4f}, {task.metric} {row[task.metric]:.4f}")
                due = step // settings.checkpoint_every > before // settings.checkpoint_every
                number = _agreed(interrupted())
                if due or number or step == settings.steps or reached(settings, task, row):
                    checkpoints.save(step, state)
                before = step
                if number and step < settings.steps:
                    raise Stopped(number, f"stopped at step {step}, saved; {again}")


def summary(task: Task, rows: list[Row]) -> dict[str, Row]:
    """The last row of a run, and the best one, which an oracle would have stopped at."""
    sign = 1 if task.higher_is_better else -1
    return {"last": rows[-1], "best": max(rows, key=lambda row: sign * row[task.metric])}


def _agreed(number: int | None) -> int | None:
    """The signal that came to any of the processes: all of them stop, or none."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number or 0)).max()) or None


def _skipped(row: Row) -> str:
    if not (skipped := row.get("skipped")):
        return ""
    return f"{skipped} batches were skipped: their loss or gradient was no finite number. "


def _fingerprint(task: Task) -> int:
    """A checksum of the data: a few examples of every group."""
    examples = [group.sample(jax.random.key(0), 64) for group in task.groups]
    leaves = jax.tree.leaves((examples, task.params))
    return zlib.crc32(b"".join(np.asarray(x).tobytes() for x in leaves))
