"""Moments of products that coefficients multiply, not the same ones in all of them.

So it is where a kernel is normalised: its gradient is a scaled product, less the kernel's own
direction times what the product has along it.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from snrgate.annotations import Array, Float
from snrgate.moments.factored.rules import (
    Axes,
    Counts,
    Moment,
    difference,
    flat_product,
    pairs,
    pool_both,
    wide,
)

__all__ = ["pairwise"]


def pairwise(
    products: Sequence[tuple[Array, Array]],
    coefficients: Sequence[Float[Array, "m n"] | None],
    counts: Counts,
    left: Axes,
    right: Axes,
) -> Moment:
    """A few uses: a matrix product for every pair of uses.

    A factor that is the same for all examples is given with a leading axis of size 1.

    Args:
        products: the factors of each product, ``(b, uses, m)`` and ``(b, uses, n)``.
        coefficients: what multiplies each product; ``None`` for nothing.
        counts: how often each example counts.
        left: the axes of the left factors.
        right: those of the right ones.
    """
    mean = jnp.zeros(())
    uses = []
    for (x, d), by in zip(products, coefficients, strict=True):
        for r in range(x.shape[1]):
            uses.append((wide(x[:, r]), wide(d[:, r]), by))
            total = _total(*uses[-1][:2], counts)
            mean = mean + (total if by is None else total * by)
    squares = jnp.zeros(())
    for x, d, by, x_other, d_other, by_other, times in pairs(uses):
        factors = [k for k in (by, by_other) if k is not None]
        x_sq, d_sq = x * x_other, d * d_other
        if factors:
            product = _total(x_sq, d_sq, counts)
            for k in factors:
                product = product * k
            product = pool_both(product, left, right)
        else:
            product = _total(left.reduce(x_sq), right.reduce(d_sq), counts)
        squares = squares + times * product
    mean = counts.mean(mean)
    return mean, difference(squares, mean, counts, left, right)


def _total(x: Array, d: Array, counts: Counts) -> Array:
    """The sum over examples of an outer product, one factor of which may be shared."""
    if x.shape[0] == 1 and d.shape[0] > 1:
        return x.T @ jnp.sum(counts.weighted(d), axis=0, keepdims=True)
    if d.shape[0] == 1 and x.shape[0] > 1:
        return jnp.sum(counts.weighted(x), axis=0, keepdims=True).T @ d
    return flat_product(x, counts.weighted(d))
