r"""The gate: the share of an update to let through, from its signal and its noise.

The functions are pure. ``signal_sq`` is the square of an estimate of the mean gradient. ``noise``
is the variance of one batch's mean gradient, ``sigma2 / (b - 1)``. Both are in units of gradient
squared and of one shape (or of shapes that broadcast on purpose, as a per-tensor noise does).
Every gate depends only on their ratio. Multiplying the loss by a constant therefore changes
nothing, and there is no epsilon. A parameter without a gradient (``0 / 0``) has a shut gate.

A *pooled* gate is the same function of sums over a block of parameters (:func:`pool`).
The threshold follows from the ratio that pure noise has (:func:`null_level`).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, ArrayLike, Float, Scalar

__all__ = [
    "GATES",
    "GateRule",
    "dataset_share",
    "hard",
    "is_fresh",
    "momentum_variance",
    "null_level",
    "pool",
    "snr",
    "soft",
]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """``numerator / denominator``, and 0 where the numerator is 0."""
    positive = numerator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def hard(
    signal_sq: Float[ArrayLike, "*shape"],
    noise: Float[ArrayLike, "*#shape"],
    alpha: Scalar = 1.0,
) -> Float[Array, "*shape"]:
    r"""The paper's rule: open exactly where the signal exceeds the noise.

    .. math:: q = 1[\mu^2 > \alpha\, \sigma^2 / (b - 1)]

    Args:
        signal_sq: squared mean gradient, any shape.
        noise: variance of the batch mean; broadcasts against ``signal_sq``.
        alpha: threshold on ``signal_sq / noise``.

    Returns:
        Zeros and ones in the shape and dtype of ``signal_sq``.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import gate
        >>> gate.hard(jnp.array([4.0, 1.0, 0.0]), jnp.array([1.0, 4.0, 0.0]))
        Array([1., 0., 0.], dtype=float32)

    Source: Litman & Guo, arXiv 2605.01172; with ``alpha=1`` and the moments of one batch it is
    the criterion of Mahsereci et al., arXiv 1703.09580, coordinate by coordinate.
    """
    signal_sq, noise = jnp.asarray(signal_sq), jnp.asarray(noise)
    return (signal_sq > alpha * noise).astype(signal_sq.dtype)


def soft(
    signal_sq: Float[ArrayLike, "*shape"],
    noise: Float[ArrayLike, "*#shape"],
    alpha: Scalar = 1.0,
    softness: Scalar | None = None,
) -> Float[Array, "*shape"]:
    r"""The soft gate of Algorithm 1; by default positive-part James-Stein shrinkage.

    .. math::

        d = \max(\mu^2 - \alpha s, 0), \qquad q = \frac{d}{d + \lambda s}

    With :math:`\lambda = \alpha` (the default) this is :math:`\max(0, 1 - \alpha s / \mu^2)`.

    Args:
        signal_sq: squared mean gradient :math:`\mu^2`, any shape.
        noise: variance of the batch mean :math:`s`; broadcasts against ``signal_sq``.
        alpha: threshold on ``signal_sq / noise``.
        softness: :math:`\lambda`, how slowly the gate opens above the threshold; ``None`` is
            ``alpha``, and ``0`` is the hard gate.

    Returns:
        Values in [0, 1] in the shape and dtype of ``signal_sq``.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import gate
        >>> gate.soft(jnp.array([4.0, 1.0, 0.0]), jnp.array([1.0, 4.0, 0.0]))
        Array([0.75, 0.  , 0.  ], dtype=float32)

    Source: Litman & Guo, arXiv 2605.01172, Algorithm 1 (reconstruction).
    """
    signal_sq, noise = jnp.asarray(signal_sq), jnp.asarray(noise)
    excess = jnp.maximum(signal_sq - alpha * noise, 0)
    softness = alpha if softness is None else softness
    return _ratio(excess, excess + softness * noise).astype(signal_sq.dtype)


def snr(
    signal_sq: Float[ArrayLike, "*shape"],
    noise: Float[ArrayLike, "*#shape"],
    softness: Scalar = 1.0,
) -> Float[Array, "*shape"]:
    r"""The smooth gate, which is never quite shut and never quite open.

    .. math:: q = \frac{\mu^2}{\mu^2 + \lambda s}

    Args:
        signal_sq: squared mean gradient :math:`\mu^2`, any shape.
        noise: variance of the batch mean :math:`s`; broadcasts against ``signal_sq``.
        softness: :math:`\lambda`, the ratio of signal to noise at which the gate is half open.

    Returns:
        Values in [0, 1] in the shape and dtype of ``signal_sq``.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import gate
        >>> gate.snr(jnp.array([4.0, 1.0, 0.0]), jnp.array([1.0, 4.0, 0.0]))
        Array([0.8, 0.2, 0. ], dtype=float32)

    Source: Litman & Guo, arXiv 2605.01172, released package (reconstruction).
    """
    signal_sq, noise = jnp.asarray(signal_sq), jnp.asarray(noise)
    return _ratio(signal_sq, signal_sq + softness * noise).astype(signal_sq.dtype)


GateRule = Callable[[Array, Array, Scalar, Scalar], Array]
"""``(signal_sq, noise, alpha, softness) -> gate``: the one signature of the transformation."""

GATES: dict[str, GateRule] = {
    "hard": lambda signal_sq, noise, alpha, softness: hard(signal_sq, noise, alpha),
    "soft": soft,
    "snr": lambda signal_sq, noise, alpha, softness: snr(signal_sq, noise, softness),
}


def pool(x: Float[ArrayLike, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    r"""Sum evidence over the axes of a block, keeping them with size 1.

    .. math:: T = \frac{\sum_k \mu_k^2}{\sum_k s_k}

    is tested in place of :math:`\mu_k^2 / s_k`. Pool both, compute the gate, and broadcast it.

    Args:
        x: a squared signal, a noise or a sum of squared differences, in the shape of the
            parameter.
        axes: the axes that one block spans; ``()`` leaves ``x`` as it is.

    Returns:
        The sums, in the shape of ``x`` with size 1 on ``axes``.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import gate
        >>> gate.pool(jnp.ones((3, 2)), (0,))
        Array([[3., 3.]], dtype=float32)
    """
    return jnp.sum(jnp.asarray(x), axis=axes, keepdims=True) if axes else jnp.asarray(x)


def momentum_variance(b1: Scalar, count: Scalar) -> Float[Array, ""]:
    r"""Variance of a bias-corrected momentum of independent gradients of variance one.

    .. math:: \kappa_t = \frac{1 - b_1}{1 + b_1} \cdot \frac{1 + b_1^t}{1 - b_1^t}

    It is 1 at the first step, and :math:`(1 - b_1) / (1 + b_1)` in the long run.

    Args:
        b1: decay of the momentum, in [0, 1).
        count: number of gradients averaged so far, at least 1; infinity for the long run.

    Returns:
        The variance, a scalar, in units of the variance of one batch's mean gradient.

    Example:
        >>> from snrgate import gate
        >>> print(f"{gate.momentum_variance(0.9, 1):.3f} {gate.momentum_variance(0.9, 1000):.3f}")
        1.000 0.053
    """
    decayed = jnp.power(jnp.asarray(b1, jnp.result_type(float)), count)
    return (1 - b1) / (1 + b1) * (1 + decayed) / (1 - decayed)


def null_level(
    noise: str,
    b1: Scalar,
    count: Scalar,
    sample_size: Scalar | None = None,
    dataset_size: Scalar | None = None,
) -> Float[Array, ""]:
    r"""Average of ``signal_sq / noise`` where there is nothing to learn.

    With :math:`\kappa_t` of :func:`momentum_variance` and the share :math:`f = b / n` of the data
    set that one batch shows (0 for fresh data), the averaged exact noise has the level

    .. math:: f + (1 - f)\,\kappa_t ,

    because the gradient of the whole finite data set is itself a noisy estimate of the
    population's gradient. The streaming noise :math:`(g_t - m_{t-1})^2` measures the differences
    between batches. In the first steps the raw momentum is still small, and the streaming noise
    also holds a part of the gradient itself. Its level is the level above divided by

    .. math:: (1 - f)\,\big(1 + \kappa_\infty (1 - b_1^{2(t-1)})\big) + f\,b_1^{2(t-1)} .

    This level is 1 at the first step. In the long run it tends to the paper's finite-data
    :math:`b / (n - b)` as :math:`b_1 \to 1`. The noise of a single batch has the level 1 when it is
    compared with the mean of the same batch.

    Args:
        noise: "exact", "streaming" or "instantaneous".
        b1: decay of the momentum whose square is the signal.
        count: the step, starting at 1.
        sample_size: examples in the batch, :math:`b`; needed with ``dataset_size``.
        dataset_size: examples in the data set, :math:`n`; ``None`` or infinity where only the
            differences between batches are to count.

    Returns:
        The level, a scalar: the threshold ``alpha`` of ``z = 1``.

    Raises:
        ValueError: ``dataset_size`` without ``sample_size``.

    Example:
        >>> from snrgate import gate
        >>> print(f"{gate.null_level('exact', 0.9, 1000):.4f}")
        0.0526
        >>> print(f"{gate.null_level('exact', 0.9, 1000, sample_size=128, dataset_size=1200):.4f}")
        0.1537
    """
    if noise == "instantaneous":
        return jnp.ones((), jnp.result_type(float))
    share = _batch_share(sample_size, dataset_size)
    level = share + (1 - share) * momentum_variance(b1, count)
    if noise == "streaming":
        # Batches that are the whole data set do not differ: the noise is unknown, the gate shuts.
        gone = jnp.power(jnp.asarray(b1, level.dtype), 2 * (count - 1))
        differ = 1 + (1 - b1) / (1 + b1) * (1 - gone)
        level = level / ((1 - share) * differ + share * gone)
    return level


def dataset_share(
    b1: Scalar,
    count: Scalar,
    sample_size: Scalar | None = None,
    dataset_size: Scalar | None = None,
) -> Float[Array, ""]:
    r"""Share of the null level that belongs to the data set, and that batches do not average out.

    .. math:: \frac{f}{f + (1 - f)\,\kappa_t}

    with :math:`f` and :math:`\kappa_t` as in :func:`null_level`. The rest is the noise of single
    batches. A run averages it over its steps, so nothing need be held back for it.

    Args:
        b1: decay of the momentum whose square is the signal.
        count: the step, starting at 1.
        sample_size: examples in the batch, :math:`b`; needed with ``dataset_size``.
        dataset_size: examples in the data set, :math:`n`; ``None`` or infinity where only the
            differences between batches are to count.

    Returns:
        The share, a scalar. It is 0 for fresh data, and 1 where every batch is the whole data set.

    Raises:
        ValueError: ``dataset_size`` without ``sample_size``.

    Example:
        >>> from snrgate import gate
        >>> print(f"{gate.dataset_share(0.9, 1000, sample_size=128, dataset_size=1200):.4f}")
        0.6941
        >>> print(f"{gate.dataset_share(0.9, 1000):.4f}")
        0.0000
    """
    level = null_level("exact", b1, count, sample_size, dataset_size)
    return _batch_share(sample_size, dataset_size) / level


def is_fresh(dataset_size: Scalar) -> bool:
    """Whether the size says that no example comes back: it is infinite, and not traced."""
    return not isinstance(dataset_size, jax.core.Tracer) and math.isinf(float(dataset_size))


def _batch_share(sample_size: Scalar | None, dataset_size: Scalar | None) -> Float[Array, ""]:
    """The share of the data set that one batch shows, 0 for fresh data."""
    if dataset_size is None or is_fresh(dataset_size):
        return jnp.zeros(())
    if sample_size is None:
        raise ValueError("dataset_size needs sample_size, the examples in a batch, beside it")
    return jnp.minimum(sample_size / dataset_size, 1)
