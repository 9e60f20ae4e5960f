"""A run in a folder: one training, or several side by side, that survive an interruption."""

import dataclasses
import math
import shlex
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.errors import InputError, StorageError
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.checkpoint import open_checkpoints
from snrgate.lab.training.folder import FREE, RunFolder
from snrgate.lab.training.interrupt import Stopped, deferred_interrupts, until_told
from snrgate.lab.training.loop import TrainState
from snrgate.lab.training.progress import progress_bar
from snrgate.lab.training.train import MOST_IN_A_ROW, Metrics, Training, fit, reached, start
from snrgate.lab.training.twin import Twin, risk_of

__all__ = ["Best", "Learner", "Run", "run", "together"]


class Best(NamedTuple):
    """The parameters at the best evaluation so far, where an oracle would have stopped."""

    value: Float[Array, ""]
    params: PyTree


class Learner(NamedTuple):
    """The progress of one training; ``best`` is ``None`` where it is not kept."""

    state: TrainState
    best: Best | None


class Run(NamedTuple):
    """The trainings of a run, side by side, and the folder that keeps them.

    Attributes:
        trainings: settings by name, all with the same steps and evaluations.
        tasks: task of each training, by the same names.
        settings: settings of the user, a frozen dataclass. A resumed run must have the same.
        out: folder of the run, which all processes must see.
        command: command of the run, which the message after an interruption repeats.
        label: column of the metrics that names the training, or ``None`` for a single one.
        keeps_best: whether the parameters of the best evaluation are kept as well.
        twins: the twin of each training that has one, by the same names.
    """

    trainings: Mapping[str, Training]
    tasks: Mapping[str, Task]
    settings: Any
    out: Path
    command: str
    label: str | None = None
    keeps_best: bool = False
    twins: Mapping[str, Twin] = MappingProxyType({})

    def start(self) -> dict[str, Learner]:
        """The learners before the first step."""
        return {name: self._first(*both) for name, both in self.everyone().items()}

    def everyone(self) -> dict[str, tuple[Training, Task]]:
        """Settings and task of all trainings and of their twins, by name."""
        own = {name: (training, self.tasks[name]) for name, training in self.trainings.items()}
        twins = {
            _twin_name(name): (self.trainings[name], twin.task) for name, twin in self.twins.items()
        }
        return own | twins

    def rows_of(self, name: str, rows: list[Metrics]) -> list[Metrics]:
        """The metrics of one training."""
        return rows if self.label is None else [row for row in rows if row[self.label] == name]

    def _first(self, training: Training, task: Task) -> Learner:
        best = Best(np.array(-math.inf, np.float32), task.params) if self.keeps_best else None
        return Learner(start(training, task), best)


def run(
    what: Run, finish: Callable[[RunFolder, dict[str, Learner]], str], *, resume: bool = False
) -> None:
    """Train, keep everything in a folder, and print the result.

    The folder gets ``config.json``, ``metrics.jsonl``, ``checkpoints`` and what ``finish`` writes.
    The first of several processes writes it. All of them take part in a checkpoint.

    Args:
        what: the trainings and their folder.
        finish: function that is called after the training. It writes the results, and returns
            the text to print.
        resume: whether to continue the run in that folder, perhaps to a later last step. The
            numbers are the same as those of an uninterrupted run, up to rounding on another number
            of devices.

    Raises:
        InputError: a setting cannot be used, the folder cannot be written, or a loss is no
            longer a number.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    began = time.perf_counter()
    first = what.start()
    again = f"continue with: {what.command} --out {shlex.quote(str(what.out))} --resume"
    kept = ""
    try:
        with RunFolder(what.out) as folder:
            if _leads():
                if resume:
                    folder.reopen(what.settings, _fingerprint(what), free=FREE)
                else:
                    folder.start(what.settings, _fingerprint(what))
            multihost_utils.sync_global_devices("the folder is there")
            kept = f"; the run is kept up to its last checkpoint, {again}"
            learners = _train(what, first, folder, again)
            if _leads():
                said = finish(folder, learners)
                took = time.perf_counter() - began
                print(f"{said}Took {took:.0f} s. Everything is in {what.out}.")
    except OSError as error:
        reason = error.strerror or str(error)
        kind = StorageError if kept else InputError
        raise kind(f"cannot write to {what.out}: {reason}{kept}") from error
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, f"interrupted{kept}") from None


def _train(
    what: Run, first: dict[str, Learner], folder: RunFolder, again: str
) -> dict[str, Learner]:
    shared = next(iter(what.trainings.values()))
    with (
        open_checkpoints(folder.path / "checkpoints") as checkpoints,
        deferred_interrupts() as interrupted,
    ):
        # Go on where the last checkpoint was, and drop the metrics after it.
        begun = learners = checkpoints.restore(first)
        before = max(int(learner.state.step) for learner in begun.values())
        if before > shared.steps:
            raise InputError(
                f"steps = {shared.steps}, but the run has come to step {before}; give at least "
                "as many"
            )
        if _leads():
            folder.truncate(before)
        ended = _ended(what, folder.rows())
        with progress_bar(shared.steps, before) as show:
            pauses = together(what, begun, ended)
            if jax.process_count() == 1:  # several processes stop together, at a pause
                pauses = until_told(pauses, interrupted)
            for step, learners, rows in pauses:
                # Write the metrics of this evaluation, unless the run has diverged.
                _refuse_divergence(what, learners, rows, again)
                if _leads():
                    folder.append(list(rows.values()))
                show(step, _in_short(what, rows))
                # Save when a checkpoint is due, a signal came, or the run is over.
                ended = ended | _ended(what, list(rows.values()))
                ends = step == shared.steps or len(ended) == len(what.trainings)
                due = step // shared.checkpoint_every > before // shared.checkpoint_every
                number = _agreed(interrupted())
                if due or number or ends:
                    checkpoints.save(step, learners)
                before = step
                if number and not ends:
                    raise Stopped(number, f"stopped at step {step}, saved; {again}")
                if ends:
                    return learners
            # The rest of the way to the next pause is given up, and done again later.
            if number := interrupted():
                if not before:
                    raise Stopped(number, f"stopped before the first evaluation; {again}")
                checkpoints.save(before, learners)
                raise Stopped(number, f"stopped at step {before}, saved; {again}")
    return learners


def together(
    what: Run, learners: dict[str, Learner], ended: frozenset[str] = frozenset()
) -> Iterator[tuple[int, dict[str, Learner], dict[str, Metrics]]]:
    """Train side by side to the last step, pausing at every evaluation.

    Args:
        what: the trainings and their tasks.
        learners: where each training is.
        ended: the names of the trainings that have reached their goal.

    Yields:
        The step, the learners, and the metrics of each training that still runs.
    """
    everyone = what.everyone()
    running = {
        name: fit(training, task, learners[name].state)
        for name, (training, task) in everyone.items()
        if name not in ended
    }
    while True:
        rows: dict[str, Metrics] = {}
        for name, steps in running.items():
            if (pause := next(steps, None)) is None:
                continue
            state, row = pause
            best = _better(everyone[name][1], learners[name].best, state, row)
            learners = learners | {name: Learner(state, best)}
            label = {} if what.label is None else {what.label: name}
            rows[name] = {"step": row["step"]} | label | row
        if not rows:
            return
        for name, twin in what.twins.items():
            del rows[_twin_name(name)]
            params = (learners[n].state.params for n in (name, _twin_name(name)))
            rows[name] |= risk_of(twin, *params)
        yield max(row["step"] for row in rows.values()), learners, rows


def _twin_name(name: str) -> str:
    return f"twin of {name}"


def _better(task: Task, best: Best | None, state: TrainState, row: Metrics) -> Best | None:
    """The better of two evaluations: the best one so far, and the present one."""
    if best is None:
        return None
    value = row[task.metric] * (1 if task.higher_is_better else -1)
    return Best(np.array(value, np.float32), state.params) if value > best.value else best


def _ended(what: Run, rows: list[Metrics]) -> frozenset[str]:
    """The names of the trainings that have reached their goal."""
    return frozenset(
        name
        for name, training in what.trainings.items()
        if any(reached(training, what.tasks[name], row) for row in what.rows_of(name, rows)[-1:])
    )


def _refuse_divergence(
    what: Run, learners: dict[str, Learner], rows: dict[str, Metrics], again: str
) -> None:
    """Give up where the batches have no finite gradient any longer."""
    for name, row in rows.items():
        in_a_row, last = int(learners[name].state.in_a_row), what.trainings[name].steps
        if in_a_row >= MOST_IN_A_ROW or (row["step"] == last and not math.isfinite(row["loss"])):
            raise InputError(
                f"{'' if what.label is None else f'{name} diverged: '}{in_a_row} batches in a row "
                f"up to step {row['step']} gave no finite loss and gradient; give a smaller "
                "learning_rate, or look at the data. The run is kept up to its last checkpoint; "
                f"{again}"
            )


def _in_short(what: Run, rows: dict[str, Metrics]) -> str:
    """The most important metrics, for the progress bar."""
    said = []
    for name, row in rows.items():
        metric = what.tasks[name].metric
        loss = "" if what.label else f"loss {row['loss']:.4f}, "
        said.append(f"{name + ' ' if what.label else loss}{metric} {row[metric]:.4f}")
    return ", ".join(said)


def _leads() -> bool:
    """Whether this is the process that writes the folder."""
    return jax.process_index() == 0


def _agreed(number: int | None) -> int | None:
    """The signal that came to any of the processes, so that all of them stop, or none."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number or 0)).max()) or None


def _fingerprint(what: Run) -> int:
    """A checksum of the data, a few examples of every group of every task, and of the settings.

    The settings of a comparison name a config, whose values may change. What is free may always.
    """
    value = 0
    if what.label is not None:
        fixed: dict[str, Any] = dict.fromkeys(FREE, 1)
        same = [dataclasses.replace(t, **fixed) for t in what.trainings.values()]
        value = zlib.crc32(repr(same).encode())
    for task in {id(task): task for _, task in what.everyone().values()}.values():
        examples = [group.sample(jax.random.key(0), 64) for group in task.groups]
        for leaf in jax.tree.leaves((examples, task.params)):
            value = zlib.crc32(np.asarray(leaf).tobytes(), value)
    return value
