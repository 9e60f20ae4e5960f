"""Run the study: tune on tuning seeds, measure on fresh ones, keep every run as a line of JSON."""

import dataclasses
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from snrgate.lab.errors import InputError
from snrgate.lab.study.references import references
from snrgate.lab.study.results import results_of, score, steps_to, stored
from snrgate.lab.study.rows import ROWS, Row
from snrgate.lab.study.short import short_tables
from snrgate.lab.study.summary import summary_page
from snrgate.lab.study.tables import row_page
from snrgate.lab.study.tuned import tuned_config
from snrgate.lab.training.figures import curves, to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.settings import flat
from snrgate.lab.training.sweep import collect, recognised
from snrgate.lab.training.train import Training

__all__ = ["Study", "run"]

_IN_FIGURE = (
    *("adamw-untuned", "gated-untuned", "adamw", "gated"),
    *("gated-unsized", "gated-fresh", "gated-floor"),
)


@dataclasses.dataclass(frozen=True)
class Study:
    """Run what is missing of the study, and write its tables and figures."""

    rows: tuple[str, ...] = ()
    """Names of the rows to run; by default all of them."""
    list: bool = False
    """Whether only to list the rows with the time that each took."""
    tuning_seeds: tuple[int, ...] = (100, 101)
    """Seeds on which learning rate and weight decay are chosen; slow rows use the first."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs that are reported."""
    steps: int | None = None
    """Number of training steps for a try; by default that of each row."""
    only: tuple[str, ...] = ()
    """Names of the contenders to run (adamw, gated, a peer or an ablation); by default all."""
    out: Path = Path("results/study")
    """Folder of the results."""


def run(study: Study) -> None:
    """Run the rows and write ``README.md``.

    Args:
        study: which rows, and how often.

    Raises:
        InputError: there is no such row or contender, a try would replace the results, or the
            folder cannot be written.
    """
    if unknown := sorted(set(study.rows) - set(ROWS)):
        raise InputError(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    names = study.rows or tuple(ROWS)
    known = {name for row in names for name in (*ROWS[row].tuned(), *ROWS[row].ablations)}
    if unknown := sorted(set(study.only) - known):
        there = ", ".join(sorted(known))
        raise InputError(f"there is no contender {unknown[0]}; there are {there}")
    if study.steps is not None and study.out == Study.out:
        raise InputError(
            f"a try of {study.steps} steps would replace the results in {study.out}; give --out"
        )
    if not study.list:
        for name in names:
            print(f"\n{name}: {ROWS[name].title}", flush=True)
            _write_row(name, ROWS[name], study)
    page = summary_page(study.out)
    if not study.list:
        folder = RunFolder(study.out)
        folder.write("README.md", page.encode())
        folder.write("short.md", short_tables(study.out).encode())
    print(page)


def _write_row(name: str, row: Row, study: Study) -> None:
    """Run what is missing of a row, then write its page from all its results."""
    results = results_of(study.out, name)
    _run_row(row, study, results)
    others = _references(row, study, results)
    there = results.read()
    contenders = stored(there, "runs", row.contenders())
    tried = {n: stored(there, "tuning", tuple(row.grid(n))) for n in row.tuned()}
    folder = RunFolder(study.out / name)
    folder.write("README.md", row_page(name, row, contenders, tried, others).encode())
    folder.write("tuned.toml", tuned_config(name, contenders).encode())
    shown = {n: list(runs.values()) for n, runs in contenders.items() if n in _IN_FIGURE}
    folder.write("curves.png", to_png(curves(shown)))


def _run_row(row: Row, study: Study, results: Results) -> None:
    """Tune every contender of a row, then measure it on the fresh seeds.

    AdamW is measured without tuning, and tuned for its last step. It is also measured tuned for
    its best step, which takes an oracle, where this gives other settings.
    """

    def measure(name: str, training: Training) -> None:
        runs = {Key("runs", name, s): _seeded(training, s, study) for s in study.seeds}
        collect(runs, results)

    def wanted(name: str) -> bool:
        return not study.only or name in study.only

    for name, training in row.untuned().items():
        if wanted(name.removesuffix("-untuned")):
            measure(name, training)
    for name in filter(wanted, row.tuned()):
        tuned = _tune(row, name, study, results)
        measure(name, tuned["last"])
        if name == "adamw" and tuned["best"] != tuned["last"]:
            measure("adamw-oracle", tuned["best"])
        elif name == "adamw":
            # An earlier tuning may have found other settings for the best step; drop its runs.
            stale = [key for key in results.read() if key[:2] == ("runs", "adamw-oracle")]
            if stale:
                results.update(dict.fromkeys(stale))
        if row.kind == "noisy" and row.reach is not None:
            measure(f"{name}-fastest", tuned["fastest"])
    if ablations := list(filter(wanted, row.ablations)):
        gated = _tune(row, "gated", study, results)["last"].optimizer
        for name in ablations:
            measure(name, row.ablation(name, gated.learning_rate, gated.weight_decay))


def _tune(row: Row, name: str, study: Study, results: Results) -> dict[str, Training]:
    """The settings with the best last step, with the best step of all, and with most speed."""
    grid = row.grid(name)
    if len(grid) == 1:  # nothing to choose
        return dict.fromkeys(("last", "best", "fastest"), *grid.values())
    seeds = study.tuning_seeds[: row.tuned_on]
    runs = {
        Key("tuning", label, seed): _seeded(training, seed, study)
        for label, training in grid.items()
        for seed in seeds
    }
    tried = stored(collect(runs, results), "tuning", tuple(grid))
    judged: dict[str, Callable[[Result], float]] = {
        "last": score,
        "best": partial(score, which="best"),
    }
    if row.reach is not None:
        judged["fastest"] = partial(_speed, reach=row.reach)

    def chosen(judge: Callable[[Result], float]) -> Training:
        return grid[
            max(grid, key=lambda label: statistics.median(map(judge, tried[label].values())))
        ]

    return {which: chosen(judge) for which, judge in judged.items()}


def _speed(result: Result, reach: float) -> float:
    """Fewer steps are better. Of runs that never reach the goal, the nearest one is better."""
    steps = steps_to(result, reach)
    return -steps if math.isfinite(steps) else score(result) - 1e9


def _references(row: Row, study: Study, results: Results) -> dict[int, dict[str, float]]:
    """The results of other methods on the same data, measured once and kept."""
    task, there = row.base.task, results.read()
    keys = {seed: Key("references", "references", seed) for seed in study.seeds}
    for seed, key in keys.items():
        if not recognised(there.get(key), task):
            there[key] = {"settings": flat(task), "values": references(task, seed)}
            results.update({key: there[key]})
    return {seed: there[key]["values"] for seed, key in keys.items()}


def _seeded(training: Training, seed: int, study: Study) -> Training:
    return dataclasses.replace(training, seed=seed, steps=study.steps or training.steps)
