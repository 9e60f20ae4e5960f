r"""Averages along the straight line between two points, by Gauss-Legendre quadrature.

With the average of the Jacobian along the line from :math:`w` to :math:`w + \Delta w`,

.. math:: U(w + \Delta w) - U(w) = \bar J\, \Delta w, \qquad
          \bar J = \int_0^1 J(w + s\,\Delta w)\, ds ,

exactly, however far the step goes. A rule of :math:`q` nodes is exact for polynomials in
:math:`s` of degree :math:`2q - 1`. What it misses along the step is added as a matrix of rank one
(Broyden's correction), so that the equation holds to rounding for networks with kinks too. The
size of what was missed is kept, as the ``defect``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree
from snrgate.theory.ntk import rows

__all__ = ["average_curvature", "average_jacobian", "relative"]

_NODES_OF_CURVATURE = 16  # of the loss in output space, where a node costs next to nothing

_ROUNDING = 8  # what is missed by fewer units in the last place of the outputs is rounding


def _rule(nodes: int, dtype: Any) -> tuple[Array, Array]:
    """Places in [0, 1] and their weights."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return jnp.asarray((places + 1) / 2, dtype), jnp.asarray(weights / 2, dtype)


def relative(error: Array, whole: Array) -> Float[Array, ""]:
    """The length of an error as a share of that of the whole; 0 where there is no error."""
    size = jnp.linalg.norm(whole)
    length = jnp.linalg.norm(error)
    return jnp.where(length > 0, length / jnp.where(size > 0, size, 1), 0)


def average_jacobian(
    g: Callable[[Array, PyTree], Array],
    before: Float[Array, " p"],
    after: Float[Array, " p"],
    x: PyTree,
    nodes: int,
) -> tuple[Float[Array, "nk p"], Float[Array, ""]]:
    """The average Jacobian between two vectors of parameters.

    Args:
        g: the model as a function of one vector (:func:`snrgate.theory.ntk.flat_model`).
        before: the parameters before the step.
        after: those after it.
        x: inputs with a leading axis.
        nodes: number of nodes of the quadrature. Each costs one Jacobian.

    Returns:
        The average; the defect, what the quadrature missed as a share of the change of the outputs.
    """
    step = after - before
    start, end = (jnp.ravel(jax.vmap(g, (None, 0))(w, x)) for w in (before, after))

    def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = node
        return total + weight * rows(g, before + place * step, x), None

    nothing = jnp.zeros((start.size, step.size), step.dtype)
    total, _ = jax.lax.scan(add, nothing, _rule(nodes, step.dtype))
    change = end - start
    missed = change - total @ step
    rounding = _ROUNDING * jnp.finfo(start.dtype).eps * jnp.linalg.norm(start)
    missed = jnp.where(jnp.linalg.norm(missed) > rounding, missed, 0)
    length = jnp.vdot(step, step)
    total = total + missed[:, None] * (step / jnp.where(length > 0, length, 1))[None]
    return total, relative(missed, change)


def average_curvature(
    curvature: Callable[[Array], Array], before: Array, after: Array
) -> tuple[Array, Array]:
    r"""Two averages of the Hessian of the loss along a line between two outputs.

    .. math:: \bar B = \int_0^1 B(u + s \Delta u)\, ds, \qquad
              \bar C = \int_0^1 (1 - s)\, B(u + s \Delta u)\, ds .

    The first one gives the change of the gradient, the second one that of the loss:
    :math:`\Delta g = \bar B \Delta u` and
    :math:`\Delta\Phi = g^T \Delta u + \Delta u^T \bar C \Delta u`.

    Args:
        curvature: ``outputs -> Hessians``, a block for each example.
        before: the outputs before the step.
        after: those after it.

    Returns:
        Both averages, in the shape of ``curvature``. The quadrature has 16 nodes and no
        correction.
    """
    places, weights = _rule(_NODES_OF_CURVATURE, before.dtype)
    blocks = jax.vmap(lambda place: curvature(before + place * (after - before)))(places)
    return jnp.tensordot(weights, blocks, 1), jnp.tensordot(weights * (1 - places), blocks, 1)
