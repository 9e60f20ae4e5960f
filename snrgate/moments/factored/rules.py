r"""Moments of a gradient from its factors, without the gradient of any one example.

With left factors :math:`x_{br} \in R^m` and right factors :math:`d_{br} \in R^n` (example b, use r)

.. math::

    g_b = \sum_r x_{br} d_{br}^T, \qquad S = \sum_b w_b\, g_b, \qquad
    Q = \sum_b w_b\, g_b^2 = \sum_b w_b \sum_{r, s} (x_{br} x_{bs}) (d_{br} d_{bs})^T

(products of vectors element by element), and the sum of squared differences is ``Q - S**2 / n``.
Pooled over axes of the parameter, the products of x, or of d, are summed over those axes *before*
they are multiplied: that is why pooled moments need no array of the parameter's size.

The subtraction loses what the mean outweighs: the error is about ``eps * Q``, which matters only
where the squared mean exceeds the variance of one example by ``1 / eps`` (1e7 in float32) and any
gate is wide open. :func:`centred` and :func:`running` subtract the mean before they square, and
have no such error.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float
from snrgate.moments.per_example import expand
from snrgate.moments.statistics import accumulator_dtype
from snrgate.moments.varying import zeros_varying_like

__all__ = [
    "Axes",
    "Counts",
    "Factors",
    "centred",
    "difference",
    "flat_product",
    "gram",
    "pairs",
    "pairwise",
    "pool_both",
    "running",
    "side_by_side",
    "single",
    "wide",
]


class Axes(NamedTuple):
    """The axes of one factor: their sizes, and the positions of those that are pooled."""

    sizes: tuple[int, ...]
    pooled: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in the factor of one use."""
        return math.prod(self.sizes)

    @property
    def kept(self) -> int:
        """Numbers that are left of them after pooling."""
        return math.prod(n for i, n in enumerate(self.sizes) if i not in self.pooled)

    def reduce(self, x: Float[Array, "... m"]) -> Float[Array, "... k"]:
        """Sum the last axis of ``x``, unfolded, over the pooled axes."""
        if not self.pooled:
            return x
        lead = x.shape[:-1]
        unfolded = x.reshape(*lead, *self.sizes)
        kept = jnp.sum(unfolded, axis=tuple(len(lead) + i for i in self.pooled))
        return kept.reshape(*lead, -1)


class Counts(NamedTuple):
    """How often each example counts; ``weights`` is ``None`` where every one counts once."""

    weights: Float[Array, " b"] | None
    total: Float[Array, ""] | int

    def masked(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """``x`` without what padding holds."""
        if self.weights is None:
            return x
        return jnp.where(expand(self.weights, x) > 0, x, 0)

    def weighted(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """``x`` as often as it counts."""
        return x if self.weights is None else x * expand(self.weights, x)

    def mean(self, total: Array) -> Array:
        """A weighted sum, divided by the number of examples; 0 if there are none."""
        count = jnp.asarray(self.total, total.dtype)
        return total / (count if self.weights is None else jnp.where(count > 0, count, 1))


Factors = tuple[Float[Array, "b _ m"], Float[Array, "b _ n"]]
"""The left and right factors of one product; several products have several numbers of uses."""

Moment = tuple[Float[Array, "m n"], Float[Array, "k l"]]
"""Mean gradient, and sum of squared differences with the pooled axes summed."""

TERMS = 16
"""Outer products in a step of :func:`centred`; with fewer the compiler does not vectorise them."""

MOST_PRODUCTS = 3
"""So many are kept apart by :func:`gram`, to save a copy; every pair of them is its own code."""

UNROLLED = 4
"""Examples in a step of :func:`running`."""

Rule = Callable[[Sequence[Factors], Counts, Axes, Axes], Moment]


def side_by_side(products: Sequence[Factors]) -> Factors:
    """All uses as those of one product."""
    left, right = (jnp.concatenate(factors, axis=1) for factors in zip(*products, strict=True))
    return left, right


def flat_product(x: Float[Array, "k m"], d: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """The sum over the first axis of outer products, accumulated in float32 or wider."""
    dtype = accumulator_dtype(jnp.result_type(x, d))
    return jax.lax.dot_general(x, d, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


def _mean(products: Sequence[Factors], counts: Counts) -> Float[Array, "m n"]:
    totals = (
        flat_product(x.reshape(-1, x.shape[-1]), counts.weighted(d).reshape(-1, d.shape[-1]))
        for x, d in products
    )
    first = next(totals)
    return counts.mean(sum(totals, start=first))


def difference(
    squares: Float[Array, "k l"],
    mean: Float[Array, "m n"],
    counts: Counts,
    left: Axes,
    right: Axes,
) -> Float[Array, "k l"]:
    """``Q - n mean**2``, pooled; never negative."""
    of_mean = pool_both(jnp.square(mean), left, right) * jnp.asarray(counts.total, mean.dtype)
    return jnp.maximum(squares - of_mean, 0)


def pool_both(x: Float[Array, "m n"], left: Axes, right: Axes) -> Float[Array, "k l"]:
    """Sum over the pooled axes of both factors."""
    return left.reduce(right.reduce(x).T).T


def wide(x: Array) -> Array:
    """``x`` in the type in which it is accumulated."""
    return x.astype(accumulator_dtype(x.dtype))


def single(products: Sequence[Factors], counts: Counts, left: Axes, right: Axes) -> Moment:
    """One use an example: ``Q = (x * x)^T (d * d)``, one more matrix product; none if pooled."""
    mean = _mean(products, counts)
    ((x, d),) = products
    x_sq = left.reduce(jnp.square(wide(x[:, 0])))
    d_sq = counts.weighted(right.reduce(jnp.square(wide(d[:, 0]))))
    if left.kept == 1:
        # A product with a vector is compiled to code of its own, for each layer once more.
        squares = jnp.sum(x_sq * d_sq, axis=0, keepdims=True)
    elif right.kept == 1:
        squares = jnp.sum(x_sq * d_sq, axis=0, keepdims=True).T
    else:
        squares = flat_product(x_sq, d_sq)
    return mean, difference(squares, mean, counts, left, right)


def gram(products: Sequence[Factors], counts: Counts, left: Axes, right: Axes) -> Moment:
    r"""One factor wholly pooled: the products of its uses are numbers, the Gram matrix.

    :math:`Q_n = \sum_b w_b \sum_{r, s} (x_{br} \cdot x_{bs})\, d_{brn} d_{bsn}`.
    """
    mean = _mean(products, counts)
    if len(products) > MOST_PRODUCTS:
        products = [side_by_side(products)]
    if left.kept > 1:
        products = [(d, x) for x, d in products]
    dtype = accumulator_dtype(jnp.result_type(*products[0]))
    squares = jnp.zeros(products[0][1].shape[-1], dtype)
    for x, d, x_other, d_other, times in pairs(products):
        of_uses = jnp.einsum("brm,bsm->brs", x, x_other, preferred_element_type=dtype)
        crossed = jnp.einsum("brs,bsn->brn", of_uses, d_other, preferred_element_type=dtype)
        squares = squares + times * jnp.sum(counts.weighted(crossed * d), axis=(0, 1))
    squares = right.reduce(squares[None]) if left.kept == 1 else left.reduce(squares[None]).T
    return mean, difference(squares, mean, counts, left, right)


def pairwise(products: Sequence[Factors], counts: Counts, left: Axes, right: Axes) -> Moment:
    """A few uses: a matrix product for every pair of uses."""
    mean = _mean(products, counts)
    uses = [(wide(x[:, r]), wide(d[:, r])) for x, d in products for r in range(x.shape[1])]
    squares = sum(
        times * flat_product(left.reduce(x * x_other), counts.weighted(right.reduce(d * d_other)))
        for x, d, x_other, d_other, times in pairs(uses)
    )
    return mean, difference(squares, mean, counts, left, right)


def pairs(products: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Each product with itself once and with each other one twice: factors, and how often."""
    for i, one in enumerate(products):
        for j, other in enumerate(products[: i + 1]):
            yield *one, *other, 1 if i == j else 2


def centred(products: Sequence[Factors], counts: Counts, left: Axes, right: Axes) -> Moment:
    """A few uses: the mean first, then every example's squared difference from it.

    One example's gradient is a sum of a few outer products, formed number by number and never
    stored. A step of the loop takes :data:`TERMS` of them, which share one pass over the squares.
    """
    mean = _mean(products, counts)
    examples, uses = products[0][0].shape[0], sum(x.shape[1] for x, _ in products)
    at_once = min(examples, -(-TERMS // uses))
    missing = -examples % at_once
    weights = counts.weights
    if missing and weights is None:
        weights = jnp.ones(examples)

    def in_steps(v: Array) -> Array:
        v = jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1))
        return v.reshape(-1, at_once, *v.shape[1:])

    def add(squares: Array, step: tuple[list[Factors], Array | None]) -> tuple[Array, None]:
        factors, w = step
        for i in range(at_once):
            outer = (
                wide(x[i, r])[:, None] * wide(d[i, r])[None]
                for x, d in factors
                for r in range(x.shape[1])
            )
            square = jnp.square(sum(outer, start=-mean))
            squares = squares + pool_both(
                square if w is None else square * w[i].astype(square.dtype), left, right
            )
        return squares, None

    steps = jax.tree.map(in_steps, (list(products), weights))
    like = jax.ShapeDtypeStruct((left.kept, right.kept), mean.dtype)
    squares, _ = jax.lax.scan(add, zeros_varying_like(like, products[0][0]), steps)
    return mean, squares


def running(
    products: Sequence[Factors],
    counts: Counts,
    left: Axes,
    right: Axes,
    coefficients: Sequence[Array | None] | None = None,
) -> Moment:
    """Many uses: one example's gradient after the other, in a buffer that is used again.

    Welford's update, which subtracts the running mean before it squares. Coefficients multiply
    each product number by number.
    """
    if coefficients is None:
        products, coefficients = [side_by_side(products)], [None]
    x = products[0][0]
    examples = x.shape[0]
    # A few examples a step share one pass over the mean and the squares.
    unroll = next(k for k in range(UNROLLED, 0, -1) if examples % k == 0)
    dtype = accumulator_dtype(jnp.result_type(*(v for pair in products for v in pair)))
    weights = jnp.ones(examples) if counts.weights is None else counts.weights
    weights = weights.astype(dtype)
    steps = jax.tree.map(lambda v: v.reshape(-1, unroll, *v.shape[1:]), (list(products), weights))

    def gradient(factors: list[Factors], i: int) -> Array:
        parts = (flat_product(x[i], d[i]) for x, d in factors)
        scaled = (
            part if by is None else part * by for part, by in zip(parts, coefficients, strict=True)
        )
        return functools.reduce(jnp.add, scaled)

    def add(carry: tuple[Array, ...], step: Any) -> tuple[tuple[Array, ...], None]:
        seen, mean, squares = carry
        factors, w_of = step
        for i in range(unroll):
            w, g = w_of[i], gradient(factors, i)
            seen = seen + w
            before = g - mean
            mean = mean + before * (w / jnp.where(seen > 0, seen, 1))
            change = before * (g - mean) * w
            squares = squares + pool_both(change, left, right)
        return (seen, mean, squares), None

    first = jax.tree.map(lambda v: v[0], steps)
    zero = jnp.zeros((), dtype)
    shapes = jax.eval_shape(add, (zero, zero, zero), first)[0]
    start = jax.tree.map(lambda s: zeros_varying_like(s, x), shapes)
    (_, mean, squares), _ = jax.lax.scan(add, start, steps)
    return mean, squares
