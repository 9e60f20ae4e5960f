"""Measure the runs of a benchmark that its file of results does not hold yet."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from snrgate.lab.training.results import Key, Result, Results

__all__ = ["measure_missing"]


def measure_missing(
    results: Results,
    keys: Iterable[Key],
    measure: Callable[[Key], Any],
    minutes: float = math.inf,
) -> dict[Key, Result]:
    """Measure what is missing, one run after the other, and keep each at once.

    Args:
        results: the file.
        keys: of all runs, those that decide first.
        measure: function that measures one run.
        minutes: after which no further run is begun.

    Returns:
        All results of the file.
    """
    begin = time.monotonic()
    for key in keys:
        if key in results.read():  # anew each time, as another process may have measured it
            continue
        if time.monotonic() - begin > 60 * minutes:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what does not converge, and says so
            result = measure(key)
        results.update({key: result})
        print(*key, result, flush=True)
    return results.read()
