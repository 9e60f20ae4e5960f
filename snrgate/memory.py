"""The running averages of signal and noise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Scalar
from snrgate.evidence import Reading
from snrgate.measure import Step, average
from snrgate.settings import Settings

__all__ = ["Memory", "remember"]


class Memory(NamedTuple):
    """Running averages, and the same bias-corrected: lists over the gated leaves."""

    running_noise: list[Any]
    running_signal: list[Any]
    noise: list[Any]
    signal: list[Any]


def remember(
    settings: Settings,
    readings: list[Reading],
    step: Step,
    noise: list[Array],
    signal: list[Array],
) -> Memory:
    """Average noise and signal over steps, where they are to be averaged."""
    memory = Memory([], [], step.noise, step.signal)
    if settings.averaged:
        running, corrected = _running(readings, noise, step.noise, step, settings.noise_decay)
        memory = memory._replace(running_noise=running, noise=corrected)
    if settings.remembers:
        running, corrected = _running(readings, signal, step.signal, step, settings.memory)
        memory = memory._replace(running_signal=running, signal=corrected)
    return memory


def _running(
    readings: list[Reading], before: list[Array], now: list[Any], step: Step, decay: Scalar
) -> tuple[list[Array], list[Any]]:
    """Running averages of what counts, and the same bias-corrected."""
    corrections = 1 / (1 - jnp.asarray(decay, step.units.signal.dtype) ** step.age)
    running = [
        jax.tree.map(functools.partial(_blend, counts, decay), r.unpacked(old), new)
        for r, old, new, counts in zip(readings, before, now, step.counts, strict=True)
    ]
    corrected = [
        jax.tree.map(lambda x, new, c=c: None if new is None else x * c.astype(x.dtype), mean, new)
        for mean, new, c in zip(running, now, corrections, strict=True)
    ]
    return [r.packed(x) for r, x in zip(readings, running, strict=True)], corrected


def _blend(counts: Array, decay: Scalar, old: Array, new: Array | None) -> Array:
    """The next running average; the old one where there is nothing new, or nothing finite."""
    if new is None:
        return old
    (mean,) = average([old], [new], decay)
    return jnp.where(counts, mean, old)
