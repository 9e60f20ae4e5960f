"""One run of AdamW that nobody tunes, with the setting that is best on other data sets.

A gated run has one setting, which was chosen on other seeds. This is its counterpart: one of the
nine settings of AdamW for all rows, kept at its last step. It is chosen by the test data of the
other data sets, so that no row chooses its own.
"""

import statistics
from collections.abc import Iterable, Mapping

from comparison.choice import error_of
from comparison.contenders import GRID
from comparison.numbers import data_set, log_ratio
from comparison.rules import end_of, name_of
from snrgate.lab.training.results import Key, Result

__all__ = ["FIXED", "HINDSIGHT", "Ends", "best_setting", "ends_of", "fixed"]

FIXED = "AdamW, fixed"
HINDSIGHT = "AdamW, fixed in hindsight"

Ends = Mapping[str, Mapping[str, Mapping[int, float]]]
"""The error at the last step, by row, setting and seed."""


def fixed(ends: Ends) -> dict[str, dict[str, dict[int, float]]]:
    """The errors of a fixed setting on every row, by contender and seed.

    Args:
        ends: of the rows (:func:`ends_of`).

    Returns:
        By row: that of the setting which the other data sets choose, and that of the setting which
        all rows together choose in hindsight.
    """
    if not ends:
        return {}
    whole, values = best_setting(ends, ends), {}
    for row, of_row in ends.items():
        others = [other for other in ends if data_set(other) != data_set(row)]
        values[row] = {HINDSIGHT: dict(of_row[whole])}
        if others:
            values[row][FIXED] = dict(of_row[best_setting(ends, others)])
    return values


def best_setting(ends: Ends, rows: Iterable[str]) -> str:
    """The setting with the least mean error over some rows, by the logarithm; a row counts once."""
    rows = list(rows)
    first = name_of(GRID[0])

    def mean(name: str) -> float:
        return statistics.fmean(
            statistics.fmean(log_ratio(ends[row][name][s], ends[row][first][s]) for s in seeds)
            for row in rows
            if (seeds := ends[row][name])
        )

    return min(map(name_of, GRID), key=mean)


def ends_of(found: Mapping[str, Mapping[Key, Result]]) -> dict[str, dict[str, dict[int, float]]]:
    """The last steps on the rows and seeds that have all nine settings.

    Args:
        found: the runs, by row.
    """
    names = list(map(name_of, GRID))
    ends: dict[str, dict[str, dict[int, float]]] = {}
    for row, runs in found.items():
        seeds = {key.seed for key in runs if key.part == "AdamW"}
        for seed in sorted(seeds):
            of_seed = {name: runs.get(Key("AdamW", name, seed)) for name in names}
            if all(of_seed.values()):
                for name, run in of_seed.items():
                    error = error_of(run["metric"], end_of(run))
                    ends.setdefault(row, {}).setdefault(name, {})[seed] = error
    return ends
