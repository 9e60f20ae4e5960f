r"""The empirical neural tangent kernel: materialised, and as products with vectors.

For a model :math:`f(w, x)` with the outputs of :math:`n` examples stacked into one vector
:math:`U(w)` of :math:`nk` numbers and the Jacobian :math:`J = \partial U / \partial w`, the kernel
of two sets of inputs is

.. math:: K_{XY} = J_X J_Y^T .

A model is a function ``f(params, x)`` of ONE example, as the loss of
:func:`snrgate.value_and_moments` is. Its outputs may have any shape; they are flattened.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from snrgate.annotations import Array, Float, PyTree
from snrgate.theory.limits import MEMORY, refuse_beyond, rows_that_fit
from snrgate.trees import check_floating, flatten

__all__ = ["Model", "flat_model", "jacobian", "ntk", "ntk_product", "outputs", "parameters"]

Model = Callable[[PyTree, PyTree], Array]
"""``(params, x) -> outputs`` of one example."""


def parameters(params: PyTree) -> Float[Array, " p"]:
    """All parameters as one vector.

    Raises:
        TypeError: a parameter is not a real floating-point array; the message names it.
    """
    check_floating(flatten(params), "parameter")
    return ravel_pytree(params)[0]


def flat_model(f: Model, params: PyTree) -> Callable[[Array, PyTree], Array]:
    """The model as a function of one vector of parameters, with one vector of outputs.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        params: the parameters, of which only the structure is used.
    """
    restore = ravel_pytree(params)[1]
    return lambda w, x: jnp.ravel(f(restore(w), x))


def outputs(f: Model, params: PyTree, x: PyTree) -> Float[Array, " nk"]:
    """The outputs of all examples as one vector, example by example.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        params: the parameters.
        x: inputs with a leading axis.
    """
    return jnp.ravel(jax.vmap(f, (None, 0))(params, x))


def output_count(f: Model, params: PyTree, x: PyTree) -> tuple[int, int]:
    """The number of examples, and the number of outputs of one of them; nothing is computed.

    Raises:
        ValueError: there is no example, or the leading axes differ.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(counts) != 1 or not (count := counts.pop()) or count[0] == 0:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        raise ValueError(f"inputs need one leading axis of examples; they have the shapes {shapes}")
    return count[0], math.prod(output_shape(f, params, x))


def output_shape(f: Model, params: PyTree, x: PyTree) -> tuple[int, ...]:
    """The shape of the outputs of one of the examples; nothing is computed."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
    return jax.eval_shape(f, params, one).shape


def jacobian(
    f: Model, params: PyTree, x: PyTree, *, batch_size: int | None = None, memory: int = MEMORY
) -> Float[Array, "nk p"]:
    """The Jacobian of the outputs with respect to all parameters.

    It costs one backward pass for each output of each example.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        params: the parameters.
        x: inputs with a leading axis of ``n`` examples.
        batch_size: number of examples that are differentiated at once; by default all of them.
        memory: bytes that the Jacobian may take.

    Returns:
        A row for each output, example by example, and a column for each parameter, in the order
        of :func:`jax.flatten_util.ravel_pytree`.

    Raises:
        ValueError: it would take more memory, or the inputs have no common leading axis.
        TypeError: a parameter is not a real floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> def f(params, x):
        ...     return params["w"] @ x
        >>> theory.jacobian(f, {"w": jnp.ones(3)}, jnp.eye(3)[:2])
        Array([[1., 0., 0.],
               [0., 1., 0.]], dtype=float32)
    """
    w = parameters(params)
    n, k = output_count(f, params, x)
    refuse_beyond(memory, w.dtype.itemsize, Jacobian=(n * k, w.size))
    return rows(flat_model(f, params), w, x, batch_size)


def rows(
    g: Callable[[Array, PyTree], Array], w: Array, x: PyTree, batch_size: int | None = None
) -> Float[Array, "nk p"]:
    """The Jacobian of a :func:`flat_model`, without a check."""
    of_one = jax.jacrev(g)
    if batch_size is None:
        blocks = jax.vmap(of_one, (None, 0))(w, x)
    else:
        blocks = jax.lax.map(lambda one: of_one(w, one), x, batch_size=batch_size)
    return blocks.reshape(-1, w.size)


def ntk(
    f: Model, params: PyTree, x: PyTree, y: PyTree | None = None, *, memory: int = MEMORY
) -> Float[Array, "nk mk"]:
    r"""The empirical neural tangent kernel of two sets of inputs, :math:`K_{XY} = J_X J_Y^T`.

    The Jacobians are formed as a whole if they fit into the memory. Otherwise blocks of their
    rows are, and those of ``y`` as many times as ``x`` has blocks.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        params: the parameters.
        x: inputs with a leading axis of ``n`` examples.
        y: inputs with a leading axis of ``m`` examples; by default ``x``.
        memory: bytes that the kernel and the Jacobians may take together.

    Returns:
        The kernel, a row for each output of ``x`` and a column for each one of ``y``.

    Raises:
        ValueError: the kernel with the Jacobian of one example would take more memory, or the
            inputs have no common leading axis.
        TypeError: a parameter is not a real floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> def f(params, x):
        ...     return params["w"] @ x
        >>> theory.ntk(f, {"w": jnp.ones(3)}, jnp.eye(3)[:2])
        Array([[1., 0.],
               [0., 1.]], dtype=float32)

    Source: Jacot, Gabriel & Hongler, arXiv 1806.07572.
    """
    w, g = parameters(params), flat_model(f, params)
    n, k = output_count(f, params, x)
    m, _ = (n, k) if y is None else output_count(f, params, y)
    row = k * w.size * w.dtype.itemsize
    size = w.dtype.itemsize
    refuse_beyond(memory, size, kernel=(n * k, m * k), two_Jacobians_of_one_example=(2, k * w.size))
    left = memory - n * m * k * k * size
    if (n if y is None else n + m) * row <= left:
        first = rows(g, w, x)
        second = first if y is None else rows(g, w, y)
        return first @ second.T
    other, at_once = (x if y is None else y), rows_that_fit(left / 2, max(n, m), row)

    def row_of_blocks(i: int) -> Array:
        first = rows(g, w, _part(x, i, at_once))
        met = [first @ rows(g, w, _part(other, j, at_once)).T for j in range(0, m, at_once)]
        return jnp.concatenate(met, axis=1)

    return jnp.concatenate([row_of_blocks(i) for i in range(0, n, at_once)])


def _part(x: PyTree, start: int, size: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[start : start + size], x)


def ntk_product(
    f: Model, params: PyTree, x: PyTree, y: PyTree | None = None, *, batch_size: int | None = None
) -> Callable[[Float[Array, " mk"]], Float[Array, " nk"]]:
    r"""The product of the kernel with a vector, :math:`v \mapsto J_X (J_Y^T v)`, without a matrix.

    A product takes one backward pass over ``y`` and one forward pass over ``x``, and the memory of
    ``batch_size`` examples besides two vectors of parameters.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        params: the parameters.
        x: inputs with a leading axis of ``n`` examples.
        y: inputs with a leading axis of ``m`` examples; by default ``x``.
        batch_size: number of examples at once; by default all of them.

    Returns:
        A linear function from a vector of ``m * k`` numbers to one of ``n * k``.

    Raises:
        ValueError: the inputs have no common leading axis.
        TypeError: a parameter is not a real floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> def f(params, x):
        ...     return params["w"] @ x
        >>> product = theory.ntk_product(f, {"w": jnp.ones(3)}, 2 * jnp.eye(3))
        >>> print(product(jnp.array([1.0, 0.0, 3.0])))
        [ 4.  0. 12.]
    """
    w, g = parameters(params), flat_model(f, params)
    output_count(f, params, x)
    other = x if y is None else y
    m, k = output_count(f, params, other)

    def along(v: Array, one: Any) -> Array:
        return jax.jvp(lambda w: g(w, one), (w,), (v,))[1]

    def product(v: Float[Array, " mk"]) -> Float[Array, " nk"]:
        seeds = jnp.reshape(v, (m, k))
        back = jnp.zeros_like(w)
        size = m if batch_size is None else batch_size
        for i in range(0, m, size):

            def total(w: Array, i: int = i) -> Array:
                told = jax.vmap(g, (None, 0))(w, _part(other, i, size))
                return jnp.sum(told * seeds[i : i + size])

            back = back + jax.grad(total)(w)
        if batch_size is None:
            return jnp.ravel(jax.vmap(along, (None, 0))(back, x))
        return jnp.ravel(jax.lax.map(lambda one: along(back, one), x, batch_size=batch_size))

    return product
