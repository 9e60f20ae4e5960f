"""The summary page of the study, from the runs as they are on disk."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from snrgate.lab.study.results import (
    Contenders,
    comparable,
    median,
    medians,
    results_of,
    spread_of,
    steps_words,
    stored,
)
from snrgate.lab.study.rows import PEERS, ROWS, Row
from snrgate.lab.study.tables import head, line, oracle, verdict
from snrgate.lab.training.results import Key, Result

__all__ = ["short_table", "summary_page"]

_ASKED = {
    "noisy": "last step as good as AdamW's best",
    "clean": "at most 1 % worse than AdamW",
    "grokking": "no slower than tuned AdamW",
    "confusing": "90 %, where AdamW stays below 50 %",
}


def _fewer_steps(reach: float) -> Callable[[Contenders], str]:
    """Median steps to a goal, also of the contenders that were tuned for it."""

    def measure(runs: Contenders) -> str:
        tuned = ("adamw", "gated", *PEERS)
        names = (*tuned, *(f"{name}-fastest" for name in tuned))
        said = (f"{n} {steps_words(runs[n].values(), reach)}" for n in names if n in runs)
        return "; ".join(said)

    return measure


def _last(key: str) -> Callable[[Contenders], str]:
    """A measure at the last step: of the gate, of AdamW tuned and untuned."""

    def measure(runs: Contenders) -> str:
        names = {
            "gated": "gated",
            "gated-floor": "gated with a floor",
            "adamw": "AdamW tuned",
            "adamw-untuned": "AdamW untuned",
        }
        return "; ".join(
            f"{said} {spread_of(runs[name], 'last', key)}"
            for name, said in names.items()
            if name in runs
        )

    return measure


_PICTURES = ("camera-10", "camera-20", "chelsea-20", "camera-poisson", "camera-siren")
_CLAIMS: tuple[tuple[str, str, str, Callable[[Contenders], str]], ...] = (
    ("advection", "steps to a relative error of 0.40", "2.4 times fewer", _fewer_steps(0.4)),
    *(
        (row, "high-frequency power of the residual", "8.5 times lower", _last("high_frequency"))
        for row in _PICTURES
    ),
    *(
        (row, "distance from the attractor, free run", "stays on it", _last("attractor_distance"))
        for row in ("lorenz-10", "lorenz-20", "lorenz-40", "laser-0", "laser-20")
    ),
    *(
        (row, "held-out loss at the last step", "diverges under AdamW only", _last("test_loss"))
        for row in ("digits-20", "digits-40")
    ),
    ("division-25", "steps to 0.95", "5,950, AdamW 29,450", _fewer_steps(0.95)),
    ("division-slow", "steps to 0.95", "5,950, AdamW 29,450", _fewer_steps(0.95)),
    ("division-50", "steps to 0.95", "-", _fewer_steps(0.95)),
    ("division-wrong", "held-out accuracy at the last step", "-", _last("accuracy")),
    ("division-wrong", "wrong answers learned", "-", _last("wrong_learned")),
)
"""Row, claim, what the paper says, and how it is measured."""


def summary_page(out: Path) -> str:
    """The page of all rows that have been run, and of the paper's other claims.

    Args:
        out: folder of the study.
    """
    results = {name: results_of(out, name).read() for name in ROWS}
    rows = {n: stored(results[n], "runs", row.contenders()) for n, row in ROWS.items()}
    lines = [
        "# The study",
        "",
        "    snrgate study",
        "",
        "`snrgate study` runs what is missing and writes these pages. `snrgate study --rows NAME` "
        "runs one row. The numbers are medians (ranges) over fresh seeds. They are numbers of "
        "steps where the row counts the steps to a goal. Untuned is a learning rate of 1e-3 "
        "without weight decay, for a user who cannot tune, because tuning needs clean data.",
        "",
        *head(
            [
                "row",
                "task",
                "the paper",
                "asked",
                "gated, last step",
                "gated-unsized, last step",
                "gated-fresh, last step",
                "AdamW tuned, last step",
                "AdamW tuned, best step",
                "gated untuned, last step",
                "AdamW untuned, last step",
                "verdict",
                "minutes",
            ],
            left=4,
        ),
    ]
    lines += [_row(name, row, rows[name], results[name]) for name, row in ROWS.items()]
    lines += ["", "The other claims:", "", *head(["claim", "the paper", "here", "row"], left=4)]
    for name, claim, paper, measure in _CLAIMS:
        here = measure(rows[name]) or "not run"
        lines.append(line([claim, paper, here, name]))
    return "\n".join(lines) + "\n"


def short_table(out: Path) -> str:
    """The medians alone, in one table of the rows where the last or the best step counts.

    Half of the settings of the grid are at least as good as the median setting (tuning seeds).

    Args:
        out: folder of the study.
    """
    lines = head(
        [
            "row",
            "what is learned",
            "measure",
            "AdamW, not tuned",
            "gated, not tuned",
            "AdamW, median setting",
            "gated, median setting",
            "AdamW, tuned",
            "gated, tuned",
            "AdamW, best step",
        ],
        left=3,
    )
    for name, row in ROWS.items():
        results = results_of(out, name).read()
        runs = stored(results, "runs", row.contenders())
        if row.kind not in ("noisy", "clean") or not comparable(runs):
            continue
        measure = next(iter(runs["gated"].values()))["metric"].replace("_", " ")
        known = [f"`{name}`", row.title, measure]
        adamw = [_median(runs, n, "last") for n in ("adamw-untuned", "adamw")]
        best = _median(runs, oracle(runs), "best")
        gated = [_median(runs, n, "last") for n in ("gated-untuned", "gated")]
        settings = [_median_setting(row, n, results) for n in ("adamw", "gated")]
        lines.append(line([*known, adamw[0], gated[0], *settings, adamw[1], gated[1], best]))
        for other, told in (("gated-unsized", "no size given"), ("gated-fresh", "all fresh")):
            if other in runs:
                labels = [known[0], f"{row.title}; {told}", measure]
                last = _median(runs, other, "last")
                setting = _median_setting(row, other, results)
                cells = [adamw[0], "-", settings[0], setting, adamw[1], last, best]
                lines.append(line([*labels, *cells]))
    return "\n".join(lines) + "\n"


def _median(runs: Contenders, name: str, which: str) -> str:
    return f"{median(runs[name], which):#.3g}" if name in runs else "-"


def _median_setting(row: Row, contender: str, results: Mapping[Key, Result]) -> str:
    """The median over the settings of the grid: what a user who cannot tune may expect."""
    tried = stored(results, "tuning", tuple(row.grid(contender)))
    return f"{statistics.median(medians(tried)):#.3g}" if tried else "-"


def _row(name: str, row: Row, runs: Contenders, results: Mapping[Key, Result]) -> str:
    known = [name, row.title, row.paper, _ASKED[row.kind]]
    if "adamw" not in runs:
        return line([*known, *["-"] * 7, "not run", ""])

    def cell(contender: str, which: str) -> str:
        if contender not in runs:
            return "-"
        if row.kind == "grokking" and row.reach is not None:
            return steps_words(runs[contender].values(), row.reach)
        return spread_of(runs[contender], which)

    tuning = [stored(results, "tuning", tuple(row.grid(name))) for name in row.tuned()]
    seconds = [
        result["seconds"]
        for contenders in (runs, *tuning)
        for by_seed in contenders.values()
        for result in by_seed.values()
    ]
    return line(
        [
            *known,
            cell("gated", "last"),
            cell("gated-unsized", "last"),
            cell("gated-fresh", "last"),
            cell("adamw", "last"),
            cell(oracle(runs), "best"),
            cell("gated-untuned", "last"),
            cell("adamw-untuned", "last"),
            verdict(row, runs).split(":")[0].lower(),
            f"{sum(seconds) / 60:.0f}",
        ]
    )
