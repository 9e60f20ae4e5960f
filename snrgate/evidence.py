"""The sums of evidence in one parameter tensor, and the gates that follow from them.

A *reading* of a tensor says which of its numbers share evidence. The transformation uses it to sum
squared momenta and noises, averages the sums over steps, and asks it for the gates.
"""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float
from snrgate.block import (
    Block,
    Sides,
    known_unit_axes,
    pooled_shape,
    summed,
)
from snrgate.gate import pool
from snrgate.kernel import Kernel
from snrgate.moments.kronecker import SideSums
from snrgate.moments.statistics import accumulator_dtype
from snrgate.settings import Rule

__all__ = [
    "Pooled",
    "Reading",
    "Sided",
    "read",
]


class Pooled(NamedTuple):
    """One sum for every block; it has size 1 on the pooled axes."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the sums."""
        return [pooled_shape(self.shape, self.axes)]

    def zeros(self, like: Array) -> Array:
        """A zero for every sum, made of the parameter, and so sharded as the parameter is."""
        return pool(jnp.zeros_like(like, accumulator_dtype(like.dtype)), self.axes)

    def unpacked(self, remembered: Array) -> Array:
        """The sums as they are remembered."""
        return remembered

    def packed(self, sums: Array) -> Array:
        """The sums as they are to be remembered."""
        return sums

    def squares(self, x: Float[Array, "..."], like: Any = None) -> Array:
        """The sums of ``x**2``, in the dtype of the noise ``like``."""
        return pool(jnp.square(x if like is None else x.astype(like.dtype)), self.axes)

    def sums(self, given: Any) -> Array:
        """Sums of given numbers: one for each parameter, or summed by this reading already.

        Raises:
            ValueError: the numbers have another shape, or are the sums of both sides.
        """
        if isinstance(given, SideSums) or given.shape not in (*self.shapes, self.shape):
            raise ValueError(_refusal(self.path, self.shape, given, self.shapes))
        return given if given.shape in self.shapes else pool(given, self.axes)

    def gates(self, signal: Array, noise: Array, rule: Rule) -> Array:
        """The gates, which broadcast against the parameter."""
        return rule(signal, noise)


class Sided(NamedTuple):
    r"""The sums of every side, where nothing tells which axes face the output; the best is taken.

    A side keeps one axis (or one axis and the first, which may be a stack of layers), and its
    units are pooled over everything else. Where the moments say which side it is, that side is
    taken alone. Otherwise the one is taken whose units differ most in their ratio
    :math:`x_u` of signal to noise, by the likelihood ratio of unequal against equal variances
    (Bartlett) less the price of its number of units (Schwarz):

    .. math:: \sum_u \frac{m_u}{2} \Big(\frac{x_u}{x} - 1 - \log\frac{x_u}{x}\Big)
              - \frac{\text{units}}{2} \log n

    with :math:`m_u` numbers in a unit, :math:`n` in the tensor and :math:`x` its whole ratio. A
    unit without signal is thus found, whether it is a row or a column.
    """

    path: str
    shape: tuple[int, ...]

    @property
    def kept(self) -> list[tuple[int, ...]]:
        """The axes that each side keeps."""
        n = len(self.shape)
        return [(a,) for a in range(n)] + [(0, a) for a in range(1, n) if n > 2]

    def _over(self, kept: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.shape)) if i not in kept)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape in which the sums of all sides are remembered."""
        return [(sum(map(math.prod, self._shapes)),)]

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [pooled_shape(self.shape, self._over(kept)) for kept in self.kept]

    def zeros(self, like: Array) -> Array:
        """A zero for every sum."""
        return jnp.zeros(self.shapes[0], accumulator_dtype(like.dtype))

    def unpacked(self, remembered: Array) -> tuple[Array, ...]:
        """The sums of every side, each in its shape."""
        sizes = [math.prod(shape) for shape in self._shapes]
        parts = jnp.split(remembered, np.cumsum(sizes)[:-1])
        return tuple(x.reshape(shape) for x, shape in zip(parts, self._shapes, strict=True))

    def packed(self, sums: tuple[Array, ...]) -> Array:
        """The sums of every side in one vector."""
        return jnp.concatenate([x.reshape(-1) for x in sums])

    def squares(self, x: Float[Array, "..."], like: Any = None) -> tuple[Array | None, ...]:
        """The sums of ``x**2``, where the noise ``like`` has some."""
        if like is None:
            return tuple(pool(jnp.square(x), self._over(kept)) for kept in self.kept)
        return tuple(
            None if n is None else pool(jnp.square(x.astype(n.dtype)), self._over(kept))
            for kept, n in zip(self.kept, like, strict=True)
        )

    def sums(self, given: Any) -> tuple[Array | None, ...]:
        """Sums of given numbers: one for each parameter, or the sums of one side.

        Raises:
            ValueError: the numbers are summed over other axes, or are the sums of both sides.
        """
        if isinstance(given, SideSums) or given.shape not in (*self._shapes, self.shape):
            raise ValueError(_refusal(self.path, self.shape, given, self._shapes))
        if given.shape == self.shape:
            return tuple(pool(given, self._over(kept)) for kept in self.kept)
        found = self._shapes.index(given.shape)
        return tuple(given if i == found else None for i in range(len(self._shapes)))

    def gates(self, signal: Any, noise: Any, rule: Rule) -> Array:
        """The gates, which broadcast against the parameter."""
        given = [i for i, s in enumerate(signal) if s is not None]
        gates = [rule(signal[i], noise[i]) for i in given]
        if len(given) == 1:
            return gates[0]
        best = jnp.argmax(jnp.array([self._difference(signal[i], noise[i]) for i in given]))
        taken = [jnp.where(best == i, gate, 0) for i, gate in enumerate(gates)]
        return functools.reduce(jnp.add, taken)

    def _difference(self, signal: Array, noise: Array) -> Array:
        """The difference between the units of one side, less the price of their number."""
        total = jnp.sum(signal) / jnp.sum(noise)
        ratio = signal / (noise * jnp.where(total > 0, total, 1))
        ratio = jnp.where((noise > 0) & (total > 0), jnp.maximum(ratio, 1e-6), 1)
        numbers = math.prod(self.shape)
        gain = jnp.sum(ratio - 1 - jnp.log(ratio)) * (numbers / ratio.size) / 2
        return gain - ratio.size / 2 * math.log(numbers)


Reading = Pooled | Sided | Kernel


def read(block: Block, path: str, shape: tuple[int, ...]) -> Reading:
    """The reading of one parameter tensor."""
    if block == "unit" and math.prod(shape) and known_unit_axes(path, shape) is None:
        return Sided(path, shape)
    if callable(block) and isinstance(given := block(path, shape), Sides):
        return Kernel(path, shape, given)
    how = summed(block, path, shape)
    if isinstance(how, Sides):
        return Kernel(path, shape, how)
    return Pooled(path, shape, how)


def _refusal(path: str, shape: tuple[int, ...], given: Any, blocks: list[tuple[int, ...]]) -> str:
    """What to say of statistics that are summed over other blocks than the gate is."""
    wanted = [str(b) for b in dict.fromkeys(blocks) if b != shape]
    pooled = f" or, pooled, {' or '.join(wanted)}" if wanted else ""
    hint = "give value_and_moments and the gate the same block=; both have 'unit' by default"
    if isinstance(given, SideSums):
        has = "holds the sums of both sides of a kernel"
    else:
        has = f"has shape {given.shape}"
        if given.shape[1:] == shape:
            hint = "for gradients with a leading example axis use snrgate.from_per_example"
        elif wanted and given.ndim == len(shape):
            hint += (
                ", or let the moments tell the gate: "
                "block=jax.eval_shape(grad_fn, params, batch)[1]"
            )
    return f"sum_sq_diff_grads of {path!r} {has}; the gate needs {shape}{pooled} ({hint})"
