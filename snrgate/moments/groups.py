"""Batches of several kinds of examples, each kind with a different loss."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from snrgate.annotations import Scalar
from snrgate.gate import null_level
from snrgate.moments.origin import note
from snrgate.moments.statistics import Moments, same_sides

__all__ = ["add_groups"]


def add_groups(
    groups: Sequence[Moments],
    dataset_sizes: Sequence[Scalar | None],
    *,
    b1: Scalar = 0.9,
) -> Moments:
    r"""Moments of a loss that is a sum of means over different kinds of examples.

    A physics-informed loss is the mean over residual points plus the mean over measurements. Its
    gradient is the sum of two means. The variance of this sum is the sum of the variances of the
    means. The kinds need not agree in anything else, not even in the number of examples. A finite
    data set has a higher threshold than fresh draws (:func:`snrgate.gate.null_level`). Because one
    gate has only one threshold, the higher threshold is put into the noise of that kind:

    .. math::

        \mu = \sum_g \mu_g, \qquad
        \frac{\sigma^2}{b - 1} = \sum_g \frac{f_g + (1 - f_g)\,\kappa}{\kappa}
        \cdot \frac{\sigma_g^2}{b_g - 1}, \qquad f_g = \frac{b_g}{n_g}, \quad
        \kappa = \frac{1 - b_1}{1 + b_1} .

    Args:
        groups: the moments of each kind, of the same parameters and blocks.
        dataset_sizes: the number of different examples of each kind, ``None`` for fresh draws.
            Give the gate ``dataset_size=math.inf``, because the sizes are in the noise.
        b1: decay of the momentum that the gate reads.

    Returns:
        Moments for one update; ``sample_size`` is that of the first group.

    Raises:
        ValueError: there are no groups, or there is not one size for each; or, with
            ``block="kronecker"``, the losses use a parameter in ways that have different sides.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.moments import Moments, add_groups
        >>> fresh = Moments(jnp.array(1.0), jnp.array(2.0), 2.0)
        >>> few = Moments(jnp.array(3.0), jnp.array(12.0), 4.0)
        >>> both = add_groups([fresh, few], [None, None])
        >>> float(both.mean), float(both.noise)
        (4.0, 2.0)
    """
    if not groups or len(groups) != len(dataset_sizes):
        raise ValueError(
            f"{len(groups)} groups of moments with {len(dataset_sizes)} dataset_sizes; give at "
            "least one group, and a size (or None) for each"
        )
    same_sides(*groups)
    fresh = null_level("exact", b1, math.inf)
    size = jnp.asarray(groups[0].sample_size)
    back = size * (size - 1)  # from a noise to a sum of squared differences
    mean = jax.tree.map(lambda *m: sum(m), *(g.mean for g in groups))
    factors = [
        null_level("exact", b1, math.inf, g.sample_size, n) / fresh * back
        for g, n in zip(groups, dataset_sizes, strict=True)
    ]
    sums = jax.tree.map(
        lambda *noises: sum(s * f.astype(s.dtype) for s, f in zip(noises, factors, strict=True)),
        *(g.noise for g in groups),
    )
    return note(Moments(mean, sums, size))
