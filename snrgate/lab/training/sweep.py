"""Many runs. Each is measured once, and kept as one line of a file."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snrgate.lab.tasks.task import Task
from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.settings import flat
from snrgate.lab.training.train import Metrics, Training, fit, summary

__all__ = ["as_result", "collect", "measure", "recognised", "spread"]


def measure(settings: Training) -> Result:
    """Train once.

    Args:
        settings: of the run.

    Returns:
        The settings, the metric that counts and whether a higher one is better, the last row and
        the best row, the metric at every evaluation, whether the run diverged, and the seconds
        that it took.
    """
    began = time.perf_counter()
    task = settings.task.make(settings.seed)
    rows = [row for _, row in fit(settings, task)]
    return {
        "settings": flat(settings),
        **as_result(task, rows),
        "seconds": round(time.perf_counter() - began, 1),
    }


def as_result(task: Task, rows: list[Metrics]) -> Result:
    """The result of a run from its metrics.

    Args:
        task: the task of the run.
        rows: the metrics of all evaluations.

    Returns:
        The result of :func:`measure`, without settings and seconds. A run that failed has the
        worst value.
    """
    # A failed run has values that are not finite. It is counted, and not averaged.
    finite = [row for row in rows if math.isfinite(row[task.metric])]
    diverged = len(finite) < len(rows) or not math.isfinite(rows[-1]["loss"])
    worst = -math.inf if task.higher_is_better else math.inf
    failed = {"step": rows[-1]["step"], task.metric: worst}
    came_to = summary(task, finite) if finite else {"last": failed, "best": failed}
    return {
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "last": failed if diverged else came_to["last"],
        "best": came_to["best"],
        "curve": [[row["step"], row[task.metric]] for row in finite],
        "diverged": diverged,
    }


def collect(
    runs: Mapping[Key, Training], results: Results, say: Callable[[str], None] = print
) -> dict[Key, Result]:
    """Measure the runs that have not been measured yet.

    Args:
        runs: the settings of each run. A run is measured again where its stored result has other
            settings.
        results: the file of the results.
        say: function that gets a line of text for each new run.

    Returns:
        The results, in the order of the runs.
    """
    there = results.read()
    for key, settings in runs.items():
        if recognised(there.get(key), settings):
            continue
        there[key] = result = measure(settings)
        results.update({key: result})
        metric, last, best = result["metric"], result["last"], result["best"]
        say(
            f"{key.name}-seed{key.seed}: {metric} {last[metric]:.4f}, best {best[metric]:.4f} "
            f"at step {best['step']}, {result['seconds']} s"
        )
    return {key: there[key] for key in runs}


def recognised(result: Result | None, settings: Any) -> bool:
    """Whether a result is that of a run with these settings.

    Args:
        result: of a run, or ``None`` where there is none.
        settings: of the run, a frozen dataclass.
    """
    # The file holds the settings as JSON, where a tuple is a list.
    return result is not None and result["settings"] == json.loads(json.dumps(flat(settings)))


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Median and range.

    Args:
        values: values of several runs.
        digits: number of significant digits.

    Example:
        >>> from snrgate.lab.training.sweep import spread
        >>> spread([0.25, 0.5, 0.00012345678])
        '0.25 (0.0001235 to 0.5)'
    """
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"
