"""The rules that choose settings and step from the stored curves of a row and seed.

Only the oracle looks at the test data. All others look at what a user has: held-out examples that
are as noisy as the rest, a twin, or nothing. Each rule raises :class:`MissingRunError` where a run
that it needs is missing.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from comparison.contenders import GRID, HELD_OUT, THRESHOLDS, TWIN_GRID
from snrgate.lab.training.results import Result

__all__ = [
    "MissingRunError",
    "Parts",
    "best_last",
    "by_accuracy",
    "by_gradients",
    "by_twin",
    "chosen",
    "cosine_retrained",
    "end_of",
    "first_where",
    "held_out",
    "last",
    "last_held_out",
    "mixed_by_twin",
    "name_of",
    "oracle",
    "retrained",
    "smoothed",
    "turns",
]

Runs = Mapping[str, Result]
"""The runs of one part and seed, by the name of their settings."""
Parts = Mapping[str, Runs]
"""The runs of one row and seed, by part."""


class MissingRunError(Exception):
    """A run that a contender needs has not been measured."""


class Point(NamedTuple):
    """A step of a run, and what was measured there."""

    name: str
    step: float
    metric: float
    seen: float


def name_of(settings: Mapping[str, float]) -> str:
    """The settings of a run as a name."""
    return " ".join(f"{key} {value:g}" for key, value in settings.items())


def runs_of(parts: Parts, part: str, wanted: Iterable[Mapping[str, float]] = GRID) -> Runs:
    """The runs of a part with these settings, and no others.

    Raises:
        MissingRunError: one has not been measured.
    """
    try:
        return {name: parts[part][name] for name in map(name_of, wanted)}
    except KeyError as error:
        raise MissingRunError(part, *error.args) from None


def points(runs: Runs, seen: str = "metric", metric: str = "metric") -> list[Point]:
    """All steps of some runs at which both numbers are finite."""
    return [
        Point(name, step, value, look)
        for name, run in runs.items()
        for step, value, look in zip(
            run["curve"]["step"], run["curve"][metric], run["curve"][seen], strict=True
        )
        if value is not None and look is not None
    ]


def least(found: Iterable[Point]) -> Point:
    """The point at which the least was seen."""
    return min(found, key=lambda point: point.seen)


def last(part: str, name: str) -> Callable[[Parts], float]:
    """The last step of one run."""

    def choose(parts: Parts) -> float:
        return end_of(_one(parts, part, name))

    return choose


def _one(parts: Parts, part: str, name: str) -> Result:
    if name not in parts.get(part, {}):
        raise MissingRunError(part, name)
    return parts[part][name]


def end_of(run: Result) -> float:
    """The metric at the last step; NaN where the run has diverged."""
    value = run["curve"]["metric"][-1]
    return math.nan if value is None else value


def by_twin(part: str, wanted: Sequence[Mapping[str, float]]) -> Callable[[Parts], float]:
    """The settings and the step that have the least risk by the twin."""
    return lambda parts: _least_risk(runs_of(parts, part, wanted))


def _least_risk(runs: Runs) -> float:
    found = points(runs, "twin")
    # Without any estimate nothing tells when to stop: the first settings, at their last step.
    return least(found).metric if found else end_of(next(iter(runs.values())))


def mixed_by_twin(parts: Parts) -> float:
    """Two settings of AdamW and two thresholds of the gate, among which a twin chooses."""
    adamw = runs_of(parts, "AdamW with twin", (TWIN_GRID[0], TWIN_GRID[-1]))
    return _least_risk({**adamw, **runs_of(parts, "kernels with twin", THRESHOLDS[1:3])})


def held_out(
    part: str,
    seen: str = "held",
    metric: str = "metric",
    wanted: Sequence[Mapping[str, float]] | None = None,
) -> Callable[[Parts], float]:
    """What the hold-out chooses, as it is: trained on nine tenths of the examples."""
    grid = _grid(part) if wanted is None else wanted
    return lambda parts: least(points(runs_of(parts, part, grid), seen, metric)).metric


def chosen(parts: Parts, part: str, grid: Iterable[Mapping[str, float]] = GRID) -> Point:
    """The settings and the step of the least loss on held-out examples."""
    return least(points(runs_of(parts, part, grid), "held"))


def last_held_out(part: str) -> Callable[[Parts], float]:
    """The last step of the settings whose last step has the least loss on the hold-out."""
    return lambda parts: _least_last(parts, part).metric


def _least_last(parts: Parts, part: str) -> Point:
    runs = runs_of(parts, part, _grid(part))
    return least(found[-1] for name in runs if (found := points({name: runs[name]}, "held")))


def cosine_retrained(parts: Parts) -> float:
    """The same settings, trained again on all examples, at their last step."""
    best = _least_last(parts, "cosine held out")
    return end_of(_one(parts, "cosine", best.name))


def smoothed(parts: Parts) -> float:
    """What the hold-out chooses by the mean of its loss over three evaluations."""
    found = []
    for name, run in runs_of(parts, "AdamW held out").items():
        of_run = points({name: run}, "held")
        for i, point in enumerate(of_run):
            near = [p.seen for p in of_run[max(i - 1, 0) : i + 2]]
            found.append(point._replace(seen=math.fsum(near) / len(near)))
    return least(found).metric


def by_accuracy(part: str) -> Callable[[Parts], float]:
    """The same for labels, by the share of wrong answers; the loss decides between equal ones."""

    def choose(parts: Parts) -> float:
        runs = runs_of(parts, part, _grid(part))
        if "held wrong" not in next(iter(runs.values()))["curve"]:
            raise MissingRunError(part, "held wrong")
        both = zip(points(runs, "held wrong"), points(runs, "held"), strict=True)
        return min(both, key=lambda pair: (pair[0].seen, pair[1].seen))[0].metric

    return choose


def _grid(part: str) -> Sequence[Mapping[str, float]]:
    return HELD_OUT[part.removesuffix(" held out")][2]


def retrained(part: str) -> Callable[[Parts], float]:
    """What held-out examples choose, trained again on all examples for as many steps."""

    def choose(parts: Parts) -> float:
        best = chosen(parts, part)
        curve = runs_of(parts, "AdamW")[best.name]["curve"]
        at = min(range(len(curve["step"])), key=lambda i: abs(curve["step"][i] - best.step))
        value = curve["metric"][at]
        return math.nan if value is None else value

    return choose


def oracle(parts: Parts) -> float:
    """The best step of the best settings, which only clean test data can find."""
    runs = runs_of(parts, "AdamW")
    sign = -1 if next(iter(runs.values()))["higher_is_better"] else 1
    return min(points(runs), key=lambda point: sign * point.metric).metric


def best_last(parts: Parts) -> float:
    """The last step of the settings that have the best last step on the test data."""
    runs = runs_of(parts, "AdamW")
    up = next(iter(runs.values()))["higher_is_better"]
    ends = [end for end in map(end_of, runs.values()) if math.isfinite(end)]
    return max(ends) if up else min(ends)


def first_where(column: str, says: Callable[[list[Point], int], bool]) -> Callable[[Parts], float]:
    """One untuned run of AdamW, stopped at the first step at which a rule says so."""

    def choose(parts: Parts) -> float:
        found = _looked(parts, column)
        stop = next((i for i in range(len(found)) if says(found, i)), len(found) - 1)
        return found[stop].metric

    return choose


def turns(found: list[Point], i: int) -> bool:
    """Whether the mean over three evaluations is at its first minimum (Label Wave)."""
    if i < 2 or i + 1 >= len(found):
        return False
    before, after = (sum(p.seen for p in found[j - 2 : j + 1]) for j in (i, i + 1))
    return after > before


def _looked(parts: Parts, column: str) -> list[Point]:
    run = _one(parts, "stops", "AdamW")
    if column not in run["curve"]:
        raise MissingRunError("stops", column)
    return points({"AdamW": run}, column)


def by_gradients(parts: Parts) -> float:
    """One untuned run of AdamW, at the least risk that follows from its gradients."""
    return least(_looked(parts, "gradients")).metric
