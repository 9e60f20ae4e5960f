"""A model, its loss and its data, as functions of one vector of parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from snrgate.annotations import Array, Float, PyTree
from snrgate.theory.limits import refuse_beyond
from snrgate.theory.ntk import Model, flat_model, output_count, output_shape, parameters

__all__ = ["Loss", "Problem", "pose"]

Loss = Callable[[Array, PyTree], Array]
"""``(outputs of one example, its target) -> scalar``."""


class Problem(NamedTuple):
    r"""What is learned. The training loss is :math:`\Phi(u)`, the mean loss of the examples.

    Attributes:
        g: the model as a function of one vector of parameters.
        x: inputs of the ``n`` training examples.
        queries: inputs of the ``m`` test examples.
        n: number of training examples.
        k: number of outputs of one example.
        loss_of: ``(outputs of one example, target) -> scalar``, of flat outputs.
        targets: targets of the training examples.
        restore: function that makes a tree of parameters of a vector.
    """

    g: Callable[[Array, PyTree], Array]
    x: PyTree
    queries: PyTree
    n: int
    k: int
    loss_of: Callable[[Array, PyTree], Array]
    targets: PyTree
    restore: Callable[[Array], PyTree]

    def outputs(self, w: Float[Array, " p"], x: PyTree) -> Float[Array, " nk"]:
        """The outputs of some examples as one vector."""
        return jnp.ravel(jax.vmap(self.g, (None, 0))(w, x))

    def loss(self, u: Float[Array, " nk"]) -> Float[Array, ""]:
        """The training loss of some outputs."""
        return jnp.mean(jax.vmap(self.loss_of)(u.reshape(self.n, self.k), self.targets))

    def slope(self, u: Float[Array, " nk"]) -> Float[Array, " nk"]:
        """The gradient of the training loss with respect to the outputs."""
        return jax.grad(self.loss)(u)

    def curvature(self, u: Float[Array, " nk"]) -> Float[Array, "n k k"]:
        """The Hessian of the training loss, a block for each example."""
        blocks = jax.vmap(jax.hessian(self.loss_of))(u.reshape(self.n, self.k), self.targets)
        return blocks / self.n

    def curved(self, blocks: Float[Array, "n k k"], x: Float[Array, "nk c"]) -> Array:
        """The product of a Hessian in blocks with a matrix."""
        parts = jnp.einsum("nij,njc->nic", blocks, x.reshape(self.n, self.k, -1))
        return parts.reshape(x.shape)


def pose(
    f: Model,
    loss: Loss,
    params: PyTree,
    data: tuple[PyTree, PyTree],
    queries: PyTree,
    memory: int,
    copies: int,
) -> tuple[Problem, Float[Array, " p"]]:
    """The problem, and the parameters as one vector.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        loss: ``(outputs, target) -> scalar`` of one example.
        params: the parameters.
        data: inputs and targets with a leading axis.
        queries: inputs of the test examples.
        memory: bytes that may be taken.
        copies: how many matrices of the size of the training Jacobian are held at once.

    Raises:
        ValueError: the matrices would take more memory, or inputs have no common leading axis.
        TypeError: a parameter is not a real floating-point array.
    """
    w = parameters(params)

    def as_parameters(a: Any) -> Array:
        """Numbers in the dtype of the parameters, which the outputs then have too."""
        a = jnp.asarray(a)
        return a.astype(w.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    x, targets, queries = jax.tree.map(as_parameters, (*data, queries))
    n, k = output_count(f, params, x)
    m, _ = output_count(f, params, queries)
    refuse_beyond(
        memory,
        w.dtype.itemsize,
        Jacobian_of_the_training_examples=(copies, n * k, w.size),
        Jacobian_of_the_queries=(2, m * k, w.size),
        kernel=(8, n * k, n * k),
        test_kernel=(3, n * k, m * k),
    )
    shape = output_shape(f, params, x)
    return Problem(
        flat_model(f, params),
        x,
        queries,
        n,
        k,
        lambda u, target: loss(u.reshape(shape), target),
        targets,
        ravel_pytree(params)[1],
    ), w
