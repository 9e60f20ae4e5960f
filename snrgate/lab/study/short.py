"""The short tables of the documents: medians alone, from the runs as they are on disk."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from snrgate.lab.study.results import Contenders, comparable, median, medians, results_of, stored
from snrgate.lab.study.rows import ROWS, Row
from snrgate.lab.study.tables import head, line, oracle
from snrgate.lab.training.results import Key, Result

__all__ = ["short_tables"]


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
