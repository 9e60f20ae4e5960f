"""What a twin says about the population risk, and what it chooses, beside a noisy hold-out.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/twin.py

Each contender is trained three times for each seed: as it is, as its own twin, and on nine tenths
of the examples, with the last tenth held out, whose targets are as noisy as the others. On tables
it is also trained five times on four fifths, for five-fold cross-validation. A step and a contender
are then chosen by the twin, by the hold-out, by cross-validation, and by an oracle that sees the
test data. What a hold-out chooses is also retrained on all examples.
Runs that have been measured are not measured again. Writes ``results/twin``, and the picture
``docs/_static/twin.png`` of the two tables where both are measured.
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from missing import measure_missing

from snrgate.lab.study.rows import ROWS
from snrgate.lab.tasks.table import Table
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.run import Run, together
from snrgate.lab.training.train import Training, fit
from snrgate.lab.training.twin import learned_law, twin_of

BASES: dict[str, Training] = {
    "table": ROWS["table"].base,
    "concrete": Training(Table("concrete"), AdamW(1e-3), steps=1500, batch_size=32, eval_every=50),
    "meats": Training(Table("meats"), AdamW(1e-3), steps=1000, batch_size=32, eval_every=50),
    "digits-40": ROWS["digits-40"].base,
    "digits-20": ROWS["digits-20"].base,
    "digits-0": ROWS["digits-0"].base,
    "laser-0": ROWS["laser-0"].base,
    "camera-20": ROWS["camera-20"].base,
    "advection": ROWS["advection"].base,
}
FOLDED = ("table", "concrete", "meats")
"""Rows that are also cross-validated."""
FOLDS = 5
_FOLDS = ", folds"  # behind the name of a row, the part of its cross-validation
CONTENDERS: dict[str, AdamW] = {
    "AdamW": AdamW(1e-3),
    "units": Gated(1e-3),
    "kernels, z = 0.7": Gated(1e-3, block="kronecker", fitted=0.0, z=0.7),
    "kernels, z = 1": Gated(1e-3, block="kronecker", fitted=0.0),
    "kernels, z = 1.2": Gated(1e-3, block="kronecker", fitted=0.0, z=1.2),
}

PICTURED = {"table": 1.2, "concrete": 0.4}
"""Rows of the picture, and the largest error that it shows."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Twins of the study's tasks."""

    rows: tuple[str, ...] = tuple(BASES)
    """Tasks."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the data, the weights and the batches."""
    out: Path = Path("results/twin")
    """Folder of the results."""


def measured(key: Key) -> Result:
    """The curves of one contender: with its twin, and with examples held out."""
    part = key.part.removesuffix(_FOLDS)
    task = BASES[part].task.make(key.seed)
    base = dataclasses.replace(BASES[part], optimizer=CONTENDERS[key.name], seed=key.seed)
    settings = dataclasses.replace(base, eval_every=max(base.eval_every, 50))
    if part != key.part:
        folds = [_held_out(settings, task, key.seed, fold, FOLDS) for fold in range(FOLDS)]
        steps, _, losses = np.mean(folds, axis=0).T
        return {"folds": np.stack([steps, losses], 1).tolist()}
    twins = {"run": twin_of(task, key.seed, law(key.part, key.seed))}
    run = Run({"run": settings}, {"run": task}, settings, Path(), "", twins=twins)
    curve = [
        [row[k] for k in ("step", task.metric, "twin_risk", "twin_risk_error", "loss")]
        for _, _, rows in together(run, run.start())
        for row in rows.values()
    ]
    fewer = _held_out(settings, task, key.seed, 0, 10)
    return {"higher_is_better": task.higher_is_better, "twin": curve, "held out": fewer}


def _held_out(
    settings: Training, task: Task, seed: int, fold: int, folds: int
) -> list[list[float]]:
    """Step, test metric and held-out loss along a run without one part of the examples."""
    rows = fit(settings, holding_out(task, seed, fold, folds))
    return [[row["step"], row[task.metric], row["held_out"]] for _, row in rows]


@functools.cache
def law(row: str, seed: int) -> Any:
    """The law of the labels, the same for all contenders."""
    return learned_law(dataclasses.replace(BASES[row], seed=seed), BASES[row].task.make(seed))


def holding_out(task: Task, seed: int, fold: int, folds: int) -> Task:
    """The task without one part of its examples, and the loss on that among its metrics."""
    data = task.supervised
    assert data is not None
    order = np.random.default_rng([seed, 1]).permutation(len(data.inputs))
    size = len(order) // folds
    out = order[fold * size : (fold + 1) * size]
    rest = np.delete(order, np.s_[fold * size : (fold + 1) * size])
    kept = data._replace(inputs=data.inputs[rest], targets=data.targets[rest])
    inputs, targets = (jnp.asarray(x[out]) for x in (data.inputs, data.targets))

    @jax.jit
    def evaluate(params: Any) -> dict[str, Any]:
        losses = jax.vmap(lambda x, y: data.loss(data.predict(params, x), y))(inputs, targets)
        return task.evaluate(params) | {"held_out": jnp.mean(losses)}

    groups = (*task.groups[:-1], kept.group(kept.targets))
    return task._replace(groups=groups, evaluate=evaluate, supervised=kept)


def picture(found: dict[Key, Result]) -> Figure:
    """Training loss, estimated risk and test error on the tables, of the first seed."""
    names = ("AdamW", "kernels, z = 1")
    figure = Figure(figsize=(8, 6), layout="constrained")
    for row, pair in zip(PICTURED, figure.subplots(2, 2, sharey="row"), strict=True):
        for axes, name in zip(pair, names, strict=True):
            steps, test, risk, error, loss = np.array(found[Key(row, name, 0)]["twin"]).T
            axes.plot(steps, loss, ":", color="#4a4a4a", label="training loss")
            axes.plot(steps, test, "--", color="#b4532a", label="error on the test data")
            axes.plot(steps, risk, color="#1f5f8b", label="risk, estimated by the twin")
            band = {"color": "#1f5f8b", "alpha": 0.2, "linewidth": 0}
            axes.fill_between(steps, risk - 2 * error, risk + 2 * error, **band)
            axes.set(xlabel="step", title=f"{row}, {name}", ylim=(0, PICTURED[row]))
            axes.grid(alpha=0.3)
        pair[0].set_ylabel("squared error")
        pair[1].legend(frameon=False)
    return figure


def least(curve: list[list[float]], column: int) -> list[float]:
    """The point of a curve with the least value in a column."""
    finite = [point for point in curve if np.isfinite(point[column])]
    return min(finite or curve[:1], key=lambda point: point[column])


def page(found: dict[Key, Result]) -> str:
    """The tables of the results."""
    text = [
        "# What a twin says about the population risk",
        "",
        "`python benchmarks/twin.py`. Medians over seeds; in brackets the number of seeds.",
        "",
        "Correlation of the estimate with the test metric along one run (of errors; of accuracies",
        "its negative), and the metric at the step that each rule chooses.",
        "",
        "| row | contender | correlation | oracle | twin | hold-out | last |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    by_row = _by_row(found)
    for row, seeds in by_row.items():
        for name in CONTENDERS:
            runs = [of_seed[name] for of_seed in seeds.values() if name in of_seed]
            if runs:
                shown = _medians(map(_of_run, runs))
                text.append(f"| {row} ({len(runs)}) | {name} | {shown} |")
    text += [
        "",
        "Contender and step chosen together: the test metric of what is chosen. The hold-out is a",
        "tenth of the examples; *retrained* is the same choice, trained on all of them. *Folds* is",
        "the choice of five-fold cross-validation, trained on all examples. It takes five runs",
        "more for each contender. In brackets: the twin's choice on the same seeds; their number.",
        "",
        "| row | oracle | twin | hold-out | retrained | folds |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    names = []
    for row, seeds in by_row.items():
        whole = {s: runs for s, runs in seeds.items() if len(runs) == len(CONTENDERS)}
        if whole:
            *rules, chosen = zip(*(_of_all(runs) for runs in whole.values()), strict=True)
            cells = [f"{statistics.median(v):.3g}" for v in rules]
            pairs = [
                (f, _of_all(runs)[1])
                for s, runs in whole.items()
                if (f := _of_folds(found, row, s, runs))
            ]
            folds, twin = (
                (f"{statistics.median(v):.3g}" for v in zip(*pairs, strict=True)) if pairs else "--"
            )
            cells.append(f"{folds} ({twin}; {len(pairs)})" if pairs else "-")
            text.append(f"| {row} ({len(whole)}) | {' | '.join(cells)} |")
            names.append(f"- {row}: {'; '.join(chosen)}")
    return "\n".join([*text, "", "Contenders that the twins choose, seed by seed:", "", *names, ""])


def _by_row(found: dict[Key, Result]) -> dict[str, dict[int, dict[str, Result]]]:
    """The runs that have a twin, by row, seed and contender."""
    rows: dict[str, dict[int, dict[str, Result]]] = {}
    for row in BASES:
        for key in sorted((k for k in found if k.part == row), key=lambda k: k.seed):
            rows.setdefault(row, {}).setdefault(key.seed, {})[key.name] = found[key]
    return rows


def _medians(runs: Iterable[tuple[float, ...]]) -> str:
    return " | ".join(f"{statistics.median(v):.3g}" for v in zip(*runs, strict=True))


def _sign(result: Result) -> int:
    return -1 if result["higher_is_better"] else 1


def _of_run(result: Result) -> tuple[float, ...]:
    """Correlation, and the metric of the oracle's, the twin's, the hold-out's and the last step."""
    curve, sign = result["twin"], _sign(result)
    points = np.array([p for p in curve if np.isfinite(p[2])])
    correlation = np.corrcoef(points[:, 2], sign * points[:, 1])[0, 1] if len(points) > 2 else 0.0
    oracle = min(curve, key=lambda p: sign * p[1])[1]
    held = least(result["held out"], 2)[1]
    return float(correlation), oracle, least(curve, 2)[1], held, curve[-1][1]


def _of_all(runs: dict[str, Result]) -> tuple[float, float, float, float, str]:
    """The test metric of what each rule chooses among all contenders.

    Returns:
        Of the oracle, the twin, the hold-out, and the hold-out's choice retrained; and the name
        of the contender that the twin chooses.
    """
    sign = _sign(next(iter(runs.values())))
    oracle = min((p for r in runs.values() for p in r["twin"]), key=lambda p: sign * p[1])[1]
    name, twin = min(((n, least(r["twin"], 2)) for n, r in runs.items()), key=lambda c: c[1][2])
    kept, held = min(((n, least(r["held out"], 2)) for n, r in runs.items()), key=lambda c: c[1][2])
    return oracle, twin[1], held[1], _at(runs[kept], held[0]), name


def _of_folds(found: dict[Key, Result], row: str, seed: int, runs: dict[str, Result]) -> float:
    """The metric of what cross-validation chooses, trained on all examples; 0 if not measured."""
    keys = {name: Key(row + _FOLDS, name, seed) for name in runs}
    if not all(key in found for key in keys.values()):
        return 0.0
    best = {name: least(found[key]["folds"], 1) for name, key in keys.items()}
    name = min(best, key=lambda n: best[n][1])
    return _at(runs[name], best[name][0])


def _at(result: Result, step: float) -> float:
    """The test metric at one step of the run on all examples."""
    return next(point[1] for point in result["twin"] if point[0] == step)


def main(study: Study) -> None:
    """Measure what is missing, and write the page and the picture."""
    wanted = [
        Key(part, name, seed)
        for row in study.rows
        for seed in study.seeds
        for part in ([row, row + _FOLDS] if row in FOLDED else [row])
        for name in CONTENDERS
    ]
    found = measure_missing(Results(study.out / "runs.jsonl"), wanted, measured)
    (study.out / "README.md").write_text(page(found))
    if all(Key(row, name, 0) in found for row in PICTURED for name in CONTENDERS):
        picture(found).savefig("docs/_static/twin.png", dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Study))
