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

The example with the largest weight stands apart, with a backward pass of its own for the gradient
of the others: where it holds nearly all weight, :math:`1 - w_i` and :math:`g_i - G` would be
nothing but rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float, PyTree, Scalar
from snrgate.block import Block
from snrgate.moments import Moments, value_and_moments
from snrgate.moments.interface import batch_size
from snrgate.moments.origin import note
from snrgate.moments.statistics import squares_like
from snrgate.preferences.losses import tilted_mean
from snrgate.trees import check_floating, flatten

__all__ = ["tilted_value_and_moments"]


def tilted_value_and_moments(
    loss_fn: Callable[[PyTree, PyTree], Array],
    temperature: Scalar,
    *,
    method: str = "auto",
    block: Block = "unit",
) -> Callable[..., tuple[Array, Moments]]:
    r"""Turn the loss of one example into the tilted loss of a batch and its moments.

    The mean is the gradient of :func:`~snrgate.preferences.tilted_mean`. The noise is that of
    leaving out one example (see the module). It costs about three backward passes.

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
        check_floating(flatten(params), "parameter")
        if batch_size(batch) == 1:
            raise ValueError("the batch has one example, which shows no noise; use at least two")
        losses, pull = jax.vjp(lambda p: jax.vmap(loss_fn, (None, 0))(p, batch), params)
        value, shares = jax.value_and_grad(tilted_mean)(losses, temperature)
        (mean,) = pull(shares)
        left = _left_out(losses, temperature)
        _, about = weighted(params, batch, weights=left.counts, measure=measure)
        mean = jax.tree.map(lambda g, m: g.astype(m.dtype), mean, about.mean)
        moved = about.sum_sq_diff
        if measure is not False:
            (others,) = pull(left.others.astype(losses.dtype))
            moved = _about(mean, about, left, others, measure)
        return value, note(Moments(mean, moved, jnp.asarray(len(losses), left.counts.dtype)))

    return grad_fn


class _LeftOut(NamedTuple):
    r"""What the gradients without one example differ by, :math:`w_i (g_i - G) / (1 - w_i)`.

    The example with the largest share :math:`w_1` stands apart. Where it holds nearly all, these
    differences of floating-point numbers would say nothing of it.

    Attributes:
        counts: :math:`(w_i / (1 - w_i))^2` over :math:`(1 - w_1)^2`, and 0 for that example.
        scale: :math:`(1 - w_1)^2`.
        others: the shares of the examples without it.
    """

    counts: Float[Array, " b"]
    scale: Float[Array, ""]
    others: Float[Array, " b"]


def _left_out(losses: Float[Array, " b"], temperature: Scalar) -> _LeftOut:
    logits = -losses.astype(jnp.promote_types(losses.dtype, jnp.result_type(float))) / temperature
    first = jnp.arange(len(losses)) == jnp.argmax(logits)
    rest = jnp.where(first, -jnp.inf, logits)
    others = jnp.where(first, 0, jax.nn.softmax(rest))  # all 0 where there is no other example
    missing = jnp.exp(jax.nn.logsumexp(rest) - jax.nn.logsumexp(logits))  # 1 - w_1
    counts = jnp.square(others / (1 - others * missing))
    # With a loss that is no number nothing can be said, and the mean and the scale say so.
    counts = jnp.where(jnp.isnan(counts), 0, counts)
    return _LeftOut(counts, jnp.square(missing), others)


def _about(mean: PyTree, moments: Moments, left: _LeftOut, others: PyTree, measure: Any) -> PyTree:
    r"""Sums of :math:`(b - 1)^2 (G - G_{-i})^2`; -1 where nothing is measured.

    Args:
        mean: the gradient :math:`G` of all examples.
        moments: of the examples but the first, by their counts.
        left: its counts and their scale.
        others: the gradient :math:`G_{-1}` without the first.
        measure: whether anything is measured.
    """
    total, length = jnp.asarray(moments.sample_size), len(left.counts)

    def of_parameter(new: Array, old: Array, without: Array, sums: Any) -> Any:
        from_other_mean, of_first = squares_like(new - old, sums), squares_like(new - without, sums)

        def added(x: Array, y: Array, z: Array) -> Array:
            whole = left.scale.astype(x.dtype) * (x + y * total.astype(y.dtype)) + z
            return jnp.where(measure, (length - 1) ** 2 * whole, x)

        return jax.tree.map(added, sums, from_other_mean, of_first)

    return jax.tree.map(of_parameter, mean, moments.mean, others, moments.sum_sq_diff)
