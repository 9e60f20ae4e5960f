"""Many runs, each measured once and kept as one JSON file."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.settings import flat
from snrgate.lab.training.train import Training, fit, summary

__all__ = ["Result", "collect", "measure", "spread"]

Result = dict[str, Any]
"""``settings``, ``metric``, ``last`` and ``best`` rows, ``curve``, ``diverged`` and ``seconds``."""


def measure(settings: Training) -> Result:
    """Train once.

    Args:
        settings: of the run.

    Returns:
        The settings, the metric that counts and whether more of it is better, the last row and
        the best one, the metric at every evaluation, whether the loss ceased to be a number, and
        the seconds it took.
    """
    began = time.perf_counter()
    task = settings.task.make(settings.seed)
    rows = [row for _, row in fit(settings, task)]
    # No number where training failed: such a run is counted, not averaged.
    finite = [row for row in rows if math.isfinite(row[task.metric])]
    diverged = len(finite) < len(rows) or not math.isfinite(rows[-1]["loss"])
    worst = -math.inf if task.higher_is_better else math.inf
    failed = {"step": rows[-1]["step"], task.metric: worst}
    came_to = summary(task, finite) if finite else {"last": failed, "best": failed}
    return {
        "settings": flat(settings),
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "last": failed if diverged else came_to["last"],
        "best": came_to["best"],
        "curve": [[row["step"], row[task.metric]] for row in finite],
        "diverged": diverged,
        "seconds": round(time.perf_counter() - began, 1),
    }


def collect(
    runs: Mapping[str, Training], out: Path, say: Callable[[str], None] = print
) -> dict[str, Result]:
    """Do what has not been done yet.

    Args:
        runs: settings by the name of the file, without ``.json``. A file that is there with
            other settings is measured again.
        out: folder of the files.
        say: is told a line for each new run.

    Returns:
        The results, in the order of the runs.
    """
    folder = RunFolder(out)
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, settings in runs.items():
        result = _kept(out / f"{name}.json", settings)
        if result is None:
            result = measure(settings)
            folder.write_json(f"{name}.json", result)
            metric, last, best = result["metric"], result["last"], result["best"]
            say(
                f"{name}: {metric} {last[metric]:.4f}, best {best[metric]:.4f} at step "
                f"{best['step']}, {result['seconds']} s"
            )
        results[name] = result
    return results


def _kept(path: Path, settings: Training) -> Result | None:
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    # As JSON has them: a tuple is a list there.
    return result if result["settings"] == json.loads(json.dumps(flat(settings))) else None


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Median and range.

    Args:
        values: of several runs.
        digits: significant ones.

    Example:
        >>> from snrgate.lab.training.sweep import spread
        >>> spread([0.25, 0.5, 0.00012345678])
        '0.25 (0.0001235 to 0.5)'
    """
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"
