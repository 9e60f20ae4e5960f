"""The results of the study: contenders, their runs, and the numbers that pages show."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.sweep import spread

__all__ = [
    "Contenders",
    "comparable",
    "median",
    "medians",
    "results_of",
    "score",
    "spread_of",
    "steps_to",
    "steps_words",
    "stored",
]

Contenders = Mapping[str, Mapping[int, Result]]
"""Results by contender and seed."""


def results_of(out: Path, row: str) -> Results:
    """The file of a row's results.

    Args:
        out: the folder of the study.
        row: the name of the row.
    """
    return Results(out / row / "runs.jsonl")


def stored(results: Mapping[Key, Result], part: str, names: Sequence[str]) -> Contenders:
    """The stored results of some contenders.

    Args:
        results: those of a row.
        part: "runs" or "tuning".
        names: of the contenders, in the order wanted.
    """
    found: dict[str, dict[int, Result]] = {}
    for key, result in results.items():
        if key.part == part:
            found.setdefault(key.name, {})[key.seed] = result
    return {name: found[name] for name in names if name in found}


def comparable(contenders: Contenders) -> bool:
    """Whether both AdamW and the gate, tuned, have been run.

    Args:
        contenders: results by contender and seed.
    """
    return {"adamw", "gated"} <= contenders.keys()


def score(result: Result, which: str = "last") -> float:
    """How good a result is. Of two runs that reached their goal, the faster one is better.

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


def median(results: Mapping[int, Result], which: str, key: str | None = None) -> float:
    """The median over the seeds.

    Args:
        results: by seed.
        which: the "last" or the "best" row.
        key: of the row, default the metric that counts.
    """
    return statistics.median(r[which][key or r["metric"]] for r in results.values())


def medians(tried: Contenders) -> list[float]:
    """The median at the last step of each setting; a run that diverged is infinitely bad.

    Args:
        tried: results by setting and seed.
    """
    return [median(results, "last") for results in tried.values()]


def spread_of(results: Mapping[int, Result], which: str, key: str | None = None) -> str:
    """Median and range over the seeds; a run that diverged counts as infinitely bad.

    Args:
        results: by seed.
        which: the "last" or the "best" row.
        key: of the row, default the metric that counts. A run that diverged has no other
            measure, and is left out. The text is "-" where no run has the measure.
    """
    values = [r[which].get(key or r["metric"]) for r in results.values()]
    known = [value for value in values if value is not None]
    return spread(known, 7 if key == "step" else 4) if known else "-"


def steps_to(result: Result, reach: float) -> float:
    """Steps until the metric reached a value for the first time, or infinity.

    Args:
        result: of a run.
        reach: that value.

    Example:
        >>> from snrgate.lab.study.results import steps_to
        >>> steps_to({"higher_is_better": False, "curve": [[10, 0.9], [20, 0.3]]}, 0.4)
        20
    """
    sign = 1 if result["higher_is_better"] else -1
    there = (step for step, value in result["curve"] if sign * value >= sign * reach)
    return next(there, math.inf)


def steps_words(results: Iterable[Result], reach: float) -> str:
    """The steps to a value over the seeds: median, range, and the number that never reached it.

    Args:
        results: of several seeds.
        reach: that value.
    """
    runs = list(results)
    steps = [steps_to(run, reach) for run in runs]
    there = [step for step in steps if math.isfinite(step)]
    if not there:
        return f"none of {len(runs)} in {runs[0]['settings']['steps']}"
    middle = statistics.median(steps)
    said = f"{middle:.0f}" if math.isfinite(middle) else "-"
    words = f"{said} ({min(there):.0f} to {max(there):.0f})"
    missing = len(steps) - len(there)
    return words + (f", {missing} of {len(steps)} never" if missing else "")
