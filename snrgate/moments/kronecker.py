r"""Sums of products of differences along both sides of a kernel, ``block="kronecker"``.

With the per-example gradients of one parameter unfolded to matrices :math:`g_b` of ``m`` rows and
``n`` columns,

.. math::

    R = \sum_b w_b\, (g_b - \mu)(g_b - \mu)^\top, \qquad
    C = \sum_b w_b\, (g_b - \mu)^\top (g_b - \mu) .

The diagonals are the sums of squared differences, pooled over the other side. Where they come from
a subtraction, its rounding error is about ``eps`` times the sum of squares. A diagonal is never
negative, but a matrix may have eigenvalues that are negative by so much.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from snrgate.annotations import Array, Float
from snrgate.block import Sides, is_long

__all__ = [
    "SideSums",
    "example_products",
    "fold",
    "gathered",
    "not_negative",
    "outer_sums",
    "side_products",
    "side_shapes",
    "trace",
    "unfold",
]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rows", "columns"], meta_fields=["sides"]
)
@dataclasses.dataclass(frozen=True)
class SideSums:
    """The sums of one parameter. They take the place of its leaf in ``Moments.sum_sq_diff``.

    Attributes:
        rows: ``(*stack, m, m)``, float32 or wider, in units of gradient squared. It is the
            diagonal, ``(*stack, m)``, where ``m`` exceeds :data:`~snrgate.block.MAX_SIDE`.
        columns: the same of the other side, ``(*stack, n, n)`` or ``(*stack, n)``.
        sides: which axes of the parameter are the stack, the rows and the columns.
    """

    rows: Any  # trees of this type hold shapes, shardings and flags too
    columns: Any
    sides: Sides


def unfold(x: Float[Array, "..."], sides: Sides) -> Float[Array, "..."]:
    """An array in the shape of the parameter as matrices ``(*stack, m, n)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.block import Sides
        >>> from snrgate.moments.kronecker import unfold
        >>> unfold(jnp.ones((2, 5, 3, 1)), Sides((), (0, 2), (1,))).shape
        (6, 5)
    """
    return jnp.transpose(gathered(x), _order(x.ndim, sides)).reshape(_unfolded(x.shape, sides))


def fold(x: Float[Array, "..."], sides: Sides, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Matrices ``(*stack, m, n)`` in the shape of the parameter: the inverse of :func:`unfold`.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.block import Sides
        >>> from snrgate.moments.kronecker import fold
        >>> fold(jnp.ones((6, 5)), Sides((), (0, 2), (1,)), (2, 5, 3, 1)).shape
        (2, 5, 3, 1)
    """
    order = _order(len(shape), sides)
    ordered = x.reshape([shape[i] for i in order])
    return jnp.transpose(ordered, sorted(range(len(order)), key=order.__getitem__))


def outer_sums(x: Float[Array, "..."], sides: Sides) -> SideSums:
    r"""The rows :math:`x x^\top` and the columns :math:`x^\top x` of one array.

    Args:
        x: an array in the shape of the parameter, such as its mean gradient.
        sides: the sides of the parameter.

    Returns:
        The products in the shapes of the sums, in float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.block import Sides
        >>> from snrgate.moments.kronecker import outer_sums
        >>> sums = outer_sums(jnp.array([[1.0, 2.0]]), Sides((), (1,), ()))
        >>> print(sums.rows.tolist(), sums.columns.tolist())
        [[1.0, 2.0], [2.0, 4.0]] [[5.0]]
    """
    matrix = unfold(x, sides)
    return SideSums(side_products(matrix), side_products(jnp.swapaxes(matrix, -1, -2)), sides)


def gathered(x: Array) -> Array:
    """``x``, the same on all devices of explicit mesh axes: a side meets itself in a product."""
    spread = any(names is not None for names in jax.typeof(x).sharding.spec)
    return jax.sharding.reshard(x, P(*(None,) * x.ndim)) if spread else x


def side_products(x: Float[Array, "*stack m n"]) -> Float[Array, "..."]:
    """``x x^T``, ``(*stack, m, m)``, or its diagonal, ``(*stack, m)``, where the side is long."""
    x = gathered(x)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if is_long(x.shape[-2]):
        return jnp.sum(jnp.square(x.astype(dtype)), axis=-1)
    return jnp.einsum("...mn,...kn->...mk", x, x, preferred_element_type=dtype)


def example_products(
    grads: Float[Array, "b *stack m n"], weights: Float[Array, " b"] | None
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Sums over examples of the products of both sides of a matrix an example.

    Args:
        grads: the matrices. One of weight zero does not count, whatever it holds.
        weights: how often each example counts; ``None`` where every one counts once.
    """
    if weights is not None:
        w = weights.reshape(-1, *(1,) * (grads.ndim - 1)).astype(grads.dtype)
        grads = jnp.where(w > 0, grads, 0) * jnp.sqrt(w)

    def side(x: Float[Array, "b *stack m n"]) -> Float[Array, "..."]:
        # The matrices of all examples side by side are one matrix.
        x = jnp.moveaxis(x, 0, -2)
        return side_products(x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1]))

    return side(grads), side(jnp.swapaxes(grads, -1, -2))


def side_shapes(shape: tuple[int, ...], sides: Sides) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the rows and of the columns of a parameter's sums.

    Example:
        >>> from snrgate.block import Sides
        >>> from snrgate.moments.kronecker import side_shapes
        >>> side_shapes((5000, 64), Sides((), (0,), (1,)))
        ((5000,), (64, 64))
    """
    *stack, m, n = _unfolded(shape, sides)
    rows, columns = ((k,) if is_long(k) else (k, k) for k in (m, n))
    return (*stack, *rows), (*stack, *columns)


def not_negative(sums: SideSums) -> SideSums:
    """The sums, what rounding made negative on the diagonals being 0."""
    depth = len(sums.sides.stack)

    def side(x: Array) -> Array:
        if x.ndim == depth + 1:
            return jnp.maximum(x, 0)
        return jnp.where(jnp.eye(x.shape[-1], dtype=bool), jnp.maximum(x, 0), x)

    return SideSums(side(sums.rows), side(sums.columns), sums.sides)


def trace(sums: SideSums) -> Float[Array, ""]:
    """The sum of all squared differences: the trace of the rows, and that of the columns."""
    if sums.rows.ndim == len(sums.sides.stack) + 1:
        return jnp.sum(sums.rows)
    return jnp.sum(jnp.trace(sums.rows, axis1=-2, axis2=-1))


def _order(ndim: int, sides: Sides) -> tuple[int, ...]:
    """All axes: the stack, the rows, the columns, and those of size 1."""
    owned = (*sides.stack, *sides.rows, *sides.columns)
    return (*owned, *(i for i in range(ndim) if i not in owned))


def _unfolded(shape: tuple[int, ...], sides: Sides) -> tuple[int, ...]:
    m, n = (math.prod(shape[i] for i in axes) for axes in (sides.rows, sides.columns))
    return (*(shape[i] for i in sides.stack), m, n)
