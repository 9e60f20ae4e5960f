"""What one step shows of every gated parameter tensor: its signal and its noise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Bool, Float, Int, PyTree, Scalar
from snrgate.evidence import Reading
from snrgate.moments.statistics import noise_of_sums
from snrgate.momentum import observed_decay
from snrgate.settings import Settings
from snrgate.spread import Units, batch_of, next_spread, units

__all__ = [
    "Given",
    "Motion",
    "Step",
    "advance",
    "are_measured",
    "average",
    "finite_gradients",
    "is_measured",
    "measure",
    "settle",
]


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
    sums: list[Any] | None
    sample_size: Scalar | None
    own: list[Array] | None
    inner: tuple[list[Array], list[Array]] | None
    decay: Scalar | None
    last_decay: Scalar
    count: Int[Array, ""]
    spread: Float[Array, " gated"]
    skipped: Int[Array, " gated"]


class Motion(NamedTuple):
    """How the momentum moves in one step, and what pure noise would show of it.

    Attributes:
        previous: the momentum before the step.
        momentum: the momentum after it; for instantaneous noise the gradient.
        decay: of the momentum.
        spread: of the momentum after the step.
        units: what pure noise of one example's variance is multiplied by.
        scale: what the squared momentum is multiplied by to be in its unit.
        batch: whether the batch holds any examples.
    """

    previous: list[Array]
    momentum: list[Array]
    decay: Scalar
    spread: Float[Array, " gated"]
    units: Units
    scale: Float[Array, " gated"]
    batch: Bool[Array, ""]


class Step(NamedTuple):
    """What one step leaves of every gated leaf, but for its evidence.

    Attributes:
        units: what pure noise of one example's variance is multiplied by.
        momentum: the gate's own momentum after the step, ``None`` where it keeps none.
        decay: of the momentum.
        spread: of the momentum after the step.
        skipped: steps that each leaf has sat out, this one included.
        finite: whether the numbers of a leaf are there and finite; otherwise it sits out this step.
        counts: whether this step enters the running averages, where it is measured.
    """

    units: Units
    momentum: list[Array] | None
    decay: Scalar
    spread: Float[Array, " gated"]
    skipped: Int[Array, " gated"]
    finite: Bool[Array, " gated"]
    counts: Bool[Array, " gated"]


def advance(settings: Settings, given: Given) -> Motion:
    """How the momentum moves, and the units of this step.

    Args:
        settings: of the gate.
        given: what the update is given.
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

    # Reciprocals of whole vectors: a division a leaf would be a kernel of its own.
    scale = 1 / unit.signal
    if given.kind != "instantaneous":
        scale /= jnp.square(1 - jnp.asarray(decay, scale.dtype) ** age)
    return Motion(previous, momentum, decay, spread, unit, scale, batch.counts)


def measure(
    readings: list[Reading], given: Given, motion: Motion
) -> tuple[list[Any], list[Any], Bool[Array, " gated"]]:
    """Signal and noise of this step, in units of the variance of one example.

    Args:
        readings: how each gated leaf sums its evidence.
        given: what the update is given.
        motion: of the momentum.

    Returns:
        The sums of the squared momentum of each leaf; those of its noise; whether both are there
        and finite.
    """
    noises = _noises(readings, given, motion.previous)
    noise = [_scaled(n, u) for n, u in zip(noises, 1 / motion.units.noise, strict=True)]
    signal = [
        _scaled(reading.squares(m, n), u)
        for reading, m, n, u in zip(readings, motion.momentum, noise, motion.scale, strict=True)
    ]
    finite = jnp.array(list(map(_all_finite, signal, noise)), bool)
    if given.sums is not None:
        finite &= jnp.array([is_measured(sums) for sums in given.sums], bool)
    return signal, noise, finite


def finite_gradients(given: Given) -> Bool[Array, " gated"]:
    """Whether the gradient of each leaf is finite."""
    return jnp.array([jnp.all(jnp.isfinite(g)) for g in given.grads], bool)


def settle(given: Given, motion: Motion, finite: Bool[Array, " gated"]) -> Step:
    """What the step leaves, where a leaf that is not finite sits it out.

    Nothing that is to be kept has then seen a number that is not finite. A batch of padding alone
    shows nothing.
    """
    counts = finite & motion.batch
    own = None
    if given.own is not None:
        moved = zip(counts, motion.momentum, motion.previous, strict=True)
        own = [jnp.where(ok, new, old) for ok, new, old in moved]
    return Step(
        units=motion.units,
        momentum=own,
        decay=motion.decay,
        spread=jnp.where(counts if given.inner is None else finite, motion.spread, given.spread),
        skipped=given.skipped + ~counts,
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
            reading.squares(g - m.astype(g.dtype))
            for reading, g, m in zip(readings, given.grads, previous, strict=True)
        ]
    assert given.sums is not None  # check_statistics
    assert given.sample_size is not None
    return [
        _of_examples(reading, g, sums, given.sample_size)
        for reading, g, sums in zip(readings, given.grads, given.sums, strict=True)
    ]


def _of_examples(reading: Reading, grad: Array, given: Any, size: Scalar) -> Any:
    """The noise of the mean of ``size`` examples, from their sums of squared differences."""
    sums = reading.sums(jax.tree.map(lambda s: jnp.asarray(s, grad.dtype), given))
    return noise_of_sums(sums, lambda: reading.squares(grad, sums), size)


def _scaled(sums: Any, scale: Array) -> Any:
    """Sums in a unit. Where pure noise shows nothing at all the sums are not to be compared."""
    return jax.tree.map(lambda s: s * scale.astype(s.dtype), sums)


def _all_finite(signal: Any, noise: Any) -> Array:
    # A sum is finite where both are: neither is negative.
    both = jax.tree.leaves(jax.tree.map(jnp.add, signal, noise))
    return functools.reduce(jnp.logical_and, (jnp.all(jnp.isfinite(x)) for x in both))


def is_measured(sums: Any) -> Array:
    """Whether there are sums: where they were left out, a negative number stands everywhere."""
    numbers = jax.tree.leaves(sums)[0]
    return jnp.max(numbers) >= 0 if jnp.size(numbers) else jnp.array(True)


def are_measured(sums: PyTree) -> Array:
    """Whether there are sums of all parameters."""
    return functools.reduce(
        jnp.logical_and, map(is_measured, jax.tree.leaves(sums)), jnp.array(True)
    )


def average(old: list[Array], new: list[Array], decay: Scalar) -> list[Array]:
    """One step of an exponential moving average, in the dtype of the average."""
    return [
        jnp.asarray(decay * a + (1 - decay) * x, a.dtype) for a, x in zip(old, new, strict=True)
    ]
