"""Rules when to stop, and the page and picture of ``theory_risk.py``."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snrgate.lab.training.figures import to_png
from snrgate.lab.training.results import Key

Rows = list[dict[str, float]]
"""The evaluations of one run."""


def _series(rows: Rows, name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def smoothed(values: np.ndarray, width: int = 5) -> np.ndarray:
    """Means over the last few evaluations."""
    return np.array([values[max(0, i - width + 1) : i + 1].mean() for i in range(len(values))])


def lowest(name: str) -> Callable[[Rows], int]:
    """The evaluation at which a curve is lowest."""
    return lambda rows: int(np.argmin(smoothed(_series(rows, name))))


def first_below(name: str, level: float) -> Callable[[Rows], int]:
    """The first evaluation at which a curve is below a level, or the last one of all."""

    def rule(rows: Rows) -> int:
        below = np.flatnonzero(smoothed(_series(rows, name)) < level)
        return int(below[0]) if below.size else len(rows) - 1

    return rule


def risen(name: str, patience: int = 5) -> Callable[[Rows], int]:
    """The evaluation after which a curve has risen so many times in a row, or the last one."""

    def rule(rows: Rows) -> int:
        values, times = smoothed(_series(rows, name)), 0
        for i in range(1, len(values)):
            times = times + 1 if values[i] > values[i - 1] else 0
            if times == patience:
                return i - patience
        return len(rows) - 1

    return rule


def first_minimum(name: str) -> Callable[[Rows], int]:
    """The first local minimum of a curve, or the last evaluation."""

    def rule(rows: Rows) -> int:
        values = smoothed(_series(rows, name))[1:]
        lower = [i for i in range(1, len(values) - 1) if values[i - 1] >= values[i] < values[i + 1]]
        return lower[0] + 1 if lower else len(rows) - 1

    return rule


RULES: dict[str, tuple[str, Callable[[Rows], int]]] = {
    "last step": ("whole", lambda rows: len(rows) - 1),
    "noisy hold-out of 10 %": ("held-out", lowest("held")),
    "estimated population risk": ("whole", lowest("risk")),
    "estimated change of risk": ("whole", lowest("change")),
    "evidence-based criterion": ("whole", first_below("evidence", 1.0)),
    "GradStop, diagonal": ("whole", first_below("gradstop", 1.0)),
    "gradient disparity": ("whole", risen("disparity")),
    "Label Wave": ("whole", first_minimum("changed")),
}
"""Rules by name: the run they look at, and the evaluation they choose. Others are added here."""


def stopped(runs: dict[Key, Rows], task: str, rule: str) -> list[tuple[float, float, int]]:
    """What a rule comes to: the score where it stops, the best score of the whole run, the step."""
    part, choose = RULES[rule]
    found = []
    for key, rows in runs.items():
        if key.part != part or key.name != task:
            continue
        whole = _series(runs[Key("whole", task, key.seed)], "score")
        best = whole.min() if task.startswith("table") else whole.max()
        at = rows[choose(rows)]
        found.append((at["score"], float(best), int(at["step"])))
    return found


def agreement(rows: Rows) -> dict[str, float]:
    """How the estimate follows the true risk."""
    true, estimated, gap = (_series(rows, name) for name in ("true", "risk", "gap"))
    # Two sets of examples differ from the start; what counts is how the difference grows.
    true_gap = true - _series(rows, "training")
    true_gap, gap = true_gap - true_gap[0], gap - gap[0]
    grown = int(np.argmax(true_gap > 0.05)) if np.any(true_gap > 0.05) else len(rows) - 1
    return {
        "correlation of the risk": float(np.corrcoef(true, estimated)[0, 1]),
        "correlation of the gap": float(np.corrcoef(true_gap, gap)[0, 1]),
        "estimated / true gap, early": float(gap[grown] / true_gap[grown]),
        "estimated / true gap, end": float(gap[-1] / true_gap[-1]),
        "covered by the band": float(np.mean(np.abs(true - estimated) < _series(rows, "band"))),
        "true lowest at": float(rows[int(np.argmin(true))]["step"]),
        "estimate lowest at": float(rows[int(np.argmin(smoothed(estimated)))]["step"]),
    }


def page(runs: dict[Key, Rows], middle: Callable[[Sequence[float]], float]) -> str:
    """The tables."""
    names = list(dict.fromkeys(key.name for key in runs))
    lines = [
        "# Population risk from one run: the estimate, and when to stop",
        "",
        "`OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python "
        "benchmarks/theory_risk.py`",
        "",
        "Medians over seeds. The true risk is the loss on test examples whose labels are as noisy",
        "as those of the training set. Gaps are counted from the first evaluation. Early is the",
        "first one at which the true gap has grown by 0.05.",
        "",
        "![Estimated and true risk](curves.png)",
        "",
    ]
    agreed = {
        name: [agreement(rows) for key, rows in runs.items() if key[:2] == ("whole", name)]
        for name in names
    }
    columns = list(agreed[names[0]][0])
    lines += [f"| run | {' | '.join(columns)} |", "|:--|" + "--:|" * len(columns)]
    for name in names:
        values = (f"{middle([a[c] for a in agreed[name]]):.3g}" for c in columns)
        lines.append(f"| {name} | {' | '.join(values)} |")
    lines += [
        "",
        "## As a rule when to stop",
        "",
        "Score on clean test labels at the step that each rule chooses (accuracy; for the table,",
        "squared error, of which less is better), with the step. The best step takes an oracle.",
        "",
        f"| rule | {' | '.join(names)} |",
        "|:--|" + "--:|" * len(names),
    ]
    for rule in RULES:
        cells = []
        for name in names:
            if rule == "Label Wave" and name.startswith("table"):
                cells.append("-")
                continue
            found = stopped(runs, name, rule)
            score, step = middle([f[0] for f in found]), middle([f[2] for f in found])
            cells.append(f"{score:.3f} @{step:.0f}")
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    best = [f"{middle([f[1] for f in stopped(runs, n, 'last step')]):.3f}" for n in names]
    lines.append(f"| best step of all | {' | '.join(best)} |")
    return "\n".join(lines) + "\n"


def picture(runs: dict[Key, Rows]) -> bytes:
    """The true and the estimated risk of the first seed of every run."""
    names = list(dict.fromkeys(key.name for key in runs))
    tasks = list(dict.fromkeys(name.split("/")[0] for name in names))
    figure = Figure(figsize=(3.2 * len(tasks), 5.4), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False)
    first = min(key.seed for key in runs)
    for name in names:
        task, optimizer = name.split("/")
        row = list(dict.fromkeys(n.split("/")[1] for n in names)).index(optimizer)
        ax: Any = axes[row][tasks.index(task)]
        rows = runs[Key("whole", name, first)]
        steps = _series(rows, "step")
        risk, band = _series(rows, "risk"), _series(rows, "band")
        ax.fill_between(steps, risk - band, risk + band, color="0.8", linewidth=0)
        ax.plot(steps, risk, color="0.45", label="estimated risk")
        ax.plot(steps, _series(rows, "true"), color="black", linestyle="--", label="true risk")
        ax.plot(steps, _series(rows, "training"), color="0.6", linestyle=":", label="training risk")
        top = 1.6 * max(_series(rows, "true").max(), _series(rows, "true")[0])
        ax.set(title=f"{task}, {optimizer}", xlabel="step", ylabel="loss", ylim=(0, top))
    axes[0][0].legend(frameon=False, fontsize=8)
    return to_png(figure)
