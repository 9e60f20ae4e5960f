"""Draw how the gate decides: signal over noise of the units of one layer, over a training.

    python benchmarks/strip.py

A small network learns 600 examples, of whose labels three in ten are wrong. Every point is one
output unit of its hidden layer. Writes ``docs/_static/strip.png``.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

import snrgate

NOISE_DECAY, SIGNAL_DECAY = 0.99, 0.98  # the defaults of the gate


@dataclasses.dataclass(frozen=True)
class Strip:
    """Signal over noise at some steps."""

    steps: tuple[int, ...] = (20, 100, 300, 1000)
    """Steps that are drawn."""
    out: Path = Path("docs/_static/strip.png")
    """The picture."""


def loss_fn(params: Any, example: Any) -> jax.Array:
    """The loss of one example."""
    x, y = example
    logits = jax.nn.relu(x @ params["hidden"]["kernel"]) @ params["out"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def ratios(strip: Strip) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Signal over noise, and the gate, of every hidden unit at the steps that are drawn."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 20)).astype(np.float32)
    truth = (x[:, 0] + x[:, 1] > 0).astype(int)
    y = np.where(rng.random(600) < 0.3, 1 - truth, truth)
    params = {
        "hidden": {"kernel": jnp.asarray(rng.normal(size=(20, 64)) / 20**0.5, jnp.float32)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(64, 2)) / 8, jnp.float32)},
    }
    adam = optax.scale_by_adam()
    tx = snrgate.snr_gate(adam, dataset_size=600)
    grad_fn = snrgate.value_and_moments(loss_fn)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        _, moments = grad_fn(params, batch)
        open_wide, _ = adam.update(moments.mean, state.inner_state)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        gates = jax.tree.map(
            lambda u, v: jnp.max(jnp.abs(u), 0) / jnp.max(jnp.abs(v), 0), updates, open_wide
        )
        params = jax.tree.map(lambda p, u: p - 1e-3 * u, params, updates)
        return params, state, gates

    state, seen = tx.init(params), {}
    for i in range(1, max(strip.steps) + 1):
        at = rng.choice(600, 64, replace=False)
        params, state, gates = step(params, state, (x[at], y[at]))
        if i in strip.steps:
            signal, noise = (t["hidden"]["kernel"][0] for t in (state.signal, state.noise))
            signal, noise = signal / (1 - SIGNAL_DECAY**i), noise / (1 - NOISE_DECAY**i)
            seen[i] = np.asarray(signal / noise), np.asarray(gates["hidden"]["kernel"])
    return seen


def picture(seen: dict[int, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One panel for each step, the units in the order of their ratio."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    panels = figure.subplots(1, len(seen), sharey=True)
    for axes, (step, (ratio, gate)) in zip(panels, seen.items(), strict=True):
        order = np.argsort(-ratio)
        how = {"cmap": "viridis", "vmin": 0, "vmax": 1, "s": 14, "zorder": 3}
        points = axes.scatter(np.arange(len(ratio)), ratio[order], c=gate[order], **how)
        axes.axhline(1, color="#4a4a4a", linestyle="--", linewidth=1)
        axes.set(yscale="log", xlabel="unit, sorted", title=f"step {step}: gate {gate.mean():.2f}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("signal / noise")
    panels[0].text(0, 1.05, "pure noise", fontsize=8, va="bottom")
    figure.colorbar(points, ax=panels, label="gate")
    return figure


def main(strip: Strip) -> None:
    """Train, and draw."""
    picture(ratios(strip)).savefig(strip.out, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Strip))
