r"""Moments of a loss that couples the examples of its batch by weights that depend on all of them.

The gradient of :func:`~snrgate.preferences.tilted_mean` is :math:`G = \sum_i w_i g_i` with
:math:`w = \mathrm{softmax}(-\ell / \beta')`. It is no mean of terms that belong to one example
each, because every weight depends on every loss. What an example contributes is how far the
gradient moves when the batch is without it. With :math:`G_{-i}` the gradient of the other
:math:`b - 1` examples,

.. math::

    G - G_{-i} = \frac{w_i}{1 - w_i} (g_i - G), \qquad
    \frac{\sigma^2}{b - 1} = \frac{b - 1}{b} \sum_i (G - G_{-i})^2 = \frac{M}{b (b - 1)},
    \qquad M = \sum_i c_i (g_i - G)^2, \quad c_i = \left((b - 1) \frac{w_i}{1 - w_i}\right)^2 .

This is the jackknife estimate of the variance of the gradient. For equal weights every
:math:`c_i` is 1, and it is the noise of a plain mean, to the last digit. It needs no gradient of
a single example: the weighted moments about their own mean :math:`\mu_c`, moved to :math:`G`,

.. math:: M = \sum_i c_i (g_i - \mu_c)^2 + \Big(\sum_i c_i\Big) (\mu_c - G)^2 .
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float, PyTree
from snrgate.block import Block
from snrgate.moments import Moments, value_and_moments
from snrgate.moments.origin import note
from snrgate.moments.statistics import squares_like
from snrgate.preferences.losses import tilted_mean

__all__ = ["tilted_value_and_moments"]


def tilted_value_and_moments(
    loss_fn: Callable[[PyTree, PyTree], Array],
    temperature: float,
    *,
    method: str = "auto",
    block: Block = "unit",
) -> Callable[..., tuple[Array, Moments]]:
    r"""Turn the loss of one example into the tilted loss of a batch and its moments.

    The mean is the gradient of :func:`~snrgate.preferences.tilted_mean`. The noise is that of
    leaving out one example (see the module). It costs about two backward passes.

    Args:
        loss_fn: ``(params, example) -> loss`` with a scalar loss, written for one example, such as
            :func:`~snrgate.preferences.dpo` of one pair.
        temperature: of the tilted mean, in units of the loss.
        method: as in :func:`snrgate.value_and_moments`.
        block: as in :func:`snrgate.value_and_moments`.

    Returns:
        A function ``(params, batch, *, measure=True) -> (loss, moments)``, as that of
        :func:`snrgate.value_and_moments`.

    Raises:
        ValueError: as :func:`snrgate.value_and_moments`, or ``temperature`` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import tilted_value_and_moments
        >>> def loss_fn(w, x):
        ...     return (w - x) ** 2
        >>> grad_fn = tilted_value_and_moments(loss_fn, temperature=1.0)
        >>> value, moments = grad_fn(jnp.array(0.0), jnp.array([0.1, 0.2, 3.0]))
        >>> print(f"{value:.2f}, {moments.mean:.2f}, {moments.noise:.4f}")
        0.43, -0.30, 0.0133

    Source: the loss, Wu et al., arXiv 2407.07880; the variance, Efron, "The Jackknife, the
    Bootstrap and Other Resampling Plans", 1982.
    """
    weighted = value_and_moments(loss_fn, method=method, block=block)

    def grad_fn(params: PyTree, batch: PyTree, *, measure: Any = True) -> tuple[Array, Moments]:
        def of_batch(params: PyTree) -> tuple[Array, Array]:
            losses = jax.vmap(loss_fn, (None, 0))(params, batch)
            return tilted_mean(losses, temperature), losses

        (value, losses), mean = jax.value_and_grad(of_batch, has_aux=True)(params)
        counts = _counts(losses, temperature)
        _, about = weighted(params, batch, weights=counts, measure=measure)
        mean = jax.tree.map(lambda g, m: g.astype(m.dtype), mean, about.mean)
        moved = _about(mean, about, measure)
        return value, note(Moments(mean, moved, jnp.asarray(len(losses), counts.dtype)))

    return grad_fn


def _counts(losses: Float[Array, " b"], temperature: float) -> Float[Array, " b"]:
    r"""The squares of :math:`(b - 1) w_i / (1 - w_i)`."""
    weights = jax.nn.softmax(-losses.astype(jnp.result_type(float)) / temperature)
    rest = jnp.maximum(1 - weights, jnp.finfo(weights.dtype).eps)
    return jnp.square((len(losses) - 1) * weights / rest)


def _about(mean: PyTree, moments: Moments, measure: Any) -> PyTree:
    """Sums of squared differences from another mean; -1 where nothing is measured."""
    if measure is False:
        return moments.sum_sq_diff
    total = jnp.asarray(moments.sample_size)

    def of_parameter(new: Array, old: Array, sums: Any) -> Any:
        moved = squares_like(new - old, sums)
        return jax.tree.map(
            lambda x, y: jnp.where(measure, x + y * total.astype(y.dtype), x), sums, moved
        )

    return jax.tree.map(of_parameter, mean, moments.mean, moments.sum_sq_diff)
