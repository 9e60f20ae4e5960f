"""The time that a contender takes on a row, with all runs among which it chooses."""

import statistics
from collections.abc import Mapping

from snrgate.lab.training.results import Key, Result

__all__ = ["seconds_of"]

_TIMED = {
    "gate": ("kernels with twin", 0.5),
    "gate, z by twin": ("kernels with twin", 4.5),
    "gate, tuned by twin": ("kernels with twin", 4.5),
    "AdamW, hold-out": ("AdamW held out", 9),
    "AdamW, hold-out by accuracy": ("AdamW held out", 9),
    "averaged, hold-out": ("AdamW held out", 9),
    "AdamW, retrained": ("AdamW held out", 10),
    "AdamW, twin": ("AdamW with twin", 4.5),
    "AdamW, not tuned": ("AdamW", 1),
}
"""The part of the runs of a contender, and how many of them it takes. Runs with a twin are two."""


def seconds_of(found: Mapping[str, Mapping[Key, Result]]) -> dict[str, float]:
    """The seconds of a contender on a row: the median over the rows.

    The time of one run is the median over the runs of a row, so that those which compile a program
    do not count.

    Args:
        found: the runs, by row.
    """
    seconds = {}
    for name, (part, times) in _TIMED.items():
        rows = [
            statistics.median(of_part)
            for runs in found.values()
            if (of_part := [run["seconds"] for key, run in runs.items() if key.part == part])
        ]
        seconds[name] = times * statistics.median(rows)
    mixed = seconds["AdamW, twin"] + seconds["gate, z by twin"]
    return seconds | {"AdamW or gate, twin": mixed / 2}
