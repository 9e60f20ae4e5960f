"""Write the pages and the pictures of the comparison from its stored runs.

    PYTHONPATH=benchmarks python -m comparison.page

Reads ``results/comparison/*.jsonl``. Writes ``README.md`` (the page) and ``rows.md`` (every number)
there, and ``docs/_static/regret.png``.
"""

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from comparison.choice import CONTENDERS
from comparison.contenders import TOLD
from comparison.figures import DECIDING, SCALED, curves, figure, measured_curves
from comparison.fixed import FIXED, HINDSIGHT
from comparison.numbers import Values, interval, interval_of, mean_ratios, ratios, regrets, shared
from comparison.objections import COSINE, RETRAINED, objections, said_ratio, times
from comparison.rows import ROWS, RULED
from comparison.rules import end_of
from comparison.scales import SCALES, scale_name
from comparison.stored import Stored
from comparison.words import ADVICE, KINDS, PAGE, ROWS_PAGE, verdict
from snrgate.lab.study.tables import head, line
from snrgate.lab.training.results import Key, Result

__all__ = ["main", "page"]

OUT = Path("results/comparison")
PICTURES = Path("docs/_static")

_WIDTH = 100
APART = 0.05
"""Relative difference of two errors above which one contender is ahead on a row."""
CLOSE = 1.02
"""Ratio of two errors up to which they count as level."""
HONEST = (
    *DECIDING,
    "gate, z by twin",
    "AdamW or gate, twin",
    "averaged, hold-out",
)
"""Contenders that no clean data has touched, which are ranked on every row."""
BESIDE = ("AdamW, oracle", "AdamW, best last", "averaged, hold-out", "gate, z by twin")
SINGLE = ("gate", "gate, size unknown", "gate per unit", "paper's gate", "SOAP, gated", "SOAP")
CONTROLS = ("shuffled", "mean", "own basis alone", "eigenvectors alone", "without doubt")
PEERS = ("SAM, hold-out", "GCE, hold-out", "ELR, hold-out", "EchoMuon, hold-out")
REFERENCES = ("network", "linear", "elastic net", "forest", "boosting")
STRONGER = (
    FIXED,
    "cosine, hold-out",
    COSINE,
    RETRAINED,
    "AdamW, smoothed hold-out",
    "AdamW, wide grid, hold-out",
    "gate, cosine",
    "gate, strict",
    "gate",
)
STOPS = ("AdamW, not tuned", "Label Wave", "evidence-based", "gradients")
FIRST = {
    "digits-40": "digits, 40 % wrong labels",
    "reviews-30": "reviews of food, 30 % wrong labels",
    "lorenz-40": "a noisy series",
    "table": "a table of 442 patients",
    "concrete": "a table of concrete, *clean*",
}
"""The rows of the table in the first document, and what they are called there: pictures, texts, a
series, and a noisy and a clean table."""
FIRST_COLUMNS = {
    "AdamW, hold-out": "AdamW, hold-out",
    "retrained": "AdamW, retrained",
    "gate": "gate",
    "gate, twin": "gate, tuned by twin",
    "AdamW, oracle": "AdamW, oracle",
}


def table(values: Values, names: Sequence[str]) -> list[str]:
    """The median error of some contenders on every row that has all of them."""
    lines = head(["row (seeds)", *names], left=1)
    for row, of_row in values.items():
        seeds = shared(of_row, names)
        if seeds:
            medians = [statistics.median(of_row[n][s] for s in seeds) for n in names]
            best = min(medians)
            cells = [f"**{m:.3g}**" if m == best else f"{m:.3g}" for m in medians]
            lines.append(line([f"{ROWS[row].title} ({len(seeds)})", *cells]))
    return lines


def summary(values: Values, names: Sequence[str], seconds: Mapping[str, float]) -> list[str]:
    """How often each contender is best or level with the best, and how bad it is at worst."""
    lines = head(["contender", "runs", "seconds", "best or level", "regret", "worst"], left=1)
    for name, by_row in regrets(values, names).items():
        if by_row:
            worst = max(by_row, key=by_row.__getitem__)
            level = sum(value <= CLOSE for value in by_row.values())
            cells = [
                name,
                str(CONTENDERS[name].runs),
                f"{seconds[name]:.0f}",
                f"{level} of {len(by_row)}",
                f"{statistics.median(by_row.values()):.2f}",
                f"{by_row[worst]:.2f} ({ROWS[worst].title})",
            ]
            lines.append(line(cells))
    return lines


def against(values: Values, names: Sequence[str], other: str) -> list[str]:
    """The mean ratio of errors with its interval, by kind of row."""
    lines = head(["contender", *KINDS.values()], left=1)
    for name in names:
        cells = []
        for kind in KINDS:
            logs = ratios(values, name, other, kind)
            cells.append(ratio_said(logs) if logs else "-")
        lines.append(line([name, *cells]))
    return lines


def ratio_said(logs: Mapping[str, Sequence[float]]) -> str:
    """A mean ratio, its interval and the number of rows."""
    mean, *ends = interval(logs)
    between = "" if math.isnan(ends[0]) else f"{ends[0]:.2f} to {ends[1]:.2f}; "
    return f"{mean:.2f} ({between}{len(logs)})"


def page(stored: Stored) -> str:
    """The page.

    Args:
        stored: what was measured; rows of few seeds are named and not counted.
    """

    def part(*names: str) -> str:
        return "\n".join(table(values, names))

    values, seconds, scales = stored.counted, stored.seconds, stored.scales
    few = [ROWS[row].title for row in stored.values if row not in values]
    unmeasured = [row.title for name, row in ROWS.items() if name not in stored.values]
    others = [n for n in CONTENDERS if n not in ("AdamW, hold-out", *CONTROLS)]
    others[others.index("averaged, hold-out") : 0] = [FIXED, HINDSIGHT]
    longer = sorted(stored.times.values())
    said = {
        "one gated run that nobody tunes": "gate",
        "the gate with the settings and step of its twin": "gate, tuned by twin",
        "AdamW with the settings and step of its twin": "AdamW, twin",
    }
    worst = worst_of(values, "clean")
    text = PAGE.format(
        plain=times(values, "gate", "AdamW, hold-out"),
        one_run=times(values, "gate", FIXED),
        best_rival=times(values, "gate", RETRAINED),
        worst_clean=f"{worst[0]}: {worst[1]:.2f} times",
        verdict=verdict({who: by_kind(values, name) for who, name in said.items()}),
        advice=ADVICE.format(
            averaged=said_ratio(values, "averaged, hold-out"),
            retrained=said_ratio(values, "AdamW, retrained"),
            cosine=said_ratio(values, COSINE),
            again=said_ratio(values, RETRAINED),
            over_again=said_ratio(values, "gate", RETRAINED),
            tuned=said_ratio(values, "gate, tuned by twin"),
            tuned_over_again=said_ratio(values, "gate, tuned by twin", RETRAINED),
            elr=said_ratio(values, "ELR, hold-out"),
            fixed=said_ratio(values, "gate", FIXED),
            hindsight=said_ratio(values, "gate", HINDSIGHT),
            least_time=longer[0],
            median_time=statistics.median(longer),
            most_time=longer[-1],
            slowest=ROWS[max(stored.times, key=stored.times.__getitem__)].title,
            **placed(values, "gate", "AdamW, hold-out"),
            **{
                f"tuned_{where}": rows
                for where, rows in placed(values, "gate, tuned by twin", "AdamW, hold-out").items()
            },
        ),
        deciding=part(*DECIDING),
        summary="\n".join(summary(values, HONEST, seconds)),
        stronger="\n".join(against(values, STRONGER, "AdamW, hold-out")),
        against="\n".join(against(values, others, "AdamW, hold-out")),
        beside=part(*BESIDE),
        single=part(*SINGLE),
        controls="\n".join(against(values, CONTROLS, "gate")),
        peers="\n".join(_where_there(values, PEERS)),
        stops="\n".join(_where_there(values, STOPS)),
        references="\n".join(_where_there(values, REFERENCES)),
        folds=part("AdamW, folds", "AdamW, twin", "AdamW, retrained", "AdamW, hold-out"),
        objections=objections(stored),
        told="\n".join(told(stored.ruled)),
        few="; ".join(few) or "none",
        least=stored.LEAST_SEEDS,
        unmeasured="; ".join(unmeasured) or "none",
        not_measured=_not_measured(scales),
        scaled="\n".join(scaled(scales)),
        scales_seeds=_seeds_said(scales),
        contenders="\n".join(
            f"- **{name}**{_runs_said(c.runs)}: {c.said}." for name, c in CONTENDERS.items()
        ),
        fixed=FIXED,
        hindsight=HINDSIGHT,
        setting=stored.hindsight,
    )
    return wrapped(text)


def wrapped(text: str) -> str:
    """The text with lines of at most 100 characters, but for tables and pictures."""
    return "\n\n".join(map(_filled, text.split("\n\n"))) + "\n" * text.endswith("\n")


def _filled(block: str) -> str:
    """A paragraph or a list with lines of at most 100 characters."""
    if block.startswith(("|", "!", "#")):
        return block
    items = ("\n" + block.strip()).split("\n- ")
    fill = textwrap.TextWrapper(_WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = [fill.fill(items[0].strip())] if items[0] else []
    fill.initial_indent, fill.subsequent_indent = "- ", "  "
    return "\n".join(lines + [fill.fill(item) for item in items[1:]])


def _runs_said(runs: int) -> str:
    return "" if not runs else f" ({runs} run{'s' * (runs > 1)})"


def placed(values: Values, name: str, other: str) -> dict[str, str]:
    """The rows where one contender is ahead of another, level with it, and behind it."""
    found: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for row, ratio in mean_ratios(values, name, other).items():
        where = "ahead" if ratio < 1 - APART else "behind" if ratio > 1 + APART else "level"
        found[where].append(f"{ROWS[row].title} ({ratio:.2f})")
    return {where: "; ".join(rows) or "none" for where, rows in found.items()}


def worst_of(values: Values, kind: str) -> tuple[str, float]:
    """The row on which the untuned gate is furthest behind AdamW with a hold-out, and its ratio."""
    found = mean_ratios(values, "gate", "AdamW, hold-out", kind)
    row = max(found, key=lambda row: found[row])
    return ROWS[row].title, found[row]


def told(ruled: Mapping[str, Mapping[Key, Result]]) -> list[str]:
    """The last step on equations and rules, where the size of the data may mislead the gate."""
    lines = head(["row (seeds)", *TOLD], left=1)
    for row, runs in ruled.items():
        seeds = {key.seed for key in runs}
        whole = sorted(s for s in seeds if all(Key("told", n, s) in runs for n in TOLD))
        if whole:
            ends = ([end_of(runs[Key("told", n, s)]) for s in whole] for n in TOLD)
            cells = [f"{statistics.median(of_name):.3g}" for of_name in ends]
            lines.append(line([f"{RULED[row].title} ({len(whole)})", *cells]))
    return lines


def by_kind(values: Values, name: str) -> dict[str, tuple[float, float, float]]:
    """The ratio to AdamW with a hold-out by kind of row."""
    return {kind: interval_of(values, name, "AdamW, hold-out", kind) for kind in KINDS}


def _where_there(values: Values, names: Sequence[str]) -> list[str]:
    """A table of medians over shared seeds; a dash where a contender has no runs on a row."""
    lines = head(["row (seeds)", *names, "gate"], left=1)
    for row, of_row in values.items():
        there = [name for name in (*names, "gate") if name in of_row]
        seeds = shared(of_row, there)
        if seeds and any(name in there for name in names[1:]):
            cells = [
                f"{statistics.median(of_row[n][s] for s in seeds):.3g}" if n in there else "-"
                for n in (*names, "gate")
            ]
            lines.append(line([f"{ROWS[row].title} ({len(seeds)})", *cells]))
    return lines


def first_table(values: Values) -> str:
    """Five rows for the first document: medians of errors over shared seeds."""
    lines = head(["what is learned", *FIRST_COLUMNS], left=1)
    for row, title in FIRST.items():
        seeds = shared(values[row], FIRST_COLUMNS.values())
        cells = [
            f"{statistics.median(values[row][name][s] for s in seeds):.3g}"
            for name in FIRST_COLUMNS.values()
        ]
        lines.append(line([title, *cells]))
    return "\n".join(lines) + "\n"


def first_sentence(stored: Stored) -> str:
    """How one gated run compares with nine runs and a hold-out, over all rows."""
    plain, cosine, single = (
        times(stored.counted, "gate", other) for other in ("AdamW, hold-out", RETRAINED, HINDSIGHT)
    )
    return (
        f"On average the error of one gated run is {plain} that of AdamW with this hold-out, "
        f"{cosine} that of a cosine that is retrained, and {single} that of one run of AdamW with "
        "the best setting in hindsight."
    )


def rows_page(values: Values) -> str:
    """Every number: median, range and seeds of each contender on each row."""
    text = []
    for row, of_row in values.items():
        text += ["", f"## {ROWS[row].title}", "", f"`--rows {row}` ({ROWS[row].kind})", ""]
        text += head(["contender", "error", "least", "most", "seeds"], left=1)
        for name, by_seed in of_row.items():
            errors = list(by_seed.values())
            cells = (f"{f(errors):.4g}" for f in (statistics.median, min, max))
            text.append(line([name, *cells, str(len(errors))]))
    return ROWS_PAGE + "\n".join(text) + "\n"


def scaled(scales: Values) -> list[str]:
    """The median errors at every point of the curves."""
    lines = head(["what changes", *SCALED], left=1)
    for curve, by_x in SCALES.items():
        for x in by_x:
            of_row = scales.get(scale_name(curve, x), {})
            if "gate" in of_row:
                cells = (
                    f"{statistics.median(of_row[name].values()):.3g}" if name in of_row else "-"
                    for name in SCALED
                )
                lines.append(line([f"{curve}: {x:g}", *cells]))
    return lines


def _seeds_said(scales: Values) -> str:
    """The number of seeds of the points, or the least and the greatest one."""
    counts = sorted(len(of_row["gate"]) for of_row in scales.values() if "gate" in of_row)
    return " to ".join(map(str, sorted({counts[0], counts[-1]})))


def _not_measured(scales: Values) -> str:
    missing = [curve for curve in SCALES if curve not in measured_curves(scales)]
    return f" Not measured yet: {', '.join(missing)}." if missing else ""


def main() -> None:
    """Write everything."""
    stored = Stored.read(OUT)
    (OUT / "README.md").write_text(page(stored))
    (OUT / "rows.md").write_text(rows_page(stored.values))
    figure(stored.counted).savefig(PICTURES / "regret.png", dpi=120)
    if measured_curves(stored.scales):
        curves(stored.scales).savefig(PICTURES / "scales.png", dpi=120)


if __name__ == "__main__":
    main()
