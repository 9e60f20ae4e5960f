"""``snrgate train``: one optimizer on one task."""

from functools import partial
from pathlib import Path

from snrgate.lab.training.figures import risks, to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.run import Learner, Run, run
from snrgate.lab.training.size import refuse_large_network
from snrgate.lab.training.train import Training, summary
from snrgate.lab.training.twin import chosen, learned_law, twin_of

__all__ = ["train"]


def train(settings: Training, out: Path, command: str, *, resume: bool = False) -> None:
    """Train, and write ``summary.json`` into the folder too, with a twin also ``risk.png``.

    Args:
        settings: settings of the training.
        out: the folder of the run.
        command: the command of the run, which the message after an interruption repeats.
        resume: whether to continue the run in that folder.

    Raises:
        InputError: the same errors as :func:`snrgate.lab.training.run.run`.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    refuse_large_network(settings.task, partial(settings.task.make, settings.seed))
    task = settings.task.make(settings.seed)
    twins = {}
    if settings.twin:
        twins["train"] = twin_of(task, settings.seed, learned_law(settings, task))

    def finish(folder: RunFolder, learners: dict[str, Learner]) -> str:
        rows = folder.rows()
        came_to = summary(task, rows)
        if settings.twin:
            came_to["twin"] = chosen(rows)
            folder.write("risk.png", to_png(risks(rows)))
        folder.write_json("summary.json", came_to)
        last, best = came_to["last"], came_to["best"]
        words = (
            f"{task.metric} {last[task.metric]:.4f} at step {last['step']}, the last; best "
            f"{best[task.metric]:.4f} at step {best['step']}. "
        )
        if settings.risk:
            words += f"Population risk {last['risk']:.4f} ± {last['risk_band']:.4f}, an estimate. "
        if settings.twin:
            row = came_to["twin"]
            words += (
                f"The twin chooses step {row['step']}: {task.metric} {row[task.metric]:.4f}, "
                f"estimated risk {row['twin_risk']:.4f} +- {row['twin_risk_error']:.4f}; see "
                "risk.png. "
            )
        if skipped := last.get("skipped"):
            words += f"{skipped} batches without a finite loss or gradient were skipped. "
        return words

    what = Run({"train": settings}, {"train": task}, settings, out, command, twins=twins)
    run(what, finish, resume=resume)
