"""What is measured of a policy that learns preferences: rewards, drift, and KL divergence."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, ArrayLike, Float
from snrgate.moments.statistics import accumulator_dtype
from snrgate.preferences.shapes import same_shape

__all__ = ["drift", "kl_per_token", "reward", "reward_accuracy", "sustained"]


def reward(
    policy: Float[Array, "*b"], reference: Float[Array, "*b"], beta: float = 0.1
) -> Float[Array, "*b"]:
    r"""The implicit reward of replies, :math:`\beta (\log \pi - \log \pi_\mathrm{ref})`.

    Args:
        policy: log-probabilities of replies under the policy, any shape.
        reference: those under the reference, the same shape.
        beta: strength of the pull to the reference.

    Returns:
        The rewards, the same shape.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import reward
        >>> float(reward(jnp.array(-3.0), jnp.array(-5.0), beta=0.5))
        1.0

    Source: Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290.
    """
    same_shape(policy=policy, reference=reference)
    return beta * (policy - reference)


def reward_accuracy(chosen: Float[Array, " b"], rejected: Float[Array, " b"]) -> Float[Array, ""]:
    """The share of pairs whose chosen reply has the higher reward; a tie counts one half.

    A policy that is still the reference gives all rewards 0 and has the accuracy of a coin, 0.5.
    TRL counts a tie as wrong, so that it reports 0 there.

    Args:
        chosen: rewards of the replies that are better, shape ``(b,)``.
        rejected: rewards of the replies that are worse, shape ``(b,)``.

    Returns:
        A scalar in [0, 1], float32 or wider.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import reward_accuracy
        >>> float(reward_accuracy(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.0])))
        0.75
    """
    same_shape(chosen=chosen, rejected=rejected)
    right = (1 + jnp.sign(chosen - rejected)) / 2
    return jnp.mean(right, dtype=accumulator_dtype(right.dtype))


def drift(rewards: Float[Array, "..."]) -> Float[Array, ""]:
    r"""The mean absolute reward, over chosen and rejected replies alike.

    Args:
        rewards: of :func:`reward`, any shape. With ``beta=1`` the drift is in nats, so that runs
            with different ``beta`` can be compared.

    Returns:
        A scalar in the units of the rewards, float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import drift
        >>> float(drift(jnp.array([[1.0, -3.0]])))
        2.0
    """
    return jnp.mean(jnp.abs(rewards), dtype=accumulator_dtype(rewards.dtype))


def kl_per_token(
    policy: Float[Array, "*b v"], reference: Float[Array, "*b v"], mask: Float[Array, "*b"]
) -> Float[Array, ""]:
    r"""KL divergence of the next token from the reference, a mean over tokens, in nats.

    .. math::

        \frac{1}{\sum_t m_t} \sum_t m_t \sum_v
        \pi_t(v) \left(\log \pi_t(v) - \log \pi_{\mathrm{ref}, t}(v)\right)

    The sum is over the whole vocabulary, so that it is exact and never negative.

    Args:
        policy: logits of the policy at each position, ``(*b, v)``.
        reference: logits of the reference, the same shape.
        mask: 1 for a token of a reply and 0 for padding, ``(*b,)``.

    Returns:
        A scalar, float32 or wider. Entries of the vocabulary that both have at minus infinity
        count nothing.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import kl_per_token
        >>> even, odd = jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))
        >>> print(f"{kl_per_token(odd, even, jnp.ones(1)):.4f}")
        0.1308
    """
    same_shape(policy=policy, reference=reference)
    same_shape(mask=mask, positions=policy[..., 0])
    wide = accumulator_dtype(policy.dtype)
    counts = jnp.asarray(mask, wide)  # the sum of a narrow type is rounded
    # Whatever stands in the padding, NaN too, counts nothing, in the gradient neither.
    new, old = (
        jax.nn.log_softmax(jnp.where(counts[..., None] > 0, x.astype(wide), 0))
        for x in (policy, reference)
    )
    law = jnp.exp(new)
    of_token = jnp.sum(law * jnp.where(law > 0, new - old, 0), axis=-1)
    return jnp.sum(of_token * counts) / jnp.sum(counts)


def sustained(values: ArrayLike | Sequence[float]) -> np.ndarray:
    """The least value from each step onward: what a run keeps once it has reached it.

    Args:
        values: a metric at each evaluation, shape ``(steps,)``.

    Returns:
        The running minimum from the end, the same shape, a NumPy array.

    Example:
        >>> from snrgate.preferences import sustained
        >>> sustained([0.5, 0.7, 0.6, 0.65]).tolist()
        [0.5, 0.6, 0.6, 0.65]
    """
    return np.minimum.accumulate(np.asarray(values)[::-1])[::-1]
