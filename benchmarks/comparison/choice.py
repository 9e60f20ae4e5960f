"""The contenders: a name, the rule that chooses for each, and the errors that they come to."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from comparison.contenders import GRID, THRESHOLDS, TUNED, TWIN_GRID, WIDE_GRID
from comparison.rules import (
    MissingRunError,
    Parts,
    best_last,
    by_accuracy,
    by_gradients,
    by_twin,
    chosen,
    cosine_retrained,
    first_where,
    held_out,
    last,
    last_held_out,
    mixed_by_twin,
    oracle,
    retrained,
    smoothed,
    turns,
)
from snrgate.lab.training.results import Key, Result

__all__ = ["CONTENDERS", "Contender", "edges_of", "error_of", "values_of"]


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


CONTENDERS: dict[str, Contender] = {
    "gate": Contender(
        last("kernels with twin", "z 1 weight_decay 0"),
        1,
        '`block="kronecker"`, not tuned, last step',
    ),
    "gate, z by twin": Contender(
        by_twin("kernels with twin", THRESHOLDS), 9, "its twin chooses z and the step"
    ),
    "gate, tuned by twin": Contender(
        by_twin("kernels with twin", TUNED),
        9,
        "its twin chooses z, rate, decay and step",
    ),
    "AdamW, hold-out": Contender(
        held_out("AdamW held out"), 9, "a noisy tenth chooses settings and step"
    ),
    "AdamW, hold-out by accuracy": Contender(
        by_accuracy("AdamW held out"), 9, "labels: its share of wrong answers chooses"
    ),
    "AdamW, smoothed hold-out": Contender(
        smoothed, 9, "the mean of the held-out loss over three evaluations chooses"
    ),
    "AdamW, wide grid, hold-out": Contender(
        held_out("AdamW held out", wanted=WIDE_GRID),
        16,
        "a rate of 1e-2 and a decay of 30 besides",
    ),
    "cosine, hold-out": Contender(
        held_out("cosine held out"), 9, "AdamW whose rate falls to zero, by hold-out"
    ),
    "cosine, last by hold-out": Contender(
        last_held_out("cosine held out"),
        9,
        "the same, kept at its last step; the hold-out chooses the settings alone",
    ),
    "cosine, retrained": Contender(
        cosine_retrained, 10, "the same settings, trained on all examples, at their last step"
    ),
    "AdamW, retrained": Contender(
        retrained("AdamW held out"), 10, "the same choice, trained on all examples"
    ),
    "AdamW, twin": Contender(
        by_twin("AdamW with twin", TWIN_GRID),
        9,
        "a twin chooses settings and step; for labels their law is that of a gated run",
    ),
    "AdamW or gate, twin": Contender(
        mixed_by_twin, 9, "a twin chooses between two settings of AdamW and two thresholds"
    ),
    "AdamW, folds": Contender(
        retrained("AdamW folds"), 46, "five-fold cross-validation, trained on all examples"
    ),
    "AdamW, oracle": Contender(oracle, 9, "the best step of all on the test data"),
    "AdamW, best last": Contender(
        best_last, 9, "the settings with the best last step on the test data"
    ),
    "AdamW, not tuned": Contender(last("single", "AdamW"), 1, "a rate of 1e-3, last step"),
    "averaged, hold-out": Contender(
        held_out("AdamW held out", "average held", "average"),
        9,
        "an average of the weights, by hold-out",
    ),
    "SAM, hold-out": Contender(held_out("SAM held out"), 18, "two gradients a step, by hold-out"),
    "GCE, hold-out": Contender(
        by_accuracy("GCE held out"),
        9,
        "generalised cross-entropy, by held-out accuracy",
    ),
    "ELR, hold-out": Contender(
        by_accuracy("ELR held out"),
        9,
        "early-learning regularisation, by held-out accuracy",
    ),
    "EchoMuon, hold-out": Contender(held_out("EchoMuon held out"), 9, "by hold-out"),
    "Label Wave": Contender(
        first_where("changes", turns),
        1,
        "untuned AdamW, stopped where the changes of its answers have their first minimum",
    ),
    "evidence-based": Contender(
        first_where("evidence", lambda found, i: found[i].seen > 0),
        1,
        "untuned AdamW, stopped by the evidence-based criterion",
    ),
    "gradients": Contender(
        by_gradients, 1, "untuned AdamW, stopped by the risk from leave-one-out gradients"
    ),
    "gate, size unknown": Contender(
        last("single", "gate, size unknown"),
        1,
        "the gate without the number of examples",
    ),
    "gate, cosine": Contender(
        last("single", "gate, cosine"), 1, "the gate with a rate that falls to zero, last step"
    ),
    "gate, strict": Contender(
        last("single", "gate, strict"), 1, "the gate with `z` = 1.4 in place of 1, last step"
    ),
    "gate per unit": Contender(last("single", "gate per unit"), 1, "not tuned, last step"),
    "paper's gate": Contender(
        last("single", "paper's gate"), 1, "Algorithm 1 with b / (n - b), not tuned, last step"
    ),
    "SOAP, gated": Contender(last("single", "SOAP, gated"), 1, "not tuned, last step"),
    "SOAP": Contender(last("single", "SOAP"), 1, "not tuned, last step"),
    "shuffled": Contender(last("single", "shuffled"), 1, "the gate's values in another order"),
    "mean": Contender(last("single", "mean"), 1, "a tensor's gates all at their mean"),
    "own basis alone": Contender(last("single", "own basis alone"), 1, "one basis of the two"),
    "eigenvectors alone": Contender(last("single", "eigenvectors alone"), 1, "the other basis"),
    "without doubt": Contender(
        last("single", "without doubt"), 1, "no correction for the degrees of freedom of the noise"
    ),
    "linear": Contender(
        last("references", "linear"), 0, "`LassoCV`, or a logistic regression; three folds"
    ),
    "elastic net": Contender(last("references", "elastic net"), 0, "`ElasticNetCV`, three folds"),
    "forest": Contender(last("references", "forest"), 0, "200 trees, three folds"),
    "boosting": Contender(
        last("references", "boosting"), 0, "histogram gradient boosting, three folds"
    ),
    "network": Contender(
        last("references", "network"), 0, "scikit-learn's MLP, `early_stopping`, three folds"
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
    at_edge = choices = 0
    for runs in found:
        for parts in _by_seed(runs).values():
            try:
                name = chosen(parts, "AdamW held out", grid).name
            except MissingRunError:
                continue
            choices += 1
            at_edge += any(edge in name for edge in highest)
    return at_edge, choices


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
