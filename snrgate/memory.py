"""The running averages of signal and noise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, PyTree, Scalar
from snrgate.measure import Step, average
from snrgate.settings import Settings
from snrgate.trees import Selection

__all__ = ["Memory", "remember"]


class Memory(NamedTuple):
    """Running averages, and the same bias-corrected: lists over the gated leaves."""

    running_noise: list[Any]
    running_signal: list[Any]
    noise: list[Any]
    signal: list[Any]


def remember(
    settings: Settings, chosen: Selection, step: Step, noise: PyTree, signal: PyTree
) -> Memory:
    """Average noise and signal over steps, where they are to be averaged."""
    memory = Memory([], [], step.noise, step.signal)
    if settings.averaged:
        before = chosen.pick(noise, "state.noise")
        running, noise = _running(before, step.noise, step, settings.noise_decay)
        memory = memory._replace(running_noise=running, noise=noise)
    if settings.remembers:
        before = chosen.pick(signal, "state.signal")
        running, signal = _running(before, step.signal, step, settings.memory)
        memory = memory._replace(running_signal=running, signal=signal)
    return memory


def _running(
    before: list[Any], now: list[Any], step: Step, decay: Scalar
) -> tuple[list[Any], list[Any]]:
    """Running averages of what counts, and the same bias-corrected."""
    weight = 1 - jnp.asarray(decay, step.units.signal.dtype) ** step.age
    running = [
        jax.tree.map(functools.partial(_blend, step.counts[i], decay), old, new)
        for i, (old, new) in enumerate(zip(before, now, strict=True))
    ]
    corrected = [
        jax.tree.map(
            lambda x, new, i=i: None if new is None else x / weight[i].astype(x.dtype), mean, new
        )
        for i, (mean, new) in enumerate(zip(running, now, strict=True))
    ]
    return running, corrected


def _blend(counts: Array, decay: Scalar, old: Array, new: Array | None) -> Array:
    """The next running average; the old one where there is nothing new, or nothing finite."""
    if new is None:
        return old
    (mean,) = average([old], [new], decay)
    return jnp.where(counts, mean, old)
