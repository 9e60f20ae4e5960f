"""The short tables of the documents: medians alone, from the runs as they are on disk."""

import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from snrgate.lab.study.results import Contenders, comparable, median, medians, results_of, stored
from snrgate.lab.study.rows import ROWS, Row
from snrgate.lab.study.tables import head, line, oracle
from snrgate.lab.training.results import Key, Result, Results

__all__ = ["first_table", "short_tables"]


class Chosen(NamedTuple):
    """A row of the first table."""

    name: str
    title: str
    measure: str


FIRST = (
    Chosen("digits-40", "digits, 40 % wrong labels", "accuracy"),
    Chosen("table", "a table of 442 patients", "error"),
    Chosen("lorenz-20", "a series, noise 0.2", "error"),
    Chosen("camera-20", "a photo, noise 0.2", "dB"),
    Chosen("concrete", "a table of concrete, *clean*", "error"),
)
"""The rows of the first table."""


def first_table(study: Path, twin: Path) -> str:
    """Five rows: AdamW at its last step, stopped by a hold-out and tuned, and the gate.

    Args:
        study: folder of the study.
        twin: folder of the runs with a twin and with a hold-out.
    """
    held_out = Results(twin / "runs.jsonl").read()
    columns = ["AdamW", "AdamW, hold-out", "**gated**", "AdamW, tuned"]
    lines = head(["what is learned", "measure", *columns], left=2)
    for name, title, measure in FIRST:
        runs = (
            stored(results_of(study, name).read(), "runs", tuple(_OF_STUDY)) if name in ROWS else {}
        )
        stopped = [held_out[key] for key in held_out if key.part == name and key.name == "AdamW"]
        gated = [held_out[key] for key in held_out if key.part == name and key.name == "units"]
        if not runs and not stopped:
            continue
        cells = [
            _median(runs, "adamw-untuned", "last") if runs else _middle(map(_last, stopped)),
            f"{_middle(map(_stopped, stopped))} ({len(stopped)})" if stopped else "-",
            f"**{_median(runs, 'gated-untuned', 'last') if runs else _middle(map(_last, gated))}**",
            _median(runs, "adamw", "last"),
        ]
        lines.append(line([title, measure, *cells]))
    return "\n".join(lines) + "\n"


_OF_STUDY = ("adamw-untuned", "gated-untuned", "adamw")


def _last(result: Result) -> float:
    """The metric at the last step of a run that was trained on all examples."""
    return result["twin"][-1][1]


def _stopped(result: Result) -> float:
    """The metric at the step that the held-out examples choose."""
    points = [point for point in result["held out"] if math.isfinite(point[2])]
    return min(points, key=lambda point: point[2])[1]


def _middle(values: Iterable[float]) -> str:
    return f"{statistics.median(values):#.3g}"


def short_tables(out: Path) -> str:
    """The medians of all rows where the last or the best step counts, in narrow tables.

    Half of the settings of the grid are at least as good as the median setting (tuning seeds).

    Args:
        out: folder of the study.
    """
    both = ["AdamW", "gated"]
    untuned = head(["row", "what is learned; measure", *both], left=2)
    settings = head(["row", *both], left=1)
    tuned = head(["row", *both, "AdamW, best step"], left=1)
    for name, row in ROWS.items():
        results = results_of(out, name).read()
        runs = stored(results, "runs", row.contenders())
        if row.kind not in ("noisy", "clean") or not comparable(runs):
            continue
        measure = next(iter(runs["gated"].values()))["metric"].replace("_", " ")
        last = [_median(runs, n, "last") for n in ("adamw-untuned", "gated-untuned")]
        untuned.append(line([f"`{name}`", f"{row.title}; {measure}", *last]))
        best = _median(runs, oracle(runs), "best")
        for gated, told in _TOLD.items():
            if gated in runs:
                pair = "adamw", gated
                middle = [_median_setting(row, n, results) for n in pair]
                settings.append(line([f"`{name}`{told}", *middle]))
                last = [_median(runs, n, "last") for n in pair]
                tuned.append(line([f"`{name}`{told}", *last, best]))
    between = "At the median setting of the grid:", "Tuned on clean data:"
    lines = [*untuned, "", between[0], "", *settings, "", between[1], "", *tuned]
    return "\n".join(lines) + "\n"


_TOLD = {"gated": "", "gated-unsized": ", no size given", "gated-fresh": ", all fresh"}


def _median(runs: Contenders, name: str, which: str) -> str:
    return f"{median(runs[name], which):#.3g}" if name in runs else "-"


def _median_setting(row: Row, contender: str, results: Mapping[Key, Result]) -> str:
    """The median over the settings of the grid: what a user who cannot tune may expect."""
    tried = stored(results, "tuning", tuple(row.grid(contender)))
    return f"{statistics.median(medians(tried)):#.3g}" if tried else "-"
