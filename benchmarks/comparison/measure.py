"""Measure the runs of the comparison that its files do not hold yet."""

import dataclasses
import functools
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from missing import measure_missing

from comparison.contenders import (
    GRID,
    HELD_OUT,
    KERNELS,
    PEERS,
    SINGLE,
    STRICT,
    THRESHOLDS,
    TOLD,
    TUNED,
    TWIN_GRID,
    WIDE_GRID,
    changed,
    hidden_kernels,
)
from comparison.references import is_table, metric_of, names
from comparison.rows import ROWS, RULED
from comparison.rules import name_of
from comparison.runs import (
    Program,
    curve_of,
    evidence_against,
    risk_from_gradients,
    without,
)
from comparison.scales import POINTS
from snrgate import risk
from snrgate.lab.errors import InputError
from snrgate.lab.study.peers import CosineAdamW, FiniteAlgorithm1
from snrgate.lab.tasks.task import Supervised, Task
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.results import Key, Result, Results
from snrgate.lab.training.train import Training, fit
from snrgate.lab.training.twin import twin_of

EVERY = ROWS | RULED | POINTS
"""All rows, those without a hold-out, and those of the curves, by the names of their files."""
PARTS = ("decide", "schedules", "strict", "single", "stops", "folds", "references", "peers")
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The comparison."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Tasks; those of the curves have the names of ``comparison/scales.py``."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the data, the weights and the batches."""
    parts: tuple[str, ...] = PARTS
    """What is measured: the contenders that decide, schedules and a wider grid, a stricter gate,
    those that nobody tunes, rules that stop one run of AdamW, five-fold cross-validation, other
    methods (both on tables) and other optimizers.
    """
    minutes: float = 1e9
    """Time after which no further run begins."""
    out: Path = Path("results/comparison")
    """Folder of the results."""


def wanted(row: str, seed: int, parts: tuple[str, ...]) -> Iterator[Key]:
    """The keys of the runs of a row."""
    if row in RULED:
        yield from (Key("told", name, seed) for name in TOLD if "single" in parts)
        return
    if "decide" in parts:
        settings = dict.fromkeys(map(name_of, (*THRESHOLDS, *TUNED)))
        yield from (Key("kernels with twin", name, seed) for name in settings)
        yield from (Key("AdamW", name_of(h), seed) for h in GRID)
        yield from (Key("AdamW held out", name_of(h), seed) for h in GRID)
        yield from (Key("AdamW with twin", name_of(h), seed) for h in TWIN_GRID)
    if "schedules" in parts:
        yield from (Key("cosine held out", name_of(h), seed) for h in GRID)
        yield from (Key("cosine", name_of(h), seed) for h in GRID)
        yield from (Key("AdamW held out", name_of(h), seed) for h in WIDE_GRID)
        yield Key("single", "gate, cosine", seed)
    if "strict" in parts:
        yield Key("single", "gate, strict", seed)
    if "single" in parts:
        yield from (Key("single", name, seed) for name in SINGLE)
    if "stops" in parts:
        yield Key("stops", "AdamW", seed)
    if "folds" in parts and row in FOLDED:
        yield from (Key("AdamW folds", name_of(h), seed) for h in GRID)
    task = EVERY[row].base.task
    if "references" in parts and is_table(task):
        yield from (Key("references", name, seed) for name in names(task))
    if "peers" in parts:
        made = task.make(seed)
        for name, (_, loss, grid) in PEERS.items():
            if _applies(name, loss, made):
                yield from (Key(f"{name} held out", name_of(h), seed) for h in grid)


def _applies(name: str, loss: str, task: Task) -> bool:
    """Whether a peer can learn a task: losses for labels, and EchoMuon hidden dense kernels."""
    if name == "EchoMuon" and not hidden_kernels(task.params):
        return False
    return loss == "plain" or task.supervised.kind == "classes"  # type: ignore[union-attr]


FOLDED = ("table", "concrete", "concrete-noise", "meats", "table-200")
"""Rows on which AdamW is tuned by five-fold cross-validation too, for 45 runs."""


class Runner:
    """Measures the runs of one row, and compiles each kind of run once.

    Args:
        row: name of the row.
    """

    def __init__(self, row: str):
        self.row, self.base = row, EVERY[row].base
        self.mark = zlib.crc32(repr(self.base).encode())  # of the settings of the row
        self.programs: dict[tuple[Any, ...], Program] = {}
        self.task = functools.lru_cache(2)(self.base.task.make)
        self.law = functools.lru_cache(2)(self._law)

    def check(self, results: Results) -> None:
        """Refuse runs that were measured with other settings of the row.

        Args:
            results: the file of the row.

        Raises:
            InputError: there are such runs.
        """
        for key, run in results.read().items():
            if run["of"] != self.mark:
                raise InputError(
                    f"{results.path} holds a run ({key.part}, {key.name}, seed {key.seed}) that "
                    f"was measured with other settings of {self.row}; delete it to have it "
                    "measured anew, or give another --out"
                )

    def measured(self, key: Key) -> Result:
        """The curves of one run."""
        begin = time.perf_counter()
        curve = self._curve(key)
        columns = {name: [_short(point[name]) for point in curve] for name in curve[0]}
        task = self.task(key.seed)
        return {
            "of": self.mark,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "seconds": round(time.perf_counter() - begin, 1),
            "curve": columns,
        }

    def _curve(self, key: Key) -> list[dict[str, float]]:
        part, name, seed = key
        if part == "single":
            return self._single(name, seed)
        if part == "told":
            task, settings = self._settings(seed)
            kind = _like(TOLD[name], self.base.optimizer)
            rows = fit(dataclasses.replace(settings, optimizer=kind), task)
            return [{"step": row["step"], "metric": row[task.metric]} for _, row in rows]
        if part == "stops":
            return self._stops(seed)
        if part == "references":
            return [{"step": 0, "metric": metric_of(self.base.task, name, seed)}]
        words = name.split()
        hyper = {k: float(v) for k, v in zip(words[::2], words[1::2], strict=True)}
        if part in ("AdamW", "cosine"):
            return self._plain(self._of_row(HELD_OUT[part][0]), hyper, seed)
        if part == "AdamW folds":
            folds = [self._held_out(AdamW(), "plain", hyper, seed, FOLDS, i) for i in range(FOLDS)]
            return [
                {k: float(np.mean([p[k] for p in points])) for k in points[0]}
                for points in zip(*folds, strict=True)
            ]
        if part.endswith("with twin"):
            return self._with_twin(AdamW() if part.startswith("AdamW") else KERNELS, hyper, seed)
        kind, loss, _ = HELD_OUT[part.removesuffix(" held out")]
        return self._held_out(self._of_row(kind), loss, hyper, seed, 10, 0)

    def _plain(
        self, kind: AdamW, hyper: Mapping[str, float], seed: int, patch: str = ""
    ) -> list[dict[str, float]]:
        task, settings = self._settings(seed)
        data = without(task.supervised, seed, 0)  # type: ignore[arg-type]
        with changed(patch):
            program = self._program(task, kind, "plain", patch)
            return [
                _point(task, settings, i, carry.params)
                for i, carry in enumerate(curve_of(program, task, settings, data, hyper))
            ]

    def _held_out(
        self, kind: AdamW, loss: str, hyper: Mapping[str, float], seed: int, parts: int, part: int
    ) -> list[dict[str, float]]:
        """The metric and the loss on the held-out part, of the parameters and of their average."""
        task, settings = self._settings(seed)
        data = without(task.supervised, seed, parts, part)  # type: ignore[arg-type]
        program, found = self._program(task, kind, loss), []
        for i, carry in enumerate(curve_of(program, task, settings, data, hyper)):
            point = _point(task, settings, i, carry.params)
            outputs = program.outputs(carry.params, data.held_inputs)
            point["held"] = _mean_loss(program.data, outputs, data.held_targets)
            if program.data.kind == "classes":
                wrong = jnp.mean(outputs.argmax(-1) != data.held_targets)
                point["held wrong"] = float(wrong)
            outputs = program.outputs(carry.average, data.held_inputs)
            point["average"] = _point(task, settings, i, carry.average)["metric"]
            point["average held"] = _mean_loss(program.data, outputs, data.held_targets)
            found.append(point)
        return found

    def _with_twin(
        self, kind: AdamW, hyper: Mapping[str, float], seed: int
    ) -> list[dict[str, float]]:
        task, settings = self._settings(seed)
        data = without(task.supervised, seed, 0)  # type: ignore[arg-type]
        program = self._program(task, kind, "plain")
        twin = twin_of(task, seed, self.law(seed))
        moved = data._replace(targets=jnp.asarray(twin.targets.targets[1]))
        both = (curve_of(program, task, settings, d, hyper) for d in (data, moved))
        found = []
        for i, (own, other) in enumerate(zip(*both, strict=True)):
            outputs = jnp.stack([program.outputs(c.params, data.inputs) for c in (own, other)])
            estimate = risk.estimate(outputs, twin.targets, twin.data.kind)
            point = _point(task, settings, i, own.params)
            found.append(point | {"twin": float(estimate.risk)})
        return found

    def _stops(self, seed: int) -> list[dict[str, float]]:
        """One untuned run of AdamW, with what three rules look at after each epoch."""
        task, settings = self._settings(seed)
        data = without(task.supervised, seed, 0)  # type: ignore[arg-type]
        epoch = math.ceil(len(data.inputs) / settings.batch_size)
        settings = dataclasses.replace(settings, eval_every=epoch)
        program = self._program(task, AdamW(), "plain", monitored=True)
        of_example, found, before = task.groups[0].loss, [], None
        for i, carry in enumerate(curve_of(program, task, settings, data, {"learning_rate": 1e-3})):
            point = _point(task, settings, i, carry.params)
            point["evidence"] = evidence_against(of_example, carry.params, data)
            point["gradients"] = risk_from_gradients(carry)
            if task.supervised.kind == "classes":  # type: ignore[union-attr]
                now = np.asarray(program.outputs(carry.params, data.inputs)).argmax(-1)
                point["changes"] = float("nan") if before is None else float(np.mean(now != before))
                before = now
            found.append(point)
        return found

    def _single(self, name: str, seed: int) -> list[dict[str, float]]:
        return self._plain(self._of_row(SINGLE[name]), {}, seed, name)

    def _of_row(self, kind: AdamW) -> AdamW:
        """An optimizer that is told the batch or the number of steps of the row."""
        if isinstance(kind, FiniteAlgorithm1):
            return dataclasses.replace(kind, batch_size=self.base.batch_size)
        if isinstance(kind, CosineAdamW):
            return dataclasses.replace(kind, decay_steps=self.base.steps)
        return kind

    def _law(self, seed: int) -> Any:
        """The law of the labels, from a gated run with a strict threshold; none for numbers."""
        task, settings = self._settings(seed)
        data = without(task.supervised, seed, 0)  # type: ignore[arg-type]
        if task.supervised.kind == "regression":  # type: ignore[union-attr]
            return None
        program = self._program(task, KERNELS, "plain")
        *_, last = curve_of(program, task, settings, data, STRICT)
        outputs = program.outputs(last.params, data.inputs)
        return risk.law_of(outputs, data.targets, "classes")

    def _settings(self, seed: int) -> tuple[Task, Training]:
        return self.task(seed), dataclasses.replace(self.base, seed=seed)

    def _program(
        self, task: Task, kind: AdamW, loss: str, patch: str = "", monitored: bool = False
    ) -> Program:
        """The program of a kind of run; another one where the network of the seed is another."""
        key = (kind, loss, patch, monitored)
        if key not in self.programs or not self.programs[key].fits(task):
            self.programs[key] = Program(task, kind, self.base.batch_size, loss, monitored)
        return self.programs[key]


def _like(kind: AdamW, plain: AdamW) -> AdamW:
    """An optimizer with the numbers that AdamW has on the row."""
    shared = {f.name: getattr(plain, f.name) for f in dataclasses.fields(AdamW)}
    return dataclasses.replace(kind, **shared)


def _point(task: Task, settings: Training, i: int, params: Any) -> dict[str, float]:
    """The step and the metric, which is NaN where a parameter is not finite."""
    finite = bool(jnp.isfinite(optax.tree.norm(params)))
    metric = float(task.evaluate(params)[task.metric]) if finite else math.nan
    return {"step": (i + 1) * settings.eval_every, "metric": metric}


def _mean_loss(data: Supervised, outputs: jax.Array, targets: jax.Array) -> float:
    return float(jnp.mean(jax.vmap(data.loss)(outputs, targets)))


def _short(value: float) -> float | None:
    """A number of five digits, or nothing where there is no finite number."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def main(settings: Comparison) -> None:
    """Measure what is missing, seed by seed, so that every row has something early."""
    begin = time.monotonic()
    for part in settings.parts:
        for row in settings.rows:
            runner, results = Runner(row), Results(settings.out / f"{row}.jsonl")
            runner.check(results)
            keys = [k for seed in settings.seeds for k in wanted(row, seed, (part,))]
            left = settings.minutes - (time.monotonic() - begin) / 60
            measure_missing(results, keys, runner.measured, left)
