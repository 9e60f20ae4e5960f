"""Rows of a table: what look-ups, slices at a place of the example's own and their kin leave.

The gradient of any of them adds windows of numbers to an array of zeros. An axis that the window
spans is a column of the table, and the others together number its rows.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Int
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.terms import Factor, Lookup
from snrgate.moments.factored.trace import Equation

__all__ = ["of_scatter", "of_update"]

_LARGE = 4096
"""A matrix of more numbers is no row of a table, but a gradient to be formed."""


class _Windows(NamedTuple):
    """Where windows lie in an array: its sizes, theirs, and whether one outside moves inside."""

    shape: tuple[int, ...]
    window: tuple[int, ...]
    clips: bool

    @property
    def indexed(self) -> tuple[int, ...]:
        """The axes along which a window can lie at several places."""
        pairs = enumerate(zip(self.shape, self.window, strict=True))
        return tuple(i for i, (n, k) in pairs if k < n)

    @property
    def columns(self) -> tuple[int, ...]:
        """The axes that a window spans."""
        return tuple(i for i in range(len(self.shape)) if i not in self.indexed)

    def sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of the array on some axes."""
        return tuple(self.shape[i] for i in axes)

    def rows(self, starts: list[Array]) -> Int[Array, "1 r 1"]:
        """The rows that windows cover; the number of rows stands for none.

        Args:
            starts: of every axis where each of the ``t`` windows begins, of any integer type.
        """
        inside = jnp.ones(jnp.shape(starts[0]), bool)
        first = jnp.zeros(jnp.shape(starts[0]), jnp.int32)
        axes = self.sizes(self.indexed)
        for axis, start in enumerate(starts):
            # The type of the ids may be too small to hold the size of the array.
            last = min(self.shape[axis] - self.window[axis], int(jnp.iinfo(start.dtype).max))
            place = jnp.clip(start, 0, last)
            inside = inside & (self.clips | (place == start))
            if axis in self.indexed:
                first = first * self.shape[axis] + place.astype(jnp.int32)
        offsets = itertools.product(*(range(self.window[i]) for i in self.indexed))
        steps = [np.ravel_multi_index(offset, axes) if axes else 0 for offset in offsets]
        rows = first[:, None] + jnp.asarray(np.array(steps, np.int32))[None]
        return jnp.where(inside[:, None], rows, math.prod(axes)).reshape(1, -1, 1)

    def values(self, updates: Array) -> Array:
        """What windows ``(t, *window)`` add to each of their rows: ``(1, r, n)``."""
        order = (0, *(i + 1 for i in self.indexed), *(i + 1 for i in self.columns))
        width = math.prod(self.sizes(self.columns))
        return jnp.transpose(updates, order).reshape(1, -1, width)

    def lookup(self, rows: Factor, values: Factor, count: int) -> Lookup | None:
        """The term that ``count`` windows make of their rows and values."""
        matrix = sum(n > 1 for n in self.sizes(self.columns)) > 1
        if matrix and math.prod(self.window) > _LARGE:
            return None
        order = (*self.indexed, *self.columns)
        layout = Layout.of((), self.sizes(self.indexed), self.sizes(self.columns)).transposed(
            tuple(order.index(i) for i in range(len(order))), self.sizes(order)
        )
        uses = count * math.prod(self.window[i] for i in self.indexed)
        return Lookup(rows, values, layout, uses)


def of_update(eqn: Equation) -> Lookup | None:
    """The gradient of ``dynamic_slice``."""
    table, update, *starts = eqn.inputs
    windows = _Windows(table.aval.shape, update.aval.shape, clips=True)

    def rows(*places: Array) -> Array:
        return windows.rows([jnp.reshape(place, 1) for place in places])

    values = Factor((update,), lambda x: windows.values(x[None]))
    return windows.lookup(Factor(tuple(starts), rows), values, 1)


def of_scatter(eqn: Equation) -> Lookup | None:
    """The gradient of ``gather``."""
    table, ids, updates = eqn.inputs
    numbers, shape = eqn.params["dimension_numbers"], table.aval.shape
    single = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    spanned = [i for i in range(len(shape)) if i not in single]
    inside = tuple(numbers.update_window_dims)
    sizes = {i: updates.aval.shape[k] for i, k in zip(spanned, inside, strict=True)}
    windows = _Windows(
        shape,
        tuple(sizes.get(i, 1) for i in range(len(shape))),
        clips=eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP,
    )
    lead = ids.aval.shape[:-1]
    outside = tuple(i for i in range(updates.aval.ndim) if i not in inside)

    def rows(ids: Array) -> Array:
        starts = [jnp.zeros(math.prod(lead), jnp.int32)] * len(shape)
        for k, axis in enumerate(numbers.scatter_dims_to_operand_dims):
            starts[axis] = ids[..., k].reshape(-1)
        for axis, along in zip(
            numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
        ):
            starts[axis] = jax.lax.broadcasted_iota(jnp.int32, lead, along).reshape(-1)
        return windows.rows(starts)

    def values(x: Array) -> Array:
        return windows.values(jnp.transpose(x, (*outside, *inside)).reshape(-1, *windows.window))

    return windows.lookup(Factor((ids,), rows), Factor((updates,), values), math.prod(lead))
