"""What the study came to: a page for each row, and one for all of them."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from snrgate.study.rows import ROWS, Row
from snrgate.training.sweep import Result, spread

__all__ = ["row_page", "summary_page", "verdict"]

_HARM = 0.01  # how much worse than AdamW the gate may be on clean data


def row_page(name: str, row: Row, contenders: Mapping[str, Mapping[int, Result]]) -> str:
    """The page of one row.

    Args:
        name: of the row.
        row: the row.
        contenders: results by contender and seed.
    """
    first = next(iter(next(iter(contenders.values())).values()))
    metric = first["metric"]
    plain = metric.replace("_", " ")
    lines = [
        f"# {row.title}",
        "",
        f"    snrgate study --rows {name}",
        "",
        f"{verdict(row, contenders)}",
        "",
        f"| contender | learning rate | weight decay | {plain}, last step | {plain}, best step "
        "| at step | seconds | failed |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for label, results in contenders.items():
        runs = list(results.values())
        good = [r for r in runs if not r["diverged"]]
        settings = runs[0]["settings"]
        cells = [
            label,
            f"{settings['optimizer.learning_rate']:g}",
            f"{settings['optimizer.weight_decay']:g}",
            *(
                spread([r[which][metric] for r in good], 4) if good else "-"
                for which in ("last", "best")
            ),
            spread([r["best"]["step"] for r in good], 0) if good else "-",
            spread([r["seconds"] for r in runs], 0),
            str(len(runs) - len(good)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = ", ".join(str(seed) for seed in next(iter(contenders.values())))
    lines += [
        "",
        f"Median (range) over the seeds {seeds}. Learning rate and weight decay were chosen on "
        "other seeds: for the last step, and for adamw-oracle for the best step, which takes "
        "clean held-out data to find.",
        "",
        "![curves](curves.png)",
    ]
    return "\n".join(lines) + "\n"


def verdict(row: Row, contenders: Mapping[str, Mapping[int, Result]]) -> str:
    """Whether the gate did what was asked of it, in a sentence with its numbers.

    Args:
        row: the row.
        contenders: results by contender and seed.
    """
    if "gated" not in contenders or "adamw" not in contenders:
        return "Not measured yet."
    gated = list(contenders["gated"].values())
    metric, up = gated[0]["metric"], gated[0]["higher_is_better"]

    def median(name: str, which: str, key: str = metric) -> float:
        return statistics.median(r[which][key] for r in contenders[name].values())

    last = median("gated", "last")
    if row.kind == "grokking":
        steps, other = median("gated", "last", "step"), median("adamw", "last", "step")
        if row.base.until is None:
            held = last > median("adamw", "last")
            return f"{_yes(held)}: gated {last:.3f}, tuned AdamW {median('adamw', 'last'):.3f}."
        there = last >= row.base.until
        how = f"in {steps:.0f} steps" if there else f"not in {steps:.0f} steps ({last:.3f})"
        return f"{_yes(there and steps <= other)}: gated {how}, tuned AdamW in {other:.0f}."
    if row.kind == "clean":
        other = median("adamw", "last")
        worse = (other - last if up else last - other) / abs(other)
        held = _yes(worse <= _HARM)
        return f"{held}: gated {last:.4f}, tuned AdamW {other:.4f}; {worse:.1%} worse."
    oracle = max if up else min
    best = oracle(median(n, "best") for n in ("adamw", "adamw-oracle") if n in contenders)
    held = last >= best if up else last <= best
    return (
        f"{_yes(held)}: gated at its last step {last:.4f}, AdamW at its best (by oracle) "
        f"{best:.4f}, at its last {median('adamw', 'last'):.4f}."
    )


def _yes(held: bool) -> str:
    return "Reached" if held else "Not reached"


def summary_page(out: Path) -> str:
    """All rows that have been run, from the pages of the rows.

    Args:
        out: folder of the study.
    """
    lines = [
        "# The study",
        "",
        "    snrgate study",
        "",
        "runs what is missing and writes these pages; `snrgate study --rows NAME` one row.",
        "",
        "| row | task | asked | came to | minutes |",
        "|:--|:--|:--|:--|--:|",
    ]
    asked = {
        "noisy": "last step as good as AdamW's best",
        "clean": "at most 1 % worse than AdamW",
        "grokking": "as fast as tuned AdamW",
    }
    for name, row in ROWS.items():
        page = out / name / "README.md"
        came_to, minutes = "not run", ""
        if page.exists():
            came_to = page.read_text().split("\n")[4]
            seconds = [
                json.loads(path.read_text())["seconds"] for path in (out / name).glob("*/*.json")
            ]
            minutes = f"{sum(seconds) / 60:.0f}"
        lines.append(f"| {name} | {row.title} | {asked[row.kind]} | {came_to} | {minutes} |")
    return "\n".join(lines) + "\n"
