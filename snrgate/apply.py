"""The gates of one step, and what they let through."""

import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float
from snrgate.evidence import Reading
from snrgate.kernel import Kernel
from snrgate.observe import Seen
from snrgate.settings import Rule, Settings, is_zero
from snrgate.trees import Selection

__all__ = ["apply_gates", "fractions", "open_gates"]


def open_gates(
    settings: Settings,
    readings: list[Reading],
    rules: list[Rule],
    count: Array,
    finite: Array,
    seen: Seen,
) -> list[Array]:
    """The gates of every leaf, in shapes that broadcast against it, or in the basis of its view."""
    gates = []
    leaves = zip(readings, rules, seen.signal, seen.noise, seen.views, strict=True)
    for reading, rule, signal, noise, view in leaves:
        if isinstance(reading, Kernel):
            gates.append(reading.gates(view, rule))
        else:
            gates.append(reading.gates(signal, noise, rule))
    if not is_zero(settings.warmup_steps):
        gates = [jnp.where(count <= settings.warmup_steps, 1, q) for q in gates]
    return [jnp.where(ok, q, 0) for ok, q in zip(finite, gates, strict=True)]


def apply_gates(
    readings: list[Reading],
    updates: list[Array],
    gates: list[Array],
    finite: Array,
    seen: Seen,
) -> list[Array]:
    """The updates as far as their gates are open.

    Nothing gets past a shut gate, whatever the inner transformation returns there; but where the
    gradient itself is not finite, the gate does not hide what the inner one makes of it.
    """
    through = []
    evidence = zip(seen.signal, seen.views, strict=True)
    leaves = zip(readings, map(jnp.asarray, updates), gates, finite, evidence, strict=True)
    for reading, u, q, ok, (signal, view) in leaves:
        if isinstance(reading, Kernel):
            passed = jnp.where(ok, reading.through(u, q, view, signal), u * 0)
        else:
            passed = jnp.where((q == 0) & ok, 0, u * q)
        through.append(passed.astype(u.dtype))
    return through


def fractions(
    gates: list[Array], chosen: Selection
) -> tuple[Float[Array, " leaves"], Float[Array, ""]]:
    """The mean gate of every leaf (1 where ungated), and of all gated parameters together."""
    per_leaf = jnp.ones(len(chosen.chosen), jnp.float32)
    sizes = np.array([np.prod(shape) for shape in chosen.shapes], np.float32)
    if not sizes.sum():
        return per_leaf, jnp.ones((), jnp.float32)
    means = jnp.stack([jnp.mean(q, dtype=jnp.float32) if q.size else 1.0 for q in gates])
    return per_leaf.at[np.flatnonzero(chosen.chosen)].set(means), means @ (sizes / sizes.sum())
