"""What one step shows and leaves: the momentum moves, evidence is measured and remembered.

Kernels with two sides are dear to measure. Where a gate has any, all its leaves are measured at
the first steps, and later at one step in ten. Between these the gates compare what they remember.
"""

from typing import Any, NamedTuple

from snrgate.annotations import Array
from snrgate.branch import where_due
from snrgate.evidence import Reading
from snrgate.kernel import Kernel, gap, is_due, is_renewed
from snrgate.measure import Given, Motion, Step, advance, finite_gradients, measure, settle
from snrgate.memory import Memory, corrected, remember
from snrgate.settings import Settings

__all__ = ["Seen", "observe"]


class Seen(NamedTuple):
    """All that the gates are opened by, a list each over the gated leaves.

    Attributes:
        memory: the running averages after the step.
        signal: the squared signal to compare; of kernels as it is remembered.
        noise: the noise to compare it with.
        views: of every kernel, how it was seen last, packed; of the other leaves a placeholder.
    """

    memory: Memory
    signal: list[Any]
    noise: list[Any]
    views: list[Any]


def observe(
    settings: Settings,
    readings: list[Reading],
    given: Given,
    memory: Memory,
    views: list[Any],
) -> tuple[Step, Seen]:
    """Take one step of the gate's own state.

    Args:
        settings: of the gate.
        readings: how each gated leaf sums its evidence.
        given: what the update is given.
        memory: the running averages before the step.
        views: of every kernel, how it was seen last.
    """
    motion = advance(settings, given)

    if not any(isinstance(r, Kernel) for r in readings):
        signal, noise, finite = measure(readings, given, motion)
        step, shown = settle(given, motion, finite), (signal, noise)
        after = remember(settings, readings, memory, shown, step.counts)
        return step, Seen(after, *corrected(settings, readings, after, shown), views)

    def due(kept: tuple[Array, Memory, list[Any]]) -> tuple[Array, Memory, list[Any]]:
        _, before, views = kept
        signal, noise, finite = measure(readings, given, motion)
        counts = settle(given, motion, finite).counts
        shown = signal, noise
        after = remember(settings, readings, before, shown, counts, gap(given.count))
        return finite, after, _look(settings, readings, given, motion, after, views)

    held = finite_gradients(given), memory, views
    finite, after, views = where_due(is_due(given.count), due, held)
    step = settle(given, motion, finite)
    return step, Seen(after, *_averages(settings, readings, after, kernels=False), views)


def _look(
    settings: Settings,
    readings: list[Reading],
    given: Given,
    motion: Motion,
    memory: Memory,
    views: list[Any],
) -> list[Any]:
    """The views of new evidence; now and then in a new basis."""
    signal, noise = _averages(settings, readings, memory)
    rules = settings.rules(given.kind, motion.units, [isinstance(r, Kernel) for r in readings])
    units = zip(motion.units.signal, motion.units.noise, strict=True)
    leaves = list(zip(readings, signal, noise, rules, units, strict=True))

    def renewed(views: list[Any]) -> list[Any]:
        return [
            reading.renewed(n, view) if isinstance(reading, Kernel) else view
            for (reading, _, n, _, _), view in zip(leaves, views, strict=True)
        ]

    views = where_due(is_renewed(given.count), renewed, views)
    return [
        reading.looked(s, n, view, rule, unit) if isinstance(reading, Kernel) else view
        for (reading, s, n, rule, unit), view in zip(leaves, views, strict=True)
    ]


def _averages(
    settings: Settings, readings: list[Reading], memory: Memory, kernels: bool = True
) -> tuple[list[Any], list[Any]]:
    """The averages without their bias, where everything is averaged; of kernels only if asked."""
    signal, noise = (
        [reading.unpacked(x) for reading, x in zip(readings, kept, strict=True)]
        for kept in (memory.signal, memory.noise)
    )
    unbiased = corrected(settings, readings, memory, (signal, noise))
    if kernels:
        return unbiased
    signal, noise = (
        [r if isinstance(k, Kernel) else u for k, r, u in zip(readings, raw, clean, strict=True)]
        for raw, clean in zip((signal, noise), unbiased, strict=True)
    )
    return signal, noise
