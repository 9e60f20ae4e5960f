"""``method="factored"``: one ordinary backward pass, cut before the gradients, then the rules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree
from snrgate.block import Block, block_axes, pooled_shape
from snrgate.moments.factored import rules
from snrgate.moments.factored.analysis import Factor
from snrgate.moments.factored.layout import GROUP
from snrgate.moments.factored.plan import ParameterPlan, Plan, make_plan
from snrgate.moments.factored.trace import Atom, Constant, trace
from snrgate.moments.per_example import array_moments, weighted_mean
from snrgate.moments.statistics import Moments, accumulator_dtype
from snrgate.trees import flatten, is_masked

__all__ = ["factored_moments"]

RULES: dict[str, rules.Rule] = {
    "single": rules.single,
    "pairwise": rules.pairwise,
    "running": rules.running,
}


def factored_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " b"],
    *,
    block: Block,
    has_aux: bool,
) -> tuple[Float[Array, ""], Any, Moments]:
    """Mean loss, per-example auxiliary output and moments from the factors of the gradients.

    Args:
        loss_fn: ``(params, example) -> loss`` or ``(loss, aux)``.
        params: tree of floating-point arrays.
        batch: tree of arrays ``(b, ...)``.
        weights: how often each example counts, ``(b,)``.
        block: over which block to sum the squared differences.
        has_aux: whether ``loss_fn`` returns an auxiliary output.

    Returns:
        ``(loss, aux, moments)``; ``aux`` has a leading example axis, and is ``None`` without.
    """
    closed, out_tree = trace(loss_fn, params, batch, has_aux)
    leaves, treedef = jax.tree.flatten(params)
    examples = jax.tree.leaves(batch)
    plan = make_plan(closed.jaxpr, len(examples), _pools(params, block))
    read = _backward(plan, [*closed.consts, *leaves], examples)
    ones = not isinstance(weights, jax.core.Tracer) and np.all(np.asarray(weights) == 1)
    counts = rules.Counts(None if ones else weights, jnp.sum(weights))

    pairs = [_moments(p, read, counts, weights) for p in plan.parameters]
    means, squares = (jax.tree.unflatten(treedef, part) for part in zip(*pairs, strict=True))
    values = [read.batched(atom) for atom in plan.program.outputs[: -len(leaves)]]
    losses, aux = values[0], None
    if has_aux:
        aux = jax.tree.unflatten(out_tree.children()[0].children()[1], values[1:])
    return weighted_mean(losses, weights), aux, Moments(means, squares, counts.total)


def _pools(params: PyTree, block: Block) -> tuple[tuple[int, ...], ...]:
    named = flatten(params)
    return tuple(
        block_axes(block, path, jnp.shape(x))
        for path, x in zip(named.paths, named.values, strict=True)
        if not is_masked(x)
    )


class _Values:
    """What the backward pass left: values of examples, and values that all of them share."""

    def __init__(self, values: dict[Any, Any], varying: set[Any], size: int):
        self._values, self._varying, self._size = values, varying, size

    def shared(self, atom: Atom) -> Array:
        """The value that all examples have."""
        return jnp.asarray(atom.value if isinstance(atom, Constant) else self._values[atom])

    def batched(self, atom: Atom) -> Float[Array, "b ..."]:
        """One value an example."""
        if atom in self._varying:
            return self._values[atom]
        value = self.shared(atom)
        return jnp.broadcast_to(value, (self._size, *value.shape))

    def factor(self, factor: Factor) -> Float[Array, "b g r m"]:
        """A factor of every example."""
        axes = [0 if atom in self._varying else None for atom in factor.inputs]
        if all(axis is None for axis in axes):
            value = factor.view(*map(self.shared, factor.inputs))
            return jnp.broadcast_to(value, (self._size, *value.shape))
        return jax.vmap(factor.view, axes)(*map(self.shared, factor.inputs))


def _backward(plan: Plan, shared: list[Any], examples: list[Any]) -> _Values:
    """Run the program over the batch, as far as the rules need it."""
    outputs = plan.program.outputs[: len(plan.program.outputs) - len(plan.parameters)]
    atoms = (*outputs, *(atom for p in plan.parameters for atom in p.needs))
    wanted = list(dict.fromkeys(a for a in atoms if not isinstance(a, Constant)))

    def run(example: list[Any]) -> list[Any]:
        return plan.program.run([*shared, *example], wanted)

    out_axes = [0 if atom in plan.varying else None for atom in wanted]
    values = jax.vmap(run, out_axes=out_axes)(examples)
    return _Values(dict(zip(wanted, values, strict=True)), plan.varying, len(examples[0]))


def _moments(
    plan: ParameterPlan, read: _Values, counts: rules.Counts, weights: Array
) -> tuple[Array, Array]:
    """Mean and pooled sum of squared differences of one parameter."""
    if plan.whole is not None:
        return array_moments(read.batched(plan.whole), weights, plan.pool)
    if plan.products:
        mean, squares = _of_products(plan, read, counts)
    else:
        dtype = accumulator_dtype(plan.dtype)
        mean = jnp.zeros(plan.shape, dtype)
        squares = jnp.zeros(pooled_shape(plan.shape, plan.pool), dtype)
    for atom in plan.shared:
        mean = mean + jnp.where(counts.total > 0, read.shared(atom), 0).astype(mean.dtype)
    return mean, squares


def _of_products(plan: ParameterPlan, read: _Values, counts: rules.Counts) -> tuple[Array, Array]:
    left, right = (
        jnp.concatenate([counts.masked(read.factor(f)) for f in factors], axis=2)
        for factors in zip(*((p.left, p.right) for p in plan.products), strict=True)
    )
    layout = plan.products[0].layout

    def rule(x: Array, d: Array) -> tuple[Array, Array]:
        return RULES[plan.rule](x, d, counts, *plan.axes)

    if left.shape[1] == 1:
        mean, squares = (v[None] for v in rule(left[:, 0], right[:, 0]))
    else:
        groups = (jnp.moveaxis(left, 1, 0), jnp.moveaxis(right, 1, 0))
        mean, squares = jax.lax.map(lambda pair: rule(*pair), groups)
        pooled = rules.Axes(layout.owned(GROUP), layout.pooled(GROUP, plan.pool, plan.shape))
        squares = jnp.moveaxis(pooled.reduce(jnp.moveaxis(squares, 0, -1)), -1, 0)
    return layout.arrange(mean, plan.shape), layout.arrange(squares, plan.shape, plan.pool)
