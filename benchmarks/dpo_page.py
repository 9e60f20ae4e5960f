"""The page and the figure of the benchmark on preferences, written from its runs alone."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.results import Key
from snrgate.preferences import sustained

SWAP, SEEDS = "swap 0.3", 3
LEVELS = 0.65, 0.7, 0.75
DRIFTS = 0.5, 1.0, 2.0, 4.0
COLOURS = {"adamw": "#b4532a", "unit": "#1f5f8b", "kernels": "#6b8e23"}
PAPER = 3.05  # times less drift, and 0.566 -> 0.641 reward accuracy


class Curve(NamedTuple):
    """The runs of a contender with all its seeds: the mean of each metric by evaluation."""

    optimizer: str
    seeds: int
    steps: np.ndarray
    accuracy: np.ndarray
    kept: np.ndarray
    drift: np.ndarray
    kl: np.ndarray
    stopped: tuple[float, float] | None  # accuracy and drift at the least hold-out loss


def curves(found: dict[Key, Any]) -> dict[tuple[str, str], Curve]:
    """The mean curves by part and name."""
    groups = defaultdict(list)
    for key, result in found.items():
        groups[key.part, key.name].append(result)
    return {key: _curve(results) for key, results in groups.items()}


def _curve(results: list[Any]) -> Curve:
    def of(name: str) -> np.ndarray:
        return np.array([[row[name] for row in result["rows"]] for result in results])

    accuracy, drift, stopped = of("accuracy"), of("drift"), None
    if results[0]["contender"]["hold_out"]:
        at = np.argmin(of("held_out_loss"), axis=1)[:, None]
        stopped = tuple(float(np.mean(np.take_along_axis(x, at, 1))) for x in (accuracy, drift))
    kept = np.array([sustained(x) for x in accuracy])
    means = (np.mean(x, 0) for x in (accuracy, kept, drift, of("kl")))
    optimizer = results[0]["contender"]["optimizer"]
    return Curve(optimizer, len(results), of("step")[0], *means, stopped)


def frontier(found: dict[tuple[str, str], Curve], optimizer: str, beta: str) -> list[Curve]:
    """The curves of plain DPO of one optimizer, with all seeds, at the main share of swaps."""
    return [
        curve
        for (part, name), curve in found.items()
        if part == SWAP
        and curve.seeds >= SEEDS
        and curve.optimizer == optimizer
        and " dpo " in name
        and name.endswith(beta)
    ]


def least_drift(group: list[Curve], level: float) -> float:
    """The least mean drift at an evaluation whose mean accuracy reaches a level."""
    reached = [c.drift[c.accuracy >= level] for c in group]
    return min((float(x.min()) for x in reached if x.size), default=np.nan)


def most_accuracy(group: list[Curve], drift: float) -> float:
    """The best mean accuracy at an evaluation whose mean drift is at most so much."""
    allowed = [c.accuracy[c.drift <= drift] for c in group]
    return max((float(x.max()) for x in allowed if x.size), default=np.nan)


def write_page(found: dict[Key, Any], out: Path) -> None:
    """Write ``README.md`` and ``frontier.png`` into a folder."""
    means = curves(found)
    rows = {
        "AdamW": frontier(means, "adamw", "beta=0.1"),
        "AdamW, 900 pairs": frontier(means, "adamw", "hold-out"),
        "AdamW, beta 0.5": frontier(means, "adamw", "beta=0.5"),
        "gate by unit": frontier(means, "unit", "beta=0.1"),
        "gate by kernel": frontier(means, "kernels", "beta=0.1"),
    }
    rows = {name: group for name, group in rows.items() if group}
    folder = RunFolder(out)
    folder.write("frontier.png", to_png(_figure(rows)))
    folder.write("README.md", _page(means, rows).encode())


def _page(means: dict[tuple[str, str], Curve], rows: dict[str, list[Curve]]) -> str:
    equal = [
        f"| {name} | " + _cells([least_drift(g, x) for x in LEVELS], 2) for name, g in rows.items()
    ]
    best = [
        f"| {name} | " + _cells([most_accuracy(g, x) for x in DRIFTS], 3)
        for name, g in rows.items()
    ]
    every = [
        f"| {part.removeprefix('swap ')} | {name} | {c.seeds} | "
        + _cells([c.accuracy[-1], c.kept[len(c.kept) // 2], c.drift[-1], c.kl[-1]], 3)
        for (part, name), c in sorted(means.items())
    ]
    stopped = [
        f"- {name}: accuracy {c.stopped[0]:.3f} and drift {c.stopped[1]:.2f} at the least loss on "
        f"the hold-out, {c.seeds} seeds."
        for (part, name), c in means.items()
        if c.stopped and part == SWAP
    ]
    return _PAGE.format(
        verdict=_verdict(rows),
        levels=" | ".join(f"{x:g}" for x in LEVELS),
        drifts=" | ".join(f"{x:g}" for x in DRIFTS),
        rule_levels="--:|" * len(LEVELS),
        rule_drifts="--:|" * len(DRIFTS),
        equal="\n".join(equal),
        best="\n".join(best),
        every="\n".join(every),
        stopped="\n".join(stopped),
    )


def _cells(values: list[float], digits: int) -> str:
    return " | ".join("-" if np.isnan(x) else f"{x:.{digits}f}" for x in values) + " |"


def _verdict(rows: dict[str, list[Curve]]) -> str:
    said = []
    for gate in ("gate by unit", "gate by kernel"):
        for other in ("AdamW", "AdamW, 900 pairs", "AdamW, beta 0.5"):
            if gate not in rows or other not in rows:
                continue
            pairs = [(x, least_drift(rows[other], x), least_drift(rows[gate], x)) for x in LEVELS]
            ratios = [f"{a / g:.2f} at {x:g}" for x, a, g in pairs if not np.isnan(a / g)]
            never = [f"{x:g}" for x, _, g in pairs if np.isnan(g)]
            tail = f" It does not reach {', '.join(never)}." * bool(never)
            said.append(
                f"- The drift of {other} is {', '.join(ratios) or 'not comparable'} times that of "
                f"the {gate}.{tail}"
            )
    return "\n".join(said)


def _figure(rows: dict[str, list[Curve]]) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, group in rows.items():
        for i, curve in enumerate(group):
            dashed = ":" if "0.5" in name else "--" if "900" in name else "-"
            colour = COLOURS[curve.optimizer]
            label = name if i == 0 else None
            axes.plot(curve.drift, curve.accuracy, dashed, marker="o", color=colour, label=label)
    axes.set(xlabel="mean absolute drift (nats a reply)", ylabel="reward accuracy", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


_PAGE = """\
# Preferences with wrong labels

`python benchmarks/dpo.py vaderSentiment-3.3.2.tar.gz`, see its docstring. SmolLM2-135M-Instruct
learns by DPO whether the writer of a film review liked the film: " liked" against " hated", one
token each, behind one prompt. There are 1,000 pairs to learn from, labelled by one human each,
with a share of the labels swapped on top, and 300 others to measure on, labelled by the mean of
all humans. LoRA of rank 8 on q, k, v and o of the LAST block only, 400 steps of 16 pairs (6.4
epochs). The standard error of one accuracy is about 0.027. A run takes about 75 s with AdamW, 80 s
with the gate by unit and 120 s by kernel, on one core that was not always free.

## The claim

The paper (Qwen2.5-0.5B-Instruct, 30 % swapped) reports reward accuracy 0.566 -> 0.641 and 3.05
times less drift. Here, at a swap of 0.3, on means over three seeds, at the least drift at which an
accuracy is reached at any evaluation:

{verdict}

**The claim is not shown.** Three seeds cannot carry a ratio here: the row with 900 pairs is the
same AdamW with a tenth of the pairs set aside, and it differs from AdamW on all pairs by more than
the gates do. The runs go through phases in which nearly all replies are the same, and when they
leave them differs from seed to seed. What holds on all three seeds is small: at a learning rate of
0.001 the gates end with less drift than AdamW at the same step.

A number above 1 is in favour of the gate. The choice of the evaluation uses the test pairs, for
all contenders alike, so these are frontiers, and not what a user who does not see clean labels
gets. The grid of learning rates is 0.001 and 0.003 at beta 0.1. AdamW was also run at beta 0.5 and
0.001; **the gates were not run at beta 0.5**, so the rows with beta 0.5 do not compare like with
like. They show that a larger beta alone lowers the drift by far.

Least drift (nats a reply, log-ratio to the reference) at an accuracy of at least

| contender | {levels} |
|:--|{rule_levels}
{equal}

Best accuracy at a drift of at most

| contender | {drifts} |
|:--|{rule_drifts}
{best}

AdamW stopped by a noisy hold-out of a tenth of the pairs:

{stopped}

![frontier](frontier.png)

## All runs

Accuracy, drift and KL (nats a token) are those of the last step; "kept" is the least accuracy from
half of the steps on. Parts with one seed are hints.

| swap | contender | seeds | accuracy | kept | drift | KL |
|--:|:--|--:|--:|--:|--:|--:|
{every}

Not measured yet: the robust losses, a wrong flip rate, the gates at beta 0.5, smaller learning
rates, swaps of 0.15, seeds 1 and 2 of the other swaps, replies of several tokens, and adapters in
more than the last block. `python benchmarks/dpo.py` goes on with most of these.
"""
