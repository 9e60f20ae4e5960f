"""The running averages of signal and noise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Bool, Int, Scalar
from snrgate.evidence import Reading
from snrgate.measure import average
from snrgate.settings import Settings

__all__ = ["Memory", "corrected", "remember"]


class Memory(NamedTuple):
    """Running averages over the steps that were measured: lists over the gated leaves.

    Attributes:
        noise: the running noise, not bias-corrected; empty where every step counts by itself.
        signal: the same of the squared signal.
        age: steps that the averages stand for, one number a leaf.
    """

    noise: list[Array]
    signal: list[Array]
    age: Int[Array, " gated"]


def remember(
    settings: Settings,
    readings: list[Reading],
    memory: Memory,
    shown: tuple[list[Any], list[Any]],
    counts: Bool[Array, " gated"],
    steps: Scalar = 1,
) -> Memory:
    """Average the signal and the noise of a step, where they are to be averaged.

    Args:
        settings: of the gate.
        readings: how each gated leaf sums its evidence.
        memory: before the step.
        shown: the signal and the noise of this step, a list each.
        counts: which leaves are averaged; the others keep what they have.
        steps: number of steps that this one stands for.
    """

    def averaged(before: list[Array], now: list[Any], decay: Scalar) -> list[Array]:
        decay = decay if isinstance(steps, int) and steps == 1 else decay**steps
        return [
            reading.packed(
                jax.tree.map(functools.partial(_blend, ok, decay), reading.unpacked(old), new)
            )
            for reading, old, new, ok in zip(readings, before, now, counts, strict=True)
        ]

    signal, noise = shown
    return Memory(
        noise=averaged(memory.noise, noise, settings.noise_decay) if settings.averaged else [],
        signal=averaged(memory.signal, signal, settings.memory) if settings.remembers else [],
        age=memory.age + counts * steps,
    )


def _blend(counts: Array, decay: Scalar, old: Array, new: Array | None) -> Array:
    """The next running average; the old one where there is nothing new, or nothing finite."""
    if new is None:
        return old
    (mean,) = average([old], [new], decay)
    return jnp.where(counts, mean, old)


def corrected(
    settings: Settings,
    readings: list[Reading],
    memory: Memory,
    shown: tuple[list[Any], list[Any]],
) -> tuple[list[Any], list[Any]]:
    """The signal and the noise for the gates to compare: averages without their bias.

    Args:
        settings: of the gate.
        readings: how each gated leaf sums its evidence.
        memory: after the step.
        shown: the signal and the noise of this step, which count where they are not averaged.
            Where they are, they tell which sums there are.
    """
    age = jnp.maximum(memory.age, 1)

    def unbiased(running: list[Array], now: list[Any], decay: Scalar) -> list[Any]:
        corrections = 1 / (1 - jnp.asarray(decay, jnp.result_type(float)) ** age)
        return [
            jax.tree.map(
                lambda x, new, c=c: None if new is None else x * c.astype(x.dtype),
                reading.unpacked(mean),
                new,
            )
            for reading, mean, new, c in zip(readings, running, now, corrections, strict=True)
        ]

    signal, noise = shown
    if settings.averaged:
        noise = unbiased(memory.noise, noise, settings.noise_decay)
    if settings.remembers:
        signal = unbiased(memory.signal, signal, settings.memory)
    return signal, noise
