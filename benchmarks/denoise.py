"""Does the gate do without the validation set? Photos x seeds x optimizers, at the default setting.

    python benchmarks/denoise.py

Each run leaves one line in ``results/denoise/runs.jsonl``; what is there is not run again, so an
interrupted study goes on where it was. Last come the table (``README.md``) and the figure
(``psnr.png``).
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from snrgate.lab.commands.denoise import trainings
from snrgate.lab.commands.photo_report import summarise
from snrgate.lab.tasks.denoise import Denoise, as_task, make_task, noisy_photo
from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.settings import flat
from snrgate.lab.training.sweep import recognised, spread
from snrgate.lab.training.train import fit

RATES = (3e-4, 1e-3, 3e-3)
GATED = "gated"


@dataclasses.dataclass(frozen=True)
class Study:
    """The default setting against AdamW at several learning rates."""

    photos: tuple[str, ...] = ("camera", "astronaut", "coffee")
    """Photos of scikit-image."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of noise, weights and batches."""
    out: Path = Path("results/denoise")
    """Folder of the results."""


def variants() -> dict[str, Denoise]:
    """The runs of one photo and seed, by name."""
    default = Denoise()
    runs = {
        f"adamw-{rate:g}": dataclasses.replace(default, optimizers=("adamw",), learning_rate=rate)
        for rate in RATES
    }
    return runs | {GATED: dataclasses.replace(default, optimizers=("gated",))}


def measure(settings: Denoise) -> Result:
    """Train once.

    Returns:
        The settings, the last and best rows, the PSNR that needs no training, the PSNR at every
        evaluation and the seconds it took.
    """
    began = time.perf_counter()
    photo = noisy_photo(settings)
    task = as_task(make_task(settings, photo), photo)
    ((name, training),) = trainings(settings).items()
    rows = [{"optimizer": name} | row for _, row in fit(training, task)]
    summary = summarise(photo, rows)
    return {
        "settings": flat(settings),
        **summary.pop("optimizers")[name],
        **summary,
        "steps": [row["step"] for row in rows],
        "psnr": [round(row["psnr"], 3) for row in rows],
        "seconds": round(time.perf_counter() - began, 1),
    }


def collect(study: Study) -> dict[Key, Result]:
    """Run what has not been run, and return everything by photo, variant and seed."""
    results = Results(study.out / "runs.jsonl")
    there = results.read()
    wanted = {
        Key(photo, name, seed): dataclasses.replace(base, image=photo, seed=seed)
        for seed in study.seeds
        for photo in study.photos
        for name, base in variants().items()
    }
    for key, settings in wanted.items():
        if recognised(there.get(key), settings):
            continue
        there[key] = result = measure(settings)
        results.update({key: result})
        last, best = result["last"], result["best"]
        print(
            f"{key.part}-{key.seed}-{key.name}: last {last['psnr']:.2f}, best {best['psnr']:.2f} "
            f"at step {best['step']}, {result['seconds']} s",
            flush=True,
        )
    return {key: there[key] for key in wanted}


def table(study: Study, results: dict[Key, Result]) -> str:
    """Median and range over the seeds, a line for each photo."""
    names = [name for name in variants() if name != GATED]

    def best(photo: str, seed: int) -> float:
        return max(results[Key(photo, name, seed)]["best"]["psnr"] for name in names)

    def last(photo: str, seed: int) -> float:
        return max(results[Key(photo, name, seed)]["last"]["psnr"] for name in names)

    def gated(photo: str, seed: int) -> float:
        return results[Key(photo, GATED, seed)]["last"]["psnr"]

    columns: dict[str, Callable[[str, int], float]] = {
        "noisy": lambda p, s: results[Key(p, GATED, s)]["noisy_psnr"],
        "mean colour": lambda p, s: results[Key(p, GATED, s)]["mean_psnr"],
        "AdamW, best": best,
        "AdamW, last": last,
        "gated, last": gated,
        "gated, last - AdamW, best": lambda p, s: gated(p, s) - best(p, s),
        "gated, last - AdamW, last": lambda p, s: gated(p, s) - last(p, s),
    }
    lines = [
        "| photo | " + " | ".join(columns) + " |",
        "|:--|" + "--:|" * len(columns),
    ]
    for photo in study.photos:
        cells = [spread([f(photo, seed) for seed in study.seeds]) for f in columns.values()]
        lines.append(f"| {photo} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(study: Study, results: dict[Key, Result]) -> Figure:
    """PSNR over the steps, every seed a line, a panel for each photo."""
    colours = dict(zip(variants(), ("#e8b59b", "#d07f55", "#9c3d12", "#1f5f8b"), strict=True))
    across = 3
    down = -(-len(study.photos) // across)
    fig = Figure(figsize=(4 * across, 2.9 * down + 0.5), layout="constrained")
    panels = fig.subplots(down, across, squeeze=False, sharex=True)
    for axes, photo in zip(panels.flat, study.photos, strict=False):
        for name, colour in colours.items():
            for seed in study.seeds:
                result = results[Key(photo, name, seed)]
                label = (
                    name.replace("adamw-", "AdamW, learning rate ")
                    if seed == study.seeds[0]
                    else None
                )
                axes.plot(result["steps"], result["psnr"], color=colour, linewidth=1, label=label)
        axes.set_title(photo)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("PSNR (dB)")
    fig.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    return fig


TEXT = """\
# A noisy photo, without a validation set

    python benchmarks/denoise.py

PSNR in dB at the default setting (`snrgate denoise`), median and range over {seeds} seeds of noise,
weights and batches. AdamW has its learning rate chosen from {rates} for each photo and seed, twice:
for its best step ("best", looked for with the clean photo every {every} steps, after step {often}
every {seldom}) and for its last step ("last"). The gated run has one setting, chosen on the same
photos with other seeds, and its last step counts.

{table}
![PSNR over the steps](psnr.png)
"""


def main(study: Study) -> None:
    """Run the study and write the table and the figure."""
    results = collect(study)
    default = Denoise()
    text = TEXT.format(
        seeds=len(study.seeds),
        rates=", ".join(f"{rate:g}" for rate in RATES),
        every=default.eval_every,
        often=default.steps // 10,
        seldom=5 * default.eval_every,
        table=table(study, results),
    )
    folder = RunFolder(study.out)
    folder.write("README.md", text.encode())
    folder.write("psnr.png", to_png(figure(study, results)))
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Study))
