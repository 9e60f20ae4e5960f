r"""Drift and diffusion: how far minibatch SGD goes, along what the examples agree on and what not.

From one point many runs are started with other batches. Along the *coherent* direction, that of the
mean gradient, all of them drift together and the distance grows like the number of steps. Along
*idiosyncratic* directions, in which only the gradients of single examples lie, every run walks at
random and the distance grows like its root. On logarithmic axes the slopes are 1 and 1/2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from snrgate.annotations import Array, Float, PyTree
from snrgate.theory.limits import MEMORY, refuse_beyond
from snrgate.theory.ntk import parameters

__all__ = ["Walk", "random_walks", "slope"]


class Walk(NamedTuple):
    """Root mean squared distances of many runs from their start, after each step.

    Attributes:
        coherent: along the mean gradient.
        idiosyncratic: along single directions of the gradients' differences, on average.
        signal: squared mean gradient as a share of the variance of a batch mean in one direction.
    """

    coherent: Float[Array, " steps"]
    idiosyncratic: Float[Array, " steps"]
    signal: Float[Array, ""]


def random_walks(
    loss_fn: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    data: PyTree,
    *,
    learning_rate: float,
    batch_size: int,
    steps: int,
    runs: int,
    key: Array,
    directions: int = 8,
    memory: int = MEMORY,
) -> Walk:
    """Start SGD many times from one point, and measure how far it gets.

    Args:
        loss_fn: ``(params, example) -> loss`` of one example.
        params: the point.
        data: examples with a leading axis.
        learning_rate: of SGD. The distances show drift and diffusion while ``learning_rate *
            steps`` times the curvature is small.
        batch_size: number of examples in a batch, drawn anew at every step.
        steps: number of steps of each run.
        runs: number of runs.
        key: random key of all batches.
        directions: number of idiosyncratic directions: the leading principal components of the
            gradients of the examples, with the mean gradient taken out.
        memory: bytes that the gradients of all examples may take.

    Returns:
        The distances, in units of the parameters.

    Raises:
        ValueError: the gradients would take more memory.
        TypeError: a parameter is not a real floating-point array.
    """
    w, restore = parameters(params), ravel_pytree(params)[1]
    data = jax.tree.map(jnp.asarray, data)
    n = jax.tree.leaves(data)[0].shape[0]
    refuse_beyond(memory, w.dtype.itemsize, gradients_of_all_examples=(2, n, w.size))

    def of_example(w: Array, example: Any) -> Array:
        return loss_fn(restore(w), example)

    gradients = jax.vmap(jax.grad(of_example), (None, 0))(w, data)
    mean = jnp.mean(gradients, 0)
    coherent = mean / jnp.linalg.norm(mean)
    rest = gradients - mean[None]
    rest = rest - jnp.outer(rest @ coherent, coherent)
    _, spreads, components = jnp.linalg.svd(rest, full_matrices=False)
    seen = jnp.concatenate([coherent[None], components[:directions]])

    def one_run(key: Array) -> Array:
        def step(w_now: Array, key: Array) -> tuple[Array, Array]:
            places = jax.random.randint(key, (batch_size,), 0, n)
            batch = jax.tree.map(lambda leaf: leaf[places], data)
            grads = jax.vmap(jax.grad(of_example), (None, 0))(w_now, batch)
            after = w_now - learning_rate * jnp.mean(grads, 0)
            return after, seen @ (after - w)

        return jax.lax.scan(step, w, jax.random.split(key, steps))[1]

    moved = jax.jit(lambda keys: jax.lax.map(one_run, keys))(jax.random.split(key, runs))
    distances = jnp.sqrt(jnp.mean(jnp.square(moved), axis=0))
    noise = jnp.mean(jnp.square(spreads[:directions])) / (n * batch_size)
    return Walk(
        coherent=distances[:, 0],
        idiosyncratic=jnp.sqrt(jnp.mean(jnp.square(distances[:, 1:]), axis=1)),
        signal=jnp.vdot(mean, mean) / noise,
    )


def slope(distances: Float[Array, " steps"], first: int = 1) -> Float[Array, ""]:
    """The slope of distances over steps on logarithmic axes, by least squares.

    Args:
        distances: after each step.
        first: the first step that counts.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> print(theory.slope(jnp.sqrt(jnp.arange(1.0, 10.0))).round(3))
        0.5
    """
    # Every factor of the number of steps counts the same, so steps weigh by their reciprocal.
    t = jnp.arange(first, distances.size + 1, dtype=distances.dtype)
    x, y, weight = jnp.log(t), jnp.log(distances[first - 1 :]), 1 / t
    x = x - jnp.average(x, weights=weight)
    y = y - jnp.average(y, weights=weight)
    return jnp.sum(weight * x * y) / jnp.sum(weight * x * x)
