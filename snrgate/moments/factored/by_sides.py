"""Mean and sums by sides of one parameter, by its plan: ``block="kronecker"``."""

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.block import Sides
from snrgate.moments.factored.kronecker import Totals, centred, of_factors, of_formed, of_table
from snrgate.moments.factored.layout import LEFT, RIGHT, Layout
from snrgate.moments.factored.linear_maps import coefficient_values
from snrgate.moments.factored.lookups import to_rows
from snrgate.moments.factored.plan import ParameterPlan
from snrgate.moments.factored.rules import Counts, Factors, flat_product, side_by_side, wide
from snrgate.moments.factored.values import Values, counts_of, fits, in_turns, looked_up
from snrgate.moments.kronecker import (
    SideSums,
    example_products,
    fold,
    not_negative,
    side_shapes,
    unfold,
)
from snrgate.moments.per_example import array_moments
from snrgate.moments.statistics import accumulator_dtype

__all__ = ["moments_by_sides"]


def moments_by_sides(
    plan: ParameterPlan, sides: Sides, read: Values, weights: Array, ones: bool, measured: bool
) -> tuple[Array, SideSums | None]:
    """Mean and sums by sides of one parameter.

    Args:
        plan: of the parameter.
        sides: of the parameter.
        read: what the backward pass left.
        weights: how often each example counts.
        ones: whether each is known to count once.
        measured: whether to compute the sums; where not, they may be ``None``.
    """
    counts = counts_of(weights, ones)
    if plan.rule == "none":
        dtype = accumulator_dtype(plan.dtype)
        rows, columns = (jnp.zeros(s, dtype) for s in side_shapes(plan.shape, sides))
        return jnp.zeros(plan.shape, dtype), SideSums(rows, columns, sides)
    if plan.tail is not None and fits(plan, weights):
        return array_moments(read.ends(plan.tail), counts.weights, sides)

    def totals(read: Values, weights: Array) -> Totals:
        counts = counts_of(weights, ones)
        total = _of_whole if plan.tail is not None else _of_terms
        return total(plan, sides, read, counts, measured)

    if fits(plan, weights):
        total = totals(read, weights)
    else:
        total = in_turns(plan, read, weights, totals, _added)
    mean, both = centred(total, counts)
    if plan.tail is not None:
        mean = fold(mean, sides, plan.shape)
        return mean, None if both is None else not_negative(SideSums(*both, sides))
    layout = (*plan.products, *plan.lookups)[0].layout
    mean = layout.arrange(mean, plan.shape)
    return mean, None if both is None else not_negative(_arranged(layout, both, sides))


def _added(one: Totals, other: Totals) -> Totals:
    return jax.tree.map(jnp.add, one, other)


def _arranged(layout: Layout, both: tuple[Array, Array], sides: Sides) -> SideSums:
    """The sums of the left and of the right factors as those of rows and columns."""
    left, right = (layout.arrange_side(x, o) for x, o in zip(both, (LEFT, RIGHT), strict=True))
    rows_are_left = layout == layout.canonical()
    return SideSums(left, right, sides) if rows_are_left else SideSums(right, left, sides)


def _of_whole(
    plan: ParameterPlan, sides: Sides, read: Values, counts: Counts, measured: bool
) -> Totals:
    """From the gradients of the examples, ``(*stack, m, n)``."""
    assert plan.tail is not None
    grads = wide(counts.masked(read.ends(plan.tail)))
    matrices = jax.vmap(lambda g: unfold(g, sides))(grads)
    both = example_products(matrices, counts.weights) if measured else None
    return Totals(jnp.sum(counts.weighted(matrices), axis=0), both)


def _of_terms(
    plan: ParameterPlan, sides: Sides, read: Values, counts: Counts, measured: bool
) -> Totals:
    """From all products and look-ups, of groups, left and right."""
    ways = list(dict.fromkeys(p.coefficients for p in plan.products))
    factors = [
        [
            (counts.masked(read.factor(p.left)), counts.masked(read.factor(p.right)))
            for p in plan.products
            if p.coefficients == way
        ]
        for way in ways
    ]
    scales = [coefficient_values(w, [read.shared(c.by) for c in w]) if w else None for w in ways]

    def of_group(group: tuple[list[list[Factors]], list[Array | None]]) -> Totals:
        products = [side_by_side(one_way) for one_way in group[0]]
        return _of_products(plan, products, group[1], counts, measured)

    total = None
    if plan.products:
        by_group = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), factors), scales
        if factors[0][0][0].shape[1] > 1:
            total = jax.lax.map(of_group, by_group)
        else:
            one = of_group(jax.tree.map(lambda x: jnp.squeeze(x, 0), by_group))
            total = jax.tree.map(lambda x: x[None], one)
    if not plan.lookups:
        assert total is not None
        return total
    rows, sums = looked_up(plan, read, counts)
    size = plan.axes[0].size
    tied = jax.tree.map(lambda x: jnp.squeeze(x, 1), factors)
    product = side_by_side(tied[0]) if tied else None
    gradient = to_rows(rows, counts.weighted(sums), size)
    both = of_table(rows, sums, size, product, counts) if measured else None
    of_rows = jax.tree.map(lambda x: x[None], Totals(gradient, both))
    return of_rows if total is None else _added(total, of_rows)


def _of_products(
    plan: ParameterPlan,
    products: list[Factors],
    scales: list[Array | None],
    counts: Counts,
    measured: bool,
) -> Totals:
    """From the products of one group, those with the same coefficients being one."""
    gradient = jnp.zeros(())
    for (x, d), by in zip(products, scales, strict=True):
        part = flat_product(x.reshape(-1, x.shape[2]), counts.weighted(d).reshape(-1, d.shape[2]))
        gradient = gradient + (part if by is None else part * by)
    if not measured:
        return Totals(gradient, None)
    if plan.rule == "formed":
        return Totals(gradient, of_formed(products, scales, counts))
    return Totals(gradient, of_factors(products[0], counts))
