"""The numbers of the comparison: ratios of errors, their intervals, and regrets."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from comparison.rows import ROWS

__all__ = ["Values", "interval", "ratios", "regrets", "shared"]

Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""The error by row, contender and seed."""

RESAMPLED = 2000


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
        logs = [math.log(a / b) for a, b in pairs if 0 < a < math.inf and 0 < b < math.inf]
        if logs:
            found[row] = logs
    return found


def interval(logs: Mapping[str, Sequence[float]]) -> tuple[float, float, float]:
    """The mean ratio of errors, and its 95 % interval over rows and seeds.

    Rows are drawn with replacement, and then the seeds of each.

    Args:
        logs: logarithms of ratios, by row.
    """
    rng = np.random.default_rng(0)
    lengths = np.array([len(of_row) for of_row in logs.values()])
    padded = np.array([[*x, *[0.0] * (lengths.max() - len(x))] for x in logs.values()])
    rows = rng.integers(len(padded), size=(RESAMPLED, len(padded), 1))
    seeds = rng.integers(lengths[rows], size=(RESAMPLED, len(padded), lengths.max()))
    drawn = np.arange(lengths.max()) < lengths[rows]  # as many seeds as the row has
    means = np.mean(padded[rows, seeds], axis=2, where=drawn).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    mean = np.mean([np.mean(of_row) for of_row in logs.values()])
    return float(np.exp(mean)), float(np.exp(low)), float(np.exp(high))


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
