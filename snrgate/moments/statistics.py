r"""The two moments of per-example gradients, and the functions that merge them.

For the gradients :math:`g_1, \ldots, g_n` of one scalar parameter

.. math::

    \mu = \frac1n \sum_i g_i, \qquad M = \sum_i (g_i - \mu)^2, \qquad
    \frac{\sigma^2}{n - 1} = \frac{M}{n (n - 1)} .

Sums of squared *differences* are kept. Sums of squares would lose digits in a subtraction.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, PyTree, Scalar
from snrgate.gate import pool

__all__ = ["Moments", "accumulator_dtype", "merge", "merge_across", "noise_of_mean", "pool_like"]


def accumulator_dtype(dtype: Any) -> Any:
    """float32 for 16-bit gradients, otherwise the dtype itself."""
    return jnp.promote_types(dtype, jnp.float32)


def pool_like(x: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sum ``x`` over the axes on which ``like`` was pooled to size 1."""
    return pool(x, tuple(i for i, n in enumerate(like.shape) if n == 1 and x.shape[i] != 1))


def noise_of_mean(
    mean: Float[Array, "..."],
    sum_sq_diff: Float[Array, "..."],
    sample_size: Scalar,
) -> Float[Array, "..."]:
    r"""Variance of the batch mean, :math:`\sigma^2/(n-1) = M / (n(n-1))`.

    One example shows no variance: at ``sample_size <= 1`` the whole squared gradient counts as
    noise, so that the gate of that batch is shut instead of undefined.

    Args:
        mean: mean gradient, shape of the parameter.
        sum_sq_diff: sum of squared differences, the same shape or pooled.
        sample_size: number of examples, a scalar.

    Returns:
        The noise, in the shape of ``sum_sq_diff``, in units of gradient squared.
    """
    number = isinstance(sample_size, (int, float, np.number, np.ndarray))
    if number and np.ndim(sample_size) == 0 and (size := float(sample_size)) > 1:
        return sum_sq_diff / (size * (size - 1))
    n = jnp.asarray(sample_size, sum_sq_diff.dtype)
    several = n > 1
    variance = sum_sq_diff / jnp.where(several, n * (n - 1), 1)
    return jnp.where(several, variance, pool_like(jnp.square(mean), sum_sq_diff))


class Moments(NamedTuple):
    """Mean, sum of squared differences and number of the gradients of a batch.

    Attributes:
        mean: mean gradient; a tree like the parameters, their shapes, at least float32.
        sum_sq_diff: sum over examples of squared differences from the mean; the same tree. Summed
            over a block, it has size 1 on the pooled axes.
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


def merge(a: Moments, b: Moments) -> Moments:
    r"""Moments of two groups of examples together (Chan, Golub & LeVeque 1983).

    .. math:: M = M_a + M_b + (\mu_a - \mu_b)^2 \frac{n_a n_b}{n_a + n_b}

    Args:
        a: moments of the first group.
        b: moments of the second group, pooled over the same blocks.

    Returns:
        The moments of the union. A group without examples changes nothing.

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
    return Moments(
        mean=jax.tree.map(lambda m, d: m + d * share.astype(d.dtype), a.mean, difference),
        sum_sq_diff=jax.tree.map(
            lambda x, y, d: x + y + pool_like(jnp.square(d), x) * (n_a * share).astype(d.dtype),
            a.sum_sq_diff,
            b.sum_sq_diff,
            difference,
        ),
        sample_size=n,
    )


def merge_across(moments: Moments, axis_name: Any) -> Moments:
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

    Returns:
        The same moments on every device.
    """
    own = jnp.asarray(moments.sample_size)
    weighted = jax.tree.map(lambda m: m * own.astype(m.dtype), moments.mean)
    squares = jax.tree.map(
        lambda ssd, m, s: ssd + pool_like(m * s, ssd), moments.sum_sq_diff, moments.mean, weighted
    )
    n, total, squares = jax.lax.psum((own, weighted, squares), axis_name)
    mean = jax.tree.map(lambda s: s / jnp.where(n > 0, n, 1).astype(s.dtype), total)
    sum_sq_diff = jax.tree.map(
        lambda q, m, s: jnp.maximum(q - pool_like(m * s, q), 0), squares, mean, total
    )
    return Moments(mean, sum_sq_diff, n)
