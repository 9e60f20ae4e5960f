"""The summary page of the study, from the runs as they are on disk."""

from collections.abc import Callable, Mapping
from pathlib import Path

from snrgate.lab.study.results import (
    Contenders,
    results_of,
    spread_of,
    steps_words,
    stored,
)
from snrgate.lab.study.rows import PEERS, ROWS, Row
from snrgate.lab.study.tables import head, line, oracle, verdict
from snrgate.lab.training.results import Key, Result

__all__ = ["summary_page"]

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


_COLUMNS = {
    "The gate at the last step, tuned. `gated` is told the number of examples, `gated-unsized` "
    "nothing, and `gated-fresh` that every example is new:": {
        name: (name, "last") for name in ("gated", "gated-unsized", "gated-fresh")
    },
    "AdamW, tuned for the step that is shown:": {
        "last step": ("adamw", "last"),
        "best step": ("adamw", "best"),
    },
    "Both at the last step, not tuned:": {
        "gated": ("gated-untuned", "last"),
        "AdamW": ("adamw-untuned", "last"),
    },
}
"""The narrow tables of the summary: what is said of them, and their columns."""

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
        *head(["row", "task", "the paper", "asked", "verdict", "minutes"], left=5),
    ]
    lines += [_asked(name, row, rows[name], results[name]) for name, row in ROWS.items()]
    for said, columns in _COLUMNS.items():
        lines += ["", said, "", *head(["row", *columns], left=1)]
        for name, row in ROWS.items():
            cells = (_cell(row, rows[name], *column) for column in columns.values())
            lines.append(line([name, *cells]))
    lines += ["", "The other claims:", "", *head(["claim", "the paper", "here", "row"], left=4)]
    for name, claim, paper, measure in _CLAIMS:
        here = measure(rows[name]) or "not run"
        lines.append(line([claim, paper, here, name]))
    return "\n".join(lines) + "\n"


def _asked(name: str, row: Row, runs: Contenders, results: Mapping[Key, Result]) -> str:
    """What a row is, what it is asked, and what it answered."""
    known = [name, row.title, row.paper, _ASKED[row.kind]]
    if "adamw" not in runs:
        return line([*known, "not run", ""])
    tuning = [stored(results, "tuning", tuple(row.grid(name))) for name in row.tuned()]
    seconds = [
        result["seconds"]
        for contenders in (runs, *tuning)
        for by_seed in contenders.values()
        for result in by_seed.values()
    ]
    return line([*known, verdict(row, runs).split(":")[0].lower(), f"{sum(seconds) / 60:.0f}"])


def _cell(row: Row, runs: Contenders, contender: str, which: str) -> str:
    """The median and the range of one contender."""
    if contender not in runs:
        return "-"
    if which == "best":
        contender = oracle(runs)
    if row.kind == "grokking" and row.reach is not None:
        return steps_words(runs[contender].values(), row.reach)
    return spread_of(runs[contender], which)
