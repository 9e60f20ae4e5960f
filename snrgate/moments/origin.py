"""A record of the mean to which each sum of squared differences belongs.

The noise of a batch belongs to the mean of that batch. A clip that changes only the mean would
make the gate compare a small signal with a large noise. Both are plain arrays, so
:func:`snrgate.value_and_moments` records here which of them belong together, for as long as they
live. An array that crosses the border of a ``jit`` is a new array, and has no record.
"""

import weakref
from collections.abc import Iterator
from typing import Any

import jax

from snrgate.moments.statistics import Moments

__all__ = ["is_noted_mean", "mean_of", "note", "same_numbers"]

# These operations leave numbers as they are, apart from rounding to another dtype.
_PASS_ON = {
    "convert_element_type",
    "copy",
    "device_put",
    "optimization_barrier",
    "pcast",
    "pvary",
    "reduce_precision",
    "reshard",
    "sharding_constraint",
    "stop_gradient",
}

# The identity of an array leads to the array, and to the mean that belongs to it.
_MEAN_OF: dict[int, tuple[weakref.ref[Any], weakref.ref[Any]]] = {}


def note(moments: Moments) -> Moments:
    """Record the mean of every leaf of ``moments``, and return ``moments``."""

    def record(mean: Any, squares: Any) -> None:
        for array in (mean, *jax.tree.leaves(squares)):
            key = id(array)
            gone = weakref.ref(array, lambda _, key=key: _MEAN_OF.pop(key, None))
            _MEAN_OF[key] = gone, weakref.ref(mean)

    jax.tree.map(record, moments.mean, moments.sum_sq_diff)
    return moments


def mean_of(sums: Any) -> Any | None:
    """The mean that sums of :func:`note` belong to, or ``None`` where they have no record.

    Args:
        sums: an array, or the two arrays of the sums by sides.
    """
    for given in jax.tree.leaves(sums):
        array, mean = _MEAN_OF.get(id(given), (None, None))
        if mean is not None and array is not None and array() is given:
            return mean()
    return None


def is_noted_mean(x: Any) -> bool:
    """Whether an array has the numbers of the mean of moments that were recorded."""
    return any(y is not None and mean_of(y) is y for y in same_numbers(x))


def same_numbers(x: Any) -> Iterator[Any]:
    """An array, and the arrays that hold its numbers before a cast, a sharding or a barrier.

    A traced array knows the operation that made it, which leads back to the operands.
    """
    seen, left = set(), [x]
    while left:
        x = left.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        yield x
        made_by = getattr(x, "parent", None)
        if made_by is not None and made_by.primitive.name in _PASS_ON:
            left.extend(made_by.in_tracers)
