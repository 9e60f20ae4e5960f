"""Several configs of one task side by side: a table and the curves."""

import dataclasses
from pathlib import Path

from matplotlib.figure import Figure

from snrgate.lab.training.configs import config_names, load_config
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.plots import to_png
from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.sweep import collect, spread
from snrgate.lab.training.train import Training

__all__ = ["Comparison", "run"]

_COLOURS = ("#b4532a", "#1f5f8b", "#6b8e23", "#8b5fa8", "#c79a1b", "#4a4a4a")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Train with several configs of a task, on the same data from the same weights."""

    configs: tuple[str, ...] = ("adamw", "gated")
    """Which of them."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the data, the weights and the batches."""
    steps: int | None = None
    """Training steps, where not those of the configs."""
    out: Path | None = None
    """Folder of the results, default runs/compare/TASK. What is there is not run again."""


def run(task: str, comparison: Comparison) -> None:
    """Run what is missing, and write ``README.md`` and ``curves.png`` beside the results.

    Args:
        task: folder of the configs.
        comparison: which of them, and how often.

    Raises:
        InputError: there is no such task or config, or the folder cannot be written.
    """
    out = comparison.out or Path("runs/compare") / task
    runs = {}
    for name in comparison.configs:
        settings = load_config(task, name, Training)
        steps = comparison.steps or settings.steps
        for seed in comparison.seeds:
            key = Key("runs", Path(name).stem, seed)
            runs[key] = dataclasses.replace(settings, seed=seed, steps=steps)
    results = collect(runs, Results(out / "runs.jsonl"))
    names = [Path(name).stem for name in comparison.configs]
    groups = {n: [results[Key("runs", n, seed)] for seed in comparison.seeds] for n in names}
    table = as_markdown(groups)
    folder = RunFolder(out)
    others = ", ".join(config_names(task))
    text = f"# {task}\n\n{table}\nMedian (range) over seeds. Configs there are: {others}.\n"
    folder.write("README.md", (text + "\n![curves](curves.png)\n").encode())
    folder.write("curves.png", to_png(curves(groups)))
    print(f"\n{table}\nEverything is in {out}; see curves.png.")


def as_markdown(groups: dict[str, list[Result]]) -> str:
    """Best and last value of every contender.

    Args:
        groups: results by name, one for each seed.
    """
    metric = next(iter(groups.values()))[0]["metric"].replace("_", " ")
    lines = [
        f"| | {metric}, last step | {metric}, best step | seconds |",
        "|:--|--:|--:|--:|",
    ]
    for name, results in groups.items():
        key = results[0]["metric"]
        last, best = (spread([r[which][key] for r in results]) for which in ("last", "best"))
        seconds = spread([round(r["seconds"]) for r in results])
        lines.append(f"| {name} | {last} | {best} | {seconds} |")
    return "\n".join(lines) + "\n"


def curves(groups: dict[str, list[Result]]) -> Figure:
    """The metric over the steps, every seed a line.

    Args:
        groups: results by name, one for each seed.
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
