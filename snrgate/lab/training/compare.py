"""Both optimizers side by side: the same weights, the same batches, one row of metrics each."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import optax

import snrgate
from snrgate.annotations import Array, Float, Int
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.denoise import Denoise, DenoiseTask, NoisyPhoto, psnr
from snrgate.lab.training.loop import (
    Gradients,
    TrainState,
    exact_moments,
    init,
    make_stretch,
    mean_gradient,
)

__all__ = ["Best", "Learner", "Row", "fit", "start", "step_of"]

Row = dict[str, Any]
"""One line of the metrics."""


class Best(NamedTuple):
    """The picture nearest to the clean photo so far: what an oracle would have stopped at."""

    step: Int[Array, ""]
    psnr: Float[Array, ""]
    pixels: Float[Array, "height width channels"]


class Learner(NamedTuple):
    """One optimizer's progress; ``best`` is ``None`` where there is no clean photo."""

    state: TrainState
    best: Best | None


def _optimizer(
    name: str, settings: Denoise, task: DenoiseTask
) -> tuple[optax.GradientTransformation, Gradients]:
    shared = {
        "learning_rate": settings.learning_rate,
        "b1": settings.b1,
        "b2": settings.b2,
        "weight_decay": settings.weight_decay,
    }
    if name == "adamw":
        return optax.adamw(**shared), mean_gradient(task.groups)
    gated = snrgate.adamw(
        **shared,
        gate=settings.gate,
        z=settings.z,
        noise=settings.noise_estimator,
        noise_decay=settings.noise_decay,
        signal_decay=None if settings.noise_estimator == "instantaneous" else settings.signal_decay,
        fitted=settings.fitted,
        block=settings.block,
        dataset_size=task.groups[0].dataset_size,
    )
    return gated, exact_moments(task.groups, [None], settings.block, settings.b1)


def start(settings: Denoise, task: DenoiseTask, photo: NoisyPhoto) -> dict[str, Learner]:
    """The learners before the first step, all with the same weights."""
    best = None
    if photo.clean is not None:
        nothing = np.zeros(photo.clean.shape, np.float32)
        best = Best(np.zeros((), np.int32), np.array(-np.inf, np.float32), nothing)
    return {
        name: Learner(init(task.params, _optimizer(name, settings, task)[0]), best)
        for name in settings.optimizers
    }


def fit(
    settings: Denoise, task: DenoiseTask, photo: NoisyPhoto, learners: dict[str, Learner]
) -> Iterator[tuple[int, dict[str, Learner], list[Row]]]:
    """Train to the last step, pausing at every evaluation.

    Args:
        settings: of the run.
        task: the network and the pixels.
        photo: what to measure against.
        learners: from :func:`start`, or from an earlier pause.

    Yields:
        The step, the learners and one row of metrics for each.

    Raises:
        InputError: a loss is no longer a number.
    """
    stretches = {}
    for name in learners:
        tx, gradients = _optimizer(name, settings, task)
        stretches[name] = make_stretch(
            gradients, tx, task.groups, batch_size=settings.batch_size, seed=settings.seed
        )
    step = step_of(learners)
    while step < settings.steps:
        step = _next_evaluation(step, settings)
        rows = []
        for name, (state, best) in learners.items():
            metrics: dict[str, Array] = {}
            while (left := step - int(state.step)) > 0:
                length = min(settings.eval_every, left)
                state, metrics = stretches[name](state, length=length)
            row: Row = {"step": step, "optimizer": name}
            row |= {k: float(v) for k, v in metrics.items()}
            if not math.isfinite(row["loss"]):
                raise InputError(
                    f"{name} diverged: its loss is {row['loss']} at step {step}; "
                    f"give a learning_rate below {settings.learning_rate}"
                )
            if best is not None:
                pixels = task.predict(state.params)
                value = psnr(pixels, photo.clean)
                row["psnr"] = float(value)
                if value > best.psnr:
                    best = Best(np.array(step, np.int32), value, pixels)
            learners = learners | {name: Learner(state, best)}
            rows.append(row)
        yield step, learners, rows


def _next_evaluation(step: int, settings: Denoise) -> int:
    """Often in the first tenth of a run, where AdamW has its best, and less so afterwards."""
    every = settings.eval_every * (1 if step < settings.steps // 10 else 5)
    return min(step + every, settings.steps)


def step_of(learners: dict[str, Learner]) -> int:
    """The step that the learners have reached."""
    return int(next(iter(learners.values())).state.step)
