"""One optimizer on one task: the settings and the steps."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import jax

from snrgate.lab.errors import InputError
from snrgate.lab.kinds import LATER
from snrgate.lab.tasks.task import Task, require
from snrgate.lab.training.loop import TrainState, init, make_stretch
from snrgate.lab.training.optimizers import Built, Optimizer
from snrgate.lab.training.watch import risk_columns, watched

__all__ = [
    "MOST_IN_A_ROW",
    "Metrics",
    "TaskSettings",
    "Training",
    "fit",
    "reached",
    "start",
    "summary",
]

Metrics = dict[str, Any]
"""The measurements at one step, a line of the metrics."""

MOST_IN_A_ROW = 100
"""Number of batches in a row without a finite gradient after which a run is given up."""


@runtime_checkable
class TaskSettings(Protocol):
    """The settings of a task, as a run needs them: a frozen dataclass."""

    def make(self, seed: int) -> Task:
        """The task, with the data, the noise and the initial weights of a seed."""
        ...


Learned = TypeVar("Learned", bound=TaskSettings)
Learner = TypeVar("Learner", bound=Optimizer)


@dataclasses.dataclass(frozen=True)
class Training(Generic[Learned, Learner]):
    """One optimizer on one task."""

    task: Learned
    """Settings of the task that is learned."""
    optimizer: Learner
    """Settings of the optimizer that learns it."""
    steps: int
    """Number of training steps."""
    batch_size: int
    """Number of examples in the batch of a step, for each kind of examples in the task."""
    eval_every: int = 100
    """Number of steps from one evaluation to the next."""
    seed: int = 0
    """Seed of the data, the initial weights and the batches."""
    checkpoint_every: int = 1000
    """Number of steps from one checkpoint to the next, rounded up to an evaluation."""
    until: float | None = None
    """Value of the metric at which training stops; None trains to the last step."""
    twin: bool = dataclasses.field(default=False, metadata=LATER)
    """Whether a twin run measures the population risk, without held-out data. A second run, and
    for classes a third one, take their time."""
    devices: int = 1
    """Number of devices of all processes together, over which every batch is split."""
    risk: bool = dataclasses.field(default=False, metadata=LATER)
    """Whether to estimate the population risk, as columns of the metrics."""

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
            twin=(not self.twin or self.until is None, "false where until is given"),
            until=(self.until is None or math.isfinite(self.until), "a finite number"),
        )
        for name in ("width", "depth"):
            if getattr(self.task, name, 1) < 1:
                raise InputError(f"task.{name} = {getattr(self.task, name)} must be at least 1")

    def next_evaluation(self, step: int) -> int:
        """The first step after this one at which the metrics are measured."""
        return min(step + self.eval_every - step % self.eval_every, self.steps)


def fit(
    settings: Training, task: Task, state: TrainState | None = None
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train to the last step, pausing at every evaluation.

    Args:
        settings: of the run.
        task: the task of ``settings.task`` and the seed.
        state: the state to go on from; by default the first one.

    Yields:
        The state and a row of metrics: ``step``, ``loss``, ``gate_fraction`` where there is a
        gate, the population risk where it is asked for, ``skipped`` where batches were skipped, and
        the metrics of the task. The run ends
        early where :func:`reached` says so. It also ends, with the loss NaN, after
        :data:`MOST_IN_A_ROW` batches in a row without a finite gradient.
    """
    tx, gradients = _built(settings, task)
    mesh = _mesh(settings.devices)
    stretch = make_stretch(
        gradients,
        tx,
        task.groups,
        batch_size=settings.batch_size,
        seed=settings.seed,
        mesh=mesh,
        large=task.large,
    )
    state = start(settings, task) if state is None else state
    while (step := int(state.step)) < settings.steps:
        pause, metrics = settings.next_evaluation(step), {}
        while (left := pause - step) > 0:  # equal stretches, because every length is compiled anew
            length = min(settings.eval_every, left)
            state, metrics = stretch(state, length=length)
            step += length
        row: Metrics = {"step": step}
        row |= {k: float(v) for k, v in (metrics | task.evaluate(state.params)).items()}
        if settings.risk:
            row |= risk_columns(state.opt_state)
        if skipped := int(state.skipped):
            row["skipped"] = skipped
        stuck = int(state.in_a_row) >= MOST_IN_A_ROW
        if stuck:
            row["loss"] = math.nan
        yield state, row
        if stuck or reached(settings, task, row):
            return


def start(settings: Training, task: Task) -> TrainState:
    """The state before the first step, on every device.

    Raises:
        InputError: the optimizer refuses its settings, or a batch is more than the data set.
    """
    sizes = [group.dataset_size for group in task.groups]
    if len(sizes) == 1 and sizes[0] is not None and settings.batch_size > sizes[0]:
        raise InputError(
            f"batch_size = {settings.batch_size} must be at most the {sizes[0]} training examples"
        )
    try:
        state = init(task.params, _built(settings, task).tx)
    except ValueError as error:
        raise InputError(f"the optimizer cannot be built: {error}") from error
    mesh = _mesh(settings.devices)
    return state if mesh is None else jax.device_put(state, jax.NamedSharding(mesh, jax.P()))


def _built(settings: Training, task: Task) -> Built:
    """The optimizer and its gradients, with a monitor around them where the risk is asked for."""
    build = watched if settings.risk else type(settings.optimizer).build
    return build(settings.optimizer, task)


def _mesh(devices: int) -> jax.sharding.Mesh | None:
    """The mesh of the devices in a row, or ``None`` for one device."""
    there = jax.device_count()
    if devices > there or (jax.process_count() > 1 and devices < there):
        raise InputError(
            f"devices = {devices}, but there are {there}; give --devices {there}, or set "
            f"JAX_NUM_CPU_DEVICES={devices}, which makes as many of a CPU"
        )
    if devices == 1:
        return None
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def reached(settings: Training, task: Task, row: Metrics) -> bool:
    """Whether a run has reached the value of the metric at which it stops."""
    if settings.until is None:
        return False
    sign = 1 if task.higher_is_better else -1
    return sign * row[task.metric] >= sign * settings.until


def summary(task: Task, rows: list[Metrics]) -> dict[str, Metrics]:
    """The last row of a run, and the best row, where an oracle would have stopped."""
    sign = 1 if task.higher_is_better else -1
    return {"last": rows[-1], "best": max(rows, key=lambda row: sign * row[task.metric])}
