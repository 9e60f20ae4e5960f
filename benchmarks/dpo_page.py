"""The page and the figure of the benchmark on preferences, written from its runs alone."""

import textwrap
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
        chosen = [float(np.mean(np.take_along_axis(x, at, 1))) for x in (accuracy, drift)]
        stopped = chosen[0], chosen[1]
    kept = np.array([sustained(x) for x in accuracy])
    optimizer = results[0]["contender"]["optimizer"]
    return Curve(
        optimizer,
        len(results),
        of("step")[0],
        accuracy.mean(0),
        kept.mean(0),
        drift.mean(0),
        of("kl").mean(0),
        stopped,
    )


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


class Ends(NamedTuple):
    """The last steps of AdamW and of a gate with the same loss, labels and seed."""

    accuracies: np.ndarray  # of AdamW and of the gate, a row a seed
    drifts: np.ndarray

    @property
    def seeds(self) -> int:
        """Number of seeds that both have."""
        return len(self.drifts)


def ends(found: dict[Key, Any], optimizer: str) -> dict[tuple[str, str], Ends]:
    """The last steps of a gate beside those of AdamW, by part and by what both were told."""
    pairs = defaultdict(list)
    for key, result in found.items():
        told = key.name.partition(" ")[2]
        other = found.get(key._replace(name=f"adamw {told}"))
        if key.name.startswith(f"{optimizer} ") and other is not None:
            pairs[key.part, told].append((other["rows"][-1], result["rows"][-1]))

    def of(name: str, rows: list[Any]) -> np.ndarray:
        return np.array([[end[name] for end in pair] for pair in rows])

    return {
        key: Ends(of("accuracy", rows), of("drift", rows)) for key, rows in sorted(pairs.items())
    }


def said_of_ends(of_gate: dict[tuple[str, str], Ends], name: str) -> str:
    """What the last steps say where all seeds are there, a sentence for each setting."""
    said = []
    for (part, told), e in of_gate.items():
        if e.seeds < SEEDS:
            continue
        ratio = np.log(e.drifts[:, 0] / e.drifts[:, 1])
        more = e.accuracies[:, 1] - e.accuracies[:, 0]
        said.append(
            f"{part}, {told}: AdamW ends with {np.exp(ratio.mean()):.2f} times the drift of the "
            f"{name} ({np.exp(ratio.min()):.2f} to {np.exp(ratio.max()):.2f}); the accuracy of the "
            f"gate less that of AdamW is {more.mean():+.3f} ({more.min():+.3f} to "
            f"{more.max():+.3f})."
        )
    return _listed(said)


def table_of_ends(gates: dict[str, dict[tuple[str, str], Ends]]) -> str:
    """Accuracy and drift at the last step, AdamW and both gates over the seeds they share."""

    def cell(e: Ends | None, column: int) -> str:
        if e is None:
            return "-"
        return f"{e.accuracies[:, column].mean():.3f}, {e.drifts[:, column].mean():.2f}"

    lines = []
    for part, told in sorted({key for ends_ in gates.values() for key in ends_}):
        both = [of_gate.get((part, told)) for of_gate in gates.values()]
        most = max((e for e in both if e is not None), key=lambda e: e.seeds)
        seeds = " and ".join(sorted({str(e.seeds) for e in both if e is not None}))
        cells = [cell(most, 0), *(cell(e, 1) for e in both)]
        lines.append(f"| {part.removeprefix('swap ')} | {told} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(found: dict[Key, Any], wanted: int, out: Path) -> None:
    """Write ``README.md`` and ``frontier.png`` into a folder.

    Args:
        found: the runs.
        wanted: number of runs that the benchmark has.
        out: the folder.
    """
    means = curves(found)
    rows = {
        "AdamW": frontier(means, "adamw", "beta=0.1"),
        "AdamW, 900 pairs": frontier(means, "adamw", "beta=0.1 hold-out"),
        "AdamW, beta 0.5": frontier(means, "adamw", "beta=0.5"),
        "AdamW, 900 pairs, beta 0.5": frontier(means, "adamw", "beta=0.5 hold-out"),
        "gate by unit": frontier(means, "unit", "beta=0.1"),
        "gate by kernel": frontier(means, "kernels", "beta=0.1"),
        "gate by unit, beta 0.5": frontier(means, "unit", "beta=0.5"),
        "gate by kernel, beta 0.5": frontier(means, "kernels", "beta=0.5"),
    }
    rows = {name: group for name, group in rows.items() if group}
    folder = RunFolder(out)
    folder.write("frontier.png", to_png(_figure(rows)))
    gates = {name: ends(found, name) for name in ("unit", "kernels")}
    text = _page(means, rows, gates, wanted - len(found), wanted)
    folder.write("README.md", text.encode())


def _page(
    means: dict[tuple[str, str], Curve],
    rows: dict[str, list[Curve]],
    gates: dict[str, dict[tuple[str, str], Ends]],
    missing: int,
    wanted: int,
) -> str:
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
        f"{name}: accuracy {c.stopped[0]:.3f} and drift {c.stopped[1]:.2f} at the least loss on "
        f"the hold-out, {c.seeds} seeds."
        for (part, name), c in means.items()
        if c.stopped and part == SWAP
    ]
    return _PAGE.format(
        verdict=_verdict(rows),
        said_unit=said_of_ends(gates["unit"], "gate by unit"),
        said_kernels=said_of_ends(gates["kernels"], "gate by kernel"),
        ends=table_of_ends(gates),
        missing=missing,
        wanted=wanted,
        levels=" | ".join(f"{x:g}" for x in LEVELS),
        drifts=" | ".join(f"{x:g}" for x in DRIFTS),
        rule_levels="--:|" * len(LEVELS),
        rule_drifts="--:|" * len(DRIFTS),
        equal="\n".join(equal),
        best="\n".join(best),
        every="\n".join(every),
        stopped=_listed(stopped),
    )


def _cells(values: list[float], digits: int) -> str:
    return " | ".join("-" if np.isnan(x) else f"{x:.{digits}f}" for x in values) + " |"


def _verdict(rows: dict[str, list[Curve]]) -> str:
    said = []
    for kind in ("gate by unit", "gate by kernel"):
        for gate, other in (
            (kind, "AdamW"),
            (kind, "AdamW, 900 pairs"),
            (f"{kind}, beta 0.5", "AdamW, beta 0.5"),
            (f"{kind}, beta 0.5", "AdamW, 900 pairs, beta 0.5"),
        ):
            if gate not in rows or other not in rows:
                continue
            pairs = [(x, least_drift(rows[other], x), least_drift(rows[gate], x)) for x in LEVELS]
            ratios = [f"{a / g:.2f} at {x:g}" for x, a, g in pairs if not np.isnan(a / g)]
            never = [f"{x:g}" for x, _, g in pairs if np.isnan(g)]
            tail = f" It does not reach {', '.join(never)}." * bool(never)
            said.append(
                f"The drift of {other} is {', '.join(ratios) or 'not comparable'} times that of "
                f"the {gate}.{tail}"
            )
    return _listed(said)


def _listed(sentences: list[str]) -> str:
    wrap = textwrap.TextWrapper(
        100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )
    return "\n".join(map(wrap.fill, sentences))


def _figure(rows: dict[str, list[Curve]]) -> Figure:
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, group in rows.items():
        for i, curve in enumerate(group):
            dashed = {(0, 0): "-", (0, 1): "--", (1, 0): ":", (1, 1): "-."}[
                "0.5" in name, "900" in name
            ]
            colour = COLOURS[curve.optimizer]
            label = name if i == 0 else None
            axes.plot(curve.drift, curve.accuracy, dashed, marker="o", color=colour, label=label)
    axes.set(xlabel="mean absolute drift (nats a reply)", ylabel="reward accuracy", xscale="log")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


_PAGE = """\
# Preferences with wrong labels

`python benchmarks/dpo.py vaderSentiment-3.3.2.tar.gz`, see its docstring. SmolLM2-135M-Instruct
learns by DPO whether the writer of a film review liked the film: " liked" against " hated", one
token each, behind one prompt. There are 1,000 pairs to learn from, labelled by one human each,
with a share of the labels swapped on top, and 300 others to measure on, labelled by the mean of
all humans. LoRA of rank 8 on q, k, v and o of the last block (of the last four where a row says
`layers=4`), 400 steps of 16 pairs (6.4 epochs). The standard error of one accuracy is about 0.027.
A run takes about 75 s with AdamW, 80 s with the gate by unit and 120 s by kernel, on one core that
was not always free; with four blocks it takes about five times as long.

## The last step

The paper (Qwen2.5-0.5B-Instruct, 30 % swapped) reports reward accuracy 0.566 -> 0.641 and 3.05
times less drift. Here are the last steps, the gate beside AdamW with the same loss, settings and
seed; the range over the seeds in brackets:

{said_unit}
{said_kernels}

Each cell is the accuracy and the drift (nats a reply, log-ratio to the reference), means over the
seeds that both have. cDPO and rDPO are told the flip rate in brackets. Rows of one seed are hints.

| swap | loss | seeds | AdamW | gate by unit | gate by kernel |
|--:|:--|--:|--:|--:|--:|
{ends}

AdamW stopped by a noisy hold-out of a tenth of the pairs:

{stopped}

## The frontier

The least drift at which an accuracy is reached at any evaluation, at a swap of 0.3, on means over
three seeds:

{verdict}

A number above 1 is in favour of the gate. The choice of the evaluation uses the test pairs, for
all contenders alike, so these are frontiers, and not what a user who does not see clean labels
gets. Three seeds cannot carry these ratios: the row with 900 pairs is the same AdamW with a tenth
of the pairs set aside, and it differs from AdamW on all pairs by more than the gates do. The runs
go through phases in which nearly all replies are the same, and when they leave them differs from
seed to seed. The grid of learning rates is 0.0003, 0.001 and 0.003 at beta 0.1,
and 0.001 at beta 0.5.

Least drift (nats a reply, log-ratio to the reference) at an accuracy of at least

| contender | {levels} |
|:--|{rule_levels}
{equal}

Best accuracy at a drift of at most

| contender | {drifts} |
|:--|{rule_drifts}
{best}

![frontier](frontier.png)

## All runs

Accuracy, drift and KL (nats a token) are those of the last step; "kept" is the least accuracy from
half of the steps on. Parts with one seed are hints.

| swap | contender | seeds | accuracy | kept | drift | KL |
|--:|:--|--:|--:|--:|--:|--:|
{every}

{missing} of the {wanted} runs of `benchmarks/dpo.py` have not been measured yet. Replies of several
tokens, adapters in more than four blocks and full fine-tuning are not among them.
"""
