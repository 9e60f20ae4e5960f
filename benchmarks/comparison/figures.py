"""The pictures of the comparison: the regret on every row, and the curves."""

import statistics

from matplotlib.figure import Figure

from comparison.numbers import Values, regrets
from comparison.rows import ROWS
from comparison.scales import SCALES, scale_name
from comparison.words import KINDS

__all__ = ["DECIDING", "SCALED", "curves", "figure", "measured_curves"]

DECIDING = (
    "gate",
    "gate, tuned by twin",
    "AdamW, hold-out",
    "AdamW, retrained",
    "AdamW, twin",
)
"""The contenders that the page is about."""
SCALED = ("gate", "gate, strict", "gate, tuned by twin", "AdamW, hold-out", "AdamW, oracle")
COLOURS = {
    "gate": "#1f5f8b",
    "gate, strict": "#7a5195",
    "gate, tuned by twin": "#5fa8d3",
    "AdamW, hold-out": "#b4532a",
    "AdamW, retrained": "#e39a6f",
    "AdamW, twin": "#4c8c4a",
    "AdamW, oracle": "#9a9a9a",
}


def figure(values: Values) -> Figure:
    """The regret of the deciding contenders on every row; rows by kind."""
    found = regrets(values, DECIDING)
    rows = [row for kind in KINDS if kind for row in values if ROWS[row].kind == kind]
    rows = [row for row in rows if row in found["gate"]]
    picture = Figure(figsize=(8, 1.2 + 0.27 * len(rows)), layout="constrained")
    axes = picture.subplots()
    for i, row in enumerate(reversed(rows)):
        axes.axhline(i, color="#e6e6e6", linewidth=0.8, zorder=0)
        if i and ROWS[rows[::-1][i - 1]].kind != ROWS[row].kind:
            axes.axhline(i - 0.5, color="#4a4a4a", linewidth=0.8)
    for name in DECIDING:
        xs = [found[name][row] for row in reversed(rows)]
        axes.plot(xs, range(len(rows)), "o", color=COLOURS[name], label=name, markersize=5.5)
    titles = [f"{ROWS[row].title} ({ROWS[row].kind})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.set_xscale("log")
    ticks = [t for t in (1, 1.1, 1.25, 1.5, 2, 3, 5) if t <= 1.2 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("error over that of the best of the five (medians over seeds)")
    picture.legend(frameon=False, ncols=3, loc="outside upper center", fontsize=9)
    return picture


def measured_curves(scales: Values) -> list[str]:
    """The names of the curves of which at least two points have been measured."""
    return [
        curve
        for curve, by_x in SCALES.items()
        if sum("gate" in scales.get(scale_name(curve, x), {}) for x in by_x) > 1
    ]


def curves(scales: Values) -> Figure:
    """The errors of some contenders along the curves."""
    drawn = measured_curves(scales)
    picture = Figure(figsize=(3.2 * len(drawn), 3.4), layout="constrained")
    for axes, curve in zip(picture.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        by_x = SCALES[curve]
        for name in SCALED:
            points = [
                (x, statistics.median(of_row[name].values()))
                for x in by_x
                if name in (of_row := scales.get(scale_name(curve, x), {}))
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=name)
        if max(by_x) <= 1:
            axes.set_xscale("linear")
        elif 0 in by_x:  # a logarithm that reaches zero
            axes.set_xscale("symlog", linthresh=min(x for x in by_x if x))
        else:
            axes.set_xscale("log")
        axes.set_xticks(list(by_x), [f"{x:g}" for x in by_x])
        axes.minorticks_off()
        axes.set(xlabel=curve, ylabel="error")
        axes.grid(alpha=0.3)
    handles, labels = picture.axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, frameon=False, ncols=3, loc="outside upper center")
    return picture
