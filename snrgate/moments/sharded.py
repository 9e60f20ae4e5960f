"""Batches that are spread over devices by their type (mesh axes of type ``Explicit``)."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from snrgate.annotations import PyTree
from snrgate.moments.kronecker import SideSums

__all__ = ["axes_of_examples", "on_own_examples"]


def axes_of_examples(batch: PyTree) -> tuple[str, ...]:
    """The explicit mesh axes over which the leading axis of a batch is spread."""
    axes: dict[str, None] = {}
    for x in jax.tree.leaves(batch):
        first = _spec(x)[0]
        names = first if isinstance(first, tuple) else (first,)
        axes |= dict.fromkeys(name for name in names if name is not None)
    return tuple(axes)


def on_own_examples(
    run: Callable[[PyTree, PyTree, Any, Any], tuple[Any, Any, Any]],
    params: PyTree,
    batch: PyTree,
    weights: Any,
    measure: Any,
    axes: tuple[str, ...],
) -> tuple[Any, Any, Any]:
    """Let every device run on the examples that it holds.

    Parameters that are sharded over ``axes`` are gathered first. The moments are sharded as their
    parameters are. Sums by the sides of a kernel are the same on all devices.

    Args:
        run: ``(params, batch, weights, measure) -> (loss, aux, moments)`` for the examples of one
            device. It merges loss and moments over ``axes``.
        params: the parameters.
        batch: tree of arrays with a leading example axis.
        weights: the weight of each example, or ``None``.
        measure: whether to measure the squared differences, a bool or a traced one.
        axes: axes of the mesh, as :func:`axes_of_examples` gives them.

    Returns:
        The result of ``run``. ``aux`` is sharded as the examples are.
    """
    mesh = _mesh(next(x for x in jax.tree.leaves(batch) if axes_of_examples(x)))

    def put(x: Any, *spec: Any) -> jax.Array:
        return jax.sharding.reshard(x, NamedSharding(mesh, P(*spec)))

    def without(entry: Any) -> Any:
        names = entry if isinstance(entry, tuple) else (entry,)
        return tuple(n for n in names if n is not None and n not in axes) or None

    # Gather the parameters, spread the examples, and run on each device.
    whole = jax.tree.map(lambda p: put(p, *map(without, _spec(p))), params)
    examples = jax.tree.map(lambda x: put(x, axes, *map(without, _spec(x)[1:])), (batch, weights))
    known = isinstance(measure, bool)

    def on_device(params: PyTree, batch: PyTree, weights: Any, traced: Any) -> tuple[Any, Any, Any]:
        return run(params, batch, weights, measure if known else traced)

    apart = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(), P(axes), P(axes), P()),
        out_specs=(P(), P(axes), P()),
        axis_names=set(axes),
        # A loop of the loss that begins with a constant would not vary as what it makes of it does.
        check_vma=False,
    )
    # Compiled, because shard_map alone takes no other axes of the mesh outside of jit.
    compiled = jax.jit(apart, inline=True)
    loss, aux, moments = compiled(whole, *examples, None if known else put(measure))

    def like(p: Any, x: Any) -> Any:
        if isinstance(x, SideSums):  # the axes of a side are not those of the parameter
            return jax.tree.map(put, x)
        pooled = (x.shape[i] != p.shape[i] for i in range(x.ndim))
        return put(x, *(None if off else s for off, s in zip(pooled, _spec(p), strict=True)))

    mean = jax.tree.map(like, params, moments.mean)
    squares = jax.tree.map(like, params, moments.sum_sq_diff)
    return loss, aux, moments._replace(mean=mean, sum_sq_diff=squares)


def _spec(x: Any) -> tuple[Any, ...]:
    """The explicit sharding of a value, one entry an axis."""
    return tuple(jax.typeof(x).sharding.spec)


def _mesh(x: jax.Array) -> Any:
    """The mesh of a value. Under ``jit`` only the shape of the mesh is known."""
    typed: Any = jax.typeof(x) if isinstance(x, jax.core.Tracer) else x
    return typed.sharding.mesh
