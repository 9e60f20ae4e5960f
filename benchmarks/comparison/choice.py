"""What each contender comes to: the rules that choose settings and step from the stored curves.

Only the oracle looks at the test data. All others look at what a user has: held-out examples that
are as noisy as the rest, a twin, or nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from comparison.contenders import GRID, HELD_OUT, THRESHOLDS, TUNED, TWIN_GRID, WIDE_GRID
from snrgate.lab.training.results import Key, Result

__all__ = [
    "CONTENDERS",
    "Contender",
    "MissingRunError",
    "edges_of",
    "end_of",
    "error_of",
    "name_of",
    "values_of",
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


class Contender(NamedTuple):
    """A contender.

    Attributes:
        choose: the metric that it comes to, from the runs of a row and seed. It raises
            :class:`MissingRunError` where a run is missing.
        runs: number of runs that it takes; 0 where it is no network of ours.
        said: what it is, in a few words.
    """

    choose: Callable[[Parts], float]
    runs: int
    said: str


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


def _last(part: str, name: str) -> Callable[[Parts], float]:
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


def _by_twin(part: str, wanted: Sequence[Mapping[str, float]]) -> Callable[[Parts], float]:
    """The settings and the step that have the least risk by the twin."""
    return lambda parts: _least_risk(runs_of(parts, part, wanted))


def _least_risk(runs: Runs) -> float:
    found = points(runs, "twin")
    # Without any estimate nothing tells when to stop: the first settings, at their last step.
    return least(found).metric if found else end_of(next(iter(runs.values())))


def _mixed_by_twin(parts: Parts) -> float:
    """Two settings of AdamW and two thresholds of the gate, among which a twin chooses."""
    adamw = runs_of(parts, "AdamW with twin", (TWIN_GRID[0], TWIN_GRID[-1]))
    return _least_risk({**adamw, **runs_of(parts, "kernels with twin", THRESHOLDS[1:3])})


def _held_out(
    part: str,
    seen: str = "held",
    metric: str = "metric",
    wanted: Sequence[Mapping[str, float]] | None = None,
) -> Callable[[Parts], float]:
    """What the hold-out chooses, as it is: trained on nine tenths of the examples."""
    grid = _grid(part) if wanted is None else wanted
    return lambda parts: least(points(runs_of(parts, part, grid), seen, metric)).metric


def _chosen(parts: Parts, part: str, grid: Iterable[Mapping[str, float]] = GRID) -> Point:
    """The settings and the step of the least loss on held-out examples."""
    return least(points(runs_of(parts, part, grid), "held"))


def _last_held_out(part: str) -> Callable[[Parts], float]:
    """The last step of the settings whose last step has the least loss on the hold-out."""
    return lambda parts: _least_last(parts, part).metric


def _least_last(parts: Parts, part: str) -> Point:
    runs = runs_of(parts, part, _grid(part))
    return least(found[-1] for name in runs if (found := points({name: runs[name]}, "held")))


def _cosine_retrained(parts: Parts) -> float:
    """The same settings, trained again on all examples, at their last step."""
    best = _least_last(parts, "cosine held out")
    return end_of(_one(parts, "cosine", best.name))


def _smoothed(parts: Parts) -> float:
    """What the hold-out chooses by the mean of its loss over three evaluations."""
    found = []
    for name, run in runs_of(parts, "AdamW held out").items():
        of_run = points({name: run}, "held")
        for i, point in enumerate(of_run):
            near = [p.seen for p in of_run[max(i - 1, 0) : i + 2]]
            found.append(point._replace(seen=math.fsum(near) / len(near)))
    return least(found).metric


def _by_accuracy(part: str) -> Callable[[Parts], float]:
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


def _retrained(part: str) -> Callable[[Parts], float]:
    """What held-out examples choose, trained again on all examples for as many steps."""

    def choose(parts: Parts) -> float:
        best = _chosen(parts, part)
        curve = runs_of(parts, "AdamW")[best.name]["curve"]
        at = min(range(len(curve["step"])), key=lambda i: abs(curve["step"][i] - best.step))
        value = curve["metric"][at]
        return math.nan if value is None else value

    return choose


def _best(parts: Parts) -> float:
    """The best step of the best settings, which only clean test data can find."""
    runs = runs_of(parts, "AdamW")
    sign = -1 if next(iter(runs.values()))["higher_is_better"] else 1
    return min(points(runs), key=lambda point: sign * point.metric).metric


def _best_last(parts: Parts) -> float:
    """The last step of the settings that have the best last step on the test data."""
    runs = runs_of(parts, "AdamW")
    up = next(iter(runs.values()))["higher_is_better"]
    ends = [end for end in map(end_of, runs.values()) if math.isfinite(end)]
    return max(ends) if up else min(ends)


def _first(column: str, says: Callable[[list[Point], int], bool]) -> Callable[[Parts], float]:
    """One untuned run of AdamW, stopped at the first step at which a rule says so."""

    def choose(parts: Parts) -> float:
        found = _looked(parts, column)
        stop = next((i for i in range(len(found)) if says(found, i)), len(found) - 1)
        return found[stop].metric

    return choose


def _turns(found: list[Point], i: int) -> bool:
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


def _by_gradients(parts: Parts) -> float:
    return least(_looked(parts, "gradients")).metric


CONTENDERS: dict[str, Contender] = {
    "gate": Contender(
        _last("kernels with twin", "z 1 weight_decay 0"),
        1,
        '`block="kronecker"`, not tuned, last step',
    ),
    "gate, z by twin": Contender(
        _by_twin("kernels with twin", THRESHOLDS), 9, "its twin chooses z and the step"
    ),
    "gate, tuned by twin": Contender(
        _by_twin("kernels with twin", TUNED),
        9,
        "its twin chooses z, rate, decay and step",
    ),
    "AdamW, hold-out": Contender(
        _held_out("AdamW held out"), 9, "a noisy tenth chooses settings and step"
    ),
    "AdamW, hold-out by accuracy": Contender(
        _by_accuracy("AdamW held out"), 9, "labels: its share of wrong answers chooses"
    ),
    "AdamW, smoothed hold-out": Contender(
        _smoothed, 9, "the mean of the held-out loss over three evaluations chooses"
    ),
    "AdamW, wide grid, hold-out": Contender(
        _held_out("AdamW held out", wanted=WIDE_GRID),
        16,
        "a rate of 1e-2 and a decay of 30 besides",
    ),
    "cosine, hold-out": Contender(
        _held_out("cosine held out"), 9, "AdamW whose rate falls to zero, by hold-out"
    ),
    "cosine, last by hold-out": Contender(
        _last_held_out("cosine held out"),
        9,
        "the same, kept at its last step; the hold-out chooses the settings alone",
    ),
    "cosine, retrained": Contender(
        _cosine_retrained, 10, "the same settings, trained on all examples, at their last step"
    ),
    "AdamW, retrained": Contender(
        _retrained("AdamW held out"), 10, "the same choice, trained on all examples"
    ),
    "AdamW, twin": Contender(
        _by_twin("AdamW with twin", TWIN_GRID),
        9,
        "a twin chooses settings and step; for labels their law is that of a gated run",
    ),
    "AdamW or gate, twin": Contender(
        _mixed_by_twin, 9, "a twin chooses between two settings of AdamW and two thresholds"
    ),
    "AdamW, folds": Contender(
        _retrained("AdamW folds"), 46, "five-fold cross-validation, trained on all examples"
    ),
    "AdamW, oracle": Contender(_best, 9, "the best step of all on the test data"),
    "AdamW, best last": Contender(
        _best_last, 9, "the settings with the best last step on the test data"
    ),
    "AdamW, not tuned": Contender(_last("single", "AdamW"), 1, "a rate of 1e-3, last step"),
    "averaged, hold-out": Contender(
        _held_out("AdamW held out", "average held", "average"),
        9,
        "an average of the weights, by hold-out",
    ),
    "SAM, hold-out": Contender(_held_out("SAM held out"), 18, "two gradients a step, by hold-out"),
    "GCE, hold-out": Contender(
        _by_accuracy("GCE held out"),
        9,
        "generalised cross-entropy, by held-out accuracy",
    ),
    "ELR, hold-out": Contender(
        _by_accuracy("ELR held out"),
        9,
        "early-learning regularisation, by held-out accuracy",
    ),
    "EchoMuon, hold-out": Contender(_held_out("EchoMuon held out"), 9, "by hold-out"),
    "Label Wave": Contender(
        _first("changes", _turns),
        1,
        "untuned AdamW, stopped where the changes of its answers have their first minimum",
    ),
    "evidence-based": Contender(
        _first("evidence", lambda found, i: found[i].seen > 0),
        1,
        "untuned AdamW, stopped by the evidence-based criterion",
    ),
    "gradients": Contender(
        _by_gradients, 1, "untuned AdamW, stopped by the risk from leave-one-out gradients"
    ),
    "gate, size unknown": Contender(
        _last("single", "gate, size unknown"),
        1,
        "the gate without the number of examples",
    ),
    "gate, cosine": Contender(
        _last("single", "gate, cosine"), 1, "the gate with a rate that falls to zero, last step"
    ),
    "gate, strict": Contender(
        _last("single", "gate, strict"), 1, "the gate with `z` = 1.4 in place of 1, last step"
    ),
    "gate per unit": Contender(_last("single", "gate per unit"), 1, "not tuned, last step"),
    "paper's gate": Contender(
        _last("single", "paper's gate"), 1, "Algorithm 1 with b / (n - b), not tuned, last step"
    ),
    "SOAP, gated": Contender(_last("single", "SOAP, gated"), 1, "not tuned, last step"),
    "SOAP": Contender(_last("single", "SOAP"), 1, "not tuned, last step"),
    "shuffled": Contender(_last("single", "shuffled"), 1, "the gate's values in another order"),
    "mean": Contender(_last("single", "mean"), 1, "a tensor's gates all at their mean"),
    "own basis alone": Contender(_last("single", "own basis alone"), 1, "one basis of the two"),
    "eigenvectors alone": Contender(_last("single", "eigenvectors alone"), 1, "the other basis"),
    "without doubt": Contender(
        _last("single", "without doubt"), 1, "no correction for the degrees of freedom of the noise"
    ),
    "linear": Contender(
        _last("references", "linear"), 0, "`LassoCV`, or a logistic regression; three folds"
    ),
    "elastic net": Contender(_last("references", "elastic net"), 0, "`ElasticNetCV`, three folds"),
    "forest": Contender(_last("references", "forest"), 0, "200 trees, three folds"),
    "boosting": Contender(
        _last("references", "boosting"), 0, "histogram gradient boosting, three folds"
    ),
    "network": Contender(
        _last("references", "network"), 0, "scikit-learn's MLP, `early_stopping`, three folds"
    ),
}
"""The contenders by name."""


def values_of(found: Mapping[Key, Result]) -> dict[str, dict[int, float]]:
    """The error of each contender, by seed, where all runs that it needs are there.

    Args:
        found: the runs of one row.

    Returns:
        By contender and seed, the error (:func:`error_of`); infinite where a run diverged.
    """
    by_seed = _by_seed(found)
    values: dict[str, dict[int, float]] = {}
    for name, contender in CONTENDERS.items():
        for seed, parts in by_seed.items():
            try:
                value = contender.choose(parts)
            except MissingRunError:
                continue
            metric = next(iter(found.values()))["metric"]
            values.setdefault(name, {})[seed] = error_of(metric, value)
    return values


def _by_seed(found: Mapping[Key, Result]) -> dict[int, dict[str, dict[str, Result]]]:
    """The runs of a row, by seed, part and name of their settings."""
    by_seed: dict[int, dict[str, dict[str, Result]]] = {}
    for key, run in found.items():
        by_seed.setdefault(key.seed, {}).setdefault(key.part, {})[key.name] = run
    return by_seed


def edges_of(
    found: Iterable[Mapping[Key, Result]], grid: Sequence[Mapping[str, float]] = GRID
) -> tuple[int, int]:
    """How often the hold-out of AdamW chooses its highest rate or decay, and how often it chooses.

    Args:
        found: the runs of each row.
        grid: the settings among which it chooses.
    """
    highest = {f"{name} {max(h[name] for h in grid):g}" for name in grid[0]}
    at_edge = chosen = 0
    for runs in found:
        for parts in _by_seed(runs).values():
            try:
                name = _chosen(parts, "AdamW held out", grid).name
            except MissingRunError:
                continue
            chosen += 1
            at_edge += any(edge in name for edge in highest)
    return at_edge, chosen


def error_of(metric: str, value: float) -> float:
    """A metric as an error: the share of wrong answers, or the mean square.

    Args:
        metric: "accuracy", "error" or "psnr".
        value: of the metric.
    """
    if not math.isfinite(value):
        return math.inf
    if metric == "accuracy":
        return 1 - value
    return 10 ** (-value / 10) if metric == "psnr" else value
