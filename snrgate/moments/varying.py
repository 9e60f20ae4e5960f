"""Arrays that vary over the devices of a mapped axis (``jax.shard_map`` with ``check_vma``)."""

from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array

__all__ = ["vary", "varying_axes", "zeros_varying_like"]


def varying_axes(x: Any) -> frozenset[str]:
    """The mapped axes of ``jax.shard_map`` over which a value differs."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x: Array, axes: frozenset[str]) -> Array:
    """``x``, cast to vary over ``axes`` too."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def zeros_varying_like(shape: Any, like: Array) -> Array:
    """Zeros of ``shape.shape`` and ``shape.dtype`` that vary over the axes that ``like`` does.

    A loop's first carry must vary over the same axes as what the loop makes of it.
    """
    return vary(jnp.zeros(shape.shape, shape.dtype), varying_axes(like))
