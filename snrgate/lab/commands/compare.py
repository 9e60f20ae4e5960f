"""``snrgate compare``: several optimizers of one task side by side, on the same batches."""

import dataclasses
from functools import partial
from pathlib import Path

from snrgate.lab.kinds import LATER
from snrgate.lab.tasks.task import require
from snrgate.lab.training.configs import training_config
from snrgate.lab.training.figures import curves, to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.results import Result
from snrgate.lab.training.run import Learner, Run, run
from snrgate.lab.training.size import refuse_large_network
from snrgate.lab.training.sweep import as_result, spread
from snrgate.lab.training.twin import chosen, learned_law, twin_of

__all__ = ["Comparison", "compare"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Train with several optimizers of a task, on the same data from the same weights."""

    optimizers: tuple[str, ...] = ("adamw", "gated")
    """Names of the optimizers in the config of the task."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the data, the weights and the batches."""
    steps: int | None = None
    """Number of training steps; by default that of the config."""
    twin: bool = dataclasses.field(default=False, metadata=LATER)
    """Whether twin runs measure the population risk and choose a step, without held-out data."""
    config: str | None = None
    """TOML file of settings on top of the config of the task."""
    risk: bool = dataclasses.field(default=False, metadata=LATER)
    """Whether to estimate the population risk of every run."""

    def __post_init__(self) -> None:
        """Refuse an empty comparison, and one that names the same thing twice."""
        for name in ("optimizers", "seeds"):
            values = getattr(self, name)
            once = 0 < len(values) == len(set(values))
            require(self, **{name: (once, "at least one, each once")})
        require(self, seeds=(all(0 <= s < 2**32 for s in self.seeds), "in [0, 2**32)"))


def compare(
    task: str, comparison: Comparison, out: Path, command: str, *, resume: bool = False
) -> None:
    """Train, and write ``README.md``, ``curves.png`` and ``summary.json`` into the folder too.

    Args:
        task: the name of its config.
        comparison: the optimizers, and the seeds with which each is trained.
        out: the folder of the run.
        command: the command of the run, which the message after an interruption repeats.
        resume: whether to continue the run in that folder.

    Raises:
        InputError: there is no such task or optimizer, or one of the errors of
            :func:`snrgate.lab.training.run.run` occurs.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    own = Path(comparison.config) if comparison.config else None
    trainings, tasks, made, laws, twins = {}, {}, {}, {}, {}
    for name in comparison.optimizers:
        settings = training_config(task, name, own)
        learned = settings.task
        refuse_large_network(learned, partial(learned.make, settings.seed))
        steps = settings.steps if comparison.steps is None else comparison.steps
        for seed in comparison.seeds:
            made[seed] = made.get(seed) or settings.task.make(seed)
            trainings[f"{name}-{seed}"] = dataclasses.replace(
                settings, seed=seed, steps=steps, risk=comparison.risk
            )
            tasks[f"{name}-{seed}"] = made[seed]
            if comparison.twin:
                if seed not in laws:
                    laws[seed] = learned_law(trainings[f"{name}-{seed}"], made[seed])
                twins[f"{name}-{seed}"] = twin_of(made[seed], seed, laws[seed])
    what = Run(trainings, tasks, comparison, out, command, label="run", twins=twins)

    def finish(folder: RunFolder, learners: dict[str, Learner]) -> str:
        rows = folder.rows()
        results = {n: as_result(tasks[n], what.rows_of(n, rows)) for n in trainings}
        for name in twins:
            results[name]["twin"] = chosen(what.rows_of(name, rows))
        groups = {
            name: [results[f"{name}-{seed}"] for seed in comparison.seeds]
            for name in comparison.optimizers
        }
        table = as_markdown(groups)
        note = "Median (range) over seeds.\n\n![curves](curves.png)\n"
        folder.write("README.md", f"# {task}\n\n{table}\n{note}".encode())
        folder.write("curves.png", to_png(curves(groups)))
        folder.write_json("summary.json", results)
        return f"\n{table}\nSee curves.png. "

    run(what, finish, resume=resume)


def as_markdown(groups: dict[str, list[Result]]) -> str:
    """The best and the last value of each contender.

    Args:
        groups: the results of each name, one for each seed.
    """
    metric = next(iter(groups.values()))[0]["metric"]
    plain = metric.replace("_", " ")
    every = [result for results in groups.values() for result in results]
    columns = {f"{plain}, last step": ("last", metric), f"{plain}, best step": ("best", metric)}
    if all("twin" in result for result in every):
        columns[f"{plain}, step of the twin"] = "twin", metric
    if all("risk" in result["last"] for result in every):
        columns["estimated population risk, last step"] = "last", "risk"
    lines = [f"| | {' | '.join(columns)} |", "|:--|" + "--:|" * len(columns)]
    for name, results in groups.items():
        values = (spread([r[row][what] for r in results]) for row, what in columns.values())
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"
