"""The numbers of the comparison: ratios of errors, their intervals, and regrets."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from scipy.stats import t as student

from comparison.rows import ROWS

__all__ = [
    "Values",
    "by_data_set",
    "data_set",
    "interval",
    "interval_of",
    "log_ratio",
    "mean_ratios",
    "ratios",
    "regrets",
    "shared",
]

Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""The error by row, contender and seed."""

DIVERGED, NONE = 1.0, 5e-4
"""What the error of a run counts as that has diverged: that of knowing nothing. What no error at
all counts as, because a ratio needs a number: half an example of a thousand."""
FEWEST = 3
"""Number of rows below which a mean has no interval."""


def shared(of_row: Mapping[str, Mapping[int, float]], names: Iterable[str]) -> list[int]:
    """The seeds that all of these contenders have on a row."""
    seeds = [set(of_row.get(name, {})) for name in names]
    return sorted(set.intersection(*seeds)) if seeds else []


def ratios(values: Values, name: str, other: str, kind: str = "") -> dict[str, list[float]]:
    """The logarithm of one contender's error over that of another, by row, for all shared seeds.

    Args:
        values: the errors.
        name: of the contender.
        other: of the one that it is compared with.
        kind: of the rows; all of them if empty.
    """
    found = {}
    for row, of_row in values.items():
        if kind and ROWS[row].kind != kind:
            continue
        seeds = shared(of_row, (name, other))
        pairs = [(of_row[name][s], of_row[other][s]) for s in seeds]
        if pairs:
            found[row] = [log_ratio(a, b) for a, b in pairs]
    return found


def mean_ratios(values: Values, name: str, other: str, kind: str = "") -> dict[str, float]:
    """The mean of the ratio of two contenders on each row, by the logarithm (see `ratios`)."""
    logs = ratios(values, name, other, kind)
    return {row: math.exp(statistics.fmean(of_row)) for row, of_row in logs.items()}


def log_ratio(error: float, other: float) -> float:
    """The logarithm of the ratio of two errors, each as it counts."""
    return math.log(_counted(error) / _counted(other))


def _counted(error: float) -> float:
    return DIVERGED if error == math.inf else error or NONE


def by_data_set(logs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The means of rows, by the data set that they are made of.

    Args:
        logs: logarithms of ratios, by row.
    """
    found: dict[str, list[float]] = {}
    for row, of_row in logs.items():
        found.setdefault(data_set(row), []).append(statistics.fmean(of_row))
    return found


def data_set(row: str) -> str:
    """The data set that a row is made of."""
    first = row.partition("-")[0]
    return {"cnn": "digits"}.get(first, first)


def interval(logs: Mapping[str, Sequence[float]]) -> tuple[float, float, float]:
    r"""The mean ratio of errors, and its 95 % interval.

    .. math:: \exp\big(\bar d \pm t_{0.975, k - 1}\, s / \sqrt k\big)

    with the mean and the deviation of the means of the k rows. A row counts once, with however many
    seeds, so the interval speaks of rows like these.

    Args:
        logs: logarithms of ratios, by row.

    Returns:
        The mean ratio and both ends; the ends are NaN below three rows.
    """
    rows = [statistics.fmean(of_row) for of_row in logs.values()]
    mean, k = statistics.fmean(rows), len(rows)
    if k < FEWEST:
        return math.exp(mean), math.nan, math.nan
    half = float(student.ppf(0.975, k - 1)) * statistics.stdev(rows) / math.sqrt(k)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def interval_of(
    values: Values, name: str, other: str, kind: str = ""
) -> tuple[float, float, float]:
    """The mean ratio of two contenders and its interval; NaN where nothing has been measured."""
    logs = ratios(values, name, other, kind)
    return interval(logs) if logs else (math.nan, math.nan, math.nan)


def regrets(values: Values, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The median error of each contender over that of the best one, by contender and row."""
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for row, of_row in values.items():
        seeds = shared(of_row, names)
        if seeds:
            medians = {n: statistics.median(of_row[n][s] for s in seeds) for n in names}
            best = max(min(medians.values()), 1e-12)
            for name, value in medians.items():
                found[name][row] = value / best
    return found
