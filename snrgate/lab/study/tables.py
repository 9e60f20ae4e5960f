"""The page of one row: every contender, and the methods that need no network."""

import statistics
from collections.abc import Mapping, Sequence

from snrgate.lab.study.results import (
    Contenders,
    comparable,
    median,
    medians,
    spread_of,
    steps_to,
    steps_words,
)
from snrgate.lab.study.rows import ADAMW, Row
from snrgate.lab.training.sweep import spread

__all__ = ["head", "line", "oracle", "row_page", "verdict"]

_HARM = 0.01  # how much worse than AdamW the gate may be on clean data
_UNDERSTOOD, _CONFUSED = 0.9, 0.5  # accuracy asked of the gate, and of AdamW, at wrong answers


def row_page(
    name: str,
    row: Row,
    contenders: Contenders,
    tried: Mapping[str, Contenders],
    references: Mapping[int, Mapping[str, float]],
) -> str:
    """The page of one row.

    Args:
        name: of the row.
        row: the row.
        contenders: results by contender and seed.
        tried: by contender, the settings among which it was tuned.
        references: by seed and label, the results of :mod:`snrgate.lab.study.references`.
    """
    base = row.base
    first = next(iter(next(iter(contenders.values())).values()))
    metric = first["metric"]
    plain = metric.replace("_", " ")
    better = "more is better" if first["higher_is_better"] else "less is better"
    reach = [] if row.reach is None else [f"steps to {row.reach:g}"]
    header = [
        "contender",
        "learning rate",
        "weight decay",
        f"{plain}, last step",
        f"{plain}, best step",
        "at step",
        *reach,
        "seconds",
        "failed",
    ]
    lines = [
        f"# {row.title}",
        "",
        f"    snrgate study --rows {name}",
        "",
        verdict(row, contenders),
        "",
        f"For {plain}, {better}. A run has {base.steps:,} steps of {base.batch_size} examples.",
        "",
        *head(header, left=1),
    ]
    for label, results in contenders.items():
        runs = list(results.values())
        settings = runs[0]["settings"]
        cells = [
            label,
            f"{settings['optimizer.learning_rate']:g}",
            f"{settings['optimizer.weight_decay']:g}",
            spread_of(results, "last"),
            spread_of(results, "best"),
            spread_of(results, "best", "step"),
            *([] if row.reach is None else [steps_words(runs, row.reach)]),
            spread([round(r["seconds"]) for r in runs]),
            str(sum(r["diverged"] for r in runs)),
        ]
        lines.append(line(cells))
    seeds = ", ".join(str(seed) for seed in next(iter(contenders.values())))
    lines += [
        "",
        f"The numbers are medians (ranges) over the seeds {seeds}. {_chosen(row, tried)}",
        "",
        *_sensitivity(tried, plain),
        *_other_measures(contenders, metric),
        *_without(references, plain),
        "![curves](curves.png)",
    ]
    return "\n".join(lines) + "\n"


def _chosen(row: Row, tried: Mapping[str, Contenders]) -> str:
    """A sentence that says how the learning rate and the weight decay were chosen."""
    if not any(tried.values()):
        return "All contenders have the same learning rate and weight decay."
    on = "another seed" if row.tuned_on == 1 else f"{row.tuned_on} other seeds"
    return (
        f"Learning rate and weight decay were chosen on {on}, for the last step. Those of "
        "adamw-oracle were chosen for the best step, which only clean held-out data can find."
    )


def _sensitivity(tried: Mapping[str, Contenders], plain: str) -> list[str]:
    """The metric at the last step for every setting that was tried; divergence counts."""
    if not any(tried.values()):
        return []
    lines = ["The settings that were tried, each at its last step (tuning seeds):", ""]
    lines += head(["contender", "settings", f"{plain}: median (range) over the settings"], left=1)
    for name, settings in tried.items():
        if settings:
            lines.append(line([name, str(len(settings)), spread(medians(settings))]))
    return [*lines, ""]


def _other_measures(contenders: Contenders, metric: str) -> list[str]:
    """Everything else that was measured at the last step."""
    rows = [r["last"] for results in contenders.values() for r in results.values()]
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in ("step", metric)]
    lines = ["Other measures at the last step:", ""]
    lines += head(["contender", *(k.replace("_", " ") for k in keys)], left=1)
    for label, results in contenders.items():
        lines.append(line([label, *(spread_of(results, "last", key) for key in keys)]))
    return [*lines, ""]


def _without(references: Mapping[int, Mapping[str, float]], plain: str) -> list[str]:
    labels = list(dict.fromkeys(label for values in references.values() for label in values))
    if not labels:
        return []
    lines = ["Other methods, on the same data and seeds:", "", *head(["method", plain], left=1)]
    for label in labels:
        lines.append(line([label, spread([v[label] for v in references.values()])]))
    return [*lines, ""]


def head(cells: Sequence[str], left: int) -> list[str]:
    """The first two lines of a table.

    Args:
        cells: names of the columns.
        left: how many of them are set flush left.
    """
    rule = [":--"] * left + ["--:"] * (len(cells) - left)
    return [line(cells), "|" + "|".join(rule) + "|"]


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def oracle(contenders: Contenders) -> str:
    """The AdamW whose best step is the best of all; only clean data can find it.

    Args:
        contenders: results by contender and seed.
    """
    best = {n: median(contenders[n], "best") for n in ADAMW if n in contenders}
    up = next(iter(contenders["adamw"].values()))["higher_is_better"]
    return (max if up else min)(best, key=best.__getitem__)


def verdict(row: Row, contenders: Contenders) -> str:
    """A sentence that says whether the gate did what was asked of it, with the numbers.

    Args:
        row: the row.
        contenders: results by contender and seed.
    """
    if not comparable(contenders):
        return "Gate not run: there is nothing to judge yet."
    gated, adamw = contenders["gated"], contenders["adamw"]
    up = next(iter(gated.values()))["higher_is_better"]
    last, other = median(gated, "last"), median(adamw, "last")
    best = median(contenders[oracle(contenders)], "best")
    if row.kind == "grokking" and row.reach is not None:
        steps = [
            statistics.median(steps_to(r, row.reach) for r in runs.values())
            for runs in (gated, adamw)
        ]
        held = steps[0] <= steps[1] and steps[0] < float("inf")
        how = [steps_words(runs.values(), row.reach) for runs in (gated, adamw)]
        return f"{_yes(held)}: steps to {row.reach:g}: gated {how[0]}, tuned AdamW {how[1]}."
    if row.kind == "confusing":
        held = last >= _UNDERSTOOD and other < _CONFUSED
        return (
            f"{_yes(held)}: at the last step the gate has {last:.4g} and tuned AdamW {other:.4g}; "
            f"at its best step AdamW has {best:.4g}."
        )
    if row.kind == "clean":
        worse = (other - last if up else last - other) / abs(other)
        held = _yes(worse <= _HARM)
        how = f"{abs(worse):.1%} {'worse' if worse > 0 else 'better'}" if worse else "level"
        return f"{held}: the gate has {last:.4g}, tuned AdamW {other:.4g}; the gate is {how}."
    held = last >= best if up else last <= best
    return (
        f"{_yes(held)}: the gate has {last:.4g} at its last step; AdamW has {best:.4g} at its best "
        f"step, which an oracle has to choose, and {other:.4g} at its last."
    )


def _yes(held: bool) -> str:
    return "Reached" if held else "Not reached"
