"""Figures: the metric of several runs over their steps, and any figure as a PNG file."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from snrgate.lab.training.results import Result
from snrgate.lab.training.train import Metrics

__all__ = ["curves", "risks", "to_png"]

_COLOURS = ("#b4532a", "#1f5f8b", "#6b8e23", "#8b5fa8", "#c79a1b", "#4a4a4a")


def to_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def curves(groups: Mapping[str, Sequence[Result]]) -> Figure:
    """The metric over the steps, with a line for every seed.

    Args:
        groups: the results of each name, one for each seed.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, results) in enumerate(groups.items()):
        for j, result in enumerate(results):
            steps, values = zip(*result["curve"], strict=True)
            label = name if j == 0 else None
            axes.plot(steps, values, color=_COLOURS[i % len(_COLOURS)], linewidth=1.2, label=label)
    first = next(iter(groups.values()))[0]
    axes.set_xlabel("step")
    axes.set_ylabel(first["metric"].replace("_", " "))
    if not first["higher_is_better"]:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def risks(rows: Sequence[Metrics]) -> Figure:
    """Training loss and estimated risk over the steps, with a band of two standard errors.

    Args:
        rows: the metrics of a training with a twin.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    names = "step", "loss", "twin_risk", "twin_risk_error"
    steps, loss, risk, error = (np.array([row[name] for row in rows]) for name in names)
    axes.plot(steps, loss, "--", color=_COLOURS[5], linewidth=1.2, label="training loss")
    axes.plot(steps, risk, color=_COLOURS[1], linewidth=1.2, label="risk, estimated by the twin")
    band = {"color": _COLOURS[1], "alpha": 0.2, "linewidth": 0}
    axes.fill_between(steps, risk - 2 * error, risk + 2 * error, **band)
    if np.isfinite(risk).any():
        best = np.nanargmin(risk)
        axes.plot(steps[best], risk[best], "o", color=_COLOURS[0], label="least risk")
    axes.set(xlabel="step", ylabel="loss on targets with noise")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
