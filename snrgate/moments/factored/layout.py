"""How the axes of a gradient belong to the factors that it is a product of.

A gradient ``sum_r left[g, r, m] * right[g, r, n]`` has axes of three owners: groups ``g`` (in both
factors), ``m`` of the left and ``n`` of the right factor. Its array shows them in any order, with
axes of size 1, which nobody owns, anywhere between.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array, Float
from snrgate.block import pooled_shape

__all__ = ["GROUP", "LEFT", "OWNERS", "RIGHT", "Layout", "runs"]

OWNERS = GROUP, LEFT, RIGHT = 0, 1, 2


class Layout(NamedTuple):
    """Of every axis of the gradient that is not 1: owner and position in the factor, and size."""

    axes: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, groups: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...]) -> "Layout":
        """All groups, then all axes of the left factor, then all of the right one."""
        owned = [
            (owner, [n for n in shape if n != 1])
            for owner, shape in zip(OWNERS, (groups, left, right), strict=True)
        ]
        axes = tuple((owner, i) for owner, shape in owned for i in range(len(shape)))
        return cls(axes, tuple(n for _, shape in owned for n in shape))

    def owned(self, owner: int) -> tuple[int, ...]:
        """Sizes of the axes of one owner, in the order of the factor."""
        order = sorted(range(len(self.axes)), key=lambda i: self.axes[i])
        return tuple(self.sizes[i] for i in order if self.axes[i][0] == owner)

    def place(self, axis: int, shape: tuple[int, ...]) -> int:
        """Which axis of the layout is that axis of an array of ``shape``, not one of size 1."""
        return _places(shape)[axis]

    def owner(self, axis: int, shape: tuple[int, ...]) -> int | None:
        """Who owns an axis of an array of ``shape``; nobody an axis of size 1."""
        return self.axes[self.place(axis, shape)][0] if shape[axis] != 1 else None

    def without(self, axes: list[int], shape: tuple[int, ...]) -> "Layout":
        """The layout without some axes of an array of ``shape``."""
        gone = {self.place(i, shape) for i in axes if shape[i] != 1}
        return self._of_places([k for k in range(len(self.axes)) if k not in gone])

    def resized(self, old: tuple[int, ...], new: tuple[int, ...]) -> "Layout":
        """The layout after some axes of an array, none of size 1, have changed their sizes."""
        sizes = tuple(n for m, n in zip(old, new, strict=True) if m != 1)
        kept = [k for k, n in enumerate(sizes) if n != 1]
        return self._replace(sizes=sizes)._of_places(kept)

    def _of_places(self, kept: list[int]) -> "Layout":
        """Only some of its axes, those of each owner numbered anew."""
        axes = [self.axes[k] for k in kept]
        numbers = {
            (owner, place): (owner, i)
            for owner in OWNERS
            for i, (_, place) in enumerate(sorted(a for a in axes if a[0] == owner))
        }
        return Layout(tuple(numbers[a] for a in axes), tuple(self.sizes[k] for k in kept))

    def separated(self, x: Array) -> Array:
        """An array shown in this layout, by groups, left and right; inverse of ``arrange``."""
        order = sorted(range(len(self.axes)), key=lambda i: self.axes[i])
        flat = tuple(math.prod(self.owned(owner)) for owner in OWNERS)
        return jnp.transpose(x.reshape(self.sizes), order).reshape(flat)

    def transposed(self, permutation: tuple[int, ...], shape: tuple[int, ...]) -> "Layout":
        """The layout after ``jnp.transpose`` of a gradient of that shape."""
        place = _places(shape)
        order = [place[i] for i in permutation if i in place]
        return Layout(tuple(self.axes[i] for i in order), tuple(self.sizes[i] for i in order))

    def flipped(self) -> "Layout":
        """The layout after the left and the right factor have changed places."""
        other = {GROUP: GROUP, LEFT: RIGHT, RIGHT: LEFT}
        return Layout(tuple((other[owner], i) for owner, i in self.axes), self.sizes)

    def canonical(self) -> "Layout":
        """The one of this layout and its flipped one whose first ungrouped axis is left."""
        owners = [owner for owner, _ in self.axes if owner != GROUP]
        return self if not owners or owners[0] == LEFT else self.flipped()

    def reshaped(self, shape: tuple[int, ...]) -> "Layout | None":
        """The layout after ``jnp.reshape``; ``None`` if it merges axes that are not neighbours."""
        new = tuple(n for n in shape if n != 1)
        named: list[tuple[int, float]] = []
        for here, there in runs(self.sizes, new):
            owner, first = self.axes[here[0]]
            if [self.axes[i] for i in here] != [(owner, first + k) for k in range(len(here))]:
                return None
            # Fractions keep the pieces of one old axis in order, between its neighbours.
            named += [(owner, first + k / len(there)) for k in range(len(there))]
        positions = {
            name: (owner, i)
            for owner in OWNERS
            for i, name in enumerate(sorted(n for n in named if n[0] == owner))
        }
        return Layout(tuple(positions[name] for name in named), new)

    def places(self, owner: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of ``shape`` that one owner has."""
        return tuple(i for i, k in _places(shape).items() if self.axes[k][0] == owner)

    def pooled(self, owner: int, pool: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Positions in the factor of its axes among ``pool``, which are axes of ``shape``."""
        place = _places(shape)
        axes = [self.axes[place[i]] for i in pool if i in place]
        return tuple(sorted(position for o, position in axes if o == owner))

    def arrange(
        self, x: Float[Array, "g m n"], shape: tuple[int, ...], pool: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        """The gradient of that shape, or its pooled sums, from groups, left and right."""
        pooled = {_places(shape).get(i) for i in pool}
        sizes = [1 if i in pooled else n for i, n in enumerate(self.sizes)]
        order = sorted(range(len(self.axes)), key=lambda i: self.axes[i])
        full = x.reshape([sizes[i] for i in order])
        ordered = jnp.transpose(full, [order.index(i) for i in range(len(order))])
        return ordered.reshape(pooled_shape(shape, pool))

    def arrange_side(self, x: Float[Array, "g m *m"], owner: int) -> Float[Array, "..."]:
        """The products along one factor's axes, in the order that the array shows them.

        Args:
            x: of groups, a matrix or its diagonal.
            owner: of the axes, LEFT or RIGHT.
        """
        sizes, groups, sides = self.owned(owner), self.owned(GROUP), x.ndim - 1
        order, stack = ([i for o, i in self.axes if o == who] for who in (owner, GROUP))
        axes = [len(stack) + k * len(order) + i for k in range(sides) for i in order]
        full = jnp.transpose(x.reshape(*groups, *sizes * sides), (*stack, *axes))
        return full.reshape(*full.shape[: len(stack)], *x.shape[1:])


def _places(shape: tuple[int, ...]) -> dict[int, int]:
    """Which axis of a layout is which axis of the array."""
    return {i: k for k, i in enumerate(i for i, n in enumerate(shape) if n != 1)}


def runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]]:
    """Runs of old and new axes of equal size, as short as possible."""
    runs, i, j = [], 0, 0
    while i < len(old):
        first, start = i, j
        i, j = i + 1, j + 1
        while (a := math.prod(old[first:i])) != (b := math.prod(new[start:j])):
            i, j = (i + 1, j) if a < b else (i, j + 1)
        runs.append((range(first, i), range(start, j)))
    return runs
