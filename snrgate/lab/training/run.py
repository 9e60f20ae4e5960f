"""The folder of a training run: what it leaves behind, and what it goes on from."""

import shlex
import signal
import time
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.checkpoint import open_checkpoints
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.interrupt import Stopped, deferred_interrupts
from snrgate.lab.training.loop import TrainState
from snrgate.lab.training.progress import progress_bar
from snrgate.lab.training.train import MOST_IN_A_ROW, Row, Training, fit, reached, start, summary

__all__ = ["run"]


def run(settings: Training, out: Path, command: str, *, resume: bool = False) -> None:
    """Train, leaving everything in a folder, and say what came of it on standard output.

    The folder gets ``config.json``, ``metrics.jsonl``, ``summary.json`` and ``checkpoints``. Of
    several processes the first writes it; all take part in a checkpoint.

    Args:
        settings: of the run.
        out: the folder, which all processes must see.
        command: how the run was called, for what to say after an interruption.
        resume: continue the run in that folder, to the same numbers as if it had not stopped;
            on another number of devices up to rounding.

    Raises:
        InputError: something that was given cannot be used, the folder cannot be written, or the
            loss is no longer a number.
        Stopped: on SIGINT or SIGTERM, with the run saved.
    """
    began = time.perf_counter()
    task = settings.task.make(settings.seed)
    first = start(settings, task)
    folder = RunFolder(out)
    again = f"continue with: {command} --out {shlex.quote(str(out))} --resume"
    kept = ""
    try:
        if _leads():
            if resume:
                folder.reopen(settings, _fingerprint(task), free={"devices"})
            else:
                folder.start(settings, _fingerprint(task))
        multihost_utils.sync_global_devices("the folder is there")
        kept = f"; the run is kept up to its last checkpoint, {again}"
        _train(settings, task, first, folder, again)
        if _leads():
            rows = folder.rows()
            folder.write_json("summary.json", summary(task, rows))
            took = f"Took {time.perf_counter() - began:.0f} s. Everything is in {out}."
            print(_in_words(task, rows) + took)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}{kept}") from error
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, f"interrupted{kept}") from None


def _train(
    settings: Training, task: Task, first: TrainState, folder: RunFolder, again: str
) -> None:
    with (
        open_checkpoints(folder.path / "checkpoints") as checkpoints,
        deferred_interrupts() as interrupted,
    ):
        begun = checkpoints.restore(first)
        before = int(begun.step)
        if _leads():
            folder.truncate(before)
        if any(row["step"] == before and reached(settings, task, row) for row in folder.rows()):
            return  # it had come to its end
        with progress_bar(settings.steps, before) as show:
            for state, row in fit(settings, task, begun):
                step = row["step"]
                if int(state.in_a_row) >= MOST_IN_A_ROW:
                    raise InputError(
                        f"{state.in_a_row} batches in a row up to step {step} gave no finite loss "
                        "and gradient; give a smaller learning_rate, or look at the data. The run "
                        f"is kept up to its last checkpoint; {again}"
                    )
                if _leads():
                    folder.append([row])
                show(step, f"loss {row['loss']:.4f}, {task.metric} {row[task.metric]:.4f}")
                due = step // settings.checkpoint_every > before // settings.checkpoint_every
                number = _agreed(interrupted())
                ends = step == settings.steps or reached(settings, task, row)
                if due or number or ends:
                    checkpoints.save(step, state)
                before = step
                if number and not ends:
                    raise Stopped(number, f"stopped at step {step}, saved; {again}")


def _leads() -> bool:
    """Whether this is the process that writes the folder."""
    return jax.process_index() == 0


def _agreed(number: int | None) -> int | None:
    """The signal that came to any of the processes: all of them stop, or none."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number or 0)).max()) or None


def _in_words(task: Task, rows: list[Row]) -> str:
    came_to = summary(task, rows)
    last, best = came_to["last"], came_to["best"]
    words = (
        f"{task.metric} {last[task.metric]:.4f} at step {last['step']}, the last; best "
        f"{best[task.metric]:.4f} at step {best['step']}. "
    )
    if skipped := last.get("skipped"):
        words += f"{skipped} batches were skipped: their loss or gradient was no finite number. "
    return words


def _fingerprint(task: Task) -> int:
    """A checksum of the data: a few examples of every group."""
    examples = [group.sample(jax.random.key(0), 64) for group in task.groups]
    leaves = jax.tree.leaves((examples, task.params))
    return zlib.crc32(b"".join(np.asarray(x).tobytes() for x in leaves))
