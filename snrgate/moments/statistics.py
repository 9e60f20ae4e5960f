r"""The two moments of per-example gradients, and the functions that merge them.

For the gradients :math:`g_1, \ldots, g_n` of one scalar parameter

.. math::

    \mu = \frac1n \sum_i g_i, \qquad M = \sum_i (g_i - \mu)^2, \qquad
    \frac{\sigma^2}{n - 1} = \frac{M}{n (n - 1)} .

Sums of squared *differences* are kept. Sums of squares would lose digits in a subtraction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree, Scalar
from snrgate.gate import pool
from snrgate.moments.kronecker import SideSums, not_negative, outer_sums
from snrgate.moments.varying import check_varies, if_measured

__all__ = [
    "Moments",
    "Sums",
    "accumulator_dtype",
    "merge",
    "merge_across",
    "noise_of_mean",
    "noise_of_sums",
    "pool_like",
    "squares_like",
]

Sums = Array | SideSums
"""The squared differences of one parameter: summed number by number, pooled, or by sides."""


def accumulator_dtype(dtype: Any) -> Any:
    """float32 for numbers of 16 bits, otherwise the dtype itself."""
    return jnp.promote_types(dtype, jnp.float32)


def pool_like(x: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sum ``x`` over the axes on which ``like`` was pooled to size 1."""
    return pool(x, tuple(i for i, n in enumerate(like.shape) if n == 1 and x.shape[i] != 1))


def squares_like(x: Float[Array, "..."], like: Any) -> Any:
    """The squares of ``x``, summed as ``like`` is: pooled, or by the sides of a kernel."""
    if isinstance(like, SideSums):
        return outer_sums(x, like.sides)
    return pool_like(jnp.square(x), like)


def noise_of_mean(mean: Float[Array, "..."], sum_sq_diff: Any, sample_size: Scalar) -> Any:
    r"""Variance of the batch mean, :math:`\sigma^2/(n-1) = M / (n(n-1))`.

    One example shows no variance: at ``sample_size <= 1`` the whole squared gradient counts as
    noise, so that the gate of that batch is shut instead of undefined.

    Args:
        mean: mean gradient, shape of the parameter.
        sum_sq_diff: sum of squared differences, the same shape, pooled, or by sides.
        sample_size: number of examples, a scalar.

    Returns:
        The noise, in the shape of ``sum_sq_diff``, in units of gradient squared.
    """
    return noise_of_sums(sum_sq_diff, lambda: squares_like(mean, sum_sq_diff), sample_size)


def noise_of_sums(sums: Any, of_mean: Callable[[], Any], sample_size: Scalar) -> Any:
    """:func:`noise_of_mean`, from the squared mean gradient summed as the sums are.

    Args:
        sums: trees of sums of squared differences.
        of_mean: the squared mean gradient in the same tree; called where it may be needed.
        sample_size: number of examples, a scalar.
    """
    number = isinstance(sample_size, (int, float, np.number, np.ndarray))
    if number and np.ndim(sample_size) == 0 and (size := float(sample_size)) > 1:
        return jax.tree.map(lambda s: s / (size * (size - 1)), sums)

    def noise(x: Array, alone: Array) -> Array:
        n = jnp.asarray(sample_size, x.dtype)
        several = n > 1
        return jnp.where(several, x / jnp.where(several, n * (n - 1), 1), alone)

    return jax.tree.map(noise, sums, of_mean())


class Moments(NamedTuple):
    """Mean, sum of squared differences and number of the gradients of a batch.

    Attributes:
        mean: mean gradient; a tree like the parameters, their shapes, at least float32.
        sum_sq_diff: sum over examples of squared differences from the mean; the same tree. Summed
            over a block, it has size 1 on the pooled axes. With ``block="kronecker"`` it holds
            :class:`~snrgate.moments.kronecker.SideSums` for parameters of two or more axes.
        sample_size: number of examples (sum of the weights), a float scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> def loss_fn(w, x):
        ...     return w * x
        >>> _, moments = snrgate.value_and_moments(loss_fn)(jnp.array(0.5), jnp.array([1.0, 3.0]))
        >>> float(moments.mean), float(moments.sum_sq_diff), float(moments.noise)
        (2.0, 2.0, 1.0)
    """

    mean: PyTree
    sum_sq_diff: PyTree
    sample_size: Scalar

    @property
    def noise(self) -> PyTree:
        """Variance of the batch mean, ``sigma2 / (b - 1)``; a tree like ``sum_sq_diff``."""
        return jax.tree.map(
            lambda mean, ssd: noise_of_mean(mean, ssd, self.sample_size),
            self.mean,
            self.sum_sq_diff,
        )

    def extra_args(self) -> dict[str, Any]:
        """The arguments of ``tx.update`` besides the mean, under the names that optax uses.

        Returns:
            ``sum_sq_diff_grads`` and ``sample_size``, as
            ``optax.experimental.aggregating`` names them.
        """
        return {"sum_sq_diff_grads": self.sum_sq_diff, "sample_size": self.sample_size}


def merge(a: Moments, b: Moments, *, measure: Any = True) -> Moments:
    r"""Moments of two groups of examples together (Chan, Golub & LeVeque 1983).

    .. math:: M = M_a + M_b + (\mu_a - \mu_b)^2 \frac{n_a n_b}{n_a + n_b}

    Args:
        a: moments of the first group.
        b: moments of the second group, pooled over the same blocks.
        measure: whether there are sums to merge; where it is false they are zeros.

    Returns:
        The moments of the union. A group without examples changes nothing.

    Raises:
        ValueError: the groups have different sides of one kernel, with ``block="kronecker"``.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.moments import Moments, merge
        >>> both = merge(Moments(jnp.array(1.0), jnp.array(0.0), 1.0),
        ...              Moments(jnp.array(3.0), jnp.array(0.0), 1.0))
        >>> float(both.mean), float(both.sum_sq_diff), float(both.sample_size)
        (2.0, 2.0, 2.0)
    """
    n_a, n_b = jnp.asarray(a.sample_size), jnp.asarray(b.sample_size)
    n = n_a + n_b
    share = n_b / jnp.where(n > 0, n, 1)
    difference = jax.tree.map(jnp.subtract, b.mean, a.mean)
    same_sides(a, b)

    def together(d: Array, x: Any, y: Any) -> Any:
        by = (n_a * share).astype(d.dtype)
        return jax.tree.map(lambda x, y, d_sq: x + y + d_sq * by, x, y, squares_like(d, x))

    return Moments(
        mean=jax.tree.map(lambda m, d: m + d * share.astype(d.dtype), a.mean, difference),
        sum_sq_diff=if_measured(
            measure, lambda: jax.tree.map(together, difference, a.sum_sq_diff, b.sum_sq_diff)
        ),
        sample_size=n,
    )


def same_sides(*groups: Moments) -> None:
    """Refuse groups of moments that do not agree on the sides of a kernel.

    Raises:
        ValueError: they do not agree; the message names the parameter.
    """

    def check(path: Any, _: Any, *sums: Any) -> None:
        sides = {s.sides if isinstance(s, SideSums) else None for s in sums}
        if len(sides) > 1:
            raise ValueError(
                f"the sums of {jax.tree_util.keystr(path, simple=True, separator='/')!r} differ "
                f"in their sides, {sorted(map(str, sides))}: the losses use the parameter in "
                "different ways; take the moments of one loss, or another block"
            )

    jax.tree_util.tree_map_with_path(check, groups[0].mean, *(g.sum_sq_diff for g in groups))


def merge_across(moments: Moments, axis_name: Any, *, measure: Any = True) -> Moments:
    r"""Moments of the examples of all devices together, in one round of communication.

    .. math::

        n = \sum_k n_k, \qquad \mu = \frac1n \sum_k n_k \mu_k, \qquad
        M = \sum_k \left(M_k + n_k \mu_k^2\right) - n \mu^2

    :func:`merge` needs the mean before it can square differences from it, and this would take a
    second round. The subtraction loses about ``eps * n * mean**2``, as in the factored rules. This
    is more than the sum itself only where the mean exceeds its noise a millionfold.

    Args:
        moments: moments of the examples of this device, which may have none.
        axis_name: name (or names) of the mapped axis of pmap, shard_map or vmap.
        measure: whether there are sums to merge; where it is false they are zeros. It is the same
            on every device.

    Returns:
        The same moments on every device.

    Raises:
        ValueError: the moments are the same on every device already, where that can be told.
    """
    check_varies((moments.mean, moments.sample_size), axis_name)
    own = jnp.asarray(moments.sample_size)
    weighted = jax.tree.map(lambda m: m * own.astype(m.dtype), moments.mean)

    def about_zero(m: Array, ssd: Any) -> Any:
        return jax.tree.map(lambda x, y: x + y * own.astype(y.dtype), ssd, squares_like(m, ssd))

    def about_mean(m: Array, q: Any) -> Any:
        ssd = jax.tree.map(lambda x, y: x - y * n.astype(y.dtype), q, squares_like(m, q))
        return not_negative(ssd) if isinstance(ssd, SideSums) else jnp.maximum(ssd, 0)

    squares = if_measured(
        measure, lambda: jax.tree.map(about_zero, moments.mean, moments.sum_sq_diff)
    )
    n, total, squares = jax.lax.psum((own, weighted, squares), axis_name)
    mean = jax.tree.map(lambda s: s / jnp.where(n > 0, n, 1).astype(s.dtype), total)
    sum_sq_diff = if_measured(measure, lambda: jax.tree.map(about_mean, mean, squares))
    return Moments(mean, sum_sq_diff, n)
