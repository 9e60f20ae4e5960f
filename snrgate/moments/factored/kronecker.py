r"""Sums of products along both sides of a kernel, from the factors of its gradients.

With left factors :math:`X_b` (uses x m) and right factors :math:`D_b` (uses x n) of an example, its
gradient is :math:`g_b = X_b^\top D_b`, and

.. math::

    \sum_b w_b\, g_b g_b^\top = \sum_b w_b\, X_b^\top (D_b D_b^\top) X_b, \qquad
    \sum_b w_b\, g_b^\top g_b = \sum_b w_b\, D_b^\top (X_b X_b^\top) D_b .

The middle matrices are of the size of the uses; with one use they are numbers. Where there are so
many uses that the gradient of an example is cheaper, or where coefficients multiply it, the
gradients of a few examples at a time are formed.

Nothing is subtracted before all examples are summed: :func:`centred` does it at the end.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array, Float, Int
from snrgate.block import is_long
from snrgate.moments.factored.lookups import to_rows
from snrgate.moments.factored.rules import (
    Axes,
    Counts,
    Factors,
    flat_product,
    wide,
)
from snrgate.moments.kronecker import example_products, gathered, side_products

__all__ = ["COSTS", "Totals", "centred", "of_factors", "of_formed", "of_table"]

Side = Float[Array, "..."]
"""``(m, m)``, or its diagonal ``(m,)`` where the side is long; with a leading axis of groups."""


class Totals(NamedTuple):
    """Sums over examples, as often as they count.

    Attributes:
        gradient: of the gradients, ``(m, n)``.
        sides: of the products of their rows and of their columns; ``None`` where these are not
            measured.
    """

    gradient: Float[Array, "..."]
    sides: tuple[Side, Side] | None


def of_factors(product: Factors, counts: Counts) -> tuple[Side, Side]:
    """The sums of both sides without the gradient of any example."""
    x, d = map(gathered, map(wide, product))
    return _side(x, d, counts), _side(d, x, counts)


def _side(x: Float[Array, "b r m"], other: Float[Array, "b r n"], counts: Counts) -> Side:
    if x.shape[1] == 1:
        crossed = x * jnp.sum(jnp.square(other), axis=2, keepdims=True)
    else:
        of_uses = jnp.einsum("brn,bsn->brs", other, other)
        crossed = jnp.einsum("brs,bsm->brm", of_uses, x)
    crossed = counts.weighted(crossed)
    if is_long(x.shape[2]):
        return jnp.sum(x * crossed, axis=(0, 1))
    return flat_product(x.reshape(-1, x.shape[2]), crossed.reshape(-1, x.shape[2]))


def of_formed(
    products: Sequence[Factors], scales: Sequence[Array | None], counts: Counts
) -> tuple[Side, Side]:
    """The sums of both sides from the gradients of all examples, each product times its scale."""
    parts = []
    for (x, d), by in zip(products, scales, strict=True):
        part = jnp.einsum("brm,brn->bmn", gathered(wide(x)), gathered(wide(d)))
        parts.append(part if by is None else part * gathered(by)[None])
    return example_products(sum(parts[1:], start=parts[0]), counts.weights)


def of_table(
    rows: Int[Array, "b t"],
    sums: Float[Array, "b t n"],
    size: int,
    product: Factors | None,
    counts: Counts,
) -> tuple[Side, Side]:
    """What looked-up rows of a table add to the sums of both sides.

    Args:
        rows: numbers of the rows; ``size`` stands for none.
        sums: what each example adds to its rows, once for each row.
        size: the number of all rows.
        product: the factors of a product in the same gradient, as of an output layer that is tied
            to the embedding. The sums of the two with each other are included.
        counts: how often each example counts.
    """
    sums = gathered(sums)
    weighted, width = counts.weighted(sums), sums.shape[2]

    def diagonal(one: Array, other: Array) -> Side:
        return to_rows(rows, jnp.sum(one * other, axis=2, keepdims=True), size)[:, 0]

    def of_columns(one: Array, other: Array) -> Side:
        if is_long(width):
            return jnp.sum(one * other, axis=(0, 1))
        return flat_product(one.reshape(-1, width), other.reshape(-1, width))

    columns = of_columns(weighted, sums)
    if is_long(size):
        by_rows = diagonal(weighted, sums)
    else:
        pairs_of_rows = jnp.einsum("btn,bun->btu", weighted, sums)
        by_rows = jnp.zeros((size, size), sums.dtype)
        by_rows = by_rows.at[rows[:, :, None], rows[:, None, :]].add(pairs_of_rows, mode="drop")
    if product is None:
        return by_rows, columns
    # The product of what is looked up with what the table adds as a matrix, and its transpose.
    x, d = map(gathered, map(wide, product))
    at_rows = jnp.take_along_axis(x, rows[:, None, :], axis=2, mode="clip")
    used = jnp.einsum("brt,brn->btn", at_rows, d)
    crossed = of_columns(weighted, used)
    columns = columns + crossed + crossed.T
    if is_long(size):
        crossed = diagonal(weighted, used)
    else:
        of_uses = jnp.einsum("btn,brn->btr", weighted, d)
        crossed = to_rows(rows, jnp.einsum("btr,brv->btv", of_uses, x), size)
    return by_rows + crossed + crossed.T, columns


def centred(totals: Totals, counts: Counts) -> tuple[Array, tuple[Side, Side] | None]:
    """The mean, and the sums of products of differences from it."""
    mean = counts.mean(totals.gradient)
    if totals.sides is None:
        return mean, None
    count = jnp.asarray(counts.total, mean.dtype)
    of_mean = side_products(mean), side_products(jnp.swapaxes(mean, -1, -2))
    left, right = (q - count * m for q, m in zip(totals.sides, of_mean, strict=True))
    return mean, (left, right)


def _of_uses(uses: int, left: Axes, right: Axes) -> float:
    middle = 2 * uses**2 * (left.size + right.size) if uses > 1 else left.size + right.size
    products = (n if is_long(n) else n**2 for n in (left.size, right.size))
    return 2 * middle + 2 * uses * sum(products)


def _forming(uses: int, left: Axes, right: Axes) -> float:
    sizes = left.size, right.size
    numbers = left.size * right.size
    return 2 * uses * numbers + sum(2 * numbers * (1 if is_long(n) else n) for n in sizes)


def _of_rows(tokens: int, left: Axes, right: Axes) -> float:
    pairs = 1 if is_long(left.size) else tokens
    return 2 * tokens * right.size * (pairs + (1 if is_long(right.size) else right.size))


COSTS: dict[str, Callable[[int, Axes, Axes], float]] = {
    "sides": _of_uses,
    "formed": _forming,
    "lookup": _of_rows,
}
"""Floating-point operations an example and group, from the uses and the axes of the factors."""
