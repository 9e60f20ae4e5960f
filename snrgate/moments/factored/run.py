"""``method="factored"``: one ordinary backward pass, cut before the gradients, then the rules."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree
from snrgate.block import Block, pooled_shape, summed
from snrgate.branch import either
from snrgate.gate import pool as pool_array
from snrgate.moments.factored import mixed, rules
from snrgate.moments.factored.by_sides import moments_by_sides
from snrgate.moments.factored.layout import GROUP
from snrgate.moments.factored.linear_maps import coefficient_values
from snrgate.moments.factored.lookups import lookup
from snrgate.moments.factored.plan import ParameterPlan, Plan, make_plan
from snrgate.moments.factored.table import RULES
from snrgate.moments.factored.terms import Product
from snrgate.moments.factored.trace import Constant, trace
from snrgate.moments.factored.values import Values, counts_of, fits, in_turns, looked_up
from snrgate.moments.per_example import (
    Pools,
    array_moments,
    each_once,
    vmap_moments,
    weighted_mean,
)
from snrgate.moments.statistics import Moments, accumulator_dtype, merge
from snrgate.moments.varying import zeros_of_type
from snrgate.trees import select

__all__ = ["factored_moments", "formed_moments"]

GroupedFactors = tuple[Float[Array, "b g _ m"], Float[Array, "b g _ n"]]
GroupedMoment = tuple[Float[Array, "g m n"], Float[Array, "h k l"]]


def factored_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " b"] | None,
    *,
    block: Block,
    has_aux: bool,
    measure: Any = True,
    one_pass: bool = False,
) -> tuple[Float[Array, ""], Any, Moments]:
    """Mean loss, per-example auxiliary output and moments from the factors of the gradients.

    Args:
        loss_fn: ``(params, example) -> loss`` or ``(loss, aux)``.
        params: tree of floating-point arrays.
        batch: tree of arrays ``(b, ...)``.
        weights: how often each example counts, ``(b,)``; ``None`` where each counts once.
        block: over which block to sum the squared differences.
        has_aux: whether ``loss_fn`` returns an auxiliary output.
        measure: whether to compute the sums; where it is false they are zeros.
        one_pass: whether matrices that are not pooled go through the kernel of that name.

    Returns:
        ``(loss, aux, moments)``; ``aux`` has a leading example axis, and is ``None`` without.
    """
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        return formed_moments(
            loss_fn, params, batch, weights, block=block, has_aux=has_aux, measure=measure
        )
    closed, out_tree = trace(loss_fn, params, batch, has_aux)
    examples = jax.tree.leaves(batch)
    paths = select(params, None).paths
    plan = make_plan(closed.jaxpr, len(examples), paths, block, one_pass=one_pass)
    read = _backward(plan, [*closed.consts, *leaves, np.float32(1)], examples)
    ones = weights is None
    counts = each_once(batch) if weights is None else weights

    def moments(measured: bool) -> list[tuple[Array, Any]]:
        return [_moments(p, read, counts, ones, measured) for p in plan.parameters]

    pairs = _where_measured(measure, moments)
    means, squares = (jax.tree.unflatten(treedef, part) for part in zip(*pairs, strict=True))
    values = [read.batched(atom) for atom in plan.program.outputs[: -len(leaves)]]
    losses, aux = values[0], None
    if has_aux:
        aux = jax.tree.unflatten(out_tree.children()[0].children()[1], values[1:])
    return (
        weighted_mean(losses, weights),
        aux,
        Moments(means, squares, jnp.sum(counts)),
    )


def _where_measured(
    measure: Any, moments: Callable[[bool], list[tuple[Array, Any]]]
) -> list[tuple[Array, Any]]:
    """Means and sums of all parameters; where these are not measured, zeros in their place."""
    if measure is True:
        return moments(True)
    kinds = jax.eval_shape(lambda: moments(True))

    def means_alone() -> list[tuple[Array, Any]]:
        zeros = (jax.tree.map(zeros_of_type, sums) for _, sums in kinds)
        return [(mean, z) for (mean, _), z in zip(moments(False), zeros, strict=True)]

    return either(measure, lambda: moments(True), means_alone)


def formed_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " b"] | None,
    *,
    block: Block,
    has_aux: bool,
    measure: Any = True,
) -> tuple[Float[Array, ""], Any, Moments]:
    """What :func:`factored_moments` returns, from every example's gradient, ``method="vmap"``."""
    pools = _pools(loss_fn, params, batch, block=block, has_aux=has_aux)
    counts = each_once(batch) if weights is None else weights
    return vmap_moments(
        loss_fn, params, batch, counts, pools=pools, has_aux=has_aux, measure=measure
    )


def _pools(
    loss_fn: Callable[..., Any], params: PyTree, batch: PyTree, *, block: Block, has_aux: bool
) -> Pools:
    """For every parameter the axes to pool, or its sides; the program is traced to see them."""
    paths, leaves = select(params, None).paths, jax.tree.leaves(params)
    if not leaves or block not in ("unit", "kronecker"):
        shapes = map(jnp.shape, leaves)
        return tuple(summed(block, path, s) for path, s in zip(paths, shapes, strict=True))
    closed, _ = trace(loss_fn, params, batch, has_aux)
    plan = make_plan(closed.jaxpr, len(jax.tree.leaves(batch)), paths, block)
    return tuple(p.pool if p.sides is None else p.sides for p in plan.parameters)


def _backward(plan: Plan, shared: list[Any], examples: list[Any]) -> Values:
    """Run the program over the batch, as far as the rules need it."""
    outputs = plan.program.outputs[: len(plan.program.outputs) - len(plan.parameters)]
    needs = (atom for p in plan.parameters for atom in p.needs)
    wanted = list(dict.fromkeys(a for a in (*outputs, *needs) if not isinstance(a, Constant)))

    def run(example: list[Any]) -> list[Any]:
        return plan.program.run([*shared, *example], wanted)

    out_axes = [0 if atom in plan.varying else None for atom in wanted]
    values = jax.vmap(run, out_axes=out_axes)(examples)
    return Values(dict(zip(wanted, values, strict=True)), plan.varying, len(examples[0]))


def _moments(
    plan: ParameterPlan, read: Values, weights: Array, ones: bool, measured: bool
) -> tuple[Array, Any]:
    """Mean and pooled sum of squared differences of one parameter; ``None`` if not measured."""
    asked = plan.precision
    # What the products of the moments do not say, they take from here, as any product does.
    with jax.default_matmul_precision(asked) if asked else contextlib.nullcontext():
        if plan.sides is not None:
            mean, squares = moments_by_sides(plan, plan.sides, read, weights, ones, measured)
        elif fits(plan, weights):
            mean, squares = _of_examples(plan, read, weights, ones)
        else:

            def moments(read: Values, weights: Array) -> Moments:
                mean, squares = _of_examples(plan, read, weights, ones)
                return Moments(mean, squares, jnp.sum(weights).astype(mean.dtype))

            together = functools.partial(merge, measure=measured)
            mean, squares, _ = in_turns(plan, read, weights, moments, together)
    dtype = accumulator_dtype(plan.dtype)
    mean, squares = jax.tree.map(lambda x: x.astype(dtype), (mean, squares if measured else None))
    for part in plan.shared:
        value = part.view(*map(read.shared, part.inputs))
        counted = jnp.where(jnp.sum(weights) > 0, value, 0)
        mean = mean + counted.astype(mean.dtype)
    return mean, squares


def _of_examples(
    plan: ParameterPlan, read: Values, weights: Array, ones: bool
) -> tuple[Array, Array]:
    if plan.tail is not None:
        return array_moments(read.ends(plan.tail), None if ones else weights, plan.pool)
    counts = counts_of(weights, ones)
    dtype = accumulator_dtype(plan.dtype)
    if not plan.products and not plan.lookups:
        return jnp.zeros(plan.shape, dtype), jnp.zeros(pooled_shape(plan.shape, plan.pool), dtype)
    if any(plan.coefficients):
        return _of_scaled(plan, read, counts)
    mean, squares = _of_terms(plan, read, counts)
    layout = (*plan.products, *plan.lookups)[0].layout
    return layout.arrange(mean, plan.shape), layout.arrange(squares, plan.shape, plan.pool)


def _of_terms(plan: ParameterPlan, read: Values, counts: rules.Counts) -> GroupedMoment:
    """The moments of all products and look-ups, of groups, left and right."""
    products = [
        (counts.masked(read.factor(p.left)), counts.masked(read.factor(p.right)))
        for p in plan.products
    ]
    if not plan.lookups:
        return _of_products(plan, products, counts)
    rows, sums = looked_up(plan, read, counts)
    if not products:
        mean, squares = lookup(rows, sums, counts, *plan.axes, None)
        return mean[None], jnp.maximum(squares, 0)[None]
    mean, squares = _of_products(plan, products, counts)
    tied = (*rules.side_by_side([(x[:, 0], d[:, 0]) for x, d in products]), mean[0])
    of_rows, more = lookup(rows, sums, counts, *plan.axes, tied)
    return mean + of_rows[None], jnp.maximum(squares + more[None], 0)


def _of_products(
    plan: ParameterPlan, products: list[GroupedFactors], counts: rules.Counts
) -> GroupedMoment:
    layout = plan.products[0].layout

    def rule(products: list[rules.Factors]) -> rules.Moment:
        return RULES[plan.rule].apply(products, counts, *plan.axes)

    if products[0][0].shape[1] == 1:
        mean, squares = rule(jax.tree.map(lambda v: jnp.squeeze(v, 1), products))
        return mean[None], squares[None]
    groups = jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0), products)
    mean, squares = jax.lax.map(rule, groups)
    pooled = rules.Axes(layout.owned(GROUP), layout.pooled(GROUP, plan.pool, plan.shape))
    return mean, jnp.moveaxis(pooled.reduce(jnp.moveaxis(squares, 0, -1)), -1, 0)


def _of_scaled(plan: ParameterPlan, read: Values, counts: rules.Counts) -> tuple[Array, Array]:
    """The moments of products that coefficients multiply."""
    layout = plan.products[0].layout

    def by(product: Product) -> Array:
        values = [read.shared(c.by) for c in product.coefficients]
        return coefficient_values(product.coefficients, values)

    def factors(product: Product, shared: bool) -> tuple[Array, Array]:
        one, other = (
            factor.view()[None]
            if shared and not factor.inputs
            else counts.masked(read.factor(factor))
            for factor in (product.left, product.right)
        )
        return one, other

    if len(plan.coefficients) == 1:
        products = [factors(p, shared=False) for p in plan.products]
        mean, squares = _of_products(plan._replace(pool=()), products, counts)
        scale = by(plan.products[0])
        squares = layout.arrange(squares * jnp.square(scale), plan.shape)
        return layout.arrange(mean * scale, plan.shape), pool_array(squares, plan.pool)
    products = [factors(p, shared=plan.rule == "pairwise") for p in plan.products]
    products = [(x[:, 0], d[:, 0]) for x, d in products]
    scales = [by(p)[0] if p.coefficients else None for p in plan.products]
    if plan.rule == "pairwise":
        mean, squares = mixed.pairwise(products, scales, counts, *plan.axes)
    else:
        mean, squares = rules.running(products, counts, *plan.axes, scales)
    return layout.arrange(mean[None], plan.shape), layout.arrange(
        squares[None], plan.shape, plan.pool
    )
