r"""The variance that pure noise gives the momentum, when batches may change their size.

The gradient of a batch of :math:`b` out of :math:`n` examples, where there is nothing to learn,
is :math:`G + e` with

.. math::

    \operatorname{var} G = \frac{\sigma^2}{n}, \qquad
    \operatorname{var} e = \sigma^2 \Big(\frac1b - \frac1n\Big).

There is one :math:`G` for the whole run, the noise of the data set. It is zero where every batch is
fresh. There is a new :math:`e` for every batch. Both variances are in units of :math:`\sigma^2`,
the variance of the gradient of ONE example, which does not depend on the batch size. Signal and
noise are therefore both divided by their factor of :math:`\sigma^2`, *before* they are averaged
over steps. The factor of the momentum follows exactly from the sizes of the batches so far:

.. math::

    v_t = b_1^2\, v_{t-1} + (1 - b_1)^2 \Big(\frac{1}{b_t} - \frac1n\Big), \qquad
    \operatorname{var} \hat m_t = \sigma^2 \Big(\frac{v_t}{(1 - b_1^t)^2} + \frac1n\Big).
"""

from typing import NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array, Float, Int, Scalar
from snrgate.gate import is_fresh

__all__ = ["Batch", "Units", "batch_of", "next_spread", "units"]


class Batch(NamedTuple):
    """The noise of one batch, in units of the variance of one example.

    Attributes:
        noise: noise of the batch's mean gradient, ``1 / b``; 1 where no size is known.
        own: part of the noise that belongs to the data set, ``1 / n``; 0 for fresh batches.
        counts: whether the batch has any examples.
    """

    noise: Float[Array, ""]
    own: Float[Array, ""]
    counts: Array

    @property
    def fresh(self) -> Float[Array, ""]:
        """The part of the noise that is new in every batch; 0 where there are no examples."""
        return jnp.where(self.counts, self.noise - self.own, 0)


class Units(NamedTuple):
    """The factors of the variance of one example in signal and noise, on average over pure noise.

    Attributes:
        signal: factor in the squared momentum.
        noise: factor in the noise.
        own: share of ``signal`` that belongs to the data set, and that batches do not average
            out, in [0, 1].
    """

    signal: Float[Array, "..."]
    noise: Float[Array, "..."]
    own: Float[Array, "..."]


def batch_of(sample_size: Scalar | None, dataset_size: Scalar | None) -> Batch:
    """A batch of ``sample_size`` out of ``dataset_size`` examples; ``None`` means unknown."""
    one = jnp.ones((), jnp.result_type(float))
    size = one if sample_size is None else jnp.asarray(sample_size, one.dtype)
    noise = 1 / jnp.where(size > 0, size, 1)
    if dataset_size is None or is_fresh(dataset_size):
        own = jnp.zeros_like(noise)
    else:
        own = jnp.minimum(1 / jnp.asarray(dataset_size, one.dtype), noise)
    return Batch(noise, own, size > 0)


def next_spread(spread: Float[Array, "*n"], batch: Batch, b1: Scalar) -> Float[Array, "*n"]:
    """The next spread: variance of the raw momentum by the noise that is new in every batch."""
    return jnp.asarray(b1**2 * spread + (1 - b1) ** 2 * batch.fresh, spread.dtype)


def units(
    noise: str,
    batch: Batch,
    b1: Scalar,
    age: Int[Array, "*n"],
    before: Float[Array, "*n"],
    after: Float[Array, "*n"],
) -> Units:
    r"""The factors of pure noise in the squared momentum and in the noise.

    The streaming noise :math:`(g_t - m_{t-1})^2` holds the new part of the batch and the spread of
    the momentum before. As long as the raw momentum is small, it also holds a part of the noise of
    the data set:

    .. math:: \frac1b - \frac1n + v_{t-1} + \frac{b_1^{2(t-1)}}{n} .

    Args:
        noise: "exact", "streaming" or "instantaneous".
        batch: the batch of this step.
        b1: decay of the momentum.
        age: number of batches in the momentum, this one included, at least 1.
        before: the spread of the momentum before this step.
        after: the spread of the momentum after it.

    Returns:
        The units, each in the shape of ``age``. For an instantaneous noise both are the factor of
        one batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import spread
        >>> batch = spread.batch_of(4, 8)
        >>> first = spread.next_spread(jnp.zeros(()), batch, 0.9)
        >>> now = spread.units("exact", batch, 0.9, jnp.array(1), jnp.zeros(()), first)
        >>> print(f"{now.signal:.3f} {now.noise:.3f} {now.own:.3f}")
        0.250 0.250 0.500
    """
    if noise == "instantaneous":
        same = jnp.broadcast_to(batch.noise, age.shape)
        return Units(same, same, jnp.zeros_like(same))
    decay = jnp.asarray(b1, batch.noise.dtype)
    signal = after / jnp.square(1 - decay**age) + batch.own
    own = batch.own / jnp.where(signal > 0, signal, 1)
    if noise == "exact":
        return Units(signal, jnp.broadcast_to(batch.noise, age.shape), own)
    return Units(signal, batch.fresh + before + batch.own * decay ** (2 * (age - 1)), own)
