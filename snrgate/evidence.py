"""Where the evidence of one parameter tensor is summed, and how the sums become gates.

A *reading* of a tensor says which of its numbers share evidence. The transformation sums squared
momenta and noises by it, averages the sums over steps, and asks it for the gates.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array, Float
from snrgate.block import Block, block_axes, known_unit_axes, pooled_shape
from snrgate.gate import pool
from snrgate.moments.statistics import accumulator_dtype

__all__ = ["Pooled", "Reading", "Rule", "Sided", "read"]

Rule = Callable[[Array, Array], Array]
"""``(signal, noise) -> gate``, each in the shape of the sums."""


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
        """A zero for every sum; made of the parameter, so that it is sharded as that is."""
        return pool(jnp.zeros_like(like, accumulator_dtype(like.dtype)), self.axes)

    def squares(self, x: Float[Array, "..."], like: Any) -> Array:
        """The sums of ``x**2``, for the blocks of the noise ``like``."""
        return pool(jnp.square(x.astype(like.dtype)), self.axes)

    def sums(self, given: Float[Array, "..."]) -> Array:
        """Sums of numbers that are one a parameter, or summed by this reading already.

        Raises:
            ValueError: they have another shape.
        """
        if given.shape in self.shapes:
            return given
        if given.shape == self.shape:
            return pool(given, self.axes)
        raise ValueError(_refusal(self.path, self.shape, given.shape, self.shapes))

    def gates(self, signal: Array, noise: Array, rule: Rule) -> Array:
        """The gates, which broadcast against the parameter."""
        return rule(signal, noise)


class Sided(NamedTuple):
    r"""Nothing tells which axis faces the output: the evidence of every side, each by itself.

    The evidence of one number follows from the sums over everything that shares an axis with it,

    .. math:: T_{ij} = T_{i \cdot}\, T_{\cdot j} \,/\, T,

    for signal and noise alike, as Adafactor has it. A unit without signal is found whether it is
    a row or a column, and one that is open is as open as the unit's own sums say. From three axes
    on, the first one is taken for a stack of layers, each with two sides (or more) of its own.
    Where the moments say which side it is, that side is taken alone.
    """

    path: str
    shape: tuple[int, ...]

    @property
    def kept(self) -> list[tuple[int, ...]]:
        """The axes that are kept in each sum: one by one, and each within the first."""
        n = len(self.shape)
        alone = [(a,) for a in range(n)]
        return alone if n == 2 else [*alone, *((0, a) for a in range(1, n))]

    @property
    def _sides(self) -> list[int]:
        """Which of the sums make up the evidence where every number has its own noise."""
        n = len(self.shape)
        return [0, 1] if n == 2 else list(range(n, 2 * n - 1))

    def _over(self, kept: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.shape)) if i not in kept)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the sums."""
        return [pooled_shape(self.shape, self._over(kept)) for kept in self.kept]

    def zeros(self, like: Array) -> tuple[Array, ...]:
        """A zero for every sum."""
        zeros = jnp.zeros_like(like, accumulator_dtype(like.dtype))
        return tuple(pool(zeros, self._over(kept)) for kept in self.kept)

    def squares(self, x: Float[Array, "..."], like: Any) -> tuple[Array | None, ...]:
        """The sums of ``x**2``, where ``like`` has some."""
        return tuple(
            None if n is None else pool(jnp.square(x.astype(n.dtype)), self._over(kept))
            for kept, n in zip(self.kept, like, strict=True)
        )

    def sums(self, given: Float[Array, "..."]) -> tuple[Array | None, ...]:
        """Sums of numbers that are one a parameter, or those of the one side that was given.

        Raises:
            ValueError: they are summed over something else.
        """
        if given.shape == self.shape:
            return tuple(
                pool(given, self._over(kept)) if i in self._sides else None
                for i, kept in enumerate(self.kept)
            )
        if given.shape not in self.shapes:
            raise ValueError(_refusal(self.path, self.shape, given.shape, self.shapes))
        found = self.shapes.index(given.shape)
        return tuple(given if i == found else None for i in range(len(self.shapes)))

    def gates(self, signal: Any, noise: Any, rule: Rule) -> Array:
        """The gates, which broadcast against the parameter."""
        given = [i for i, s in enumerate(signal) if s is not None]
        if len(given) == 1:
            return rule(signal[given[0]], noise[given[0]])
        return rule(*(self._evidence([sums[i] for i in given]) for sums in (signal, noise)))

    def _evidence(self, sums: list[Array]) -> Array:
        """Of every number, from the sums of its sides."""
        first = 0 if len(self.shape) == 2 else 1
        total = pool(sums[0], (first,))
        shares = (x / jnp.where(total > 0, total, 1) for x in sums)
        return math.prod(shares, start=total)


Reading = Pooled | Sided


def read(block: Block, path: str, shape: tuple[int, ...]) -> Reading:
    """How the evidence of one parameter tensor is summed."""
    if block == "unit" and known_unit_axes(path, shape) is None:
        return Sided(path, shape)
    return Pooled(path, shape, block_axes(block, path, shape))


def _refusal(
    path: str, shape: tuple[int, ...], given: tuple[int, ...], blocks: list[tuple[int, ...]]
) -> str:
    wanted = [str(b) for b in dict.fromkeys(blocks) if b != shape]
    pooled = f" or, pooled, {' or '.join(wanted)}" if wanted else ""
    if given[1:] == shape:
        hint = "for gradients with a leading example axis use snrgate.from_per_example"
    elif wanted and len(given) == len(shape):
        hint = (
            "give value_and_moments the block= of the gate, or let the moments tell the gate: "
            "block=jax.eval_shape(grad_fn, params, batch)[1]"
        )
    else:
        hint = "give value_and_moments the block= of the gate"
    return (
        f"sum_sq_diff_grads of {path!r} has shape {given}; the gate needs {shape}{pooled} ({hint})"
    )
