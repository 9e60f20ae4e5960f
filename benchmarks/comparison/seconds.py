"""The time that a contender takes on a row, with all runs among which it chooses."""

import statistics
from collections.abc import Mapping

from snrgate.lab.training.results import Key, Result

__all__ = ["seconds_of", "step_ratios"]

Runs = Mapping[Key, Result]
"""The runs of a row."""

_GATE, _TWIN = "kernels with twin", "AdamW with twin"
_TIMED = {
    "gate": {_GATE: 0.5},
    "gate, z by twin": {_GATE: 4},
    "gate, tuned by twin": {_GATE: 4},
    "AdamW, hold-out": {"AdamW held out": 9},
    "AdamW, hold-out by accuracy": {"AdamW held out": 9},
    "averaged, hold-out": {"AdamW held out": 9},
    "AdamW, retrained": {"AdamW held out": 10},
    "AdamW, twin": {_TWIN: 4},
    "AdamW or gate, twin": {_TWIN: 2, _GATE: 2},
    "AdamW, not tuned": {"AdamW": 1},
}
"""How many runs of each part a contender takes. What has a twin is measured as one, but is two."""
_BY_TWIN = ("gate, z by twin", "gate, tuned by twin", "AdamW, twin", "AdamW or gate, twin")
_LAW = {_GATE: 0.5}
"""What the law of labels takes besides: a gated run."""


def seconds_of(found: Mapping[str, Runs]) -> dict[str, float]:
    """The seconds of a contender on a row: the median over the rows.

    The time of one run is the median over the runs of a row, so that those which compile a program
    do not count.

    Args:
        found: the runs, by row.
    """
    return {
        name: statistics.median(
            of_row for runs in found.values() if (of_row := _of_row(runs, name)) is not None
        )
        for name in _TIMED
    }


def step_ratios(found: Mapping[str, Runs]) -> dict[str, float]:
    """How much longer a gated run takes than one of AdamW, by row.

    Args:
        found: the runs, by row.
    """
    pairs = {
        row: [_of_row(runs, n) for n in ("gate", "AdamW, not tuned")] for row, runs in found.items()
    }
    return {row: gate / plain for row, (gate, plain) in pairs.items() if gate and plain}


def _of_row(runs: Runs, name: str) -> float | None:
    """The seconds of all runs of a contender on a row; ``None`` where they were not measured."""
    parts = dict(_TIMED[name])
    classes = next(iter(runs.values()))["metric"] == "accuracy"
    if name in _BY_TWIN and classes:
        parts = {p: parts.get(p, 0) + _LAW.get(p, 0) for p in {*parts, *_LAW}}
    typical = {p: [run["seconds"] for key, run in runs.items() if key.part == p] for p in parts}
    if not all(typical.values()):
        return None
    return sum(times * statistics.median(typical[p]) for p, times in parts.items())
