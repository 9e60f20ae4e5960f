"""``method="factored"``: one ordinary backward pass, cut before the gradients, then the rules."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree
from snrgate.block import Block, block_axes, pooled_shape
from snrgate.gate import pool as pool_array
from snrgate.moments.factored import mixed, rules
from snrgate.moments.factored.layout import GROUP
from snrgate.moments.factored.linear_maps import coefficient_values
from snrgate.moments.factored.lookups import lookup
from snrgate.moments.factored.plan import ParameterPlan, Plan, make_plan
from snrgate.moments.factored.table import RULES
from snrgate.moments.factored.terms import Factor, Product
from snrgate.moments.factored.trace import Atom, Constant, trace
from snrgate.moments.per_example import array_moments, vmap_moments, weighted_mean
from snrgate.moments.statistics import Moments, accumulator_dtype, merge
from snrgate.moments.varying import zeros_varying_like
from snrgate.trees import select

__all__ = ["factored_moments", "formed_moments"]

GroupedFactors = tuple[Float[Array, "b g _ m"], Float[Array, "b g _ n"]]
GroupedMoment = tuple[Float[Array, "g m n"], Float[Array, "h k l"]]


def factored_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " b"],
    *,
    block: Block,
    has_aux: bool,
    one_pass: bool = False,
) -> tuple[Float[Array, ""], Any, Moments]:
    """Mean loss, per-example auxiliary output and moments from the factors of the gradients.

    Args:
        loss_fn: ``(params, example) -> loss`` or ``(loss, aux)``.
        params: tree of floating-point arrays.
        batch: tree of arrays ``(b, ...)``.
        weights: how often each example counts, ``(b,)``.
        block: over which block to sum the squared differences.
        has_aux: whether ``loss_fn`` returns an auxiliary output.
        one_pass: whether matrices that are not pooled go through the kernel of that name.

    Returns:
        ``(loss, aux, moments)``; ``aux`` has a leading example axis, and is ``None`` without.
    """
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        return formed_moments(loss_fn, params, batch, weights, block=block, has_aux=has_aux)
    closed, out_tree = trace(loss_fn, params, batch, has_aux)
    examples = jax.tree.leaves(batch)
    paths = select(params, None).paths
    plan = make_plan(closed.jaxpr, len(examples), paths, block, one_pass=one_pass)
    read = _backward(plan, [*closed.consts, *leaves, np.float32(1)], examples)
    ones = not isinstance(weights, jax.core.Tracer) and np.all(np.asarray(weights) == 1)

    pairs = [_moments(p, read, weights, bool(ones)) for p in plan.parameters]
    means, squares = (jax.tree.unflatten(treedef, part) for part in zip(*pairs, strict=True))
    values = [read.batched(atom) for atom in plan.program.outputs[: -len(leaves)]]
    losses, aux = values[0], None
    if has_aux:
        aux = jax.tree.unflatten(out_tree.children()[0].children()[1], values[1:])
    return (
        weighted_mean(losses, None if ones else weights),
        aux,
        Moments(means, squares, jnp.sum(weights)),
    )


def formed_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " b"],
    *,
    block: Block,
    has_aux: bool,
) -> tuple[Float[Array, ""], Any, Moments]:
    """What :func:`factored_moments` returns, from every example's gradient, ``method="vmap"``."""
    pools = _pools(loss_fn, params, batch, block=block, has_aux=has_aux)
    return vmap_moments(loss_fn, params, batch, weights, pools=pools, has_aux=has_aux)


def _pools(
    loss_fn: Callable[..., Any], params: PyTree, batch: PyTree, *, block: Block, has_aux: bool
) -> tuple[tuple[int, ...], ...]:
    """For every parameter the axes to pool; for units, the program is traced to see them."""
    paths, leaves = select(params, None).paths, jax.tree.leaves(params)
    if block != "unit":
        shapes = map(jnp.shape, leaves)
        return tuple(block_axes(block, path, s) for path, s in zip(paths, shapes, strict=True))
    closed, _ = trace(loss_fn, params, batch, has_aux)
    plan = make_plan(closed.jaxpr, len(jax.tree.leaves(batch)), paths, block)
    return tuple(p.pool for p in plan.parameters)


class _Values:
    """What the backward pass left: values of examples, and values that all of them share."""

    def __init__(self, values: dict[Any, Any], varying: set[Any], size: int):
        self._values, self._varying, self._size = values, varying, size

    def shared(self, atom: Atom) -> Array:
        """The value that all examples have."""
        return jnp.asarray(atom.value if isinstance(atom, Constant) else self._values[atom])

    def batched(self, atom: Atom) -> Array:
        """One value an example."""
        return self.map(lambda x: x, (atom,))

    def factor(self, factor: Factor) -> Array:
        """A factor of every example."""
        return self.map(factor.view, factor.inputs)

    def map(self, view: Callable[..., Array], atoms: tuple[Atom, ...]) -> Array:
        """``view`` of the atoms, for every example."""
        axes = [0 if atom in self._varying else None for atom in atoms]
        values = [self.shared(atom) for atom in atoms]
        if any(axis == 0 for axis in axes):
            return jax.vmap(view, axes)(*values)
        value = view(*values)
        return jnp.broadcast_to(value, (self._size, *value.shape))

    def split(self, atoms: list[Atom]) -> tuple[dict[Any, Any], Callable[..., "_Values"]]:
        """The values of examples among ``atoms``, and how to go on with other examples' instead."""
        own = {a: self._values[a] for a in atoms if a in self._varying}

        def others(values: dict[Any, Any], size: int) -> _Values:
            return _Values({**self._values, **values}, self._varying, size)

        return own, others


def _backward(plan: Plan, shared: list[Any], examples: list[Any]) -> _Values:
    """Run the program over the batch, as far as the rules need it."""
    outputs = plan.program.outputs[: len(plan.program.outputs) - len(plan.parameters)]
    needs = (atom for p in plan.parameters for atom in p.needs)
    wanted = list(dict.fromkeys(a for a in (*outputs, *needs) if not isinstance(a, Constant)))

    def run(example: list[Any]) -> list[Any]:
        return plan.program.run([*shared, *example], wanted)

    out_axes = [0 if atom in plan.varying else None for atom in wanted]
    values = jax.vmap(run, out_axes=out_axes)(examples)
    return _Values(dict(zip(wanted, values, strict=True)), plan.varying, len(examples[0]))


def _moments(plan: ParameterPlan, read: _Values, weights: Array, ones: bool) -> tuple[Array, Array]:
    """Mean and pooled sum of squared differences of one parameter."""
    size = weights.shape[0]
    asked = plan.precision
    # What the products of the moments do not say, they take from here, as any product does.
    with jax.default_matmul_precision(asked) if asked else contextlib.nullcontext():
        if plan.at_once is None or plan.at_once >= size:
            mean, squares = _of_examples(plan, read, weights, ones)
        else:
            mean, squares = _in_turns(plan, read, weights, ones, plan.at_once)
    dtype = accumulator_dtype(plan.dtype)
    mean, squares = mean.astype(dtype), squares.astype(dtype)
    for part in plan.shared:
        value = part.view(*map(read.shared, part.inputs))
        counted = jnp.where(jnp.sum(weights) > 0, value, 0)
        mean = mean + counted.astype(mean.dtype)
    return mean, squares


def _in_turns(
    plan: ParameterPlan, read: _Values, weights: Array, ones: bool, most: int
) -> tuple[Array, Array]:
    """A few examples after the other, ``most`` at a time, merging as they come."""
    size = weights.shape[0]
    at_once = next(k for k in range(most, 0, -1) if size % k == 0)
    own, others = read.split(plan.needs)
    atoms, values = list(own), list(own.values())
    turns = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), (values, weights))

    def moments(turn: tuple[list[Array], Array]) -> Moments:
        values, weights = turn
        chosen = others(dict(zip(atoms, values, strict=True)), at_once)
        mean, squares = _of_examples(plan, chosen, weights, ones)
        return Moments(mean, squares, jnp.sum(weights).astype(mean.dtype))

    def add(total: Moments, turn: tuple[list[Array], Array]) -> tuple[Moments, None]:
        return merge(total, moments(turn)), None

    shapes = jax.eval_shape(moments, jax.tree.map(lambda x: x[0], turns))
    zeros = jax.tree.map(lambda s: zeros_varying_like(s, values[0]), shapes)
    total, _ = jax.lax.scan(add, zeros, turns)
    return total.mean, total.sum_sq_diff


def _of_examples(
    plan: ParameterPlan, read: _Values, weights: Array, ones: bool
) -> tuple[Array, Array]:
    if plan.tail is not None:
        tail = plan.tail
        grads = read.map(lambda *values: tail.run(values, tail.outputs)[0], tail.inputs)
        return array_moments(grads, None if ones else weights, plan.pool)
    counts = (
        rules.Counts(None, weights.shape[0]) if ones else rules.Counts(weights, jnp.sum(weights))
    )
    dtype = accumulator_dtype(plan.dtype)
    if not plan.products and not plan.lookups:
        return jnp.zeros(plan.shape, dtype), jnp.zeros(pooled_shape(plan.shape, plan.pool), dtype)
    if any(plan.coefficients):
        return _of_scaled(plan, read, counts)
    mean, squares = _of_terms(plan, read, counts)
    layout = (*plan.products, *plan.lookups)[0].layout
    return layout.arrange(mean, plan.shape), layout.arrange(squares, plan.shape, plan.pool)


def _of_terms(plan: ParameterPlan, read: _Values, counts: rules.Counts) -> GroupedMoment:
    """The moments of all products and look-ups, of groups, left and right."""
    products = [
        (counts.masked(read.factor(p.left)), counts.masked(read.factor(p.right)))
        for p in plan.products
    ]
    if not plan.lookups:
        return _of_products(plan, products, counts)
    rows = jnp.concatenate([read.factor(x.rows)[:, 0, :, 0] for x in plan.lookups], axis=1)
    updates = [counts.masked(read.factor(x.right))[:, 0] for x in plan.lookups]
    updates = jnp.concatenate(updates, axis=1)
    if not products:
        mean, squares = lookup(rows, updates, counts, *plan.axes, None)
        return mean[None], jnp.maximum(squares, 0)[None]
    mean, squares = _of_products(plan, products, counts)
    tied = (*rules.side_by_side([(x[:, 0], d[:, 0]) for x, d in products]), mean[0])
    looked_up, more = lookup(rows, updates, counts, *plan.axes, tied)
    return mean + looked_up[None], jnp.maximum(squares + more[None], 0)


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


def _of_scaled(plan: ParameterPlan, read: _Values, counts: rules.Counts) -> tuple[Array, Array]:
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
