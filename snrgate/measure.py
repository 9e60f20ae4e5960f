"""What one step shows of every gated parameter tensor: its signal and its noise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Bool, Float, Int, Scalar
from snrgate.evidence import Reading
from snrgate.moments.statistics import noise_of_mean
from snrgate.momentum import observed_decay
from snrgate.settings import Settings
from snrgate.spread import Units, batch_of, next_spread, units

__all__ = ["Given", "Step", "average", "measure"]


class Given(NamedTuple):
    """What one update is given, and what it found.

    Attributes:
        kind: of noise: "exact", "streaming" or "instantaneous".
        grads: mean gradients of the gated leaves, float32 or wider.
        sums: their sums of squared differences, where they are given.
        sample_size: examples in the batch, where it is given.
        own: the gate's own momentum before the step, where it keeps one.
        inner: the momentum of the inner transformation before and after the step, where it
            keeps one.
        decay: of the momentum; ``None`` where it is to be seen from how that has moved.
        last_decay: the decay as it was last seen.
        count: the step, starting at 1.
        spread: of the momentum, one number a leaf, before the step.
        skipped: steps that each leaf has sat out before.
    """

    kind: str
    grads: list[Array]
    sums: list[Array] | None
    sample_size: Scalar | None
    own: list[Array] | None
    inner: tuple[list[Array], list[Array]] | None
    decay: Scalar | None
    last_decay: Scalar
    count: Int[Array, ""]
    spread: Float[Array, " gated"]
    skipped: Int[Array, " gated"]


class Step(NamedTuple):
    """Signal and noise of one step, one entry a gated leaf.

    Attributes:
        signal: sums of the squared momentum, in their units.
        noise: sums of the noise, in their units.
        units: what pure noise of one example's variance is multiplied by in them.
        momentum: the gate's own momentum after the step, ``None`` where it keeps none.
        decay: of the momentum.
        spread: of the momentum after the step.
        skipped: steps that each leaf has sat out, this one included.
        age: batches in the running averages, at least 1.
        finite: whether the numbers of a leaf are finite; otherwise it sits out this step.
        counts: whether this step enters the running averages.
    """

    signal: list[Any]
    noise: list[Any]
    units: Units
    momentum: list[Array] | None
    decay: Scalar
    spread: Float[Array, " gated"]
    skipped: Int[Array, " gated"]
    age: Int[Array, " gated"]
    finite: Bool[Array, " gated"]
    counts: Bool[Array, " gated"]


def measure(settings: Settings, readings: list[Reading], given: Given) -> Step:
    """Signal and noise of this step, in units of the variance of one example.

    Args:
        settings: of the gate.
        readings: how each gated leaf sums its evidence.
        given: what the update is given.

    Returns:
        The step. Nothing in it that is to be kept has seen a number that is not finite.
    """
    previous, momentum, decay = _momentum(given)

    # What pure noise would show at this step. The gate's own momentum has not seen the steps
    # that it sat out; that of the inner transformation has.
    batch = batch_of(given.sample_size, settings.dataset_size)
    missed = given.skipped if given.inner is None else jnp.zeros_like(given.skipped)
    age = jnp.maximum(given.count - missed, 1)
    spread = next_spread(given.spread, batch, decay)
    unit = units(given.kind, batch, decay, age, given.spread, spread)
    if settings.alpha is not None:  # the paper's threshold is on the numbers as they are
        unit = Units(*(jnp.ones_like(unit.signal),) * 2, jnp.zeros_like(unit.own))

    # What it does show.
    noises = _noises(readings, given, previous)
    # Reciprocals of whole vectors: a division a leaf would be a kernel of its own.
    noise = [_scaled(n, u) for n, u in zip(noises, 1 / unit.noise, strict=True)]
    scale = 1 / unit.signal
    if given.kind != "instantaneous":
        scale /= jnp.square(1 - jnp.asarray(decay, scale.dtype) ** age)
    signal = [
        _scaled(reading.squares(m, n), u)
        for reading, m, n, u in zip(readings, momentum, noise, scale, strict=True)
    ]

    # One bad example must not stay: a leaf that is not finite sits out this step. A batch of
    # padding alone shows nothing.
    finite = jnp.array(list(map(_all_finite, signal, noise)), bool)
    counts = finite & batch.counts
    own = None
    if given.own is not None:
        moved = zip(counts, momentum, previous, strict=True)
        own = [jnp.where(ok, new, old) for ok, new, old in moved]
    return Step(
        signal=signal,
        noise=noise,
        units=unit,
        momentum=own,
        decay=decay,
        spread=jnp.where(counts if given.inner is None else finite, spread, given.spread),
        skipped=given.skipped + ~counts,
        age=jnp.maximum(given.count - given.skipped - ~counts, 1),
        finite=finite,
        counts=counts,
    )


def _momentum(given: Given) -> tuple[list[Array], list[Array], Scalar]:
    """The momentum before and after the step, and its decay."""
    if given.own is not None:
        decay = given.last_decay if given.decay is None else given.decay
        return given.own, average(given.own, given.grads, decay), decay
    if given.inner is not None:
        before, after = given.inner
        if given.decay is not None:
            return before, after, given.decay
        return before, after, observed_decay(before, after, given.grads, given.last_decay)
    return given.grads, given.grads, 0.0  # every batch by itself


def _noises(readings: list[Reading], given: Given, previous: list[Array]) -> list[Any]:
    """The noise of this step, summed as the evidence is."""
    if given.kind == "streaming":
        return [
            reading.sums(jnp.square(g - m.astype(g.dtype)))
            for reading, g, m in zip(readings, given.grads, previous, strict=True)
        ]
    assert given.sums is not None  # check_statistics
    assert given.sample_size is not None
    return [
        jax.tree.map(
            lambda s, g=g: noise_of_mean(g, s, given.sample_size),
            reading.sums(jnp.asarray(sums, g.dtype)),
        )
        for reading, g, sums in zip(readings, given.grads, given.sums, strict=True)
    ]


def _scaled(sums: Any, scale: Array) -> Any:
    """Sums in a unit. Where pure noise shows nothing at all the sums are not to be compared."""
    return jax.tree.map(lambda s: s * scale.astype(s.dtype), sums)


def _all_finite(signal: Any, noise: Any) -> Array:
    # A sum is finite where both are: neither is negative.
    both = jax.tree.leaves(jax.tree.map(jnp.add, signal, noise))
    return functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in both))


def average(old: list[Array], new: list[Array], decay: Scalar) -> list[Array]:
    """One step of an exponential moving average, in the dtype of the average."""
    return [
        jnp.asarray(decay * a + (1 - decay) * x, a.dtype) for a, x in zip(old, new, strict=True)
    ]
