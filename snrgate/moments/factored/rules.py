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
gate is wide open. :func:`running` updates mean and squared differences together and has no such
error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float, Int
from snrgate.gate import pool as pool_array
from snrgate.moments.per_example import expand
from snrgate.moments.statistics import accumulator_dtype
from snrgate.moments.varying import zeros_varying_like

__all__ = ["Axes", "Counts", "lookup", "pairwise", "running", "single"]


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
    total: Float[Array, ""]

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
        return total / jnp.where(self.total > 0, self.total, 1).astype(total.dtype)


Moment = tuple[Float[Array, "m n"], Float[Array, "k l"]]
"""Mean gradient, and sum of squared differences with the pooled axes summed."""

Rule = Callable[[Array, Array, Counts, Axes, Axes], Moment]


def _flat_product(x: Float[Array, "k m"], d: Float[Array, "k n"]) -> Float[Array, "m n"]:
    dtype = accumulator_dtype(jnp.result_type(x, d))
    return jax.lax.dot_general(x, d, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


def _mean(x: Float[Array, "b r m"], d: Float[Array, "b r n"], counts: Counts) -> Array:
    weighted = counts.weighted(d)
    total = _flat_product(x.reshape(-1, x.shape[-1]), weighted.reshape(-1, d.shape[-1]))
    return counts.mean(total)


def _difference(
    squares: Float[Array, "k l"],
    mean: Float[Array, "m n"],
    counts: Counts,
    left: Axes,
    right: Axes,
) -> Float[Array, "k l"]:
    """``Q - n mean**2``, pooled; never negative."""
    of_mean = _pool_both(jnp.square(mean), left, right) * counts.total.astype(mean.dtype)
    return jnp.maximum(squares - of_mean, 0)


def _pool_both(x: Float[Array, "m n"], left: Axes, right: Axes) -> Float[Array, "k l"]:
    return left.reduce(right.reduce(x).T).T


def _wide(x: Array) -> Array:
    return x.astype(accumulator_dtype(x.dtype))


def single(
    x: Float[Array, "b 1 m"], d: Float[Array, "b 1 n"], counts: Counts, left: Axes, right: Axes
) -> Moment:
    """One use an example: ``Q = (x * x)^T (d * d)``, one more matrix product; none if pooled."""
    mean = _mean(x, d, counts)
    x_sq = left.reduce(jnp.square(_wide(x[:, 0])))
    d_sq = right.reduce(jnp.square(_wide(d[:, 0])))
    squares = _flat_product(x_sq, counts.weighted(d_sq))
    return mean, _difference(squares, mean, counts, left, right)


def pairwise(
    x: Float[Array, "b r m"], d: Float[Array, "b r n"], counts: Counts, left: Axes, right: Axes
) -> Moment:
    """A few uses: every pair of uses, once, as one flat matrix product."""
    mean = _mean(x, d, counts)
    uses = x.shape[1]
    wide_x, wide_d = _wide(x), _wide(d)
    pairs = [(r, s) for r in range(uses) for s in range(r + 1)]
    x_pairs = [left.reduce(wide_x[:, r] * wide_x[:, s]) for r, s in pairs]
    d_pairs = [
        counts.weighted(right.reduce(wide_d[:, r] * wide_d[:, s])) * (1 if r == s else 2)
        for r, s in pairs
    ]
    if x_pairs[0].shape[-1] == 1 or d_pairs[0].shape[-1] == 1:
        # One number an example and pair: nothing to multiply as matrices, all of it fuses.
        products = sum(a * b for a, b in zip(x_pairs, d_pairs, strict=True))
        squares = jnp.sum(products, axis=0)
        squares = squares[:, None] if d_pairs[0].shape[-1] == 1 else squares[None]
    else:
        squares = _flat_product(jnp.concatenate(x_pairs), jnp.concatenate(d_pairs))
    return mean, _difference(squares, mean, counts, left, right)


def running(
    x: Float[Array, "b r m"], d: Float[Array, "b r n"], counts: Counts, left: Axes, right: Axes
) -> Moment:
    """Many uses: one example's gradient after the other, in a buffer that is used again.

    Welford's update, which subtracts the running mean before it squares.
    """
    examples = x.shape[0]
    # A few examples a step share one pass over the mean and the squares.
    unroll = next(k for k in (4, 3, 2, 1) if examples % k == 0)
    dtype = accumulator_dtype(jnp.result_type(x, d))
    weights = jnp.ones(examples) if counts.weights is None else counts.weights
    weights = weights.astype(dtype)
    steps = jax.tree.map(lambda v: v.reshape(-1, unroll, *v.shape[1:]), (x, d, weights))

    def add(carry: tuple[Array, ...], step: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        seen, mean, squares = carry
        for i in range(unroll):
            x_i, d_i, w = (v[i] for v in step)
            g = _flat_product(x_i, d_i)
            seen = seen + w
            difference = g - mean
            mean = mean + difference * (w / jnp.where(seen > 0, seen, 1))
            change = difference * (g - mean) * w
            squares = squares + _pool_both(change, left, right)
        return (seen, mean, squares), None

    first = jax.tree.map(lambda v: v[0], steps)
    zero = jnp.zeros((), dtype)
    shapes = jax.eval_shape(add, (zero, zero, zero), first)[0]
    start = jax.tree.map(lambda s: zeros_varying_like(s, x), shapes)
    (_, mean, squares), _ = jax.lax.scan(add, start, steps)
    return mean, squares


def lookup(
    rows: Int[Array, "b t"],
    updates: Float[Array, "b t n"],
    counts: Counts,
    size: int,
    pool: tuple[int, ...],
    product: tuple[Float[Array, "b r v"], Float[Array, "b r n"], Float[Array, "v n"]] | None,
) -> tuple[Float[Array, "v n"], Float[Array, "..."]]:
    """Rows of a table, looked up: tokens that share a row are added before they are squared.

    Args:
        rows: numbers of the rows; ``size`` stands for none.
        updates: what each token adds to its row.
        counts: how often each example counts.
        size: number of rows of the table.
        pool: axes of the table to sum squared differences over.
        product: the factors and the mean of a product in the same gradient, as of an output
            layer tied to the embedding.

    Returns:
        The mean of the looked-up part, and what it adds to the sum of squared differences,
        its covariance with the product included.
    """
    examples, tokens = rows.shape
    updates = jnp.where(rows[:, :, None] < size, _wide(updates), 0)
    first = jnp.argmax(rows[:, :, None] == rows[:, None, :], axis=2)
    place = first + tokens * jnp.arange(examples)[:, None]
    # At a row's first token the sum of all its tokens, at the others zero.
    flat = updates.reshape(-1, updates.shape[-1])
    sums = jnp.zeros_like(flat).at[place.reshape(-1)].add(flat).reshape(updates.shape)

    def to_rows(x: Float[Array, "b t n"], pool: tuple[int, ...]) -> Float[Array, "k l"]:
        x = counts.weighted(x).reshape(-1, x.shape[-1])
        x = pool_array(x, tuple(i for i in pool if i == 1))
        if 0 in pool:
            return jnp.sum(x, axis=0, keepdims=True)
        return jnp.zeros((size, x.shape[-1]), x.dtype).at[rows.reshape(-1)].add(x, mode="drop")

    mean = counts.mean(to_rows(sums, ()))
    squares, of_means = jnp.square(sums), jnp.square(mean)
    if product is not None:
        x, d, mean_of_product = product
        used = jnp.take_along_axis(x, rows[:, None, :], axis=2, mode="clip")
        squares = squares + 2 * sums * jnp.einsum("brt,brn->btn", _wide(used), _wide(d))
        of_means = of_means + 2 * mean * mean_of_product
    spread = pool_array(of_means, pool) * counts.total.astype(mean.dtype)
    return mean, to_rows(squares, pool) - spread
