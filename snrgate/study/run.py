"""Run the study: tune on tuning seeds, measure on fresh ones, keep every run as JSON."""

import dataclasses
import statistics
from pathlib import Path

from snrgate.errors import InputError
from snrgate.study.rows import ROWS, Row
from snrgate.study.tables import row_page, summary_page
from snrgate.training.folder import RunFolder
from snrgate.training.plots import to_png
from snrgate.training.side_by_side import curves
from snrgate.training.sweep import Result, collect
from snrgate.training.train import Training

__all__ = ["Study", "run", "score"]

Contenders = dict[str, dict[int, Result]]
"""Results by contender and seed."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Run what is missing of the study, and write its tables and figures."""

    rows: tuple[str, ...] = ()
    """Which rows, by name; default all of them."""
    list: bool = False
    """Only list the rows, with what each took."""
    tuning_seeds: tuple[int, ...] = (100, 101)
    """Seeds on which learning rate and weight decay are chosen."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds that are reported."""
    steps: int | None = None
    """Training steps, for a try; default those of the rows."""
    only: tuple[str, ...] = ()
    """Only these contenders (adamw, gated, a peer or an ablation); default all of a row."""
    out: Path = Path("results/study")
    """Folder of the results."""


def run(study: Study) -> None:
    """Run the rows and write ``README.md``.

    Args:
        study: which rows, and how often.

    Raises:
        InputError: there is no such row, or the folder cannot be written.
    """
    if unknown := sorted(set(study.rows) - set(ROWS)):
        raise InputError(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    names = study.rows or tuple(ROWS)
    if not study.list:
        for name in names:
            print(f"\n{name}: {ROWS[name].title}", flush=True)
            contenders = run_row(ROWS[name], study, study.out / name)
            folder = RunFolder(study.out / name)
            folder.write("README.md", row_page(name, ROWS[name], contenders).encode())
            shown = {
                n: list(contenders[n].values())
                for n in ("adamw-untuned", "adamw", "adamw-oracle", "gated")
                if n in contenders
            }
            folder.write("curves.png", to_png(curves(shown)))
    page = summary_page(study.out)
    if not study.list:
        RunFolder(study.out).write("README.md", page.encode())
    print(page)


def run_row(row: Row, study: Study, out: Path) -> Contenders:
    """Tune every contender of a row, then measure it on the fresh seeds.

    Args:
        row: the row.
        study: the seeds.
        out: folder of the row.

    Returns:
        The results on the fresh seeds. AdamW is there three times: as one takes it without
        tuning, tuned for its last step, and tuned for its best step, which takes an oracle.
    """
    results: Contenders = {}

    def measured(name: str, training: Training) -> None:
        runs = {seed: _seeded(training, seed, study) for seed in study.seeds}
        kept = collect({f"{name}-seed{s}": t for s, t in runs.items()}, out / "runs")
        results[name] = dict(zip(runs, kept.values(), strict=True))

    def wanted(name: str) -> bool:
        return not study.only or name in study.only

    tuned = {
        name: _tune(row, name, study, out / "tuning")
        for name in ("adamw", "gated", *row.peers)
        if wanted(name)
    }
    if wanted("adamw"):
        measured("adamw-untuned", row.base)
    for name, (for_last, for_best) in tuned.items():
        measured(name, for_last)
        if name == "adamw" and row.kind != "grokking":
            measured("adamw-oracle", for_best)
    if ablations := list(filter(wanted, row.ablations)):
        best_gated, _ = tuned.get("gated") or _tune(row, "gated", study, out / "tuning")
        gated = best_gated.optimizer
        for name in ablations:
            measured(name, row.ablation(name, gated.learning_rate, gated.weight_decay))
    return results


def _tune(row: Row, name: str, study: Study, out: Path) -> tuple[Training, Training]:
    """The settings with the best last step, and those with the best step ever."""
    grid = row.grid(name)
    runs = {
        f"{label}-seed{seed}": _seeded(training, seed, study)
        for label, training in grid.items()
        for seed in study.tuning_seeds
    }
    results = collect(runs, out)

    def median(label: str, which: str) -> float:
        seeds = [results[f"{label}-seed{seed}"] for seed in study.tuning_seeds]
        return statistics.median(score(result, which) for result in seeds)

    last, best = (max(grid, key=lambda n, w=which: median(n, w)) for which in ("last", "best"))
    return grid[last], grid[best]


def score(result: Result, which: str = "last") -> float:
    """How good a result is; of two that got where they were to stop, the faster is better.

    Args:
        result: of a run.
        which: its "last" or its "best" row.

    Returns:
        A number, higher is better.
    """
    sign = 1 if result["higher_is_better"] else -1
    value = sign * result[which][result["metric"]]
    until = result["settings"]["until"]
    if until is not None and value >= sign * until:
        return 1e9 - result[which]["step"]
    return value


def _seeded(training: Training, seed: int, study: Study) -> Training:
    return dataclasses.replace(training, seed=seed, steps=study.steps or training.steps)
