"""Draw what a record of training shows: the four cells, the coupling, the spectrum under noise.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false \
        python benchmarks/theory_learning.py

A small network learns the sign of a smooth function from labels of which a fifth are wrong (figure
6 of the paper), and from clean ones, by full-batch gradient descent that learns features. Writes
``cells.png``, ``coupling.png``, ``noise.png`` and ``learning.json`` into ``results/theory``.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from matplotlib.figure import Figure
from theory_page import keep

from snrgate import theory
from snrgate.models.mlp import MLP


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A network that learns from wrong labels, and what its record shows."""

    wrong: float = 0.2
    """Share of wrong labels."""
    examples: int = 80
    """Number of training examples, and of queries."""
    features: int = 8
    """Number of inputs."""
    width: int = 32
    """Number of units in each of two hidden layers."""
    learning_rate: float = 0.1
    """Learning rate of gradient descent."""
    stops: tuple[int, ...] = (4, 12, 40, 120, 400, 1200)
    """Steps at which the record is read."""
    seed: int = 0
    """Seed of everything."""
    out: Path = Path("results/theory")
    """Folder of the pictures and numbers."""


class Learned(NamedTuple):
    """A run, with its record at several times."""

    runs: list[theory.Recorded]
    steps: list[int]
    clean: np.ndarray
    truth: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    errors: list[np.ndarray]


def learned(pictures: Pictures, wrong: float) -> Learned:
    """Train with a share of wrong labels."""
    rng = np.random.default_rng(pictures.seed)
    teacher = rng.normal(size=pictures.features)

    def value(x: np.ndarray) -> np.ndarray:
        return np.sign(np.sin(x @ teacher / 2) + 0.3 * x[:, 0])

    x, queries = (rng.normal(size=(pictures.examples, pictures.features)) for _ in range(2))
    clean, truth = value(x), value(queries)
    labels = np.where(rng.random(len(x)) < wrong, -clean, clean)
    sizes = (pictures.features, pictures.width, pictures.width, 1)
    graph, params = nnx.split(MLP(sizes, nnx.tanh, rngs=nnx.Rngs(params=pictures.seed)))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)

    def f(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)[0]

    def loss(u: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.square(u - y) / 2

    tx, runs = optax.sgd(pictures.learning_rate), []
    posed = f, loss, tx, params, (x, labels), queries
    starts = tuple(np.asarray(theory.outputs(f, params, jnp.asarray(z))) for z in (x, queries))
    for i, stop in enumerate(pictures.stops):
        before = runs[-1] if runs else None
        steps = stop - (pictures.stops[i - 1] if i else 0)
        runs.append(theory.record(*posed, steps=steps, nodes=2, start=before))
    ends = [np.asarray(theory.outputs(f, run.params, jnp.asarray(queries))) for run in runs]
    return Learned(runs, list(pictures.stops), clean, truth, starts, [end - truth for end in ends])


def cells_of(run: Learned, at: int) -> theory.Cells:
    """The four cells of the test error."""
    record = run.runs[at].record
    missing, missing_at_queries = run.clean - run.starts[0], run.truth - run.starts[1]
    return theory.four_cells(
        record,
        theory.split(record.gramian),
        clean_gradient=-jnp.asarray(missing) / len(missing),
        missing=jnp.asarray(missing),
        missing_at_queries=jnp.asarray(missing_at_queries),
    )


def size(v: Any) -> float:
    """The root mean square of a vector."""
    return float(jnp.sqrt(jnp.mean(jnp.square(v))))


def best(run: Learned) -> int:
    """The time of the lowest test error."""
    return int(np.argmin([size(e) for e in run.errors]))


def draw_cells(runs: dict[str, Learned], numbers: dict[str, Any]) -> Figure:
    """Figure 1: how large each of the four cells is, over training."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    styles = {"signal_channel": "-", "signal_reservoir": "--", "noise_channel": "-.",
              "noise_reservoir": ":"}  # fmt: skip
    for ax, (name, run) in zip(figure.subplots(1, 2, sharey=True), runs.items(), strict=True):
        cells = [cells_of(run, i) for i in range(len(run.runs))]
        for cell, style in styles.items():
            values = [max(size(getattr(c, cell)), 1e-17) for c in cells]
            label = cell.replace("_", " in the ")
            shade = "black" if cell.endswith("channel") else "0.5"
            ax.plot(run.steps, values, style, color=shade, label=label)
        ax.plot(run.steps, [size(e) for e in run.errors], color="0.75", linewidth=4, zorder=0,
                label="test error")  # fmt: skip
        ax.set(title=name, xlabel="step", xscale="log", yscale="log", ylim=(3e-3, 3))
        missed = max(
            float(jnp.max(jnp.abs(c.total - e))) for c, e in zip(cells, run.errors, strict=True)
        )
        at = best(run)
        numbers[f"cells, {name}, step {run.steps[at]}"] = {
            c: size(getattr(cells[at], c)) for c in styles
        } | {
            "test error": size(run.errors[at]),
            "largest difference of the sum from the error": missed,
        }
    figure.axes[0].set_ylabel("root mean square over queries")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def draw_coupling(run: Learned, numbers: dict[str, Any]) -> Figure:
    """Figure 2: the bound of what the queries see, and the predicted test displacement."""
    at = best(run)
    record = run.runs[at].record
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = theory.split(record.gramian).values
    seen = jnp.linalg.eigvalsh(theory.visibility(record.test))[::-1]
    order = np.arange(1, len(values) + 1)
    left.plot(order, float(record.reach) * values, color="0.5", label="bound by the Gramian")
    left.plot(order, jnp.maximum(seen, 1e-18), "k.", markersize=4, label="seen by the queries")
    left.set(xlabel="order of the eigenvalue", ylabel="eigenvalue", yscale="log")
    left.legend(frameon=False)

    moved = -record.test @ record.gradient
    told: dict[str, Any] = {"step": run.steps[at], "kernel drift": float(record.drift)}
    told["kernel drift at the end"] = float(run.runs[-1].record.drift)
    for cut in (1e-1, 3e-2, 1e-2, 1e-3, 1e-6):
        predicted = theory.predictor(record.training, record.test, cut) @ (
            -record.training @ record.gradient
        )
        told[f"cut {cut:g}"] = {
            "correlation": float(jnp.corrcoef(predicted, moved)[0, 1]),
            "relative error": float(jnp.linalg.norm(predicted - moved) / jnp.linalg.norm(moved)),
        }
        if cut == 1e-1:
            right.plot(moved, predicted, "k.", markersize=5)
    ends = [float(jnp.min(moved)), float(jnp.max(moved))]
    right.plot(ends, ends, color="0.6", zorder=0)
    right.set(xlabel="change of the outputs at the queries", ylabel="predicted from training")
    right.set_title(f"correlation {told['cut 0.1']['correlation']:.4f}, cut at 0.1")
    told["largest eigenvalue seen over its bound"] = float(jnp.max(seen / (record.reach * values)))
    # How far the channel turns: its overlap with the top of the first kernel and of later records.
    rank = int(np.ceil(float(theory.effective_rank(values))))
    channel = theory.split(record.gramian).vectors[:, :rank]
    others = {"first kernel": record.kernel} | {
        f"record at step {step}": other.record.gramian
        for step, other in zip(run.steps[at + 1 :], run.runs[at + 1 :], strict=True)
    }
    for name, matrix in others.items():
        top = theory.split(matrix).vectors[:, :rank]
        overlap = jnp.sum(jnp.square(top.T @ channel)) / rank
        told[f"overlap of the channel with the {name}"] = float(overlap)
    numbers["coupling"] = told
    return figure


def draw_noise(run: Learned, numbers: dict[str, Any]) -> Figure:
    """Figure 6: losses under label noise, and spectra with their whitened version."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = np.asarray(run.runs[-1].losses)
    left.plot(np.arange(1, len(losses) + 1), losses, color="black", label="training loss")
    test = [float(np.mean(e**2) / 2) for e in run.errors]
    left.plot(run.steps, test, "o--", color="0.4", markersize=3, label="test loss, clean labels")
    left.set(xlabel="step", ylabel="loss", xscale="log", yscale="log")
    left.legend(frameon=False)
    numbers["noise"] = {
        "training loss, end": float(losses[-1]),
        "test loss, lowest": min(test),
        "test loss, end": test[-1],
    }
    shades = np.linspace(0.75, 0.0, len(run.runs))
    for step, recorded, shade in zip(run.steps, run.runs, shades, strict=True):
        record, parts = recorded.record, theory.split(recorded.record.gramian)
        rank = float(theory.effective_rank(parts.values))
        # What the queries see of a direction per unit of loss that it dissipates.
        root = jnp.sqrt(parts.values + 1e-14 * parts.values[0])
        whitened = theory.visibility(record.test @ (parts.vectors / root[None]))
        seen = jnp.maximum(jnp.linalg.eigvalsh(whitened)[::-1], 1e-18)
        order, beyond = np.arange(1, len(seen) + 1), min(int(np.ceil(rank)), len(seen) - 1)
        label = f"step {step}, rank {rank:.1f}"
        right.plot(order, 2 * parts.values / len(seen), color=str(shade), label=label)
        if step == run.steps[best(run)]:
            right.plot(order, seen / seen[0], "--", color="black", label="whitened, best step")
        numbers["noise"][f"step {step}"] = {
            "effective rank of the Gramian": rank,
            "largest eigenvalue of the Gramian over n / 2": float(2 * parts.values[0] / len(seen)),
            "Gramian, largest over the one beyond the rank": float(
                parts.values[0] / parts.values[beyond]
            ),
            "whitened, largest over the one beyond the rank": float(seen[0] / seen[beyond]),
            "whitened, largest over smallest": float(seen[0] / seen[-1]),
        }
    right.set(xlabel="order of the eigenvalue", ylabel="Gramian over n / 2", yscale="log")
    right.set(ylim=(1e-7, 3))
    right.legend(frameon=False, fontsize=7)
    return figure


def main(pictures: Pictures) -> None:
    """Train twice, and draw."""
    numbers: dict[str, Any] = {}
    with jax.enable_x64(True):
        runs = {
            "clean labels": learned(pictures, 0.0),
            f"{pictures.wrong:.0%} wrong labels": learned(pictures, pictures.wrong),
        }
        noisy = list(runs.values())[1]
        figures = {
            "cells": draw_cells(runs, numbers),
            "coupling": draw_coupling(noisy, numbers),
            "noise": draw_noise(noisy, numbers),
        }
    keep(pictures.out, "learning.json", numbers, figures)


if __name__ == "__main__":
    main(tyro.cli(Pictures))
