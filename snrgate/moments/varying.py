"""Arrays that vary over the devices of a mapped axis (``jax.shard_map`` with ``check_vma``)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, PyTree
from snrgate.branch import either

__all__ = [
    "check_varies",
    "if_measured",
    "vary",
    "varying_axes",
    "varying_axes_of",
    "zeros_of_type",
    "zeros_varying_like",
]


def varying_axes(x: Any) -> frozenset[str]:
    """The mapped axes of ``jax.shard_map`` over which a value differs."""
    return jax.typeof(x).manual_axis_type.varying


def varying_axes_of(tree: PyTree) -> frozenset[str]:
    """The mapped axes over which any leaf differs."""
    return frozenset().union(*map(varying_axes, jax.tree.leaves(tree)))


def vary(x: Array, axes: frozenset[str]) -> Array:
    """``x``, cast to vary over ``axes`` too."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def check_varies(tree: PyTree, axis_name: Any) -> None:
    """Refuse to sum over devices that all hold the same examples.

    Where ``jax.shard_map`` keeps no account of what varies (``check_vma=False``, and in ``pmap``
    and ``vmap``), nothing can be told.

    Raises:
        ValueError: no leaf varies over one of the axes, and that can be told.
    """
    varying = varying_axes_of(tree)
    for name in axis_name if isinstance(axis_name, tuple | list) else (axis_name,):
        told = varying_axes(jax.lax.axis_index(name))
        if name in told and name not in varying:
            raise ValueError(
                f"axis_name={name!r}: every device of this axis holds the same examples, which "
                f"would count once for each; spread the batch over the axis (in_specs=P({name!r})) "
                "or leave axis_name out"
            )


def zeros_varying_like(shape: Any, like: Array) -> Array:
    """Zeros of ``shape.shape`` and ``shape.dtype`` that vary over the axes that ``like`` does.

    A loop's first carry must vary over the same axes as what the loop makes of it.
    """
    return vary(jnp.zeros(shape.shape, shape.dtype), varying_axes(like))


def zeros_of_type(kind: Any) -> Array:
    """Zeros of the shape, dtype and sharding of a result of ``jax.eval_shape``.

    They vary over the axes that the result would vary over.
    """
    return vary(jnp.zeros_like(kind), varying_axes(kind))


def if_measured(measure: Any, compute: Callable[[], PyTree]) -> PyTree:
    """``compute()``, or zeros in its place where nothing is to be measured.

    Args:
        measure: a bool, or a traced one. Where it is traced, a branch is taken when it runs.
        compute: returns a tree of arrays.
    """
    if measure is True:
        return compute()
    zeros = jax.tree.map(zeros_of_type, jax.eval_shape(compute))
    return either(measure, compute, lambda: zeros)
