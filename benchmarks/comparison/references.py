"""What people use on tables in place of a network of their own, on the rows of the comparison."""

from typing import Any

import numpy as np
from sklearn.linear_model import ElasticNetCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from comparison.rows import Arrays, Wide
from snrgate.lab.tasks.table import Table
from snrgate.lab.training.train import TaskSettings

__all__ = ["is_table", "metric_of", "names"]

_NETWORKS = ("gated", "twin")  # the estimators of this project, which are not references


def is_table(task: TaskSettings) -> bool:
    """Whether the examples of a task are rows of a table."""
    return isinstance(task, (Table, Wide)) or (
        isinstance(task, Arrays) and task.source not in ("digits", "reviews")
    )


def names(task: Any) -> list[str]:
    """The names of the methods for a table."""
    classes = _is_classes(task)
    return list(_methods(classes, 0))


def metric_of(task: Any, name: str, seed: int) -> float:
    """The accuracy or the mean squared error of a method on the test rows.

    Args:
        task: settings of the task.
        name: of the method.
        seed: of the data and of what is random in the method.
    """
    import pandas as pd  # here, because it takes a second to import

    (x, y), (test_x, test_y) = task.data(seed)
    classes = np.issubdtype(y.dtype, np.integer)
    columns, others = (pd.DataFrame(part).rename(columns=str) for part in (x, test_x))
    answers = _methods(classes, seed)[name].fit(columns, y).predict(others)
    if classes:
        return float(np.mean(answers == test_y))
    return float(np.mean(np.square(answers - test_y)))


def _is_classes(task: Any) -> bool:
    return np.issubdtype(task.data(0)[0][1].dtype, np.integer)


def _methods(classes: bool, seed: int) -> dict[str, Any]:
    from tables import methods  # which imports pandas

    found = {n: m for n, m in methods(classes, seed).items() if n not in _NETWORKS}
    if not classes:
        net = ElasticNetCV(l1_ratio=[0.1, 0.5, 0.9], cv=3, max_iter=20_000)
        found["elastic net"] = make_pipeline(StandardScaler(), net)
    return found
