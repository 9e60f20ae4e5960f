"""Moments from the per-example gradients themselves: the plain reference, ``method="vmap"``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float, PyTree
from snrgate.block import Block, Sides, summed
from snrgate.gate import pool
from snrgate.moments.kronecker import SideSums, example_products, unfold
from snrgate.moments.statistics import Moments, Sums, accumulator_dtype
from snrgate.moments.varying import if_measured, vary, varying_axes_of
from snrgate.trees import select

__all__ = [
    "array_moments",
    "each_once",
    "expand",
    "moments_of_examples",
    "vmap_moments",
    "weighted_mean",
]

Pools = tuple[tuple[int, ...] | Sides, ...]
"""For every parameter the axes to pool, or the sides of its kernel."""


def each_once(batch: PyTree) -> Float[Array, " b"]:
    """A weight of one for every example, which varies over devices as the batch does."""
    size = jnp.shape(jax.tree.leaves(batch)[0])[0]
    return vary(jnp.ones(size, jnp.result_type(float)), varying_axes_of(batch))


def expand(weights: Float[Array, " b"], like: Array) -> Array:
    """Weights of examples, in a shape and dtype that can multiply ``like``."""
    return weights.reshape(weights.shape + (1,) * (like.ndim - 1)).astype(like.dtype)


def weighted_mean(
    x: Float[Array, "b ..."], weights: Float[Array, " b"] | None
) -> Float[Array, "..."]:
    """Weighted mean over examples. An example of weight zero does not count, whatever it holds.

    ``weights`` are ``None`` where every example counts once.
    """
    x = x.astype(accumulator_dtype(x.dtype))
    if weights is None:
        return jnp.sum(x, axis=0) / x.shape[0]
    w = expand(weights, x)
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(w > 0, x, 0) * w, axis=0) / jnp.where(total > 0, total, 1).astype(
        x.dtype
    )


def moments_of_examples(
    grads: PyTree, weights: Float[Array, " b"], block: Block = "parameter"
) -> Moments:
    """Moments of gradients that carry a leading example axis.

    Args:
        grads: tree of per-example gradients, each ``(b, *shape)``.
        weights: the weight of each example; 0 marks padding, which may hold anything.
        block: the block over which the squared differences are summed.

    Returns:
        The moments, at least float32.
    """
    named = select(grads, None)
    shapes = (g.shape[1:] for g in jax.tree.leaves(grads))
    pools = tuple(summed(block, p, s) for p, s in zip(named.paths, shapes, strict=True))
    return _moments(grads, weights, pools)


def _moments(
    grads: PyTree, weights: Float[Array, " b"], pools: Pools, measure: Any = True
) -> Moments:
    leaves, treedef = jax.tree.flatten(grads)
    means = [weighted_mean(g, weights) for g in leaves]

    def sums() -> list[Sums]:
        each = zip(leaves, means, pools, strict=True)
        return [_sums(g, mean, weights, axes) for g, mean, axes in each]

    return Moments(
        jax.tree.unflatten(treedef, means),
        jax.tree.unflatten(treedef, if_measured(measure, sums)),
        jnp.sum(weights),
    )


def array_moments(
    grads: Float[Array, "b ..."],
    weights: Float[Array, " b"] | None,
    axes: tuple[int, ...] | Sides = (),
) -> tuple[Float[Array, "..."], Any]:
    """Mean and squared differences, pooled or by sides, of one parameter's gradients."""
    mean = weighted_mean(grads, weights)
    return mean, _sums(grads, mean, weights, axes)


def _sums(
    grads: Float[Array, "b ..."],
    mean: Float[Array, "..."],
    weights: Float[Array, " b"] | None,
    axes: tuple[int, ...] | Sides,
) -> Any:
    """The squared differences of one parameter's gradients from their mean, summed."""
    difference = grads.astype(mean.dtype) - mean[None]
    if isinstance(axes, Sides):
        matrices = jax.vmap(lambda x: unfold(x, axes))(difference)
        return SideSums(*example_products(matrices, weights), axes)
    squares = jnp.square(difference)
    if weights is not None:
        w = expand(weights, difference)
        squares = jnp.where(w > 0, squares, 0) * w
    # One sum over examples and block, so that only pooled sums travel between devices.
    return pool(squares, (0, *(a + 1 for a in axes)))[0]


def vmap_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " b"],
    *,
    pools: Pools,
    has_aux: bool,
    measure: Any = True,
) -> tuple[Float[Array, ""], Any, Moments]:
    """Mean loss, per-example auxiliary output and moments by ``jax.vmap`` of ``jax.grad``.

    Args:
        loss_fn: ``(params, example) -> loss`` or ``(loss, aux)``.
        params: tree of floating-point arrays.
        batch: tree of arrays ``(b, ...)``.
        weights: the weight of each example, ``(b,)``.
        pools: the axes of each parameter over which the squared differences are summed, or its
            sides.
        has_aux: whether ``loss_fn`` returns an auxiliary output.
        measure: whether to compute the sums; where it is false they are zeros.

    Returns:
        ``(loss, aux, moments)``. ``aux`` has a leading example axis, or is ``None`` without
        ``has_aux``.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=has_aux)
    value, grads = jax.vmap(value_and_grad, in_axes=(None, 0))(params, batch)
    losses, aux = value if has_aux else (value, None)
    return weighted_mean(losses, weights), aux, _moments(grads, weights, pools, measure)
