"""Draw what has a closed form: double descent, bias and grokking in time, drift and diffusion.

    OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false \
        python benchmarks/theory_closed.py

Least squares on a part of the features (figure 7 of the paper), gradient descent of a linear model
(figure 8), and many runs of minibatch SGD from one point. Writes ``descent.png``, ``time.png``,
``walks.png`` and ``closed.json`` into ``results/theory``.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure
from theory_page import keep

from snrgate import theory
from snrgate.lab.tasks.digits import Digits
from snrgate.models.mlp import MLP


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Double descent, learning in time, drift and diffusion."""

    examples: int = 40
    """Number of examples of the least squares."""
    features: int = 120
    """Number of features, of which the model sees the first r."""
    noise: float = 0.5
    """Standard deviation of the noise of the targets; the signal has 1."""
    repeats: int = 400
    """Number of data sets."""
    runs: int = 48
    """Number of runs of minibatch SGD."""
    seed: int = 0
    """Seed of everything."""
    out: Path = Path("results/theory")
    """Folder of the pictures and numbers."""


def risk_of(rank: int, pictures: Pictures) -> float:
    """The expected risk of least squares on some of the features (Belkin, Hsu & Xu, 2019)."""
    n, share = pictures.examples, rank / pictures.features
    unseen = 1 - share + pictures.noise**2
    if rank <= n - 2:
        return unseen * (1 + rank / (n - rank - 1))
    if rank >= n + 2:
        return share * (1 - n / rank) + unseen * (1 + n / (rank - n - 1))
    return float("inf")


def draw_descent(pictures: Pictures, numbers: dict[str, Any]) -> Figure:
    """Figure 7: the risk over the rank, and its increments."""
    rng = np.random.default_rng(pictures.seed)
    n, d = pictures.examples, pictures.features
    ranks = np.arange(1, d)
    x = rng.normal(size=(pictures.repeats, n, d))
    beta = rng.choice([-1, 1], size=(pictures.repeats, d)) / np.sqrt(d)
    y = np.einsum("rnd,rd->rn", x, beta) + pictures.noise * rng.normal(size=x.shape[:2])
    measured = []
    for rank in ranks:
        fitted = np.einsum("rdn,rn->rd", np.linalg.pinv(x[:, :, :rank]), y)
        missed = np.concatenate([fitted, np.zeros((len(x), d - rank))], axis=1) - beta
        measured.append(np.sum(missed**2, axis=1) + pictures.noise**2)
    risks = np.mean(measured, axis=1)
    errors = np.std(measured, axis=1) / np.sqrt(pictures.repeats)
    exact = np.array([risk_of(rank, pictures) for rank in ranks])
    steps = np.diff(risks)

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(ranks, exact, color="0.6", linewidth=3, label="closed form")
    left.plot(ranks, risks, "k.", markersize=3, label="measured")
    left.axvline(n, color="0.7", linestyle=":")
    left.set(xlabel="rank r", ylabel="risk", yscale="log", ylim=(0.5, 200))
    left.legend(frameon=False)
    bounded = np.where(np.isfinite(exact), exact, np.nan)
    right.plot(ranks[:-1], np.diff(bounded), color="0.6", linewidth=3)
    right.plot(ranks[:-1], steps, "k.", markersize=3)
    right.axhline(0, color="0.7", linewidth=0.8)
    right.axvline(n, color="0.7", linestyle=":")
    right.set(xlabel="rank r", ylabel="increment of the risk", yscale="symlog", ylim=(-200, 200))
    far = np.abs(ranks - n) > 3  # beside the peak the mean over data sets converges
    numbers["double descent"] = {
        "rank of the peak": int(ranks[np.argmax(risks)]),
        "first rank whose increment is negative after the rise": int(
            ranks[np.argmax(risks[:-1]) + np.argmax(steps[np.argmax(risks[:-1]) :] < 0)]
        ),
        "number of examples": n,
        "within 2 standard errors of the closed form, share of ranks": float(
            np.mean(np.abs(risks - exact)[far] < 2 * errors[far])
        ),
    }
    return figure


def draw_time(pictures: Pictures, numbers: dict[str, Any]) -> Figure:
    """Figure 8: modes are fitted one after the other; training long before test."""
    rng = np.random.default_rng(pictures.seed)
    n, d, rate = 120, 100, 0.01
    x = rng.normal(size=(n, d))
    beta = rng.normal(size=d) / np.sqrt(d)
    y = x @ beta
    left_vectors, sigma, right_vectors = np.linalg.svd(x, full_matrices=False)
    times = np.unique(np.logspace(1, 5.3, 200).astype(int))

    # Descent as it runs, read at some steps.
    w, read = np.zeros(d), {}
    for step in range(1, times[-1] + 1):
        w -= rate * x.T @ (x @ w - y) / n
        if step in times:
            read[step] = w.copy()
    ends = np.stack([read[t] for t in times])
    train = np.mean((ends @ x.T - y) ** 2, axis=1)
    test = np.sum((ends - beta) ** 2, axis=1)
    along = (right_vectors @ beta) ** 2
    left_over = np.exp(-2 * rate * times[:, None] * sigma**2 / n)
    exact_train = left_over @ (sigma**2 * along) / n
    exact_test = left_over @ along

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    bias, time = figure.subplots(1, 2)
    worst = 0.0
    for j, shade in zip((0, 30, 60, 80, 90), ("0", "0.2", "0.4", "0.55", "0.7"), strict=True):
        fitted = (ends @ x.T @ left_vectors[:, j]) / (left_vectors[:, j] @ y)
        expected = 1 - np.exp(-rate * times * sigma[j] ** 2 / n)
        worst = max(worst, float(np.max(np.abs(fitted - expected))))
        bias.plot(times, expected, color=shade, label=f"mode {j + 1}")
        bias.plot(times[::6], fitted[::6], "o", color=shade, markersize=3)
    bias.set(xlabel="step", ylabel="share that is fitted", xscale="log")
    bias.legend(frameon=False, fontsize=8, title="line: closed form")
    time.plot(times, exact_train, color="black", label="training loss")
    time.plot(times, exact_test, "--", color="0.4", label="test loss")
    time.plot(times[::6], train[::6], "ko", markersize=3)
    time.plot(times[::6], test[::6], "o", color="0.4", markersize=3)
    time.axhline(0.05, color="0.8", linewidth=0.8)
    time.set(xlabel="step", ylabel="squared error", xscale="log", yscale="log", ylim=(1e-6, 3))
    time.legend(frameon=False)
    reached = {
        name: int(times[np.argmax(values < 0.05)])
        for name, values in (("training", train), ("test", test))
    }
    numbers["time"] = {
        "largest difference of a fitted mode from 1 - exp(-t sigma^2 / n)": worst,
        "step at which the training loss is below 0.05": reached["training"],
        "step at which the test loss is below 0.05": reached["test"],
    }
    return figure


def draw_walks(pictures: Pictures, numbers: dict[str, Any]) -> Figure:
    """Drift and diffusion of minibatch SGD on digits with wrong labels."""
    (x, y), _ = Digits(wrong=0.4).data(pictures.seed)
    graph, params = nnx.split(MLP((64, 32, 10), nnx.tanh, rngs=nnx.Rngs(params=pictures.seed)))

    def loss_fn(params: Any, example: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(example[0])
        return -jax.nn.log_softmax(logits)[example[1]]

    steps = 400
    walk = theory.random_walks(
        loss_fn,
        params,
        (x, y),
        learning_rate=2e-3,
        batch_size=8,
        steps=steps,
        runs=pictures.runs,
        key=jax.random.key(pictures.seed),
        directions=16,
    )
    slopes = {
        name: float(theory.slope(getattr(walk, name), first=5))
        for name in ("coherent", "idiosyncratic")
    }
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    ax = figure.subplots()
    t = np.arange(1, steps + 1)
    for name, style in (("coherent", "-"), ("idiosyncratic", "--")):
        label = f"{name}, slope {slopes[name]:.2f}"
        ax.plot(t, getattr(walk, name), style, color="black", label=label)
    for power, name in ((1.0, "coherent"), (0.5, "idiosyncratic")):
        at = float(getattr(walk, name)[20])
        ax.plot(t, at * (t / 21) ** power, color="0.7", linewidth=4, zorder=0)
    ax.set(xlabel="step", ylabel="distance from the start", xscale="log", yscale="log")
    ax.legend(frameon=False, title="grey: slopes 1 and 1/2")
    numbers["walks"] = slopes | {"signal over noise of a batch": float(walk.signal)}
    return figure


def main(pictures: Pictures) -> None:
    """Draw all three."""
    numbers: dict[str, Any] = {}
    figures = {
        "descent": draw_descent(pictures, numbers),
        "time": draw_time(pictures, numbers),
        "walks": draw_walks(pictures, numbers),
    }
    keep(pictures.out, "closed.json", numbers, figures)


if __name__ == "__main__":
    main(tyro.cli(Pictures))
