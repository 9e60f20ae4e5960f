"""How the cost of the moments grows with the batch, the width, the length and the depth.

    python benchmarks/scaling.py

Each point is one training step with exact moments as a ratio to plain AdamW on the same model: time
(median of interleaved calls) and temporary memory. Writes ``results/scaling/scaling.json`` and the
figure ``results/scaling/scaling.png``.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

import tyro
from matplotlib.figure import Figure
from moments import Rows, measure, variants
from workloads import coordinate, gpt

AXES = {
    "batch size, coordinate network": (partial(coordinate), "batch_size", (64, 256, 1024, 4096)),
    "width, coordinate network": (partial(coordinate), "width", (64, 128, 256, 512, 1024)),
    "depth, coordinate network": (partial(coordinate), "depth", (2, 4, 8, 16)),
    "length, transformer": (
        partial(gpt, batch_size=16, width=128, depth=2),
        "length",
        (4, 16, 64, 256, 512),
    ),
}
SHOWN = {"gated, exact a unit": "#1f5f8b", "gated, exact a parameter": "#b5532b"}


@dataclasses.dataclass(frozen=True)
class Study:
    """Cost along four axes."""

    seconds: float = 8.0
    """Time to spend on the calls of one point."""
    out: Path = Path("results/scaling")
    """Folder of the results."""


def figure(results: dict[str, dict[str, Rows]]) -> Figure:
    """A column an axis: time above, memory below."""
    fig = Figure(figsize=(3.4 * len(results), 5.6), layout="constrained")
    panels = fig.subplots(2, len(results), squeeze=False, sharex="col", sharey="row")
    for column, (title, points) in zip(panels.T, results.items(), strict=True):
        sizes = [int(size) for size in points]
        for axes, key in zip(column, ("time", "memory"), strict=True):
            for label, colour in SHOWN.items():
                values = [rows[label][key] for rows in points.values()]
                axes.plot(sizes, values, marker="o", color=colour, label=label)
            axes.axhline(1, color="0.5", linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.grid(alpha=0.3)
        column[1].set_xlabel(title)
    panels[0, 0].set_ylabel("time / plain AdamW")
    panels[1, 0].set_ylabel("temp memory / plain AdamW")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return fig


def main(study: Study) -> None:
    """Measure every point, and draw."""
    study.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Rows]] = {}
    for title, (model, name, sizes) in AXES.items():
        results[title] = {}
        for size in sizes:
            work = model(**{name: size})
            every = variants(work, microbatch=32)
            chosen = {label: every[label] for label in ("AdamW", *SHOWN)}
            rows = results[title][str(size)] = measure(work, chosen, study.seconds)
            cost = ", ".join(f"{k} {r['time']:.2f}x, {r['memory']:.2f}x" for k, r in rows.items())
            print(f"{title} = {size}: {cost}", flush=True)
    (study.out / "scaling.json").write_text(json.dumps(results, indent=2) + "\n")
    figure(results).savefig(study.out / "scaling.png", dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Study))
