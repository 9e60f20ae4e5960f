"""What each contender comes to: the rules that choose settings and step from the stored curves.

Only the oracle looks at the test data. All others look at what a user has: held-out examples that
are as noisy as the rest, a twin, or nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from comparison.contenders import THRESHOLDS, TUNED
from snrgate.lab.training.results import Key, Result

__all__ = ["CONTENDERS", "Contender", "error_of", "values_of"]

Runs = Mapping[str, Result]
"""The runs of one part and seed, by the name of their settings."""
Parts = Mapping[str, Runs]
"""The runs of one row and seed, by part."""


class Point(NamedTuple):
    """A step of a run, and what was measured there."""

    name: str
    step: float
    metric: float
    seen: float


class Contender(NamedTuple):
    """A contender.

    Attributes:
        choose: the metric that it comes to, from the runs of a row and seed. It raises ``KeyError``
            where a run is missing.
        runs: number of runs that it takes.
        said: what it is, in a few words.
    """

    choose: Callable[[Parts], float]
    runs: int
    said: str


def settings(name: str) -> dict[str, float]:
    """The settings that a name tells."""
    words = name.split()
    return {k: float(v) for k, v in zip(words[::2], words[1::2], strict=True)}


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
        value = parts[part][name]["curve"]["metric"][-1]
        return math.nan if value is None else value

    return choose


def _of_kernels(wanted: list[dict[str, float]]) -> Callable[[Parts], float]:
    """The gate whose settings, and whose step, have the least risk by the twin."""

    def choose(parts: Parts) -> float:
        runs = {n: r for n, r in parts["kernels with twin"].items() if settings(n) in wanted}
        if len(runs) < len(wanted):
            raise KeyError("kernels with twin")
        return _by_twin(runs)

    return choose


def _by_twin(runs: Runs) -> float:
    found = points(runs, "twin")
    # Without any estimate nothing tells when to stop: the first settings, at their last step.
    return least(found).metric if found else points(runs)[-1].metric


def _mixed_by_twin(parts: Parts) -> float:
    """Two settings of AdamW and two thresholds of the gate, among which a twin chooses."""
    adamw, kernels = parts["AdamW with twin"], parts["kernels with twin"]
    names = "learning_rate 0.0005 weight_decay 0", "learning_rate 0.003 weight_decay 10"
    thresholds = "z 0.7 weight_decay 0", "z 1 weight_decay 0"
    return _by_twin({n: adamw[n] for n in names} | {n: kernels[n] for n in thresholds})


def _adamw_by_twin(parts: Parts) -> float:
    return _by_twin(_whole(parts, "AdamW with twin", 4))


def _whole(parts: Parts, part: str, count: int = 9) -> Runs:
    if len(parts[part]) < count:
        raise KeyError(part)
    return parts[part]


def _held_out(part: str, average: bool = False) -> Callable[[Parts], float]:
    """What the hold-out chooses, as it is: trained on nine tenths of the examples."""
    seen, metric = ("average held", "average") if average else ("held", "metric")

    def choose(parts: Parts) -> float:
        return least(points(_whole(parts, part), seen, metric)).metric

    return choose


def _retrained(part: str) -> Callable[[Parts], float]:
    """What held-out examples choose, trained again on all examples for as many steps."""

    def choose(parts: Parts) -> float:
        best = least(points(_whole(parts, part), "held"))
        again = points({best.name: _whole(parts, "AdamW")[best.name]})
        return min(again, key=lambda point: abs(point.step - best.step)).metric

    return choose


def _best(parts: Parts) -> float:
    """The best step of the best settings, which only clean test data can find."""
    runs = _whole(parts, "AdamW")
    sign = -1 if next(iter(runs.values()))["higher_is_better"] else 1
    return min(points(runs), key=lambda point: sign * point.metric).metric


def _best_last(parts: Parts) -> float:
    """The last step of the settings that have the best last step on the test data."""
    runs = _whole(parts, "AdamW")
    up = next(iter(runs.values()))["higher_is_better"]
    lasts = [v for r in runs.values() if (v := r["curve"]["metric"][-1]) is not None]
    return max(lasts) if up else min(lasts)


def _first(column: str, says: Callable[[list[Point], int], bool]) -> Callable[[Parts], float]:
    """One untuned run of AdamW, stopped at the first step at which a rule says so."""

    def choose(parts: Parts) -> float:
        found = points(parts["stops"], column)
        stop = next((i for i in range(len(found)) if says(found, i)), len(found) - 1)
        return found[stop].metric

    return choose


def _turns(found: list[Point], i: int) -> bool:
    """Whether the mean over three evaluations is at its first minimum (Label Wave)."""
    if i < 2 or i + 1 >= len(found):
        return False
    before, after = (sum(p.seen for p in found[j - 2 : j + 1]) for j in (i, i + 1))
    return after > before


def _by_gradients(parts: Parts) -> float:
    return least(points(parts["stops"], "gradients")).metric


CONTENDERS: dict[str, Contender] = {
    "gate": Contender(
        _last("kernels with twin", "z 1 weight_decay 0"),
        1,
        "rows and columns, not tuned, last step",
    ),
    "gate, z by twin": Contender(_of_kernels(THRESHOLDS), 9, "its twin chooses z and the step"),
    "gate, tuned by twin": Contender(
        _of_kernels(TUNED), 9, "its twin chooses z, the rate, the decay and the step"
    ),
    "AdamW, hold-out": Contender(
        _held_out("AdamW held out"), 9, "a noisy tenth chooses settings and step"
    ),
    "AdamW, retrained": Contender(
        _retrained("AdamW held out"), 10, "the same choice, trained on all examples"
    ),
    "AdamW, twin": Contender(_adamw_by_twin, 9, "a twin chooses settings and step"),
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
        _held_out("AdamW held out", average=True), 9, "an average of the weights, by hold-out"
    ),
    "SAM, hold-out": Contender(_held_out("SAM held out"), 18, "two gradients a step, by hold-out"),
    "GCE, hold-out": Contender(
        _held_out("GCE held out"), 9, "generalised cross-entropy, by hold-out"
    ),
    "ELR, hold-out": Contender(
        _held_out("ELR held out"), 9, "early-learning regularisation, by hold-out"
    ),
    "EchoMuon, hold-out": Contender(_held_out("EchoMuon held out"), 9, "by hold-out"),
    "Label Wave": Contender(
        _first("changes", _turns), 1, "untuned AdamW, stopped where its answers change least"
    ),
    "evidence-based": Contender(
        _first("evidence", lambda found, i: found[i].seen > 0), 1, "untuned AdamW, so stopped"
    ),
    "gradients": Contender(
        _by_gradients, 1, "untuned AdamW, stopped by the risk from leave-one-out gradients"
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
    "without doubt": Contender(_last("single", "without doubt"), 1, "no degrees of freedom"),
    "linear": Contender(
        _last("references", "linear"), 12, "`LassoCV`, or a logistic regression; three folds"
    ),
    "elastic net": Contender(_last("references", "elastic net"), 9, "`ElasticNetCV`, three folds"),
    "forest": Contender(_last("references", "forest"), 7, "200 trees, three folds"),
    "boosting": Contender(
        _last("references", "boosting"), 7, "histogram gradient boosting, three folds"
    ),
    "network": Contender(
        _last("references", "network"), 10, "scikit-learn's MLP, `early_stopping`, three folds"
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
    by_seed: dict[int, dict[str, dict[str, Result]]] = {}
    for key, run in found.items():
        by_seed.setdefault(key.seed, {}).setdefault(key.part, {})[key.name] = run
    values: dict[str, dict[int, float]] = {}
    for name, contender in CONTENDERS.items():
        for seed, parts in by_seed.items():
            try:
                value = contender.choose(parts)
            except KeyError:
                continue
            metric = next(iter(found.values()))["metric"]
            values.setdefault(name, {})[seed] = error_of(metric, value)
    return values


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
